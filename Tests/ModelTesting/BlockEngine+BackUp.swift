import Model

extension BlockEngine {
  /// A group of one image, from its moment to its end.
  package func backUp(_ order: BackupOrder, control: any JobControl) async throws -> BackupReceipt {
    switch try await begin(GroupOrder([order]), control: control)[0] {
    case .begun: try await store(order.backup, control: control)
    case .failed(let problem): throw DomainError(problem.code, problem.detail, remedy: problem.remedy)
    }
  }
}
