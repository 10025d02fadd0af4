//! Sockets that hold group memberships (ip(7), ipv6(7), RFC 3678) and receive nothing.

use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use super::sockopt;

/// A socket that holds memberships of groups of one family, either of all sources or of some.
#[derive(Debug)]
pub struct MembershipSocket(Socket);

/// What it can be a member of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Membership {
    /// The group.
    pub group: IpAddr,
    /// Index of the interface on which the group is joined.
    pub interface: u32,
    /// The one source whose datagrams are wanted, of the same family (RFC 4607); without one, those of all.
    pub source: Option<IpAddr>,
}

impl MembershipSocket {
    /// Opens a socket for groups of the family of `group`.
    pub fn open(group: IpAddr) -> io::Result<Self> {
        let domain = if group.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).map(Self)
    }

    /// Joins; IGMP or MLD tells switches and the device's own filter. A socket holds `net.ipv4.igmp_max_memberships` IPv4 groups (20
    /// by default), and of a group `net.ipv4.igmp_max_msf` or `net.ipv6.mld_max_msf` sources (10 and 64): `ENOBUFS` or `ENOMEM`
    /// means that it is full.
    pub fn join(&self, Membership { group, interface, source }: Membership) -> io::Result<()> {
        match (group, source) {
            (_, Some(source)) => self.of_source(libc::MCAST_JOIN_SOURCE_GROUP, group, interface, source),
            (IpAddr::V4(group), None) => {
                self.0.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface))
            }
            (IpAddr::V6(group), None) => self.0.join_multicast_v6(&group, interface),
        }
    }

    /// Leaves what [`MembershipSocket::join`] has joined, also on an interface that is gone, which then takes room no more.
    pub fn leave(&self, Membership { group, interface, source }: Membership) -> io::Result<()> {
        match (group, source) {
            (_, Some(source)) => self.of_source(libc::MCAST_LEAVE_SOURCE_GROUP, group, interface, source),
            (IpAddr::V4(group), None) => {
                self.0.leave_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(interface))
            }
            (IpAddr::V6(group), None) => self.0.leave_multicast_v6(&group, interface),
        }
    }

    fn of_source(&self, name: i32, group: IpAddr, interface: u32, source: IpAddr) -> io::Result<()> {
        let level = if group.is_ipv4() { libc::SOL_IP } else { libc::SOL_IPV6 };
        // SAFETY: a number and two addresses, which can be zero.
        let mut request: libc::group_source_req = unsafe { MaybeUninit::zeroed().assume_init() };
        request.gsr_interface = interface;
        request.gsr_group = storage(group);
        request.gsr_source = storage(source);
        sockopt::set(self.as_fd(), level, name, request)
    }
}

impl AsFd for MembershipSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An address as the kernel takes it.
fn storage(address: IpAddr) -> libc::sockaddr_storage {
    // SAFETY: bytes and numbers, which can be zero.
    let mut storage: libc::sockaddr_storage = unsafe { MaybeUninit::zeroed().assume_init() };
    let at = &raw mut storage;
    match address {
        IpAddr::V4(address) => {
            // SAFETY: there is room for an address of any family, aligned for it, and the reference ends here.
            let v4 = unsafe { &mut *at.cast::<libc::sockaddr_in>() };
            v4.sin_family = libc::AF_INET as libc::sa_family_t;
            v4.sin_addr.s_addr = u32::from_ne_bytes(address.octets());
        }
        IpAddr::V6(address) => {
            // SAFETY: there is room for an address of any family, aligned for it, and the reference ends here.
            let v6 = unsafe { &mut *at.cast::<libc::sockaddr_in6>() };
            v6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
            v6.sin6_addr.s6_addr = address.octets();
        }
    }
    storage
}
