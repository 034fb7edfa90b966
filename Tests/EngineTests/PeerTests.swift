import BlockTesting
import Bytes
import Engine
import EventLoops
import Foundation
import Model
import ModelTesting
import NBD
import Testing

/// Images on other NBD servers, and restores to them.
struct PeerTests {
  /// Runs `body` with a folder for sockets whose `peer` is an allowed one.
  private func withPeers(_ body: (TestEngine, _ socket: String) async throws -> Void) async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    try FileManager.default.createDirectory(atPath: root, withIntermediateDirectories: true)
    try await withEngine(root: root, peers: ["unix:\(root)/peer"]) { try await body($0, root + "/peer") }
  }

  private func serve(
    _ path: String, at socket: String, _ options: [String] = ["-f", "raw"]
  ) async throws -> PeerProcess {
    try await PeerProcess.server("qemu-nbd", ["-t", "-k", socket] + options + [path], at: socket)
  }

  private func uri(_ socket: String) -> String { "nbd+unix:///?socket=\(socket)" }

  private func record(_ socket: String, _ format: DiskFormat) -> ImageRecord {
    ImageRecord(id: ImageID(), name: "remote", source: .nbd(uri: uri(socket)), format: format, labels: [:])
  }

  // MARK: Sources

  @Test(.eachToolVersion, arguments: TestEngine.backends)
  func exportOfAnotherServerIsBackedUpAsItIs(_ backend: IOBackend) async throws {
    try await withPeers { test, socket in
      let source = test.root + "/source.raw"
      try SampleImage.raw(at: source, byteCount: 6 << 20, seed: 21)
      let qcow2 = test.root + "/source.qcow2"
      try Tool.run("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", source, qcow2)
      for (path, format) in [(source, DiskFormat.raw), (qcow2, .qcow2)] {
        let server = try await serve(path, at: socket)
        let location = ImageLocation(source: .nbd(uri: uri(socket)), format: format)
        let inspection = try await test.engine.inspect(location)
        #expect(inspection.virtualSize == 6 << 20 && inspection.locks == [] && inspection.format == format)
        #expect(try await test.engine.suggestFormat(of: location.source).format == format)
        let page = try await test.engine.extents(of: location, offset: 0, length: nil, limit: 10_000)
        #expect(page.items.reduce(0) { $0 + $1.length } == 6 << 20 && page.items.contains { $0.zero })
        let control = RecordingJobControl()
        let made = try await test.backUp(record(socket, format), control: control)
        #expect(control.messages.contains { $0.level == .warning && $0.message.contains("nothing can prove") })
        #expect(try await test.verify(made.place).findings == [])
        try Tool.judge("compare", "-f", "raw", "-F", "qcow2", source, made.dataPath)
        let order = test.order("again", .image(location))
        try await test.engine.export(order)
        try await Tool.runAside("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, test.uri(order)])
        try await test.engine.withdraw(order.export, .safe)
        server.stop()
      }
      let scan = try await test.engine.scan(test.repository)
      #expect(scan.images.map(\.source) == [.nbd(uri: uri(socket)), .nbd(uri: uri(socket))] && scan.findings == [])
    }
  }

  @Test func backupOfASilentPeerCanBeCancelled() async throws {
    try await withPeers { test, socket in
      let options = ["-f", "-U", socket, "--filter=delay", "pattern", "8M", "rdelay=600"]
      let server = try await PeerProcess.server("nbdkit", options, at: socket)
      let control = RecordingJobControl()
      let record = record(socket, .raw)
      async let ending: (any Error)? = {
        do {
          _ = try await test.backUp(record, control: control)
          return nil
        } catch {
          return error
        }
      }()
      try await eventually("the copy has begun") { !control.reports.isEmpty }
      control.cancel()
      let before = ContinuousClock.now
      let error = await ending
      #expect(error is CancellationError, "\(error as Any)")
      #expect(ContinuousClock.now - before < .seconds(60), "a silent peer is given up long before its timeout ends")
      server.stop()
    }
  }

  @Test(.eachToolVersion) func remoteImageThatNamesFilesIsRefused() async throws {
    try await withPeers { test, socket in
      let (backing, data) = (test.images + "/backing.qcow2", test.images + "/data.qcow2")
      try SampleImage.raw(at: test.images + "/base.raw", byteCount: 1 << 20, seed: 1)
      try Tool.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", backing)
      try Tool.run(
        "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file=\(test.images)/d.raw,data_file_raw=on", data, "1M")
      for path in [backing, data] {
        let server = try await serve(path, at: socket)
        let location = ImageLocation(source: .nbd(uri: uri(socket)), format: .qcow2)
        #expect(await code { _ = try await test.engine.inspect(location) } == .backingRefused, "\(path)")
        let record = record(socket, .qcow2)
        #expect(await code { _ = try await test.backUp(record) } == .backingRefused, "\(path)")
        let extents = await code {
          _ = try await test.engine.extents(of: location, offset: 0, length: nil, limit: 9)
        }
        #expect(extents == .backingRefused, "\(path)")
        server.stop()
      }
    }
  }

  @Test func onlyAllowedPeersAreConnectedTo() async throws {
    try await withPeers { test, socket in
      func inspect(_ uri: String) async -> DomainError? {
        do {
          _ = try await test.engine.inspect(ImageLocation(source: .nbd(uri: uri), format: .raw))
          return nil
        } catch {
          return error as? DomainError
        }
      }
      let source = test.root + "/source.raw"
      try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 1)
      let other = test.root + "/other"
      let server = try await serve(source, at: other)
      #expect(await inspect(uri(other))?.code == .peerNotAllowed)
      #expect(await inspect("nbd://127.0.0.1/x")?.code == .peerNotAllowed)
      #expect(await inspect("nbd://127.0.0.1/x")?.remedy?.contains("nbdPeers") == true)
      #expect(await inspect("http://127.0.0.1/x")?.code == .invalidField)
      #expect(await inspect("nbds+unix:///?socket=\(socket)")?.code == .tlsUnavailable)
      let silent = await inspect(uri(socket))
      #expect(silent?.code == .peerUnreachable && silent?.detail.contains(uri(socket)) == true, "\(silent as Any)")
      // The allowed name leads to the other socket, and is judged by where it leads.
      try Tool.run("ln", "-s", other, socket)
      #expect(await inspect(uri(socket)) == nil)
      #expect(await inspect(uri(other)) == nil)
      server.stop()
      #expect(await inspect(uri(socket))?.code == .peerUnreachable)
      let target = RestoreOrder.Target.nbd(uri: "nbd://192.0.2.1/x", targetIsZero: false)
      try SampleImage.raw(at: test.images + "/vm.raw", byteCount: 1 << 20, seed: 1)
      let made = try await test.backUp(test.record("vm", test.images + "/vm.raw", .raw))
      #expect(await code { try await restore(test, made, target) } == .peerNotAllowed)
    }
  }

  @Test func peersAreComparedByWhatTheirNamesMean() throws {
    let peers = AllowedPeers(["Backup.Example.org", "10.0.0.1:10809", "[2001:DB8::1]", "[::1]:99", "unix:/run/no/such"])
    func isAllowed(_ text: String) -> Bool {
      guard let uri = try? NBDURI(text) else { return false }
      return (try? peers.resolve(uri)) != nil
    }
    #expect(isAllowed("nbd://backup.example.org/x") && isAllowed("nbds://BACKUP.example.org:7/x"))
    #expect(isAllowed("nbd://10.0.0.1/x") && !isAllowed("nbd://10.0.0.1:10810/x") && !isAllowed("nbd://10.0.0.2/x"))
    #expect(isAllowed("nbd://[2001:db8:0:0:0:0:0:1]:5/x") && !isAllowed("nbd://[2001:db8::2]/x"))
    #expect(isAllowed("nbd://[0:0::1]:99/x") && !isAllowed("nbd://[::1]:98/x"))
    #expect(isAllowed("nbd+unix:///?socket=/run/no/such") && !isAllowed("nbd+unix:///?socket=/run/no"))
    #expect(!isAllowed("nbd://example.org/x") && !isAllowed("nbd://localhost/x"))
  }

  @Test(.eachToolVersion) func peerWithTLSIsMetWithTheConfiguredKey() async throws {
    let root = NSTemporaryDirectory() + "cobweb-engine-\(ULID())"
    defer { try? FileManager.default.removeItem(atPath: root) }
    try FileManager.default.createDirectory(atPath: root + "/tls", withIntermediateDirectories: true)
    let keys = root + "/tls/keys.psk"
    try "cobweb:00112233445566778899aabbccddeeff\n".write(toFile: keys, atomically: true, encoding: .utf8)
    let source = root + "/source.raw"
    try SampleImage.raw(at: source, byteCount: 1 << 20, seed: 1)
    let socket = root + "/peer"
    let server = try await serve(
      source, at: socket,
      ["-f", "raw", "--object", "tls-creds-psk,id=t,endpoint=server,dir=\(root)/tls", "--tls-creds", "t"])
    let secure = ImageLocation(source: .nbd(uri: "nbds+unix:///?socket=\(socket)"), format: .raw)
    for (key, expected) in [
      ("00112233445566778899aabbccddeeff", nil), ("ff112233445566778899aabbccddeeff", ProblemCode.peerUnreachable),
    ] {
      let file = root + "/ours.psk"
      try "cobweb:\(key)\n".write(toFile: file, atomically: true, encoding: .utf8)
      let test = try await TestEngine(
        root: root, peers: PeerConfiguration(allowed: ["unix:\(socket)"], tls: .preSharedKey(file: file)))
      #expect(await code { _ = try await test.engine.inspect(secure) } == expected)
      // Without TLS the server has nothing to say.
      let plain = ImageLocation(source: .nbd(uri: uri(socket)), format: .raw)
      #expect(await code { _ = try await test.engine.inspect(plain) } == .peerUnreachable)
    }
    server.stop()
    try "not a key".write(toFile: keys, atomically: true, encoding: .utf8)
    let refusal = await #expect(throws: DomainError.self) {
      try await TestEngine(root: root, peers: PeerConfiguration(tls: .preSharedKey(file: keys)))
    }
    #expect(refusal?.code == .tlsUnavailable && refusal?.detail.contains(keys) == true)
  }

  // MARK: Targets

  private func restore(_ test: TestEngine, _ made: TestEngine.Made, _ target: RestoreOrder.Target) async throws {
    let report = try await test.engine.restore(
      RestoreOrder(backup: made.place, target: target), control: RecordingJobControl())
    #expect(report.virtualSize == made.receipt.virtualSize)
    // As fine as the server says that its blocks are.
    let source = try SampleImage.dataByteCount(test.images + "/vm.raw", blockByteCount: 4096)
    #expect((source...made.receipt.dirtyBytes).contains(report.writtenBytes))
  }

  private func withBackup(
    _ byteCount: UInt64 = 6 << 20,
    _ body: (TestEngine, TestEngine.Made, _ source: String, _ socket: String) async throws
      -> Void
  ) async throws {
    try await withPeers { test, socket in
      let source = test.images + "/vm.raw"
      try SampleImage.raw(at: source, byteCount: byteCount, seed: 31)
      try await body(test, try await test.backUp(test.record("vm", source, .raw)), source, socket)
    }
  }

  @Test(.eachToolVersion) func restoreOverNBDLeavesExactlyTheBackup() async throws {
    try await withBackup { test, made, source, socket in
      let target = test.root + "/target.raw"
      for isZero in [true, false] {
        try? FileManager.default.removeItem(atPath: target)
        if isZero {
          try Tool.run("truncate", "-s", "6M", target)
        } else {
          try Tool.run("dd", "if=/dev/urandom", "of=\(target)", "bs=1M", "count=6", "status=none")
        }
        let server = try await serve(target, at: socket)
        try await restore(test, made, .nbd(uri: uri(socket), targetIsZero: isZero))
        server.stop()
        #expect(try SampleImage.bytes(target) == SampleImage.bytes(source))
      }
    }
  }

  @Test func restoreOverNBDKnowsServersThatCanDoLittle() async throws {
    try await withBackup { test, made, source, socket in
      // No zeroes, and only requests of whole 4096 bytes.
      let servers = [
        ["--filter=nozero", "file", "TARGET", "zeromode=none"],
        [
          "--filter=blocksize-policy", "file", "TARGET", "blocksize-minimum=4096", "blocksize-preferred=4096",
          "blocksize-maximum=1M", "blocksize-error-policy=error",
        ],
      ]
      for arguments in servers {
        let target = test.root + "/target.raw"
        try Tool.run("dd", "if=/dev/urandom", "of=\(target)", "bs=1M", "count=6", "status=none")
        let server = try await PeerProcess.server(
          "nbdkit", ["-f", "-U", socket] + arguments.map { $0 == "TARGET" ? target : $0 }, at: socket)
        try await restore(test, made, .nbd(uri: uri(socket), targetIsZero: false))
        server.stop()
        #expect(try SampleImage.bytes(target) == SampleImage.bytes(source))
      }
    }
  }

  @Test func targetOfAnotherSizeIsLeftAlone() async throws {
    try await withBackup(1_000_001) { test, made, _, socket in
      for size in ["1000000", "1000448", "2M"] {
        let target = test.root + "/target.raw"
        try? FileManager.default.removeItem(atPath: target)
        try Tool.run("truncate", "-s", size, target)
        try SampleImage.damage(target, at: 5)
        let before = try SampleImage.bytes(target)
        let server = try await PeerProcess.server("nbdkit", ["-f", "-U", socket, "file", target], at: socket)
        let target2 = RestoreOrder.Target.nbd(uri: uri(socket), targetIsZero: false)
        #expect(await code { try await restore(test, made, target2) } == .targetMismatch)
        server.stop()
        #expect(try SampleImage.bytes(target) == before)
      }
      let target = test.root + "/right.raw"
      try Tool.run("truncate", "-s", "1000001", target)
      let readOnly = try await PeerProcess.server("nbdkit", ["-f", "-r", "-U", socket, "file", target], at: socket)
      let order = RestoreOrder.Target.nbd(uri: uri(socket), targetIsZero: true)
      #expect(await code { try await restore(test, made, order) } == .targetMismatch)
      readOnly.stop()
      let server = try await PeerProcess.server("nbdkit", ["-f", "-U", socket, "file", target], at: socket)
      try await restore(test, made, order)
      server.stop()
      #expect(try SampleImage.bytes(target) == SampleImage.bytes(test.images + "/vm.raw"))
    }
  }

  @Test(arguments: ["pwrite", "zero", "flush"])
  func targetThatFailsIsToldToBeSpoiled(_ operation: String) async throws {
    try await withBackup { test, made, _, socket in
      let disk =
        operation == "flush"
        ? [
          "eval", "get_size=echo 6M", "can_write=exit 0", "pread=head -c $3 /dev/zero", "pwrite=cat >/dev/null",
          "can_flush=exit 0", "flush=echo ENOSPC no room >&2; exit 1",
        ]
        : ["--filter=error", "memory", "6M", "error-\(operation)=ENOSPC", "error-\(operation)-rate=1"]
      let server = try await PeerProcess.server("nbdkit", ["-f", "-U", socket] + disk, at: socket)
      let failure = await #expect(throws: DomainError.self) {
        try await restore(test, made, .nbd(uri: uri(socket), targetIsZero: false))
      }
      #expect(failure?.code == .storageFull && failure?.detail.contains("mixture") == true, "\(failure as Any)")
      #expect(failure?.remedy?.contains("restore over it again") == true, "\(failure as Any)")
      server.stop()
    }
  }
}
