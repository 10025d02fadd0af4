//! A rule: one input, one or more outputs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

/// Relays every datagram of one input to each of its outputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Unique among the rules; stands in reports and errors.
    pub name: String,
    /// What the rule takes.
    pub input: Input,
    /// Where copies go; at least one.
    pub outputs: Vec<Output>,
}

/// The datagrams that a rule takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Input {
    /// Interface on which they arrive.
    pub interface: String,
    /// Destination address: a multicast group, or a unicast or broadcast address.
    pub group: IpAddr,
    /// UDP destination port, not 0.
    pub port: u16,
    /// Source address they must have, if only one source is wanted. Such a rule beats one without a source.
    pub source: Option<IpAddr>,
}

/// Where a rule sends a copy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Output {
    /// Destination address: a multicast group, or a unicast or broadcast address. Its family need not be the input's.
    pub group: IpAddr,
    /// UDP destination port, not 0.
    pub port: u16,
    /// Interface through which copies leave.
    pub interface: String,
    /// Time to live (hop limit) of the copies, 1 to 255.
    pub ttl: u8,
}

impl Output {
    /// The time to live of outputs that name none: what Linux gives to unicast (RFC 1340), enough to cross routers.
    pub const DEFAULT_TTL: u8 = 64;

    /// Destination address and port.
    pub fn destination(&self) -> SocketAddr {
        SocketAddr::new(self.group, self.port)
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.interface, SocketAddr::new(self.group, self.port))?;
        self.source.map_or(Ok(()), |source| write!(f, " from {source}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.destination(), self.interface)
    }
}

/// The interfaces on which `rules` listen, each once, in the order of the rules.
pub fn interfaces(rules: &[Rule]) -> Vec<&str> {
    let mut seen = std::collections::HashSet::new();
    rules.iter().map(|rule| rule.input.interface.as_str()).filter(|name| seen.insert(*name)).collect()
}
