//! A rule as it is told: what a `[[rule]]` of a configuration file says, not checked yet.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::rules::{
    Dedupe, Destinations, Dscp, Fault, GroupRange, Input, Output, PortRange, Rule, SourceAddress, TimeToLive,
};
use crate::wire::VlanId;

/// A rule as it is told; [`Rule::try_from`] checks it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RuleSpec {
    /// Its name; without one it is named after its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it takes.
    pub input: InputSpec,
    /// Where copies go; at least one.
    pub outputs: Vec<OutputSpec>,
    /// Whether the host becomes a member of the group; absent for yes, or for no where the input is in a VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join: Option<bool>,
    /// Of which stream it is a leg; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dedupe: Option<Dedupe>,
}

/// The datagrams that a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct InputSpec {
    /// Interface on which they arrive.
    pub interface: String,
    /// Destination address, or a prefix of several.
    pub group: GroupRange,
    /// UDP destination port, or a range.
    pub port: PortRange,
    /// Source address they must have; absent for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The VLAN whose tag they carry; absent for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanId>,
}

/// Where a rule sends a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OutputSpec {
    /// Destination address, or a prefix of several.
    pub group: GroupRange,
    /// UDP destination port, or a range.
    pub port: PortRange,
    /// Interface through which copies leave.
    pub interface: String,
    /// Time to live (hop limit) of the copies; absent for [`TimeToLive::DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<TimeToLive>,
    /// Their differentiated services code point; absent for [`Dscp::DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
    /// Whether those that are too large leave in fragments; absent for yes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment: Option<bool>,
    /// Their source address and port; absent for the relay's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceAddress>,
}

/// A rule that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {name:?}: {}", .faults.iter().map(shown).collect::<Vec<_>>().join("; "))]
pub struct InvalidRule {
    /// Its name.
    pub name: String,
    /// Everything that is wrong with it.
    pub faults: Vec<Fault>,
}

fn shown(fault: &Fault) -> String {
    format!("{} {}", fault.key, fault.message)
}

impl TryFrom<RuleSpec> for Rule {
    type Error = InvalidRule;

    fn try_from(spec: RuleSpec) -> Result<Self, InvalidRule> {
        let input = Input::from(spec.input);
        let name = spec.name.unwrap_or_else(|| input.to_string());
        let outputs = spec.outputs.into_iter().map(Output::from).collect();
        let join = spec.join.unwrap_or(input.joins());
        let rule = Self { name, input, outputs, join, dedupe: spec.dedupe };
        match rule.faults() {
            faults if faults.is_empty() => Ok(rule),
            faults => Err(InvalidRule { name: rule.name, faults }),
        }
    }
}

impl From<&Rule> for RuleSpec {
    fn from(rule: &Rule) -> Self {
        let outputs = rule.outputs.iter().map(OutputSpec::from).collect();
        let join = Some(rule.join).filter(|join| *join != rule.input.joins());
        Self {
            name: Some(rule.name.clone()),
            input: (&rule.input).into(),
            outputs,
            join,
            dedupe: rule.dedupe.clone(),
        }
    }
}

impl RuleSpec {
    /// Its name, or what it is named without one.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.input.to_string())
    }
}

impl From<InputSpec> for Input {
    fn from(InputSpec { interface, group, port, source, vlan }: InputSpec) -> Self {
        Self { interface, group, port, source, vlan }
    }
}

impl From<&Input> for InputSpec {
    fn from(Input { interface, group, port, source, vlan }: &Input) -> Self {
        Self { interface: interface.clone(), group: *group, port: *port, source: *source, vlan: *vlan }
    }
}

impl OutputSpec {
    /// One that says no more than where copies go.
    pub fn new(
        group: impl Into<GroupRange>,
        port: impl Into<PortRange>,
        interface: impl Into<String>,
    ) -> Self {
        let (group, port, interface) = (group.into(), port.into(), interface.into());
        Self { group, port, interface, ttl: None, dscp: None, fragment: None, source: None }
    }
}

impl From<OutputSpec> for Output {
    fn from(OutputSpec { group, port, interface, ttl, dscp, fragment, source }: OutputSpec) -> Self {
        Self {
            ttl: ttl.unwrap_or(TimeToLive::DEFAULT),
            dscp: dscp.unwrap_or(Dscp::DEFAULT),
            fragment: fragment.unwrap_or(true),
            source: source.unwrap_or_default(),
            ..Self::new(Destinations { group, port }, interface)
        }
    }
}

impl From<&Output> for OutputSpec {
    fn from(Output { group, port, interface, ttl, dscp, fragment, source }: &Output) -> Self {
        Self {
            group: *group,
            port: *port,
            interface: interface.clone(),
            ttl: Some(*ttl),
            dscp: Some(*dscp).filter(|dscp| *dscp != Dscp::DEFAULT),
            fragment: Some(*fragment).filter(|fragment| !fragment),
            source: Some(*source).filter(|source| *source != SourceAddress::Relay),
        }
    }
}

impl fmt::Display for InputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Input::from(self.clone()).fmt(f)
    }
}

impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let destinations = Destinations { group: self.group, port: self.port };
        write!(f, "{destinations}:{}", self.interface)
    }
}
