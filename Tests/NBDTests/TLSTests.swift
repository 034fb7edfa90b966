import BlockCore
import BlockTesting
import Bytes
import EventLoops
import Foundation
import NBD
import Testing

/// Certificates for the tests, made once.
struct Certificates: Sendable {
  private let folder: TemporaryFolder

  static let shared = Task { try await Certificates() }

  /// A folder as libnbd and QEMU want it: ca-cert.pem, server-cert.pem, client-cert.pem and their keys.
  func folder(_ name: String) -> String { folder.file(name) }
  func file(_ name: String) -> String { folder.file("good/\(name)") }
  var keyFile: String { folder.file("keys.psk") }
  static let key = "0123456789abcdef0123456789abcdef"

  private init() async throws {
    folder = try TemporaryFolder()
    for name in ["good", "other", "expired", "serverAuth", "clientAuth", "serverAuth,clientAuth"] {
      try FileManager.default.createDirectory(atPath: folder.file(name), withIntermediateDirectories: false)
    }
    try "alice:\(Self.key)\n".write(toFile: keyFile, atomically: true, encoding: .utf8)
    for name in ["good", "other"] { try await makeAuthority(name) }
    for name in ["good", "other"] { for role in ["server", "client"] { try await makeIdentity(name, role, by: name) } }
    for role in ["server", "client"] { try await makeIdentity("expired", role, by: "good", days: -1) }
    for purpose in ["serverAuth", "clientAuth", "serverAuth,clientAuth"] {
      for role in ["server", "client"] { try await makeIdentity(purpose, role, by: "good", purpose: purpose) }
    }
    try FileManager.default.copyItem(
      atPath: folder.file("good/ca-cert.pem"), toPath: folder.file("expired/ca-cert.pem"))
  }

  // All of one name: a client shows a certificate only to servers that name its authority, and the others' must be
  // seen to be judged.
  private func makeAuthority(_ name: String) async throws {
    try await Tool.check(
      "openssl",
      [
        "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=authority",
        "-keyout", folder.file("\(name)/ca-key.pem"), "-out", folder.file("\(name)/ca-cert.pem"), "-days", "2",
      ])
  }

  /// - Parameter purpose: what the certificate says that it is for; nil: nothing.
  private func makeIdentity(
    _ name: String, _ role: String, by authority: String, days: Int = 2, purpose: String? = nil
  ) async throws {
    let request = folder.file("\(name)/\(role).csr")
    let extensions = folder.file("\(name)/\(role).extensions")
    try ("subjectAltName=DNS:localhost,IP:127.0.0.1\n" + (purpose.map { "extendedKeyUsage=\($0)\n" } ?? ""))
      .write(toFile: extensions, atomically: true, encoding: .utf8)
    try await Tool.check(
      "openssl",
      [
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=\(role)",
        "-keyout", folder.file("\(name)/\(role)-key.pem"), "-out", request,
      ])
    try await Tool.check(
      "openssl",
      [
        "x509", "-req", "-in", request, "-CA", folder.file("\(authority)/ca-cert.pem"), "-CAkey",
        folder.file("\(authority)/ca-key.pem"), "-CAcreateserial", "-days", "\(days)", "-extfile", extensions, "-out",
        folder.file("\(name)/\(role)-cert.pem"),
      ])
  }

  /// The server's credentials.
  func server(_ name: String = "good", asksClients: Bool = true) throws -> TLSServerCredentials {
    try TLSServerCredentials(
      certificateFile: folder.file("\(name)/server-cert.pem"), keyFile: folder.file("\(name)/server-key.pem"),
      clientAuthorityFile: asksClients ? folder.file("good/ca-cert.pem") : nil)
  }

  /// A client's credentials: whom it trusts, and who it is.
  func client(
    trusting authority: String = "good", as name: String? = "good", serverName: String? = nil
  ) throws -> TLSClientCredentials {
    try TLSClientCredentials(
      authorityFile: folder.file("\(authority)/ca-cert.pem"),
      certificateFile: name.map { folder.file("\($0)/client-cert.pem") },
      keyFile: name.map { folder.file("\($0)/client-key.pem") }, serverName: serverName)
  }
}

@Suite struct TLSTests {
  private static let anyPort = SocketAddress.ip(host: "127.0.0.1", port: 0)

  private func withSecureWorld(
    _ security: ListenerSecurity, requiresTLS: Bool = false, _ body: @Sendable (World, UInt16) async throws -> Void
  ) async throws {
    try await withWorld(security: security, address: Self.anyPort) { world in
      guard case .ip(_, let port) = world.listener.address else { return }
      var options = NBDExport.Options()
      options.requiresTLS = requiresTLS
      try world.publish(MemoryDevice(sampleImage(2 << 20)), options: options)
      try await body(world, port)
    }
  }

  private func open(
    _ world: World, _ port: UInt16, _ credentials: TLSClientCredentials?, host: String = "localhost",
    usesTLS: Bool = true
  ) async throws -> [UInt8] {
    var options = NBDDevice.Options()
    options.credentials = credentials
    options.reconnectTimeout = .zero
    let uri = NBDURI(.tcp(host: host, port: port), exportName: "disk", usesTLS: usesTLS)
    return try await withDevice(uri, options, world.loops) { _, device in
      #expect(device.agreement.isSecure == usesTLS)
      return try await device.readAll()
    }
  }

  private static func expected() async throws -> [UInt8] {
    let device = MemoryDevice(sampleImage(2 << 20))
    return try await device.readAll()
  }

  @Test(arguments: ["localhost", "127.0.0.1"]) func certificatesOnBothSides(_ host: String) async throws {
    let certificates = try await Certificates.shared.value
    try await withSecureWorld(.required(try certificates.server())) { world, port in
      let bytes = try await open(world, port, try certificates.client(), host: host)
      #expect(try await Self.expected() == bytes)
    }
  }

  @Test(.eachToolVersion) func sharedKeys() async throws {
    let certificates = try await Certificates.shared.value
    let server = try TLSServerCredentials(preSharedKeyFile: certificates.keyFile)
    try await withSecureWorld(.required(server)) { world, port in
      let alice = try TLSClientCredentials(preSharedKeyIdentity: "alice", hexKey: Certificates.key)
      #expect(try await open(world, port, alice) == Self.expected())
      for (name, key) in [("alice", String(Certificates.key.reversed())), ("mallory", Certificates.key)] {
        let wrong = try TLSClientCredentials(preSharedKeyIdentity: name, hexKey: key)
        await #expect(throws: BlockError.self) { try await open(world, port, wrong) }
      }
      try "alice:\(Certificates.key)\n".write(
        toFile: world.folder.file("psk"), atomically: true, encoding: .utf8)
      let uri = "nbds://alice@127.0.0.1:\(port)/disk?tls-psk-file=\(world.folder.file("psk"))"
      try await Tool.check("nbdcopy", [uri, world.folder.file("copy")])
    }
  }

  @Test(.eachToolVersion) func libnbdAndQEMUGetInWithCertificates() async throws {
    let certificates = try await Certificates.shared.value
    try await withSecureWorld(.required(try certificates.server())) { world, port in
      let copy = world.folder.file("copy")
      let uri = "nbds://localhost:\(port)/disk?tls-certificates=\(certificates.folder("good"))"
      try await Tool.check("nbdcopy", ["--connections=4", uri, copy])
      try await Tool.check(
        "qemu-img",
        [
          "compare", "--object", "tls-creds-x509,id=t,endpoint=client,dir=\(certificates.folder("good"))",
          "--image-opts",
          "driver=nbd,host=localhost,port=\(port),export=disk,tls-creds=t", "driver=file,filename=\(copy)",
        ])
    }
  }

  /// Each a client that must not get in, while one that may still does.
  @Test(arguments: [
    "a client of another authority", "an expired client", "a client without a certificate",
    "a client with a server's certificate",
  ])
  func serverRefuses(_ kind: String) async throws {
    let certificates = try await Certificates.shared.value
    try await withSecureWorld(.required(try certificates.server())) { world, port in
      let name =
        switch kind {
        case "a client of another authority": "other"
        case "an expired client": "expired"
        case "a client with a server's certificate": "serverAuth"
        default: String?.none
        }
      let credentials = try certificates.client(as: name)
      await #expect(throws: BlockError.self) { try await open(world, port, credentials) }
      _ = try await open(world, port, try certificates.client())
    }
  }

  /// A certificate may serve only what it says that it is for; the "good" ones say nothing.
  @Test func certificatesForTheRightPurposeAreTaken() async throws {
    let certificates = try await Certificates.shared.value
    for (server, client) in [("serverAuth", "clientAuth"), ("serverAuth,clientAuth", "serverAuth,clientAuth")] {
      try await withSecureWorld(.required(try certificates.server(server))) { world, port in
        let bytes = try await open(world, port, try certificates.client(as: client))
        #expect(try await bytes == Self.expected())
      }
    }
  }

  @Test(arguments: [
    "a server of another authority", "an expired server", "a server of another name",
    "a server with a client's certificate",
  ])
  func clientRefuses(_ kind: String) async throws {
    let certificates = try await Certificates.shared.value
    let server =
      switch kind {
      case "a server of another authority": "other"
      case "an expired server": "expired"
      case "a server with a client's certificate": "clientAuth"
      default: "good"
      }
    try await withSecureWorld(.required(try certificates.server(server, asksClients: false))) { world, port in
      let isNamed = kind == "a server of another name"
      let error = await #expect(throws: BlockError.self) {
        let credentials = try TLSClientCredentials(
          authorityFile: certificates.file("ca-cert.pem"), serverName: isNamed ? "elsewhere.example" : nil)
        return try await open(world, port, credentials)
      }
      #expect(error?.description.contains("TLS handshake") == true, "\(String(describing: error))")
    }
  }

  @Test func plainClientOnARequiredListenerIsTurnedAway() async throws {
    let certificates = try await Certificates.shared.value
    try await withSecureWorld(.required(try certificates.server(asksClients: false))) { world, port in
      let error = await #expect(throws: BlockError.self) { try await open(world, port, nil, usesTLS: false) }
      #expect(error?.description.contains("ERR_TLS_REQD") == true, "\(String(describing: error))")
      let info = try await Tool.run("nbdinfo", ["nbd://127.0.0.1:\(port)/disk"])
      #expect(info.status != 0)
      _ = try await open(world, port, try certificates.client())
    }
  }

  @Test func exportMayInsistWhereTheListenerLeavesItOpen() async throws {
    let certificates = try await Certificates.shared.value
    try await withSecureWorld(.optional(try certificates.server()), requiresTLS: true) { world, port in
      try world.publish(MemoryDevice(byteCount: 4096), as: "open", isDefault: false)
      let error = await #expect(throws: BlockError.self) { try await open(world, port, nil, usesTLS: false) }
      #expect(error?.description.contains("ERR_TLS_REQD") == true)
      let uri = NBDURI(.tcp(host: "localhost", port: port), exportName: "open")
      try await withDevice(uri, NBDDevice.Options(), world.loops) { _, device in #expect(device.byteCount == 4096) }
      _ = try await open(world, port, try certificates.client())
    }
  }

  @Test func clientThatWantsTLSRefusesToDoWithout() async throws {
    let certificates = try await Certificates.shared.value
    try await withSecureWorld(.plain) { world, port in
      let error = await #expect(throws: BlockError.self) { try await open(world, port, try certificates.client()) }
      #expect(error?.description.contains("STARTTLS") == true, "\(String(describing: error))")
      await #expect(throws: BlockError.self) { try await open(world, port, nil) }
    }
  }

  @Test(.eachToolVersion) func ourClientReadsAndWritesASecuredQemuNBD() async throws {
    let certificates = try await Certificates.shared.value
    let folder = try TemporaryFolder()
    try SparseImage(byteCount: 1 << 20).dump(to: folder.file("disk"))
    let peer = try await Peer(
      "qemu-nbd",
      [
        "-k", "SOCKET", "-f", "raw", "-t", "--object",
        "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir=\(certificates.folder("good"))", "--tls-creds", "t",
        folder.file("disk"),
      ])
    let loops = try EventLoopGroup(count: 1, backend: testBackend, workerCount: 1)
    var options = NBDDevice.Options()
    options.credentials = try TLSClientCredentials(
      authorityFile: certificates.file("ca-cert.pem"), certificateFile: certificates.file("client-cert.pem"),
      keyFile: certificates.file("client-key.pem"), serverName: "localhost")
    let uri = NBDURI(.unix(path: peer.socketPath), exportName: "", usesTLS: true)
    try await withDevice(uri, options, loops) { _, device in
      var random = SeededRandom(seed: 5)
      let bytes = random.bytes(700_000)
      try await device.writeBytes(bytes, at: 1024)
      let found = try await device.readBytes(700_000, at: 1024)
      #expect(found == bytes)
    }
    await loops.shutdown()
  }

  /// What was sent before TLS began counts for nothing afterwards.
  @Test func nothingNegotiatedBeforeTLSHolds() async throws {
    var handshake = ServerHandshake(policy: .optional)
    func option(_ code: UInt32) throws -> [ServerHandshake.Action] {
      try handshake.take(Array("IHAVEOPT".utf8) + big(code) + big(UInt32(0)))
    }
    _ = try handshake.take(big(UInt32(3)))
    #expect(try option(8).count == 1)
    #expect(try option(5).last == .startTLS)
    handshake.secured()
    // Structured replies can be asked for again.
    guard case .send(let reply) = try #require(try option(8).first) else { throw NoReply() }
    #expect(Array(reply[12..<16]) == big(UInt32(1)))
    guard case .send(let second) = try #require(try option(5).first) else { throw NoReply() }
    #expect(Array(second[12..<16]) == big(UInt32(1 << 31 | 3)))
  }

  private struct NoReply: Error {}

  @Test func clientSilentInTheTLSHandshakeIsCutOff() async throws {
    let certificates = try await Certificates.shared.value
    var options = NBDServerOptions.patient
    options.handshakeTimeout = .milliseconds(200)
    try await withWorld(options, security: .required(try certificates.server())) { world in
      try await RawClient.with(world.socketPath) { client in
        try client.greet()
        try client.option(5)
        #expect(try client.optionReplies() == [1])
        #expect(client.isEnded)
      }
      try await RawClient.with(world.socketPath) { client in
        try client.greet()
        try client.option(5)
        #expect(try client.optionReplies() == [1])
        try client.send([UInt8](repeating: 0x41, count: 300))
        while !(try client.receive(1).isEmpty) {}
      }
    }
  }
}
