import Configuration
import Foundation
import Model
import ModelTesting
import Testing

struct DefaultsTests {
  /// What holds without a file, as other programs rely on it.
  private let defaults = [
    "listen: 127.0.0.1:8480", "stateFolder: ./state", "imageFolders: [./images]", "imageDevices: []",
    "repositoryFolders: [./backup]", "socketFolder: ./run", "ioBackend: auto", "tokens: off", "nbdPeers: []",
  ].joined(separator: "\n")

  @Test func withoutAFileTheDefaultsHold() throws {
    let folder = try TemporaryFolder()
    let none = try ServerConfiguration(file: nil, workingFolder: folder.path)
    #expect(none.listen == [.tcp(host: "127.0.0.1", port: 8480)])
    #expect(none.tls == nil)
    #expect(none.hosts == [] && none.nbdPeers == [] && none.imageDevices == [])
    #expect(none.socketMode == 0o600)
    #expect(none.stateFolder == folder.path("state"))
    #expect(none.trackingFolder == "/dev/shm" && none.trackingMemory == 64 << 20)
    #expect(none.fleecingFolder == folder.path("fleecing") && none.fleecingSize == 10 << 30)
    #expect(none.copyBuffer == 64 << 20 && none.guestWriteTimeout == .seconds(2))
    #expect(none.imageFolders == [folder.path("images")])
    #expect(none.repositoryFolders == [folder.path("backup")])
    #expect(none.socketFolder == folder.path("run"))
    #expect(none.socketGroup == nil && none.exportTLS == nil && none.peerTLS == nil)
    #expect(none.exportConnections == 100)
    #expect(none.repositories == [] && none.images == [])
    #expect(none.ioBackend == .auto)
    #expect(none.compressionLevel == 3)
    #expect(none.timeZone == nil)
    #expect(none.jobsAtOnce == 2)
    #expect(none.eventStreams == 512)
    #expect(none.eventsKept == 10_000)
    #expect(none.logLevel == .info)
    #expect(none.tokens == .off)
  }

  @Test func theDocumentedDefaultsAreTheDefaults() throws {
    #expect(try ServerConfiguration.read(defaults) == ServerConfiguration.read(""))
    for empty in ["---\n", "# nothing\n", "~", "{}"] {
      #expect(try ServerConfiguration.read(empty) == ServerConfiguration.read(""), "\(empty)")
    }
  }

  @Test func theExplanationIsAFileThatSaysTheDefaults() throws {
    let text = ConfigurationKey.explanation
    #expect(try ServerConfiguration.read(text) == ServerConfiguration.read(""))
    func expectMentioned(_ keys: [ConfigurationKey]) {
      for key in keys {
        #expect(text.contains("\(key.name): ") && text.contains(key.meaning), "\(key.name)")
        expectMentioned(key.fields)
      }
    }
    expectMentioned(ConfigurationKey.all)
  }

  @Test func everyKeyOfTheTableIsTakenAndNoOther() {
    for key in ConfigurationKey.all {
      let faults = ServerConfiguration.faults("\(key.name): {nonsense: 1}")
      #expect(!faults.isEmpty, "\(key.name) takes anything")
      #expect(!faults.contains { $0.hasPrefix("\(key.name):1 isn't a key") }, "\(key.name) isn't read")
    }
    expectOneFault("listne: x", "listne:1 isn't a key here")
  }
}
