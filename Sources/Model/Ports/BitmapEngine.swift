/// The port to the dirty bitmaps of images, attached or at rest.
///
/// Throws `notFound` for a bitmap that isn't there, `formatUnsupported` for an image that can carry none, and what
/// opening the image says.
package protocol BitmapEngine: Sendable {
  /// In the order of their names' bytes, from the one after `name` on, at most `limit`.
  func bitmaps(of image: BitmapImage, after name: BitmapName?, limit: Int) async throws -> [BitmapRecord]
  func bitmap(_ name: BitmapName, of image: BitmapImage) async throws -> BitmapRecord
  /// Makes the changes, and tells what each action's bitmap is afterwards; nil if it is no longer there.
  ///
  /// All happen at one moment, between two changes of the guests, or none does. Each image's are durable when it
  /// returns; a crash before that may leave some of the images with theirs and some without, each of them whole.
  /// Throws `bitmapBusy`, `bitmapExists`, `bitmapInconsistent`, `bitmapLimit`, `bitmapMismatch`, `invalidField`, and for
  /// bits from elsewhere `malformedBits` and `preconditionFailed`.
  func change(_ order: BitmapOrder) async throws -> [BitmapRecord?]
  /// Throws `bitmapInconsistent` for one that can't be read.
  func extents(
    of bitmap: BitmapName, of image: BitmapImage, _ query: StoredExtentQuery
  ) async throws -> DirtyExtentPage
  /// Throws `bitmapInconsistent` for one that can't be read, `bitmapLimit` for one whose bits take more than
  /// ``BitmapBits/maximumByteCount``.
  func bits(of bitmap: BitmapName, of image: BitmapImage) async throws -> BitmapBits
}
