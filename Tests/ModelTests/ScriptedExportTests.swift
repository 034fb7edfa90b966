import Model
import ModelTesting
import Testing

/// The scripted engine keeps the port's promises about attached images and exports.
struct ScriptedExportTests {
  private let engine = ScriptedEngine()
  private let control = RecordingJobControl()
  private let image = Image.sample()

  private var attachOrder: AttachOrder {
    AttachOrder(image: image.id, location: image.location, cache: nil, lockTimeout: 0)
  }

  private func exportOrder(
    _ name: ResourceName = "vm1", of source: ExportOrder.Source? = nil,
    at listen: ExportAddress = .unix(path: "/run/nbd.sock"), tls: ExportTLS? = nil
  ) -> ExportOrder {
    ExportOrder(
      export: ExportID(), name: name, description: "", source: source ?? .attachedImage(image.id), isReadOnly: true,
      listen: listen, tls: tls, offersAllocationDepth: false)
  }

  private func expectRefusal(_ code: ProblemCode, _ body: () async throws -> Void) async {
    let error = await #expect(throws: DomainError.self) { try await body() }
    #expect(error?.code == code)
  }

  @Test func anImageIsAttachedOnceAndDetachedWhenItsExportsAreGone() async throws {
    try await engine.detach(image.id)
    #expect(try await engine.attach(attachOrder, control: control).cache == .direct)
    await expectRefusal(.imageInUse) { _ = try await engine.attach(attachOrder, control: control) }
    let order = exportOrder()
    try await engine.export(order)
    await expectRefusal(.imageInUse) { try await engine.detach(image.id) }
    #expect(engine.attachedImages == [image.id: attachOrder])
    try await engine.withdraw(order.export, .safe)
    try await engine.withdraw(order.export, .safe)
    engine.script { $0.detach = { _ in throw DomainError(.ioError, "the flush failed") } }
    await expectRefusal(.ioError) { try await engine.detach(image.id) }
    #expect(engine.attachedImages.isEmpty, "it is closed all the same")
    try await engine.detach(image.id)
  }

  @Test func anExportIsServedUntilItIsWithdrawn() async throws {
    let order = exportOrder(of: .image(image.location))
    #expect(engine.activity(of: order.export) == nil)
    try await engine.export(order)
    #expect(engine.servedExports == [order.export: order])
    #expect(engine.activity(of: order.export) == ExportActivity())
    engine.script { $0.activity = { _ in ExportActivity(clients: 2) } }
    await expectRefusal(.exportInUse) { try await engine.withdraw(order.export, .safe) }
    try await engine.withdraw(order.export, .hard)
    #expect(engine.activity(of: order.export) == nil)
    #expect(
      engine.orders == [.export(order), .withdraw(order.export, .safe), .withdraw(order.export, .hard)])
  }

  @Test func exportsAtOneAddressAgreeAndHaveNamesOfTheirOwn() async throws {
    let source = ExportOrder.Source.image(image.location)
    await expectRefusal(.imageNotAttached) { try await engine.export(exportOrder()) }
    try await engine.export(exportOrder("a", of: source))
    await expectRefusal(.nameTaken) { try await engine.export(exportOrder("a", of: source)) }
    await expectRefusal(.addressUnavailable) { try await engine.export(exportOrder("b", of: source, tls: .psk)) }
    try await engine.export(exportOrder("a", of: source, at: .tcp(host: "::1", port: 10_809), tls: .psk))
    try await engine.export(exportOrder("b", of: source))
    #expect(engine.servedExports.count == 3)
  }

  @Test func theScriptDecidesAndWhatItRefusesDoesNotStand() async throws {
    let failure = DomainError(.addressUnavailable, "somebody listens there")
    engine.script { script in
      script.attach = { _ in throw failure }
      script.export = { _ in throw failure }
    }
    await expectRefusal(.addressUnavailable) { _ = try await engine.attach(attachOrder, control: control) }
    await expectRefusal(.addressUnavailable) { try await engine.export(exportOrder(of: .image(image.location))) }
    #expect(engine.attachedImages.isEmpty)
    #expect(engine.servedExports.isEmpty)
  }

  @Test func aShutdownEndsWhatIsOpen() async throws {
    _ = try await engine.attach(attachOrder, control: control)
    try await engine.export(exportOrder())
    await engine.shutDown()
    #expect(engine.attachedImages.isEmpty)
    #expect(engine.servedExports.isEmpty)
  }

  @Test func aGateHoldsOnlyTheJobsThatAreMeant() async throws {
    let gate = Gate()
    engine.script { script in
      script.hold(at: gate) { order in if case .check = order { true } else { false } }
    }
    _ = try await engine.attach(attachOrder, control: control)
    let order = CheckOrder(image: image.location, repairsLeaks: true)
    let check = Task { try await engine.check(order, control: control) }
    try await gate.reached()
    gate.open()
    #expect(try await check.value.errorCount == 0)
    #expect(engine.orders.last == .check(order, job: control.job))
  }
}
