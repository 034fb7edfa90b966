// The NBD protocol: exports that guests and tools use, and other servers' exports as devices.
//
// The specification is doc/proto.md of the NBD project; comments name its sections. URIs follow doc/uri.md beside it.
//
// ## The picture
//
//     NBDListener ── accepts ──▶ ServerConnection ── handshake on the listener's loop
//                                       │ the client has chosen an export
//                                       ▼
//     NBDExport ◀── BlockDevice    Transmission, an actor on the export's loop
//                                       │ takes requests from one large buffer, RequestRules judges each
//                                       ├─▶ a READ that the device answers at once: right there, into the ReplyArena
//                                       ├─▶ what must wait: a carrier task of its own
//                                       └─▶ ReplyQueue: one arena is filled while the other is sent
//
//     NBDDevice (a BlockDevice) ── ClientLink ── ClientConnection, one after another ──▶ any NBD server
//
// Both sides' handshakes are values without I/O (`ServerHandshake`, `ClientHandshake`): bytes in, actions out. So tests
// and the fuzzer drive them without a socket, and both sides speak through `ByteStream`, in the clear or through TLS.
//
// ## What keeps it sound
//
// 1. A peer may say anything. Lengths are bounded before memory is taken; a request that breaks the rules is answered
//    with an error where the stream is still understood, and else ends the connection.
// 2. Memory is bounded for each connection: bytes of requests, of reads, of replies (`NBDServerOptions`, `ByteBudget`).
//    A client that doesn't take its replies stops its own requests and no other client's.
// 3. Every request is answered once, in any order. What an answered FLUSH covers is every change that was answered before
//    it, over all connections of the export, so clients may use several.
// 4. An export doesn't own its device. Taking it away ends its clients first; afterwards nothing uses the device.
// 5. As a client we send again what a broken connection left unanswered, and nothing that a silent server may still carry
//    out: an old write that arrives late would undo a newer one (`ClientLink`). A server that loses power between a
//    write and the next flush loses that write, and no client can tell.
//
// ## The folders
//
// - Protocol/  messages as values: handshakes, requests, replies, errors, flags, limits.
// - Server/    listeners, exports, connections, transmission, budgets, figures.
// - Client/    a server's export as a device; dialing, renewing the connection, URIs.
// - TLS/       GnuTLS between two buffers, credentials, who the peer has proved to be.
