/// How results are stored.
extension JobResult: Codable {
  private enum Member: String, CodingKey, CaseIterable {
    case backup, backups, chain, checkedBytes, disagreements, fleecing, image, outcome, repository, restores, target,
      verifiedBytes,
      virtualSize
  }

  package init(from decoder: any Decoder) throws {
    do {
      self = try Self.known(decoder)
    } catch is DecodingError {
      self = .other(try JSONValue(from: decoder))
    }
  }

  private static func known(_ decoder: any Decoder) throws -> JobResult {
    let members = Set(try decoder.container(keyedBy: Member.self).allKeys)
    if members.contains(.fleecing) {
      return members.contains(.outcome)
        ? .finishedFleecing(try FinishedFleecing(from: decoder)) : .fleeced(try Fleeced(from: decoder))
    }
    if members.contains(.chain) { return .verifiedChain(try VerifiedChain(from: decoder)) }
    if members.contains(.disagreements) { return .reconciled(try Reconciled(from: decoder)) }
    if members.contains(.restores) { return .restoredGroup(try RestoredGroup(from: decoder)) }
    if members.contains(.backups) { return .backedUp(try BackedUp(from: decoder)) }
    if members.contains(.verifiedBytes) { return .verified(try Verified(from: decoder)) }
    if members.contains(.target) { return .restored(try Restored(from: decoder)) }
    if members.contains(.repository) { return .rescanned(try Rescanned(from: decoder)) }
    if members.contains(.checkedBytes) { return .checked(try Checked(from: decoder)) }
    if members.contains(.backup) { return .deleted(try Deleted(from: decoder)) }
    if members.contains(.virtualSize) { return .attached(try Attached(from: decoder)) }
    return .detached(try Detached(from: decoder))
  }

  package func encode(to encoder: any Encoder) throws {
    switch self {
    case .backedUp(let result): try result.encode(to: encoder)
    case .verified(let result): try result.encode(to: encoder)
    case .restored(let result): try result.encode(to: encoder)
    case .deleted(let result): try result.encode(to: encoder)
    case .rescanned(let result): try result.encode(to: encoder)
    case .checked(let result): try result.encode(to: encoder)
    case .attached(let result): try result.encode(to: encoder)
    case .detached(let result): try result.encode(to: encoder)
    case .verifiedChain(let result): try result.encode(to: encoder)
    case .restoredGroup(let result): try result.encode(to: encoder)
    case .reconciled(let result): try result.encode(to: encoder)
    case .fleeced(let result): try result.encode(to: encoder)
    case .finishedFleecing(let result): try result.encode(to: encoder)
    case .other(let value): try value.encode(to: encoder)
    }
  }
}

extension JobResult.Restored.Target: Codable {
  private enum Kind: String, Codable { case file, image, nbd }

  private enum Member: String, CodingKey {
    case kind, path, format, image, imageName, uri, targetIsZero
  }

  package init(from decoder: any Decoder) throws {
    let members = try decoder.container(keyedBy: Member.self)
    switch try members.decode(Kind.self, forKey: .kind) {
    case .file:
      self = .file(
        path: try members.decode(String.self, forKey: .path),
        format: try members.decode(DiskFormat.self, forKey: .format))
    case .image:
      self = .image(
        try members.decode(ImageID.self, forKey: .image),
        name: try members.decode(ResourceName.self, forKey: .imageName))
    case .nbd:
      self = .nbd(
        uri: try members.decode(String.self, forKey: .uri),
        targetIsZero: try members.decode(Bool.self, forKey: .targetIsZero))
    }
  }

  package func encode(to encoder: any Encoder) throws {
    var members = encoder.container(keyedBy: Member.self)
    switch self {
    case .file(let path, let format):
      try members.encode(Kind.file, forKey: .kind)
      try members.encode(path, forKey: .path)
      try members.encode(format, forKey: .format)
    case .image(let image, let name):
      try members.encode(Kind.image, forKey: .kind)
      try members.encode(image, forKey: .image)
      try members.encode(name, forKey: .imageName)
    case .nbd(let uri, let targetIsZero):
      try members.encode(Kind.nbd, forKey: .kind)
      try members.encode(uri, forKey: .uri)
      try members.encode(targetIsZero, forKey: .targetIsZero)
    }
  }
}
