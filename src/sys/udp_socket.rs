//! UDP sockets for egress, and to occupy addresses.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use super::sockopt;

/// Place of the code point in the traffic class, above the two bits of ECN (RFC 2474, RFC 3168).
pub const DSCP_SHIFT: u32 = 2;

/// What egress sockets mark their datagrams with (`SO_MARK`) that come in at this host again: filters of packet sockets let none
/// through that has it. A number that nobody else is likely to use.
pub const OWN_MARK: u32 = 0x6d63_726c;
/// Index of `lo` in every network namespace: `LOOPBACK_IFINDEX` (`net/flow.h`).
const LOOPBACK: u32 = 1;

/// Where and how an egress socket sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EgressAddress {
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Name of the interface that datagrams leave through.
    pub interface: String,
    /// Index of that interface.
    pub interface_index: u32,
    /// Time to live or hop limit, 1 to 255; without one, each datagram brings its own.
    pub ttl: Option<u8>,
    /// Differentiated services code point, 0 to 63; without one, each datagram brings its own.
    pub dscp: Option<u8>,
    /// Whether datagrams that are larger than the path allows leave in fragments; else they fail with `EMSGSIZE`.
    pub fragment: bool,
    /// Whether datagrams have the source that they came with, and each source a socket of its own.
    pub preserve: bool,
    /// Where each datagram brings its own destination: the last of those, of which `destination` is the first. They are all addresses
    /// of a prefix with all ports of a range.
    pub last: Option<SocketAddr>,
}

impl EgressAddress {
    /// One whose datagrams have what Linux gives to unicast: a time to live of 64, best effort, and fragments where it takes them.
    pub fn new(destination: SocketAddr, interface: impl Into<String>, interface_index: u32) -> Self {
        let interface = interface.into();
        let (ttl, dscp) = (Some(64), Some(0));
        Self {
            destination,
            interface,
            interface_index,
            ttl,
            dscp,
            fragment: true,
            preserve: false,
            last: None,
        }
    }

    /// Whether a host on the way may answer a datagram with an ICMP error, which the next send meets. Datagrams to IPv4 groups are
    /// never answered (RFC 1122 section 3.2.2); those to IPv6 groups may be too big (RFC 4443 section 2.4).
    pub fn is_answered(&self) -> bool {
        !(self.destination.is_ipv4() && self.destination.ip().is_multicast())
    }
}

/// A socket to send through.
#[derive(Debug)]
pub struct Opened {
    /// The socket.
    pub socket: OwnedFd,
    /// Bytes of its send buffer.
    pub send_buffer: usize,
    /// What it sends from, without a scope; `None` where that is somebody else's.
    pub own: Option<SocketAddr>,
}

/// Opens a UDP socket that is connected to `address`, with a send buffer of at least `send_buffer` bytes if it can have that:
/// `CAP_NET_ADMIN` overrides the limit `net.core.wmem_max`. Binding to an interface needs `CAP_NET_RAW` before Linux 5.7. Where `address` says that
/// sources are kept, one of the two capabilities is needed, and datagrams have the source `source`, whosever that is.
///
/// Where datagrams bring their own destination, the socket is connected to none, and receives nothing.
///
/// # Errors
/// `EADDRINUSE` where a socket of this host has the port of `source` with all addresses, and does not share it (`SO_REUSEADDR`);
/// `EACCES` where that port is below `net.ipv4.ip_unprivileged_port_start` and `CAP_NET_BIND_SERVICE` is not there.
pub fn open_egress(
    address: &EgressAddress,
    source: Option<SocketAddr>,
    send_buffer: usize,
) -> io::Result<Opened> {
    let socket = configured(address, source)?;
    let wanted = libc::c_int::try_from(send_buffer).map_err(|_| io::ErrorKind::InvalidInput)?;
    if sockopt::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, wanted).is_err() {
        socket.set_send_buffer_size(send_buffer)?;
    }
    let own = match (address.last, source) {
        (None, _) => {
            connect(&socket, address)?;
            local_address(&socket)?
        }
        // It is bound.
        (Some(_), Some(source)) => source,
        (Some(_), None) => {
            // Whether there is a way at all, and from which address, is asked as for any other output, by one that can tell.
            let probe = configured(address, None)?;
            connect(&probe, address)?;
            bind_anywhere(&socket, address.destination.is_ipv4())?;
            SocketAddr::new(local_address(&probe)?.ip(), local_address(&socket)?.port())
        }
    };
    mark_what_comes_back(&socket, address)?;
    // The kernel doubles the value for its own bookkeeping and reports the double (socket(7)).
    let send_buffer = socket.send_buffer_size()? / 2;
    let own = (!address.preserve).then(|| SocketAddr::new(own.ip(), own.port()));
    Ok(Opened { socket: socket.into(), send_buffer, own })
}

fn connect(socket: &Socket, address: &EgressAddress) -> io::Result<()> {
    socket.connect(&scoped(address.destination, address.interface_index).into())
}

/// Gives `socket` a port, at which it receives nothing.
fn bind_anywhere(socket: &Socket, is_ipv4: bool) -> io::Result<()> {
    socket.attach_filter(&super::filter::nothing())?;
    let any: IpAddr = if is_ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    socket.bind(&SocketAddr::new(any, 0).into())
}

/// A socket that sends as `address` and `source` say, and nowhere yet.
fn configured(address: &EgressAddress, source: Option<SocketAddr>) -> io::Result<Socket> {
    let destination = address.destination;
    let socket = Socket::new(Domain::for_address(destination), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(address.interface.as_bytes()))?;
    if address.preserve {
        send_as(&socket, destination.is_ipv4(), source)?;
    }
    if destination.is_ipv4() {
        set_multicast_interface_v4(&socket, address.interface_index)?;
        socket.set_multicast_loop_v4(false)?;
        if let Some(ttl) = address.ttl {
            socket.set_multicast_ttl_v4(ttl.into())?;
            socket.set_ttl_v4(ttl.into())?;
        }
        if let Some(dscp) = address.dscp {
            socket.set_tos_v4(u32::from(dscp) << DSCP_SHIFT)?;
        }
        if !address.fragment {
            sockopt::set(socket.as_fd(), libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)?;
        } else if address.preserve {
            // That a path is narrower farther on its source is told, not this host: routers are left to make fragments.
            sockopt::set(socket.as_fd(), libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT)?;
        }
        socket.set_broadcast(true)?;
        // Without it the kernel hides from the sender that a device's queue was full (udp_send_skb, net/ipv4/udp.c).
        sockopt::set(socket.as_fd(), libc::SOL_IP, libc::IP_RECVERR, 1)?;
    } else {
        socket.set_multicast_if_v6(address.interface_index)?;
        socket.set_multicast_loop_v6(false)?;
        if let Some(ttl) = address.ttl {
            socket.set_multicast_hops_v6(ttl.into())?;
            socket.set_unicast_hops_v6(ttl.into())?;
        }
        if let Some(dscp) = address.dscp {
            socket.set_tclass_v6(u32::from(dscp) << DSCP_SHIFT)?;
        }
        if !address.fragment {
            sockopt::set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_DONTFRAG, 1)?;
        }
        sockopt::set(socket.as_fd(), libc::SOL_IPV6, libc::IPV6_RECVERR, 1)?;
    }
    Ok(socket)
}

/// Has `socket` send as `source`, or, without, makes sure that it could. It receives nothing as `source`.
fn send_as(socket: &Socket, is_ipv4: bool, source: Option<SocketAddr>) -> io::Result<()> {
    if is_ipv4 {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    let Some(source) = source else { return Ok(()) };
    // Other outputs, and other workers, send as the same. Not `SO_REUSEPORT`, which would share out what comes in.
    socket.set_reuse_address(true)?;
    socket.attach_filter(&super::filter::nothing())?;
    socket.bind(&source.into())
}

/// Makes sure that sockets can send as other hosts, which takes `CAP_NET_RAW` or `CAP_NET_ADMIN`.
pub fn try_to_send_as_others() -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    send_as(&socket, true, None)
}

/// Whether a datagram that came in from `source` can leave with it through another link: not without a port, not from an address
/// that is no host's or means one on its own link only (RFC 4007 section 9, RFC 3927 section 2.7), nor from what the kernel takes
/// for a martian (`ip_route_input_slow`, `net/ipv4/route.c`; `ip6_rcv_core`, `net/ipv6/ip6_input.c`).
pub fn can_be_kept(source: SocketAddr) -> bool {
    source.port() != 0
        && !source.ip().is_unspecified()
        && !source.ip().is_multicast()
        && !source.ip().is_loopback()
        && match source.ip() {
            IpAddr::V4(v4) => v4.octets()[0] != 0 && !v4.is_broadcast() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none(),
        }
}

/// Whether `address` is one of this host's, as seen through `interface`.
pub fn is_own(address: IpAddr, interface: &str) -> io::Result<bool> {
    // To an address of its own a host sends from that address. The port is of no account, for nothing is sent.
    const ANY_PORT: u16 = 9;
    let to = SocketAddr::new(address, ANY_PORT);
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(interface.as_bytes()))?;
    // To an address of its own there is a way.
    let own = socket.connect(&to.into()).and_then(|()| socket.local_addr());
    let own = own.ok().and_then(|own| own.as_socket()).map(|own| own.ip());
    Ok(address.is_loopback() || own == Some(address))
}

/// Marks what `socket` sends through the loopback device, which is where it comes in again. To
/// `PACKET_IGNORE_OUTGOING` it is incoming then.
fn mark_what_comes_back(socket: &Socket, address: &EgressAddress) -> io::Result<()> {
    // To an address of its own a host sends through that device, whatever interface is asked for. Any of a range can be one.
    let destination = address.destination.ip();
    let is_own = if address.last.is_some() && !destination.is_multicast() {
        true
    } else if address.preserve {
        is_own(destination, &address.interface)?
    } else {
        socket.local_addr()?.as_socket().map(|own| own.ip()) == Some(destination)
    };
    if address.interface_index != LOOPBACK && !is_own {
        return Ok(());
    }
    match socket.set_mark(OWN_MARK) {
        // Before Linux 5.17 it takes CAP_NET_ADMIN. Rules that send in a circle are refused all the same.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result,
    }
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn set_multicast_interface_v4(socket: &Socket, interface: u32) -> io::Result<()> {
    let any = libc::in_addr { s_addr: libc::INADDR_ANY };
    let request =
        libc::ip_mreqn { imr_multiaddr: any, imr_address: any, imr_ifindex: interface as libc::c_int };
    sockopt::set(socket.as_fd(), libc::SOL_IP, libc::IP_MULTICAST_IF, request)
}

/// A link-local destination means nothing without its interface.
pub fn scoped(destination: SocketAddr, interface: u32) -> SocketAddr {
    match destination {
        SocketAddr::V6(mut address) => {
            address.set_scope_id(interface);
            address.into()
        }
        SocketAddr::V4(_) => destination,
    }
}

/// Binds a UDP socket to `address` that receives nothing. While it is there, the host does not answer datagrams to that
/// address with "port unreachable", which would make their sender stop.
pub fn occupy(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.attach_filter(&super::filter::nothing())?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

impl fmt::Display for EgressAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.destination)?;
        self.last.map_or(Ok(()), |last| write!(f, " to {last}"))?;
        write!(f, ":{}", self.interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_is_a_hosts_on_any_link_can_be_kept() {
        for source in ["10.0.0.9:1", "192.0.2.1:65535", "240.0.0.1:9", "[2001:db8::1]:5353", "[fd00::9]:9"] {
            assert!(can_be_kept(source.parse().unwrap()), "{source}");
        }
        let no_hosts =
            ["0.0.0.0:68", "0.1.2.3:9", "255.255.255.255:9", "239.1.1.1:9", "[::]:9", "[ff15::1]:9"];
        let of_a_link = ["169.254.3.4:9", "127.0.0.1:9", "[fe80::1]:9", "[febf::1]:9", "[::1]:9"];
        for source in no_hosts.iter().chain(&of_a_link).chain(&["10.0.0.9:0", "[::ffff:10.0.0.9]:9"]) {
            assert!(!can_be_kept(source.parse().unwrap()), "{source}");
        }
    }
}
