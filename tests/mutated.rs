//! Frames that are mutilated at random: whatever comes in, what is right is relayed as it is, and nothing else is.
//!
//! `MUTATED_FRAMES` says how many are sent over each receive path, `MUTATED_SEED` which.

#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "support/frames.rs"]
mod frames;
mod support;

use std::collections::HashMap;
use std::io::{ErrorKind, IoSlice, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::time::Instant;

use frames::{Destination, datagram, extended, fragments_v6, seal, spoiled, with_options};
use lab::sys::mmsg::ReceiveBatch;
use lab::topology::{Family, Topology};
use multicast_relay::sys::poll;
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};
use support::{
    DEADLINE, GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, fragments, frame, good, network, sink,
    tagged,
};
use tempfile::NamedTempFile;

/// How many frames are sent before what is to come of them is awaited, of the last but one lot: the relay has something to do
/// while the next is made.
const LOT: usize = 2_048;
/// Every so many frames there is a good one.
const GOOD: u64 = 8;
/// Bytes of the shortest frame that can be sent, and of the longest.
const SHORTEST: usize = 14;
const LONGEST: usize = 1_514;

/// The VLAN that has a rule, and the ports that the rule for a range has.
const VLAN: u16 = 5;
const PORTS: RangeInclusive<u16> = PORT - 8..=PORT + 7;

/// `SplitMix64` (Steele, Lea and Flood 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`, which is not 0.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}

fn group_v6() -> SocketAddr {
    SocketAddr::from(("ff15::81:0:1".parse::<IpAddr>().unwrap(), PORT))
}

/// Makes mutilated frames.
struct Mutator {
    random: Random,
    templates: Vec<Vec<u8>>,
    serial: u64,
}

impl Mutator {
    fn new(seed: u64) -> Self {
        let payload = b"to be mutilated, and here is a number: ........";
        let (v4, v6) = (good(payload), frame(group_v6(), payload));
        let large: Vec<_> = (0..1_400).map(|i| (i / 3) as u8).collect();
        let mut parts = fragments(&good(&[large.clone(), large.clone()].concat()), 0);
        let service = spoiled(tagged(&v4, 0), |frame| frame[12..14].copy_from_slice(&[0x88, 0xa8]));
        let options: &[u8] = &[1, 4, 0, 0, 0, 0, 0];
        let mut templates = vec![
            with_options(&v4, &[148, 4, 0, 0, 1, 1, 1, 0]),
            spoiled(v4.clone(), |frame| frame.extend([0xa5; 20])),
            spoiled(v4.clone(), |frame| frame[40..42].fill(0)),
            tagged(&v4, 0xe000),
            tagged(&v4, VLAN),
            tagged(&v6, VLAN),
            tagged(&tagged(&v4, VLAN), 6),
            service,
            tagged(&v6, 0),
            good(b""),
            good(&large),
            extended(&v6, &[(0, options), (60, options)]),
            extended(&v6, &[(44, &[0, 0, 0, 0, 0, 0, 7])]),
            frame((GROUP, PORT + 1).into(), payload),
            frame((GROUP, *PORTS.end() + 1).into(), payload),
            frame((Ipv4Addr::new(239, 81, 255, 0), *PORTS.start()).into(), payload),
            frame(group_v6(), &large),
            fragments_v6(&v6, 24, 9).swap_remove(0),
            fragments_v6(&v6, 24, 9).swap_remove(1),
        ];
        templates.append(&mut parts);
        templates.extend([v4.clone(), v4, v6.clone(), v6]);
        Self { random: Random(seed), templates, serial: 0 }
    }

    /// A frame that is right, like no other: its payload ends with a number, and those of IPv4 have an identification and a source
    /// of their own, so that fragments are never put together.
    fn template(&mut self) -> Vec<u8> {
        let mut frame = self.templates[self.random.below(self.templates.len())].clone();
        self.serial += 1;
        let unique = Random(self.serial).next().to_be_bytes();
        if let Some(number) = frame.len().checked_sub(8).filter(|at| *at >= 62) {
            frame[number..].copy_from_slice(&unique);
        }
        let ip = if frame[12] == 0x81 || frame[12] == 0x88 { 18 } else { 14 };
        if frame[ip] >> 4 == 4 {
            frame[ip + 4..ip + 6].copy_from_slice(&unique[..2]);
            frame[ip + 12..ip + 16].copy_from_slice(&[10, unique[2], unique[3], unique[4]]);
        }
        seal(&mut frame);
        frame
    }

    /// One that is mutilated, and mostly has the right checksums all the same.
    fn next(&mut self) -> Vec<u8> {
        let mut frame = self.template();
        loop {
            self.mutilate(&mut frame);
            if self.random.one_in(2) {
                break;
            }
        }
        frame.resize(frame.len().clamp(SHORTEST, LONGEST), 0);
        if !self.random.one_in(3) {
            seal(&mut frame);
        }
        frame
    }

    fn mutilate(&mut self, frame: &mut Vec<u8>) {
        /// Where types, lengths and offsets are, with and without a tag.
        const FIELDS: [usize; 24] =
            [12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 27, 38, 39, 42, 43, 54, 55, 58, 59, 62, 63];
        let random = &mut self.random;
        let (at, end) = (random.below(frame.len().max(1)), frame.len());
        match random.below(9) {
            0 => frame[at] ^= 1 << random.below(8),
            1 => frame[at] = random.byte(),
            2 => frame[at] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
            3 => frame.truncate(at.max(SHORTEST)),
            4 => frame.extend((0..random.below(64)).map(|i| (i * 37) as u8)),
            5 => _ = frame.drain(at..(at + random.below(40)).min(end)),
            6 => {
                let chunk = frame[at..(at + random.below(40)).min(end)].to_vec();
                let to = random.below(end + 1);
                frame.splice(to..to, chunk);
            }
            7 => {
                let other = self.template();
                frame.truncate(at);
                frame.extend(&other[self.random.below(other.len())..]);
            }
            _ => {
                let field = FIELDS[random.below(FIELDS.len())];
                let by = [1, 255, 2, 254, 4, 252, 8, 248, 0x20, 0x40][random.below(10)];
                if let Some(byte) = frame.get_mut(field) {
                    *byte = byte.wrapping_add(by);
                }
            }
        }
        // Nothing is left of it.
        if frame.is_empty() {
            frame.push(0);
        }
    }
}

/// What number `number` of the good ones is: of either family, and now and then in fragments.
fn good_one(number: u64) -> (Vec<u8>, Vec<Vec<u8>>) {
    let is_large = number % 64 == 1;
    let len = if is_large { 3_000 } else { number as usize * 7 % 1_400 };
    let filler = (0..len).map(|at| (at as u64 + number) as u8);
    let payload: Vec<_> = b"good".iter().copied().chain(number.to_be_bytes()).chain(filler).collect();
    let frames = match (is_large, number % 2) {
        (true, _) => fragments(&good(&payload), (number / 64) as u16),
        (false, 1) => vec![good(&payload)],
        (false, _) => vec![frame(group_v6(), &payload)],
    };
    (payload, frames)
}

/// What is expected at the sink.
struct Expected {
    socket: UdpSocket,
    batch: ReceiveBatch,
    /// How often each payload is to come, and in which frame it was sent.
    pending: HashMap<Vec<u8>, (u64, Vec<u8>)>,
    /// How many payloads those are.
    count: u64,
    /// All that has come.
    arrived: u64,
    /// The last number of each family.
    last: [Option<u64>; 2],
}

impl Expected {
    fn new(topology: &Topology) -> Self {
        let socket = sink(&topology.sinks[0]);
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 32 << 20).unwrap();
        let batch = ReceiveBatch::new(256, 4_096);
        Self { socket, batch, pending: HashMap::new(), count: 0, arrived: 0, last: [None; 2] }
    }

    fn add(&mut self, payload: &[u8], frame: &[u8]) {
        self.count += 1;
        self.pending.entry(payload.to_vec()).or_insert_with(|| (0, frame.to_vec())).0 += 1;
    }

    /// Waits until no more than `count` are missing.
    fn wait(&mut self, count: u64) {
        loop {
            match self.batch.receive(self.socket.as_fd()) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.count <= count {
                        return;
                    }
                    let more = poll::is_readable_within(self.socket.as_fd(), DEADLINE).unwrap();
                    assert!(
                        more,
                        "{} are missing: {:02x?}",
                        self.count,
                        self.pending.values().take(5).collect::<Vec<_>>()
                    );
                    continue;
                }
                Err(error) => panic!("{error}"),
            }
            for datagram in self.batch.datagrams() {
                take(&mut self.pending, &mut self.last, datagram.payload);
                self.arrived += 1;
                self.count -= 1;
            }
        }
    }
}

/// Crosses out a payload that has arrived.
fn take(pending: &mut HashMap<Vec<u8>, (u64, Vec<u8>)>, last: &mut [Option<u64>; 2], payload: &[u8]) {
    let Some((count, _)) = pending.get_mut(payload) else { panic!("nobody has sent {payload:02x?}") };
    *count -= 1;
    if *count == 0 {
        pending.remove(payload);
    }
    if let Some(number) = payload.strip_prefix(b"good").and_then(|rest| rest.first_chunk()) {
        let number = u64::from_be_bytes(*number);
        let before = last[(number % 2) as usize].replace(number);
        assert!(before < Some(number), "{number} behind {before:?}");
    }
}

fn send_all(injector: &Injector, frames: &[Vec<u8>]) {
    let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
    let mut controls: Vec<_> = frames.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let messages = slices.iter().zip(&mut controls);
    let mut messages: Vec<_> = messages.map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
    let mut rest = &mut messages[..];
    while !rest.is_empty() {
        let sent = sendmmsg(injector, rest, SendFlags::empty()).unwrap();
        rest = &mut rest[sent..];
    }
}

/// The number that an environment variable has.
fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Rules for a group of each family, for one in a VLAN, and for a range that the first group is in.
fn rules() -> String {
    let rule = |more: &str, input: String| {
        format!(
            "[[rule]]\n{more}\ninput = {{ interface = 'ingress', {input} }}\n\
             outputs = [{{ group = '{OUT_GROUP}', port = {OUT_PORT}, interface = 'egress0' }}]\n"
        )
    };
    [
        rule("", format!("group = '{GROUP}', port = {PORT}")),
        rule("", format!("group = '{}', port = {PORT}", group_v6().ip())),
        rule("", format!("group = '{GROUP}', port = {PORT}, vlan = {VLAN}")),
        rule("join = false", format!("group = '239.81.0.0/16', port = '{}-{}'", PORTS.start(), PORTS.end())),
    ]
    .concat()
}

/// Whether a rule is for what goes there.
fn is_taken((vlan, group, port): Destination) -> bool {
    let is_in_range =
        matches!(group, IpAddr::V4(group) if group.octets()[..2] == [239, 81]) && PORTS.contains(&port);
    let is_exact = |group: IpAddr, to: IpAddr| group == to && port == PORT;
    match vlan {
        0 => is_in_range || is_exact(group_v6().ip(), group),
        VLAN => is_exact(GROUP.into(), group),
        _ => false,
    }
}

over_every_path!(what_is_right_is_relayed_and_nothing_else);

fn what_is_right_is_relayed_and_nothing_else(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (host, namespace) = (topology.ingress.mac(), topology.relay_namespace());
    // A host without IPv6 cannot join an IPv6 group. And fragments without end are not to use up the memory for others.
    namespace.set_sysctl("net/ipv6/conf/all/disable_ipv6", "0").unwrap();
    namespace.set_sysctl("net/ipv4/ipfrag_time", "1").unwrap();
    namespace.set_sysctl("net/ipv4/ipfrag_high_thresh", "268435456").unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(rules().as_bytes()).unwrap();
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    let (workers, injector) = (relay.workers(), Injector::new(&topology.generator));

    let (frames, seed) = (number("MUTATED_FRAMES", 200_000), number("MUTATED_SEED", 1));
    let (mut mutator, mut expected) = (Mutator::new(seed), Expected::new(topology));
    let (mut sent, mut good, begin) = (0, 0, Instant::now());
    while sent < frames {
        let mut lot = Vec::with_capacity(LOT + LOT / GOOD as usize);
        let before = expected.count;
        for _ in 0..LOT {
            sent += 1;
            let frame = mutator.next();
            if let Some((_, payload)) = datagram(&frame, host).filter(|(to, _)| is_taken(*to)) {
                expected.add(payload, &frame);
            }
            lot.push(frame);
            if sent % GOOD == 0 {
                let (payload, mut frames) = good_one(good);
                expected.add(&payload, &frames[0]);
                lot.append(&mut frames);
                good += 1;
            }
        }
        send_all(&injector, &lot);
        expected.wait(expected.count - before);
    }
    expected.wait(0);
    let time = begin.elapsed();

    relay.stats().consistent().unwrap();
    assert_eq!(relay.workers(), workers, "the same processes");
    let log = relay.log();
    let stats = relay.stop();
    expected.wait(0);
    let relayed = expected.arrived;
    assert_eq!((stats.matched, stats.relayed, stats.kernel_dropped()), (relayed, relayed, 0));
    assert!(!log.contains("ERROR") && !log.contains("panicked"), "{log}");
    eprintln!(
        "{path:?}, seed {seed}: {sent} frames and {good} good datagrams in {time:.1?}, {:.0} a second; {relayed} relayed, {:?}",
        sent as f64 / time.as_secs_f64(),
        stats.dropped
    );
}
