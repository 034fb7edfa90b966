import Foundation
import Model

/// What a job, a start or a request found of a repository's storage. The catalog keeps the last one.
///
///     reached      ready
///     written      ready, not read-only
///     readOnly     ready, read-only
///     unreachable  unavailable
enum RepositoryFinding: Sendable {
  case reached, written, readOnly, unreachable

  init(_ access: RepositoryAccess) { self = access == .readOnly ? .readOnly : .written }

  /// Nil if the error says nothing about the repository.
  init?(_ code: ProblemCode) {
    switch code {
    case .repositoryUnavailable, .repositoryMismatch: self = .unreachable
    case .repositoryReadOnly: self = .readOnly
    default: return nil
    }
  }

  /// What the end of a job tells; nil if nothing.
  init?(_ end: JobEnd.Verdict, of work: any JobWork) {
    switch end {
    case .failed(let problem):
      guard let finding = RepositoryFinding(problem.code) else { return nil }
      self = finding
    case .stopped: return nil
    case .succeeded:
      guard let finding = work.findingOfSuccess else { return nil }
      self = finding
    }
  }

  /// Nil if it is known already.
  func changed(_ repository: Repository) -> Repository? {
    var found = repository
    found.state = self == .unreachable ? .unavailable : .ready
    switch self {
    case .written: found.isReadOnly = false
    case .readOnly: found.isReadOnly = true
    case .reached, .unreachable: break
    }
    return found == repository ? nil : found
  }
}

extension CatalogTransaction {
  func note(_ finding: RepositoryFinding, of id: RepositoryID, job: JobID? = nil) throws {
    guard let repository = try catalog.repository(id), let found = finding.changed(repository) else { return }
    try update(found, job: job)
  }
}

extension BackupService {
  /// Looks at a repository again that couldn't be used the last time, so that what came back, or is mounted to be
  /// written again, needs no rescan.
  func lookAgain(at repository: Repository) async throws {
    guard repository.state != .ready || repository.isReadOnly else { return }
    let finding: RepositoryFinding
    do {
      finding = RepositoryFinding(try await engine.access(to: repository.location))
    } catch let error as DomainError {
      guard let told = RepositoryFinding(error.code) else { return }
      finding = told
    }
    guard finding.changed(repository) != nil else { return }
    try await transactions.write { transaction in try transaction.note(finding, of: repository.id) }
  }
}
