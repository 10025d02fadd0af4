//! The shape of the packet rings: gathered from file, environment and flags, then checked as a whole, for what is right
//! of one number depends on another.

use std::ffi::{OsStr, OsString};
use std::fmt;

use super::document::{Section, whole_number};
use super::{ConfigError, parse_number};
use crate::sys::memory::page_size;
use crate::worker::packet_ring::{
    Layout, LayoutError, MAX_BLOCK_SIZE, MAX_RETIRE_MS, MIN_BLOCK_COUNT, Version,
};

/// The names that flags use for the versions; a file has them as numbers.
pub const RING_VERSIONS: [(&str, Version); 2] = [("3", Version::V3), ("2", Version::V2)];

/// What the command line says of the rings, numbers as written.
#[derive(Clone, Debug, Default)]
pub struct RingFlags {
    /// `--ring-version`.
    pub version: Option<Version>,
    /// `--ring-block-size`.
    pub block_size: Option<String>,
    /// `--ring-block-count`.
    pub block_count: Option<String>,
    /// `--ring-retire-ms`.
    pub retire_ms: Option<String>,
}

/// Where a value comes from. A later one beats an earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Default,
    File,
    Environment,
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "the default",
            Self::File => "from the file",
            Self::Environment => "from the environment",
            Self::Flag => "from the command line",
        })
    }
}

/// A number of the shape, by the key that says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    BlockSize,
    BlockCount,
    RetireMs,
}

impl Number {
    const ALL: [Self; 3] = [Self::BlockSize, Self::BlockCount, Self::RetireMs];

    /// Its key in a file, and its flag.
    fn key(self) -> &'static str {
        match self {
            Self::BlockSize => "ring-block-size",
            Self::BlockCount => "ring-block-count",
            Self::RetireMs => "ring-retire-ms",
        }
    }

    /// Its environment variable.
    fn variable(self) -> Option<&'static str> {
        match self {
            Self::BlockSize => Some("MCR_RING_BLOCK_SIZE"),
            Self::BlockCount => Some("MCR_RING_BLOCK_COUNT"),
            Self::RetireMs => None,
        }
    }

    /// The place to mend, as an error names it.
    fn place(self, origin: Origin) -> String {
        match (origin, self.variable()) {
            (Origin::Environment, Some(variable)) => format!("environment variable {variable}"),
            (Origin::Flag, _) => format!("--{}", self.key()),
            _ => format!("relay.{}", self.key()),
        }
    }

    /// What it can be, whatever the others are.
    fn expected(self) -> String {
        match self {
            Self::BlockSize => format!(
                "a multiple of the page size, from {} to {MAX_BLOCK_SIZE} bytes, such as 65536, 64KiB or 1MiB",
                page_size()
            ),
            Self::BlockCount => whole_number(&(MIN_BLOCK_COUNT..=u64::from(u32::MAX) / page_size())),
            Self::RetireMs => whole_number(&(1..=MAX_RETIRE_MS)),
        }
    }

    /// A value that is right beside any other.
    fn neutral(self) -> u64 {
        match self {
            Self::BlockSize => page_size(),
            Self::BlockCount => MIN_BLOCK_COUNT,
            Self::RetireMs => Layout::DEFAULT_RETIRE_MS,
        }
    }

    fn parse(self, text: &str) -> Option<u64> {
        match self {
            Self::BlockSize => parse_size(text),
            Self::BlockCount | Self::RetireMs => text.parse().ok(),
        }
    }
}

/// A number and where it comes from.
#[derive(Clone, Copy, Debug)]
struct Given {
    value: u64,
    origin: Origin,
}

/// The shape as far as it is gathered, unchecked.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingValues {
    /// `None` leaves it to the profile.
    version: Option<Version>,
    block_size: Given,
    block_count: Given,
    retire_ms: Given,
}

/// Why values make no ring, and which of them to mend.
#[derive(Debug)]
pub(super) struct Fault {
    number: Number,
    origin: Origin,
    message: String,
}

impl From<Fault> for ConfigError {
    fn from(fault: Fault) -> Self {
        Self::Value { place: fault.number.place(fault.origin), message: fault.message }
    }
}

impl Default for RingValues {
    fn default() -> Self {
        let default = |value| Given { value, origin: Origin::Default };
        Self {
            version: None,
            block_size: default(Layout::DEFAULT_BLOCK_SIZE),
            block_count: default(Layout::DEFAULT_BLOCK_COUNT),
            retire_ms: default(Layout::DEFAULT_RETIRE_MS),
        }
    }
}

impl RingValues {
    /// What a file says.
    pub(super) fn read(relay: &Section<'_>) -> Self {
        let mut values = Self::default();
        match relay.integer("ring-version", 2..=3) {
            Some(2) => values.version = Some(Version::V2),
            Some(_) => values.version = Some(Version::V3),
            None => {}
        }
        for number in Number::ALL {
            let parse = |text: &str| if number == Number::BlockSize { parse_size(text) } else { None };
            let value = relay.integer_or_parsed(number.key(), &number.expected(), parse);
            if relay.has(number.key()) {
                // What cannot be read is a mistake already and shall not make others.
                values.set(number, value.unwrap_or(number.neutral()), Origin::File);
            }
        }
        values
    }

    /// Lets flags, and the environment where there is no flag, beat what is there.
    pub(super) fn overlay(
        &mut self,
        flags: &RingFlags,
        environment: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), ConfigError> {
        self.version = flags.version.or(self.version);
        for number in Number::ALL {
            let flag = match number {
                Number::BlockSize => &flags.block_size,
                Number::BlockCount => &flags.block_count,
                Number::RetireMs => &flags.retire_ms,
            };
            let variable = || number.variable().and_then(&environment).filter(|text| !text.is_empty());
            if let Some(text) = flag {
                self.set_text(number, text.as_ref(), Origin::Flag)?;
            } else if let Some(text) = variable() {
                self.set_text(number, &text, Origin::Environment)?;
            }
        }
        Ok(())
    }

    /// The ring that the values make, of version `default` unless they say which.
    pub(super) fn check(&self, default: Version) -> Result<Layout, Fault> {
        let Self { version, block_size, block_count, retire_ms } = *self;
        let version = version.unwrap_or(default);
        let layout = Layout::new(version, block_size.value, block_count.value, retire_ms.value);
        layout.map_err(|error| self.blame(error))
    }

    /// The ring that a file's values make; what they do not make is a mistake of the file.
    pub(super) fn check_file(mut self, relay: &Section<'_>, default: Version) -> Layout {
        loop {
            match self.check(default) {
                Ok(layout) => return layout,
                Err(Fault { number, origin, message }) => {
                    relay.mistake(number.key(), message);
                    self.set(number, number.neutral(), origin);
                }
            }
        }
    }

    /// Too many blocks for their size are the fault of the size if it beat where the count comes from, else of the
    /// count. Whoever is pointed to one of the two learns where the other comes from.
    fn blame(&self, error: LayoutError) -> Fault {
        let [size, count, retire] =
            [self.block_size, self.block_count, self.retire_ms].map(|given| given.origin);
        let message = error.to_string();
        match error {
            LayoutError::BlockSize { .. } => Fault { number: Number::BlockSize, origin: size, message },
            LayoutError::Retire(_) => Fault { number: Number::RetireMs, origin: retire, message },
            LayoutError::BlockCount { given, .. } => {
                let mut both = [(Number::BlockCount, count), (Number::BlockSize, size)];
                if given >= MIN_BLOCK_COUNT && size > count {
                    both.reverse();
                }
                let [(number, origin), (other, from)] = both;
                let remark =
                    if from == origin { String::new() } else { format!("; {} is {from}", other.key()) };
                Fault { number, origin, message: message + &remark }
            }
        }
    }

    fn set_text(&mut self, number: Number, text: &OsStr, origin: Origin) -> Result<(), ConfigError> {
        let value = parse_number(&number.place(origin), text, &number.expected(), |text| number.parse(text))?;
        self.set(number, value, origin);
        Ok(())
    }

    fn set(&mut self, number: Number, value: u64, origin: Origin) {
        let given = match number {
            Number::BlockSize => &mut self.block_size,
            Number::BlockCount => &mut self.block_count,
            Number::RetireMs => &mut self.retire_ms,
        };
        *given = Given { value, origin };
    }
}

/// Bytes: a whole number, with or without a unit, such as `65536`, `64KiB` or `1 MiB`.
fn parse_size(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 3] = [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    if unit.is_empty() {
        return Some(number);
    }
    let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit.trim_start()));
    unit.and_then(|(_, bytes)| number.checked_mul(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_or_none() {
        for (text, bytes) in [
            ("4096", 4_096),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("1 MiB", 1 << 20),
            ("2gib", 2 << 30),
            ("0", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in [
            "",
            " ",
            "KiB",
            "-1",
            "+1",
            "1.5MiB",
            "1MB",
            "1M",
            "1 ",
            "1MiBs",
            "1 Mi B",
            "MiB1",
            "0x10",
            "١",
            "99999999999GiB",
            "18446744073709551616",
        ] {
            assert_eq!(parse_size(text), None, "{text:?}");
        }
    }
}
