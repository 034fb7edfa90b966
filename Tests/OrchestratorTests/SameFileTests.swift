import Model
import ModelTesting
import Orchestrator
import Testing

/// Two paths that lead to one file, as device and inode tell.
@Suite struct SameFileTests {
  @Test func aFileIsRegisteredOnceWhateverItsPath() async throws {
    let bench = try await ServiceBench()
    bench.engine.script { script in
      script.identity = { source in
        switch source.place {
        case "/images/vm1", "/images/link": .file(device: 1, inode: 7)
        case "/images/other": .file(device: 2, inode: 7)
        default: nil
        }
      }
    }
    try await bench.image("vm1")
    let refusal = await expectRefusal(.sourceTaken) { try await bench.image("vm2", path: "/images/link") }
    #expect(refusal?.detail.contains("/images/vm1") == true && refusal?.detail.contains("'vm1'") == true)
    try await bench.image("vm3", path: "/images/other")
    try await bench.image("vm4", path: "/images/unknown")
    try await bench.image("vm5", path: "/images/unknown-too")
  }

  /// One is compared with the other, however the requests meet.
  @Test func registrationsAtTheSameMomentAreCompared() async throws {
    let bench = try await ServiceBench()
    bench.engine.script { $0.identity = { $0.place.hasSuffix("same") ? .file(device: 1, inode: 7) : nil } }
    let registered = await withTaskGroup(of: Bool.self) { group in
      for index in 0..<12 {
        let path = index % 2 == 0 ? "/images/\(index)same" : "/images/\(index)"
        group.addTask { (try? await bench.image(ResourceName("vm\(index)")!, path: path)) != nil }
      }
      return await group.reduce(0) { $0 + ($1 ? 1 : 0) }
    }
    #expect(registered == 7)
    #expect(try bench.service.images(PageRequest()).items.count { $0.source.place.hasSuffix("same") } == 1)
  }

  @Test func repositoriesDontLieOneWithinTheOther() async throws {
    let bench = try await ServiceBench()
    try await bench.repository()
    for path in ["/backup/local/inner", "/backup", "/backup//local/./x/y"] {
      await expectRefusal(.repositoryMismatch) {
        try await bench.service.createRepository(RepositoryDraft(name: "other", path: path))
      }
    }
    _ = try await bench.service.createRepository(RepositoryDraft(name: "other", path: "/backup/local2")).done()
  }
}
