import Model

/// A repository as the API shows it.
struct RepositoryDocument: JSONWritable, Sendable {
  let repository: Repository

  init(_ repository: Repository) {
    self.repository = repository
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", repository.id)
      json.member("name", repository.name)
      json.member("kind", repository.kind)
      json.member("path", repository.path)
      json.member("state", repository.state)
      json.member("readOnly", repository.isReadOnly)
      json.member("managedBy", repository.managedBy)
      json.member("createdAt", repository.createdAt)
    }
  }
}
