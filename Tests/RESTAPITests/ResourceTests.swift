import Foundation
import HTTPServer
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// Images and repositories over the wire.
@Suite struct ResourceTests {
  private let api = World.api
  private let images = "\(World.api)/images"
  private let repositories = "\(World.api)/repositories"

  @Test func anImageIsRegisteredReadRenamedAndForgotten() async throws {
    try await withWorld { world in
      let made = try await world.post(
        images,
        #"{"name":"vm1","source":{"kind":"file","path":"/images/vm1"},"format":"qcow2","labels":{"tier":"gold"}}"#
      ).expect(201)
      #expect(made.header("Location") == "\(images)/\(made["id"])")
      #expect(made.json["source"] == ["kind": "file", "path": "/images/vm1"])
      #expect(made.json["labels"] == ["tier": "gold"])
      #expect(made.json["exclusive"] == false)
      #expect(made["state"] == "detached")
      #expect(made["createdAt"] == "2026-01-01T00:00:00.000Z")

      for reference in ["vm1", made["id"], made["id"].lowercased()] {
        #expect(try await world.get("\(images)/\(reference)").expect(200).json == made.json)
      }
      let renamed = try await world.send(
        "PATCH", "\(images)/vm1", #"{"name":"web1","labels":{"tier":null,"team":"shop"}}"#
      )
      .expect(200)
      #expect(renamed["id"] == made["id"])
      #expect(renamed.json["labels"] == ["team": "shop"])
      try await world.get("\(images)/vm1").expect(404, .notFound)
      #expect(try await world.send("PATCH", "\(images)/web1", #"{"labels":null}"#).expect(200).json["labels"] == [:])

      try await world.send("DELETE", "\(images)/web1").expect(204)
      #expect(try await world.get(images).expect(200).json["items"] == [])
    }
  }

  @Test func aPatchMayComeAsMergePatchAndChangesNothingElse() async throws {
    try await withStockedWorld { world in
      let type: KeyValuePairs<String, String?> = ["Content-Type": "application/merge-patch+json"]
      try await world.send("PATCH", "\(images)/vm1", #"{"name":"web1"}"#, headers: type).expect(200)
      for body in [
        #"{"format":"qcow2"}"#, #"{"source":{"kind":"file","path":"/x"}}"#, #"{"name":null}"#, #"{"id":"x"}"#,
      ] {
        try await world.send("PATCH", "\(images)/web1", body).expect(400, .invalidField)
      }
      let before = try await world.get("\(images)/web1")
      #expect(try await world.send("PATCH", "\(images)/web1", "{}").expect(200).json == before.json)
      #expect(try await world.get("\(images)/web1").header("ETag") == before.header("ETag"))
    }
  }

  @Test func aFormatThatIsMissingIsSuggestedNotGuessed() async throws {
    try await withWorld { world in
      world.engine.script {
        $0.suggestFormat = { _ in FormatSuggestion(format: .qcow2, why: "it starts with a qcow2 header, version 3") }
      }
      let reply = try await world.post(images, #"{"name":"vm1","source":{"kind":"file","path":"/images/vm1"}}"#)
        .expect(422, .formatRequired)
      #expect(reply["remedy"].contains("qcow2"))
      #expect(reply.json.at("errors", "0", "pointer") == "/format")
      #expect(try await world.get(images).json["items"] == [])
    }
  }

  @Test(arguments: [
    (ProblemCode.pathOutsideFolders, 422), (.sourceNotFound, 422), (.sourceNotAFile, 422), (.backingRefused, 422),
    (.formatUnsupported, 422), (.imageLocked, 409), (.imageCorrupt, 409),
  ])
  func whatTheEngineRefusesIsToldAsItIs(code: ProblemCode, status: Int) async throws {
    try await withWorld { world in
      world.engine.script { $0.inspect = { _ in throw DomainError(code, "because", remedy: "do this") } }
      let reply = try await world.post(
        images, #"{"name":"vm1","source":{"kind":"file","path":"/etc/shadow"},"format":"raw"}"#
      ).expect(status, code)
      #expect(reply["detail"] == "because" && reply["remedy"] == "do this")
      #expect(reply["type"] == "/docs/problems/\(code.rawValue)")
      try await world.get(reply["type"]).expect(200)
    }
  }

  @Test func listsArePagedWithoutGapsOrRepeats() async throws {
    try await withWorld { world in
      for index in 0..<5 {
        try await world.registerImage("vm\(index)")
        world.clock.advance(bySeconds: 1)
      }
      var names: [String] = []
      var cursor: String?
      repeat {
        let page = try await world.get("\(images)?limit=2" + (cursor.map { "&cursor=\($0)" } ?? "")).expect(200)
        names += page.json["items"]?.items.compactMap { $0["name"]?.text } ?? []
        cursor = page.json["nextCursor"]?.text
      } while cursor != nil && names.count < 20
      #expect(names == ["vm0", "vm1", "vm2", "vm3", "vm4"])
    }
  }

  @Test func inspectTellsWhatTheEngineFound() async throws {
    try await withStockedWorld { world in
      world.engine.script {
        $0.inspect = { _ in
          ImageInspection(
            format: .qcow2, virtualSize: 1 << 30, storedSize: 1 << 20, version: 3, clusterSize: 65536, refcountBits: 16,
            compressionType: "zstd", features: ["lazy-refcounts"],
            backingChain: [.init(path: "/images/base", format: .raw, virtualSize: 1 << 20)],
            snapshots: [.init(id: "1", name: "before", createdAt: ManualClock.epoch, virtualSize: 1, vmStateSize: 2)],
            bitmaps: [.init(name: "b/0 \"é\"", granularity: 65536, enabled: true, inconsistent: false)],
            locks: [.init(permission: "write", held: true, unshared: false)], truncated: true)
        }
      }
      let reply = try await world.get("\(images)/vm1/inspect").expect(200)
      #expect(reply.json["virtualSize"] == 1_073_741_824)
      #expect(reply.json.at("backingChain", "0", "path") == "/images/base")
      #expect(reply.json.at("bitmaps", "0", "name") == "b/0 \"é\"")
      #expect(reply.json.at("locks", "0", "held") == true)
      #expect(reply.json["truncated"] == true)
    }
  }

  @Test func extentsArePassedThroughWithTheirBounds() async throws {
    try await withStockedWorld { world in
      let reply = try await world.get("\(images)/vm1/extents?context=allocation&offset=4096&length=8192&limit=7")
        .expect(200)
      #expect(reply.json["items"] == [["offset": 4096, "length": 8192, "data": true, "zero": false, "dirty": nil]])
      #expect(reply.json["nextOffset"] == .null)
      guard case .extents(_, let offset, let length, let limit)? = world.engine.orders.last else {
        Issue.record("the engine wasn't asked for extents")
        return
      }
      #expect(offset == 4096 && length == 8192 && limit == 7)
      try await world.get("\(images)/vm1/extents?generation=1").expect(200)
      try await world.get("\(images)/vm1/extents?generation=0").expect(409, .extentsChanged)
    }
  }

  @Test func aRepositoryIsCreatedRenamedAndForgotten() async throws {
    try await withWorld { world in
      let made = try await world.createRepository()
      #expect(made["state"] == "ready" && made["kind"] == "directory" && made["managedBy"] == "api")
      #expect(made.header("Location") == "\(repositories)/\(made["id"])")
      try await world.post(repositories, #"{"name":"local","kind":"directory","path":"/backup/b"}"#).expect(
        409, .nameTaken)
      try await world.post(repositories, #"{"name":"tape","kind":"tape","path":"/backup/b"}"#).expect(
        400, .invalidField)
      #expect(
        try await world.send("PATCH", "\(repositories)/local", #"{"name":"cellar"}"#).expect(200)["id"] == made["id"])
      try await world.send("PATCH", "\(repositories)/cellar", #"{"path":"/x"}"#).expect(400, .invalidField)
      try await world.send("DELETE", "\(repositories)/cellar").expect(204)
      try await world.get("\(repositories)/\(made["id"])").expect(404)
    }
  }

  @Test func whatTheConfigurationHoldsCantBeChanged() async throws {
    try await withWorld(declarations: Stock.declarations) { world in
      #expect(try await world.get("\(images)/declared").expect(200)["managedBy"] == "config")
      try await world.send("PATCH", "\(images)/declared", #"{"name":"x"}"#).expect(409, .managedByConfig)
      try await world.send("DELETE", "\(repositories)/fixed").expect(409, .managedByConfig)
    }
  }

  @Test func theServerTellsWhatItIs() async throws {
    try await withWorld { world in
      let reply = try await world.get("\(api)/server").expect(200)
      #expect(reply["version"] == "0.1.0" && reply["ioBackend"] == "epoll")
      #expect(reply["startedAt"] == "2026-01-01T00:00:00.000Z")
      #expect(try await world.get("/healthz").expect(200)["status"] == "alive")
      #expect(try await world.get("/readyz").expect(200)["status"] == "ready")
      world.catalog.readFault = FaultyCatalog.Fault(atCall: 1, fromThenOn: true)
      #expect(try await world.get("/readyz").expect(503, .notReady).header("Retry-After") != nil)
      try await world.get("/healthz").expect(200)
      world.catalog.readFault = nil
    }
  }

  @Test func theIndexLeadsToTheContractAndTheProblems() async throws {
    try await withWorld { world in
      let page = try await world.get("/").expect(200)
      for link in page.text.matches(of: /href="([^"]+)"/).map({ String($0.output.1) }) {
        try await world.get(link).expect(200)
      }
      let list = try await world.get("/docs/problems").expect(200)
      #expect(list.text.matches(of: /href="\/docs\/problems\//).count == ProblemCode.allCases.count)
    }
  }

  @Test func theUnixSocketIsServedUnderAnyName() async throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: "rest-\(UUID().uuidString.prefix(8))")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try await withWorld(at: .unix(path: folder.path + "/api.sock", mode: 0o600)) { world in
      try await world.registerImage()
      try await world.get("\(images)/vm1", headers: ["Host": "whatever"]).expect(200)
      try await world.get(images, headers: ["Origin": "http://evil.example"]).expect(403, .foreignOrigin)
    }
  }
}
