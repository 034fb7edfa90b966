/// Which file or block device something is: the same for all its paths, links and nodes, until it is replaced or the
/// host starts again. Never kept.
package enum FileIdentity: Hashable, Sendable, Codable {
  case file(device: UInt64, inode: UInt64)
  case blockDevice(number: UInt64)
}
