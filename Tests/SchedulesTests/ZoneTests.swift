import BlockTesting
import Foundation
import Testing

@testable import Schedules

/// Zones as the host's files have them.
struct ZoneTests {
  /// A folder of zones that a test may change.
  private final class Folder {
    let path = NSTemporaryDirectory() + "zones-\(UUID().uuidString)"
    var zones: ZoneFolder { ZoneFolder(path: path) }

    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: path) }

    /// As a package manager puts a file in place.
    func put(_ name: String, _ bytes: [UInt8]) throws {
      let file = URL(fileURLWithPath: "\(path)/\(name)")
      try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
      try Data(bytes).write(to: file, options: .atomic)
    }
  }

  private static func hostFile(_ name: String) throws -> [UInt8] {
    Array(try Data(contentsOf: URL(fileURLWithPath: "/usr/share/zoneinfo/\(name)")))
  }

  private static func fault(_ body: () throws(ZoneFault) -> ZoneRules) -> ZoneFault? {
    do {
      _ = try body()
      return nil
    } catch {
      return error
    }
  }

  /// Offsets of every zone of the host, at times of the table and of the rule for later years, as Python has them.
  @Test func everyZonesOffsetsAreThoseOfPython() throws {
    let script = """
      import json, zoneinfo, datetime
      zones = sorted(z for z in zoneinfo.available_timezones() if not z.startswith(("posix", "right")) and z != "localtime")
      times = list(range(-2500000000, 7000000000, 8640000)) + list(range(1740000000, 1800000000, 777777))
      epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
      for name in zones:
          zone = zoneinfo.ZoneInfo(name)
          offsets = [int((epoch + datetime.timedelta(seconds=t)).astimezone(zone).utcoffset().total_seconds()) for t in times]
          print(json.dumps([name, [[t, o] for t, o in zip(times, offsets)]]))
      """
    let lines = try Program.run("/usr/bin/python3", ["-c", script]).split(separator: "\n")
    #expect(lines.count > 300)
    for line in lines {
      let row = try #require(try JSONSerialization.jsonObject(with: Data(line.utf8)) as? [Any])
      let (name, pairs) = (try #require(row[0] as? String), try #require(row[1] as? [[Int]]))
      let zone = try ZoneFolder.ofHost.rules(named: name)
      let wrong = pairs.first { zone.offset(at: UnixTime($0[0])) != $0[1] }
      #expect(wrong == nil, "\(name)")
    }
  }

  @Test func anUpdateOfTheFilesCountsAtOnce() throws {
    let folder = try Folder()
    try folder.put("Europe/Berlin", try Self.hostFile("Europe/Berlin"))
    let zones = folder.zones
    let time = try UnixTime("2026-07-01T00:00:00Z")
    #expect(try zones.rules(named: "Europe/Berlin").offset(at: time) == 7200)
    try folder.put("Europe/Berlin", try Self.hostFile("Asia/Tokyo"))
    #expect(try zones.rules(named: "Europe/Berlin").offset(at: time) == 32400)
    try folder.put("Europe/Berlin", Array("TZif2".utf8))
    #expect(
      Self.fault { () throws(ZoneFault) in try zones.rules(named: "Europe/Berlin") }
        == .damaged(name: "Europe/Berlin", reason: "it isn't a TZif file"))
    try folder.put("Europe/Berlin", try Self.hostFile("Europe/Berlin"))
    #expect(try zones.rules(named: "Europe/Berlin").offset(at: time) == 7200)
  }

  @Test(arguments: [
    ("Europe/Belrin", "Europe/Berlin"), ("europe/berlin", "Europe/Berlin"), ("Berlin", "Europe/Berlin"),
    ("America/NewYork", "America/New_York"), ("US/Lord_Howe", "Australia/Lord_Howe"), ("xyzzy/plugh", nil),
    ("zone.tab", nil), ("leapseconds", nil), ("Europe", nil), ("", nil),
  ])
  func anUnknownZoneIsRefusedWithTheNearestName(_ name: String, _ nearest: String?) throws {
    let fault = try #require(Self.fault { () throws(ZoneFault) in try ZoneFolder.ofHost.rules(named: name) })
    guard case .unknown(name, let found) = fault else {
      Issue.record("\(fault)")
      return
    }
    if let nearest { #expect(found == nearest) }
  }

  /// Names never lead out of the folder, and no link does.
  @Test func aNameStaysInTheFolder() throws {
    let folder = try Folder()
    try folder.put("Etc/UTC", try Self.hostFile("Etc/UTC"))
    try FileManager.default.createSymbolicLink(
      atPath: "\(folder.path)/Out", withDestinationPath: "/usr/share/zoneinfo/Europe/Berlin")
    try FileManager.default.createSymbolicLink(atPath: "\(folder.path)/In", withDestinationPath: "Etc/UTC")
    for name in [
      "../zoneinfo/Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin", "Etc/../Etc/UTC", "./Etc/UTC", "Etc//UTC",
      "Etc/UTC/",
      "Out", "Etc/UTC\0", String(repeating: "a", count: 300),
    ] {
      let fault = Self.fault { () throws(ZoneFault) in try folder.zones.rules(named: name) }
      if case .unknown? = fault { continue }
      Issue.record("\(name): \(String(describing: fault))")
    }
    #expect(try folder.zones.rules(named: "In").offset(at: UnixTime(0)) == 0)
  }

  @Test func aHostWithoutZonesSaysSo() throws {
    let zones = ZoneFolder(path: "/nonexistent/zoneinfo")
    let fault = try #require(Self.fault { () throws(ZoneFault) in try zones.rules(named: "Europe/Berlin") })
    #expect(fault == .notInstalled(folder: "/nonexistent/zoneinfo"))
    #expect(fault.remedy.contains("install the package tzdata"))
    #expect(try zones.rules(named: "UTC") == .utc)
  }

  /// A file that is cut off or changed anywhere is refused, or read as something; it never traps.
  @Test func aDamagedFileIsNoTrap() throws {
    var random = SeededRandom(seed: 8536)
    for name in ["Europe/Berlin", "Africa/Casablanca", "Etc/UTC"] {
      let sound = try Self.hostFile(name)
      for length in 0..<sound.count { _ = try? ZoneFile.rules(Array(sound[..<length]), name: name) }
      for _ in 0..<TestEffort.rounds(3000) {
        var bytes = sound
        for _ in 0...random.below(3) {
          bytes[random.below(bytes.count)] =
            random.oneIn(2) ? UInt8(random.below(256)) : [0, 0x7F, 0x80, 0xFF][random.below(4)]
        }
        guard let zone = try? ZoneFile.rules(bytes, name: name) else { continue }
        let schedules = [try Schedule("2:30"), try Schedule("0 1-3 * * *")]
        for run in RunSequence(schedules, in: zone, after: UnixTime(random.below(1 << 32))).prefix(3) {
          _ = run.localText
        }
      }
    }
  }

  @Test(arguments: [
    ("CET-1CEST,M3.5.0,M10.5.0/3", "2050-07-01T00:00:00Z", 7200),
    ("CET-1CEST,M3.5.0,M10.5.0/3", "2050-01-01T00:00:00Z", 3600),
    ("<+1030>-10:30<+11>-11,M10.1.0,M4.1.0", "2050-01-01T00:00:00Z", 39600),
    ("IST-1GMT0,M10.5.0,M3.5.0/1", "2050-01-01T00:00:00Z", 0),
    ("IST-1GMT0,M10.5.0,M3.5.0/1", "2050-07-01T00:00:00Z", 3600),
    ("XXX3EDT4,0/0,J365/23", "2050-12-31T23:30:00Z", -14400),
    ("<-02>2<-01>,M3.5.0/-1,M10.5.0/0", "2050-07-01T00:00:00Z", -3600),
    ("EET-2EEST,J60/2,J300/2", "2048-02-29T12:00:00Z", 7200), ("EET-2EEST,J60/2,J300/2", "2048-03-01T12:00:00Z", 10800),
    ("EET-2EEST,59/2,300/2", "2048-02-29T12:00:00Z", 10800), ("UTC0", "2050-01-01T00:00:00Z", 0),
    ("EET-2EEST,M3.4.4/50,M10.4.4/50", "2050-03-26T00:30:00Z", 10800),
    ("EET-2EEST,M3.4.4/50,M10.4.4/50", "2050-03-25T23:30:00Z", 7200),
  ])
  func rulesForLaterYears(_ text: String, _ time: String, _ offset: Int) throws {
    let rule = try #require(YearlyRule(text))
    let zone = ZoneRules(name: "x", transitions: [0], offsets: [rule.offset], firstOffset: 0, rule: rule)
    #expect(zone.offset(at: try UnixTime(time)) == offset)
  }

  @Test(arguments: [
    "", "C", "CET", "CET-", "CET-1CEST,", "CET-1CEST,M3.5.0", "CET-1CEST,M13.5.0,M10.5.0", "CET-1CEST,M3.6.0,M10.5.0",
    "CET-1CEST,M3.5.7,M10.5.0", "CET-1CEST,J0,J5", "CET-1CEST,366,5", "CET-168", "CET-1:60", "<CET-1", "CET-1x",
    "CET-1CEST,M3.5.0,M10.5.0/3x", "CET-99999999999999999999",
  ])
  func whatIsNoRuleIsRefused(_ text: String) { #expect(YearlyRule(text) == nil) }

  // MARK: The host's zone

  @Test func theHostsZoneHasAName() throws {
    let folder = try Folder()
    for name in ["Europe/Berlin", "Asia/Tokyo", "Etc/UTC"] { try folder.put(name, try Self.hostFile(name)) }
    let outside = try Folder()
    let link = outside.path + "/localtime"
    func name(_ variable: String? = nil, file: String = "/nonexistent") -> String? {
      HostZone(folder.zones, variable: variable, linkPath: link, namePath: file).name
    }
    #expect(name() == "UTC")
    #expect(name("Asia/Tokyo") == "Asia/Tokyo" && name(":Asia/Tokyo") == "Asia/Tokyo" && name("") == "UTC")
    #expect(name("\(folder.path)/Asia/Tokyo") == "Asia/Tokyo")
    #expect(name("CET-1CEST,M3.5.0,M10.5.0/3") == nil)
    try FileManager.default.createSymbolicLink(atPath: link, withDestinationPath: folder.path + "/Europe/Berlin")
    #expect(name() == "Europe/Berlin")
    try FileManager.default.removeItem(atPath: link)
    // A copy, as containers have it, whose neighbour says something else.
    try outside.put("localtime", try Self.hostFile("Europe/Berlin"))
    try outside.put("timezone", Array("Etc/UTC\n".utf8))
    #expect(name(file: outside.path + "/timezone") == "Europe/Berlin")
    try outside.put("localtime", try Self.hostFile("Africa/Casablanca"))
    #expect(name() == nil)
  }
}
