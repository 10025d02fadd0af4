//! The host's part in what is captured: group memberships, without which switches and the devices' own filters keep a
//! group's traffic out, and sockets that keep the host from refusing datagrams sent to its own addresses.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use crate::sys::udp_socket::{MembershipSocket, occupy};

/// Groups that the relay is a member of. They are left when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    sockets_v4: Vec<MembershipSocket>,
    sockets_v6: Vec<MembershipSocket>,
    joined: HashSet<(IpAddr, u32)>,
    occupied: Vec<OwnedFd>,
}

impl Memberships {
    /// Joins `group` on the interface with this index, unless that is done already. A socket holds only so many
    /// groups (20 IPv4 groups by default), so it takes as many sockets as are needed.
    pub(super) fn join(&mut self, group: IpAddr, interface: u32) -> io::Result<()> {
        if self.joined.contains(&(group, interface)) {
            return Ok(());
        }
        let sockets = if group.is_ipv4() { &mut self.sockets_v4 } else { &mut self.sockets_v6 };
        let joined = match sockets.last().map(|socket| socket.join(group, interface)) {
            Some(Err(error)) if is_full(&error) => None,
            other => other,
        };
        if let Some(result) = joined {
            result?;
        } else {
            let socket = MembershipSocket::open(group)?;
            socket.join(group, interface)?;
            sockets.push(socket);
        }
        self.joined.insert((group, interface));
        Ok(())
    }

    /// Keeps the host from answering datagrams to `address` with "port unreachable". Nothing is to be done where
    /// somebody listens already, or where the address is not the host's.
    pub(super) fn occupy(&mut self, address: SocketAddr) {
        match occupy(address) {
            Ok(socket) => self.occupied.push(socket),
            Err(error) => tracing::debug!("occupy {address}: {error}"),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::interface::Interface;

    #[test]
    fn more_groups_are_joined_than_one_socket_holds() {
        let lo = Interface::find("lo").unwrap().index;
        let mut memberships = Memberships::default();
        for i in 0..100_u8 {
            memberships.join(IpAddr::from([239, 81, 7, i]), lo).unwrap();
            memberships.join(IpAddr::from([239, 81, 7, i]), lo).unwrap();
        }
        let limit = std::fs::read_to_string("/proc/sys/net/ipv4/igmp_max_memberships").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        assert_eq!(memberships.sockets_v4.len(), 100_usize.div_ceil(limit));
        let groups = std::fs::read_to_string("/proc/self/net/igmp").unwrap();
        let joined = (0..100_u8).filter(|i| groups.contains(&format!("{i:02X}0751EF"))).count();
        assert_eq!(joined, 100, "{groups}");
    }
}
