//! An output that takes nothing any more disturbs no other.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::{Duration, Instant};

use lab::topology::{Family, Topology};
use multicast_relay::rules::Rule;
use multicast_relay::sys::udp_socket::{EgressAddress, open_egress};
use multicast_relay::worker::order::Path;
use support::in_process::{InProcess, Output, PATHS};
use support::{Injector, good, network};

/// As many as a receive buffer of 4 MiB holds unread.
const COUNT: u32 = 10_000;
const RATE_PPS: u32 = 50_000;
const GOOD: u16 = 7;
/// How long to wait for a datagram that has left.
const PATIENCE: Duration = Duration::from_millis(500);

/// A socket at the sink that reads later.
fn sink(topology: &Topology) -> UdpSocket {
    let port = &topology.sinks[0];
    let open = || {
        let IpAddr::V4(address) = port.address() else { unreachable!("an IPv4 sink") };
        let socket = UdpSocket::bind((address, 0)).unwrap();
        socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    };
    port.namespace().run(open).unwrap()
}

/// What sends first through `blocked`, then to each of `sinks`.
fn outputs(topology: &Topology, blocked: UnixDatagram, sinks: &[UdpSocket]) -> Vec<Output> {
    let port = &topology.egress[0];
    let to = |destination| EgressAddress::new(destination, port.device(), port.index());
    let mut outputs = vec![(to((Ipv4Addr::LOCALHOST, 1).into()), OwnedFd::from(blocked))];
    for sink in sinks {
        let address = to(sink.local_addr().unwrap());
        let socket =
            topology.relay_namespace().run(|| open_egress(&address, None, 4 << 20)).unwrap().unwrap().socket;
        outputs.push((address, socket));
    }
    outputs
}

fn offer(injector: &mut Injector) {
    let start = Instant::now();
    for i in 0..COUNT {
        while start.elapsed() < Duration::from_secs(1) / RATE_PPS * i {
            thread::yield_now();
        }
        injector.send(&good(&i.to_be_bytes()));
    }
}

/// What arrives at a sink: as many as should, unless one takes too long, and what waits behind them.
fn arrived(sink: &UdpSocket) -> Vec<Vec<u8>> {
    let (mut payloads, mut buffer) = (Vec::new(), [0; 100]);
    while let Ok(len) = sink.recv(&mut buffer) {
        // Nothing is to follow the last one, so nothing is waited for.
        sink.set_nonblocking(payloads.len() + 1 >= COUNT as usize).unwrap();
        payloads.push(buffer[..len].to_vec());
    }
    payloads
}

/// What processors of this machine have dropped because they came too late to what had arrived for them: the second
/// column of each.
fn backlog_drops() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let drops = text.lines().filter_map(|line| line.split_ascii_whitespace().nth(1));
    drops.map(|drops| u64::from_str_radix(drops, 16).unwrap()).sum()
}

/// Relays through one blocked output and seven others; returns what has arrived behind these, and how many frames the kernel
/// had no room for because the worker was kept from its processor.
fn relay(name: &str, path: Path) -> (Vec<Vec<Vec<u8>>>, u32) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sinks: Vec<_> = (0..GOOD).map(|_| sink(topology)).collect();
    // Nobody reads at its other end, so it is full after a few datagrams.
    let (blocked, _unread) = UnixDatagram::pair().unwrap();
    socket2::SockRef::from(&blocked).set_send_buffer_size(4_096).unwrap();
    let rule = format!("ingress:{}:{}={}:1:egress", support::GROUP, support::PORT, Ipv4Addr::LOCALHOST);
    let rules: [Rule; 1] = [rule.parse().unwrap()];
    let worker = InProcess::through(topology, &rules, vec![outputs(topology, blocked, &sinks)], path);
    offer(&mut Injector::new(&topology.generator));
    let missed = worker.tap.take_statistics().unwrap().dropped;
    let counters = worker.stop();

    let outputs: Vec<_> = (0..=usize::from(GOOD)).map(|place| counters.output(place).unwrap()).collect();
    let [blocked, good @ ..] = outputs.as_slice() else { unreachable!("eight outputs") };
    let received = u64::from(COUNT - missed);
    assert!(good.iter().all(|output| output.relayed().get() == received), "{name}");
    let dropped = blocked.dropped().report();
    assert!(dropped["buffer_full"] > received / 2 && dropped.len() == 1, "{name}: {dropped:?}");
    assert_eq!(blocked.relayed().get() + dropped["buffer_full"], received, "{name}");
    (sinks.iter().map(arrived).collect(), missed)
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn one_blocked_output_of_eight_costs_the_others_nothing() {
    let expected: Vec<_> = (0..COUNT).map(|i| i.to_be_bytes().to_vec()).collect();
    for (name, path) in PATHS {
        let attempt = || {
            let before = backlog_drops();
            let (arrived, missed) = relay(name, path);
            // What the machine itself has dropped, before or behind the relay, is no loss of the relay's.
            (arrived, missed > 0 || backlog_drops() > before)
        };
        let of_the_relay = |(arrived, excused): &(Vec<Vec<Vec<u8>>>, bool)| {
            arrived.iter().all(|sink| *sink == expected) || !excused
        };
        let (arrived, _) = (0..5).map(|_| attempt()).find(of_the_relay).expect("a machine that keeps up");
        for (i, sink) in arrived.iter().enumerate() {
            assert!(*sink == expected, "{name}, output {}: {} of {COUNT}, in order", i + 1, sink.len());
        }
    }
}
