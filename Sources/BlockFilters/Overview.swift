// Devices that stand before other devices.
//
//     exports, jobs ──▶ Slot ──▶ (filters come and go here) ──▶ format ──▶ AlignedAccess ──▶ file
//
// A filter conforms to `BlockFilter`: reads, flushes and status go on to `next` unless it answers them itself, and each
// change comes to its one function `change`. What keeps a graph of them sound:
// 1. A graph has one `Slot` at its top, which users hold for as long as the image is open. What stands behind it changes
//    under them; nothing else in a live graph is rewired.
// 2. A file that is written has one `AlignedAccess`, or two would lose each other's part of a block. For its own files
//    the qcow2 format puts it there (`ImageFile`).
// 3. Locks are taken downwards only. No request waits at a hold with a lock that a drain needs: a hold stands above all
//    of them.
// 4. Pipes of bytes (`PipeSource`) pass a filter only where it says so: what lies in a pipe follows later writes.
// 5. Old bytes are kept below the slot's hold and above everything that could change them: see `CopyBeforeWrite`, which
//    opens views of a moment (`PointInTimeView`), and whose page has their rules. Its folder has all of that.
// 6. What records changes for after a crash (`WriteIntent`) stands below the hold, so that a drain waits for a change that
//    waits for its log, and above the format.
