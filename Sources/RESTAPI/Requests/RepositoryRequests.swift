import Model
import Orchestrator

extension RequestFields {
  /// The body that creates a repository.
  func repositoryDraft() throws(DomainError) -> RepositoryDraft {
    let name = resourceName("name")
    let kind = choice("kind", of: Repository.Kind.self)
    let path = absolutePath("path")
    try finish()
    guard let name, let kind, let path else { throw Self.incomplete }
    return RepositoryDraft(name: name, kind: kind, path: path)
  }

  /// The merge patch of a repository: its new name, if it gets one.
  func repositoryName() throws(DomainError) -> ResourceName? {
    let name = resourceName("name", required: false)
    refuseFixed(["id", "kind", "path", "state", "managedBy", "createdAt"])
    try finish()
    return name
  }
}
