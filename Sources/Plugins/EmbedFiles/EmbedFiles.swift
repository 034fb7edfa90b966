import Foundation
import PackagePlugin

/// Makes files part of the program: openapi.yaml, the migrations and the web files, so that one executable is all
/// that is installed. The tool walks the folders itself, as a build's plan can be older than what is in them.
@main
struct EmbedFiles: BuildToolPlugin {
  func createBuildCommands(context: PluginContext, target: any Target) throws -> [Command] {
    let root = context.package.directoryURL
    let output = context.pluginWorkDirectoryURL.appending(path: "EmbeddedFile+All.swift")
    let places = [
      ("openapi.yaml", root.appending(path: "openapi.yaml")),
      ("migrations", root.appending(path: "migrations")),
      ("web", target.directoryURL.appending(path: "web")),
    ].filter { FileManager.default.fileExists(atPath: $0.1.path) }
    // Differs in each process, so the command is never up to date. The tool leaves its output alone if nothing changed.
    let everyBuild = URL(filePath: "/proc/self/stat")
    return [
      .buildCommand(
        displayName: "Embedding files", executable: try context.tool(named: "embed-files").url,
        arguments: [output.path] + places.flatMap { [$0.0, $0.1.path] },
        inputFiles: [everyBuild], outputFiles: [output])
    ]
  }
}
