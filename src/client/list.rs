//! Rules as people and configuration files have them.

use std::fmt::Write;

use comfy_table::Table;

use super::table::{printable, table};
use crate::control::{OutputSpec, RuleSpec, RuleStatus, State};
use crate::rules::{Dedupe, Dscp, NumberOrWord, SourceAddress, TimeToLive};

/// The `[[rule]]`s of a configuration file that says the same as `rules`.
pub fn to_toml(rules: &[RuleSpec]) -> String {
    let mut text = String::new();
    for (i, rule) in rules.iter().enumerate() {
        if i > 0 {
            text.push('\n');
        }
        // Writing to a text cannot fail.
        let _ = write_rule(&mut text, rule);
    }
    text
}

fn write_rule(
    text: &mut String,
    RuleSpec { name, input, outputs, join, dedupe }: &RuleSpec,
) -> std::fmt::Result {
    writeln!(text, "[[rule]]")?;
    if let Some(name) = name.as_ref().filter(|name| **name != input.to_string()) {
        writeln!(text, "name = {}", quoted(name))?;
    }
    let interface = quoted(&input.interface);
    if *join == Some(false) {
        writeln!(text, "join = false")?;
    }
    let port = NumberOrWord::from(input.port);
    write!(text, "input = {{ interface = {interface}, group = \"{}\", port = {port}", input.group)?;
    if let Some(source) = input.source {
        write!(text, ", source = \"{source}\"")?;
    }
    if let Some(vlan) = input.vlan {
        write!(text, ", vlan = {vlan}")?;
    }
    writeln!(text, " }}")?;
    if let Some(Dedupe { stream, key, window_ms }) = dedupe {
        let stream = quoted(stream);
        writeln!(text, "dedupe = {{ stream = {stream}, key = \"{key}\", window-ms = {window_ms} }}")?;
    }
    writeln!(text, "outputs = [")?;
    for output in outputs {
        let (interface, port) = (quoted(&output.interface), NumberOrWord::from(output.port));
        write!(text, "  {{ group = \"{}\", port = {port}, interface = {interface}", output.group)?;
        for (key, value) in settings(output) {
            write!(text, ", {key} = {value}")?;
        }
        writeln!(text, " }},")?;
    }
    writeln!(text, "]")
}

/// A text in quotes, on one line whatever it holds.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Rules, outputs and what becomes of them, a row for each output.
pub(super) fn rules(rules: &[RuleStatus]) -> Table {
    let mut table = table(&["rule", "input", "output", "state", "why"], &[]);
    for status in rules {
        let rule = &status.rule;
        for (i, output) in rule.outputs.iter().enumerate() {
            let of_output = status.outputs.get(i);
            let state = of_output.map_or(status.state, |of_output| both(status.state, of_output.state));
            let reasons = status.reasons.iter().chain(of_output.iter().flat_map(|output| &output.reasons));
            let reasons: Vec<_> = reasons.map(String::as_str).collect();
            table.add_row([
                printable(&rule.name()),
                with_options(rule),
                with_settings(output),
                name(state).to_owned(),
                printable(&reasons.join("; ")),
            ]);
        }
    }
    table
}

/// A rule's input, and what becomes of it beside being relayed.
fn with_options(RuleSpec { input, join, dedupe, .. }: &RuleSpec) -> String {
    let join = (*join == Some(false)).then(|| " join false".to_owned());
    let leg = dedupe.as_ref().map(|dedupe| format!(" leg of {}", printable(&dedupe.stream)));
    std::iter::once(input.to_string()).chain(join).chain(leg).collect()
}

fn with_settings(output: &OutputSpec) -> String {
    let settings =
        settings(output).into_iter().map(|(key, value)| format!(" {key} {value}").replace('"', ""));
    std::iter::once(output.to_string()).chain(settings).collect()
}

/// What an output says beside where copies go, by the keys of a configuration file.
fn settings(OutputSpec { ttl, dscp, fragment, source, .. }: &OutputSpec) -> Vec<(&'static str, String)> {
    let ttl = ttl.filter(|ttl| *ttl != TimeToLive::DEFAULT).map(|ttl| ("ttl", ttl.to_string()));
    let dscp = dscp.filter(|dscp| *dscp != Dscp::DEFAULT).map(|dscp| ("dscp", dscp.to_string()));
    let fragment = fragment.filter(|fragment| !fragment).map(|fragment| ("fragment", fragment.to_string()));
    let source = source.filter(|source| *source != SourceAddress::Relay);
    let source = source.map(|source| ("source", source.to_string()));
    [ttl, dscp, fragment, source].into_iter().flatten().collect()
}

/// A copy leaves only if its input is received and its output can send.
fn both(input: State, output: State) -> State {
    if input == State::Relaying { output } else { input }
}

fn name(state: State) -> &'static str {
    match state {
        State::Relaying => "relaying",
        State::Waiting => "waiting",
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::num::NonZeroU16;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::control::{InputSpec, OutputStatus};
    use crate::rules::{DedupeKey, GroupRange, PortRange, Rule, faults_between};
    use crate::wire::VlanId;

    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<String>(),
            r#"["'\\\n\r\t\u{0}\u{7f}#=\[\]{},. a]{1,12}"#,
            Just("'''\"\"\"\\u0041\r\n".to_owned()),
        ]
    }

    fn interface() -> impl Strategy<Value = String> {
        prop_oneof![
            r#"[a-z][a-z0-9.@"'\\=,{}\[\]#-]{0,14}"#,
            any::<String>().prop_map(|text| text.chars().take(3).collect()),
        ]
    }

    prop_compose! {
        fn output()(
            group: IpAddr,
            port: NonZeroU16,
            interface in interface(),
            ttl in prop::option::of(ttl()),
            dscp in prop::option::of(prop_oneof![(0..64_u8).prop_map(Dscp::Fixed), Just(Dscp::Keep)]),
            fragment: Option<bool>,
            source in prop::option::of(prop::sample::select(SourceAddress::WORDS.map(|(_, source)| source).to_vec())),
        ) -> OutputSpec {
            OutputSpec { group: group.into(), port: port.into(), interface, ttl, dscp, fragment, source }
        }
    }

    /// As many groups and ports as the size says, of which those of `group` and `port` are some.
    fn range(group: GroupRange, port: PortRange, (bits, more): (u8, u16)) -> (GroupRange, PortRange) {
        let first = port.first().min(u16::MAX - more);
        let port = format!("{first}-{}", first + more).parse().unwrap();
        (group.widened(group.prefix().saturating_sub(bits)), port)
    }

    fn ttl() -> impl Strategy<Value = TimeToLive> {
        prop_oneof![
            (1..=255_u8).prop_map(TimeToLive::Fixed),
            Just(TimeToLive::Keep),
            Just(TimeToLive::Decrement)
        ]
    }

    prop_compose! {
        fn dedupe()(
            stream in name(),
            key in prop_oneof![Just(DedupeKey::Rtp), Just(DedupeKey::Content)],
            window_ms in 1..=4_000_u16,
        ) -> Dedupe {
            Dedupe { stream, key, window_ms }
        }
    }

    prop_compose! {
        fn rule()(
            name in prop::option::of(name()),
            interface in interface(),
            group: IpAddr,
            port: NonZeroU16,
            source: Option<IpAddr>,
            vlan in prop::option::of((1..=4_094_u16).prop_map(|number| VlanId::try_from(number).unwrap())),
            outputs in prop::collection::vec((output(), any::<bool>()), 1..4),
            join: Option<bool>,
            dedupe in prop::option::of(dedupe()),
            size in prop_oneof![Just((0, 0)), (0..14_u8, 0..20_u16)],
        ) -> RuleSpec {
            let (group, port) = range(group.into(), port.into(), size);
            let outputs = outputs.into_iter().map(|(mut output, is_range)| {
                if is_range {
                    (output.group, output.port) = range(output.group, output.port, size);
                }
                output
            });
            let input = InputSpec { interface, group, port, source, vlan };
            RuleSpec { name, input, outputs: outputs.collect(), join, dedupe }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn what_is_listed_as_toml_is_read_back_as_it_was(specs in prop::collection::vec(rule(), 1..5)) {
            let valid = |spec: &RuleSpec| Rule::try_from(spec.clone()).ok();
            let mut rules: Vec<Rule> = specs.iter().filter_map(valid).collect();
            rules.sort_by(|a, b| a.name.cmp(&b.name));
            rules.dedup_by(|a, b| a.name == b.name || a.input == b.input);
            prop_assume!(faults_between(&rules).is_empty());
            let specs: Vec<_> = rules.iter().map(RuleSpec::from).collect();
            let text = to_toml(&specs);
            prop_assert_eq!(Config::parse(&text).map(|config| config.rules), Ok(rules), "{}", text);
        }
    }

    #[test]
    fn a_rule_is_listed_as_one_would_write_it() {
        let mut rule: Rule = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1,[ff15::2]:7000:wg0".parse().unwrap();
        rule.outputs[1].ttl = TimeToLive::Fixed(8);
        let mut named = rule.clone();
        named.name = "line\n\"two\"".to_owned();
        named.input.source = Some("10.0.0.9".parse().unwrap());
        named.outputs.truncate(1);
        let text = to_toml(&[RuleSpec::from(&rule), RuleSpec::from(&named)]);
        let expected = r#"[[rule]]
input = { interface = "eth0", group = "239.1.1.1", port = 5000 }
outputs = [
  { group = "239.2.2.2", port = 6000, interface = "eth1" },
  { group = "ff15::2", port = 7000, interface = "wg0", ttl = 8 },
]

[[rule]]
name = "line\u000A\"two\""
input = { interface = "eth0", group = "239.1.1.1", port = 5000, source = "10.0.0.9" }
outputs = [
  { group = "239.2.2.2", port = 6000, interface = "eth1" },
]
"#;
        assert_eq!(text, expected);
        assert_eq!(Config::parse(&text).unwrap().rules, [rule, named]);
    }

    #[test]
    fn an_output_of_a_rule_that_waits_waits_too() {
        let rule: Rule = "eth0:239.1.1.1:1=239.2.2.2:1:eth1,10.0.0.1:2:eth2".parse().unwrap();
        let relaying = OutputStatus { state: State::Relaying, reasons: Vec::new() };
        let reasons = vec!["output eth2: no such interface".to_owned()];
        let mut status = RuleStatus {
            rule: RuleSpec { name: Some("evil\u{1b}[2J".to_owned()), ..RuleSpec::from(&rule) },
            state: State::Relaying,
            reasons: Vec::new(),
            outputs: vec![relaying, OutputStatus { state: State::Waiting, reasons }],
        };
        let rows = |status: &RuleStatus| {
            let text = rules(std::slice::from_ref(status)).to_string();
            text.lines()
                .skip(1)
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            rows(&status),
            [
                "evil\\u{1b}[2J eth0:239.1.1.1:1 239.2.2.2:1:eth1 relaying",
                "evil\\u{1b}[2J eth0:239.1.1.1:1 10.0.0.1:2:eth2 waiting output eth2: no such interface",
            ]
        );
        status.state = State::Waiting;
        status.reasons.push("input eth0: down".to_owned());
        assert!(rows(&status)[0].ends_with("waiting input eth0: down"));
    }
}
