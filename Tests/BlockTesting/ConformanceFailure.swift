/// What a shared check found wrong, and where in the check.
package struct ConformanceFailure: Error, CustomStringConvertible {
  package let description: String

  package init(_ text: String, fileID: StaticString = #fileID, line: UInt = #line) {
    description = "\(text) [\(fileID):\(line)]"
  }
}
