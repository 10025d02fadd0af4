//! Devices inside one namespace: made, brought up, addressed, watched and counted over netlink.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Sub;
use std::os::fd::AsRawFd;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{
    InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage, State, Stats64,
};
use rtnetlink::packet_route::route::{RouteScope, RouteType};
use rtnetlink::{LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::netlink::{Session, session};
use super::{Namespace, NetError};

/// What a device counted since it was made (`struct rtnl_link_stats64` of `linux/if_link.h`). A frame that carries
/// several datagrams at once ([`crate::topology::Segmentation::Offload`]) counts as one packet.
///
/// A veth has no receive counter of its own: what it received is what its peer sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Frames received that found no room or no taker, for instance a full backlog of the CPU.
    pub rx_dropped: u64,
    /// Frames given to the device that it dropped; a veth counts here what its peer refused.
    pub tx_dropped: u64,
}

impl DeviceCounters {
    fn of(stats: &Stats64) -> Self {
        Self {
            rx_packets: stats.rx_packets,
            tx_packets: stats.tx_packets,
            rx_bytes: stats.rx_bytes,
            tx_bytes: stats.tx_bytes,
            rx_dropped: stats.rx_dropped,
            tx_dropped: stats.tx_dropped,
        }
    }

    /// Applies `combine` to each counter of both.
    fn zip(self, other: Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            rx_packets: combine(self.rx_packets, other.rx_packets),
            tx_packets: combine(self.tx_packets, other.tx_packets),
            rx_bytes: combine(self.rx_bytes, other.rx_bytes),
            tx_bytes: combine(self.tx_bytes, other.tx_bytes),
            rx_dropped: combine(self.rx_dropped, other.rx_dropped),
            tx_dropped: combine(self.tx_dropped, other.tx_dropped),
        }
    }
}

/// What was counted between an earlier reading (`rhs`) and this one; modulo 2^64, as the counters are.
impl Sub for DeviceCounters {
    type Output = Self;

    fn sub(self, rhs: Self) -> Self {
        self.zip(rhs, u64::wrapping_sub)
    }
}

/// An Ethernet address, written as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, octet) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { ":" };
            write!(formatter, "{separator}{octet:02x}")?;
        }
        Ok(())
    }
}

/// One end of a veth pair to be made.
#[derive(Debug, Clone)]
pub(crate) struct End {
    pub(crate) device: String,
    pub(crate) mac: Mac,
}

/// What is known of a device that exists.
#[derive(Debug, Clone)]
pub(crate) struct Device {
    pub(crate) index: u32,
    counters: Option<DeviceCounters>,
    mtu: u32,
    mac: Option<Mac>,
    flags: LinkFlags,
    state: State,
    qdisc: String,
}

impl Device {
    fn of(message: &LinkMessage) -> Self {
        let mut device = Self {
            index: message.header.index,
            mtu: 0,
            mac: None,
            counters: None,
            flags: message.header.flags,
            state: State::Unknown,
            qdisc: String::new(),
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => device.mtu = *mtu,
                LinkAttribute::Address(bytes) => device.mac = bytes.as_slice().try_into().ok().map(Mac),
                LinkAttribute::Stats64(stats) => device.counters = Some(DeviceCounters::of(stats)),
                LinkAttribute::OperState(state) => device.state = *state,
                LinkAttribute::Qdisc(name) => device.qdisc.clone_from(name),
                _ => {}
            }
        }
        device
    }

    /// Whether a frame given to it now is sent. A device that just got its carrier still has the qdisc "noop",
    /// which drops everything, until the kernel's link watch has been at it.
    fn is_operational(&self) -> bool {
        let needed = LinkFlags::Up | LinkFlags::Running | LinkFlags::LowerUp;
        self.flags.contains(needed) && self.state == State::Up && self.qdisc != "noop"
    }

    fn describe(&self) -> String {
        let mac = self.mac.map(|mac| mac.to_string()).unwrap_or_default();
        let Self { mtu, flags, state, qdisc, .. } = self;
        format!("flags {flags}, state {state:?}, qdisc {qdisc}, MTU {mtu}, address {mac}")
    }
}

/// The counters of a device, in a session of its own.
pub(crate) fn counters(namespace: &Namespace, device: &str) -> Result<DeviceCounters, NetError> {
    session(namespace, async |session: &Session| {
        let counters = session.device(device).await?.counters;
        let operation = || format!("read the counters of {device}");
        counters.ok_or_else(|| session.failed(operation(), rtnetlink::Error::RequestFailed))
    })
}

/// Brings a device up or takes it down, in a session of its own.
pub(crate) fn set_state(namespace: &Namespace, device: &str, up: bool) -> Result<(), NetError> {
    session(
        namespace,
        async |session: &Session| {
            if up { session.set_up(device).await } else { session.set_down(device).await }
        },
    )
}

impl Session {
    /// Makes a veth pair: `near` in this namespace, `far` in another, both down.
    ///
    /// `near_arp` false: the near device resolves no neighbours and does not announce its addresses (`IFF_NOARP`).
    pub(crate) async fn add_veth(
        &self,
        near: &End,
        far: &End,
        far_namespace: &Namespace,
        mtu: u32,
        near_arp: bool,
    ) -> Result<(), NetError> {
        let far_end = LinkUnspec::new_with_name(&far.device)
            .address(far.mac.0.to_vec())
            .mtu(mtu)
            .setns_by_fd(far_namespace.file().as_raw_fd())
            .build();
        let pair = LinkVeth::new(&near.device, &far.device)
            .address(near.mac.0.to_vec())
            .mtu(mtu)
            .arp(near_arp)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
            .build();
        let operation = || {
            let (near, far, home) = (&near.device, &far.device, far_namespace.name());
            format!("add a veth pair {near} to {far} of {home}")
        };
        self.handle().link().add(pair).execute().await.map_err(|error| self.failed(operation(), error))
    }

    /// Looks a device up.
    pub(crate) async fn device(&self, name: &str) -> Result<Device, NetError> {
        let operation = || format!("look up device {name}");
        let request = self.handle().link().get().match_name(name);
        let found = request.execute().try_next().await.map_err(|error| self.failed(operation(), error))?;
        let found = found.ok_or_else(|| self.failed(operation(), rtnetlink::Error::RequestFailed))?;
        Ok(Device::of(&found))
    }

    /// Brings a device up.
    pub(crate) async fn set_up(&self, name: &str) -> Result<(), NetError> {
        let change = self.handle().link().change(LinkUnspec::new_with_name(name).up().build());
        change.execute().await.map_err(|error| self.failed(format!("bring {name} up"), error))
    }

    /// Takes a device down.
    pub(crate) async fn set_down(&self, name: &str) -> Result<(), NetError> {
        let change = self.handle().link().change(LinkUnspec::new_with_name(name).down().build());
        change.execute().await.map_err(|error| self.failed(format!("take {name} down"), error))
    }

    /// Waits until a device that is up, as its peer is, really sends, and checks that it is as it was asked for.
    pub(crate) async fn wait_operational(&self, end: &End, mtu: u32) -> Result<Device, NetError> {
        let look = async || {
            let device = self.device(&end.device).await?;
            let ready = device.is_operational() && device.mtu == mtu && device.mac == Some(end.mac);
            Ok(if ready { Ok(device) } else { Err(device.describe()) })
        };
        let what = format!("{} to be operational with MTU {mtu} and address {}", end.device, end.mac);
        self.settle(&what, look).await
    }

    /// Gives a device an address, without duplicate address detection, and waits until it works.
    pub(crate) async fn add_address(
        &self,
        device: (&str, u32),
        address: IpAddr,
        prefix: u8,
    ) -> Result<(), NetError> {
        let (name, index) = device;
        let mut request = self.handle().address().add(index, address, prefix);
        if address.is_ipv6() {
            request.message_mut().header.flags = AddressHeaderFlags::Nodad;
        }
        let operation = || format!("add address {address}/{prefix} to {name}");
        // It may have stayed while the device was down.
        request.replace().execute().await.map_err(|error| self.failed(operation(), error))?;
        // An address without detection is never tentative, and is listed at once. Its local route however, without
        // which nothing sent to it is taken, comes from a kernel worker when that gets to it.
        let what = format!("what is sent to {address} of {name} to be taken");
        self.settle(&what, async || self.delivers(address).await).await
    }

    /// Whether the kernel takes what is sent to `address`, by its own route lookup; `Err` says what it does instead.
    async fn delivers(&self, address: IpAddr) -> Result<Result<(), String>, NetError> {
        let request = match address {
            IpAddr::V4(to) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).build(),
            IpAddr::V6(to) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).build(),
        };
        let looked_up = self.handle().route().get(request).execute().try_next().await;
        Ok(match looked_up {
            Ok(Some(route)) if route.header.kind == RouteType::Local => Ok(()),
            Ok(Some(route)) => Err(format!("a route of type {:?}", route.header.kind)),
            Ok(None) => Err("no answer".to_owned()),
            // No route at all comes as an error.
            Err(rtnetlink::Error::NetlinkError(answer)) => Err(answer.to_string()),
            Err(error) => return Err(self.failed(format!("look up the route to {address}"), error)),
        })
    }

    /// Makes a neighbour known for good, so that nothing is ever asked for or announced on the wire.
    pub(crate) async fn add_neighbour(
        &self,
        device: (&str, u32),
        address: IpAddr,
        mac: Mac,
    ) -> Result<(), NetError> {
        let (name, index) = device;
        let request = self.handle().neighbours().add(index, address).link_layer_address(&mac.0);
        let operation = || format!("add neighbour {address} at {mac} to {name}");
        request.replace().execute().await.map_err(|error| self.failed(operation(), error))
    }

    /// Sends everything that is for no network of its own to `gateway`, through a device.
    pub(crate) async fn add_default_route(
        &self,
        device: (&str, u32),
        gateway: IpAddr,
    ) -> Result<(), NetError> {
        let (name, index) = device;
        let route = match gateway {
            IpAddr::V4(gateway) => {
                RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build()
            }
            IpAddr::V6(gateway) => {
                RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(index).build()
            }
        };
        let operation = || format!("add default route through {gateway} on {name}");
        self.handle().route().add(route).execute().await.map_err(|error| self.failed(operation(), error))
    }

    /// Gives the IPv4 groups a route through a device, beside those that they have through others. Who sends to them
    /// through a device without one makes the kernel set up a routing entry for every datagram, and destroy it.
    pub(crate) async fn add_multicast_route(&self, device: (&str, u32)) -> Result<(), NetError> {
        const GROUPS: (Ipv4Addr, u8) = (Ipv4Addr::new(224, 0, 0, 0), 4);
        let (name, index) = device;
        // Routes to the same destination differ by their priority.
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(GROUPS.0, GROUPS.1)
            .output_interface(index)
            .scope(RouteScope::Link)
            .priority(index)
            .build();
        let operation = || format!("add multicast route on {name}");
        self.handle()
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .map_err(|error| self.failed(operation(), error))
    }
}
