import BlockTesting
import Locks

/// Objects under keys, in memory: no folders, no renames, nothing that is open; each call is one step.
package final class ObjectStore: Sendable {
  package enum Object: Sendable {
    case bytes([UInt8])
    case image(SparseImage)
  }

  private let objects = Lock<[String: Object]>([:])

  package init() {}

  package func object(_ key: String) -> Object? { objects.withLock { $0[key] } }

  package func bytes(_ key: String) -> [UInt8]? {
    guard case .bytes(let bytes) = object(key) else { return nil }
    return bytes
  }

  package func put(_ object: Object, at key: String) { objects.withLock { $0[key] = object } }

  /// False, and nothing done, if the key is taken.
  package func putIfAbsent(_ object: Object, at key: String) -> Bool {
    objects.withLock { objects in
      if objects[key] != nil { return false }
      objects[key] = object
      return true
    }
  }

  /// Puts what `change` makes of the object; nil leaves it as it is. Returns whether it did.
  package func replace(_ key: String, _ change: (Object?) -> Object?) -> Bool {
    objects.withLock { objects in
      guard let changed = change(objects[key]) else { return false }
      objects[key] = changed
      return true
    }
  }

  /// True if it was there.
  @discardableResult
  package func remove(_ key: String) -> Bool { objects.withLock { $0.removeValue(forKey: key) != nil } }

  /// In order.
  package func keys(_ prefix: String) -> [String] {
    objects.withLock { objects in objects.keys.filter { $0.hasPrefix(prefix) }.sorted() }
  }
}
