import Engine
import EventLoops
import Foundation
import Glibc
import Model
import ModelTesting
import Testing

/// Where exports are found, and who may come.
struct ExportAddressTests {
  private func withImage(
    exports: ExportConfiguration? = nil, root: String? = nil,
    _ body: (TestEngine, ExportOrder.Source) async throws -> Void
  ) async throws {
    try await withEngine(root: root, exports: exports) { test in
      let path = test.images + "/vm.raw"
      try SampleImage.raw(at: path, byteCount: 1 << 20, seed: 4)
      try await body(test, .image(ImageLocation(source: .file(path: path), format: .raw)))
    }
  }

  @Test func exportsShareAnAddressUntilTheLastIsGone() async throws {
    try await withImage { test, source in
      let port = try freePort()
      for address in [ExportAddress.unix(path: test.socket("shared")), .tcp(host: "127.0.0.1", port: port)] {
        let orders = ["one", "two", "three"].map { test.order($0, source, at: address) }
        for order in orders { try await test.engine.export(order) }
        let list = try await Tool.runAside("nbdinfo", ["--list", "--json", test.uri(orders[0])])
        for order in orders { #expect(list.contains("\"export-name\": \"\(order.name)\"")) }
        #expect(list.contains("for a test"))
        let again = test.order("two", source, at: address)
        #expect(await code { try await test.engine.export(again) } == .nameTaken)
        for (index, order) in orders.enumerated() {
          #expect(try await Tool.runAside("nbdinfo", ["--size", test.uri(order)]) == "1048576\n")
          try await test.engine.withdraw(order.export, .safe)
          try await Tool.runAside("nbdinfo", ["--size", test.uri(order)], expecting: [1])
          if index < 2 { try await Tool.runAside("nbdinfo", ["--size", test.uri(orders[2])]) }
        }
        // Given up, and to be had again; written otherwise it is the same.
        let other: ExportAddress =
          if case .unix = address { .unix(path: test.sockets + "/./shared") } else {
            .tcp(host: "localhost", port: port)
          }
        let (first, second) = (test.order("new", source, at: other), test.order("newer", source, at: address))
        try await test.engine.export(first)
        try await test.engine.export(second)
        try await Tool.runAside("nbdinfo", ["--size", test.uri(second)])
      }
    }
  }

  @Test func theAPIsOwnAddressesAreRefused() async throws {
    let root = NSTemporaryDirectory() + "cobweb-api-\(UUID().uuidString.prefix(8))"
    defer { try? FileManager.default.removeItem(atPath: root) }
    let port = try freePort()
    let exports = ExportConfiguration(
      socketFolder: root + "/run",
      apiAddresses: [.unix(path: root + "/run/api.sock"), .tcp(host: "127.0.0.1", port: port)])
    try await withImage(exports: exports, root: root) { test, source in
      try Tool.run("ln", "-s", ".", test.socket("same"))
      let addresses: [ExportAddress] = [
        .unix(path: test.socket("api.sock")), .unix(path: test.socket("same/api.sock")),
        .tcp(host: "127.0.0.1", port: port), .tcp(host: "localhost", port: port),
      ]
      for address in addresses {
        let order = test.order("vm", source, at: address)
        #expect(await code { try await test.engine.export(order) } == .addressUnavailable, "\(address.text)")
      }
      try await test.engine.export(test.order("vm", source, at: .unix(path: test.socket("other.sock"))))
    }
  }

  @Test func socketsStayInTheirFolder() async throws {
    try await withImage { test, source in
      func export(_ path: String) async -> ProblemCode? {
        await code { try await test.engine.export(test.order("vm", source, at: .unix(path: path))) }
      }
      #expect(await export(test.root + "/outside") == .pathOutsideFolders)
      #expect(await export(test.sockets + "/../outside") == .pathOutsideFolders)
      #expect(await export(test.sockets) == .addressUnavailable)
      try Tool.run("ln", "-s", test.root, test.socket("link"))
      #expect(await export(test.socket("link/outside")) == .pathOutsideFolders)
      #expect(await export(test.socket("none/vm")) == .addressUnavailable)
      // What is there and is no socket stays.
      try Tool.run("ln", "-s", test.root + "/elsewhere", test.socket("dangling"))
      try Data("precious".utf8).write(to: URL(fileURLWithPath: test.socket("file")))
      for name in ["dangling", "file", "link"] { #expect(await export(test.socket(name)) == .addressUnavailable) }
      #expect(try SampleImage.bytes(test.socket("file")) == Data("precious".utf8))
      try Tool.run("mkdir", test.socket("deep"))
      #expect(await export(test.socket("deep/vm")) == nil)
      var status = stat()
      try #require(stat(test.socket("deep/vm"), &status) == 0)
      #expect(status.st_mode & 0o7777 == 0o660)
      #expect(!FileManager.default.fileExists(atPath: test.root + "/outside"))
    }
  }

  @Test func addressesThatOthersHaveAreRefusedAndAbandonedSocketsReplaced() async throws {
    try await withImage { test, source in
      let other = test.images + "/other.raw"
      try SampleImage.raw(at: other, byteCount: 1 << 20, seed: 4)
      let path = test.socket("taken")
      let server = try await PeerProcess.server("qemu-nbd", ["-t", "-r", "-f", "raw", "-k", path, other], at: path)
      let order = test.order("vm", source, at: .unix(path: path))
      #expect(await code { try await test.engine.export(order) } == .addressUnavailable)
      server.stop()
      try await test.engine.export(order)
      let foreign = test.order("vm", source, at: .tcp(host: "192.0.2.1", port: 10809))
      #expect(await code { try await test.engine.export(foreign) } == .addressUnavailable)
      // Failures leave nothing that would stand in the way.
      try await Tool.runAside("nbdinfo", ["--size", test.uri(order)])
    }
  }

  @Test func socketGroupIsTheConfiguredOne() async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    defer { try? FileManager.default.removeItem(atPath: root) }
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    let name = try #require(getgrgid(getgid())).pointee.gr_name
    let group = try #require(name.map { String(cString: $0) })
    try await withImage(
      exports: ExportConfiguration(socketFolder: root + "/run", socketGroup: group), root: root
    ) { test, source in
      try await test.engine.export(test.order("vm", source))
      var status = stat()
      try #require(stat(test.socket("nbd"), &status) == 0)
      #expect(status.st_gid == getgid() && status.st_mode & 0o7777 == 0o660)
    }
    let refusal = await #expect(throws: DomainError.self) {
      try await TestEngine(root: root, exports: ExportConfiguration(socketGroup: "no-such-group"))
    }
    #expect(refusal?.code == .invalidField)
  }

  @Test func clientsWithoutTheKeyStayOutside() async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    defer { try? FileManager.default.removeItem(atPath: root) }
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    let (keys, wrong) = (root + "/keys.psk", root + "/wrong.psk")
    try "alice:00112233445566778899aabbccddeeff\n".write(toFile: keys, atomically: true, encoding: .utf8)
    try "alice:00000000000000000000000000000000\n".write(toFile: wrong, atomically: true, encoding: .utf8)
    try await withImage(
      exports: ExportConfiguration(socketFolder: root + "/run", preSharedKeys: keys), root: root
    ) { test, source in
      let order = test.order("vm", source, tls: .psk)
      try await test.engine.export(order)
      let uri = test.uri(order).replacing("://", with: "://alice@") + "&tls-psk-file="
      #expect(try await Tool.runAside("nbdinfo", ["--size", uri + keys]) == "1048576\n")
      try await Tool.runAside("nbdinfo", ["--size", uri + wrong], expecting: [1])
      try await Tool.runAside("nbdinfo", ["--size", test.uri(order).replacing("nbds", with: "nbd")], expecting: [1])
      let plain = test.order("plain", source)
      #expect(await code { try await test.engine.export(plain) } == .addressUnavailable)
      let certified = test.order("vm", source, at: .unix(path: test.socket("x509")), tls: .x509)
      let refusal = await #expect(throws: DomainError.self) { try await test.engine.export(certified) }
      #expect(refusal?.code == .tlsUnavailable && refusal?.remedy?.contains("clientAuthority") == true)
    }
    let refusal = await #expect(throws: DomainError.self) {
      try await TestEngine(root: root, exports: ExportConfiguration(preSharedKeys: "/does/not/exist"))
    }
    #expect(refusal?.code == .tlsUnavailable)
  }

  @Test func connectionsAreLimited() async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    defer { try? FileManager.default.removeItem(atPath: root) }
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    try await withImage(
      exports: ExportConfiguration(socketFolder: root + "/run", connectionCount: 1), root: root
    ) { test, source in
      let order = test.order("vm", source)
      try await test.engine.export(order)
      let client = try await test.client(of: order)
      try await Tool.runAside("nbdinfo", ["--size", test.uri(order)], expecting: [1])
      client.stop()
      try await eventually("the client is gone") { test.engine.activity(of: order.export)?.clients == 0 }
      try await eventually("there is room again") {
        (try? await Tool.runAside("nbdinfo", ["--size", test.uri(order)])) != nil
      }
    }
  }
}

/// A port of the loopback that nobody listens at.
func freePort() throws -> UInt16 {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  defer { _ = Glibc.close(descriptor) }
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  let isBound = withUnsafeMutablePointer(to: &address) {
    $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(descriptor, $0, length) == 0 && getsockname(descriptor, $0, &length) == 0
    }
  }
  try #require(isBound)
  return UInt16(bigEndian: address.sin_port)
}
