import Foundation
import Model

// What a fleecing must be for what is to be done with it.

/// How a fleecing ends.
enum FleecingEnd: Hashable, Sendable {
  case finished(Fleecing.Outcome)
  case expired
  case broken(ProblemDetails)
}

extension Fleecing {
  /// Its moment was taken.
  mutating func begin(_ receipt: FleecingReceipt, lifetime: Int, at now: Date) {
    state = .active
    pointInTime = receipt.pointInTime
    expiresAt = now + Double(lifetime)
    for index in images.indices {
      images[index].virtualSize = receipt.virtualSizes[images[index].image] ?? images[index].virtualSize
    }
  }

  mutating func end(_ end: FleecingEnd, at now: Date) {
    endedAt = now
    switch end {
    case .finished(let outcome): (state, self.outcome) = (.finished, outcome)
    case .expired: (state, outcome) = (.expired, .failure)
    case .broken(let problem): (state, error) = (.broken, problem)
    }
  }

  /// Throws `fleecingEnded` unless its views are served.
  func requireActive() throws(DomainError) {
    let why: String
    switch state {
    case .active: return
    case .starting: why = "hasn't begun yet"
    case .finishing: why = "is being finished by a job"
    case .finished: why = "is finished"
    case .expired: why = "has expired"
    case .broken: why = "is broken: \(error?.detail ?? "its moment is lost")"
    }
    throw DomainError(
      .fleecingEnded, "the fleecing \(id) \(why)",
      remedy: state == .starting ? "wait for its job" : "begin another fleecing")
  }
}

extension CatalogReading {
  func liveFleecings() throws -> [Fleecing] {
    try allPages { try fleecings(FleecingFilter(states: Fleecing.State.live), $0) }
  }

  /// Throws `imageInUse` while a fleecing shows the image.
  func requireUnfleeced(_ image: Image) throws {
    guard let fleecing = try liveFleecings().first(where: { $0.part(of: image.id) != nil }) else { return }
    throw DomainError(
      .imageInUse, "the fleecing \(fleecing.id) shows image '\(image.name)'", remedy: "finish it, or delete it")
  }

  /// Throws `queueFull`.
  func requireRoomForFleecing(_ limits: ServiceLimits) throws {
    guard try liveFleecings().count >= limits.liveFleecings else { return }
    throw DomainError(
      .queueFull, "there are \(limits.liveFleecings) live fleecings already", remedy: "finish some of them")
  }
}
