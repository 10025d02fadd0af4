//! Finds the rule that takes a datagram: with one look for each shape of inputs that there is, not for each rule.
//!
//! A shape is the length of a prefix, the size of a block of ports, and whether there is a source (tuple space search: Srinivasan,
//! Suri and Varghese 1999; Open vSwitch does the same). A range of ports is entered as the blocks that make it up. Rules for single
//! groups and ports are all of one shape, or of two where some have a source.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::BitAnd;

use super::{Input, Rule};
use crate::wire::{Datagram, VlanId};

/// Which of the interfaces that are listened on a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputIndex(pub u16);

/// Which of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleIndex(pub u32);

/// What a datagram is looked up by. A source is an address, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowKey<A, S> {
    input: InputIndex,
    port: u16,
    vlan: Option<VlanId>,
    group: A,
    source: S,
}

// A fast hash is safe here: senders choose what is looked up, but only the configuration inserts.
type Map<K> = HashMap<K, RuleIndex, foldhash::fast::RandomState>;

/// An address as a number.
trait Address: Copy + Ord + Hash + BitAnd<Output = Self> {
    /// That of `address`, if it is of this family.
    fn of(address: IpAddr) -> Option<Self>;

    /// All bits but so many of the last ones.
    fn mask(host_bits: u8) -> Self;
}

impl Address for u32 {
    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V4(address) = address { Some(address.to_bits()) } else { None }
    }

    fn mask(host_bits: u8) -> Self {
        Self::MAX.checked_shl(host_bits.into()).unwrap_or(0)
    }
}

impl Address for u128 {
    fn of(address: IpAddr) -> Option<Self> {
        if let IpAddr::V6(address) = address { Some(address.to_bits()) } else { None }
    }

    fn mask(host_bits: u8) -> Self {
        Self::MAX.checked_shl(host_bits.into()).unwrap_or(0)
    }
}

/// Rules of one shape, by the first group and the first port of what they take.
#[derive(Clone, Debug)]
struct Shape<A, S> {
    /// The bits that count of a group and of a port.
    group_mask: A,
    port_mask: u16,
    rules: Map<FlowKey<A, S>>,
}

/// Shapes with the same kind of source, those with the longest prefix first.
#[derive(Clone, Debug)]
struct Shapes<A, S>(Vec<Shape<A, S>>);

impl<A, S> Default for Shapes<A, S> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<A: Address, S: Copy + Eq + Hash> Shapes<A, S> {
    #[inline]
    fn find(&self, flow: FlowKey<A, S>) -> Option<RuleIndex> {
        self.0.iter().find_map(|shape| {
            let (group, port) = (flow.group & shape.group_mask, flow.port & shape.port_mask);
            shape.rules.get(&FlowKey { port, group, ..flow }).copied()
        })
    }

    fn names_vlan(&self, interface: InputIndex) -> bool {
        let mut keys = self.0.iter().flat_map(|shape| shape.rules.keys());
        keys.any(|key| key.input == interface && key.vlan.is_some())
    }

    /// Enters a rule at `key`, which is of that shape, or takes out what is there.
    fn set(&mut self, (group_mask, port_mask): (A, u16), key: FlowKey<A, S>, rule: Option<RuleIndex>) {
        let is_same = |shape: &Shape<A, S>| (shape.group_mask, shape.port_mask) == (group_mask, port_mask);
        match (rule, self.0.iter_mut().find(|shape| is_same(shape))) {
            (Some(rule), Some(shape)) => _ = shape.rules.insert(key, rule),
            (Some(rule), None) => {
                let at = self.0.partition_point(|shape| shape.group_mask >= group_mask);
                let rules = std::iter::once((key, rule)).collect();
                self.0.insert(at, Shape { group_mask, port_mask, rules });
            }
            (None, Some(shape)) => {
                shape.rules.remove(&key);
                // Each shape costs a look.
                self.0.retain(|shape| !shape.rules.is_empty());
            }
            (None, None) => {}
        }
    }
}

/// The rules of one family.
#[derive(Clone, Debug, Default)]
struct Family<A> {
    one_source: Shapes<A, A>,
    any_source: Shapes<A, ()>,
}

impl<A: Address> Family<A> {
    #[inline]
    fn find(&self, flow: FlowKey<A, A>) -> Option<RuleIndex> {
        let FlowKey { input, port, vlan, group, .. } = flow;
        let of_one = self.one_source.find(flow);
        of_one.or_else(|| self.any_source.find(FlowKey { input, port, vlan, group, source: () }))
    }

    fn names_vlan(&self, interface: InputIndex) -> bool {
        self.one_source.names_vlan(interface) || self.any_source.names_vlan(interface)
    }

    /// Enters a rule, or takes one out, if it is of this family.
    fn set(&mut self, interface: InputIndex, input: &Input, rule: Option<RuleIndex>) {
        let Some(group) = A::of(input.group.first()) else { return };
        let group_mask = A::mask(input.group.host_bits());
        for block in input.port.blocks() {
            let (shape, port) = ((group_mask, block.mask()), block.first());
            match input.source.map(A::of) {
                None => {
                    let key = FlowKey { input: interface, port, vlan: input.vlan, group, source: () };
                    self.any_source.set(shape, key, rule);
                }
                Some(Some(source)) => {
                    let key = FlowKey { input: interface, port, vlan: input.vlan, group, source };
                    self.one_source.set(shape, key, rule);
                }
                // Of another family: no datagram has such a source.
                Some(None) => {}
            }
        }
    }
}

/// The rules by what they take.
#[derive(Clone, Debug, Default)]
pub struct RuleTable {
    v4: Family<u32>,
    v6: Family<u128>,
}

impl RuleTable {
    /// A table of `rules`, whose interfaces have the index of their place in `interfaces`. A rule on any other
    /// interface takes nothing.
    pub fn new(rules: &[Rule], interfaces: &[&str]) -> Self {
        let inputs: HashMap<_, _> =
            interfaces.iter().enumerate().map(|(i, name)| (*name, InputIndex(i as u16))).collect();
        let mut table = Self::default();
        for (i, rule) in rules.iter().enumerate() {
            if let Some(interface) = inputs.get(rule.input.interface.as_str()) {
                table.insert(*interface, &rule.input, RuleIndex(i as u32));
            }
        }
        table
    }

    /// Has `rule` take what comes from the interface `interface` and is what `input` says.
    pub fn insert(&mut self, interface: InputIndex, input: &Input, rule: RuleIndex) {
        self.v4.set(interface, input, Some(rule));
        self.v6.set(interface, input, Some(rule));
    }

    /// Takes back what [`RuleTable::insert`] has done.
    pub fn remove(&mut self, interface: InputIndex, input: &Input) {
        self.v4.set(interface, input, None);
        self.v6.set(interface, input, None);
    }

    /// The rule that takes `datagram`, which has come to `input` in this VLAN, or in none; one that names its source goes before one
    /// that does not, and then a longer prefix before a shorter one.
    pub fn find(
        &self,
        input: InputIndex,
        vlan: Option<VlanId>,
        datagram: &Datagram<'_>,
    ) -> Option<RuleIndex> {
        let port = datagram.destination_port;
        match (datagram.destination, datagram.source) {
            (IpAddr::V4(group), IpAddr::V4(source)) => {
                self.v4.find(FlowKey { input, port, vlan, group: group.to_bits(), source: source.to_bits() })
            }
            (IpAddr::V6(group), IpAddr::V6(source)) => {
                self.v6.find(FlowKey { input, port, vlan, group: group.to_bits(), source: source.to_bits() })
            }
            // No frame has them of two families.
            _ => None,
        }
    }

    /// Whether any rule on the interface `interface` is for a VLAN.
    pub fn names_vlan(&self, interface: InputIndex) -> bool {
        self.v4.names_vlan(interface) || self.v6.names_vlan(interface)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::GroupRange;
    use super::*;

    fn datagram(source: &str, destination: &str, port: u16) -> Datagram<'static> {
        Datagram::addressed(source.parse().unwrap(), destination.parse().unwrap(), port)
    }

    fn rules() -> Vec<Rule> {
        let mut rules: Vec<Rule> = [
            "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1",
            "eth0:239.1.1.1:5000=239.2.2.3:6000:eth1",
            "eth1:239.1.1.1:5000=239.2.2.2:6000:eth0",
            "eth0:[ff15::1]:5000=239.2.2.2:6000:eth1",
        ]
        .iter()
        .map(|spec| spec.parse().unwrap())
        .collect();
        rules[1].input.source = Some("10.0.0.9".parse().unwrap());
        rules
    }

    #[test]
    fn a_rule_comes_and_goes_beside_others() {
        let rules = rules();
        let mut table = RuleTable::default();
        let find = |table: &RuleTable| {
            table.find(InputIndex(0), None, &datagram("10.0.0.9", "239.1.1.1", 5000)).map(|rule| rule.0)
        };
        table.insert(InputIndex(0), &rules[0].input, RuleIndex(7));
        assert_eq!(find(&table), Some(7));
        table.insert(InputIndex(0), &rules[1].input, RuleIndex(8));
        assert_eq!(find(&table), Some(8));
        table.remove(InputIndex(1), &rules[1].input);
        assert_eq!(find(&table), Some(8), "of another interface");
        table.remove(InputIndex(0), &rules[1].input);
        assert_eq!(find(&table), Some(7));
        table.remove(InputIndex(0), &rules[0].input);
        assert_eq!(find(&table), None);
    }

    #[test]
    fn every_part_of_the_key_counts() {
        let table = RuleTable::new(&rules(), &["eth0", "eth1"]);
        let find = |input, datagram| table.find(InputIndex(input), None, &datagram).map(|rule| rule.0);
        assert_eq!(find(0, datagram("10.0.0.1", "239.1.1.1", 5000)), Some(0));
        assert_eq!(
            find(0, datagram("10.0.0.9", "239.1.1.1", 5000)),
            Some(1),
            "the rule with a source goes first"
        );
        assert_eq!(find(1, datagram("10.0.0.9", "239.1.1.1", 5000)), Some(2));
        assert_eq!(find(0, datagram("fd00::1", "ff15::1", 5000)), Some(3));
        assert_eq!(find(0, datagram("10.0.0.1", "239.1.1.1", 5001)), None);
        assert_eq!(find(0, datagram("10.0.0.1", "239.1.1.2", 5000)), None);
        assert_eq!(find(2, datagram("10.0.0.1", "239.1.1.1", 5000)), None);
        assert_eq!(find(0, datagram("fd00::1", "::ffff:239.1.1.1", 5000)), None, "families are not mixed");
    }

    #[test]
    fn a_rule_takes_what_is_of_its_vlan_only() {
        let vlan = |number: u16| Some(VlanId::try_from(number).unwrap());
        let [mut untagged, mut sourced, ..] = <[Rule; 4]>::try_from(rules()).unwrap();
        let mut table = RuleTable::default();
        let find = |table: &RuleTable, vlan, source| {
            table.find(InputIndex(0), vlan, &datagram(source, "239.1.1.1", 5000)).map(|rule| rule.0)
        };
        table.insert(InputIndex(0), &untagged.input, RuleIndex(0));
        assert_eq!(find(&table, vlan(5), "10.0.0.9"), None);
        assert!(!table.names_vlan(InputIndex(0)));
        sourced.input.vlan = vlan(5);
        table.insert(InputIndex(0), &sourced.input, RuleIndex(1));
        assert_eq!([find(&table, None, "10.0.0.9"), find(&table, vlan(5), "10.0.0.9")], [Some(0), Some(1)]);
        assert_eq!([find(&table, vlan(5), "10.0.0.8"), find(&table, vlan(6), "10.0.0.9")], [None, None]);
        assert_eq!([0, 1].map(|input| table.names_vlan(InputIndex(input))), [true, false]);
        untagged.input.vlan = vlan(6);
        table.insert(InputIndex(0), &untagged.input, RuleIndex(2));
        table.remove(InputIndex(0), &sourced.input);
        assert_eq!([find(&table, vlan(5), "10.0.0.9"), find(&table, vlan(6), "10.0.0.9")], [None, Some(2)]);
    }

    fn table(specs: &[(&str, Option<&str>)]) -> RuleTable {
        let mut table = RuleTable::default();
        for (i, (spec, source)) in specs.iter().enumerate() {
            let mut rule: Rule = format!("eth0:{spec}=239.9.9.9:1:eth1").parse().unwrap();
            rule.input.source = source.map(|source| source.parse().unwrap());
            table.insert(InputIndex(0), &rule.input, RuleIndex(i as u32));
        }
        table
    }

    #[test]
    fn a_source_goes_before_a_longer_prefix_and_that_before_a_shorter_one() {
        let table = table(&[
            ("239.0.0.0/8:5000-5009", None),
            ("239.1.0.0/16:5004-5005", None),
            ("239.1.1.1:5004", None),
            ("239.0.0.0/8:5004", Some("10.0.0.9")),
            ("[ff15::1:0/112]:1-65535", None),
            ("[::/1]:7", None),
        ]);
        let find = |source, group, port| {
            table.find(InputIndex(0), None, &datagram(source, group, port)).map(|rule| rule.0)
        };
        for (source, group, port, expected) in [
            ("10.0.0.1", "239.1.1.1", 5004, Some(2)),
            ("10.0.0.1", "239.1.1.1", 5005, Some(1)),
            ("10.0.0.1", "239.1.1.2", 5004, Some(1)),
            ("10.0.0.1", "239.2.1.1", 5004, Some(0)),
            ("10.0.0.9", "239.1.1.1", 5004, Some(3)),
            ("10.0.0.9", "239.1.1.1", 5005, Some(1)),
            ("10.0.0.1", "239.255.255.255", 5009, Some(0)),
            ("10.0.0.1", "239.255.255.255", 5010, None),
            ("10.0.0.1", "239.0.0.0", 4999, None),
            ("10.0.0.1", "240.0.0.0", 5000, None),
            ("10.0.0.1", "238.255.255.255", 5000, None),
            ("fd00::1", "ff15::1:ffff", 65_535, Some(4)),
            ("fd00::1", "ff15::2:0", 65_535, None),
            ("fd00::1", "7fff::1", 7, Some(5)),
            ("fd00::1", "8000::", 7, None),
        ] {
            assert_eq!(find(source, group, port), expected, "{source} {group} {port}");
        }
    }

    #[test]
    fn what_is_gone_costs_no_look() {
        let rules = ["eth0:239.0.0.0/8:5000-5009=1.1.1.1:1:e", "eth0:239.1.1.1:1=1.1.1.1:1:e"];
        let rules: Vec<Rule> = rules.iter().map(|spec| spec.parse().unwrap()).collect();
        let mut table = RuleTable::new(&rules, &["eth0"]);
        assert_eq!(table.v4.any_source.0.len(), 3);
        table.remove(InputIndex(0), &rules[0].input);
        assert_eq!(table.v4.any_source.0.len(), 1);
        table.remove(InputIndex(0), &rules[1].input);
        assert!(table.v4.any_source.0.is_empty());
    }

    /// An input within a small world, and whether it is on the other interface.
    fn input() -> impl Strategy<Value = (bool, Input)> {
        let group = prop_oneof![
            (0..8_u8, 27..=32_u8)
                .prop_map(|(i, prefix)| GroupRange::from(IpAddr::from([239, 1, 1, i])).widened(prefix)),
            (0..8_u16, 123..=128_u8)
                .prop_map(|(i, prefix)| GroupRange::from(IpAddr::from([0xff15, 0, 0, 0, 0, 0, 0, i]))
                    .widened(prefix)),
        ];
        let ports = (1..24_u16, 0..12_u16)
            .prop_map(|(first, more)| format!("{first}-{}", first + more).parse().unwrap());
        let source = prop::option::of(0..2_u8);
        (any::<bool>(), group, ports, source).prop_map(|(is_other, group, port, source)| {
            let source = source.map(|i| source_of(group.is_ipv4(), i));
            (is_other, Input { interface: "eth0".into(), group, port, source, vlan: None })
        })
    }

    fn source_of(is_ipv4: bool, i: u8) -> IpAddr {
        if is_ipv4 { [10, 0, 0, i].into() } else { [0xfd00, 0, 0, 0, 0, 0, 0, i.into()].into() }
    }

    proptest! {
        #[test]
        fn the_rule_that_is_found_is_the_one_by_the_book(
            inputs in prop::collection::vec(input(), 1..12),
            leaving in prop::collection::vec(any::<bool>(), 12),
        ) {
            let mut table = RuleTable::default();
            let mut entered: Vec<(usize, bool, Input)> = Vec::new();
            for (i, (is_other, input)) in inputs.into_iter().enumerate() {
                // As the checks of a configuration have it.
                let kind = |is_other: bool, input: &Input| (is_other, input.source, input.group);
                let overlaps = |(_, other, before): &(usize, bool, Input)| {
                    kind(*other, before) == kind(is_other, &input) && before.port.intersects(input.port)
                };
                if !entered.iter().any(overlaps) {
                    table.insert(InputIndex(is_other.into()), &input, RuleIndex(i as u32));
                    entered.push((i, is_other, input));
                }
            }
            entered.retain(|(i, is_other, input)| {
                if leaving[*i] {
                    table.remove(InputIndex((*is_other).into()), input);
                }
                !leaving[*i]
            });
            for (is_ipv4, host, port, source, is_other) in world(9, 40, 3) {
                let group = if is_ipv4 { [239, 1, 1, host].into() } else { [0xff15, 0, 0, 0, 0, 0, 0, host.into()].into() };
                let source = source_of(is_ipv4, source);
                let takes = |(_, on_other, input): &&(usize, bool, Input)| {
                    *on_other == is_other
                        && input.group.intersects(GroupRange::from(group))
                        && (input.port.first()..=input.port.last()).contains(&port)
                        && input.source.is_none_or(|wanted| wanted == source)
                };
                let best = entered.iter().filter(takes).max_by_key(|(_, _, input)| (input.source.is_some(), input.group.prefix()));
                let found = table.find(InputIndex(is_other.into()), None, &Datagram::addressed(source, group, port));
                prop_assert_eq!(found.map(|rule| rule.0 as usize), best.map(|(i, ..)| *i), "{} {}", group, port);
            }
        }
    }

    /// Every datagram of the small world: of either family, to so many hosts and ports, from so many sources, on either interface.
    fn world(hosts: u8, ports: u16, sources: u8) -> impl Iterator<Item = (bool, u8, u16, u8, bool)> {
        let both = || [false, true].into_iter();
        both().flat_map(move |is_ipv4| {
            (0..hosts).flat_map(move |host| {
                (1..ports).flat_map(move |port| {
                    (0..sources).flat_map(move |source| {
                        both().map(move |is_other| (is_ipv4, host, port, source, is_other))
                    })
                })
            })
        })
    }
}
