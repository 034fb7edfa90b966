import Foundation
import GRDB
import Model

/// A value that one column holds.
protocol ColumnValue: SendableMetatype {
  init(from reader: inout RowReader) throws
  func stored(in column: String) throws -> DatabaseValue
}

extension String: ColumnValue {
  init(from reader: inout RowReader) { self = reader.next() }
  func stored(in column: String) -> DatabaseValue { databaseValue }
}

extension Int: ColumnValue {
  init(from reader: inout RowReader) { self = reader.next() }
  func stored(in column: String) -> DatabaseValue { databaseValue }
}

extension Bool: ColumnValue {
  init(from reader: inout RowReader) { self = reader.next() }
  func stored(in column: String) -> DatabaseValue { databaseValue }
}

/// Sizes and rates: SQLite's integers are signed.
extension UInt64: ColumnValue {
  init(from reader: inout RowReader) throws {
    let value: Int64 = reader.next()
    guard let count = UInt64(exactly: value) else { throw reader.damaged("\(value) is less than nothing") }
    self = count
  }

  func stored(in column: String) throws -> DatabaseValue {
    guard let count = Int64(exactly: self) else {
      throw DomainError(.invalidField, "\(column) is \(self), and no storage holds more than \(Int64.max) bytes")
    }
    return count.databaseValue
  }
}

extension Date: ColumnValue {
  init(from reader: inout RowReader) { self.init(milliseconds: reader.next()) }
  func stored(in column: String) -> DatabaseValue { milliseconds.databaseValue }

  /// Since 1970, as dates are stored.
  var milliseconds: Int64 { Int64((timeIntervalSince1970 * 1000).rounded()) }

  private init(milliseconds: Int64) { self.init(timeIntervalSince1970: Double(milliseconds) / 1000) }
}

extension ULID: ColumnValue {
  init(from reader: inout RowReader) throws {
    let text: String = reader.next()
    guard let ulid = ULID(text) else { throw reader.damaged("'\(text)' is not a ULID") }
    self = ulid
  }

  func stored(in column: String) -> DatabaseValue { description.databaseValue }
}

extension Identifier: ColumnValue {
  init(from reader: inout RowReader) throws { self.init(try ULID(from: &reader)) }
  func stored(in column: String) -> DatabaseValue { ulid.stored(in: column) }
}

extension ResourceName: ColumnValue {
  init(from reader: inout RowReader) throws {
    let text: String = reader.next()
    guard let name = ResourceName(text) else { throw reader.damaged("'\(text)' is not a name") }
    self = name
  }

  func stored(in column: String) -> DatabaseValue { text.databaseValue }
}

extension TrackerName: ColumnValue {
  init(from reader: inout RowReader) throws {
    let text: String = reader.next()
    guard let name = TrackerName(text) else { throw reader.damaged("'\(text)' is no tracker's name") }
    self = name
  }

  func stored(in column: String) -> DatabaseValue { text.databaseValue }
}

extension Optional: ColumnValue where Wrapped: ColumnValue {
  init(from reader: inout RowReader) throws {
    self = try reader.isNull ? reader.skip() : Wrapped(from: &reader)
  }

  func stored(in column: String) throws -> DatabaseValue { try self?.stored(in: column) ?? .null }
}

extension ColumnValue where Self: RawRepresentable<String> {
  init(from reader: inout RowReader) throws {
    let text: String = reader.next()
    guard let choice = Self(rawValue: text) else { throw reader.damaged("'\(text)' is no \(Self.self)") }
    self = choice
  }

  func stored(in column: String) -> DatabaseValue { rawValue.databaseValue }
}

extension DiskFormat: ColumnValue {}
extension Image.State: ColumnValue {}
extension CacheMode: ColumnValue {}
extension Attachment.Cause: ColumnValue {}
extension ManagedBy: ColumnValue {}
extension Repository.Kind: ColumnValue {}
extension Repository.State: ColumnValue {}
extension BackupKind: ColumnValue {}
extension RequestedBackupKind: ColumnValue {}
extension TrackingFallback: ColumnValue {}
extension FallbackReason: ColumnValue {}
extension Backup.State: ColumnValue {}
extension Compression: ColumnValue {}
extension Consistency: ColumnValue {}
extension VerifyLevel: ColumnValue {}
extension ExportTLS: ColumnValue {}
extension Export.State: ColumnValue {}
extension Fleecing.State: ColumnValue {}
extension Fleecing.Release: ColumnValue {}
extension Fleecing.Access: ColumnValue {}
extension Fleecing.Outcome: ColumnValue {}
extension JobState: ColumnValue {}
extension JobLogEntry.Level: ColumnValue {}
extension Event.Kind: ColumnValue {}
