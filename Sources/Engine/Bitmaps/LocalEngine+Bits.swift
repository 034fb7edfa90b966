import Bitmaps
import Bytes
import Model

/// The bits of bitmaps, out of images and into them.
extension LocalEngine {
  package func bits(of name: BitmapName, of image: BitmapImage) async throws -> BitmapBits {
    let (bits, generation) = try await reading(name, of: image) { place, _, bitmap in
      let generation = place.generation(of: bitmap).token
      if let flaw = bitmap.flaw { throw DomainError(flaw, "bitmap \(name.quoted) of image '\(image.name)'") }
      return (try await place.loaded(bitmap), generation)
    }
    let limit = BitmapBits.maximumByteCount
    let bytes = await work.run {
      PortableBitmap(bits, generation: Hexadecimal.bytes(of: generation) ?? []).encoded(atMost: limit)
    }
    guard let bytes else {
      throw DomainError(
        .bitmapLimit, "the bits of bitmap \(name.quoted) of image '\(image.name)' take more than \(limit) bytes",
        remedy: "merge it into one with a coarser granularity, and export that")
    }
    return BitmapBits(bytes: bytes, generation: generation)
  }

  /// Bits from elsewhere may be many: they are read off the threads that others wait for.
  func changes(of order: BitmapOrder) async throws -> BitmapChanges {
    let result = await work.run { () -> Result<BitmapChanges, DomainError> in
      do throws(DomainError) { return .success(try BitmapChanges(order)) } catch { return .failure(error) }
    }
    return try result.get()
  }

  /// Refuses to change a bitmap that isn't as the caller knows it.
  func requireGenerations(
    of changes: BitmapChanges, at places: [BitmapPlace], _ sets: [BitmapSet], isAtMoment: Bool
  ) async throws {
    for (source, generations) in changes.replaceable {
      guard let bitmap = sets[source.image][source.name] else { continue }
      let generation = try await onPlace(places[source.image]) { place in
        place.generation(of: bitmap, isAtMoment: isAtMoment).token
      }
      guard generations.contains(generation) else {
        let name = BitmapName(source.name)
        let image = places[source.image].image.name
        throw DomainError(
          .preconditionFailed,
          "bitmap \(name.quoted) of image '\(image)' is at generation \(generation), which 'If-Match' doesn't name",
          remedy: "read its bits again, or send 'If-Match: *' to add to it as it is")
      }
    }
  }
}

extension BitmapImport {
  func decoded() throws(DomainError) -> DirtyBitmap {
    let bitmap: PortableBitmap
    do throws(PortableBitmap.Flaw) { bitmap = try PortableBitmap(decoding: bytes) } catch {
      throw DomainError(error)
    }
    let found = Hexadecimal.text(of: bitmap.generation)
    guard generation == nil || generation == found else {
      throw DomainError(
        .bitmapMismatch, "the bits are of generation \(found), and \(generation ?? "") is asked for",
        remedy: "export the bits again, and send those")
    }
    return bitmap.bits
  }
}

extension DomainError {
  fileprivate init(_ flaw: PortableBitmap.Flaw) {
    let what =
      switch flaw {
      case .foreign: "the body isn't the bits of a bitmap: it doesn't begin as they do"
      case .version(let version): "the bits are in version \(version) of their format, and version 1 is known"
      case .length: "the bits are cut off, or more follows them"
      case .digest: "the bits were changed or cut off on their way: they don't have the digest at their end"
      case .contradiction(let what): "the bits contradict themselves: \(what)"
      }
    self.init(.malformedBits, what, remedy: "export the bits again, and send them as they came")
  }
}
