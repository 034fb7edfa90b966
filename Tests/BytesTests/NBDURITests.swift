import Bytes
import Testing

@Suite struct NBDURITests {
  @Test(arguments: [
    ("nbd://host", NBDURI(.tcp(host: "host", port: 10809), exportName: "")),
    ("nbd://host/", NBDURI(.tcp(host: "host", port: 10809), exportName: "")),
    ("NBD://10.0.0.1:99/a/b", NBDURI(.tcp(host: "10.0.0.1", port: 99), exportName: "a/b")),
    ("nbds://[::1]:1/x%20y", NBDURI(.tcp(host: "::1", port: 1), exportName: "x y", usesTLS: true)),
    ("nbds://[fe80::1]/%C3%A4", NBDURI(.tcp(host: "fe80::1", port: 10809), exportName: "ä", usesTLS: true)),
    ("nbd+unix:///?socket=/run/x", NBDURI(.unix(path: "/run/x"), exportName: "")),
    ("nbd+unix:///disk?socket=/run/a%20b", NBDURI(.unix(path: "/run/a b"), exportName: "disk")),
    ("nbds+unix:////disk?socket=/x", NBDURI(.unix(path: "/x"), exportName: "/disk", usesTLS: true)),
  ])
  func reads(_ text: String, _ uri: NBDURI) throws {
    #expect(try NBDURI(text) == uri)
    // What we print, we read.
    #expect(try NBDURI(uri.description) == uri)
  }

  @Test(arguments: [
    "", "nbd", "nbd:", "nbd:host:10809", "nbd:unix:/path", "http://host/", "nbd+vsock://3/", "nbd://", "nbd:///disk",
    "nbd://host:/", "nbd://host:0/", "nbd://host:65536/", "nbd://host:1x/", "nbd://user@host/", "nbd://user:pass@host/",
    "nbd://host/disk?socket=/x", "nbd://host/disk?", "nbd://host/disk#part", "nbd://ho st/", "nbd://hôst/",
    "nbd://[::1/",
    "nbd://[host]/", "nbd://::1/", "nbd://host/%", "nbd://host/%4", "nbd://host/%zz", "nbd://host/%00",
    "nbd://host/%ff",
    "nbd+unix:///disk", "nbd+unix:///disk?", "nbd+unix:///disk?socket=", "nbd+unix:///?socket=relative",
    "nbd+unix://host/disk?socket=/x", "nbd+unix:///d?socket=/x&tls=1", "nbd+unix:///d?tls=1&socket=/x",
    "nbd+unix:///d?socket=/" + String(repeating: "x", count: 107), "nbd://h/" + String(repeating: "x", count: 4097),
  ])
  func refuses(_ text: String) {
    let error = #expect(throws: NBDURI.ParsingError.self) { try NBDURI(text) }
    #expect(error?.description.contains("not an NBD URI") == true)
  }
}
