// What Cobweb can be asked to do: use cases, the jobs that carry out what takes time, and what keeps catalog and engine
// in line with each other.
//
// ## The picture
//
//     RESTAPI ── BackupService ── use case ──▶ CatalogTransaction ──▶ rows and their events, or none
//                                     │                                        │
//                                     │ what takes time                        └──▶ EventFeed ──▶ streams
//                                     ▼
//                                 JobQueue ──▶ JobRunner ──▶ JobWork (Jobs/Kinds) ──▶ BlockEngine
//
// A use case reads a `CatalogView`, asks the rules of the nouns that it is about, and changes rows in one
// `CatalogTransaction`. A job begins as such a change. `JobQueue` starts it when its `JobClaim`s are free, `JobRunner`
// writes each step of its life to the catalog, and its `JobWork` gives orders to the engine.
//
// ## What keeps it sound
//
// 1. Rows and events commit together: a transaction offers no way to change an entity without its event.
// 2. What was checked when a job was asked for is checked again when it runs.
// 3. What the engine serves is in the catalog (`Serving`). A step that one of them takes and the other doesn't is taken
//    back, or reconciled later.
// 4. Operations on one image or backup take turns; others aren't held up by them.
// 5. The start brings the catalog in line with the world before and beside the first requests (`StartUp`).
// 6. Every wait has a bound with a name (`ServiceLimits`), and goes by one `TimeSource`.
//
// ## Where things go
//
//     a route's work          UseCases/, a function of `BackupService`
//     what a noun allows      Rules/, one file for each noun
//     a kind of job           Jobs/Kinds/, a `JobWork`; a case of `JobRequest`; one INSERT into the kinds' table
//     a result, plan or fault a typed value here or in Model; RESTAPI alone writes JSON
//
// ## The folders
//
// - Transactions/   the one way to the catalog; idempotency.
// - Rules/          what images, backups, exports, repositories and jobs allow.
// - UseCases/       what can be asked for, by noun.
// - Requests/       the conditions of a change, its answer, its plan.
// - Jobs/           claims, queue, runner, the engine's line to a job; Kinds/ has the work.
// - Serving/        attached images, exports and fleecings.
// - Startup/        from the last stop to the first request.
// - Events/         committed events and progress for listeners.
