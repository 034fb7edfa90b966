import Model
import ModelTesting
import Testing

@testable import RESTAPI

struct VerbTests {
  /// GET needs `read`. Everything else is listed here, so that a route's verb is chosen.
  private static let changes: [String: Verb] = [
    "POST /api/v1/images": .configure,
    "PATCH /api/v1/images/{image}": .configure,
    "DELETE /api/v1/images/{image}": .configure,
    "POST /api/v1/images/{image}/attach": .export,
    "POST /api/v1/images/{image}/detach": .export,
    "POST /api/v1/images/{image}/check": .verify,
    "POST /api/v1/images/{image}/clear-damage": .configure,
    "POST /api/v1/images/{image}/reconcile": .configure,
    "POST /api/v1/images/{image}/bitmaps": .backup,
    "DELETE /api/v1/images/{image}/bitmaps/{bitmap}": .backup,
    "POST /api/v1/images/{image}/bitmaps/{bitmap}/clear": .backup,
    "POST /api/v1/images/{image}/bitmaps/{bitmap}/enable": .backup,
    "POST /api/v1/images/{image}/bitmaps/{bitmap}/disable": .backup,
    "POST /api/v1/images/{image}/bitmaps/{bitmap}/merge": .backup,
    "PUT /api/v1/images/{image}/bitmaps/{bitmap}/bits": .backup,
    "POST /api/v1/bitmap-transactions": .backup,
    "POST /api/v1/repositories": .configure,
    "PATCH /api/v1/repositories/{repository}": .configure,
    "DELETE /api/v1/repositories/{repository}": .configure,
    "POST /api/v1/repositories/{repository}/rescan": .configure,
    "POST /api/v1/backups": .backup,
    "DELETE /api/v1/backups/{backup}": .delete,
    "POST /api/v1/backups/{backup}/verify": .verify,
    "POST /api/v1/backups/{backup}/restore": .restore,
    "POST /api/v1/chains/{chain}/verify": .verify,
    "POST /api/v1/groups/{group}/restore": .restore,
    "DELETE /api/v1/images/{image}/trackers/{tracker}": .configure,
    "POST /api/v1/exports": .export,
    "PATCH /api/v1/exports/{export}": .export,
    "DELETE /api/v1/exports/{export}": .export,
    "POST /api/v1/fleecings": .fleece,
    "DELETE /api/v1/fleecings/{fleecing}": .fleece,
    "POST /api/v1/fleecings/{fleecing}/done": .fleece,
    "POST /api/v1/fleecings/{fleecing}/renew": .fleece,
    "POST /api/v1/fleecings/{fleecing}/finish": .fleece,
    "POST /api/v1/schedules/preview": .read,
    "POST /api/v1/jobs/{job}/cancel": .backup,
    "POST /api/v1/jobs/{job}/pause": .backup,
    "POST /api/v1/jobs/{job}/resume": .backup,
  ]

  @Test func everyRouteStatesTheVerbThatItNeeds() async throws {
    try await withWorld { world in
      for (operation, verb) in world.responder.verbs {
        #expect(verb == (operation.hasPrefix("GET ") ? .read : Self.changes[operation]), "\(operation)")
      }
      #expect(Set(Self.changes.keys).isSubset(of: world.responder.verbs.keys))
    }
  }

  /// The words are part of the API: tokens and policies will name them.
  @Test func theVerbsAreThoseOfTheAPI() {
    let words = """
      read backup verify restore overwrite delete prune policy configure fleece export tokens audit metrics
      """
    #expect(Verb.allCases.map(\.rawValue).joined(separator: " ") == words)
    #expect(Principal.anonymous.verbs == Set(Verb.allCases))
  }
}
