//! Rules for ranges that come and go while the relay runs, and what of the host they take.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::process::Command;

use lab::topology::{Family, Topology};
use multicast_relay::control::{Answer, Command as Ask, RefusalKind, RuleSpec};
use multicast_relay::rules::Rule;
use support::{
    GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, Tap, frame, good, network, proc_of_relay,
    receive, rule, sink, wait_until,
};

fn spec(rule: &str) -> RuleSpec {
    RuleSpec::from(&rule.parse::<Rule>().unwrap())
}

fn to(host: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([239, 81, 7, host], port))
}

/// How many groups 239.81.7.0/24 the relay's host is a member of, or of all IPv4 groups from 239.81 on.
fn joined(topology: &Topology, third: Option<u8>) -> usize {
    let groups = proc_of_relay(topology, "net/igmp");
    // The kernel writes the address as a number in the order of the machine.
    let is_meant = |line: &&str| {
        let name = line.split_whitespace().next().and_then(|name| u32::from_str_radix(name, 16).ok());
        let bytes = name.map(u32::to_ne_bytes);
        bytes.is_some_and(|b| b[..2] == [239, 81] && third.is_none_or(|third| b[2] == third))
    };
    groups.lines().filter(is_meant).count()
}

/// Sends to each of `ports` of a group, and waits until those have arrived that `tap` gets at these ones.
#[track_caller]
fn arrive(injector: &mut Injector, tap: &mut Tap, ports: &[u16], expected: &[u16]) {
    for port in ports {
        injector.send(&frame(to(9, *port), b"x"));
    }
    let mut arrived: Vec<_> = (0..expected.len())
        .map(|_| {
            let frame = tap.next_udp();
            u16::from_be_bytes([frame[36], frame[37]])
        })
        .collect();
    arrived.sort_unstable();
    assert_eq!(arrived, expected);
}

over_every_path!(a_range_comes_and_goes_and_disturbs_no_other_rule);

fn a_range_comes_and_goes_and_disturbs_no_other_rule(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    // One that takes what the range takes when it is not there.
    let wide = "ingress:239.81.7.0/25:5000-5009=239.99.1.1:7000-7009:egress0";
    let relay = Relay::start(topology, path, &["--rule", wide]);
    let mut injector = Injector::new(&topology.generator);
    arrive(&mut injector, &mut tap, &[4999, 5000, 5009, 5010], &[7000, 7009]);
    relay.run(&[
        "add",
        "--name",
        "range",
        "--input-interface",
        "ingress",
        "--input-group",
        "239.81.7.0/28",
        "--input-port",
        "5002-5011",
        "--outputs",
        "239.82.7.0/28:6002-6011:egress0",
    ]);
    assert_eq!(joined(topology, Some(7)), 128);
    arrive(
        &mut injector,
        &mut tap,
        &[5000, 5001, 5002, 5009, 5010, 5011, 5012],
        &[6002, 6009, 6010, 6011, 7000, 7001],
    );
    let list = relay.run(&["list", "--format", "toml"]);
    let range = "input = { interface = \"ingress\", group = \"239.81.7.0/28\", port = \"5002-5011\" }\n\
                 outputs = [\n  { group = \"239.82.7.0/28\", port = \"6002-6011\", interface = \"egress0\" },\n]";
    assert!(list.contains(range), "{list}");
    let overlapping = "ingress:239.81.7.0/28:5011-5020=239.83.7.0/28:6011:egress0";
    let refusal = relay.ask(&Ask::Add { rules: vec![spec(overlapping)] }).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::Conflict);
    let said = "rules \"range\" and \"ingress:239.81.7.0/28:5011-5020\" overlap: both take 239.81.7.0/28:5011 on ingress";
    assert!(refusal.message.starts_with(said), "{refusal}");
    let (one, two) =
        (spec(&overlapping.replace("5011", "5012")), spec("ingress:239.81.7.0/28:5013=239.83.7.1:1:egress0"));
    let refusal = relay.ask(&Ask::Add { rules: vec![one, two] }).unwrap_err();
    assert!(refusal.message.contains("overlap: both take 239.81.7.0/28:5013"), "two new ones: {refusal}");
    let circle = "egress0:239.82.7.3:6005=239.81.7.0:5009:ingress";
    let refusal = relay.ask(&Ask::Add { rules: vec![spec(circle)] }).unwrap_err();
    assert!(refusal.message.contains("in a circle (a range counts as a whole)"), "{refusal}");
    let input =
        ["--input-interface", "ingress", "--input-group", "239.81.7.0/28", "--input-port", "5002-5011"];
    relay.run(&[&["remove"], &input[..]].concat());
    arrive(&mut injector, &mut tap, &[5002, 5010], &[7002]);
    assert_eq!(joined(topology, Some(7)), 128);
    // What is left of the old one stands in no way.
    relay.run(&["add", "--rule", "ingress:239.81.7.0/28:5002-5005=239.82.7.0/28:6002-6005:egress0"]);
    arrive(&mut injector, &mut tap, &[5002, 5005, 5006, 5010], &[6002, 6005, 7006]);
    relay.stop();
}

over_every_path!(a_range_that_shrinks_or_grows_takes_just_what_it_is);

fn a_range_that_shrinks_or_grows_takes_just_what_it_is(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |ports: &str| {
        let rule = format!(
            "[[rule]]\ninput = {{ interface = \"ingress\", group = \"239.81.7.0/28\", port = {ports} }}\n\
             outputs = [{{ group = \"239.82.7.0/28\", port = {ports}, interface = \"egress0\" }}]\n"
        );
        std::fs::write(file.path(), rule).unwrap();
    };
    write("\"5000-5009\"");
    let relay = Relay::start(topology, path, &["--config", file.path().to_str().unwrap()]);
    let mut injector = Injector::new(&topology.generator);
    let all = [4999, 5000, 5007, 5008, 5009, 5010, 5015, 5016];
    arrive(&mut injector, &mut tap, &all, &[5000, 5007, 5008, 5009]);
    let reload = |ports: &str| {
        write(ports);
        relay.run(&["reload"]);
    };
    reload("\"5000-5007\"");
    arrive(&mut injector, &mut tap, &all, &[5000, 5007]);
    reload("\"5000-5015\"");
    arrive(&mut injector, &mut tap, &all, &[5000, 5007, 5008, 5009, 5010, 5015]);
    reload("5008");
    arrive(&mut injector, &mut tap, &all, &[5008]);
    reload("\"4999-5008\"");
    arrive(&mut injector, &mut tap, &all, &[4999, 5000, 5007, 5008]);
    let stats = relay.stats_when(|stats| stats.inputs[0].foreign == 5 * 8 - (4 + 2 + 6 + 1 + 4));
    assert_eq!(stats.dropped.len(), 0, "of what no rule takes nothing was captured");
    relay.stop();
}

over_every_path!(a_range_outlives_its_supervisor_and_a_link_that_flaps);

fn a_range_outlives_its_supervisor_and_a_link_that_flaps(path: Path) {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    let range = ["--rule", "ingress:239.81.7.0/24:5000-5009=239.82.7.0/24:6000-6009:egress0"];
    let mut relay = Relay::start(topology, path, &range);
    relay.end_supervisor();
    assert_eq!(joined(topology, Some(7)), 256);
    let mut injector = Injector::new(&topology.generator);
    arrive(&mut injector, &mut tap, &[5001, 5002], &[6001, 6002]);
    // The next one is to have another range, which overlaps with the one that runs.
    relay.start_again(
        topology,
        &["--rule", "ingress:239.81.7.0/24:5005-5010=239.82.7.0/24:6005-6010:egress0"],
    );
    assert_eq!(relay.rules().len(), 1, "the configuration's prevails");
    arrive(&mut injector, &mut tap, &[5004, 5005, 5010], &[6005, 6010]);
    for up in [false, true] {
        topology.ingress.set_up(up).unwrap();
    }
    // The other end of the link needs a moment before it sends again.
    let (injector, before) = (RefCell::new(injector), relay.stats().matched);
    wait_until("it relays again", || {
        injector.borrow_mut().send(&frame(to(9, 5007), b"x"));
        relay.stats().matched > before
    });
    assert_eq!(joined(topology, Some(7)), 256, "and all groups are joined");
    drop(relay);
    wait_until("all are left", || joined(topology, None) == 0);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn as_many_groups_as_can_be_are_joined_with_few_descriptors_or_the_limit_is_named() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let range = format!("ingress:239.81.0.0/20:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    // The usual soft limit, which is the hard one here.
    let limited = |most: u32, rule: &str| {
        let mut command = Command::new("sh");
        let limited = format!("ulimit -n {most}; exec \"$0\" \"$@\"");
        command.args(["-c", &limited, env!("CARGO_BIN_EXE_multicast_relay"), "supervisor", "--json"]);
        command.args(["--rx", "mmap", "--rule", rule]);
        command
    };
    let relay = Relay::spawn(topology, Path::MmapV3, limited(1_024, &range));
    assert_eq!(joined(topology, None), 4_096);
    relay.stop();
    assert_eq!(joined(topology, None), 0);
    let relay = Relay::spawn(topology, Path::MmapV3, limited(100, &rule(topology)));
    let refusal = relay.ask(&Ask::Add { rules: vec![spec(&range)] }).unwrap_err().to_string();
    let parts =
        ["join 239.81.0.0/20 on ingress", "net.ipv4.igmp_max_memberships", "ulimit -n", "LimitNOFILE="];
    assert!(parts.iter().all(|part| refusal.contains(part)), "{refusal}");
    assert_eq!(joined(topology, None), 1, "none of them, and the other rule's still");
    let sink = sink(&topology.sinks[0]);
    Injector::new(&topology.generator).send(&good(b"x"));
    assert_eq!(receive(&sink, 1), [b"x"]);
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn as_many_groups_of_ipv6_are_joined() {
    let network = network(Family::Ipv6, 1);
    let topology = &network.topology;
    let groups = || {
        let groups = proc_of_relay(topology, "net/igmp6");
        groups.lines().filter(|line| line.contains("ff1500000000000000000000008")).count()
    };
    let range = "ingress:[ff15::81:0/116]:5000=[ff15::82:0/116]:6000:egress0";
    let relay = Relay::start(topology, Path::MmapV3, &["--rule", range]);
    assert_eq!(groups(), 4_096);
    relay.run(&["remove", "ingress:[ff15::81:0/116]:5000"]);
    assert_eq!(groups(), 0);
    relay.stop();
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn more_shapes_than_fit_are_captured_with_all_other_udp() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let mut tap = Tap::new(&topology.sinks[0]);
    // Of each prefix as many shapes as a range of ports can have.
    let file = tempfile::NamedTempFile::new().unwrap();
    let wide = |prefix: &str, port: u16| {
        format!(
            "[[rule]]\njoin = false\ninput = {{ interface = \"ingress\", group = \"{prefix}\", port = \"1-65535\" }}\n\
             outputs = [{{ group = \"239.82.1.1\", port = {port}, interface = \"egress0\" }}]\n"
        )
    };
    std::fs::write(file.path(), [wide("238.0.0.0/8", 6001), wide("238.81.0.0/16", 6002)].concat()).unwrap();
    let config = ["--config", file.path().to_str().unwrap()];
    let one = format!("ingress:{GROUP}:{PORT}={OUT_GROUP}:6003:egress0");
    let relay = Relay::start(topology, Path::MmapV3, &config);
    assert!(!relay.log().contains("shapes"), "{}", relay.log());
    let mut injector = Injector::new(&topology.generator);
    injector.send(&good(b"x"));
    injector.send(&frame(SocketAddr::from(([238, 1, 1, 1], 1)), b"x"));
    relay.stats_when(|stats| (stats.inputs[0].foreign, stats.matched) == (1, 1));
    relay.run(&["add", "--rule", &one]);
    let said = "more than 32 shapes";
    assert!(relay.log().contains(said) && relay.log().contains("--no-rule-filter"), "{}", relay.log());
    injector.send(&frame(SocketAddr::from((GROUP, PORT + 1)), b"x"));
    injector.send(&frame(SocketAddr::from(([238, 81, 1, 1], 65_535)), b"x"));
    injector.send(&good(b"x"));
    let ports = [(); 3].map(|()| tap.next_udp()).map(|frame| u16::from_be_bytes([frame[36], frame[37]]));
    assert_eq!(ports, [6001, 6002, 6003]);
    let stats = relay.stop();
    assert_eq!((stats.inputs[0].foreign, stats.dropped.values().sum::<u64>()), (1, 1), "as `no_rule`");
    // From the beginning; and where they are needed there is no relay without them.
    let relay = Relay::start(topology, Path::MmapV3, &[&config, &["--rule", &one][..]].concat());
    assert!(relay.log().contains(said), "{}", relay.log());
    relay.stop();
    let consuming = Relay::start(topology, Path::MmapV3, &[&config, &["--consume"][..]].concat());
    let refusal = consuming.ask(&Ask::Add { rules: vec![spec(&one)] }).unwrap_err().to_string();
    assert!(refusal.contains("consume on ingress") && refusal.contains(said), "{refusal}");
    let Answer::Rules(rules) = consuming.ask(&Ask::List).unwrap() else { panic!("rules") };
    assert_eq!(rules.len(), 2);
    consuming.stop();
}
