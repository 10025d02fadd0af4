//! The workers: processes of their own, each pinned to a CPU. What one of them counts outlives it, and where it has ended
//! another one goes on.

mod adopt;
mod process;
mod sync;

use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use process::Process;
pub(super) use process::Told;
use tokio::sync::Notify;

use super::SupervisorError;
use crate::stats::Counters;
use crate::sys::affinity;
use crate::worker::egress::Key;
use crate::worker::order::{self, Descriptor, Order, Task};

/// How often workers are looked after: one that hangs is replaced before its ring is full, which by default takes half a second.
pub(super) const PULSE_INTERVAL: Duration = Duration::from_millis(50);
/// How long workers have to carry out orders.
const SYNC_TIME: Duration = Duration::from_secs(5);
/// Sockets that are opened for a worker before others have their turn.
const WANTED_AT_A_TIME: usize = 64;
/// How long a worker must have lived that is replaced at once, however often.
const LONG_LIFE: Duration = Duration::from_secs(1);
/// How many in a row may live shorter before the next one has to wait.
const SHORT_LIVES: u32 = 5;
/// How long the next one has to wait then, twice as long each time, and at most.
const FIRST_REST: Duration = Duration::from_millis(100);
const LONGEST_REST: Duration = Duration::from_secs(10);

/// One of the workers.
#[derive(Debug)]
pub(super) struct Worker {
    /// What it counts, and those before it have.
    counters: Counters,
    task: Task,
    state: State,
    /// How many have been started in place of one that had ended.
    restarts: u64,
    /// How the last one ended.
    last_end: Option<String>,
    /// How many in a row have lived a short time.
    short_lives: u32,
}

#[derive(Debug)]
enum State {
    Running(Box<Process>),
    /// To be started, but not before.
    Resting(Instant),
}

/// All of them.
#[derive(Debug)]
pub(super) struct Workers {
    all: Vec<Worker>,
    /// Where they listen: the control socket's path and their number.
    socket: PathBuf,
    /// What they are started with.
    arguments: Vec<String>,
    last_sync: u64,
    /// The level that they log from, once it has been changed.
    log_level: Option<String>,
    /// Told when one of them wants a socket.
    calls: Arc<Notify>,
}

/// What is known of a worker.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) pid: Option<u32>,
    pub(super) cpu: Option<usize>,
    pub(super) uptime: Duration,
    pub(super) restarts: u64,
    pub(super) last_end: Option<String>,
    /// Whether it does not stay up.
    pub(super) has_failed: bool,
}

impl Worker {
    fn new(counters: Counters, task: Task) -> Self {
        let state = State::Resting(Instant::now());
        Self { counters, task, state, restarts: 0, last_end: None, short_lives: 0 }
    }

    fn process(&mut self) -> Option<&mut Process> {
        match &mut self.state {
            State::Running(process) => Some(process),
            State::Resting(_) => None,
        }
    }

    /// Takes note of the end of its process.
    fn bury(&mut self) {
        let State::Running(process) = std::mem::replace(&mut self.state, State::Resting(Instant::now()))
        else {
            return;
        };
        let (pid, lived) = (process.pid, process.since.elapsed());
        let end = process.bury();
        self.short_lives = if lived < LONG_LIFE { self.short_lives + 1 } else { 0 };
        let rest = rest_after(self.short_lives);
        tracing::error!("worker {} (process {pid}) {end}, after {lived:.1?}", self.task.number);
        if !rest.is_zero() {
            tracing::error!("worker {} is started again in {rest:?}", self.task.number);
        }
        self.last_end = Some(end);
        self.state = State::Resting(Instant::now() + rest);
    }
}

/// How long to wait before another one is started, after so many in a row that have lived a short time.
fn rest_after(short_lives: u32) -> Duration {
    match short_lives.checked_sub(SHORT_LIVES + 1) {
        None => Duration::ZERO,
        Some(doublings) => FIRST_REST.saturating_mul(1 << doublings.min(16)).min(LONGEST_REST),
    }
}

impl Workers {
    /// So many workers, none of which has been started. They listen beside the control socket, and are started with
    /// `arguments` before their command.
    pub(super) fn new(
        count: usize,
        path: order::Path,
        busy_poll: Duration,
        control_socket: &Path,
        arguments: Vec<String>,
    ) -> Result<Self, SupervisorError> {
        let failed = |error| SupervisorError::Setup { operation: "make memory for counters", error };
        let cpus = cpus_for(count);
        let worker = |number: usize| {
            let task = Task::new(number, path, busy_poll, cpus.get(number).copied());
            Ok(Worker::new(Counters::new()?, task))
        };
        let workers = (0..count).map(worker).collect::<io::Result<_>>().map_err(failed)?;
        let (socket, calls) = (control_socket.to_owned(), Arc::default());
        Ok(Self { all: workers, socket, arguments, last_sync: 0, log_level: None, calls })
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// What each of them counts.
    pub(super) fn counters(&self) -> Vec<&Counters> {
        self.all.iter().map(|worker| &worker.counters).collect()
    }

    /// Starts worker `number` and tells it to begin.
    pub(super) fn launch(&mut self, number: usize) -> Result<(), SupervisorError> {
        let failed = |error: io::Error| SupervisorError::Worker { number, reason: error.to_string() };
        let path = socket_of(&self.socket, number);
        let Some(worker) = self.all.get_mut(number) else { return Ok(()) };
        let memory = worker.counters.memory().try_clone_to_owned().map_err(failed)?;
        let mut process = Process::spawn(&path, &self.arguments, &self.calls).map_err(failed)?;
        process.tell(&Order::Begin(worker.task.clone()), Some(memory.into()));
        if let Some(level) = &self.log_level {
            process.tell(&Order::LogLevel(level.clone()), None);
        }
        worker.state = State::Running(Box::new(process));
        if worker.last_end.is_some() {
            worker.restarts += 1;
        }
        Ok(())
    }

    /// Gives all that run an order.
    pub(super) fn tell(&mut self, order: &Order, descriptor: Option<&Descriptor>) {
        for process in self.all.iter_mut().filter_map(Worker::process) {
            process.tell(order, descriptor.cloned());
        }
    }

    /// Gives worker `number` an order, if it runs.
    pub(super) fn tell_one(&mut self, number: usize, order: &Order, descriptor: Option<Descriptor>) {
        if let Some(process) = self.all.get_mut(number).and_then(Worker::process) {
            process.tell(order, descriptor);
        }
    }

    /// What is notified when there is something for [`Workers::take_wanted`].
    pub(super) fn calls(&self) -> Arc<Notify> {
        Arc::clone(&self.calls)
    }

    /// Sockets of sources that workers want, each with the worker's number. There are a few at a time, so that those who want many
    /// keep nobody waiting.
    pub(super) fn take_wanted(&mut self) -> Vec<(usize, Key)> {
        let mut all = Vec::new();
        for (number, worker) in self.all.iter_mut().enumerate() {
            let Some(process) = worker.process() else { continue };
            let (wanted, are_more) = process.take_wanted(WANTED_AT_A_TIME);
            all.extend(wanted.into_iter().map(|key| (number, key)));
            if are_more {
                self.calls.notify_one();
            }
        }
        all
    }

    /// Has them log from `level` on, and those that come after them.
    pub(super) fn set_log_level(&mut self, level: String) {
        self.tell(&Order::LogLevel(level.clone()), None);
        self.log_level = Some(level);
    }

    /// Waits until a worker is to be started, because one has ended, and returns its number. Who gives up waiting can wait
    /// again.
    pub(super) async fn due(&mut self) -> usize {
        loop {
            let earliest = self.all.iter().enumerate().filter_map(|(number, worker)| match worker.state {
                State::Resting(until) => Some((until, number)),
                State::Running(_) => None,
            });
            let earliest = earliest.min();
            let until = earliest.map(|(until, _)| until);
            tokio::select! {
                biased;
                () = rested(until) => if let Some((_, number)) = earliest { return number },
                number = self.one_ends() => self.bury(number),
            }
        }
    }

    async fn one_ends(&mut self) -> usize {
        poll_fn(|context| {
            for (number, worker) in self.all.iter_mut().enumerate() {
                if worker.process().is_some_and(|process| process.poll_end(context).is_ready()) {
                    return Poll::Ready(number);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Worker `number` could not be started: it is tried again later.
    pub(super) fn postpone(&mut self, number: usize) {
        if let Some(worker) = self.all.get_mut(number) {
            if let Some(process) = worker.process() {
                process.kill();
                worker.bury();
            }
            worker.state = State::Resting(Instant::now() + LONGEST_REST);
        }
    }

    fn bury(&mut self, number: usize) {
        if let Some(worker) = self.all.get_mut(number) {
            worker.bury();
        }
    }

    /// Ends those that hang.
    pub(super) fn check_pulses(&mut self) {
        for worker in &mut self.all {
            let turns = worker.counters.turns().get();
            if let Some(process) = worker.process() {
                process.check_pulse(turns);
            }
        }
    }

    /// Tells all to drain, and to end. Says which ones do not run.
    pub(super) fn begin_drain(&mut self) -> Vec<usize> {
        self.tell(&Order::Drain, None);
        self.down()
    }

    /// Waits until all have ended.
    pub(super) async fn all_end(&mut self) {
        poll_fn(|context| {
            let running = self.all.iter_mut().filter_map(Worker::process);
            // All of them are looked at.
            let pending =
                running.fold(false, |pending, process| process.poll_end(context).is_pending() | pending);
            if pending { Poll::Pending } else { Poll::Ready(()) }
        })
        .await;
    }

    /// Ends those that have not. Says which ones did not end as they should, which is `in_time`.
    pub(super) fn end_drain(&mut self, in_time: bool) -> Vec<usize> {
        let mut failed = Vec::new();
        for (number, worker) in self.all.iter_mut().enumerate() {
            if let State::Running(process) =
                std::mem::replace(&mut worker.state, State::Resting(Instant::now()))
            {
                let end = process.bury();
                if end != "ended" || !in_time {
                    tracing::error!("worker {number} {end}");
                    failed.push(number);
                }
            }
            let _ = std::fs::remove_file(socket_of(&self.socket, number));
        }
        failed
    }

    /// Those that do not run.
    pub(super) fn down(&self) -> Vec<usize> {
        let down = |worker: &&Worker| matches!(worker.state, State::Resting(_));
        self.all.iter().filter(down).map(|worker| worker.task.number).collect()
    }

    /// Why a worker could not be started, if one could not.
    pub(super) fn why_down(&self) -> Option<SupervisorError> {
        let down = self.all.iter().find(|worker| matches!(worker.state, State::Resting(_)))?;
        let reason = down.last_end.clone().unwrap_or_default();
        Some(SupervisorError::Worker { number: down.task.number, reason })
    }

    /// What is known of each of them.
    pub(super) fn status(&self) -> Vec<Status> {
        let status = |worker: &Worker| {
            let process = match &worker.state {
                State::Running(process) => Some(process),
                State::Resting(_) => None,
            };
            Status {
                pid: process.map(|process| process.pid),
                cpu: worker.task.cpu,
                uptime: process.map_or(Duration::ZERO, |process| process.since.elapsed()),
                restarts: worker.restarts,
                last_end: worker.last_end.clone(),
                has_failed: worker.short_lives > SHORT_LIVES
                    && process.is_none_or(|process| process.since.elapsed() < LONG_LIFE),
            }
        };
        self.all.iter().map(status).collect()
    }
}

async fn rested(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until.into()).await,
        None => std::future::pending().await,
    }
}

/// Where worker `number` listens.
fn socket_of(control_socket: &Path, number: usize) -> PathBuf {
    let mut path = control_socket.as_os_str().to_owned();
    path.push(format!(".worker-{number}"));
    path.into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_keeps_dying_has_to_wait_longer_and_longer() {
        let rests: Vec<_> = (0..20).map(rest_after).collect();
        assert!(rests[..6].iter().all(Duration::is_zero));
        assert_eq!(rests[6..9], [100, 200, 400].map(Duration::from_millis));
        assert_eq!((rests[19], rest_after(u32::MAX)), (LONGEST_REST, LONGEST_REST));
    }
}
