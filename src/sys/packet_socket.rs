//! Packet sockets (packet(7)): frames of one interface, tapped below the IP stack.

use std::io;
use std::mem::size_of;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};

use super::sockopt;

/// Bytes of the header that `PACKET_VNET_HDR` puts before each frame: `struct virtio_net_hdr`
/// (`linux/virtio_net.h`).
pub const VNET_HEADER_LEN: usize = 10;

/// A packet socket. It gets no frame before [`PacketSocket::bind`].
#[derive(Debug)]
pub struct PacketSocket(Socket);

/// What the kernel counted since the last question.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PacketStatistics {
    /// Frames that passed the filter, dropped ones included.
    pub captured: u32,
    /// Frames dropped because the receive buffer, or the ring, was full.
    pub dropped: u32,
    /// Times that a `TPACKET_V3` ring had no block left.
    pub freezes: u32,
}

/// How a fanout group spreads frames over its sockets (packet(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FanoutMode {
    /// By a hash of addresses and ports: a flow stays with one socket, in order.
    #[default]
    Hash,
    /// By the CPU that received the frame.
    Cpu,
    /// In turn, one frame each: flows lose their order.
    LoadBalance,
}

impl PacketSocket {
    /// Opens a socket that gets nothing yet. Needs `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        // Protocol 0: a socket with a protocol would get frames of every interface until it is bound.
        Socket::new(Domain::PACKET, Type::RAW, None).map(Self)
    }

    /// Frames that this host sends are not captured (Linux 4.20).
    pub fn ignore_outgoing(&self) -> io::Result<()> {
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)
    }

    /// Puts a `virtio_net_hdr` before each frame, which tells trains of coalesced datagrams from single ones.
    pub fn prefix_vnet_header(&self) -> io::Result<()> {
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)
    }

    /// Tells of each frame which VLAN tag the kernel has taken out of it, to who receives it with room for that beside it. A ring
    /// tells it anyway.
    pub fn tell_tags(&self) -> io::Result<()> {
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)
    }

    /// Asks for a receive buffer of `bytes` and returns how many were obtained: `CAP_NET_ADMIN` overrides the limit
    /// `net.core.rmem_max`, which otherwise clamps the request.
    pub fn set_receive_buffer(&self, bytes: usize) -> io::Result<usize> {
        let wanted = libc::c_int::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        if sockopt::set(self.0.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted).is_err() {
            self.0.set_recv_buffer_size(bytes)?;
        }
        // The kernel doubles the value for its own bookkeeping and reports the double (socket(7)).
        Ok(self.0.recv_buffer_size()? / 2)
    }

    /// Installs the program that decides which frames are queued.
    pub fn attach_filter(&self, program: &[SockFilter]) -> io::Result<()> {
        self.0.attach_filter(program)
    }

    /// Begins capture of every protocol on the interface with this index: of what the filter lets through.
    pub fn bind(&self, interface: u32) -> io::Result<()> {
        let mut storage = SockAddrStorage::zeroed();
        // SAFETY: `sockaddr_ll` is a socket address, so it fits the storage, which is zeroed; zero is a valid value.
        let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = interface as libc::c_int;
        // SAFETY: the length is that of the `sockaddr_ll` just written.
        let address = unsafe { SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        self.0.bind(&address)
    }

    /// Counts since the last call; the kernel forgets them when they are read.
    pub fn take_statistics(&self) -> io::Result<PacketStatistics> {
        // A socket without such a ring answers with the first two counts only, and the third reads as zero.
        let stats: libc::tpacket_stats_v3 =
            sockopt::get(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
        Ok(PacketStatistics {
            captured: stats.tp_packets,
            dropped: stats.tp_drops,
            freezes: stats.tp_freeze_q_cnt,
        })
    }

    /// Gives the socket a `TPACKET_V3` receive ring. After [`PacketSocket::prefix_vnet_header`], before
    /// [`PacketSocket::bind`].
    ///
    /// # Errors
    /// `ENOMEM` when there is no memory for it, `EBUSY` while it is mapped, `EINVAL` for a shape that cannot be.
    pub fn set_block_ring(&self, request: libc::tpacket_req3) -> io::Result<()> {
        self.set_version(libc::tpacket_versions::TPACKET_V3)?;
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, request)
    }

    /// Gives the socket a `TPACKET_V2` receive ring, like [`PacketSocket::set_block_ring`]. A frame that is too large
    /// for a slot is put into the receive buffer as well, as long as there is room.
    pub fn set_slot_ring(&self, request: libc::tpacket_req) -> io::Result<()> {
        self.set_version(libc::tpacket_versions::TPACKET_V2)?;
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_COPY_THRESH, 1)?;
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, request)
    }

    /// Takes a receive ring away that is not mapped.
    pub fn remove_ring(&self) -> io::Result<()> {
        // SAFETY: all of it are integers, and none of everything is how a ring is removed, of either version.
        let nothing: libc::tpacket_req3 = unsafe { std::mem::zeroed() };
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_RX_RING, nothing)
    }

    fn set_version(&self, version: libc::tpacket_versions) -> io::Result<()> {
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_VERSION, version as libc::c_int)
    }

    /// Joins the fanout group `group`, or a new one, and returns its number: every frame goes to one socket of the
    /// group only, and fragments of IPv4 datagrams are put together before. After [`PacketSocket::bind`].
    ///
    /// # Errors
    /// `EINVAL` before Linux 6.13 while the interface is down.
    pub fn join_fanout(&self, mode: FanoutMode, group: Option<u16>) -> io::Result<u16> {
        // Membership replaces the socket's own hook, and PACKET_IGNORE_OUTGOING with it.
        let flags = libc::PACKET_FANOUT_FLAG_DEFRAG | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING;
        let mode = match mode {
            FanoutMode::Hash => libc::PACKET_FANOUT_HASH,
            FanoutMode::Cpu => libc::PACKET_FANOUT_CPU,
            FanoutMode::LoadBalance => libc::PACKET_FANOUT_LB,
        };
        // Other processes have groups too: the kernel knows which numbers are free.
        let unique = if group.is_none() { libc::PACKET_FANOUT_FLAG_UNIQUEID } else { 0 };
        let value = u32::from(group.unwrap_or(0)) | (mode | flags | unique) << 16;
        sockopt::set(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT, value as libc::c_int)?;
        let joined: libc::c_int = sockopt::get(self.0.as_fd(), libc::SOL_PACKET, libc::PACKET_FANOUT)?;
        Ok(joined as u16)
    }

    /// The index of the interface that it captures on; `None` when that is gone, or it is not bound.
    pub fn interface(&self) -> io::Result<Option<u32>> {
        let address = self.0.local_addr()?;
        // SAFETY: a packet socket's address is a `sockaddr_ll`, which is smaller than the storage.
        let address = unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() };
        Ok(u32::try_from(address.sll_ifindex).ok().filter(|index| *index != 0))
    }

    /// Takes the error that the socket has met meanwhile, if any.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        take_error(self.0.as_fd())
    }

    /// Another descriptor of the same socket.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

impl From<OwnedFd> for PacketSocket {
    fn from(socket: OwnedFd) -> Self {
        Self(socket.into())
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends capture on a packet socket that is only known by a descriptor: what is queued stays, nothing is added.
pub fn end_capture(socket: BorrowedFd<'_>) -> io::Result<()> {
    socket2::SockRef::from(&socket).attach_filter(&super::filter::nothing())
}

/// Takes the next frame from the receive buffer, without waiting, with its `virtio_net_hdr` before it. Returns its
/// length, which is more than `buffer` has when its end did not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
    // SAFETY: pointer and length are those of `buffer`, which is borrowed until the call returns.
    let len = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(len).map_err(|_| io::Error::last_os_error())
}

/// Takes the error that the socket has met meanwhile, if any.
pub fn take_error(socket: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    socket2::SockRef::from(&socket).take_error()
}

/// Whether a `virtio_net_hdr` says that the transport checksum needs no check: the device has verified it, or the frame
/// comes from this host, which leaves the sum to a device.
pub fn is_checksum_verified(vnet_header: &[u8]) -> bool {
    const NEEDS_CSUM_OR_DATA_VALID: u8 = 1 | 2; // linux/virtio_net.h; the flags are the first byte
    vnet_header.first().is_some_and(|flags| flags & NEEDS_CSUM_OR_DATA_VALID != 0)
}

/// Datagrams of one size in one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train {
    /// Payload bytes of each; the last may have less.
    pub datagram_len: NonZeroU16,
    /// Where in the frame their UDP header is, if the kernel says so: inside of a tunnel that is not the first one.
    pub udp_at: Option<u16>,
}

/// What a `virtio_net_hdr` says of the datagrams in the frame behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coalescing {
    /// There is one.
    Single,
    /// A train of datagrams: what a sender has handed over with `UDP_SEGMENT` (udp(7)), or generic receive offload has put
    /// together.
    Train(Train),
    /// A train of another protocol.
    Foreign,
}

impl Coalescing {
    /// Reads a `virtio_net_hdr` (`linux/virtio_net.h`).
    pub fn read(vnet_header: &[u8]) -> Self {
        const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
        const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
        const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
        // Flags, type, and in host order the length of the headers, the size of a segment, where its checksum begins.
        let &[flags, gso_type, _, _, size0, size1, start0, start1, ..] = vnet_header else {
            return Self::Single;
        };
        match (gso_type, NonZeroU16::new(u16::from_ne_bytes([size0, size1]))) {
            (VIRTIO_NET_HDR_GSO_NONE, _) => Self::Single,
            (VIRTIO_NET_HDR_GSO_UDP_L4, Some(datagram_len)) => Self::Train(Train {
                datagram_len,
                udp_at: (flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0)
                    .then_some(u16::from_ne_bytes([start0, start1])),
            }),
            _ => Self::Foreign,
        }
    }
}
