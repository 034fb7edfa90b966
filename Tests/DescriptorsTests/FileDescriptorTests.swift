import Descriptors
import Glibc
import Testing

struct FileDescriptorTests {
  @Test func aFailedCallMakesNoOwnerAndKeepsItsReason() {
    let descriptor = FileDescriptor(result: open("/nowhere/at/all", O_RDONLY))
    #expect(errno == ENOENT)
    #expect(descriptor == nil)
  }

  @Test func theLastReferenceClosesTheFile() throws {
    try withPipe { reading, writing in
      var copy = FileDescriptor(result: fcntl(writing.rawValue, F_DUPFD_CLOEXEC, 0))
      writing.close()
      #expect(copy != nil && isAtEnd(reading) == false)
      copy = nil
      #expect(isAtEnd(reading))
    }
  }

  @Test func aSecondCloseLeavesTheNextFileAlone() throws {
    try withPipe { reading, writing in
      let number = writing.rawValue
      writing.close()
      #expect(writing.rawValue == -1)
      #expect(isAtEnd(reading))
      // The number may belong to somebody else by now.
      let next = try #require(FileDescriptor(result: fcntl(reading.rawValue, F_DUPFD_CLOEXEC, number)))
      writing.close()
      #expect(fcntl(next.rawValue, F_GETFD) >= 0)
    }
  }

  @Test func aReleasedFileStaysOpen() throws {
    try withPipe { reading, writing in
      let number = writing.release()
      #expect(writing.rawValue == -1 && writing.release() == -1)
      writing.close()
      #expect(isAtEnd(reading) == false)
      close(number)
      #expect(isAtEnd(reading))
    }
  }

  private func withPipe(_ body: (FileDescriptor, FileDescriptor) throws -> Void) throws {
    var ends: [Int32] = [-1, -1]
    try #require(pipe(&ends) == 0)
    let reading = FileDescriptor(adopting: ends[0])
    try #require(fcntl(reading.rawValue, F_SETFL, O_NONBLOCK) == 0)
    try body(reading, FileDescriptor(adopting: ends[1]))
  }

  /// All writing ends are closed.
  private func isAtEnd(_ pipe: FileDescriptor) -> Bool {
    var byte: UInt8 = 0
    return read(pipe.rawValue, &byte, 1) == 0
  }
}
