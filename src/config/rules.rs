//! The rules of a file.

use std::collections::HashMap;
use std::net::IpAddr;

use super::document::{Section, integer};
use crate::rules::{
    Dedupe, DedupeKey, Destinations, Dscp, Fault, GroupRange, Input, NumberOrWord, Output, PortRange,
    RangeError, Rule, SourceAddress, TimeToLive, endpoint_faults, faults_between,
};
use crate::wire::VlanId;

/// The rules that can be read; whatever is wrong with any of them is a mistake of its section.
pub(super) fn read_rules(sections: &[Section<'_>]) -> Vec<Rule> {
    let mut rules = Vec::with_capacity(sections.len());
    let mut origins = HashMap::with_capacity(sections.len());
    for section in sections {
        let Some(rule) = read_rule(section) else { continue };
        report(section, rule.faults_across());
        origins.insert(rules.len(), section);
        rules.push(rule);
    }
    for (i, fault) in faults_between(&rules) {
        if let Some(section) = origins.get(&i) {
            report(section, [fault]);
        }
    }
    rules
}

fn report(section: &Section<'_>, faults: impl IntoIterator<Item = Fault>) {
    for fault in faults {
        section.mistake(&fault.key, fault.message);
    }
}

fn read_rule(section: &Section<'_>) -> Option<Rule> {
    section.require("input", "input = { interface = \"eth0\", group = \"239.1.1.1\", port = 5000 }");
    section.require("outputs", "outputs = [{ group = \"239.2.2.2\", port = 6000, interface = \"eth1\" }]");
    let name = section.string("name");
    let join = section.boolean("join");
    let dedupe = section.section("dedupe").map(|dedupe| read_dedupe(&dedupe));
    let input = section.section("input").and_then(|input| read_input(&input));
    // Every output is read, so that every mistake is found, before one that cannot be read spoils the rule.
    let outputs: Vec<_> = section.sections("outputs")?.iter().map(read_output).collect();
    let outputs = outputs.into_iter().collect::<Option<_>>()?;
    let input = input?;
    // One that cannot be read makes no rule without.
    let dedupe = if section.has("dedupe") { Some(dedupe??) } else { None };
    let name = name.map_or_else(|| input.to_string(), str::to_owned);
    let join = join.unwrap_or(input.joins());
    Some(Rule { name, input, outputs, join, dedupe })
}

fn read_input(section: &Section<'_>) -> Option<Input> {
    let interface = required_interface(section);
    let group = required_group(section);
    let port = required_port(section);
    let source = address(section, "source", "the sender's address, such as \"10.0.0.9\"");
    let vlan = section.value("vlan", VlanId::EXPECTED, |value| {
        u16::try_from(integer(value)?).ok().and_then(|number| number.try_into().ok())
    });
    report(section, endpoint_faults("", interface.as_deref(), group, source));
    if section.has("source") && source.is_none() || section.has("vlan") && vlan.is_none() {
        return None;
    }
    Some(Input { interface: interface?, group: group?, port: port?, source, vlan })
}

fn read_output(section: &Section<'_>) -> Option<Output> {
    let interface = required_interface(section);
    let group = required_group(section);
    let port = required_port(section);
    report(section, endpoint_faults("", interface.as_deref(), group, None));
    let ttl = number_or_word(section, "ttl", TimeToLive::EXPECTED);
    let dscp = number_or_word(section, "dscp", Dscp::EXPECTED);
    let fragment = section.boolean("fragment");
    let source = section.choice("source", &SourceAddress::WORDS);
    Some(Output {
        ttl: ttl.unwrap_or(TimeToLive::DEFAULT),
        dscp: dscp.unwrap_or(Dscp::DEFAULT),
        fragment: fragment.unwrap_or(true),
        source: source.unwrap_or_default(),
        ..Output::new(Destinations { group: group?, port: port? }, interface?)
    })
}

fn read_dedupe(section: &Section<'_>) -> Option<Dedupe> {
    section.require("stream", "a name that both legs of the stream have, such as \"studio\"");
    let stream = section.string("stream").map(str::to_owned);
    let key = section.choice("key", &DedupeKey::CHOICES).unwrap_or_default();
    let window = section.integer("window-ms", Dedupe::WINDOW_MS).map(|window| window as u16);
    Some(Dedupe { stream: stream?, key, window_ms: window.unwrap_or(Dedupe::DEFAULT_WINDOW_MS) })
}

fn number_or_word<T: TryFrom<NumberOrWord>>(section: &Section<'_>, key: &str, expected: &str) -> Option<T> {
    section.value(key, expected, |value| {
        let word = || Some(NumberOrWord::Word(value.as_str()?.to_owned()));
        T::try_from(integer(value).map(NumberOrWord::Number).or_else(word)?).ok()
    })
}

fn required_interface(section: &Section<'_>) -> Option<String> {
    section.require("interface", "the name of an interface, such as \"eth0\"");
    section.string("interface").map(str::to_owned)
}

fn required_group(section: &Section<'_>) -> Option<GroupRange> {
    section.require("group", GroupRange::EXPECTED);
    let range = section.parsed("group", GroupRange::EXPECTED, |text| match text.parse() {
        Err(RangeError::Address(_)) => None,
        range => Some(range),
    });
    possible(section, "group", range?)
}

fn required_port(section: &Section<'_>) -> Option<PortRange> {
    section.require("port", PortRange::EXPECTED);
    let range = section.value("port", PortRange::EXPECTED, |value| {
        let word = || Some(NumberOrWord::Word(value.as_str()?.to_owned()));
        match PortRange::try_from(integer(value).map(NumberOrWord::Number).or_else(word)?) {
            Err(RangeError::Port(_)) => None,
            range => Some(range),
        }
    });
    possible(section, "port", range?)
}

/// What can be read, unless it says what cannot be.
fn possible<T>(section: &Section<'_>, key: &str, read: Result<T, RangeError>) -> Option<T> {
    read.inspect_err(|error| section.mistake(key, error.to_string())).ok()
}

fn address(section: &Section<'_>, key: &str, expected: &str) -> Option<IpAddr> {
    section.parsed(key, expected, |text| text.parse().ok())
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    fn rule(vlan: &str, rest: &str) -> String {
        format!(
            "[[rule]]\ninput = {{ interface = 'eth0', group = '239.1.1.1', port = 5000{vlan} }}\n{rest}\
             outputs = [{{ group = '239.2.2.2', port = 6000, interface = 'eth1' }}]\n"
        )
    }

    fn mistake(vlan: &str, rest: &str) -> String {
        Config::parse(&rule(vlan, rest)).unwrap_err().to_string()
    }

    #[test]
    fn a_rule_for_a_vlan_is_one_of_its_own_and_does_not_join() {
        let all = [rule("", ""), rule(", vlan = 5", ""), rule(", vlan = 4094", "join = false\n")].concat();
        let rules = Config::parse(&all).unwrap().rules;
        let told: Vec<_> = rules.iter().map(|rule| (rule.name.as_str(), rule.join)).collect();
        assert_eq!(
            told,
            [
                ("eth0:239.1.1.1:5000", true),
                ("eth0:239.1.1.1:5000 vlan 5", false),
                ("eth0:239.1.1.1:5000 vlan 4094", false)
            ]
        );
        let joins = mistake(", vlan = 5", "join = true\n");
        assert!(joins.starts_with("line 3: rule[0].join: does not work with vlan"), "{joins}");
        for vlan in ["0", "4095", "65541", "-1", "'5'"] {
            let found = mistake(&format!(", vlan = {vlan}"), "");
            assert!(
                found.starts_with("line 2: rule[0].input.vlan: must be a whole number from 1 to 4094"),
                "{found}"
            );
        }
    }
}
