import BlockCore
import Failures
import Model
import Repositories

/// Compares what is read of a backup with its hash tree. One call at a time.
final class HashComparison {
  /// A stretch of the guest's bytes that isn't what was backed up.
  struct Difference: Hashable {
    var range: ByteRange
    var text: String
  }

  private let reader: HashTreeReader
  private let dataName: String
  let hashesName: String

  init(_ reader: HashTreeReader, dataName: String, hashesName: String) {
    self.reader = reader
    self.dataName = dataName
    self.hashesName = hashesName
  }

  /// What of the chunk differs, neighbours joined; empty if all of it is as it was.
  /// - Throws: where the hashes can't be read; `backupCorrupt` where they are damaged themselves.
  nonisolated(nonsending)
    func differences(in chunk: Chunk) async throws -> [Difference]
  {
    do throws(HashTreeReader.Failure) {
      var found: [Difference] = []
      switch chunk.step.action {
      case .skip: break
      case .zero:
        var next = chunk.leafRange.lowerBound
        while let leaf = try await reader.firstDataLeaf(in: next..<chunk.leafRange.upperBound) {
          add(leaf, "reads as zeroes, which isn't what was backed up", to: &found)
          next = leaf + 1
        }
      case .copy:
        let expected = try await reader.leaves(chunk.leafRange)
        let unreadable = Dictionary(
          chunk.damages.map { (chunk.geometry.leaves(of: $0.range).lowerBound, $0.text) }
        ) { first, _ in first }
        for (index, leaf) in chunk.leafRange.enumerated() {
          if let text = unreadable[leaf] {
            add(leaf, text, to: &found)
          } else if chunk.leaves[index] != expected[index] {
            add(leaf, "doesn't match its hash", to: &found)
          }
        }
      }
      return found
    } catch {
      throw DomainError(error, of: hashesName)
    }
  }

  /// A sentence on a difference.
  func describe(_ difference: Difference) -> String {
    "\(dataName): the guest's bytes \(difference.range): \(difference.text)"
  }

  private func add(_ leaf: UInt64, _ text: String, to found: inout [Difference]) {
    let range = ByteRange(reader.tree.grain(leaf))
    if let last = found.last, last.range.end == range.offset, last.text == text {
      found[found.count - 1].range.length += range.length
    } else {
      found.append(Difference(range: range, text: text))
    }
  }
}

extension StoredBackup {
  func comparison(_ hashes: HashTreeReader) -> HashComparison {
    HashComparison(hashes, dataName: dataName, hashesName: hashesName)
  }
}
