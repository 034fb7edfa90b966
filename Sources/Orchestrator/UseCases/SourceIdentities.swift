import Model

/// Which file or device each source is, as far as its storage tells in time.
///
/// I1. Two sources that are one file or device are one image, whatever paths and links lead there: a registration, a
///     declaration and a rescan all find that out.
/// I2. A source is looked at once. Those that are to be looked at are looked at side by side, and waited for together
///     for as long as `timeout` says.
/// I3. A source whose storage is silent for that long is compared by its spelling only, and the caller says so.
/// I4. A transaction that rests on a comparison refuses registered sources that weren't part of it. The caller looks at
///     those too, with a new deadline, and tries again.
struct SourceIdentities: Sendable {
  private var files: [ImageSource: FileIdentity] = [:]
  private var asked: Set<ImageSource> = []
  private var silent: Set<ImageSource> = []

  /// Looks at those of the sources that haven't been looked at. What NBD exports are can't be told.
  mutating func look(
    at sources: some Sequence<ImageSource>, by looks: ImageLooks, timeout: Duration
  ) async {
    let new = Set(sources).subtracting(asked)
    asked.formUnion(new)
    let local = new.filter { !$0.isNBD }
    guard !local.isEmpty else { return }
    let answers = await looks.identities(of: Array(local), until: looks.time.instant + timeout)
    for source in local {
      switch answers[source] {
      case .some(let file?): files[source] = file
      case .some(nil): break
      case nil: silent.insert(source)
      }
    }
  }

  /// Nil also for a source with nothing at its path.
  subscript(source: ImageSource) -> FileIdentity? { files[source] }

  /// Whether the source was part of the comparison, even if it was silent.
  func covers(_ source: ImageSource) -> Bool { asked.contains(source) }

  func isSilent(_ source: ImageSource) -> Bool { silent.contains(source) }

  /// The image among them that is the file or device of `source`, under another path.
  func image(among images: [Image], withTheFileOf source: ImageSource) -> Image? {
    guard let file = files[source] else { return nil }
    return images.first { $0.source != source && files[$0.source] == file }
  }

  /// Those of the images of which it can't be told whether they are the file of `source`.
  func images(of images: [Image], notComparedWith source: ImageSource) -> [Image] {
    if source.isNBD { return [] }
    let others = images.filter { $0.source != source && !$0.source.isNBD }
    return isSilent(source) ? others : others.filter { isSilent($0.source) }
  }
}

/// An image was registered while a source was compared with those that there were: it is compared with that one too.
struct RegisteredMeanwhile: Error {}

extension [ResourceName] {
  /// Names that one sentence holds.
  private static let most = 5

  /// As one part of a sentence.
  var inWords: String {
    prefix(Self.most).map { "'\($0)'" }.joined(separator: ", ")
      + (count > Self.most ? " and \(count - Self.most) more" : "")
  }
}
