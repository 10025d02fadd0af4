//! Interfaces by netlink and ethtool, in the network namespace of the caller.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoBridge, InfoData, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp, XdpAttached,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{GatherError, read, sysctl, text};
use crate::doctor::facts::{Bridge, Link, LinkCounters, Master};
use crate::sys::ethtool::Device;
use crate::sys::interface;

/// How long the kernel may take to list everything; milliseconds are usual, seconds where there are a million routes.
const PATIENCE: Duration = Duration::from_secs(10);
/// The IPv4 groups.
const GROUPS: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);

/// Facts of every interface of the caller's network namespace, by name.
///
/// # Errors
/// Where netlink cannot be used, or does not answer.
pub fn links() -> Result<BTreeMap<String, Link>, GatherError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
    let runtime = runtime.map_err(failed("start a runtime"))?;
    let lists = runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(failed("open a netlink socket"))?;
        tokio::select! {
            lists = tokio::time::timeout(PATIENCE, Lists::read(&handle)) => {
                lists.map_err(|_| failed("list interfaces")(io::ErrorKind::TimedOut.into()))?
            }
            () = connection => Err(failed("list interfaces")(io::ErrorKind::ConnectionAborted.into())),
        }
    })?;
    Ok(lists.links().map(|link| (link.name.clone(), link)).collect())
}

/// What netlink lists.
struct Lists {
    links: Vec<LinkMessage>,
    addresses: Vec<AddressMessage>,
    /// Indices of the interfaces that a route to all IPv4 groups leads through.
    group_routes: Vec<u32>,
}

impl Lists {
    async fn read(handle: &Handle) -> Result<Self, GatherError> {
        let wrong = |operation| move |error| failed(operation)(io_error(error));
        let links = handle.link().get().execute().try_collect().await.map_err(wrong("list interfaces"))?;
        let addresses = handle.address().get().execute();
        let addresses = addresses.try_collect().await.map_err(wrong("list addresses"))?;
        let routes = handle.route().get(RouteMessageBuilder::<Ipv4Addr>::new().build()).execute();
        let group_routes = routes.try_filter_map(async |route| Ok(group_route(&route)));
        let group_routes = group_routes.try_collect().await.map_err(wrong("list routes"))?;
        Ok(Self { links, addresses, group_routes })
    }

    fn links(&self) -> impl Iterator<Item = Link> {
        self.links.iter().map(|message| {
            let mut link = described(message);
            let index = message.header.index;
            link.master = self.master(message);
            let usable = |address: &&AddressMessage| {
                let useless = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
                address.header.index == index && !address.header.flags.intersects(useless)
            };
            let count = |family| {
                self.addresses.iter().filter(usable).filter(|address| address.header.family == family).count()
            };
            link.addresses_v4 = count(AddressFamily::Inet);
            link.addresses_v6 = count(AddressFamily::Inet6);
            link.group_route = self.group_routes.contains(&index);
            add_settings(&mut link);
            add_device(&mut link);
            link
        })
    }

    fn master(&self, message: &LinkMessage) -> Option<(String, Master)> {
        let index = message.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        })?;
        let master = self.links.iter().find(|master| master.header.index == index)?;
        let kind = match kind(master) {
            Some(InfoKind::Bridge) => Master::Bridge,
            Some(InfoKind::Vrf) => Master::Vrf,
            _ => Master::Other,
        };
        Some((name(master), kind))
    }
}

/// The interface that a route to all groups leads through, if it is one.
fn group_route(route: &RouteMessage) -> Option<u32> {
    if route.header.kind != RouteType::Unicast || route.header.destination_prefix_length != GROUPS.1 {
        return None;
    }
    let to_groups = RouteAttribute::Destination(RouteAddress::Inet(GROUPS.0));
    route.attributes.contains(&to_groups).then_some(())?;
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

fn described(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let layer = message.header.link_layer_type;
    let mut link = Link {
        name: name(message),
        driver: kind(message).map(ToString::to_string).unwrap_or_default(),
        virtual_device: kind(message).is_some() || flags.contains(LinkFlags::Loopback),
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        link_layer: interface::link_layer(layer.into(), flags.bits() as libc::c_int),
        loopback: flags.contains(LinkFlags::Loopback),
        multicast: flags.contains(LinkFlags::Multicast),
        bridge: bridge(message),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Promiscuity(count) => link.promiscuity = *count,
            LinkAttribute::NumRxQueues(count) => link.receive_queues = *count,
            LinkAttribute::Xdp(parts) => link.xdp = is_attached(parts),
            LinkAttribute::Stats64(stats) => {
                link.counters = LinkCounters {
                    rx_dropped: stats.rx_dropped,
                    rx_missed: stats.rx_missed_errors,
                    rx_errors: stats.rx_errors,
                    tx_dropped: stats.tx_dropped,
                };
            }
            _ => {}
        }
    }
    link
}

fn is_attached(parts: &[LinkXdp]) -> bool {
    parts.iter().any(|part| matches!(part, LinkXdp::Attached(how) if *how != XdpAttached::None))
}

fn name(message: &LinkMessage) -> String {
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_default()
}

fn info(message: &LinkMessage) -> impl Iterator<Item = &LinkInfo> {
    let infos = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten()
}

fn kind(message: &LinkMessage) -> Option<&InfoKind> {
    info(message).find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })
}

fn bridge(message: &LinkMessage) -> Option<Bridge> {
    let settings = info(message).find_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(settings)) => Some(settings),
        _ => None,
    })?;
    let mut bridge = Bridge::default();
    for setting in settings {
        match setting {
            InfoBridge::MulticastSnooping(on) => bridge.snooping = *on,
            InfoBridge::MulticastQuerier(on) => bridge.querier = *on,
            InfoBridge::VlanFiltering(on) => bridge.vlan_filtering = *on,
            _ => {}
        }
    }
    Some(bridge)
}

/// What the IP stack was told about the interface.
fn add_settings(link: &mut Link) {
    let setting = |key| sysctl(&format!("net/ipv4/conf/{}/{key}", link.name)).unwrap_or_default();
    link.rp_filter = setting("rp_filter");
    link.forwards_multicast = setting("mc_forwarding") != 0;
    link.forced_igmp = setting("force_igmp_version");
    let queue = PathBuf::from("/sys/class/net").join(&link.name).join("queues/rx-0/rps_cpus");
    link.spreads_packets = read(queue).is_some_and(|mask| text::any_cpu(&mask));
}

/// What the device says of itself; a device may have nothing to say.
fn add_device(link: &mut Link) {
    let Ok(device) = Device::open(&link.name) else { return };
    if let Ok(driver) = device.driver() {
        link.driver = driver;
    }
    link.features = device.features().unwrap_or_default();
    link.ring = device.receive_ring().ok();
}

fn failed(operation: &'static str) -> impl Fn(io::Error) -> GatherError {
    move |error| GatherError { operation, error }
}

/// The kernel's answer inside rtnetlink's error.
fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(answer) => answer.to_io(),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_as_always() {
        let links = links().unwrap();
        let lo = &links["lo"];
        assert!(
            lo.loopback
                && lo.link_layer == crate::wire::LinkLayer::Ethernet
                && lo.virtual_device
                && lo.bridge.is_none(),
            "{lo:?}"
        );
        assert!(lo.mtu > 0 && lo.features.contains_key("rx-gro"), "{lo:?}");
    }
}
