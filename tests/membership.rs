//! What the network is told of the groups that rules take.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use lab::topology::{Family, Topology};
use support::{GROUP, Injector, OUT_GROUP, OUT_PORT, PORT, Path, Relay, frame, network, proc_of_relay, sink};

const CONFIG: &str = r#"
[[rule]]
name = "any"
input = { interface = "ingress", group = "239.81.1.1", port = 5000 }
outputs = [{ group = "239.82.1.1", port = 6000, interface = "egress0" }]
[[rule]]
name = "one"
input = { interface = "ingress", group = "232.81.1.1", port = 5000, source = "10.81.0.1" }
outputs = [{ group = "239.82.1.1", port = 6000, interface = "egress0" }]
[[rule]]
name = "another"
input = { interface = "ingress", group = "232.81.1.1", port = 5000, source = "10.81.0.7" }
outputs = [{ group = "239.82.1.1", port = 6001, interface = "egress0" }]
[[rule]]
name = "none"
join = false
input = { interface = "ingress", group = "239.81.1.9", port = 5000 }
outputs = [{ group = "239.82.1.1", port = 6000, interface = "egress0" }]
"#;

fn start(topology: &Topology) -> (Relay, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), CONFIG).unwrap();
    (Relay::start(topology, Path::MmapV3, &["--config", file.path().to_str().unwrap()]), file)
}

/// Whether the relay's host is a member of this group, written as the kernel does, on any interface.
fn is_member(topology: &Topology, group: [u8; 4]) -> bool {
    let name = format!("{:08X}", u32::from_ne_bytes(group));
    proc_of_relay(topology, "net/igmp").lines().any(|line| line.trim_start().starts_with(&name))
}

/// The sources of this group that the relay's host asks for.
fn sources(topology: &Topology, group: [u8; 4]) -> Vec<String> {
    let group = format!("{:#010x}", u32::from_be_bytes(group));
    let filters = proc_of_relay(topology, "net/mcfilter");
    let fields = filters.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut sources: Vec<_> = fields.filter(|f| f[2] == group).map(|f| f[3].to_owned()).collect();
    sources.sort();
    sources
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_rule_with_a_source_asks_for_that_alone_and_one_that_does_not_join_for_nothing() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let sink = sink(&topology.sinks[0]);
    let (relay, _file) = start(topology);
    assert!(is_member(topology, GROUP.octets()) && sources(topology, GROUP.octets()).is_empty());
    assert_eq!(sources(topology, [232, 81, 1, 1]), ["0x0a510001", "0x0a510007"]);
    assert!(!is_member(topology, [239, 81, 1, 9]));
    // The frames of the tests come from 10.81.0.1.
    let mut injector = Injector::new(&topology.generator);
    for (group, payload) in [([239, 81, 1, 1], b"any"), ([232, 81, 1, 1], b"one"), ([239, 81, 1, 9], b"non")]
    {
        injector.send(&frame((group, PORT).into(), payload));
    }
    assert_eq!(support::receive(&sink, 3), [b"any", b"one", b"non"]);
    relay.run(&["remove", "one"]);
    assert_eq!(sources(topology, [232, 81, 1, 1]), ["0x0a510007"]);
    relay.run(&["remove", "another"]);
    assert!(!is_member(topology, [232, 81, 1, 1]) && is_member(topology, GROUP.octets()));
    let add = format!("ingress:239.81.1.8:{PORT}={OUT_GROUP}:{OUT_PORT}:egress0");
    relay.run(&["add", "--no-join", "--rule", &add]);
    assert!(!is_member(topology, [239, 81, 1, 8]));
    assert_eq!(relay.stop().relayed, 3);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn memberships_outlive_the_supervisor_and_the_next_one_can_end_them() {
    let network = network(Family::Ipv4, 1);
    let topology = &network.topology;
    let (mut relay, file) = start(topology);
    relay.end_supervisor();
    assert!(is_member(topology, GROUP.octets()));
    assert_eq!(sources(topology, [232, 81, 1, 1]).len(), 2);
    relay.start_again(topology, &["--config", file.path().to_str().unwrap()]);
    assert_eq!(sources(topology, [232, 81, 1, 1]).len(), 2);
    relay.run(&["remove", "one"]);
    relay.run(&["remove", "another"]);
    // Workers let the sockets go that the first supervisor had joined by.
    support::wait_until("the group is left", || !is_member(topology, [232, 81, 1, 1]));
    assert!(is_member(topology, GROUP.octets()));
}
