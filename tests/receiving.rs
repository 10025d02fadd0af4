//! Which path frames take into the relay: the ring that was asked for or the one there is memory for, the fallback,
//! several workers on several interfaces.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::net::SocketAddr;
use std::process::Command;

use lab::topology::{Family, Topology};
use multicast_relay::sys::affinity;
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, frame, good, network, receive, rule, sink,
};

/// A relay that may use so many KiB of memory, mapped or not.
fn limited(topology: &Topology, path: Path, kib: u64, arguments: &[&str]) -> Relay {
    let mut shell = Command::new("sh");
    let relay = env!("CARGO_BIN_EXE_multicast_relay");
    shell
        .args(["-c", &format!("ulimit -v {kib}; exec \"$0\" supervisor --json \"$@\""), relay])
        .args(arguments);
    Relay::spawn(topology, path, shell)
}

/// One datagram through the relay.
fn relays(topology: &Topology) {
    let sink = sink(&topology.sinks[0]);
    Injector::new(&topology.generator).send(&good(b"through"));
    assert_eq!(receive(&sink, 1), [b"through"]);
}

/// More than the relay's limit by itself. The kernel allocates it before it finds that it cannot be mapped.
const TOO_LARGE: [&str; 4] = ["--ring-block-size", "256MiB", "--ring-block-count", "2"];
const LIMIT_KIB: u64 = 400 << 10;

#[test]
#[ignore = "needs root: builds network namespaces"]
fn without_memory_for_a_ring_auto_receives_by_recv_and_says_why() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let rule = rule(topology);
    let relay = limited(topology, Path::Recv, LIMIT_KIB, &[&["--rule", &rule], &TOO_LARGE[..]].concat());
    relays(topology);
    let log = relay.log();
    for part in [
        "WARN map a packet ring on ingress (TPACKET_V3, 2 blocks of 256 MiB, retired after 1 ms)",
        "Cannot allocate memory",
        "make --ring-block-size smaller",
        "so frames are received by recv",
    ] {
        assert!(log.contains(part), "{part} is not in:\n{log}");
    }
    assert_eq!(relay.stop().relayed, 1);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn without_memory_for_a_ring_mmap_fails() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let limit = format!("ulimit -v {LIMIT_KIB}; exec \"$0\" supervisor \"$@\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &limit, env!("CARGO_BIN_EXE_multicast_relay"), "--use-packet-mmap"]);
    shell.args(["--rule", &rule(topology)]).args(TOO_LARGE);
    let output = topology.relay_namespace().run(|| shell.output()).unwrap().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("map a packet ring on ingress") && error.contains("--ring-block-size"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn where_there_is_memory_for_a_smaller_ring_that_is_used_and_told() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    for (path, version) in [(Path::MmapV3, "3"), (Path::MmapV2, "2")] {
        let rule = rule(topology);
        let arguments = ["--rule", &rule, "--ring-version", version, "--ring-block-size", "32MiB"];
        let relay =
            limited(topology, path, LIMIT_KIB, &[&arguments, &["--ring-block-count", "16"][..]].concat());
        relays(topology);
        let log = relay.log();
        let told = log.lines().find(|line| line.contains("there is memory for a smaller ring")).unwrap();
        assert!(told.contains("on ingress") && told.contains("16 blocks of 32 MiB"), "{told}");
        assert!([8, 4, 2].iter().any(|count| told.contains(&format!("{count} blocks of 32 MiB"))), "{told}");
        assert_eq!(relay.stop().relayed, 1);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn auto_receives_by_the_ring_that_flag_and_environment_ask_for() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut command = Command::new(env!("CARGO_BIN_EXE_multicast_relay"));
    command.args(["supervisor", "--json", "--rule", &rule(topology)]);
    command.args(["--ring-block-size", "128KiB", "--ring-retire-ms", "7"]);
    command.env("MCR_RING_BLOCK_SIZE", "1GiB").env("MCR_RING_BLOCK_COUNT", "12");
    let relay = Relay::spawn(topology, Path::MmapV3, command);
    relays(topology);
    let log = relay.log();
    assert!(log.contains("TPACKET_V3, 12 blocks of 128 KiB, retired after 7 ms"), "{log}");
    assert_eq!(relay.stop().relayed, 1);
}

over_every_path!(a_worker_that_polls_before_it_sleeps_relays_the_same);

fn a_worker_that_polls_before_it_sleeps_relays_the_same(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let relay = Relay::start(topology, path, &["--rule", &rule(topology), "--busy-poll-us", "1000"]);
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    for i in 0..500_u16 {
        injector.send(&good(&i.to_be_bytes()));
        // Both while it polls and while it sleeps.
        if i % 100 == 99 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
    assert_eq!(receive(&sink, 500), (0..500_u16).map(|i| i.to_be_bytes().to_vec()).collect::<Vec<_>>());
    assert_eq!(relay.stop().relayed, 500);
}

/// What `FLOWS` flows of `EACH` datagrams become on their way: for each flow its sequence numbers in order of arrival.
const FLOWS: u8 = 32;
const EACH: u8 = 100;

fn flows_through(topology: &Topology, relay: &[&str], path: Path) -> (Vec<Vec<u8>>, Vec<u64>) {
    let rules: Vec<_> = (0..FLOWS)
        .map(|flow| format!("ingress:239.81.9.{flow}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0"))
        .collect();
    let mut arguments: Vec<_> = rules.iter().flat_map(|rule| ["--rule", rule]).collect();
    arguments.extend(relay);
    let relay = Relay::start(topology, path, &arguments);
    let sink = sink(&topology.sinks[0]);
    let mut injector = Injector::new(&topology.generator);
    for i in 0..EACH {
        for flow in 0..FLOWS {
            injector.send(&frame(SocketAddr::from(([239, 81, 9, flow], PORT)), &[flow, i]));
        }
    }
    let mut flows = vec![Vec::new(); FLOWS.into()];
    for payload in receive(&sink, usize::from(FLOWS) * usize::from(EACH)) {
        flows[usize::from(payload[0])].push(payload[1]);
    }
    let stats = relay.stop();
    // Nothing twice, which a relay of which every worker gets everything would do.
    let sent = u64::from(FLOWS) * u64::from(EACH);
    assert_eq!((stats.received, stats.relayed), (sent, sent));
    (flows, stats.workers.iter().map(|worker| worker.received).collect())
}

over_every_path!(workers_share_flows_and_keep_the_order_of_each);

fn workers_share_flows_and_keep_the_order_of_each(path: Path) {
    let network = network(Family::Ipv4, 1);
    let (flows, workers) = flows_through(&network.topology, &[], path);
    for (flow, sequence) in flows.iter().enumerate() {
        assert_eq!(*sequence, (0..EACH).collect::<Vec<_>>(), "flow {flow}");
    }
    let expected = if matches!(path, Path::MmapByTwo | Path::RecvByTwo) { 2 } else { 1 };
    assert_eq!(workers.len(), expected);
    // Each flow whole to one worker, and 32 flows not all to the same.
    assert!(workers.iter().all(|received| *received > 0 && received % u64::from(EACH) == 0), "{workers:?}");
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn frames_are_spread_in_turn_or_by_cpu_and_none_comes_twice() {
    for path in [Path::MmapV3, Path::MmapV2, Path::Recv] {
        for fanout in ["lb", "cpu"] {
            let network = network(Family::Ipv4, 1);
            let arguments = ["--num-workers", "3", "--fanout", fanout];
            let (flows, workers) = flows_through(&network.topology, &arguments, path);
            for mut sequence in flows {
                sequence.sort_unstable();
                assert_eq!(sequence, (0..EACH).collect::<Vec<_>>(), "{fanout}");
            }
            assert_eq!(workers.len(), 3);
            if fanout == "lb" {
                let [most, least] = [workers.iter().max().unwrap(), workers.iter().min().unwrap()];
                assert!(most - least <= 1, "{workers:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn by_cpu_a_worker_gets_what_its_cpu_has_received() {
    for path in [Path::MmapV3, Path::MmapV2, Path::Recv] {
        let network = network(Family::Ipv4, 1);
        let topology = &network.topology;
        let arguments = ["--rule", &rule(topology), "--num-workers", "2", "--fanout", "cpu"];
        let relay = Relay::start(topology, path, &arguments);
        let sink = sink(&topology.sinks[0]);
        let mut injector = Injector::new(&topology.generator);
        // A veth's frames are received by the CPU that sends them; a number modulo 2 chooses the worker.
        for (cpu, count) in [(0, 100), (1, 30)] {
            if affinity::pin_to(cpu).is_err() {
                return;
            }
            for _ in 0..count {
                injector.send(&good(b"x"));
            }
        }
        receive(&sink, 130);
        let received: Vec<_> = relay.stop().workers.iter().map(|worker| worker.received).collect();
        assert_eq!(received, [100, 30], "{path:?}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn more_workers_than_cpus_are_told() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let cpus = std::thread::available_parallelism().unwrap().get();
    let workers = (cpus + 1).to_string();
    let arguments = ["--rule", &rule(topology), "--num-workers", &workers, "--ring-block-size", "64KiB"];
    let relay = Relay::start(topology, Path::MmapV3, &arguments);
    relays(topology);
    let log = relay.log();
    assert!(log.contains(&format!("{workers} workers share {cpus} CPUs")), "{log}");
    assert_eq!(relay.stop().workers.len().to_string(), workers);
}

over_every_path!(interfaces_have_a_group_each_and_relays_do_not_meet);

/// Two relays side by side, each from two interfaces at once.
fn interfaces_have_a_group_each_and_relays_do_not_meet(path: Path) {
    const EACH: u64 = 50;
    let network = network(Family::Ipv4, 2);
    let topology = &network.topology;
    let from_ingress = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let from_egress = format!("egress1:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let relays =
        [(); 2].map(|()| Relay::start(topology, path, &["--rule", &from_ingress, "--rule", &from_egress]));
    let sink = sink(&topology.sinks[0]);
    let mut injectors = [Injector::new(&topology.generator), Injector::new(&topology.sinks[1])];
    for _ in 0..EACH {
        for injector in &mut injectors {
            injector.send(&good(b"x"));
        }
    }
    // Each relay relays what comes in on each interface.
    receive(&sink, 4 * EACH as usize);
    for stats in relays.map(Relay::stop) {
        let received: Vec<_> = stats.inputs.iter().map(|input| input.received).collect();
        assert_eq!((received, stats.relayed), (vec![EACH; 2], 2 * EACH));
    }
}
