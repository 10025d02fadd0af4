//! What makes a rule, or a set of rules, nonsense.

use std::collections::HashMap;
use std::net::IpAddr;

use super::cycles::{circles_among, describe, is_fed};
use super::dedupe::{Dedupe, leg_faults};
use super::{Input, Output, Rule, SourceAddress};

/// Longest interface name: `IFNAMSIZ` (linux/if.h) less the terminating zero.
const INTERFACE_NAME_MAX: usize = 15;

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
        let mut seen = HashMap::new();
        for (i, output) in self.outputs.iter().enumerate() {
            let twin = seen.insert((output.group, output.port, &output.interface), i);
            if let Some(message) = twin.map(repeats).or_else(|| self.loop_fault(output)) {
                faults.push(Fault::new(format!("outputs[{i}]"), message));
            }
            if let Some(message) = self.family_fault(output) {
                faults.push(Fault::new(format!("outputs[{i}].source"), message));
            }
        }
        faults.extend(self.dedupe.iter().flat_map(Dedupe::faults));
        faults
    }

    fn loop_fault(&self, output: &Output) -> Option<String> {
        is_fed(&self.input, output).then(|| {
            "is the rule's own input, so that it sends in a circle: change its group, port or interface"
                .into()
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

/// What is wrong with the known parts of an input or output, each by itself; `prefix` leads to their keys.
pub fn endpoint_faults(
    prefix: &str,
    interface: Option<&str>,
    group: Option<IpAddr>,
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
    let mut inputs = HashMap::new();
    let mut names = HashMap::new();
    for (i, rule) in rules.iter().enumerate() {
        if let Some(first) = inputs.insert(&rule.input, rule) {
            let message = format!(
                "rules \"{}\" and \"{}\" have the same input {}: merge their outputs into one rule",
                first.name, rule.name, rule.input
            );
            faults.push((i, Fault::new("input", message)));
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

fn interface_fault(name: &str) -> Option<String> {
    // What the kernel refuses (dev_valid_name, net/core/dev.c).
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    let bad = matches!(name, "" | "." | "..") || name.len() > INTERFACE_NAME_MAX || name.contains(forbidden);
    bad.then(|| {
        format!("\"{name}\" cannot be an interface: names have 1 to {INTERFACE_NAME_MAX} bytes, without space, `:` and `/`")
    })
}

fn group_fault(group: IpAddr) -> Option<String> {
    if group.is_unspecified() {
        return Some(format!("{group} is no destination: give a group or a host's address"));
    }
    match group {
        // Scope 1, "interface-local" (RFC 4291 section 2.7).
        IpAddr::V6(v6) if v6.is_multicast() && v6.octets()[1] & 0x0f == 1 => {
            Some(format!("{group} never leaves a host: give a group of a wider scope, such as ff15::1"))
        }
        _ => mapped_fault(group),
    }
}

fn loopback_fault(group: IpAddr, interface: &str) -> Option<String> {
    (group.is_loopback() && interface != "lo")
        .then(|| format!("{group} never leaves a host: give another address, or the interface lo"))
}

fn source_fault(source: IpAddr, group: Option<IpAddr>) -> Option<String> {
    if let Some(fault) = mapped_fault(source) {
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
fn mapped_fault(address: IpAddr) -> Option<String> {
    let IpAddr::V6(v6) = address else { return None };
    v6.to_ipv4_mapped().map(|v4| format!("{address} is an IPv4 address: write {v4}"))
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
