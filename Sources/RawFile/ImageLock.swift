import BlockCore
import Descriptors
import EventLoops
import Glibc

/// What a user of an image may do with it: QEMU's permissions, by their numbers in its lock bytes.
package struct ImagePermissions: OptionSet, Hashable, Sendable {
  package let rawValue: UInt8
  package init(rawValue: UInt8) { self.rawValue = rawValue }

  /// Reads, and relies on what it read to make sense.
  package static let consistentRead = ImagePermissions(rawValue: 1 << 0)
  package static let write = ImagePermissions(rawValue: 1 << 1)
  /// Writes that don't change what a guest sees.
  package static let writeUnchanged = ImagePermissions(rawValue: 1 << 2)
  package static let resize = ImagePermissions(rawValue: 1 << 3)

  /// Single permissions with their numbers, in order.
  static let numbered: [(number: UInt64, permission: ImagePermissions)] = (0..<4).map {
    ($0, ImagePermissions(rawValue: 1 << UInt8($0)))
  }

  /// In words, in a fixed order.
  package var names: [String] {
    zip(Self.numbered, ["consistent read", "write", "write unchanged", "resize"])
      .filter { contains($0.0.permission) }.map(\.1)
  }
}

/// The claim that a process makes on an image file, as QEMU makes it.
///
/// Byte 100 + i of the file, locked: "I hold permission i". Byte 200 + i: "I don't share permission i". All are
/// shared open-file-description locks; a program sets its own first and then looks whether others' contradict, so
/// that of two at most one gets through. Never plain POSIX locks: any close of the file drops those.
package struct ImageLock: Hashable, Sendable {
  package var held: ImagePermissions
  /// What no other process may hold meanwhile.
  package var unshared: ImagePermissions

  package init(held: ImagePermissions, unshared: ImagePermissions) {
    self.held = held
    self.unshared = unshared
  }

  /// Reads an image that no program changes meanwhile; other such readers are welcome.
  package static let reader = ImageLock(held: .consistentRead, unshared: [.write, .resize])
  /// Has the image for itself.
  package static let writer = ImageLock(
    held: [.consistentRead, .write, .resize], unshared: [.write, .resize])

  /// Whether a user with this claim and one with `other` can't have the image at the same time.
  package func excludes(_ other: ImageLock) -> Bool {
    !unshared.isDisjoint(with: other.held) || !held.isDisjoint(with: other.unshared)
  }

  private static let heldBase: UInt64 = 100
  private static let unsharedBase: UInt64 = 200

  /// The lock bytes of this claim.
  var bytes: [UInt64] {
    ImagePermissions.numbered.filter { held.contains($0.permission) }.map { Self.heldBase + $0.number }
      + ImagePermissions.numbered.filter { unshared.contains($0.permission) }.map { Self.unsharedBase + $0.number }
  }

  /// What all other users of the file claim together, in this process and others. Blocks.
  package static func claimedElsewhere(on file: FileDescriptor) throws(SystemError) -> ImageLock {
    var others = ImageLock(held: [], unshared: [])
    for (number, permission) in ImagePermissions.numbered {
      if try file.isLockedElsewhere(byte: heldBase + number) { others.held.insert(permission) }
      if try file.isLockedElsewhere(byte: unsharedBase + number) { others.unshared.insert(permission) }
    }
    return others
  }

  /// Makes this claim on the file, until it is closed. Blocks, but not on other claims.
  /// - Throws: `locked`, with what stands against it and what to do; nothing is locked then.
  func take(on file: FileDescriptor) throws(BlockError) {
    do throws(SystemError) {
      for byte in bytes { try file.lockShared(byte: byte) }
      guard let conflict = conflict(with: try Self.claimedElsewhere(on: file)) else { return }
      throw SystemError(EWOULDBLOCK, conflict)
    } catch {
      release(on: file)
      // An exclusive lock on our bytes isn't QEMU's doing, but it says the same.
      guard error.code == EWOULDBLOCK || error.code == EACCES else {
        throw BlockError(errno: error.code, .open, cause: "the image can't be locked")
      }
      throw BlockError(.locked(error.detail ?? Self.explain("holds a lock on this image")), .open)
    }
  }

  /// Gives the claim up at once, even if a forked process shares the open file for a moment. Blocks.
  func release(on file: FileDescriptor) {
    for byte in bytes { try? file.unlock(byte: byte) }
  }

  /// Why this claim and `others` exclude each other; nil if they don't.
  func conflict(with others: ImageLock) -> String? {
    let resented = unshared.intersection(others.held)
    if !resented.isEmpty {
      return Self.explain("holds the \(resented.list) on this image")
    }
    let refused = held.intersection(others.unshared)
    if !refused.isEmpty {
      return Self.explain("does not share the \(refused.list) on this image")
    }
    return nil
  }

  private static func explain(_ what: String) -> String {
    "another process (probably QEMU) \(what): detach the image there, shut the guest down, or back it up live "
      + "through that process"
  }
}

extension ImagePermissions {
  /// “write permission”, “write and resize permissions”.
  fileprivate var list: String {
    names.joined(separator: " and ") + (names.count == 1 ? " permission" : " permissions")
  }
}
