import BlockTesting
import Engine
import Descriptors
import EventLoops
import Foundation
import Locks
import Model
import ModelTesting
import RawFile
import Testing

/// How uses of one image by this server wait for each other, and how they are named.
struct FileClaimTests {
  @Test(arguments: DiskFormat.allCases) func readersAndAttachWaitForEachOther(_ format: DiskFormat) async throws {
    try await withEngine { test in
      let location = try test.makeImage(format)
      let image = ImageID()
      let isOver = Lock(false)
      try await withThrowingTaskGroup(of: Int.self) { group in
        for _ in 0..<4 {
          group.addTask {
            var count = 0
            while !isOver.withLock({ $0 }) {
              let page = try await test.engine.extents(of: location, offset: 4096, length: 1 << 20, limit: 3)
              #expect(page.items.first?.offset == 4096)
              count += 1
            }
            return count
          }
        }
        defer { isOver.withLock { $0 = true } }
        for _ in 0..<40 {
          try await test.attach(location, as: image)
          try await test.engine.detach(image)
        }
        isOver.withLock { $0 = true }
        for try await count in group { #expect(count > 0) }
      }
    }
  }

  @Test func lockOfOurOwnIsNamedAsOurs() async throws {
    try await withEngine { test in
      let base = try test.makeImage(.raw)
      let overlay = test.images + "/overlay.qcow2"
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base.source.place, "-F", "raw", overlay)
      let location = ImageLocation(source: .file(path: overlay), format: .qcow2)
      let order = test.order("look", .image(location), isReadOnly: true)
      try await test.engine.export(order)
      let exported = await #expect(throws: DomainError.self) { try await test.attach(base, as: ImageID()) }
      #expect(exported?.code == .imageLocked && exported?.detail.contains("the export 'look'") == true)
      #expect(exported?.detail.contains("QEMU") == false, "\(exported as Any)")
      try await test.engine.withdraw(order.export, .hard)

      let image = ImageID()
      try await test.attach(base, as: image)
      let attached = await #expect(throws: DomainError.self) {
        try await test.engine.extents(of: location, offset: 0, length: nil, limit: 1)
      }
      #expect(attached?.detail.contains("the attached image \(base.source.place)") == true, "\(attached as Any)")
      try await test.engine.detach(image)
      #expect(try await test.engine.extents(of: location, offset: 0, length: nil, limit: 1).items.count == 1)
    }
  }

  /// Past the page cache a device takes whole blocks only.
  @Test func extentsOfAnAttachedRawImageTakeAnyRange() async throws {
    try await withEngine { test in
      let location = try test.makeImage(.raw)
      let ranges: [(UInt64, UInt64?)] = [(214, 59), (214, nil), (0, 59), (512, 512), (4095, 2), (1_000_001, 9)]
      func pages() async throws -> [[ExtentPage.Item]] {
        var pages: [[ExtentPage.Item]] = []
        for (offset, length) in ranges {
          let page = try await test.engine.extents(of: location, offset: offset, length: length, limit: 1000)
          #expect(page.nextOffset == nil)
          pages.append(page.items)
        }
        return pages
      }
      let detached = try await pages()
      #expect(zip(detached, ranges).allSatisfy { $0.first?.offset == $1.0 })
      try await test.attach(location, as: ImageID())
      #expect(try await pages() == detached)
    }
  }

  // MARK: The claims themselves

  private struct Bench: Sendable {
    let claims = FileClaims()
    let file: FileDescriptor
    let test: TestEngine

    func claim(_ lock: ImageLock, _ use: ImageUse, timeout: Duration = .seconds(30)) async throws -> FileClaim {
      let loop = test.group.next()
      return try await loop.run { [self] in
        try await claims.claim(
          file.status(), "/images/a", lock, for: use, until: .now + timeout, on: loop)
      }
    }
  }

  private func withBench(_ body: (Bench) async throws -> Void) async throws {
    try await withEngine { test in
      let location = try test.makeImage(.raw)
      try await body(Bench(file: try FileDescriptor.open(path: location.source.place), test: test))
    }
  }

  @Test func lastingUsesRefuseAtOnceAndPassingOnesAreWaitedFor() async throws {
    try await withBench { bench in
      let lasting = try await bench.claim(.reader, ImageUse(.request("a job"), needs: .rest))
      let other = try await bench.claim(.reader, ImageUse(.request("another job"), needs: .rest))
      let refusal = await #expect(throws: DomainError.self) {
        try await bench.claim(.writer, ImageUse(.request("a guest"), needs: .write))
      }
      #expect(refusal?.detail == "/images/a is in use by this server itself: a job")
      withExtendedLifetime((lasting, other)) {}
    }
    try await withBench { bench in
      let use = ImageUse(.request("a look"), needs: .rest, isPassing: true)
      let passing = Lock<FileClaim?>(try await bench.claim(.reader, use))
      let start = ContinuousClock.now
      let late = await #expect(throws: DomainError.self) {
        try await bench.claim(.writer, ImageUse(.request("a guest"), needs: .write), timeout: .milliseconds(50))
      }
      #expect(late?.detail.contains("a look") == true && ContinuousClock.now - start >= .milliseconds(50))
      async let writer = bench.claim(.writer, ImageUse(.request("a guest"), needs: .write))
      try await Task.sleep(for: .milliseconds(20))
      passing.withLock { $0 = nil }
      _ = try await writer
    }
  }

  /// Readers that come while an attach waits get in after it.
  @Test func laterReaderDoesNotOvertakeAWaitingWriter() async throws {
    try await withBench { bench in
      let first = Lock<FileClaim?>(
        try await bench.claim(.reader, ImageUse(.request("a look"), needs: .rest, isPassing: true)))
      let guest = ImageUse(.request("a guest"), needs: .write, isPassing: true)
      let held = Lock<FileClaim?>(nil)
      let writer = Task {
        let claim = try await bench.claim(.writer, guest)
        held.withLock { $0 = claim }
      }
      try await Task.sleep(for: .milliseconds(50))
      let reader = Task {
        try await bench.claim(.reader, ImageUse(.request("a later look"), needs: .rest, isPassing: true))
      }
      try await Task.sleep(for: .milliseconds(50))
      first.withLock { $0 = nil }
      try await writer.value
      // The look waits as long as the attach is under way, and is told of the guest then.
      guest.isPassing = false
      await #expect(throws: DomainError.self) { try await reader.value }
      held.withLock { $0 = nil }
      _ = try await bench.claim(.reader, ImageUse(.request("a look"), needs: .rest))
    }
  }

  @Test func cancelledWaitLeavesNoClaim() async throws {
    try await withBench { bench in
      let first = try await bench.claim(.reader, ImageUse(.request("a look"), needs: .rest, isPassing: true))
      let writer = Task { try await bench.claim(.writer, ImageUse(.request("a guest"), needs: .write)) }
      try await Task.sleep(for: .milliseconds(20))
      writer.cancel()
      await #expect(throws: CancellationError.self) { try await writer.value }
      _ = try await bench.claim(.reader, ImageUse(.request("another look"), needs: .rest), timeout: .zero)
      withExtendedLifetime(first) {}
    }
  }
}

extension TestEngine {
  /// A disk of 4 MiB, in part data.
  fileprivate func makeImage(_ format: DiskFormat) throws -> ImageLocation {
    guard format == .raw else { return try makeQcow2() }
    let path = images + "/disk-\(ULID()).raw"
    try SampleImage.raw(at: path, byteCount: 4 << 20, seed: 5)
    return ImageLocation(source: .file(path: path), format: .raw)
  }
}
