/// Decides what becomes of each request, from what was negotiated (proto.md, “Request types”, “Error values”).
package struct RequestRules: Sendable {
  package enum Verdict: Hashable, Sendable {
    /// Carry it out. Its range lies inside the export, at any offset.
    case perform(Command)
    /// Read past the payload and answer with the error; the text is for people.
    case refuse(WireError, StaticText)
    /// The client is done.
    case disconnect
    /// Nothing sensible can follow: close the connection.
    case abort(StaticText)
  }

  /// A text known when compiling: refusals cost no allocation.
  package struct StaticText: Hashable, Sendable, CustomStringConvertible {
    package let text: String
    package var description: String { text }
  }

  package let agreement: Agreement
  private let maximum: UInt64

  package init(_ agreement: Agreement) {
    self.agreement = agreement
    maximum = UInt64(agreement.blockSizes.maximum)
  }

  @inline(__always)
  package func verdict(_ request: Request) -> Verdict {
    // The commonest request first.
    if request.type == Command.read.rawValue, request.flags.isEmpty, request.length > 0, request.length <= maximum,
      isInside(request)
    {
      return .perform(.read)
    }
    return fullVerdict(request)
  }

  private func fullVerdict(_ request: Request) -> Verdict {
    guard request.payloadByteCount(agreement.style) <= maximum else {
      return .abort(StaticText(text: "a payload above the maximum"))
    }
    guard let command = request.command else { return refuse(.invalid, "unknown command") }
    if command == .disconnect { return .disconnect }
    if let refusal = flagsRefusal(command, request.flags) { return refusal }
    if agreement.flags.contains(.readOnly), command.changesBytes { return refuse(.permission, "read-only export") }
    guard isAdvertised(command) else { return refuse(.invalid, "command not offered") }
    if command == .flush {
      return request.offset == 0 && request.length == 0
        ? .perform(.flush) : refuse(.invalid, "FLUSH with an offset or a length")
    }
    // The payload form has its length in the payload.
    if command == .blockStatus, request.flags.contains(.payloadLength) {
      return request.offset < agreement.byteCount ? .perform(.blockStatus) : refuse(.invalid, "past the end")
    }
    return rangeVerdict(command, request)
  }

  private func rangeVerdict(_ command: Command, _ request: Request) -> Verdict {
    guard isInside(request) else {
      return refuse(command == .write || command == .writeZeroes ? .noSpace : .invalid, "past the end of the export")
    }
    if command == .read, request.length > maximum {
      return refuse(agreement.style == .simple ? .invalid : .overflow, "READ above the maximum payload")
    }
    if command == .blockStatus, request.length == 0 { return refuse(.invalid, "BLOCK_STATUS of nothing") }
    return .perform(command)
  }

  /// True if `length` bytes at `offset` are inside the export.
  @inline(__always)
  private func isInside(_ request: Request) -> Bool {
    request.length <= agreement.byteCount && request.offset <= agreement.byteCount - request.length
  }

  private func flagsRefusal(_ command: Command, _ flags: CommandFlags) -> Verdict? {
    var allowed: CommandFlags = agreement.flags.contains(.sendFUA) ? .fua : []
    switch command {
    case .read: if agreement.flags.contains(.sendDF) { allowed.insert(.dontFragment) }
    case .write:
      // It may be left out: see ``Request/payloadByteCount(_:)``.
      if agreement.style == .extended { allowed.insert(.payloadLength) }
    case .writeZeroes:
      allowed.insert(.noHole)
      if agreement.flags.contains(.sendFastZero) { allowed.insert(.fastZero) }
    case .blockStatus:
      allowed.insert(.reqOne)
      if agreement.flags.contains(.blockStatusPayload) { allowed.insert(.payloadLength) }
    case .disconnect, .flush, .trim, .cache: break
    }
    return flags.isSubset(of: allowed) ? nil : refuse(.invalid, "flags that this command doesn't have here")
  }

  private func isAdvertised(_ command: Command) -> Bool {
    switch command {
    case .read, .write, .disconnect: true
    case .flush: agreement.flags.contains(.sendFlush)
    case .trim: agreement.flags.contains(.sendTrim)
    case .cache: agreement.flags.contains(.sendCache)
    case .writeZeroes: agreement.flags.contains(.sendWriteZeroes)
    case .blockStatus: agreement.style != .simple && !agreement.contexts.isEmpty
    }
  }

  private func refuse(_ error: WireError, _ text: String) -> Verdict { .refuse(error, StaticText(text: text)) }
}

extension Command {
  /// True if a read-only export refuses it.
  package var changesBytes: Bool { self == .write || self == .trim || self == .writeZeroes }
}
