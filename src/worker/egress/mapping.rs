//! Outputs to a range: how a copy's destination follows from that of its datagram.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Arrived;
use crate::sys::udp_socket::{EgressAddress, scoped};

/// How the destination of a copy follows from that of its datagram: it is as far behind the first one of its range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    first: SocketAddr,
    /// The bits in which addresses of the range differ.
    host_mask: u128,
}

impl Mapping {
    /// That of an output to `address`, unless all goes to one destination.
    pub(super) fn new(address: &EgressAddress) -> Option<Self> {
        let host_mask = bits(address.destination.ip()) ^ bits(address.last?.ip());
        Some(Self { first: scoped(address.destination, address.interface_index), host_mask })
    }

    /// Where a copy goes. Its port is the datagram's and `port_shift`, or without that the first of the range.
    pub(super) fn destination(self, arrived: &Arrived, port_shift: Option<u16>) -> SocketAddr {
        // The range of the input is of the same size, so both have the same bits behind their prefix.
        let offset = bits(arrived.destination) & self.host_mask;
        let mut to = self.first;
        match &mut to {
            SocketAddr::V4(to) => to.set_ip(Ipv4Addr::from_bits(to.ip().to_bits() | offset as u32)),
            SocketAddr::V6(to) => to.set_ip(Ipv6Addr::from_bits(to.ip().to_bits() | offset)),
        }
        if let Some(shift) = port_shift {
            to.set_port(arrived.destination_port.wrapping_add(shift));
        }
        to
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(first: &str, last: &str, arrived: &str, port_shift: Option<u16>) -> String {
        let mut address = EgressAddress::new(first.parse().unwrap(), "eth1", 7);
        address.last = Some(last.parse().unwrap());
        let arrived: SocketAddr = arrived.parse().unwrap();
        let arrived =
            Arrived { destination: arrived.ip(), destination_port: arrived.port(), ..Arrived::nowhere() };
        Mapping::new(&address).unwrap().destination(&arrived, port_shift).to_string()
    }

    #[test]
    fn a_copy_goes_as_far_behind_the_first_destination_as_its_datagram_did() {
        let range = ("239.2.0.0:6000", "239.2.255.255:6009");
        assert_eq!(to(range.0, range.1, "239.1.3.4:5007", Some(1_000)), "239.2.3.4:6007");
        assert_eq!(
            to(range.0, range.1, "239.1.255.255:7000", Some(1_000_u16.wrapping_neg())),
            "239.2.255.255:6000"
        );
        assert_eq!(
            to(range.0, "239.2.255.255:6000", "239.1.3.4:5007", None),
            "239.2.3.4:6000",
            "one port for all"
        );
        assert_eq!(
            to(range.0, "239.2.0.0:6009", "239.1.3.4:5007", Some(1_000)),
            "239.2.0.0:6007",
            "one group for all"
        );
        assert_eq!(
            to("[ff15::2:0]:6000", "[ff15::2:ffff]:6000", "239.1.3.4:5000", None),
            "[ff15::2:304%7]:6000"
        );
        assert_eq!(to("10.1.2.0:6000", "10.1.2.255:6000", "[ff15::1:77]:5000", None), "10.1.2.119:6000");
    }

    #[test]
    fn an_output_to_one_destination_maps_nothing() {
        assert!(Mapping::new(&EgressAddress::new(([239, 2, 2, 2], 6000).into(), "eth1", 7)).is_none());
    }
}
