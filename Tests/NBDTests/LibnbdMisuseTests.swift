import BlockCore
import BlockTesting
import NBD
import Testing

/// What libnbd lets through when it is told not to be strict, and what the server makes of it (proto.md, “Error
/// values”, “Request types”). Each time it goes on serving others.
@Suite struct LibnbdMisuseTests {
  /// One misuse, as Python with `disk` (1 MiB in blocks of 512), `readonly` and `large` (1 GiB) as URIs.
  struct Misuse: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let script: String

    init(_ name: String, _ script: String) {
      testDescription = name
      self.script = script
    }
  }

  private static let prelude = """
    import nbd, sys
    disk, readonly, large = sys.argv[1:4]
    size = 1 << 20
    def connect(uri, contexts=(), structured=True):
        h = nbd.NBD()
        h.set_strict_mode(0)
        h.set_request_structured_replies(structured)
        for context in contexts: h.add_meta_context(context)
        h.connect_uri(uri)
        return h
    def refused(errno, body, *args, **more):
        try: body(*args, **more)
        except nbd.Error as error:
            assert error.errno == errno, (errno, error.errno, error.string, args, more)
            return
        assert False, ("not refused", args, more)
    def alive(h):
        assert h.pread(512, 1024) == bytes([7]) * 512
    status = lambda *_: 0
    allocation = ["base:allocation"]

    """

  static let misuses = [
    Misuse(
      "past the end",
      """
      h = connect(disk, allocation)
      for count, offset in (512, size), (1024, size - 512), (512, 1 << 62), (512, (1 << 64) - 512):
          refused("EINVAL", h.pread, count, offset)
          refused("ENOSPC", h.pwrite, bytes(count), offset)
          refused("EINVAL", h.trim, count, offset)
          refused("ENOSPC", h.zero, count, offset)
          refused("EINVAL", h.cache, count, offset)
          refused("EINVAL", h.block_status, count, offset, status)
      alive(h)
      """),
    Misuse(
      "a READ above the maximum",
      """
      for structured, errno in (True, "EOVERFLOW"), (False, "EINVAL"):
          h = connect(large, structured=structured)
          assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 << 20
          refused(errno, h.pread, (32 << 20) + 512, 0)
          refused(errno, h.pread, 64 << 20, 0)
          assert h.pread(512, 0) == bytes(512)
      """),
    Misuse(
      "a WRITE above the maximum",
      """
      h = connect(large)
      try: h.pwrite(bytes((32 << 20) + 512), 0)
      except nbd.Error: pass
      else: assert False
      assert h.aio_is_dead() or h.aio_is_closed()
      h = connect(large)
      h.pwrite(bytes(32 << 20), 0)
      assert h.pread(512, 0) == bytes(512)
      """),
    Misuse(
      "unknown flags",
      """
      h = connect(disk, allocation)
      for bit in range(6, 16):
          refused("EINVAL", h.pread, 512, 0, flags=1 << bit)
          refused("EINVAL", h.pwrite, bytes(512), 0, flags=1 << bit)
          refused("EINVAL", h.flush, flags=1 << bit)
          refused("EINVAL", h.trim, 512, 0, flags=1 << bit)
          refused("EINVAL", h.cache, 512, 0, flags=1 << bit)
          refused("EINVAL", h.zero, 512, 0, flags=1 << bit)
          refused("EINVAL", h.block_status, 512, 0, status, flags=1 << bit)
      alive(h)
      """),
    Misuse(
      "flags of other commands",
      """
      h = connect(disk, allocation)
      no_hole, df, req_one, fast_zero = nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_DF, nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO
      for flag in no_hole, req_one, fast_zero: refused("EINVAL", h.pread, 512, 0, flags=flag)
      for flag in no_hole, df, req_one, fast_zero:
          refused("EINVAL", h.pwrite, bytes(512), 0, flags=flag)
          refused("EINVAL", h.flush, flags=flag)
          refused("EINVAL", h.trim, 512, 0, flags=flag)
          refused("EINVAL", h.cache, 512, 0, flags=flag)
      for flag in df, req_one: refused("EINVAL", h.zero, 512, 0, flags=flag)
      for flag in no_hole, df, fast_zero: refused("EINVAL", h.block_status, 512, 0, status, flags=flag)
      alive(h)
      """),
    Misuse(
      "changes and unadvertised commands on a read-only export",
      """
      h = connect(readonly, allocation)
      assert h.is_read_only() and not h.can_flush() and not h.can_fua() and not h.can_trim() and not h.can_zero()
      refused("EPERM", h.pwrite, bytes(512), 0)
      refused("EPERM", h.trim, 512, 0)
      refused("EPERM", h.zero, 512, 0)
      refused("EINVAL", h.flush)
      for body in lambda: h.pread(512, 0, flags=nbd.CMD_FLAG_FUA), lambda: h.cache(512, 0, flags=nbd.CMD_FLAG_FUA):
          refused("EINVAL", body)
      alive(h)
      """),
    Misuse(
      "DF without structured replies",
      """
      h = connect(disk, structured=False)
      assert not h.can_df()
      refused("EINVAL", h.pread, 512, 0, flags=nbd.CMD_FLAG_DF)
      alive(h)
      """),
    Misuse(
      "BLOCK_STATUS without a context",
      """
      for structured in True, False:
          h = connect(disk, structured=structured)
          refused("EINVAL", h.block_status, 512, 0, status)
          alive(h)
      h = connect(disk, ["x-unheard:of", "base:unheard", "qemu:dirty-bitmap:unheard"])
      refused("EINVAL", h.block_status, 512, 0, status)
      alive(h)
      """),
    Misuse(
      "requests of length zero",
      """
      h = connect(disk, allocation)
      for body in h.pread, h.trim, h.zero, h.cache:
          try: body(0, 512)
          except nbd.Error as error: assert error.errno == "EINVAL"
      h.pwrite(b"", 0)
      refused("EINVAL", h.block_status, 0, 0, status)
      alive(h)
      """),
    Misuse(
      "negotiating again and again",
      """
      h = nbd.NBD()
      h.set_strict_mode(0)
      h.set_opt_mode(True)
      h.add_meta_context("base:allocation")
      h.connect_uri(disk)
      for turn in range(50):
          h.set_export_name("disk")
          h.opt_info()
          assert h.get_size() == size
          h.set_export_name("nowhere")
          refused("ENOENT", h.opt_info)
          refused("ENOENT", h.opt_go)
          assert h.opt_list(lambda *_: 0) == 4
      h.set_export_name("disk")
      h.opt_go()
      alive(h)
      seen = []
      h.block_status(size, 0, lambda context, offset, entries, error: seen.append(context))
      assert seen == ["base:allocation"]
      """),
    Misuse(
      "an option in transmission and a command in the handshake",
      """
      h = connect(disk)
      refused("EINVAL", h.opt_list, lambda *_: 0)
      alive(h)
      h = nbd.NBD()
      h.set_strict_mode(0)
      h.set_opt_mode(True)
      h.connect_uri(disk)
      refused("EINVAL", h.pread, 512, 0)
      h.opt_go()
      alive(h)
      """),
    Misuse(
      "right and wrong ones in flight together",
      """
      h = connect(disk, allocation)
      wanted = {}
      for index in range(300):
          kind = index % 5
          if kind == 0: cookie = h.aio_pread(nbd.Buffer(512), 1024)
          elif kind == 1: cookie = h.aio_pread(nbd.Buffer(512), size)
          elif kind == 2: cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), size - 511)
          elif kind == 3: cookie = h.aio_flush(flags=1 << 14)
          else: cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([7]) * 512), 1024)
          wanted[cookie] = (None, "EINVAL", "ENOSPC", "EINVAL", None)[kind]
      while h.aio_in_flight() > 0: h.poll(-1)
      for cookie, errno in wanted.items():
          if errno is None: assert h.aio_command_completed(cookie)
          else: refused(errno, h.aio_command_completed, cookie)
      alive(h)
      """),
    Misuse(
      "a goodbye with requests in flight",
      """
      h = connect(disk)
      for index in range(64):
          h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([index + 1]) * 4096), 65536 + index * 4096)
      h.aio_disconnect()
      while not (h.aio_is_dead() or h.aio_is_closed()): h.poll(-1)
      h = connect(disk)
      for index in range(64):
          assert h.pread(4096, 65536 + index * 4096) == bytes([index + 1]) * 4096, index
      alive(h)
      """),
  ]

  @Test(arguments: misuses) func isAnsweredAsTheSpecificationSays(_ misuse: Misuse) async throws {
    for answersAtOnce in [true, false] {
      try await withWorld(loopCount: 1) { world in
        var options = MemoryDevice.Options()
        options.limits.requestAlignment = 512
        options.answersTryRead = answersAtOnce
        options.interleavingSeed = answersAtOnce ? nil : 2
        var image = SparseImage(byteCount: 1 << 20)
        image.write([UInt8](repeating: 7, count: 512).span.bytes, at: 1024)
        try world.publish(MemoryDevice(image, options: options))
        var readOnly = NBDExport.Options()
        readOnly.isReadOnly = true
        try world.publish(MemoryDevice(image, options: options), as: "readonly", isDefault: false, options: readOnly)
        try world.publish(
          MemoryDevice(byteCount: 1 << 30, options: options), as: "large", isDefault: false)
        try world.publishForBystanders()
        try await Bystander.watch(world) { () async throws in
          _ = try await Tool.check(
            "/usr/bin/python3",
            ["-c", Self.prelude + misuse.script] + ["disk", "readonly", "large"].map { world.uri($0) })
        }
      }
    }
  }
}
