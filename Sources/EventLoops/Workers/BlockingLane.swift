/// What blocking calls may hang on together: the storage of one folder, or one file system. Calls of a lane have
/// threads of their own, see ``BlockingCalls``.
package struct BlockingLane: Hashable, Sendable {
  /// Small, for it goes with every file operation. Two folders that share a number by chance share their threads.
  private let number: UInt64

  private init(number: UInt64) { self.number = number }

  /// For calls that hang on no storage.
  package static let shared = BlockingLane(number: 0)

  /// Calls on open files, by the file system's device number.
  package static func fileSystem(_ device: UInt64) -> BlockingLane { BlockingLane(number: (device << 2) | 1) }

  /// Calls on an open block device, by the inode of its node.
  package static func blockDevice(_ inode: UInt64) -> BlockingLane { BlockingLane(number: (inode << 2) | 3) }

  /// Calls on names beneath a folder, of which nothing is open yet.
  package static func folder(_ path: String) -> BlockingLane {
    BlockingLane(number: (UInt64(bitPattern: Int64(path.hashValue)) << 2) | 2)
  }

  /// The folder that the file lies in.
  package static func folder(of file: String) -> BlockingLane {
    folder(String(file[..<(file.lastIndex(of: "/") ?? file.startIndex)]))
  }

  /// The lane of blocking calls that name none: that of the storage that the task works for.
  @TaskLocal package static var current = BlockingLane.shared
}
