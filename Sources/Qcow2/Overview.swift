// The qcow2 format, and where this room deals with each part of it.
//
// The specification is docs/interop/qcow2.txt in QEMU's sources; comments name its sections. Read this page, then the
// folders in the order below: each file begins with what it promises.
//
// ## The picture
//
// A file is divided into host clusters of 512 bytes to 2 MiB; the guest's disk into guest clusters of the same size.
// Everything, guest data and tables alike, takes whole host clusters, in any order. All numbers are big-endian.
//
//     header (cluster 0) ── refcount table ── refcount blocks          how often each host cluster is used
//        │    │    │
//        │    │    └─ L1 table ── L2 tables ── clusters of guest data  where each guest cluster is stored
//        │    └────── snapshot table ── an L1 table for each ── …      the same, as it was at another time
//        └─────────── extensions: backing format, feature names, bitmap directory ── bitmap tables ── bits
//
// A guest offset is cut into three: index in the L1 table, index in the L2 table that is named there, offset in the
// cluster that is named there. With 64 KiB clusters an L2 table has 8192 entries and maps 512 MiB, and an L1 table of
// 16 TiB has 32768 entries. Tables that would be empty don't exist, so a new image is a few clusters long.
//
// An L2 entry says of a guest cluster that it is
// - unallocated: its bytes are the backing file's, or zeroes where that ends or isn't there;
// - zero, with or without a host cluster kept for it (version 3);
// - data in a host cluster. The COPIED flag says that nothing else uses that cluster: it may be written in place;
// - compressed: packed at any byte, several guest clusters to a host cluster, each use counted. Never changed in place.
// With extended entries, 16 bytes long, each of 32 subclusters is unallocated, zero or data by itself.
//
// A snapshot is a copy of the L1 table; what both name has a count of 2, isn't COPIED, and is copied before it changes.
// With an external data file the guest's data lie there, each cluster at its guest offset, and only tables lie here.
//
// ## What keeps it sound
//
// A file may be cut off at any write, and writes between two flushes may reach the disk in any order. So:
// 1. data, and the count of a cluster, are durable before an entry names the cluster;
// 2. an entry's change is durable before what it named loses its count, and so may be used for something else;
// 3. a block is durable before the refcount table names it, a table before the header names it.
// Whatever is lost, counts are never too low: the worst that a cut leaves behind is a cluster that nothing uses. The
// numbered invariants stand at the head of `Refcounts` and `ClusterMap`; `ClusterMap+Commit` performs them.
// Bitmaps change as a whole: the header names the old ones or the new ones (`BitmapsOnDisk`). What the header itself says
// changes in one sector, or over a bridge of which every part is a whole header (`HeaderRewrite`).
// After a failed write of a table nothing can tell what the file holds: then nothing more is written (`ImageFile`).
//
// Files come from anywhere. What a table says is checked where it is used, memory is never taken by a size that the
// file states beyond a named limit, and nothing is written over metadata, whatever the tables say (`MetadataRegions`).
// Bits of bitmaps are read cluster by cluster; directory and tables have limits (`StoredBitmaps`, `BitmapsOnDisk`).
// The tables that stay in memory have a limit for all files of a chain together (`maximumChainTableByteCount`).
// Names and lists that leave this room are cut at a named length, and what holds them says that they were
// (`Qcow2Description`, `Qcow2CheckReport`).
//
// ## The folders
//
// - Header/       the first cluster as a value, decoded, checked, encoded; its changes in the file; descriptions; the mark
//                 that says which record of changes goes with an image.
// - Refcounts/    counts, 1 to 64 bits wide; finding and taking free clusters; growing.
// - Metadata/     entries and what they mean; the L1 and L2 tables, which answer with mappings; the cache of tables.
// - Compression/  clusters in and out of zlib and zstd.
// - Snapshots/    their directory, read only: what else uses clusters, and what images say of themselves.
// - Bitmaps/      the directory, tables and bits of dirty bitmaps; storing them anew, as `BitmapsOnDisk` says.
// - IO/           the image as a block device: requests become mappings, mappings become requests to the file.
// - Check/        a walk through all tables: errors, leaks, where; repair.
//
// An image never opens a path: it is given devices. It runs on one loop, interleaving at every `await`: tables are
// looked up and changed between two of them, and requests for the same guest clusters wait for each other.
