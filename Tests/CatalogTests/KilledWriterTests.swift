import Catalog
import Foundation
import Glibc
import Model
import ModelTesting
import Testing

struct KilledWriterTests {
  /// A process writes an image and its event in each transaction, notes every answer, and is killed in the midst.
  @Test func whatAKilledWriterWasToldIsThereAndNothingHalf() async throws {
    let folder = try TemporaryFolder()
    let path = folder.path
    await #expect(processExitsWith: .signal(SIGKILL)) { [path = path as String] in
      let catalog = try SQLiteCatalog(stateFolder: path)
      let answers = open(path + "/answers", O_WRONLY | O_CREAT | O_APPEND, 0o600)
      Thread.detachNewThread {
        usleep(150_000)
        kill(getpid(), SIGKILL)
      }
      for index in 0..<1_000_000 {
        let image = Image.sample(try #require(ResourceName("vm-\(index)")))
        try await catalog.write { transaction in
          try transaction.insert(image)
          try transaction.append(Event(at: ManualClock.epoch, kind: .imageCreated, subject: image.id.ulid))
        }
        let line = "\(image.id)\n"
        _ = Glibc.write(answers, line, line.utf8.count)
      }
    }
    let told = try String(contentsOfFile: path + "/answers", encoding: .utf8).split(separator: "\n")
    #expect(told.count > 1, "the writer was killed before it wrote anything")

    let catalog = try SQLiteCatalog(stateFolder: path)
    try catalog.read { (view: any CatalogReading) throws in
      for id in told.dropLast() { #expect(try view.image(#require(ImageID(id))) != nil) }
      let images = try everyImage(view)
      let events = try view.events(after: 0, job: nil, limit: 1_000_000)
      #expect(Set(events.map(\.subject)) == Set(images.map(\.id.ulid)))
      #expect(images.count == told.count || images.count == told.count + 1, "at most one answer was on its way")
      #expect(try (view as? CatalogSession)?.text("PRAGMA integrity_check") == "ok")
    }
    try await catalog.write { try $0.insert(Image.sample("next")) }
    try catalog.close()
  }

  private func everyImage(_ view: any CatalogReading) throws -> [Image] {
    var images: [Image] = []
    var request = PageRequest(limit: 1000)
    repeat {
      let page = try view.images(request)
      images += page.items
      request.after = page.next
    } while request.after != nil
    return images
  }
}
