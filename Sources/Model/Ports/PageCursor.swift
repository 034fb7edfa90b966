import Foundation

/// The lists that come in pages. A cursor names its list, so that it is of no use in another one.
package enum PagedList: String, Sendable, CaseIterable {
  case images, repositories, chains, backups, exports, fleecings, jobs, jobLog, bitmaps
}

/// The text form of "behind this item", opaque to clients: base64url of the list and the last key.
package enum PageCursor {
  package static func text(_ list: PagedList, after key: some CustomStringConvertible) -> String {
    Data("\(list.rawValue):\(key)".utf8).base64EncodedString()
      .replacing("+", with: "-").replacing("/", with: "_").replacing("=", with: "")
  }

  /// The key in `text`; nil if it isn't a cursor of this list exactly as ``text(_:after:)`` writes it.
  package static func key(in text: String, of list: PagedList) -> String? {
    let unpadded = text.replacing("-", with: "+").replacing("_", with: "/")
    let padded = unpadded + String(repeating: "=", count: (4 - unpadded.utf8.count % 4) % 4)
    guard let bytes = Data(base64Encoded: padded) else { return nil }
    let decoded = String(decoding: bytes, as: UTF8.self)
    let prefix = "\(list.rawValue):"
    guard decoded.hasPrefix(prefix) else { return nil }
    let key = String(decoded.dropFirst(prefix.count))
    return self.text(list, after: key) == text ? key : nil
  }
}

extension PageRequest {
  /// The most items that a page holds. More is never wanted by one reader, and each page is one read of the catalog.
  package static let maximumLimit = 1000

  /// `limit`, brought into 1…``maximumLimit``.
  package var boundedLimit: Int { min(max(limit, 1), Self.maximumLimit) }

  /// The id behind which the page starts, in a list that is ordered by id; nil at the start.
  package func id<Entity>(
    _ type: Entity.Type, in list: PagedList
  ) throws(DomainError) -> Identifier<Entity>? {
    guard let after else { return nil }
    guard let key = PageCursor.key(in: after, of: list), let id = Identifier<Entity>(key) else {
      throw Self.foreignCursor(after)
    }
    return id
  }

  /// The number behind which the page starts, in a list that is ordered by a number; nil at the start.
  package func number(in list: PagedList) throws(DomainError) -> Int? {
    guard let after else { return nil }
    guard let key = PageCursor.key(in: after, of: list), let number = Int(key) else {
      throw Self.foreignCursor(after)
    }
    return number
  }

  package static func foreignCursor(_ text: String) -> DomainError {
    DomainError(
      .invalidParameter, "the cursor '\(text.prefix(100))' wasn't given by a page of this list",
      remedy: "send the nextCursor of the page before, or none to start anew")
  }
}
