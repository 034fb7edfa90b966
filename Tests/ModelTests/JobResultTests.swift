import Foundation
import Model
import Testing

/// Results are read as they were stored, by this version and by others.
@Suite struct JobResultTests {
  private static let id = "01ARZ3NDEKTSV4RRFFQ69G5FAV"

  private func read(_ text: String) throws -> JobResult {
    try JSONDecoder().decode(JobResult.self, from: Data(text.utf8))
  }

  private func isKnown(_ result: JobResult) -> Bool { if case .other = result { false } else { true } }

  /// Rows of the versions before hold these texts.
  @Test(arguments: [
    #"{"backups":[{"image":"\#(id)","imageName":"vm1","backup":"\#(id)","outcome":"complete"}]}"#,
    #"{"backups":[{"backup":"\#(id)","error":{"code":"io-error","detail":"d","remedy":"r"},"image":"\#(id)","#
      + #""imageName":"vm1","outcome":"failed"}]}"#,
    #"{"backup":"\#(id)","level":"checksum","sound":false,"findings":["a"],"findingCount":3,"verifiedBytes":9}"#,
    #"{"backup":"\#(id)","image":"\#(id)","imageName":"vm1","target":{"kind":"file","path":"/a","format":"raw"},"#
      + #""virtualSize":1,"writtenBytes":0}"#,
    #"{"backup":"\#(id)","image":"\#(id)","imageName":"vm1","target":{"kind":"image","image":"\#(id)","imageName":"b"},"#
      + #""virtualSize":1,"writtenBytes":0}"#,
    #"{"backup":"\#(id)","image":"\#(id)","imageName":"vm1","target":{"kind":"nbd","uri":"nbd://h/x","#
      + #""targetIsZero":true},"virtualSize":1,"writtenBytes":0}"#,
    #"{"backup":"\#(id)","image":"\#(id)","imageName":"vm1"}"#,
    #"{"repository":"\#(id)","repositoryName":"local","imagesAdded":1,"chainsAdded":2,"backupsAdded":3,"#
      + #""backupsChanged":4,"backupsMissing":5,"findings":["x"],"findingCount":1}"#,
    #"{"image":"\#(id)","imageName":"vm1","sound":true,"errors":0,"leaks":1,"repairedLeaks":1,"findings":[],"#
      + #""truncated":false,"checkedBytes":65536}"#,
    #"{"image":"\#(id)","imageName":"vm1","virtualSize":5,"cache":"direct"}"#,
    #"{"image":"\#(id)","imageName":"vm1","virtualSize":5}"#,
    #"{"image":"\#(id)","imageName":"vm1"}"#,
    #"{"group":"\#(id)","restores":[{"image":"\#(id)","imageName":"vm1","backup":"\#(id)","outcome":"complete","#
      + #""restored":{"backup":"\#(id)","image":"\#(id)","imageName":"vm1","#
      + #""target":{"kind":"file","path":"/a","format":"raw"},"virtualSize":1,"writtenBytes":0}}]}"#,
    #"{"backups":[{"backup":"\#(id)","sequence":0,"outcome":"damaged","findings":["a"],"findingCount":3,"#
      + #""verifiedBytes":9},{"backup":"\#(id)","sequence":1,"outcome":"failed","findings":[],"findingCount":0,"#
      + #""verifiedBytes":0,"error":{"code":"io-error","detail":"d","remedy":"r"}}],"chain":"\#(id)","#
      + #""level":"checksum"}"#,
    #"{"fleecing":"\#(id)"}"#,
    #"{"fleecing":"\#(id)","outcome":"failure"}"#,
    #"{"checkpoint":"\#(id)","fleecing":"\#(id)","label":"monday","outcome":"success"}"#,
  ])
  func whatIsStoredIsReadAndWrittenAsItIs(_ text: String) throws {
    let result = try read(text)
    #expect(isKnown(result))
    let value = try JSONDecoder().decode(JSONValue.self, from: Data(text.utf8))
    #expect(try JSONDecoder().decode(JSONValue.self, from: JSONEncoder().encode(result)) == value)
    #expect(try JSONDecoder().decode(JobResult.self, from: JSONEncoder().encode(result)) == result)
  }

  /// A check's result without `truncated`, and kinds that came later.
  @Test(arguments: [
    #"{"image":"\#(id)","imageName":"vm1","sound":true,"errors":0,"leaks":1,"repairedLeaks":1,"findings":[],"#
      + #""checkedBytes":65536}"#,
    #"{"drill":"\#(id)"}"#, "{}", "[1]", #""text""#,
  ])
  func whatIsNotKnownIsPassedOn(_ text: String) throws {
    let value = try JSONDecoder().decode(JSONValue.self, from: Data(text.utf8))
    #expect(try read(text) == .other(value))
  }
}
