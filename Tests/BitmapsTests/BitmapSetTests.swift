import Bitmaps
import BlockCore
import Testing

/// What may be done with the bitmaps of an image, in which state, and what is refused.
struct BitmapSetTests {
  private static let size: UInt64 = 1 << 20
  private static let granularity: UInt64 = 65536

  private func bits(_ ranges: ByteRange..., each granularity: UInt64 = granularity) -> DirtyBitmap {
    var bitmap = DirtyBitmap(byteCount: Self.size, granularity: granularity)
    for range in ranges { bitmap.set(range) }
    return bitmap
  }

  private func bitmap(
    _ name: String, isRecording: Bool = true, flaw: BitmapSet.Flaw? = nil, _ bits: DirtyBitmap? = nil
  ) -> BitmapSet.Bitmap {
    BitmapSet.Bitmap(
      name: Array(name.utf8), granularity: bits?.granularity ?? Self.granularity, isRecording: isRecording, flaw: flaw,
      bits: flaw == nil ? bits ?? self.bits() : nil)
  }

  private func set(_ bitmaps: BitmapSet.Bitmap...) -> BitmapSet { BitmapSet(byteCount: Self.size, bitmaps) }

  private func action(_ name: String, _ change: BitmapAction.Change, image: Int = 0) -> BitmapAction {
    BitmapAction(image: image, name: Array(name.utf8), change)
  }

  private func merge(_ sources: (image: Int, name: String)...) -> BitmapAction.Change {
    .merge(sources.map { BitmapAction.Source(image: $0.image, name: Array($0.name.utf8)) })
  }

  private func add(
    _ granularity: UInt64 = granularity, isRecording: Bool = true, isPersistent: Bool = true
  ) -> BitmapAction.Change {
    .add(granularity: granularity, isRecording: isRecording, isPersistent: isPersistent)
  }

  private func reason(_ sets: BitmapSet..., actions: BitmapAction...) -> BitmapRefusal? {
    var changed = sets
    do throws(BitmapRefusal) {
      try changed.apply(actions)
      return nil
    } catch {
      #expect(changed == sets, "a refusal changes nothing")
      return error
    }
  }

  @Test func onlyThoseThatRecordGetWhatChanges() throws {
    var sets = [set(bitmap("b0"), bitmap("b1", isRecording: false))]
    sets[0].record(ByteRange(offset: 0, length: 1))
    try sets.apply([action("b1", .enable), action("b0", .disable)])
    sets[0].record(ByteRange(offset: 65536, length: 1))
    #expect(sets[0][Array("b0".utf8)]?.bits == bits(ByteRange(offset: 0, length: 1)))
    #expect(sets[0][Array("b1".utf8)]?.bits == bits(ByteRange(offset: 65536, length: 1)))
    #expect(sets[0].recordingCount == 1)
  }

  @Test func aNewOneIsCleanAndRecordsUnlessItIsMadeDisabled() throws {
    var sets = [set()]
    try sets.apply([action("b0", add()), action("b1", add(512, isRecording: false))])
    sets[0].record(ByteRange(offset: 0, length: 1 << 19))
    #expect(sets[0].bitmaps.map { $0.bits?.dirtyByteCount } == [1 << 19, 0])
    #expect(sets[0].finestGranularity == Self.granularity)
  }

  @Test func clearRemoveAndMergeDoWhatTheySay() throws {
    let (first, last) = (ByteRange(offset: 0, length: 1), ByteRange(offset: Self.size - 1, length: 1))
    var sets = [set(bitmap("b0", bits(first)), bitmap("b1", isRecording: false, bits(last)))]
    try sets.apply([action("b0", merge((0, "b1")))])
    #expect(sets[0].bitmaps[0].bits == bits(first, last))
    try sets.apply([action("b1", .clear), action("b0", .remove)])
    #expect(sets[0].bitmaps.map(\.name) == [Array("b1".utf8)])
    #expect(sets[0].bitmaps[0].bits?.isEmpty == true)
  }

  @Test func mergesTakeSourcesOfOtherImagesAndFinerOnes() throws {
    let range = ByteRange(offset: 4096, length: 4096)
    var sets = [set(bitmap("top")), set(bitmap("base", bits(range, each: 4096)))]
    try sets.apply([action("top", merge((1, "base")))])
    #expect(sets[0].bitmaps[0].bits == bits(range))
    #expect(sets[1].bitmaps[0].bits == bits(range, each: 4096))
    // The other way it would mark more than has changed.
    let refusal = reason(sets[0], sets[1], actions: action("base", merge((0, "top")), image: 1))
    #expect(refusal?.reason == .coarserSource(65536, than: 4096))
    #expect(refusal?.source == BitmapAction.Source(image: 0, name: Array("top".utf8)))
    #expect(refusal?.bitmap == BitmapAction.Source(image: 1, name: Array("base".utf8)))
    let sent = reason(sets[1], actions: action("base", .unite(bits(range))))
    #expect(sent?.reason == .coarserSource(65536, than: 4096) && sent?.source == nil)
    let larger = BitmapSet(
      byteCount: Self.size * 2, [bitmap("large", DirtyBitmap(byteCount: Self.size * 2, granularity: Self.granularity))])
    #expect(
      reason(sets[0], larger, actions: action("top", merge((1, "large"))))?.reason
        == .otherSize(Self.size * 2, than: Self.size))
  }

  @Test func laterActionsSeeWhatEarlierOnesDid() throws {
    let range = ByteRange(offset: 0, length: 1)
    var sets = [set(bitmap("b0", bits(range)))]
    // What a backup tool does at its moment: keep what is dirty, and begin anew.
    try sets.apply([
      action("kept", add(isRecording: false)), action("kept", merge((0, "b0"))), action("b0", .clear),
    ])
    #expect(sets[0].bitmaps.map { $0.bits?.dirtyGranuleCount } == [0, 1])
  }

  @Test func oneBadActionChangesNothing() {
    let refusal = reason(
      set(bitmap("b0", bits(ByteRange(offset: 0, length: 1)))), set(bitmap("b1")),
      actions: action("b0", .clear), action("new", add(), image: 1), action("b1", .remove, image: 1),
      action("nowhere", .clear))
    #expect(refusal?.index == 3 && refusal?.reason == .unknown)
  }

  @Test func whatIsntThereOrIsThereAlreadyIsRefused() {
    for change: BitmapAction.Change in [.clear, .remove, .enable, .disable, merge()] {
      #expect(reason(set(), actions: action("b0", change))?.reason == .unknown)
    }
    #expect(reason(set(bitmap("b0")), actions: action("b0", add()))?.reason == .exists)
    let refusal = reason(set(bitmap("b0")), actions: action("b0", merge((0, "gone"))))
    #expect(refusal?.reason == .unknown && refusal?.bitmap.name == Array("gone".utf8))
  }

  @Test func namesAndGranularitiesThatQEMURefusesAreRefused() {
    for name in ["", String(repeating: "n", count: 1024), "a\0b"] {
      #expect(reason(set(), actions: action(name, add()))?.reason == .impossibleName)
    }
    #expect(reason(set(), actions: action(String(repeating: "n", count: 1023), add())) == nil)
    for granularity: UInt64 in [0, 256, 65537, 1 << 32] {
      #expect(reason(set(), actions: action("b0", add(granularity)))?.reason == .impossibleGranularity(granularity))
    }
    let large = BitmapSet(byteCount: 1 << 42)
    #expect(reason(large, actions: action("b0", add(512)))?.reason == .impossibleGranularity(512))
    #expect(reason(set(), actions: action("cobweb.x", add()))?.reason == .reservedName)
  }

  @Test func flawedOnesAreOnlyRemoved() throws {
    for flaw: BitmapSet.Flaw in [.inconsistent, .foreign, .orphaned] {
      let flawed = set(bitmap("b0", flaw: flaw), bitmap("b1"))
      for change: BitmapAction.Change in [.clear, .enable, .disable, merge((0, "b1"))] {
        #expect(reason(flawed, actions: action("b0", change))?.reason == .flawed(flaw))
      }
      #expect(reason(flawed, actions: action("b1", merge((0, "b0"))))?.reason == .flawed(flaw))
      var sets = [flawed]
      sets[0].record(ByteRange(offset: 0, length: 1))
      try sets.apply([action("b0", .remove)])
      #expect(sets[0].bitmaps.map(\.name) == [Array("b1".utf8)])
    }
  }

  @Test func orphansEndTogetherWithTheFirstChangeThatIsStored() throws {
    let orphans = set(bitmap("b0", flaw: .orphaned), bitmap("b1", flaw: .orphaned))
    var sets = [orphans]
    try sets.apply([action("b0", .remove)])
    #expect(sets[0].bitmaps.isEmpty)
    sets = [orphans]
    try sets.apply([action("b0", add())])
    #expect(sets[0].bitmaps.map(\.flaw) == [nil])
    sets = [orphans]
    try sets.apply([action("b2", add(isPersistent: false))])
    #expect(sets[0].bitmaps.count == 3)
  }

  @Test func heldOnesAndOurOwnAreReadAndNotChanged() throws {
    let sets = [set(bitmap("b0"), bitmap("cobweb.x.y"), bitmap("b1"))]
    for change: BitmapAction.Change in [.clear, .remove, .enable, .disable, merge((0, "b1"))] {
      var changed = sets
      let own = #expect(throws: BitmapRefusal.self) { try changed.apply([action("cobweb.x.y", change)]) }
      #expect(own?.reason == .own)
      let held = #expect(throws: BitmapRefusal.self) {
        try changed.apply([action("b0", change)]) { $0.name == Array("b0".utf8) ? "export 'vm'" : nil }
      }
      #expect(held?.reason == .held(by: "export 'vm'") && changed == sets)
    }
    var changed = sets
    try changed.apply([action("b1", merge((0, "b0"), (0, "cobweb.x.y")))]) { $0.name == Array("b0".utf8) ? "it" : nil }
  }

  @Test func noMoreRecordThanMay() throws {
    let most = BitmapSet.maximumRecordingCount
    let full = BitmapSet(
      byteCount: Self.size, (0..<most).map { bitmap("b\($0)") } + [bitmap("rest", isRecording: false)])
    #expect(reason(full, actions: action("one", add()))?.reason == .tooManyRecording(most + 1, limit: most))
    #expect(reason(full, actions: action("rest", .enable))?.reason == .tooManyRecording(most + 1, limit: most))
    #expect(reason(full, actions: action("one", add(isRecording: false))) == nil)
    #expect(reason(full, actions: action("b0", .disable), action("rest", .enable)) == nil)
    let large = BitmapSet(byteCount: 1 << 40)
    let five = (0..<5).map { action("b\($0)", add(512)) }
    var sets = [large]
    let refusal = #expect(throws: BitmapRefusal.self) { try sets.apply(five) }
    #expect(refusal?.reason == .tooLarge(5 << 28, limit: 1 << 30) && refusal?.index == 4)
  }

  @Test func aDiskThatGrowsIsDirtyFromItsOldEndOn() {
    var grown = set(bitmap("b0"), bitmap("b1", isRecording: false))
    grown.record(ByteRange(offset: Self.size, length: 65536))
    #expect(grown.byteCount == Self.size + 65536)
    #expect(grown.bitmaps[0].bits?.dirtyByteCount == 65536)
    // One that can't have so many bits is lost, and says so.
    var lost = BitmapSet(byteCount: 1 << 20, [bitmap("b0", bits(each: 512))])
    lost.record(ByteRange(offset: 1 << 42, length: 1))
    #expect(lost.bitmaps[0].flaw == .inconsistent && lost.recordingCount == 0)
  }

  @Test func missingBitsAreThoseThatActionsRead() {
    let stored = BitmapSet(
      byteCount: Self.size,
      ["a", "b", "c"].map {
        BitmapSet.Bitmap(name: Array($0.utf8), granularity: 65536, isRecording: false)
      })
    let actions = [action("a", merge((0, "b"))), action("c", .remove)]
    #expect([stored].missingBits(for: actions, isUndoable: false).map(\.name).sorted { $0[0] < $1[0] } == [[97], [98]])
    #expect([stored].missingBits(for: actions, isUndoable: true).count == 3)
  }
}
