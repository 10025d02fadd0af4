//! What is judged of one interface.

use super::facts::{Host, Link, Master};
use super::host::foreign_source;
use super::{Finding, Level};
use crate::wire::LinkLayer;

/// The most that a frame of a usual network carries.
const USUAL_MTU: u32 = 1_500;
/// The least MTU with which IPv6 works (RFC 8200 section 5).
const IPV6_MTU: u32 = 1_280;
/// Offloads by their names in `ethtool -k`.
const SEGMENTATION: &str = "tx-udp-segmentation";
const GRO: &str = "rx-gro";
const UDP_GRO: &str = "rx-udp-gro-forwarding";
const GRO_LIST: &str = "rx-gro-list";
const VLAN_FILTER: &str = "rx-vlan-filter";

/// An interface that was asked for and is not there.
pub(super) fn absent(name: &str) -> Finding {
    Finding::new(Level::Problem, name, "there is no such interface in this network namespace")
        .because("a rule that names it relays nothing until it is there")
        .mended_by("ip link")
}

/// Everything that there is to say of an interface.
pub(super) fn findings(link: &Link, host: &Host) -> Vec<Finding> {
    let found = Judge { link };
    let mut findings = vec![found.state(), found.frames()];
    findings.extend(
        [found.part_of_another(), found.bridge(), found.vlan_filtering(), found.xdp()].into_iter().flatten(),
    );
    if link.role.input {
        findings.push(found.receive_offloads());
        findings.extend([found.vlan_filter(), found.ring(), found.queues(host)].into_iter().flatten());
        findings.extend([found.old_igmp(), found.reverse_path(host)].into_iter().flatten());
        findings.extend(found.multicast_router());
    }
    if link.role.output {
        findings.push(found.addresses());
        if link.role.to_groups {
            findings.extend([found.groups(), found.group_route()].into_iter().flatten());
        }
        findings.extend([found.segmentation(), found.mtu()].into_iter().flatten());
    }
    if link.role.keeps_sources {
        findings.extend(foreign_source(host, &link.name));
    }
    findings.extend(found.losses());
    findings.extend(found.promiscuity());
    findings
}

struct Judge<'l> {
    link: &'l Link,
}

impl Judge<'_> {
    fn found(&self, level: Level, what: impl Into<String>) -> Finding {
        Finding::new(level, &self.link.name, what)
    }

    fn state(&self) -> Finding {
        let Link { name, driver, mtu, .. } = self.link;
        if !self.link.up {
            return self
                .found(Level::Warning, "is down")
                .because("nothing is captured from it, and what is sent through it is dropped")
                .mended_by(format!("ip link set dev {name} up"));
        }
        if !self.link.carrier {
            return self
                .found(Level::Warning, "has no carrier")
                .because("there is nothing at its other end: a cable, a switch port, or the peer of a virtual device that is down")
                .mended_by(format!("ip -d link show dev {name}"));
        }
        let driver = if driver.is_empty() { String::new() } else { format!(" (driver {driver})") };
        self.found(Level::Ok, format!("is up{driver}, MTU {mtu}"))
    }

    fn frames(&self) -> Finding {
        let headers = match self.link.link_layer {
            LinkLayer::Ethernet => "Ethernet",
            LinkLayer::RawIp => "IP",
            LinkLayer::Other => "",
        };
        if !headers.is_empty() {
            let what = format!("has {headers} headers: rules can listen on it and send through it");
            return self.found(Level::Ok, what);
        }
        let level = if self.link.role.output { Level::Note } else { Level::Problem };
        self.found(level, "has neither Ethernet nor IP headers: rules can send through it, not listen on it")
            .because("the relay reads frames that begin with either")
            .mended_by("listen on the device that the traffic comes through before it is unpacked")
    }

    fn part_of_another(&self) -> Option<Finding> {
        let (master, kind) = self.link.master.as_ref()?;
        if *kind == Master::Vrf {
            return None;
        }
        let what = match kind {
            Master::Bridge => format!("is a port of the bridge {master}"),
            _ => format!("is a part of {master}"),
        };
        Some(
            self.found(Level::Warning, what)
                .because("a membership that is joined on a part is not kept up, and what is sent through it has no address")
                .mended_by(format!("name {master} in the rules instead")),
        )
    }

    fn bridge(&self) -> Option<Finding> {
        let bridge = self.link.bridge?;
        if !bridge.snooping || bridge.querier {
            return Some(self.found(Level::Ok, "is a bridge that has a querier, or needs none"));
        }
        let name = &self.link.name;
        Some(
            self.found(Level::Warning, "is a bridge with snooping and without a querier of its own")
                .because("unless a router of the network asks for members, nobody does: snooping switches behind it forget theirs \
                          after some four minutes and stop forwarding, and the bridge itself floods every group")
                .mended_by(format!("ip link set dev {name} type bridge mcast_querier 1"))
                .mended_by(format!("ip link set dev {name} type bridge mcast_snooping 0")),
        )
    }

    fn vlan_filtering(&self) -> Option<Finding> {
        let name = &self.link.name;
        self.link.bridge.filter(|bridge| bridge.vlan_filtering).map(|_| {
            self.found(Level::Note, "is a bridge that keeps VLANs apart")
                .because("only frames of its own VLAN reach it untagged; the relay takes tagged ones by rules with `vlan` only")
                .mended_by(format!("bridge vlan show dev {name}"))
                .mended_by(format!("ip link add link {name} name {name}.7 type vlan id 7"))
        })
    }

    fn xdp(&self) -> Option<Finding> {
        let name = &self.link.name;
        self.link.xdp.then(|| {
            self.found(Level::Note, "has an XDP program")
                .because(
                    "it sees frames before they are captured, and what it drops or redirects is not relayed",
                )
                .mended_by(format!("ip -d link show dev {name}"))
        })
    }

    fn receive_offloads(&self) -> Finding {
        let on: Vec<_> = [UDP_GRO, GRO_LIST].into_iter().filter(|name| self.is_active(name)).collect();
        if on.is_empty() {
            let gro = if self.is_active(GRO) { "on" } else { "off" };
            return self.found(Level::Ok, format!("GRO is {gro}, and leaves UDP as it comes"));
        }
        let name = &self.link.name;
        self.found(Level::Note, format!("puts UDP together before it is captured ({})", on.join(", ")))
                .because("the relay takes such trains apart from Linux 6.2 on, and drops them as `coalesced` before; a version 2 \
                          ring stops at one there")
                .mended_by(format!("ethtool -K {name} {} off", on.join(" off ")))
    }

    /// Of VLANs without an interface of their own the device knows nothing, unless it takes in everything.
    fn vlan_filter(&self) -> Option<Finding> {
        let filters = self.link.role.vlan && self.is_active(VLAN_FILTER) && self.link.promiscuity == 0;
        let name = &self.link.name;
        filters.then(|| {
            self.found(Level::Note, format!("may keep out VLANs that have no interface ({VLAN_FILTER})"))
                .because("a rule with `vlan` takes only what the device lets in")
                .mended_by(format!("ethtool -K {name} {VLAN_FILTER} off"))
                .mended_by(format!("ip link set dev {name} promisc on"))
        })
    }

    fn ring(&self) -> Option<Finding> {
        let ring = self.link.ring.filter(|ring| ring.most > 0)?;
        let what = format!("its receive ring has {} of {} descriptors", ring.now, ring.most);
        if ring.now >= ring.most {
            return Some(self.found(Level::Ok, what));
        }
        let level = if self.link.counters.rx_missed > 0 { Level::Warning } else { Level::Note };
        Some(
            self.found(level, what)
                .because("a longer one holds longer bursts, until the kernel gets to them")
                .mended_by(format!("ethtool -G {} rx {}", self.link.name, ring.most)),
        )
    }

    fn queues(&self, host: &Host) -> Option<Finding> {
        let one = self.link.receive_queues == 1 && !self.link.virtual_device && !self.link.spreads_packets;
        (one && host.cpus.len() > 1).then(|| {
            let name = &self.link.name;
            self.found(Level::Note, "has one receive queue")
                .because(
                    "one CPU takes in all its frames; with several workers and flows, let others do a part",
                )
                .mended_by(format!("ethtool -L {name} combined {}", host.cpus.len()))
                .mended_by(format!("echo f > /sys/class/net/{name}/queues/rx-0/rps_cpus"))
        })
    }

    fn old_igmp(&self) -> Option<Finding> {
        let version = self.link.forced_igmp;
        let name = &self.link.name;
        matches!(version, 1 | 2).then(|| {
            self.found(Level::Warning, format!("is told to speak IGMPv{version} (force_igmp_version)"))
                .because("a rule with a source asks the network for every source of its group then")
                .mended_by(format!("sysctl -w net.ipv4.conf.{}.force_igmp_version=0", sysctl_name(name)))
        })
    }

    fn reverse_path(&self, host: &Host) -> Option<Finding> {
        // The host's setting has been told of already.
        (self.link.rp_filter == 1 && host.rp_filter == 0).then(|| {
            self.found(Level::Note, "reverse-path filtering is strict (rp_filter = 1)")
                .because(
                    "it does not touch what the relay captures, but what other programs of this host receive",
                )
                .mended_by(format!("sysctl -w net.ipv4.conf.{}.rp_filter=2", sysctl_name(&self.link.name)))
        })
    }

    fn multicast_router(&self) -> Option<Finding> {
        self.link.forwards_multicast.then(|| {
            self.found(Level::Warning, "the kernel forwards multicast from it (mc_forwarding)")
                .because("a routing daemon such as smcroute or pimd is at work: what it forwards and the relay relays comes twice")
                .mended_by("ip mroute show")
        })
    }

    fn groups(&self) -> Option<Finding> {
        (!self.link.multicast && !self.link.loopback).then(|| {
            self.found(Level::Warning, "is not able to send to groups (no MULTICAST flag)")
                .because("what a rule sends to a group through it, and reports of memberships, may not leave")
                .mended_by(format!("ip link set dev {} multicast on", self.link.name))
        })
    }

    fn addresses(&self) -> Finding {
        let Link { name, addresses_v4: v4, addresses_v6: v6, .. } = self.link;
        if *v4 > 0 {
            return self.found(Level::Ok, format!("has IPv4 addresses: {v4}, IPv6 addresses: {v6}"));
        }
        let what = match v6 {
            0 => "has no address".to_owned(),
            _ => format!("has no IPv4 address (IPv6 addresses: {v6})"),
        };
        self.found(Level::Note, what)
                .because("an output through it has no source address of its own: it is taken from another interface, or there is \
                          no way at all")
                .mended_by(format!("ip address add 192.0.2.1/24 dev {name}"))
    }

    fn group_route(&self) -> Option<Finding> {
        let Link { name, .. } = self.link;
        if self.link.addresses_v4 == 0 || self.link.loopback {
            return None;
        }
        if self.link.group_route {
            return Some(self.found(Level::Ok, "has a route to the IPv4 groups"));
        }
        Some(
            self.found(Level::Warning, "has no route to the IPv4 groups (a default route does not count)")
                .because("an output to a group through it makes the kernel set up a routing entry for every send, and destroy it in \
                          the background: that costs CPU time and keeps some datagrams waiting")
                .mended_by(format!("ip route add 224.0.0.0/4 dev {name}")),
        )
    }

    fn segmentation(&self) -> Option<Finding> {
        let feature = self.link.features.get(SEGMENTATION)?;
        if feature.active {
            return Some(self.found(Level::Ok, "takes trains of datagrams whole (tx-udp-segmentation)"));
        }
        let finding = self
            .found(Level::Note, "the kernel cuts trains of datagrams apart for it")
            .because("a device that does so (UDP segmentation) saves most of what sending costs");
        let name = &self.link.name;
        Some(if feature.changeable {
            finding.mended_by(format!("ethtool -K {name} {SEGMENTATION} on"))
        } else {
            finding
        })
    }

    fn mtu(&self) -> Option<Finding> {
        let Link { name, mtu, .. } = self.link;
        (*mtu < USUAL_MTU).then(|| {
            let level = if *mtu < IPV6_MTU { Level::Warning } else { Level::Note };
            let v6 = if *mtu < IPV6_MTU { ", and IPv6 is off" } else { "" };
            self.found(level, format!("its MTU is {mtu}{v6}"))
                .because("datagrams that came in one frame of 1500 bytes leave as fragments, or are dropped as too_large over IPv6")
                .mended_by(format!("ip link set dev {name} mtu {USUAL_MTU}"))
        })
    }

    fn losses(&self) -> Vec<Finding> {
        let counters = self.link.counters;
        let name = &self.link.name;
        let show = || format!("ip -s -s link show dev {name}; ethtool -S {name}");
        let mut findings = Vec::new();
        if counters.rx_missed > 0 {
            let what = format!("the device has missed {} frames", counters.rx_missed);
            let finding = self
                .found(Level::Warning, what)
                .because("its receive ring was full: they were lost before any program");
            findings.push(finding.mended_by(show()));
        }
        if counters.rx_errors > 0 {
            let what = format!("{} damaged frames have come in", counters.rx_errors);
            findings.push(
                self.found(Level::Warning, what)
                    .because("a cable, a port or a setting of it")
                    .mended_by(show()),
            );
        }
        if counters.rx_dropped > 0 {
            let what = format!("the kernel has dropped {} of its frames", counters.rx_dropped);
            let why = "for want of room, or because nobody takes such frames, which is no loss";
            findings.push(self.found(Level::Note, what).because(why).mended_by(show()));
        }
        if counters.tx_dropped > 0 {
            let what = format!("{} frames have not been sent", counters.tx_dropped);
            let why = "its queue was full, or its other end was not ready";
            let finding = self.found(Level::Note, what).because(why);
            findings.push(finding.mended_by(format!("tc -s qdisc show dev {name}")));
        }
        findings
    }

    fn promiscuity(&self) -> Option<Finding> {
        // To take in all VLANs it may have to.
        let needs_it = self.link.role.vlan && self.is_active(VLAN_FILTER);
        (self.link.promiscuity > 0 && self.link.master.is_none() && !needs_it).then(|| {
            self.found(Level::Note, format!("takes in all frames (promiscuity {})", self.link.promiscuity))
                .because(
                    "frames for others cost interrupts and the filter's time; the relay does not need them",
                )
                .mended_by(format!("ip -d link show dev {}", self.link.name))
        })
    }

    fn is_active(&self, feature: &str) -> bool {
        self.link.features.get(feature).is_some_and(|feature| feature.active)
    }
}

/// How sysctl(8) writes an interface's name: its dots are slashes.
fn sysctl_name(name: &str) -> String {
    name.replace('.', "/")
}
