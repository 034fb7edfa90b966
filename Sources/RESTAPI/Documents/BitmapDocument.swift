import Model
import Orchestrator

/// A bitmap as the API shows it.
struct BitmapDocument: JSONWritable, Sendable {
  let record: BitmapRecord

  init(_ record: BitmapRecord) {
    self.record = record
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member(record.name, as: "name")
      json.member("granularity", record.granularity)
      json.member("state", record.state)
      json.member("recording", record.isRecording)
      json.member("persistent", record.isPersistent)
      json.member("dirtyBytes", record.dirtyBytes)
      json.member("owner", record.owner)
      json.member("exports", record.exports)
      json.member("virtualSize", record.virtualSize)
    }
  }
}

extension BitmapRecord.Owner: JSONWritable {
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("kind", "tracker")
      json.member("tracker", tracker)
      json.member("checkpoint", checkpoint)
    }
  }
}

/// A bitmap after a change of it, as the API shows it.
struct ChangedBitmapDocument: JSONWritable, Sendable {
  let changed: ChangedBitmap

  init(_ changed: ChangedBitmap) {
    self.changed = changed
  }

  func write(to json: inout JSONWriter) {
    guard let record = changed.record else { return json.object { $0.member(changed.name, as: "name") } }
    BitmapDocument(record).write(to: &json)
  }
}

/// What came of each action of a transaction, in their order.
struct BitmapTransactionDocument: JSONWritable {
  let results: [ChangedBitmap]

  func write(to json: inout JSONWriter) {
    json.object { json in json.member("results", results.map(BitmapResultDocument.init)) }
  }
}

/// What came of one action; `after` is null if the bitmap is no longer there.
struct BitmapResultDocument: JSONWritable {
  let changed: ChangedBitmap

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("image", changed.image)
      json.member("imageName", changed.imageName)
      json.member(changed.name, as: "bitmap")
      json.member("after", changed.record.map(BitmapDocument.init))
    }
  }
}

/// A page of what a bitmap calls dirty.
struct DirtyExtentPageDocument: JSONWritable {
  let page: DirtyExtentPage

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("items", page.items)
      json.member("nextOffset", page.nextOffset)
      json.member("generation", page.generation)
    }
  }
}

extension DirtyExtentPage.Item: JSONWritable {
  /// What isn't asked about is null.
  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("offset", offset)
      json.member("length", length)
      json.member("data", Bool?.none)
      json.member("zero", Bool?.none)
      json.member("dirty", dirty)
    }
  }
}

extension JSONWriter {
  /// The name of a bitmap, with `…Encoded` beside it: one that isn't UTF-8 is percent-coded.
  mutating func member(_ bitmap: BitmapName, as name: String) {
    member(name, bitmap.text ?? bitmap.percentEncoded)
    member("\(name)Encoded", bitmap.text == nil)
  }
}
