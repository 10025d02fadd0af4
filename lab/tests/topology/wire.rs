//! What crosses the links, how, and how it is counted.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use lab::topology::{Checksum, Family, Link, MAX_SINKS, NetError, Segmentation};

use crate::support::{
    PORT, Tap, current_namespace, generate, group, link, receive, receiver, sender, topology, wait_until,
};

const INPUT_GROUP: Ipv4Addr = Ipv4Addr::new(239, 81, 1, 1);

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_frame_crosses_every_link_and_is_counted_once() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let (_run, topology) = topology(link(family), 3);

        // The generator's side takes IPv4 frames in an IPv6 network too: below the stack a frame is a frame.
        let tap = Tap::open(&topology.ingress);
        let source = Ipv4Addr::new(10, 81, 0, 1);
        generate(&topology.generator, source, INPUT_GROUP, b"to the relay");
        let frame = tap.frame(b"to the relay");
        assert_eq!(frame.mac[0], topology.generator.mac());
        assert_eq!(frame.source, IpAddr::from(source));
        assert_eq!(topology.generator.counters().expect("counters").tx_packets, 1);
        assert_eq!(topology.ingress.counters().expect("counters").rx_packets, 1);

        for (number, (egress, sink)) in topology.egress.iter().zip(&topology.sinks).enumerate() {
            let receiver = receiver(sink, group(family));
            let payload = format!("to sink {number}");
            let sender = sender(egress);
            sender.send_to(payload.as_bytes(), (group(family), PORT)).expect("send to the group");
            let (received, from) = receive(&receiver);
            assert_eq!(received, payload.as_bytes());
            assert_eq!(from, sender.local_addr().expect("bound"));
            sender.send_to(b"to the host", (sink.address(), PORT)).expect("send to the host");
            assert_eq!(receive(&receiver).0, b"to the host");
        }
        for (egress, sink) in topology.egress.iter().zip(&topology.sinks) {
            assert_eq!(egress.counters().expect("counters").tx_packets, 2, "{family:?} {}", egress.device());
            assert_eq!(sink.counters().expect("counters").rx_packets, 2, "{family:?} {}", sink.device());
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_very_first_datagrams_arrive_on_a_busy_machine() {
    // Others that build and remove networks keep the kernel's workers, which have a part in every set-up, late.
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    drop(topology(link(Family::Ipv6), 4));
                }
            });
        }
        let _done = SetOnDrop(&done);
        for round in 0..24 {
            let family = if round % 4 == 0 { Family::Ipv4 } else { Family::Ipv6 };
            let (_run, topology) = topology(link(family), 1);
            let (egress, sink) = (&topology.egress[0], &topology.sinks[0]);
            let (tap, receiver) = (Tap::open(&topology.ingress), receiver(sink, group(family)));
            generate(&topology.generator, Ipv4Addr::new(10, 81, 0, 1), INPUT_GROUP, b"first");
            sender(egress).send_to(b"to the host", (sink.address(), PORT)).expect("send");
            sender(egress).send_to(b"to the group", (group(family), PORT)).expect("send");
            tap.frame(b"first");
            assert_eq!(receive(&receiver).0, b"to the host");
            assert_eq!(receive(&receiver).0, b"to the group");
        }
    });
}

/// Ends the helpers of a test also when it fails.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_relays_stack_takes_what_the_generator_sends() {
    let (_run, topology) = topology(link(Family::Ipv4), 1);
    let receiver = receiver(&topology.ingress, INPUT_GROUP.into());
    generate(&topology.generator, Ipv4Addr::new(10, 81, 0, 1), INPUT_GROUP, b"hello");
    let (received, from) = receive(&receiver);
    assert_eq!((received.as_slice(), from.ip()), (b"hello".as_slice(), topology.generator.address()));
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn nothing_stray_goes_forward() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let (_run, topology) = topology(link(family), 2);
        // Joining makes each kernel report the group backwards, twice, at random within a second. A report of the
        // relay's kernel on its egress, were there one, would be on the same clock, and it started earlier.
        let input: IpAddr = if family == Family::Ipv4 { INPUT_GROUP.into() } else { group(family) };
        let _joined: Vec<UdpSocket> = [(&topology.ingress, input)]
            .into_iter()
            .chain(topology.sinks.iter().map(|sink| (sink, group(family))))
            .map(|(port, group)| receiver(port, group))
            .collect();
        let upstream = || [&topology.generator].into_iter().chain(&topology.egress);
        let heard = || upstream().all(|port| port.counters().expect("counters").rx_packets >= 2);
        wait_until("both reports of every membership", heard);
        for port in upstream() {
            let counters = port.counters().expect("counters");
            assert_eq!((counters.tx_packets, counters.tx_dropped), (0, 0), "{family:?} {}", port.device());
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_sink_without_a_listener_does_not_answer() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let (_run, topology) = topology(link(family), 1);
        let (egress, sink) = (&topology.egress[0], &topology.sinks[0]);
        let listener = receiver(sink, group(family));
        let refused = sender(egress);
        refused.connect((sink.address(), PORT + 1)).expect("connect to a closed port");
        for _ in 0..20 {
            // An answer to one makes the next, at the latest, fail.
            refused.send(b"anybody?").expect("no answer to the one before");
        }
        sender(egress).send_to(b"last", (sink.address(), PORT)).expect("send");
        assert_eq!(receive(&listener).0, b"last");
        assert!(refused.take_error().expect("read the error").is_none());
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn offloads_are_as_asked() {
    for family in [Family::Ipv4, Family::Ipv6] {
        for (segmentation, checksum) in [
            (Segmentation::Wire, Checksum::Wire),
            (Segmentation::Wire, Checksum::Offload),
            (Segmentation::Offload, Checksum::Offload),
        ] {
            let (_run, topology) = topology(Link { segmentation, checksum, ..link(family) }, 2);
            for (egress, sink) in topology.egress.iter().zip(&topology.sinks) {
                let has = |feature| egress.has_offload(feature).expect("read the features");
                assert_eq!(has("tx-udp-segmentation"), segmentation == Segmentation::Offload);
                assert_eq!(has("tx-checksum-ip-generic"), checksum == Checksum::Offload);
                assert!(!has("no-such-feature"));

                // And it does what it says: a frame is complete on the wire, or left to the other end.
                let tap = Tap::open(sink);
                sender(egress).send_to(b"checked?", (sink.address(), PORT)).expect("send");
                let frame = tap.frame(b"checked?");
                assert_eq!(frame.mac, [egress.mac(), sink.mac()]);
                let complete = frame.checksum == frame.right_checksum;
                assert_eq!(complete, checksum == Checksum::Wire, "{family:?} {checksum:?} {frame:?}");
            }
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_mtu_holds_at_both_ends() {
    for (family, mtu) in
        [(Family::Ipv4, 9000), (Family::Ipv6, 9000), (Family::Ipv4, 600), (Family::Ipv6, 1280)]
    {
        let (_run, topology) = topology(Link { mtu, ..link(family) }, 1);
        let (egress, sink) = (&topology.egress[0], &topology.sinks[0]);
        let receiver = receiver(sink, group(family));
        let headers = if family == Family::Ipv4 { 28 } else { 48 };
        let largest = vec![7; mtu as usize - headers];
        sender(egress).send_to(&largest, (sink.address(), PORT)).expect("send");
        assert_eq!(receive(&receiver).0, largest);
        let sent = egress.counters().expect("counters");
        assert_eq!((sent.tx_packets, sent.tx_bytes), (1, u64::from(mtu) + 14), "{family:?}");
        // One byte more goes as two fragments.
        sender(egress).send_to(&vec![7; largest.len() + 1], (sink.address(), PORT)).expect("send");
        assert_eq!(receive(&receiver).0.len(), largest.len() + 1);
        let more = egress.counters().expect("counters") - sent;
        assert_eq!(more.tx_packets, 2, "{family:?}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn a_socket_of_a_sink_joins_thousands_of_groups() {
    for family in [Family::Ipv4, Family::Ipv6] {
        let (_run, topology) = topology(link(family), 1);
        let sink = &topology.sinks[0];
        let socket = receiver(sink, group(family));
        for number in 1..2000_u16 {
            match (group(family), sink.address()) {
                (IpAddr::V4(first), IpAddr::V4(device)) => {
                    let next = Ipv4Addr::from(u32::from(first) + u32::from(number));
                    socket.join_multicast_v4(&next, &device).expect("join");
                }
                (IpAddr::V6(first), _) => {
                    let next = (u128::from(first) + u128::from(number)).into();
                    socket.join_multicast_v6(&next, sink.index()).expect("join");
                }
                mixed => panic!("{mixed:?}"),
            }
        }
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn as_many_sinks_as_allowed() {
    let (_run, topology) = topology(link(Family::Ipv6), MAX_SINKS);
    assert_eq!((topology.egress.len(), topology.sinks.len()), (MAX_SINKS, MAX_SINKS));
    // From a thread for each sink, as the readers of a trial are.
    thread::scope(|scope| {
        for (egress, sink) in topology.egress.iter().zip(&topology.sinks) {
            scope.spawn(move || {
                let receiver = receiver(sink, group(Family::Ipv6));
                sender(egress).send_to(sink.device().as_bytes(), (group(Family::Ipv6), PORT)).expect("send");
                assert_eq!(receive(&receiver).0, sink.device().as_bytes());
            });
        }
    });
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn the_caller_stays_where_it_is_even_inside_a_runtime() {
    let home = current_namespace();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (_run, topology) = topology(link(Family::Ipv4), 1);
        topology.ingress.counters().expect("counters");
        assert_eq!(current_namespace(), home);
        let inside = topology.relay_namespace().run(current_namespace).expect("enter");
        assert_ne!(inside, home);
        // Nested, and out again by a panic.
        let panicked = std::panic::catch_unwind(|| {
            topology.relay_namespace().run(|| topology.sinks[0].namespace().run(|| panic!("out of here")))
        });
        assert!(panicked.is_err());
        assert_eq!(current_namespace(), home);
        topology.remove().expect("remove");
    });
    assert_eq!(current_namespace(), home);
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn settings_are_checked() {
    let (_run, topology) = topology(link(Family::Ipv4), 1);
    let relay = topology.relay_namespace();
    relay.set_sysctl("net/ipv4/ip_forward", "1").expect("a good key and value");
    relay
        .run(|| assert_eq!(std::fs::read("/proc/sys/net/ipv4/ip_forward").expect("read"), b"1\n"))
        .expect("enter");
    for (key, value) in
        [("net/ipv4/no_such_key", "1"), ("net/ipv4/ip_forward", "x"), ("kernel/hostname", "x")]
    {
        let error = relay.set_sysctl(key, value).expect_err("refused");
        assert!(matches!(&error, NetError::Sysctl { .. }), "{error:?}");
        assert!(error.to_string().contains(key) && error.to_string().contains(relay.name()), "{error}");
    }
}

#[test]
#[ignore = "needs root: builds network namespaces"]
fn two_runs_at_once_do_not_hear_each_other() {
    let (first_run, first) = topology(link(Family::Ipv4), 1);
    let (second_run, second) = topology(link(Family::Ipv4), 1);
    assert_ne!(first_run.as_str(), second_run.as_str());
    let group: SocketAddr = (group(Family::Ipv4), PORT).into();
    let receivers = [&first, &second].map(|topology| receiver(&topology.sinks[0], group.ip()));
    sender(&first.egress[0]).send_to(b"first", group).expect("send");
    assert_eq!(receive(&receivers[0]).0, b"first");
    assert_eq!(second.sinks[0].counters().expect("counters").rx_packets, 0);
    first.remove().expect("remove the first");
    sender(&second.egress[0]).send_to(b"second", group).expect("send");
    assert_eq!(receive(&receivers[1]).0, b"second");
}
