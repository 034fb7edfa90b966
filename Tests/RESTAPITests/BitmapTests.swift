import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// Dirty bitmaps over the wire.
@Suite struct BitmapTests {
  private let bitmaps = "\(World.api)/images/vm1/bitmaps"

  private func orders(_ world: World) -> [BitmapOrder] {
    world.engine.orders.compactMap { if case .changeBitmaps(let order) = $0 { order } else { nil } }
  }

  @Test func aBitmapIsMadeReadChangedAndRemoved() async throws {
    try await withWorld(seed: Stock().store) { world in
      let made = try await world.post(bitmaps, #"{"name":"b0","granularity":4096,"disabled":true}"#).expect(201)
      #expect(made.header("Location")?.hasSuffix("/bitmaps/b0") == true && made.header("ETag") != nil)
      #expect(made["state"] == "disabled" && made.json["granularity"] == 4096 && made.json["persistent"] == true)
      #expect(made.json["owner"] == .null && made.json["exports"] == [] && made.json["dirtyBytes"] == 0)
      let item = try await world.get("\(bitmaps)/b0").expect(200)
      #expect(item["name"] == "b0" && item.json["nameEncoded"] == false)
      for verb in ["clear", "enable", "disable"] {
        #expect(try await world.post("\(bitmaps)/b0/\(verb)", "{}").expect(200)["name"] == "b0")
      }
      try await world.post("\(bitmaps)/b0/merge", #"{"sources":["b1",{"image":"shown","bitmap":"b2"}]}"#).expect(200)
      try await world.send("DELETE", "\(bitmaps)/b0").expect(204)
      let changes = orders(world).flatMap(\.actions).map(\.change)
      #expect(
        changes.prefix(4) == [
          .add(granularity: 4096, isRecording: false, isPersistent: true), .clear, .enable, .disable,
        ])
      guard case .merge(let sources) = changes[4] else { return #expect(Bool(false), "\(changes)") }
      #expect(sources.map(\.image.name.text) == ["vm1", "shown"])
      #expect(sources.map(\.bitmap) == [BitmapName("b1"), BitmapName("b2")] && changes[5] == .remove)
      try await world.get("\(bitmaps)/b9").expect(404, .notFound)
    }
  }

  @Test func namesThatArentUTF8ArePercentCodedBothWays() async throws {
    try await withWorld(seed: Stock().store) { world in
      let odd = BitmapName([0xFF, 0x2F, 0x25])
      world.engine.script { $0.bitmaps = { _ in [ScriptedEngine.Script.bitmap(odd)] } }
      let item = try await world.get("\(bitmaps)/%FF%2F%25").expect(200)
      #expect(item["name"] == "%FF%2F%25" && item.json["nameEncoded"] == true)
      let made = try await world.post(bitmaps, #"{"name":"%ff%2f%25","nameEncoded":true}"#).expect(201)
      #expect(made["name"] == "%FF%2F%25" && made.header("Location")?.hasSuffix("/bitmaps/%FF%2F%25") == true)
      let literal = try await world.post(bitmaps, #"{"name":"%ff"}"#).expect(201)
      #expect(literal["name"] == "%ff" && literal.json["nameEncoded"] == false)
      #expect(literal.header("Location")?.hasSuffix("/bitmaps/%25ff") == true)
      let extents = "\(World.api)/images/vm1/extents?context=dirty&bitmap=%FF%2F%25"
      #expect(try await world.get(extents).expect(200).json["items"]?.items.first?["dirty"] == true)
      #expect(orders(world).flatMap(\.actions).map(\.bitmap) == [odd, BitmapName("%ff")])
      // Elsewhere a path is UTF-8, and no name has a NUL.
      try await world.get("\(World.api)/images/%FF").expect(400, .malformedRequest)
      try await world.get("\(World.api)/nowhere/%FF").expect(400, .malformedRequest)
      try await world.get("\(bitmaps)/a%00").expect(400, .malformedRequest)
      try await world.get("\(World.api)/images/vm1/extents?context=dirty&bitmap=%00").expect(400, .invalidParameter)
      try await world.get("\(World.api)/images/vm1/extents?generation=%FF").expect(400, .invalidParameter)
      try await world.post(bitmaps, #"{"name":"%f","nameEncoded":true}"#).expect(400, .invalidField)
      try await world.post(bitmaps, #"{"name":"%00","nameEncoded":true}"#).expect(400, .invalidField)
    }
  }

  @Test func pagesFollowTheNames() async throws {
    try await withWorld(seed: Stock().store) { world in
      let names = ["a", "b", "c"].map { BitmapName($0) } + [BitmapName([0xFE])]
      world.engine.script { $0.bitmaps = { _ in names.map { ScriptedEngine.Script.bitmap($0) } } }
      var found: [String] = []
      var cursor: String?
      repeat {
        let page = try await world.get("\(bitmaps)?limit=2" + (cursor.map { "&cursor=\($0)" } ?? "")).expect(200)
        found += page.json["items"]?.items.compactMap { $0["name"]?.text } ?? []
        cursor = page.json["nextCursor"]?.text
      } while cursor != nil
      #expect(found == ["a", "b", "c", "%FE"])
      try await world.get("\(bitmaps)?cursor=x").expect(400, .invalidParameter)
    }
  }

  @Test func dirtyExtentsAreOfTheBitmapThatIsNamed() async throws {
    try await withWorld(seed: Stock().store) { world in
      let extents = "\(World.api)/images/vm1/extents"
      let page = try await world.get("\(extents)?context=dirty&bitmap=b0&offset=65536&limit=5&generation=1").expect(200)
      let item = try #require(page.json["items"]?.items.first)
      #expect(item["dirty"] == true && item["data"] == .null && item["offset"] == 65536)
      #expect(page.json["generation"] == "1")
      try await world.get("\(extents)?context=dirty&bitmap=b0&generation=2").expect(409, .extentsChanged)
      try await world.get("\(extents)?context=dirty").expect(400, .invalidParameter)
      try await world.get("\(extents)?bitmap=b0").expect(400, .invalidParameter)
      try await world.get("\(extents)?context=allocation&bitmap=b0").expect(400, .invalidParameter)
    }
  }

  @Test func aTransactionIsOneOrderAndTellsEachActionsOutcomeAndEvent() async throws {
    try await withWorld(seed: Stock().store) { world in
      let body = #"""
        {"actions":[{"action":"add","image":"vm1","bitmap":"new","disabled":true},
        {"action":"merge","image":"vm1","bitmap":"new","sources":[{"image":"shown","bitmap":"b0"}]},
        {"action":"remove","image":"shown","bitmap":"b0"}]}
        """#
      let plan = try await world.post("\(World.api)/bitmap-transactions?dryRun=true", body).expect(200)
      #expect(plan.json["steps"]?.items.count == 3 && plan.json["resource"]?["bitmaps"]?.items.count == 3)
      #expect(orders(world).map(\.isRehearsal) == [true])
      let done = try await world.post("\(World.api)/bitmap-transactions", body).expect(200)
      let results = try #require(done.json["results"]?.items)
      #expect(results.map { $0["imageName"]?.text } == ["vm1", "vm1", "shown"])
      #expect(results[0]["after"]?["name"] == "new" && results[2]["after"] == .null)
      #expect(orders(world).count == 2 && orders(world)[1].actions.count == 3)
      let events = try world.memory.read { try $0.events(after: 0, job: nil, limit: 100) }.suffix(3)
      #expect(events.map(\.kind) == [.bitmapCreated, .bitmapChanged, .bitmapDeleted])
      #expect(events.map(\.payload.bitmap) == [BitmapName("new"), BitmapName("new"), BitmapName("b0")])
      #expect(events.map(\.payload.state) == ["disabled", "recording", nil])
    }
  }

  @Test func refusalsOfATransactionNameTheAction() async throws {
    try await withWorld(seed: Stock().store) { world in
      let fault = DomainError.Fault(Field("actions").item(1), "it is busy")
      world.engine.script { script in
        script.changeBitmaps = { _ in throw DomainError(.bitmapBusy, "it is busy", faults: [fault]) }
      }
      let body =
        #"{"actions":[{"action":"clear","image":"vm1","bitmap":"a"},{"action":"clear","image":"vm1","bitmap":"b"}]}"#
      let refused = try await world.post("\(World.api)/bitmap-transactions", body).expect(409, .bitmapBusy)
      #expect(refused.json["errors"]?.items.first?["pointer"] == "/actions/1")
      let single = try await world.post("\(bitmaps)/b/clear", "{}").expect(409, .bitmapBusy)
      #expect(single.json["errors"] == [])
    }
  }

  @Test func bitsAreBytesWithTheirGenerationAsTheirVersion() async throws {
    try await withWorld(seed: Stock().store) { world in
      let bits = BitmapBits(bytes: (0..<300_000).map { UInt8(truncatingIfNeeded: $0) }, generation: "5f3b1c")
      world.engine.script { $0.bits = { _ in bits } }
      let reply = try await world.get("\(bitmaps)/%FF/bits").expect(200)
      #expect(reply.body == bits.bytes && reply.header("Content-Type") == "application/octet-stream")
      #expect(reply.header("ETag") == "\"5f3b1c\"" && reply.header("Content-Length") == "300000")
      try await world.get("\(bitmaps)/b0/bits", headers: ["If-None-Match": "\"5f3b1c\""]).expect(304)
      let head = try await world.send("HEAD", "\(bitmaps)/b0/bits").expect(200)
      #expect(head.header("Content-Length") == "300000" && head.body.isEmpty)
      let asked = world.engine.orders.compactMap { if case .bits(let name, _) = $0 { name } else { nil } }
      #expect(asked.first == BitmapName([0xFF]))
    }
  }

  @Test func bitsThatAreSentGoIntoTheBitmapAsTheyCame() async throws {
    try await withWorld(seed: Stock().store) { world in
      let target = "\(bitmaps)/b0/bits"
      let sent: [UInt8] = [0, 0xFF, 0x7B, 0x0A]
      func put(_ match: String?, _ query: String = "", _ bytes: [UInt8]? = sent) async throws -> Reply {
        try await world.send(
          "PUT", target + query, bytes: bytes, as: "application/octet-stream",
          headers: [(key: "If-Match", value: match)])
      }
      let plan = try await put("*", "?dryRun=true").expect(200)
      #expect(plan["action"] == "change-bitmaps" && orders(world).map(\.isRehearsal) == [true])
      let done = try await put("\"aa\", W/\"bb\", \"cc\"", "?generation=5f3b1c").expect(200)
      #expect(done["name"] == "b0" && done.header("ETag") == nil)
      try await put("*").expect(200)
      let imports = orders(world).flatMap(\.actions).compactMap { action in
        if case .unite(let bits) = action.change { bits } else { nil }
      }
      #expect(
        imports == [
          BitmapImport(bytes: sent), BitmapImport(bytes: sent, generation: "5f3b1c", replaceable: ["aa", "cc"]),
          BitmapImport(bytes: sent),
        ])
      let events = try world.memory.read { try $0.events(after: 0, job: nil, limit: 100) }.suffix(2)
      #expect(events.map(\.kind) == [.bitmapChanged, .bitmapChanged])
      try await put(nil).expect(428, .preconditionRequired)
      try await put("*", "", []).expect(400, .malformedBits)
      try await put("*", "", nil).expect(400, .malformedBits)
      try await world.send("PUT", target, "{}", headers: ["If-Match": "*"]).expect(415, .unsupportedMediaType)
      try await world.send("POST", target, "{}").expect(405, .methodNotAllowed)
      #expect(orders(world).count == 3)
    }
  }

  @Test func fewTransfersOfBitsAreWorkedOnAtATime() async throws {
    try await withWorld(seed: Stock().store) { world in
      let transfers = world.responder.transfers
      let others = try (1..<Transfers.limit).map { _ in try transfers.begin() }
      // One that failed, and one that was sent, make room again.
      for _ in 0..<3 {
        try await world.get("\(World.api)/images/ghost/bitmaps/b0/bits").expect(404, .notFound)
        try await world.get("\(bitmaps)/b0/bits").expect(200)
        try await world.send("HEAD", "\(bitmaps)/b0/bits").expect(200)
      }
      let last = try transfers.begin()
      let refused = try await world.get("\(bitmaps)/b0/bits").expect(429, .tooManyRequests)
      #expect(refused.header("Retry-After") == "1")
      try await world.get("\(bitmaps)/b0").expect(200)
      withExtendedLifetime((others, last)) {}
    }
  }

  @Test(arguments: [
    (#"{"actions":[]}"#, "/actions"), (#"{"actions":[7]}"#, "/actions/0"),
    (#"{"actions":[{"action":"freeze","image":"vm1","bitmap":"b0"}]}"#, "/actions/0/action"),
    (#"{"actions":[{"action":"clear","image":"vm1"}]}"#, "/actions/0/bitmap"),
    (#"{"actions":[{"action":"clear","image":"vm1","bitmap":"b0","sources":["b1"]}]}"#, "/actions/0/sources"),
    (#"{"actions":[{"action":"merge","image":"vm1","bitmap":"b0"}]}"#, "/actions/0/sources"),
    (#"{"actions":[{"action":"merge","image":"vm1","bitmap":"b0","sources":[1]}]}"#, "/actions/0/sources/0"),
    (#"{"actions":[{"action":"add","image":"vm1","bitmap":"b0","granularity":1000}]}"#, "/actions/0/granularity"),
    (#"{"actions":[{"action":"add","image":"vm1","bitmap":"b0","more":1}]}"#, "/actions/0/more"),
  ])
  func faultsOfATransactionAreFoundWhereTheyAre(body: String, pointer: String) async throws {
    try await withWorld(seed: Stock().store) { world in
      let refused = try await world.post("\(World.api)/bitmap-transactions", body).expect(400, .invalidField)
      let pointers = refused.json["errors"]?.items.compactMap { $0["pointer"]?.text } ?? []
      #expect(pointers.contains(pointer), "\(pointers)")
      #expect(orders(world).isEmpty)
    }
  }
}
