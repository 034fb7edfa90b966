// swift-tools-version: 6.2
import PackageDescription

/// What every target of ours is built with. `Lifetimes` lets an owner of raw memory lend spans.
let settings: [SwiftSetting] = [
  .swiftLanguageMode(.v6),
  .treatAllWarnings(as: .error),
  .enableExperimentalFeature("Lifetimes"),
]

/// Rooms whose `async` functions stay on their caller's executor unless they say `@concurrent`.
let staying: Set<String> = [
  "EventLoops", "BlockCore", "BlockFilters", "Bitmaps", "RawFile", "Qcow2", "NBD", "BlockTesting", "BlockFiltersTests",
]

func settings(of name: String) -> [SwiftSetting] {
  settings + (staying.contains(name) ? [.enableUpcomingFeature("NonisolatedNonsendingByDefault")] : [])
}

let argumentParser: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let grdb: Target.Dependency = .product(name: "GRDB", package: "GRDB.swift")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")

/// A room of the program: its dependencies are exactly what it may import.
func room(_ name: String, _ dependencies: [Target.Dependency], plugins: [Target.PluginUsage]? = nil) -> Target {
  .target(name: name, dependencies: dependencies, swiftSettings: settings(of: name), plugins: plugins)
}

/// - Parameter exclude: files beside the tests that aren't built, as scripts.
func tests(_ name: String, _ dependencies: [Target.Dependency], exclude: [String] = []) -> Target {
  .testTarget(name: name, dependencies: dependencies, exclude: exclude, swiftSettings: settings(of: name))
}

/// Parts that only tests use: the in-memory, faulty and crash-point implementations and the conformance suites.
func testParts(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
  .target(name: name, dependencies: dependencies, path: "Tests/\(name)", swiftSettings: settings(of: name))
}

func library(_ name: String, apt package: String) -> Target {
  .systemLibrary(name: name, providers: [.apt([package])])
}

let package = Package(
  name: "cobweb",
  products: [.executable(name: "cobweb", targets: ["cobweb"])],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.5.0"),
    .package(url: "https://github.com/apple/swift-log", from: "1.6.0"),
    .package(url: "https://github.com/groue/GRDB.swift", from: "7.0.0"),
    .package(url: "https://github.com/jpsim/Yams", from: "6.0.0"),
  ],
  targets: [
    library("CLiburing", apt: "liburing-dev"),
    library("CMicrohttpd", apt: "libmicrohttpd-dev"),
    library("CGnuTLS", apt: "libgnutls28-dev"),
    library("CZstd", apt: "libzstd-dev"),
    library("CZlib", apt: "zlib1g-dev"),

    // The block engine: knows nothing of the domain.
    room("Locks", []),
    room("Bytes", ["CGnuTLS"]),
    room("Descriptors", []),
    room("Buffers", ["Locks"]),
    room("BlockCore", []),
    room("Bitmaps", ["BlockCore", "Bytes"]),
    room("BlockFilters", ["Bitmaps", "BlockCore", "Buffers", "Locks"]),
    room("EventLoops", ["Bytes", "CLiburing", "Descriptors", "Locks"]),
    room("RawFile", ["Buffers", "BlockCore", "Descriptors", "EventLoops"]),
    room("Qcow2", ["Bytes", "Locks", "Buffers", "BlockCore", "BlockFilters", "CZstd", "CZlib"]),
    room("NBD", ["Bytes", "Buffers", "BlockCore", "EventLoops", "Locks", "CGnuTLS", logging]),

    // The domain and what serves it.
    room("Schedules", ["Bytes", "Descriptors", "Locks"]),
    room("Model", ["Bytes", "Schedules"]),
    room("Failures", ["Model", "BlockCore", "EventLoops", "Qcow2"]),
    room(
      "Repositories",
      [
        "Model", "Failures", "Bytes", "Locks", "Buffers", "BlockCore", "Descriptors", "EventLoops", "RawFile", "Qcow2",
        logging,
      ]),
    room(
      "Engine",
      [
        "Model", "Failures", "Repositories", "Bytes", "Locks", "Buffers", "BlockCore", "BlockFilters", "Bitmaps",
        "Descriptors",
        "EventLoops", "RawFile", "Qcow2", "NBD",
        logging,
      ]),
    room("Orchestrator", ["Model", "Schedules", "Locks", logging]),
    room("Catalog", ["Model", "Bytes", "Assets", "Descriptors", "Locks", grdb]),
    room("HTTPServer", ["Bytes", "CMicrohttpd", "Descriptors", "Locks", logging]),
    room("RESTAPI", ["Model", "Schedules", "Bytes", "Orchestrator", "HTTPServer", "Assets", "Locks", logging]),
    room("Configuration", ["Model", "Schedules", "Bytes", "Descriptors", yams]),
    room("Assets", [], plugins: ["EmbedFiles"]),
    .executableTarget(
      name: "cobweb",
      dependencies: [
        "Model", "EventLoops", "Engine", "Orchestrator", "Catalog", "HTTPServer", "RESTAPI", "Configuration",
        argumentParser, logging,
      ],
      swiftSettings: settings),

    .executableTarget(name: "embed-files", path: "Sources/Plugins/embed-files", swiftSettings: settings),
    .plugin(
      name: "EmbedFiles", capability: .buildTool(), dependencies: ["embed-files"], path: "Sources/Plugins/EmbedFiles"),

    // Tests, and the parts that only they use.
    testParts("BlockTesting", ["Buffers", "BlockCore"]),
    testParts("ModelTesting", ["Model", "Locks"]),
    testParts(
      "RepositoryTesting",
      ["Repositories", "Model", "BlockCore", "BlockTesting", "Buffers", "EventLoops", "Locks", "Qcow2"]),
    .executableTarget(
      name: "filter-cost", dependencies: ["Bitmaps", "BlockCore", "BlockFilters", "EventLoops", "RawFile"],
      path: "Tests/Benchmark/FilterCost", swiftSettings: settings),
    tests("BytesTests", ["Bytes"]),
    tests("LocksTests", ["Locks"]),
    tests("BuffersTests", ["Buffers", "Locks"]),
    tests("BlockCoreTests", ["BlockCore", "Buffers", "BlockTesting"]),
    tests("BitmapsTests", ["Bitmaps", "BlockCore", "BlockTesting", "Bytes"]),
    tests("BlockFiltersTests", ["Bitmaps", "BlockFilters", "BlockCore", "Buffers", "BlockTesting"]),
    tests("DescriptorsTests", ["Descriptors"]),
    tests("EventLoopsTests", ["EventLoops", "Buffers", "Descriptors", "Locks"]),
    tests("RawFileTests", ["RawFile", "Descriptors", "EventLoops", "BlockCore", "Buffers", "BlockTesting"]),
    tests("Qcow2Tests", ["Qcow2", "BlockCore", "BlockFilters", "Buffers", "BlockTesting", "CZlib"]),
    tests(
      "NBDTests",
      [
        "NBD", "Bytes", "EventLoops", "BlockCore", "BlockFilters", "Buffers", "Locks", "RawFile", "BlockTesting",
        logging,
      ]),
    tests("SchedulesTests", ["Schedules", "BlockTesting"], exclude: ["clock_changes.py"]),
    tests("ModelTests", ["Model", "ModelTesting"]),
    tests("CatalogTests", ["Catalog", "Model", "ModelTesting", "Assets", "Locks", grdb]),
    tests("OrchestratorTests", ["Orchestrator", "Model", "ModelTesting", "Locks", logging]),
    tests(
      "RepositoriesTests",
      [
        "Repositories", "RepositoryTesting", "Model", "ModelTesting", "Bytes", "Locks", "BlockCore", "Buffers",
        "EventLoops", "Qcow2", "BlockFilters", "Bitmaps", "BlockTesting",
      ]),
    tests(
      "EngineTests",
      [
        "Engine", "Repositories", "RepositoryTesting", "Failures", "Model", "ModelTesting", "Bytes", "Locks",
        "BlockCore", "BlockFilters", "Buffers",
        "Descriptors", "EventLoops", "RawFile", "Qcow2", "NBD", "BlockTesting", logging,
      ]),
    tests("HTTPServerTests", ["HTTPServer", "Locks"]),
    tests(
      "RESTAPITests",
      ["RESTAPI", "Model", "Orchestrator", "HTTPServer", "Assets", "Locks", "ModelTesting", logging, yams]),
    tests("ConfigurationTests", ["Configuration", "Model", "ModelTesting"]),
  ]
)
