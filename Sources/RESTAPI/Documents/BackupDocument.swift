import Model
import Orchestrator

/// A backup as the API shows it.
struct BackupDocument: JSONWritable, Sendable {
  let view: BackupView

  init(_ view: BackupView) {
    self.view = view
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      writeIdentity(to: &json)
      writeContent(to: &json)
      json.member("verifiedAt", view.backup.verifiedAt)
      json.member("verifyLevel", view.backup.verifyLevel)
      json.member("job", view.backup.job)
      json.member("failure", view.backup.failure)
      json.member("trackingFallback", view.backup.trackingFallback)
      json.member("fallbackReason", view.backup.fallbackReason)
      json.member("tracker", view.backup.tracker)
      json.member("checkpoint", view.backup.checkpoint)
      json.member("granularity", view.backup.granularity)
      json.member("guestImpact", view.backup.guestImpact)
    }
  }

  private func writeIdentity(to json: inout JSONWriter) {
    let backup = view.backup
    json.member("id", backup.id)
    json.member("image", backup.image)
    json.member("imageName", view.imageName)
    json.member("repository", backup.repository)
    json.member("repositoryName", view.repositoryName)
    json.member("chain", backup.chain)
    json.member("sequence", backup.sequence)
    json.member("group", backup.group)
    json.member("kind", backup.kind)
    json.member("requestedKind", backup.requestedKind)
    json.member("reason", backup.reason)
    json.member("parent", backup.parent)
    json.member("dependents", view.dependents)
    json.member("deletable", view.deletable)
    json.member("state", backup.state)
  }

  private func writeContent(to json: inout JSONWriter) {
    let backup = view.backup
    json.member("compression", backup.compression)
    json.member("consistency", backup.consistency)
    json.member("mixture", backup.isMixture)
    json.member("pointInTime", backup.pointInTime)
    json.member("createdAt", backup.createdAt)
    json.member("finishedAt", backup.finishedAt)
    json.member("virtualSize", backup.virtualSize)
    json.member("dirtyBytes", backup.dirtyBytes)
    json.member("storedSize", backup.storedSize)
    json.member("merkleRoot", backup.merkleRoot)
  }
}

extension GuestImpact: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("cbwCount", copyCount)
      json.member("cbwBytes", copiedBytes)
      json.member("waits", waits)
      json.member("ramHighWater", memoryHighWater)
      json.member("tempHighWater", tempHighWater)
      json.member("throttledSeconds", throttledSeconds)
      json.member("sourceBytesRead", sourceBytesRead)
      json.member("latencyBefore", latencyBefore)
      json.member("latencyDuring", latencyDuring)
    }
  }
}

extension GuestImpact.Latency: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("count", count)
      json.member("p50Microseconds", p50Microseconds)
      json.member("p99Microseconds", p99Microseconds)
    }
  }
}

extension GuestImpact.Waits: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("count", count)
      json.member("p50Microseconds", p50Microseconds)
      json.member("p99Microseconds", p99Microseconds)
      json.member("maxMicroseconds", maxMicroseconds)
    }
  }
}

/// A chain as the API shows it.
struct ChainDocument: JSONWritable, Sendable {
  let view: ChainView

  init(_ view: ChainView) {
    self.view = view
  }

  func write(to json: inout JSONWriter) {
    json.object { writeMembers(to: &$0) }
  }

  func writeMembers(to json: inout JSONWriter) {
    let chain = view.chain
    json.member("id", chain.id)
    json.member("image", chain.image)
    json.member("imageName", view.imageName)
    json.member("repository", chain.repository)
    json.member("repositoryName", view.repositoryName)
    json.member("backups", view.backups)
    json.member("storedSize", view.storedSize)
    json.member("createdAt", chain.createdAt)
  }
}

/// A chain with its backups, one by one.
struct ChainDetailDocument: JSONWritable, Sendable {
  let view: ChainDetailView

  init(_ view: ChainDetailView) {
    self.view = view
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      ChainDocument(view.chain).writeMembers(to: &json)
      json.member("points", view.points.map(ChainPointDocument.init))
      json.member("pointsTruncated", view.isTruncated)
    }
  }
}

/// A backup as a link of its chain.
private struct ChainPointDocument: JSONWritable {
  let backup: Backup

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup.id)
      json.member("kind", backup.kind)
      json.member("requestedKind", backup.requestedKind)
      json.member("sequence", backup.sequence)
      json.member("parent", backup.parent)
      json.member("state", backup.state)
      json.member("failure", backup.failure)
      json.member("storedSize", backup.storedSize)
      json.member("virtualSize", backup.virtualSize)
      json.member("dirtyBytes", backup.dirtyBytes)
      json.member("pointInTime", backup.pointInTime)
      json.member("consistency", backup.consistency)
      json.member("trackingFallback", backup.trackingFallback)
      json.member("fallbackReason", backup.fallbackReason)
      json.member("tracker", backup.tracker)
      json.member("checkpoint", backup.checkpoint)
      json.member("granularity", backup.granularity)
      json.member("reason", backup.reason)
      json.member("verifiedAt", backup.verifiedAt)
      json.member("verifyLevel", backup.verifyLevel)
      json.member("mixture", backup.isMixture)
    }
  }
}

/// A group as the API shows it.
struct GroupDocument: JSONWritable, Sendable {
  let view: GroupView

  init(_ view: GroupView) {
    self.view = view
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", view.id)
      json.member("pointInTime", view.pointInTime)
      json.member("images", view.images)
      json.member("backups", view.backups)
      json.member("complete", view.isComplete)
    }
  }
}

extension GroupView.Member: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("image", image)
      json.member("imageName", imageName)
    }
  }
}
