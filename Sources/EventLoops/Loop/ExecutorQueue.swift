/// Jobs that are ready to run, first in, first out: a ring that doubles when it is full.
struct ExecutorQueue: ~Copyable {
  private var slots: UnsafeMutablePointer<UnownedJob>
  private var mask: Int
  private var head = 0
  private var tail = 0

  init() {
    mask = 1023
    slots = .allocate(capacity: 1024)
  }

  deinit { slots.deallocate() }

  var isEmpty: Bool { head == tail }

  mutating func push(_ job: UnownedJob) {
    if tail &- head > mask { grow() }
    (slots + (tail & mask)).initialize(to: job)
    tail &+= 1
  }

  mutating func pop() -> UnownedJob? {
    guard head != tail else { return nil }
    defer { head &+= 1 }
    return slots[head & mask]
  }

  private mutating func grow() {
    let capacity = (mask + 1) * 2
    let larger = UnsafeMutablePointer<UnownedJob>.allocate(capacity: capacity)
    for index in head..<tail { (larger + (index & (capacity - 1))).initialize(to: slots[index & mask]) }
    slots.deallocate()
    slots = larger
    mask = capacity - 1
  }
}
