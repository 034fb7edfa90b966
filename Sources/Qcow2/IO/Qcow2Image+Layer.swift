import Bytes

/// What a reader of a chain asks of one of its files, opened with ``BackingSource/ignored``.
extension Qcow2Image {
  /// What the image says of its backing file, which isn't open.
  package var statedBacking: BackingReference? {
    get throws(Qcow2Error) { try header.value.backingReference(depth: 1) }
  }

  /// Memory that the L1 table takes.
  package var tableByteCount: Int { header.value.l1ByteCount }

  /// Tells the image from another one: every change of what is stored where, but in place, changes the L1 table or the
  /// file's length.
  package var tableDigest: Digest {
    let entries = map.l1
    return Digest(of: entries.span.bytes)
  }

  /// The end of the guest bytes whose mappings are read from the file together with that at `offset`.
  package func endOfTableSlice(at offset: UInt64) -> UInt64 {
    let cluster = offset >> map.clusterBits
    return (cluster + map.clustersLeftInSlice(cluster)) << map.clusterBits
  }
}
