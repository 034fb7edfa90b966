import GRDB
import Model

private enum ListenKind: String, ColumnValue { case unix, tcp }

extension Column where Value == ExportAddress {
  /// The address is the path of a Unix socket, which has no port, or the host of one.
  static func address(_ property: KeyPath<Entity, ExportAddress> & Sendable) -> Column {
    Column("listen_kind", "listen_address", "listen_port") { reader in
      let (kind, address) = (try ListenKind(from: &reader), String(from: &reader))
      switch (kind, try Int?(from: &reader)) {
      case (.unix, nil): return .unix(path: address)
      case (.tcp, let number?):
        guard let port = UInt16(exactly: number) else { throw reader.damaged("\(number) is no port") }
        return .tcp(host: address, port: port)
      case (.unix, _?), (.tcp, nil): throw reader.damaged("a TCP address has a port, and a Unix socket has none")
      }
    } write: { entity, values in
      switch entity[keyPath: property] {
      case .unix(let path): values += [ListenKind.unix.stored(in: "listen_kind"), path.databaseValue, .null]
      case .tcp(let host, let port):
        values += [ListenKind.tcp.stored(in: "listen_kind"), host.databaseValue, Int(port).databaseValue]
      }
    }
  }
}
