import Assets
import Foundation
import Model
import ModelTesting
import Testing

@testable import RESTAPI

/// openapi.yaml and the program say the same.
@Suite struct ContractTests {
  @Test func everyRouteIsDocumentedAndEveryDocumentedOneIsRouted() async throws {
    try await withWorld { world in
      let routed = Set(world.responder.operations.map(\.operation))
      let documented = Set(world.contract.operations.map(\.name))
      #expect(routed == documented, "\(routed.symmetricDifference(documented))")
    }
  }

  @Test func everyQueryParameterIsDocumentedWhereItIsTaken() async throws {
    try await withWorld { world in
      for (operation, query) in world.responder.operations {
        let documented = try #require(world.contract.operations.first { $0.name == operation }).parameters
          .filter { $0["in"] == "query" }.compactMap { $0["name"]?.text }
        #expect(Set(query) == Set(documented), "\(operation)")
      }
    }
  }

  @Test func everyPathParameterIsDocumented() throws {
    for operation in try Contract.shared.get().operations {
      let inPath = operation.segments.filter { $0.hasPrefix("{") }.map { String($0.dropFirst().dropLast()) }
      let documented = operation.parameters.filter { $0["in"] == "path" }.compactMap { $0["name"]?.text }
      #expect(inPath == documented, "\(operation.name)")
    }
  }

  @Test func everyOperationHasAnIdOfItsOwn() throws {
    let contract = try Contract.shared.get()
    let ids = (contract.root["paths"] ?? .null).members.flatMap { $0.value.members }
      .filter { $0.key != "parameters" }.map { $0.value["operationId"]?.text ?? "" }
    #expect(Set(ids).count == ids.count)
    #expect(!ids.contains(""))
  }

  @Test func everyProblemCodeIsDocumentedAndHasAPage() async throws {
    try await withWorld { world in
      let documented = world.contract.root.at("components", "schemas", "ProblemCode", "enum")?.items.compactMap(\.text)
      #expect(documented == ProblemCode.allCases.map(\.rawValue))
      for code in ProblemCode.allCases {
        let page = try await world.get("/docs/problems/\(code.rawValue)").expect(200)
        #expect(page.text.contains(HTMLPage.escape(ProblemType.of(code).title)))
        #expect(page.header("Content-Security-Policy")?.hasPrefix("default-src 'none'") == true)
      }
    }
  }

  @Test func everyExampleFitsItsSchema() throws {
    let contract = try Contract.shared.get()
    var count = 0
    for operation in contract.operations {
      let contents =
        operation.responses.values.compactMap { $0["content"] } + [operation.requestBody?["content"]].compactMap(\.self)
      for (type, media) in contents.flatMap(\.members) where type.hasSuffix("json") {
        let examples =
          [media["example"]].compactMap(\.self) + (media["examples"] ?? .null).members.compactMap { $0.value["value"] }
        for example in examples {
          count += 1
          #expect(throws: Never.self, "\(operation.name) \(type)") {
            try SchemaCheck(contract: contract).check(example, try #require(media["schema"]))
          }
        }
      }
    }
    #expect(count > 100)
  }

  @Test func everyBodyRefusesUnknownFields() throws {
    let contract = try Contract.shared.get()
    for operation in contract.operations {
      guard let body = operation.requestBody else { continue }
      for (type, media) in (body["content"] ?? .null).members where type != BitsAnswer.contentType {
        let schema = contract.resolved(media["schema"] ?? .null)
        for part in schema["oneOf"]?.items ?? [schema] {
          #expect(contract.resolved(part)["additionalProperties"] == .bool(false), "\(operation.name)")
        }
      }
    }
  }

  @Test func theServedContractIsTheFileOfTheTree() async throws {
    try await withWorld { world in
      let reply = try await world.get("/openapi.yaml").expect(200)
      #expect(reply.body == EmbeddedFile.named("openapi.yaml")?.bytes)
      #expect(reply.header("Content-Type") == "application/yaml")
    }
  }
}
