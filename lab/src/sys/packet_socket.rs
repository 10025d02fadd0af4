//! `AF_PACKET` sockets: opening, options, binding. What is sent and how a ring is read lives elsewhere.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use socket2::{Domain, Socket, Type};

use super::socket_option;

/// Every protocol, tapped before the IP stack (`linux/if_ether.h`).
pub const ALL_PROTOCOLS: u16 = libc::ETH_P_ALL as u16;
/// No protocol: a socket that only sends.
pub const NO_PROTOCOL: u16 = 0;

/// A raw packet socket; closed on drop.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

/// What the kernel counted since the last reading (`linux/if_packet.h`, `tpacket_stats_v3`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingStatistics {
    /// Frames that reached the socket, dropped ones included.
    pub packets: u64,
    /// Frames dropped because the ring or its memory was full.
    pub drops: u64,
}

impl PacketSocket {
    /// Opens one that hears nothing until it is bound to a protocol.
    pub fn open() -> io::Result<Self> {
        // Protocol 0: `bind` decides what is heard, so nothing stray is queued before set-up is complete.
        Ok(Self { socket: Socket::new(Domain::PACKET, Type::RAW, None)? })
    }

    /// Sends on and hears the interface with this index; `protocol` in host order.
    pub fn bind(&self, interface_index: u32, protocol: u16) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as libc::sa_family_t,
            sll_protocol: protocol.to_be(),
            sll_ifindex: interface_index as libc::c_int,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let length = size_of_val(&address) as libc::socklen_t;
        // SAFETY: pointer and length describe the local `address`; the kernel only reads it during the call.
        let result = unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), length) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Has the kernel put IPv4 fragments together before it queues them: it offers that to fanout groups only, so the
    /// socket joins one of its own. Must come after [`Self::bind`]; what comes in between is queued as it is.
    pub fn reassemble(&self) -> io::Result<()> {
        // How a group spreads frames over its sockets does not matter to a single one. The lower half, the number of
        // the group, must be 0 for the kernel to choose a free one (Linux 4.13).
        // Membership replaces the socket's own hook, and PACKET_IGNORE_OUTGOING with it.
        let flags = libc::PACKET_FANOUT_FLAG_DEFRAG | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        let kind = libc::PACKET_FANOUT_LB | flags | libc::PACKET_FANOUT_FLAG_UNIQUEID;
        self.set(libc::PACKET_FANOUT, (kind << 16).cast_signed())
    }

    /// Leaves out what this host itself sends on the interface (Linux 4.20).
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        self.set(libc::PACKET_IGNORE_OUTGOING, 1)
    }

    /// Puts a `virtio_net_hdr` before each frame, and expects one before what is sent: without it the datagrams of a
    /// super-frame cannot be told apart. Must come before the ring.
    pub fn with_virtio_header(&self) -> io::Result<()> {
        self.set(libc::PACKET_VNET_HDR, 1)
    }

    /// Chooses `TPACKET_V3`. Must come before the ring.
    pub fn use_version_3(&self) -> io::Result<()> {
        self.set(libc::PACKET_VERSION, libc::tpacket_versions::TPACKET_V3 as libc::c_int)
    }

    /// Sends a frame without waiting, behind its `virtio_net_hdr` where the socket has those.
    ///
    /// # Errors
    /// What the kernel says; nothing was sent then.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send_with_flags(frame, libc::MSG_DONTWAIT).map(drop)
    }

    /// Asks for a receive ring.
    pub fn request_ring(&self, request: &libc::tpacket_req3) -> io::Result<()> {
        socket_option::set(self.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, request)
    }

    /// Reads the kernel's counters and thereby clears them.
    pub fn take_statistics(&self) -> io::Result<RingStatistics> {
        let statistics: libc::tpacket_stats_v3 =
            socket_option::get(self.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        Ok(RingStatistics { packets: statistics.tp_packets.into(), drops: statistics.tp_drops.into() })
    }

    /// Asks for a send buffer of this many bytes, beyond `net.core.wmem_max` where permitted.
    pub fn set_send_buffer(&self, bytes: usize) -> io::Result<()> {
        let wanted = libc::c_int::try_from(bytes).unwrap_or(libc::c_int::MAX);
        match socket_option::set(self.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &wanted) {
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.socket.set_send_buffer_size(bytes)
            }
            other => other,
        }
    }

    /// The error the kernel keeps for this socket, e.g. `ENETDOWN`; taking it clears it.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        self.socket.take_error()
    }

    /// The MTU of the interface called `device` in this socket's network namespace.
    pub fn mtu(&self, device: &str) -> io::Result<usize> {
        let mut request = libc::ifreq {
            ifr_name: interface_name(device)?,
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 },
        };
        // SAFETY: SIOCGIFMTU reads the name and writes `ifru_mtu` of the `ifreq` behind the pointer, which is ours.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the union was initialised as `ifru_mtu`, and that is the member SIOCGIFMTU writes.
        let mtu = unsafe { request.ifr_ifru.ifru_mtu };
        Ok(usize::try_from(mtu).unwrap_or(0))
    }

    fn set(&self, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
        socket_option::set(self.as_fd(), libc::SOL_PACKET, name, &value)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The index of the interface called `device` in the calling thread's network namespace.
pub fn interface_index(device: &str) -> io::Result<u32> {
    let name = CString::new(device)?;
    // SAFETY: `name` is a NUL-terminated string that lives through the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

pub(super) fn interface_name(device: &str) -> io::Result<[libc::c_char; libc::IFNAMSIZ]> {
    let mut name = [0; libc::IFNAMSIZ];
    // The last byte stays NUL.
    if device.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_or_are_refused() {
        assert!(interface_name("a234567890123456").is_err());
        assert_eq!(interface_name("lo").unwrap()[..3], [b'l' as libc::c_char, b'o' as libc::c_char, 0]);
    }

    #[test]
    fn the_loopback_interface_has_an_index_and_others_are_an_error() {
        assert!(interface_index("lo").unwrap() > 0);
        assert!(interface_index("no-such-device").is_err());
    }
}
