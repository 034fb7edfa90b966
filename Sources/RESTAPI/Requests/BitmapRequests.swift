import Bytes
import Model
import Orchestrator

extension RequestFields {
  /// Actions that one transaction may have, and sources that one merge may have.
  static let mostBitmapActions = 256
  static let mostBitmapSources = 64

  /// The body that adds a bitmap.
  func bitmapAddition() throws(DomainError) -> (BitmapName, BitmapDraft.Change) {
    let name = bitmapName("name")
    let addition = addition
    try finish()
    guard let name else { throw Self.incomplete }
    return (name, addition)
  }

  private var addition: BitmapDraft.Change {
    let granularity = count("granularity", unit: "bytes", required: false) ?? BitmapDraft.standardGranularity
    if !(512...1 << 31).contains(granularity) || granularity.nonzeroBitCount != 1 {
      refuse("granularity", "must be a power of two from 512 to 2147483648")
    }
    let isPersistent = boolean("persistent", required: false) ?? true
    let isDisabled = boolean("disabled", required: false) ?? false
    return .add(granularity: granularity, isRecording: !isDisabled, isPersistent: isPersistent)
  }

  /// A name, which `nameEncoded` says to be percent-coded.
  /// - Parameter field: `name`, or `bitmap` with `bitmapEncoded` beside it.
  func bitmapName(_ field: String) -> BitmapName? {
    let isEncoded = boolean("\(field)Encoded", required: false) ?? false
    guard let text = string(field) else { return nil }
    guard let bytes = isEncoded ? PercentEncoding.decode(Substring(text)) : Array(text.utf8), !bytes.contains(0) else {
      refuse(field, "has a '%' that two hexadecimal digits don't follow, or stands for a NUL")
      return nil
    }
    return BitmapName(bytes)
  }

  /// The body of a merge.
  func bitmapSources() throws(DomainError) -> [BitmapDraft.Source] {
    let sources = sources("sources")
    try finish()
    guard let sources else { throw Self.incomplete }
    return sources
  }

  /// Names of bitmaps of the same image, or objects that name an image too.
  private func sources(_ name: String) -> [BitmapDraft.Source]? {
    list(name, atMost: Self.mostBitmapSources, of: "names of bitmaps, or objects {image, bitmap}") { item in
      switch item {
      case .text(let text): return text.utf8.contains(0) ? nil : BitmapDraft.Source(bitmap: BitmapName(text))
      case .fields(let source):
        let image = source.reference("image", to: Image.self, required: false)
        guard let bitmap = source.bitmapName("bitmap") else { return nil }
        return BitmapDraft.Source(image: image, bitmap: bitmap)
      }
    }
  }

  // MARK: Transactions

  private enum Verb: String, CaseIterable {
    case add, remove, clear, enable, disable, merge
  }

  /// The body of a transaction.
  func bitmapTransaction() throws(DomainError) -> [BitmapDraft] {
    let actions = list("actions", atMost: Self.mostBitmapActions, of: "objects") { item in
      guard case .fields(let action) = item else { return nil as BitmapDraft? }
      return action.bitmapAction
    }
    try finish()
    guard let actions else { throw Self.incomplete }
    return actions
  }

  private var bitmapAction: BitmapDraft? {
    let verb = choice("action", of: Verb.self)
    let image = reference("image", to: Image.self)
    let bitmap = bitmapName("bitmap")
    let change: BitmapDraft.Change? =
      switch verb {
      case .add: addition
      case .remove: .remove
      case .clear: .clear
      case .enable: .enable
      case .disable: .disable
      case .merge: sources("sources").map { .merge($0) }
      case nil: nil
      }
    guard let image, let bitmap, let change else { return nil }
    return BitmapDraft(image: image, bitmap: bitmap, change)
  }
}
