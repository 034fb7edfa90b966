// The program's threads, and how a task waits for the kernel without holding one up.
//
// Read this page, then `Loop/EventLoop.swift`.
//
// ## The picture
//
//     tasks of images, exports, jobs ── run(_:) ──▶ EventLoop, one thread ── LoopPort ──▶ io_uring, or epoll
//              ▲      │                               ▲    │
//              │      └── read, write, receive, … ────┘    └── what epoll can't wait for ──▶ BlockingCalls
//              └─────────── resumed here ─────────────┘
//     WorkerPool: threads for compression and hashing           BlockingCalls: threads for system calls that may hang
//
// A loop is an executor: Swift runs on it the tasks that prefer it and the actors that are pinned to it. A turn of a loop
// runs the jobs that are ready, hands what they started to the kernel, and takes what has ended. A loop without work
// polls for a moment where that has paid (`PollingTime`), and then sleeps in the kernel.
//
// A task that starts a file or socket operation suspends, and its continuation rides with the operation: in the ring's
// `user_data`, or in a `WaitTable` for what can be cancelled. When the kernel has answered, the loop resumes it.
//
// ## What keeps it sound
//
// 1. Confinement. What belongs to a loop is touched on its thread only; I/O methods trap elsewhere. Other threads reach
//    a loop through its inbox, whose first post after the loop fell asleep wakes it.
// 2. Nothing here blocks a loop. System calls that may hang run on `BlockingCalls`, each in the lane of its storage: a
//    storage that hangs holds up what hangs on it and nothing else.
// 3. The memory of an operation belongs to the kernel until the operation has ended. File operations can't be
//    cancelled, so a task that is cancelled still waits for those.
// 4. A wait has a token whose generation grows with each use: a late answer or cancellation meets nothing.
// 5. Requests of one client don't move as one: a ring takes and gives a few at a time (`RingPort.batchCount`).
// 6. The end drops nothing: `shutdown` lets what is under way come to its end, and then runs late jobs by themselves.
//
// ## The folders
//
// - Loop/     the loop, the group of loops, timers, ready jobs, waits.
// - Kernel/   how a loop talks to the kernel: the port, its two implementations, the choice between them, errors.
// - Workers/  threads beside the loops: the worker pool, the lanes of blocking calls, waits with an end.
// - Files/    folders and names relative to open folders, what files are, locks and lengths, pipes.
// - Sockets/  stream sockets and their addresses; messages that are sent with one call.
