//! A relay process between a generator that sends raw frames and sinks that read UDP, each in a namespace of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code, unreachable_pub)]

pub mod flow;
pub mod in_process;
mod relay;
pub mod sources;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use lab::topology::{Checksum, Family, Link, NetError, Port, RunName, Segmentation, Topology};
use multicast_relay::sys::interface::Interface;
use multicast_relay::sys::packet_socket::PacketSocket;
use pnet_base::MacAddr;
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{Ipv4Flags, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::udp::MutableUdpPacket;

// Not every test needs all of them.
#[allow(unused_imports)]
pub use relay::{Relay, exchange, kill};

/// How long anything may take on a machine that is busy with other tests.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The group that tests send to, and its port.
pub const GROUP: Ipv4Addr = Ipv4Addr::new(239, 81, 1, 1);
pub const PORT: u16 = 5000;
/// The group that rules relay it to, and its port.
pub const OUT_GROUP: Ipv4Addr = Ipv4Addr::new(239, 82, 1, 1);
pub const OUT_PORT: u16 = 6000;

/// A receive path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    MmapV3,
    MmapV2,
    /// With two workers.
    MmapByTwo,
    Recv,
    /// With two workers.
    RecvByTwo,
}

impl Path {
    fn arguments(self) -> &'static [&'static str] {
        match self {
            Self::MmapV3 => &["--rx", "mmap"],
            Self::MmapV2 => &["--use-packet-mmap", "--ring-version", "2"],
            Self::MmapByTwo => &["--rx", "mmap", "--num-workers", "2"],
            Self::Recv => &["--rx", "recv"],
            Self::RecvByTwo => &["--rx", "recv", "--num-workers", "2"],
        }
    }

    /// Whether a worker that dies leaves everything in a ring.
    pub fn is_by_ring(self) -> bool {
        !matches!(self, Self::Recv | Self::RecvByTwo)
    }

    /// What a report calls it.
    fn name(self) -> &'static str {
        match self {
            Self::MmapV3 | Self::MmapByTwo => "mmap-v3",
            Self::MmapV2 => "mmap-v2",
            Self::Recv | Self::RecvByTwo => "recv",
        }
    }
}

/// Makes a test over every receive path of each function that takes a [`Path`].
#[macro_export]
macro_rules! over_every_path {
    ($test:ident) => {
        mod $test {
            use $crate::support::Path;

            $crate::over_every_path! { $test: mmap_v3 MmapV3, mmap_v2 MmapV2, recv Recv }
            $crate::over_every_path! { $test: mmap_by_two MmapByTwo, recv_by_two RecvByTwo }
        }
    };
    ($test:ident: $($name:ident $path:ident),+) => {
        $(
            #[test]
            #[ignore = "needs root: builds network namespaces"]
            fn $name() {
                super::$test(Path::$path);
            }
        )+
    };
}

/// A network with this many sinks, and the name that marks it as alive.
pub struct Network {
    pub topology: Topology,
    _run: RunName,
}

pub fn network(family: Family, sinks: usize) -> Network {
    let link = Link { mtu: 1500, segmentation: Segmentation::Wire, checksum: Checksum::Wire, family };
    network_of(link, sinks)
}

/// The same with links like `link`.
pub fn network_of(link: Link, sinks: usize) -> Network {
    let build = || {
        let run = RunName::claim()?;
        Ok::<_, NetError>(Network { topology: Topology::build(&run, &link, sinks)?, _run: run })
    };
    build().unwrap_or_else(|error| panic!("{error}"))
}

/// The rule from the group to the same group at every sink.
pub fn rule(topology: &Topology) -> String {
    let outputs: Vec<_> =
        topology.egress.iter().map(|port| format!("{OUT_GROUP}:{OUT_PORT}:{}", port.device())).collect();
    format!("{}:{GROUP}:{PORT}={}", topology.ingress.device(), outputs.join(","))
}

/// Sends raw frames into the relay's ingress.
pub struct Injector(File);

impl Injector {
    pub fn new(port: &Port) -> Self {
        port.namespace().run(|| Self::on(port.device())).unwrap()
    }

    /// The same on a device of the calling thread's namespace.
    pub fn on(device: &str) -> Self {
        let socket = PacketSocket::open().unwrap();
        socket.bind(Interface::find(device).unwrap().index).unwrap();
        Self(File::from(socket.try_clone().unwrap()))
    }

    pub fn send(&mut self, frame: &[u8]) {
        self.0.write_all(frame).unwrap();
    }
}

impl AsFd for Injector {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A UDP datagram from 10.81.0.1 (or `fd81::1`) to `destination`, as an Ethernet frame.
pub fn frame(destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut udp = vec![0; 8 + payload.len()];
    let mut packet = MutableUdpPacket::new(&mut udp).unwrap();
    packet.set_source(4000);
    packet.set_destination(destination.port());
    packet.set_length(8 + payload.len() as u16);
    packet.set_payload(payload);
    match destination.ip() {
        IpAddr::V4(address) => {
            let source = Ipv4Addr::new(10, 81, 0, 1);
            packet.set_checksum(sent(pnet_packet::udp::ipv4_checksum(
                &packet.to_immutable(),
                &source,
                &address,
            )));
            let mut bytes = vec![0; 20];
            let mut ip = MutableIpv4Packet::new(&mut bytes).unwrap();
            ip.set_version(4);
            ip.set_header_length(5);
            ip.set_total_length(20 + udp.len() as u16);
            ip.set_ttl(1);
            ip.set_next_level_protocol(IpNextHeaderProtocols::Udp);
            ip.set_source(source);
            ip.set_destination(address);
            ip.set_checksum(pnet_packet::ipv4::checksum(&ip.to_immutable()));
            let [_, a, b, c] = address.octets();
            ethernet(MacAddr::new(1, 0, 0x5e, a & 0x7f, b, c), EtherTypes::Ipv4, &[bytes, udp].concat())
        }
        IpAddr::V6(address) => {
            let source = Ipv6Addr::new(0xfd81, 0, 0, 0, 0, 0, 0, 1);
            packet.set_checksum(sent(pnet_packet::udp::ipv6_checksum(
                &packet.to_immutable(),
                &source,
                &address,
            )));
            let mut bytes = vec![0; 40];
            let mut ip = MutableIpv6Packet::new(&mut bytes).unwrap();
            ip.set_version(6);
            ip.set_payload_length(udp.len() as u16);
            ip.set_next_header(IpNextHeaderProtocols::Udp);
            ip.set_hop_limit(1);
            ip.set_source(source);
            ip.set_destination(address);
            let o = address.octets();
            ethernet(
                MacAddr::new(0x33, 0x33, o[12], o[13], o[14], o[15]),
                EtherTypes::Ipv6,
                &[bytes, udp].concat(),
            )
        }
    }
}

/// A UDP checksum as it is sent: zero says that there is none (RFC 768).
fn sent(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// A datagram to the group of the tests.
pub fn good(payload: &[u8]) -> Vec<u8> {
    frame(SocketAddr::from((GROUP, PORT)), payload)
}

pub fn ethernet(destination: MacAddr, ethertype: EtherType, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14];
    let mut header = MutableEthernetPacket::new(&mut bytes).unwrap();
    header.set_destination(destination);
    header.set_source(MacAddr::new(2, 0, 0, 0, 0, 1));
    header.set_ethertype(ethertype);
    bytes.extend(packet);
    bytes
}

/// `frame`, an IPv4 one, after `change`; its header's checksum is made right and the UDP checksum absent.
pub fn changed(mut frame: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    change(&mut frame);
    frame[40..42].fill(0);
    let mut header = MutableIpv4Packet::new(&mut frame[14..34]).unwrap();
    header.set_checksum(pnet_packet::ipv4::checksum(&header.to_immutable()));
    frame
}

/// The IPv4 fragments of `frame`, none longer than an MTU of 1,500 allows, in order.
pub fn fragments(frame: &[u8], identification: u16) -> Vec<Vec<u8>> {
    const STEP: usize = 1_480;
    let (header, data) = frame[14..].split_at(20);
    let fragment = |(i, part): (usize, &[u8])| {
        let mut packet = [header, part].concat();
        let mut ip = MutableIpv4Packet::new(&mut packet).unwrap();
        let is_last = (i + 1) * STEP >= data.len();
        ip.set_flags(if is_last { 0 } else { Ipv4Flags::MoreFragments });
        ip.set_fragment_offset((i * STEP / 8) as u16);
        ip.set_identification(identification);
        ip.set_total_length(20 + part.len() as u16);
        ip.set_checksum(pnet_packet::ipv4::checksum(&ip.to_immutable()));
        [&frame[..14], &packet].concat()
    };
    data.chunks(STEP).enumerate().map(fragment).collect()
}

/// An IPv6 `frame` as the first of several fragments.
pub fn first_fragment_v6(frame: &[u8]) -> Vec<u8> {
    let (head, data) = frame.split_at(54);
    let more_fragments = [17, 0, 0, 1, 0, 0, 0, 7];
    let mut frame = [head, &more_fragments, data].concat();
    frame[20] = 44;
    frame[19] += 8;
    frame
}

/// `frame` with an 802.1Q tag.
pub fn tagged(frame: &[u8], tag: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &tag.to_be_bytes(), &frame[12..]].concat()
}

/// A socket at a sink that has joined the group and reads through the kernel's UDP stack.
pub fn sink(port: &Port) -> UdpSocket {
    let IpAddr::V4(address) = port.address() else { panic!("an IPv4 sink") };
    port.namespace().run(|| member(address)).unwrap()
}

/// The same in the calling thread's namespace, on the device with this address.
pub fn member(address: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, OUT_PORT)).unwrap();
    socket.join_multicast_v4(&OUT_GROUP, &address).unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// The frames that a device gets, from their Ethernet header on.
pub struct Tap(File);

impl Tap {
    pub fn new(port: &Port) -> Self {
        port.namespace().run(|| Self::on(port.device())).unwrap()
    }

    /// The same of a device of the calling thread's namespace.
    pub fn on(device: &str) -> Self {
        let socket = PacketSocket::open().unwrap();
        socket.ignore_outgoing().unwrap();
        socket.set_receive_buffer(16 << 20).unwrap();
        socket.bind(Interface::find(device).unwrap().index).unwrap();
        let tap = socket.try_clone().unwrap();
        socket2::SockRef::from(&tap).set_read_timeout(Some(DEADLINE)).unwrap();
        Self(File::from(tap))
    }

    /// The next frame that is UDP over IPv4 or IPv6.
    pub fn next_udp(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 65_536];
        loop {
            let len = self.0.read(&mut buffer).unwrap();
            let frame = &buffer[..len];
            if (frame[12..14] == [0x08, 0x00] && frame[23] == 17)
                || (frame[12..14] == [0x86, 0xdd] && frame[20] == 17)
            {
                return frame.to_vec();
            }
        }
    }
}

/// The next `count` payloads, and that nothing follows them that has arrived already.
pub fn receive(socket: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let mut payloads = Vec::with_capacity(count);
    for i in 0..count {
        // Work that a closed io_uring of this thread has left behind interrupts a receive that has a deadline.
        let len = loop {
            match socket.recv(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.unwrap_or_else(|error| panic!("datagram {i} of {count}: {error}")),
            }
        };
        payloads.push(buffer[..len].to_vec());
    }
    payloads
}

/// Waits until `done` says so.
pub fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether nothing is waiting to be read.
pub fn is_empty(socket: &UdpSocket) -> bool {
    socket.set_nonblocking(true).unwrap();
    let empty = socket.recv(&mut [0; 10]).is_err();
    socket.set_nonblocking(false).unwrap();
    empty
}

/// A file of `/proc` as the relay's namespace shows it.
pub fn proc_of_relay(topology: &Topology, path: &str) -> String {
    let read = || {
        let mut text = String::new();
        File::open(format!("/proc/thread-self/{path}")).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    topology.relay_namespace().run(read).unwrap()
}
