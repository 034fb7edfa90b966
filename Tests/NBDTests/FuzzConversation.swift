import BlockTesting
import Foundation
import Glibc

/// What a client sends from its first byte to its last, sound at first and then changed.
enum FuzzConversation {
  private static let names = ["disk", "readonly", "aligned", "waiting", "file", "secret", "", "nowhere"]
  private static let contexts = [
    "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:even", "base:", "qemu:", "x:y", "",
  ]

  /// A conversation that a server understands: options in any order, and requests in the style that was agreed on.
  static func make(_ random: inout SeededRandom) -> [UInt8] {
    let name = names[random.oneIn(4) ? random.below(names.count) : random.below(5)]
    var bytes = big(UInt32([3, 3, 3, 1, 0][random.below(5)]))
    var style = 0
    for _ in 0..<random.below(6) {
      switch random.below(8) {
      case 0: bytes += option(3)
      case 1: bytes += option(9, contextPayload(name, &random))
      case 2: bytes += option(10, contextPayload(name, &random))
      case 3: bytes += option(6, goPayload(name, &random))
      case 4:
        bytes += option(8)
        style = max(style, 1)
      case 5:
        bytes += option(11)
        style = 2
      case 6: bytes += option(UInt32(random.below(16)), random.bytes(random.below(60)))
      default: if random.oneIn(6) { bytes += option(5) + random.bytes(random.below(400)) }
      }
    }
    if style > 0 { bytes += option(10, contextPayload(name, &random)) }
    if style < 2, random.oneIn(5) {
      bytes += option(1, Array(name.utf8))
    } else {
      bytes += option(7, goPayload(name, &random))
    }
    for index in 0..<random.below(25) { bytes += request(style, UInt64(index), &random) }
    if random.oneIn(2) { bytes += header(style, type: 2, flags: 0, cookie: 99, offset: 0, length: 0) }
    return bytes
  }

  private static func option(_ code: UInt32, _ payload: [UInt8] = []) -> [UInt8] {
    Array("IHAVEOPT".utf8) + big(code) + big(UInt32(payload.count)) + payload
  }

  private static func goPayload(_ name: String, _ random: inout SeededRandom) -> [UInt8] {
    let asks = (0..<random.below(4)).map { _ in UInt16(random.below(5)) }
    return big(UInt32(name.utf8.count)) + Array(name.utf8) + big(UInt16(asks.count)) + asks.flatMap { big($0) }
  }

  private static func contextPayload(_ name: String, _ random: inout SeededRandom) -> [UInt8] {
    RawClient.contextPayload(name, (0..<random.below(4)).map { _ in contexts[random.below(contexts.count)] })
  }

  private static func header(
    _ style: Int, type: UInt16, flags: UInt16, cookie: UInt64, offset: UInt64, length: UInt64
  ) -> [UInt8] {
    big(UInt32(style == 2 ? 0x21e4_1c71 : 0x2560_9513)) + big(flags) + big(type) + big(cookie) + big(offset)
      + (style == 2 ? big(length) : big(UInt32(truncatingIfNeeded: length)))
  }

  private static func request(_ style: Int, _ cookie: UInt64, _ random: inout SeededRandom) -> [UInt8] {
    let unit = random.oneIn(2) ? 512 : 1
    let range = random.range(within: 1 << 20, alignment: unit, maximum: random.oneIn(8) ? 1 << 20 : 9000, near: 4096)
    let type = UInt16(random.oneIn(12) ? random.below(12) : [0, 0, 1, 1, 3, 4, 5, 6, 7][random.below(9)])
    var flags: UInt16 = random.oneIn(3) ? 1 << UInt16(random.below(6)) : 0
    let isFlush = type == 3
    var length = UInt64(isFlush ? 0 : range.count)
    var payload: [UInt8] = []
    if type == 1 {
      payload = random.bytes(range.count)
      if style == 2, !random.oneIn(4) { flags |= 32 }
    } else if type == 7, style == 2, random.oneIn(2) {
      payload = big(length) + (0..<random.below(4)).flatMap { _ in big(UInt32(random.below(4))) }
      length = UInt64(payload.count)
      flags |= 32
    }
    return header(
      style, type: type, flags: flags, cookie: cookie, offset: isFlush ? 0 : range.lowerBound, length: length) + payload
  }

  // MARK: Changes

  /// Changes a few places, perhaps cuts a piece out or puts one in, perhaps drops the end.
  static func mutate(_ bytes: inout [UInt8], _ random: inout SeededRandom) {
    for _ in 0..<random.below(5) where !bytes.isEmpty {
      let place = random.below(random.oneIn(2) ? min(bytes.count, 400) : bytes.count)
      switch random.below(8) {
      case 0: bytes.removeSubrange(place..<min(bytes.count, place + 1 + random.below(20)))
      case 1: bytes.insert(contentsOf: random.bytes(1 + random.below(20)), at: place)
      case 2:
        let piece = Array(bytes[place..<min(bytes.count, place + 1 + random.below(60))])
        bytes.insert(contentsOf: piece, at: random.below(bytes.count))
      default: mutateSome(&bytes, from: place, &random)
      }
    }
    if random.oneIn(5), !bytes.isEmpty { bytes.removeLast(random.below(bytes.count)) }
  }

  private static let words: [UInt32] = [0, 1, .max, 1 << 31, 32 << 20, (32 << 20) + 1, 65537, 4097]
  private static let longs: [UInt64] = [0, .max, 1 << 63, 1 << 20, (1 << 20) + 1, 1 << 32]

  /// Overwrites one place from `start` on, perhaps more, with numbers of a kind that hurt.
  static func mutateSome(_ bytes: inout [UInt8], from start: Int, _ random: inout SeededRandom) {
    for _ in 0...random.below(2) where start < bytes.count {
      let place = start + random.below(min(bytes.count - start, random.oneIn(2) ? 64 : .max))
      let value: [UInt8] =
        switch random.below(7) {
        case 0: [UInt8(random.below(256))]
        case 1: [bytes[place] ^ 1 << UInt8(random.below(8))]
        case 2: big(UInt16(random.below(20)))
        case 3: big(words[random.below(words.count)])
        case 4: big(longs[random.below(longs.count)])
        case 5: big(UInt64.max &- UInt64(random.below(5000)))
        default: random.bytes(1 + random.below(8))
        }
      for (index, byte) in value.enumerated() where place + index < bytes.count { bytes[place + index] = byte }
    }
  }

  // MARK: Delivery

  /// Sends everything in pieces, reading along, ends its side and reads on; false if the server doesn't come to an end.
  /// Now and then it just leaves, or never reads.
  static func deliver(
    _ bytes: [UInt8], to client: BlockingSocket, _ random: inout SeededRandom, seconds: Int
  ) -> Bool {
    _ = fcntl(client.descriptor, F_SETFL, O_NONBLOCK)
    let reads = !random.oneIn(12)
    let leavesAt = random.oneIn(8) ? random.below(bytes.count + 1) : Int.max
    var sent = 0
    var hasEnded = false
    var sink = [UInt8](repeating: 0, count: 65536)
    let end = Date().addingTimeInterval(TimeInterval(seconds))
    while Date() < end {
      if sent >= leavesAt { return true }
      var waits = Int16(reads ? POLLIN : 0)
      if sent < bytes.count {
        waits |= Int16(POLLOUT)
      } else if !hasEnded {
        hasEnded = true
        // Who never reads can only leave.
        if !reads { return true }
        client.end(SHUT_WR)
      }
      var entry = pollfd(fd: client.descriptor, events: waits, revents: 0)
      _ = poll(&entry, 1, reads ? 1000 : 50)
      if entry.revents == 0, !reads { return true }
      if entry.revents & Int16(POLLIN | POLLHUP | POLLERR) != 0 {
        let count = recv(client.descriptor, &sink, sink.count, 0)
        if count == 0 || (count < 0 && errno != EAGAIN) { return true }
      }
      if sent < bytes.count, entry.revents & Int16(POLLOUT) != 0 {
        let piece = min(bytes.count - sent, random.oneIn(2) ? 65536 : 1 + random.below(64))
        let count = bytes.withUnsafeBytes {
          send(client.descriptor, $0.baseAddress! + sent, piece, Int32(MSG_NOSIGNAL))
        }
        if count < 0, errno != EAGAIN { return true }
        sent += max(0, count)
      }
    }
    return false
  }
}
