//! What the tests share: topologies, waiting, and sockets on the devices.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use lab::net::NAMESPACE_DIRECTORY;
use lab::topology::{Checksum, Family, Link, Port, RunName, Segmentation, Topology};
use pnet_packet::Packet;
use pnet_packet::ethernet::{EtherTypes, EthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Packet, MutableIpv4Packet};
use pnet_packet::ipv6::Ipv6Packet;
use pnet_packet::udp::{self, MutableUdpPacket, UdpPacket};
use socket2::{Domain, Protocol, Socket, Type};

/// How long anything may take. Only a failing test waits as long.
pub(crate) const DEADLINE: Duration = Duration::from_mins(1);

/// The group and port the sinks receive on.
pub(crate) const PORT: u16 = 6000;

pub(crate) fn link(family: Family) -> Link {
    Link { mtu: 1500, segmentation: Segmentation::Wire, checksum: Checksum::Offload, family }
}

/// A run of its own. Without root the error is the sentence that says so.
pub(crate) fn claim() -> RunName {
    RunName::claim().unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn topology(link: Link, sinks: usize) -> (RunName, Topology) {
    let run = claim();
    let topology = Topology::build(&run, &link, sinks).expect("build a topology");
    (run, topology)
}

/// Waits for a condition.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The namespaces there are of a run.
pub(crate) fn namespaces_of(run: &str) -> Vec<String> {
    let entries = fs::read_dir(NAMESPACE_DIRECTORY).expect("list the namespaces");
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.starts_with(&format!("lab-{run}-"))).collect()
}

/// Where a namespace is mounted.
pub(crate) fn path_of(namespace: &str) -> PathBuf {
    Path::new(NAMESPACE_DIRECTORY).join(namespace)
}

/// The namespace the calling thread is in.
pub(crate) fn current_namespace() -> PathBuf {
    fs::read_link("/proc/thread-self/ns/net").expect("own namespace")
}

/// The group that sinks receive on.
pub(crate) fn group(family: Family) -> IpAddr {
    match family {
        Family::Ipv4 => Ipv4Addr::new(239, 82, 1, 1).into(),
        Family::Ipv6 => Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0x82, 0, 1).into(),
    }
}

/// A socket of a sink, joined to `group`.
pub(crate) fn receiver(port: &Port, group: IpAddr) -> UdpSocket {
    port.namespace().run(|| joined(port, group)).expect("enter the namespace")
}

fn joined(port: &Port, group: IpAddr) -> UdpSocket {
    let any: IpAddr =
        if group.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, PORT)).expect("bind");
    match (group, port.address()) {
        (IpAddr::V4(group), IpAddr::V4(device)) => socket.join_multicast_v4(&group, &device),
        (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, port.index()),
        (group, device) => panic!("{group} on a device with {device}"),
    }
    .expect("join");
    socket.set_read_timeout(Some(DEADLINE)).expect("set the timeout");
    socket
}

/// A socket that sends from a device, as a relay does.
pub(crate) fn sender(port: &Port) -> UdpSocket {
    let open = || {
        let socket = Socket::new(Domain::for_address((port.address(), 0).into()), Type::DGRAM, None)?;
        match port.address() {
            IpAddr::V4(address) => socket.set_multicast_if_v4(&address)?,
            IpAddr::V6(_) => socket.set_multicast_if_v6(port.index())?,
        }
        socket.bind(&SocketAddr::new(port.address(), 0).into())?;
        std::io::Result::Ok(UdpSocket::from(socket))
    };
    port.namespace().run(open).expect("enter the namespace").expect("open a sender")
}

/// Receives one datagram, or fails at the deadline.
pub(crate) fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65536];
    let (length, from) = socket.recv_from(&mut buffer).expect("a datagram before the deadline");
    buffer.truncate(length);
    (buffer, from)
}

/// Sends a datagram to a group as the generator does: from an address that is nowhere configured.
pub(crate) fn generate(generator: &Port, source: Ipv4Addr, group: Ipv4Addr, payload: &[u8]) {
    let packet = ipv4_datagram(source, group, payload);
    let send = || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
        socket.bind_device(Some(generator.device().as_bytes()))?;
        socket.send_to(&packet, &SocketAddr::new(group.into(), 0).into())
    };
    let sent = generator.namespace().run(send).expect("enter the namespace").expect("send");
    assert_eq!(sent, packet.len());
}

fn ipv4_datagram(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 28 + payload.len()];
    let length = u16::try_from(bytes.len()).expect("a datagram that fits");
    let mut packet = MutableIpv4Packet::new(&mut bytes).expect("room for the header");
    packet.set_version(4);
    packet.set_header_length(5);
    packet.set_total_length(length);
    packet.set_ttl(8);
    packet.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    packet.set_source(source);
    packet.set_destination(destination);
    packet.set_checksum(ipv4::checksum(&packet.to_immutable()));
    let mut datagram = MutableUdpPacket::new(&mut bytes[20..]).expect("room for the header");
    datagram.set_source(PORT);
    datagram.set_destination(PORT);
    datagram.set_length(length - 20);
    datagram.set_payload(payload);
    datagram.set_checksum(udp::ipv4_checksum(&datagram.to_immutable(), &source, &destination));
    bytes
}

/// A tap on every device of a port's namespace.
pub(crate) struct Tap(Socket);

impl Tap {
    pub(crate) fn open(port: &Port) -> Self {
        let every_protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
        let open = || Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(every_protocol)));
        let socket = port.namespace().run(open).expect("enter the namespace").expect("open a tap");
        socket.set_read_timeout(Some(DEADLINE)).expect("set the timeout");
        Self(socket)
    }

    /// Waits for the UDP frame that carries `payload`.
    pub(crate) fn frame(&self, payload: &[u8]) -> Frame {
        use std::io::Read;
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < DEADLINE, "no such frame");
            let mut bytes = vec![0; 65600];
            let length = (&self.0).read(&mut bytes).expect("a frame before the deadline");
            bytes.truncate(length);
            if let Some(frame) = Frame::parse(&bytes).filter(|frame| frame.payload == payload) {
                return frame;
            }
        }
    }
}

/// A UDP frame as a tap saw it.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) mac: [[u8; 6]; 2],
    pub(crate) source: IpAddr,
    pub(crate) checksum: u16,
    pub(crate) right_checksum: u16,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let ethernet = EthernetPacket::new(bytes)?;
        let mac = [ethernet.get_source(), ethernet.get_destination()].map(Into::into);
        let (source, datagram, right_checksum): (IpAddr, Vec<u8>, _) = match ethernet.get_ethertype() {
            EtherTypes::Ipv4 => {
                let ip = Ipv4Packet::new(ethernet.payload())?;
                let udp = UdpPacket::new(ip.payload())?;
                let right = udp::ipv4_checksum(&udp, &ip.get_source(), &ip.get_destination());
                (ip.get_source().into(), ip.payload().to_vec(), right)
            }
            EtherTypes::Ipv6 => {
                let ip = Ipv6Packet::new(ethernet.payload())?;
                let udp = UdpPacket::new(ip.payload())?;
                let right = udp::ipv6_checksum(&udp, &ip.get_source(), &ip.get_destination());
                (ip.get_source().into(), ip.payload().to_vec(), right)
            }
            _ => return None,
        };
        let udp = UdpPacket::new(&datagram)?;
        let (checksum, payload) = (udp.get_checksum(), udp.payload().to_vec());
        Some(Self { mac, source, checksum, right_checksum, payload })
    }
}
