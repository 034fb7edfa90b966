// The REST API: requests become calls of use cases, and what those answer becomes JSON.
//
// ## The picture
//
//     HTTPServer ──▶ APIResponder ──▶ Router ──▶ Route ──▶ Requests: body and query, read into drafts
//                        │                         │
//                        │                         └─────▶ BackupService (Orchestrator), a use case
//                        │                                       │ an entity, a view, a plan, or a DomainError
//     HTTPServer ◀───────┴──── Documents, Problems ◀─────────────┘
//
// `APIResponder` checks what holds on all routes: host and origin, path, method, media type. A `Route` states the verb
// that its caller needs, its query parameters and the kind of its body, and has one function, which reads a draft, calls
// one use case and names the document of the answer. Whether something is allowed is no question for this room.
//
// ## What keeps it sound
//
// 1. A request is read whole and strictly: a member that no reader asked for is refused, and all faults of a body are
//    told at once (`RequestFields`).
// 2. Every change goes through `Call.change`: dry run, `If-Match` and `Idempotency-Key` are the same everywhere.
// 3. Every refusal is a `DomainError`. Its `ProblemCode` decides status, title and page in one table
//    (`ProblemType+Table`).
// 4. openapi.yaml is the contract: tests compare it with the routes, with every answer of a test, and with the problems.
// 5. Bodies and answers are JSON, but for one resource: the bits of a bitmap (`BitsAnswer`), which few requests at a time
//    move (`Transfers`).
// 6. A route that answers `.now` runs on a thread that connections share: it reads the catalog briefly or not at all.
//
// ## Where things go
//
//     a route      Routes/, a line in its noun's `all` and a function; openapi.yaml; VerbTests lists what it needs
//     a request    Requests/, a function of `RequestFields` that returns the use case's draft
//     an answer    Documents/, a `JSONWritable`, and its schema in openapi.yaml
//     a problem    Model's `ProblemCode`, its line in Problems/ProblemType+Table, and its code in openapi.yaml
//
// ## The folders
//
// - Routing/      paths, queries and methods; a route and the call that it gets.
// - Routes/       the operations, by noun.
// - Requests/, Documents/   bodies that come in, answers that go out.
// - Conventions/  what all operations share: changes, versions, stored answers, hosts.
// - JSON/         parsing and writing, without a schema.
// - Problems/     refusals as documents and pages.
