import CLiburing
import Glibc

/// The system calls on names that file systems differ in most. Tests put others in their place, to stand for such a
/// file system. Each returns 0 or an errno.
package struct FolderCalls: Sendable {
  package typealias NamePair = @Sendable (_ from: Int32, _ old: String, _ to: Int32, _ new: String) -> Int32

  /// `renameat2` with RENAME_NOREPLACE. NFS, CIFS, Gluster and many FUSE file systems answer EINVAL to any flag.
  package var renameExclusively: NamePair
  /// `linkat`. FAT, exFAT, CIFS and some FUSE file systems have no hard links.
  package var link: NamePair
  /// `fsync` of a folder. Some network and FUSE file systems answer EINVAL or ENOTSUP.
  package var synchronize: @Sendable (_ folder: Int32) -> Int32
  /// Whether a file can be made in the folder.
  package var checkWritable: @Sendable (_ folder: Int32) -> Int32

  package static let kernel = FolderCalls(
    renameExclusively: { from, old, to, new in
      result(of: shim_renameat2(from, old, to, new, UInt32(shim_rename_noreplace)))
    },
    link: { from, old, to, new in result(of: linkat(from, old, to, new, 0)) },
    synchronize: { result(of: fsync($0)) },
    checkWritable: { result(of: faccessat($0, ".", W_OK, 0)) })

  private static func result(of call: Int32) -> Int32 { call == 0 ? 0 : errno }
}

// What is the same everywhere, made of calls that aren't.
extension Folder {
  /// Gives the file or folder a new name.
  ///
  /// With `isReplacing` that is one step. Without, it is `renameat2` with RENAME_NOREPLACE; where the file system
  /// doesn't know that flag, a file gets the new name as a hard link first and loses the old name then: a crash
  /// between the two leaves both names. Where there are no hard links either, or for a folder, the new name is looked
  /// up before a plain rename: only there another program could take the name between the two steps and lose its file.
  /// - Throws: EEXIST if the new name is taken and `isReplacing` is false.
  package func rename(_ path: String, to target: String, isReplacing: Bool) throws(SystemError) {
    let (from, old) = try parent(of: path)
    let (to, new) = try parent(of: target)
    let (source, place) = (from.descriptor.rawValue, to.descriptor.rawValue)
    if isReplacing {
      guard renameat(source, old, place, new) == 0 else { throw SystemError(errno, target) }
      return
    }
    var code = calls.renameExclusively(source, old, place, new)
    guard Self.isUnsupported(code) else {
      if code != 0 { throw SystemError(code, target) }
      return
    }
    code = calls.link(source, old, place, new)
    switch code {
    case 0:
      guard unlinkat(source, old, 0) == 0 else { throw SystemError(errno, path) }
    case _ where Self.isUnsupported(code) || code == EPERM || code == EMLINK:
      guard try to.isFree(new) else { throw SystemError(EEXIST, target) }
      guard renameat(source, old, place, new) == 0 else { throw SystemError(errno, target) }
    default: throw SystemError(code, target)
    }
  }

  /// Makes the names in the folder durable.
  /// - Returns: false where the file system doesn't know the call: then its own journal, or its server, decides when
  ///   names last, and nothing more can be done here.
  package func synchronize() throws(SystemError) -> Bool {
    let code = calls.synchronize(descriptor.rawValue)
    if Self.isUnsupported(code) { return false }
    guard code == 0 else { throw SystemError(code) }
    return true
  }

  /// False where the file system is mounted to be read only, or takes nothing of this user's.
  package func isWritable() throws(SystemError) -> Bool {
    let code = calls.checkWritable(descriptor.rawValue)
    if [EROFS, EACCES, EPERM].contains(code) { return false }
    guard code == 0 else { throw SystemError(code) }
    return true
  }

  /// What a file system says to a call, or to a flag of it, that it doesn't have.
  private static func isUnsupported(_ code: Int32) -> Bool { [EINVAL, EOPNOTSUPP, ENOSYS].contains(code) }

  /// Whether nothing in this folder has the name, not even a dangling link.
  private func isFree(_ name: String) throws(SystemError) -> Bool {
    var status = stat()
    if fstatat(descriptor.rawValue, name, &status, AT_SYMLINK_NOFOLLOW) == 0 { return false }
    guard errno == ENOENT else { throw SystemError(errno, name) }
    return true
  }
}
