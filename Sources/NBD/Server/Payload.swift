import Buffers
import EventLoops

/// The payload of one request: memory with one user at a time, given back when it was used or the last reference goes,
/// and its share of the connection's budget.
final class Payload: @unchecked Sendable {
  // Safe to hand over: filled by the receiving task, then used by the one that carries the request out.

  private var memory: PageBuffer?
  private let byteCount: Int
  private let budget: ByteBudget?

  /// For requests without a payload.
  static let none = Payload()

  private init() {
    memory = nil
    byteCount = 0
    budget = nil
  }

  init(_ memory: consuming PageBuffer, byteCount: Int, budget: ByteBudget) {
    self.memory = consume memory
    self.byteCount = byteCount
    self.budget = budget
  }

  /// Copies the bytes that came along with the header.
  func fill(from bytes: RawSpan) {
    guard var memory = memory.take() else { return }
    var target = memory.mutableBytes
    target.copy(from: bytes)
    self.memory = consume memory
  }

  /// Receives the bytes from `start` on; false if the peer ended its side before all were there.
  func receive(from start: Int, _ stream: any ByteStream) async throws(SystemError) -> Bool {
    guard start < byteCount else { return true }
    guard var memory = memory.take() else { return false }
    var all = memory.mutableBytes
    var rest = all.part(start..<byteCount)
    let count: Int
    do throws(SystemError) {
      count = try await stream.receiveAll(into: &rest)
    } catch {
      self.memory = consume memory
      throw error
    }
    self.memory = consume memory
    return count == byteCount - start
  }

  /// Lends the bytes, once.
  func use<Result, Failure: Error>(
    _ body: (RawSpan) async throws(Failure) -> Result
  ) async throws(Failure) -> Result? {
    guard let memory = memory.take() else { return nil }
    return try await body(memory.bytes.extracting(0..<byteCount))
  }

  /// All bytes, copied: for short ones.
  func copied() -> [UInt8] {
    guard let memory = memory.take() else { return [] }
    return memory.bytes.extracting(0..<byteCount).withUnsafeBytes { Array($0) }
  }

  /// Gives back the share of the budget. On the connection's loop, once.
  func release() { budget?.release(byteCount) }
}
