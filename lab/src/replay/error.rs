//! Why a file cannot be replayed.

use std::io;
use std::path::PathBuf;

use super::MOST_FLOWS;

/// A file that cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct ReplayError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: Fault,
}

/// What is wrong with a file, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be read.
    #[error("{0}: name a pcap or pcapng file that this user may read")]
    Unreadable(#[from] io::Error),
    /// It is something else.
    #[error(
        "is neither a pcap nor a pcapng file: record one with `tcpdump -w FILE`, and unpack what is compressed"
    )]
    NoCapture,
    /// It makes no sense from some packet on.
    #[error("makes no sense after packet {0}: record it again, or keep what is before with `editcap -r`")]
    Broken(u64),
    /// Its packets begin with something else than an Ethernet header.
    #[error(
        "packet {number} has link type {link_type}, and only Ethernet (1) is replayed: record on one Ethernet interface, as \
         with `tcpdump -i eth0`, not on \"any\""
    )]
    LinkType {
        /// The packet, from 1.
        number: u64,
        /// A number of the registry at tcpdump.org.
        link_type: i32,
    },
    /// A packet without a time, or with one in a unit that is none.
    #[error("packet {0} has no time that can be read: write the file anew with `editcap -F pcap`")]
    NoTime(u64),
    /// A packet too large for the link.
    #[error(
        "packet {number} has an IP packet of {packet_bytes} bytes, which an MTU of {mtu} does not carry: raise link.mtu, or \
         record where nothing puts packets together (`ethtool -K IF gro off tso off gso off`)"
    )]
    OverMtu {
        /// The packet, from 1.
        number: u64,
        /// Its bytes without the Ethernet header.
        packet_bytes: usize,
        /// What the link carries.
        mtu: u32,
    },
    /// More flows than rules.
    #[error(
        "has more than {MOST_FLOWS} groups with their ports: keep fewer with `tcpdump -r FILE -w FEWER net NET`"
    )]
    Flows,
    /// More than should be kept in memory.
    #[error("has more than 512 MiB to be sent: lower traffic.datagrams or traffic.duration")]
    Bytes,
    /// There is nothing to be sent.
    #[error(
        "has no whole UDP datagram to a group in the address family of the scenario (not sent: {}): record some with \
         `tcpdump -s 0 -w FILE udp and multicast`, or set traffic.family",
        if .0.is_empty() { "nothing" } else { .0 }
    )]
    Nothing(String),
}
