import Configuration
import Engine
import EventLoops
import Model
import Orchestrator

/// The configuration in the words of the rooms that it is for.
extension ServerConfiguration {
  var loopBackend: IOBackend.Choice {
    switch ioBackend {
    case .auto: .automatic
    case .ioUring: .forced(.ioUring)
    case .epoll: .forced(.epoll)
    }
  }

  var engineExports: ExportConfiguration {
    var exports = ExportConfiguration(
      socketFolder: socketFolder, socketGroup: socketGroup, preSharedKeys: exportTLS?.preSharedKeys,
      connectionCount: exportConnections, apiAddresses: listen.map(\.exportAddress))
    if let files = exportTLS, let certificate = files.certificate, let key = files.key,
      let authority = files.clientAuthority
    {
      exports.certificate = ExportConfiguration.Certificate(
        certificate: certificate, key: key, clientAuthority: authority)
    }
    return exports
  }

  var engineTracking: TrackingConfiguration {
    TrackingConfiguration(
      stateFolder: stateFolder + "/tracking", mapFolder: trackingFolder, memoryByteCount: trackingMemory)
  }

  var engineFleecing: FleecingConfiguration {
    FleecingConfiguration(
      folder: fleecingFolder, tempByteCount: UInt64(fleecingSize), memoryByteCount: copyBuffer,
      guestWriteTimeout: guestWriteTimeout)
  }

  var enginePeers: PeerConfiguration {
    let tls = peerTLS.map { files -> PeerConfiguration.TLS in
      if let key = files.preSharedKey { return .preSharedKey(file: key) }
      return .certificate(authority: files.authority, certificate: files.certificate, key: files.key)
    }
    return PeerConfiguration(allowed: nbdPeers, tls: tls)
  }

  var declarations: Declarations {
    Declarations(
      repositories: repositories.map { RepositoryDraft(name: $0.name, kind: $0.kind, path: $0.path) },
      images: images.map {
        ImageDraft(name: $0.name, source: $0.source, format: $0.format, isExclusive: $0.isExclusive, labels: $0.labels)
      })
  }
}

extension ListenAddress {
  /// As exports name it.
  fileprivate var exportAddress: ExportAddress {
    switch self {
    case .unix(let path): .unix(path: path)
    case .tcp(let host, let port): .tcp(host: host == "localhost" ? "127.0.0.1" : host, port: port)
    }
  }
}
