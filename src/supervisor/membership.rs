//! The host's part in what is captured: group memberships, without which switches and the devices' own filters keep a
//! group's traffic out, and sockets that keep the host from refusing datagrams sent to its own addresses.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::rules::{Input, Rule};
use crate::sys::membership_socket::{Membership, MembershipSocket};
use crate::sys::udp_socket::occupy;
use crate::worker::order::{Descriptor, Order};

/// Most ports of an address of the host that are occupied for one rule: each takes a descriptor.
const MOST_OCCUPIED: u16 = 256;

/// What the relay is a member of. Groups are left when this is dropped, unless somebody else has the sockets too.
#[derive(Debug, Default)]
pub(super) struct Memberships {
    /// By the places that workers know them by.
    sockets: BTreeMap<u32, GroupSocket>,
    groups: HashMap<Membership, Member>,
    addresses: HashMap<SocketAddr, Occupied>,
    /// The place of the next socket.
    next: u32,
}

#[derive(Debug)]
struct GroupSocket {
    socket: MembershipSocket,
    is_v4: bool,
    /// Whether it joins groups of one source each: of the same group a socket is a member in one way only.
    of_sources: bool,
    /// How many groups it holds, and whether it has refused one more.
    groups: usize,
    is_full: bool,
}

/// What the relay is a member of.
#[derive(Debug)]
struct Member {
    /// Place of the socket that holds it.
    socket: u32,
    users: usize,
}

#[derive(Debug)]
struct Occupied {
    /// With its place; absent where somebody listens already, or the address is not the host's.
    socket: Option<(u32, Descriptor)>,
    users: usize,
}

impl Memberships {
    /// Has the host take what `rule` takes, all of it or nothing. Where that takes new sockets, returns the orders for workers to hold
    /// them: as long as anybody does, the host stays a member.
    pub(super) fn enter(&mut self, rule: &Rule, interface: u32) -> io::Result<Vec<(Order, Descriptor)>> {
        if rule.input.group.is_multicast() {
            return if rule.join { self.join_all(&rule.input, interface) } else { Ok(Vec::new()) };
        }
        if rule.input.vlan.is_some() {
            // The host itself does not take what comes in that VLAN, so there is nothing for it to refuse.
            return Ok(Vec::new());
        }
        if !is_occupied(&rule.input) {
            tracing::warn!(
                "rule \"{}\" does not occupy {}: where no program listens there, this host answers with \"port unreachable\", \
                 which makes some senders stop; relay with --consume, or have a firewall drop what is sent there",
                rule.name,
                rule.input.destinations()
            );
        }
        Ok(addresses(&rule.input).filter_map(|address| self.occupy(address)).collect())
    }

    fn occupy(&mut self, address: SocketAddr) -> Option<(Order, Descriptor)> {
        if let Some(occupied) = self.addresses.get_mut(&address) {
            occupied.users += 1;
            return None;
        }
        let socket = occupy(address).inspect_err(|error| tracing::debug!("occupy {address}: {error}"));
        let socket = socket.ok().map(|socket| (self.next_place(), Arc::new(socket)));
        let order = socket.clone().map(hold);
        self.addresses.insert(address, Occupied { socket, users: 1 });
        order
    }

    fn next_place(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// `rule` does not need any more what [`Memberships::enter`] has done. Where sockets are needed no more, returns the orders
    /// for workers to let them go.
    pub(super) fn leave(&mut self, rule: &Rule, interface: u32) -> Vec<Order> {
        if !rule.input.group.is_multicast() {
            // As nothing was occupied for it, though it may be for a rule beside it.
            if rule.input.vlan.is_some() {
                return Vec::new();
            }
            return addresses(&rule.input).filter_map(|address| self.give_up(address)).collect();
        }
        if !rule.join {
            return Vec::new();
        }
        memberships(&rule.input, interface).filter_map(|group| self.leave_group(group)).collect()
    }

    fn give_up(&mut self, address: SocketAddr) -> Option<Order> {
        let occupied = self.addresses.get_mut(&address)?;
        occupied.users = occupied.users.saturating_sub(1);
        if occupied.users > 0 {
            return None;
        }
        let (place, _) = self.addresses.remove(&address)?.socket?;
        Some(Order::LetGo { place })
    }

    /// The orders for a worker to hold all sockets.
    pub(super) fn orders(&self) -> impl Iterator<Item = io::Result<(Order, Descriptor)>> {
        let groups = self.sockets.iter().map(|(place, socket)| Ok(hold((*place, share(&socket.socket)?))));
        let addresses = self.addresses.values().filter_map(|occupied| occupied.socket.clone());
        groups.chain(addresses.map(|socket| Ok(hold(socket))))
    }

    fn join_all(&mut self, input: &Input, interface: u32) -> io::Result<Vec<(Order, Descriptor)>> {
        let mut orders = Vec::new();
        for (i, wanted) in memberships(input, interface).enumerate() {
            match self.join(wanted) {
                Ok(order) => orders.extend(order),
                Err(error) => {
                    // Nobody was told of sockets that this closes.
                    memberships(input, interface).take(i).for_each(|joined| _ = self.leave_group(joined));
                    return Err(error);
                }
            }
        }
        Ok(orders)
    }

    /// A socket holds only so many groups (20 IPv4 groups by default), so it takes as many sockets as are needed.
    fn join(&mut self, wanted: Membership) -> io::Result<Option<(Order, Descriptor)>> {
        if let Some(member) = self.groups.get_mut(&wanted) {
            member.users += 1;
            return Ok(None);
        }
        let (is_v4, of_sources) = (wanted.group.is_ipv4(), wanted.source.is_some());
        let has_room = |socket: &GroupSocket| {
            (socket.is_v4, socket.of_sources) == (is_v4, of_sources) && !socket.is_full
        };
        while let Some((place, socket)) = self.sockets.iter_mut().rfind(|(_, socket)| has_room(socket)) {
            match socket.socket.join(wanted) {
                Err(error) if is_full(&error) => socket.is_full = true,
                result => {
                    result?;
                    socket.groups += 1;
                    self.groups.insert(wanted, Member { socket: *place, users: 1 });
                    return Ok(None);
                }
            }
        }
        let socket = MembershipSocket::open(wanted.group)?;
        socket.join(wanted)?;
        let place = self.next_place();
        let order = hold((place, share(&socket)?));
        self.groups.insert(wanted, Member { socket: place, users: 1 });
        self.sockets.insert(place, GroupSocket { socket, is_v4, of_sources, groups: 1, is_full: false });
        Ok(Some(order))
    }

    fn leave_group(&mut self, wanted: Membership) -> Option<Order> {
        let member = self.groups.get_mut(&wanted)?;
        member.users = member.users.saturating_sub(1);
        if member.users > 0 {
            return None;
        }
        let place = self.groups.remove(&wanted)?.socket;
        let socket = self.sockets.get_mut(&place)?;
        if let Err(error) = socket.socket.leave(wanted) {
            tracing::debug!("leave {wanted:?}: {error}");
        }
        socket.groups = socket.groups.saturating_sub(1);
        socket.is_full = false;
        if socket.groups > 0 {
            return None;
        }
        self.sockets.remove(&place);
        Some(Order::LetGo { place })
    }
}

/// One for each group.
fn memberships(input: &Input, interface: u32) -> impl Iterator<Item = Membership> + use<> {
    let source = input.source;
    input.group.addresses().map(move |group| Membership { group, interface, source })
}

/// Whether nobody else can listen where `input` takes what is sent to the host itself. Of a range of addresses nobody knows which the
/// host has, or will have.
fn is_occupied(input: &Input) -> bool {
    input.group.is_single() && input.port.count() <= MOST_OCCUPIED
}

/// What is occupied of that.
fn addresses(input: &Input) -> impl Iterator<Item = SocketAddr> + use<> {
    let group = input.group.first();
    let ports = is_occupied(input).then_some(input.port.first()..=input.port.last());
    ports.into_iter().flatten().map(move |port| SocketAddr::new(group, port))
}

fn hold((place, socket): (u32, Descriptor)) -> (Order, Descriptor) {
    (Order::Hold { place }, socket)
}

fn share(socket: &MembershipSocket) -> io::Result<Descriptor> {
    Ok(Arc::new(socket.as_fd().try_clone_to_owned()?))
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::interface::Interface;

    fn rule(group: [u8; 4], port: u16) -> Rule {
        let [a, b, c, d] = group;
        format!("lo:{a}.{b}.{c}.{d}:{port}=239.2.2.2:6000:lo").parse().unwrap()
    }

    fn with_source(mut rule: Rule, source: &str) -> Rule {
        rule.input.source = Some(source.parse().unwrap());
        rule
    }

    fn joined(prefix: &str) -> usize {
        let groups = std::fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
        groups.lines().filter(|line| line.trim_start().starts_with(prefix)).count()
    }

    #[test]
    fn more_groups_are_joined_than_one_socket_holds_and_left_again() {
        let lo = Interface::find("lo").unwrap().index;
        let mut memberships = Memberships::default();
        let group = |i: u8| [[239, 81, 7, i]; 2].map(|group| rule(group, 5000));
        let mut new = 0;
        for i in 0..100 {
            for rule in &group(i) {
                new += memberships.enter(rule, lo).unwrap().len();
            }
        }
        let limit = std::fs::read_to_string("/proc/sys/net/ipv4/igmp_max_memberships").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        assert_eq!(memberships.sockets.len(), 100_usize.div_ceil(limit));
        assert_eq!(
            (new, memberships.orders().count()),
            (memberships.sockets.len(), memberships.sockets.len())
        );
        // The kernel prints the address as a number in the machine's order.
        let name = |i: u8| format!("{:08X}", u32::from_ne_bytes([239, 81, 7, i]));
        assert_eq!((0..100).filter(|i| joined(&name(*i)) == 1).count(), 100);
        for i in 0..100 {
            memberships.leave(&group(i)[0], lo);
        }
        assert_eq!((0..100).filter(|i| joined(&name(*i)) == 1).count(), 100, "the other rule needs them");
        let let_go: usize = (0..100).map(|i| memberships.leave(&group(i)[0], lo).len()).sum();
        assert_eq!((0..100).filter(|i| joined(&name(*i)) > 0).count(), 0);
        assert_eq!((let_go, memberships.orders().count()), (new, 0), "what is empty is closed");
        for i in 0..100 {
            memberships.enter(&group(i)[0], lo).unwrap();
        }
        // The first socket has room, and the last ones have not, which only shows when one is tried.
        memberships.leave(&group(0)[0], lo);
        for _ in 0..3 {
            memberships.enter(&rule([239, 81, 8, 1], 5000), lo).unwrap();
            memberships.leave(&rule([239, 81, 8, 1], 5000), lo);
        }
        assert_eq!(memberships.sockets.len(), 100_usize.div_ceil(limit), "there is room again");
    }

    /// Which sources of a group the kernel wants, of the group that begins so.
    fn sources(prefix: &str) -> Vec<String> {
        let filters = std::fs::read_to_string("/proc/thread-self/net/mcfilter").unwrap();
        let lines = filters.lines().filter(|line| line.contains(prefix));
        lines.map(|line| line.split_whitespace().nth(3).unwrap().to_owned()).collect()
    }

    #[test]
    fn of_a_rule_with_a_source_only_that_one_is_asked_for() {
        let lo = Interface::find("lo").unwrap().index;
        let mut memberships = Memberships::default();
        let group = [239, 81, 9, 1];
        let of = |i: u8| with_source(rule(group, 5000), &format!("10.0.0.{i}"));
        // More than one socket can have of a group.
        for i in 0..12 {
            memberships.enter(&of(i), lo).unwrap();
        }
        assert_eq!(sources("0xef510901").len(), 12);
        memberships.enter(&rule(group, 5000), lo).unwrap();
        for i in 1..12 {
            memberships.leave(&of(i), lo);
        }
        assert_eq!(sources("0xef510901"), ["0x0a000000"]);
        memberships.leave(&of(0), lo);
        memberships.leave(&rule(group, 5000), lo);
        assert_eq!((sources("0xef510901").len(), memberships.orders().count()), (0, 0));
        let any: Rule = "lo:[ff35::8151]:1=239.2.2.2:6000:lo".parse().unwrap();
        let one = with_source(any.clone(), "fd00::1");
        for rule in [&one, &any] {
            memberships.enter(rule, lo).unwrap();
        }
        assert_eq!(memberships.orders().count(), 2, "one socket is a member of a group in one way");
        for rule in [&one, &any] {
            memberships.leave(rule, lo);
        }
        assert_eq!(memberships.orders().count(), 0);
    }

    #[test]
    fn of_a_range_every_group_is_joined_or_none() {
        let lo = Interface::find("lo").unwrap().index;
        let name = |i: u8| format!("{:08X}", u32::from_ne_bytes([239, 81, 10, i]));
        let count = || (0..=255).filter(|i| joined(&name(*i)) == 1).count();
        let mut memberships = Memberships::default();
        let range: Rule = "lo:239.81.10.0/25:5000=239.2.2.2:6000:lo".parse().unwrap();
        let orders = memberships.enter(&range, lo).unwrap();
        let limit = std::fs::read_to_string("/proc/sys/net/ipv4/igmp_max_memberships").unwrap();
        assert_eq!(orders.len(), 128_usize.div_ceil(limit.trim().parse().unwrap()));
        assert_eq!(count(), 128);
        memberships.enter(&rule([239, 81, 10, 7], 5000), lo).unwrap();
        assert_eq!(memberships.leave(&range, lo).len(), orders.len() - 1, "the other rule needs one of them");
        assert_eq!(count(), 1);
        memberships.leave(&rule([239, 81, 10, 7], 5000), lo);
        assert!(memberships.enter(&range, u32::MAX).is_err());
        assert_eq!((count(), memberships.orders().count()), (0, 0));
        let apart = Rule { join: false, ..range };
        assert!(
            memberships.enter(&apart, lo).unwrap().is_empty() && memberships.leave(&apart, lo).is_empty()
        );
    }

    #[test]
    fn a_rule_that_does_not_join_needs_nothing_unless_it_is_for_an_address_of_the_host() {
        let mut memberships = Memberships::default();
        let apart = |group| Rule { join: false, ..rule(group, 28_432) };
        let in_vlan = |mut rule: Rule| {
            rule.input.vlan = crate::wire::VlanId::of_tag(5);
            rule
        };
        let (group, address) = (apart([239, 81, 9, 2]), apart([127, 0, 0, 1]));
        for (rule, sockets) in
            [(&group, 0), (&address, 1), (&in_vlan(group.clone()), 0), (&in_vlan(address.clone()), 0)]
        {
            memberships.enter(rule, 1).unwrap();
            assert_eq!(memberships.orders().count(), sockets, "{}", rule.input);
            memberships.leave(rule, 1);
            assert_eq!(memberships.orders().count(), 0, "{}", rule.input);
        }
        let tagged = in_vlan(address.clone());
        for rule in [&address, &tagged] {
            memberships.enter(rule, 1).unwrap();
        }
        assert_eq!(memberships.leave(&tagged, 1), []);
        assert_eq!(memberships.orders().count(), 1, "a rule beside it still needs the address");
    }

    #[test]
    fn a_host_address_is_occupied_as_long_as_a_rule_needs_it() {
        let mut memberships = Memberships::default();
        let unicast = rule([127, 0, 0, 1], 28_431);
        let bind = || std::net::UdpSocket::bind("127.0.0.1:28431");
        let holds = [(); 2].map(|()| memberships.enter(&unicast, 1).unwrap().len());
        assert_eq!((holds, memberships.orders().count()), ([1, 0], 1));
        assert_eq!(memberships.leave(&unicast, 1), []);
        assert!(bind().is_err());
        assert!(matches!(memberships.leave(&unicast, 1)[..], [Order::LetGo { .. }]));
        bind().unwrap();
    }

    #[test]
    fn of_a_host_address_so_many_ports_are_occupied() {
        let mut memberships = Memberships::default();
        let ports = |ports: &str| format!("lo:127.0.0.1:{ports}=239.2.2.2:6000:lo").parse::<Rule>().unwrap();
        let bind = |port: u16| std::net::UdpSocket::bind(("127.0.0.1", port));
        let few = ports("28440-28449");
        assert_eq!(memberships.enter(&few, 1).unwrap().len(), 10);
        assert!(bind(28_440).is_err() && bind(28_449).is_err() && bind(28_450).is_ok());
        assert_eq!(memberships.leave(&few, 1).len(), 10);
        assert!(bind(28_440).is_ok());
        for (spec, is_some) in [("28500-28755", true), ("28500-28756", false)] {
            assert_eq!(!memberships.enter(&ports(spec), 1).unwrap().is_empty(), is_some, "{spec}");
            memberships.leave(&ports(spec), 1);
        }
        assert_eq!(memberships.orders().count(), 0);
    }
}
