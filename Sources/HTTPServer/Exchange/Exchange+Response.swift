import CMicrohttpd
import Glibc

extension Exchange {
  /// Memory in which libmicrohttpd collects a stream's bytes before it sends them without chunks.
  private static let streamBlock = 32 << 10

  /// Hands the answer to libmicrohttpd. False: it can't be sent, the connection must break.
  func queue(_ response: HTTPResponse, on connection: OpaquePointer) -> Bool {
    let response = admitStream(response)
    phase = .queued
    guard let made = make(response.content) else {
      response.discard()
      service.logger.error("a response couldn't be made", metadata: ["request": "\(request?.id ?? "")"])
      return false
    }
    defer { MHD_destroy_response(made) }
    addFields(of: response, to: made)
    let isQueued = MHD_queue_response(connection, UInt32(clamping: response.status), made) == .YES
    if !isQueued { response.discard() }
    return isQueued
  }

  /// An event stream needs one of the places that there are.
  private func admitStream(_ response: HTTPResponse) -> HTTPResponse {
    guard case .events(let stream) = response.content, let request else { return response }
    let limit = service.options.eventStreamLimit
    let fault: HTTPFault
    switch service.liveRequests.enter(stream, of: self, limit: limit) {
    case .entered:
      let attachment = ServerSentEvents.Attachment(
        wake: { [weak self] in self?.wake() }, abort: { [weak self] in self?.abort() })
      // A stream that is over already is sent all the same: it ends at once.
      _ = stream.attach(attachment)
      return response
    case .limitReached: fault = .tooManyEventStreams(limit: limit)
    case .stopping: fault = .stopping
    }
    stream.close()
    return service.responder.response(to: fault, for: request)
  }

  private func make(_ content: HTTPResponse.Content) -> OpaquePointer? {
    switch content {
    case .bytes(var bytes):
      return bytes.withUnsafeMutableBytes { bytes in
        MHD_create_response_from_buffer(bytes.count, bytes.baseAddress, .RESPMEM_MUST_COPY)
      }
    case .file(let file):
      guard let taken = file.takeDescriptor(),
        let made = MHD_create_response_from_fd_at_offset64(file.length, taken.rawValue, file.offset)
      else { return nil }
      // The response closes it.
      _ = taken.release()
      return made
    case .stream(let length, let producer):
      let writer = HTTPBodyWriter(
        executor: service.executor, wake: { [weak self] in self?.wake() }, producer: producer)
      return make(writer, length: length)
    case .events(let stream):
      return make(stream, length: nil)
    }
  }

  private func make(_ source: any ResponseSource, length: UInt64?) -> OpaquePointer? {
    draw(from: source)
    let isEndMarked = length == nil && request?.version != "HTTP/1.0"
    let reader = Unmanaged.passRetained(
      ResponseReader(exchange: self, source: source, isEndMarked: isEndMarked))
    let made = MHD_create_response_from_callback(
      length ?? UInt64.max, Self.streamBlock, readResponse, reader.toOpaque(), freeResponseReader)
    if made == nil { reader.release() }
    return made
  }

  private func addFields(of response: HTTPResponse, to made: OpaquePointer) {
    var fields = response.headers
    if case .events = response.content {
      fields["Content-Type"] = "text/event-stream"
      fields["Cache-Control"] = "no-store"
    }
    if service.liveRequests.isStopping { fields["Connection"] = "close" }
    for field in fields.all where MHD_add_response_header(made, field.name, field.value) == .NO {
      service.logger.error(
        "a header field can't be sent", metadata: ["request": "\(request?.id ?? "")", "field": "\(field.name)"])
    }
  }
}

/// What libmicrohttpd calls for a response that comes into being while it is sent. It holds this (retained).
final class ResponseReader {
  private let exchange: Exchange
  private let source: any ResponseSource
  /// The content is chunked, so that its end can be told. Else it ends with the connection; and where the length was
  /// announced, the end comes too early if it is asked for at all.
  private let isEndMarked: Bool

  init(exchange: Exchange, source: any ResponseSource, isEndMarked: Bool) {
    self.exchange = exchange
    self.source = source
    self.isEndMarked = isEndMarked
  }

  /// The next bytes: their count, 0 if the connection is parked, or libmicrohttpd's mark of the end.
  func read(into buffer: UnsafeMutableRawBufferPointer) -> Int {
    while true {
      exchange.beginCheck()
      switch source.read(into: buffer) {
      case .bytes(let count): return count
      case .end: return isEndMarked ? cmhd_end_of_stream() : cutOff(buffer)
      case .broken: return cutOff(buffer)
      case .wait:
        switch exchange.park() {
        case .parked: return 0
        case .woken: continue
        case .over: return cutOff(buffer)
        }
      }
    }
  }

  /// Ends the connection without a mark of the end. A connection that libmicrohttpd 0.9.75 closes because of what this
  /// callback returned keeps its socket until the timeout; so it gets a byte that can't be sent instead, and closes
  /// because of that.
  private func cutOff(_ buffer: UnsafeMutableRawBufferPointer) -> Int {
    exchange.cutOff()
    guard !buffer.isEmpty else { return cmhd_end_with_error() }
    buffer[0] = 0
    return 1
  }
}

private let readResponse: MHD_ContentReaderCallback = { context, _, buffer, size in
  guard let context, let buffer else { return cmhd_end_with_error() }
  let reader = Unmanaged<ResponseReader>.fromOpaque(context).takeUnretainedValue()
  return reader.read(into: UnsafeMutableRawBufferPointer(start: buffer, count: size))
}

private let freeResponseReader: MHD_ContentReaderFreeCallback = { context in
  if let context { Unmanaged<ResponseReader>.fromOpaque(context).release() }
}
