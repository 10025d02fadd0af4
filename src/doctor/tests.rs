//! Made-up hosts.

use std::path::PathBuf;

use super::facts::{Attempt, Backlog, Bridge, Control, Folder, Host, LinkCounters, Listener, Master};
use super::*;
use crate::sys::ethtool::{Feature, RingSize};
use crate::wire::LinkLayer;

/// A host on which everything is as it should be.
fn sound() -> Host {
    Host {
        kernel: "6.18.2".into(),
        root: true,
        capabilities: u64::MAX,
        io_uring_disabled: Some(0),
        rmem_max: Some(16 << 20),
        wmem_max: Some(4 << 20),
        igmp_max_memberships: Some(4_096),
        netdev_max_backlog: Some(1_000),
        backlogs: vec![Backlog::default()],
        memory: Some(16 << 30),
        open_files: Some(65_536),
        cpus: vec![0, 1, 2, 3],
        interrupt_cpus: vec![0, 1],
        control: Control { socket: PathBuf::from("/run/relay/control.sock"), ..Control::default() },
        ..Host::default()
    }
}

/// An interface likewise.
fn good() -> Link {
    let on = Feature { changeable: true, active: true };
    Link {
        name: "eth0".into(),
        driver: "ixgbe".into(),
        up: true,
        carrier: true,
        link_layer: LinkLayer::Ethernet,
        multicast: true,
        mtu: 1_500,
        receive_queues: 4,
        features: [("rx-gro".to_owned(), on), ("tx-udp-segmentation".to_owned(), on)].into(),
        ring: Some(RingSize { now: 4_096, most: 4_096 }),
        addresses_v4: 1,
        addresses_v6: 1,
        group_route: true,
        ..Link::default()
    }
}

fn diagnosis(host: &Host, link: Option<Link>) -> Diagnosis {
    Diagnosis::of(host, &[("eth0".to_owned(), link)])
}

/// The findings that are worse than all right, as level and text.
fn bad(diagnosis: &Diagnosis) -> Vec<(Level, &str)> {
    let bad = diagnosis.findings.iter().filter(|finding| finding.level > Level::Ok);
    bad.map(|finding| (finding.level, finding.what.as_str())).collect()
}

#[test]
fn nothing_is_found_on_a_sound_host() {
    let diagnosis = diagnosis(&sound(), Some(good()));
    assert_eq!(bad(&diagnosis), []);
    assert!(diagnosis.works() && diagnosis.worst == Level::Ok && diagnosis.findings.len() > 15);
    assert!(diagnosis.to_string().ends_with("0 problems, 0 warnings, 0 notes"), "{diagnosis}");
}

/// Each fault of a host is found, at its level, with a reason and a remedy, and nothing else is.
#[test]
fn every_fault_of_a_host_is_found_by_itself() {
    type Spoil = fn(&mut Host);
    let faults: &[(Level, &str, Spoil)] = &[
        (Level::Problem, "no io_uring that the relay can use", |host| host.kernel = "5.4.0".into()),
        (Level::Note, "multishot", |host| host.kernel = "5.15.0-generic".into()),
        (Level::Note, "release is not known", |host| host.kernel = "odd".into()),
        (Level::Problem, "packet sockets cannot be opened: no", |host| {
            host.packet_socket = Attempt::Failed("no".into());
        }),
        (Level::Problem, "this user cannot open packet sockets", |host| {
            host.packet_socket = Attempt::Failed("no".into());
            host.capabilities &= !(1 << 13);
        }),
        (Level::Problem, "io_uring is disabled (kernel.io_uring_disabled = 2): EPERM", |host| {
            host.io_uring = Attempt::Failed("EPERM".into());
            host.io_uring_disabled = Some(2);
        }),
        (Level::Warning, "one group only", |host| host.io_uring_disabled = Some(1)),
        (Level::Problem, "io_uring cannot be used: EPERM", |host| {
            host.io_uring = Attempt::Failed("EPERM".into());
        }),
        (Level::Warning, "rule filter cannot be loaded: no", |host| host.bpf = Attempt::Failed("no".into())),
        (Level::Note, "no CAP_NET_ADMIN", |host| host.capabilities &= !(1 << 12)),
        (Level::Note, "net.core.rmem_max = 212992", |host| host.rmem_max = Some(212_992)),
        (Level::Note, "net.core.wmem_max = 212992", |host| host.wmem_max = Some(212_992)),
        (Level::Note, "igmp_max_memberships = 20", |host| host.igmp_max_memberships = Some(20)),
        (Level::Note, "reverse-path", |host| host.rp_filter = 1),
        (Level::Warning, "CPU 3 dropped 7 frames", |host| host.backlogs.push(Backlog { cpu: 3, dropped: 7 })),
        (Level::Warning, "room for 1 rings", |host| host.memory = Some(128 << 20)),
        (Level::Note, "at most 1024 descriptors", |host| host.open_files = Some(1_024)),
        (Level::Note, "one CPU", |host| host.cpus = vec![0]),
        (Level::Note, "isolated CPU 1 takes interrupts", |host| host.isolated = vec![1, 2]),
        (Level::Problem, "everybody may write to /run/relay", |host| {
            host.control.folder = Some(Folder { mode: 0o1777, uid: 0 });
        }),
        (Level::Note, "nobody listens at", |host| host.control.state = Listener::Stale),
        (Level::Note, "may not connect", |host| host.control.state = Listener::Forbidden),
    ];
    for (level, part, spoil) in faults {
        let mut host = sound();
        spoil(&mut host);
        let links = if part.contains("rings") { vec![good(), good()] } else { vec![good()] };
        let links: Vec<_> = links.into_iter().map(|link| ("eth0".to_owned(), Some(link))).collect();
        let diagnosis = Diagnosis::of(&host, &links);
        let found = diagnosis.findings.iter().find(|finding| finding.what.contains(part));
        let found = found.unwrap_or_else(|| panic!("{part}: {:?}", bad(&diagnosis)));
        assert_eq!(found.level, *level, "{part}");
        assert!(host.kernel == "odd" || !found.why.is_empty() && !found.remedy.is_empty(), "{found:?}");
        assert!(host.kernel != "6.18.2" || bad(&diagnosis).len() == 1, "{part}: {:?}", bad(&diagnosis));
    }
}

/// The same of an interface.
#[test]
fn every_fault_of_an_interface_is_found_by_itself() {
    type Spoil = fn(&mut Link);
    let faults: &[(Level, &str, Spoil)] = &[
        (Level::Warning, "is down", |link| link.up = false),
        (Level::Warning, "no carrier", |link| link.carrier = false),
        (Level::Note, "neither Ethernet nor IP headers", |link| link.link_layer = LinkLayer::Other),
        (Level::Warning, "is a port of the bridge br0", |link| {
            link.master = Some(("br0".into(), Master::Bridge));
        }),
        (Level::Warning, "is a part of bond0", |link| link.master = Some(("bond0".into(), Master::Other))),
        (Level::Warning, "snooping and without a querier", |link| {
            link.bridge = Some(Bridge { snooping: true, ..Bridge::default() });
        }),
        (Level::Note, "keeps VLANs apart", |link| {
            link.bridge = Some(Bridge { vlan_filtering: true, ..Bridge::default() });
        }),
        (Level::Note, "XDP", |link| link.xdp = true),
        (Level::Note, "puts UDP together before it is captured (rx-udp-gro-forwarding)", |link| {
            let on = Feature { changeable: true, active: true };
            link.features.insert("rx-udp-gro-forwarding".into(), on);
        }),
        (Level::Note, "keep out VLANs", |link| {
            link.role.vlan = true;
            link.features.insert("rx-vlan-filter".into(), Feature { changeable: true, active: true });
        }),
        (Level::Note, "512 of 4096 descriptors", |link| link.ring = Some(RingSize { now: 512, most: 4_096 })),
        (Level::Note, "one receive queue", |link| link.receive_queues = 1),
        (Level::Warning, "IGMPv2", |link| link.forced_igmp = 2),
        (Level::Note, "reverse-path", |link| link.rp_filter = 1),
        (Level::Warning, "mc_forwarding", |link| link.forwards_multicast = true),
        (Level::Warning, "not able to send to groups", |link| link.multicast = false),
        (Level::Note, "has no IPv4 address (IPv6 addresses: 1)", |link| link.addresses_v4 = 0),
        (Level::Warning, "no route to the IPv4 groups", |link| link.group_route = false),
        (Level::Note, "the kernel cuts trains", |link| {
            link.features.insert("tx-udp-segmentation".into(), Feature { changeable: true, active: false });
        }),
        (Level::Note, "MTU is 1420", |link| link.mtu = 1_420),
        (Level::Warning, "MTU is 1200, and IPv6 is off", |link| link.mtu = 1_200),
        (Level::Warning, "missed 5 frames", |link| {
            link.counters = LinkCounters { rx_missed: 5, ..LinkCounters::default() };
        }),
        (Level::Warning, "6 damaged frames", |link| {
            link.counters = LinkCounters { rx_errors: 6, ..LinkCounters::default() };
        }),
        (Level::Note, "dropped 7 of its frames", |link| {
            link.counters = LinkCounters { rx_dropped: 7, ..LinkCounters::default() };
        }),
        (Level::Note, "8 frames have not been sent", |link| {
            link.counters = LinkCounters { tx_dropped: 8, ..LinkCounters::default() };
        }),
        (Level::Note, "promiscuity 2", |link| link.promiscuity = 2),
    ];
    for (level, part, spoil) in faults {
        let mut link = good();
        spoil(&mut link);
        let diagnosis = diagnosis(&sound(), Some(link));
        let [(found, what)] = bad(&diagnosis)[..] else { panic!("{part}: {:?}", bad(&diagnosis)) };
        assert!(found == *level && what.contains(part), "{found:?} {what}, expected {part}");
        let finding = diagnosis.findings.iter().find(|finding| finding.what == what).unwrap();
        assert!(!finding.why.is_empty() && !finding.remedy.is_empty(), "{finding:?}");
        assert_eq!(finding.subject, "eth0");
    }
}

#[test]
fn an_interface_that_is_not_there_is_a_problem() {
    let diagnosis = diagnosis(&sound(), None);
    assert!(!diagnosis.works());
    assert_eq!(diagnosis.findings.last().unwrap().subject, "eth0");
}

#[test]
fn what_an_interface_is_not_used_for_does_not_matter() {
    let input = Link {
        role: Role { input: true, output: false, to_groups: false, keeps_sources: false, vlan: false },
        addresses_v4: 0,
        group_route: false,
        mtu: 1_200,
        ..good()
    };
    assert_eq!(bad(&diagnosis(&sound(), Some(input))), []);
    let output = Link {
        role: Role { input: false, output: true, to_groups: true, keeps_sources: false, vlan: false },
        receive_queues: 1,
        rp_filter: 1,
        ring: Some(RingSize { now: 1, most: 2 }),
        ..good()
    };
    assert_eq!(bad(&diagnosis(&sound(), Some(output))), []);
    let listening = Role { input: true, output: false, to_groups: false, keeps_sources: false, vlan: false };
    let tunnel = |link_layer| Link { role: listening, link_layer, ..good() };
    assert!(diagnosis(&sound(), Some(tunnel(LinkLayer::RawIp))).works());
    let strange = diagnosis(&sound(), Some(tunnel(LinkLayer::Other)));
    assert!(!strange.works(), "nothing can be captured of what is not understood");
}

#[test]
fn what_this_user_may_not_says_nothing_of_a_relay_that_runs() {
    let mut host = sound();
    host.capabilities = 0;
    host.packet_socket = Attempt::Failed("EPERM".into());
    host.bpf = Attempt::Failed("EPERM".into());
    assert!(!diagnosis(&host, Some(good())).works());
    host.control.state = Listener::Listens;
    assert_eq!(diagnosis(&host, Some(good())).worst, Level::Note);
}

#[test]
fn rules_say_what_interfaces_are_for() {
    let rule = |text: &str| text.parse::<Rule>().unwrap();
    let mut rules = [
        rule("eth0:239.1.1.1:1=239.2.2.2:1:eth1,10.3.3.3:1:eth2"),
        rule("eth0:239.1.1.1:1=239.2.2.2:1:eth1"),
        rule("eth1:239.1.1.1:1=10.2.2.2:1:eth2"),
    ];
    rules[0].outputs[1].source = SourceAddress::Preserve;
    rules[1].input.vlan = "5".parse().ok();
    let role = |input, [output, to_groups, keeps_sources]: [bool; 3], vlan| Role {
        input,
        output,
        to_groups,
        keeps_sources,
        vlan,
    };
    let expected = [
        ("eth0", role(true, [false; 3], true)),
        ("eth1", role(true, [true, true, false], false)),
        ("eth2", role(false, [true, false, true], false)),
    ];
    let expected = expected.map(|(name, role)| (name.to_owned(), role)).to_vec();
    assert_eq!(Scope::of_rules(&rules), Scope::Named(expected));
}

#[test]
fn all_that_are_up_are_looked_at_unless_some_are_named() {
    let link = |name: &str, up, loopback, master: Option<Master>| {
        let master = master.map(|kind| ("br0".to_owned(), kind));
        (name.to_owned(), Link { name: name.to_owned(), up, loopback, master, ..good() })
    };
    let links = BTreeMap::from([
        link("lo", true, true, None),
        link("eth0", true, false, None),
        link("eth1", false, false, None),
        link("veth0", true, false, Some(Master::Bridge)),
    ]);
    let names = |scope: Scope| {
        let selected = scope.select(links.clone()).into_iter();
        selected.map(|(name, link)| (name, link.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(names(Scope::of_names(Vec::new())), [("eth0".to_owned(), true)]);
    let named = ["lo", "gone"].map(str::to_owned).to_vec();
    assert_eq!(names(Scope::of_names(named)), [("lo".to_owned(), true), ("gone".to_owned(), false)]);
}

#[test]
fn both_forms_tell_everything() {
    let mut host = sound();
    host.rp_filter = 1;
    let diagnosis = diagnosis(&host, None);
    let text = diagnosis.to_string();
    let parts = [
        "host\n  ok ",
        "  note     reverse-path",
        "           > sysctl -w",
        "\n\neth0\n  problem",
        "1 problem, 0 w",
    ];
    for part in parts {
        assert!(text.contains(part), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&diagnosis.to_json()).unwrap();
    assert_eq!((&json["version"], &json["worst"]), (&1.into(), &"problem".into()));
    let last = json["findings"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["subject"], &last["remedy"][0]), (&"eth0".into(), &"ip link".into()));
}

#[test]
fn who_keeps_sources_is_told_what_that_takes() {
    let link = || Link {
        role: Role { input: false, output: true, to_groups: true, keeps_sources: true, vlan: false },
        ..good()
    };
    let levels = |host: &Host| {
        let diagnosis = diagnosis(host, Some(link()));
        let bad = bad(&diagnosis).into_iter().map(|(level, what)| (level, what.to_owned()));
        assert!(diagnosis.findings.iter().all(|it| it.level == Level::Ok || !it.remedy.is_empty()));
        bad.collect::<Vec<_>>()
    };
    let mut host = sound();
    let [(Level::Note, what)] = &levels(&host)[..] else { panic!("{:?}", levels(&host)) };
    assert!(what.contains("with the source that they came with"), "{what}");
    host.foreign_source = Attempt::Failed("EPERM".into());
    let [(Level::Problem, what)] = &levels(&host)[..] else { panic!("{:?}", levels(&host)) };
    assert!(what.contains("EPERM"), "{what}");
    host.foreign_source = Attempt::Done;
    host.capabilities &= !(1 << 10);
    assert_eq!(levels(&host).len(), 2);
    assert!(levels(&host)[1].1.contains("below 1024"));
    host.first_free_port = Some(0);
    assert_eq!(levels(&host).len(), 1);
}
