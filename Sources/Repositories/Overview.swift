// Where backups are stored: documents, hash trees, leases, publishing, deletion, recovery.
//
// ## The picture
//
//     Engine ── BackupRepository, RepositoryLease, BackupStage (the port) ──▶ a kind of repository
//
//     RepositoryKind         opens a repository for one piece of work, on one loop
//       BackupRepository     scan · recover · record · manifest · open hashes and data · delete · take a lease
//         RepositoryLease    begin a stage; renewed until it is given back
//           BackupStage      create data and hashes · publish | discard
//
//     DirectoryRepositories  the kind `directory`: folders of this machine, readable with qemu-img and jq alone
//
// Above the port nothing knows of folders, names of files or renames: a repository in an object store would be one more
// kind beside Directory/, and would pass `RepositoryConformance` as this one does.
//
// ## What keeps it sound
//
// 1. A backup is complete when its manifest is there: R1–R6 at the head of `BackupRepository`.
// 2. In a folder, the order of publishing is that of `StageFolder`; that of taking away is the reverse
//    (`BackupDeletion`). `RepositoryRecovery` puts right what a crash left between two steps.
// 3. A writer below an image's folder holds its `Lease`, and confirms it right before each step that other servers could
//    see.
// 4. A manifest commits to what the guest sees, by the root of the `HashTree`; each page of a tree proves itself against
//    it. Documents guard themselves with a checksum, and readers ignore members that they don't know.
// 5. Sequence numbers end at `Manifest.sequences`, for writers and readers alike.
// 6. A chain is read through a map of which file has the say, made when it is opened (`ChainImage`). Each file is
//    compared with its manifest and its neighbours before the map relies on it, and again whenever it is opened anew.
// 7. `trash/` belongs to a repository, with the time of deletion in its names (`TrashName`); nothing reads it as a
//    backup, and recovery leaves it alone.
//
// ## The folders
//
// - Documents/   repository.json, image.json, manifests: what they say, and how they are checked.
// - Hashing/     the tree of SHA-256 over a guest's data: written, read, proven.
// - Leases/      the right to write below an image, and the beats that show other servers that its holder lives.
// - Files/       the files beneath one folder, where everything that can fail is; names of work files. Restores to files
//                use them too.
// - ChainMap/    a chain of qcow2 files read as one image, whatever its depth.
// - Directory/   the kind `directory`: what is called how, stages, deletion, recovery, scans.
