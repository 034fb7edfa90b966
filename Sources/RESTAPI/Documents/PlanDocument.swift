import Orchestrator

/// What a change would do: the answer to `dryRun`.
struct PlanDocument: JSONWritable {
  let plan: Plan

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("dryRun", true)
      json.member("action", plan.action)
      json.member("steps", plan.steps)
      json.member("warnings", plan.warnings)
      json.member("resource", plan.resource)
    }
  }
}
