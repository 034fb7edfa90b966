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
final class Fleecing: @unchecked Sendable {
  // Safe to hand over: confined to the loop of its image.

  let filter: CopyBeforeWrite
  private let store: FleecingStore
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
    self.loop = loop
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
    return try await tellingOfRoom(in: folder) {
      let file = try await loop.blocking(about: folder, in: .folder(folder)) { () throws(SystemError) in
        guard mkdir(folder, 0o700) == 0 || errno == EEXIST else { throw SystemError(errno, folder) }
        var room = statvfs()
        guard statvfs(folder, &room) == 0 else { throw SystemError(errno, folder) }
        guard UInt64(room.f_bavail) * UInt64(room.f_frsize) >= min(size, Self.minimumByteCount) else {
          throw SystemError(ENOSPC, folder)
        }
        let file = try FileDescriptor.unnamed(in: folder)
        do throws(SystemError) { try file.truncate(to: size) } catch {
          file.close()
          throw error
        }
        return file
      }
      return try await RawFile.open(file, RawFile.Options(isReadOnly: false, direct: true, locks: false), on: loop)
    }
  }
}

/// Names the folder; what has no room says that it is that of temps.
nonisolated(nonsending)
  private func tellingOfRoom<Result>(
    in folder: String, _ body: nonisolated(nonsending) () async throws -> Result
  ) async throws -> Result
{
  do {
    return try await telling(about: folder, body)
  } catch let error as DomainError where error.code == .storageFull {
    throw DomainError(
      .tempFull, "\(folder) has no room for what guests change during a backup", remedy: "make room there")
  }
}
