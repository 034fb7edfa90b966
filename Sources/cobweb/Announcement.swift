import Configuration
import Orchestrator

/// What the server says once it is ready: where it is, who may use it, and how to make the first backup.
struct Announcement {
  let urls: [String]
  let service: BackupService
  let configuration: ServerConfiguration

  var lines: [String] {
    var lines = ["Cobweb \(Cobweb.version) is ready at \(urls.joined(separator: " and "))"]
    if urls.contains(where: { !$0.hasPrefix("unix:") }) {
      lines.append("There are no tokens: every local user is administrator of it.")
    }
    if let firstBackup { lines += ["The first backup is one line away:", "  " + firstBackup] }
    return lines
  }

  /// A curl line for a declared image that no complete backup has been made of.
  private var firstBackup: String? {
    guard let url = urls.first(where: { !$0.hasPrefix("unix:") }), let repository = configuration.repositories.first,
      let image = configuration.images.first,
      let page = try? service.backups(BackupQuery(image: .name(image.name), state: .complete), .init(limit: 1)),
      page.items.isEmpty
    else { return nil }
    let body = #"{"images":["\#(image.name)"],"repository":"\#(repository.name)","kind":"full"}"#
    return "curl -X POST \(url)/api/v1/backups -H 'Content-Type: application/json' -d '\(body)'"
  }
}
