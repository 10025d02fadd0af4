//! A rule: one input, one or more outputs.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::dedupe::Dedupe;
use super::header::{Dscp, SourceAddress, TimeToLive};
use super::range::{Destinations, GroupRange, PortRange};
use crate::wire::VlanId;

/// Relays every datagram of one input to each of its outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Unique among the rules; stands in reports and errors.
    pub name: String,
    /// What the rule takes.
    pub input: Input,
    /// Where copies go; at least one.
    pub outputs: Vec<Output>,
    /// Whether the host becomes a member of the group, if the input is one.
    pub join: bool,
    /// Of which stream it is a leg, if of any.
    pub dedupe: Option<Dedupe>,
}

/// The datagrams that a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Input {
    /// Interface on which they arrive.
    pub interface: String,
    /// Destination addresses: a multicast group, or a unicast or broadcast address, or several of one kind. Of rules for nested
    /// ones the rule with the longest prefix takes a datagram.
    pub group: GroupRange,
    /// UDP destination ports.
    pub port: PortRange,
    /// Source address they must have, if only one source is wanted. Such a rule beats one without a source.
    pub source: Option<IpAddr>,
    /// The VLAN whose tag they carry there. None is for untagged ones, to which a tag that carries only a priority belongs.
    pub vlan: Option<VlanId>,
}

/// Where a rule sends a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// Destination address: a multicast group, or a unicast or broadcast address. Its family need not be the input's. Or as many as
    /// the input has, each for the one that is as far behind the first.
    pub group: GroupRange,
    /// UDP destination port, or as many as the input has, likewise.
    pub port: PortRange,
    /// Interface through which copies leave.
    pub interface: String,
    /// Time to live (hop limit) of the copies.
    pub ttl: TimeToLive,
    /// Their differentiated services code point.
    pub dscp: Dscp,
    /// Whether those that are larger than the path allows leave in fragments; else they are dropped as `too_large`.
    pub fragment: bool,
    /// Their source address and port.
    pub source: SourceAddress,
}

impl Input {
    /// Where what it takes was sent to.
    pub fn destinations(&self) -> Destinations {
        Destinations { group: self.group, port: self.port }
    }
}

impl Output {
    /// One that says no more than where copies go.
    pub fn new(destinations: Destinations, interface: impl Into<String>) -> Self {
        let Destinations { group, port } = destinations;
        Self {
            group,
            port,
            interface: interface.into(),
            ttl: TimeToLive::DEFAULT,
            dscp: Dscp::DEFAULT,
            fragment: true,
            source: SourceAddress::Relay,
        }
    }

    /// Where copies go.
    pub fn destinations(&self) -> Destinations {
        Destinations { group: self.group, port: self.port }
    }

    /// What is added to the port of a datagram of `input` to make that of its copy, modulo 2 to the power of 16; nothing where there is
    /// one port for all.
    pub fn port_shift(&self, input: &Input) -> Option<u16> {
        (!self.port.is_single()).then(|| self.port.first().wrapping_sub(input.port.first()))
    }
}

impl Input {
    /// Whether the host becomes a member of its group unless a rule says otherwise: what it sends to join would not be in a VLAN.
    pub fn joins(&self) -> bool {
        self.vlan.is_none()
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.interface, self.destinations())?;
        self.vlan.map_or(Ok(()), |vlan| write!(f, " vlan {vlan}"))?;
        self.source.map_or(Ok(()), |source| write!(f, " from {source}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.destinations(), self.interface)
    }
}

/// The interfaces on which `rules` listen, each once, in the order of the rules.
pub fn interfaces(rules: &[Rule]) -> Vec<&str> {
    let mut seen = std::collections::HashSet::new();
    rules.iter().map(|rule| rule.input.interface.as_str()).filter(|name| seen.insert(*name)).collect()
}
