import BlockCore
import BlockTesting
import EventLoops
import Foundation
import Glibc
import RawFile
import Testing

/// QEMU with an image open, as long as the object lives.
private final class QEMU {
  private let tool: Tool

  init(_ folder: TemporaryFolder, _ image: String, format: String = "qcow2", _ arguments: [String]) throws {
    let socket = folder.file("nbd-\(UUID().uuidString.prefix(8))")
    tool = try Tool(["qemu-nbd", "-f", format, "--persistent", "-k", socket] + arguments + [folder.file(image)])
    // It listens before it opens the image, and greets afterwards.
    let deadline = Date(timeIntervalSinceNow: 10)
    while !Self.greets(socket), Date() < deadline { usleep(5000) }
    try #require(Date() < deadline, "qemu-nbd doesn't come up")
  }

  /// True if an NBD server answers at the unix socket; waits for its greeting once it is connected.
  private static func greets(_ path: String) -> Bool {
    let connection = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    defer { _ = Glibc.close(connection) }
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: path.utf8) }
    let length = socklen_t(MemoryLayout<sockaddr_un>.size)
    let isConnected = withUnsafePointer(to: &address) { address in
      address.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(connection, $0, length) == 0 }
    }
    var greeting = [UInt8](repeating: 0, count: 8)
    return isConnected && recv(connection, &greeting, 8, 0) == 8
  }

  deinit { tool.stop() }
}

private let rights = [RawFile.Options(isReadOnly: true), RawFile.Options(isReadOnly: false)]

@Suite(.eachToolVersion) struct ImageLockTests {
  private func makeImage(_ format: String = "qcow2") throws -> TemporaryFolder {
    let folder = try TemporaryFolder()
    try #require(try Tool.run("qemu-img", "create", "-f", format, folder.file("disk"), "1M").status == 0)
    return folder
  }

  /// Opens the image and says with what it failed.
  private func refusal(_ folder: TemporaryFolder, _ options: RawFile.Options, _ backend: IOBackend) async throws
    -> String?
  {
    try await atHome(backend) { home in
      do throws(BlockError) {
        try await RawFile.open(.path(folder.file("disk")), options, on: home.loop).close()
        return nil
      } catch {
        guard case .locked(let text) = error.kind else { throw error }
        return text
      }
    }
  }

  @Test(arguments: backends) func imageThatQEMUWritesIsRefused(_ backend: IOBackend) async throws {
    let folder = try makeImage()
    let qemu = try QEMU(folder, "disk", [])
    for options in rights {
      let text = try #require(try await refusal(folder, options, backend))
      #expect(text.contains("holds the write and resize permissions on this image"))
      #expect(text.contains("QEMU") && text.contains("shut the guest down"))
    }
    withExtendedLifetime(qemu) {}
  }

  @Test(arguments: backends) func imageThatQEMUReadsMayBeReadAndNotWritten(_ backend: IOBackend) async throws {
    let folder = try makeImage()
    let qemu = try QEMU(folder, "disk", ["--read-only"])
    #expect(try await refusal(folder, rights[0], backend) == nil)
    let text = try #require(try await refusal(folder, rights[1], backend))
    #expect(text.contains("does not share the write and resize permissions on this image"))
    withExtendedLifetime(qemu) {}
  }

  @Test(arguments: backends) func imageThatWeWriteIsRefusedByQEMU(_ backend: IOBackend) async throws {
    let folder = try makeImage()
    try await atHome(backend) { home in
      let device = try await RawFile.open(.path(folder.file("disk")), rights[1], on: home.loop)
      for arguments in [["-r"], []] {
        let attempt = try Tool(["qemu-io", "-f", "qcow2"] + arguments + ["-c", "read 0 512", folder.file("disk")])
          .finish()
        #expect(attempt.status != 0 && attempt.output.contains("lock"), "\(attempt.output)")
      }
      try await device.close()
      #expect(try Tool.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", folder.file("disk")).status == 0)
    }
  }

  @Test(arguments: backends) func imageThatWeReadIsReadByQEMUAndNotWritten(_ backend: IOBackend) async throws {
    let folder = try makeImage()
    try await atHome(backend) { home in
      let device = try await RawFile.open(.path(folder.file("disk")), rights[0], on: home.loop)
      #expect(try Tool.run("qemu-io", "-f", "qcow2", "-r", "-c", "read 0 512", folder.file("disk")).status == 0)
      let attempt = try Tool.run("qemu-io", "-f", "qcow2", "-c", "write 0 512", folder.file("disk"))
      #expect(attempt.status != 0 && attempt.output.contains("lock"), "\(attempt.output)")
      try await device.close()
    }
  }

  @Test(arguments: backends) func ourOwnUsersExcludeEachOtherToo(_ backend: IOBackend) async throws {
    let folder = try makeImage()
    try await atHome(backend) { home in
      let writer = try await RawFile.open(.path(folder.file("disk")), rights[1], on: home.loop)
      for options in rights {
        await #expect(throws: BlockError.self) {
          try await RawFile.open(.path(folder.file("disk")), options, on: home.loop)
        }
      }
      try await writer.close()
      let readers = [
        try await RawFile.open(.path(folder.file("disk")), rights[0], on: home.loop),
        try await RawFile.open(.path(folder.file("disk")), rights[0], on: home.loop),
      ]
      // What was refused has left no lock behind.
      let others = try await readers[0].locksElsewhere()
      #expect(others == .reader)
      for reader in readers { try await reader.close() }
      let unlocked = RawFile.Options(isReadOnly: true, locks: false)
      let device = try await RawFile.open(.path(folder.file("disk")), unlocked, on: home.loop)
      #expect(try await device.locksElsewhere() == ImageLock(held: [], unshared: []))
      try await device.close()
    }
  }

  /// QEMU shares a raw image more freely than a qcow2 one; we don't share what it writes.
  @Test(arguments: backends) func rawImageThatQEMUHasOpenIsRefused(_ backend: IOBackend) async throws {
    let folder = try makeImage("raw")
    do {
      let writer = try QEMU(folder, "disk", format: "raw", [])
      for options in rights {
        let text = try #require(try await refusal(folder, options, backend))
        #expect(text.contains("holds the write permission on this image"))
      }
      withExtendedLifetime(writer) {}
    }
    let reader = try QEMU(folder, "disk", format: "raw", ["--read-only"])
    #expect(try await refusal(folder, rights[0], backend) == nil)
    let text = try #require(try await refusal(folder, rights[1], backend))
    #expect(text.contains("does not share the resize permission on this image"))
    withExtendedLifetime(reader) {}
  }

  @Test(arguments: backends) func claimsOfQEMUAreTold(_ backend: IOBackend) async throws {
    let folder = try makeImage()
    for (arguments, expected) in [(["--read-only"], ImageLock.reader), ([], ImageLock.writer)] {
      let qemu = try QEMU(folder, "disk", arguments)
      let others = try await atHome(backend) { home in
        let options = RawFile.Options(isReadOnly: true, locks: false)
        let device = try await RawFile.open(.path(folder.file("disk")), options, on: home.loop)
        let others = try await device.locksElsewhere()
        try await device.close()
        return others
      }
      #expect(others == expected)
      withExtendedLifetime(qemu) {}
    }
  }
}
