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

  /// A repeated comparison looks only at what was registered meanwhile.
  @Test func aRegistrationLooksAtEachSourceOnce() async throws {
    let bench = try await ServiceBench()
    try await bench.image("vm1")
    let gate = Gate()
    bench.engine.script { $0.silence(at: gate) { $0 == .identities([.file(path: "/images/vm2")]) } }
    async let second = bench.image("vm2")
    try await gate.reached()
    try await bench.image("vm3")
    gate.open()
    _ = try await second
    func looks(at name: String) -> Int {
      bench.engine.orders.count { $0 == .identities([.file(path: "/images/\(name)")]) }
    }
    // Each registration looks at its own source and at those that are registered.
    #expect([looks(at: "vm1"), looks(at: "vm2"), looks(at: "vm3")] == [3, 1, 2])
  }

  // MARK: Declarations

  private static let first = ImageDraft(name: "vm1", source: .file(path: "/images/vm1"), format: .raw)
  private static let linked = ImageDraft(name: "vm2", source: .file(path: "/images/link"), format: .raw)

  /// Has `/images/vm1` and `/images/link` lead to one file.
  private func engine() -> ScriptedEngine {
    let engine = ScriptedEngine()
    engine.script { script in
      script.identity = { source in
        ["/images/vm1", "/images/link"].contains(source.place)
          ? .file(device: 1, inode: 7) : .blockDevice(number: UInt64(source.place.utf8.count))
      }
    }
    return engine
  }

  @Test(arguments: [false, true]) func twoDeclaredImagesAreTwoFiles(areKnown: Bool) async throws {
    let stored = InMemoryCatalog()
    let declarations = Declarations(images: [Self.first, Self.linked])
    if areKnown {
      // They became one file since.
      let bench = try await ServiceBench(catalog: stored, declarations: declarations)
      #expect(try bench.service.images(PageRequest()).items.count == 2)
    }
    let refusal = await expectRefusal(.sourceTaken) {
      try await ServiceBench(catalog: stored, engine: engine(), declarations: declarations).service
    }
    for part in ["'vm1' at /images/vm1", "'vm2' at /images/link", "one file"] {
      #expect(refusal?.detail.contains(part) == true, "\(refusal?.detail ?? "")")
    }
  }

  @Test(arguments: [false, true]) func aDeclaredImageIsNoneOfREST(isKnown: Bool) async throws {
    let stored = InMemoryCatalog()
    let declarations = Declarations(images: [Self.first])
    let bench = try await ServiceBench(catalog: stored, declarations: isKnown ? declarations : Declarations())
    try await bench.image("other", path: "/images/link")
    let refusal = await expectRefusal(.sourceTaken) {
      try await ServiceBench(catalog: stored, engine: engine(), declarations: declarations).service
    }
    for part in ["'vm1' at /images/vm1", "'other' at /images/link", "over REST"] {
      #expect(refusal?.detail.contains(part) == true, "\(refusal?.detail ?? "")")
    }
  }

  @Test func aDeclarationThatIsRenamedAndMovedByALinkKeepsItsId() async throws {
    let (stored, engine) = (InMemoryCatalog(), engine())
    func bench(_ declared: ImageDraft) async throws -> ServiceBench {
      try await ServiceBench(catalog: stored, engine: engine, declarations: Declarations(images: [declared]))
    }
    let image = try await bench(Self.first).service.image(.name("vm1"))
    let after = try await bench(Self.linked)
    let images = try after.service.images(PageRequest()).items
    #expect(images.map(\.id) == [image.id])
    #expect(images.map(\.name) == ["vm2"] && images.map(\.source) == [Self.linked.source])
  }

  @Test func aSourceThatAnotherDeclarationTookIsANewImage() async throws {
    let (stored, engine) = (InMemoryCatalog(), ScriptedEngine())
    var images = [Self.first, ImageDraft(name: "vm3", source: .file(path: "/images/vm3"), format: .raw)]
    let before = try await ServiceBench(catalog: stored, engine: engine, declarations: Declarations(images: images))
    let ids = try ["vm1", "vm3"].map { try before.service.image(.name($0)).id }
    images[0].source = .file(path: "/images/new")
    images.append(ImageDraft(name: "vm4", source: Self.first.source, format: .raw))
    let after = try await ServiceBench(catalog: stored, engine: engine, declarations: Declarations(images: images))
    let now = try ["vm1", "vm3", "vm4"].map { try after.service.image(.name($0)) }
    #expect(now.prefix(2).map(\.id) == ids)
    #expect(now.map(\.source.place) == ["/images/new", "/images/vm3", "/images/vm1"])
  }

  @Test func aLostCatalogFindsAnImageAgainByItsFile() async throws {
    let engine = engine()
    let repositories = [RepositoryDraft(name: "local", path: "/backup/local")]
    let lost = try await ServiceBench(
      engine: engine, declarations: Declarations(repositories: repositories, images: [Self.first]))
    _ = try await lost.end(of: lost.backUp("vm1"))
    let image = try lost.service.image(.name("vm1"))
    var linked = Self.linked
    linked.name = "vm1"
    let bench = try await ServiceBench(
      engine: engine, declarations: Declarations(repositories: repositories, images: [linked]))
    #expect(try bench.service.image(.name("vm1")).id == image.id)
  }

  @Test func aRescanTellsOfTwoPathsToOneFile() async throws {
    let engine = engine()
    let lost = try await ServiceBench(engine: engine)
    try await lost.repository()
    try await lost.image("vm1")
    _ = try await lost.end(of: lost.backUp("vm1"))
    let repository = try lost.service.repository(.name("local"))
    let bench = try await ServiceBench(engine: engine)
    engine.script { $0.repositoryID = { _ in repository.id } }
    try await bench.repository()
    try await bench.image("vm2", path: "/images/link")
    let job = try await bench.end(of: bench.service.rescanRepository(.name("local")).done())
    #expect(job.result?["findings"] == ["images 'vm1' and 'vm2' have the same source /images/vm1"])
  }

  // MARK: Repositories

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
