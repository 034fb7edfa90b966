import BlockCore
import BlockTesting
import Glibc
import Testing

@Suite struct BlockErrorTests {
  @Test func textSaysWhatHappenedToWhatAndWhy() {
    let error = BlockError(.noSpace, .write, ByteRange(512..<1024), cause: "growing the L2 table")
    #expect(error.description == "write of bytes [512, 1024): no space left on the storage (growing the L2 table)")
    #expect(BlockError(.closed, .flush).description == "flush: the device is closed")
    #expect(BlockError(errno: EIO, .read).description == "read: Input/output error")
  }

  @Test(arguments: [
    (ENOSPC, BlockError.Kind.noSpace), (EDQUOT, .noSpace), (EFBIG, .io(errno: EFBIG)), (ECANCELED, .cancelled),
    (EROFS, .readOnly), (EOPNOTSUPP, .notSupported), (EIO, .io(errno: EIO)), (EINVAL, .io(errno: EINVAL)),
  ])
  func errnoBecomesItsKind(code: Int32, kind: BlockError.Kind) {
    #expect(BlockError(errno: code, .write).kind == kind)
  }

  @Test func everyKindHasAText() {
    let kinds: [BlockError.Kind] = [
      .io(errno: EIO), .noSpace, .outOfRange, .misaligned, .readOnly, .notSupported, .notFast,
      .corrupt("the L1 table"), .locked("held"), .latchedFailed, .closed, .cancelled,
    ]
    #expect(Set(kinds.map(\.description)).count == kinds.count)
    #expect(kinds.allSatisfy { !$0.description.isEmpty })
  }
}
