/// What the server offers in its greeting (proto.md, “Handshake flags”).
package struct HandshakeFlags: OptionSet, Hashable, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static let fixedNewstyle = HandshakeFlags(rawValue: 1)
  package static let noZeroes = HandshakeFlags(rawValue: 2)
}

/// What the client answers to the greeting (proto.md, “Client flags”).
package struct ClientFlags: OptionSet, Hashable, Sendable {
  package let rawValue: UInt32
  package init(rawValue: UInt32) { self.rawValue = rawValue }
  package static let fixedNewstyle = ClientFlags(rawValue: 1)
  package static let noZeroes = ClientFlags(rawValue: 2)
}

/// What an export can do (proto.md, “Transmission flags”).
package struct TransmissionFlags: OptionSet, Hashable, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static let hasFlags = TransmissionFlags(rawValue: 1 << 0)
  package static let readOnly = TransmissionFlags(rawValue: 1 << 1)
  package static let sendFlush = TransmissionFlags(rawValue: 1 << 2)
  package static let sendFUA = TransmissionFlags(rawValue: 1 << 3)
  package static let rotational = TransmissionFlags(rawValue: 1 << 4)
  package static let sendTrim = TransmissionFlags(rawValue: 1 << 5)
  package static let sendWriteZeroes = TransmissionFlags(rawValue: 1 << 6)
  package static let sendDF = TransmissionFlags(rawValue: 1 << 7)
  package static let canMultiConn = TransmissionFlags(rawValue: 1 << 8)
  package static let sendCache = TransmissionFlags(rawValue: 1 << 10)
  package static let sendFastZero = TransmissionFlags(rawValue: 1 << 11)
  package static let blockStatusPayload = TransmissionFlags(rawValue: 1 << 12)
}

/// How a request is meant (proto.md, “Command flags”).
package struct CommandFlags: OptionSet, Hashable, Sendable {
  package let rawValue: UInt16
  package init(rawValue: UInt16) { self.rawValue = rawValue }
  package static let fua = CommandFlags(rawValue: 1 << 0)
  package static let noHole = CommandFlags(rawValue: 1 << 1)
  package static let dontFragment = CommandFlags(rawValue: 1 << 2)
  package static let reqOne = CommandFlags(rawValue: 1 << 3)
  package static let fastZero = CommandFlags(rawValue: 1 << 4)
  package static let payloadLength = CommandFlags(rawValue: 1 << 5)
}

/// Flags of `base:allocation` (proto.md, “`base:allocation` metadata context”).
package struct AllocationState: OptionSet, Hashable, Sendable {
  package let rawValue: UInt64
  package init(rawValue: UInt64) { self.rawValue = rawValue }
  package static let hole = AllocationState(rawValue: 1)
  package static let zero = AllocationState(rawValue: 2)
}
