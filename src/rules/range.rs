//! Ranges of destinations: groups of one prefix, ports that follow each other.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::header::NumberOrWord;

/// Why a text is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Not an IP address, in front of a prefix length or alone.
    #[error("\"{0}\" is not {expected}", expected = GroupRange::EXPECTED)]
    Address(String),
    /// A prefix longer than the address, or none that is a number.
    #[error("\"{text}\" has no such prefix length: give a number from 0 to {most} behind the `/`")]
    Prefix {
        /// What was read.
        text: String,
        /// Bits of an address.
        most: u8,
    },
    /// An address that is not the first one of its prefix.
    #[error("{address}/{prefix} has bits set behind its prefix: write {}/{prefix} for all of it, or {address} for that one alone", masked(*address, *prefix))]
    HostBits {
        /// As it was given.
        address: IpAddr,
        /// Its length.
        prefix: u8,
    },
    /// Not a port or a range of them.
    #[error("\"{0}\" is not {expected}", expected = PortRange::EXPECTED)]
    Port(String),
    /// A range that ends before it begins.
    #[error("{first}-{last} ends before it begins: write {last}-{first}")]
    Backwards {
        /// Where it was said to begin.
        first: NonZeroU16,
        /// Where it was said to end.
        last: NonZeroU16,
    },
}

/// The addresses of one prefix: multicast groups, or addresses of hosts. A single one is a prefix of its full length, and is written
/// without that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupRange {
    /// All bits behind the prefix are 0.
    first: IpAddr,
    /// Bits that all of them have in common: at most 32, or 128 of IPv6.
    prefix: u8,
}

/// UDP ports from one to another one, neither of them 0. A single one is written as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "NumberOrWord", into = "NumberOrWord")]
pub struct PortRange {
    first: NonZeroU16,
    last: NonZeroU16,
}

/// Ports of which a table has one entry: as many as a power of two, and the first is a multiple of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortBlock {
    first: u16,
    /// 2 to the power of this is their number: at most 15, since no range has port 0.
    bits: u8,
}

/// Where datagrams are sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Destinations {
    /// Addresses, each with every port.
    pub group: GroupRange,
    /// Ports.
    pub port: PortRange,
}

impl GroupRange {
    /// All groups of IPv4 (RFC 5771).
    pub const GROUPS_V4: Self = Self { first: IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), prefix: 4 };
    /// All groups of IPv6 (RFC 4291 section 2.7).
    pub const GROUPS_V6: Self =
        Self { first: IpAddr::V6(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0)), prefix: 8 };
    /// Addresses that never leave a host (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5.3).
    pub const LOOPBACK: [Self; 2] = [
        Self { first: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), prefix: 8 },
        Self { first: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    ];

    /// What it can be, for messages.
    pub const EXPECTED: &'static str =
        "an IP address, such as \"239.1.1.1\" or \"ff15::1\", or a prefix, such as \"239.1.0.0/16\"";

    /// The addresses whose first `prefix` bits are those of `first`.
    pub fn new(first: IpAddr, prefix: u8) -> Result<Self, RangeError> {
        let most = width(first);
        if prefix > most {
            return Err(RangeError::Prefix { text: format!("{first}/{prefix}"), most });
        }
        if masked(first, prefix) != first {
            return Err(RangeError::HostBits { address: first, prefix });
        }
        Ok(Self { first, prefix })
    }

    /// The first of them.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// The last of them.
    pub fn last(self) -> IpAddr {
        self.at(self.most())
    }

    /// The largest offset from the first of them.
    fn most(self) -> u128 {
        u128::MAX.checked_shl(self.host_bits().into()).map_or(u128::MAX, |mask| !mask)
    }

    /// The address so far behind the first of them.
    fn at(self, offset: u128) -> IpAddr {
        match self.first {
            IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() | offset as u32).into(),
            IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() | offset).into(),
        }
    }

    /// Bits that all of them have in common.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Bits in which they differ: there are 2 to the power of this.
    pub fn host_bits(self) -> u8 {
        width(self.first) - self.prefix
    }

    /// Whether it is one address.
    pub fn is_single(self) -> bool {
        self.host_bits() == 0
    }

    /// Whether they are of IPv4; else they are of IPv6.
    pub fn is_ipv4(self) -> bool {
        self.first.is_ipv4()
    }

    /// All groups of its family.
    #[must_use]
    pub fn groups(self) -> Self {
        if self.is_ipv4() { Self::GROUPS_V4 } else { Self::GROUPS_V6 }
    }

    /// Whether all of them are multicast groups.
    pub fn is_multicast(self) -> bool {
        self.prefix >= self.groups().prefix && self.first.is_multicast()
    }

    /// Whether it has an address that `other` has, too: then one of them is within the other.
    pub fn intersects(self, other: Self) -> bool {
        self.is_ipv4() == other.is_ipv4() && {
            let prefix = self.prefix.min(other.prefix);
            masked(self.first, prefix) == masked(other.first, prefix)
        }
    }

    /// Those with the first `prefix` bits of these, of which there are as many or more; a longer prefix changes nothing.
    #[must_use]
    pub fn widened(self, prefix: u8) -> Self {
        let prefix = self.prefix.min(prefix);
        Self { first: masked(self.first, prefix), prefix }
    }

    /// All of them, in order.
    pub fn addresses(self) -> impl Iterator<Item = IpAddr> {
        (0..=self.most()).map(move |offset| self.at(offset))
    }
}

impl PortRange {
    /// What it can be, for messages.
    pub const EXPECTED: &'static str =
        "a port: a whole number from 1 to 65535, or a range such as \"5000-5009\"";

    /// Those from `first` to `last`.
    pub fn new(first: NonZeroU16, last: NonZeroU16) -> Result<Self, RangeError> {
        if last < first {
            return Err(RangeError::Backwards { first, last });
        }
        Ok(Self { first, last })
    }

    /// The first of them.
    pub fn first(self) -> u16 {
        self.first.get()
    }

    /// The last of them.
    pub fn last(self) -> u16 {
        self.last.get()
    }

    /// How many there are: from 1 to 65,535.
    pub fn count(self) -> u16 {
        self.last() - self.first() + 1
    }

    /// Whether it is one port.
    pub fn is_single(self) -> bool {
        self.first == self.last
    }

    /// Whether it has a port that `other` has, too.
    pub fn intersects(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// The fewest blocks that make up these ports: at most 30.
    pub fn blocks(self) -> impl Iterator<Item = PortBlock> {
        let (mut next, end) = (u32::from(self.first()), u32::from(self.last()) + 1);
        std::iter::from_fn(move || {
            let bits = next.trailing_zeros().min(end.checked_sub(next)?.checked_ilog2()?);
            let block = PortBlock { first: next as u16, bits: bits as u8 };
            next += 1 << bits;
            Some(block)
        })
    }
}

impl PortBlock {
    /// The first of its ports.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The last of them.
    pub fn last(self) -> u16 {
        self.first | !self.mask()
    }

    /// 2 to the power of this is their number: from 0 to 15.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The bits that all of them have in common.
    pub fn mask(self) -> u16 {
        u16::MAX << self.bits
    }
}

impl Destinations {
    /// Whether it is one address and one port.
    pub fn is_single(self) -> bool {
        self.group.is_single() && self.port.is_single()
    }

    /// The first address with the first port.
    pub fn first(self) -> SocketAddr {
        SocketAddr::new(self.group.first(), self.port.first())
    }

    /// The last address with the last port.
    pub fn last(self) -> SocketAddr {
        SocketAddr::new(self.group.last(), self.port.last())
    }

    /// What `self` and `other` have in common.
    pub fn intersection(self, other: Self) -> Option<Self> {
        if !self.group.intersects(other.group) || !self.port.intersects(other.port) {
            return None;
        }
        let group = if self.group.prefix < other.group.prefix { other.group } else { self.group };
        let (first, last) = (self.port.first.max(other.port.first), self.port.last.min(other.port.last));
        Some(Self { group, port: PortRange { first, last } })
    }
}

/// Bits of an address.
fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// `address` with all bits behind the first `prefix` ones 0.
fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    let behind = u32::from(width(address).saturating_sub(prefix));
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    }
}

impl From<IpAddr> for GroupRange {
    fn from(address: IpAddr) -> Self {
        Self { first: address, prefix: width(address) }
    }
}

impl From<NonZeroU16> for PortRange {
    fn from(port: NonZeroU16) -> Self {
        Self { first: port, last: port }
    }
}

impl FromStr for GroupRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let (address, prefix) =
            text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let first: IpAddr = address.parse().map_err(|_| RangeError::Address(text.to_owned()))?;
        let Some(prefix) = prefix else { return Ok(first.into()) };
        let no_prefix = |_| RangeError::Prefix { text: text.to_owned(), most: width(first) };
        Self::new(first, prefix.parse().map_err(no_prefix)?)
    }
}

impl FromStr for PortRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let port = |part: &str| part.parse().map_err(|_| RangeError::Port(text.to_owned()));
        match text.split_once('-') {
            Some((first, last)) => Self::new(port(first)?, port(last)?),
            None => Ok(port(text)?.into()),
        }
    }
}

impl TryFrom<String> for GroupRange {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

impl From<GroupRange> for String {
    fn from(range: GroupRange) -> Self {
        range.to_string()
    }
}

impl TryFrom<NumberOrWord> for PortRange {
    type Error = RangeError;

    fn try_from(value: NumberOrWord) -> Result<Self, RangeError> {
        match value {
            NumberOrWord::Number(number) => number.to_string().parse(),
            NumberOrWord::Word(word) => word.parse(),
        }
    }
}

impl From<PortRange> for NumberOrWord {
    fn from(range: PortRange) -> Self {
        if range.is_single() { Self::Number(range.first().into()) } else { Self::Word(range.to_string()) }
    }
}

impl fmt::Display for GroupRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if self.is_single() { Ok(()) } else { write!(f, "/{}", self.prefix) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        if self.is_single() { Ok(()) } else { write!(f, "-{}", self.last) }
    }
}

/// `GROUP:PORT`, an IPv6 group in brackets.
impl fmt::Display for Destinations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { group, port } = self;
        if group.is_ipv4() { write!(f, "{group}:{port}") } else { write!(f, "[{group}]:{port}") }
    }
}

#[cfg(test)]
#[path = "range_tests.rs"]
mod tests;
