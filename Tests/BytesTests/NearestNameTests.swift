import Bytes
import Testing

struct NearestNameTests {
  @Test(arguments: [
    ("shcedule", "schedule"), ("schedules", "schedule"), ("retenton", "retention"), ("schedule", "schedule"),
    ("x", nil), ("something", nil), ("", nil),
  ])
  func theNearestNameIsNotFarAway(_ name: String, _ nearest: String?) {
    #expect(NearestName.of(name, among: ["retention", "schedule", "selector"]) == nearest)
  }
}
