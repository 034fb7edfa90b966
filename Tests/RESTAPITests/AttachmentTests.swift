import Foundation
import Model
import ModelTesting
import Orchestrator
import Testing

@testable import RESTAPI

/// Attaching, detaching and checking images, and images and targets on NBD servers, over the wire.
@Suite struct AttachmentTests {
  private let api = World.api
  private let vm1 = "\(World.api)/images/vm1"

  @Test(arguments: [
    (nil as String?, CacheMode.direct), ("{}", .direct), (#"{"cache":"writeback"}"#, .writeback),
    (#"{"cache":"direct"}"#, .direct),
  ])
  func anImageIsAttachedAndDetached(body: String?, cache: CacheMode) async throws {
    try await withStockedWorld { world in
      #expect(try await world.get(vm1).expect(200).json["attachment"] == .null)
      let attached = try await world.end(of: world.post("\(vm1)/attach", body).expect(202)["id"])
      #expect(attached["state"] == "succeeded" && attached["kind"] == "attach", "\(attached.text)")
      #expect(attached.json.at("result", "imageName") == "vm1")
      #expect(attached.json.at("result", "cache") == .string(cache.rawValue))
      let image = try await world.get(vm1).expect(200)
      #expect(image["state"] == "attached")
      #expect(image.json["attachment"] == ["cache": .string(cache.rawValue), "cause": "request"])

      try await world.post("\(vm1)/attach").expect(409, .imageInUse)
      try await world.send("DELETE", vm1).expect(409, .imageInUse)
      try await world.post("\(vm1)/check").expect(409, .imageInUse)
      let detached = try await world.end(of: world.post("\(vm1)/detach", "{}").expect(202)["id"])
      #expect(detached["state"] == "succeeded" && detached["kind"] == "detach", "\(detached.text)")
      let closed = try await world.get(vm1).expect(200)
      #expect(closed["state"] == "detached" && closed.json["attachment"] == .null)
      try await world.post("\(vm1)/detach").expect(409, .imageNotAttached)
    }
  }

  @Test(arguments: [
    ("attach", #"{"cache":"none"}"#, "/cache"), ("attach", #"{"cache":null}"#, "/cache"),
    ("attach", #"{"confirm":true}"#, "/confirm"),
    ("attach", #"{"readOnly":true}"#, "/readOnly"), ("detach", #"{"force":true}"#, "/force"),
    ("check", #"{"repairLeaks":1}"#, "/repairLeaks"), ("check", #"{"repair":true}"#, "/repair"),
  ])
  func aFieldThatCantBeIsToldWithItsPlace(action: String, body: String, pointer: String) async throws {
    try await withStockedWorld { world in
      let reply = try await world.post("\(vm1)/\(action)", body).expect(400, .invalidField)
      #expect(reply.json.at("errors", "0", "pointer") == .string(pointer), "\(reply.text)")
    }
  }

  @Test func whatAnOverlayStandsOnIsWrittenToOnlyWithConfirmation() async throws {
    try await withStockedWorld { world in
      world.engine.script { script in
        script.identity = { $0.place == "/images/vm1.raw" ? .file(device: 1, inode: 7) : nil }
        script.inspect = { location in
          let base = ImageInspection.Layer(
            path: "/images/link", format: .raw, virtualSize: 1 << 20, files: [.file(device: 1, inode: 7)])
          return ImageInspection(
            format: location.format, virtualSize: 1 << 20, storedSize: 0,
            backingChain: location.format == .qcow2 ? [base] : [])
        }
      }
      let overlay = #"{"name":"top","source":{"kind":"file","path":"/images/top"},"format":"qcow2"}"#
      try await world.post("\(api)/images", overlay).expect(201)
      let export =
        #""name":"x","source":{"kind":"image","image":"vm1"},"readOnly":false,"listen":{"unix":"/run/cobweb/x.sock"}"#
      let plans = [("\(vm1)/attach", "{}"), ("\(api)/exports", "{\(export)}")]
      for (path, body) in plans {
        let plan = try await world.post("\(path)?dryRun=true", body).expect(200)
        #expect(plan.text.contains("'top'"), "\(plan.text)")
        let refusal = try await world.post(path, body).expect(422, .confirmationRequired)
        #expect(refusal.json.at("errors", "0", "pointer") == "/confirm" && refusal["detail"].contains("'top'"))
      }
      try await world.post("\(api)/exports", #"{"confirm":"top",\#(export)}"#).expect(422, .confirmationRequired)
      try await world.post("\(api)/exports", #"{"confirm":1,\#(export)}"#).expect(400, .invalidField)
      try await world.post("\(api)/exports", #"{"confirm":"vm1",\#(export)}"#).expect(201)
      try await world.send("DELETE", "\(api)/exports/x").expect(204)
      let attached = try await world.end(of: world.post("\(vm1)/attach", #"{"confirm":"vm1"}"#).expect(202)["id"])
      #expect(attached["state"] == "succeeded")
    }
  }

  @Test func theAttachmentIsNotPatched() async throws {
    try await withStockedWorld { world in
      let reply = try await world.send("PATCH", vm1, #"{"attachment":null}"#).expect(400, .invalidField)
      #expect(reply.json.at("errors", "0", "pointer") == "/attachment")
    }
  }

  @Test func anImageThatShowsReadOnlyIsNotAttached() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      let reply = try await world.post("\(api)/images/shown/attach").expect(409, .imageInUse)
      #expect(reply.text.contains("look"))
      try await world.post("\(api)/images/shown/check", #"{"repairLeaks":true}"#).expect(409, .imageInUse)
    }
  }

  // MARK: Checking

  @Test func aCheckTellsWhatItFound() async throws {
    try await withStockedWorld { world in
      world.engine.script {
        $0.check = { order in
          CheckReport(
            findings: ["cluster 7 is counted and used by nobody"], errorCount: 0, leakCount: 2,
            repairedLeakCount: order.repairsLeaks ? 2 : 0, checkedBytes: 65536)
        }
      }
      for (body, repaired) in [(nil, 0), (#"{"repairLeaks":false}"#, 0), (#"{"repairLeaks":true}"#, 2)]
        as [(String?, Int64)]
      {
        let job = try await world.end(of: world.post("\(vm1)/check", body).expect(202)["id"])
        #expect(job["state"] == "succeeded" && job["kind"] == "check", "\(job.text)")
        #expect(job.json.at("result", "sound") == true && job.json.at("result", "leaks") == 2)
        #expect(job.json.at("result", "repairedLeaks") == .integer(repaired))
        #expect(job.json.at("result", "checkedBytes") == 65536)
      }
    }
  }

  @Test func aCheckThatFindsErrorsFailsWithItsResult() async throws {
    try await withStockedWorld { world in
      world.engine.script {
        $0.check = { _ in
          CheckReport(
            findings: ["the L2 table at 0x50000 lies past the end"], errorCount: 1, leakCount: 0, repairedLeakCount: 0,
            checkedBytes: 65536)
        }
      }
      let job = try await world.end(of: world.post("\(vm1)/check").expect(202)["id"])
      #expect(job["state"] == "failed" && job.json.at("error", "code") == "image-corrupt")
      #expect(job.json.at("result", "sound") == false && job.json.at("result", "errors") == 1)
      #expect(job.json.at("result", "findings", "0") == "the L2 table at 0x50000 lies past the end")
    }
  }

  // MARK: NBD servers

  @Test func anImageMayLieOnAnNBDServer() async throws {
    try await withWorld { world in
      let uri = "nbd+unix:///far?socket=/run/far.sock"
      let made = try await world.post(
        "\(api)/images", #"{"name":"far","source":{"kind":"nbd","uri":"\#(uri)"},"format":"raw"}"#
      ).expect(201)
      #expect(made.json["source"] == ["kind": "nbd", "uri": .string(uri)])
      #expect(world.engine.orders.contains(.inspect(ImageLocation(source: .nbd(uri: uri), format: .raw))))
      world.engine.script { $0.inspect = { _ in throw DomainError(.peerNotAllowed, "host isn't among nbdPeers") } }
      try await world.post(
        "\(api)/images", #"{"name":"foe","source":{"kind":"nbd","uri":"nbds://host/x"},"format":"raw"}"#
      ).expect(422, .peerNotAllowed)
    }
  }

  @Test func aURIThatOnlyTheEngineFindsWrongIsToldWithItsField() async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      world.engine.script { $0.inspect = { _ in throw DomainError(.invalidField, "it has no socket") } }
      let registration = try await world.post(
        "\(api)/images", #"{"name":"far","source":{"kind":"nbd","uri":"nbd+unix:///far"},"format":"raw"}"#
      ).expect(400, .invalidField)
      #expect(registration.json["errors"] == [["pointer": "/source/uri", "detail": "it has no socket"]])
      let restore = try await world.post(
        "\(api)/backups/\(stock.complete.id)/restore", #"{"target":{"kind":"nbd","uri":"nbd+unix:///far"}}"#
      ).expect(400, .invalidField)
      #expect(restore.json["errors"] == [["pointer": "/target/uri", "detail": "it has no socket"]])
    }
  }

  @Test(arguments: ["", #","targetIsZero":false"#, #","targetIsZero":true"#])
  func aBackupIsRestoredOverAnNBDExport(zero: String) async throws {
    let stock = Stock()
    try await withWorld(seed: stock.store) { world in
      let uri = "nbd://[::1]:10809/back"
      let accepted = try await world.post(
        "\(api)/backups/\(stock.complete.id)/restore", #"{"target":{"kind":"nbd","uri":"\#(uri)"\#(zero)}}"#
      ).expect(202)
      let job = try await world.end(of: accepted["id"])
      #expect(job["state"] == "succeeded", "\(job.text)")
      let isZero = zero.contains("true")
      #expect(
        job.json.at("result", "target") == ["kind": "nbd", "uri": .string(uri), "targetIsZero": .bool(isZero)])
      let targets = world.engine.orders.compactMap { if case .restore(let order, _) = $0 { order.target } else { nil } }
      #expect(targets == [.nbd(uri: uri, targetIsZero: isZero)])
    }
  }
}
