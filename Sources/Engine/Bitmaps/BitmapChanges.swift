import Bitmaps
import BlockCore
import Model

// How the bitmaps of several images are changed.
//
// 1. The images are opened in the order of their ids, so that two calls never wait for each other in a circle. The bits
//    that are needed are loaded, and the actions are tried on copies.
// 2. All attached ones come to one moment, see ``GraphBarrier``. From then on what changes is recorded for the bitmaps of
//    before and for those to come.
// 3. All attached ones are flushed: what the bitmaps of before count is durable before they end.
// 4. The actions are done to the bitmaps as they were at the moment.
// 5. Each image's file gets its new bitmaps in one durable step. If one can't, those before it get the old ones back.
// 6. The new bitmaps take over in memory.

/// The actions of one call, by the images that they are about.
struct BitmapChanges: Sendable {
  /// In the order of their ids.
  let images: [BitmapImage]
  let actions: [BitmapAction]
  /// The generations that some of the bitmaps may have.
  let replaceable: [(bitmap: BitmapAction.Source, generations: [String])]

  init(_ order: BitmapOrder) throws(DomainError) {
    var images: Set<BitmapImage> = []
    for action in order.actions {
      images.insert(action.image)
      if case .merge(let sources) = action.change { images.formUnion(sources.map(\.image)) }
    }
    let sorted = images.sorted { $0.id < $1.id }
    let positions = Dictionary(sorted.enumerated().map { ($1.id, $0) }) { first, _ in first }
    self.images = sorted
    var actions: [BitmapAction] = []
    for action in order.actions {
      let change = try BitmapAction.Change(action.change, positions)
      actions.append(BitmapAction(image: positions[action.image.id] ?? 0, name: action.bitmap.bytes, change))
    }
    self.actions = actions
    replaceable = order.actions.compactMap { action in
      guard case .unite(let bits) = action.change, let generations = bits.replaceable else { return nil }
      return (BitmapAction.Source(image: positions[action.image.id] ?? 0, name: action.bitmap.bytes), generations)
    }
  }

  var changed: Set<Int> { Set(actions.map(\.image)) }

  /// The bitmaps of an image that are changed, each once.
  func names(of image: Int) -> [[UInt8]] {
    var seen: Set<[UInt8]> = []
    return actions.filter { $0.image == image }.map(\.name).filter { seen.insert($0).inserted }
  }

  /// How finely changes must be recorded of an image while its bitmaps change.
  func granularity(of image: Int, _ sets: [BitmapSet]...) -> UInt64 {
    sets.compactMap { $0[image].finestGranularity }.min() ?? DirtyBitmap.granularities.upperBound
  }
}

extension BitmapAction.Change {
  fileprivate init(_ change: BitmapOrder.Change, _ positions: [ImageID: Int]) throws(DomainError) {
    self =
      switch change {
      case .add(let granularity, let isRecording, let isPersistent):
        .add(granularity: granularity, isRecording: isRecording, isPersistent: isPersistent)
      case .remove: .remove
      case .clear: .clear
      case .enable: .enable
      case .disable: .disable
      case .merge(let sources):
        .merge(sources.map { BitmapAction.Source(image: positions[$0.image.id] ?? 0, name: $0.bitmap.bytes) })
      case .unite(let bits): .unite(try bits.decoded())
      }
  }
}

extension DomainError {
  /// A refusal in words that name bitmap, state, holder and remedy.
  init(_ refusal: BitmapRefusal, among images: [BitmapImage]) {
    func words(_ bitmap: BitmapAction.Source) -> String {
      "bitmap \(BitmapName(bitmap.name).quoted) of image '\(images[bitmap.image].name)'"
    }
    let name = BitmapName(refusal.bitmap.name)
    let bitmap = words(refusal.bitmap)
    let source = refusal.source.map { "the \(words($0))" } ?? "what was sent,"
    self =
      switch refusal.reason {
      case .unknown: DomainError(.notFound, "there is no \(bitmap)", remedy: "list the image's bitmaps for their names")
      case .exists:
        DomainError(.bitmapExists, "there is a \(bitmap) already", remedy: "choose another name, or remove it first")
      case .impossibleName:
        DomainError(
          .invalidField,
          "a bitmap's name has 1 to \(BitmapSet.maximumNameByteCount) bytes, none of them NUL; \(name.quoted) has "
            + "\(name.bytes.count)", remedy: "choose another name")
      case .reservedName:
        DomainError(
          .invalidField, "names that begin with 'cobweb.' are kept for the trackers of backups",
          remedy: "choose another name")
      case .impossibleGranularity(let granularity):
        DomainError(
          .invalidField,
          "\(bitmap) can't have a granularity of \(granularity): it is a power of two from 512 bytes to 2 GiB, and a "
            + "bitmap has at most \(DirtyBitmap.maximumGranuleCount) bits", remedy: "take a coarser one")
      case .own:
        DomainError(
          .bitmapBusy, "the \(bitmap) belongs to \(Self.owner(name)): backups build on it",
          remedy: "remove the tracker, or leave its bitmap alone")
      case .held(let holder):
        DomainError(
          .bitmapBusy, "the \(bitmap) is busy: \(holder) shows it to clients", remedy: "take it off that export first")
      case .flawed(let flaw): DomainError(flaw, bitmap)
      case .coarserSource(let granularity, let own):
        DomainError(
          .bitmapMismatch,
          "\(source) with a granularity of \(granularity) bytes can't be merged into the \(bitmap), which has \(own): it "
            + "would mark more than has changed",
          remedy: "merge into a bitmap with a granularity of \(granularity) or more")
      case .otherSize(let byteCount, let own):
        DomainError(
          .bitmapMismatch,
          "\(source) of a disk of \(byteCount) bytes can't be merged into the \(bitmap), whose disk has \(own)",
          remedy: "merge bitmaps of disks of one size")
      case .tooManyRecording(let count, let limit):
        DomainError(
          .bitmapLimit, "with the \(bitmap) \(count) bitmaps would record, and one image may have \(limit) that do",
          remedy: "disable or remove others first")
      case .tooLarge(let byteCount, let limit):
        DomainError(
          .bitmapLimit,
          "with the \(bitmap) those that record could take \(byteCount) bytes of memory, and \(limit) are allowed",
          remedy: "disable others first, or take a coarser granularity")
      }
    faults = [Fault(.field(Field("actions").item(refusal.index)), detail)]
  }

  init(_ flaw: BitmapSet.Flaw, _ bitmap: String) {
    let why =
      switch flaw {
      case .inconsistent: "inconsistent: the last program that recorded it didn't close the image"
      case .orphaned: "orphaned: a program that keeps no bitmaps changed the image"
      case .foreign: "not understood: it has parts that only its maker knows"
      }
    self.init(.bitmapInconsistent, "the \(bitmap) is \(why)", remedy: "remove it, and add a new one")
  }

  private static func owner(_ name: BitmapName) -> String {
    TrackerBitmapName(name.bytes).map { "the tracker '\($0.tracker)'" } ?? "the program itself"
  }
}
