import Bytes
import BlockCore
import Model

/// One `.hashes` file that is open to be read: its pages as they are stored, not proven.
package struct HashFile: Sendable {
  package let tree: HashTree
  package let header: HashFileHeader
  let device: any BlockDevice
  /// What a person knows it by; nil where whoever reads it says so.
  let name: String?

  /// Reads the header and compares the file with it and with what the manifest says.
  nonisolated(nonsending)
    package init(
      _ device: any BlockDevice, expecting root: Digest, byteCount: UInt64, backup: BackupID, name: String? = nil
    ) async throws(HashTreeReader.Failure)
  {
    self.device = device
    self.name = name
    tree = HashTree(byteCount: byteCount)
    guard device.byteCount == tree.fileByteCount else {
      throw .damaged(HashFileDamage("it has \(device.byteCount) bytes instead of \(tree.fileByteCount)", in: name))
    }
    let page = try await Self.bytes(of: device, at: 0, name)
    do throws(HashFileDamage) {
      header = try HashFileHeader(decoding: page)
    } catch {
      throw .damaged(HashFileDamage(error.text, in: name))
    }
    guard header.root == root, header.guestByteCount == byteCount, header.backup == backup else {
      throw .damaged(HashFileDamage("its header names another root, size or backup than the manifest", in: name))
    }
  }

  /// Zeroes where it is a hole.
  nonisolated(nonsending)
    func page(_ index: UInt64, ofLevel level: Int) async throws(HashTreeReader.Failure) -> [Digest]
  {
    let bytes = try await Self.bytes(of: device, at: tree.place(ofPage: index, level: level).offset, name)
    return (0..<HashTree.nodesPerPage).map { Digest(from: bytes.span.bytes, at: $0 * Digest.byteCount) }
  }

  /// The page, which must be the one under `node`; nil where it is a hole, or there is no such page.
  nonisolated(nonsending)
    package func page(
      _ index: UInt64, ofLevel level: Int, under node: Digest, _ work: any BackgroundWork
    ) async throws(HashTreeReader.Failure) -> [Digest]?
  {
    guard tree.hasPage(index, ofLevel: level) else { return nil }
    let nodes = try await page(index, ofLevel: level)
    if nodes.allSatisfy({ $0 == .zero }) { return nil }
    guard await work.run({ HashTree.node(overPage: nodes) }) == node else { throw damage(index, ofLevel: level) }
    return nodes
  }

  func damage(_ index: UInt64, ofLevel level: Int) -> HashTreeReader.Failure {
    .damaged(HashFileDamage("its page at byte \(tree.place(ofPage: index, level: level).offset) is damaged", in: name))
  }

  nonisolated(nonsending)
    private static func bytes(
      of device: any BlockDevice, at offset: UInt64, _ name: String?
    ) async throws(HashTreeReader.Failure) -> [UInt8]
  {
    var bytes = [UInt8](repeating: 0, count: HashTree.pageByteCount)
    do throws(BlockError) {
      var span = bytes.mutableSpan
      var raw = span.mutableBytes
      try await device.read(into: &raw, at: offset)
    } catch {
      throw .device(error, of: name)
    }
    return bytes
  }
}

/// Where the pages are that an increment's file leaves out: in those of the backups that it builds on.
package protocol InheritedHashes: AnyObject, Sendable {
  /// The page at that place, found by the node over it, which isn't zero.
  nonisolated(nonsending)
    func page(_ index: UInt64, ofLevel level: Int, under node: Digest) async throws(HashTreeReader.Failure) -> [Digest]

  /// Closes the files.
  nonisolated(nonsending) func close() async
}
