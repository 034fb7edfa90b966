import ArgumentParser

/// The program. `serve` is the server; commands that call one come later.
@main
struct Cobweb: ParsableCommand {
  static let version = "0.1.0"

  static let configuration = CommandConfiguration(
    commandName: "cobweb",
    abstract: "Keeps the disk images of virtual machines backed up, over a REST API.",
    version: version,
    subcommands: [Serve.self])
}
