//! Configuration: TOML and flags in, a checked [`Config`] out. The only reader of the environment.
//!
//! A flag beats the environment, which beats the file; what a flag beats in the environment is not looked at, but a
//! file must be right by itself. An environment variable that is set to nothing counts as not set. Below this module
//! nothing reads a default, a file or the environment.

pub mod document;
mod ring;
mod rules;

use std::ffi::{OsStr, OsString};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use document::{Document, Mistakes, Section, whole_number};
use ring::RingValues;
pub use ring::{RING_VERSIONS, RingFlags};
use rules::read_rules;

use crate::rules::{Fault, Rule, SpecError, faults_between};
use crate::sys::packet_socket::FanoutMode;
use crate::worker::packet_ring::{Layout, Version};

/// How many workers there can be: as many as a fanout group has sockets unless it is asked for more (`fanout_add`,
/// `net/packet/af_packet.c`).
const NUM_WORKERS: RangeInclusive<u64> = 1..=256;
/// How long a worker can spin before it sleeps, in µs.
const BUSY_POLL_US: RangeInclusive<u64> = 0..=1_000_000;
/// How long frames can gather, in µs: a socket's buffer holds 0.4 s of 100,000 small frames per second.
const RECV_COALESCE_US: RangeInclusive<u64> = 0..=10_000;
/// Why there is no consumption without the filter.
const NEEDS_FILTER: &str = "cannot be without the rule filter, whose table it uses";
/// The names that files and flags use for the ways to spread frames over workers.
pub const FANOUTS: [(&str, FanoutMode); 3] =
    [("hash", FanoutMode::Hash), ("cpu", FanoutMode::Cpu), ("lb", FanoutMode::LoadBalance)];

/// How frames are received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rx {
    /// The best path that works here.
    #[default]
    Auto,
    /// A ring shared with the kernel (`PACKET_MMAP`), or nothing.
    Mmap,
    /// `recv` on a packet socket through `io_uring`.
    Recv,
}

impl Rx {
    /// The names that files and flags use.
    pub const CHOICES: [(&'static str, Self); 3] =
        [("auto", Self::Auto), ("mmap", Self::Mmap), ("recv", Self::Recv)];
}

/// What several settings have in common: their values where they do not say otherwise themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// Least CPU time for each datagram: blocks of frames (`TPACKET_V3`), or frames that gather, and sleep where there is
    /// nothing to do.
    #[default]
    Throughput,
    /// Least latency: every frame as it comes (`TPACKET_V2`), and a worker that looks for the next one for a while.
    Latency,
}

impl Profile {
    /// The names that files and flags use.
    pub const CHOICES: [(&'static str, Self); 2] =
        [("throughput", Self::Throughput), ("latency", Self::Latency)];

    fn ring_version(self) -> Version {
        match self {
            Self::Throughput => Version::V3,
            Self::Latency => Version::V2,
        }
    }

    fn busy_poll(self) -> Duration {
        match self {
            Self::Throughput => Duration::ZERO,
            Self::Latency => Duration::from_micros(50),
        }
    }

    fn recv_coalesce(self) -> Duration {
        match self {
            Self::Throughput => Duration::from_millis(1),
            Self::Latency => Duration::ZERO,
        }
    }
}

/// What is read before flags and environment have had their say.
#[derive(Debug, Default)]
struct Draft {
    config: Config,
    ring: RingValues,
    profile: Profile,
    /// `None` leaves it to the profile.
    busy_poll: Option<Duration>,
    /// The same.
    recv_coalesce: Option<Duration>,
}

/// A checked configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The receive path.
    pub rx: Rx,
    /// The shape of each packet ring.
    pub ring: Layout,
    /// Workers: from 1 to 256.
    pub num_workers: usize,
    /// How frames are spread over the workers.
    pub fanout: FanoutMode,
    /// How long a worker with nothing to do spins before it sleeps: whole microseconds, up to a second.
    pub busy_poll: Duration,
    /// How long the recv path lets frames gather once it has relayed some: whole microseconds, up to a second.
    pub recv_coalesce: Duration,
    /// Whether datagrams may leave in trains that the kernel or the device cuts apart (`UDP_SEGMENT`).
    pub gso: bool,
    /// Whether the kernel is to capture only what a rule takes.
    pub rule_filter: bool,
    /// Whether what the rules take ends at the interface, and does not go on to the IP stack. Only with `rule_filter`.
    pub consume: bool,
    /// The rules; every name and every input is unique among them.
    pub rules: Vec<Rule>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rx: Rx::default(),
            ring: Layout::default(),
            num_workers: 1,
            fanout: FanoutMode::default(),
            busy_poll: Profile::default().busy_poll(),
            recv_coalesce: Profile::default().recv_coalesce(),
            gso: true,
            rule_filter: true,
            consume: false,
            rules: Vec::new(),
        }
    }
}

/// What the command line says; `None` and empty leave it to the environment and the file. Numbers are as written.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--rule`, as written.
    pub rules: Vec<String>,
    /// `--profile`.
    pub profile: Option<Profile>,
    /// `--rx`.
    pub rx: Option<Rx>,
    /// `--ring-…`.
    pub ring: RingFlags,
    /// `--num-workers`.
    pub num_workers: Option<String>,
    /// `--fanout`.
    pub fanout: Option<FanoutMode>,
    /// `--busy-poll-us`.
    pub busy_poll_us: Option<String>,
    /// `--recv-coalesce-us`.
    pub recv_coalesce_us: Option<String>,
    /// `--no-gso`.
    pub no_gso: bool,
    /// `--no-rule-filter`.
    pub no_rule_filter: bool,
    /// `--consume`.
    pub consume: bool,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read configuration {}: {error}; name a TOML file that this user may read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The file has mistakes.
    #[error("{}", in_file(path, mistakes))]
    File {
        /// The file.
        path: PathBuf,
        /// All of them.
        mistakes: Mistakes,
    },
    /// A flag or an environment variable has a value that cannot be.
    #[error("{place}: {message}")]
    Value {
        /// The flag or the variable.
        place: String,
        /// What is wrong and how to mend it.
        message: String,
    },
    /// A `--rule` has mistakes.
    #[error("--rule \"{spec}\": {message}")]
    Rule {
        /// The rule as written.
        spec: String,
        /// What is wrong and how to mend it.
        message: String,
    },
}

impl Config {
    /// Reads a configuration file's text and checks everything that can be checked without the machine it will run
    /// on. It may have no rule.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        Self::parse_draft(text).map(Draft::finish_file)
    }

    /// Reads and checks the file at `path`. It may have no rule.
    pub fn load_file(path: &Path) -> Result<Self, ConfigError> {
        Self::read_file(path).map(Draft::finish_file)
    }

    /// Puts file, environment and flags together. Rules of flags come after those of the file.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_with(flags, |variable| env::var_os(variable))
    }

    /// [`Config::load`] in the environment that `environment` knows.
    fn load_with(flags: &Flags, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let draft = flags.file.as_deref().map_or_else(|| Ok(Draft::default()), Self::read_file)?;
        let Draft { mut config, mut ring, profile, busy_poll, recv_coalesce } = draft;
        let profile = flags.profile.unwrap_or(profile);
        ring.overlay(&flags.ring, environment)?;
        config.ring = ring.check(profile.ring_version())?;
        config.busy_poll = busy_poll.unwrap_or(profile.busy_poll());
        config.recv_coalesce = recv_coalesce.unwrap_or(profile.recv_coalesce());
        config.overlay(flags)?;
        config.add_rules(&flags.rules)?;
        Ok(config)
    }

    /// The settings, by their keys in a file, that differ from those of `other`; rules are none.
    pub fn settings_that_differ(&self, other: &Self) -> Vec<&'static str> {
        let settings = [
            ("rx", self.rx != other.rx),
            ("ring-version", self.ring.version() != other.ring.version()),
            ("ring-block-size", self.ring.block_size() != other.ring.block_size()),
            ("ring-block-count", self.ring.block_count() != other.ring.block_count()),
            ("ring-retire-ms", self.ring.retire_ms() != other.ring.retire_ms()),
            ("num-workers", self.num_workers != other.num_workers),
            ("fanout", self.fanout != other.fanout),
            ("busy-poll-us", self.busy_poll != other.busy_poll),
            ("recv-coalesce-us", self.recv_coalesce != other.recv_coalesce),
            ("gso", self.gso != other.gso),
            ("rule-filter", self.rule_filter != other.rule_filter),
            ("consume", self.consume != other.consume),
        ];
        settings.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
    }

    /// Lets the flags that stand for themselves beat what is there.
    fn overlay(&mut self, flags: &Flags) -> Result<(), ConfigError> {
        self.rx = flags.rx.unwrap_or(self.rx);
        self.fanout = flags.fanout.unwrap_or(self.fanout);
        if let Some(text) = &flags.num_workers {
            self.num_workers = number_within(NUM_WORKERS, "--num-workers", text)? as usize;
        }
        self.gso &= !flags.no_gso;
        self.rule_filter &= !flags.no_rule_filter;
        self.consume |= flags.consume;
        if self.consume && !self.rule_filter {
            let message = format!("{NEEDS_FILTER}: leave one of the two out");
            return Err(ConfigError::Value { place: "--consume".to_owned(), message });
        }
        if let Some(text) = &flags.busy_poll_us {
            self.busy_poll = Duration::from_micros(number_within(BUSY_POLL_US, "--busy-poll-us", text)?);
        }
        if let Some(text) = &flags.recv_coalesce_us {
            let micros = number_within(RECV_COALESCE_US, "--recv-coalesce-us", text)?;
            self.recv_coalesce = Duration::from_micros(micros);
        }
        Ok(())
    }

    fn add_rules(&mut self, specs: &[String]) -> Result<(), ConfigError> {
        let wrong = |spec: &String, message| ConfigError::Rule { spec: spec.clone(), message };
        let from_file = self.rules.len();
        for spec in specs {
            let rule: Rule = spec.parse().map_err(|error: SpecError| wrong(spec, error.to_string()))?;
            if let Some(Fault { key, message }) = rule.faults().into_iter().next() {
                return Err(wrong(spec, format!("{key} {message}")));
            }
            self.rules.push(rule);
        }
        // The file's rules are without such a fault already, so the later rule of a pair is a flag's.
        if let Some((i, fault)) = faults_between(&self.rules).into_iter().next()
            && let Some(spec) = specs.get(i - from_file)
        {
            return Err(wrong(spec, fault.message));
        }
        Ok(())
    }

    fn read_file(path: &Path) -> Result<Draft, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse_draft(&text).map_err(|mistakes| ConfigError::File { path: path.to_owned(), mistakes })
    }

    fn parse_draft(text: &str) -> Result<Draft, Mistakes> {
        let document = Document::parse(text);
        let draft = Draft::read(&document.root());
        document.finish(Some(draft))
    }

    fn read_relay(&mut self, relay: &Section<'_>) {
        self.rx = relay.choice("rx", &Rx::CHOICES).unwrap_or(self.rx);
        self.fanout = relay.choice("fanout", &FANOUTS).unwrap_or(self.fanout);
        let num_workers = relay.integer("num-workers", NUM_WORKERS);
        self.num_workers = num_workers.map_or(self.num_workers, |number| number as usize);
        self.gso = relay.boolean("gso").unwrap_or(self.gso);
        self.rule_filter = relay.boolean("rule-filter").unwrap_or(self.rule_filter);
        self.consume = relay.boolean("consume").unwrap_or(self.consume);
        if self.consume && !self.rule_filter {
            relay.mistake("consume", format!("{NEEDS_FILTER}: leave one of the two out"));
        }
    }
}

impl Draft {
    fn read(root: &Section<'_>) -> Self {
        let mut draft = Self::default();
        if let Some(relay) = root.section("relay") {
            draft.profile = relay.choice("profile", &Profile::CHOICES).unwrap_or_default();
            let wait = |key, range| relay.integer(key, range).map(Duration::from_micros);
            draft.busy_poll = wait("busy-poll-us", BUSY_POLL_US);
            draft.recv_coalesce = wait("recv-coalesce-us", RECV_COALESCE_US);
            draft.config.read_relay(&relay);
            draft.ring = RingValues::read(&relay);
            draft.config.ring = draft.ring.check_file(&relay, draft.profile.ring_version());
        }
        draft.config.rules = read_rules(&root.sections("rule").unwrap_or_default());
        draft
    }

    /// The configuration that a file makes by itself.
    fn finish_file(self) -> Config {
        let busy_poll = self.busy_poll.unwrap_or(self.profile.busy_poll());
        let recv_coalesce = self.recv_coalesce.unwrap_or(self.profile.recv_coalesce());
        Config { busy_poll, recv_coalesce, ..self.config }
    }
}

/// The number within `range` that a flag gives as `text`.
fn number_within(range: RangeInclusive<u64>, flag: &str, text: &str) -> Result<u64, ConfigError> {
    let within = |text: &str| text.parse().ok().filter(|number| range.contains(number));
    parse_number(flag, text.as_ref(), &whole_number(&range), within)
}

/// The number that `parse` finds in a text given at `place`; `expected` says what it looks for.
fn parse_number(
    place: &str,
    text: &OsStr,
    expected: &str,
    parse: impl Fn(&str) -> Option<u64>,
) -> Result<u64, ConfigError> {
    text.to_str().and_then(parse).ok_or_else(|| ConfigError::Value {
        place: place.to_owned(),
        message: format!("must be {expected}, found {:?}", text.to_string_lossy()),
    })
}

fn in_file(path: &Path, mistakes: &Mistakes) -> String {
    let line = |mistake: &document::Mistake| match mistake.key.as_str() {
        "" => format!("{}:{}: {}", path.display(), mistake.line, mistake.message),
        key => format!("{}:{}: {key}: {}", path.display(), mistake.line, mistake.message),
    };
    mistakes.0.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests;
