/// The value of a `Content-Type` header (RFC 9110, 8.3).
struct MediaType {
  /// Type and subtype, in lower case.
  let name: String
  /// The text is UTF-8, said or unsaid.
  let isUTF8: Bool

  /// nil if it isn't of the form `type/subtype; name=value…`.
  init?(_ text: String) {
    let parts = text.split(separator: ";", omittingEmptySubsequences: false).map { $0.trimmed.lowercased() }
    guard let name = parts.first, name.split(separator: "/", omittingEmptySubsequences: false).count == 2 else {
      return nil
    }
    self.name = name
    isUTF8 = parts.dropFirst().allSatisfy { parameter in
      parameter.isEmpty || !parameter.hasPrefix("charset=")
        || ["charset=utf-8", "charset=\"utf-8\""].contains(parameter)
    }
  }
}
