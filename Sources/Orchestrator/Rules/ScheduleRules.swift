import Foundation
import Model
import Schedules

/// The time zones that schedules can be in, and which one holds where none is named.
package struct ServerZones: Sendable {
  let folder: ZoneFolder
  /// Nil if the configuration names none, and the host's can't be told.
  package let name: String?

  /// - Parameter name: as the configuration has it; the host's if nil.
  package init(_ folder: ZoneFolder = ZoneFolder(), name: String? = nil) {
    self.folder = folder
    self.name = name ?? HostZone(folder).name
  }

  /// The rules as the host has them now.
  /// - Parameter name: the server's if nil.
  /// - Throws: `unknownReference`, with the nearest name if there is one.
  func rules(named name: String?) throws(DomainError) -> ZoneRules {
    do {
      guard let name = name ?? self.name else { throw ZoneFault.hostZoneUnknown }
      return try folder.rules(named: name)
    } catch {
      let fault = (error as? ZoneFault) ?? .hostZoneUnknown
      throw DomainError(
        .unknownReference, fault.description, remedy: fault.remedy,
        faults: [DomainError.Fault(.timeZone, fault.description)])
    }
  }
}

/// What holds for the schedules of a request, wherever they stand in it.
enum ScheduleRules {
  /// - Parameters:
  ///   - field: the list in the request.
  ///   - start: each schedule must run after it.
  /// - Throws: all faults at once. `invalidField` if a text isn't a schedule; `neverFires` if it names dates that there
  ///   aren't, or only such as are past.
  static func schedules(
    _ texts: [String], at field: Field, in zone: ZoneRules, after start: UnixTime
  ) throws(DomainError) -> [Schedule] {
    var schedules: [Schedule] = []
    var faults: [(kind: ScheduleFault.Kind, fault: DomainError.Fault)] = []
    for (index, text) in texts.enumerated() {
      do {
        let schedule = try Schedule(text)
        if RunSequence([schedule], in: zone, after: start).first(where: { _ in true }) != nil {
          schedules.append(schedule)
        } else {
          faults.append((.neverFires, .init(field.item(index), "its dates are past: it never runs again")))
        }
      } catch {
        faults.append((error.kind, .init(field.item(index), error.description)))
      }
    }
    guard let first = faults.first(where: { $0.kind == .grammar }) ?? faults.first else { return schedules }
    let more = faults.count > 1 ? " (and \(faults.count - 1) more)" : ""
    let text = texts.count == 1 ? "the schedule" : "a schedule"
    throw DomainError(
      first.kind == .grammar ? .invalidField : .neverFires, "\(text) can't be taken: \(first.fault.detail)\(more)",
      faults: faults.map(\.fault))
  }
}

extension UnixTime {
  /// The last whole second before `date`, so that a run at `date` comes after it.
  init(before date: Date) { self.init(Int(date.timeIntervalSince1970.rounded(.up)) - 1) }

  package var date: Date { Date(timeIntervalSince1970: Double(seconds)) }
}
