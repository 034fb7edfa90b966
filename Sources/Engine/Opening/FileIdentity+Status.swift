import Descriptors
import EventLoops
import Failures
import Model

extension FileIdentity {
  init(_ status: FileStatus) {
    self =
      status.kind == .blockDevice
      ? .blockDevice(number: status.deviceNumber) : .file(device: status.device, inode: status.inode)
  }

  /// What `path` leads to; nil if nothing, or if that can't be told. Blocks.
  init?(at path: String) {
    guard let status = try? FileDescriptor.reference(to: path).status() else { return nil }
    self.init(status)
  }
}

extension LocalEngine {
  package func identities(of sources: [ImageSource]) async throws -> [FileIdentity?] {
    try await onLoop { loop in
      var identities: [FileIdentity?] = []
      for source in sources {
        switch source {
        case .file(let path), .device(let path):
          identities.append(
            try await loop.blocking(about: path, in: .folder(of: path)) { FileIdentity(at: path) })
        case .nbd: identities.append(nil)
        }
      }
      return identities
    }
  }
}
