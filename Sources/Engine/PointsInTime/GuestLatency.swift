import Model
import NBD

/// How long the requests of an image's guest take, from their arrival at an export to the answer, before a moment and after
/// it.
struct GuestLatency: Sendable {
  /// Of all that the image's exports have answered so far.
  let total: @Sendable () -> LatencyHistogram
  /// Of those between the end of the last point in time, or the image's opening, and the moment.
  private(set) var before = LatencyHistogram()
  private var atMoment = LatencyHistogram()

  init(_ total: @escaping @Sendable () -> LatencyHistogram) { self.total = total }

  /// - Parameter mark: what was answered by the end of the last point in time.
  mutating func momentHasCome(since mark: LatencyHistogram) {
    atMoment = total()
    before = atMoment.subtracting(mark)
  }

  /// Of those since the moment.
  var during: LatencyHistogram { total().subtracting(atMoment) }
}

extension ServedExports {
  /// Of all reads and writes that the exports of an attached image have answered.
  func latency(of image: ImageID) -> LatencyHistogram {
    figures(ofImage: image).reduce(into: LatencyHistogram()) { sum, figures in
      for kind in [ExportFigures.Kind.read, .write] { sum.add(figures[kind].latency) }
    }
  }
}

extension GuestImpact.Latency {
  /// Nil if there was no request.
  init?(_ histogram: LatencyHistogram) {
    guard let half = histogram.microseconds(share: 0.5), let most = histogram.microseconds(share: 0.99) else {
      return nil
    }
    self.init(
      count: histogram.count, p50Microseconds: UInt64(half.rounded(.up)), p99Microseconds: UInt64(most.rounded(.up)))
  }
}
