use proptest::prelude::*;

use super::message::{Event, parse};
use crate::wire::LinkLayer;

/// An attribute, padded.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&(value.len() as u16 + 4).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = (body.len() as u32 + 16).to_ne_bytes();
    let sequence = 7_u32.to_ne_bytes();
    [&len[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &sequence, &[0; 4], body].concat()
}

/// `ifinfomsg` of an Ethernet device that is up and running.
fn header(family: u8, index: u32) -> Vec<u8> {
    let flags = (libc::IFF_UP | libc::IFF_RUNNING) as u32;
    let kind = libc::ARPHRD_ETHER.to_ne_bytes();
    [&[family, 0][..], &kind, &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat()
}

fn link(family: u8) -> Vec<u8> {
    let alternatives =
        [attribute(libc::IFLA_ALT_IFNAME, b"a-name-longer-than-fifteen-bytes\0"), attribute(999, b"?")];
    let attributes = [
        attribute(libc::IFLA_PROP_LIST | libc::NLA_F_NESTED as u16, &alternatives.concat()),
        attribute(libc::IFLA_MTU, &1400_u32.to_ne_bytes()),
        // Of another length than the kernel's structure of that name ever had.
        attribute(libc::IFLA_STATS64, &[1, 2, 3]),
        attribute(libc::IFLA_IFNAME, b"eth0\0"),
    ];
    [header(family, 5), attributes.concat()].concat()
}

fn events(datagram: &[u8]) -> Vec<Event> {
    parse(datagram).map(|message| message.event).collect()
}

#[test]
fn an_interface_is_read_whatever_else_is_said_of_it() {
    let datagram = message(libc::RTM_NEWLINK, 0, &link(0));
    let [Event::Link(link)] = &events(&datagram)[..] else { panic!("no link in {datagram:02x?}") };
    assert_eq!(
        (link.index, link.mtu, link.up, link.carrier, link.link_layer),
        (5, Some(1400), true, true, LinkLayer::Ethernet)
    );
    assert_eq!(link.names, ["eth0", "a-name-longer-than-fifteen-bytes"]);
}

#[test]
fn a_port_that_leaves_a_bridge_is_not_gone() {
    for kind in [libc::RTM_NEWLINK, libc::RTM_DELLINK] {
        let events = events(&message(kind, 0, &link(libc::AF_BRIDGE as u8)));
        assert!(matches!(events[..], [Event::Other]), "{events:?}");
    }
    let events = events(&message(libc::RTM_DELLINK, 0, &link(0)));
    assert!(matches!(events[..], [Event::LinkGone(5)]), "{events:?}");
}

#[test]
fn addresses_routes_and_ends_are_read() {
    let head = [2, 24, 0x80, 0, 5, 0, 0, 0];
    let local = attribute(libc::IFA_LOCAL, &[10, 0, 0, 1]);
    let peer = attribute(libc::IFA_ADDRESS, &[10, 0, 0, 2]);
    let route = [&[0; 12][..], &attribute(libc::RTA_OIF, &5_u32.to_ne_bytes())].concat();
    let datagram = [
        message(libc::RTM_NEWADDR, 0, &[&head[..], &peer, &local].concat()),
        message(libc::RTM_DELADDR, 0, &[&head[..], &attribute(libc::IFA_ADDRESS, &[0xfd; 16])].concat()),
        message(libc::RTM_NEWROUTE, 0, &route),
        message(libc::RTM_NEWROUTE, 0, &[0; 12]),
        message(netlink_packet_core::NLMSG_ERROR, 0, &(-libc::EBUSY).to_ne_bytes()),
        message(netlink_packet_core::NLMSG_DONE, 0, &[0; 4]),
    ];
    let events = events(&datagram.concat());
    let [
        Event::Address { index: 5, address, state: 0 },
        Event::AddressGone { index: 5, address: gone },
        Event::Route(Some(5)),
        Event::Route(None),
        Event::End(Some(error)),
        Event::End(None),
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(*address, ([10, 0, 0, 1].into(), 24));
    assert_eq!(*gone, ([0xfd; 16].into(), 24));
    assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
}

#[test]
fn an_interrupted_answer_says_so() {
    let flags = netlink_packet_core::NLM_F_MULTIPART | netlink_packet_core::NLM_F_DUMP_INTR;
    let datagram = [message(libc::RTM_NEWLINK, 2, &link(0)), message(libc::RTM_NEWLINK, flags, &link(0))];
    let interrupted: Vec<_> = parse(&datagram.concat()).map(|message| message.interrupted).collect();
    assert_eq!(interrupted, [false, true]);
}

#[test]
fn what_is_cut_short_is_no_more_than_what_is_there() {
    let whole = message(libc::RTM_NEWLINK, 0, &link(0));
    for len in 0..whole.len() {
        assert!(events(&whole[..len]).is_empty(), "{len} bytes");
        // Short as a message, too.
        let mut cut = whole[..len.max(16)].to_vec();
        let len = cut.len() as u32;
        cut[..4].copy_from_slice(&len.to_ne_bytes());
        assert_eq!(events(&cut).len(), 1, "{len} bytes");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(
        kind in prop_oneof![Just(2_u16), Just(3), 16..26_u16],
        body in prop::collection::vec(any::<u8>(), 0..200),
        raw in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        prop_assert_eq!(events(&message(kind, 0, &body)).len(), 1);
        events(&raw);
    }

    #[test]
    fn no_damage_makes_it_panic(at in 0..120_usize, value in any::<u8>()) {
        let mut datagram = message(libc::RTM_NEWLINK, 0, &link(0));
        if let Some(byte) = datagram.get_mut(at) {
            *byte = value;
        }
        events(&datagram);
    }
}
