/// Tasks that prefer a pool run on its threads: for handlers that may block a little, such as on the catalog.
extension WorkerPool: TaskExecutor {
  package func enqueue(_ job: consuming ExecutorJob) {
    let job = UnownedJob(job)
    submit { job.runSynchronously(on: self.asUnownedTaskExecutor()) }
  }
}
