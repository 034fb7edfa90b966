// The domain: what Cobweb knows, says and promises, as values. Nothing here touches SQL, HTTP, JSON text or a file.
//
// ## The picture
//
//     RESTAPI ──▶ Orchestrator ──▶ BackupCatalog (port) ◀── Catalog
//                      │
//                      └─────────▶ BlockEngine (port)   ◀── Engine, Repositories
//
// Everything that crosses a port is a value of this room. So the block engine could run as a process of its own, and
// tests bring a catalog, an engine and a time of their own (`ModelTesting`).
//
// ## One backup, from its request to its row
//
//     BackupDraft         Orchestrator   what a client asks for: images by name or id, repository, kind, compression
//     BackupJobRequest    Job            the same with ids, and with the ids of the backups to be made; the job keeps it
//     BackupOrder         Ports          all that the engine needs for one image
//     Manifest            Repositories   what the repository holds, written last: a backup is complete by it
//     BackupReceipt       Ports          what the engine tells of a complete backup
//     Backup              Entities       the catalog's account, from `running` on; `Chain` ties a full and its followers
//     Backup+Row          Catalog        the account's columns
//     BackupView          Orchestrator   the account with what other rows add to it: names, dependents, whether it can go
//     BackupDocument      RESTAPI        the view as JSON
//
// `StoredBackupLocation` says where one lies. A scan gives `Backup`s that were read from manifests alone.
//
// ## What keeps it sound
//
// 1. An entity is what the catalog says of one thing; its `revision` grows with each change.
// 2. An event is appended in the transaction of the change that it tells of (`CatalogTransaction`, in Orchestrator).
// 3. Every failure that a person should read is a `DomainError`: what happened, to what, and what helps. Its `code` is
//    part of the API, its `Field` says which part of the request is meant.
// 4. Enumerations that grow are rows of the catalog's reference tables: a new case here is one INSERT there.
// 5. Time comes from a `TimeSource`, and nothing else here knows what time it is.
//    What calendars and clocks say of a time is `Schedules`'.
//
// ## The folders
//
// - Entities/   images, repositories, backups and chains, jobs and their results, exports, fleecings, events.
// - Access/     who asks, and the verbs that a route can need.
// - Ports/      BlockEngine and its orders and reports, BackupCatalog, TimeSource.
// - Identity/   ids, names, references.
// - Problems/   refusals in the domain's words.
// - Time/       points in time as text.
