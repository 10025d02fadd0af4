//! What needs options that no safe crate offers; everything else is in `tests/traffic.rs`.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Instant;

use socket2::{Domain, Protocol, Socket, Type};

use super::*;
use crate::datagram::{Encoder, Header, Kind, Stamps};
use crate::plan::Flow;
use crate::sys::mmsg::SendBatch;
use crate::sys::packet_socket::{NO_PROTOCOL, PacketSocket};
use crate::sys::socket_option;
use crate::tally::IncidentKind;
use crate::topology::{Checksum, Family, Link, RunName, Segmentation, Topology};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 82, 1, 1);
const PAYLOAD_BYTES: usize = 100;
const PER_SUPER_FRAME: u64 = 50;

fn plan(datagrams: u64) -> Arc<Plan> {
    plan_of(PAYLOAD_BYTES, datagrams)
}

pub(super) fn plan_of(payload_bytes: usize, datagrams: u64) -> Arc<Plan> {
    let flow = Flow {
        source: ([10, 82, 0, 1], 4000).into(),
        destination: (GROUP, 6000).into(),
        destination_mac: [1, 0, 0x5E, 82, 1, 1],
        delivered: (GROUP, 6000).into(),
    };
    Arc::new(Plan::new(1, vec![flow], payload_bytes, 1_000, datagrams).unwrap())
}

pub(super) fn open(topology: &Topology, kind: SinkKind, plan: &Arc<Plan>) -> Sink {
    let port = &topology.sinks[0];
    let open = || Sink::open(kind, port, topology.link(), plan);
    port.namespace().run(open).unwrap().unwrap()
}

pub(super) fn topology(segmentation: Segmentation, checksum: Checksum) -> Topology {
    let link = Link { mtu: 1500, segmentation, checksum, family: Family::Ipv4 };
    let run = RunName::claim().unwrap_or_else(|error| panic!("{error}"));
    Topology::build(&run, &link, 1).unwrap()
}

pub(super) fn wait_until_received(sink: &Sink, count: u64) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while sink.received() < count {
        assert!(Instant::now() < deadline, "{} of {count}", sink.received());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn super_frames_count_as_the_datagrams_in_them() {
    for (segmentation, super_frames) in [(Segmentation::Wire, 0), (Segmentation::Offload, 6)] {
        let topology = topology(segmentation, Checksum::Offload);
        for kind in [SinkKind::Packet, SinkKind::Socket] {
            let datagrams = 6 * PER_SUPER_FRAME;
            let plan = plan(datagrams);
            let sink = open(&topology, kind, &plan);
            send_segmented(&topology, datagrams);
            wait_until_received(&sink, datagrams);
            let report = sink.finish().unwrap();
            assert_eq!((report.tally.received, report.tally.arrivals), (datagrams, datagrams), "{report:?}");
            assert!(report.dropped.is_empty() && report.tally.incidents.is_empty(), "{report:?}");
            if kind == SinkKind::Packet {
                assert_eq!(report.super_frames, super_frames, "{report:?}");
            }
        }
    }
}

/// Sends through the relay's namespace with `UDP_SEGMENT`, as the relay does.
fn send_segmented(topology: &Topology, datagrams: u64) {
    let port = &topology.egress[0];
    let socket =
        port.namespace().run(|| Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP)).unwrap());
    let socket = socket.unwrap();
    let IpAddr::V4(address) = port.address() else { panic!("an IPv4 link") };
    socket.set_multicast_if_v4(&address).unwrap();
    let segment = PAYLOAD_BYTES as libc::c_int;
    socket_option::set(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, &segment).unwrap();
    let encoder = Encoder::new(PAYLOAD_BYTES);
    for first in (0..datagrams).step_by(PER_SUPER_FRAME as usize) {
        let mut super_frame = vec![0; PAYLOAD_BYTES * PER_SUPER_FRAME as usize];
        for (sequence, payload) in (first..).zip(super_frame.chunks_exact_mut(PAYLOAD_BYTES)) {
            let header = Header { run: 1, flow: 0, sequence, kind: Kind::Measured };
            encoder.encode(payload, &header, Stamps { intended_ns: 1, actual_ns: 2 });
        }
        let sent = socket.send_to(&super_frame, &SocketAddr::from((GROUP, 6000)).into()).unwrap();
        assert_eq!(sent, super_frame.len());
    }
}

/// Sends frames as they are from the relay's end of the link.
pub(super) fn send_frames(topology: &Topology, frames: &[Vec<u8>]) {
    let port = &topology.egress[0];
    let socket = port.namespace().run(|| PacketSocket::open().unwrap()).unwrap();
    socket.bind(port.index(), NO_PROTOCOL).unwrap();
    for frame in frames {
        let mut batch = SendBatch::new(1, &[frame.len()]);
        batch.slot(0).unwrap().copy_from_slice(frame);
        assert_eq!(batch.send(socket.as_fd(), 0, 1).unwrap(), 1);
    }
}

/// Sequence 0 is whole, 1 has a wrong UDP checksum, 2 a wrong IP checksum, 3 a VLAN tag, 4 is a fragment, 5 goes to
/// another port, 6 to the MAC address of another host, and an ARP request comes too.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn frames_the_ip_stack_would_refuse_are_not_received() {
    let topology = topology(Segmentation::Wire, Checksum::Wire);
    let plan = plan(7);
    let encoder = Encoder::new(PAYLOAD_BYTES);
    let mut frames: Vec<Vec<u8>> = (0..7)
        .map(|sequence| {
            let mut payload = vec![0; PAYLOAD_BYTES];
            let header = Header { run: 1, flow: 0, sequence, kind: Kind::Measured };
            encoder.encode(&mut payload, &header, Stamps { intended_ns: 1, actual_ns: 2 });
            crate::frame::tests::ipv4_frame(&payload, if sequence == 5 { 6001 } else { 6000 })
        })
        .collect();
    frames[1][40] ^= 1;
    frames[2][24] ^= 1;
    frames[3].splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    frames[4] = crate::frame::tests::as_fragment(&frames[4]);
    let mut arp = vec![0xFF; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    frames.push(arp);
    for frame in &mut frames {
        frame[..6].copy_from_slice(&[1, 0, 0x5E, 82, 1, 1]);
    }
    frames[6][..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    let packet = open(&topology, SinkKind::Packet, &plan);
    let socket = open(&topology, SinkKind::Socket, &plan);
    for sink in [&packet, &socket] {
        topology.sinks[0].namespace().run(|| sink.begin_measuring()).unwrap().unwrap();
    }
    send_frames(&topology, &frames);
    wait_until_received(&packet, 7);
    wait_until_received(&socket, 1);

    let report = packet.finish().unwrap();
    let tally = &report.tally;
    assert_eq!((tally.received, tally.damaged, tally.alien, tally.lost), (1, 2, 4, 4), "{report:?}");
    // The one to another port and the one to another host.
    assert_eq!(tally.misdelivered, 2, "{report:?}");
    assert_eq!((report.other_frames, report.dropped.len()), (1, 0), "{report:?}");

    let report = socket.finish().unwrap();
    let tally = &report.tally;
    assert_eq!((tally.arrivals, tally.received, tally.lost), (1, 1, 6), "{report:?}");
    assert_eq!(report.dropped, BTreeMap::from([("checksum", 1)]), "{report:?}");
    assert_eq!(report.unclaimed, 1, "{report:?}");
}

/// What is not UDP, what nobody wants and what cannot be read belongs to the measurement only once that has begun.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_came_before_measuring_began_is_not_measured() {
    let topology = topology(Segmentation::Wire, Checksum::Wire);
    let plan = plan(1);
    let addressed = |mut frame: Vec<u8>| {
        frame[..6].copy_from_slice(&[1, 0, 0x5E, 82, 1, 1]);
        frame
    };
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    let unreadable = crate::frame::tests::ipv4_frame(&[0xFF; PAYLOAD_BYTES], 6000);
    let unwanted = crate::frame::tests::ipv4_frame(&[0xFF; 10], 6001);
    let frames = [arp, unwanted, unreadable].map(addressed);
    let packet = open(&topology, SinkKind::Packet, &plan);
    let socket = open(&topology, SinkKind::Socket, &plan);
    let counted = |rounds: u64| {
        wait_until_received(&packet, 2 * rounds);
        wait_until_received(&socket, rounds);
    };
    send_frames(&topology, &frames);
    counted(1);
    for sink in [&packet, &socket] {
        topology.sinks[0].namespace().run(|| sink.begin_measuring()).unwrap().unwrap();
    }
    let port = &topology.sinks[0];
    let unread = |sink: &Sink| port.namespace().run(|| sink.unread_of(3)).unwrap().unwrap();
    // To the socket sink an ARP request is a frame that nobody read.
    assert_eq!((unread(&packet), unread(&socket)), (0, 1));
    send_frames(&topology, &frames);
    send_frames(&topology, &frames);
    counted(3);
    let (packet, socket) = (packet.finish().unwrap(), socket.finish().unwrap());
    for report in [&packet, &socket] {
        let tally = &report.tally;
        assert_eq!((tally.warm_up_corrupted, tally.corrupted, tally.unreadable), (1, 2, 2), "{report:?}");
    }
    assert_eq!((packet.other_frames, packet.unclaimed), (2, 0), "{packet:?}");
    assert_eq!((socket.other_frames, socket.unclaimed), (0, 2), "{socket:?}");
}

/// Of 20 datagrams, each six fragments, one misses its first fragment, one another, one its last; one comes in reverse
/// order, the fragments of two are mixed, and one has a wrong UDP checksum that only the whole of it shows.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_lost_fragment_loses_exactly_its_datagram() {
    let topology = topology(Segmentation::Wire, Checksum::Wire);
    let (payload_bytes, datagrams) = (8_000, 20);
    let plan = plan_of(payload_bytes, datagrams);
    let encoder = Encoder::new(payload_bytes);
    let fragments = |sequence: u64| {
        let mut payload = vec![0; payload_bytes];
        let header = Header { run: 1, flow: 0, sequence, kind: Kind::Measured };
        encoder.encode(&mut payload, &header, Stamps { intended_ns: 1, actual_ns: 2 });
        let mut frame = crate::frame::tests::ipv4_frame(&payload, 6000);
        frame[..6].copy_from_slice(&[1, 0, 0x5E, 82, 1, 1]);
        if sequence == 17 {
            frame[40] ^= 1;
        }
        crate::frame::tests::fragments_of(&frame, 65_530_u16.wrapping_add(sequence as u16), 1_480)
    };
    let mut frames: Vec<Vec<Vec<u8>>> = (0..datagrams).map(fragments).collect();
    for (sequence, fragment) in [(3, 0), (7, 2), (11, 5)] {
        frames[sequence].remove(fragment);
    }
    frames[9].reverse();
    let mixed = std::mem::take(&mut frames[14]);
    frames[13] = frames[13].drain(..).zip(mixed).flat_map(|(one, other)| [one, other]).collect();
    let packet = open(&topology, SinkKind::Packet, &plan);
    let socket = open(&topology, SinkKind::Socket, &plan);
    for sink in [&packet, &socket] {
        topology.sinks[0].namespace().run(|| sink.begin_measuring()).unwrap().unwrap();
    }
    send_frames(&topology, &frames.concat());
    wait_until_received(&packet, 17);
    wait_until_received(&socket, 16);
    let (packet, socket) = (packet.finish().unwrap(), socket.finish().unwrap());
    let lost = |report: &SinkReport| {
        let lost = report.tally.incidents.iter().filter(|incident| incident.kind == IncidentKind::Lost);
        lost.filter_map(|incident| incident.sequence).collect::<Vec<_>>()
    };
    assert_eq!(lost(&packet), [3, 7, 11], "{packet:?}");
    assert_eq!((packet.tally.received, packet.tally.damaged, packet.tally.alien), (16, 1, 0), "{packet:?}");
    assert!(packet.dropped.is_empty(), "{packet:?}");
    assert_eq!(lost(&socket), [3, 7, 11, 17], "{socket:?}");
    assert_eq!((socket.tally.received, socket.tally.alien), (16, 0), "{socket:?}");
    assert_eq!(socket.dropped, BTreeMap::from([("checksum", 1)]), "{socket:?}");
}
