//! What makes a rule, or a set of rules, nonsense.

use std::collections::HashMap;
use std::net::IpAddr;

use super::cycles::{circles_among, describe, fed};
use super::dedupe::{Dedupe, leg_faults};
use super::range::{GroupRange, PortRange};
use super::takers::Takers;
use super::{Input, Output, Rule, SourceAddress};

/// Longest interface name: `IFNAMSIZ` (linux/if.h) less the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

/// Most groups that the host becomes a member of for one rule, as a power of two: 4,096. Each of them is told to the network, and by
/// default a socket holds 20.
const JOINED_BITS: u8 = 12;

/// Something wrong with a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the key within the rule, such as `input.source`.
    pub key: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Fault {
    pub(super) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

impl Rule {
    /// Everything wrong with this rule by itself.
    pub fn faults(&self) -> Vec<Fault> {
        let Input { interface, group, source, .. } = &self.input;
        let mut faults = endpoint_faults("input.", Some(interface), Some(*group), *source);
        for (i, Output { interface, group, .. }) in self.outputs.iter().enumerate() {
            faults.extend(endpoint_faults(&format!("outputs[{i}]."), Some(interface), Some(*group), None));
        }
        faults.extend(self.faults_across());
        faults
    }

    /// What is wrong between the parts of this rule, each of which may be right by itself.
    pub fn faults_across(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.name.is_empty() {
            faults.push(Fault::new("name", "is empty: give a text, or leave the key out"));
        }
        if self.outputs.is_empty() {
            faults.push(Fault::new("outputs", "is empty: give at least one output"));
        }
        if let (true, Some(vlan)) = (self.join, self.input.vlan) {
            let interface = &self.input.interface;
            faults.push(Fault::new(
                "join",
                format!(
                    "does not work with vlan, as the host's report would leave {interface} untagged: \
                     name the VLAN's own interface, such as {interface}.{vlan}, or leave join out"
                ),
            ));
        }
        faults.extend(self.join_fault().map(|message| Fault::new("input.group", message)));
        let mut seen = HashMap::new();
        for (i, output) in self.outputs.iter().enumerate() {
            let mut fault = |key: &str, message: Option<String>| {
                faults.extend(message.map(|message| Fault::new(format!("outputs[{i}]{key}"), message)));
            };
            let twin = seen.insert((output.group, output.port, &output.interface), i);
            fault("", twin.map(repeats).or_else(|| self.loop_fault(output)));
            fault(".group", group_size_fault(self.input.group, output.group));
            fault(".port", port_size_fault(self.input.port, output.port));
            fault(".source", self.family_fault(output));
        }
        faults.extend(self.dedupe.iter().flat_map(Dedupe::faults));
        if self.dedupe.is_some() && !self.input.destinations().is_single() {
            // Of two groups datagrams alike are no copies of each other.
            faults.push(Fault::new(
                "dedupe",
                "is for one group and port: give each a rule and a stream of its own",
            ));
        }
        faults
    }

    fn loop_fault(&self, output: &Output) -> Option<String> {
        let common = fed(&self.input, output)?;
        let is = if output.destinations() == self.input.destinations() {
            "is the rule's own input".to_owned()
        } else {
            format!("has {common} in common with the rule's own input")
        };
        Some(format!("{is}, so that it sends in a circle: change its group, port or interface"))
    }

    fn join_fault(&self) -> Option<String> {
        let group = self.input.group;
        let is_joined = self.join && group.first().is_multicast();
        (is_joined && group.host_bits() > JOINED_BITS).then(|| {
            format!(
                "{group} has {} groups, and a rule joins at most {}: give a longer prefix, or set join = false (--no-join) and have \
                 something else make them arrive, such as static groups of the switch or router",
                power_of_two(group.host_bits()),
                power_of_two(JOINED_BITS)
            )
        })
    }

    fn family_fault(&self, output: &Output) -> Option<String> {
        let (input, to) = (self.input.group, output.group);
        let differ = output.source == SourceAddress::Preserve && input.is_ipv4() != to.is_ipv4();
        differ.then(|| {
            format!(
                "cannot be \"preserve\": what comes to {input} has a source of another family than {to}: give both as \
                 IPv4 or both as IPv6, or leave the key out"
            )
        })
    }
}

/// Groups map one to one where there are as many, or all of them to one.
fn group_size_fault(input: GroupRange, output: GroupRange) -> Option<String> {
    (!output.is_single() && output.host_bits() != input.host_bits()).then(|| {
        let (has, wants) = (power_of_two(output.host_bits()), power_of_two(input.host_bits()));
        format!(
            "{output} has {has} addresses, and the input's {input} {wants}: give as many, which are mapped one to one, or a single \
             address for all"
        )
    })
}

/// Ports likewise.
fn port_size_fault(input: PortRange, output: PortRange) -> Option<String> {
    (!output.is_single() && output.count() != input.count()).then(|| {
        let (has, wants) = (output.count(), input.count());
        format!(
            "{output} has {has} ports, and the input's {input} {wants}: give as many, which are mapped one to one, or a single port \
             for all"
        )
    })
}

fn power_of_two(bits: u8) -> String {
    1_u64.checked_shl(bits.into()).map_or_else(|| format!("2^{bits}"), |count| count.to_string())
}

/// What is wrong with the known parts of an input or output, each by itself; `prefix` leads to their keys.
pub fn endpoint_faults(
    prefix: &str,
    interface: Option<&str>,
    group: Option<GroupRange>,
    source: Option<IpAddr>,
) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut fault = |key: &str, message: Option<String>| {
        faults.extend(message.map(|message| Fault::new(format!("{prefix}{key}"), message)));
    };
    fault("interface", interface.and_then(interface_fault));
    fault("group", group.and_then(|group| group_fault(group).or_else(|| loopback_fault(group, interface?))));
    fault("source", source.and_then(|source| source_fault(source, group)));
    faults
}

fn repeats(twin: usize) -> String {
    format!("repeats outputs[{twin}], every datagram would leave twice: remove one of them")
}

/// What is wrong between rules, as the index of the later rule and its fault.
pub fn faults_between(rules: &[Rule]) -> Vec<(usize, Fault)> {
    let mut faults = Vec::new();
    let mut inputs = Takers::default();
    let mut names = HashMap::new();
    for (i, rule) in rules.iter().enumerate() {
        let first = inputs.overlapping(&rule.input).next().and_then(|first: usize| rules.get(first));
        inputs.insert(&rule.input, i);
        if let Some(first) = first {
            faults.push((i, Fault::new("input", overlap(first, rule))));
        } else if names.insert(&rule.name, i).is_some() {
            let message = format!("\"{}\" is the name of an earlier rule: choose another", rule.name);
            faults.push((i, Fault::new("name", message)));
        }
    }
    faults.extend(leg_faults(rules).into_iter().map(|(i, message)| (i, Fault::new("dedupe", message))));
    // A circle of one is a fault of that rule by itself.
    for circle in circles_among(rules).iter().filter(|circle| circle.len() > 1) {
        let members: Vec<_> = circle.iter().filter_map(|i| rules.get(*i)).collect();
        let last = circle.iter().copied().max().unwrap_or_default();
        faults.push((last, Fault::new("outputs", describe(&members))));
    }
    faults
}

/// What to say of two rules whose inputs overlap, neither of which goes before the other.
pub fn overlap(first: &Rule, second: &Rule) -> String {
    let names = format!("rules \"{}\" and \"{}\"", first.name, second.name);
    if first.input == second.input {
        return format!("{names} have the same input {}: merge their outputs into one rule", first.input);
    }
    let common = first.input.destinations().intersection(second.input.destinations());
    let common = common.unwrap_or_else(|| second.input.destinations());
    format!(
        "{names} overlap: both take {common} on {}, and neither goes before the other: take the ports out of one of them, or have \
         one of them name its source or a longer prefix, which goes first",
        second.input.interface
    )
}

fn interface_fault(name: &str) -> Option<String> {
    // What the kernel refuses (dev_valid_name, net/core/dev.c).
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let bad = matches!(name, "" | "." | "..") || name.len() > INTERFACE_NAME_MAX || name.contains(forbidden);
    bad.then(|| {
        format!("\"{name}\" cannot be an interface: names have 1 to {INTERFACE_NAME_MAX} bytes, without space, `:` and `/`")
    })
}

fn group_fault(group: GroupRange) -> Option<String> {
    if group.first().is_unspecified() {
        return Some(format!("{group} is no destination: give a group or a host's address"));
    }
    let groups = group.groups();
    if !group.is_multicast() && groups.intersects(group) {
        return Some(format!(
            "{group} has groups and addresses of hosts: give {groups}, or a part of it, for groups"
        ));
    }
    match group.first() {
        // Scope 1, "interface-local" (RFC 4291 section 2.7).
        IpAddr::V6(v6) if v6.is_multicast() && group.prefix() >= 16 && v6.octets()[1] & 0x0f == 1 => {
            Some(format!("{group} never leaves a host: give a group of a wider scope, such as ff15::1"))
        }
        _ => mapped_fault(group),
    }
}

fn loopback_fault(group: GroupRange, interface: &str) -> Option<String> {
    (interface != "lo" && GroupRange::LOOPBACK.iter().any(|loopback| loopback.intersects(group)))
        .then(|| format!("{group} never leaves a host: give another address, or the interface lo"))
}

fn source_fault(source: IpAddr, group: Option<GroupRange>) -> Option<String> {
    if let Some(fault) = mapped_fault(source.into()) {
        return Some(fault);
    }
    if let Some(group) = group.filter(|group| group.is_ipv4() != source.is_ipv4()) {
        return Some(format!(
            "{source} and {group} are not of one family: give both as IPv4 or both as IPv6"
        ));
    }
    (source.is_multicast() || source.is_unspecified())
        .then(|| format!("{source} cannot be a source: give the sending host's unicast address"))
}

/// An IPv4 address in IPv6 notation: no packet on the wire carries it.
fn mapped_fault(group: GroupRange) -> Option<String> {
    let IpAddr::V6(first) = group.first() else { return None };
    let v4 = first.to_ipv4_mapped().filter(|_| group.prefix() >= 96)?;
    let v4 = GroupRange::new(v4.into(), group.prefix() - 96).ok()?;
    Some(format!("{group} is an IPv4 address: write {v4}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(spec: &str) -> Rule {
        spec.parse().unwrap()
    }

    fn keys(rule: &Rule) -> Vec<String> {
        rule.faults().into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn a_sound_rule_has_no_fault() {
        assert_eq!(rule("eth0:239.1.1.1:5000=239.1.1.1:5000:eth1,10.0.0.1:5000:eth0").faults(), []);
    }

    #[test]
    fn a_loop_and_a_repetition_are_faults() {
        assert_eq!(keys(&rule("eth0:239.1.1.1:5000=239.1.1.1:5000:eth0")), ["outputs[0]"]);
        assert_eq!(keys(&rule("eth0:239.1.1.1:5000=239.2.2.2:1:eth1,239.2.2.2:1:eth1")), ["outputs[1]"]);
    }

    #[test]
    fn a_source_of_another_family_cannot_be_kept() {
        let mut rule = rule("eth0:239.1.1.1:5000=239.2.2.2:1:eth1,[ff15::1]:1:eth1");
        assert_eq!(rule.faults(), []);
        rule.outputs[0].source = SourceAddress::Preserve;
        assert_eq!(rule.faults(), []);
        rule.outputs[1].source = SourceAddress::Preserve;
        assert_eq!(keys(&rule), ["outputs[1].source"]);
        let message = &rule.faults()[0].message;
        assert!(message.contains("239.1.1.1") && message.contains("ff15::1"), "{message}");
    }

    #[test]
    fn nonsense_addresses_and_names_are_faults() {
        assert_eq!(keys(&rule("eth0:0.0.0.0:5000=239.2.2.2:1:eth1")), ["input.group"]);
        assert_eq!(keys(&rule("eth0:239.1.1.1:1=239.2.2.2:1:0123456789abcdef")), ["outputs[0].interface"]);
        assert_eq!(keys(&rule("eth0:239.1.1.1:1=127.0.0.1:1:eth1,[::1]:1:lo")), ["outputs[0].group"]);
        assert_eq!(keys(&rule("..:239.1.1.1:1=239.2.2.2:1:eth0")), ["input.interface"]);
        assert_eq!(
            keys(&rule("eth0:[::ffff:239.1.1.1]:1=[ff01::1]:1:eth1")),
            ["input.group", "outputs[0].group"]
        );
        let mut sourced = rule("eth0:239.1.1.1:1=239.2.2.2:1:eth1");
        for source in ["fd00::1", "239.1.1.1", "0.0.0.0", "::ffff:10.0.0.1"] {
            sourced.input.source = Some(source.parse().unwrap());
            assert_eq!(keys(&sourced), ["input.source"], "{source}");
        }
        sourced.input.source = Some("10.0.0.9".parse().unwrap());
        sourced.outputs.clear();
        sourced.name.clear();
        assert_eq!(keys(&sourced), ["name", "outputs"]);
    }

    /// The faults of a rule, as key and message.
    fn faults(spec: &str) -> Vec<String> {
        rule(spec).faults().into_iter().map(|fault| format!("{} {}", fault.key, fault.message)).collect()
    }

    #[test]
    fn ranges_map_one_to_one_or_all_to_one() {
        for spec in [
            "eth0:239.1.0.0/20:5000-5009=239.2.0.0/20:6000-6009:eth1",
            "eth0:239.1.0.0/20:5000-5009=239.2.2.2:6000-6009:eth1,239.2.0.0/20:6000:eth1,10.0.0.1:6000:eth1",
            "eth0:239.1.0.0/24:5000=[ff15::2:0/120]:6000:eth1",
            "eth0:10.0.0.0/8:5000-5009=239.2.2.2:6000:eth1",
            "eth0:[ff15::1:0/116]:5000=[ff15::2:0/116]:6000:eth1",
            "lo:127.0.0.0/8:5000=239.2.2.2:6000:eth1",
        ] {
            assert_eq!(faults(spec), [""; 0], "{spec}");
        }
        for (spec, expected) in [
            (
                "eth0:239.1.0.0/20:5000=239.2.0.0/24:6000:eth1",
                "outputs[0].group 239.2.0.0/24 has 256 addresses, and the input's 239.1.0.0/20 4096: give as many",
            ),
            (
                "eth0:239.1.1.1:5000=239.2.0.0/24:6000:eth1",
                "outputs[0].group 239.2.0.0/24 has 256 addresses, and the input's 239.1.1.1 1",
            ),
            (
                "eth0:239.1.1.1:5000-5009=239.2.2.2:6000-6008:eth1",
                "outputs[0].port 6000-6008 has 9 ports, and the input's 5000-5009 10: give as many",
            ),
            ("eth0:239.1.1.1:5000=239.2.2.2:6000-6001:eth1", "outputs[0].port 6000-6001 has 2 ports"),
            ("eth0:[ff15::/64]:1=239.2.0.0/16:1:eth1", "input.group ff15::/64 has 2^64 groups"),
            (
                "eth0:239.1.0.0/19:1=239.2.2.2:1:eth1",
                "input.group 239.1.0.0/19 has 8192 groups, and a rule joins at most 4096: give a longer prefix, or set join = false",
            ),
            (
                "eth0:192.0.0.0/2:1=239.2.2.2:1:eth1",
                "input.group 192.0.0.0/2 has groups and addresses of hosts",
            ),
            ("eth0:[fe00::/7]:1=239.2.2.2:1:eth1", "input.group fe00::/7 has groups and addresses of hosts"),
            ("eth0:239.1.1.0/24:1=127.0.0.0/24:1:eth1", "outputs[0].group 127.0.0.0/24 never leaves a host"),
            ("eth0:64.0.0.0/2:1=239.1.1.1:1:eth1", "input.group 64.0.0.0/2 never leaves a host"),
            ("eth0:[::ffff:239.1.0.0/112]:1=239.1.1.1:1:eth1", "is an IPv4 address: write 239.1.0.0/16"),
            ("eth0:0.0.0.0/0:1=239.1.1.1:1:eth1", "input.group 0.0.0.0/0 is no destination"),
        ] {
            let faults = faults(spec);
            assert!(faults.iter().any(|fault| fault.contains(expected)), "{spec}: {faults:?}");
        }
        let apart = Rule { join: false, ..rule("eth0:239.0.0.0/8:1=239.2.2.2:1:eth1") };
        assert_eq!(apart.faults(), [], "it does not join");
    }

    #[test]
    fn a_range_that_meets_its_own_input_is_a_loop() {
        let looped = "so that it sends in a circle: change its group, port or interface";
        for (spec, expected) in [
            ("eth0:239.1.0.0/24:5000=239.1.0.0/24:5000:eth0", "is the rule's own input, "),
            (
                "eth0:239.1.1.1:5000-5009=239.1.1.1:5005-5014:eth0",
                "has 239.1.1.1:5005-5009 in common with the rule's own input, ",
            ),
            (
                "eth0:239.1.0.0/24:5000-5009=239.1.0.7:5003:eth0",
                "has 239.1.0.7:5003 in common with the rule's own input, ",
            ),
        ] {
            assert_eq!(faults(spec), [format!("outputs[0] {expected}{looped}")]);
        }
        for spec in [
            "eth0:239.1.1.1:5000-5009=239.1.1.1:5005-5014:eth1",
            "eth0:239.1.1.1:5000-5009=239.1.1.1:5010-5019:eth0",
            "eth0:239.1.0.0/24:5000-5009=239.1.1.0/24:5000-5009:eth0",
        ] {
            assert_eq!(faults(spec), [""; 0], "{spec}");
        }
    }

    #[test]
    fn rules_that_overlap_are_named_both_and_nested_ones_are_none() {
        let between = |first: &str, second: &str| {
            let rules =
                [rule(&format!("{first}=239.9.9.9:1:eth9")), rule(&format!("{second}=239.9.9.9:1:eth9"))];
            faults_between(&rules)
                .into_iter()
                .map(|(i, fault)| (i, fault.key, fault.message))
                .collect::<Vec<_>>()
        };
        let found = between("eth0:239.1.0.0/16:5000-5009", "eth0:239.1.0.0/16:5005-5020");
        assert_eq!((found.len(), found[0].0, found[0].1.as_str()), (1, 1, "input"));
        let expected = "rules \"eth0:239.1.0.0/16:5000-5009\" and \"eth0:239.1.0.0/16:5005-5020\" overlap: both take \
                        239.1.0.0/16:5005-5009 on eth0, and neither goes before the other";
        assert!(found[0].2.starts_with(expected), "{found:?}");
        assert_eq!(between("eth0:239.1.0.0/16:5000-5009", "eth0:239.1.1.0/24:5000-5009"), []);
        assert_eq!(between("eth0:239.1.0.0/16:5000-5009", "eth0:239.1.0.0/16:5010"), []);
    }

    #[test]
    fn in_a_vlan_the_host_cannot_join() {
        let mut rule = rule("eth0:239.1.1.1:5000=239.1.1.1:5000:eth1");
        rule.input.vlan = "5".parse().ok();
        let faults = rule.faults();
        assert_eq!(keys(&rule), ["join"]);
        assert!(faults[0].message.contains("such as eth0.5, or leave join out"), "{faults:?}");
        (rule.join, rule.name) = (false, rule.input.to_string());
        let untagged = self::rule("eth0:239.1.1.1:5000=239.1.1.1:5000:eth1");
        assert_eq!((rule.faults(), faults_between(&[rule, untagged])), (vec![], vec![]));
    }

    #[test]
    fn two_rules_with_one_input_are_named_both() {
        let mut rules =
            vec![rule("eth0:239.1.1.1:1=239.2.2.2:1:eth1"), rule("eth0:239.1.1.1:1=239.2.2.3:1:eth1")];
        rules[1].name = "other".into();
        let faults = faults_between(&rules);
        assert_eq!(faults.len(), 1);
        assert!(faults[0].1.message.contains("\"eth0:239.1.1.1:1\" and \"other\""), "{faults:?}");
        rules[1].input.source = Some("10.0.0.9".parse().unwrap());
        assert_eq!(faults_between(&rules), [], "a rule with a source beside one without");
        rules[1].name = rules[0].name.clone();
        assert_eq!(faults_between(&rules)[0].1.key, "name");
    }
}
