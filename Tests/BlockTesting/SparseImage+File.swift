import BlockCore
import Buffers
import Glibc

extension SparseImage {
  /// The contents of the file at `path`; its blocks that are all zero become holes.
  package init(contentsOf path: String, blockByteCount: Int = 4096) throws(BlockError) {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { throw BlockError(errno: errno, .open, cause: path) }
    defer { Glibc.close(file) }
    let size = lseek(file, 0, SEEK_END)
    guard size >= 0 else { throw BlockError(errno: errno, .open, cause: path) }
    self.init(byteCount: UInt64(size), blockByteCount: blockByteCount)
    var block = [UInt8](repeating: 0, count: blockByteCount)
    var offset = 0
    while offset < size {
      let wanted = min(blockByteCount, size - offset)
      let count = block.withUnsafeMutableBytes { pread(file, $0.baseAddress, wanted, off_t(offset)) }
      guard count == wanted else { throw BlockError(errno: count < 0 ? errno : EIO, .read, cause: path) }
      let bytes = block.span.bytes.extracting(0..<wanted)
      if !bytes.isZero { write(bytes, at: UInt64(offset)) }
      offset += wanted
    }
  }

  /// Makes the file at `path` hold exactly these bytes, with holes where nothing but zeroes is known.
  package func dump(to path: String) throws(BlockError) {
    let file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard file >= 0 else { throw BlockError(errno: errno, .open, cause: path) }
    defer { Glibc.close(file) }
    guard ftruncate(file, off_t(byteCount)) == 0 else { throw BlockError(errno: errno, .resize, cause: path) }
    try forEachDataBlock { (offset, bytes) throws(BlockError) in
      let count = bytes.withUnsafeBytes { pwrite(file, $0.baseAddress, $0.count, off_t(offset)) }
      guard count == bytes.byteCount else { throw BlockError(errno: count < 0 ? errno : EIO, .write, cause: path) }
    }
  }
}
