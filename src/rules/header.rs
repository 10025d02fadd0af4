//! What copies carry in their IP header: what an output says, or what the datagram had that came in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Time to live (RFC 791) or hop limit (RFC 8200) of copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "NumberOrWord", into = "NumberOrWord")]
pub enum TimeToLive {
    /// Always this one, from 1 to 255.
    Fixed(u8),
    /// The one that came in.
    Keep,
    /// One less than came in, as a router does; a datagram that came in with 1 does not leave.
    Decrement,
}

/// Differentiated services code point of copies (RFC 2474).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "NumberOrWord", into = "NumberOrWord")]
pub enum Dscp {
    /// Always this one, from 0 to 63.
    Fixed(u8),
    /// The one that came in.
    Keep,
}

/// Source address and port of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceAddress {
    /// An address of the relay's host, with a port of the relay's own.
    #[default]
    Relay,
    /// Those that came in.
    Preserve,
}

/// How a time to live or a code point is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum NumberOrWord {
    /// `16`.
    Number(u64),
    /// `"keep"`.
    Word(String),
}

impl SourceAddress {
    /// Every one with its word.
    pub const WORDS: [(&'static str, Self); 2] = [("relay", Self::Relay), ("preserve", Self::Preserve)];
}

impl TimeToLive {
    /// What it can be, for messages.
    pub const EXPECTED: &'static str = "a whole number from 1 to 255, \"keep\" or \"decrement\"";

    /// What outputs have that name none: what Linux gives to unicast (RFC 1340), enough to cross routers.
    pub const DEFAULT: Self = Self::Fixed(64);

    /// The one that all copies have.
    pub fn fixed(self) -> Option<u8> {
        match self {
            Self::Fixed(ttl) => Some(ttl),
            Self::Keep | Self::Decrement => None,
        }
    }
}

impl Dscp {
    /// What it can be, for messages.
    pub const EXPECTED: &'static str = "a whole number from 0 to 63, or \"keep\"";

    /// What outputs have that name none: best effort.
    pub const DEFAULT: Self = Self::Fixed(0);

    /// The one that all copies have.
    pub fn fixed(self) -> Option<u8> {
        match self {
            Self::Fixed(dscp) => Some(dscp),
            Self::Keep => None,
        }
    }
}

impl TryFrom<NumberOrWord> for TimeToLive {
    type Error = String;

    fn try_from(value: NumberOrWord) -> Result<Self, String> {
        match value {
            NumberOrWord::Number(number @ 1..=255) => Ok(Self::Fixed(number as u8)),
            NumberOrWord::Word(word) if word == "keep" => Ok(Self::Keep),
            NumberOrWord::Word(word) if word == "decrement" => Ok(Self::Decrement),
            value => Err(format!("a time to live is {}, not {value}", Self::EXPECTED)),
        }
    }
}

impl TryFrom<NumberOrWord> for Dscp {
    type Error = String;

    fn try_from(value: NumberOrWord) -> Result<Self, String> {
        match value {
            NumberOrWord::Number(number @ 0..=63) => Ok(Self::Fixed(number as u8)),
            NumberOrWord::Word(word) if word == "keep" => Ok(Self::Keep),
            value => Err(format!("a DSCP is {}, not {value}", Self::EXPECTED)),
        }
    }
}

impl From<TimeToLive> for NumberOrWord {
    fn from(ttl: TimeToLive) -> Self {
        match ttl {
            TimeToLive::Fixed(number) => Self::Number(number.into()),
            TimeToLive::Keep => Self::Word("keep".to_owned()),
            TimeToLive::Decrement => Self::Word("decrement".to_owned()),
        }
    }
}

impl From<Dscp> for NumberOrWord {
    fn from(dscp: Dscp) -> Self {
        match dscp {
            Dscp::Fixed(number) => Self::Number(number.into()),
            Dscp::Keep => Self::Word("keep".to_owned()),
        }
    }
}

/// As TOML and JSON have it.
impl fmt::Display for NumberOrWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Word(word) => write!(f, "{word:?}"),
        }
    }
}

impl fmt::Display for TimeToLive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NumberOrWord::from(*self).fmt(f)
    }
}

/// As TOML and JSON have it.
impl fmt::Display for SourceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::WORDS.iter().find(|(_, source)| source == self);
        write!(f, "{:?}", word.map_or("", |(word, _)| *word))
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        NumberOrWord::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        for ttl in [TimeToLive::Fixed(1), TimeToLive::Fixed(255), TimeToLive::Keep, TimeToLive::Decrement] {
            assert_eq!(serde_json::from_str::<TimeToLive>(&ttl.to_string()).unwrap(), ttl);
        }
        for dscp in [Dscp::Fixed(0), Dscp::Fixed(63), Dscp::Keep] {
            assert_eq!(serde_json::from_str::<Dscp>(&dscp.to_string()).unwrap(), dscp);
        }
        for (_, source) in SourceAddress::WORDS {
            assert_eq!(serde_json::from_str::<SourceAddress>(&source.to_string()).unwrap(), source);
        }
        for text in ["0", "256", "-1", "1.5", "\"Keep\"", "\"64\"", "null", "[]"] {
            assert!(serde_json::from_str::<TimeToLive>(text).is_err(), "{text}");
        }
        let error = serde_json::from_str::<Dscp>("64").unwrap_err().to_string();
        assert!(error.contains("from 0 to 63, or \"keep\", not 64"), "{error}");
    }
}
