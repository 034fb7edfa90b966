import Model
import ModelTesting
import Testing

@testable import RESTAPI

/// The preview of schedules over the wire.
@Suite struct SchedulePreviewTests {
  private let target = "\(World.api)/schedules/preview"

  @Test func aPreviewTellsRunsAndWhatTheyMean() async throws {
    try await withWorld { world in
      let reply = try await world.post(
        target,
        #"{"schedule":["2:30","0 2 * * *"],"timeZone":"Europe/Berlin","from":"2026-03-28T12:00:00.000Z","count":3}"#
      ).expect(200)
      #expect(
        reply.json["items"]?.items.map { $0["at"] } == [
          "2026-03-29T03:00:00+02:00", "2026-03-30T02:00:00+02:00", "2026-03-30T02:30:00+02:00",
        ])
      #expect(reply.json["items"]?.items[0]["atUTC"] == "2026-03-29T01:00:00.000Z")
      #expect(reply.json["items"]?.items[0]["shifted"]?.text?.contains("02:00") == true)
      #expect(reply.json["items"]?.items[1]["shifted"] == .null)
      #expect(reply.json["normalized"] == ["02:30", "02:00"])
      #expect(reply.json["inWords"] == ["every day at 02:30", "every day at 02:00"])
      #expect(reply["timeZone"] == "Europe/Berlin" && reply.header("ETag") == nil)
    }
  }

  /// Without zone, time and count: the server's zone, now, and a handful; a run at `from` itself counts.
  @Test func whatIsLeftOutHasADefault() async throws {
    try await withWorld { world in
      let reply = try await world.post(target, #"{"schedule":["*:*:0/1"]}"#).expect(200)
      #expect(reply["timeZone"] == "Europe/Berlin" && reply.json["items"]?.items.count == 10)
      let start = Timestamp.text(of: world.clock.now())
      #expect(reply.json["items"]?.items[0]["atUTC"]?.text?.prefix(19) == start.prefix(19))
      let server = try await world.get("\(World.api)/server").expect(200)
      #expect(server["timeZone"] == "Europe/Berlin")
    }
  }

  @Test func runsEndWithTheYearsThatASchedulesNames() async throws {
    try await withWorld { world in
      let reply = try await world.post(
        target, #"{"schedule":["2026-12-24"],"from":"2026-01-01T00:00:00Z","count":1000}"#
      ).expect(200)
      #expect(reply.json["items"]?.items.map { $0["at"] } == ["2026-12-24T00:00:00+01:00"])
    }
  }

  @Test(arguments: [
    (#"{}"#, 400, ProblemCode.invalidField, ["/schedule"], "is missing"),
    (#"{"schedule":"daily"}"#, 400, .invalidField, ["/schedule"], "must be a list of 1 to 64 schedules"),
    (#"{"schedule":[]}"#, 400, .invalidField, ["/schedule"], "must be a list of 1 to 64 schedules"),
    (#"{"schedule":[7]}"#, 400, .invalidField, ["/schedule/0"], "is none of schedules, each a text"),
    (#"{"schedule":["daily"],"count":0}"#, 400, .invalidField, ["/count"], "must be from 1 to 1000"),
    (#"{"schedule":["daily"],"count":1001}"#, 400, .invalidField, ["/count"], "must be from 1 to 1000"),
    (#"{"schedule":["daily"],"from":"tomorrow"}"#, 400, .invalidField, ["/from"], "must be a time"),
    (#"{"schedule":["daily"],"from":"1969-12-31T23:59:59Z"}"#, 400, .invalidField, ["/from"], "from 1970 to 2199"),
    (#"{"schedule":["daily"],"zone":"UTC"}"#, 400, .invalidField, ["/zone"], "is not a known field"),
    (
      #"{"schedule":["daily","0 25 * * *","mon-fri"]}"#, 400, .invalidField, ["/schedule/1", "/schedule/2"],
      "'25' at character 3: an hour is from 0 to 23 (and 1 more)"
    ),
    (#"{"schedule":["0 4 * * 6#3"]}"#, 400, .invalidField, ["/schedule/0"], "'sat *-*-15..21 04:00' says the same"),
    (#"{"schedule":["daily","0 0 30 2 *"]}"#, 422, .neverFires, ["/schedule/1"], "there is no such date"),
    (#"{"schedule":["2020-01-01"]}"#, 422, .neverFires, ["/schedule/0"], "its dates are past"),
    (#"{"schedule":["daily"],"timeZone":"Europe/Belrin"}"#, 422, .unknownReference, ["/timeZone"], "'Europe/Berlin'"),
    (#"{"schedule":["daily"],"timeZone":"../../etc/passwd"}"#, 422, .unknownReference, ["/timeZone"], "there is no"),
  ])
  func aFaultNamesItsField(
    _ body: String, _ status: Int, _ code: ProblemCode, _ pointers: [String], _ part: String
  ) async throws {
    try await withWorld { world in
      let reply = try await world.post(target, body).expect(status, code)
      #expect(reply.json["errors"]?.items.map { $0["pointer"]?.text } == pointers)
      #expect(reply["detail"].contains(part), "\(reply["detail"])")
    }
  }
}
