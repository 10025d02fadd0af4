//! From a frame to the rule that takes it and the datagrams in it, or the cause why none does. No I/O.

use std::net::SocketAddr;

use super::egress::Arrived;
use super::own::Own;
use super::receiver::Frame;
use crate::rules::{RuleIndex, RuleTable};
use crate::stats::Cause;
use crate::sys::packet_socket::Train;
use crate::wire::{self, Datagram, VlanId};

/// What a frame brings to the rule that takes it: a datagram, or a train of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    pub rule: RuleIndex,
    /// The payloads, one behind the other.
    pub payload: &'a [u8],
    /// What its IP header says.
    pub arrived: Arrived,
    /// Bytes of each payload, except that the last one has what is left.
    datagram_len: usize,
}

impl<'a> Taken<'a> {
    /// How many datagrams there are: at least one, which may be empty.
    pub(super) fn count(&self) -> u64 {
        // The usual frame is spared the division.
        if self.payload.len() <= self.datagram_len {
            return 1;
        }
        self.payload.len().div_ceil(self.datagram_len) as u64
    }

    /// Their payloads, in order.
    pub(super) fn datagrams(&self) -> impl Iterator<Item = &'a [u8]> {
        let (first, others) = self.payload.split_at(self.datagram_len.min(self.payload.len()));
        std::iter::once(first).chain(others.chunks(self.datagram_len.max(1)))
    }
}

/// The rule that takes `frame`, unless `own` says who sent it, and what it brings.
pub(super) fn forward<'a>(frame: &Frame<'a>, rules: &RuleTable, own: &Own) -> Result<Taken<'a>, Cause> {
    if let Some(defect) = frame.defect {
        return Err(defect);
    }
    let datagram = Datagram::parse_as(frame.link_layer, frame.bytes).map_err(cause)?;
    let vlan = |tag: Option<u16>| tag.and_then(VlanId::of_tag);
    // The kernel has taken out the outer tag. No rule is for a VLAN within a VLAN.
    if vlan(datagram.tag).is_some() {
        return Err(Cause::Tagged);
    }
    let vlan = vlan(frame.vlan_tag);
    let none = if vlan.is_some() { Cause::Tagged } else { Cause::NoRule };
    let rule = rules.find(frame.input, vlan, &datagram).ok_or(none)?;
    let source = SocketAddr::new(datagram.source, datagram.source_port);
    if own.has(source) {
        return Err(Cause::Own);
    }
    // Egress gives the payload a new, valid checksum, so damage that is not caught here would look like the truth.
    if !frame.checksum_verified && !datagram.has_valid_checksum() {
        return Err(Cause::BadChecksum);
    }
    let payload = datagram.payload;
    let datagram_len = match frame.train {
        None => payload.len(),
        // A train inside of a tunnel: the datagram around it is not what is to be split.
        Some(Train { udp_at: Some(at), .. }) if usize::from(at) != datagram.udp_offset(frame.bytes) => {
            return Err(Cause::Coalesced);
        }
        Some(train) => train.datagram_len.get().into(),
    };
    let Datagram { ttl, traffic_class, destination, destination_port, .. } = datagram;
    let arrived = Arrived { ttl, traffic_class, source, destination, destination_port };
    Ok(Taken { rule, payload, arrived, datagram_len })
}

fn cause(error: wire::Error) -> Cause {
    match error {
        wire::Error::Truncated => Cause::Truncated,
        wire::Error::Malformed(_) => Cause::Malformed,
        wire::Error::BadChecksum => Cause::BadChecksum,
        wire::Error::NotIp => Cause::NotIp,
        wire::Error::NotUdp => Cause::NotUdp,
        wire::Error::Fragment => Cause::Fragment,
    }
}

#[cfg(test)]
mod tests {
    use pnet_packet::ipv4::MutableIpv4Packet;

    use super::*;
    use crate::rules::{InputIndex, Rule};
    use crate::wire::LinkLayer;

    /// UDP to 239.1.1.1:5000 with the payload `payload`, and bytes `tag` between addresses and ethertype.
    fn datagram(tag: &[u8], payload: &[u8]) -> Vec<u8> {
        changed(tag, payload, |_| ())
    }

    /// The same after `change` to the IPv4 packet, whose header's checksum is then made right.
    fn changed(tag: &[u8], payload: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 28 + payload.len() as u8, 0, 0, 0x40, 0, 64, 17, 0, 0];
        packet.extend([10, 0, 0, 9, 239, 1, 1, 1]);
        packet.extend([0x0f, 0xa0, 0x13, 0x88, 0, 8 + payload.len() as u8, 0, 0]);
        packet.extend(payload);
        change(&mut packet);
        let mut header = MutableIpv4Packet::new(&mut packet).unwrap();
        header.set_checksum(pnet_packet::ipv4::checksum(&header.to_immutable()));
        [&[0; 12], tag, &[0x08, 0x00], &packet].concat()
    }

    fn fate(frame: Frame<'_>) -> Result<(u32, Vec<u8>), Cause> {
        let rules: [Rule; 1] = ["eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap()];
        let table = RuleTable::new(&rules, &["eth0"]);
        forward(&frame, &table, &Own::default()).map(|taken| (taken.rule.0, taken.payload.to_vec()))
    }

    fn frame(bytes: &[u8]) -> Frame<'_> {
        Frame { bytes, ..Frame::empty(InputIndex(0), LinkLayer::Ethernet) }
    }

    /// A whole Ethernet frame.
    fn received<'a>(vnet_header: &[u8], bytes: &'a [u8], truncated: bool) -> Frame<'a> {
        Frame::new(InputIndex(0), LinkLayer::Ethernet, vnet_header, bytes, truncated)
    }

    #[test]
    fn a_datagram_finds_its_rule() {
        assert_eq!(fate(frame(&datagram(&[], b"hello"))), Ok((0, b"hello".to_vec())));
        assert_eq!(fate(frame(&datagram(&[], b""))), Ok((0, vec![])), "an empty payload is relayed too");
    }

    #[test]
    fn without_an_ethernet_header_the_version_tells_what_there_is() {
        let bytes = datagram(&[], b"hello");
        let raw = |bytes| Frame { link_layer: LinkLayer::RawIp, ..frame(bytes) };
        assert_eq!(fate(raw(&bytes[14..])), Ok((0, b"hello".to_vec())));
        assert_eq!([fate(raw(&bytes)), fate(raw(&[]))], [Err(Cause::NotIp), Err(Cause::NotIp)]);
        assert_eq!(fate(raw(&[0x60; 30])), Err(Cause::Malformed), "an IPv6 header cut short");
        let other = Frame { link_layer: LinkLayer::Other, ..frame(&bytes) };
        assert_eq!(fate(other), Err(Cause::NotIp));
    }

    #[test]
    fn a_tag_that_names_a_vlan_matches_no_rule() {
        assert_eq!(fate(frame(&datagram(&[0x81, 0, 0, 5], b"x"))), Err(Cause::Tagged));
        assert_eq!(fate(frame(&datagram(&[0x88, 0xa8, 0, 5, 0x81, 0, 0, 0], b"x"))), Err(Cause::Tagged));
        assert_eq!(
            fate(frame(&datagram(&[0x81, 0, 0xa0, 0], b"x"))),
            Ok((0, b"x".to_vec())),
            "priority only"
        );
        let bytes = datagram(&[], b"x");
        assert_eq!(fate(Frame { vlan_tag: Some(5), ..frame(&bytes) }), Err(Cause::Tagged), "taken out");
        assert_eq!(fate(Frame { vlan_tag: Some(0xa000), ..frame(&bytes) }), Ok((0, b"x".to_vec())));
    }

    #[test]
    fn a_rule_for_a_vlan_takes_its_tag_alone() {
        let mut rule: Rule = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap();
        rule.input.vlan = VlanId::of_tag(5);
        let table = RuleTable::new(&[rule], &["eth0"]);
        let (plain, double) = (datagram(&[], b"x"), datagram(&[0x81, 0, 0, 5], b"x"));
        let priority = datagram(&[0x81, 0, 0xe0, 0], b"x");
        let taken = |vlan_tag, bytes| {
            forward(&Frame { vlan_tag, ..frame(bytes) }, &table, &Own::default()).map(|taken| taken.rule.0)
        };
        assert_eq!([taken(Some(5), &plain), taken(Some(0xe005), &plain)], [Ok(0), Ok(0)]);
        assert_eq!([taken(Some(6), &plain), taken(Some(0xfff), &plain)], [Err(Cause::Tagged); 2]);
        assert_eq!([taken(None, &plain), taken(Some(0xa000), &plain)], [Err(Cause::NoRule); 2]);
        assert_eq!([taken(Some(5), &double), taken(None, &double)], [Err(Cause::Tagged); 2]);
        assert_eq!(taken(Some(5), &priority), Ok(0));
    }

    #[test]
    fn what_an_output_sends_is_not_taken_again() {
        let mut own = Own::default();
        let table = RuleTable::new(&["eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap()], &["eth0"]);
        let bytes = datagram(&[], b"x");
        let mut fate = |source: &str| {
            own.set(7, Some(source.parse().unwrap()));
            forward(&frame(&bytes), &table, &own).map(|taken| taken.rule.0)
        };
        assert_eq!([fate("10.0.0.9:4001"), fate("10.0.0.8:4000")], [Ok(0), Ok(0)]);
        assert_eq!(fate("10.0.0.9:4000"), Err(Cause::Own));
        let other = Frame { input: InputIndex(1), ..frame(&bytes) };
        assert_eq!(forward(&other, &table, &own).unwrap_err(), Cause::NoRule, "no rule would take it anyway");
    }

    #[test]
    fn whatever_cannot_be_relayed_whole_is_dropped_by_name() {
        let bytes = datagram(&[], b"hello");
        let defective = Frame { defect: Some(Cause::RingFault), ..frame(&bytes) };
        assert_eq!(fate(defective), Err(Cause::RingFault));
        assert_eq!(fate(received(&[0; 10], &bytes, true)), Err(Cause::Truncated));
        assert_eq!(fate(Frame { input: InputIndex(1), ..frame(&bytes) }), Err(Cause::NoRule));
        assert_eq!(fate(frame(&bytes[..40])), Err(Cause::Truncated));
        assert_eq!(fate(frame(&bytes[..20])), Err(Cause::Malformed));
        assert_eq!(fate(frame(&[0; 60])), Err(Cause::NotIp));
        assert_eq!(fate(frame(&changed(&[], b"x", |packet| packet[6] = 0x20))), Err(Cause::Fragment));
        assert_eq!(fate(frame(&changed(&[], b"x", |packet| packet[9] = 6))), Err(Cause::NotUdp));
    }

    /// The payloads that come out of `payload` behind a `virtio_net_hdr` with this type and size of segments.
    fn split(gso_type: u8, gso_size: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, Cause> {
        split_at(14 + 20, gso_type, gso_size, payload)
    }

    /// The same with the UDP header at `udp_at`.
    fn split_at(udp_at: u16, gso_type: u8, gso_size: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, Cause> {
        let ([low, high], [at_low, at_high]) = (gso_size.to_ne_bytes(), udp_at.to_ne_bytes());
        let vnet_header = [1, gso_type, 0, 0, low, high, at_low, at_high, 6, 0];
        let rules: [Rule; 1] = ["eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap()];
        let bytes = datagram(&[], payload);
        let frame = received(&vnet_header, &bytes, false);
        let taken = forward(&frame, &RuleTable::new(&rules, &["eth0"]), &Own::default())?;
        let datagrams: Vec<_> = taken.datagrams().map(<[u8]>::to_vec).collect();
        assert_eq!(taken.count(), datagrams.len() as u64);
        Ok(datagrams)
    }

    #[test]
    fn a_train_is_split_into_its_datagrams() {
        assert_eq!(split(0, 0, b"hello").unwrap(), [b"hello"]);
        assert_eq!(split(0, 0, b"").unwrap(), [b""], "an empty datagram is one, too");
        assert_eq!(split(5, 2, b"hello").unwrap(), [&b"he"[..], b"ll", b"o"]);
        assert_eq!(split(5, 3, b"hellos").unwrap(), [b"hel", b"los"]);
        assert_eq!(split(5, 9, b"hello").unwrap(), [b"hello"]);
        assert_eq!(split(5, 9, b"").unwrap(), [b""]);
    }

    #[test]
    fn a_train_that_cannot_be_split_is_dropped_by_name() {
        assert_eq!(split(5, 0, b"hello"), Err(Cause::Coalesced), "no size");
        assert_eq!(split(1, 2, b"hello"), Err(Cause::Coalesced), "TCP");
        assert_eq!(split_at(84, 5, 2, b"hello"), Err(Cause::Coalesced), "in a tunnel");
        let bytes = datagram(&[], b"hello");
        let train = [0, 5, 0, 0, 2, 0, 0, 0, 0, 0];
        assert_eq!(fate(received(&train, &bytes, true)), Err(Cause::Truncated));
    }

    #[test]
    fn damage_is_not_relayed_unless_the_sum_is_not_filled_in_yet() {
        let wrong = changed(&[], b"x", |packet| packet[27] = 1);
        assert_eq!(fate(frame(&wrong)), Err(Cause::BadChecksum));
        assert_eq!(fate(Frame { checksum_verified: true, ..frame(&wrong) }), Ok((0, b"x".to_vec())));
        let mut header = datagram(&[], b"x");
        header[22] ^= 1;
        assert_eq!(fate(Frame { checksum_verified: true, ..frame(&header) }), Err(Cause::BadChecksum));
    }
}
