//! What the relay must know of a network interface.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

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
    /// Whether its frames begin with an Ethernet header.
    pub ethernet: bool,
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
            ethernet: has_ethernet_headers(hardware),
        })
    }
}

/// Whether the frames of a device of this kind (`ARPHRD_…`, `linux/if_arp.h`) begin with an Ethernet header. Those of the
/// loopback device do.
pub fn has_ethernet_headers(hardware: u16) -> bool {
    matches!(hardware, libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK)
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
        assert!(lo.index > 0 && lo.mtu > 0 && lo.ethernet && lo.carrier == lo.up, "{lo:?}");
        assert!(Interface::find("no-such-if").is_err());
        assert!(Interface::find("a-name-that-is-too-long").is_err());
        assert!(Interface::find("zero\0inside").is_err());
    }
}
