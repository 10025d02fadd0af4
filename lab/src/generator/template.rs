//! Frames of a plan: everything that is the same for all datagrams of a flow, built once with pnet.

use std::net::{IpAddr, SocketAddr};

use pnet_base::MacAddr;
use pnet_packet::ethernet::{EtherType, EtherTypes, MutableEthernetPacket};
use pnet_packet::ip::IpNextHeaderProtocols;
use pnet_packet::ipv4::{self, Ipv4Flags, MutableIpv4Packet};
use pnet_packet::ipv6::MutableIpv6Packet;
use pnet_packet::udp::MutableUdpPacket;

use super::fragment;
use crate::checksum;
use crate::fragments::Fragments;
use crate::plan::{Flow, Plan};

pub(super) const ETHERNET_BYTES: usize = 14;
pub(super) const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
pub(super) const UDP_BYTES: usize = 8;
/// Where the checksum lies, counted from the end of the UDP header.
const CHECKSUM_FROM_END: usize = 2;
/// TTL or hop limit: routed relays subtract from it, so not the multicast default of 1.
const HOPS: u8 = 64;

/// The headers of every flow, and of what is foreign behind them, side by side, and what their part of the UDP checksum comes to.
#[derive(Debug)]
pub(super) struct Templates {
    header_bytes: usize,
    fragments: Fragments,
    headers: Vec<u8>,
    sums: Vec<u64>,
    flows: usize,
}

impl Templates {
    /// Builds the headers of all flows for a link of this MTU. Memory: some 70 bytes per flow.
    pub(super) fn build(plan: &Plan, source_mac: [u8; 6], mtu: usize) -> Self {
        let fragments = plan.fragments(mtu);
        let header_bytes = header_bytes(plan.is_ipv6());
        let flows = plan.flows.len();
        let foreign = plan.foreign.as_ref().map(|foreign| &foreign.flow);
        let all = flows + usize::from(foreign.is_some());
        let mut headers = vec![0; header_bytes * all];
        let mut sums = Vec::with_capacity(all);
        let destinations = plan.flows.iter().chain(foreign);
        for (flow, header) in destinations.zip(headers.chunks_exact_mut(header_bytes)) {
            let pseudo = write_header(header, flow, source_mac, plan.payload_bytes);
            sums.push(checksum::add(pseudo, &header[header_bytes - UDP_BYTES..]));
            if fragments.count() > 1 {
                allow_fragments(header);
            }
        }
        Self { header_bytes, fragments, headers, sums, flows }
    }

    /// Which one is that of what is foreign.
    pub(super) fn foreign(&self) -> usize {
        self.flows
    }

    /// Where the UDP checksum and the payload of a datagram are that goes whole.
    pub(super) fn places(&self) -> (usize, usize) {
        (self.header_bytes - CHECKSUM_FROM_END, self.header_bytes)
    }

    /// Length of each frame of a datagram: one, or one for each of its fragments.
    pub(super) fn frames(&self) -> Vec<usize> {
        let ends = self.header_bytes - UDP_BYTES;
        self.fragments.parts().map(|part| ends + part.len()).collect()
    }

    /// Length of the longest IP packet, which the MTU limits.
    pub(super) fn packet_bytes(&self) -> usize {
        self.frames().into_iter().max().unwrap_or_default().saturating_sub(ETHERNET_BYTES)
    }

    /// Writes the frames of a datagram of the flow at place `flow`, or of [`Self::foreign`], side by side, around the payload that `fill` writes. A slot of another
    /// length is left alone. `identification` tells fragments of one datagram from those of another; what goes whole
    /// carries none (RFC 6864 §4.1).
    pub(super) fn write(
        &self,
        flow: usize,
        identification: u16,
        slot: &mut [u8],
        fill: impl FnOnce(&mut [u8]),
    ) {
        let Some(frame) = slot.get_mut(fragment::repeated_bytes(self.fragments)..) else { return };
        self.write_whole(flow, frame, fill);
        if self.fragments.count() > 1 {
            fragment::cut(slot, self.fragments, identification);
        }
    }

    fn write_whole(&self, flow: usize, frame: &mut [u8], fill: impl FnOnce(&mut [u8])) {
        let start = flow * self.header_bytes;
        let template = self.headers.get(start..start + self.header_bytes);
        let (Some(template), Some(sum)) = (template, self.sums.get(flow)) else { return };
        let Some((header, payload)) = frame.split_at_mut_checked(self.header_bytes) else { return };
        header.copy_from_slice(template);
        fill(payload);
        let checksum = match checksum::finish(checksum::add(*sum, payload)) {
            // 0 would say "no checksum" (RFC 768); 0xFFFF is the same number.
            0 => 0xFFFF,
            checksum => checksum,
        };
        let at = self.header_bytes - CHECKSUM_FROM_END;
        header[at..].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// Length of the headers of a datagram that goes whole.
pub(super) fn header_bytes(is_ipv6: bool) -> usize {
    ETHERNET_BYTES + if is_ipv6 { IPV6_BYTES } else { IPV4_BYTES } + UDP_BYTES
}

/// Writes Ethernet, IP and UDP headers, the UDP checksum left zero, and returns the pseudo-header's part of that checksum.
pub(super) fn write_header(header: &mut [u8], flow: &Flow, source_mac: [u8; 6], payload_bytes: usize) -> u64 {
    let udp_length = UDP_BYTES + payload_bytes;
    let udp_at = header.len() - UDP_BYTES;
    let (ether_type, pseudo) = match (flow.source, flow.destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            write_ipv4(&mut header[ETHERNET_BYTES..udp_at], &flow.source, &flow.destination, udp_length);
            let (source, destination) = (source.ip().octets(), destination.ip().octets());
            (EtherTypes::Ipv4, checksum::udp_pseudo_header(&source, &destination, udp_length as u32))
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            write_ipv6(&mut header[ETHERNET_BYTES..udp_at], &flow.source, &flow.destination, udp_length);
            let (source, destination) = (source.ip().octets(), destination.ip().octets());
            (EtherTypes::Ipv6, checksum::udp_pseudo_header(&source, &destination, udp_length as u32))
        }
        // A checked plan does not mix families.
        _ => (EtherType(0), 0),
    };
    if let Some(mut ethernet) = MutableEthernetPacket::new(&mut header[..ETHERNET_BYTES]) {
        ethernet.set_destination(MacAddr::from(flow.destination_mac));
        ethernet.set_source(MacAddr::from(source_mac));
        ethernet.set_ethertype(ether_type);
    }
    if let Some(mut udp) = MutableUdpPacket::new(&mut header[udp_at..]) {
        udp.set_source(flow.source.port());
        udp.set_destination(flow.destination.port());
        udp.set_length(udp_length as u16);
    }
    pseudo
}

fn write_ipv4(bytes: &mut [u8], source: &SocketAddr, destination: &SocketAddr, udp_length: usize) {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (source.ip(), destination.ip()) else { return };
    let Some(mut packet) = MutableIpv4Packet::new(bytes) else { return };
    packet.set_version(4);
    packet.set_header_length((IPV4_BYTES / 4) as u8);
    packet.set_total_length((IPV4_BYTES + udp_length) as u16);
    packet.set_flags(Ipv4Flags::DontFragment);
    packet.set_ttl(HOPS);
    packet.set_next_level_protocol(IpNextHeaderProtocols::Udp);
    packet.set_source(source);
    packet.set_destination(destination);
    let checksum = ipv4::checksum(&packet.to_immutable());
    packet.set_checksum(checksum);
}

/// Takes back that an IPv4 packet must not be fragmented. Each fragment gets a checksum of its own.
fn allow_fragments(header: &mut [u8]) {
    if let Some(mut packet) = MutableIpv4Packet::new(&mut header[ETHERNET_BYTES..]) {
        packet.set_flags(0);
    }
}

fn write_ipv6(bytes: &mut [u8], source: &SocketAddr, destination: &SocketAddr, udp_length: usize) {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source.ip(), destination.ip()) else { return };
    let Some(mut packet) = MutableIpv6Packet::new(bytes) else { return };
    packet.set_version(6);
    packet.set_payload_length(udp_length as u16);
    packet.set_next_header(IpNextHeaderProtocols::Udp);
    packet.set_hop_limit(HOPS);
    packet.set_source(source);
    packet.set_destination(destination);
}

#[cfg(test)]
mod tests {
    use pnet_packet::Packet;
    use pnet_packet::ethernet::EthernetPacket;
    use pnet_packet::ipv4::Ipv4Packet;
    use pnet_packet::ipv6::Ipv6Packet;
    use pnet_packet::udp::{self, UdpPacket};
    use proptest::prelude::*;

    use super::*;
    use crate::plan::Foreign;

    const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

    fn plan(ipv6: bool, flows: u16, payload_bytes: usize) -> Plan {
        let address = |net: u8, index: u16, port: u16| -> SocketAddr {
            if ipv6 {
                (std::net::Ipv6Addr::new(0xFF15, 0, 0, 0, 0, net.into(), 0, index), port).into()
            } else {
                ([239, net, (index >> 8) as u8, index as u8], port).into()
            }
        };
        let flow = |index| Flow {
            source: address(1, 1, 4000),
            destination: address(81, index, 5000),
            destination_mac: [1, 0, 0x5E, 1, 2, index as u8],
            delivered: address(82, index, 6000),
        };
        Plan::new(9, (0..flows).map(flow).collect(), payload_bytes, 1, 1).unwrap()
    }

    fn frame(plan: &Plan, flow: u16, payload: &[u8]) -> Vec<u8> {
        let templates = Templates::build(plan, SOURCE_MAC, 1_500);
        let [length] = templates.frames()[..] else { panic!("it goes whole") };
        let mut frame = vec![0xEE; length];
        templates.write(usize::from(flow), 7, &mut frame, |bytes| bytes.copy_from_slice(payload));
        frame
    }

    proptest! {
        #[test]
        fn ipv4_frames_are_what_pnet_reads_and_sums(payload in proptest::collection::vec(any::<u8>(), 18..1472), flow in 0_u16..300) {
            let plan = plan(false, 300, payload.len());
            let frame = frame(&plan, flow, &payload);
            let ethernet = EthernetPacket::new(&frame).unwrap();
            prop_assert_eq!(ethernet.get_source(), MacAddr::from(SOURCE_MAC));
            prop_assert_eq!(ethernet.get_destination().octets()[5], flow as u8);
            prop_assert_eq!(ethernet.get_ethertype(), EtherTypes::Ipv4);
            let packet = Ipv4Packet::new(ethernet.payload()).unwrap();
            prop_assert_eq!(usize::from(packet.get_total_length()), ethernet.payload().len());
            prop_assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
            prop_assert_eq!(IpAddr::from(packet.get_destination()), plan.flows[usize::from(flow)].destination.ip());
            let datagram = UdpPacket::new(packet.payload()).unwrap();
            let checksum = udp::ipv4_checksum(&datagram, &packet.get_source(), &packet.get_destination());
            prop_assert_eq!(datagram.get_checksum(), if checksum == 0 { 0xFFFF } else { checksum });
            prop_assert_eq!((datagram.get_source(), datagram.get_destination()), (4000, 5000));
            prop_assert_eq!(datagram.payload(), &payload[..]);
        }

        #[test]
        fn ipv6_frames_are_what_pnet_reads_and_sums(payload in proptest::collection::vec(any::<u8>(), 18..1452), flow in 0_u16..300) {
            let plan = plan(true, 300, payload.len());
            let frame = frame(&plan, flow, &payload);
            let ethernet = EthernetPacket::new(&frame).unwrap();
            prop_assert_eq!(ethernet.get_ethertype(), EtherTypes::Ipv6);
            let packet = Ipv6Packet::new(ethernet.payload()).unwrap();
            prop_assert_eq!(usize::from(packet.get_payload_length()), packet.payload().len());
            prop_assert_eq!(IpAddr::from(packet.get_destination()), plan.flows[usize::from(flow)].destination.ip());
            let datagram = UdpPacket::new(packet.payload()).unwrap();
            let checksum = udp::ipv6_checksum(&datagram, &packet.get_source(), &packet.get_destination());
            prop_assert_eq!(datagram.get_checksum(), if checksum == 0 { 0xFFFF } else { checksum });
            prop_assert_eq!(datagram.payload(), &payload[..]);
        }

        #[test]
        fn fragments_put_together_are_the_datagram(
            payload in proptest::collection::vec(any::<u8>(), 1_000..9_000), mtu in 68_usize..1_000, id: u16,
        ) {
            let plan = plan(false, 2, payload.len());
            let templates = Templates::build(&plan, SOURCE_MAC, mtu);
            let lengths = templates.frames();
            let mut slot = vec![0xEE; lengths.iter().sum()];
            templates.write(1, id, &mut slot, |bytes| bytes.copy_from_slice(&payload));
            let (mut together, mut rest) = (Vec::new(), &slot[..]);
            for (index, length) in lengths.iter().enumerate() {
                let (frame, after) = rest.split_at(*length);
                rest = after;
                let ethernet = EthernetPacket::new(frame).unwrap();
                prop_assert_eq!(ethernet.get_source(), MacAddr::from(SOURCE_MAC));
                prop_assert_eq!(ethernet.get_destination().octets()[5], 1);
                let packet = Ipv4Packet::new(ethernet.payload()).unwrap();
                prop_assert!(usize::from(packet.get_total_length()) <= mtu);
                prop_assert_eq!(usize::from(packet.get_total_length()), ethernet.payload().len());
                prop_assert_eq!(packet.get_checksum(), ipv4::checksum(&packet));
                prop_assert_eq!(packet.get_identification(), id);
                prop_assert_eq!(usize::from(packet.get_fragment_offset()) * 8, together.len());
                let more = if index + 1 < lengths.len() { Ipv4Flags::MoreFragments } else { 0 };
                prop_assert_eq!(packet.get_flags(), more);
                together.extend_from_slice(packet.payload());
            }
            let datagram = UdpPacket::new(&together).unwrap();
            prop_assert_eq!(usize::from(datagram.get_length()), together.len());
            let (source, group) = (plan.flows[1].source.ip(), plan.flows[1].destination.ip());
            let (IpAddr::V4(source), IpAddr::V4(group)) = (source, group) else { panic!("an IPv4 plan") };
            let checksum = udp::ipv4_checksum(&datagram, &source, &group);
            prop_assert_eq!(datagram.get_checksum(), if checksum == 0 { 0xFFFF } else { checksum });
            prop_assert_eq!(datagram.payload(), &payload[..]);
        }
    }

    #[test]
    fn a_checksum_of_zero_is_written_as_all_ones() {
        let plan = plan(false, 1, 18);
        let mut payload = vec![0; 18];
        let before = frame(&plan, 0, &payload);
        // One's complement: adding the checksum itself makes the sum all ones and its complement zero.
        payload[..2].copy_from_slice(&before[40..42]);
        assert_eq!(frame(&plan, 0, &payload)[40..42], [0xFF, 0xFF]);
    }

    #[test]
    fn what_is_foreign_differs_in_its_port_alone() {
        let ours = plan(false, 2, 18);
        let mut flow = ours.flows[0];
        flow.destination.set_port(4_999);
        flow.delivered.set_port(4_999);
        let foreign = Foreign { flow, rate_pps: 1, datagrams: 1 };
        let templates = Templates::build(&ours.clone().beside(Some(foreign)).unwrap(), SOURCE_MAC, 1_500);
        let mut frame = vec![0xEE; templates.frames()[0]];
        templates.write(templates.foreign(), 7, &mut frame, |bytes| bytes.fill(9));
        let mut expected = self::frame(&ours, 0, &[9; 18]);
        let port_at = ETHERNET_BYTES + IPV4_BYTES + 2;
        expected[port_at..port_at + 2].copy_from_slice(&4_999_u16.to_be_bytes());
        let datagram = UdpPacket::new(&expected[ETHERNET_BYTES + IPV4_BYTES..]).unwrap();
        let ips = [flow.source.ip(), flow.destination.ip()];
        let [IpAddr::V4(source), IpAddr::V4(group)] = ips else { panic!("an IPv4 plan") };
        let checksum = udp::ipv4_checksum(&datagram, &source, &group);
        expected[port_at + 4..port_at + 6].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(frame, expected);
    }

    #[test]
    fn what_does_not_fit_is_left_alone() {
        let templates = Templates::build(&plan(false, 2, 18), SOURCE_MAC, 1_500);
        let mut short = [7; 10];
        templates.write(0, 0, &mut short, |_| panic!("no payload"));
        assert_eq!(short, [7; 10]);
        let mut frame = vec![7; templates.frames().iter().sum()];
        templates.write(2, 0, &mut frame, |_| panic!("no such flow"));
        assert!(frame.iter().all(|byte| *byte == 7));
    }
}
