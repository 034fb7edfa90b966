/// One thing that is to be done with a bitmap of one of several images.
package struct BitmapAction: Sendable {
  package enum Change: Sendable {
    /// A new one, which is clean.
    case add(granularity: UInt64, isRecording: Bool, isPersistent: Bool)
    case remove
    /// Makes it clean.
    case clear
    /// It records every change from now on.
    case enable
    /// It stays as it is from now on.
    case disable
    /// Makes dirty what is dirty in any of these.
    case merge([Source])
    /// Makes dirty what is dirty there.
    case unite(DirtyBitmap)
  }

  /// Another bitmap, of the same image or of another one.
  package struct Source: Hashable, Sendable {
    package var image: Int
    package var name: [UInt8]

    package init(image: Int, name: [UInt8]) {
      self.image = image
      self.name = name
    }
  }

  /// Which of the images.
  package var image: Int
  package var name: [UInt8]
  package var change: Change

  package init(image: Int, name: [UInt8], _ change: Change) {
    self.image = image
    self.name = name
    self.change = change
  }

  /// The bitmaps whose bits it takes.
  package var sources: [Source] { if case .merge(let sources) = change { sources } else { [] } }
}

/// Why an action isn't possible.
package struct BitmapRefusal: Error, Hashable, Sendable {
  package enum Reason: Hashable, Sendable {
    case unknown
    case exists
    /// Its bytes are too many, none, or one of them is NUL.
    case impossibleName
    /// It begins as the names of the program's own bitmaps do.
    case reservedName
    /// It is no power of two, out of the format's bounds, or makes more bits than the format holds.
    case impossibleGranularity(UInt64)
    /// It counts for the program itself.
    case own
    /// Something uses it as it is, in these words.
    case held(by: String)
    case flawed(BitmapSet.Flaw)
    /// A merge would mark more than the source does.
    case coarserSource(UInt64, than: UInt64)
    case otherSize(UInt64, than: UInt64)
    case tooManyRecording(Int, limit: Int)
    /// The bits of all that record could take so many bytes.
    case tooLarge(UInt64, limit: UInt64)
  }

  /// In the list of actions.
  package var index: Int
  /// The bitmap that stands in the way: the action's own, or a source of it.
  package var bitmap: BitmapAction.Source
  /// What doesn't fit it; nil where that has no name.
  package var source: BitmapAction.Source?
  package var reason: Reason
}
