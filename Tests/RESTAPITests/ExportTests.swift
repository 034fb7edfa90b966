import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// Exports over the wire.
@Suite struct ExportTests {
  private let api = World.api
  private let exports = "\(World.api)/exports"

  private func body(
    _ name: String = "e", source: String = #"{"kind":"image","image":"vm1"}"#,
    listen: String = #"{"unix":"/run/cobweb/e.sock"}"#, _ more: String = ""
  ) -> String {
    #"{"name":"\#(name)","source":\#(source),"listen":\#(listen)\#(more.isEmpty ? "" : "," + more)}"#
  }

  @Test func aGuestsDiskIsExportedReadAndTakenAway() async throws {
    try await withStockedWorld { world in
      let made = try await world.post(exports, body("disk0", #""readOnly":false"#)).expect(201)
      let image = try await world.get("\(api)/images/vm1").expect(200)
      #expect(made.header("Location") == "\(exports)/\(made["id"])")
      #expect(made["uri"] == "nbd+unix:///disk0?socket=/run/cobweb/e.sock")
      #expect(made.json["source"] == ["kind": "image", "image": .string(image["id"]), "imageName": "vm1"])
      #expect(made.json["listen"] == ["unix": "/run/cobweb/e.sock"])
      #expect(made.json["readOnly"] == false && made.json["tls"] == .null)
      #expect(made.json["contexts"] == ["allocationDepth": false, "bitmaps": [], "changedSince": []])
      #expect(made["state"] == "active" && made.json["failure"] == .null && made.json["clients"] == 0)
      #expect(image["state"] == "attached")
      #expect(image.json["attachment"] == ["cache": "direct", "cause": "export"])

      for reference in ["disk0", made["id"]] {
        #expect(try await world.get("\(exports)/\(reference)").expect(200)["id"] == made["id"])
      }
      #expect(try await world.get(exports).expect(200).json["items"]?.items.count == 1)
      try await world.send("DELETE", "\(exports)/disk0").expect(204)
      try await world.get("\(exports)/disk0").expect(404, .notFound)
      let after = try await world.get("\(api)/images/vm1").expect(200)
      #expect(after["state"] == "detached" && after.json["attachment"] == .null)
    }
  }

  @Test func contextsOfAStandingExportAreChangedForNewClients() async throws {
    try await withStockedWorld { world in
      let made = try await world.post(exports, body()).expect(201)
      let target = "\(exports)/e"
      let patch = #"{"contexts":{"bitmaps":[{"bitmap":"b0","exportName":"since-monday"},{"bitmap":"b1"}]}}"#
      let plan = try await world.send("PATCH", target + "?dryRun=true", patch).expect(200)
      #expect(plan.json["resource"]?["contexts"]?["bitmaps"]?.items.count == 2)
      #expect(try await world.get(target).expect(200).json["contexts"]?["bitmaps"] == [])
      let changed = try await world.send("PATCH", target, patch, headers: ["If-Match": made.header("ETag")]).expect(200)
      #expect(changed.json["contexts"]?["bitmaps"]?.items.map { $0["exportName"]?.text } == ["since-monday", "b1"])
      #expect(world.engine.servedExports.values.first?.bitmaps.map(\.exportName) == ["since-monday", "b1"])
      try await world.send("PATCH", target, patch, headers: ["If-Match": made.header("ETag")])
        .expect(412, .preconditionFailed)
      // What the engine refuses, and what the catalog doesn't take, leaves all as it was.
      world.engine.script { $0.setContexts = { _ in throw DomainError(.bitmapInconsistent, "it missed changes") } }
      try await world.send("PATCH", target, #"{"contexts":{"bitmaps":[]}}"#).expect(409, .bitmapInconsistent)
      world.engine.script { $0 = ScriptedEngine.Script() }
      world.catalog.writeFault = FaultyCatalog.Fault(atCall: 1)
      try await world.send("PATCH", target, #"{"contexts":{"bitmaps":[]}}"#).expect(507, .storageFull)
      world.catalog.writeFault = nil
      #expect(world.engine.servedExports.values.first?.bitmaps.count == 2)
      #expect(try await world.get(target).expect(200).json["contexts"]?["bitmaps"]?.items.count == 2)
      let cleared = try await world.send("PATCH", target, #"{"contexts":{"bitmaps":null}}"#).expect(200)
      #expect(cleared.json["contexts"] == ["allocationDepth": false, "bitmaps": [], "changedSince": []])
      try await world.send("PATCH", target, #"{"name":"other"}"#).expect(400, .invalidField)
    }
  }

  @Test func aBackupIsExportedReadOnlyWithItsPointInTime() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      let source = #"{"kind":"backup","backup":"\#(stock.complete.id)"}"#
      let listen = #"{"tcp":"[0:0::1]:10809"}"#
      for readOnly in ["", #""readOnly":true"#] {
        let made = try await world.post(exports, body(source: source, listen: listen, readOnly)).expect(201)
        #expect(
          made.json["source"] == [
            "kind": "backup", "backup": .string(stock.complete.id.description),
            "image": .string(stock.image.id.description), "imageName": "vm1",
            "pointInTime": "2026-01-01T00:00:00.000Z",
          ])
        #expect(made["uri"] == "nbd://[::1]:10809/e" && made.json["listen"] == ["tcp": "[::1]:10809"])
        #expect(made.json["readOnly"] == true)
        let listed = try await world.get("\(exports)?backup=\(stock.complete.id)").expect(200).json["items"]?.items
        #expect(listed?.compactMap { $0["id"]?.text } == [made["id"]])
        try await world.send("DELETE", "\(api)/backups/\(stock.complete.id)").expect(409, .exportInUse)
        try await world.send("DELETE", "\(exports)/e").expect(204)
      }
      let reply = try await world.post(exports, body(source: source, #""readOnly":false"#)).expect(400, .invalidField)
      #expect(reply.json.at("errors", "0", "pointer") == "/readOnly")
    }
  }

  @Test func whatIsAskedForReachesTheEngine() async throws {
    try await withStockedWorld { world in
      try await world.post(
        exports, body(listen: #"{"tcp":"LOCALHOST:10809"}"#, #""tls":"psk","contexts":{"allocationDepth":true}"#)
      ).expect(201)
      let order = try #require(world.engine.servedExports.values.first)
      #expect(order.listen == .tcp(host: "localhost", port: 10809) && order.tls == .psk)
      #expect(order.offersAllocationDepth && order.isReadOnly && order.name == "e")
    }
  }

  @Test(arguments: [
    (#""source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"}"#, "/name"),
    (#""name":"E","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"}"#, "/name"),
    (#""name":"e","listen":{"unix":"/r/e"}"#, "/source"),
    (#""name":"e","source":{"kind":"fleecing"},"listen":{"unix":"/r/e"}"#, "/source/kind"),
    (#""name":"e","source":{"kind":"image","backup":"x"},"listen":{"unix":"/r/e"}"#, "/source/image"),
    (#""name":"e","source":{"kind":"image","image":"vm1","backup":"x"},"listen":{"unix":"/r/e"}"#, "/source/backup"),
    (#""name":"e","source":{"kind":"backup","backup":"vm1"},"listen":{"unix":"/r/e"}"#, "/source/backup"),
    (#""name":"e","source":{"kind":"image","image":"vm1"}"#, "/listen"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{}"#, "/listen"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":"/r/e""#, "/listen"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e","tcp":"127.0.0.1:1"}"#, "/listen"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"r/e"}"#, "/listen/unix"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/"}"#, "/listen/unix"),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/\#(String(repeating: "x", count: 107))"}"#,
      "/listen/unix"
    ),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e","mode":"0660"}"#, "/listen/mode"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"readOnly":"no""#, "/readOnly"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"tls":true"#, "/tls"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"tls":"anon""#, "/tls"),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":[]"#, "/contexts"),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"bitmaps":[{}]}"#,
      "/contexts/bitmaps/0/bitmap"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"bitmaps":[{"bitmap":"%FF","bitmapEncoded":true}]}"#,
      "/contexts/bitmaps/0/exportName"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"bitmaps":[{"bitmap":"a"},{"bitmap":"b","exportName":"a"}]}"#,
      "/contexts/bitmaps"
    ),
    (
      #""name":"e","source":{"kind":"backup","backup":"01ARZ3NDEKTSV4RRFFQ69G5FAV"},"listen":{"unix":"/r/e"},"contexts":{"bitmaps":["a"]}"#,
      "/contexts/bitmaps/0"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"changedSince":[{}]}"#,
      "/contexts/changedSince/0/backup"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"changedSince":[{"backup":"01ARZ3NDEKTSV4RRFFQ69G5FAV","exportName":""}]}"#,
      "/contexts/changedSince/0/exportName"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"changedSince":[{"backup":"01ARZ3NDEKTSV4RRFFQ69G5FAV"},{"backup":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}]}"#,
      "/contexts/changedSince"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"changedSince":[{"backup":"01ARZ3NDEKTSV4RRFFQ69G5FAV"}]}"#,
      "/contexts/changedSince"
    ),
    (
      #""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"contexts":{"depth":true}"#,
      "/contexts/depth"
    ),
    (#""name":"e","source":{"kind":"image","image":"vm1"},"listen":{"unix":"/r/e"},"mode":"hard""#, "/mode"),
  ])
  func aFieldThatCantBeIsToldWithItsPlace(members: String, pointer: String) async throws {
    try await withStockedWorld { world in
      let reply = try await world.post(exports, "{\(members)}").expect(400, .invalidField)
      #expect(reply.json["errors"]?.items.contains { $0["pointer"] == .string(pointer) } == true, "\(reply.text)")
      #expect(world.engine.servedExports.isEmpty)
    }
  }

  @Test(arguments: [
    "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:+1", ":10809", "example.com:10809",
    "127.1:10809", "::1:10809", "[::1]", "[127.0.0.1]:1", "[::1%eth0]:1", "0x7f.0.0.1:1", "127.0.0.1:1 ",
  ])
  func anAddressThatIsNoneIsRefused(address: String) async throws {
    try await withStockedWorld { world in
      let reply = try await world.post(exports, body(listen: #"{"tcp":"\#(address)"}"#)).expect(400, .invalidField)
      #expect(reply.json.at("errors", "0", "pointer") == "/listen/tcp", "\(reply.text)")
    }
  }

  @Test func beyondThisMachineTLSIsRequired() async throws {
    try await withStockedWorld { world in
      for (index, address) in ["192.0.2.7:10809", "0.0.0.0:10809", "[::]:10809", "[2001:db8::1]:10809"].enumerated() {
        let listen = #"{"tcp":"\#(address)"}"#
        try await world.post(exports, body("e\(index)", listen: listen)).expect(422, .tlsRequired)
        let made = try await world.post(exports, body("e\(index)", listen: listen, #""tls":"x509""#)).expect(201)
        #expect(made["uri"].hasPrefix("nbds://") && made["tls"] == "x509")
      }
    }
  }

  @Test(arguments: [
    (ProblemCode.tlsUnavailable, 422), (.pathOutsideFolders, 422), (.peerNotAllowed, 422), (.addressUnavailable, 409),
    (.peerUnreachable, 409), (.imageLocked, 409), (.imageNotAttached, 409), (.backupCorrupt, 409),
  ])
  func whatTheEngineRefusesIsToldAsItIs(code: ProblemCode, status: Int) async throws {
    try await withStockedWorld { world in
      world.engine.script { $0.export = { _ in throw DomainError(code, "because", remedy: "do this") } }
      let reply = try await world.post(exports, body()).expect(status, code)
      #expect(reply["detail"] == "because" && reply["remedy"] == "do this")
      #expect(try await world.get(exports).json["items"] == [])
    }
  }

  // MARK: Living exports

  @Test func liveFiguresAreShownAndMakeNoNewVersion() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      let idle = try await world.get("\(exports)/look").expect(200)
      let idleList = try await world.get(exports).expect(200)
      let requests = ExportActivity.Requests(
        count: 3, failed: 1, bytes: 8192, latency: .init(p50: 10, p99: 20, p999: 30))
      world.engine.script { $0.activity = { _ in ExportActivity(clients: 2, reads: requests) } }
      let busy = try await world.get("\(exports)/look").expect(200)
      #expect(busy.json["clients"] == 2)
      #expect(
        busy.json.at("activity", "reads") == [
          "count": 3, "failed": 1, "bytes": 8192, "latencyMicroseconds": ["p50": 10, "p99": 20, "p999": 30],
        ])
      #expect(busy.json.at("activity", "writes", "latencyMicroseconds") == .null)
      #expect(busy.header("ETag") == idle.header("ETag"))
      #expect(try await world.get(exports).expect(200).header("ETag") == idleList.header("ETag"))
      try await world.send("DELETE", "\(exports)/look", headers: ["If-Match": "\"7-0\""]).expect(412)
      try await world.send("DELETE", "\(exports)/look?mode=hard", headers: ["If-Match": idle.header("ETag")]).expect(
        204)
    }
  }

  @Test func clientsAreCutOffOnlyIfThatIsMeant() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      world.engine.script { $0.activity = { _ in ExportActivity(clients: 1) } }
      for target in ["look", "look?mode=safe", "look?dryRun=true"] {
        try await world.send("DELETE", "\(exports)/\(target)").expect(409, .exportInUse)
      }
      try await world.send("DELETE", "\(exports)/look?mode=now").expect(400, .invalidParameter)
      try await world.send("DELETE", "\(exports)/look?mode=hard&dryRun=true").expect(200)
      try await world.get("\(exports)/look").expect(200)
      try await world.send("DELETE", "\(exports)/look?mode=hard").expect(204)
      try await world.get("\(exports)/look").expect(404)
    }
  }

  @Test func anExportThatCouldNotBeOpenedSaysWhy() async throws {
    let stock = Stock()
    let lost = Export.sample("lost", of: .backup(stock.failed.id), state: .unavailable)
    try await withWorld { catalog in
      try await stock.store(in: catalog)
      try await catalog.write { try $0.insert(lost) }
    } _: { world in
      let reply = try await world.get("\(exports)/lost").expect(200)
      #expect(reply["state"] == "unavailable" && !reply["failure"].isEmpty)
      #expect(reply.json["clients"] == 0 && reply.json["activity"] == .null)
    }
  }

  @Test func exportsAreListedByImage() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      func names(_ query: String) async throws -> [String] {
        try await world.get("\(exports)\(query)").expect(200).json["items"]?.items.compactMap { $0["name"]?.text } ?? []
      }
      #expect(try await Set(names("")) == ["look", "busy"])
      #expect(try await Set(names("?image=shown")) == ["look", "busy"])
      #expect(try await names("?image=\(stock.image.id)") == [])
      #expect(try await names("?limit=1").count == 1)
      try await world.get("\(exports)?image=ghost").expect(404, .notFound)
    }
  }

  @Test func aRepeatedRequestGetsTheFirstAnswer() async throws {
    try await withStockedWorld { world in
      let key: KeyValuePairs<String, String?> = ["Idempotency-Key": "k"]
      let first = try await world.post(exports, body(), headers: key).expect(201)
      let again = try await world.post(exports, body(), headers: key).expect(201)
      #expect(again.json == first.json && again.header("ETag") == first.header("ETag"))
      #expect(again.header("Idempotency-Replayed") == "true")
      #expect(try await world.get("\(exports)/e").expect(200).header("ETag") == first.header("ETag"))
      #expect(world.engine.servedExports.count == 1)
    }
  }
}
