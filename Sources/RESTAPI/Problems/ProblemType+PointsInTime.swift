import Model

extension ProblemType {
  /// The problems with moments of images, and with what shows them.
  static func ofPointsInTime(_ code: ProblemCode) -> ProblemType {
    switch code {
    case .fleecingEnded:
      ProblemType(
        code, 409, "The fleecing isn't active",
        """
        Its views aren't served any more, or not yet. One that has ended is never served again, and tells for a day how it \
        ended.
        """,
        remedy: "get the fleecing for its state, and begin another one")
    default:
      ProblemType(
        code, 409, "The point in time couldn't be had",
        """
        Images that are backed up together are held at one moment, before the first byte of any is read. One of \
        them couldn't be held, so none of the others was backed up. Or the guest of an attached image changed bytes \
        that the backup, or the reader of a fleecing, hadn't read yet and that couldn't be kept in time: the detail says \
        why. A fleecing loses its moment also with the server that serves it.
        """,
        remedy: """
          mend what the detail names and begin again, or ask with `"onFailure": "continue"` to back up the others without it
          """)
    }
  }
}
