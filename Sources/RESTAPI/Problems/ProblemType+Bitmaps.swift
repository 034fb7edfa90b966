import Model

extension ProblemType {
  /// The problems with dirty bitmaps.
  static func ofBitmaps(_ code: ProblemCode) -> ProblemType {
    switch code {
    case .bitmapBusy:
      ProblemType(
        code, 409, "The bitmap is in use",
        "An export shows it to clients, backups build on it, or another change is under way. It can only be read.",
        remedy: "take it off the export that the detail names; leave bitmaps named `cobweb.*` to their trackers")
    case .bitmapExists:
      ProblemType(
        code, 409, "The image has a bitmap of that name",
        "The names of an image's bitmaps are unique, whoever made them.",
        remedy: "choose another name, or remove the other bitmap first")
    case .bitmapInconsistent:
      ProblemType(
        code, 409, "The bitmap can't be used",
        """
        It missed changes, because the program that recorded it was killed or because one changed the image that keeps \
        no bitmaps; or it has parts that aren't understood. What it says is worth nothing.
        """,
        remedy: "remove it, and add a new one; what counts from it needs a full copy or a comparison first")
    case .bitmapLimit:
      ProblemType(
        code, 409, "More would be recorded than may be",
        "Each bitmap that records takes memory, and time from every write of the guest. The detail names both numbers.",
        remedy: """
          disable or remove bitmaps that nobody needs, take a coarser granularity, or raise `trackingMemory` in the \
          configuration
          """)
    default:
      ProblemType(
        code, 422, "The bitmaps don't fit each other",
        """
        Bitmaps are merged if they are of disks of one size, and if the source isn't coarser than the target: else more \
        would be marked than has changed.
        """,
        remedy: "merge into a bitmap with the granularity of the coarsest source, of a disk of the same size")
    }
  }
}
