import BlockCore
import EventLoops
import Failures
import Model
import Qcow2
import Repositories

extension LocalEngine {
  package func verify(_ order: VerifyOrder, control: any JobControl) async throws -> VerifyReport {
    try await onLoop(in: order.backup.repository.lane) { [self] loop in
      let repository = try await open(order.backup.repository, on: loop)
      var findings = Findings()
      let stored = try await findings.collect { try await repository.stored(order.backup) }
      guard let stored else { return report(findings, 0) }
      let verified = try await verify(stored, order, &findings, loop, control)
      return report(findings, verified)
    }
  }

  private func report(_ findings: Findings, _ verifiedByteCount: UInt64) -> VerifyReport {
    VerifyReport(findings: findings.texts, findingCount: findings.count, verifiedBytes: verifiedByteCount)
  }

  /// Bytes of the guest's data that were read and compared.
  nonisolated(nonsending)
    private func verify(
      _ stored: StoredBackup, _ order: VerifyOrder, _ findings: inout Findings, _ loop: EventLoop,
      _ control: any JobControl
    ) async throws -> UInt64
  {
    let hashes = try await findings.collect { try await stored.openHashes(work: work) }
    return try await closing(hashes.map { [$0.device] } ?? []) {
      let data = try await findings.collect { try await stored.openData() }
      return try await closing(data.map { [$0] } ?? []) {
        try await prove(hashes?.reader, of: stored, &findings, control)
        try await checkTables(downFrom: stored, isPath: order.coversTablesBelow, &findings, control)
        guard order.level == .checksum, let hashes, let data else { return 0 }
        return try await compare(stored, hashes.reader, data, &findings, loop, control)
      }
    }
  }

  nonisolated(nonsending)
    private func prove(
      _ hashes: HashTreeReader?, of stored: StoredBackup, _ findings: inout Findings, _ control: any JobControl
    ) async throws
  {
    guard let hashes else { return }
    _ = try await findings.collect {
      try await tellingAboutHashes(stored.hashesName) {
        try await hashes.proveAll { try await control.checkpoint() }
      }
    }
  }

  /// The tables of the backup's own file and, of a path, of each below it: a restore needs them all.
  nonisolated(nonsending)
    private func checkTables(
      downFrom stored: StoredBackup, isPath: Bool, _ findings: inout Findings, _ control: any JobControl
    ) async throws
  {
    var next: StoredBackup? = stored
    // A chain that leads back to itself ends where its places do.
    for _ in Manifest.sequences {
      guard let backup = next else { return }
      try await control.checkpoint()
      try await checkTables(of: backup, &findings, control)
      guard isPath else { return }
      next = try await findings.collect { try await backup.repository.parent(of: backup) } ?? nil
    }
  }

  /// - Parameter control: of the job that checks them, if it is one.
  nonisolated(nonsending)
    func checkTables(
      of stored: StoredBackup, _ findings: inout Findings, _ control: (any JobControl)?
    ) async throws
  {
    let name = stored.dataName
    let report = try await findings.collect { () async throws -> Qcow2CheckReport? in
      guard let tables = try await stored.repository.openTables(of: stored.location) else { return nil }
      return try await closing([tables]) {
        try await telling(about: name, damage: .backupCorrupt) {
          try await Self.walking(control, telling: nil) { (progress) async throws(BlockError) in
            try await tables.check(progress)
          }
        }
      }
    }
    guard let report = report ?? nil else { return }
    for finding in report.findings { findings.add("\(name): \(finding.kind.rawValue): \(finding.place)") }
    let untold = report.corruptionCount + report.leakCount - report.findings.count
    if untold > 0 { findings.add("\(name): \(untold) more such places in its tables") }
  }

  nonisolated(nonsending)
    private func compare(
      _ stored: StoredBackup, _ hashes: HashTreeReader, _ data: any BlockDevice, _ findings: inout Findings,
      _ loop: EventLoop, _ control: any JobControl
    ) async throws -> UInt64
  {
    let name = stored.dataName
    let sink = VerifySink(stored.comparison(hashes))
    _ = try await findings.collect {
      try await run(from: data, byteCount: stored.manifest.virtualSize, to: sink, loop, control) {
        DomainError($0, of: name, damage: .backupCorrupt)
      }
    }
    findings.add(sink)
    return stored.manifest.virtualSize
  }
}
