//! From generator to sink over real devices: every kind of sink, both families, counted to the datagram.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lab::datagram::{Encoder, Header, Kind, Stamps};
use lab::generator::{Generator, GeneratorKind, GeneratorReport};
use lab::plan::{Flow, Plan, multicast_mac};
use lab::sink::{Sink, SinkKind, SinkReport};
use lab::tally::IncidentKind;
use lab::topology::{Checksum, Family, Link, RunName, Segmentation, Topology};
use lab::traffic_error::TrafficError;
use socket2::{Domain, Protocol, Socket, Type};

const GENERATORS: [GeneratorKind; 2] = [GeneratorKind::Packet, GeneratorKind::Xdp];
const KINDS: [SinkKind; 3] = [SinkKind::Xdp, SinkKind::Packet, SinkKind::Socket];
/// Those that take whatever can come: fragments, and frames longer than a page.
const ROBUST_KINDS: [SinkKind; 2] = [SinkKind::Packet, SinkKind::Socket];
const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];
const RUN: u16 = 0xBEEF;
/// Low, so that a debug build on a busy machine keeps up.
const RATE_PPS: u64 = 5_000;

fn topology(family: Family, mtu: u32, segmentation: Segmentation) -> Topology {
    let link = Link { mtu, segmentation, checksum: Checksum::Wire, family };
    // Without root the error is the sentence that says so.
    let run = RunName::claim().unwrap_or_else(|error| panic!("{error}"));
    Topology::build(&run, &link, 1).unwrap()
}

/// Flows as they leave the relay's side, so that generator and sink meet without a relay.
#[derive(Clone, Copy)]
enum Cast {
    Multicast,
    Unicast,
}

fn flows(topology: &Topology, family: Family, cast: Cast, count: u16) -> Vec<Flow> {
    let (source, sink) = (topology.egress[0].address(), topology.sinks[0].address());
    (0..count)
        .map(|index| {
            let group: IpAddr = match family {
                Family::Ipv4 => {
                    Ipv4Addr::from(u32::from(Ipv4Addr::new(239, 82, 1, 1)) + u32::from(index)).into()
                }
                Family::Ipv6 => Ipv6Addr::new(0xFF15, 0, 0, 0, 0, 0x82, 0, 1 + index).into(),
            };
            let delivered = match cast {
                Cast::Multicast => SocketAddr::new(group, 6000),
                Cast::Unicast => SocketAddr::new(sink, 6000 + index),
            };
            Flow {
                source: SocketAddr::new(source, 4000),
                destination: delivered,
                destination_mac: multicast_mac(delivered.ip()).unwrap_or(topology.sinks[0].mac()),
                delivered,
            }
        })
        .collect()
}

fn plan(flows: Vec<Flow>, payload_bytes: usize, datagrams: u64) -> Arc<Plan> {
    Arc::new(Plan::new(RUN, flows, payload_bytes, RATE_PPS, datagrams).unwrap())
}

fn open_sink(topology: &Topology, kind: SinkKind, plan: &Arc<Plan>) -> Sink {
    let port = &topology.sinks[0];
    let open = || Sink::open(kind, port, topology.link(), plan);
    port.namespace().run(open).unwrap().unwrap()
}

fn open_generator(
    topology: &Topology,
    generator: GeneratorKind,
    plan: &Plan,
) -> Result<Generator, TrafficError> {
    let port = &topology.egress[0];
    if generator == GeneratorKind::Xdp {
        topology.sinks[0].receive_by_napi().unwrap();
    }
    port.namespace().run(|| Generator::open(generator, port.device(), port.mac(), plan)).unwrap()
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_mins(1);
    while !condition() {
        assert!(Instant::now() < deadline, "still waiting for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Warms up, runs the plan, waits for everything and closes the count.
fn offer(topology: &Topology, kind: SinkKind, plan: &Arc<Plan>) -> (GeneratorReport, SinkReport) {
    offer_by(GeneratorKind::Packet, topology, kind, plan)
}

fn offer_by(
    generator: GeneratorKind,
    topology: &Topology,
    kind: SinkKind,
    plan: &Arc<Plan>,
) -> (GeneratorReport, SinkReport) {
    let sink = open_sink(topology, kind, plan);
    let mut generator = open_generator(topology, generator, plan).unwrap();
    let stop = AtomicBool::new(false);
    let flows = plan.flows.len() as u64;
    let warm_up = generator.warm_up(RATE_PPS, flows * 2, &stop).unwrap();
    assert_eq!((warm_up.sent, warm_up.intended), (flows * 2, flows * 2), "{warm_up:?}");
    wait_for("every flow", || sink.warm_up_flows_seen() == plan.flows.len());
    let progress = AtomicU64::new(0);
    let report = generator.run(&stop, &progress).unwrap();
    assert_eq!(progress.load(Ordering::Relaxed), plan.datagrams);
    assert!(matches!(generator.run(&stop, &progress), Err(TrafficError::AlreadyRun)));
    wait_for("every datagram", || sink.received() >= plan.datagrams + flows * 2);
    (report, sink.finish().unwrap())
}

/// Every generator with every sink. A device that receives by NAPI does so for all that follow.
fn pairs() -> impl Iterator<Item = (GeneratorKind, SinkKind)> {
    GENERATORS.into_iter().flat_map(|generator| KINDS.map(|kind| (generator, kind)))
}

fn assert_clean(report: &SinkReport, plan: &Plan, what: &str) {
    let tally = &report.tally;
    assert_eq!(tally.received, plan.datagrams, "{what}: {tally:?}");
    assert_eq!(tally.warm_up, plan.flows.len() as u64 * 2, "{what}: {tally:?}");
    let faults = tally.lost
        + tally.duplicated
        + tally.reordered
        + tally.corrupted
        + tally.damaged
        + tally.alien
        + tally.warm_up_corrupted;
    assert_eq!((faults, tally.incidents.len()), (0, 0), "{what}: {tally:?}");
    assert!(report.dropped.is_empty() && report.errors.is_empty(), "{what}: {report:?}");
    let stamped = if plan.payload_bytes >= 34 { plan.datagrams } else { 0 };
    assert_eq!(report.latency.len() + report.before_their_time, stamped, "{what}");
    assert_eq!(report.unclaimed, 0, "{what}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn everything_offered_is_counted_once_by_every_kind_in_both_families() {
    for family in FAMILIES {
        let topology = topology(family, 1500, Segmentation::Wire);
        let largest = if family == Family::Ipv4 { 1472 } else { 1452 };
        for (generator, kind) in pairs() {
            for (payload_bytes, flow_count) in [(18, 1), (33, 3), (34, 2), (100, 50), (largest, 7)] {
                let what =
                    format!("{family:?} {generator} {kind:?} {payload_bytes} bytes, {flow_count} flows");
                let plan = plan(flows(&topology, family, Cast::Multicast, flow_count), payload_bytes, 1_001);
                let (offered, counted) = offer_by(generator, &topology, kind, &plan);
                assert_eq!((offered.sent, offered.refused_total()), (1_001, 0), "{what}: {offered:?}");
                assert!(!offered.stopped, "{what}");
                assert_clean(&counted, &plan, &what);
            }
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn unicast_reaches_a_port_per_flow() {
    for family in FAMILIES {
        let topology = topology(family, 1500, Segmentation::Wire);
        for (generator, kind) in pairs() {
            let plan = plan(flows(&topology, family, Cast::Unicast, 40), 64, 800);
            let (_, counted) = offer_by(generator, &topology, kind, &plan);
            assert_clean(&counted, &plan, &format!("{family:?} {generator} {kind:?} unicast"));
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn jumbo_datagrams_pass_where_the_mtu_allows_and_are_refused_over_ipv6_where_not() {
    let small = topology(Family::Ipv6, 1500, Segmentation::Wire);
    let too_long = plan(flows(&small, Family::Ipv6, Cast::Multicast, 1), 1453, 10);
    let error = open_generator(&small, GeneratorKind::Packet, &too_long).unwrap_err().to_string();
    assert!(error.contains("1501 bytes") && error.contains("MTU of 1500"), "{error}");
    let large = topology(Family::Ipv4, 65_535, Segmentation::Wire);
    for kind in ROBUST_KINDS {
        for payload_bytes in [8_972, 65_507] {
            let plan = plan(flows(&large, Family::Ipv4, Cast::Multicast, 2), payload_bytes, 100);
            let (_, counted) = offer(&large, kind, &plan);
            assert_clean(&counted, &plan, &format!("{kind:?} {payload_bytes} bytes"));
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn fragments_are_put_together_and_counted_as_datagrams() {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    for kind in ROBUST_KINDS {
        // The last two: just over one frame, and the largest datagram, 45 fragments. Either crosses in odd frames.
        for (payload_bytes, rate_pps, datagrams) in
            [(8_000, 2_000, 2_000), (1_473, 2_000, 200), (65_507, 100, 50)]
        {
            let what = format!("{kind:?} {payload_bytes} bytes");
            let flows = flows(&topology, Family::Ipv4, Cast::Multicast, 3);
            let plan = Arc::new(Plan::new(RUN, flows, payload_bytes, rate_pps, datagrams).unwrap());
            let fragments = plan.fragments(1500).count() as u64;
            let carried = || topology.egress[0].counters().unwrap().tx_packets;
            let before = carried();
            let (offered, counted) = offer(&topology, kind, &plan);
            assert_eq!((offered.sent, offered.refused_total()), (datagrams, 0), "{what}: {offered:?}");
            assert!(fragments > 1 && carried() - before == (datagrams + 6) * fragments, "{what}");
            assert_clean(&counted, &plan, &what);
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn unicast_fragments_are_counted_too() {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    for kind in ROBUST_KINDS {
        let plan = plan(flows(&topology, Family::Ipv4, Cast::Unicast, 4), 4_000, 200);
        let (_, counted) = offer(&topology, kind, &plan);
        assert_clean(&counted, &plan, &format!("{kind:?} unicast fragments"));
    }
}

/// Far more at once than the receiving side's backlog (1,000), which must not overflow.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn bursts_arrive_whole_at_the_rate_that_is_their_mean() {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    let (burst, rate_pps, datagrams) = (5_000, 10_000, 12_000);
    for (generator, kind) in pairs() {
        let flows = flows(&topology, Family::Ipv4, Cast::Multicast, 3);
        let plan = Plan::new(RUN, flows, 100, rate_pps, datagrams).unwrap().in_bursts_of(burst).unwrap();
        let plan = Arc::new(plan);
        let (offered, counted) = offer_by(generator, &topology, kind, &plan);
        assert_eq!(
            (offered.sent, offered.refused_total()),
            (datagrams, 0),
            "{generator} {kind:?}: {offered:?}"
        );
        assert_clean(&counted, &plan, &format!("{generator} {kind:?} bursts"));
        // The third burst begins at 1 s, and its 2,000 datagrams are 200 ms of the mean rate.
        assert!(offered.elapsed > Duration::from_millis(1_150), "{generator} {kind:?}: {offered:?}");
        // Evenly paced ones arrive at once when they are due. Half a burst takes its time, and not that of the mean rate.
        let half = Duration::from_nanos(counted.latency.value_at_quantile(0.5));
        assert!((1..200).contains(&half.as_millis()), "{generator} {kind:?}: {half:?} {offered:?}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn thousands_of_groups_are_joined_and_counted() {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    for (generator, kind) in pairs() {
        let plan = plan(flows(&topology, Family::Ipv4, Cast::Multicast, 2_000), 34, 4_000);
        let (_, counted) = offer_by(generator, &topology, kind, &plan);
        assert_clean(&counted, &plan, &format!("{generator} {kind:?} 2,000 groups"));
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_ring_is_gone_around_without_a_gap() {
    let topology = topology(Family::Ipv4, 65_535, Segmentation::Wire);
    // So long that each fills a block, and so slow that the ring has the least size.
    let (payload_bytes, datagrams) = (65_507, 300);
    let flows = flows(&topology, Family::Ipv4, Cast::Multicast, 1);
    let plan = Arc::new(Plan::new(RUN, flows, payload_bytes, 200, datagrams).unwrap());
    let (_, counted) = offer(&topology, SinkKind::Packet, &plan);
    assert!(counted.buffer_bytes < payload_bytes * datagrams as usize, "{} bytes", counted.buffer_bytes);
    assert_clean(&counted, &plan, "more than the ring holds");
}

/// Sends chosen datagrams through the relay's namespace's UDP stack, so that what goes wrong is known.
struct Hand {
    socket: Socket,
    encoder: Encoder,
}

impl Hand {
    fn new(topology: &Topology, family: Family, payload_bytes: usize) -> Self {
        let port = &topology.egress[0];
        let socket = port.namespace().run(|| {
            let domain = if family == Family::Ipv4 { Domain::IPV4 } else { Domain::IPV6 };
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).unwrap();
            match port.address() {
                IpAddr::V4(address) => socket.set_multicast_if_v4(&address).unwrap(),
                IpAddr::V6(_) => socket.set_multicast_if_v6(port.index()).unwrap(),
            }
            socket.set_send_buffer_size(4 << 20).unwrap();
            socket
        });
        Self { socket: socket.unwrap(), encoder: Encoder::new(payload_bytes) }
    }

    fn payload(&self, run: u16, flow: u16, sequence: u64) -> Vec<u8> {
        let mut payload = vec![0; self.encoder.payload_bytes()];
        let header = Header { run, flow, sequence, kind: Kind::Measured };
        self.encoder.encode(&mut payload, &header, Stamps { intended_ns: 1, actual_ns: 2 });
        payload
    }

    fn send(&self, to: SocketAddr, payload: &[u8]) {
        assert_eq!(self.socket.send_to(payload, &to.into()).unwrap(), payload.len());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_goes_wrong_is_found_to_the_datagram() {
    for family in FAMILIES {
        let topology = topology(family, 1500, Segmentation::Wire);
        for kind in KINDS {
            injected_faults_are_found(&topology, family, kind);
        }
    }
}

/// Of flow 0 and 1 with 100 datagrams each: flow 0 loses 3, 50 and 99, has 7 twice, 20 after 22, 30 damaged and 40
/// unreadable but arrived; flow 1 has one of its own delivered to flow 0's group, and a stranger.
fn injected_faults_are_found(topology: &Topology, family: Family, kind: SinkKind) {
    let plan = plan(flows(topology, family, Cast::Multicast, 2), 100, 200);
    let sink = open_sink(topology, kind, &plan);
    topology.sinks[0].namespace().run(|| sink.begin_measuring()).unwrap().unwrap();
    let hand = Hand::new(topology, family, 100);
    let to = |flow: u16| plan.flows[usize::from(flow)].delivered;
    for sequence in (0..100).filter(|sequence| ![3, 20, 50, 99].contains(sequence)) {
        let mut payload = hand.payload(RUN, 0, sequence);
        match sequence {
            7 => hand.send(to(0), &payload),
            30 => payload[60] ^= 4,
            _ => {}
        }
        hand.send(to(0), &payload);
        if sequence == 22 {
            hand.send(to(0), &hand.payload(RUN, 0, 20));
        }
    }
    for sequence in 0..100 {
        let mut payload = hand.payload(RUN, 1, sequence);
        if sequence == 40 {
            payload[5] ^= 1;
        }
        hand.send(to(u16::from(sequence != 60)), &payload);
    }
    hand.send(to(1), &hand.payload(RUN ^ 1, 1, 5));
    let sent = 97 + 1 + 100 + 1;
    wait_for("everything sent", || sink.received() == sent);
    let report = sink.finish().unwrap();
    let tally = &report.tally;
    let what = format!("{family:?} {kind:?}: {tally:#?}");
    assert_eq!((tally.arrivals, tally.received, tally.expected), (sent, 194, 200), "{what}");
    assert_eq!((tally.lost, tally.duplicated, tally.reordered), (4, 1, 1), "{what}");
    assert_eq!((tally.corrupted, tally.damaged, tally.unreadable, tally.alien), (2, 1, 1, 2), "{what}");
    assert_eq!(tally.misdelivered, 1, "{what}");
    let of = |kind| {
        let of_kind = tally.incidents.iter().filter(move |incident| incident.kind == kind);
        of_kind.map(|incident| (incident.flow, incident.sequence)).collect::<Vec<_>>()
    };
    let at = |flow, sequence| (Some(flow), Some(sequence));
    assert_eq!(of(IncidentKind::Lost), [at(0, 3), at(0, 50), at(0, 99)], "{what}");
    assert_eq!(of(IncidentKind::Duplicated), [at(0, 7)], "{what}");
    assert_eq!(of(IncidentKind::Reordered), [at(0, 20)], "{what}");
    assert_eq!(of(IncidentKind::Corrupted), [at(0, 30), (Some(1), None)], "{what}");
    assert_eq!(of(IncidentKind::LostOrCorrupted), [at(1, 40), at(1, 60)], "{what}");
    assert_eq!(of(IncidentKind::Alien), [at(1, 60), (None, None)], "{what}");
    assert!(report.dropped.is_empty(), "{what}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_stop_is_heard_and_reported() {
    GENERATORS.into_iter().for_each(stop_is_heard);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn trains_cross_the_wire_in_one_piece() {
    let run = RunName::claim().unwrap_or_else(|error| panic!("{error}"));
    let (segmentation, checksum) = (Segmentation::Offload, Checksum::Offload);
    let link = Link { mtu: 1_500, segmentation, checksum, family: Family::Ipv4 };
    let topology = Topology::build(&run, &link, 1).unwrap();
    let flows = flows(&topology, Family::Ipv4, Cast::Multicast, 1);
    let plan = Plan::new(RUN, flows, 100, RATE_PPS, 640).unwrap().in_bursts_of(64).unwrap();
    let (report, sink) = offer_by(GeneratorKind::Trains, &topology, SinkKind::Packet, &Arc::new(plan));
    assert_eq!((report.sent, report.refused_total()), (640, 0));
    assert_eq!((sink.tally.received, sink.tally.lost), (640, 0));
    // Ten bursts of 64, and two datagrams of the warm-up.
    let frames = topology.sinks[0].counters().unwrap().rx_packets;
    assert!((11..=12).contains(&frames), "{frames} frames");
    topology.remove().unwrap();
}

fn stop_is_heard(generator: GeneratorKind) {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    // An hour's worth.
    let plan = plan(flows(&topology, Family::Ipv4, Cast::Multicast, 1), 100, RATE_PPS * 3_600);
    let sink = open_sink(&topology, SinkKind::Packet, &plan);
    let mut generator = open_generator(&topology, generator, &plan).unwrap();
    let (stop, progress) = (AtomicBool::new(false), AtomicU64::new(0));
    let report = std::thread::scope(|scope| {
        let running = scope.spawn(|| generator.run(&stop, &progress).unwrap());
        wait_for("some datagrams", || progress.load(Ordering::Relaxed) >= 100 && sink.received() >= 100);
        stop.store(true, Ordering::Relaxed);
        running.join().unwrap()
    });
    assert!(report.stopped && report.sent >= 100 && report.sent < report.intended, "{report:?}");
    wait_for("what was sent", || sink.received() == report.sent);
    let tally = sink.finish().unwrap().tally;
    assert_eq!((tally.received, tally.lost), (report.sent, plan.datagrams - report.sent));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_device_that_disappears_is_refusals_by_name_and_no_end_of_the_count() {
    GENERATORS.into_iter().for_each(disappearance_is_refusals);
}

fn disappearance_is_refusals(generator: GeneratorKind) {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    let plan = plan(flows(&topology, Family::Ipv4, Cast::Multicast, 1), 100, 50);
    let mut generator = open_generator(&topology, generator, &plan).unwrap();
    let stop = AtomicBool::new(false);
    let sinks = ROBUST_KINDS.map(|kind| open_sink(&topology, kind, &plan));
    assert_eq!(generator.warm_up(RATE_PPS, 7, &stop).unwrap().sent, 7);
    for sink in &sinks {
        wait_for("the warm-up", || sink.received() == 7);
    }
    let [packet, socket] = sinks;
    // Open sockets keep a namespace and its device; the one of the generator goes when its last user does.
    drop(topology);
    drop(packet.finish().unwrap());
    drop(socket);
    let deadline = Instant::now() + Duration::from_mins(1);
    while generator.warm_up(RATE_PPS, 1, &stop).unwrap().refused_total() == 0 {
        assert!(Instant::now() < deadline, "the device is still there");
    }
    let report = generator.run(&stop, &AtomicU64::new(0)).unwrap();
    assert_eq!((report.sent, report.refused_total(), report.intended), (0, 50, 50), "{report:?}");
    let known = ["ENETDOWN", "ENXIO", "ENODEV"];
    assert!(report.refused.keys().all(|name| known.contains(&name.as_str())), "{report:?}");
}

/// Frames vanish in a veth whose peer does not receive by NAPI, and no counter of the kernel's says so.
#[test]
#[ignore = "needs root: builds network namespaces"]
fn what_nobody_takes_is_not_called_sent() {
    let topology = topology(Family::Ipv4, 1500, Segmentation::Wire);
    let plan = plan(flows(&topology, Family::Ipv4, Cast::Multicast, 3), 100, 500);
    let sink = open_sink(&topology, SinkKind::Packet, &plan);
    let mut generator = open_generator(&topology, GeneratorKind::Xdp, &plan).unwrap();
    let stop = AtomicBool::new(false);
    topology.sinks[0].set_up(false).unwrap();
    let report = generator.warm_up(RATE_PPS, 100, &stop).unwrap();
    assert_eq!((report.sent, report.refused_total()), (0, 100), "{report:?}");
    topology.sinks[0].set_up(true).unwrap();
    let report = generator.run(&stop, &AtomicU64::new(0)).unwrap();
    assert_eq!((report.sent, report.refused_total()), (500, 0), "{report:?}");
    wait_for("what was sent", || sink.received() == 500);
}

#[test]
fn without_privileges_or_device_the_error_says_so() {
    let flow = Flow {
        source: ([10, 0, 0, 1], 1).into(),
        destination: ([239, 1, 1, 1], 1).into(),
        destination_mac: [0; 6],
        delivered: ([239, 1, 1, 1], 1).into(),
    };
    let plan = plan(vec![flow], 100, 1);
    let error =
        Generator::open(GeneratorKind::Packet, "no-such-device", [0; 6], &plan).unwrap_err().to_string();
    assert!(error.contains("no-such-device") && error.contains('('), "{error}");
}
