import BlockCore
import BlockFilters
import Buffers
import Descriptors
import EventLoops
import Failures
import Glibc
import Model
import RawFile

/// What keeps the old bytes of one attached image: the filter that its writes pass while points in time are open, with
/// what it keeps them in.
final class CopyAside: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  let filter: CopyBeforeWrite
  private let store: FleecingStore
  private let pool: BufferPool
  private let loop: EventLoop

  /// - Parameters:
  ///   - source: what stands below the filter.
  ///   - temp: the store's to close.
  init(
    over source: any BlockDevice, temp: (any BlockDevice)?, _ shared: FleecingPlace, pool: BufferPool,
    on loop: EventLoop
  ) {
    let grain = CopyBeforeWrite.grainByteCount(
      for: source, temp: temp, atLeast: [UInt64(ChunkGeometry.standard.unit)])
    store = FleecingStore(
      grainByteCount: grain, memory: shared.memory, temp: temp, space: shared.space, pool: pool, on: loop)
    var options = CopyBeforeWrite.Options()
    options.guestWriteTimeout = shared.configuration.guestWriteTimeout
    filter = CopyBeforeWrite(source, store: store, options: options, pool: pool, on: loop)
    self.pool = pool
    self.loop = loop
  }

  /// Has memory ready for the first that the guest changes.
  nonisolated(nonsending)
    func stockUp() async
  {
    await loop.offload { [pool, grain = Int(store.grainByteCount)] in
      pool.stock(grain, count: FleecingStore.stockCount)
    }
  }

  /// Frees memory and temp, behind the caller's back: a temp that hangs holds up nobody's end.
  func close() {
    loop.start { [store] in try? await store.close() }
  }
}

/// What the images share that old bytes are kept in.
struct FleecingPlace: Sendable {
  let configuration: FleecingConfiguration
  let memory: FleecingMemory
  let space: FleecingSpace

  init(_ configuration: FleecingConfiguration) {
    self.configuration = configuration
    memory = FleecingMemory(limitByteCount: configuration.memoryByteCount)
    space = FleecingSpace(limitByteCount: configuration.tempByteCount)
  }

  /// Room that the folder must have for a temp, if it may become so large.
  private static let minimumByteCount: UInt64 = 64 << 20

  /// A temp without a name, that takes no space yet; nil where there is memory only.
  /// - Throws: `tempFull`
  nonisolated(nonsending)
    func makeTemp(for byteCount: UInt64, on loop: EventLoop) async throws -> (any BlockDevice)?
  {
    let grain = UInt64(ChunkGeometry.standard.unit)
    guard let folder = configuration.folder, configuration.tempByteCount >= grain else { return nil }
    let whole = ByteRange(offset: 0, length: max(byteCount, grain)).aligned(to: grain).length
    let size = min(whole, configuration.tempByteCount / grain * grain)
    let wanted = min(size, Self.minimumByteCount)
    do {
      let room = try await loop.blocking(about: folder, in: .folder(folder)) { () throws(SystemError) in
        guard mkdir(folder, 0o700) == 0 || errno == EEXIST else { throw SystemError(errno, folder) }
        var status = statvfs()
        guard statvfs(folder, &status) == 0 else { throw SystemError(errno, folder) }
        return UInt64(status.f_bavail) * UInt64(status.f_frsize)
      }
      guard room >= wanted else {
        throw DomainError(
          .tempFull,
          "\(folder) has \(room) bytes left for what guests change during a backup, and \(wanted) are wanted",
          remedy: "make room there, or set fleecingSize to what it may take")
      }
      let file = try await loop.blocking(about: folder, in: .folder(folder)) { () throws(SystemError) in
        let file = try FileDescriptor.unnamed(in: folder)
        do throws(SystemError) { try file.truncate(to: size) } catch {
          file.close()
          throw error
        }
        return file
      }
      return try await RawFile.open(file, RawFile.Options(isReadOnly: false, direct: true, locks: false), on: loop)
    } catch let error as BlockError {
      throw Self.unusable(folder, "\(error)")
    } catch let error as DomainError where error.code != .tempFull {
      throw Self.unusable(folder, error.detail)
    }
  }

  private static func unusable(_ folder: String, _ why: String) -> DomainError {
    DomainError(
      .ioError, "no temp for what guests change during a backup can be made in \(folder): \(why)",
      remedy: "let fleecingFolder be a folder that the server may write to")
  }
}
