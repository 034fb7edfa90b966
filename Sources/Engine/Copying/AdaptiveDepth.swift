/// How many chunks to have in flight, found by trying: a step up must pay, a step down must cost nothing.
///
/// A pure value: it is told the time.
package struct AdaptiveDepth {
  package static let minimum = 1
  package static let maximum = 16
  private static let start = 8
  /// Chunks that one judgement is made of, for each in flight.
  private static let chunksPerDepth = 4
  /// The shortest time of one judgement, in seconds: less tells noise from noise.
  private static let shortestWindow = 0.2
  /// Windows to stay after a step that didn't pay.
  private static let restWindows = 8

  /// Chunks that may be in flight now.
  package private(set) var depth = Self.start
  private var previousDepth = Self.start
  private var previousRate: Double?
  private var isRising = true
  private var restLeft = 0
  private var windowBytes: UInt64 = 0
  private var windowChunks = 0
  private var windowStart: Double

  /// - Parameter now: seconds on any steady clock.
  package init(now: Double) { windowStart = now }

  /// A chunk of `byteCount` bytes is done.
  package mutating func completed(byteCount: UInt64, now: Double) {
    windowBytes += byteCount
    windowChunks += 1
    guard windowChunks >= Self.chunksPerDepth * depth, now - windowStart >= Self.shortestWindow else { return }
    let rate = Double(windowBytes) / max(now - windowStart, 1e-6)
    windowBytes = 0
    windowChunks = 0
    windowStart = now
    judge(rate)
  }

  private mutating func judge(_ rate: Double) {
    if restLeft > 0 {
      restLeft -= 1
      previousRate = rate
      if restLeft == 0 { step() }
      return
    }
    guard let before = previousRate else {
      previousRate = rate
      step()
      return
    }
    let paid = depth > previousDepth ? rate > before * 1.05 : rate > before * 0.98
    if paid, depth != previousDepth {
      previousRate = rate
      step()
    } else {
      depth = previousDepth
      isRising.toggle()
      restLeft = Self.restWindows
    }
  }

  private mutating func step() {
    previousDepth = depth
    depth = isRising ? min(Self.maximum, depth * 2) : max(Self.minimum, depth / 2)
  }
}
