//! What the counters say at one moment, in a shape that serialises, and the identity it obeys.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Named, SendFailure};

/// The relay's counters at one moment, as it reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The receive path: `mmap-v3`, `mmap-v2` or `recv`.
    pub rx: String,
    /// One for each worker.
    pub workers: Vec<WorkerStats>,
    /// Datagrams taken from the sockets; a frame that reached no rule counts as one.
    pub received: u64,
    /// Datagrams that a rule took.
    pub matched: u64,
    /// Frames that reached no rule, by cause; causes that did not happen are absent.
    pub dropped: BTreeMap<String, u64>,
    /// Copies that left, over all rules and outputs.
    pub relayed: u64,
    /// One for each interface that is listened on.
    pub inputs: Vec<InputStats>,
    /// One for each rule.
    pub rules: Vec<RuleStats>,
    /// What rules counted that have been removed since.
    pub removed: RemovedStats,
}

/// Counters of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Datagrams it took from its sockets.
    pub received: u64,
    /// Datagrams that a rule took.
    pub matched: u64,
}

/// Counters of one interface, over its packet sockets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputStats {
    /// Name of the interface.
    pub interface: String,
    /// UDP datagrams that the filter kept from being captured because no rule takes them.
    pub foreign: u64,
    /// Frames that ended at the interface after capture, instead of going on to the IP stack.
    pub consumed: u64,
    /// Frames that passed the filter, dropped ones included (the kernel's `PACKET_STATISTICS`).
    pub captured: u64,
    /// Frames the kernel dropped because the socket's buffer was full (likewise).
    pub dropped: u64,
    /// Frames taken from the socket.
    pub frames: u64,
    /// Datagrams in them: more than frames where some are trains.
    pub received: u64,
    /// Times the interface went down.
    pub went_down: u64,
    /// Times that a `TPACKET_V3` ring had no block left for the kernel (`PACKET_STATISTICS`).
    pub freezes: u64,
    /// Loans of a ring that the kernel marked as following a loss (`TP_STATUS_LOSING`).
    pub follows_loss: u64,
    /// Frames that nobody took: a worker that died had them in its own memory, or the interface went with them.
    pub abandoned: u64,
    /// Frames taken a second time, because the worker that had taken them died before it gave them back. Not among `frames`;
    /// their datagrams are among `received`.
    pub taken_again: u64,
}

impl InputStats {
    /// Adds what another one has counted, of the same interface at another time.
    pub fn add(&mut self, other: &Self) {
        self.foreign += other.foreign;
        self.consumed += other.consumed;
        self.captured += other.captured;
        self.dropped += other.dropped;
        self.frames += other.frames;
        self.received += other.received;
        self.went_down += other.went_down;
        self.freezes += other.freezes;
        self.follows_loss += other.follows_loss;
        self.abandoned += other.abandoned;
        self.taken_again += other.taken_again;
    }

    /// Frames that wait in the socket's buffer: captured, neither dropped nor taken.
    pub fn queued(&self) -> u64 {
        self.captured.saturating_sub(self.dropped + self.frames + self.abandoned)
    }
}

/// What rules and outputs counted that have been removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedStats {
    /// Datagrams that the rules took.
    pub matched: u64,
    /// Copies that left.
    pub relayed: u64,
    /// Copies that did not, by reason; reasons that did not happen are absent.
    pub dropped: BTreeMap<String, u64>,
}

impl RemovedStats {
    /// Adds what another worker has counted.
    pub fn add(&mut self, other: &Self) {
        self.matched += other.matched;
        self.relayed += other.relayed;
        for (name, count) in &other.dropped {
            *self.dropped.entry(name.clone()).or_default() += count;
        }
    }
}

/// Counters of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleStats {
    /// The rule's name.
    pub name: String,
    /// Datagrams the rule took.
    pub matched: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// One for each output.
    pub outputs: Vec<OutputStats>,
    /// What is counted for it as a leg of a stream; absent where it is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leg: Option<LegStats>,
}

/// Counters of a leg of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStats {
    /// Name of the stream.
    pub stream: String,
    /// Datagrams that the other leg brought and this one did not within the window.
    pub missing: u64,
    /// Datagrams that came in so great number that they were forgotten before their window was over: of these a second copy may
    /// have been relayed. Counted for both legs together.
    pub crowded: u64,
}

/// Counters of one output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputStats {
    /// Where it sends, as `GROUP:PORT:IF`.
    pub destination: String,
    /// Datagrams the kernel took.
    pub relayed: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Datagrams that did not leave, by reason; reasons that did not happen are absent.
    pub dropped: BTreeMap<String, u64>,
}

impl OutputStats {
    /// Datagrams that did not leave and should have.
    pub fn lost(&self) -> u64 {
        let is_lost = |(name, _): &(&String, &u64)| *name != SendFailure::Duplicate.name();
        self.dropped.iter().filter(is_lost).map(|(_, count)| count).sum()
    }
}

/// An identity that does not hold between `left` and `right`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {left} against {right}")]
pub struct Imbalance {
    what: String,
    left: u64,
    right: u64,
}

impl Stats {
    /// What the legs of streams have missed, a line for each.
    pub fn legs(&self) -> impl Iterator<Item = String> {
        self.rules.iter().filter_map(|RuleStats { name, leg, .. }| {
            let LegStats { stream, missing, crowded } = leg.as_ref()?;
            Some(format!("{name}, a leg of {stream}: missing {missing}, crowded {crowded}"))
        })
    }

    /// Frames the kernel dropped before the relay could take them.
    pub fn kernel_dropped(&self) -> u64 {
        self.inputs.iter().map(|input| input.dropped).sum()
    }

    /// Frames that wait in the sockets' buffers.
    pub fn queued(&self) -> u64 {
        self.inputs.iter().map(InputStats::queued).sum()
    }

    /// Datagrams that a worker has taken from the sockets and not finished with.
    pub fn under_way(&self) -> u64 {
        self.received.saturating_sub(self.matched + self.dropped.values().sum::<u64>())
    }

    /// Checks that every frame which was captured has come to its end: the identity, with nothing queued and nothing
    /// under way. It holds when a relay has stopped, and whenever no traffic comes.
    pub fn balance(&self) -> Result<(), Imbalance> {
        for input in &self.inputs {
            let what =
                format!("input {}: captured = dropped by the kernel + frames + abandoned", input.interface);
            equal(what, input.captured, input.dropped + input.frames + input.abandoned)?;
        }
        let received = self.inputs.iter().map(|input| input.received).sum();
        equal("received = sum over the inputs", self.received, received)?;
        let received = self.workers.iter().map(|worker| worker.received).sum();
        equal("received = sum over the workers", self.received, received)?;
        let dropped: u64 = self.dropped.values().sum();
        equal("received = matched + dropped", self.received, self.matched + dropped)?;
        let matched: u64 = self.rules.iter().map(|rule| rule.matched).sum();
        equal("matched = sum over the rules", self.matched, matched + self.removed.matched)?;
        let relayed: u64 =
            self.rules.iter().flat_map(|rule| &rule.outputs).map(|output| output.relayed).sum();
        equal("relayed = sum over the outputs", self.relayed, relayed + self.removed.relayed)?;
        for (rule, output) in self.outputs() {
            let what =
                format!("rule \"{}\" to {}: matched = relayed + dropped", rule.name, output.destination);
            let dropped: u64 = output.dropped.values().sum();
            equal(what, rule.matched, output.relayed + dropped)?;
        }
        Ok(())
    }

    /// Checks that no count exceeds the one that it is a part of, which holds at every moment.
    pub fn consistent(&self) -> Result<(), Imbalance> {
        for input in &self.inputs {
            let what = format!(
                "input {}: dropped by the kernel + frames + abandoned within captured",
                input.interface
            );
            within(what, input.dropped + input.frames + input.abandoned, input.captured)?;
        }
        let dropped: u64 = self.dropped.values().sum();
        within("matched + dropped within received", self.matched + dropped, self.received)?;
        for (rule, output) in self.outputs() {
            let what =
                format!("rule \"{}\" to {}: relayed + dropped within matched", rule.name, output.destination);
            within(what, output.relayed + output.dropped.values().sum::<u64>(), rule.matched)?;
        }
        Ok(())
    }

    /// Every output with its rule.
    pub fn outputs(&self) -> impl Iterator<Item = (&RuleStats, &OutputStats)> {
        self.rules.iter().flat_map(|rule| rule.outputs.iter().map(move |output| (rule, output)))
    }
}

fn within(what: impl Into<String>, left: u64, right: u64) -> Result<(), Imbalance> {
    if left <= right { Ok(()) } else { Err(Imbalance { what: what.into(), left, right }) }
}

fn equal(what: impl Into<String>, left: u64, right: u64) -> Result<(), Imbalance> {
    if left == right { Ok(()) } else { Err(Imbalance { what: what.into(), left, right }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn balanced() -> Stats {
        let output = |relayed, refused: u64| OutputStats {
            destination: "239.2.2.2:6000:eth1".into(),
            relayed,
            bytes: relayed * 100,
            dropped: BTreeMap::from([("refused".into(), refused)]),
        };
        Stats {
            rx: "mmap-v3".into(),
            workers: vec![WorkerStats { received: 5, matched: 5 }, WorkerStats { received: 7, matched: 5 }],
            received: 12,
            matched: 10,
            dropped: BTreeMap::from([("no_rule".into(), 2)]),
            relayed: 17,
            inputs: vec![
                InputStats {
                    interface: "eth0".into(),
                    captured: 10,
                    dropped: 2,
                    frames: 8,
                    received: 8,
                    ..InputStats::default()
                },
                InputStats {
                    interface: "eth1".into(),
                    captured: 1,
                    frames: 1,
                    received: 4,
                    ..InputStats::default()
                },
            ],
            rules: vec![RuleStats {
                name: "video".into(),
                matched: 10,
                bytes: 1_000,
                outputs: vec![output(10, 0), output(7, 3)],
                leg: None,
            }],
            removed: RemovedStats::default(),
        }
    }

    #[test]
    fn a_balanced_report_balances() {
        assert_eq!(balanced().balance(), Ok(()));
        assert_eq!(balanced().consistent(), Ok(()));
        assert_eq!((balanced().queued(), balanced().under_way()), (0, 0));
    }

    #[test]
    fn every_count_that_is_off_is_noticed() {
        let spoilers: [fn(&mut Stats); 9] = [
            |stats| stats.workers[1].received += 1,
            |stats| stats.received += 1,
            |stats| stats.received -= 1,
            |stats| stats.matched += 1,
            |stats| stats.relayed -= 1,
            |stats| stats.rules[0].outputs[1].relayed -= 1,
            |stats| stats.inputs[0].captured += 1,
            // One input must not make up for another.
            |stats| (stats.inputs[0].frames, stats.inputs[1].frames) = (7, 2),
            |stats| stats.rules[0].outputs[1].dropped.clear(),
        ];
        for (i, spoil) in spoilers.iter().enumerate() {
            let mut stats = balanced();
            spoil(&mut stats);
            assert!(stats.balance().is_err(), "spoiler {i} went unnoticed");
        }
    }

    #[test]
    fn what_is_under_way_is_consistent_and_an_excess_is_not() {
        let mut stats = balanced();
        stats.inputs[0].captured += 5;
        stats.received += 3;
        stats.rules[0].matched += 2;
        assert_eq!(stats.consistent(), Ok(()));
        assert_eq!((stats.queued(), stats.under_way()), (5, 3));
        let spoilers: [fn(&mut Stats); 3] = [
            |stats| stats.inputs[1].frames += 1,
            |stats| stats.matched += 9,
            |stats| stats.rules[0].outputs[0].relayed += 9,
        ];
        for (i, spoil) in spoilers.iter().enumerate() {
            let mut stats = stats.clone();
            spoil(&mut stats);
            assert!(stats.consistent().is_err(), "spoiler {i} went unnoticed");
        }
    }
}
