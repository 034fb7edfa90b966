import Foundation
import GRDB
import Model

struct ChainRow: TableRow {
  static let table = "chains"
  static let columns = ["id", "image", "image_name", "repository", "created_at"]

  let id: String
  let image: String
  let imageName: String
  let repository: String
  let createdAt: Int64

  init(_ chain: Chain) {
    id = chain.id.description
    image = chain.image.description
    imageName = chain.imageName.text
    repository = chain.repository.description
    createdAt = chain.createdAt.milliseconds
  }

  init(from columns: inout ColumnReader) {
    id = columns.next()
    image = columns.next()
    imageName = columns.next()
    repository = columns.next()
    createdAt = columns.next()
  }

  var values: [(any DatabaseValueConvertible)?] { [id, image, imageName, repository, createdAt] }

  func entity() throws -> Chain {
    let check = RowCheck(table: Self.table, key: id)
    return Chain(
      id: try check.id(id), image: try check.id(image), imageName: try check.name(imageName),
      repository: try check.id(repository), createdAt: Date(milliseconds: createdAt))
  }
}
