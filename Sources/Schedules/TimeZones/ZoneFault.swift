/// Why there are no rules for a time zone.
package enum ZoneFault: Error, Hashable, Sendable {
  /// - Parameter nearest: the name that was probably meant.
  case unknown(name: String, nearest: String?)
  /// The host has no time zones at all.
  case notInstalled(folder: String)
  /// The host's own zone has no name that can be found.
  case hostZoneUnknown
  case damaged(name: String, reason: String)
  case unreadable(name: String, errno: Int32)
}

extension ZoneFault: CustomStringConvertible {
  package var description: String {
    switch self {
    case .unknown(let name, let nearest):
      "there is no time zone '\(name)'" + (nearest.map { "; the nearest is '\($0)'" } ?? "")
    case .notInstalled(let folder): "this host has no time zones: '\(folder)' isn't there"
    case .hostZoneUnknown: "the time zone of this host can't be told"
    case .damaged(let name, let reason): "the file of the time zone '\(name)' can't be used: \(reason)"
    case .unreadable(let name, let errno): "the file of the time zone '\(name)' can't be read: error \(errno)"
    }
  }

  /// What the person can do about it.
  package var remedy: String {
    switch self {
    case .unknown(_, let nearest?): "name a zone as tz does, as \(nearest)"
    case .unknown: "name a zone as tz does, as Europe/Berlin"
    case .notInstalled: "install the package tzdata, or use the time zone UTC, which needs no data"
    case .hostZoneUnknown: "name a time zone, or set 'timeZone' in the configuration"
    case .damaged, .unreadable: "install the package tzdata again"
    }
  }
}
