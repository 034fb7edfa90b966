import BlockCore
import EventLoops
import Foundation
import Glibc
import Model
import Qcow2

// The table that turns what went wrong underneath into what a person reads. Each names the file.

extension DomainError {
  /// - Parameters:
  ///   - file: what the person knows it by.
  ///   - damage: the code for contents that contradict their format.
  package init(_ error: BlockError, of file: String, damage: ProblemCode = .imageCorrupt) {
    let place = error.range.map { " at bytes \($0)" } ?? ""
    let cause = error.cause.map { " (\($0))" } ?? ""
    switch error.kind {
    case .noSpace:
      self.init(
        .storageFull, "\(file): no space is left on its storage\(cause)",
        remedy: "free space on the storage that holds it, then try again")
    case .io(errno: EFBIG):
      self.init(SystemError(EFBIG), of: file)
    case .locked(let text):
      self.init(.imageLocked, "\(file) is in use: \(text)", remedy: "shut down whoever has it open, then try again")
    case .corrupt(let text):
      self.init(damage, "\(file) is damaged\(place): \(text)\(cause)", remedy: Self.remedy(forDamage: damage))
    case .readOnly:
      self.init(
        .ioError, "\(file) can't be written: it is read-only\(cause)",
        remedy: "make it, and the storage or server that has it, writable")
    case .pointInTimeLost:
      self.init(
        .pointInTimeLost, "\(file): what it held at the moment can't be told any more\(cause)", remedy: "begin again")
    case .io, .outOfRange, .misaligned, .notSupported, .notFast, .latchedFailed, .closed:
      self.init(
        .ioError, "\(file): \(error.operation.rawValue)\(place) failed: \(error.kind)\(cause)",
        remedy: file.contains("://")
          ? "look into the log of the NBD server" : "look into the kernel's log for errors of the storage below it")
    case .cancelled:
      self.init(.cancelled, "\(file): the work on it was cancelled")
    }
  }

  private static func remedy(forDamage code: ProblemCode) -> String {
    code == .backupCorrupt
      ? "use another backup; this one's files changed after they were written"
      : "check it with qemu-img check, and repair or restore it"
  }

  package init(_ error: SystemError, of file: String) {
    let text = String(cString: strerror(error.code))
    switch error.code {
    case ENOENT:
      self.init(
        .sourceNotFound, "\(file) doesn't exist", remedy: "check the path, and the links and folders on the way")
    case ENOTDIR:
      self.init(
        .sourceNotFound, "\(file) can't exist: a name on the way to it is no folder", remedy: "check the path")
    case ELOOP:
      self.init(
        .sourceNotFound, "\(file) leads nowhere: there are too many links on the way", remedy: "check the links")
    case ENAMETOOLONG:
      self.init(.invalidField, "\(file): a name in the path is too long", remedy: "use shorter names")
    case EXDEV:
      self.init(
        .pathOutsideFolders, "\(file) leads out of the allowed folders",
        remedy: "move it beneath an allowed folder, or allow its folder in the configuration")
    case EISDIR, ENXIO, ENODEV:
      self.init(.sourceNotAFile, "\(file) is neither a regular file nor an allowed device: \(error.detail ?? text)")
    case EFBIG:
      self.init(
        .storageFull, "\(file): this file system can't hold a file that long",
        remedy: "use a file system without that limit")
    case EINVAL, EOPNOTSUPP, ENOSYS:
      self.init(
        .ioError, "\(file): its file system doesn't support what is asked of it: \(error)",
        remedy: "use another file system, or mount this one with other options")
    case ENOSPC, EDQUOT:
      self.init(
        .storageFull, "\(file): no space is left on its storage (\(text))",
        remedy: "free space on the storage that holds it, then try again")
    case EROFS:
      self.init(
        .permissionDenied, "\(file): its storage is mounted read-only", remedy: "mount it to be written, then try again"
      )
    case EMFILE, ENFILE:
      self.init(
        .ioError, "\(file) can't be opened: as many files are open as are allowed (\(text))",
        remedy: "raise the limit of open files (LimitNOFILE, ulimit -n), or have fewer jobs and exports at one time")
    case ENOMEM:
      self.init(.ioError, "\(file): \(error)", remedy: "give the server's host, or its group of processes, more memory")
    case ESHUTDOWN:
      self.init(.stopping, "the server is stopping")
    case EACCES, EPERM:
      self.init(
        .permissionDenied, "\(file): \(text)",
        remedy: "give the server's user access to it, and to the folders above it")
    default:
      self.init(.ioError, "\(file): \(error)", remedy: "look into the kernel's log for errors of the storage below it")
    }
  }

  package init(_ error: Qcow2Error, of file: String, damage: ProblemCode = .imageCorrupt) {
    switch error {
    case .device(let error): self.init(error, of: file, damage: damage)
    case .notQcow2:
      self.init(
        damage == .backupCorrupt ? damage : .formatMismatch, "\(file) isn't a qcow2 image: \(error)",
        remedy: "state the format that it really has")
    case .unsupportedVersion, .unsupportedFeature:
      self.init(.formatUnsupported, "\(file): \(error)", remedy: "convert it with qemu-img convert")
    case .damaged:
      self.init(damage, "\(file) is damaged: \(error)", remedy: Self.remedy(forDamage: damage))
    case .backingFailed(_, let cause as DomainError): self = cause
    case .backingFailed(_, let cause as Qcow2Error): self.init(cause, of: file, damage: damage)
    case .dataFileFailed(_, let cause as DomainError): self = cause
    case .backingMissing, .backingFailed, .dataFileMissing, .dataFileFailed:
      self.init(.backingRefused, "\(file): \(error)")
    case .chainTooDeep, .tablesTooLarge:
      self.init(.backingRefused, "\(file): \(error)", remedy: "merge some of them with qemu-img commit")
    case .notWritable, .invalidOption:
      self.init(.formatUnsupported, "\(file): \(error)")
    }
  }

  /// Whatever was thrown, in the domain's words.
  package init(any error: any Error, of file: String, damage: ProblemCode = .imageCorrupt) {
    switch error {
    case let error as DomainError: self = error
    case let error as BlockError: self.init(error, of: file, damage: damage)
    case let error as SystemError: self.init(error, of: file)
    case let error as Qcow2Error: self.init(error, of: file, damage: damage)
    default: self.init(.internalError, "\(file): \(error)")
    }
  }
}

extension BlockError {
  /// What a reader of a stored backup is told where opening its files, or reading its hashes, failed.
  package init(any error: any Error, _ operation: Operation, _ range: ByteRange) {
    switch error {
    case is CancellationError: self.init(.cancelled, operation, range)
    case let error as DomainError where error.code.isDamageOfABackup:
      self.init(.corrupt(error.detail), operation, range)
    case let error as DomainError: self.init(.io(errno: EIO), operation, range, cause: error.detail)
    default: self.init(.io(errno: EIO), operation, range, cause: "\(error)")
    }
  }

  /// True if the storage failed, rather than what is stored there being wrong.
  package var isStorageFailure: Bool {
    switch kind {
    case .io, .noSpace, .locked, .latchedFailed, .closed, .cancelled: true
    case .pointInTimeLost, .outOfRange, .misaligned, .readOnly, .notSupported, .notFast, .corrupt: false
    }
  }
}

extension ProblemCode {
  /// Whether such a refusal is about the backup itself, and not about the storage that it lies on.
  package var isDamageOfABackup: Bool {
    switch self {
    case .backupCorrupt, .backupNotComplete, .imageCorrupt, .backingRefused, .formatUnsupported, .formatMismatch: true
    default: false
    }
  }
}
