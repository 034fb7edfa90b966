import Foundation
import Model
import ModelTesting
import Testing

struct ExportTests {
  @Test(arguments: [
    (ExportAddress.unix(path: "/run/nbd.sock"), ExportTLS?.none, "nbd+unix:///vm1.disk_0?socket=/run/nbd.sock"),
    (.unix(path: "/run/nbd.sock"), .psk, "nbds+unix:///vm1.disk_0?socket=/run/nbd.sock"),
    (.tcp(host: "127.0.0.1", port: 10_809), nil, "nbd://127.0.0.1:10809/vm1.disk_0"),
    (.tcp(host: "localhost", port: 1), nil, "nbd://localhost:1/vm1.disk_0"),
    (.tcp(host: "2001:db8::1", port: 65_535), .x509, "nbds://[2001:db8::1]:65535/vm1.disk_0"),
  ])
  func itsURIIsWhatTheSpecificationAsksFor(_ listen: ExportAddress, _ tls: ExportTLS?, _ uri: String) {
    #expect(Export.sample("vm1.disk_0", listen: listen, tls: tls).uri == uri)
  }

  /// Any byte but a zero may stand in a path.
  @Test(arguments: [
    "/run/my vm/a+b.sock", "/run/?a=b&c#d%20;e", "/run/ü/☃/\u{1F511}", "/~a-b_c.d/\u{1}\u{7F}\t\n\"<>\\^`{|}",
    "/run/[x]:@!$'()*,",
  ])
  func theSocketsPathSurvivesTheURI(_ path: String) throws {
    let uri = Export.sample(listen: .unix(path: path)).uri
    let parts = try #require(URLComponents(string: uri))
    #expect(parts.queryItems == [URLQueryItem(name: "socket", value: path)])
    #expect(parts.path == "/disk0")
    #expect(parts.fragment == nil)
    #expect(uri.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F }, "\(uri)")
  }

  @Test func everyOtherCharacterOfAPathIsWrittenInUppercaseHexadecimal() {
    #expect(Export.sample(listen: .unix(path: "/a b\u{1}ÿ/~")).uri == "nbd+unix:///disk0?socket=/a%20b%01%C3%BF/~")
  }

  @Test(arguments: ["localhost", "127.0.0.1", "127.255.255.254", "::1"])
  func anAddressOfThisMachineIsLocal(_ host: String) {
    #expect(ExportAddress.tcp(host: host, port: 10_809).isLocal)
    #expect(ExportAddress.unix(path: host).isLocal)
  }

  /// Also what looks like one of this machine: an address that isn't certainly local needs TLS.
  @Test(arguments: [
    "0.0.0.0", "::", "192.0.2.1", "128.0.0.1", "2001:db8::1", "::2", "127.0.0.256", "127.0.0", "127.0.0.1.1",
    "127..0.1", "127.0.0.1.example", "127.example.org.1", "localhost.example.org", "LOCALHOST", "",
  ])
  func everyOtherAddressIsNot(_ host: String) { #expect(!ExportAddress.tcp(host: host, port: 10_809).isLocal) }

  @Test func anAddressIsWrittenForAPerson() {
    #expect(ExportAddress.unix(path: "/run/my nbd.sock").text == "unix:/run/my nbd.sock")
    #expect(ExportAddress.tcp(host: "127.0.0.1", port: 1).text == "127.0.0.1:1")
    #expect(ExportAddress.tcp(host: "::1", port: 10_809).text == "[::1]:10809")
  }
}
