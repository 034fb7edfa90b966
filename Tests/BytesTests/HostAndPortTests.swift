import Bytes
import Testing

@Suite struct HostAndPortTests {
  @Test(arguments: [
    ("backup.example", NetworkHost.name("backup.example"), nil),
    ("Backup.Example:10809", .name("backup.example"), 10809),
    ("a_b-c:0", .name("a_b-c"), 0),
    ("127.0.0.1", .ipv4("127.0.0.1"), nil),
    ("127.0.0.1:65535", .ipv4("127.0.0.1"), 65535),
    ("[::1]", .ipv6("::1"), nil),
    ("[0:0::0001]:80", .ipv6("::1"), 80),
    ("[2001:DB8::a]:080", .ipv6("2001:db8::a"), 80),
  ])
  func isReadInEachForm(_ text: String, _ host: NetworkHost, _ port: UInt16?) {
    #expect(HostAndPort(text) == HostAndPort(host, port: port))
  }

  @Test(arguments: [
    "", ":", ":80", "a:", "a:b", "a:80:", "a:65536", "a:-1", "a:+80", "a: 80", "a:٣", "a b", "a/b", "ä", "a@b",
    "[::1", "::1", "[::1]80", "[::1]:", "[::1]x", "[]", "[a]", "[127.0.0.1]", "[::1%lo]", "127.1", "10.0.0.300", "1",
    "a.", String(repeating: "a", count: 254),
  ])
  func whatIsNoneOfTheFormsIsRefused(_ text: String) {
    #expect(HostAndPort(text) == nil)
  }

  @Test func textsAreReadAgain() {
    for text in ["a:1", "a", "[::1]:1", "[::1]", "127.0.0.1:1"] { #expect(HostAndPort(text)?.description == text) }
  }

  @Test func loopbackAndFixedHostsAreKnown() {
    func host(_ text: String) -> NetworkHost? { NetworkHost(withoutBrackets: text) }
    for text in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "0:0::1"] {
      #expect(host(text)?.isLoopback == true && host(text)?.isFixed == true, "\(text)")
    }
    for text in ["10.0.0.1", "::", "::ffff:127.0.0.1"] {
      #expect(host(text)?.isLoopback == false && host(text)?.isFixed == true, "\(text)")
    }
    #expect(host("example")?.isFixed == false && host("example")?.isLoopback == false)
    #expect(host("1::g") == nil)
  }
}
