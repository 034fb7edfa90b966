/// Check an image's own metadata, and perhaps give back what it has lost.
package struct CheckOrder: Hashable, Sendable, Codable {
  package var image: ImageLocation
  /// Gives clusters back that are counted as used and aren't, if nothing worse is found.
  package var repairsLeaks: Bool

  package init(image: ImageLocation, repairsLeaks: Bool) {
    self.image = image
    self.repairsLeaks = repairsLeaks
  }
}

/// What a check found. An error of the storage is thrown instead: it says nothing about the image.
package struct CheckReport: Hashable, Sendable, Codable {
  /// Each a sentence that names the place; at most ``maximumFindingCount``, errors before leaks.
  package var findings: [String]
  /// More was found than is listed, or names in it are longer.
  package var truncated: Bool
  /// What makes the image unsafe to use.
  package var errorCount: Int
  /// Clusters that are lost to the image, and do no harm.
  package var leakCount: Int
  /// Leaked clusters that were given back.
  package var repairedLeakCount: Int
  /// Bytes of the image's file that were accounted for.
  package var checkedBytes: UInt64

  package static let maximumFindingCount = 100

  package init(
    findings: [String], truncated: Bool = false, errorCount: Int, leakCount: Int, repairedLeakCount: Int,
    checkedBytes: UInt64
  ) {
    self.findings = findings
    self.truncated = truncated
    self.errorCount = errorCount
    self.leakCount = leakCount
    self.repairedLeakCount = repairedLeakCount
    self.checkedBytes = checkedBytes
  }
}

/// Open an image read-write and keep it open, with the locks of a writer, until it is detached.
package struct AttachOrder: Hashable, Sendable, Codable {
  package var image: ImageID
  package var location: ImageLocation
  /// Nil: direct where the storage can do it.
  package var cache: CacheMode?
  /// Seconds for which locks that another program holds are waited for: those of a killed predecessor last as long as
  /// its requests are in the kernel.
  package var lockTimeout: Int

  package init(image: ImageID, location: ImageLocation, cache: CacheMode?, lockTimeout: Int) {
    self.image = image
    self.location = location
    self.cache = cache
    self.lockTimeout = lockTimeout
  }
}

/// Why an attached image is written no more until it is attached anew: what its storage holds isn't known.
package struct ImageFailure: Hashable, Sendable, Codable {
  package var image: ImageID
  /// In the block engine's words, such as "flush".
  package var operation: String
  /// Where in the file, in bytes, if it was about a place.
  package var offset: UInt64?
  /// The kernel's, where it was the kernel that refused.
  package var errno: Int32?
  package var detail: String

  package init(image: ImageID, operation: String, offset: UInt64?, errno: Int32?, detail: String) {
    self.image = image
    self.operation = operation
    self.offset = offset
    self.errno = errno
    self.detail = detail
  }
}

/// An image that is attached.
package struct AttachReceipt: Hashable, Sendable, Codable {
  package var virtualSize: UInt64
  package var cache: CacheMode

  package init(virtualSize: UInt64, cache: CacheMode) {
    self.virtualSize = virtualSize
    self.cache = cache
  }
}

/// What became of the bitmaps that the program has put into an image.
package struct TrackingRemoval: Hashable, Sendable, Codable {
  /// Names of those that are out of the image.
  package var removed: [String]
  /// Names of those that are still in it.
  package var left: [String]
  /// Why they are, or why it couldn't be told whether there are any; nil if nothing is left.
  package var failure: ProblemDetails?

  package init(removed: [String] = [], left: [String] = [], failure: ProblemDetails? = nil) {
    self.removed = removed
    self.left = left
    self.failure = failure
  }

  /// What a person types to remove what is left in the image at `path`.
  package func commands(path: String) -> [String] {
    left.map { "qemu-img bitmap -f qcow2 --remove \(Self.quoted(path)) \(Self.quoted($0))" }
  }

  /// For a shell.
  private static func quoted(_ text: String) -> String {
    "'" + text.replacing("'", with: "'\\''") + "'"
  }
}
