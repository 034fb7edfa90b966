import Foundation
import Model
import Testing

@Suite struct TimestampTests {
  @Test func timesAreUTCWithMilliseconds() {
    #expect(Timestamp.text(of: Date(timeIntervalSince1970: 0)) == "1970-01-01T00:00:00.000Z")
    #expect(Timestamp.text(of: Date(timeIntervalSince1970: 951_826_089.1204)) == "2000-02-29T12:08:09.120Z")
    #expect(Timestamp.text(of: Date(timeIntervalSince1970: -0.001)) == "1969-12-31T23:59:59.999Z")
    #expect(Timestamp.text(of: Date.distantFuture.addingTimeInterval(1e15)) == "9999-12-31T23:59:59.999Z")
  }

  /// From 1906 to 2160, in steps that meet every time of day.
  @Test func everyDayIsTheOneThatFoundationNames() {
    let formatter = ISO8601DateFormatter()
    formatter.formatOptions = [.withInternetDateTime, .withFractionalSeconds]
    for seconds in stride(from: -2_000_000_000.0, to: 6_000_000_000, by: 3_456_789) {
      let date = Date(timeIntervalSince1970: seconds)
      #expect(Timestamp.text(of: date) == formatter.string(from: date))
    }
  }

  @Test func aTimeIsReadInEachFormOfRFC3339() {
    let time = Date(timeIntervalSince1970: 951_826_089)
    for text in ["2000-02-29T12:08:09Z", "2000-02-29T12:08:09.000Z", "2000-02-29T13:08:09+01:00"] {
      #expect(Timestamp.date(of: text) == time, "\(text)")
    }
    for text in [
      "", "2000-02-29", "2000-02-29 12:08:09Z", "2000-02-30T12:08:09Z", "2001-02-29T12:08:09Z", "2000-13-01T12:08:09Z",
      "2000-02-29T25:08:09Z", "2000-02-29T12:60:09Z", "now",
    ] {
      #expect(Timestamp.date(of: text) == nil, "\(text)")
    }
  }

  @Test func onlyTheExactFormIsReadFromDocuments() {
    for milliseconds in [0, 1, 999, 951_826_089_120, 1_767_225_599_999] {
      let date = Timestamp.rounded(Date(timeIntervalSince1970: Double(milliseconds) / 1000))
      #expect(Timestamp.date(ofExact: Timestamp.text(of: date)) == date)
    }
    for text in [
      "2000-02-29T12:08:09Z", "2000-02-29T13:08:09.120+01:00", "2000-02-29T12:08:09.12Z", "2000-02-29T12:08:09.1200Z",
      "2000-02-30T12:08:09.120Z", "2000-02-29t12:08:09.120z",
    ] {
      #expect(Timestamp.date(ofExact: text) == nil, "\(text)")
    }
  }
}
