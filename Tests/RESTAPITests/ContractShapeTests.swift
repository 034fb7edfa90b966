import Foundation
import Model
import Orchestrator
import Testing

@testable import RESTAPI

/// Answers may grow, and requests are closed: which of the two a schema is shows in its keywords.
@Suite struct ContractShapeTests {
  private let contract: Contract

  init() throws { contract = try Contract.shared.get() }

  @Test func noAnswerIsClosed() {
    let schemas = contract.schemas(below: contract.answerSchemas)
    #expect(schemas.count > 100)
    for schema in schemas {
      #expect(schema["enum"] == nil, "an enum that can't grow: \(schema)")
      #expect(schema["additionalProperties"] != .bool(false), "an object that can't grow: \(schema)")
      #expect(schema["discriminator"] == nil, "a union that can't grow: \(schema)")
    }
  }

  /// A member that is always null today is of the type that it may have one day.
  @Test func noMemberOfAnAnswerIsAlwaysNull() {
    for schema in contract.schemas(below: contract.answerSchemas) {
      for (name, member) in (schema["properties"] ?? .null).members {
        #expect(member["type"] != "null", "\(name)")
      }
    }
  }

  @Test func everyRequestIsClosed() {
    let schemas = contract.schemas(below: contract.requestSchemas)
    #expect(schemas.count > 50)
    for schema in schemas {
      #expect(schema["x-known-values"] == nil && schema["x-known-shapes"] == nil, "a request that is open: \(schema)")
      if schema["properties"] != nil {
        #expect(schema["additionalProperties"] == .bool(false), "an object that takes anything: \(schema)")
      }
    }
  }

  /// A generator names a union and its members after their components, and tells them apart by the discriminator.
  @Test func everyUnionInARequestIsNamedAndHasADiscriminator() throws {
    var kinds: [Set<String>] = []
    for (name, schema) in (contract.root.at("components", "schemas") ?? .null).members {
      guard let members = schema["oneOf"]?.items, contract.isRequest(name) else { continue }
      #expect(members.allSatisfy { $0["$ref"] != nil }, "\(name) has members without a name")
      let resolved = members.map(contract.resolved)
      guard resolved.allSatisfy({ $0["properties"]?["kind"] != nil }) else { continue }
      let mapping = try #require(schema["discriminator"]?["mapping"], "\(name)").memberTable
      #expect(schema["discriminator"]?["propertyName"] == "kind", "\(name)")
      for (member, resolved) in zip(members, resolved) {
        let kind = try #require(resolved.at("properties", "kind", "const")?.text, "\(name)")
        #expect(mapping[kind] == member["$ref"], "\(name)")
      }
      kinds.append(Set(mapping.keys))
    }
    #expect(
      Set(kinds) == [
        Set(SourceKind.allCases.map(\.rawValue)), Set(RequestFields.RestoreTargetKind.allCases.map(\.rawValue)),
        Set(RequestFields.ExportSourceKind.allCases.map(\.rawValue)),
      ])
    for schema in contract.schemas(below: contract.requestSchemas) {
      let isNullable = schema["oneOf"]?.items.contains { $0["type"] == "null" } ?? true
      #expect(isNullable || contract.isComponent(schema), "a union without a name: \(schema)")
    }
  }

  /// What tests hold the server to, and what they mustn't overlook.
  @Test(arguments: [
    (#"{"status":"alive"}"#, "Status", true),
    (#"{"status":"asleep"}"#, "Status", false),
    (#"{"status":"alive","colour":1}"#, "Status", false),
    (#"{"kind":"file","path":"/a"}"#, "ImageSourceShown", true),
    (#"{"kind":"file","path":"/a","uri":"nbd://h/x"}"#, "ImageSourceShown", false),
    (#"{"kind":"file"}"#, "ImageSourceShown", false),
    (#"{"kind":"tape","path":"/a"}"#, "ImageSourceShown", false),
    (#"{"unix":"/a"}"#, "ExportAddressShown", true),
    (#"{"unix":"/a","tcp":"127.0.0.1:1"}"#, "ExportAddressShown", false),
    (#"{"image":"01ARZ3NDEKTSV4RRFFQ69G5FAV","imageName":"a"}"#, "JobResult", true),
    (#"{"colour":1}"#, "JobResult", false),
    ("null", "JobResult", true),
  ])
  func whatTheServerSendsIsHeldAgainstTheClosedContract(json: String, component: String, holds: Bool) throws {
    let value = try JSONParser.parse(Array(json.utf8))
    let schema: JSONValue = ["$ref": .string("#/components/schemas/\(component)")]
    let fits = (try? SchemaCheck(contract: contract).check(value, schema)) != nil
    #expect(fits == holds)
  }

  /// The contract lists what the program knows, in requests and in answers.
  @Test func everyListOfValuesIsTheProgramsOwn() {
    func values<Value: CaseIterable & RawRepresentable<String>>(_ type: Value.Type) -> [String] {
      Value.allCases.map(\.rawValue)
    }
    let formats = values(DiskFormat.self)
    let cacheModes = values(CacheMode.self)
    let (backupKinds, requestedKinds) = (values(BackupKind.self), values(RequestedBackupKind.self))
    let verifyLevels = values(VerifyLevel.self)
    let problemCodes = values(ProblemCode.self)
    let restoreTargets = values(RequestFields.RestoreTargetKind.self)
    let managers = values(ManagedBy.self)
    let expected: [String: [String]] = [
      "Format": formats, "CacheMode": cacheModes, "BackupKind": requestedKinds, "VerifyLevel": verifyLevels,
      "ProblemCode": problemCodes, "Compression": values(Compression.self), "ExportTLS": values(ExportTLS.self),
      "RepositoryKind": values(Repository.Kind.self), "BackupState": values(Backup.State.self),
      "JobKind": values(JobKind.self), "JobState": values(JobState.self),
      "BackupRequest/onFailure": FailurePolicy.allCases.map(\.rawValue),
      "BackupRequest/onTempFull": RequestFields.TempFullChoice.allCases.map(\.rawValue),
      "Server/backupKinds": requestedKinds, "Server/imageFormats": formats, "Server/ioBackend": ["io_uring", "epoll"],
      "Status/status": ["alive", "ready"],
      "ImageSourceShown/kind": values(SourceKind.self),
      "Image/format": formats, "Image/state": values(Image.State.self), "Image/managedBy": managers,
      "Image/attachment/cache": cacheModes, "Image/attachment/cause": values(Attachment.Cause.self),
      "Bitmap/state": values(BitmapRecord.State.self),
      "BitmapTransaction/actions/action": ["add", "remove", "clear", "enable", "disable", "merge"],
      "Inspection/format": formats, "Inspection/backingChain/format": formats,
      "Repository/kind": values(Repository.Kind.self), "Repository/state": values(Repository.State.self),
      "Repository/managedBy": managers,
      "Backup/kind": backupKinds, "Backup/requestedKind": requestedKinds, "Backup/state": values(Backup.State.self),
      "Backup/compression": values(Compression.self), "Backup/consistency": values(Consistency.self),
      "Backup/verifyLevel": verifyLevels, "Backup/trackingFallback": values(TrackingFallback.self),
      "RestoreMode": values(RestoreMode.self), "RestoreResult/mode": ["all", "changed"],
      "Tracker/state": values(TrackerView.State.self), "Tracker/owner": values(TrackerView.Owner.self),
      "Checkpoint/backupState": values(Backup.State.self),
      "Backup/fallbackReason": values(FallbackReason.self),
      "ChainPoint/kind": backupKinds, "ChainPoint/requestedKind": requestedKinds,
      "ChainPoint/state": values(Backup.State.self), "ChainPoint/consistency": values(Consistency.self),
      "ChainPoint/verifyLevel": verifyLevels, "ChainPoint/trackingFallback": values(TrackingFallback.self),
      "ChainPoint/fallbackReason": values(FallbackReason.self),
      "ExportSourceShown/kind": values(RequestFields.ExportSourceKind.self),
      "Export/state": values(Export.State.self), "Export/tls": values(ExportTLS.self),
      "Job/kind": values(JobKind.self), "Job/state": values(JobState.self), "Progress/unit": ["bytes"],
      "FleecingState": values(Fleecing.State.self), "Fleecing/state": values(Fleecing.State.self),
      "Fleecing/tls": values(ExportTLS.self), "Fleecing/release": values(Fleecing.Release.self),
      "Fleecing/outcome": values(Fleecing.Outcome.self),
      "FleecingCreation/release": values(Fleecing.Release.self), "Fleecing/access": values(Fleecing.Access.self),
      "FleecingCreation/access": values(Fleecing.Access.self),
      "FleecingFinish/outcome": values(Fleecing.Outcome.self),
      "FinishFleecingResult/outcome": values(Fleecing.Outcome.self),
      "OtherResult": [],
      "BackupResult/backups/outcome": values(JobResult.BackedUp.Outcome.self),
      "BackupResult/backups/error/code": problemCodes,
      "ChainVerifyResult/level": verifyLevels,
      "ChainVerifyResult/backups/outcome": values(JobResult.VerifiedChain.Outcome.self),
      "ChainVerifyResult/backups/error/code": problemCodes,
      "Disagreement/code": values(TrackingDisagreement.Code.self),
      "Disagreement/outcome": values(TrackingDisagreement.Outcome.self),
      "GroupRestoreResult/restores/outcome": values(JobResult.BackedUp.Outcome.self),
      "GroupRestoreResult/restores/error/code": problemCodes,
      "VerifyResult/level": verifyLevels, "AttachResult/cache": cacheModes,
      "RestoreTargetShown/kind": restoreTargets, "RestoreTargetShown/format": formats,
      "JobLogEntry/level": values(JobLogEntry.Level.self), "Event/kind": values(Event.Kind.self),
      "Problem/code": problemCodes,
    ]
    let listed = contract.listsOfValues
    for (place, values) in listed {
      #expect(values == expected[place], "\(place)")
    }
    #expect(Set(listed.keys) == Set(expected.keys))
  }
}

extension Contract {
  /// What requests carry: bodies, and parameters.
  fileprivate var requestSchemas: [JSONValue] {
    operations.flatMap { operation in
      operation.parameters.compactMap { $0["schema"] }
        + (operation.requestBody?["content"] ?? .null).members.compactMap { $0.value["schema"] }
    }
  }

  /// What answers carry, events among them.
  fileprivate var answerSchemas: [JSONValue] {
    operations.flatMap { operation in
      operation.responses.values.flatMap { ($0["content"] ?? .null).members.compactMap { $0.value["schema"] } }
    } + ["Event", "ProgressEvent", "GapEvent"].map { ["$ref": .string("#/components/schemas/\($0)")] }
  }

  /// The schemas and all that they are made of, each once. What `x-known-shapes` lists is for tests alone.
  fileprivate func schemas(below roots: [JSONValue]) -> [JSONValue] {
    var seen: Set<JSONValue> = []
    var rest = roots
    while let next = rest.popLast() {
      guard case .object = next, seen.insert(next).inserted else { continue }
      let schema = resolved(next)
      seen.insert(schema)
      rest += (schema["properties"] ?? .null).members.map(\.value)
      rest += (schema["oneOf"]?.items ?? []) + (schema["anyOf"]?.items ?? [])
      rest += ["items", "additionalProperties", "propertyNames"].compactMap { schema[$0] }
    }
    return Array(seen)
  }

  /// Whether some request has the component in it.
  fileprivate func isRequest(_ component: String) -> Bool {
    schemas(below: requestSchemas).contains { $0["$ref"] == .string("#/components/schemas/\(component)") }
  }

  fileprivate func isComponent(_ schema: JSONValue) -> Bool {
    root.at("components", "schemas")?.memberTable.values.contains { resolved($0) == resolved(schema) } == true
  }

  /// The values of every `enum` and `x-known-values`, by component and the names of the members that lead there.
  fileprivate var listsOfValues: [String: [String]] {
    var lists: [String: [String]] = [:]
    func look(_ schema: JSONValue, _ place: String) {
      if let values = schema["enum"] ?? schema["x-known-values"] { lists[place] = values.items.compactMap(\.text) }
      if let items = schema["items"] { look(items, place) }
      for (name, member) in (schema["properties"] ?? .null).members { look(member, "\(place)/\(name)") }
    }
    for (name, schema) in (root.at("components", "schemas") ?? .null).members { look(schema, name) }
    return lists
  }
}
