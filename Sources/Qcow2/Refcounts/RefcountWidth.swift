import Bytes

/// Reads and writes the entries of a refcount block, 1 to 64 bits wide (qcow2.txt, "Host cluster management").
struct RefcountWidth: Hashable, Sendable {
  /// Width = 2^order bits.
  let order: Int

  var bits: Int { 1 << order }
  /// The largest count an entry can hold.
  var maximum: UInt64 { order == 6 ? .max : (1 << UInt64(bits)) - 1 }

  /// Entries that `byteCount` bytes of a block hold.
  func entryCount(in byteCount: UInt64) -> UInt64 { byteCount * 8 / UInt64(bits) }

  /// Entry `index` of the slice's entries.
  func count(in slice: TableSlice, at index: Int) -> UInt64 {
    switch order {
    case 0, 1, 2:
      // Several entries share a byte, the first in the lowest bits.
      let byte: UInt8 = slice.entry(at: index * bits / 8)
      return UInt64(byte >> UInt8(index * bits % 8)) & maximum
    case 3: return UInt64(slice.entry(UInt8.self, at: index))
    case 4: return UInt64(slice.entry(UInt16.self, at: index * 2))
    case 5: return UInt64(slice.entry(UInt32.self, at: index * 4))
    default: return slice.entry(UInt64.self, at: index * 8)
    }
  }

  /// Entry `index` of the bytes of a block that isn't in the cache.
  func count(in block: [UInt8], at index: Int) -> UInt64 {
    let bytes = block.span.bytes
    switch order {
    case 0, 1, 2: return UInt64(block[index * bits / 8] >> UInt8(index * bits % 8)) & maximum
    case 3: return UInt64(block[index])
    case 4: return UInt64(bytes.bigEndian(UInt16.self, at: index * 2))
    case 5: return UInt64(bytes.bigEndian(UInt32.self, at: index * 4))
    default: return bytes.bigEndian(at: index * 8)
    }
  }

  /// Sets entry `index`; `value` is at most `maximum`.
  func store(_ value: UInt64, in slice: TableSlice, of cache: TableCache, at index: Int) {
    switch order {
    case 0, 1, 2:
      let position = index * bits / 8
      let shift = UInt8(index * bits % 8)
      let byte: UInt8 = slice.entry(at: position)
      cache.store(byte & ~(UInt8(maximum) << shift) | UInt8(value) << shift, in: slice, at: position)
    case 3: cache.store(UInt8(truncatingIfNeeded: value), in: slice, at: index)
    case 4: cache.store(UInt16(truncatingIfNeeded: value), in: slice, at: index * 2)
    case 5: cache.store(UInt32(truncatingIfNeeded: value), in: slice, at: index * 4)
    default: cache.store(value, in: slice, at: index * 8)
    }
  }

  /// Sets entry `index` in the bytes of a block that isn't in the cache.
  func store(_ value: UInt64, in block: inout MutableRawSpan, at index: Int) {
    switch order {
    case 0, 1, 2:
      let position = index * bits / 8
      let shift = UInt8(index * bits % 8)
      let byte = block.unsafeLoad(fromByteOffset: position, as: UInt8.self)
      block.store(bigEndian: byte & ~(UInt8(maximum) << shift) | UInt8(value) << shift, at: position)
    case 3: block.store(bigEndian: UInt8(truncatingIfNeeded: value), at: index)
    case 4: block.store(bigEndian: UInt16(truncatingIfNeeded: value), at: index * 2)
    case 5: block.store(bigEndian: UInt32(truncatingIfNeeded: value), at: index * 4)
    default: block.store(bigEndian: value, at: index * 8)
    }
  }
}
