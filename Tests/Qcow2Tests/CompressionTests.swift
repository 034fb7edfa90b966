import BlockCore
import BlockTesting
import Buffers
import CZlib
import Testing

@testable import Qcow2

@Suite struct CompressionTests {
  static let types: [CompressionType] = [.zlib, .zstd]

  static func expand(_ type: CompressionType, _ input: [UInt8], _ count: Int) -> [UInt8]? {
    var output = [UInt8](repeating: 0xEE, count: count)
    var span = output.mutableSpan
    var raw = span.mutableBytes
    return ClusterExpansion.expand(type, input.span.bytes, into: &raw) ? output : nil
  }

  @Test(arguments: types, [512, 65536, 128 << 10, 2 << 20])
  func whatIsCompressedExpandsToItself(type: CompressionType, clusterByteCount: Int) throws {
    var random = SeededRandom(seed: 4)
    // zstd's first levels have tables of another size here, and the default is made of two.
    for level in type == .zlib ? [nil, 1, 9] : [nil, 1, 2, 3, 4, 5, 19] {
      let compressor = try ClusterCompressor(type: type, level: level, clusterByteCount: clusterByteCount)
      for eighths in 0..<8 {
        let noise = random.bytes(clusterByteCount * eighths / 8)
        let plain = noise + [UInt8](repeating: 7, count: clusterByteCount - noise.count)
        var output = [UInt8](repeating: 0, count: clusterByteCount)
        guard let count = compress(plain, compressor, &output) else {
          #expect(eighths >= 6, "\(eighths)/8 of noise didn't shrink")
          continue
        }
        #expect(count < clusterByteCount)
        // Whatever follows in the last sector is not looked at.
        let stored = output[..<count] + random.bytes(300)
        #expect(Self.expand(type, Array(stored), clusterByteCount) == plain)
      }
    }
  }

  @Test(arguments: types)
  func noiseIsNotCompressed(type: CompressionType) throws {
    var random = SeededRandom(seed: 4)
    let compressor = try ClusterCompressor(type: type, clusterByteCount: 4096)
    var output = [UInt8](repeating: 0, count: 4096)
    #expect(compress(random.bytes(4096), compressor, &output) == nil)
  }

  @Test func levelsThatDoNotExistAreRefused() {
    #expect(throws: Qcow2Error.self) { try ClusterCompressor(type: .zlib, level: 10, clusterByteCount: 4096) }
    #expect(throws: Qcow2Error.self) { try ClusterCompressor(type: .zstd, level: 0, clusterByteCount: 4096) }
  }

  @Test(arguments: types)
  func truncatedOrChangedBytesNeverTrap(type: CompressionType) throws {
    var random = SeededRandom(seed: 6)
    let compressor = try ClusterCompressor(type: type, clusterByteCount: 4096)
    var output = [UInt8](repeating: 0, count: 4096)
    let plain = random.bytes(1500) + [UInt8](repeating: 1, count: 2596)
    let count = try #require(compress(plain, compressor, &output))
    #expect(Self.expand(type, Array(output[..<(count / 2)]), 4096) == nil)
    for _ in 0..<300 {
      var damaged = Array(output[..<count])
      damaged[random.below(count)] ^= UInt8(1 + random.below(255))
      _ = Self.expand(type, damaged, 4096)
    }
  }

  /// More than a cluster: raw deflate is cut at the cluster's end, a zstd frame that is longer is refused.
  @Test func bombsEndAtOneCluster() throws {
    let bomb = try ClusterCompressor(type: .zlib, clusterByteCount: 2 << 20)
    var output = [UInt8](repeating: 0, count: 2 << 20)
    let zeroes = [UInt8](repeating: 0, count: 2 << 20)
    let count = try #require(compress(zeroes, bomb, &output))
    #expect(Self.expand(.zlib, Array(output[..<count]), 4096) == [UInt8](repeating: 0, count: 4096))
    let frame = try ClusterCompressor(type: .zstd, clusterByteCount: 2 << 20)
    let frameCount = try #require(compress(zeroes, frame, &output))
    #expect(Self.expand(.zstd, Array(output[..<frameCount]), 4096) == nil)
  }

  @Test func clusterOfSeveralZstdFramesIsRead() throws {
    let half = try ClusterCompressor(type: .zstd, clusterByteCount: 2048)
    var output = [UInt8](repeating: 0, count: 2048)
    var frames: [UInt8] = []
    for byte in [UInt8(1), 2] {
      let count = try #require(compress([UInt8](repeating: byte, count: 2048), half, &output))
      frames += output[..<count]
    }
    let expected = [UInt8](repeating: 1, count: 2048) + [UInt8](repeating: 2, count: 2048)
    #expect(Self.expand(.zstd, frames + [0, 0, 0], 4096) == expected)
  }

  @Test func zlibHeaderIsRefused() throws {
    var output = [UInt8](repeating: 0, count: 4096)
    var length = UInt(4096)
    let plain = [UInt8](repeating: 5, count: 4096)
    let result = compress2(&output, &length, plain, 4096, 6)
    #expect(result == Z_OK)
    #expect(Self.expand(.zlib, Array(output[..<Int(length)]), 4096) == nil)
  }
}
