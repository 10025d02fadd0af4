//! The worker as a thread of its own, pinned to a CPU.

use std::io::{self, PipeWriter};
use std::sync::{Arc, mpsc};
use std::thread;

use tokio::sync::oneshot;

use super::SupervisorError;
use crate::rules::RuleTable;
use crate::stats::Counters;
use crate::sys::affinity;
use crate::worker::{self, Descriptors, ReceivePath, WorkerError};

/// A running worker.
#[derive(Debug)]
pub(super) struct WorkerThread {
    /// Closing it is the stop signal.
    stop: Option<PipeWriter>,
    result: oneshot::Receiver<Result<(), WorkerError>>,
}

impl WorkerThread {
    /// Starts a worker and waits until it is ready to receive.
    pub(super) fn start(
        path: ReceivePath,
        descriptors: Descriptors,
        rules: RuleTable,
        counters: Arc<Counters>,
    ) -> Result<Self, SupervisorError> {
        let failed = |error| SupervisorError::Setup { operation: "start the worker", error };
        let (stop_signal, stop) = io::pipe().map_err(failed)?;
        let (sender, result) = oneshot::channel();
        let (is_ready, ready) = mpsc::channel();
        let body = move || {
            pin();
            // Nobody listens to either only when the supervisor is gone already.
            let ready = move || _ = is_ready.send(());
            let result = worker::run(path, descriptors, &rules, &counters, &stop_signal, ready);
            let _ = sender.send(result);
        };
        thread::Builder::new().name("worker".into()).spawn(body).map_err(failed)?;
        if ready.recv().is_err() {
            // It ended before it was ready: its result is there soon, unless it panicked.
            return Err(match result.blocking_recv() {
                Ok(Err(error)) => error.into(),
                _ => SupervisorError::WorkerPanicked,
            });
        }
        Ok(Self { stop: Some(stop), result })
    }

    /// Waits until the worker ends, and says how.
    pub(super) async fn ended(&mut self) -> Result<(), SupervisorError> {
        match (&mut self.result).await {
            Ok(result) => result.map_err(SupervisorError::from),
            Err(_) => Err(SupervisorError::WorkerPanicked),
        }
    }

    /// Tells the worker to stop and waits until it has drained.
    pub(super) async fn stop(&mut self) -> Result<(), SupervisorError> {
        self.stop = None;
        self.ended().await
    }
}

/// Pins the calling thread to the last CPU it may run on: the first ones are where most systems handle interrupts.
fn pin() {
    let pinned =
        affinity::allowed_cpus().and_then(|cpus| cpus.last().map_or(Ok(()), |cpu| affinity::pin_to(*cpu)));
    if let Err(error) = pinned {
        tracing::warn!("pin the worker to a CPU: {error}");
    }
}
