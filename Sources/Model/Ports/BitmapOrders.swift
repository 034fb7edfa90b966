/// An image whose bitmaps are asked for or changed.
package struct BitmapImage: Hashable, Sendable, Codable {
  package var id: ImageID
  package var name: ResourceName
  package var location: ImageLocation

  package init(_ image: Image) {
    id = image.id
    name = image.name
    location = image.location
  }

  package init(id: ImageID, name: ResourceName, location: ImageLocation) {
    self.id = id
    self.name = name
    self.location = location
  }
}

/// A dirty bitmap of an image, as it is now.
package struct BitmapRecord: Hashable, Sendable, Codable {
  package enum State: String, Sendable, Codable, CaseIterable {
    /// Every change is recorded, by us or by whatever program opens the image next.
    case recording
    /// It stays as it is.
    case disabled
    /// An export shows it to clients: it can be read, and not be changed.
    case busy
    /// It missed changes, or isn't understood: it can only be removed.
    case inconsistent
    /// A program that keeps no bitmaps changed the image: it can only be removed.
    case orphaned
  }

  /// What it counts for, where the program itself made it.
  package struct Owner: Hashable, Sendable, Codable {
    package var tracker: TrackerName
    /// The checkpoint that it counts from; nil if what it says isn't to be built on any more.
    package var checkpoint: ULID?

    package init(tracker: TrackerName, checkpoint: ULID?) {
      self.tracker = tracker
      self.checkpoint = checkpoint
    }
  }

  package var name: BitmapName
  /// Bytes.
  package var granularity: UInt64
  package var state: State
  /// Whether changes are recorded, or will be when the image is opened: of a busy one the state doesn't tell.
  package var isRecording: Bool
  /// It is stored with the image.
  package var isPersistent: Bool
  /// Nil where it can't be told: of one that is inconsistent or orphaned.
  package var dirtyBytes: UInt64?
  /// Nil for one that a person, or another program, made.
  package var owner: Owner?
  /// The exports that show it.
  package var exports: [ResourceName]
  /// Bytes of the disk.
  package var virtualSize: UInt64

  package init(
    name: BitmapName, granularity: UInt64, state: State, isRecording: Bool, isPersistent: Bool = true,
    dirtyBytes: UInt64?, owner: Owner? = nil, exports: [ResourceName] = [], virtualSize: UInt64
  ) {
    self.name = name
    self.granularity = granularity
    self.state = state
    self.isRecording = isRecording
    self.isPersistent = isPersistent
    self.dirtyBytes = dirtyBytes
    self.owner = owner
    self.exports = exports
    self.virtualSize = virtualSize
  }
}

/// Bitmaps to be changed, of one or several images: all of it at one moment, or nothing.
package struct BitmapOrder: Hashable, Sendable, Codable {
  package struct Source: Hashable, Sendable, Codable {
    package var image: BitmapImage
    package var bitmap: BitmapName

    package init(image: BitmapImage, bitmap: BitmapName) {
      self.image = image
      self.bitmap = bitmap
    }
  }

  package enum Change: Hashable, Sendable, Codable {
    /// A new one, which is clean.
    case add(granularity: UInt64, isRecording: Bool, isPersistent: Bool)
    case remove
    case clear
    case enable
    case disable
    /// Makes dirty what is dirty in any of these, of this image or others.
    case merge([Source])
    /// Makes dirty what is dirty in bits from elsewhere.
    case unite(BitmapImport)
  }

  package struct Action: Hashable, Sendable, Codable {
    package var image: BitmapImage
    package var bitmap: BitmapName
    package var change: Change

    package init(image: BitmapImage, bitmap: BitmapName, _ change: Change) {
      self.image = image
      self.bitmap = bitmap
      self.change = change
    }
  }

  package var actions: [Action]
  /// Only find out whether it is possible, and what would come of it.
  package var isRehearsal: Bool

  package init(_ actions: [Action], isRehearsal: Bool = false) {
    self.actions = actions
    self.isRehearsal = isRehearsal
  }
}

/// The bits of a bitmap outside of its image, as the engine writes and reads them.
package struct BitmapBits: Hashable, Sendable, Codable {
  package static let maximumByteCount = 64 << 20

  package var bytes: [UInt8]
  /// Stands in the bytes, too. Changes whenever the bitmap may have changed.
  package var generation: String

  package init(bytes: [UInt8], generation: String) {
    self.bytes = bytes
    self.generation = generation
  }
}

/// Bits that are to go into a bitmap.
package struct BitmapImport: Hashable, Sendable, Codable {
  /// As a ``BitmapBits`` has them.
  package var bytes: [UInt8]
  /// The generation that the bits must have; nil: any.
  package var generation: String?
  /// The generations that the bitmap may have into which they go; nil: any.
  package var replaceable: [String]?

  package init(bytes: [UInt8], generation: String? = nil, replaceable: [String]? = nil) {
    self.bytes = bytes
    self.generation = generation
    self.replaceable = replaceable
  }
}

/// A page of what a bitmap calls dirty, and what it doesn't.
package struct DirtyExtentPage: Hashable, Sendable, Codable {
  package struct Item: Hashable, Sendable, Codable {
    package var offset: UInt64
    package var length: UInt64
    package var dirty: Bool

    package init(offset: UInt64, length: UInt64, dirty: Bool) {
      self.offset = offset
      self.length = length
      self.dirty = dirty
    }
  }

  package var items: [Item]
  /// Where the next page starts; nil at the end.
  package var nextOffset: UInt64?
  /// Changes whenever the bitmap may have changed.
  package var generation: String

  package init(items: [Item], nextOffset: UInt64?, generation: String) {
    self.items = items
    self.nextOffset = nextOffset
    self.generation = generation
  }
}
