import Model

/// What a shared check found wrong, and where in the check.
package struct ExpectationFailure: Error, CustomStringConvertible {
  package let description: String

  package init(_ text: String, fileID: StaticString = #fileID, line: UInt = #line) {
    description = "\(text) [\(fileID):\(line)]"
  }
}

func expect(
  _ holds: Bool, _ promise: @autoclosure () -> String, fileID: StaticString = #fileID, line: UInt = #line
) throws {
  guard holds else { throw ExpectationFailure("broken: \(promise())", fileID: fileID, line: line) }
}

func expectEqual<Value: Equatable>(
  _ value: Value?, _ expected: Value?, _ promise: @autoclosure () -> String = "both are equal",
  fileID: StaticString = #fileID, line: UInt = #line
) throws {
  guard value != expected else { return }
  let found = value.map { "\($0)" } ?? "nothing"
  let wanted = expected.map { "\($0)" } ?? "nothing"
  throw ExpectationFailure("broken: \(promise()): \(found), not \(wanted)", fileID: fileID, line: line)
}

/// Runs `body`, which must throw a `DomainError` of that code.
func expectRefusal<Result>(
  _ code: ProblemCode, _ what: String, fileID: StaticString = #fileID, line: UInt = #line,
  _ body: () async throws -> Result
) async throws {
  do {
    _ = try await body()
  } catch let error as DomainError where error.code == code {
    return
  } catch {
    throw ExpectationFailure("\(what): threw \(error), not \(code)", fileID: fileID, line: line)
  }
  throw ExpectationFailure("\(what): was accepted, expected \(code)", fileID: fileID, line: line)
}
