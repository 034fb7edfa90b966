import BlockCore
import Buffers

/// What becomes of an image's bitmaps when it is opened to be written.
package enum BitmapPolicy: Sendable {
  /// An image that has bitmaps isn't opened: a write would make them wrong.
  case refuse
  /// The caller records what the image's bitmaps have to record. It reads them, and marks those in use that it
  /// records, before the first write (``Qcow2Image/markBitmapsInUse(_:leaving:)``); it stores them before it closes
  /// the image (``Qcow2Image/changeBitmaps(_:)``).
  case keep
}

/// A bitmap that is to be stored in an image. Its bits are asked for cluster by cluster of the image.
package protocol BitmapSource: Sendable {
  /// 1 to ``BitmapEntry/maximumNameByteCount`` bytes.
  var name: [UInt8] { get }
  /// A power of two, see ``BitmapEntry/granularityBits``.
  var granularityByteCount: UInt64 { get }
  /// It records every write.
  var isAuto: Bool { get }
  /// Its bits are no longer complete: the caller goes on recording elsewhere.
  var isInUse: Bool { get }

  /// What the bits of a cluster are.
  ///
  /// - Parameters:
  ///   - index: below the ``BitmapGeometry/clusterCount`` of the image's size and the bitmap's granularity.
  ///   - bytes: a cluster of zeroes, to be filled where the answer is `mixed`. What stands for nothing is ignored.
  func bits(ofCluster index: Int, into bytes: inout MutableRawSpan) async throws(BlockError) -> ClusterOfBits
}

package enum BitmapChange: Sendable {
  /// Stores a bitmap, in the place of one of its name.
  case store(any BitmapSource)
  case remove(name: [UInt8])
  /// Makes a consistent bitmap, or one that the caller has marked in use, record or rest.
  case setAuto(name: [UInt8], Bool)
}
