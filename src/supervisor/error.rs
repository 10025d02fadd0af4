//! Why the relay does not start, or cannot do what it is asked for.

use std::io;

use super::control::ControlError;
use super::filter::FEWER_SHAPES;
use crate::sys::rule_programs::RuleProgramError;
use crate::worker::packet_ring::Layout;

/// Why the relay does not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A packet socket cannot be opened.
    #[error("open packet socket on {interface}: {error}{}", remedy(error))]
    PacketSocket {
        /// The interface it is for.
        interface: String,
        /// Why not.
        error: io::Error,
    },
    /// A packet socket cannot be given a ring.
    #[error("map a packet ring on {interface} ({layout}): {error}{}", ring_remedy(error))]
    Ring {
        /// The interface it is for.
        interface: String,
        /// What was asked for.
        layout: Layout,
        /// Why not.
        error: io::Error,
    },
    /// Several workers cannot share an interface.
    #[error(
        "join a fanout group on {interface}: {error}: run one worker, or have the interface up when the relay starts"
    )]
    Fanout {
        /// The interface.
        interface: String,
        /// Why not.
        error: io::Error,
    },
    /// The kernel cannot be told what the rules take.
    #[error("filter by the rules on {interface}: {error} (needs CAP_BPF; relay with --no-rule-filter)")]
    Filter {
        /// The interface.
        interface: String,
        /// Why not.
        error: RuleProgramError,
    },
    /// What rules take cannot end at an interface.
    #[error("consume on {interface}: {error}: {remedy}, or relay without --consume", remedy = consume_remedy(error))]
    Consume {
        /// The interface.
        interface: String,
        /// Why not.
        error: RuleProgramError,
    },
    /// A group cannot be joined.
    #[error("join {group} on {interface}: {error}{}", join_remedy(error))]
    Join {
        /// The group, or the prefix of several.
        group: crate::rules::GroupRange,
        /// The interface.
        interface: String,
        /// Why not.
        error: io::Error,
    },
    /// An egress socket cannot be opened.
    #[error("open output {output} of rule \"{rule}\": {error}{}", remedy(error))]
    Output {
        /// The rule.
        rule: String,
        /// The output, as `GROUP:PORT:IF`.
        output: String,
        /// Why not.
        error: io::Error,
    },
    /// A rule cannot be a leg of its stream.
    #[error("have rule \"{rule}\" be a leg of stream \"{stream}\": {error}")]
    Stream {
        /// The rule.
        rule: String,
        /// The stream.
        stream: String,
        /// Why not.
        error: io::Error,
    },
    /// There is no control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Metrics cannot be served.
    #[error(
        "serve metrics at {address}: {error} (give --metrics an address of this host with a port that is free)"
    )]
    Metrics {
        /// Where.
        address: std::net::SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The process cannot be set up.
    #[error("{operation}: {error}")]
    Setup {
        /// What was being done.
        operation: &'static str,
        /// Why not.
        error: io::Error,
    },
    /// A worker cannot be started.
    #[error("start worker {number}: {reason}")]
    Worker {
        /// Its number, from 0.
        number: usize,
        /// Why not.
        reason: String,
    },
    /// A worker cannot carry out an order.
    #[error("worker {number} cannot {why}")]
    Refused {
        /// Its number, from 0.
        number: usize,
        /// Which order, and why not.
        why: String,
    },
    /// Workers did not stay up.
    #[error("{0} did not stay up: see the log, or `multicast_relay workers` while the relay runs")]
    WorkersFailed(String),
    /// There are too many of something.
    #[error("{what}: there can be {most} at a time")]
    TooMany {
        /// What there are too many of.
        what: &'static str,
        /// How many there can be.
        most: usize,
    },
}

pub(super) fn remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ": run as root, or grant CAP_NET_RAW and CAP_NET_ADMIN",
        Some(libc::EMFILE | libc::ENFILE) => {
            ": each output takes a descriptor, so raise the limit: `ulimit -n` before the relay, or LimitNOFILE= of its service"
        }
        Some(libc::ENETUNREACH) => {
            ": no way through that interface; bring it up, and give it an address or a route"
        }
        Some(libc::EADDRNOTAVAIL) => {
            ": no usable address on that interface; a new IPv6 address takes some seconds (duplicate address detection)"
        }
        _ => "",
    }
}

fn join_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            ": a socket of its own has no room for it, so raise net.ipv4.igmp_max_memberships and net.ipv4.igmp_max_msf (sysctl -w)"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            ": each net.ipv4.igmp_max_memberships groups take a descriptor, so raise that (sysctl -w), or the limit: `ulimit -n` before the relay, or LimitNOFILE= of its service"
        }
        _ => remedy(error),
    }
}

fn ring_remedy(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => {
            ": not even two blocks; make --ring-block-size smaller, or raise the memory limit (ulimit -v)"
        }
        _ => remedy(error),
    }
}

fn consume_remedy(error: &RuleProgramError) -> &'static str {
    if error.is_for_shapes() { FEWER_SHAPES } else { "it needs Linux 6.6, CAP_BPF and CAP_NET_ADMIN" }
}
