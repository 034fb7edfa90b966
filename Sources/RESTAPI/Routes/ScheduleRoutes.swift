import HTTPServer
import Model
import Orchestrator

/// What schedules mean, before anything has them.
struct ScheduleRoutes {
  let service: BackupService

  var all: [Route] {
    [Route(.post, "\(APIPath.root)/schedules/preview", needs: .read, body: .object, .later(preview))]
  }

  /// A question with a body: it changes nothing, so it takes neither `dryRun` nor `Idempotency-Key`.
  @Sendable private func preview(_ call: Call) async throws -> HTTPResponse {
    let query = try call.fields().schedulePreviewQuery()
    return JSONAnswer.computed(SchedulePreviewDocument(preview: try service.preview(query)))
  }
}
