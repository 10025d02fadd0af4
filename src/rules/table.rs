//! Finds the rule that takes a datagram, in constant time.

use std::collections::HashMap;
use std::net::IpAddr;

use super::Rule;
use crate::wire::Datagram;

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
            let Some(&input) = inputs.get(rule.input.interface.as_str()) else { continue };
            let key = FlowKey { input, destination: rule.input.group, port: rule.input.port };
            match rule.input.source {
                Some(source) => table.one_source.insert((key, source), RuleIndex(i as u32)),
                None => table.any_source.insert(key, RuleIndex(i as u32)),
            };
        }
        table
    }

    /// The rule that takes `datagram`; one that names its source goes before one that does not.
    pub fn find(&self, input: InputIndex, datagram: &Datagram<'_>) -> Option<RuleIndex> {
        let key = FlowKey { input, destination: datagram.destination, port: datagram.destination_port };
        if !self.one_source.is_empty()
            && let Some(rule) = self.one_source.get(&(key, datagram.source))
        {
            return Some(*rule);
        }
        self.any_source.get(&key).copied()
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
    fn every_part_of_the_key_counts() {
        let table = RuleTable::new(&rules(), &["eth0", "eth1"]);
        let find = |input, datagram| table.find(InputIndex(input), &datagram).map(|rule| rule.0);
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
}
