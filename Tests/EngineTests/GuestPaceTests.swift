import Engine
import Locks
import NBD
import Testing

/// A copy beside a guest whose requests take the longer the faster the copy goes.
@Suite struct GuestPaceTests {
  /// Of requests that were answered; their time is told by the test.
  private final class Guest: Sendable {
    private let histogram = Lock(LatencyHistogram())
    let slowed = Lock<Double?>(nil)

    var total: LatencyHistogram { histogram.withLock { $0 } }

    func answer(_ count: Int, microseconds: Double) {
      histogram.withLock { for _ in 0..<count { $0.record(nanoseconds: UInt64(microseconds * 1000)) } }
    }
  }

  private static let chunk: UInt64 = 1 << 20

  private func pace(_ limit: GuestPace.Limit, _ guest: Guest) -> GuestPace {
    GuestPace(limit, now: 0, total: { guest.total }) { microseconds in guest.slowed.withLock { $0 = microseconds } }
  }

  /// Copies for so many seconds of the test's own clock, at a thousand requests a second.
  /// - Parameter latency: of a request, at so many bytes a second of the copy.
  /// - Returns: bytes a second over the last quarter of the time.
  private func run(
    _ pace: inout GuestPace, beside guest: Guest, seconds: Double, requests: Int = 1000, speedLimit: UInt64 = 0,
    latency: (Double) -> Double
  ) -> Double {
    var now = 0.0
    var answered = 0.0
    var passed: [(time: Double, count: UInt64)] = []
    while now < seconds {
      var step = pace.delay(limit: speedLimit, now: now)
      if step == 0 {
        pace.begin(byteCount: Self.chunk, now: now)
        pace.complete(byteCount: Self.chunk, now: now)
        passed.append((now, Self.chunk))
        // The source gives no more than 500 MB in a second.
        step = Double(Self.chunk) / 500e6
      }
      now += min(step, 0.01)
      let due = now * Double(requests) - answered
      guard due >= 1 else { continue }
      let recent = passed.suffix(256).filter { $0.time > now - 0.1 }.reduce(0) { $0 + Double($1.count) } / 0.1
      guest.answer(Int(due), microseconds: latency(recent))
      answered += Double(Int(due))
    }
    return passed.filter { $0.time > seconds * 0.75 }.reduce(0) { $0 + Double($1.count) } / (seconds * 0.25)
  }

  @Test func theCopyIsAsFastAsTheGuestBears() {
    let guest = Guest()
    var pace = pace(.microseconds(1000), guest)
    // Up to 100 MB a second costs nothing.
    let speed = run(&pace, beside: guest, seconds: 60) { $0 > 100e6 ? 5000 : 100 }
    #expect((25e6...130e6).contains(speed), "\(speed)")
    #expect(guest.slowed.withLock { $0 } == 1000)
  }

  @Test func aGuestThatIsSlowByItselfDoesntStopTheCopy() {
    let guest = Guest()
    var pace = pace(.microseconds(10), guest)
    let speed = run(&pace, beside: guest, seconds: 60) { _ in 5000 }
    #expect((0.8e6...3e6).contains(speed), "\(speed)")
    #expect(pace.depth == 1)
  }

  @Test(arguments: [0, 1000])
  func aGuestThatRestsOrIsFastLetsItGo(requests: Int) {
    let guest = Guest()
    var pace = pace(.microseconds(1000), guest)
    let speed = run(&pace, beside: guest, seconds: 60, requests: requests) { _ in 100 }
    #expect(speed > 100e6, "\(speed)")
    #expect(guest.slowed.withLock { $0 } == nil)
  }

  @Test func theJobsOwnLimitHoldsBesideIt() {
    let guest = Guest()
    var pace = pace(.microseconds(1000), guest)
    let speed = run(&pace, beside: guest, seconds: 30, speedLimit: 8_000_000) { _ in 100 }
    #expect((6e6...9e6).contains(speed), "\(speed)")
  }

  /// By those before the moment where they were enough, else by the first ones seen.
  @Test(arguments: [0, 500])
  func percentCountFromWhatWasBefore(requestCount: Int) {
    let guest = Guest()
    guest.answer(requestCount, microseconds: 200)
    var pace = pace(.times(2, before: guest.total), guest)
    var isFirst = true
    _ = run(&pace, beside: guest, seconds: 20) { speed in
      defer { isFirst = false }
      return isFirst || speed < 20e6 ? 200 : 900
    }
    let limit = guest.slowed.withLock { $0 } ?? 0
    #expect((400...500).contains(limit) || requestCount == 0 && limit <= 2500, "\(limit)")
  }

  @Test func histogramsAreSubtractedAndCounted() {
    let guest = Guest()
    guest.answer(10, microseconds: 100)
    let before = guest.total
    guest.answer(5, microseconds: 4000)
    let recent = guest.total.subtracting(before)
    #expect(recent.count == 5 && recent.count(above: 1000) == 5 && recent.count(above: 5000) == 0)
    #expect(before.subtracting(guest.total).count == 0)
  }
}
