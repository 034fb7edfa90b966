import Configuration
import Foundation
import Model
import ModelTesting
import Testing

struct ConfigurationKeyTests {
  @Test func everyKeyArrivesInTheValue() throws {
    let yaml = """
      listen: [localhost:8480, "[::1]:0", 127.9.9.9:1, unix:run/api.sock, unix:/run/cobweb/api.sock]
      tls: {certificate: tls/cert.pem, key: /etc/key.pem}
      hosts: [Backup.Example.com, other]
      socketMode: 0660
      tokens: off
      stateFolder: /var/lib/cobweb
      trackingFolder: shm
      trackingMemory: 1048576
      imageFolders: [/images, more/images]
      imageDevices: [/dev/vg0/*]
      repositoryFolders: [/backup]
      fleecingFolder: fleecing
      fleecingSize: 0
      copyBuffer: 1048576
      guestWriteTimeout: 500ms
      socketFolder: /run/cobweb
      socketGroup: root
      repositories:
        - {name: local, kind: directory, path: /backup/local}
        - {name: other, path: /backup/other}
      images:
        - {name: vm1, source: {kind: file, path: /images/vm1.qcow2}, format: qcow2, labels: {tier: gold, "7": "8"}}
        - {name: vm2, source: {kind: file, path: more/images/vm2.raw}, format: raw}
        - {name: lv, source: {kind: device, path: /dev/vg0/lv}, format: raw, exclusive: true}
        - {name: far, source: {kind: nbd, uri: "nbd+unix:///x?socket=/run/x.sock"}, format: raw}
      exportTLS: {certificate: tls/nbd.pem, key: tls/nbd-key.pem, clientAuthority: /etc/ca.pem, preSharedKeys: keys}
      exportConnections: 10000
      nbdPeers: [nbd.example.com, nbd.example.com:10809, unix:/run/x.sock]
      peerTLS: {authority: tls/ca.pem, certificate: tls/we.pem, key: /etc/we-key.pem}
      ioBackend: io_uring
      compressionLevel: 19
      timeZone: Europe/Berlin
      jobsAtOnce: 64
      eventStreams: 1
      eventsKept: 100
      logLevel: debug
      """
    let read = try ServerConfiguration.read(yaml)
    #expect(
      read.listen == [
        .tcp(host: "localhost", port: 8480), .tcp(host: "::1", port: 0), .tcp(host: "127.9.9.9", port: 1),
        .unix(path: "/srv/cobweb/run/api.sock"), .unix(path: "/run/cobweb/api.sock"),
      ])
    #expect(read.tls?.certificate == "/srv/cobweb/tls/cert.pem")
    #expect(read.tls?.key == "/etc/key.pem")
    #expect(read.hosts == ["backup.example.com", "other"])
    #expect(read.socketMode == 0o660)
    #expect(read.stateFolder == "/var/lib/cobweb")
    #expect(read.trackingFolder == "/srv/cobweb/shm" && read.trackingMemory == 1 << 20)
    #expect(read.fleecingFolder == "/srv/cobweb/fleecing" && read.fleecingSize == 0)
    #expect(read.copyBuffer == 1 << 20 && read.guestWriteTimeout == .milliseconds(500))
    #expect(read.imageFolders == ["/images", "/srv/cobweb/more/images"])
    #expect(read.imageDevices == ["/dev/vg0/*"])
    #expect(read.images.map(\.isExclusive) == [false, false, true, false])
    #expect(read.repositoryFolders == ["/backup"])
    #expect(read.socketFolder == "/run/cobweb")
    #expect(read.socketGroup == "root")
    #expect(read.exportTLS?.certificate == "/srv/cobweb/tls/nbd.pem")
    #expect(read.exportTLS?.key == "/srv/cobweb/tls/nbd-key.pem")
    #expect(read.exportTLS?.clientAuthority == "/etc/ca.pem")
    #expect(read.exportTLS?.preSharedKeys == "/srv/cobweb/keys")
    #expect(read.exportConnections == 10_000)
    #expect(read.peerTLS?.authority == "/srv/cobweb/tls/ca.pem")
    #expect(read.peerTLS?.certificate == "/srv/cobweb/tls/we.pem")
    #expect(read.peerTLS?.key == "/etc/we-key.pem")
    #expect(read.peerTLS?.preSharedKey == nil)
    #expect(read.repositories.map(\.name.text) == ["local", "other"])
    #expect(read.repositories.map(\.path) == ["/backup/local", "/backup/other"])
    #expect(read.repositories.map(\.kind) == [.directory, .directory])
    #expect(read.images.map(\.name.text) == ["vm1", "vm2", "lv", "far"])
    #expect(
      read.images.map(\.source) == [
        .file(path: "/images/vm1.qcow2"), .file(path: "/srv/cobweb/more/images/vm2.raw"), .device(path: "/dev/vg0/lv"),
        .nbd(uri: "nbd+unix:///x?socket=/run/x.sock"),
      ])
    #expect(read.images.map(\.format) == [.qcow2, .raw, .raw, .raw])
    #expect(read.images[0].labels == ["tier": "gold", "7": "8"])
    #expect(read.nbdPeers == ["nbd.example.com", "nbd.example.com:10809", "unix:/run/x.sock"])
    #expect(read.ioBackend == .ioUring)
    #expect(read.compressionLevel == 19)
    #expect(read.timeZone == "Europe/Berlin")
    #expect(read.jobsAtOnce == 64)
    #expect(read.eventStreams == 1)
    #expect(read.eventsKept == 100)
    #expect(read.logLevel == .debug)
  }

  @Test(arguments: ["127.0.0.1:8480", "localhost:0", "[::1]:8480", "unix:/run/cobweb/api.sock"])
  func anAddressIsWrittenAsItIsRead(_ text: String) throws {
    #expect(try ServerConfiguration.read("listen: \"\(text)\"").listen.map(\.description) == [text])
  }

  @Test(arguments: [
    ("NBD.Example.COM", "nbd.example.com"), ("localhost:10809", "localhost:10809"), ("10.0.0.7", "10.0.0.7"),
    ("10.0.0.7:1", "10.0.0.7:1"), ("'[::1]'", "[::1]"), ("'[0:0::0001]:65535'", "[::1]:65535"),
    ("3com:1", "3com:1"), ("unix:run/../x.sock", "unix:/srv/cobweb/x.sock"),
  ])
  func aPeerIsWrittenInOneWay(_ yaml: String, _ text: String) throws {
    #expect(try ServerConfiguration.read("nbdPeers: [\(yaml)]").nbdPeers == [text])
  }

  @Test func aSectionOfTLSMayHoldOnlyAKey() throws {
    let read = try ServerConfiguration.read("exportTLS: {preSharedKeys: keys}\npeerTLS: {preSharedKey: /etc/key}")
    #expect(read.exportTLS?.preSharedKeys == "/srv/cobweb/keys" && read.exportTLS?.certificate == nil)
    #expect(read.peerTLS?.preSharedKey == "/etc/key" && read.peerTLS?.authority == nil)
  }

  @Test func relativePathsStartAtTheFilesFolder() throws {
    let folder = try TemporaryFolder()
    try folder.makeFolder("etc")
    try folder.write("stateFolder: ../var/./state\nimageFolders: [a//b/]\n", to: "etc/cobweb.yaml")
    for (file, working) in [("etc/cobweb.yaml", folder.path), (folder.path("etc/cobweb.yaml"), "/")] {
      let read = try ServerConfiguration(file: file, workingFolder: working)
      #expect(read.stateFolder == folder.path("var/state"))
      #expect(read.imageFolders == [folder.path("etc/a/b")])
      #expect(read.repositoryFolders == [folder.path("etc/backup")])
    }
  }

  @Test func theExampleConfigurationIsSound() throws {
    let example = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appending(
      path: "../../examples/cobweb.yaml")
    let read = try ServerConfiguration(file: example.standardized.path)
    #expect(read.repositories.map(\.name.text) == ["local"])
    #expect(read.images.map(\.name.text) == ["sample"])
  }
}
