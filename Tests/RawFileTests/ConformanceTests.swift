import BlockCore
import BlockTesting
import EventLoops
import Foundation
import RawFile
import Testing

/// One way to use a raw file, and one thing that each device must do.
struct ConformanceCase: Sendable, CustomTestStringConvertible {
  let backend: IOBackend
  let isDirect: Bool
  let check: BlockDeviceConformance.Check

  var testDescription: String { "\(check) \(backend)\(isDirect ? " direct" : "")" }

  static let all = backends.flatMap { backend in
    [false, true].flatMap { isDirect in
      BlockDeviceConformance.Check.allCases.map { ConformanceCase(backend: backend, isDirect: isDirect, check: $0) }
    }
  }
}

@Suite struct ConformanceTests {
  @Test(arguments: ConformanceCase.all) func rawFileConforms(_ conformance: ConformanceCase) async throws {
    let folder = try TemporaryFolder()
    try await atHome(conformance.backend) { home in
      let loop = home.loop
      let isDirect = conformance.isDirect
      let path = folder.file("disk")
      let suite = BlockDeviceConformance(
        makeReadOnly: { byteCount in
          try? FileManager.default.removeItem(atPath: path)
          try #require(FileManager.default.createFile(atPath: path, contents: nil))
          try FileHandle(forWritingTo: URL(fileURLWithPath: path)).truncate(atOffset: byteCount)
          return try await RawFile.open(.path(path), .init(isReadOnly: true, direct: isDirect), on: loop)
        },
        reopen: { _ in
          try await RawFile.open(.path(path), .init(isReadOnly: false, direct: isDirect), on: loop)
        },
        make: { byteCount in
          try? FileManager.default.removeItem(atPath: path)
          return try await RawFile.make(folder, "disk", byteCount, direct: isDirect, on: loop)
        })
      try await suite.run(conformance.check, isolation: home)
    }
  }
}
