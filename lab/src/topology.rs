//! The network of a trial: a generator, the relay between two kinds of link, and the sinks.
//!
//! ```text
//!  lab-<run>-gen            lab-<run>-relay              lab-<run>-sink0
//!  +------------+          +-------------------+         +-------------+
//!  |       gen0 |----------| ingress   egress0 |---------| sink0       |
//!  +------------+          |           egress1 |----+    +-------------+
//!                          +-------------------+    |    +-------------+
//!                                                   +----| sink1       |
//!                                                        +-------------+
//! ```
//!
//! The forward direction, from left to right, carries nothing but what the generator and the relay send, so that
//! the counters of the devices are counts of datagrams: neighbours are permanent, nobody solicits routers or
//! detects duplicate addresses, the generator has no IP stack configured, and the egress devices of an IPv6
//! network are NOARP, which keeps the kernel from joining (and reporting) the groups of neighbour discovery.
//! Toward the relay the sinks may report memberships; they send no errors.

mod flap;
mod wiring;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use serde::Serialize;

use crate::net::link::{self, Mac};
use crate::net::offloads::{RECEIVE, Wanted};
use crate::net::{DeviceCounters, Namespace, offloads};
use crate::sys::ethtool::Statistics;
use wiring::{Namespaces, Ports};

pub use crate::net::{NetError, RunName};
pub use flap::{Change, Leg};

/// The most sinks a topology can have.
pub const MAX_SINKS: usize = 16;
/// The largest MTU in bytes, that of a veth.
pub const MAX_MTU: u32 = 65535;

/// The address family of every link of a topology.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4; IPv6 is off in every namespace.
    Ipv4,
    /// IPv6; nothing has an IPv4 address.
    Ipv6,
}

impl Family {
    const fn name(self) -> &'static str {
        match self {
            Self::Ipv4 => "IPv4",
            Self::Ipv6 => "IPv6",
        }
    }

    /// The least MTU: RFC 791 section 3.2 and RFC 8200 section 5.
    pub(crate) const fn least_mtu(self) -> u32 {
        match self {
            Self::Ipv4 => 68,
            Self::Ipv6 => 1280,
        }
    }

    /// Length of the prefix of a link.
    const fn prefix(self) -> u8 {
        match self {
            Self::Ipv4 => 24,
            Self::Ipv6 => 64,
        }
    }

    /// The address of `host` on the link between the generator and the relay.
    fn ingress_address(self, host: u8) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(10, 81, 0, host).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd81, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The address of `host` on the spare link.
    fn spare_address(self, host: u8) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(10, 84, 0, host).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd84, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The address of `host` on the link between the relay and sink `sink`.
    fn egress_address(self, sink: u8, host: u8) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::new(10, 82, sink, host).into(),
            Self::Ipv6 => Ipv6Addr::new(0xfd82, sink.into(), 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

/// Where a super-frame of the relay is cut into datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Segmentation {
    /// Before egress: each datagram crosses the link as its own frame.
    Wire,
    /// Nowhere: super-frames cross the link and the sink's stack takes them apart, as behind a NIC that segments.
    Offload,
}

impl Segmentation {
    /// Every segmentation with its name in scenarios and results.
    pub const NAMES: [(&'static str, Self); 2] = [("wire", Self::Wire), ("offload", Self::Offload)];
}

impl fmt::Display for Segmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, known)| known == self).map_or("", |(name, _)| name))
    }
}

/// Who completes the checksums of what the relay sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// The relay's stack, before egress: the frame is complete and the sink's stack verifies it.
    Wire,
    /// Nobody, as behind a NIC that does it: the sink's stack takes the frame for good.
    Offload,
}

/// How every link of a topology is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Link {
    /// MTU in bytes, at both ends: 68 (IPv4) or 1280 (IPv6) to 65535.
    pub mtu: u32,
    /// Segmentation on the egress devices.
    pub segmentation: Segmentation,
    /// Checksums on the egress devices.
    pub checksum: Checksum,
    /// The address family.
    pub family: Family,
}

/// One end of a veth pair.
#[derive(Debug)]
pub struct Port {
    namespace: Arc<Namespace>,
    device: String,
    index: u32,
    mac: Mac,
    address: IpAddr,
}

impl Port {
    /// The namespace the device is in.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    /// The name of the device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// The index of the device, unique inside its namespace.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The Ethernet address.
    pub const fn mac(&self) -> [u8; 6] {
        self.mac.0
    }

    /// The IP address. The generator's is not configured anywhere, it is for use as a source address.
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// What the device counted since it was made.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the device is gone.
    pub fn counters(&self) -> Result<DeviceCounters, NetError> {
        link::counters(&self.namespace, &self.device)
    }

    /// Brings the device up, or takes it down as an operator or a pulled cable would.
    ///
    /// # Errors
    /// When the kernel refuses, or the device is gone.
    pub fn set_up(&self, up: bool) -> Result<(), NetError> {
        link::set_state(&self.namespace, &self.device, up)
    }

    /// Has the device receive through NAPI, without which it takes no frames that XDP redirects to it. Datagrams are not
    /// coalesced: the kernel does that for UDP only where somebody asks for it.
    ///
    /// # Errors
    /// When the kernel refuses, or the device is gone.
    pub fn receive_by_napi(&self) -> Result<(), NetError> {
        let remedy = "use `generator = \"packet\"`";
        offloads::switch(&self.namespace, &self.device, &[Wanted { feature: RECEIVE, on: true, remedy }])
    }

    /// How many frames the device took out of its receive queue by NAPI and then dropped, for want of memory. Its counters
    /// have them among those received.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the device is gone.
    pub fn received_in_vain(&self) -> Result<u64, NetError> {
        let read = self.namespace.run(|| Statistics::open(&self.device)?.sum("rx_queue_", "drops"))?;
        read.map(Option::unwrap_or_default).map_err(|source| NetError::Statistics {
            device: self.device.clone(),
            namespace: self.namespace.name().to_owned(),
            source,
        })
    }

    /// Whether an offload of the device is on now, by the name ethtool gives it ("tx-udp-segmentation"). One that
    /// the kernel does not know is not.
    ///
    /// # Errors
    /// When the kernel cannot be asked, or the device is gone.
    pub fn has_offload(&self, feature: &str) -> Result<bool, NetError> {
        offloads::is_active(&self.namespace, &self.device, feature)
    }
}

/// The network of a trial. Dropping it, also in a panic, ends every process still inside and removes the
/// namespaces, and the devices with them.
///
/// It may be shared between threads. A socket opened inside and still open keeps its namespace alive, without a
/// name, until it is closed.
#[derive(Debug)]
pub struct Topology {
    /// The generator's end, `gen0`.
    pub generator: Port,
    /// The relay's end toward the generator, `ingress`.
    pub ingress: Port,
    /// The relay's ends toward the sinks, `egress0` and on.
    pub egress: Vec<Port>,
    /// The sinks' ends, `sink0` and on, in the order of `egress`.
    pub sinks: Vec<Port>,
    /// Both ends of a cable beside them, the relay's first.
    spare: Option<(Port, Port)>,
    /// How many devices were made anew.
    made_anew: AtomicU32,
    link: Link,
    namespaces: Namespaces,
    /// Marks the run as alive; the last field, so that the mark outlives the namespaces.
    _run: RunName,
}

impl Topology {
    /// Builds the network for `sinks` sinks (1 to [`MAX_SINKS`]) and waits until every link is operational.
    ///
    /// # Errors
    /// [`NetError::NeedsRoot`] without the privilege; otherwise what could not be made. Nothing is left then.
    pub fn build(run: &RunName, link: &Link, sinks: usize) -> Result<Self, NetError> {
        check(*link, sinks)?;
        let namespaces = Namespaces::create(run, link.family, sinks)?;
        let Ports { generator, ingress, egress, sinks } = wiring::connect(&namespaces, *link)?;
        Ok(Self {
            generator,
            ingress,
            egress,
            sinks,
            spare: None,
            made_anew: AtomicU32::new(0),
            link: *link,
            namespaces,
            _run: run.clone(),
        })
    }

    /// How its links were asked to be.
    pub const fn link(&self) -> Link {
        self.link
    }

    /// The namespace in which the relay is to run.
    pub fn relay_namespace(&self) -> &Namespace {
        &self.namespaces.relay
    }

    /// Like dropping it, but reports.
    ///
    /// # Errors
    /// The first thing that could not be ended or removed; the rest is removed all the same.
    pub fn remove(self) -> Result<(), NetError> {
        self.namespaces.remove()
    }
}

impl Drop for Topology {
    fn drop(&mut self) {
        // Nobody is left to tell; `lab clean` is for what may stay.
        let _ = self.namespaces.remove();
    }
}

fn check(link: Link, sinks: usize) -> Result<(), NetError> {
    let (least, mtu) = (link.family.least_mtu(), link.mtu);
    if mtu < least || mtu > MAX_MTU {
        return Err(NetError::Mtu { family: link.family.name(), mtu, least, most: MAX_MTU });
    }
    if sinks == 0 || sinks > MAX_SINKS {
        return Err(NetError::Sinks { asked: sinks, most: MAX_SINKS });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: Link =
        Link { mtu: 1500, segmentation: Segmentation::Wire, checksum: Checksum::Wire, family: Family::Ipv4 };

    #[test]
    fn links_that_cannot_be_built_are_refused_first() {
        let mtu = |family, mtu| check(Link { mtu, family, ..LINK }, 1);
        for (family, good) in [(Family::Ipv4, 68), (Family::Ipv6, 1280), (Family::Ipv4, 65535)] {
            assert!(mtu(family, good).is_ok(), "{good}");
        }
        for (family, bad) in
            [(Family::Ipv4, 67), (Family::Ipv6, 1279), (Family::Ipv4, 65536), (Family::Ipv6, 0)]
        {
            assert!(matches!(mtu(family, bad), Err(NetError::Mtu { .. })), "{bad}");
        }
        for bad in [0, MAX_SINKS + 1, usize::MAX] {
            assert!(matches!(check(LINK, bad), Err(NetError::Sinks { .. })), "{bad}");
        }
    }

    #[test]
    fn addresses_are_those_of_the_plan() {
        assert_eq!(Family::Ipv4.ingress_address(2).to_string(), "10.81.0.2");
        assert_eq!(Family::Ipv4.egress_address(15, 1).to_string(), "10.82.15.1");
        assert_eq!(Family::Ipv6.ingress_address(1).to_string(), "fd81::1");
        assert_eq!(Family::Ipv6.egress_address(15, 2).to_string(), "fd82:f::2");
    }

    #[test]
    fn a_topology_can_be_shared_between_threads() {
        const fn shared<T: Send + Sync>() {}
        shared::<Topology>();
        shared::<Port>();
        shared::<RunName>();
    }
}
