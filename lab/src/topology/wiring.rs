//! How a topology is put together: namespaces, their settings, cables, addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use super::{Checksum, Family, Leg, Link, NetError, Port, RunName, Segmentation};
use crate::net::Namespace;
use crate::net::link::{End, Mac};
use crate::net::netlink::{Session, session};
use crate::net::occupants::end_occupants;
use crate::net::offloads::{self, CHECKSUM, UDP_SEGMENTATION, Wanted};

/// Most memberships an IPv4 socket of a sink may have; the kernel's default is 20.
const SINK_MEMBERSHIPS: &str = "65536";
/// Memory a socket of a sink may use for its memberships, in bytes; each takes some 40.
const SINK_OPTION_MEMORY: &str = "8388608";
/// The pause between two ICMP errors to one destination, in jiffies (IPv4) or ms (IPv6). A destination starts with
/// the credit of one minute, so that with more than a day not even the first is sent.
const NO_ERRORS: &str = "100000000";

/// How long a sink keeps the fragments of a datagram that misses one, in seconds. The kernel's 30 s let identifications,
/// of which there are 65,536, come round again: what is left of one datagram would be put together with another.
const SINK_FRAGMENT_SECONDS: &str = "1";
/// Memory for such fragments, in bytes; once it is used up, whole datagrams are lost at the sink. The kernel's 4 MiB
/// are some 300 datagrams of 8,000 bytes.
const SINK_FRAGMENT_MEMORY: &str = "268435456";

/// Settings of every namespace that shall have nothing to do with IPv6.
const WITHOUT_IPV6: &[(&str, &str)] =
    &[("net/ipv6/conf/all/disable_ipv6", "1"), ("net/ipv6/conf/default/disable_ipv6", "1")];

/// Settings of a namespace with IPv6. Devices made later take those of `default`: addresses at once and only
/// those given, no solicitation of anything.
const WITH_IPV6: &[(&str, &str)] = &[
    ("net/ipv6/conf/all/disable_ipv6", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    // IN6_ADDR_GEN_MODE_NONE: no link-local address.
    ("net/ipv6/conf/default/addr_gen_mode", "1"),
];

/// Settings of a namespace with IPv4: the kernel's defaults, where a new namespace copies the machine's.
const WITH_IPV4: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
];

/// The namespaces of a topology.
#[derive(Debug)]
pub(super) struct Namespaces {
    pub(super) generator: Arc<Namespace>,
    pub(super) relay: Arc<Namespace>,
    pub(super) sinks: Vec<Arc<Namespace>>,
}

impl Namespaces {
    /// Creates and configures them.
    pub(super) fn create(run: &RunName, family: Family, sinks: usize) -> Result<Self, NetError> {
        let create = |part: &str| Namespace::create(&run.namespace(part)).map(Arc::new);
        let namespaces = Self {
            generator: create("gen")?,
            relay: create("relay")?,
            sinks: (0..sinks).map(|sink| create(&format!("sink{sink}"))).collect::<Result<_, _>>()?,
        };
        namespaces.configure(family)?;
        Ok(namespaces)
    }

    fn configure(&self, family: Family) -> Result<(), NetError> {
        let has_ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        let stack = match (family, has_ipv6) {
            (Family::Ipv6, false) => return Err(NetError::NoIpv6),
            (Family::Ipv6, true) => WITH_IPV6,
            (Family::Ipv4, true) => WITHOUT_IPV6,
            (Family::Ipv4, false) => &[],
        };
        if has_ipv6 {
            set_all(&self.generator, WITHOUT_IPV6)?;
        }
        for namespace in self.sinks.iter().chain([&self.relay]) {
            set_all(namespace, WITH_IPV4)?;
            set_all(namespace, stack)?;
        }
        self.sinks.iter().try_for_each(|sink| configure_sink(sink, family))
    }

    /// Ends whatever lives in them and takes their names away. All of it is tried; the first error is returned.
    pub(super) fn remove(&self) -> Result<(), NetError> {
        let all = || [&self.generator, &self.relay].into_iter().chain(&self.sinks);
        let ids: BTreeSet<_> = all().filter_map(|namespace| namespace.id().ok()).collect();
        let ended = end_occupants(&ids).map(drop);
        all().map(|namespace| namespace.unmount()).fold(ended, Result::and)
    }
}

fn set_all(namespace: &Namespace, settings: &[(&str, &str)]) -> Result<(), NetError> {
    settings.iter().try_for_each(|(key, value)| namespace.set_sysctl(key, value))
}

/// A sink joins as many groups as it likes and never answers: an ICMP error would reach the relay's sockets.
fn configure_sink(sink: &Namespace, family: Family) -> Result<(), NetError> {
    sink.set_sysctl("net/ipv4/igmp_max_memberships", SINK_MEMBERSHIPS)?;
    sink.set_sysctl("net/ipv4/icmp_ratelimit", NO_ERRORS)?;
    sink.set_sysctl("net/ipv4/ipfrag_time", SINK_FRAGMENT_SECONDS)?;
    sink.set_sysctl("net/ipv4/ipfrag_high_thresh", SINK_FRAGMENT_MEMORY)?;
    if family == Family::Ipv6 {
        sink.set_sysctl("net/ipv6/icmp/ratelimit", NO_ERRORS)?;
    }
    // Older kernels have one such setting for the whole machine, which is not ours and not seen from here.
    let key = "net/core/optmem_max";
    if sink.sysctl(key)?.is_some() { sink.set_sysctl(key, SINK_OPTION_MEMORY) } else { Ok(()) }
}

/// Both ends of every cable, once it carries frames.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) generator: Port,
    pub(super) ingress: Port,
    pub(super) egress: Vec<Port>,
    pub(super) sinks: Vec<Port>,
}

/// One end of a cable: where it goes, and what it is called.
#[derive(Debug)]
struct Plug {
    namespace: Arc<Namespace>,
    end: End,
    address: IpAddr,
}

impl Plug {
    /// The port it becomes, with the index the device got.
    fn into_port(self, index: u32) -> Port {
        Port {
            namespace: self.namespace,
            device: self.end.device,
            index,
            mac: self.end.mac,
            address: self.address,
        }
    }
}

/// A cable: the relay's end and the other one.
#[derive(Debug)]
pub(super) struct Cable {
    near: Plug,
    far: Plug,
}

impl Cable {
    /// The one that is there between two ports.
    pub(super) fn between(near: &Port, far: &Port) -> Self {
        let plug = |port: &Port| Plug {
            namespace: Arc::clone(&port.namespace),
            end: End { device: port.device.clone(), mac: port.mac },
            address: port.address,
        };
        Self { near: plug(near), far: plug(far) }
    }

    /// From the relay to the namespace of the generator, for what nothing is offered on.
    fn spare(namespaces: &Namespaces, family: Family) -> Self {
        let plug = |namespace: &Arc<Namespace>, device: &str, host| Plug {
            namespace: Arc::clone(namespace),
            end: End { device: device.to_owned(), mac: Mac([2, 84, 0, 0, 0, host]) },
            address: family.spare_address(host),
        };
        Self { near: plug(&namespaces.relay, "spare", 2), far: plug(&namespaces.generator, "spare0", 1) }
    }

    /// From the relay to the generator.
    fn ingress(namespaces: &Namespaces, family: Family) -> Self {
        // Locally administered addresses: the first octet is 2, the second the number of the network.
        let plug = |namespace: &Arc<Namespace>, device: &str, host| Plug {
            namespace: Arc::clone(namespace),
            end: End { device: device.to_owned(), mac: Mac([2, 81, 0, 0, 0, host]) },
            address: family.ingress_address(host),
        };
        Self { near: plug(&namespaces.relay, "ingress", 2), far: plug(&namespaces.generator, "gen0", 1) }
    }

    /// From the relay to the sink number `sink`.
    fn egress(namespaces: &Namespaces, family: Family, sink: u8, home: &Arc<Namespace>) -> Self {
        let plug = |namespace: &Arc<Namespace>, device: &str, host| Plug {
            namespace: Arc::clone(namespace),
            end: End { device: format!("{device}{sink}"), mac: Mac([2, 82, 0, 0, sink, host]) },
            address: family.egress_address(sink, host),
        };
        Self { near: plug(&namespaces.relay, "egress", 1), far: plug(home, "sink", 2) }
    }
}

/// Lays every cable and waits until it carries frames.
pub(super) fn connect(namespaces: &Namespaces, link: Link) -> Result<Ports, NetError> {
    let ingress = Cable::ingress(namespaces, link.family);
    let numbered = (0..).zip(&namespaces.sinks);
    let egress: Vec<Cable> =
        numbered.map(|(sink, home)| Cable::egress(namespaces, link.family, sink, home)).collect();

    lay(&namespaces.relay, link, &ingress, &egress)?;
    egress.iter().try_for_each(|cable| {
        offloads::switch(&namespaces.relay, &cable.near.end.device, &wanted_offloads(link))
    })?;
    start(&namespaces.relay, &ingress, &egress)?;
    let generator = finish_generator(&ingress.far, link)?;
    let sinks = egress.iter().map(|cable| finish_sink(cable, link)).collect::<Result<Vec<_>, _>>()?;
    let (ingress_index, egress_indices) = finish_relay(&namespaces.relay, link, &ingress, &egress)?;
    // Again: a device may drop a feature when it comes up.
    egress.iter().try_for_each(|cable| {
        offloads::verify(&namespaces.relay, &cable.near.end.device, &wanted_offloads(link))
    })?;

    let (near, far): (Vec<_>, Vec<_>) = egress.into_iter().map(|cable| (cable.near, cable.far)).unzip();
    let ports = |plugs: Vec<Plug>, indices: Vec<u32>| {
        plugs.into_iter().zip(indices).map(|(plug, index)| plug.into_port(index)).collect()
    };
    Ok(Ports {
        generator: ingress.far.into_port(generator),
        ingress: ingress.near.into_port(ingress_index),
        egress: ports(near, egress_indices),
        sinks: ports(far, sinks),
    })
}

/// How the offloads of an egress device are to be.
fn wanted_offloads(link: Link) -> [Wanted; 2] {
    [
        Wanted {
            feature: CHECKSUM,
            on: link.checksum == Checksum::Offload,
            remedy: "use `checksum = \"wire\"` with `segmentation = \"wire\"`",
        },
        Wanted {
            feature: UDP_SEGMENTATION,
            on: link.segmentation == Segmentation::Offload,
            remedy: "use `segmentation = \"wire\"`; offloaded segmentation needs `checksum = \"offload\"` too",
        },
    ]
}

/// Makes every device, down.
fn lay(relay: &Namespace, link: Link, ingress: &Cable, egress: &[Cable]) -> Result<(), NetError> {
    // Neighbours are permanent, so NOARP takes nothing from the egress devices but the solicited-node groups
    // that the kernel would join and report there. IPv4 has nothing of the kind.
    let egress_arp = link.family == Family::Ipv4;
    session(relay, async |session: &Session| {
        let cables = [(ingress, true)].into_iter().chain(egress.iter().map(|cable| (cable, egress_arp)));
        for (Cable { near, far }, arp) in cables {
            session.add_veth(&near.end, &far.end, &far.namespace, link.mtu, arp).await?;
        }
        Ok(())
    })
}

/// Brings the relay's ends up.
fn start(relay: &Namespace, ingress: &Cable, egress: &[Cable]) -> Result<(), NetError> {
    session(relay, async |session: &Session| {
        session.set_up("lo").await?;
        for cable in [ingress].into_iter().chain(egress) {
            session.set_up(&cable.near.end.device).await?;
        }
        Ok(())
    })
}

/// Brings the generator's device up and returns its index. It gets no address: frames go in below the stack.
fn finish_generator(plug: &Plug, link: Link) -> Result<u32, NetError> {
    session(&plug.namespace, async |session: &Session| {
        session.set_up(&plug.end.device).await?;
        session.wait_operational(&plug.end, link.mtu).await.map(|device| device.index)
    })
}

/// Makes a sink an ordinary host behind the relay and returns the index of its device.
fn finish_sink(cable: &Cable, link: Link) -> Result<u32, NetError> {
    let Cable { near, far } = cable;
    session(&far.namespace, async |session: &Session| {
        session.set_up("lo").await?;
        session.set_up(&far.end.device).await?;
        let index = finish_end(session, far, near, link).await?;
        session.add_default_route((&far.end.device, index), near.address).await?;
        Ok(index)
    })
}

/// Completes the relay's ends and returns the indices of its devices.
fn finish_relay(
    relay: &Namespace,
    link: Link,
    ingress: &Cable,
    egress: &[Cable],
) -> Result<(u32, Vec<u32>), NetError> {
    session(relay, async |session: &Session| {
        let first = finish_end(session, &ingress.near, &ingress.far, link).await?;
        let mut others = Vec::with_capacity(egress.len());
        for Cable { near, far } in egress {
            let index = finish_end(session, near, far, link).await?;
            if link.family == Family::Ipv4 {
                session.add_multicast_route((&near.end.device, index)).await?;
            }
            others.push(index);
        }
        Ok((first, others))
    })
}

/// Brings the relay's end of a cable up that is down, and gives it again what it has lost by that.
pub(super) fn start_again(cable: &Cable, link: Link, leg: Leg) -> Result<(), NetError> {
    let Cable { near, far } = cable;
    session(&near.namespace, async |session: &Session| {
        session.set_up(&near.end.device).await?;
        let index = finish_end(session, near, far, link).await?;
        if link.family == Family::Ipv4 && leg != Leg::Ingress {
            session.add_multicast_route((&near.end.device, index)).await?;
        }
        Ok(())
    })?;
    if leg == Leg::Egress {
        offloads::verify(&near.namespace, &near.end.device, &wanted_offloads(link))?;
    }
    Ok(())
}

/// Lays a cable from the relay to the generator's namespace, and returns its ends.
pub(super) fn lay_spare(namespaces: &Namespaces, link: Link) -> Result<(Port, Port), NetError> {
    let cable = Cable::spare(namespaces, link.family);
    let (Cable { near, far }, relay) = (&cable, &namespaces.relay);
    session(relay, async |session: &Session| {
        session.add_veth(&near.end, &far.end, &far.namespace, link.mtu, true).await?;
        session.set_up(&near.end.device).await
    })?;
    let far_index = finish_generator(far, link)?;
    start_again(&cable, link, Leg::Spare)?;
    let near_index =
        session(relay, async |session: &Session| Ok(session.device(&near.end.device).await?.index))?;
    Ok((cable.near.into_port(near_index), cable.far.into_port(far_index)))
}

/// Waits for one end, gives it its address and its peer, and returns the index of its device.
async fn finish_end(session: &Session, plug: &Plug, peer: &Plug, link: Link) -> Result<u32, NetError> {
    let index = session.wait_operational(&plug.end, link.mtu).await?.index;
    let device = (plug.end.device.as_str(), index);
    session.add_address(device, plug.address, link.family.prefix()).await?;
    session.add_neighbour(device, peer.address, peer.end.mac).await?;
    Ok(index)
}
