import EventLoops
import Glibc
import Testing

@Suite struct FolderTests {
  /// A folder `inside` with a file, and a secret beside it.
  private func makeTree() throws -> (TemporaryFolder, Folder) {
    let tree = try TemporaryFolder()
    try #require(mkdir(tree.file("inside"), 0o700) == 0)
    try #require(mkdir(tree.file("inside/sub"), 0o700) == 0)
    try tree.makeFile("secret", [1])
    try tree.makeFile("inside/disk", [2, 3])
    return (tree, try Folder(path: tree.file("inside")))
  }

  @Test func filesBeneathAreOpened() throws {
    let (tree, folder) = try makeTree()
    #expect(try folder.openFile("disk").status().byteCount == 2)
    #expect(try folder.openFile("sub/../disk").status().byteCount == 2)
    try #require(symlink("../disk", tree.file("inside/sub/link")) == 0)
    #expect(try folder.openFile("sub/link", .init(access: .readWrite)).status().byteCount == 2)
  }

  @Test func waysOutAreRefused() throws {
    let (tree, folder) = try makeTree()
    try #require(symlink(tree.file("secret"), tree.file("inside/absolute")) == 0)
    try #require(symlink("../secret", tree.file("inside/climbing")) == 0)
    try #require(symlink("..", tree.file("inside/up")) == 0)
    let paths = ["../secret", "sub/../../secret", tree.file("inside/disk"), "absolute", "climbing", "up/secret"]
    for path in paths {
      #expect(throws: SystemError(EXDEV, "\(path) leads out of its folder")) { try folder.openFile(path) }
    }
    let magic = try Folder(path: "/proc/self")
    #expect(throws: SystemError.self) { try magic.openFile("fd/0") }
    #expect(throws: SystemError.self) { try folder.openFile("../new", .init(access: .readWrite, createMode: 0o600)) }
    #expect(access(tree.file("new"), F_OK) != 0)
  }

  @Test func whatIsNoRegularFileIsRefused() throws {
    let (tree, folder) = try makeTree()
    try #require(mkfifo(tree.file("inside/fifo"), 0o600) == 0)
    #expect(throws: SystemError(ENXIO, "fifo is a FIFO, not a regular file")) { try folder.openFile("fifo") }
    #expect(throws: SystemError(EISDIR, "sub is a folder, not a regular file")) { try folder.openFile("sub") }
    #expect(throws: SystemError(EISDIR, "sub")) { try folder.openFile("sub", .init(access: .readWrite)) }
    #expect(throws: SystemError(ENOENT, "nothing")) { try folder.openFile("nothing") }
    let devices = try Folder(path: "/dev")
    #expect(throws: SystemError(ENXIO, "null is a character device, not a regular file")) {
      try devices.openFile("null", .init(allowsBlockDevice: true))
    }
  }

  @Test func creationIsExclusive() throws {
    let (tree, folder) = try makeTree()
    let options = Folder.FileOptions(access: .readWrite, createMode: 0o640)
    #expect(try folder.openFile("sub/new", options).status().kind == .regular)
    #expect(throws: SystemError(EEXIST, "sub/new")) { try folder.openFile("sub/new", options) }
    try #require(symlink("nowhere", tree.file("inside/dangling")) == 0)
    #expect(throws: SystemError(EEXIST, "dangling")) { try folder.openFile("dangling", options) }
  }

  @Test func entriesWithoutATypeAreLookedAt() throws {
    let (tree, folder) = try makeTree()
    try #require(symlink("disk", tree.file("inside/link")) == 0)
    try #require(mkfifo(tree.file("inside/fifo"), 0o600) == 0)
    let kinds: [String: FolderEntry.Kind] = ["disk": .file, "sub": .folder, "link": .other, "fifo": .other]
    for (name, kind) in kinds {
      var entry = dirent()
      entry.d_type = UInt8(DT_UNKNOWN)
      withUnsafeMutableBytes(of: &entry.d_name) { $0.copyBytes(from: name.utf8) }
      #expect(try folder.kind(of: entry) == kind, "\(name)")
    }
    var gone = dirent()
    withUnsafeMutableBytes(of: &gone.d_name) { $0.copyBytes(from: "gone".utf8) }
    #expect(try folder.kind(of: gone) == nil)
    #expect(try folder.entries(limit: 9) == kinds.sorted { $0.key < $1.key }.map { FolderEntry(name: $0, kind: $1) })
  }

  /// File systems without flags of `renameat2`: with hard links, and without.
  @Test(arguments: [0, EPERM, EOPNOTSUPP])
  func renamingWithoutReplacingNeedsNoFlag(_ refusalOfLinks: Int32) throws {
    let (tree, plain) = try makeTree()
    var calls = FolderCalls.kernel
    calls.renameExclusively = { _, _, _, _ in EINVAL }
    if refusalOfLinks != 0 { calls.link = { _, _, _, _ in refusalOfLinks } }
    let folder = plain.making(calls)
    try folder.rename("disk", to: "sub/moved", isReplacing: false)
    #expect(access(tree.file("inside/disk"), F_OK) != 0)
    #expect(try folder.openFile("sub/moved").status().byteCount == 2)
    try tree.makeFile("inside/other", [9])
    #expect(throws: SystemError(EEXIST, "sub/moved")) {
      try folder.rename("other", to: "sub/moved", isReplacing: false)
    }
    #expect(try folder.openFile("sub/moved").status().byteCount == 2)
    #expect(try folder.openFile("other").status().byteCount == 1)
    #expect(throws: SystemError.self) { try folder.rename("gone", to: "new", isReplacing: false) }
    // A folder has no second name.
    try folder.rename("sub", to: "under", isReplacing: false)
    #expect(try folder.openFile("under/moved").status().byteCount == 2)
    try folder.rename("other", to: "under/moved", isReplacing: true)
    #expect(try folder.openFile("under/moved").status().byteCount == 1)
  }

  @Test func renamingFailsForWhatIsNoMatterOfFlags() throws {
    let (tree, plain) = try makeTree()
    defer { withExtendedLifetime(tree) {} }
    var calls = FolderCalls.kernel
    calls.renameExclusively = { _, _, _, _ in EIO }
    calls.link = { _, _, _, _ in 0 }
    #expect(throws: SystemError(EIO, "new")) { try plain.making(calls).rename("disk", to: "new", isReplacing: false) }
  }

  @Test func synchronizingToleratesOnlyWhatTheFileSystemDoesntKnow() throws {
    let (tree, plain) = try makeTree()
    defer { withExtendedLifetime(tree) {} }
    #expect(try plain.synchronize())
    var calls = FolderCalls.kernel
    for code in [EINVAL, EOPNOTSUPP] {
      calls.synchronize = { _ in code }
      #expect(try !plain.making(calls).openFolder("sub").synchronize())
    }
    calls.synchronize = { _ in EIO }
    #expect(throws: SystemError(EIO)) { try plain.making(calls).synchronize() }
  }
}
