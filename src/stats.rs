//! Counters of the data path, the report made from them, and the conservation identity they obey.
//!
//! One worker writes, anybody reads. Nothing disappears silently:
//!
//! ```text
//! captured by the kernel = dropped by the kernel + queued in the socket + received      for each input
//! received               = matched by a rule + dropped before a rule, by Cause
//! matched                = relayed + dropped at the output, by SendFailure               for each output
//! ```
//!
//! A worker that is within a turn holds some datagrams between those counts, so a report made meanwhile reads them
//! from the last to the first: then what is missing in a line is what is still under way, and nothing is in excess.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A monotonic count with one writer and any number of readers.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the one writer may call it: load and store are cheaper than a locked add.
    pub fn add(&self, n: u64) {
        // Pairs with the load in `get`: who sees this count sees all that were written before it.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Release);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// A closed set of names, each with a counter of its own.
pub trait Named: Copy + 'static {
    /// Every member, each at the index [`Named::index`] gives it.
    const ALL: &'static [Self];
    /// Where its counter is, in `0..ALL.len()`.
    fn index(self) -> usize;
    /// Its name in reports: lower case, words joined by `_`.
    fn name(self) -> &'static str;
}

macro_rules! named {
    ($(#[$doc:meta])* $type:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $type { $($(#[$variant_doc])* $variant,)+ }

        impl Named for $type {
            const ALL: &'static [Self] = &[$(Self::$variant,)+];
            fn index(self) -> usize { self as usize }
            fn name(self) -> &'static str { match self { $(Self::$variant => $name,)+ } }
        }
    };
}

named! {
    /// Why a received frame reached no rule.
    Cause {
        /// Well-formed, but no rule has this interface, destination, port and source.
        NoRule = "no_rule",
        /// Carries an 802.1Q or 802.1ad tag, and rules are for untagged traffic.
        Tagged = "tagged",
        /// A train of datagrams coalesced into one frame by segmentation offload.
        Coalesced = "coalesced",
        /// One fragment of an IP datagram.
        Fragment = "fragment",
        /// Larger than the receive buffer, so its end is missing.
        Truncated = "truncated",
        /// Its IPv4 header or UDP checksum is wrong: it was damaged on the way.
        BadChecksum = "bad_checksum",
        /// Neither IPv4 nor IPv6.
        NotIp = "not_ip",
        /// IP, but not UDP.
        NotUdp = "not_udp",
        /// A header that contradicts itself or the frame's length.
        Malformed = "malformed",
    }
}

named! {
    /// Why a datagram did not leave through an output.
    SendFailure {
        /// The socket's send buffer is full (EAGAIN).
        BufferFull = "buffer_full",
        /// The device's queue is full, or the kernel is out of memory (ENOBUFS, ENOMEM).
        QueueFull = "queue_full",
        /// Larger than the path allows (EMSGSIZE).
        TooLarge = "too_large",
        /// No route, or the next hop does not answer (ENETUNREACH, EHOSTUNREACH, EADDRNOTAVAIL).
        Unreachable = "unreachable",
        /// The receiver's host refuses the port (ECONNREFUSED).
        Refused = "refused",
        /// The interface is down or gone (ENETDOWN, ENODEV, ENXIO).
        InterfaceDown = "interface_down",
        /// A firewall or security policy forbids it (EPERM, EACCES).
        Forbidden = "forbidden",
        /// Any other errno.
        Other = "other",
    }
}

impl SendFailure {
    /// What errno `errno` of a send means.
    pub fn from_errno(errno: i32) -> Self {
        match errno {
            libc::EAGAIN => Self::BufferFull,
            libc::ENOBUFS | libc::ENOMEM => Self::QueueFull,
            libc::EMSGSIZE => Self::TooLarge,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL => Self::Unreachable,
            libc::ECONNREFUSED => Self::Refused,
            libc::ENETDOWN | libc::ENODEV | libc::ENXIO => Self::InterfaceDown,
            libc::EPERM | libc::EACCES => Self::Forbidden,
            _ => Self::Other,
        }
    }
}

/// One counter for each member of a closed set.
#[derive(Debug)]
pub struct CounterSet<N: Named> {
    counts: Box<[Counter]>,
    names: std::marker::PhantomData<N>,
}

impl<N: Named> Default for CounterSet<N> {
    fn default() -> Self {
        Self { counts: N::ALL.iter().map(|_| Counter::default()).collect(), names: std::marker::PhantomData }
    }
}

impl<N: Named> CounterSet<N> {
    /// Adds `n` to the counter of `name`.
    pub fn add(&self, name: N, n: u64) {
        if let Some(counter) = self.counts.get(name.index()) {
            counter.add(n);
        }
    }

    /// What is not zero, by name.
    pub fn report(&self) -> BTreeMap<String, u64> {
        let counts =
            N::ALL.iter().zip(&self.counts).map(|(name, count)| (name.name().to_owned(), count.get()));
        counts.filter(|(_, count)| *count > 0).collect()
    }
}

/// What one worker counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// One for each input, in the order of the inputs.
    pub inputs: Box<[InputCounters]>,
    /// Frames that reached no rule.
    pub dropped: CounterSet<Cause>,
    /// One for each rule, in the order of the rules.
    pub rules: Box<[RuleCounters]>,
}

/// What is counted for one input.
#[derive(Debug, Default)]
pub struct InputCounters {
    /// Frames taken from the socket.
    pub received: Counter,
    /// Times its interface went down.
    pub went_down: Counter,
}

/// What is counted for one rule.
#[derive(Debug, Default)]
pub struct RuleCounters {
    /// Datagrams the rule took.
    pub matched: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// One for each output, in the order of the outputs.
    pub outputs: Box<[OutputCounters]>,
}

/// What is counted for one output of a rule.
#[derive(Debug, Default)]
pub struct OutputCounters {
    /// Datagrams the kernel took.
    pub relayed: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// Datagrams the kernel refused.
    pub dropped: CounterSet<SendFailure>,
}

impl Counters {
    /// Zeroed counters for so many inputs, and for rules with these numbers of outputs.
    pub fn new(inputs: usize, outputs_per_rule: impl IntoIterator<Item = usize>) -> Self {
        let inputs = std::iter::repeat_with(InputCounters::default).take(inputs).collect();
        let outputs = |n| std::iter::repeat_with(OutputCounters::default).take(n).collect();
        let rules =
            outputs_per_rule.into_iter().map(|n| RuleCounters { outputs: outputs(n), ..Default::default() });
        Self { inputs, rules: rules.collect(), ..Default::default() }
    }

    /// Counts a frame taken from the input at place `input`.
    pub fn received(&self, input: usize) {
        if let Some(input) = self.inputs.get(input) {
            input.received.add(1);
        }
    }

    /// Counts that the interface of the input at place `input` went down.
    pub fn interface_down(&self, input: usize) {
        if let Some(input) = self.inputs.get(input) {
            input.went_down.add(1);
        }
    }

    /// Counts a datagram of `bytes` payload bytes that the rule at place `rule` took.
    pub fn matched(&self, rule: usize, bytes: usize) {
        if let Some(rule) = self.rules.get(rule) {
            rule.matched.add(1);
            rule.bytes.add(bytes as u64);
        }
    }
}

/// The relay's counters at one moment, as it reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Frames taken from the sockets.
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
}

/// Counters of one packet socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputStats {
    /// Name of the interface.
    pub interface: String,
    /// Frames that passed the filter, dropped ones included (the kernel's `PACKET_STATISTICS`).
    pub captured: u64,
    /// Frames the kernel dropped because the socket's buffer was full (likewise).
    pub dropped: u64,
    /// Frames taken from the socket.
    pub received: u64,
    /// Times the interface went down.
    pub went_down: u64,
}

impl InputStats {
    /// Frames that wait in the socket's buffer: captured, neither dropped nor received.
    pub fn queued(&self) -> u64 {
        self.captured.saturating_sub(self.dropped).saturating_sub(self.received)
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
    /// Datagrams the kernel refused, by reason; reasons that did not happen are absent.
    pub dropped: BTreeMap<String, u64>,
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
            let what = format!("input {}: captured = dropped by the kernel + received", input.interface);
            equal(what, input.captured, input.dropped + input.received)?;
        }
        let received = self.inputs.iter().map(|input| input.received).sum();
        equal("received = sum over the inputs", self.received, received)?;
        let dropped: u64 = self.dropped.values().sum();
        equal("received = matched + dropped", self.received, self.matched + dropped)?;
        let matched = self.rules.iter().map(|rule| rule.matched).sum();
        equal("matched = sum over the rules", self.matched, matched)?;
        let relayed = self.rules.iter().flat_map(|rule| &rule.outputs).map(|output| output.relayed).sum();
        equal("relayed = sum over the outputs", self.relayed, relayed)?;
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
            let what = format!("input {}: dropped by the kernel + received within captured", input.interface);
            within(what, input.dropped + input.received, input.captured)?;
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

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for SendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
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
            received: 12,
            matched: 10,
            dropped: BTreeMap::from([("no_rule".into(), 2)]),
            relayed: 17,
            inputs: vec![
                InputStats { interface: "eth0".into(), captured: 10, dropped: 2, received: 8, went_down: 0 },
                InputStats { interface: "eth1".into(), captured: 4, dropped: 0, received: 4, went_down: 1 },
            ],
            rules: vec![RuleStats {
                name: "video".into(),
                matched: 10,
                bytes: 1_000,
                outputs: vec![output(10, 0), output(7, 3)],
            }],
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
        let spoilers: [fn(&mut Stats); 8] = [
            |stats| stats.received += 1,
            |stats| stats.received -= 1,
            |stats| stats.matched += 1,
            |stats| stats.relayed -= 1,
            |stats| stats.rules[0].outputs[1].relayed -= 1,
            |stats| stats.inputs[0].captured += 1,
            // One input must not make up for another.
            |stats| (stats.inputs[0].received, stats.inputs[1].received) = (7, 5),
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
            |stats| stats.inputs[1].received += 1,
            |stats| stats.matched += 9,
            |stats| stats.rules[0].outputs[0].relayed += 9,
        ];
        for (i, spoil) in spoilers.iter().enumerate() {
            let mut stats = stats.clone();
            spoil(&mut stats);
            assert!(stats.consistent().is_err(), "spoiler {i} went unnoticed");
        }
    }

    #[test]
    fn counters_report_by_name_what_is_not_zero() {
        let counters = Counters::new(1, [1, 2]);
        counters.dropped.add(Cause::Fragment, 3);
        counters.rules[1].outputs[1].dropped.add(SendFailure::from_errno(libc::ENOBUFS), 2);
        assert_eq!(counters.dropped.report(), BTreeMap::from([("fragment".into(), 3)]));
        assert_eq!(counters.rules[1].outputs[1].dropped.report(), BTreeMap::from([("queue_full".into(), 2)]));
        assert_eq!(counters.rules[0].outputs.len(), 1);
    }

    #[test]
    fn names_are_distinct_and_indices_dense() {
        fn check<N: Named + fmt::Debug>() {
            let mut names: Vec<_> = N::ALL.iter().map(|n| n.name()).collect();
            assert!(N::ALL.iter().enumerate().all(|(i, n)| n.index() == i));
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), N::ALL.len());
        }
        check::<Cause>();
        check::<SendFailure>();
    }
}
