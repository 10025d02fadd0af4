//! Priming: a trickle until every sink has seen every flow, and whose fault it is when that never comes about.

use std::thread;
use std::time::{Duration, Instant};

use super::bench::Bench;
use super::framing::Framing;
use super::phases::{Halt, LOOK};
use super::{Order, Phase, TrialError, Watch};
use crate::cpu::{MachineTime, Proc};
use crate::scenario::SubjectKind;
use crate::subject::with_last_words;
use crate::verdict::STEAL_LIMIT_PERCENT;

/// How long a subject may take until its first flow has reached its sink, its start included ...
const PATIENCE: Duration = Duration::from_secs(10);
/// ... and how much longer for each further copy that it is to make: it sets up memberships, routes and sockets.
const PATIENCE_PER_COPY: Duration = Duration::from_millis(2);
/// The slowest and the fastest trickle that primes; in between each flow gets a datagram ten times a second.
const RATE: (u64, u64) = (100, 5_000);
/// How long the sinks get to read what their devices carried.
const READ_PATIENCE: Duration = Duration::from_secs(2);

/// Sends a trickle until every sink has seen every flow.
pub(super) fn prime(bench: &mut Bench, order: &Order<'_>, watch: &Watch<'_>) -> Result<(), Halt> {
    (watch.on_phase)(Phase::Prime);
    let flows = order.condition.flows;
    let rate = (flows as u64 * 10).clamp(RATE.0, RATE.1);
    let patience = patience(order, bench.sinks.len());
    let machine = Proc::default().machine()?;
    let deadline = Instant::now() + patience;
    let (mut sent, mut refused) = (0, 0);
    loop {
        watch.check()?;
        if let Some(died) = bench.subject.died("before it relayed anything") {
            return Err(Halt::Subject(died));
        }
        if bench.flows_seen() >= flows {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let missing = Missing::look(bench, order, (sent, refused), &machine)?;
            let reason = out_of_patience(bench.flows_seen(), flows, patience);
            if matches!(order.subject.kind, SubjectKind::Wire) {
                return Err(Halt::Lab(reason));
            }
            return Err(missing.blame(&with_last_words(&reason, &bench.subject.last_words())));
        }
        let next = Instant::now() + Duration::from_secs_f64(flows as f64 / rate as f64);
        let report = bench.warm_up(order.placement, rate, flows as u64, watch.interrupted)?;
        (sent, refused) = (sent + report.sent, refused + report.refused_total());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// How long the subject of `order` gets, which has to relay all flows to `sinks` sinks each.
pub(super) fn patience(order: &Order<'_>, sinks: usize) -> Duration {
    patience_with(order.condition.flows + order.subject.extra_rules(), sinks)
}

fn patience_with(flows: usize, sinks: usize) -> Duration {
    let further = u32::try_from((flows * sinks).saturating_sub(1)).unwrap_or(u32::MAX);
    PATIENCE + PATIENCE_PER_COPY.saturating_mul(further)
}

pub(super) fn out_of_patience(seen: usize, flows: usize, patience: Duration) -> String {
    let seconds = patience.as_secs();
    format!(
        "after {seconds} s only {seen} of {flows} flows came out of the subject at every sink (nothing tells whether \
         it was still starting)"
    )
}

/// What is known when not every flow has reached every sink.
#[derive(Clone, Copy, Debug)]
struct Missing {
    /// Datagrams the kernel took from the generator.
    sent: u64,
    /// Datagrams it refused.
    refused: u64,
    /// Datagrams at the subject's input device.
    reached: u64,
    /// Datagrams that came out of the subject and that the sinks have not read.
    unread: u64,
    /// What the hypervisor kept of the processors' time.
    steal_percent: f64,
}

impl Missing {
    /// Looks where the datagrams are, once the sinks have had time to read.
    fn look(
        bench: &Bench,
        order: &Order<'_>,
        (sent, refused): (u64, u64),
        machine_before: &MachineTime,
    ) -> Result<Self, TrialError> {
        let steal_percent = Proc::default().machine()?.since(machine_before).steal_percent;
        let deadline = Instant::now() + READ_PATIENCE;
        let mut unread = bench.unread(order)?;
        while unread > 0 && Instant::now() < deadline {
            thread::sleep(LOOK);
            unread = bench.unread(order)?;
        }
        let ingress = bench.topology.ingress.counters()?;
        let framing = Framing::at_ingress(order.link(), &order.condition);
        let reached = framing.datagrams(ingress.rx_packets, ingress.rx_bytes);
        Ok(Self { sent, refused, reached, unread, steal_percent })
    }

    /// Whose fault it is. `reason` says what is wrong if it is the subject's.
    fn blame(self, reason: &str) -> Halt {
        let Self { sent, refused, reached, unread, steal_percent } = self;
        if refused > 0 || sent == 0 {
            return Halt::Lab(format!(
                "while priming the kernel took {sent} datagrams and refused {refused}"
            ));
        }
        if reached < sent {
            return Halt::Lab(format!(
                "only {reached} of {sent} datagrams reached the subject's input device"
            ));
        }
        if unread > 0 {
            return Halt::Lab(format!(
                "while priming {unread} frames reached the sinks' devices and no sink read them (frames that are no \
                 UDP are among them at a socket sink, sinks.kind = \"packet\" can tell)"
            ));
        }
        if steal_percent > STEAL_LIMIT_PERCENT {
            return Halt::Machine(format!(
                "{reason}\nsteal {steal_percent:.1} %: the machine was not ours, which may be why"
            ));
        }
        Halt::Subject(reason.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Everything reached the subject, and nothing came out.
    const SILENT: Missing = Missing { sent: 9, refused: 0, reached: 9, unread: 0, steal_percent: 1.0 };

    fn lab(missing: Missing) -> String {
        match missing.blame("x") {
            Halt::Lab(reason) => reason,
            Halt::Subject(_) | Halt::Machine(_) | Halt::Error(_) => panic!("{missing:?} is the lab's fault"),
        }
    }

    #[test]
    fn what_never_comes_out_is_the_subjects_fault() {
        assert!(matches!(SILENT.blame("x"), Halt::Subject(reason) if reason == "x"));
        assert!(matches!(Missing { reached: 12, ..SILENT }.blame("x"), Halt::Subject(_)));
    }

    #[test]
    fn what_never_went_in_or_was_never_read_is_not() {
        assert_eq!(
            lab(Missing { sent: 0, reached: 0, ..SILENT }),
            "while priming the kernel took 0 datagrams and refused 0"
        );
        assert!(lab(Missing { refused: 1, ..SILENT }).ends_with("took 9 datagrams and refused 1"));
        assert!(lab(Missing { reached: 8, ..SILENT }).starts_with("only 8 of 9 datagrams reached"));
        assert!(
            lab(Missing { unread: 4, steal_percent: 50.0, ..SILENT }).contains("4 frames reached the sinks'")
        );
        assert!(matches!(Missing { steal_percent: 1.1, ..SILENT }.blame("x"), Halt::Machine(_)));
    }

    #[test]
    fn who_has_more_to_set_up_gets_more_time() {
        assert_eq!(patience_with(1, 1), Duration::from_secs(10));
        assert_eq!(patience_with(4_000, 16), Duration::from_millis(10_000 + 2 * 63_999));
        let reason = out_of_patience(3, 4_000, patience_with(4_000, 16));
        assert!(reason.starts_with("after 137 s only 3 of 4000 flows"), "{reason}");
    }
}
