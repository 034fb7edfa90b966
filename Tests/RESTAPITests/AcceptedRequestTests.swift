import Model
import ModelTesting
import Testing

@testable import RESTAPI

/// Bodies that clients send. Within v1 each stays accepted, by the contract and by the server: a line here may be added,
/// never changed.
@Suite struct AcceptedRequestTests {
  private static func ofImage(_ more: String) -> String {
    #"{"name":"e","source":{"kind":"image","image":"vm1"},"# + more + "}"
  }

  private static func ofBackup(_ more: String) -> String {
    #"{"name":"e","source":{"kind":"backup","backup":"COMPLETE"},"# + more + "}"
  }

  @Test(arguments: [
    ("POST /images", #"{"name":"new","source":{"kind":"file","path":"/images/new"},"format":"raw"}"#),
    ("POST /images", #"{"name":"new","source":{"kind":"file","path":"/images/new"},"format":"qcow2","labels":{}}"#),
    (
      "POST /images",
      #"{"name":"new","source":{"kind":"device","path":"/dev/a"},"format":"raw","labels":{"a":"b"},"exclusive":true}"#
    ),
    ("POST /images", #"{"name":"new","source":{"kind":"nbd","uri":"nbd://127.0.0.1:10809/x"},"format":"raw"}"#),
    ("POST /images", #"{"name":"new","source":{"kind":"nbd","uri":"NBD+UNIX:///x?socket=/run/x"},"format":"raw"}"#),
    ("PATCH /images/vm1", "{}"),
    ("PATCH /images/vm1", #"{"name":"web1"}"#),
    ("PATCH /images/vm1", #"{"labels":{"tier":null,"team":"shop"}}"#),
    ("PATCH /images/vm1", #"{"name":"web1","labels":null}"#),
    ("PATCH /images/vm1", #"{"exclusive":true}"#),
    ("POST /images/vm1/attach", "{}"),
    ("POST /images/vm1/attach", #"{"cache":"direct"}"#),
    ("POST /images/vm1/attach", #"{"cache":"writeback","confirm":"vm1"}"#),
    ("POST /images/guest/detach", "{}"),
    ("POST /images/vm1/check", "{}"),
    ("POST /images/vm1/check", #"{"repairLeaks":false}"#),
    ("POST /images/vm1/check", #"{"repairLeaks":true}"#),
    ("POST /images/vm1/clear-damage", #"{"confirm":"vm1"}"#),
    ("POST /images/vm1/reconcile", #"{"confirm":"vm1"}"#),
    ("POST /images/vm1/bitmaps", #"{"name":"b1"}"#),
    ("POST /images/vm1/bitmaps", #"{"name":"b1","granularity":65536,"persistent":true,"disabled":false}"#),
    ("POST /images/vm1/bitmaps", #"{"name":"%FF","nameEncoded":true}"#),
    ("POST /images/vm1/bitmaps/b0/clear", "{}"),
    ("POST /images/vm1/bitmaps/b0/enable", "{}"),
    ("POST /images/vm1/bitmaps/b0/disable", "{}"),
    ("POST /images/vm1/bitmaps/b0/merge", #"{"sources":["b1",{"image":"shown","bitmap":"b0"}]}"#),
    ("POST /bitmap-transactions", #"{"actions":[{"action":"add","image":"vm1","bitmap":"b1","granularity":512}]}"#),
    (
      "POST /bitmap-transactions",
      #"{"actions":[{"action":"clear","image":"vm1","bitmap":"b0"},{"action":"remove","image":"vm1","bitmap":"b0"}]}"#
    ),
    ("POST /bitmap-transactions", #"{"actions":[{"action":"merge","image":"vm1","bitmap":"b0","sources":["b1"]}]}"#),
    ("POST /repositories", #"{"name":"new","kind":"directory","path":"/backup/new"}"#),
    ("PATCH /repositories/local", "{}"),
    ("PATCH /repositories/local", #"{"name":"renamed"}"#),
    ("POST /repositories/local/rescan", "{}"),
    ("POST /backups", #"{"images":["vm1"],"repository":"local"}"#),
    ("POST /backups", #"{"images":["vm1","shown"],"repository":"local","kind":"full","tracker":"default"}"#),
    ("POST /backups", #"{"images":["vm1"],"repository":"local","kind":"copy","compression":"none","speedLimit":0}"#),
    ("POST /backups", #"{"images":["vm1"],"repository":"local","compression":"zstd","speedLimit":1048576}"#),
    (
      "POST /backups",
      #"{"images":["vm1"],"repository":"local","onTempFull":"throttle","throttleLatencyMicroseconds":20000}"#
    ),
    ("POST /backups", #"{"images":["vm1"],"repository":"local","guestLatencyBudget":{"percent":50}}"#),
    ("POST /backups", #"{"images":["vm1"],"repository":"local","guestLatencyBudget":{"microseconds":2000}}"#),
    ("POST /backups/complete/verify", "{}"),
    ("POST /backups/complete/verify", #"{"level":"metadata"}"#),
    ("POST /backups/complete/verify", #"{"level":"checksum"}"#),
    ("POST /backups/complete/restore", #"{"target":{"kind":"file","path":"/images/b.raw","format":"raw"}}"#),
    ("POST /backups/complete/restore", #"{"target":{"kind":"file","path":"/images/b.qcow2","format":"qcow2"}}"#),
    ("POST /backups/complete/restore", #"{"target":{"kind":"image","image":"vm1"},"confirm":"vm1"}"#),
    ("POST /backups/complete/restore", #"{"target":{"kind":"nbd","uri":"nbd://127.0.0.1:10809/x"}}"#),
    ("POST /backups/complete/restore", #"{"target":{"kind":"nbd","uri":"nbd://127.0.0.1/x","targetIsZero":true}}"#),
    ("POST /exports", ofImage(#""listen":{"unix":"/run/cobweb/e.sock"}"#)),
    ("POST /exports", ofImage(#""readOnly":false,"listen":{"unix":"/run/e"},"confirm":"vm1""#)),
    ("POST /exports", ofImage(#""listen":{"tcp":"localhost:1"},"tls":"x509","contexts":{"allocationDepth":true}"#)),
    ("POST /exports", ofImage(#""listen":{"unix":"/run/e"},"contexts":{}"#)),
    ("POST /exports", ofImage(#""listen":{"unix":"/run/e"},"contexts":{"bitmaps":[{"bitmap":"b0"}]}"#)),
    ("PATCH /exports/look", "{}"),
    ("PATCH /exports/look", #"{"contexts":{"bitmaps":[{"bitmap":"b0","exportName":"since-monday"}]}}"#),
    ("PATCH /exports/look", #"{"contexts":{"allocationDepth":true,"bitmaps":[]}}"#),
    ("PATCH /exports/look", #"{"contexts":null}"#),
    ("PATCH /exports/look", #"{"contexts":{"changedSince":[]}}"#),
    ("POST /exports", ofBackup(#""listen":{"tcp":"127.0.0.1:10809"}"#)),
    ("POST /exports", ofBackup(#""readOnly":true,"listen":{"tcp":"[::1]:10809"},"tls":"psk""#)),
    (
      "POST /exports",
      ofBackup(
        #""listen":{"unix":"/run/e"},"contexts":{"changedSince":[{"backup":"COMPLETE"},{"backup":"COMPLETE","exportName":"x"}]}"#
      )
    ),
    ("POST /fleecings", #"{"images":["vm1"],"listen":{"unix":"/run/cobweb/fleece.sock"},"expiresIn":3600}"#),
    (
      "POST /fleecings",
      #"{"images":["vm1","guest"],"listen":{"tcp":"127.0.0.1:10809"},"tls":"psk","release":"trim"}"#
    ),
    ("POST /fleecings", #"{"images":["vm1"],"listen":{"unix":"/run/f"},"since":null,"access":"all"}"#),
    ("POST /fleecings", #"{"images":["vm1"],"listen":{"unix":"/run/f"},"since":{"bitmap":"b0"},"access":"dirty"}"#),
    (
      "POST /fleecings",
      #"{"images":["vm1"],"listen":{"unix":"/run/f"},"since":{"bitmap":"%FF","bitmapEncoded":true},"tracker":"other"}"#
    ),
    ("POST /fleecings", #"{"images":["vm1"],"listen":{"unix":"/run/f"},"since":{"backup":"COMPLETE"}}"#),
    ("POST /fleecings/FLEECING/done", #"{"image":"vm1","extents":[{"offset":0,"length":65536}]}"#),
    ("POST /fleecings/FLEECING/renew", "{}"),
    ("POST /fleecings/FLEECING/renew", #"{"expiresIn":60}"#),
    ("POST /fleecings/FLEECING/finish", #"{"outcome":"success"}"#),
    ("POST /fleecings/FLEECING/finish", #"{"outcome":"success","checkpoint":"monday"}"#),
    ("POST /fleecings/FLEECING/finish", #"{"outcome":"failure"}"#),
    ("POST /jobs/RUNNING/pause", "{}"),
    ("POST /jobs/RUNNING/pause", #"{"until":null}"#),
    ("POST /jobs/RUNNING/pause", #"{"until":"2099-03-01T08:05:09.120Z"}"#),
    ("POST /jobs/RUNNING/resume", "{}"),
    ("POST /jobs/RUNNING/cancel", "{}"),
  ])
  func aRequestStaysAccepted(operation: String, body: String) async throws {
    let stock = Stock()
    try await withWorld(declarations: Stock.declarations, seed: stock.store) { world in
      let parts = operation.split(separator: " ").map(String.init)
      let running = operation.contains("RUNNING") ? try await world.runningJob() : ""
      let fleecing = operation.contains("FLEECING") ? try await world.activeFleecing() : ""
      let target = "\(World.api)\(parts[1])".replacing("RUNNING", with: running).replacing("FLEECING", with: fleecing)
        .replacing("/complete/", with: "/\(stock.complete.id)/")
      let body = body.replacing("COMPLETE", with: "\(stock.complete.id)")
      let documented = try #require(world.contract.operation(method: parts[0], target: target))
      let media = try #require(documented.requestBody?["content"]?["application/json"])
      #expect(throws: Never.self) {
        try SchemaCheck(contract: world.contract).check(
          try JSONParser.parse(Array(body.utf8)), try #require(media["schema"]))
      }
      try await world.send(parts[0], target + "?dryRun=true", body).expect(200)
    }
  }
}
