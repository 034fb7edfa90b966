import Model

extension ProblemType {
  /// The problems with what policies say.
  static func ofPolicies(_ code: ProblemCode) -> ProblemType {
    switch code {
    case .neverFires:
      ProblemType(
        code, 422, "The schedule never runs",
        """
        The schedule is well formed, but there is no such date, as 30 February, or all its dates are past, or lie more than \
        40 years ahead.
        """,
        remedy: "correct the part of the schedule that the detail names")
    default:
      ProblemType(
        code, 422, "The request names something that isn't there",
        """
        A field names something that this server doesn't know: a time zone, for example. The detail tells the nearest \
        name, if one is near. Where the host has no time zones at all, the package tzdata is missing; only `UTC` needs \
        none of its files.
        """,
        remedy: "correct the name")
    }
  }
}
