import Model

/// What an image's own metadata tell.
struct InspectionDocument: JSONWritable {
  let inspection: ImageInspection

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("format", inspection.format)
      json.member("virtualSize", inspection.virtualSize)
      json.member("storedSize", inspection.storedSize)
      json.member("version", inspection.version)
      json.member("clusterSize", inspection.clusterSize)
      json.member("refcountBits", inspection.refcountBits)
      json.member("compressionType", inspection.compressionType)
      json.member("features", inspection.features)
      json.member("backingChain", inspection.backingChain)
      json.member("snapshots", inspection.snapshots)
      json.member("bitmaps", inspection.bitmaps)
      json.member("locks", inspection.locks)
      json.member("truncated", inspection.truncated)
    }
  }
}

extension ImageInspection.Layer: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("path", path)
      json.member("format", format)
      json.member("virtualSize", virtualSize)
    }
  }
}

extension ImageInspection.Snapshot: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("id", id)
      json.member("name", name)
      json.member("createdAt", createdAt)
      json.member("virtualSize", virtualSize)
      json.member("vmStateSize", vmStateSize)
    }
  }
}

extension ImageInspection.Bitmap: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("name", name)
      json.member("granularity", granularity)
      json.member("enabled", enabled)
      json.member("inconsistent", inconsistent)
    }
  }
}

extension ImageInspection.Lock: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("permission", permission)
      json.member("held", held)
      json.member("unshared", unshared)
    }
  }
}

/// A page of extents.
struct ExtentPageDocument: JSONWritable {
  let page: ExtentPage

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("items", page.items)
      json.member("nextOffset", page.nextOffset)
      json.member("generation", page.generation)
    }
  }
}

/// A page of where two backups differ.
struct DifferencePageDocument: JSONWritable {
  let page: DifferencePage

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("items", page.items)
      json.member("nextOffset", page.nextOffset)
    }
  }
}

extension DifferencePage.Item: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("offset", offset)
      json.member("length", length)
    }
  }
}

extension ExtentPage.Item: JSONWritable {
  /// `dirty` is of a bitmap, and null in the context `allocation`.
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("offset", offset)
      json.member("length", length)
      json.member("data", data)
      json.member("zero", zero)
      json.member("dirty", Bool?.none)
    }
  }
}
