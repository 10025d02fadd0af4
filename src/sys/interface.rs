//! What the relay must know of a network interface.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use crate::wire::LinkLayer;

/// A network interface at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, not 0.
    pub index: u32,
    /// Largest packet above the link layer, in bytes.
    pub mtu: u32,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether frames can come and go, which takes that it is up: operational by RFC 2863, `IFF_RUNNING`. One that is up
    /// and has no carrier is what `ip link` calls NO-CARRIER.
    pub carrier: bool,
    /// What its frames begin with.
    pub link_layer: LinkLayer,
}

impl Interface {
    /// Looks up `name` in the caller's network namespace; `NotFound` or `ENODEV` when there is none.
    pub fn find(name: &str) -> io::Result<Self> {
        let name_c = CString::new(name)?;
        // SAFETY: the pointer is to a string that ends in zero and lives until the call returns.
        let index = unsafe { libc::if_nametoindex(name_c.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
        let flags = request(&socket, name, libc::SIOCGIFFLAGS)?;
        let mtu = request(&socket, name, libc::SIOCGIFMTU)?;
        let hardware = request(&socket, name, libc::SIOCGIFHWADDR)?;
        // SAFETY: SIOCGIFFLAGS has set the flags; every bit pattern is a short.
        let flags = unsafe { flags.ifr_ifru.ifru_flags };
        // SAFETY: SIOCGIFMTU has set the MTU; every bit pattern is an int.
        let mtu = unsafe { mtu.ifr_ifru.ifru_mtu };
        // SAFETY: SIOCGIFHWADDR has set the hardware address; every bit pattern is a sockaddr.
        let hardware = unsafe { hardware.ifr_ifru.ifru_hwaddr }.sa_family;
        let flags = libc::c_int::from(flags);
        Ok(Self {
            name: name.to_owned(),
            index,
            mtu: u32::try_from(mtu).unwrap_or_default(),
            up: flags & libc::IFF_UP != 0,
            carrier: flags & libc::IFF_RUNNING != 0,
            link_layer: link_layer(hardware, flags),
        })
    }
}

/// What a packet socket gets of a device of this kind (`ARPHRD_…`, `linux/if_arp.h`) with these flags (`IFF_…`): the header
/// that its driver makes (`dev_has_header`, `linux/netdevice.h`), or none. Frames of the loopback device have an Ethernet
/// header.
pub fn link_layer(hardware: u16, flags: libc::c_int) -> LinkLayer {
    const ARPHRD_RAWIP: u16 = 519;
    const ARPHRD_IP6GRE: u16 = 823;
    match hardware {
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK => LinkLayer::Ethernet,
        // tun and WireGuard, modems, PPP, and IP in IP.
        libc::ARPHRD_NONE
        | ARPHRD_RAWIP
        | libc::ARPHRD_PPP
        | libc::ARPHRD_TUNNEL
        | libc::ARPHRD_TUNNEL6
        | libc::ARPHRD_SIT => LinkLayer::RawIp,
        // GRE with one host at the other end; else the outer headers come with each frame.
        libc::ARPHRD_IPGRE | ARPHRD_IP6GRE
            if flags & (libc::IFF_POINTOPOINT | libc::IFF_BROADCAST) == libc::IFF_POINTOPOINT =>
        {
            LinkLayer::RawIp
        }
        _ => LinkLayer::Other,
    }
}

/// An interface request (netdevice(7)) that only reads.
fn request(socket: &Socket, name: &str, operation: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: an `ifreq` is made of integers and byte arrays; zero is a valid value of each.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the operations used take a pointer to an `ifreq`, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), operation, &raw mut request) };
    if result == 0 { Ok(request) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_found_and_nonsense_is_not() {
        let lo = Interface::find("lo").unwrap();
        assert!(
            lo.index > 0 && lo.mtu > 0 && lo.link_layer == LinkLayer::Ethernet && lo.carrier == lo.up,
            "{lo:?}"
        );
        assert!(Interface::find("no-such-if").is_err());
        assert!(Interface::find("a-name-that-is-too-long").is_err());
        assert!(Interface::find("zero\0inside").is_err());
    }

    #[test]
    fn tunnels_have_no_link_layer_unless_they_have_many_ends() {
        let (one, many) = (libc::IFF_UP | libc::IFF_POINTOPOINT, libc::IFF_UP | libc::IFF_BROADCAST);
        assert_eq!(link_layer(libc::ARPHRD_ETHER, many), LinkLayer::Ethernet);
        assert_eq!(link_layer(libc::ARPHRD_NONE, 0), LinkLayer::RawIp);
        assert_eq!(link_layer(libc::ARPHRD_IPGRE, one), LinkLayer::RawIp);
        for flags in [0, many, one | many] {
            assert_eq!(link_layer(libc::ARPHRD_IPGRE, flags), LinkLayer::Other);
        }
        assert_eq!(link_layer(libc::ARPHRD_INFINIBAND, many), LinkLayer::Other);
    }
}
