import Foundation
import HTTPServer
import Model
import Testing

@testable import RESTAPI

@Suite struct EntityTagTests {
  @Test func aTagChangesWithTheRevisionAndWithWhatIsShown() {
    let tag = EntityTag.of([1, 2], revision: 3)
    #expect(tag.hasPrefix("\"3-"))
    #expect(EntityTag.revision(in: tag) == 3)
    #expect(tag != EntityTag.of([1, 2], revision: 4))
    #expect(tag != EntityTag.of([1, 3], revision: 3))
    #expect(EntityTag.revision(in: EntityTag.of([1], revision: nil)) == nil)
  }

  @Test func listsOfTagsAreRead() throws {
    #expect(try EntityTagList([], header: "If-Match") == nil)
    #expect(try EntityTagList([" * "], header: "If-Match") == .any)
    #expect(
      try EntityTagList(["\"a\", W/\"b,c\"", "\"d\""], header: "If-Match") == .tags(["\"a\"", "W/\"b,c\"", "\"d\""]))
    for bad in ["", ",", "a", "\"a", "\"a\" b", "*, \"a\"", "w/\"a\""] {
      #expect(throws: DomainError.self, "\(bad)") { try EntityTagList([bad], header: "If-Match") }
    }
  }

  @Test func weakTagsCountForReadingOnly() throws {
    let list = try #require(try EntityTagList(["W/\"3-a\""], header: "x"))
    #expect(list.matchesWeakly("\"3-a\""))
    #expect(!list.matchesWeakly("\"3-b\""))
    #expect(list.revisions.isEmpty)
  }
}

@Suite struct RouterTests {
  private static let router = Router(
    ["/", "/api/v1/images", "/api/v1/images/{image}", "/api/v1/images/{image}/inspect"].map { pattern in
      Route(.get, pattern, needs: .read, .now { _ in HTTPResponse(status: 200) })
    } + [Route(.post, "/api/v1/images", needs: .configure, .now { _ in HTTPResponse(status: 201) })])

  private func problem(_ path: String, method: String = "GET") -> ProblemCode? {
    do {
      _ = try Self.router.match(method: method, path: path)
      return nil
    } catch {
      switch error {
      case .fault(let fault): return fault.code
      case .method: return .methodNotAllowed
      }
    }
  }

  @Test(arguments: [
    ("/api/v1/images/vm1", "vm1"), ("/api/v1/images/a%2Fb", "a/b"), ("/api/v1/images/%2e%2E", ".."),
    ("/api/v1/images/%2525", "%25"), ("/%61pi/v1/im%61ges/%C3%A9", "é"), ("/api/v1/images/a+b", "a+b"),
  ])
  func segmentsAreDecodedOnceAfterTheSplit(path: String, parameter: String) throws {
    #expect(try Self.router.match(method: "GET", path: path).parameters == [parameter])
  }

  @Test(arguments: [
    ("/api/v1/images/", ProblemCode.notFound), ("//api/v1/images", .notFound), ("/api//v1/images", .notFound),
    ("/api/v1/images/a/b", .notFound), ("/api/v1/../v1/images", .notFound), ("/api%2Fv1/images", .notFound),
    ("*", .notFound), ("/API/v1/images", .notFound), ("/api/v1/images/%00", .malformedRequest),
    ("/api/v1/images/%", .malformedRequest), ("/api/v1/images/%4", .malformedRequest),
    ("/api/v1/images/%zz", .malformedRequest), ("/api/v1/images/%FF", .malformedRequest),
    ("/" + String(repeating: "a/", count: 50), .notFound),
  ])
  func pathsThatLeadNowhereAreRefused(path: String, code: ProblemCode) {
    #expect(problem(path) == code)
  }

  @Test func aMethodThatAPathLacksIsToldApartFromAPathThatIsMissing() {
    #expect(problem("/api/v1/images", method: "DELETE") == .methodNotAllowed)
    #expect(problem("/api/v1/images", method: "get") == .methodNotAllowed)
    #expect(problem("/api/v1/image", method: "DELETE") == .notFound)
    #expect(problem("/api/v1/images", method: "HEAD") == nil)
  }

  @Test func allEncodingsOfAPathHaveOneCanonicalText() throws {
    #expect(try RawPath("/a%2Fb/%7e/c").canonical == "/a%2Fb/~/c")
    #expect(try RawPath("/%61%2fb/~/%63").canonical == "/a%2Fb/~/c")
    #expect(try RawPath("/").canonical == "")
  }
}

@Suite struct QueryTests {
  private func values(_ query: String, _ taking: [QueryParameter] = [.limit, .dryRun, .state, .offset]) throws
    -> QueryValues
  {
    try QueryValues(HTTPRequest(method: "GET", path: "/", query: query), taking: taking)
  }

  @Test(arguments: [
    "limit=1&limit=2", "Limit=1", "limits=1", "wait=1", "limit=%", "limit=%00", "l%69mit=1&limit=1", "%FF=1",
    "dryRun[]=1",
    String(repeating: "limit=1&", count: 33),
  ])
  func unknownRepeatedAndUndecodableParametersAreRefused(query: String) {
    let error = #expect(throws: DomainError.self) { try values(query) }
    #expect(error?.code == .invalidParameter)
  }

  @Test(arguments: [
    "limit=0", "limit=1001", "limit=", "limit", "limit=-1", "limit=+1", "limit=1.0", "limit=%201",
    "limit=99999999999999999999",
  ])
  func numbersAreDigitsWithinTheirBounds(query: String) {
    #expect(throws: DomainError.self) { try values(query).page() }
  }

  @Test func booleansAreTrueOrFalse() throws {
    #expect(try values("dryRun=true").boolean(.dryRun))
    #expect(try !values("dryRun=false").boolean(.dryRun))
    #expect(try !values("").boolean(.dryRun))
    for bad in ["1", "True", "yes", ""] {
      #expect(throws: DomainError.self, "\(bad)") { try values("dryRun=\(bad)").boolean(.dryRun) }
    }
  }

  @Test func valuesAreDecodedOnceAndListsSplitAtCommas() throws {
    #expect(try values("l%69mit=%31%30").page().limit == 10)
    #expect(try values("state=queued,running").choices(.state, of: JobState.self) == [.queued, .running])
    #expect(try values("state=queued%2Crunning").choices(.state, of: JobState.self) == [.queued, .running])
    #expect(throws: DomainError.self) { try values("state=queued,").choices(.state, of: JobState.self) }
    #expect(try values("offset=9223372036854775807").bytes(.offset, from: 0) == UInt64(Int64.max))
    #expect(throws: DomainError.self) { try values("offset=9223372036854775808").bytes(.offset, from: 0) }
  }

  @Test func everyFaultIsTold() {
    let error = #expect(throws: DomainError.self) { try values("a=1&b=2&limit=1") }
    #expect(error?.faults.map(\.part) == [.parameter("a"), .parameter("b")])
  }
}

@Suite struct HostListTests {
  private let hosts: HostList = {
    let hosts = HostList(names: ["Backup.Example"])
    hosts.add(port: 8480)
    return hosts
  }()

  private func problem(_ headers: HTTPFields, peer: HTTPPeer = .loopback, isSecure: Bool = false) -> ProblemCode? {
    let request = HTTPRequest(method: "GET", path: "/", headers: headers, peer: peer, isSecure: isSecure)
    do {
      try hosts.check(request)
      return nil
    } catch {
      return error.code
    }
  }

  @Test(arguments: [
    "localhost:8480", "LOCALHOST:8480", "127.0.0.1:8480", "[::1]:8480", "backup.example:8480", "backup.example",
    "BACKUP.example",
  ])
  func ownNamesAreAccepted(host: String) {
    #expect(problem(["Host": host]) == nil)
  }

  @Test(arguments: [
    "evil.example", "evil.example:8480", "localhost", "localhost:80", "127.0.0.1", "127.0.0.1:8481", "127.0.0.2:8480",
    "localhost.evil.example:8480", "localhost:8480@evil.example", "localhost:", "localhost:+8480", "localhost:08480x",
    "[::1", "[::1]x:8480",
    "", ":8480", "backup.example:80", "localhost:8480:8480", "localhost:99999", "localhost .:8480",
  ])
  func otherNamesAreMisdirected(host: String) {
    #expect(problem(["Host": host]) == .misdirectedRequest)
  }

  @Test func aRequestNeedsOneHost() {
    #expect(problem([:]) == .misdirectedRequest)
    #expect(problem(["Host": "localhost:8480", "host": "evil.example"]) == .malformedRequest)
  }

  @Test func whoeverReachesTheUnixSocketNeedsNoName() {
    #expect(problem([:], peer: .unixSocket) == nil)
    #expect(problem(["Host": "anything"], peer: .unixSocket) == nil)
    #expect(problem(["Host": "anything", "Origin": "http://evil.example"], peer: .unixSocket) == .foreignOrigin)
  }

  @Test(arguments: [
    ("http://127.0.0.1:8480", nil as String?, false), ("HTTP://127.0.0.1:8480", nil, false),
    ("http://localhost:8480", nil, true),
    ("https://127.0.0.1:8480", nil, true), ("null", nil, true), ("http://evil.example", nil, true), ("", nil, true),
    ("http://127.0.0.1:8480.evil.example", nil, true), ("file://", nil, true),
  ])
  func onlyOwnPagesMayCall(origin: String, other: String?, isForeign: Bool) {
    #expect(problem(["Host": "127.0.0.1:8480", "Origin": origin]) == (isForeign ? .foreignOrigin : nil))
  }

  @Test func behindAProxyThePageMayHaveComeEncrypted() {
    #expect(problem(["Host": "backup.example", "Origin": "https://backup.example"]) == nil)
    #expect(problem(["Host": "backup.example", "Origin": "https://evil.example"]) == .foreignOrigin)
  }

  @Test(arguments: [("same-origin", false), ("none", false), ("same-site", true), ("cross-site", true), ("", true)])
  func theBrowsersWordOnTheSiteCounts(site: String, isForeign: Bool) {
    #expect(problem(["Host": "localhost:8480", "Sec-Fetch-Site": site]) == (isForeign ? .foreignOrigin : nil))
  }
}

@Suite struct MediaTypeTests {
  @Test func parametersAndCaseDontMatterButTheCharsetDoes() {
    #expect(MediaType("Application/JSON")?.name == "application/json")
    #expect(MediaType("application/json; charset=UTF-8")?.isUTF8 == true)
    #expect(MediaType("application/json;charset=\"utf-8\"; v=1")?.isUTF8 == true)
    #expect(MediaType("application/json; charset=latin1")?.isUTF8 == false)
    #expect(MediaType("json") == nil)
    #expect(MediaType("") == nil)
  }
}
