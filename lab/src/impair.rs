//! `lab impair`: forwards lab datagrams through ordinary sockets and damages exactly the named ones.
//!
//! It is a subject like any other, outside the relay and outside the lab's own process, whose every fault is known
//! in advance: what the lab reports of it shows whether the lab can be trusted.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::datagram::{Header, Kind, decode};
use crate::sys::packet_socket::interface_index;
use crate::sys::socket_option;

/// The largest UDP payload.
const MAX_PAYLOAD: usize = 65_527;
/// Receive buffer: several seconds of what the hook is used for.
const BUFFER_BYTES: libc::c_int = 16 << 20;
/// How often to look whether to end while nothing arrives.
const LOOK: Duration = Duration::from_millis(50);
/// Hops that are enough for the sink.
const TTL: u32 = 8;

/// What to forward, and what to do to it. Sequences are those of flow 0.
#[derive(Clone, Debug, Args)]
pub struct ImpairArgs {
    /// Where datagrams come in
    #[arg(long, value_name = "IF")]
    input_interface: String,
    /// Their group, or an address of this host
    #[arg(long, value_name = "ADDRESS")]
    group: IpAddr,
    /// Their port
    #[arg(long)]
    port: u16,
    /// Where they go
    #[arg(long, value_name = "ADDRESS")]
    output_group: IpAddr,
    /// To which port
    #[arg(long, value_name = "PORT")]
    output_port: u16,
    /// Through which interface
    #[arg(long, value_name = "IF")]
    output_interface: String,
    /// Sequences to drop
    #[arg(long, value_delimiter = ',')]
    drop: Vec<u64>,
    /// Sequences to send twice
    #[arg(long, value_delimiter = ',')]
    duplicate: Vec<u64>,
    /// Sequences to send after the one that follows them
    #[arg(long, value_delimiter = ',')]
    swap: Vec<u64>,
    /// Sequences in which to flip a bit
    #[arg(long, value_delimiter = ',')]
    corrupt: Vec<u64>,
    /// Sequences to send to the port after the output's
    #[arg(long, value_delimiter = ',')]
    misdirect: Vec<u64>,
    /// Bytes to take with every datagram and never give back
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    leak: usize,
    /// Sequences are those of datagrams that are not the lab's, in the order in which they come
    #[arg(long)]
    recorded: bool,
    /// End by itself, with an error, on receiving this sequence
    #[arg(long, value_name = "SEQUENCE")]
    die_at: Option<u64>,
}

/// Why nothing is forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ImpairError {
    /// A socket.
    #[error("{operation} on {interface}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// For which interface.
        interface: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The way to end in order.
    #[error("catch signals: {0}")]
    Signals(#[from] ctrlc::Error),
    /// It was asked to.
    #[error("ended at sequence {0}, as asked")]
    Died(u64),
}

/// Forwards until SIGTERM or SIGINT.
pub fn impair(arguments: &ImpairArgs) -> Result<(), ImpairError> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let failed = |operation, interface: &str| {
        let interface = interface.to_owned();
        move |source| ImpairError::Socket { operation, interface, source }
    };
    let (from, to) = (&arguments.input_interface, &arguments.output_interface);
    let output = open_output(arguments).map_err(failed("open a socket to send", to))?;
    let input = open_input(arguments).map_err(failed("open a socket to receive", from))?;
    let astray = SocketAddr::new(arguments.output_group, arguments.output_port.wrapping_add(1));
    let mut faults = Faults::new(arguments);
    let mut buffer = vec![0; MAX_PAYLOAD];
    while !stop.load(Ordering::Relaxed) {
        let length = match input.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(failed("receive", from)(error)),
        };
        for copy in faults.pass(buffer.get(..length).unwrap_or_default())? {
            let sent =
                if copy.astray { output.send_to(&copy.payload, astray) } else { output.send(&copy.payload) };
            sent.map_err(failed("send", to))?;
        }
    }
    Ok(())
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn open_input(arguments: &ImpairArgs) -> io::Result<UdpSocket> {
    let interface = &arguments.input_interface;
    let socket =
        Socket::new(Domain::for_address(input_address(arguments)), Type::DGRAM, Some(Protocol::UDP))?;
    socket_option::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &BUFFER_BYTES)?;
    socket.set_read_timeout(Some(LOOK))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.bind(&input_address(arguments).into())?;
    let index = interface_index(interface)?;
    match arguments.group {
        IpAddr::V4(group) if group.is_multicast() => {
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index))?;
        }
        IpAddr::V6(group) if group.is_multicast() => socket.join_multicast_v6(&group, index)?,
        IpAddr::V4(_) | IpAddr::V6(_) => {}
    }
    Ok(socket.into())
}

fn input_address(arguments: &ImpairArgs) -> SocketAddr {
    SocketAddr::new(arguments.group, arguments.port)
}

fn open_output(arguments: &ImpairArgs) -> io::Result<UdpSocket> {
    let destination = SocketAddr::new(arguments.output_group, arguments.output_port);
    let socket = Socket::new(Domain::for_address(destination), Type::DGRAM, Some(Protocol::UDP))?;
    let interface = &arguments.output_interface;
    socket.bind_device(Some(interface.as_bytes()))?;
    let any: IpAddr = if destination.is_ipv6() {
        socket.set_multicast_if_v6(interface_index(interface)?)?;
        socket.set_multicast_hops_v6(TTL)?;
        socket.set_multicast_loop_v6(false)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        socket.set_multicast_ttl_v4(TTL)?;
        socket.set_multicast_loop_v4(false)?;
        Ipv4Addr::UNSPECIFIED.into()
    };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&destination.into())?;
    Ok(socket.into())
}

/// What is sent for a datagram that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Copy {
    payload: Vec<u8>,
    /// To another port than the output's.
    astray: bool,
}

/// What to do to which datagram, and the one that is held back.
#[derive(Debug, Default)]
struct Faults {
    drop: BTreeSet<u64>,
    duplicate: BTreeSet<u64>,
    swap: BTreeSet<u64>,
    corrupt: BTreeSet<u64>,
    misdirect: BTreeSet<u64>,
    leak: usize,
    leaked: Vec<Vec<u8>>,
    die_at: Option<u64>,
    /// The sequence of the next datagram that is not the lab's, if those are meant.
    recorded: Option<u64>,
    held: Option<Copy>,
}

impl Faults {
    fn new(arguments: &ImpairArgs) -> Self {
        let set = |sequences: &[u64]| sequences.iter().copied().collect();
        Self {
            drop: set(&arguments.drop),
            duplicate: set(&arguments.duplicate),
            swap: set(&arguments.swap),
            corrupt: set(&arguments.corrupt),
            misdirect: set(&arguments.misdirect),
            leak: arguments.leak,
            leaked: Vec::new(),
            die_at: arguments.die_at,
            recorded: arguments.recorded.then_some(0),
            held: None,
        }
    }

    /// The sequence of a datagram that is meant.
    fn sequence_of(&mut self, payload: &[u8]) -> Option<u64> {
        match &mut self.recorded {
            None => measured_of_flow_0(payload),
            Some(_) if decode(payload).is_ok() => None,
            Some(next) => {
                *next += 1;
                Some(*next - 1)
            }
        }
    }

    /// What to send now that `payload` has arrived.
    fn pass(&mut self, payload: &[u8]) -> Result<Vec<Copy>, ImpairError> {
        let whole = vec![Copy { payload: payload.to_vec(), astray: false }];
        // Anything else than what is meant goes through as it is.
        let Some(sequence) = self.sequence_of(payload) else { return Ok(whole) };
        if self.leak > 0 {
            // Not of zeros, for which the kernel would have no page.
            self.leaked.push(vec![1; self.leak]);
        }
        if self.die_at == Some(sequence) {
            return Err(ImpairError::Died(sequence));
        }
        if self.drop.contains(&sequence) {
            return Ok(Vec::new());
        }
        let mut copies = whole;
        if self.corrupt.contains(&sequence) {
            // The last byte is never part of the header, so that the datagram can still say which one it is.
            copies.iter_mut().filter_map(|copy| copy.payload.last_mut()).for_each(|byte| *byte ^= 1);
        }
        let astray = self.misdirect.contains(&sequence);
        for copy in &mut copies {
            copy.astray = astray;
        }
        if self.duplicate.contains(&sequence) {
            copies.extend_from_within(..);
        }
        if self.swap.contains(&sequence) && self.held.is_none() {
            self.held = copies.pop();
            return Ok(copies);
        }
        copies.extend(self.held.take());
        Ok(copies)
    }
}

fn measured_of_flow_0(payload: &[u8]) -> Option<u64> {
    match decode(payload).ok()?.header {
        Header { flow: 0, kind: Kind::Measured, sequence, .. } => Some(sequence),
        Header { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::{Encoder, Stamps, Undecodable};

    fn datagram(flow: u16, sequence: u64, kind: Kind) -> Vec<u8> {
        let encoder = Encoder::new(18);
        let mut payload = vec![0; 18];
        let stamps = Stamps { intended_ns: 1, actual_ns: 2 };
        encoder.encode(&mut payload, &Header { run: 7, flow, sequence, kind }, stamps);
        payload
    }

    /// What comes out of sequences 0 to 9: each as its number, negative when it is damaged.
    fn passed(mut faults: Faults) -> Vec<i64> {
        let mut out = Vec::new();
        for sequence in 0..10 {
            out.extend(faults.pass(&datagram(0, sequence, Kind::Measured)).unwrap());
        }
        let shown = |copy: &Copy| match decode(&copy.payload) {
            Ok(datagram) => datagram.header.sequence as i64,
            Err(Undecodable::Damaged(header)) => -(header.sequence as i64),
            Err(other) => panic!("{other}"),
        };
        out.iter().map(shown).collect()
    }

    fn set(sequences: &[u64]) -> BTreeSet<u64> {
        sequences.iter().copied().collect()
    }

    #[test]
    fn exactly_the_named_datagrams_are_damaged() {
        assert_eq!(passed(Faults::default()), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(passed(Faults { drop: set(&[0, 4]), ..Faults::default() }), [1, 2, 3, 5, 6, 7, 8, 9]);
        let twice = Faults { duplicate: set(&[3]), ..Faults::default() };
        assert_eq!(passed(twice), [0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9]);
        let swapped = Faults { swap: set(&[3, 8]), ..Faults::default() };
        assert_eq!(passed(swapped), [0, 1, 2, 4, 3, 5, 6, 7, 9, 8]);
        let damaged = Faults { corrupt: set(&[5]), ..Faults::default() };
        assert_eq!(passed(damaged), [0, 1, 2, 3, 4, -5, 6, 7, 8, 9]);
    }

    #[test]
    fn everything_else_goes_through() {
        let all: BTreeSet<u64> = (0..10).collect();
        let mut faults = Faults { drop: all, ..Faults::default() };
        for payload in
            [datagram(1, 3, Kind::Measured), datagram(0, 3, Kind::WarmUp), b"foreign".to_vec(), vec![]]
        {
            assert_eq!(faults.pass(&payload).unwrap(), [Copy { payload, astray: false }]);
        }
    }

    #[test]
    fn what_was_recorded_counts_as_it_comes() {
        let mut faults = Faults { drop: set(&[1]), recorded: Some(0), ..Faults::default() };
        let mut passed = |payload: &[u8]| faults.pass(payload).unwrap().len();
        let own = datagram(0, 1, Kind::Measured);
        assert_eq!([passed(b"a"), passed(&own), passed(b"b"), passed(b"c"), passed(b"")], [1, 1, 0, 1, 1]);
    }

    #[test]
    fn it_ends_when_it_is_to() {
        let mut faults = Faults { die_at: Some(2), ..Faults::default() };
        assert!(faults.pass(&datagram(0, 1, Kind::Measured)).is_ok());
        assert!(faults.pass(&datagram(0, 2, Kind::Measured)).is_err());
    }
}
