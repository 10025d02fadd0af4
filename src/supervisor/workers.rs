//! The workers: threads of their own, each pinned to a CPU.

use std::io::{self, PipeReader, PipeWriter};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::SupervisorError;
use crate::rules::RuleTable;
use crate::stats::Counters;
use crate::sys::affinity;
use crate::worker::{self, Descriptors};

/// What one worker works with.
pub(super) struct Task {
    /// From where to where.
    pub descriptors: Descriptors,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// How long it looks for frames before it sleeps.
    pub busy_poll: Duration,
}

/// Running workers.
#[derive(Debug)]
pub(super) struct Workers {
    /// Closing it is the stop signal.
    stop: Option<PipeWriter>,
    results: UnboundedReceiver<Result<(), SupervisorError>>,
    running: usize,
    /// The first error of one that has ended.
    outcome: Result<(), SupervisorError>,
}

impl Workers {
    /// Starts a worker for each task and waits until all are ready to receive.
    pub(super) fn start(tasks: Vec<Task>, rules: &Arc<RuleTable>) -> Result<Self, SupervisorError> {
        let failed = |error| SupervisorError::Setup { operation: "start the workers", error };
        let cpus = cpus_for(tasks.len());
        let (stop_signal, stop) = io::pipe().map_err(failed)?;
        let (ended, results) = unbounded_channel();
        let mut workers = Self { stop: Some(stop), results, running: 0, outcome: Ok(()) };
        for (number, task) in tasks.into_iter().enumerate() {
            let thread = WorkerThread {
                task,
                rules: Arc::clone(rules),
                cpu: cpus.get(number).copied(),
                stop: stop_signal.try_clone().map_err(failed)?,
                ended: ended.clone(),
            };
            let (is_ready, ready) = mpsc::channel();
            let body = move || thread.run(&is_ready);
            thread::Builder::new().name(format!("worker-{number}")).spawn(body).map_err(failed)?;
            workers.running += 1;
            if ready.recv().is_err() {
                // It ended before it was ready; the others end when the pipe closes.
                return Err(workers
                    .results
                    .blocking_recv()
                    .map_or(SupervisorError::WorkerPanicked, |result| {
                        result.err().unwrap_or(SupervisorError::WorkerPanicked)
                    }));
            }
        }
        Ok(workers)
    }

    /// Waits until a worker ends by itself, lets the others drain, and says why it did. Who gives up waiting can wait again.
    pub(super) async fn ended(&mut self) -> Result<(), SupervisorError> {
        if self.stop.is_some() {
            self.one_ended().await;
        }
        self.stop().await
    }

    /// Tells the workers to stop and waits until they have drained.
    pub(super) async fn stop(&mut self) -> Result<(), SupervisorError> {
        self.stop = None;
        while self.running > 0 {
            self.one_ended().await;
        }
        mem::replace(&mut self.outcome, Ok(()))
    }

    async fn one_ended(&mut self) {
        let result = self.results.recv().await.unwrap_or(Err(SupervisorError::WorkerPanicked));
        self.running = self.running.saturating_sub(1);
        if self.outcome.is_ok() {
            self.outcome = result;
        }
    }
}

struct WorkerThread {
    task: Task,
    rules: Arc<RuleTable>,
    cpu: Option<usize>,
    stop: PipeReader,
    ended: UnboundedSender<Result<(), SupervisorError>>,
}

impl WorkerThread {
    fn run(self, is_ready: &mpsc::Sender<()>) {
        let Self { task, rules, cpu, stop, ended } = self;
        if let Some(cpu) = cpu
            && let Err(error) = affinity::pin_to(cpu)
        {
            tracing::warn!("pin a worker to CPU {cpu}: {error}");
        }
        let Task { descriptors, counters, busy_poll } = task;
        // Nobody listens to it only when the supervisor is gone already.
        let ready = || _ = is_ready.send(());
        let work = || worker::run(descriptors, busy_poll, &rules, &counters, &stop, ready);
        let result = match catch_unwind(AssertUnwindSafe(work)) {
            Ok(result) => result.map_err(SupervisorError::from),
            Err(_) => Err(SupervisorError::WorkerPanicked),
        };
        let _ = ended.send(result);
    }
}

/// A CPU for each of so many workers, from the last one down: the first ones are where most systems handle interrupts.
fn cpus_for(workers: usize) -> Vec<usize> {
    let cpus = match affinity::allowed_cpus() {
        Ok(cpus) => cpus,
        Err(error) => {
            tracing::warn!("find out which CPUs workers may run on: {error}");
            return Vec::new();
        }
    };
    if workers > cpus.len() {
        tracing::warn!("{workers} workers share {} CPUs: more workers than CPUs gain nothing", cpus.len());
    }
    cpus.into_iter().rev().cycle().take(workers).collect()
}
