import Bitmaps
import BlockCore
import EventLoops
import Failures
import Model

/// See ``BitmapChanges`` for the order of what is done.
extension LocalEngine {
  package func change(_ order: BitmapOrder) async throws -> [BitmapRecord?] {
    calls.begin(nil)
    defer { calls.end(nil) }
    let changes = try await changes(of: order)
    var places: [BitmapPlace] = []
    let result: Result<[BitmapRecord?], any Error>
    do {
      let changed = changes.changed
      for (index, image) in changes.images.enumerated() {
        places.append(try await place(image, isChanged: changed.contains(index) && !order.isRehearsal))
      }
      result = .success(try await perform(changes, at: places, isRehearsal: order.isRehearsal))
    } catch let refusal as BitmapRefusal {
      result = .failure(DomainError(refusal, among: changes.images))
    } catch {
      result = .failure(error)
    }
    for place in places.reversed() { await leave(place) }
    return try result.get()
  }

  private func perform(
    _ changes: BitmapChanges, at places: [BitmapPlace], isRehearsal: Bool
  ) async throws -> [BitmapRecord?] {
    let holder: (BitmapAction.Source) -> String? = { [self] source in
      exports(of: places[source.image].image, showing: source.name).first.map { "export '\($0)'" }
    }
    var before = try await sets(changes, at: places)
    var after = before
    try after.apply(changes.actions, heldBy: holder)
    try await requireGenerations(of: changes, at: places, before, isAtMoment: false)
    try await takeMemory(for: after, insteadOf: before, changes, at: places, isRehearsal: isRehearsal)
    guard !isRehearsal else { return records(changes, at: places, after) }
    let live = places.indices.filter { places[$0].live != nil }
    if !live.isEmpty {
      try await comeToMoment(live.map { (places[$0], changes.granularity(of: $0, before, after)) })
      for index in live {
        guard let bitmaps = places[index].live?.bitmaps else { continue }
        before[index] = try await onLoop(places[index].loop) { _ in bitmaps.setAtMoment }
      }
      after = before
      try after.apply(changes.actions, heldBy: holder)
      try await requireGenerations(of: changes, at: places, before, isAtMoment: true)
    }
    try await store(changes, at: places, after, insteadOf: before)
    for index in live {
      guard let bitmaps = places[index].live?.bitmaps, changes.changed.contains(index) else { continue }
      let set = after[index]
      try await onLoop(places[index].loop) { _ in bitmaps.install(set) }
    }
    return records(changes, at: places, after)
  }

  /// Refuses more than may be recorded. What is taken too much of is given back when the place is left.
  private func takeMemory(
    for after: [BitmapSet], insteadOf before: [BitmapSet], _ changes: BitmapChanges, at places: [BitmapPlace],
    isRehearsal: Bool
  ) async throws {
    for index in changes.changed.sorted() {
      let (place, set) = (places[index], after[index])
      guard let bitmaps = place.live?.bitmaps, !isRehearsal else {
        try records?.memory.requireRoom(for: set, insteadOf: before[index], of: place.name)
        continue
      }
      try await onLoop(place.loop) { _ in try bitmaps.takeMemory(for: set) }
    }
  }

  /// All bitmaps, those with their bits that need them.
  private func sets(_ changes: BitmapChanges, at places: [BitmapPlace]) async throws -> [BitmapSet] {
    var sets: [BitmapSet] = []
    for place in places { sets.append(try await onPlace(place) { try await $0.set(loading: []) }) }
    let missing = sets.missingBits(for: changes.actions, isUndoable: changes.changed.count > 1)
    for index in Set(missing.map(\.image)) {
      let names = Set(missing.filter { $0.image == index }.map(\.name))
      sets[index] = try await onPlace(places[index]) { try await $0.set(loading: names) }
    }
    return sets
  }

  /// Runs `body` on the loop of the place; what it throws names the image.
  func onPlace<Result: Sendable>(
    _ place: BitmapPlace, _ body: @Sendable @escaping (BitmapPlace) async throws -> Result
  ) async throws -> Result {
    try await onLoop(place.loop, in: .folder(of: place.image.location.source.place)) { _ in
      try await telling(about: place.name) { try await body(place) }
    }
  }

  /// One moment of attached images, after which all that was before it is made durable.
  private func comeToMoment(_ live: [(place: BitmapPlace, granularity: UInt64)]) async throws {
    let graphs = live.compactMap { $0.place.live?.graph }
    let granularities = Dictionary(
      zip(graphs, live).map { (ObjectIdentifier($0), $1.granularity) }, uniquingKeysWith: { first, _ in first })
    try await GraphBarrier(graphs: graphs).runPatiently { graph in
      graph.bitmaps?.begin(granularity: granularities[ObjectIdentifier(graph)] ?? 512)
    }
    for graph in graphs {
      try await onLoop(graph.loop) { _ in try await telling(about: graph.name) { try await graph.slot.flush() } }
    }
  }

  /// Stores the new bitmaps of all images, or none.
  private func store(
    _ changes: BitmapChanges, at places: [BitmapPlace], _ after: [BitmapSet], insteadOf before: [BitmapSet]
  ) async throws {
    var stored: [Int] = []
    do {
      for index in changes.changed.sorted() {
        stored.append(index)
        try await store(changes.names(of: index), at: places[index], after[index], insteadOf: before[index])
      }
    } catch {
      for index in stored.dropLast().reversed() {
        do {
          try await store(changes.names(of: index), at: places[index], before[index], insteadOf: after[index])
        } catch {
          logger.error(
            "bitmaps couldn't be given back to an image after another one of the same call failed",
            metadata: ["image": "\(places[index].name)", "why": "\(error)"])
        }
      }
      throw error
    }
  }

  private func store(
    _ names: [[UInt8]], at place: BitmapPlace, _ new: BitmapSet, insteadOf old: BitmapSet
  ) async throws {
    try await onPlace(place) { place in
      guard let live = place.live?.bitmaps else {
        return try await place.qcow2.store(names, of: new, insteadOf: old, isOpen: false)
      }
      try await live.changeFile { () async throws(BlockError) in
        try await place.qcow2.store(names, of: new, insteadOf: old, isOpen: true)
      }
    }
  }

  private func records(_ changes: BitmapChanges, at places: [BitmapPlace], _ sets: [BitmapSet]) -> [BitmapRecord?] {
    changes.actions.map { action in
      let set = sets[action.image]
      return set[action.name].map { record($0, $0.bits, of: places[action.image].image, byteCount: set.byteCount) }
    }
  }
}
