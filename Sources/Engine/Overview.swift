// The block engine behind Model's ports: it opens images, copies them into repositories and back, proves what is stored,
// and serves images to guests.
//
// ## The picture
//
//     jobs, exports (Orchestrator) ── BlockEngine, plain values ──▶ LocalEngine
//
//     image at rest      ImageOpener ──▶ file ── format ──────────────────────────▶ one piece of work, then closed
//     attached image     ImageGraph  ──▶ file ── format ── filters ── Slot ────────▶ exports, until it is detached
//     its moment         PointInTimeView of the graph's CopyBeforeWrite ── FleecedDevice ──▶ exports of a fleecing
//     stored backup      BackupRepository ──▶ data, hashes ────────────────────────▶ restore, verification
//                                             data, hashes ── Window ── CheckedBackup ──▶ exports
//
// A piece of work runs on one loop from its beginning to its end, with every device that it opens. It comes in by an
// order, a value that says all it needs, and tells through `JobControl`: progress, log, pause, cancellation.
//
// One backup: the source is opened and its locks taken, or joined where it is attached; a lease on the image's folder in the
// repository is taken. Then `BackupDecision` says what it will be and what it builds on; a tracker's bitmap, or else the
// hashes of that, say what changed. Attached images come to one moment (`GraphBarrier`), from which on a view of it is read
// (`AttachedPoint`). `Regions` tell where data lies, `CopyPlan` makes steps of them {copy, zero, skip}, and `CopyLoop` keeps several in
// flight, at a `CopyPace`: read on the loop, hashed and compressed on the worker pool, given in any order to the
// `BackupSink`, which puts leaves into the hash tree and, through its `TargetWriter`, clusters into the new qcow2 file.
// Verification and restore are the same copy with other sinks. Data and hashes are made durable and get their names; the
// manifest comes last.
//
// One guest's write: an export on the image's loop gives it to the `Slot`, which lets changes pass or holds them. A raw
// file's goes through its `AlignedAccess`, which reads and writes back the blocks that it covers in part; qcow2 finds or
// takes clusters and orders what its file is told.
//
// ## What keeps it sound
//
// 1. Paths mean what they mean to the kernel. Folders that may be used are opened anew for each piece of work, and
//    everything in them is reached from the open folder (`AllowedFolders`, `RestorePlace`).
// 2. A format is stated and never guessed, and the files that an image names are judged before they are opened
//    (`BackingName`).
// 3. An image file has one writer: `FileClaims` among our own uses, and QEMU's locks against other processes.
// 4. A backup is complete when its repository has published it, under the image's lease (`BackupRepository`).
// 5. Storage that hangs holds up only what needs it: blocking calls run in its lane.
//
// ## The folders
//
// - Opening/      which paths may be used: allowed folders and devices, and the names that an image gives its files.
// - Images/       opening images, who may use one and excludes whom, and the graph of one that is open to be written.
// - Tracking/     what changed since a backup: the bitmaps of an image that is open to be written, and the one that a
//                 backup leaves in it. K1–K5 stand at the head of `Tracker.swift`. Crash/ is what a killed server leaves:
//                 R1–R5 stand at the head of `CrashRecord.swift`. Sidecars/ is for images that have no place for a bitmap:
//                 S1–S6 stand at the head of `TrackerSidecar.swift`.
// - PointsInTime/ one moment over several images, at rest (`HeldImage`) or attached (`AttachedPoint`, `CopyAside`), and what a
//                 backup will be (`BackupDecision`).
// - Fleecings/    views of images at one moment that are served to other programs: F1–F4 stand at the head of
//                 `LocalEngine+Fleecings.swift`.
// - Exports/      what is served over NBD, at which addresses, to whom; of a backup nothing that wasn't held against its
//                 hashes: C1–C5 stand at the head of `CheckedBackup.swift`.
// - Peers/        other NBD servers as sources and targets.
// - Copying/      what to copy (`Regions`), in which steps (`CopyPlan`, `ChunkGeometry`), how fast (`CopyPace`), and where
//                 it goes: the sinks of backups, verifications and restores.
// - Jobs/         the pieces of work: back up, restore, verify, check, inspect.
// - Failures/     what latches an image, and which backup's file is damaged.
//
// Where backups are stored is the room Repositories; errors become those of the domain in the room Failures.
