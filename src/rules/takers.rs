//! Rules by what they take: which of them has an input, overlaps with one, or may take what another one sends.
//!
//! Inputs are kept by their *shape*: the length of their prefix and the size of a block of ports. Within a shape no two of them
//! overlap unless they are for different sources, so that an answer takes a look at each shape that there is and not at each rule.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::RangeInclusive;

use super::range::{Destinations, GroupRange, PortBlock, PortRange};
use super::{Input, Output, Rule};
use crate::wire::VlanId;

// A fast hash is safe here: only the configuration inserts.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Behind every source.
const LAST_SOURCE: Option<IpAddr> = Some(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)));

/// What leaves through an output of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sent<'a> {
    interface: &'a str,
    destinations: Destinations,
    /// Where it came from, if the rule is for one source.
    source: Option<IpAddr>,
}

impl<'a> Sent<'a> {
    pub(super) fn new(rule: &'a Rule, output: &'a Output) -> Self {
        let Output { interface, .. } = output;
        Self { interface, destinations: output.destinations(), source: rule.input.source }
    }
}

/// Rules by what they take, each known by an `R`.
#[derive(Clone, Debug)]
pub struct Takers<R> {
    by_interface: HashMap<String, HashMap<Option<VlanId>, Vec<Shelf<R>>>>,
}

/// What is taken of one shape.
#[derive(Clone, Debug)]
struct Shelf<R> {
    shape: Shape,
    takers: BTreeMap<Key, Taker<R>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    is_ipv4: bool,
    prefix: u8,
    port_bits: u8,
}

/// One of a shape: the first address, the first port, and the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    group: IpAddr,
    port: u16,
    source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Taker<R> {
    rule: R,
    /// All of its ports.
    port: PortRange,
}

impl Shape {
    fn new(group: GroupRange, block: PortBlock) -> Self {
        Self { is_ipv4: group.is_ipv4(), prefix: group.prefix(), port_bits: block.bits() }
    }

    /// From which to which first address, and from which to which first port, something of this shape has something of `group` and
    /// `block`: the one that they are in, or all that are in them.
    fn reach(self, group: GroupRange, block: PortBlock) -> (RangeInclusive<IpAddr>, RangeInclusive<u16>) {
        let (group_in, port_in) =
            (group.widened(self.prefix).first(), block.first() & (u16::MAX << self.port_bits));
        let groups = group_in..=if self.prefix <= group.prefix() { group_in } else { group.last() };
        let ports = port_in..=if self.port_bits >= block.bits() { port_in } else { block.last() };
        (groups, ports)
    }
}

impl<R: Copy> Shelf<R> {
    /// Those that take something of `group` and `block` from `source`, or from any where that is not known.
    fn of(&self, group: GroupRange, block: PortBlock, source: Option<IpAddr>) -> impl Iterator<Item = R> {
        let (groups, ports) = self.shape.reach(group, block);
        let key = |source| Key { group: *groups.start(), port: *ports.start(), source };
        let is_one = groups.start() == groups.end() && ports.start() == ports.end();
        // Two looks instead of one at all sources.
        let [some, any] =
            [source, None].map(|wanted| self.takers.get(&key(wanted)).filter(|_| is_one && source.is_some()));
        let last = Key { group: *groups.end(), port: *ports.end(), source: LAST_SOURCE };
        let all = (!is_one || source.is_none()).then(|| self.takers.range(key(None)..=last));
        let is_meant = move |key: &Key| {
            ports.contains(&key.port) && (source.is_none() || key.source.is_none() || key.source == source)
        };
        let all = all.into_iter().flatten().filter(move |(key, _)| is_meant(key)).map(|(_, taker)| taker);
        some.into_iter().chain(any).chain(all).map(|taker| taker.rule)
    }
}

impl<R> Default for Takers<R> {
    fn default() -> Self {
        Self { by_interface: HashMap::default() }
    }
}

impl<R: Copy + PartialEq> Takers<R> {
    /// Enters the rule with this input, in place of another one with the same.
    pub fn insert(&mut self, input: &Input, rule: R) {
        if !self.by_interface.contains_key(&input.interface) {
            self.by_interface.insert(input.interface.clone(), HashMap::default());
        }
        let Some(by_vlan) = self.by_interface.get_mut(&input.interface) else { return };
        let shelves = by_vlan.entry(input.vlan).or_default();
        for block in input.port.blocks() {
            let shape = Shape::new(input.group, block);
            let at = shelves.iter().position(|shelf| shelf.shape == shape).unwrap_or_else(|| {
                shelves.push(Shelf { shape, takers: BTreeMap::new() });
                shelves.len() - 1
            });
            shelves[at].takers.insert(key(input, block), Taker { rule, port: input.port });
        }
    }

    /// Strikes out `rule`, which has this input, unless another one has come in its place.
    pub fn remove(&mut self, input: &Input, rule: R) {
        let Some(by_vlan) = self.by_interface.get_mut(&input.interface) else { return };
        let Some(shelves) = by_vlan.get_mut(&input.vlan) else { return };
        for block in input.port.blocks() {
            let shape = Shape::new(input.group, block);
            let Some(shelf) = shelves.iter_mut().find(|shelf| shelf.shape == shape) else { continue };
            let key = key(input, block);
            if shelf.takers.get(&key).is_some_and(|taker| taker.rule == rule) {
                shelf.takers.remove(&key);
            }
        }
        // Rules come and go for as long as the relay runs.
        shelves.retain(|shelf| !shelf.takers.is_empty());
        if shelves.is_empty() {
            by_vlan.remove(&input.vlan);
        }
        if by_vlan.is_empty() {
            self.by_interface.remove(&input.interface);
        }
    }

    /// The rule with this very input.
    pub fn get(&self, input: &Input) -> Option<R> {
        let taker = self.taker(input, input.port.blocks().next()?)?;
        (taker.port == input.port).then_some(taker.rule)
    }

    /// Whether a rule has this very block of ports of this very input but for its other ports.
    pub fn has(&self, input: &Input, block: PortBlock) -> bool {
        self.taker(input, block).is_some()
    }

    /// The rules that take what a rule with this input would take, too, and neither goes before the other: of the same interface,
    /// VLAN, source and prefix.
    pub fn overlapping<'a>(&'a self, input: &'a Input) -> impl Iterator<Item = R> + 'a {
        let is_like =
            |shape: Shape| (shape.is_ipv4, shape.prefix) == (input.group.is_ipv4(), input.group.prefix());
        self.shelves(&input.interface, input.vlan).iter().filter(move |shelf| is_like(shelf.shape)).flat_map(
            move |shelf| {
                input.port.blocks().flat_map(move |block| {
                    let (_, ports) = shelf.shape.reach(input.group, block);
                    let key =
                        |port: &u16| Key { group: input.group.first(), port: *port, source: input.source };
                    let range = shelf.takers.range(key(ports.start())..=key(ports.end()));
                    range.filter(|(key, _)| key.source == input.source).map(|(_, taker)| taker.rule)
                })
            },
        )
    }

    /// The rules that may take what is `sent`; one of them may be there several times.
    pub fn of(&self, sent: &Sent<'_>) -> Vec<R> {
        let Destinations { group, port } = sent.destinations;
        let mut takers = Vec::new();
        // What leaves through an interface is untagged there.
        for shelf in
            self.shelves(sent.interface, None).iter().filter(|shelf| shelf.shape.is_ipv4 == group.is_ipv4())
        {
            takers.extend(port.blocks().flat_map(|block| shelf.of(group, block, sent.source)));
        }
        takers.dedup();
        takers
    }

    fn shelves(&self, interface: &str, vlan: Option<VlanId>) -> &[Shelf<R>] {
        self.by_interface.get(interface).and_then(|by_vlan| by_vlan.get(&vlan)).map_or(&[], Vec::as_slice)
    }

    fn taker(&self, input: &Input, block: PortBlock) -> Option<&Taker<R>> {
        let shape = Shape::new(input.group, block);
        let mut shelves = self.shelves(&input.interface, input.vlan).iter();
        let shelf = shelves.find(|shelf| shelf.shape == shape)?;
        shelf.takers.get(&key(input, block))
    }
}

fn key(input: &Input, block: PortBlock) -> Key {
    Key { group: input.group.first(), port: block.first(), source: input.source }
}

#[cfg(test)]
#[path = "takers_tests.rs"]
mod tests;
