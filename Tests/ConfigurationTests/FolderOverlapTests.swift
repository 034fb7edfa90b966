import Configuration
import Foundation
import ModelTesting
import Testing

struct FolderOverlapTests {
  private let folder: TemporaryFolder

  init() throws { folder = try TemporaryFolder() }

  private func link(_ name: String, to target: String) throws {
    try FileManager.default.createSymbolicLink(atPath: folder.path(name), withDestinationPath: target)
  }

  @Test(arguments: [
    ("stateFolder: images", "imageFolders[0]:- ", "is the same folder as stateFolder"),
    ("stateFolder: ./images/../images/", "imageFolders[0]:- ", "is the same folder as stateFolder"),
    ("stateFolder: images/state", "imageFolders[0]:- ", "holds the folder of stateFolder"),
    ("imageFolders: [state/images]", "imageFolders[0]:1 ", "lies in the folder of stateFolder"),
    ("imageFolders: [a, a]", "imageFolders[1]:1 ", "is the same folder as imageFolders[0]"),
    ("imageFolders: [a, a/b]", "imageFolders[1]:1 ", "lies in the folder of imageFolders[0]"),
    ("repositoryFolders: [images/backup]", "repositoryFolders[0]:1 ", "lies in the folder of imageFolders[0]"),
    ("repositoryFolders: [a, a/b]", "repositoryFolders[1]:1 ", "lies in the folder of repositoryFolders[0]"),
    ("socketFolder: backup", "socketFolder:1 ", "is the same folder as repositoryFolders[0]"),
    ("socketFolder: state/run", "socketFolder:1 ", "lies in the folder of stateFolder"),
  ])
  func foldersThatOverlapAreRefused(_ yaml: String, _ start: String, _ part: String) {
    expectOneFault(yaml, start, part, in: folder.path)
  }

  @Test func oneFolderThatHoldsAllIsRefusedForEach() {
    #expect(ServerConfiguration.faults("socketFolder: .", in: folder.path).count == 4)
    #expect(ServerConfiguration.faults("socketFolder: /", in: folder.path).count == 4)
  }

  @Test func namesThatOnlyLookAlikeAreNoOverlap() throws {
    _ = try ServerConfiguration.read("stateFolder: image\nimageFolders: [images, images2]", in: folder.path)
  }

  @Test func aLinkIntoAnotherFolderIsFollowed() throws {
    try folder.makeFolder("images/inner")
    try link("backup", to: "images/inner")
    expectOneFault("", "repositoryFolders[0]:- ", "lies in the folder of imageFolders[0]", in: folder.path)
    expectOneFault("", "repositoryFolders[0]:- ", "once links are followed", in: folder.path)
  }

  @Test func aLinkAboveAFolderThatIsNotThereYetIsFollowed() throws {
    try folder.makeFolder("images")
    try link("other", to: "images")
    expectOneFault(
      "repositoryFolders: [other/new/backup]", "repositoryFolders[0]:1 ", "lies in the folder of imageFolders[0]",
      in: folder.path)
  }

  @Test func linksToTheSamePlaceAreTheSameFolder() throws {
    try folder.makeFolder("real")
    try link("state", to: "real")
    try link("run", to: "real")
    expectOneFault("", "socketFolder:- ", "is the same folder as stateFolder", in: folder.path)
  }

  @Test func dotDotAfterALinkIsTheFolderAboveItsTarget() throws {
    try folder.makeFolder("pool/v2")
    try link("current", to: "pool/v2")
    let read = try ServerConfiguration.read(
      "imageFolders: [current/../images]\nimages: [{name: a, source: {kind: file, path: pool/images/a}, format: raw}]",
      in: folder.path)
    #expect(read.imageFolders == [folder.path("pool/images")])
    try link("nowhere", to: "none")
    expectOneFault("stateFolder: nowhere/../state", "stateFolder:1 ", "leads nowhere", in: folder.path)
  }

  @Test func anImageMayBeNamedByWhereItsFolderReallyIs() throws {
    try folder.makeFolder("disks")
    try link("images", to: "disks")
    let yaml = "images: [{name: a, source: {kind: file, path: disks/a}, format: raw}]"
    #expect(try ServerConfiguration.read(yaml, in: folder.path).images.count == 1)
  }

  @Test func whatTheServerDoesntMakeMustBeThere() throws {
    for name in ["backup", "etc"] { try folder.makeFolder(name) }
    try folder.write(
      "imageFolders: [backup, none]\nrepositoryFolders: [etc]\ntls: {certificate: no.pem, key: etc}\n", to: "c")
    let error = #expect(throws: ConfigurationError.self) {
      try ServerConfiguration(file: folder.path("c"), requiresFiles: true)
    }
    let faults = error?.faults.map { "\($0.keyPath):\($0.line ?? 0)" }
    #expect(faults == ["imageFolders[1]:1", "tls.certificate:3", "tls.key:3"])
    #expect(error?.faults.first?.detail.contains("No such file") == true)
    _ = try ServerConfiguration(file: folder.path("c"))
  }

  @Test func aLinkElsewhereIsFineAndThePathStaysAsWritten() throws {
    try folder.makeFolder("disks")
    try link("images", to: "disks")
    #expect(try ServerConfiguration.read("", in: folder.path).imageFolders == [folder.path("images")])
  }

  @Test func aLinkToNowhereIsRefused() throws {
    try link("state", to: "nowhere")
    expectOneFault("", "stateFolder:- a link on the way to \(folder.path("state")) leads nowhere", in: folder.path)
  }

  @Test func aFileInAFoldersPlaceIsRefused() throws {
    try folder.write("", to: "state")
    expectOneFault(
      "", "stateFolder:- \(folder.path("state")), or what it lies in, is there and is no folder", in: folder.path)
    expectOneFault("stateFolder: state/deeper", "stateFolder:1 ", "is there and is no folder", in: folder.path)
  }
}
