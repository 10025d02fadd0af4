//! The rules that a command line means.

use std::io::{self, Read};
use std::net::IpAddr;
use std::path::Path;

use crate::cli::client::{Add, Remove};
use crate::config::{Config, ConfigError};
use crate::control::{InputSpec, OutputSpec, RuleSpec, RuleStatus, Selector};
use crate::rules::{Fault, GroupRange, PortRange, Rule, faults_between};
use crate::wire::VlanId;

use super::ClientError;

/// From which likeness on (Jaro-Winkler) a name may be meant by another.
const LIKENESS: f64 = 0.8;
/// An input to read outputs with, which are only read as part of a rule.
const ANY_INPUT: &str = "any:239.0.0.1:1";

/// All rules of an `add`: those of the file, those of `--rule`, the one of the other flags.
pub(super) fn to_add(arguments: &Add) -> Result<Vec<RuleSpec>, ClientError> {
    let mut rules = arguments.file.as_deref().map_or_else(|| Ok(Vec::new()), read_file)?;
    for spec in &arguments.rules {
        let mut rule: Rule = spec.parse().map_err(|error| usage(format!("--rule \"{spec}\": {error}")))?;
        rule.join = !arguments.no_join;
        if let Some(Fault { key, message }) = rule.faults().into_iter().next() {
            return Err(usage(format!("--rule \"{spec}\": {key} {message}")));
        }
        rules.push(rule);
    }
    if let Some(spec) = of_flags(arguments)? {
        rules.push(Rule::try_from(spec).map_err(|error| usage(error.to_string()))?);
    }
    if let Some(name) = &arguments.name {
        // The rule of the other flags, which is the last one, or the only one of --rule.
        let named = if arguments.input_interface.is_some() { rules.last_mut() } else { only(&mut rules) };
        let message = || usage(format!("--name \"{name}\" is for one rule: give it with one --rule"));
        named.ok_or_else(message)?.name.clone_from(name);
    }
    if let Some((_, fault)) = faults_between(&rules).into_iter().next() {
        return Err(usage(fault.message));
    }
    Ok(rules.iter().map(RuleSpec::from).collect())
}

fn only(rules: &mut [Rule]) -> Option<&mut Rule> {
    if let [rule] = rules { Some(rule) } else { None }
}

/// The rules that a `remove` means.
pub(super) fn to_remove(arguments: &Remove) -> Vec<Selector> {
    let Remove { input_interface, input_group, input_port, input_source, input_vlan, .. } = arguments;
    let input = input(input_interface.as_ref(), *input_group, *input_port, *input_source, *input_vlan);
    let names = arguments.names.iter().cloned().map(Selector::Name);
    names.chain(input.map(Selector::Input)).collect()
}

/// `; did you mean …?` for every name among `selectors` that is not one of `present` but like one.
pub(super) fn likely(selectors: &[Selector], present: &[RuleStatus]) -> String {
    let names: Vec<_> = present.iter().map(|status| status.rule.name()).collect();
    if names.is_empty() {
        return String::new();
    }
    let mut hints = Vec::new();
    for selector in selectors {
        let Selector::Name(wanted) = selector else { continue };
        if names.contains(wanted) {
            continue;
        }
        let mut near: Vec<_> = names.iter().map(|name| (strsim::jaro_winkler(name, wanted), name)).collect();
        near.retain(|(likeness, _)| *likeness > LIKENESS);
        near.sort_by(|a, b| b.0.total_cmp(&a.0));
        let near: Vec<_> = near.iter().take(3).map(|(_, name)| format!("{name:?}")).collect();
        if !near.is_empty() {
            hints.push(format!("; did you mean {} by {wanted:?}?", near.join(" or ")));
        }
    }
    match hints.as_slice() {
        [] => "; `multicast_relay list` shows what there is".to_owned(),
        hints => hints.concat(),
    }
}

fn of_flags(arguments: &Add) -> Result<Option<RuleSpec>, ClientError> {
    let Add { input_interface, input_group, input_port, input_source, input_vlan, .. } = arguments;
    let input = input(input_interface.as_ref(), *input_group, *input_port, *input_source, *input_vlan);
    let Some(input) = input else { return Ok(None) };
    let outputs = arguments.outputs.as_deref().unwrap_or_default();
    let parsed: Rule = format!("{ANY_INPUT}={outputs}")
        .parse()
        .map_err(|error| usage(format!("--outputs \"{outputs}\": {error}")))?;
    let outputs = parsed.outputs.iter().map(OutputSpec::from).collect();
    Ok(Some(RuleSpec { name: None, input, outputs, join: arguments.no_join.then_some(false), dedupe: None }))
}

fn input(
    interface: Option<&String>,
    group: Option<GroupRange>,
    port: Option<PortRange>,
    source: Option<IpAddr>,
    vlan: Option<VlanId>,
) -> Option<InputSpec> {
    Some(InputSpec { interface: interface?.clone(), group: group?, port: port?, source, vlan })
}

fn read_file(path: &Path) -> Result<Vec<Rule>, ClientError> {
    if path != Path::new("-") {
        return Ok(Config::load_file(path)?.rules);
    }
    let mut text = String::new();
    let path = || Path::new("standard input").to_owned();
    io::stdin().read_to_string(&mut text).map_err(|error| ConfigError::Read { path: path(), error })?;
    let config = Config::parse(&text).map_err(|mistakes| ConfigError::File { path: path(), mistakes })?;
    if config.rules.is_empty() { Err(usage("standard input: no rule to add")) } else { Ok(config.rules) }
}

fn usage(message: impl Into<String>) -> ClientError {
    ClientError::Usage(message.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::State;

    fn present(name: &str) -> RuleStatus {
        let rule: Rule = "eth0:239.1.1.1:1=239.2.2.2:1:eth1".parse().unwrap();
        let rule = RuleSpec { name: Some(name.to_owned()), ..RuleSpec::from(&rule) };
        RuleStatus { rule, state: State::Relaying, reasons: Vec::new(), outputs: Vec::new() }
    }

    #[test]
    fn names_that_are_like_an_unknown_one_are_told() {
        let present: Vec<_> = ["video-1", "video-2", "audio"].map(present).into();
        let likely = |names: &[&str]| {
            let selectors: Vec<_> = names.iter().map(|name| Selector::Name((*name).to_owned())).collect();
            super::likely(&selectors, &present)
        };
        assert_eq!(
            likely(&["vidoe-2", "audio"]),
            "; did you mean \"video-2\" or \"video-1\" by \"vidoe-2\"?"
        );
        assert_eq!(likely(&["xyz"]), "; `multicast_relay list` shows what there is");
        assert_eq!(super::likely(&[Selector::Name("x".to_owned())], &[]), "");
    }
}
