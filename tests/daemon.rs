//! What an operator trusts a daemon for: workers and supervisors that die, rules and interfaces that come and go, and a flow
//! that all this does not disturb.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::cell::RefCell;
use std::process::Command;
use std::time::Duration;

use lab::topology::Family;
use multicast_relay::control::{Answer, Command as Ask, State};
use support::flow::{paced, undisturbed};
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, good, kill, network, rule, sink, wait_until,
};

over_every_path!(a_worker_that_dies_loses_nothing_that_the_kernel_has);

fn a_worker_that_dies_loses_nothing_that_the_kernel_has(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let (sent, arrived) = undisturbed(topology, &sink, |flow| {
        for signal in [libc::SIGKILL, libc::SIGSYS, libc::SIGABRT] {
            flow.goes_on(4_000);
            let before = relay.workers();
            kill(before[0], signal);
            wait_until("another worker is started", || {
                let now = relay.workers();
                now.len() == before.len() && !now.contains(&before[0])
            });
            flow.goes_on(6_000);
        }
    });
    let stats = relay.stop();
    let lost = u64::from(sent) - arrived.len() as u64;
    let twice = arrived.values().filter(|times| **times > 1).count();
    let abandoned: u64 = stats.inputs.iter().map(|input| input.abandoned).sum();
    println!("{path:?}: of {sent} datagrams {lost} lost, {twice} twice; {stats:?}");
    if path.is_by_ring() {
        assert_eq!((lost, abandoned), (0, 0));
    } else {
        // What a worker had in its receive buffers goes with it, and is counted.
        assert!(
            lost <= abandoned + stats.rules[0].outputs[0].dropped.get("interrupted").unwrap_or(&0),
            "{lost} lost"
        );
        assert!(lost <= 3 * 512, "{lost} lost");
    }
    assert_eq!(stats.inputs[0].captured, u64::from(sent));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_worker_that_hangs_is_replaced_and_loses_nothing() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &rule(topology)]);
    // What has gathered leaves in one burst, and a device's backlog (net.core.netdev_max_backlog) holds 1,000 datagrams.
    let (sent, arrived) = paced(Duration::from_millis(2), topology, &sink, |_| {
        let before = relay.workers();
        kill(before[0], libc::SIGSTOP);
        wait_until("another worker is started", || relay.workers() != before && !relay.workers().is_empty());
    });
    assert_eq!(arrived.len(), sent as usize);
    let Answer::Workers(workers) = relay.ask(&Ask::Workers).unwrap() else {
        panic!("an answer of another kind")
    };
    assert_eq!(workers[0].restarts, 1);
    assert!(workers[0].last_exit.as_ref().unwrap().contains("did nothing"), "{workers:?}");
    relay.stop();
}

over_every_path!(rules_come_and_go_beside_a_flow_that_is_not_disturbed);

fn rules_come_and_go_beside_a_flow_that_is_not_disturbed(path: Path) {
    const ROUNDS: u8 = 20;
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, path, &["--rule", &rule(topology)]);
    let (sent, arrived) = undisturbed(topology, &sink, |_| {
        let mut injector = Injector::new(&topology.generator);
        for round in 0..ROUNDS {
            let specs: Vec<_> = (0..10)
                .map(|i| format!("ingress:239.83.{round}.{i}:{PORT}={OUT_GROUP}:{}:egress0", OUT_PORT + 1))
                .collect();
            relay.run(
                &[&["add"], &*specs.iter().flat_map(|spec| ["--rule", spec]).collect::<Vec<_>>()].concat(),
            );
            assert_eq!(relay.rules().len(), 11);
            injector.send(&support::frame(([239, 83, round, 7], PORT).into(), b"neighbour"));
            let relayed = |stats: &multicast_relay::control::Stats| stats.rules[8].outputs[0].relayed == 1;
            relay.stats_when(relayed);
            let names: Vec<_> = (0..10).map(|i| format!("ingress:239.83.{round}.{i}:{PORT}")).collect();
            relay.run(&[&["remove"], &*names.iter().map(String::as_str).collect::<Vec<_>>()].concat());
        }
    });
    assert_eq!(arrived.len(), sent as usize, "nothing is lost");
    let stats = relay.stop();
    assert_eq!(stats.removed.matched, u64::from(ROUNDS));
    assert_eq!(stats.rules[0].matched, u64::from(sent));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_file_that_is_read_again_changes_what_differs_and_one_with_a_mistake_nothing() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("relay.toml");
    let text = |rules: &[(&str, u8, u16)]| {
        let rule = |(name, last, port): &(&str, u8, u16)| {
            format!(
                "[[rule]]\nname = \"{name}\"\ninput = {{ interface = \"ingress\", group = \"239.81.1.{last}\", port = {PORT} }}\n\
                 outputs = [{{ group = \"{OUT_GROUP}\", port = {port}, interface = \"egress0\" }}]\n"
            )
        };
        rules.iter().map(rule).collect::<String>()
    };
    std::fs::write(&file, text(&[("flow", 1, OUT_PORT), ("goes", 2, 7000), ("changes", 3, 7000)])).unwrap();
    let relay = Relay::start(topology, Path::MmapV3, &["--config", file.to_str().unwrap()]);
    let names = || relay.rules().into_iter().map(|rule| rule.rule.name.unwrap()).collect::<Vec<_>>();
    let (sent, arrived) = undisturbed(topology, &sink, |flow| {
        flow.goes_on(2_000);
        std::fs::write(&file, text(&[("flow", 1, OUT_PORT), ("changes", 3, 7001), ("comes", 4, 7000)]))
            .unwrap();
        let reloaded = relay.ask(&Ask::Reload).unwrap();
        let Answer::Reloaded { added, removed, changed, unchanged, needs_restart } = reloaded else {
            panic!("an answer of another kind")
        };
        assert_eq!(
            (added.as_slice(), removed.as_slice()),
            (&["comes".to_owned()][..], &["goes".to_owned()][..])
        );
        assert_eq!((changed.as_slice(), unchanged), (&["changes".to_owned()][..], 1));
        assert!(needs_restart.is_empty());
        std::fs::write(&file, text(&[("flow", 1, OUT_PORT)]) + "[relay]\nnum-workers = 0\n").unwrap();
        let refusal = relay.ask(&Ask::Reload).unwrap_err();
        assert!(
            refusal.message.contains("num-workers") && refusal.message.contains("relay.toml:"),
            "{refusal}"
        );
        assert_eq!(names(), ["flow", "changes", "comes"]);
        std::fs::write(&file, text(&[("flow", 1, OUT_PORT)]) + "[relay]\nnum-workers = 2\n").unwrap();
        relay.signal(libc::SIGHUP);
        wait_until("the file is read again", || names() == ["flow"]);
    });
    assert_eq!(arrived.len(), sent as usize, "nothing is lost");
    assert!(
        relay.log().contains("num-workers takes effect when the relay is started again"),
        "{}",
        relay.log()
    );
    let stats = relay.stop();
    assert_eq!(
        (stats.rules[0].matched, stats.rules[0].outputs[0].relayed),
        (u64::from(sent), u64::from(sent))
    );
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_rule_waits_for_its_interfaces_and_is_heard_again_when_they_are_made_anew() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let late = format!("late:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &late]);
    let state = || (relay.rules()[0].state, relay.rules()[0].reasons.join("; "));
    assert_eq!(state(), (State::Waiting, "input late: no such interface".to_owned()));
    let ip = |arguments: &str| {
        let run = || Command::new("ip").args(arguments.split(' ')).status().unwrap().success();
        assert!(topology.relay_namespace().run(run).unwrap(), "ip {arguments}");
    };
    for round in 0..3_u8 {
        ip("link add late type veth peer name peer");
        ip("link set peer up");
        ip("link set late up");
        wait_until("the rule relays", || state().0 == State::Relaying);
        let open = || {
            let socket = multicast_relay::sys::packet_socket::PacketSocket::open().unwrap();
            socket.bind(multicast_relay::sys::interface::Interface::find("peer").unwrap().index).unwrap();
            std::fs::File::from(socket.try_clone().unwrap())
        };
        let mut peer = topology.relay_namespace().run(open).unwrap();
        std::io::Write::write_all(&mut peer, &good(&[round])).unwrap();
        assert_eq!(support::receive(&sink, 1), [[round]]);
        let joined = support::proc_of_relay(topology, "net/igmp");
        assert!(joined.contains("010151EF"), "the group is joined: {joined}");
        ip("link del late");
        wait_until("the rule waits", || state().0 == State::Waiting);
    }
    let stats = relay.stop();
    assert_eq!((stats.relayed, stats.inputs.len()), (3, 1));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn interfaces_that_come_and_go_leave_nothing_behind() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let flapping = format!("late:{GROUP}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    let out = format!("ingress:239.81.1.2:{PORT}={OUT_GROUP}:{OUT_PORT}:late");
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &flapping, "--rule", &out]);
    let descriptors = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let all = || relay.workers().into_iter().chain([relay.pid()]).map(descriptors).collect::<Vec<_>>();
    let waits = |count: usize| {
        let waiting = relay
            .rules()
            .iter()
            .filter(|rule| {
                rule.state == State::Waiting
                    || rule.outputs.iter().any(|output| output.state == State::Waiting)
            })
            .count();
        waiting == count
    };
    let flap = || {
        let run = |arguments: &str| {
            assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success());
        };
        topology
            .relay_namespace()
            .run(|| {
                run("link add late type veth peer name peer");
                run("link set peer up");
                run("addr add 10.99.0.1/24 dev late");
                run("link set late up");
            })
            .unwrap();
        wait_until("both rules relay", || waits(0));
        topology.relay_namespace().run(|| run("link del late")).unwrap();
        wait_until("both rules wait", || waits(2));
    };
    flap();
    let before = all();
    (0..30).for_each(|_| flap());
    // A connection to the control socket is closed a moment after its client, so `before` may count one too.
    wait_until(&format!("no more descriptors than before, {before:?}"), || {
        let now = all();
        now.len() == before.len() && now.iter().zip(&before).all(|(now, before)| now <= before)
    });
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn ten_thousand_rules_are_added_one_by_one_and_in_one_call() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &rule(topology)]);
    let spec = |third: u32, i: u32| {
        let group = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(239, third as u8, 0, 0)) + i);
        let rule: multicast_relay::rules::Rule =
            format!("ingress:{group}:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0").parse().unwrap();
        multicast_relay::control::RuleSpec::from(&rule)
    };
    let mut connection = relay.connect();
    for i in 0..10_000 {
        support::exchange(&mut connection, &Ask::Add { rules: vec![spec(100, i)] }).unwrap();
    }
    support::exchange(&mut connection, &Ask::Add { rules: (0..10_000).map(|i| spec(101, i)).collect() })
        .unwrap();
    assert_eq!(relay.rules().len(), 20_001);
    let mut injector = Injector::new(&topology.generator);
    for third in [100, 101] {
        injector.send(&support::frame(([239, third, 39, 15], PORT).into(), &[third]));
        assert_eq!(support::receive(&sink, 1), [[third]]);
    }
    let refusal = relay.ask(&Ask::Add { rules: vec![spec(102, 1), spec(101, 5)] }).unwrap_err();
    assert!(refusal.message.contains("has the same input as rule"), "{refusal}");
    assert_eq!(relay.rules().len(), 20_001, "refused as a whole");
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn an_output_follows_the_address_of_its_interface() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = support::Tap::new(&topology.sinks[0]);
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", &rule(topology)]);
    let mut injector = Injector::new(&topology.generator);
    let ip = |arguments: &str| {
        let run = || Command::new("ip").args(arguments.split(' ')).status().unwrap().success();
        assert!(topology.relay_namespace().run(run).unwrap(), "ip {arguments}");
    };
    let source = |frame: &[u8]| std::net::IpAddr::from([frame[26], frame[27], frame[28], frame[29]]);
    injector.send(&good(b"first"));
    assert_eq!(source(&tap.next_udp()), topology.egress[0].address());
    ip("addr flush dev egress0");
    ip("addr add 10.97.0.1/24 dev egress0");
    ip("route replace 224.0.0.0/4 dev egress0");
    let (injector, tap) = (RefCell::new(injector), RefCell::new(tap));
    wait_until("copies have the address that is there now", || {
        injector.borrow_mut().send(&good(b"again"));
        relay.stats().relayed > 1
            && source(&tap.borrow_mut().next_udp()) == std::net::IpAddr::from([10, 97, 0, 1])
    });
    relay.stop();
}
