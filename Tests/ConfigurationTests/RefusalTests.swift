import Configuration
import Foundation
import Model
import ModelTesting
import Testing

struct RefusalTests {
  @Test func everyFaultIsToldAtOnceInOrderOfLine() {
    let yaml = """
      ioBackend: kqueue
      surprise: 1
      images:
        - name: VM1
          source: {kind: s3, path: x}
        - {name: vm2, format: vhd, source: {kind: file, path: /elsewhere/x}, Labels: {}}
      compressionLevel: lots
      """
    let faults = ServerConfiguration.faults(yaml)
    let starts = [
      "ioBackend:1 is 'kqueue'", "surprise:2 isn't a key", "images[0]:4 lacks 'format'",
      "images[0].name:4 'VM1' is no name",
      "images[0].source.kind:5 is 's3'", "images[0].source.path:5 /srv/cobweb/x lies in none",
      "images[1].Labels:6 isn't a key here: is 'labels' meant?", "images[1].format:6 is 'vhd'",
      "images[1].source.path:6 /elsewhere/x lies in none of the imageFolders",
      "compressionLevel:7 must be a whole number",
    ]
    for start in starts { #expect(faults.contains { $0.hasPrefix(start) }, "\(start)") }
    #expect(faults.count == starts.count, "\(faults)")
    let lines = faults.compactMap { Int($0.split(separator: ":")[1].prefix { $0.isNumber }) }
    #expect(lines == lines.sorted())
  }

  @Test func theMessageNamesFileLineAndKey() {
    let error = #expect(throws: ConfigurationError.self) { try ServerConfiguration.read("\nsocketMode: 0999\n") }
    #expect(error?.description == "cobweb.yaml:2: socketMode: must be an octal mode, 0 to 0777")
  }

  @Test(arguments: [
    ("listen: 8480", "listen:1 must be text"),
    ("listen: {}", "listen:1 must be text"),
    ("listen: []", "listen:1 names no address"),
    ("listen: [1.2]", "listen[0]:1 must be text"),
    ("listen:", "listen:1 is empty"),
    ("listen: ''", "listen:1 is empty"),
    ("listen: 127.0.0.1", "listen:1 '127.0.0.1' is no address"),
    ("listen: 127.0.0.1:65536", "listen:1 '127.0.0.1:65536' is no address"),
    ("listen: ':8480'", "listen:1 ':8480' is no address"),
    ("listen: example.com:8480", "listen:1 'example.com:8480' is no address"),
    ("listen: '::1:8480'", "listen:1 '::1:8480' is no address"),
    ("listen: 'unix:'", "listen:1 names no socket"),
    ("listen: unix:/\(String(repeating: "x", count: 107))", "listen:1 /xxx"),
    ("listen: [localhost:1, localhost:1]", "listen[1]:1 localhost:1 is there twice"),
    ("tls: {certificate: a}", "tls:1 lacks 'key'"),
    ("tls: x", "tls:1 must be a section"),
    ("timeZone: Europe/Belrin", "timeZone:1 there is no time zone 'Europe/Belrin'; the nearest is 'Europe/Berlin'"),
    ("timeZone: ../Europe/Berlin", "timeZone:1 there is no time zone"),
    ("tls: {certificate: a, key: b, ca: c}", "tls.ca:1 isn't a key here"),
    ("hosts: example.com", "hosts:1 must be a list"),
    ("hosts: ['a b']", "hosts[0]:1 'a b' is no host"),
    ("hosts: ['http://a']", "hosts[0]:1 'http://a' is no host"),
    ("hosts: ['a:8443']", "hosts[0]:1 'a:8443' is no host"),
    ("socketMode: 1000", "socketMode:1 must be an octal mode"),
    ("socketMode: rw", "socketMode:1 must be an octal mode"),
    ("tokens: on", "tokens:1 is 'on': must be one of off"),
    ("tokens: [off]", "tokens:1 must be a single value"),
    ("stateFolder: 5", "stateFolder:1 must be text: put '5' in quotes"),
    ("stateFolder: ~", "stateFolder:1 is empty"),
    ("stateFolder: [a]", "stateFolder:1 must be text"),
    ("stateFolder: \"a\\0b\"", "stateFolder:1 holds a zero byte"),
    ("imageFolders: ./images", "imageFolders:1 must be a list"),
    ("imageDevices: [vg0/lv]", "imageDevices[0]:1 'vg0/lv' is no path of a device"),
    ("imageDevices: [/dev/../etc/x]", "imageDevices[0]:1 "),
    ("socketGroup: no-such-group-here", "socketGroup:1 there is no group 'no-such-group-here' on this host"),
    ("socketGroup: 27", "socketGroup:1 must be text"),
    ("socketGroup: [a]", "socketGroup:1 must be text"),
    ("exportTLS: off", "exportTLS:1 must be a section"),
    ("exportTLS: {}", "exportTLS:1 is empty: needs certificate, key and clientAuthority, or preSharedKeys"),
    ("exportTLS: {certificate: a, clientAuthority: c}", "exportTLS:1 lacks 'key'"),
    ("exportTLS: {certificate: a, key: b}", "exportTLS:1 lacks 'clientAuthority'"),
    ("exportTLS: {certificate: a, key: b, clientAuthority: 5}", "exportTLS.clientAuthority:1 must be text"),
    ("exportTLS: {preSharedKeys: b, preSharedKey: a}", "exportTLS.preSharedKey:1 isn't a key here"),
    ("exportConnections: 0", "exportConnections:1 must be a whole number from 1 to 10000"),
    ("exportConnections: 10001", "exportConnections:1 must be a whole number from 1 to 10000"),
    ("nbdPeers: localhost", "nbdPeers:1 must be a list"),
    ("nbdPeers: [5]", "nbdPeers[0]:1 must be text"),
    ("nbdPeers: ['unix:']", "nbdPeers[0]:1 names no socket"),
    ("nbdPeers: [unix:/\(String(repeating: "x", count: 107))]", "nbdPeers[0]:1 /xxx"),
    ("nbdPeers: ['nbd://host']", "nbdPeers[0]:1 'nbd://host' is no peer"),
    ("nbdPeers: ['::1']", "nbdPeers[0]:1 '::1' is no peer"),
    ("nbdPeers: ['[::1']", "nbdPeers[0]:1 '[::1' is no peer"),
    ("nbdPeers: ['[::g]']", "nbdPeers[0]:1 '[::g]' is no peer"),
    ("nbdPeers: ['[::1]10809']", "nbdPeers[0]:1 '[::1]10809' is no peer"),
    ("nbdPeers: ['host:']", "nbdPeers[0]:1 'host:' is no peer"),
    ("nbdPeers: ['host:0']", "nbdPeers[0]:1 'host:0' is no peer"),
    ("nbdPeers: ['host:+9']", "nbdPeers[0]:1 'host:+9' is no peer"),
    ("nbdPeers: ['host:65536']", "nbdPeers[0]:1 'host:65536' is no peer"),
    ("nbdPeers: [10.0.0.300]", "nbdPeers[0]:1 '10.0.0.300' is no peer"),
    ("nbdPeers: [127.1:10809]", "nbdPeers[0]:1 '127.1:10809' is no peer"),
    ("nbdPeers: ['a host']", "nbdPeers[0]:1 'a host' is no peer"),
    ("peerTLS: {}", "peerTLS:1 is empty: needs authority, or preSharedKey"),
    ("peerTLS: {certificate: a}", "peerTLS:1 lacks 'key'"),
    ("peerTLS: {authority: a, key: b}", "peerTLS:1 lacks 'certificate'"),
    ("peerTLS: {authority: a, preSharedKey: b}", "peerTLS.preSharedKey:1 takes the place of certificates"),
    ("peerTLS: {authority: b, clientAuthority: a}", "peerTLS.clientAuthority:1 isn't a key here"),
    ("ioBackend: uring", "ioBackend:1 is 'uring': must be one of auto, io_uring, epoll"),
    ("trackingMemory: 1000", "trackingMemory:1 must be a whole number from 1048576 to 1099511627776"),
    ("copyBuffer: 1000", "copyBuffer:1 must be a whole number from 1048576 to 1099511627776"),
    ("guestWriteTimeout: 2", "guestWriteTimeout:1 must be a time such as 500ms or 2s, from 10ms to 60s"),
    ("guestWriteTimeout: 2m", "guestWriteTimeout:1 must be a time"),
    ("guestWriteTimeout: 5ms", "guestWriteTimeout:1 must be a time"),
    ("fleecingFolder: images", "fleecingFolder:1"),
    ("compressionLevel: 0", "compressionLevel:1 must be a whole number from 1 to 19"),
    ("compressionLevel: 20", "compressionLevel:1 must be a whole number from 1 to 19"),
    ("compressionLevel: 3.0", "compressionLevel:1 must be a whole number"),
    ("jobsAtOnce: 0", "jobsAtOnce:1 must be a whole number from 1 to 64"),
    ("eventStreams: 5000", "eventStreams:1 must be a whole number from 1 to 4096"),
    ("eventsKept: 99", "eventsKept:1 must be a whole number from 100"),
    ("logLevel: loud", "logLevel:1 is 'loud'"),
    ("repositories: {}", "repositories:1 must be a list"),
    ("repositories: [local]", "repositories[0]:1 must be a section"),
    ("repositories: [{name: a}]", "repositories[0]:1 lacks 'path'"),
    ("repositories: [{path: ./backup/a}]", "repositories[0]:1 lacks 'name'"),
    ("repositories: [{name: a, kind: s3, path: ./backup/a}]", "repositories[0].kind:1 is 's3'"),
    ("repositories: [{name: a, path: ./images/a}]", "repositories[0].path:1 /srv/cobweb/images/a lies in none"),
    ("repositories: [{name: a, path: ./backup/../state}]", "repositories[0].path:1 /srv/cobweb/state lies in none"),
    (
      "repositories: [{name: a, path: ./backup/a}, {name: a, path: ./backup/b}]",
      "repositories[1].name:1 'a' is there twice"
    ),
    (
      "repositories: [{name: a, path: ./backup/a}, {name: b, path: ./backup/a/b}]",
      "repositories[1].path:1 /srv/cobweb/backup/a/b lies in the folder of repositories[0].path"
    ),
    ("images: [{name: a, format: raw}]", "images[0]:1 lacks 'source'"),
    ("images: [{name: a, source: {kind: file, path: images/a}}]", "images[0]:1 lacks 'format'"),
    ("images: [{name: 7, source: {kind: file, path: images/a}, format: raw}]", "images[0].name:1 must be text"),
    ("images: [{name: a, source: images/a, format: raw}]", "images[0].source:1 must be a section"),
    ("images: [{name: a, source: {kind: file, path: images}, format: raw}]", "images[0].source.path:1 "),
    ("images: [{name: a, source: {kind: file, path: imagesx/a}, format: raw}]", "images[0].source.path:1 "),
    ("images: [{name: a, source: {kind: nbd}, format: raw}]", "images[0].source:1 lacks 'uri'"),
    ("images: [{name: a, source: {kind: nbd, uri: 5}, format: raw}]", "images[0].source.uri:1 must be text"),
    (
      "images: [{name: a, source: {kind: nbd, uri: 'http://a/b'}, format: raw}]",
      "images[0].source.uri:1 'http://a/b' is no NBD URI: must start with nbd://, nbds://,"
    ),
    (
      "images: [{name: a, source: {kind: nbd, uri: 'nbd://a/b', path: images/a}, format: raw}]",
      "images[0].source.path:1 goes with kind file or device only"
    ),
    (
      "images: [{name: a, source: {kind: file, uri: 'nbd://a/b', path: images/a}, format: raw}]",
      "images[0].source.uri:1 goes with kind nbd only"
    ),
    ("images: [{name: a, source: {kind: device}, format: raw}]", "images[0].source:1 lacks 'path'"),
    (
      "images: [{name: 01J00000000000000000000000, source: {kind: file, path: images/a}, format: raw}]",
      "images[0].name:1 '01J00000000000000000000000' is no name"
    ),
    (
      "images: [{name: a, source: {kind: file, path: images/a}, format: raw, labels: {a: 5}}]",
      "images[0].labels.a:1 must be text: put '5' in quotes"
    ),
    ("[listen]", ":1 must be a section"),
    ("hello", ":1 must be a section"),
    ("5: 6", "5:1 isn't a key here"),
    ("Listen: x", "Listen:1 isn't a key here: is 'listen' meant?"),
    ("a: 1\nlisten: x\nlisten: y", ":2 has a key twice: listen"),
    ("listen: [", ":"),
    ("listen: x\n---\nlisten: y", ":"),
    ("listen: *nothing", ":1 isn't YAML"),
  ])
  func aBadValueIsRefusedWithItsPlace(_ yaml: String, _ fault: String) {
    expectOneFault(yaml, fault)
  }

  @Test func anImageTwiceIsRefused() {
    let yaml = """
      images:
        - {name: a, source: {kind: file, path: images/a}, format: raw}
        - {name: a, source: {kind: file, path: images/b}, format: raw}
        - {name: c, source: {kind: file, path: ./images//a}, format: raw}
      """
    #expect(
      ServerConfiguration.faults(yaml) == [
        "images[1].name:3 'a' is there twice", "images[2].source:4 is the source of 'a' too",
      ])
  }

  @Test(arguments: ["0.0.0.0:8480", "192.168.1.5:8480", "[::]:8480", "[::ffff:127.0.0.1]:8480", "128.0.0.1:1"])
  func listeningBeyondLoopbackIsRefusedWithTheReason(_ address: String) {
    expectOneFault("listen: \"\(address)\"", "listen:1 \(address) can be reached from other hosts", "without tokens")
  }

  @Test func aFileThatCannotBeReadIsNamed() throws {
    let folder = try TemporaryFolder()
    let error = #expect(throws: ConfigurationError.self) { try ServerConfiguration(file: folder.path("none.yaml")) }
    #expect(error?.description == "\(folder.path("none.yaml")): can't be read: No such file or directory")
    let noFile = #expect(throws: ConfigurationError.self) { try ServerConfiguration(file: folder.path) }
    #expect(noFile?.faults.first?.detail == "can't be read: Is a directory")
    let large = try folder.write(String(repeating: "#", count: ServerConfiguration.maximumFileSize + 1), to: "large")
    let refusal = #expect(throws: ConfigurationError.self) { try ServerConfiguration(file: large) }
    #expect(refusal?.faults.first?.detail.contains("larger than") == true)
    try Data([0x61, 0xFF]).write(to: URL(fileURLWithPath: folder.path("binary")))
    let binary = #expect(throws: ConfigurationError.self) { try ServerConfiguration(file: folder.path("binary")) }
    #expect(binary?.faults.first?.detail == "isn't UTF-8 text")
  }
}
