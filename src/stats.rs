//! Counters of the data path, the report made from them, and the conservation identity they obey.
//!
//! Each worker writes its own, in memory that it shares with the supervisor and that outlives it. Nothing disappears
//! silently:
//!
//! ```text
//! captured by the kernel = dropped by the kernel + queued in the socket + lost with a worker + frames   for each input
//! received               = matched by a rule + dropped before a rule, by Cause
//! matched                = relayed + dropped at the output, by SendFailure                              for each output
//! ```
//!
//! What no rule takes is told apart by a filter in the kernel, which counts it and captures nothing of it. A frame brings
//! one datagram to `received`, or several where it is a train of them that a rule takes.
//!
//! A worker that is within a turn holds some datagrams between those counts, so a report made meanwhile reads them
//! from the last to the first: then what is missing in a line is what is still under way, and nothing is in excess. What a
//! worker held that died is counted as `interrupted` when it is replaced ([`Counters::settle`]).

mod counters;
mod report;

use std::fmt;

pub use counters::{
    Counter, CounterSet, Counters, InputCounters, MAX_INPUTS, MAX_OUTPUTS, MAX_RULES, OutputCounters,
    RuleCounters,
};
pub use report::{Imbalance, InputStats, LegStats, OutputStats, RemovedStats, RuleStats, Stats, WorkerStats};

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
        /// Carries an 802.1Q or 802.1ad tag of a VLAN in which no rule takes it, or one behind another.
        Tagged = "tagged",
        /// A rule would take it, but this relay has sent it itself: it came back over a wire.
        Own = "own",
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
        /// A worker died over it.
        Interrupted = "interrupted",
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
        /// The interface is down, gone or not there yet (ENETDOWN, ENODEV, ENXIO).
        InterfaceDown = "interface_down",
        /// A firewall or security policy forbids it (EPERM, EACCES).
        Forbidden = "forbidden",
        /// Its time to live is spent: it came in with 1, and leaves with one less.
        TtlSpent = "ttl_spent",
        /// No loss: the other leg of its stream has brought it before.
        Duplicate = "duplicate",
        /// Any other errno.
        Other = "other",
        /// It is to keep its source, for which there was no socket in time or no room to wait for one.
        SourcePending = "source_pending",
        /// It is to keep its source, which it cannot.
        SourceRefused = "source_refused",
        /// It is to keep its source, and as many as there can be are in use.
        TooManySources = "too_many_sources",
        /// A worker died over it. It may have left, and its replacement sends it again where it can.
        Interrupted = "interrupted",
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
