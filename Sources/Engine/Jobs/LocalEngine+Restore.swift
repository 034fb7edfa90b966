import BlockCore
import Buffers
import Descriptors
import EventLoops
import Failures
import Glibc
import Model
import Qcow2
import Repositories

extension LocalEngine {
  package func restore(_ order: RestoreOrder, control: any JobControl) async throws -> RestoreReport {
    try await onLoop(for: control.job, in: order.backup.repository.lane) { [self] loop in
      let stored = try await open(order.backup.repository, on: loop).stored(order.backup)
      let reader = "restore job \(control.job)"
      let hashes = try await noting(stored, reader) { try await stored.openHashes(work: work) }
      return try await closing([hashes.device]) {
        let data = try await noting(stored, reader) { try await stored.openData() }
        return try await closing([data]) {
          let reading = RestoreReading(
            stored: stored, hashes: hashes.reader, data: data, loop: loop, control: control)
          let (written, mode) = try await restore(reading, to: order.target, order.mode)
          return RestoreReport(virtualSize: stored.manifest.virtualSize, writtenBytes: written, mode: mode)
        }
      }
    }
  }

  /// Returns the bytes that were written because they aren't zero, and what was written at all.
  nonisolated(nonsending)
    private func restore(
      _ reading: RestoreReading, to target: RestoreOrder.Target, _ mode: RestoreMode
    ) async throws -> (UInt64, RestoreMode)
  {
    switch target {
    case .newFile(let path, let format): (try await restore(reading, toNewFile: path, format), .all)
    case .image(let location): try await restore(reading, over: location, mode)
    case .nbd(let uri, let targetIsZero):
      (try await restore(reading, toExport: uri, targetIsZero: targetIsZero), .all)
    }
  }

  /// - Parameter regions: of the backup, that are to be written; nil: all.
  nonisolated(nonsending)
    private func copy(
      _ reading: RestoreReading, to target: any BlockDevice, _ name: String, targetIsZero: Bool,
      regions: DifferingRegions? = nil
    ) async throws -> UInt64
  {
    let (stored, loop, control) = (reading.stored, reading.loop, reading.control)
    let writer = TargetWriter(target, name: name, zeroes: targetIsZero ? .leave : .write, control: control)
    let sink = RestoreSink(stored.comparison(reading.hashes), target: writer)
    let source = stored.dataName
    try await noting(stored, "restore job \(control.job)", at: { sink.difference }) {
      try await run(
        from: reading.data, byteCount: stored.manifest.virtualSize, regions: regions, to: sink, loop, control
      ) { DomainError($0, of: source, damage: .backupCorrupt) }
    }
    return writer.writtenByteCount
  }

  // MARK: To a new file

  /// What the work file of a restore would be called without its writer and job; hidden, whatever the target's name.
  static let restoreWorkName = ".restore"

  /// Fills a hidden work file beside the target, makes it durable, and gives it its name only then.
  nonisolated(nonsending)
    private func restore(
      _ reading: RestoreReading, toNewFile path: String, _ format: DiskFormat
    ) async throws -> UInt64
  {
    let (loop, control) = (reading.loop, reading.control)
    let workName = PartFileName(target: Self.restoreWorkName, writer: configuration.writer, job: control.job).text
    let (place, folder) = try await loop.blocking(about: path, in: .folder(of: path)) { [imageFolders] in
      try imageFolders.openTarget(path)
    }
    let files = configuration.openFiles(folder)
    return try await attempt {
      let file = try await loop.blocking(about: path) {
        let file = try files.createFile(workName)
        // A file system that can't make it durable refuses here, before the copying.
        try files.synchronize(file)
        return file
      }
      let written = try await fill(file, through: files, reading, path, format)
      try await control.checkpoint()
      try await loop.blocking(about: path) { try Self.publish(workName, to: place, path, files) }
      control.log(.info, "restored to \(path)")
      return written
    } orCleanUp: {
      await loop.blocking {
        do throws(SystemError) {
          _ = try files.removeIfPresent(workName)
        } catch {
          control.log(.warning, "the work file \(workName) beside \(path) couldn't be removed: \(error)")
        }
      }
    }
  }

  nonisolated(nonsending)
    private func fill(
      _ file: FileDescriptor, through files: any FolderFiles, _ reading: RestoreReading, _ path: String,
      _ format: DiskFormat
    ) async throws -> UInt64
  {
    let byteCount = reading.stored.manifest.virtualSize
    let device = try await telling(about: path) {
      // A raw file of an odd size can't be written past the page cache to its end.
      let direct = format == .qcow2 || byteCount % UInt64(pageByteCount) == 0
      return try await files.device(over: file, isReadOnly: false, direct: direct, on: reading.loop)
    }
    return try await closing([device]) {
      let target: any BlockDevice
      switch format {
      case .raw:
        try await telling(about: path) { try await device.resize(to: byteCount) }
        target = device
      case .qcow2: target = try await makeImage(over: device, byteCount: byteCount, name: path)
      }
      return try await closing([target]) {
        let written = try await copy(reading, to: target, path, targetIsZero: true)
        try await telling(about: path) {
          try await target.flush()
          try await target.close()
        }
        return written
      }
    }
  }

  /// Blocks.
  private static func publish(
    _ workName: String, to target: RestorePlace, _ path: String, _ files: any FolderFiles
  ) throws {
    let file = try files.openFile(workName, isReadOnly: false)
    defer { file.close() }
    try files.synchronize(file)
    try target.requireInPlace()
    do throws(SystemError) {
      try files.rename(workName, to: target.name, isReplacing: false)
    } catch {
      if error.code == EEXIST { throw RestorePlace.isTaken(path) }
      // It may have happened all the same.
      if try files.status(of: target.name)?.inode == file.status().inode { try files.removeFile(target.name) }
      throw error
    }
    do {
      try files.synchronizeFolder(".")
      try target.requireInPlace()
    } catch {
      // Not known to last, or not to be found: it must not look finished.
      try? files.removeFile(target.name)
      throw error
    }
  }

  // MARK: Over what is there

  nonisolated(nonsending)
    private func restore(
      _ reading: RestoreReading, over location: ImageLocation, _ mode: RestoreMode
    ) async throws -> (UInt64, RestoreMode)
  {
    let graph = try await opener(on: reading.loop).openToWrite(
      location, tracking: .recorded,
      for: ImageUse(.job("restore", reading.control.job), needs: .alone))
    if let repair = graph.image.repair { reading.control.log(.warning, repair) }
    let byteCount = reading.stored.manifest.virtualSize
    return try await closing([graph.slot]) {
      try Self.checkSize(
        graph.slot, graph.name, location.format == .qcow2 ? Qcow2Image.byteCount(holding: byteCount) : byteCount,
        remedy: "restore to a new file, or resize the image with qemu-img resize")
      let choice = try await choice(mode, of: reading.hashes, over: graph.slot, graph.name)
      reading.control.log(.info, "\(choice.mode == .all ? "everything" : "what differs") is written: \(choice.why)")
      let regions =
        choice.mode == .all
        ? nil
        : DifferingRegions(of: graph.slot, graph.name, from: reading.hashes, reading.stored.hashesName, work: work)
      let written = try await overwrite(graph.slot, graph.name, reading, targetIsZero: false, regions: regions)
      try await reading.loop.blocking(about: graph.name) { try graph.image.requireInPlace() }
      return (written, choice.mode)
    }
  }

  nonisolated(nonsending)
    private func restore(
      _ reading: RestoreReading, toExport uri: String, targetIsZero: Bool
    ) async throws -> UInt64
  {
    let export = try await peers.open(uri, isReadOnly: false, for: .copy, on: reading.loop)
    return try await closing([export]) {
      guard !export.isReadOnly else {
        throw DomainError(
          .targetMismatch, "\(uri) is exported read-only", remedy: "have its server export it to be written")
      }
      try Self.checkSize(
        export, uri, reading.stored.manifest.virtualSize,
        remedy: "export a disk of exactly the backup's size, or restore to a file")
      return try await overwrite(export, uri, reading, targetIsZero: targetIsZero)
    }
  }

  private static func checkSize(
    _ target: any BlockDevice, _ name: String, _ byteCount: UInt64, remedy: String
  ) throws(DomainError) {
    guard target.byteCount == byteCount else {
      throw DomainError(
        .targetMismatch, "\(name) is of \(target.byteCount) bytes, and the backup of \(byteCount)", remedy: remedy)
    }
  }

  /// Fills what holds something else, and makes it durable; closes it.
  nonisolated(nonsending)
    private func overwrite(
      _ target: any BlockDevice, _ name: String, _ reading: RestoreReading, targetIsZero: Bool,
      regions: DifferingRegions? = nil
    ) async throws -> UInt64
  {
    try await reading.control.willOverwrite()
    do {
      let written = try await copy(reading, to: target, name, targetIsZero: targetIsZero, regions: regions)
      try await telling(about: name) {
        try await target.flush()
        try await target.close()
      }
      reading.control.log(.info, "restored over \(name)")
      return written
    } catch {
      throw Self.spoiled(name, error, reading.control)
    }
  }

  /// The error, with what it means for what was being overwritten.
  private static func spoiled(_ name: String, _ error: any Error, _ control: any JobControl) -> any Error {
    let text =
      "\(name) now holds a mixture of what it held and of the backup, and is of no use until it is restored again"
    guard var error = error as? DomainError else {
      control.log(.error, text)
      return error
    }
    error.detail += "; \(text)"
    error.remedy = [error.remedy, "restore over it again before using it"].compactMap { $0 }.joined(
      separator: "; ")
    return error
  }
}

/// A stored backup that is open to be restored.
struct RestoreReading {
  let stored: StoredBackup
  let hashes: HashTreeReader
  let data: any BlockDevice
  let loop: EventLoop
  let control: any JobControl
}
