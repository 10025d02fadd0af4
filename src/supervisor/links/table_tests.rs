use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::Kind::{
    AddressesChanged, Appeared, Gone, GotCarrier, LostCarrier, Mtu, Recreated, WentDown, WentUp,
};
use super::message::{Description, Event};
use super::table::Table;
use super::{Change, Kind};
use crate::sys::interface::Interface;
use crate::wire::LinkLayer;

const ADDRESS: (IpAddr, u8) = (IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)), 24);

/// An interface that is up, with a carrier.
fn link(index: u32, names: &[&str]) -> Description {
    Description {
        index,
        up: true,
        carrier: true,
        link_layer: LinkLayer::Ethernet,
        mtu: Some(1500),
        names: names.iter().map(|&name| name.to_owned()).collect(),
    }
}

fn down(index: u32, names: &[&str]) -> Description {
    Description { up: false, carrier: false, ..link(index, names) }
}

/// A table with `eth0`, which is 2, and `eth1`, which is 3.
fn table() -> Table {
    let mut table = Table::default();
    table.apply(Event::Link(link(2, &["eth0"])));
    table.apply(Event::Link(link(3, &["eth1"])));
    table.take_changes();
    table
}

/// What is told after `events`.
fn told(table: &mut Table, events: impl IntoIterator<Item = Event>) -> Vec<(Kind, String)> {
    for event in events {
        table.apply(event);
    }
    let changes = table.take_changes();
    assert_eq!(table.take_changes(), [], "told twice");
    changes.into_iter().map(|Change { kind, name }| (kind, name)).collect()
}

#[track_caller]
fn check(events: impl IntoIterator<Item = Event>, expected: &[(Kind, &str)]) {
    let changes = told(&mut table(), events);
    let changes: Vec<_> = changes.iter().map(|(kind, name)| (*kind, name.as_str())).collect();
    assert_eq!(changes, expected);
}

#[test]
fn each_event_by_itself() {
    use Event::{Link, LinkGone};
    check([Link(link(2, &["eth0"]))], &[]);
    check([Link(link(4, &["eth2"]))], &[(Appeared, "eth2")]);
    check([LinkGone(2)], &[(Gone, "eth0")]);
    check([LinkGone(7)], &[]);
    check([Link(down(2, &["eth0"]))], &[(WentDown, "eth0")]);
    check([Link(Description { carrier: false, ..link(2, &["eth0"]) })], &[(LostCarrier, "eth0")]);
    check([Link(Description { mtu: Some(9000), ..link(2, &["eth0"]) })], &[(Mtu, "eth0")]);
    check([Link(Description { link_layer: LinkLayer::RawIp, ..link(2, &["eth0"]) })], &[(Recreated, "eth0")]);
    check([Link(link(2, &["lan"]))], &[(Gone, "eth0"), (Appeared, "lan")]);
    check([Event::Route(Some(2))], &[(AddressesChanged, "eth0")]);
    check([Event::Route(Some(7)), Event::Other, Event::End(None)], &[]);
    check([Event::Route(None)], &[(AddressesChanged, "eth0"), (AddressesChanged, "eth1")]);
}

#[test]
fn what_happens_between_two_looks_is_told_once_as_it_is_in_the_end() {
    use Event::{Link, LinkGone};
    check([Link(down(2, &["eth0"])), Link(link(2, &["eth0"]))], &[(WentUp, "eth0")]);
    check(
        [Link(Description { carrier: false, ..link(2, &["eth0"]) }), Link(link(2, &["eth0"]))],
        &[(GotCarrier, "eth0")],
    );
    check([LinkGone(2), Link(down(4, &["eth0"]))], &[(Recreated, "eth0")]);
    // The same index, be it that it was asked for, or that the device was in another namespace meanwhile.
    check([LinkGone(2), Link(link(2, &["eth0"]))], &[(Recreated, "eth0")]);
    check([Link(link(4, &["eth2"])), LinkGone(4)], &[]);
    check([Link(link(2, &["lan"])), Link(link(2, &["eth0"]))], &[]);
    let bigger = Description { mtu: Some(9000), ..link(2, &["eth0"]) };
    check([Link(bigger.clone()), Link(link(2, &["eth0"]))], &[]);
    check(
        [Link(down(2, &["eth0"])), Event::Route(Some(2)), Link(bigger)],
        &[(WentUp, "eth0"), (Mtu, "eth0"), (AddressesChanged, "eth0")],
    );
}

#[test]
fn names_that_are_exchanged_belong_to_others_then() {
    use Event::Link;
    check(
        [Link(link(2, &["tmp"])), Link(link(3, &["eth0"])), Link(link(2, &["eth1"]))],
        &[(Recreated, "eth0"), (Recreated, "eth1")],
    );
    // Without news of the end of the one that had the name.
    check([Link(link(9, &["eth0"]))], &[(Recreated, "eth0")]);
}

#[test]
fn an_alternative_name_is_a_name() {
    let mut table = table();
    let changes = told(&mut table, [Event::Link(link(2, &["eth0", "camera-network"]))]);
    assert_eq!(changes, [(Appeared, "camera-network".to_owned())]);
    assert_eq!(table.find("camera-network"), table.find("eth0"));
    assert_eq!(table.find("camera-network").map(|interface| interface.name.as_str()), Some("eth0"));
    assert_eq!(table.interfaces().count(), 2);
    let changes = told(&mut table, [Event::LinkGone(2)]);
    assert_eq!(changes, [(Gone, "camera-network".to_owned()), (Gone, "eth0".to_owned())]);
}

#[test]
fn only_another_address_or_another_state_of_it_is_a_change() {
    let mut table = table();
    let with = |state| Event::Address { index: 2, address: ADDRESS, state };
    let changed = [(AddressesChanged, "eth0".to_owned())];
    assert_eq!(told(&mut table, [with(0x40)]), changed);
    assert_eq!(told(&mut table, [with(0x40)]), []);
    assert_eq!(told(&mut table, [with(0)]), changed);
    assert_eq!(told(&mut table, [with(0), Event::Link(link(2, &["eth0"])), with(0)]), []);
    assert_eq!(told(&mut table, [Event::AddressGone { index: 2, address: ADDRESS }]), changed);
    assert_eq!(told(&mut table, [Event::AddressGone { index: 2, address: ADDRESS }]), []);
    assert_eq!(told(&mut table, [Event::Address { index: 9, address: ADDRESS, state: 0 }]), []);
}

#[test]
fn a_description_without_an_mtu_changes_no_names() {
    let partial = |index| Description { mtu: None, names: Vec::new(), ..down(index, &[]) };
    check([Event::Link(partial(2))], &[(WentDown, "eth0")]);
    check([Event::Link(partial(7))], &[]);
    check([Event::Link(Description { names: Vec::new(), ..down(2, &[]) })], &[]);
}

#[test]
fn what_an_answer_does_not_mention_is_gone() {
    let mut table = table();
    told(&mut table, [Event::Address { index: 2, address: ADDRESS, state: 0 }]);
    table.begin();
    table.apply(Event::Link(link(2, &["eth0"])));
    table.apply(Event::Link(link(4, &["eth2"])));
    table.sweep();
    let expected = [(Gone, "eth1"), (Appeared, "eth2"), (AddressesChanged, "eth0")];
    assert_eq!(told(&mut table, []), expected.map(|(kind, name)| (kind, name.to_owned())));
    table.begin();
    let again = [Event::Link(link(2, &["eth0"])), Event::Link(link(4, &["eth2"]))];
    for event in again {
        table.apply(event);
    }
    table.sweep();
    assert_eq!(told(&mut table, []), []);
}

/// Names are few, so that they are exchanged, taken over and given up.
fn events() -> impl Strategy<Value = Event> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    let names = prop::collection::btree_set(name, 1..3).prop_map(Vec::from_iter);
    let description = (1..5_u32, any::<[bool; 3]>(), prop::option::of(68..71_u32), names);
    let link = description.prop_map(|(index, [up, carrier, ethernet], mtu, names)| {
        let link_layer = if ethernet { LinkLayer::Ethernet } else { LinkLayer::RawIp };
        Event::Link(Description { up, carrier: up && carrier, link_layer, mtu, ..link(index, &names) })
    });
    let address = |index| Event::Address { index, address: ADDRESS, state: 0 };
    prop_oneof![
        4 => link,
        2 => (1..5_u32).prop_map(Event::LinkGone),
        1 => (1..5_u32).prop_map(address),
        1 => (1..5_u32).prop_map(|index| Event::AddressGone { index, address: ADDRESS }),
    ]
}

fn snapshot(table: &Table) -> BTreeMap<&'static str, Interface> {
    let names = ["a", "b", "c", "d"].into_iter();
    names.filter_map(|name| table.find(name).map(|interface| (name, interface.clone()))).collect()
}

proptest! {
    #[test]
    fn whoever_follows_the_changes_knows_the_state(
        batches in prop::collection::vec(prop::collection::vec(events(), 0..6), 1..8)
    ) {
        let mut table = Table::default();
        for batch in batches {
            let before = snapshot(&table);
            for event in batch {
                table.apply(event);
            }
            let changes = table.take_changes();
            let after = snapshot(&table);
            for name in ["a", "b", "c", "d"] {
                let kinds: Vec<_> = changes.iter().filter(|change| change.name == name).collect();
                let kinds: Vec<_> = kinds.into_iter().map(|change| change.kind).collect();
                match (before.get(name), after.get(name)) {
                    (None, None) => prop_assert!(kinds.is_empty(), "{name}: {kinds:?}"),
                    (None, Some(_)) => prop_assert_eq!(kinds, [Appeared]),
                    (Some(_), None) => prop_assert_eq!(kinds, [Gone]),
                    (Some(before), Some(now)) => {
                        let anew = kinds == [Recreated];
                        prop_assert!(anew || before.index == now.index, "{name}: {kinds:?}");
                        prop_assert!(anew || before.link_layer == now.link_layer, "{name}: {kinds:?}");
                        prop_assert_eq!(anew || before.mtu != now.mtu, anew || kinds.contains(&Mtu));
                        prop_assert!(anew || before.up || !now.up || kinds.contains(&WentUp));
                        prop_assert!(anew || !before.up || now.up || kinds.contains(&WentDown));
                        prop_assert!(!kinds.contains(&Gone) && !kinds.contains(&Appeared));
                    }
                }
            }
            // Every name leads to an interface that has it, and every interface has its own.
            for interface in table.interfaces() {
                prop_assert_eq!(table.find(&interface.name), Some(interface));
            }
        }
    }
}
