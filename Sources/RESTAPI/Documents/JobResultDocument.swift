import Model

// Members stand in the order of their names.

extension JobResult: JSONWritable {
  func write(to json: inout JSONWriter) {
    switch self {
    case .backedUp(let result): result.write(to: &json)
    case .verified(let result): result.write(to: &json)
    case .restored(let result): result.write(to: &json)
    case .deleted(let result): result.write(to: &json)
    case .rescanned(let result): result.write(to: &json)
    case .checked(let result): result.write(to: &json)
    case .attached(let result): result.write(to: &json)
    case .detached(let result): result.write(to: &json)
    case .verifiedChain(let result): result.write(to: &json)
    case .restoredGroup(let result): result.write(to: &json)
    case .reconciled(let result): result.write(to: &json)
    case .fleeced(let result): result.write(to: &json)
    case .finishedFleecing(let result): result.write(to: &json)
    case .other(let value): value.write(to: &json)
    }
  }
}

extension JobResult.Fleeced: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { $0.member("fleecing", fleecing) }
  }
}

extension JobResult.FinishedFleecing: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      if let checkpoint { json.member("checkpoint", checkpoint) }
      json.member("fleecing", fleecing)
      if let label { json.member("label", label) }
      json.member("outcome", outcome)
    }
  }
}

extension JobResult.Reconciled: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("disagreementCount", disagreementCount)
      json.member("disagreements", disagreements)
      json.member("image", image)
      json.member("imageName", imageName)
    }
  }
}

extension TrackingDisagreement: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      if let bitmap { json.member("bitmap", bitmap) }
      if let bitmapEncoded { json.member("bitmapEncoded", bitmapEncoded) }
      json.member("code", code)
      json.member("detail", detail)
      if let export { json.member("export", export) }
      if let outcome { json.member("outcome", outcome) }
      if let repair { json.member("repair", repair) }
      if let why { json.member("why", why) }
    }
  }
}

extension TrackingDisagreement.Code: JSONWritable {}
extension TrackingDisagreement.Outcome: JSONWritable {}

extension JobResult.BackedUp: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { $0.member("backups", backups) }
  }
}

extension JobResult.BackedUp.Outcome: JSONWritable {}

extension JobResult.BackedUp.Part: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      if let error { json.member("error", PartFailure(details: error)) }
      json.member("image", image)
      json.member("imageName", imageName)
      json.member("outcome", outcome)
    }
  }
}

/// Why one part of several failed.
private struct PartFailure: JSONWritable {
  let details: ProblemDetails

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("code", details.code)
      json.member("detail", details.detail)
      if let remedy = details.remedy { json.member("remedy", remedy) }
    }
  }
}

extension JobResult.Verified: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      json.member("findingCount", findingCount)
      json.member("findings", findings)
      json.member("level", level)
      json.member("sound", isSound)
      json.member("verifiedBytes", verifiedBytes)
    }
  }
}

extension JobResult.Restored: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      json.member("image", image)
      json.member("imageName", imageName)
      if let mode { json.member("mode", mode) }
      json.member("target", target)
      json.member("virtualSize", virtualSize)
      json.member("writtenBytes", writtenBytes)
    }
  }
}

extension RestoreMode: JSONWritable {}

extension JobResult.Restored.Target: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      switch self {
      case .file(let path, let format):
        json.member("format", format)
        json.member("kind", "file")
        json.member("path", path)
      case .image(let image, let name):
        json.member("image", image)
        json.member("imageName", name)
        json.member("kind", "image")
      case .nbd(let uri, let targetIsZero):
        json.member("kind", "nbd")
        json.member("targetIsZero", targetIsZero)
        json.member("uri", uri)
      }
    }
  }
}

extension JobResult.Deleted: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      json.member("image", image)
      json.member("imageName", imageName)
    }
  }
}

extension JobResult.Rescanned: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backupsAdded", backupsAdded)
      json.member("backupsChanged", backupsChanged)
      json.member("backupsMissing", backupsMissing)
      json.member("chainsAdded", chainsAdded)
      json.member("findingCount", findingCount)
      json.member("findings", findings)
      json.member("imagesAdded", imagesAdded)
      json.member("repository", repository)
      json.member("repositoryName", repositoryName)
    }
  }
}

extension JobResult.Checked: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("checkedBytes", checkedBytes)
      json.member("errors", errors)
      json.member("findings", findings)
      json.member("image", image)
      json.member("imageName", imageName)
      json.member("leaks", leaks)
      json.member("repairedLeaks", repairedLeaks)
      json.member("sound", isSound)
      json.member("truncated", truncated)
    }
  }
}

extension JobResult.Attached: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      if let cache { json.member("cache", cache) }
      json.member("image", image)
      json.member("imageName", imageName)
      json.member("virtualSize", virtualSize)
    }
  }
}

extension JobResult.Detached: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("image", image)
      json.member("imageName", imageName)
    }
  }
}

extension JobResult.VerifiedChain: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backups", backups)
      json.member("chain", chain)
      json.member("level", level)
    }
  }
}

extension JobResult.VerifiedChain.Outcome: JSONWritable {}

extension JobResult.VerifiedChain.Part: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      if let error { json.member("error", PartFailure(details: error)) }
      json.member("findingCount", findingCount)
      json.member("findings", findings)
      json.member("outcome", outcome)
      json.member("sequence", sequence)
      json.member("verifiedBytes", verifiedBytes)
    }
  }
}

extension JobResult.RestoredGroup: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("group", group)
      json.member("restores", restores)
    }
  }
}

extension JobResult.RestoredGroup.Part: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("backup", backup)
      if let error { json.member("error", PartFailure(details: error)) }
      json.member("image", image)
      json.member("imageName", imageName)
      json.member("outcome", outcome)
      if let restored { json.member("restored", restored) }
    }
  }
}
