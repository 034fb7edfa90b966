import Bytes
import Foundation
import Glibc
import Model
import Schedules

/// Makes the checked value of the file's top level.
struct ConfigurationReader {
  let root: ConfigurationSection
  let folder: String
  /// Whether it is a fault if a folder or file isn't there that the server doesn't make.
  let requiresFiles: Bool
  private var folders = FolderSet()

  init(_ root: ConfigurationSection, folder: String, requiresFiles: Bool) {
    self.root = root
    self.folder = folder
    self.requiresFiles = requiresFiles
  }

  /// Nil, or a value that must not be used, if there were faults.
  mutating func read() -> ServerConfiguration? {
    guard let listen = root.required("listen"), let mode = root.required("socketMode"),
      let tokens = root.required("tokens"), let state = root.required("stateFolder"),
      let sockets = root.required("socketFolder"), let backend = root.required("ioBackend"),
      let tracking = root.required("trackingFolder"), let memory = root.required("trackingMemory"),
      let fleecing = root.required("fleecingFolder"), let fleecingSize = root.required("fleecingSize"),
      let buffer = root.required("copyBuffer"), let timeout = root.required("guestWriteTimeout"),
      let level = root.required("compressionLevel"), let length = root.required("chainLength"),
      let sample = root.required("sampledCheck"),
      let jobs = root.required("jobsAtOnce"),
      let streams = root.required("eventStreams"), let kept = root.required("eventsKept"),
      let connections = root.required("exportConnections"), let logLevel = root.required("logLevel")
    else { return nil }
    let stateFolder = ownFolder(state)
    let imageFolders = list("imageFolders").map { ownFolder($0, isMade: false) }
    let repositoryFolders = list("repositoryFolders").map { ownFolder($0, isMade: false) }
    return ServerConfiguration(
      listen: addresses(listen), tls: tls(), hosts: list("hosts").compactMap(host),
      socketMode: permissions(mode), tokens: readTokens(tokens),
      stateFolder: stateFolder, trackingFolder: path(tracking),
      trackingMemory: memory.integer(in: 1 << 20...1 << 40), imageFolders: imageFolders,
      imageDevices: list("imageDevices").compactMap(devicePattern),
      repositoryFolders: repositoryFolders, fleecingFolder: ownFolder(fleecing),
      fleecingSize: fleecingSize.integer(in: 0...1 << 60), copyBuffer: buffer.integer(in: 1 << 20...1 << 40),
      guestWriteTimeout: timeout.duration(in: .milliseconds(10) ... .seconds(60)), socketFolder: ownFolder(sockets),
      socketGroup: socketGroup(),
      repositories: repositories(in: repositoryFolders), images: images(in: imageFolders), exportTLS: exportTLS(),
      exportConnections: connections.integer(in: 1...10_000), nbdPeers: nbdPeers(),
      peerTLS: peerTLS(),
      ioBackend: backend.choice(ServerConfiguration.IOBackendChoice.self, else: .auto),
      compressionLevel: level.integer(in: 1...19), chainLength: length.integer(in: 1...9999),
      sampledCheck: sample.share(), timeZone: timeZone(),
      jobsAtOnce: jobs.integer(in: 1...64),
      eventStreams: streams.integer(in: 1...4096), eventsKept: kept.integer(in: 100...10_000_000),
      logLevel: logLevel.choice(ServerConfiguration.LogLevel.self, else: .info))
  }

  func list(_ key: String) -> [ConfigurationNode] {
    guard let node = root.optional(key) else { return [] }
    let items = node.items
    guard items.count <= ServerConfiguration.maximumListLength else {
      node.fault("has \(items.count) items, at most \(ServerConfiguration.maximumListLength)")
      return []
    }
    return items
  }

  func path(_ node: ConfigurationNode) -> String { FolderPath.absolute(node.text, in: folder) }

  /// - Parameter isMade: whether the server makes the folder if it isn't there.
  private mutating func ownFolder(_ node: ConfigurationNode, isMade: Bool = true) -> String {
    let text = node.text
    guard !text.isEmpty else { return folder }
    let path = FolderPath.absolute(text, in: folder)
    guard folders.add(path, at: node), requiresFiles, !isMade else { return path }
    if let why = FolderPath.failureToOpen(path, O_DIRECTORY) {
      node.fault("the folder \(path) can't be opened: \(why); make it, or mount its storage, first")
    }
    return path
  }

  /// A file for TLS.
  func tlsFile(_ node: ConfigurationNode) -> String {
    let path = path(node)
    if requiresFiles, let why = FolderPath.failureToOpen(path, 0) { node.fault("\(path) can't be read: \(why)") }
    return path
  }
}

// MARK: How it works

extension ConfigurationReader {
  private func timeZone() -> String? {
    guard let node = root.optional("timeZone") else { return nil }
    let name = node.text
    guard !name.isEmpty else { return nil }
    do {
      return try ZoneFolder().rules(named: name).name
    } catch {
      node.fault("\(error.description): \(error.remedy)")
      return nil
    }
  }
}

// MARK: The API

extension ConfigurationReader {
  private func addresses(_ node: ConfigurationNode) -> [ListenAddress] {
    let items = node.itemOrItems
    if items.isEmpty { node.fault("names no address") }
    var addresses: [ListenAddress] = []
    for item in items {
      guard let address = address(item) else { continue }
      if addresses.contains(address), !address.takesAnyPort { item.fault("\(address) is there twice") }
      addresses.append(address)
    }
    return addresses
  }

  private func address(_ node: ConfigurationNode) -> ListenAddress? {
    let text = node.text
    guard !text.isEmpty else { return nil }
    if text.hasPrefix("unix:") { return socketPath(text, node).map { .unix(path: $0) } }
    guard let address = ListenAddress(tcp: text) else {
      node.fault("'\(text)' is no address: must be \(ConfigurationKey.listen.form)")
      return nil
    }
    if !address.isLocal {
      node.fault(
        "\(address) can be reached from other hosts, and without tokens whoever reaches the API is administrator: "
          + "use a loopback address or a unix socket, behind a proxy of your own if others must reach it")
    }
    return address
  }

  /// The absolute path in `unix:PATH`; nil, and a fault, if it can't be a socket's.
  func socketPath(_ text: String, _ node: ConfigurationNode) -> String? {
    let path = FolderPath.absolute(String(text.dropFirst("unix:".count)), in: folder)
    guard text != "unix:", !text.hasSuffix("/") else {
      node.fault("names no socket")
      return nil
    }
    guard path.utf8.count <= UnixSocket.longestPath else {
      node.fault("\(path) is too long for a socket: at most \(UnixSocket.longestPath) bytes")
      return nil
    }
    return path
  }

  private func tls() -> ServerConfiguration.TLSFiles? {
    guard let section = root.optional("tls")?.section(root.fields(of: "tls")),
      let certificate = section.required("certificate").map(tlsFile), let key = section.required("key").map(tlsFile)
    else { return nil }
    return ServerConfiguration.TLSFiles(certificate: certificate, key: key)
  }

  private func host(_ node: ConfigurationNode) -> String? {
    let text = node.text.lowercased()
    guard !text.isEmpty else { return nil }
    let allowed = text.utf8.allSatisfy { byte in
      (0x61...0x7A).contains(byte) || (0x30...0x39).contains(byte) || "-._".utf8.contains(byte)
    }
    guard allowed else {
      node.fault("'\(text)' is no host name; it goes without a port")
      return nil
    }
    return text
  }

  private func permissions(_ node: ConfigurationNode) -> UInt32 {
    guard let mode = node.plainText.flatMap({ UInt32($0, radix: 8) }), mode <= 0o777 else {
      node.fault("must be \(ConfigurationKey.socketMode.form)")
      return 0o600
    }
    return mode
  }

  private func readTokens(_ node: ConfigurationNode) -> ServerConfiguration.Tokens {
    node.choice(ServerConfiguration.Tokens.self, else: .off)
  }

  private func devicePattern(_ node: ConfigurationNode) -> String? {
    let text = node.text
    guard !text.isEmpty else { return nil }
    guard text.hasPrefix("/"), !text.contains("/../"), !text.hasSuffix("/") else {
      node.fault("'\(text)' is no path of a device: must be absolute")
      return nil
    }
    return text
  }
}

// MARK: What is looked after

extension ConfigurationReader {
  private func repositories(in allowed: [String]) -> [ServerConfiguration.DeclaredRepository] {
    var names: Set<ResourceName> = []
    var places = FolderSet()
    return list("repositories").compactMap { node in
      let section = node.section(root.fields(of: "repositories"))
      let (nameNode, kind, pathNode) = (section.required("name"), section.required("kind"), section.required("path"))
      let name = nameNode?.name
      if let name, !names.insert(name).inserted { nameNode?.fault("'\(name)' is there twice") }
      let folder = pathNode.flatMap { self.place($0, in: allowed, "repositoryFolders", mayBeFolder: true) }
      if let pathNode, let folder { places.add(folder, at: pathNode) }
      let stated = kind?.choice(Repository.Kind.self, else: .directory)
      guard let name, let stated, let folder else { return nil }
      return ServerConfiguration.DeclaredRepository(name: name, kind: stated, path: folder)
    }
  }

  private func images(in allowed: [String]) -> [ServerConfiguration.DeclaredImage] {
    var names: Set<ResourceName> = []
    var sources: [ImageSource: ResourceName] = [:]
    return list("images").compactMap { node in
      let section = node.section(root.fields(of: "images"))
      let nameNode = section.required("name")
      let sourceNode = section.required("source")
      let name = nameNode?.name
      if let name, !names.insert(name).inserted { nameNode?.fault("'\(name)' is there twice") }
      let source = sourceNode.flatMap { self.source($0, in: allowed) }
      let format = section.required("format")?.choice(DiskFormat.self, else: .raw)
      let isExclusive = section.optional("exclusive")?.truth() ?? false
      let labels = section.optional("labels")?.dictionary ?? [:]
      guard let name, let source, let format else { return nil }
      if let other = sources.updateValue(name, forKey: source) { sourceNode?.fault("is the source of '\(other)' too") }
      return ServerConfiguration.DeclaredImage(
        name: name, source: source, format: format, isExclusive: isExclusive, labels: labels)
    }
  }

  private enum SourceKind: String, CaseIterable { case file, device, nbd }

  private func source(_ node: ConfigurationNode, in allowed: [String]) -> ImageSource? {
    let fields = root.fields(of: "images").first { $0.name == "source" }?.fields ?? []
    let section = node.section(fields)
    let kind = section.required("kind")?.choice(SourceKind.self, else: .file)
    guard let kind else { return nil }
    if kind != .nbd, let uri = section.optional("uri") { uri.fault("goes with kind nbd only") }
    switch kind {
    case .file:
      return section.required("path").flatMap { place($0, in: allowed, "imageFolders", mayBeFolder: false) }
        .map { .file(path: $0) }
    case .device:
      guard let text = section.required("path")?.text, !text.isEmpty else { return nil }
      return .device(path: FolderPath.absolute(text, in: folder))
    case .nbd:
      section.optional("path")?.fault("goes with kind file or device only")
      return section.required("uri").flatMap(nbdURI).map { .nbd(uri: $0) }
    }
  }

  /// A path that must lie beneath one of the `allowed` folders, as it is written or once links are followed. The kernel
  /// is asked again whenever it is opened.
  private func place(
    _ node: ConfigurationNode, in allowed: [String], _ key: String, mayBeFolder: Bool
  ) -> String? {
    let text = node.text
    guard !text.isEmpty else { return nil }
    let path = FolderPath.absolute(text, in: folder)
    let resolved = FolderPath.resolved(path)
    let isInside = allowed.contains { folder in
      if FolderPath.contains(folder, path) { return mayBeFolder || folder != path }
      guard let resolved, let folder = FolderPath.resolved(folder) else { return false }
      return FolderPath.contains(folder, resolved) && (mayBeFolder || folder != resolved)
    }
    guard isInside else {
      node.fault("\(path) lies in none of the \(key)")
      return nil
    }
    return path
  }
}

extension ListenAddress {
  /// Such an address can stand there twice: each gets a port of its own.
  fileprivate var takesAnyPort: Bool {
    if case .tcp(_, 0) = self { true } else { false }
  }
}
