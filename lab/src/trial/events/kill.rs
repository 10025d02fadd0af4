//! Processes of the relay that end in the midst of their work.

use std::io;
use std::time::{Duration, Instant};

use multicast_relay::control::{Answer, Command};

use super::{Failure, PATIENCE, Player, lock};
use crate::cpu::{Family, Proc};
use crate::scenario::event::{Blow, Victim};
use crate::sys::pidfd::Pidfd;
use crate::sys::signal::Signal;

/// What a worker has on its command line.
const WORKER: &str = "worker";
/// How far faults that do not end a process are apart, and for how long they come.
const NEXT_FAULT: Duration = Duration::from_millis(2);
const FAULTS: Duration = Duration::from_secs(1);

impl Player<'_> {
    /// Ends workers, or has them hang, and waits until they have been replaced.
    pub(super) fn kill_workers(&mut self, victim: Victim, blow: Blow) -> Result<(), Failure> {
        let family = self.family()?;
        let before = workers(family)?;
        let Some(next) = before.get(self.turn % before.len().max(1)) else {
            return Err(Failure::Subject(format!("no process of the relay runs as `{WORKER}`")));
        };
        self.turn += 1;
        let struck = if victim == Victim::Workers { before.clone() } else { vec![*next] };
        self.remember_time(family)?;
        self.log.outages += struck.len() as u64;
        let held = struck.iter().map(|pid| strike(*pid, blow)).collect::<Result<Vec<_>, _>>()?;
        let deadline = Instant::now() + PATIENCE;
        for (pid, process) in struck.iter().zip(&held) {
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = process.wait(left).map_err(failed(*pid))?;
            if !ended {
                let seconds = PATIENCE.as_secs();
                return Err(Failure::Subject(format!("worker {pid} was still there after {seconds} s")));
            }
        }
        self.wait_for(|_| {
            let now = workers(family)?;
            let whole = now.len() >= before.len() && !now.iter().any(|pid| struck.contains(pid));
            Ok(if whole {
                Ok(())
            } else {
                Err(format!("there were {} of {} workers", now.len(), before.len()))
            })
        })
    }

    /// Ends the supervisor alone, starts another one after a `pause`, and waits until that has taken the workers on.
    pub(super) fn kill_supervisor(&mut self, blow: Blow, pause: Duration) -> Result<(), Failure> {
        let family = self.family()?;
        let orphans = workers(family)?;
        if orphans.is_empty() {
            return Err(Failure::Subject(format!("no process of the relay runs as `{WORKER}`")));
        }
        self.remember_time(family)?;
        self.client = None;
        lock(self.subject).strike(signal(blow)).map_err(failed(family.pid))?;
        // Whatever comes meanwhile, the next supervisor is started.
        self.wait_until(Instant::now() + pause);
        let replaced = lock(self.subject).replace(self.topology.relay_namespace());
        let pid = replaced.map_err(|error| Failure::Lab(format!("{error}")))?.unwrap_or_default();
        self.wait_for(|player| {
            if let Some(died) = lock(player.subject).died("when it was started again") {
                return Err(Failure::Subject(died));
            }
            Ok(match player.ask(&Command::Ping) {
                Ok(Answer::Pong { pid: answering, .. }) if answering == pid => Ok(()),
                Ok(other) => Err(format!("the new supervisor, process {pid}, did not answer: {other:?}")),
                Err(error) => Err(format!("the new supervisor did not answer: {error}")),
            })
        })?;
        self.wait_for(|player| {
            let adopted = match player.ask(&Command::Workers) {
                Ok(Answer::Workers(workers)) => workers.iter().filter_map(|worker| worker.pid).collect(),
                Ok(_) => Vec::new(),
                Err(error) => return Ok(Err(error.to_string())),
            };
            let lost: Vec<_> = orphans.iter().filter(|orphan| !adopted.contains(orphan)).collect();
            let told = || format!("workers {lost:?} were not taken on; the new supervisor has {adopted:?}");
            Ok(if lost.is_empty() { Ok(()) } else { Err(told()) })
        })?;
        self.forget_what_is_gone()
    }
}

fn workers(family: Family) -> Result<Vec<u32>, Failure> {
    let workers = Proc::default().members_with(family, WORKER);
    let mut workers = workers.map_err(|error| Failure::Lab(error.to_string()))?;
    workers.retain(|pid| *pid != family.pid);
    Ok(workers)
}

fn signal(blow: Blow) -> Signal {
    match blow {
        Blow::Kill => Signal::Kill,
        Blow::Segv => Signal::Fault,
        Blow::Abrt => Signal::Abort,
        Blow::Stop => Signal::Stop,
    }
}

/// Strikes a process, which is held: its id stays its own.
fn strike(pid: u32, blow: Blow) -> Result<Pidfd, Failure> {
    let process = Pidfd::open(pid).map_err(failed(pid))?;
    process.send(signal(blow)).map_err(failed(pid))?;
    // The runtime of Rust looks for an overflow of the stack first, finds none, and leaves it to the next fault to end the
    // process: a real one would come again at once.
    let deadline = Instant::now() + FAULTS;
    while blow == Blow::Segv && !process.wait(NEXT_FAULT).map_err(failed(pid))? && Instant::now() < deadline {
        process.send(signal(blow)).map_err(failed(pid))?;
    }
    Ok(process)
}

fn failed(pid: u32) -> impl Fn(io::Error) -> Failure {
    move |error| match error.raw_os_error() {
        // Found a moment ago, so it has ended by itself.
        Some(libc::ESRCH) => Failure::Subject(format!("process {pid} had ended by itself")),
        _ => Failure::Lab(format!("end process {pid}: {error}")),
    }
}
