import BlockCore

/// The dirty bitmaps of one image, as a value.
///
///     recording ──disable──▶ disabled        both: add, clear, merge, remove
///     disabled ──enable──▶ recording
///     inconsistent, orphaned, foreign        only: remove
///
/// S1. Names are unique. They are of 1 to 1023 bytes without NUL.
/// S2. One that records has its bits here, and gets every change that ``record(_:)`` is told of.
/// S3. One with a flaw is only ever removed: what it says, and what it missed, isn't known.
/// S4. One that is held, or that is the program's own, isn't changed by an action at all. Any may be read.
/// S5. Orphaned bitmaps have no directory any more that could name some of them: the first change that is to be stored
///     ends them all.
/// S6. Of a list of actions all happen, in their order, or none: ``Swift/Array/apply(_:heldBy:)``.
///
/// Memory: that of its ``DirtyBitmap``s; recording one is bounded by ``maximumByteCount`` for all of them.
package struct BitmapSet: Hashable, Sendable {
  /// Why a bitmap can't be used.
  package enum Flaw: Hashable, Sendable {
    /// The last program that recorded it didn't store it.
    case inconsistent
    /// A program changed the image that didn't keep its bitmaps.
    case orphaned
    /// It has parts that only its maker understands.
    case foreign
  }

  package struct Bitmap: Hashable, Sendable {
    package let name: [UInt8]
    /// Bytes.
    package let granularity: UInt64
    package fileprivate(set) var isRecording: Bool
    /// It is stored with the image.
    package let isPersistent: Bool
    package fileprivate(set) var flaw: Flaw?
    /// Nil where only the image has them.
    package fileprivate(set) var bits: DirtyBitmap?

    package init(
      name: [UInt8], granularity: UInt64, isRecording: Bool, isPersistent: Bool = true, flaw: Flaw? = nil,
      bits: DirtyBitmap? = nil
    ) {
      self.name = name
      self.granularity = granularity
      self.isRecording = isRecording && flaw == nil
      self.isPersistent = isPersistent
      self.flaw = flaw
      self.bits = bits
    }
  }

  /// Bitmaps that record one image at most, and the bytes that they may take when all of their bits differ.
  package static let maximumRecordingCount = 64
  package static let maximumByteCount: UInt64 = 1 << 30
  package static let maximumNameByteCount = 1023
  /// How the names of the program's own bitmaps begin.
  package static let ownPrefix = Array("cobweb.".utf8)

  /// Bytes of the disk.
  package private(set) var byteCount: UInt64
  /// In the order of the image's directory, then of their making.
  package private(set) var bitmaps: [Bitmap]
  /// Where those are that record.
  private var recording: [Int]

  package init(byteCount: UInt64, _ bitmaps: [Bitmap] = []) {
    self.byteCount = byteCount
    self.bitmaps = bitmaps
    recording = bitmaps.indices.filter { bitmaps[$0].isRecording }
  }

  package subscript(name: [UInt8]) -> Bitmap? { bitmaps.first { $0.name == name } }

  package var recordingCount: Int { recording.count }

  /// The smallest granularity of those that record.
  package var finestGranularity: UInt64? { recording.map { bitmaps[$0].granularity }.min() }

  /// What the bits of all that record may take in bytes, once all of them differ.
  package var maximumRecordedByteCount: UInt64 {
    recording.reduce(0) { $0 + byteCount / bitmaps[$1].granularity / 8 }
  }

  /// What those that record take at least, in bytes: each is counted as a page of memory or more.
  package var leastRecordedByteCount: UInt64 {
    recording.reduce(0) { $0 + max(4096, DirtyBitmap.leastByteCount(byteCount, granularity: bitmaps[$1].granularity)) }
  }

  // MARK: Recording

  /// Makes the range dirty in every bitmap that records. What lies beyond the disk makes it longer.
  package mutating func record(_ range: ByteRange) {
    if range.end > byteCount { grow(to: range.end) }
    for index in recording { bitmaps[index].bits?.set(range) }
  }

  /// Makes dirty in every bitmap that records what is dirty there.
  package mutating func record(_ changes: DirtyBitmap) {
    if changes.byteCount > byteCount { grow(to: changes.byteCount) }
    for index in recording { bitmaps[index].bits?.formUnion(changes) }
  }

  /// A bitmap that can't have so many bits is lost.
  private mutating func grow(to byteCount: UInt64) {
    self.byteCount = byteCount
    for index in recording {
      guard let bits = bitmaps[index].bits,
        DirtyBitmap.isPossible(granularity: bits.granularity, byteCount: byteCount)
      else {
        bitmaps[index].flaw = .inconsistent
        bitmaps[index].isRecording = false
        bitmaps[index].bits = nil
        continue
      }
      bitmaps[index].bits = bits.resized(to: byteCount, isGrowthDirty: true)
    }
    findRecording()
  }

  private mutating func findRecording() { recording = bitmaps.indices.filter { bitmaps[$0].isRecording } }

  // MARK: Bits that the image has

  /// Takes over the bits of a bitmap that the image has.
  package mutating func load(_ bits: DirtyBitmap, for name: [UInt8]) {
    guard let index = bitmaps.firstIndex(where: { $0.name == name }) else { return }
    bitmaps[index].bits = bits.byteCount == byteCount ? bits : bits.resized(to: byteCount, isGrowthDirty: true)
  }

  /// Puts a bitmap of the program's own in the place of others, which needn't be there; nil: takes those out.
  /// - Returns: what there is too much of then, with nothing changed.
  package mutating func replace(_ names: Set<[UInt8]>, by bitmap: Bitmap?) -> BitmapRefusal.Reason? {
    var new = self
    new.bitmaps.removeAll { names.contains($0.name) }
    if let bitmap { new.bitmaps.append(bitmap) }
    new.findRecording()
    if bitmap?.isRecording == true, let excess = new.excess { return excess }
    self = new
    return nil
  }

  /// The directory that named the orphaned ones is gone.
  package mutating func dropOrphans() { endOrphans() }

  /// Lets the bits go of those that the image has and that don't record.
  package mutating func dropStoredBits() {
    for index in bitmaps.indices where bitmaps[index].isPersistent && !bitmaps[index].isRecording {
      bitmaps[index].bits = nil
    }
  }
}

// MARK: Actions

extension BitmapSet {
  package static func isPossible(name: [UInt8]) -> Bool {
    (1...maximumNameByteCount).contains(name.count) && !name.contains(0)
  }

  package static func isOwn(_ name: [UInt8]) -> Bool { name.starts(with: ownPrefix) }

  fileprivate mutating func add(
    _ name: [UInt8], granularity: UInt64, isRecording: Bool, isPersistent: Bool
  ) -> BitmapRefusal.Reason? {
    guard Self.isPossible(name: name) else { return .impossibleName }
    if Self.isOwn(name) { return .reservedName }
    guard DirtyBitmap.isPossible(granularity: granularity, byteCount: byteCount) else {
      return .impossibleGranularity(granularity)
    }
    if isPersistent { endOrphans() }
    if self[name] != nil { return .exists }
    bitmaps.append(
      Bitmap(
        name: name, granularity: granularity, isRecording: isRecording, isPersistent: isPersistent,
        bits: DirtyBitmap(byteCount: byteCount, granularity: granularity)))
    findRecording()
    return isRecording ? excess : nil
  }

  private mutating func endOrphans() {
    bitmaps.removeAll { $0.flaw == .orphaned }
    findRecording()
  }

  /// What there is too much of.
  private var excess: BitmapRefusal.Reason? {
    if recordingCount > Self.maximumRecordingCount {
      return .tooManyRecording(recordingCount, limit: Self.maximumRecordingCount)
    }
    let byteCount = maximumRecordedByteCount
    return byteCount > Self.maximumByteCount ? .tooLarge(byteCount, limit: Self.maximumByteCount) : nil
  }

  fileprivate mutating func remove(_ name: [UInt8]) -> BitmapRefusal.Reason? {
    guard let bitmap = self[name] else { return .unknown }
    bitmaps.removeAll { $0.name == name }
    if bitmap.isPersistent { endOrphans() }
    findRecording()
    return nil
  }

  fileprivate mutating func change(
    _ name: [UInt8], _ body: (inout Bitmap) -> BitmapRefusal.Reason?
  ) -> BitmapRefusal.Reason? {
    guard let index = bitmaps.firstIndex(where: { $0.name == name }) else { return .unknown }
    if let flaw = bitmaps[index].flaw { return .flawed(flaw) }
    let wasRecording = bitmaps[index].isRecording
    if let reason = body(&bitmaps[index]) { return reason }
    findRecording()
    return bitmaps[index].isRecording && !wasRecording ? excess : nil
  }

  fileprivate mutating func unite(_ others: [DirtyBitmap], into name: [UInt8]) -> BitmapRefusal.Reason? {
    for other in others {
      if let misfit = misfit(of: other, with: name) { return misfit }
    }
    return change(name) { bitmap in
      for other in others { bitmap.bits?.formUnion(other) }
      return nil
    }
  }

  /// Why bits can't go into a bitmap; nil if they can, or if nothing can.
  fileprivate func misfit(of other: DirtyBitmap, with name: [UInt8]) -> BitmapRefusal.Reason? {
    guard let bitmap = self[name], bitmap.flaw == nil else { return nil }
    if other.byteCount != byteCount { return .otherSize(other.byteCount, than: byteCount) }
    if other.granularity > bitmap.granularity { return .coarserSource(other.granularity, than: bitmap.granularity) }
    return nil
  }
}

extension [BitmapSet] {
  /// The bitmaps whose bits the actions need, as far as they aren't here.
  /// - Parameter isUndoable: those of bitmaps that are to be removed, too.
  package func missingBits(for actions: [BitmapAction], isUndoable: Bool) -> Set<BitmapAction.Source> {
    let named = actions.flatMap { action in
      if case .remove = action.change, !isUndoable { return [BitmapAction.Source]() }
      return action.sources + [BitmapAction.Source(image: action.image, name: action.name)]
    }
    return Set(
      named.filter { source in
        guard let bitmap = self[source.image][source.name] else { return false }
        return bitmap.flaw == nil && bitmap.bits == nil
      })
  }

  /// Does everything, or nothing. Later actions see what earlier ones did.
  ///
  /// Those in ``missingBits(for:isUndoable:)`` were loaded.
  /// - Parameter holder: what holds a bitmap, in words.
  package mutating func apply(
    _ actions: [BitmapAction], heldBy holder: (BitmapAction.Source) -> String? = { _ in nil }
  ) throws(BitmapRefusal) {
    var sets = self
    for (index, action) in actions.enumerated() {
      let bitmap = BitmapAction.Source(image: action.image, name: action.name)
      func refuse(_ reason: BitmapRefusal.Reason, _ other: BitmapAction.Source? = nil) -> BitmapRefusal {
        BitmapRefusal(index: index, bitmap: other ?? bitmap, reason: reason)
      }
      if sets[action.image][action.name] != nil {
        if case .add = action.change {
        } else {
          if BitmapSet.isOwn(action.name) { throw refuse(.own) }
          if let holder = holder(bitmap) { throw refuse(.held(by: holder)) }
        }
      }
      var others: [DirtyBitmap] = []
      for source in action.sources {
        guard let other = sets[source.image][source.name] else { throw refuse(.unknown, source) }
        if let flaw = other.flaw { throw refuse(.flawed(flaw), source) }
        guard let bits = other.bits else { preconditionFailure("bits that weren't loaded") }
        if let misfit = sets[action.image].misfit(of: bits, with: action.name) {
          throw BitmapRefusal(index: index, bitmap: bitmap, source: source, reason: misfit)
        }
        others.append(bits)
      }
      if let reason = sets[action.image].perform(action, others) { throw refuse(reason) }
    }
    self = sets
  }
}

extension BitmapSet {
  fileprivate mutating func perform(_ action: BitmapAction, _ others: [DirtyBitmap]) -> BitmapRefusal.Reason? {
    let name = action.name
    switch action.change {
    case .add(let granularity, let isRecording, let isPersistent):
      return add(name, granularity: granularity, isRecording: isRecording, isPersistent: isPersistent)
    case .remove: return remove(name)
    case .clear:
      return change(name) { bitmap in
        bitmap.bits?.clearAll()
        return nil
      }
    case .enable, .disable:
      return change(name) { bitmap in
        if case .enable = action.change { bitmap.isRecording = true } else { bitmap.isRecording = false }
        return nil
      }
    case .merge: return unite(others, into: name)
    case .unite(let bits): return unite([bits], into: name)
    }
  }
}
