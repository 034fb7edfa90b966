/// Deadlines of waits, earliest first: a binary heap.
///
/// A cancelled wait leaves its entry behind; once more than half are such, they are swept out, so memory stays
/// within twice what is waited for.
struct TimerHeap {
  struct Entry {
    let deadline: MonotonicTime
    let wait: WaitToken
  }

  private var entries: [Entry] = []
  private var abandonedCount = 0
  /// Below this many entries a sweep isn't worth it.
  private static let smallestSweep = 64

  /// The earliest deadline, which may be an abandoned one.
  var earliest: MonotonicTime? { entries.first?.deadline }

  mutating func insert(_ entry: Entry) {
    entries.append(entry)
    siftUp(entries.count - 1)
  }

  /// Takes the earliest entry whose wait is still live, if its time has come.
  mutating func popDue(_ now: MonotonicTime, isLive: (WaitToken) -> Bool) -> Entry? {
    while let first = entries.first, first.deadline <= now {
      entries.swapAt(0, entries.count - 1)
      entries.removeLast()
      siftDown(0)
      if isLive(first.wait) { return first }
      abandonedCount -= 1
    }
    return nil
  }

  /// Notes that one entry's wait is over; `isLive` tells which ones to keep when sweeping.
  mutating func abandonOne(isLive: (WaitToken) -> Bool) {
    abandonedCount += 1
    guard entries.count >= Self.smallestSweep, abandonedCount * 2 > entries.count else { return }
    entries.removeAll { !isLive($0.wait) }
    abandonedCount = 0
    for index in stride(from: entries.count / 2 - 1, through: 0, by: -1) { siftDown(index) }
  }

  private mutating func siftUp(_ start: Int) {
    var child = start
    while child > 0 {
      let parent = (child - 1) / 2
      guard entries[child].deadline < entries[parent].deadline else { return }
      entries.swapAt(child, parent)
      child = parent
    }
  }

  private mutating func siftDown(_ start: Int) {
    var parent = start
    while true {
      var smallest = parent
      for child in [2 * parent + 1, 2 * parent + 2] where child < entries.count {
        if entries[child].deadline < entries[smallest].deadline { smallest = child }
      }
      guard smallest != parent else { return }
      entries.swapAt(parent, smallest)
      parent = smallest
    }
  }
}
