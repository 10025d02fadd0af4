//! What happens to our relay and its links while a trial's traffic is offered: one event after the other, each at its time
//! or, when the one before took longer, right after that.

mod client;
mod kill;
mod rules;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Order;
use crate::clock::realtime_ns;
use crate::cpu::{Family, Proc, SubjectTime};
use crate::disturbance::Span;
use crate::net::NetError;
use crate::scenario::Action;
use crate::scenario::event::{FlappedLink, How};
use crate::subject::Running;
use crate::topology::{Change, Leg, Topology};

/// How long the relay may take to be whole again after whatever has happened.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often something is looked at that takes reading every process of the machine, or asking the relay.
const LOOK: Duration = Duration::from_millis(20);
/// How many events of a trial are kept one by one.
const MOST_RECORDS: usize = 1_000;
/// How many failures of events are told.
const MOST_FAILURES: usize = 10;

/// One event that happened.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct EventRecord {
    /// When it began, in milliseconds after the first measured datagram was due.
    pub at_ms: f64,
    /// What it was.
    pub what: String,
    /// How long it took, in milliseconds, until the relay was seen to be whole again.
    pub took_ms: f64,
    /// What went wrong, if anything did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

/// All events of a trial.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Events {
    /// The first of them, in order.
    pub records: Vec<EventRecord>,
    /// How many there were of each kind.
    pub counts: BTreeMap<String, u64>,
    /// How many workers died and measured links went away: what may cost datagrams, and nothing else.
    pub outages: u64,
}

impl Events {
    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.values().sum()
    }
}

/// Why an event did not come out as it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// The relay is to blame.
    Subject(String),
    /// The lab could not do its part.
    Lab(String),
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        Self::Lab(error.to_string())
    }
}

/// What happened, and what is to be known of it.
#[derive(Debug, Default)]
pub(super) struct Log {
    events: Vec<(u64, u64, String, Option<String>)>,
    counts: BTreeMap<String, u64>,
    /// How many workers died and measured links went away.
    pub(super) outages: u64,
    /// When which measured link was down.
    pub(super) down: Vec<(Leg, Span)>,
    /// Whether the device that the flows come in by was made anew.
    pub(super) ingress_is_new: bool,
    /// CPU time of processes shortly before they ended.
    pub(super) ended: SubjectTime,
    pub(super) failures_of_the_subject: Vec<String>,
    pub(super) failures_of_the_lab: Vec<String>,
}

impl Log {
    fn add(&mut self, (from_ns, to_ns): (u64, u64), action: Action, failure: Option<Failure>) {
        let what = action.to_string();
        *self.counts.entry(what.clone()).or_default() += 1;
        let failed = failure.map(|failure| {
            let (failures, reason) = match failure {
                Failure::Subject(reason) => (&mut self.failures_of_the_subject, reason),
                Failure::Lab(reason) => (&mut self.failures_of_the_lab, reason),
            };
            if failures.len() < MOST_FAILURES {
                failures.push(format!("{what}: {reason}"));
            }
            reason
        });
        if self.events.len() < MOST_RECORDS {
            self.events.push((from_ns, to_ns, what, failed));
        }
    }

    /// The events with their times after `started_ns`.
    pub(super) fn events_since(&self, started_ns: u64) -> Events {
        let ms = |ns: u64, since: u64| (ns as f64 - since as f64) / 1e6;
        let records = self.events.iter().map(|(from, to, what, failed)| EventRecord {
            at_ms: ms(*from, started_ns),
            what: what.clone(),
            took_ms: ms(*to, *from),
            failed: failed.clone(),
        });
        Events { records: records.collect(), counts: self.counts.clone(), outages: self.outages }
    }
}

/// Who may be asked for the subject by more than one thread.
pub(super) type Shared<'a> = Mutex<&'a mut Running>;

/// The subject, whoever else had it.
pub(super) fn lock<'a, 'b>(subject: &'a Shared<'b>) -> MutexGuard<'a, &'b mut Running> {
    subject.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the events of a trial happen.
pub(super) struct Player<'a> {
    order: &'a Order<'a>,
    topology: &'a Topology,
    subject: &'a Shared<'a>,
    /// True once no more traffic is offered.
    over: &'a AtomicBool,
    log: Log,
    client: Option<client::Client>,
    /// Whose turn it is among the workers.
    turn: usize,
    /// The rules that came with the last event, by the number of the first and how many they are.
    further: (usize, usize),
}

impl<'a> Player<'a> {
    pub(super) fn new(
        order: &'a Order<'a>,
        topology: &'a Topology,
        subject: &'a Shared<'a>,
        over: &'a AtomicBool,
    ) -> Self {
        Self { order, topology, subject, over, log: Log::default(), client: None, turn: 0, further: (0, 0) }
    }

    /// Lets everything happen whose time comes before the traffic is over; it is offered from now on.
    pub(super) fn play(mut self) -> Log {
        let start = Instant::now();
        for (at, action) in agenda(self.order) {
            if !self.wait_until(start + at) {
                break;
            }
            let from_ns = realtime_ns();
            let failure = self.happen(action).err();
            self.log.add((from_ns, realtime_ns()), action, failure);
        }
        if let Err(Failure::Subject(reason) | Failure::Lab(reason)) = self.end_churn() {
            self.log.failures_of_the_subject.push(format!("after the last event: {reason}"));
        }
        self.log
    }

    /// Whether traffic is still offered then.
    fn wait_until(&self, time: Instant) -> bool {
        loop {
            if self.over.load(Ordering::Relaxed) {
                return false;
            }
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(LOOK));
        }
    }

    fn happen(&mut self, action: Action) -> Result<(), Failure> {
        match action {
            Action::Kill { restart_after: Some(pause), signal, .. } => self.kill_supervisor(signal, pause),
            Action::Kill { victim, signal, .. } => self.kill_workers(victim, signal),
            Action::Reload { content, via } => self.reload(content, via),
            Action::Churn(rules) => self.churn(rules),
            Action::Flap { link, how, down_for } => self.flap(link, how, down_for),
        }
    }

    fn flap(&mut self, link: FlappedLink, how: How, down_for: Duration) -> Result<(), Failure> {
        let leg = match link {
            FlappedLink::Ingress => Leg::Ingress,
            FlappedLink::Egress => Leg::Egress,
            FlappedLink::Spare => Leg::Spare,
        };
        let change = match how {
            How::DownUp => Change::Down,
            How::Recreate => Change::Gone,
            How::Mtu => Change::Mtu,
        };
        let from_ns = realtime_ns();
        let disturbed = self.topology.disturb(leg, change);
        thread::sleep(down_for);
        // In any case, so that nothing else fails by it.
        let restored = self.topology.restore(leg, change);
        if leg != Leg::Spare && change != Change::Mtu {
            self.log.outages += 1;
            self.log.ingress_is_new |= (leg, change) == (Leg::Ingress, Change::Gone);
            self.log.down.push((leg, Span { from_ns, to_ns: realtime_ns() }));
        }
        disturbed.and(restored)?;
        self.wait_until_all_relay()
    }

    /// Who belongs to the subject.
    fn family(&self) -> Result<Family, Failure> {
        let family = lock(self.subject).family();
        family.ok_or_else(|| Failure::Lab("the subject has no process".to_owned()))
    }

    /// Remembers the CPU time of all processes while they are there.
    fn remember_time(&mut self, family: Family) -> Result<(), Failure> {
        let time = Proc::default().subject(family).map_err(|error| Failure::Lab(error.to_string()))?;
        self.log.ended.remember(&time);
        Ok(())
    }

    /// Asks `done` again and again until it says so; what it says instead goes into the failure.
    fn wait_for(
        &mut self,
        mut done: impl FnMut(&mut Self) -> Result<Result<(), String>, Failure>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let Err(seen) = done(self)? else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(Failure::Subject(format!("after {} s {seen}", PATIENCE.as_secs())));
            }
            thread::sleep(LOOK);
        }
    }
}

/// Everything that is to happen, in order.
fn agenda(order: &Order<'_>) -> Vec<(Duration, Action)> {
    let events = &order.scenario.events;
    let mut agenda: Vec<_> =
        events.iter().flat_map(|event| event.timing.times().map(move |at| (at, event.action))).collect();
    agenda.sort_by_key(|(at, _)| *at);
    agenda
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::event::{Blow, Victim};

    #[test]
    fn a_log_keeps_the_first_events_and_counts_all() {
        let mut log = Log::default();
        let kill = Action::Kill { victim: Victim::Worker, signal: Blow::Segv, restart_after: None };
        for i in 0..1_500_u64 {
            let failure = (i % 100 == 7).then(|| Failure::Subject(format!("number {i}")));
            log.add((5_000_000 + i * 1_000_000, 5_500_000 + i * 1_000_000), Action::Churn(2), failure);
        }
        log.add((0, 1), kill, Some(Failure::Lab("no such process".into())));
        log.outages = 3;
        let events = log.events_since(4_000_000);
        assert_eq!((events.records.len(), events.count(), events.outages), (1_000, 1_501, 3));
        assert_eq!((events.records[7].at_ms, events.records[7].took_ms), (8.0, 0.5));
        assert_eq!(events.records[7].failed.as_deref(), Some("number 7"));
        assert_eq!(events.counts["kill worker (SEGV)"], 1);
        assert_eq!(
            (log.failures_of_the_subject.len(), &log.failures_of_the_subject[0][..]),
            (10, "churn 2: number 7")
        );
        assert_eq!(log.failures_of_the_lab, ["kill worker (SEGV): no such process"]);
    }
}
