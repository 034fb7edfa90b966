/// The id of one `Entity`: a ULID that can't be mistaken for the id of something else.
package struct Identifier<Entity>: Hashable, Sendable {
  package let ulid: ULID

  package init(_ ulid: ULID = ULID()) { self.ulid = ulid }

  /// Reads the text form; nil if it isn't a ULID.
  package init?(_ text: some StringProtocol) {
    guard let ulid = ULID(text) else { return nil }
    self.ulid = ulid
  }
}

extension Identifier: CustomStringConvertible {
  package var description: String { ulid.description }
}

extension Identifier: Comparable {
  package static func < (left: Self, right: Self) -> Bool { left.ulid < right.ulid }
}

extension Identifier: Codable {
  package init(from decoder: any Decoder) throws { self.init(try ULID(from: decoder)) }
  package func encode(to encoder: any Encoder) throws { try ulid.encode(to: encoder) }
}

package typealias ImageID = Identifier<Image>
package typealias RepositoryID = Identifier<Repository>
package typealias ChainID = Identifier<Chain>
package typealias BackupID = Identifier<Backup>
package typealias JobID = Identifier<Job>
package typealias ExportID = Identifier<Export>
package typealias FleecingID = Identifier<Fleecing>
