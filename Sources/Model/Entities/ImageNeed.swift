/// What a user of an image needs of it, be it an export, a job or a request. Two users of one image exclude each other
/// as the table says:
///
///                read    write   rest    alone
///     read       –       –       –       ×        what the image holds by then
///     write      –       –       ×       ×        the same, and changes it through the open image, as others do
///     rest       –       ×       –       ×        that nothing changes it meanwhile
///     alone      ×       ×       ×       ×        changes it, and nobody else uses it meanwhile
///
/// An attached image is itself a user that needs `write`, so that on one only `read` and `write` are to be had.
package enum ImageNeed: Hashable, Sendable, CaseIterable {
  case read, write, rest, alone

  /// Whether it changes the image.
  package var isWriting: Bool { self == .write || self == .alone }

  /// Whether an attached image can't satisfy it.
  package var isAtRest: Bool { excludes(.write) }

  package func excludes(_ other: ImageNeed) -> Bool {
    switch (self, other) {
    case (.alone, _), (_, .alone): true
    case (.rest, .write), (.write, .rest): true
    case (.read, _), (_, .read), (.write, .write), (.rest, .rest): false
    }
  }
}
