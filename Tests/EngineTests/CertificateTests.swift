import BlockTesting
import Engine
import EventLoops
import Foundation
import Model
import ModelTesting
import Testing

/// Exports and peers with certificates: one engine's export is the other's source.
struct CertificateTests {
  /// An authority, a server's and a client's certificate, and another authority that nobody trusts, made by openssl.
  private func makeCertificates(in folder: String) throws {
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    func file(_ name: String) -> String { folder + "/\(name).pem" }
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try "subjectAltName=IP:127.0.0.1\n".write(toFile: file("names"), atomically: true, encoding: .utf8)
    for name in ["ca", "other"] {
      try Tool.run(
        "openssl",
        ["req", "-x509"] + key + [
          "-subj", "/CN=\(name)", "-keyout", file("\(name)-key"), "-out", file("\(name)-cert"), "-days", "2",
        ])
    }
    for (name, authority) in [("server", "ca"), ("client", "ca"), ("stranger", "other")] {
      try Tool.run(
        "openssl",
        ["req", "-new"] + key + ["-subj", "/CN=\(name)", "-keyout", file("\(name)-key"), "-out", file("request")])
      try Tool.run(
        "openssl",
        [
          "x509", "-req", "-in", file("request"), "-CA", file("\(authority)-cert"), "-CAkey", file("\(authority)-key"),
          "-CAcreateserial", "-days", "2", "-extfile", file("names"), "-out", file("\(name)-cert"),
        ])
    }
  }

  @Test(.eachToolVersion) func onlyClientsOfTheAuthorityReachTheExport() async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    let folder = root + "/tls"
    try makeCertificates(in: folder)
    func file(_ name: String) -> String { folder + "/\(name).pem" }
    let exports = ExportConfiguration(
      certificate: .init(certificate: file("server-cert"), key: file("server-key"), clientAuthority: file("ca-cert")))
    try await withEngine(root: root, exports: exports) { test in
      let path = test.images + "/vm.raw"
      try SampleImage.raw(at: path, byteCount: 1 << 20, seed: 4)
      let order = test.order(
        "vm", .image(ImageLocation(source: .file(path: path), format: .raw)),
        at: .tcp(host: "127.0.0.1", port: try freePort()), tls: .x509)
      try await test.engine.export(order)
      try await Tool.runAside(
        "nbdinfo", ["--size", test.uri(order).replacing("nbds:", with: "nbd:")], expecting: [1])
      for (name, authority, isLetIn) in [
        ("client", "ca", true), ("stranger", "ca", false), ("client", "other", false),
      ] {
        let other = try await TestEngine(
          root: root,
          peers: PeerConfiguration(
            allowed: ["127.0.0.1"],
            tls: .certificate(
              authority: file("\(authority)-cert"), certificate: file("\(name)-cert"), key: file("\(name)-key"))))
        let image = ImageRecord(
          id: ImageID(), name: "remote", source: .nbd(uri: test.uri(order)), format: .raw, labels: [:])
        guard isLetIn else {
          #expect(await code { _ = try await other.backUp(image) } == .peerUnreachable, "\(name), \(authority)")
          continue
        }
        let made = try await other.backUp(image)
        try Tool.judge("compare", "-f", "raw", "-F", "qcow2", path, made.dataPath)
      }
    }
  }
}
