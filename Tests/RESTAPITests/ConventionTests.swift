import Foundation
import HTTPServer
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// What holds on every route.
@Suite struct ConventionTests {
  private let images = "\(World.api)/images"
  private let body = #"{"name":"vm1","source":{"kind":"file","path":"/images/vm1"},"format":"raw"}"#

  @Test func headIsGetWithoutTheContent() async throws {
    try await withStockedWorld { world in
      for target in ["\(images)", "\(images)/vm1", "\(images)/vm1/inspect", "/openapi.yaml", "/docs/problems", "/"] {
        let full = try await world.get(target).expect(200)
        let head = try await world.send("HEAD", target).expect(200)
        #expect(head.body.isEmpty)
        #expect(head.header("Content-Length") == String(full.body.count))
        #expect(head.header("ETag") == full.header("ETag"))
      }
      try await world.send("HEAD", "\(images)/ghost").expect(404)
      try await world.send("HEAD", "\(World.api)/events").expect(200)
    }
  }

  @Test func aKnownVersionIsNotSentAgain() async throws {
    try await withStockedWorld { world in
      for target in ["\(images)", "\(images)/vm1", "\(World.api)/repositories/local", "/openapi.yaml"] {
        let tag = try #require(try await world.get(target).expect(200).header("ETag"))
        let again = try await world.get(target, headers: ["If-None-Match": "\"other\", W/\(tag)"]).expect(304)
        #expect(again.header("ETag") == tag)
        try await world.get(target, headers: ["If-None-Match": "*"]).expect(304)
        try await world.get(target, headers: ["If-None-Match": "\"other\""]).expect(200)
      }
      let tag = try await world.get("\(images)/vm1").header("ETag")
      try await world.send("PATCH", "\(images)/vm1", #"{"labels":{"a":"b"}}"#).expect(200)
      try await world.get("\(images)/vm1", headers: ["If-None-Match": tag]).expect(200)
    }
  }

  @Test func aChangeForAStaleVersionIsRefused() async throws {
    try await withStockedWorld { world in
      let first = try await world.get("\(images)/vm1").header("ETag")
      let changed = try await world.send(
        "PATCH", "\(images)/vm1", #"{"labels":{"a":"1"}}"#, headers: ["If-Match": first]
      ).expect(200)
      #expect(changed.header("ETag") != first)
      try await world.send("PATCH", "\(images)/vm1", #"{"labels":{"a":"2"}}"#, headers: ["If-Match": first])
        .expect(412, .preconditionFailed)
      try await world.send("DELETE", "\(images)/vm1", headers: ["If-Match": "\"unknown\""]).expect(412)
      try await world.send("DELETE", "\(images)/vm1", headers: ["If-Match": "W/\(changed.header("ETag") ?? "")"])
        .expect(412)
      #expect(try await world.get("\(images)/vm1").json["labels"] == ["a": "1"])
      let both = "\(first ?? ""), \(changed.header("ETag") ?? "")"
      try await world.send("DELETE", "\(images)/vm1", headers: ["If-Match": both]).expect(204)
      try await world.post(images, body, headers: ["If-Match": "*"]).expect(201)
    }
  }

  @Test func aRescanForAStaleVersionIsRefused() async throws {
    try await withStockedWorld { world in
      let rescan = "\(World.api)/repositories/local/rescan"
      try await world.post(rescan, headers: ["If-Match": "\"9-0\""]).expect(412, .preconditionFailed)
      let tag = try await world.get("\(World.api)/repositories/local").header("ETag")
      try await world.post(rescan, headers: ["If-Match": tag]).expect(202)
    }
  }

  @Test func aDryRunTellsThePlanAndWritesNothing() async throws {
    try await withStockedWorld { world in
      world.clock.advance(bySeconds: 1)
      let repository = "\(World.api)/repositories"
      let changes: [(String, String, String?)] = [
        ("POST", images, #"{"name":"vm2","source":{"kind":"file","path":"/images/vm2"},"format":"raw"}"#),
        ("PATCH", "\(images)/vm1", #"{"name":"web1"}"#), ("DELETE", "\(images)/vm1", nil),
        ("POST", repository, #"{"name":"new","kind":"directory","path":"/backup/new"}"#),
        ("PATCH", "\(repository)/local", #"{"name":"cellar"}"#), ("DELETE", "\(repository)/local", nil),
        ("POST", "\(repository)/local/rescan", nil),
        ("POST", "\(World.api)/backups", #"{"images":["vm1"],"repository":"local"}"#),
      ]
      let before = try world.memory.read { try ($0.images(PageRequest()).items, $0.eventSpan()) }
      for (method, target, body) in changes {
        let plan = try await world.send(method, target + "?dryRun=true", body).expect(200)
        #expect(plan.json["dryRun"] == true)
        #expect(plan.json["steps"]?.items.isEmpty == false)
      }
      let after = try world.memory.read { try ($0.images(PageRequest()).items, $0.eventSpan()) }
      #expect(before.0 == after.0 && before.1 == after.1)
      #expect(try await world.get("\(World.api)/jobs").json["items"] == [])
      // A plan is refused for the same reasons as the change.
      try await world.post(
        images + "?dryRun=true", #"{"name":"vm1","source":{"kind":"file","path":"/x"},"format":"raw"}"#
      )
      .expect(409, .nameTaken)
    }
  }

  @Test func aRepeatedPostGetsTheFirstAnswer() async throws {
    try await withWorld { world in
      let key: KeyValuePairs<String, String?> = ["Idempotency-Key": "nightly-1"]
      let first = try await world.post(images, body, headers: key).expect(201)
      #expect(first.header("Idempotency-Replayed") == nil)
      let again = try await world.post(images, body, headers: key).expect(201)
      #expect(again.body == first.body)
      #expect(again.header("Location") == first.header("Location"))
      #expect(again.header("ETag") == first.header("ETag"))
      #expect(again.header("Idempotency-Replayed") == "true")
      #expect(again.header("X-Request-Id") != first.header("X-Request-Id"))
      #expect(try await world.get(images).json["items"]?.items.count == 1)

      try await world.post("/api/v1/%69mages", body, headers: key).expect(201)
      try await world.post(images, body + " ", headers: key).expect(422, .idempotencyKeyReused)
      try await world.post(images, body, headers: ["Idempotency-Key": "nightly-2"]).expect(409, .nameTaken)
      // On another route the key is another one.
      try await world.post(
        "\(World.api)/repositories", #"{"name":"local","kind":"directory","path":"/backup/local"}"#, headers: key
      ).expect(201)
    }
  }

  @Test func aRepeatIsAnsweredEvenIfTheVersionHasMovedOn() async throws {
    try await withStockedWorld { world in
      try await world.backUp()
      let backup = try #require(try await world.get("\(World.api)/backups").json.at("items", "0", "id")?.text)
      let tag = try await world.get("\(World.api)/backups/\(backup)").header("ETag")
      let headers: KeyValuePairs<String, String?> = ["Idempotency-Key": "v1", "If-Match": tag]
      let first = try await world.post("\(World.api)/backups/\(backup)/verify", headers: headers).expect(202)
      _ = try await world.end(of: first["id"])
      #expect(try await world.get("\(World.api)/backups/\(backup)").header("ETag") != tag)
      #expect(
        try await world.post("\(World.api)/backups/\(backup)/verify", headers: headers).expect(202)["id"] == first["id"]
      )
    }
  }

  @Test func anAnswerIsNotKeptLongerThanADay() async throws {
    try await withWorld { world in
      let key: KeyValuePairs<String, String?> = ["Idempotency-Key": "k"]
      try await world.post(images, body, headers: key).expect(201)
      world.clock.advance(bySeconds: 24 * 60 * 60 + 1)
      try await world.post(images, body, headers: key).expect(409, .nameTaken)
    }
  }

  @Test func everyAnswerCarriesItsOwnRequestId() async throws {
    try await withWorld { world in
      var ids: Set<String> = []
      for target in ["/healthz", "/nothing", images, "/"] {
        ids.insert(try #require(try await world.get(target, headers: ["X-Request-Id": "mine"]).header("X-Request-Id")))
      }
      #expect(ids.count == 4 && !ids.contains("mine"))
    }
  }

  @Test func apiAnswersAreNotCached() async throws {
    try await withWorld { world in
      for target in [images, "/healthz", "/nothing"] {
        let reply = try await world.get(target)
        #expect(reply.header("Cache-Control") == "no-store")
      }
      let contract = try await world.get("/openapi.yaml").expect(200)
      #expect(contract.header("Cache-Control") == "no-cache")
    }
  }

  @Test func aFullQueueAsksToComeBack() async throws {
    var limits = ServiceLimits()
    limits.concurrentJobs = 1
    limits.queuedJobs = 1
    try await withStockedWorld(limits: limits) { world in
      _ = try await world.runningJob()
      try await world.post("\(World.api)/repositories/local/rescan").expect(202)
      let reply = try await world.post("\(World.api)/repositories/local/rescan").expect(503, .queueFull)
      #expect(Int(reply.header("Retry-After") ?? "") ?? 0 > 0)
    }
  }

  @Test func anUnforeseenErrorTellsNothingOfTheInside() async throws {
    try await withWorld { world in
      struct Secret: Error { let password = "hunter2" }
      let response = world.responder.response(
        to: .internalError(Secret()), for: HTTPRequest(method: "GET", path: images))
      let reply = Reply(response, "GET", images)
      try world.check(reply.expect(500, .internalError))
      #expect(!reply.text.contains("hunter2") && !reply.text.contains("Secret"))
    }
  }
}
