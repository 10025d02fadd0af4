//! Waiting for what workers have been told, and hearing what they refuse.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use super::{PULSE_INTERVAL, SYNC_TIME, Worker, Workers};
use crate::supervisor::SupervisorError;

impl Workers {
    /// Asks worker `number` to answer for the orders that it was given; what it refuses is kept for
    /// [`Workers::take_refused_inputs`].
    pub(in crate::supervisor) fn ask(&mut self, number: usize) {
        self.last_sync += 1;
        if let Some(process) = self.all.get_mut(number).and_then(Worker::process) {
            process.ask(self.last_sync);
        }
    }

    /// Waits until all that run have carried out their orders. One that does not is ended.
    ///
    /// # Errors
    /// [`SupervisorError::Refused`] when one could not carry out an order that it was given since it was asked before.
    pub(in crate::supervisor) async fn sync(&mut self) -> Result<(), SupervisorError> {
        self.last_sync += 1;
        let mut asked_before = Vec::new();
        for (number, worker) in self.all.iter_mut().enumerate() {
            if let Some(process) = worker.process() {
                asked_before.push((number, process.asked()));
                process.ask(self.last_sync);
            }
        }
        self.answers().await;
        for (number, before) in asked_before {
            let process = self.all.get_mut(number).and_then(Worker::process);
            if let Some(why) = process.and_then(|process| process.take_refused_since(before)) {
                return Err(SupervisorError::Refused { number, why });
            }
        }
        Ok(())
    }

    /// The interfaces that a worker which was started again could not receive on, and why.
    pub(in crate::supervisor) fn take_refused_inputs(&mut self) -> Vec<(String, String)> {
        let inputs = |worker: &mut Worker| {
            let number = worker.task.number;
            let refused = worker.process().map(|process| process.take_refused_inputs().collect::<Vec<_>>());
            let described = move |(input, why)| (input, format!("worker {number} cannot {why}"));
            refused.unwrap_or_default().into_iter().map(described)
        };
        self.all.iter_mut().flat_map(inputs).collect()
    }

    /// Waits until all that run have answered what they were asked, and looks whether they live meanwhile.
    async fn answers(&mut self) {
        let mut pulse = tokio::time::interval(PULSE_INTERVAL);
        let end = Instant::now() + SYNC_TIME;
        while Instant::now() < end {
            tokio::select! {
                biased;
                () = self.all_answer() => return,
                _ = pulse.tick() => self.check_pulses(),
            }
        }
        for process in self.all.iter_mut().filter_map(Worker::process) {
            if !process.has_answered() {
                process.kill();
            }
        }
    }

    async fn all_answer(&mut self) {
        poll_fn(|context| {
            let mut pending = false;
            for worker in &mut self.all {
                let Some(process) = worker.process() else { continue };
                if process.poll_end(context).is_ready() {
                    worker.bury();
                } else {
                    pending |= !process.has_answered();
                }
            }
            if pending { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }
}
