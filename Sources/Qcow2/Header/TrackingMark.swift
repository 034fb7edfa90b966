import Bytes
import BlockCore

/// Which record of an image's changes goes with the image: a header extension of our own, of a fixed length, that
/// counts while autoclear bit 63 is set. A program that doesn't know the bit clears it before it writes.
///
/// It is put in with the bit in one step, and lies within a sector from then on: another session or sequence is one
/// write of that sector (``HeaderRewrite``). QEMU moves it when it writes the header, and keeps what it says; the next
/// change moves it back.
package struct TrackingMark: Hashable, Sendable {
  /// The record's own id.
  package var sidecar: UInt128
  /// Drawn each time the image is opened to be written.
  package var session: UInt64
  /// Raised whenever an older state of the record would be wrong.
  package var sequence: UInt64

  package init(sidecar: UInt128, session: UInt64, sequence: UInt64) {
    self.sidecar = sidecar
    self.session = session
    self.sequence = sequence
  }

  private static let format: UInt32 = 1
  static let byteCount = 40

  /// Nil for contents of another format: an image may come from a later version of ours.
  init?(decoding contents: [UInt8]) {
    let bytes = contents.span.bytes
    guard contents.count == Self.byteCount, bytes.bigEndian(UInt32.self, at: 0) == Self.format else { return nil }
    sidecar = UInt128(bytes.bigEndian(UInt64.self, at: 8)) << 64 | UInt128(bytes.bigEndian(UInt64.self, at: 16))
    session = bytes.bigEndian(at: 24)
    sequence = bytes.bigEndian(at: 32)
  }

  func encoded() -> [UInt8] {
    var bytes: [UInt8] = []
    bytes.append(bigEndian: Self.format)
    bytes.append(bigEndian: UInt32(0))
    bytes.append(bigEndian: UInt64(sidecar >> 64))
    bytes.append(bigEndian: UInt64(truncatingIfNeeded: sidecar))
    bytes.append(bigEndian: session)
    bytes.append(bigEndian: sequence)
    return bytes
  }
}

extension Qcow2Header {
  /// The mark, if it counts.
  package var trackingMark: TrackingMark? {
    guard autoclear.contains(.trackingMark) else { return nil }
    return contents(ofExtension: HeaderExtension.Kind.trackingMark).flatMap(TrackingMark.init(decoding:))
  }

  mutating func setTrackingMark(_ mark: TrackingMark?) {
    guard let mark else {
      extensions.removeAll { $0.type == HeaderExtension.Kind.trackingMark }
      autoclear.remove(.trackingMark)
      return
    }
    set(extension: HeaderExtension.Kind.trackingMark, mark.encoded())
    autoclear.insert(.trackingMark)
  }

  /// Changes the contents of an extension where it stands, or adds it.
  mutating func set(extension type: UInt32, _ contents: [UInt8]) {
    if let place = extensions.firstIndex(where: { $0.type == type }) {
      extensions[place].contents = contents
    } else {
      extensions.append(HeaderExtension(type: type, contents: contents))
    }
  }
}

extension Qcow2Image {
  /// The mark that the image had when it was opened, or was given since. Nil if it has none that counts: read it
  /// before the first change, which clears the bit of a mark that this opening didn't set.
  package var trackingMark: TrackingMark? { header.value.trackingMark }

  /// The same mark, also if another program has made it void.
  package var lastTrackingMark: TrackingMark? {
    header.value.contents(ofExtension: HeaderExtension.Kind.trackingMark).flatMap(TrackingMark.init(decoding:))
  }

  /// Puts a mark into the image, or another into its place. Durable when it returns, and whatever is cut off, the image
  /// has the one or the other. From then on our changes leave it valid. A mark that an earlier opening left doesn't
  /// count any more when the first change begins, and this is one.
  ///
  /// - Throws: `noSpace`, with nothing changed, if the header has no room; `notSupported` for version 2, whose header
  ///   has no autoclear bits.
  package func setTrackingMark(_ mark: TrackingMark) async throws(BlockError) {
    try checkUsable(.write)
    guard header.value.version >= 3 else {
      throw BlockError(.notSupported, .write, cause: "an image of version 2 can't be marked")
    }
    try await prepareToChange(.write)
    try await header.change { $0.setTrackingMark(mark) }
  }

  /// Takes the mark out of the image, whether it counts or not. Durable when it returns.
  package func removeTrackingMark() async throws(BlockError) {
    try checkUsable(.write)
    try await prepareToChange(.write)
    try await header.change { $0.setTrackingMark(nil) }
  }
}
