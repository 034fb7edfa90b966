import Bytes
import Foundation
import Model

/// What keeps a JSON document of a repository from being used, as the end of a sentence about it.
package struct DocumentDamage: Error, Hashable, Sendable {
  package let text: String

  package init(_ text: String) { self.text = text }
}

/// A JSON document that says which version it has and guards itself with a checksum.
///
/// The file is pretty-printed JSON. Its member `checksum` holds the SHA-256, in lower-case hexadecimal, of the whole
/// file with these 64 digits replaced by zeros, so that any JSON tool reads it and `sed` and `sha256sum` check it.
/// A member that is missing is an error. One that isn't known is ignored, at any depth, so that later versions can add
/// some; what older versions would misread needs a new format version.
package protocol CheckedDocument: Codable, Hashable, Sendable {
  static var currentFormatVersion: Int { get }
  var formatVersion: Int { get }
  var checksum: String { get set }
}

package enum CheckedDocumentCodec {
  /// The longest document that is read.
  package static let maximumByteCount = 65536

  private static let blank = String(repeating: "0", count: 2 * Digest.byteCount)

  /// The file's bytes; the document's own `checksum` is of no matter.
  package static func encode<Document: CheckedDocument>(_ document: Document) throws -> [UInt8] {
    var document = document
    document.checksum = blank
    let unchecked = try encoder.encode(document)
    document.checksum = Digest(of: [UInt8](unchecked).span.bytes).description
    return [UInt8](try encoder.encode(document))
  }

  package static func decode<Document: CheckedDocument>(
    _ type: Document.Type, from bytes: [UInt8]
  ) throws(DocumentDamage) -> Document {
    let document = try parse(type, bytes)
    let text = String(decoding: bytes, as: UTF8.self)
    let parts = text.components(separatedBy: "\"\(document.checksum)\"")
    guard parts.count == 2 else { throw DocumentDamage("its checksum is missing or stands there twice") }
    let unchecked = Array(parts.joined(separator: "\"\(blank)\"").utf8)
    guard Digest(of: unchecked.span.bytes).description == document.checksum else {
      throw DocumentDamage("it doesn't match its checksum")
    }
    return document
  }

  private struct Version: Decodable { var formatVersion: Int }

  private static func parse<Document: CheckedDocument>(
    _ type: Document.Type, _ bytes: [UInt8]
  ) throws(DocumentDamage) -> Document {
    let data = Data(bytes)
    do {
      let version = try decoder.decode(Version.self, from: data).formatVersion
      guard version == Document.currentFormatVersion else {
        throw DocumentDamage("its format version is \(version), not \(Document.currentFormatVersion)")
      }
      return try decoder.decode(type, from: data)
    } catch let error as DocumentDamage {
      throw error
    } catch let error as DecodingError {
      throw DocumentDamage(describe(error))
    } catch {
      throw DocumentDamage("it can't be read: \(error)")
    }
  }

  private static func describe(_ error: DecodingError) -> String {
    func place(_ context: DecodingError.Context) -> String {
      let path = context.codingPath.map(\.stringValue).joined(separator: ".")
      return path.isEmpty ? "" : " at '\(path)'"
    }
    return switch error {
    case .keyNotFound(let key, let context): "its member '\(key.stringValue)' is missing\(place(context))"
    case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
      "it isn't as it should be\(place(context)): \(context.debugDescription)"
    @unknown default: "it can't be read: \(error)"
    }
  }

  private static var encoder: JSONEncoder {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
    encoder.dateEncodingStrategy = .custom { date, encoder in
      var container = encoder.singleValueContainer()
      try container.encode(Timestamp.text(of: date))
    }
    return encoder
  }

  private static var decoder: JSONDecoder {
    let decoder = JSONDecoder()
    decoder.dateDecodingStrategy = .custom { decoder in
      let container = try decoder.singleValueContainer()
      guard let date = Timestamp.date(ofExact: try container.decode(String.self)) else {
        throw DecodingError.dataCorruptedError(in: container, debugDescription: "not a time in UTC to the millisecond")
      }
      return date
    }
    return decoder
  }
}
