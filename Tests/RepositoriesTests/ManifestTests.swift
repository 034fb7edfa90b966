import Bytes
import Foundation
import Model
import ModelTesting
import Repositories
import Testing

/// What a manifest says, to older and to newer versions.
struct ManifestTests {
  /// As the first version wrote it, its checksum made with sha256sum.
  private static let old = """
    {
      "checksum" : "323212321e1d9d0c35967447085b5155b5a506325662211240fb967d389105b0",
      "chain" : "01K2C0DE0000000000000000C1",
      "backup" : "01K2C0DE0000000000000000B1",
      "compression" : "zstd",
      "consistency" : "offline",
      "createdAt" : "2026-08-01T02:00:00.000Z",
      "dirtyBytes" : 65536,
      "encryption" : null,
      "finishedAt" : "2026-08-01T02:00:01.000Z",
      "formatVersion" : 1,
      "grainSize" : 65536,
      "group" : "01K2C0DE0000000000000000G1",
      "image" : "01K2C0DE000000000000000011",
      "imageName" : "vm",
      "kind" : "full",
      "merkleRoot" : "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
      "parent" : null,
      "pointInTime" : "2026-08-01T02:00:00.500Z",
      "reason" : "a full backup was asked for",
      "repository" : "01K2C0DE0000000000000000R1",
      "requestedKind" : "full",
      "sequence" : 0,
      "virtualSize" : 1048576
    }
    """

  private func manifest(_ text: String) throws(DocumentDamage) -> Manifest {
    try CheckedDocumentCodec.decode(Manifest.self, from: Array(text.utf8))
  }

  /// The text with its checksum made anew.
  private func sealed(_ text: String, _ checksum: String) -> String {
    let blank = String(repeating: "0", count: checksum.count)
    let plain = text.replacingOccurrences(of: checksum, with: blank)
    let digest = Digest(of: Array(plain.utf8).span.bytes).description
    return plain.replacingOccurrences(of: "\"\(blank)\"", with: "\"\(digest)\"")
  }

  @Test func oldManifestsAreRead() throws {
    let found = try manifest(Self.old)
    _ = try found.root()
    #expect(found.sequence == 0 && found.imageName == "vm" && found.dirtyBytes == 65536)
    #expect(found.madeBy == nil && found.checkpoint == nil && found.granularity == nil && found.groupImages == nil)
    let entity = found.entity(storedSize: 1)
    #expect(entity.state == .complete && entity.groupImages == [])
  }

  @Test func membersOfLaterVersionsAreIgnored() throws {
    let found = try manifest(Self.old)
    let text = Self.old.replacingOccurrences(
      of: "\"parent\" : null",
      with: """
        "parent" : {"backup" : "\(found.backup)", "merkleRoot" : "\(found.merkleRoot)", "depth" : 3},
          "madeBy" : {"by" : "replication", "server" : "b"}, "colour" : ["blue"]
        """)
    let newer = try manifest(sealed(text, found.checksum))
    _ = try newer.root()
    #expect(newer.parent == Manifest.Parent(backup: found.backup, merkleRoot: found.merkleRoot))
    #expect(newer.madeBy == Manifest.Maker(by: "replication"))
    // What they don't mean to be ignored, they say with the version, or as a member that this one knows of.
    for (old, new) in [
      ("\"formatVersion\" : 1", "\"formatVersion\" : 2"), ("\"encryption\" : null", "\"encryption\" : {\"key\" : 1}"),
      ("\"sequence\" : 0", "\"sequence\" : 10000"),
    ] {
      let changed = Self.old.replacingOccurrences(of: old, with: new)
      try #require(changed != Self.old)
      let damage = #expect(throws: DocumentDamage.self) { try manifest(sealed(changed, found.checksum)).root() }
      #expect(damage?.text.contains("checksum") == false, "\(damage as Any)")
    }
    #expect(throws: DocumentDamage.self) { try manifest(text) }
  }

  @Test func newMembersReadBack() throws {
    var written = try manifest(Self.old)
    written.madeBy = Manifest.Maker(by: "policy", policy: ULID().description, policyName: "nightly")
    written.checkpoint = ULID()
    written.granularity = 65536
    written.groupImages = [ImageID(), written.image]
    let bytes = try CheckedDocumentCodec.encode(written)
    var read = try CheckedDocumentCodec.decode(Manifest.self, from: bytes)
    read.checksum = written.checksum
    #expect(read == written)
    #expect(read.entity(storedSize: 1).groupImages == written.groupImages)
    let text = String(decoding: bytes, as: UTF8.self)
    #expect(text.contains("\"policyName\" : \"nightly\"") && text.contains("\"granularity\" : 65536"))
  }
}
