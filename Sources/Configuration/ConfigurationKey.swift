/// One key of the configuration file, as a person is told of it. The reader takes its known keys and its defaults
/// from here, and a test holds the README to it.
package struct ConfigurationKey: Hashable, Sendable {
  package let name: String
  /// What may stand there, in words.
  package let form: String
  /// What holds if the key is left out, as YAML; nil if it must be given, or if nothing is the default.
  package let standard: String?
  package let meaning: String
  /// The keys within, of a section or of each item of a list.
  package let fields: [ConfigurationKey]

  private init(
    _ name: String, _ form: String, standard: String?, _ meaning: String, fields: [ConfigurationKey] = []
  ) {
    self.name = name
    self.form = form
    self.standard = standard
    self.meaning = meaning
    self.fields = fields
  }

  /// Every key of the file's top level, in the order in which they are shown.
  package static let all: [ConfigurationKey] = [
    listen, tls, hosts, socketMode, tokens, stateFolder, trackingFolder, trackingMemory, imageFolders, imageDevices,
    repositoryFolders, fleecingFolder, fleecingSize, copyBuffer, guestWriteTimeout,
    socketFolder, socketGroup, repositories, images, exportTLS, exportConnections, nbdPeers, peerTLS, ioBackend,
    compressionLevel, chainLength, sampledCheck, timeZone, jobsAtOnce, eventStreams, eventsKept, logLevel,
  ]

  // MARK: The API

  static let listen = ConfigurationKey(
    "listen", "an address or a list of them: IP:PORT, localhost:PORT, [IPv6]:PORT or unix:PATH",
    standard: "127.0.0.1:8480",
    "Where the API is served. Only loopback addresses and unix sockets: there are no tokens yet that would keep "
      + "others out. Port 0 takes a free one.")
  static let tls = ConfigurationKey(
    "tls", "a section", standard: nil, "Serves TLS on the TCP addresses.",
    fields: [
      ConfigurationKey("certificate", "a path", standard: nil, "The certificate chain, in PEM."),
      ConfigurationKey("key", "a path", standard: nil, "The certificate's private key, in PEM."),
    ])
  static let hosts = ConfigurationKey(
    "hosts", "a list of host names", standard: "[]",
    "Names in the Host header that are answered, beside the loopback names with the port that is served.")
  static let socketMode = ConfigurationKey(
    "socketMode", "an octal mode, 0 to 0777", standard: "0600", "Who may connect to the API's unix sockets.")
  static let tokens = ConfigurationKey(
    "tokens", "off", standard: "off",
    "Whether requests need a token. They can't have one yet: whoever reaches the API is administrator.")

  // MARK: Folders

  static let stateFolder = ConfigurationKey(
    "stateFolder", "a path", standard: "./state", "The catalog, and what else the server remembers.")
  static let trackingFolder = ConfigurationKey(
    "trackingFolder", "a path", standard: "/dev/shm",
    "A folder in memory, where the changes of attached images are recorded so that they outlive the server.")
  static let trackingMemory = ConfigurationKey(
    "trackingMemory", "bytes, 1048576 to 1099511627776", standard: "67108864",
    "What recording all images together may take. At least 12 KiB for each that records, and more for a large disk or more "
      + "bitmaps: where that isn't left, attaching it or making a bitmap is refused with both numbers (`bitmap-limit`). The "
      + "rest, up to seven eighths, is used as guests write; where there is no more, changes are recorded coarsely.")
  static let imageFolders = ConfigurationKey(
    "imageFolders", "a list of paths", standard: "[./images]",
    "Images, the files they are built on, and files that backups are restored to lie beneath these.")
  static let imageDevices = ConfigurationKey(
    "imageDevices", "a list of absolute paths, with * and ? within a name", standard: "[]",
    "Block devices that may be images, e.g. /dev/vg0/*; compared after links are resolved.")
  static let repositoryFolders = ConfigurationKey(
    "repositoryFolders", "a list of paths", standard: "[./backup]",
    "Repositories lie beneath these, or are these.")
  static let fleecingFolder = ConfigurationKey(
    "fleecingFolder", "a path", standard: "./fleecing",
    "On local storage: takes what guests change while their images are backed up or fleeced, and copyBuffer has no room for."
  )
  static let fleecingSize = ConfigurationKey(
    "fleecingSize", "bytes, 0 to 1152921504606846976", standard: "10737418240", "As much of it is used at most.")
  static let copyBuffer = ConfigurationKey(
    "copyBuffer", "bytes, 1048576 to 1099511627776", standard: "67108864",
    "Memory for what guests change while their images are backed up or fleeced, over all images.")
  static let guestWriteTimeout = ConfigurationKey(
    "guestWriteTimeout", "a time such as 500ms or 2s, 10ms to 60s", standard: "2s",
    "How long a guest's write waits for what it changes to be kept; then the backup fails or the fleecing breaks, and the guest goes on."
  )
  static let socketFolder = ConfigurationKey(
    "socketFolder", "a path", standard: "./run", "Sockets that the server makes for exports lie beneath it.")
  static let socketGroup = ConfigurationKey(
    "socketGroup", "the name of a group", standard: nil,
    "Who may connect to the exports' unix sockets beside the server's own user: their mode is 0660, their group is "
      + "this one, or else the server's own.")

  // MARK: What is looked after

  static let repositories = ConfigurationKey(
    "repositories", "a list of sections", standard: "[]",
    "Repositories that are there from the start, and can't be changed over the API.",
    fields: [
      ConfigurationKey("name", "a name", standard: nil, "Unique among the repositories."),
      ConfigurationKey("kind", "directory", standard: "directory", "How backups are kept."),
      ConfigurationKey("path", "a path", standard: nil, "Its folder, within repositoryFolders."),
    ])
  static let images = ConfigurationKey(
    "images", "a list of sections", standard: "[]",
    "Images that are there from the start, and can't be changed over the API.",
    fields: [
      ConfigurationKey("name", "a name", standard: nil, "Unique among the images."),
      ConfigurationKey(
        "source", "a section", standard: nil, "Where its bytes are.",
        fields: [
          ConfigurationKey("kind", "file, device or nbd", standard: nil, "What they are in."),
          ConfigurationKey(
            "path", "a path", standard: nil, "Of a file beneath imageFolders, or of one of imageDevices."),
          ConfigurationKey(
            "uri", "an NBD URI", standard: nil,
            "Of an export of one of nbdPeers: nbd://HOST/EXPORT, nbd+unix:///EXPORT?socket=PATH; nbds for TLS."),
        ]),
      ConfigurationKey(
        "format", "raw or qcow2", standard: nil, "Stated, never guessed: a guest can write any header into a raw disk."),
      ConfigurationKey(
        "exclusive", "true or false", standard: "false",
        "Nothing but this server writes to it: a promise that block devices need for increments that read only what changed."
      ),
      ConfigurationKey("labels", "text by text", standard: "{}", "To find the image by."),
    ])

  // MARK: NBD

  static let exportTLS = ConfigurationKey(
    "exportTLS", "a section", standard: nil,
    "What exports with TLS need: certificate, key and clientAuthority for x509, preSharedKeys for psk, or both.",
    fields: [
      ConfigurationKey("certificate", "a path", standard: nil, "The server's certificate chain, in PEM."),
      ConfigurationKey("key", "a path", standard: nil, "The certificate's private key, in PEM."),
      ConfigurationKey(
        "clientAuthority", "a path", standard: nil,
        "Who must have signed the certificate that each client shows, in PEM."),
      ConfigurationKey(
        "preSharedKeys", "a path", standard: nil, "The clients' keys, a line each, as psktool writes them."),
    ])
  static let exportConnections = ConfigurationKey(
    "exportConnections", "1 to 10000", standard: "100", "Connections that all exports together have at one time.")
  static let nbdPeers = ConfigurationKey(
    "nbdPeers", "a list of HOST, HOST:PORT, [IPv6]:PORT or unix:PATH", standard: "[]",
    "Hosts and sockets that NBD sources and targets may name; without a port, every port of the host.")
  static let peerTLS = ConfigurationKey(
    "peerTLS", "a section", standard: nil,
    "What nbds peers are judged by, and what the server proves itself by to them: certificates or a key.",
    fields: [
      ConfigurationKey(
        "authority", "a path", standard: nil,
        "Who must have signed the peers' certificates, in PEM; the system's authorities if left out."),
      ConfigurationKey(
        "certificate", "a path", standard: nil, "The server's certificate chain for peers that ask, in PEM."),
      ConfigurationKey("key", "a path", standard: nil, "The certificate's private key, in PEM."),
      ConfigurationKey(
        "preSharedKey", "a path", standard: nil,
        "Instead of certificates: a file with one line identity:hex, as psktool writes it."),
    ])

  // MARK: How it works

  static let ioBackend = ConfigurationKey(
    "ioBackend", "auto, io_uring or epoll", standard: "auto",
    "What drives the I/O; auto takes io_uring where the kernel allows it.")
  static let compressionLevel = ConfigurationKey(
    "compressionLevel", "1 to 19", standard: "3", "The zstd level of compressed backups.")
  static let chainLength = ConfigurationKey(
    "chainLength", "1 to 9999", standard: "200",
    "Backups in a row after which kind auto begins a new chain with a full.")
  static let sampledCheck = ConfigurationKey(
    "sampledCheck", "0 to 1", standard: "0.001",
    "Share of what a bitmap calls unchanged that an increment compares with the hashes of its parent all the same.")
  static let timeZone = ConfigurationKey(
    "timeZone", "the name of a time zone, as Europe/Berlin", standard: nil,
    "What schedules go by that name no zone of their own; the host's time zone if left out.")
  static let jobsAtOnce = ConfigurationKey(
    "jobsAtOnce", "1 to 64", standard: "2", "Jobs that run at one time; the others wait.")
  static let eventStreams = ConfigurationKey(
    "eventStreams", "1 to 4096", standard: "512", "Event streams that are served at one time.")
  static let eventsKept = ConfigurationKey(
    "eventsKept", "100 to 10000000", standard: "10000", "Past events that a client can catch up with.")
  static let logLevel = ConfigurationKey(
    "logLevel", "trace, debug, info, notice, warning, error or critical", standard: "info",
    "The least weight of what is logged.")
}

extension ConfigurationKey {
  /// A file that says what holds without a file: each key with its meaning above it.
  package static var explanation: String {
    all.map { key in
      let value = key.standard.map { "\(key.name): \($0)" } ?? "# \(key.name): (\(key.form))"
      return "# \(key.meaning)\n# \(key.form)\n" + key.fieldLines(indent: "#   ") + value + "\n"
    }.joined(separator: "\n")
  }

  private func fieldLines(indent: String) -> String {
    fields.map { field in
      let fallback = field.standard.map { " (\($0) if left out)" } ?? ""
      return "\(indent)\(field.name): \(field.form)\(fallback). \(field.meaning)\n"
        + field.fieldLines(indent: indent + "  ")
    }.joined()
  }
}
