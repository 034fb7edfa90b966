import Foundation
import HTTPServer
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// Backups and the jobs that make them, over the wire.
@Suite struct JobTests {
  private let api = World.api
  private let backups = "\(World.api)/backups"

  @Test func theWholeStoryFromBackupToDeletion() async throws {
    try await withStockedWorld { world in
      let job = try await world.post(
        backups,
        #"{"images":["vm1"],"repository":"local","kind":"full","tracker":"default","compression":"zstd","speedLimit":0}"#
      ).expect(202)
      #expect(job.header("Location") == "\(api)/jobs/\(job["id"])")
      let planned = try #require(job.json.at("links", "backups", "0")?.text)
      let ended = try await world.end(of: job["id"])
      #expect(ended["state"] == "succeeded" && ended["kind"] == "backup")
      #expect(ended.json.at("result", "backups", "0", "outcome") == "complete")
      #expect(ended.json.at("result", "backups", "0", "backup") == .string(planned))
      #expect(ended.json.at("progress", "unit") == "bytes")

      let backup = try await world.get("\(backups)/\(planned)").expect(200)
      #expect(backup["imageName"] == "vm1" && backup["repositoryName"] == "local" && backup["state"] == "complete")
      #expect(backup.json["trackingFallback"] == .null && backup.json["deletable"] == true)
      #expect(try await world.get("\(api)/chains?image=vm1").json.at("items", "0", "backups") == [.string(planned)])
      let group = try await world.get("\(api)/groups/\(backup["group"])").expect(200)
      #expect(group["id"] == backup["group"] && group["pointInTime"] == backup["pointInTime"])
      #expect(group.json["images"] == [["image": .string(backup["image"]), "imageName": "vm1"]])
      #expect(group.json["backups"] == [.string(planned)] && group.json["complete"] == true)
      for nothing in ["nothing", planned] { try await world.get("\(api)/groups/\(nothing)").expect(404, .notFound) }

      for body in [nil, "{}", #"{"level":"metadata"}"#] {
        let verified = try await world.end(of: world.post("\(backups)/\(planned)/verify", body).expect(202)["id"])
        #expect(
          verified.json.at("result", "level")?.text == (body?.contains("metadata") == true ? "metadata" : "checksum"))
        #expect(verified.json.at("result", "sound") == true)
      }
      let restored = try await world.end(
        of: world.post(
          "\(backups)/\(planned)/restore", #"{"target":{"kind":"file","path":"/images/back.raw","format":"raw"}}"#
        ).expect(202)["id"])
      #expect(restored["state"] == "succeeded")
      let over = try await world.end(
        of: world.post("\(backups)/\(planned)/restore", #"{"target":{"kind":"image","image":"vm1"},"confirm":"vm1"}"#)
          .expect(202)["id"])
      #expect(over["state"] == "succeeded", "\(over.text)")

      let rescan = try await world.end(of: world.post("\(api)/repositories/local/rescan").expect(202)["id"])
      #expect(rescan.json.at("result", "repositoryName") == "local", "\(rescan.text)")
      let deletion = try await world.end(of: world.send("DELETE", "\(backups)/\(planned)").expect(202)["id"])
      #expect(deletion["state"] == "succeeded", "\(deletion.text)")
      try await world.get("\(backups)/\(planned)").expect(404)
      let log = try await world.get("\(api)/jobs/\(job["id"])/log?limit=1").expect(200)
      #expect(log.json["items"]?.items.count ?? 0 <= 1)
    }
  }

  @Test(arguments: [
    (#"{"images":["vm1"],"repository":"local","kind":"snapshot"}"#, "/kind"),
    (#"{"images":["vm1"],"repository":"local","tracker":"witness"}"#, "/tracker"),
    (#"{"images":["vm1"],"repository":"local","tracker":"a.b"}"#, "/tracker"),
    (#"{"images":["vm1"],"repository":"local","tracker":"01kjh80myz9q8p7n6m5k4j3h2g"}"#, "/tracker"),
    (#"{"images":["vm1"],"repository":"local","compression":"lzma"}"#, "/compression"),
    (#"{"images":["vm1"],"repository":"local","speedLimit":-1}"#, "/speedLimit"),
    (#"{"images":["vm1"],"repository":"local","speedLimit":1.5}"#, "/speedLimit"),
    (#"{"images":["vm1"],"repository":"local","speedLimit":"1"}"#, "/speedLimit"),
    (#"{"images":["vm1"],"repository":"local","onTempFull":"wait"}"#, "/onTempFull"),
    (
      #"{"images":["vm1"],"repository":"local","throttleLatencyMicroseconds":5}"#,
      "/throttleLatencyMicroseconds"
    ),
    (
      #"{"images":["vm1"],"repository":"local","onTempFull":"throttle","throttleLatencyMicroseconds":0}"#,
      "/throttleLatencyMicroseconds"
    ),
    (#"{"images":["vm1"],"repository":"local","guestLatencyBudget":{}}"#, "/guestLatencyBudget"),
    (#"{"images":["vm1"],"repository":"local","guestLatencyBudget":50}"#, "/guestLatencyBudget"),
    (
      #"{"images":["vm1"],"repository":"local","guestLatencyBudget":{"percent":1,"microseconds":1}}"#,
      "/guestLatencyBudget"
    ),
    (#"{"images":["vm1"],"repository":"local","guestLatencyBudget":{"percent":0}}"#, "/guestLatencyBudget/percent"),
    (#"{"images":[],"repository":"local"}"#, "/images"), (#"{"images":"vm1","repository":"local"}"#, "/images"),
    (#"{"images":["vm1","vm1"],"repository":"local"}"#, "/images/1"),
    (#"{"images":["V"],"repository":"local"}"#, "/images/0"),
    (#"{"images":["vm1"]}"#, "/repository"),
  ])
  func aBackupThatCantBeIsRefusedByField(body: String, pointer: String) async throws {
    try await withStockedWorld { world in
      let reply = try await world.post(backups, body).expect(400, .invalidField)
      #expect(reply.json.at("errors", "0", "pointer") == .string(pointer), "\(reply.text)")
      #expect(try await world.get("\(api)/jobs").json["items"] == [])
    }
  }

  @Test func differencesAreAskedForByBothIds() async throws {
    try await withStockedWorld { world in
      var complete: [String] = []
      for _ in 1...2 {
        let job = try await world.post(backups, #"{"images":["vm1"],"repository":"local"}"#).expect(202)
        try await world.get("\(api)/jobs/\(job["id"])?wait=30").expect(200)
        complete.append(job.json.at("links", "backup")?.text ?? "")
      }
      try await world.get("\(backups)/\(complete[0])/diff/\(complete[1])?offset=65536&length=1&limit=3").expect(200)
      let asked = world.engine.orders.compactMap { order -> [String]? in
        guard case .differences(let backup, let other, let query) = order else { return nil }
        #expect(query == StoredExtentQuery(offset: 65536, length: 1, limit: 3))
        return [backup.backup.description, other.backup.description]
      }
      #expect(asked == [[complete[0], complete[1]]])
      try await world.get("\(backups)/\(complete[0])/diff/\(ULID())").expect(404, .notFound)
    }
  }

  @Test func everyKindCanBeAskedFor() async throws {
    try await withStockedWorld { world in
      for kind in RequestedBackupKind.allCases {
        let body = #"{"images":["vm1"],"repository":"local","kind":"\#(kind.rawValue)"}"#
        let plan = try await world.post("\(backups)?dryRun=true", body).expect(200)
        #expect(plan.json.at("steps", "0")?.text?.contains("into 'local'") == true, "\(plan.text)")
        let job = try await world.post(backups, body).expect(202)
        let backup = try await world.get("\(backups)/\(job.json.at("links", "backup")?.text ?? "")").expect(200)
        #expect(backup["requestedKind"] == kind.rawValue)
      }
    }
  }

  @Test(arguments: [
    (#"{"target":{"kind":"image","image":"vm1"}}"#, 422, ProblemCode.confirmationRequired),
    (#"{"target":{"kind":"image","image":"vm1"},"confirm":"vm2"}"#, 422, .confirmationRequired),
    (#"{"target":{"kind":"image","image":"ghost"},"confirm":"ghost"}"#, 404, .notFound),
    (#"{"target":{"kind":"file","path":"/images/there","format":"raw"}}"#, 409, .targetExists),
    (#"{"target":{"kind":"file","path":"/images/x","format":"raw"},"confirm":"x"}"#, 400, .invalidField),
    (#"{"target":{"kind":"file","path":"/images/x"}}"#, 400, .invalidField),
    (#"{"target":{"kind":"nbd"}}"#, 400, .invalidField),
    (#"{"target":{"kind":"nbd","uri":"http://x"}}"#, 400, .invalidField),
    (#"{"target":{"kind":"nbd","uri":"nbd://x/y","targetIsZero":1}}"#, 400, .invalidField),
    (#"{"target":{"kind":"nbd","uri":"nbd://x/y","format":"raw"}}"#, 400, .invalidField),
    (#"{"target":{"kind":"nbd","uri":"nbd://x/y"},"confirm":"y"}"#, 400, .invalidField), ("{}", 400, .invalidField),
  ])
  func aRestoreThatCantBeIsRefused(body: String, status: Int, code: ProblemCode) async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      world.engine.script { $0.resolveTarget = { throw DomainError(.targetExists, "\($0) is there") } }
      try await world.post("\(backups)/\(stock.complete.id)/restore", body).expect(status, code)
    }
  }

  @Test func backupsAreListedByImageRepositoryChainAndState() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      func ids(_ query: String) async throws -> Set<String> {
        Set(
          try await world.get("\(backups)?\(query)").expect(200).json["items"]?.items.compactMap { $0["id"]?.text }
            ?? [])
      }
      #expect(try await ids("image=vm1").count == 4)
      #expect(try await ids("image=\(stock.image.id)&repository=local&state=failed") == [stock.failed.id.description])
      #expect(try await ids("chain=\(stock.chain.id)") == [stock.complete.id.description])
      #expect(try await ids("image=01ARZ3NDEKTSV4RRFFQ69G5FAV").isEmpty)
      let parent = try await world.get("\(backups)/\(stock.parent.id)").expect(200)
      #expect(parent.json["dependents"] == [.string(stock.dependent.id.description)])
      #expect(parent.json["deletable"] == false)
      let reply = try await world.send("DELETE", "\(backups)/\(stock.parent.id)").expect(409, .backupHasDependents)
      #expect(reply.text.contains(stock.dependent.id.description))
    }
  }

  // MARK: Waiting and steering

  @Test func waitingEndsWithTheJobOrTheTime() async throws {
    try await withStockedWorld { world in
      let job = try await world.runningJob()
      let start = ContinuousClock.now
      #expect(try await world.get("\(api)/jobs/\(job)?wait=1").expect(200)["state"] == "running")
      #expect(ContinuousClock.now - start > .milliseconds(900))
      async let waited = world.get("\(api)/jobs/\(job)?wait=60")
      world.gate.open()
      #expect(try await waited.expect(200)["state"] == "succeeded")
      try await world.get("\(api)/jobs/\(job)?wait=61").expect(400, .invalidParameter)
    }
  }

  @Test func whoeverKnowsTheJobIsToldOfChangesOnly() async throws {
    try await withStockedWorld { world in
      let job = try await world.runningJob()
      let running = try await world.get("\(api)/jobs/\(job)").expect(200)
      let tag = running.header("ETag")
      try await world.get("\(api)/jobs/\(job)?wait=1", headers: ["If-None-Match": tag]).expect(304)
      async let waited = world.get("\(api)/jobs/\(job)?wait=30", headers: ["If-None-Match": tag])
      try await world.post("\(api)/jobs/\(job)/pause").expect(202)
      #expect(try await waited.expect(200)["state"] == "paused")
      #expect(
        try await world.get("\(api)/jobs/\(job)?wait=30", headers: ["If-None-Match": tag]).expect(200)["state"]
          == "paused")
    }
  }

  @Test func waitingForAnEndedJobReturnsAtOnce() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      let start = ContinuousClock.now
      let ended = try await world.get("\(api)/jobs/\(stock.ended.id)?wait=60").expect(200)
      try await world.get("\(api)/jobs/\(stock.ended.id)?wait=60", headers: ["If-None-Match": ended.header("ETag")])
        .expect(304)
      #expect(ContinuousClock.now - start < .seconds(20))
    }
  }

  @Test func aJobIsPausedResumedAndCancelled() async throws {
    try await withStockedWorld { world in
      let job = try await world.runningJob()
      let paused = try await world.post("\(api)/jobs/\(job)/pause", "{}").expect(202)
      #expect(paused["state"] == "paused" && paused.json.at("pausedUntil") != .null)
      let endless = try await world.post("\(api)/jobs/\(job)/pause", #"{"until":null}"#).expect(202)
      #expect(endless["state"] == "paused" && endless.json.at("pausedUntil") == .null)
      let until = "2999-01-02T03:04:05.600Z"
      let timed = try await world.post("\(api)/jobs/\(job)/pause", #"{"until":"\#(until)"}"#).expect(202)
      #expect(timed["pausedUntil"] == until)
      for wrong in [#""tomorrow""#, "3600", #""1999-01-02T03:04:05Z""#] {
        try await world.post("\(api)/jobs/\(job)/pause", #"{"until":\#(wrong)}"#).expect(400, .invalidField)
      }
      let resumed = try await world.post("\(api)/jobs/\(job)/resume").expect(202)
      #expect(resumed["state"] == "queued" && resumed.json.at("pausedUntil") == .null)
      try await world.post("\(api)/jobs/\(job)/cancel", #"{"force":true}"#).expect(400, .invalidField)
      let cancelling = try await world.post("\(api)/jobs/\(job)/cancel").expect(202)
      #expect(cancelling["state"] == "cancelling" && cancelling["id"] == job)
      let ended = try await world.end(of: job)
      #expect(ended["state"] == "cancelled")
      #expect(ended.json.at("result", "backups", "0", "outcome") == "cancelled", "\(ended.text)")
      for action in ["cancel", "pause", "resume"] {
        try await world.post("\(api)/jobs/\(job)/\(action)").expect(409, .jobFinished)
      }
    }
  }

  @Test func aJobThatFailedHasItsProblem() async throws {
    try await withStockedWorld { world in
      world.engine.script {
        $0.receipt = { _ in throw DomainError(.storageFull, "no space at /backup", remedy: "make room") }
      }
      let ended = try await world.backUp()
      #expect(ended["state"] == "failed")
      #expect(ended.json.at("error", "code") == "storage-full")
      #expect(ended.json.at("error", "instance") == .string("\(api)/jobs/\(ended["id"])"))
      #expect(ended.json.at("result", "backups", "0", "outcome") == "failed")
    }
  }

  @Test func jobsAreListedByStateAndKind() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      let running = try await world.runningJob()
      func ids(_ query: String) async throws -> [String] {
        try await world.get("\(api)/jobs?\(query)").expect(200).json["items"]?.items.compactMap { $0["id"]?.text } ?? []
      }
      #expect(try await ids("state=running") == [running])
      #expect(try await ids("state=succeeded,failed&kind=verify") == [stock.ended.id.description])
      #expect(try await Set(ids("state=running,succeeded")) == [running, stock.ended.id.description])
      #expect(try await ids("kind=restore") == [])
    }
  }
}

/// Server-sent events over the wire.
@Suite struct EventTests {
  private let api = World.api

  /// Listens, runs `body` once the stream is open, and returns what came until `isLast` or the stream's end.
  private func listen(
    _ world: World, _ target: String, lastEventID: String? = nil,
    until isLast: @escaping @Sendable ([String: String]) -> Bool,
    _ body: () async throws -> Void = {}
  ) async throws -> [[String: String]] {
    let address = try world.address
    let head =
      "GET \(target) HTTP/1.1\r\nHost: \(world.host)\r\nConnection: close\r\n"
      + (lastEventID.map { "Last-Event-ID: \($0)\r\n" } ?? "") + "\r\n"
    let wire = try await blocking {
      let wire = try Wire(address)
      try wire.send(Array(head.utf8))
      let answer = try wire.readHead()
      guard answer.status == 200 else { throw SchemaFault("\(target): \(answer.status)") }
      return wire
    }
    try await body()
    return try await blocking {
      var events: [[String: String]] = []
      while events.count < 1000, let event = try wire.readEvent() {
        events.append(event)
        if isLast(event) { break }
      }
      return events
    }
  }

  private func check(_ event: [String: String], _ schema: String, _ world: World) throws -> JSONValue {
    let data = try JSONParser.parse(Array((event["data"] ?? "").utf8))
    try SchemaCheck(contract: world.contract).check(data, ["$ref": .string("#/components/schemas/\(schema)")])
    return data
  }

  @Test func everyChangeIsToldOnceInOrder() async throws {
    try await withWorld { world in
      let events = try await listen(world, "\(api)/events", until: { $0["event"] == "image.deleted" }) {
        try await world.registerImage()
        try await world.send("PATCH", "\(api)/images/vm1", #"{"name":"web1"}"#).expect(200)
        try await world.send("DELETE", "\(api)/images/web1").expect(204)
      }
      #expect(events.map { $0["event"] } == ["image.created", "image.changed", "image.deleted"])
      let ids = events.compactMap { $0["id"].flatMap { Int64($0) } }
      #expect(ids == ids.sorted() && Set(ids).count == 3)
      for event in events {
        let data = try check(event, "Event", world)
        #expect(data["kind"]?.text == event["event"] && data["id"] == .integer(Int64(event["id"] ?? "") ?? 0))
      }
    }
  }

  @Test func aListenerGoesOnBehindTheLastEventItHad() async throws {
    try await withWorld { world in
      for index in 0..<4 { try await world.registerImage("vm\(index)") }
      let events = try await listen(world, "\(api)/events", lastEventID: "2", until: { $0["id"] == "4" })
      #expect(events.map { $0["id"] } == ["3", "4"])
    }
  }

  @Test func aJobsStreamHasItsWholeStoryAndEnds() async throws {
    try await withStockedWorld { world in
      let job = try await world.backUp()
      let events = try await listen(world, "\(api)/jobs/\(job["id"])/events", until: { _ in false })
      let changes = events.filter { $0["id"] != nil }
      #expect(changes.contains { $0["event"] == "job.created" } && changes.last?["event"] == "job.changed")
      for event in changes { #expect(try check(event, "Event", world)["job"]?.text == job["id"]) }
      #expect(try check(changes.last ?? [:], "Event", world).at("payload", "state") == "succeeded")
    }
  }

  @Test func progressHasNoIdAndFollowsItsSchema() async throws {
    try await withStockedWorld { world in
      world.engine.script { [gate = world.gate] script in
        script.work = { _, control in
          control.report(done: 1 << 19, total: 1 << 20)
          try await gate.pass(control)
        }
      }
      let job = try await world.post("\(api)/backups", #"{"images":["vm1"],"repository":"local"}"#).expect(202)
      let events = try await listen(world, "\(api)/jobs/\(job["id"])/events", until: { $0["event"] == "progress" })
      let progress = try #require(events.last)
      #expect(progress["event"] == "progress" && progress["id"] == nil)
      let data = try check(progress, "ProgressEvent", world)
      #expect(data["job"]?.text == job["id"] && data.at("progress", "total") == 1_048_576)
    }
  }

  @Test func whoeverMissedTooMuchIsToldSo() async throws {
    try await withWorld { world in
      try await world.registerImage()
      let events = try await listen(world, "\(api)/events", lastEventID: "4711", until: { $0["event"] == "gap" })
      let newest = try check(events.last ?? [:], "GapEvent", world)["newest"]?.integer
      #expect(newest == 1 && events.last?["id"] == "1")
    }
  }

  @Test func moreListenersThanAllowedAreAskedToComeBack() async throws {
    var options = WebServerOptions()
    options.eventStreamLimit = 1
    try await withWorld(options: options) { world in
      _ = try await listen(world, "\(api)/events", until: { _ in true }) {
        let reply = try await world.get("\(api)/events").expect(503, .tooManyStreams)
        #expect(reply.header("Retry-After") != nil)
        try await world.registerImage()
      }
    }
  }
}
