//! Links that go away and come back.

use std::fs;
use std::net::Ipv4Addr;

use lab::topology::{Change, Family, Leg, Topology};

use crate::support::{PORT, Tap, generate, group, link, receive, receiver, sender, topology};

/// The index of a device of the relay's namespace, if there is one of that name, and up.
fn index_of(topology: &Topology, device: &str) -> Option<u32> {
    let read = || fs::read_to_string("/proc/thread-self/net/igmp").expect("read the devices");
    let text = topology.relay_namespace().run(read).expect("enter the namespace");
    let named = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let line = named.into_iter().find(|words| words.get(1) == Some(&device))?;
    line[0].parse().ok()
}

/// Whether there is a device of that name in the relay's namespace, up or down.
fn is_there(topology: &Topology, device: &str) -> bool {
    let read = || fs::read_to_string("/proc/thread-self/net/dev").expect("read the devices");
    let text = topology.relay_namespace().run(read).expect("enter the namespace");
    text.lines().any(|line| line.trim_start().starts_with(&format!("{device}:")))
}

/// Datagrams cross `topology`: into the relay's end, and out of it to a group and to a host.
fn assert_carries(topology: &Topology, family: Family) {
    let tap = Tap::open(&topology.ingress);
    generate(&topology.generator, Ipv4Addr::new(10, 81, 0, 1), Ipv4Addr::new(239, 81, 1, 1), b"in");
    tap.frame(b"in");
    let (egress, sink) = (&topology.egress[0], &topology.sinks[0]);
    let receiver = receiver(sink, group(family));
    let sender = sender(egress);
    sender.send_to(b"to the group", (group(family), PORT)).expect("send to the group");
    assert_eq!(receive(&receiver).0, b"to the group");
    sender.send_to(b"to the host", (sink.address(), PORT)).expect("send to the host");
    assert_eq!(receive(&receiver).0, b"to the host");
}

/// Disturbs `leg` in each way in turn, and looks at what comes back.
fn flap(topology: &Topology, family: Family, leg: Leg, changes: &[Change]) {
    let device = match leg {
        Leg::Ingress => "ingress",
        Leg::Egress => "egress0",
        Leg::Spare => "spare",
    };
    for change in changes {
        let before = index_of(topology, device);
        topology.disturb(leg, *change).expect("disturb the link");
        assert_eq!(is_there(topology, device), *change != Change::Gone, "{device}, {change:?}");
        topology.restore(leg, *change).expect("restore the link");
        let after = index_of(topology, device);
        assert!(before.is_some() && after.is_some(), "{device}");
        assert_eq!(after == before, *change != Change::Gone, "{device}, {change:?}");
        assert_carries(topology, family);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_link_that_comes_back_is_what_it_was() {
    const ALL: [Change; 4] = [Change::Down, Change::Mtu, Change::Gone, Change::Down];
    for family in [Family::Ipv4, Family::Ipv6] {
        let (_run, mut topology) = topology(link(family), 1);
        assert_eq!(topology.spare_device(), None);
        topology.add_spare().expect("add a spare link");
        assert_eq!(topology.spare_device(), Some("spare"));
        flap(&topology, family, Leg::Ingress, &ALL);
        flap(&topology, family, Leg::Spare, &ALL);
        // What sends to IPv6 groups here knows the device by the index that it had first.
        flap(&topology, family, Leg::Egress, if family == Family::Ipv4 { &ALL } else { &ALL[..2] });
        topology.remove().expect("nothing is left that cannot be removed");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn links_do_not_depend_on_each_other() {
    let (_run, mut topology) = topology(link(Family::Ipv4), 1);
    topology.add_spare().expect("add a spare link");
    let both = |leg, change| {
        topology.disturb(leg, change).expect("disturb the link");
        topology.restore(leg, change).expect("restore the link");
    };
    both(Leg::Ingress, Change::Gone);
    both(Leg::Egress, Change::Gone);
    both(Leg::Egress, Change::Mtu);
    both(Leg::Spare, Change::Down);
    for change in [Change::Gone, Change::Down, Change::Gone] {
        let sender = sender(&topology.egress[0]);
        let send = |when: &str| {
            let sent = sender.send_to(b"to the group", (group(Family::Ipv4), PORT));
            assert!(sent.is_ok(), "{when}, {change:?}: {sent:?}");
        };
        send("before");
        topology.disturb(Leg::Spare, change).expect("disturb the link");
        send("meanwhile");
        assert_carries(&topology, Family::Ipv4);
        topology.restore(Leg::Spare, change).expect("restore the link");
        send("after");
    }
}
