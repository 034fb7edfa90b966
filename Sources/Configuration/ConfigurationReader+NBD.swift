import Bytes
import Glibc

extension ConfigurationReader {
  // MARK: Exports

  func socketGroup() -> String? {
    guard let node = root.optional("socketGroup") else { return nil }
    let name = node.text
    guard !name.isEmpty else { return nil }
    guard Self.isGroup(name) else {
      node.fault("there is no group '\(name)' on this host")
      return nil
    }
    return name
  }

  private static func isGroup(_ name: String) -> Bool {
    var entry = group()
    var found: UnsafeMutablePointer<group>?
    var buffer = [CChar](repeating: 0, count: 1024)
    while getgrnam_r(name, &entry, &buffer, buffer.count, &found) == ERANGE, buffer.count < maximumGroupEntrySize {
      buffer = [CChar](repeating: 0, count: buffer.count * 4)
    }
    return found != nil
  }

  /// Bytes for the largest group that is looked at: its members' names count.
  private static let maximumGroupEntrySize = 1 << 20

  func exportTLS() -> ServerConfiguration.ExportTLSFiles? {
    guard let node = root.optional("exportTLS") else { return nil }
    let section = node.section(root.fields(of: "exportTLS"))
    guard section.isWhole else { return nil }
    let files = ServerConfiguration.ExportTLSFiles(
      certificate: section.optional("certificate").map(tlsFile), key: section.optional("key").map(tlsFile),
      clientAuthority: section.optional("clientAuthority").map(tlsFile),
      preSharedKeys: section.optional("preSharedKeys").map(tlsFile))
    if files == ServerConfiguration.ExportTLSFiles() {
      node.fault("is empty: needs certificate, key and clientAuthority, or preSharedKeys")
    }
    // Clients must be known by name: a server's certificate alone lets every client in.
    expectTogether(["certificate", "key", "clientAuthority"], in: section)
    return files
  }

  // MARK: Peers

  func nbdPeers() -> [String] {
    list("nbdPeers").compactMap { node in
      let text = node.text
      guard !text.isEmpty else { return nil }
      guard text.hasPrefix("unix:") else {
        let address = PeerAddress(host: text)
        if address == nil { node.fault("'\(text)' is no peer: must be HOST, HOST:PORT, [IPv6]:PORT or unix:PATH") }
        return address?.description
      }
      return socketPath(text, node).map { PeerAddress.unix(path: $0).description }
    }
  }

  func peerTLS() -> ServerConfiguration.PeerTLSFiles? {
    guard let node = root.optional("peerTLS") else { return nil }
    let section = node.section(root.fields(of: "peerTLS"))
    guard section.isWhole else { return nil }
    let files = ServerConfiguration.PeerTLSFiles(
      authority: section.optional("authority").map(tlsFile), certificate: section.optional("certificate").map(tlsFile),
      key: section.optional("key").map(tlsFile), preSharedKey: section.optional("preSharedKey").map(tlsFile))
    if files == ServerConfiguration.PeerTLSFiles() { node.fault("is empty: needs authority, or preSharedKey") }
    if files.preSharedKey != nil, files != ServerConfiguration.PeerTLSFiles(preSharedKey: files.preSharedKey) {
      section.optional("preSharedKey")?.fault("takes the place of certificates: it can't stand beside them")
    }
    expectTogether(["certificate", "key"], in: section)
    return files
  }

  /// All of these keys, or none.
  private func expectTogether(_ keys: [String], in section: ConfigurationSection) {
    let given = keys.filter { section.optional($0) != nil }
    if !given.isEmpty, given.count < keys.count { for key in keys { _ = section.required(key) } }
  }

  // MARK: Sources

  /// The rest of it is judged when it is opened, as that of a request is.
  func nbdURI(_ node: ConfigurationNode) -> String? {
    let text = node.text
    guard !text.isEmpty else { return nil }
    guard NBDURI.hasScheme(text) else {
      let schemes = NBDURI.schemes.map { "\($0)://" }.joined(separator: ", ")
      node.fault("'\(text)' is no NBD URI: must start with \(schemes)")
      return nil
    }
    return text
  }
}
