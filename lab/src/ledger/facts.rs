//! What a trial measured, as the ledger takes it in: differences between the quiet before the run and the quiet
//! after it.

use std::collections::BTreeMap;

use multicast_relay::control::{InputStats, Stats};

use crate::generator::ForeignReport;

/// Everything the ledger is settled from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Datagrams the generator was asked for.
    pub intended: u64,
    /// Datagrams the kernel took from it.
    pub sent: u64,
    /// Datagrams the kernel refused, by errno.
    pub refused: BTreeMap<String, u64>,
    /// Datagrams that were never due because the generator was too late and was stopped.
    pub not_offered: u64,
    /// Datagrams the kernel did not take because the link was down, on purpose.
    pub link_down: u64,
    /// Whether the subject's input device was made anew meanwhile: until the subject knows that, nobody captures what comes in.
    pub ingress_is_new: bool,
    /// What was offered beside them that no rule takes.
    pub foreign: ForeignReport,
    /// Whether each datagram crosses the wires as several frames, all of which it takes to make it one again.
    pub fragmented: bool,
    /// The wire from the generator to the subject; `None` when there is neither, and the wire to the sink is the
    /// generator's.
    pub ingress: Option<Wire>,
    /// What the subject says of itself; `None` when it says nothing.
    pub relay: Option<RelayCounters>,
    /// One for each sink.
    pub outputs: Vec<Output>,
}

/// One veth pair in the direction of the traffic. What it carried counts in frames, or in datagrams where those are not
/// the same; what it dropped always counts in frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wire {
    /// What the near end transmitted.
    pub transmitted: u64,
    /// Frames the near end dropped (`tx_dropped`).
    pub transmit_dropped: u64,
    /// What the far end received.
    pub received: u64,
    /// Frames the far end dropped (`rx_dropped`). A frame that the receive queue had no room for is in
    /// `tx_dropped` of its sender as well.
    pub receive_dropped: u64,
    /// Whether the far end polls (NAPI), as a veth does that runs a program: frames count, at both ends, when they are
    /// taken out of its ring, and who finds that full counts a `tx_dropped` and is told nothing.
    pub polled: bool,
}

impl Wire {
    /// Frames that the far end's receive queue had no room for, as far as both ends say so. How long that queue is and
    /// who empties it is not the sender's affair.
    pub(super) fn full_queue(&self) -> u64 {
        if self.polled { self.transmit_dropped } else { self.transmit_dropped.min(self.receive_dropped) }
    }

    /// Frames the far end dropped after it had counted them as received.
    pub(super) fn dropped_after_all(&self) -> u64 {
        if self.polled { self.receive_dropped } else { 0 }
    }

    /// Frames dropped at either end.
    pub(super) fn dropped(&self) -> u64 {
        self.transmit_dropped.max(self.receive_dropped)
    }
}

/// The wire to one sink, and the sink.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The wire from the subject to the sink.
    pub wire: Wire,
    /// Datagrams the sink read, whatever they were.
    pub arrived: u64,
    /// Datagrams of the trial that the sink misses.
    pub lost: u64,
    /// Of those that it read, the foreign ones.
    pub foreign: u64,
    /// Frames the sink saw and left aside because they are no UDP; `None` when it cannot see them.
    pub other_frames: Option<u64>,
    /// UDP datagrams that reached the sink's IP stack and that no socket was there for.
    pub unclaimed: u64,
    /// What the sink lost itself, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// The counters of a relay that reports them, over some span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayCounters {
    /// Datagrams that its filter in the kernel kept from being captured, as no rule takes them.
    pub foreign: u64,
    /// Frames the kernel had for the relay and dropped, its buffer being full.
    pub kernel_dropped: u64,
    /// Frames that were still in its socket in the end.
    pub left_in_socket: u64,
    /// Frames that nobody took: a worker that died had them in its own memory, or the interface went with them.
    pub abandoned: u64,
    /// Frames that a worker took a second time, because the one that had taken them died over them.
    pub taken_again: u64,
    /// Frames it took.
    pub received: u64,
    /// Frames no rule took, by cause.
    pub dropped: BTreeMap<String, u64>,
    /// Frames a rule took.
    pub matched: u64,
    /// Copies it sent.
    pub relayed: u64,
    /// Copies it could not send, by reason.
    pub failed: BTreeMap<String, u64>,
}

impl RelayCounters {
    /// What the relay counted between the reports `before` and `after`.
    pub fn between(before: &Stats, after: &Stats) -> Self {
        let before_failed = failures(before);
        let foreign = |stats: &Stats| over_inputs(stats, |input| input.foreign);
        Self {
            foreign: foreign(after).saturating_sub(foreign(before)),
            kernel_dropped: after.kernel_dropped().saturating_sub(before.kernel_dropped()),
            left_in_socket: after.queued(),
            abandoned: over_inputs(after, |input| input.abandoned)
                .saturating_sub(over_inputs(before, |input| input.abandoned)),
            taken_again: over_inputs(after, |input| input.taken_again)
                .saturating_sub(over_inputs(before, |input| input.taken_again)),
            received: after.received.saturating_sub(before.received),
            dropped: grown(&before.dropped, &after.dropped),
            matched: after.matched.saturating_sub(before.matched),
            relayed: after.relayed.saturating_sub(before.relayed),
            failed: grown(&before_failed, &failures(after)),
        }
    }
}

fn over_inputs(stats: &Stats, count: impl Fn(&InputStats) -> u64) -> u64 {
    stats.inputs.iter().map(count).sum()
}

/// Failures to send, over all rules and outputs.
fn failures(stats: &Stats) -> BTreeMap<String, u64> {
    let mut sum = BTreeMap::new();
    for (reason, count) in
        stats.rules.iter().flat_map(|rule| &rule.outputs).flat_map(|output| &output.dropped)
    {
        *sum.entry(reason.clone()).or_default() += count;
    }
    sum
}

/// What grew from `before` to `after`, by how much.
pub(super) fn grown(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let growth = after.iter().map(|(name, count)| {
        (name.clone(), count.saturating_sub(before.get(name).copied().unwrap_or_default()))
    });
    growth.filter(|(_, count)| *count > 0).collect()
}

#[cfg(test)]
mod tests {
    use multicast_relay::control::{InputStats, OutputStats, RemovedStats, RuleStats, WorkerStats};

    use super::*;

    fn stats(received: u64, no_rule: u64, refused: u64) -> Stats {
        let matched = received - no_rule;
        Stats {
            removed: RemovedStats::default(),
            rx: "recv".into(),
            workers: vec![WorkerStats { received, matched }],
            received,
            matched,
            dropped: BTreeMap::from([("no_rule".into(), no_rule)]),
            relayed: 2 * matched - refused,
            inputs: vec![InputStats {
                interface: "ingress".into(),
                foreign: 2 * received,
                captured: received + 7,
                dropped: 4,
                frames: received,
                received,
                ..InputStats::default()
            }],
            rules: vec![RuleStats {
                name: "flow-0".into(),
                matched,
                bytes: 0,
                outputs: vec![
                    OutputStats { relayed: matched, ..OutputStats::default() },
                    OutputStats {
                        relayed: matched - refused,
                        dropped: BTreeMap::from([("refused".into(), refused)]),
                        ..OutputStats::default()
                    },
                ],
                leg: None,
            }],
        }
    }

    #[test]
    fn counters_are_the_difference_of_two_reports() {
        let counters = RelayCounters::between(&stats(10, 1, 0), &stats(30, 3, 5));
        assert_eq!((counters.received, counters.matched, counters.relayed), (20, 18, 31));
        assert_eq!(counters.dropped, BTreeMap::from([("no_rule".into(), 2)]));
        assert_eq!(counters.failed, BTreeMap::from([("refused".into(), 5)]));
        assert_eq!((counters.kernel_dropped, counters.left_in_socket, counters.foreign), (0, 3, 40));
    }
}
