//! Counters of the data path, the report made from them, and the conservation identity they obey.
//!
//! Each worker writes its own, anybody reads. Nothing disappears silently:
//!
//! ```text
//! captured by the kernel = dropped by the kernel + queued in the socket + frames        for each input
//! received               = matched by a rule + dropped before a rule, by Cause
//! matched                = relayed + dropped at the output, by SendFailure               for each output
//! ```
//!
//! What no rule takes is told apart by a filter in the kernel, which counts it and captures nothing of it. A frame brings
//! one datagram to `received`, or several where it is a train of them that a rule takes.
//!
//! A worker that is within a turn holds some datagrams between those counts, so a report made meanwhile reads them
//! from the last to the first: then what is missing in a line is what is still under way, and nothing is in excess.

mod report;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

pub use report::{Imbalance, InputStats, OutputStats, RuleStats, Stats, WorkerStats};

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
        /// A train of datagrams in one frame that cannot be split: the kernel cannot say how.
        Coalesced = "coalesced",
        /// One fragment of an IP datagram.
        Fragment = "fragment",
        /// Larger than the receive buffer, so its end is missing.
        Truncated = "truncated",
        /// Its IPv4 header or UDP checksum is wrong: it was damaged on the way.
        BadChecksum = "bad_checksum",
        /// The receive ring said of it what cannot be: a fault of the kernel.
        RingFault = "ring_fault",
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
    pub frames: Counter,
    /// Datagrams in them; a frame that reached no rule counts as one.
    pub received: Counter,
    /// Times its interface went down.
    pub went_down: Counter,
    /// Loans of a ring that the kernel marked as following a loss.
    pub follows_loss: Counter,
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

    /// Counts a frame taken from the input at place `input`, with so many datagrams.
    pub fn received(&self, input: usize, datagrams: u64) {
        if let Some(input) = self.inputs.get(input) {
            input.frames.add(1);
            input.received.add(datagrams);
        }
    }

    /// Counts that the interface of the input at place `input` went down.
    pub fn interface_down(&self, input: usize) {
        if let Some(input) = self.inputs.get(input) {
            input.went_down.add(1);
        }
    }

    /// Counts that a loan of the ring of the input at place `input` was marked as following a loss.
    pub fn follows_loss(&self, input: usize) {
        if let Some(input) = self.inputs.get(input) {
            input.follows_loss.add(1);
        }
    }

    /// Counts datagrams of `bytes` payload bytes together that the rule at place `rule` took.
    pub fn matched(&self, rule: usize, datagrams: u64, bytes: usize) {
        if let Some(rule) = self.rules.get(rule) {
            rule.matched.add(datagrams);
            rule.bytes.add(bytes as u64);
        }
    }
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
