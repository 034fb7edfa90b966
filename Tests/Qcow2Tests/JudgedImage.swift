import BlockCore
import BlockTesting
import Testing

@testable import Qcow2

/// A sound image made by QEMU, whose tables are to be damaged, in a folder where QEMU judges it.
struct JudgedImage: Sendable {
  enum Kind: String, CaseIterable, Sendable, CustomTestStringConvertible {
    case version2, plain, snapshots, subclusters, bitmaps, dataFile

    var testDescription: String { rawValue }

    fileprivate var options: String {
      switch self {
      case .version2: "compat=0.10,cluster_size=4096"
      case .plain, .snapshots, .bitmaps: "cluster_size=4096"
      case .subclusters: "cluster_size=16384,extended_l2=on"
      case .dataFile: "cluster_size=4096,data_file="
      }
    }
  }

  static let guestByteCount: UInt64 = 4 << 20

  let folder: TemporaryFolder
  let file: SparseImage
  let dataFile: SparseImage?
  let header: Qcow2Header
  /// Entries of eight bytes that aren't zero, and some behind them, in the tables of each kind.
  let entries: [UInt64]

  nonisolated(nonsending)
    init(_ kind: Kind) async throws
  {
    folder = try TemporaryFolder()
    let path = folder.file("image")
    let hasDataFile = kind == .dataFile
    let options = kind.options + (hasDataFile ? folder.file("data") : "")
    try Qemu.image("create", "-q", "-f", "qcow2", "-o", options, path, "\(Self.guestByteCount)")
    if !hasDataFile { try Qemu.io(path, ["write -c -P 9 0 64k"]) }
    try Qemu.io(path, ["write -P 1 200k 100k"] + (kind == .version2 ? [] : ["write -z 220k 20k"]))
    if kind == .snapshots || kind == .version2 {
      try Qemu.image("snapshot", "-c", "one", path)
      try Qemu.io(path, ["write -P 5 210k 40k"])
    }
    if kind == .bitmaps { try Qemu.image("bitmap", "--add", "-g", "64k", path, "monday") }
    try Qemu.io(path, ["write -P 2 2500k 30k"])
    file = try SparseImage(contentsOf: path)
    dataFile = hasDataFile ? try SparseImage(contentsOf: folder.file("data")) : nil
    header = try await Qcow2Header.read(from: MemoryDevice(file), pool: pool)
    entries = Self.entries(of: header, in: file)
  }

  private static func entries(of header: Qcow2Header, in file: SparseImage) -> [UInt64] {
    var tables: [UInt64] = [header.l1Offset, header.refcountTableOffset]
    if header.snapshotCount > 0 { tables += [header.snapshotsOffset, file.integer(at: header.snapshotsOffset)] }
    if let directory = try? header.bitmapDirectory() {
      tables += [directory.offset, file.integer(at: directory.offset)]
    }
    var entries = tables.flatMap { table in (0..<8).map { table + $0 * 8 } }
    for index in 0..<UInt64(header.l1EntryCount) {
      let table = file.integer(at: header.l1Offset + index * 8) & L2Entry.offsetMask
      if table != 0 { entries += (0..<header.clusterByteCount / 8).map { table + $0 * 8 } }
    }
    // Of empty entries a few are enough.
    let used = entries.filter { file.integer(at: $0) != 0 }
    return used + entries.filter { file.integer(at: $0) == 0 }.prefix(used.count / 2)
  }

  /// Entries of the first L2 table that name a cluster of data.
  var dataEntries: [UInt64] {
    entries.filter { entry in
      let raw = L2Entry(raw: file.integer(at: entry))
      return entry / header.clusterByteCount == l2 / header.clusterByteCount && raw.host != 0 && raw.isExclusive
        && raw.raw & 1 == 0
    }
  }
  var l2: UInt64 { file.integer(at: header.l1Offset) & L2Entry.offsetMask }

  nonisolated(nonsending)
    func open(_ damaged: SparseImage) async throws -> Qcow2Image
  {
    try await openImage(
      MemoryDevice(damaged), isReadOnly: true,
      dataFile: dataFile.map { .device(MemoryDevice($0)) } ?? .none)
  }

  /// What we find: nil if the image isn't opened or can't be walked through, which says as much.
  nonisolated(nonsending)
    func report(on damaged: SparseImage) async -> Qcow2CheckReport?
  {
    try? await open(damaged).check()
  }

  /// What QEMU finds: nil if it doesn't open the image.
  func verdict(on damaged: SparseImage) throws -> Qemu.Verdict? {
    try damaged.dump(to: folder.file("image"))
    return try? Qemu.check(folder.file("image"))
  }
}
