//! Finds the rule that takes a datagram, in constant time.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Input, Rule};
use crate::wire::{Datagram, VlanId};

/// Which of the interfaces that are listened on a frame came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputIndex(pub u16);

/// Which of the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleIndex(pub u32);

/// What a datagram is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct FlowKey {
    input: InputIndex,
    destination: IpAddr,
    port: u16,
    vlan: Option<VlanId>,
}

impl FlowKey {
    fn new(interface: InputIndex, input: &Input) -> Self {
        Self { input: interface, destination: input.group, port: input.port, vlan: input.vlan }
    }
}

// A fast hash is safe here: senders choose what is looked up, but only the configuration inserts.
type Map<K> = HashMap<K, RuleIndex, foldhash::fast::RandomState>;

/// The rules by what they take.
#[derive(Clone, Debug, Default)]
pub struct RuleTable {
    any_source: Map<FlowKey>,
    one_source: Map<(FlowKey, IpAddr)>,
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
        let key = FlowKey::new(interface, input);
        match input.source {
            Some(source) => self.one_source.insert((key, source), rule),
            None => self.any_source.insert(key, rule),
        };
    }

    /// Takes back what [`RuleTable::insert`] has done.
    pub fn remove(&mut self, interface: InputIndex, input: &Input) {
        let key = FlowKey::new(interface, input);
        match input.source {
            Some(source) => self.one_source.remove(&(key, source)),
            None => self.any_source.remove(&key),
        };
    }

    /// The rule that takes `datagram`, which has come to `input` in this VLAN, or in none; one that names its source goes before one
    /// that does not.
    pub fn find(
        &self,
        input: InputIndex,
        vlan: Option<VlanId>,
        datagram: &Datagram<'_>,
    ) -> Option<RuleIndex> {
        let key = FlowKey { input, destination: datagram.destination, port: datagram.destination_port, vlan };
        if !self.one_source.is_empty()
            && let Some(rule) = self.one_source.get(&(key, datagram.source))
        {
            return Some(*rule);
        }
        self.any_source.get(&key).copied()
    }

    /// Whether any rule on the interface `interface` is for a VLAN.
    pub fn names_vlan(&self, interface: InputIndex) -> bool {
        let mut keys = self.any_source.keys().chain(self.one_source.keys().map(|(key, _)| key));
        keys.any(|key| key.input == interface && key.vlan.is_some())
    }
}

#[cfg(test)]
mod tests {
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
}
