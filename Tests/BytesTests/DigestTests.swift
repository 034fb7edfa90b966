import Bytes
import Foundation
import Testing

@Suite struct DigestTests {
  /// The examples of FIPS 180-4 and others of the field.
  @Test(arguments: [
    ("", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
    ("abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
    (
      "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
    (String(repeating: "a", count: 1000), "41edece42d63e8d9bf515a9ba6932e1c20cbc9f5a5d134645adb5db1b9737ea3"),
  ])
  func theDigestIsThatOfTheStandard(_ message: String, _ text: String) {
    #expect(Digest(of: message).description == text)
    #expect(Digest(of: Array(message.utf8).span.bytes) == Digest(of: message))
  }

  @Test func digestsAreThoseOfTheCommandOfThatName() throws {
    let file = FileManager.default.temporaryDirectory.appending(path: "sha256-\(UUID().uuidString)")
    defer { try? FileManager.default.removeItem(at: file) }
    for count in [0, 1, 55, 56, 63, 64, 65, 119, 120, 100_003] {
      let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) }
      try Data(bytes).write(to: file)
      let process = Process()
      process.executableURL = URL(fileURLWithPath: "/usr/bin/sha256sum")
      process.arguments = [file.path]
      let pipe = Pipe()
      process.standardOutput = pipe
      try process.run()
      let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
      process.waitUntilExit()
      #expect(output.hasPrefix(Digest(of: bytes.span.bytes).description + " "), "\(count) bytes")
    }
  }

  @Test func aDigestReadsItsOwnTextAndNoOther() {
    let digest = Digest(of: "abc")
    #expect(Digest(hexadecimal: digest.description) == digest)
    let text = digest.description
    for other in ["", "ba78", text.uppercased(), String(text.dropLast()) + "g", text + "0", text + "00"] {
      #expect(Digest(hexadecimal: other) == nil)
    }
  }

  @Test func aDigestIsStoredAndReadWhereItIsTold() {
    let digest = Digest(of: "abc")
    var bytes = [UInt8](repeating: 7, count: 40)
    digest.store(in: &bytes, at: 5)
    #expect(Array(bytes[5..<37]) == digest.bytes)
    #expect(bytes[..<5].allSatisfy { $0 == 7 } && bytes[37...].allSatisfy { $0 == 7 })
    #expect(Digest(from: bytes.span.bytes, at: 5) == digest)
    #expect(Digest.zero.bytes == [UInt8](repeating: 0, count: 32))
  }
}
