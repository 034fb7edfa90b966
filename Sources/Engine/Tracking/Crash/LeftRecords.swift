import Bytes
import Descriptors
import EventLoops
import Foundation

/// A record of an image's changes in the state folder, whether or not it counts.
struct LeftRecord: Sendable {
  let id: UInt128
  /// Of its sidecars.
  var sequences: Set<UInt64>
}

extension CrashRecords {
  /// Names that the state folder may hold: what has more isn't looked through.
  private static let nameLimit = 100_000

  /// The records that say that they are of that file. It isn't open to be written, so that none of them is in use.
  nonisolated(nonsending)
    func records(of image: Sidecar.FileNumber, on loop: EventLoop) async throws(SystemError) -> [LeftRecord]
  {
    let path = configuration.stateFolder
    return try await loop.blocking(in: .folder(path)) { () throws(SystemError) in
      let folder: Folder
      do throws(SystemError) { folder = try Folder(path: path) } catch {
        guard error.code == ENOENT else { throw error }
        return []
      }
      var records: [UInt128: Set<UInt64>] = [:]
      for entry in try folder.entries(limit: Self.nameLimit) where entry.kind == .file {
        guard let name = Sidecar.Name(entry.name), let file = try? folder.openFile(entry.name, Folder.FileOptions()),
          Sidecar.head(in: file)?.image == image
        else { continue }
        records[name.record, default: []].insert(name.sequence)
      }
      return records.map { LeftRecord(id: $0, sequences: $1) }
    }
  }
}

extension Sidecar {
  /// What the file of a sidecar is called: 32 hexadecimal digits, a dot, and the sequence.
  struct Name {
    let record: UInt128
    let sequence: UInt64

    init?(_ text: String) {
      let parts = text.split(separator: ".", omittingEmptySubsequences: false)
      guard parts.count == 2, parts[0].utf8.count == 32, let record = UInt128(parts[0], radix: 16),
        let sequence = UInt64(parts[1])
      else { return nil }
      self.record = record
      self.sequence = sequence
    }
  }

  /// A head takes no more than names of bitmaps and numbers of pages do.
  private static let maximumHeadByteCount = 4 << 20

  /// The head alone, of a sidecar that may be torn behind it. Blocks.
  fileprivate static func head(in file: FileDescriptor) -> Head? {
    guard let length = file.readHere(8).map({ $0.span.bytes.bigEndian(UInt64.self, at: 0) }),
      length <= UInt64(maximumHeadByteCount), let bytes = file.readHere(8 + Int(length))
    else { return nil }
    return try? JSONDecoder().decode(Head.self, from: Data(bytes[8...]))
  }
}
