import Model

/// A page of a list.
struct PageDocument<Item: JSONWritable & Sendable>: JSONWritable {
  let items: [Item]
  let nextCursor: String?

  init(_ page: Page<Item>) {
    items = page.items
    nextCursor = page.next
  }

  func write(to json: inout JSONWriter) {
    json.object { json in
      json.member("items", items)
      json.member("nextCursor", nextCursor)
    }
  }
}
