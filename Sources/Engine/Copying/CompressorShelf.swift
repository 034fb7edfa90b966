import Locks
import Qcow2

/// Lends codec contexts to the workers, one to each at a time.
package final class CompressorShelf: Sendable {
  private let make: @Sendable () throws -> ClusterCompressor
  private let free = Lock<[ClusterCompressor]>([])

  package init(level: Int, geometry: ChunkGeometry = .standard) throws {
    make = { try ClusterCompressor(type: .zstd, level: level, clusterByteCount: geometry.cluster) }
    // The level is known to be good from here on.
    let first = try make()
    free.withLock { $0 = [first] }
  }

  func with<Result>(_ body: (ClusterCompressor) throws -> Result) rethrows -> Result? {
    guard let compressor = free.withLock({ $0.popLast() }) ?? (try? make()) else { return nil }
    defer { free.withLock { $0.append(compressor) } }
    return try body(compressor)
  }
}
