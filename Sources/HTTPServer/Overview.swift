// HTTP/1.1 on libmicrohttpd: requests come to one `HTTPResponder` as values, answered now or by an async function.
//
// ## The picture
//
//     ListeningSocket ──▶ ServerThread, accepts ──▶ Connections: is there room? ──▶ MicrohttpdDaemon, one an address
//                                                                                        │ its threads
//     HTTPResponder ◀── HTTPRequest ◀── Exchange, one a request ◀────────────────────────┘
//          │                               ▲     │
//          └── HTTPResponse ───────────────┘     └── parked (suspended) while a task works, woken by it
//
// libmicrohttpd calls from its own threads. What can be answered at once is answered there (`answerNow`); for the rest
// the connection is suspended, a task runs the responder's `answer`, and wakes it. Bodies flow both ways in bounded
// queues, so neither a slow client nor a slow handler takes memory.
//
// ## What keeps it sound
//
// 1. A connection is used on libmicrohttpd's thread or under its exchange's gate: the rules at the head of `Exchange`.
// 2. Connections, the time of a head, the rest of a body, event streams: each has a bound (`WebServerOptions`), and one
//    client can't take all of a kind (C1–C3 at the head of `Connections`).
// 3. libmicrohttpd doesn't see a client that leaves while its connection is suspended: `ClientWatch` does, and the
//    request's task is cancelled.
// 4. A stop lets in nothing new, gives requests their time, and ends daemons with no connection suspended.
//
// ## The folders
//
// - Listening/  addresses, sockets, connections, daemons, the start and the stop.
// - Exchange/   one request and its answer, between libmicrohttpd's callbacks and a task.
// - Messages/   what a responder sees: requests, bodies, answers, server-sent events.
