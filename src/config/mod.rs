//! Configuration: TOML and flags in, a checked [`Config`] out. The only reader of the environment.
//!
//! A flag beats the environment, which beats the file; what a flag beats in the environment is not looked at, but a
//! file must be right by itself. An environment variable that is set to nothing counts as not set. Below this module
//! nothing reads a default, a file or the environment.

pub mod document;
mod ring;

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs, io};

use document::{Document, Mistakes, Section, whole_number};
use ring::RingValues;
pub use ring::{RING_VERSIONS, RingFlags};

use crate::rules::{Fault, Input, Output, Rule, SpecError, endpoint_faults, faults_between};
use crate::sys::packet_socket::FanoutMode;
use crate::worker::packet_ring::Layout;

/// How many workers there can be: as many as a fanout group has sockets unless it is asked for more (`fanout_add`,
/// `net/packet/af_packet.c`).
const NUM_WORKERS: RangeInclusive<u64> = 1..=256;
/// How long a worker can spin before it sleeps, in µs.
const BUSY_POLL_US: RangeInclusive<u64> = 0..=1_000_000;
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
            busy_poll: Duration::ZERO,
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
    #[error("read configuration {}: {error}", path.display())]
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
    /// Nothing to relay.
    #[error(
        "{0}no rule, so nothing to relay: write a [[rule]] in the configuration file or give --rule IF:GROUP:PORT=GROUP:PORT:IF"
    )]
    NoRule(String),
}

impl Config {
    /// Reads a configuration file's text and checks everything that can be checked without the machine it will run
    /// on. It may have no rule.
    pub fn parse(text: &str) -> Result<Self, Mistakes> {
        Self::parse_with_ring(text).map(|(config, _)| config)
    }

    /// Reads and checks the file at `path`, which must have a rule.
    pub fn load_file(path: &Path) -> Result<Self, ConfigError> {
        let (config, _) = Self::read_file(path)?;
        if config.rules.is_empty() {
            return Err(ConfigError::NoRule(format!("{}: ", path.display())));
        }
        Ok(config)
    }

    /// Puts file, environment and flags together. Rules of flags come after those of the file.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        Self::load_with(flags, |variable| env::var_os(variable))
    }

    /// [`Config::load`] in the environment that `environment` knows.
    fn load_with(flags: &Flags, environment: impl Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let (mut config, mut ring) =
            flags.file.as_deref().map_or_else(|| Ok(<(Self, RingValues)>::default()), Self::read_file)?;
        ring.overlay(&flags.ring, environment)?;
        config.ring = ring.check()?;
        config.overlay(flags)?;
        config.add_rules(&flags.rules)?;
        if config.rules.is_empty() {
            return Err(ConfigError::NoRule(String::new()));
        }
        Ok(config)
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

    fn read_file(path: &Path) -> Result<(Self, RingValues), ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse_with_ring(&text).map_err(|mistakes| ConfigError::File { path: path.to_owned(), mistakes })
    }

    /// Beside the configuration, what the file says of the ring: others may beat a part of it.
    fn parse_with_ring(text: &str) -> Result<(Self, RingValues), Mistakes> {
        let document = Document::parse(text);
        let config = Self::read(&document.root());
        document.finish(Some(config))
    }

    fn read(root: &Section<'_>) -> (Self, RingValues) {
        let mut config = Self::default();
        let mut ring = RingValues::default();
        if let Some(relay) = root.section("relay") {
            config.read_relay(&relay);
            ring = RingValues::read(&relay);
            config.ring = ring.check_file(&relay);
        }
        config.rules = read_rules(&root.sections("rule").unwrap_or_default());
        (config, ring)
    }

    fn read_relay(&mut self, relay: &Section<'_>) {
        self.rx = relay.choice("rx", &Rx::CHOICES).unwrap_or(self.rx);
        self.fanout = relay.choice("fanout", &FANOUTS).unwrap_or(self.fanout);
        let num_workers = relay.integer("num-workers", NUM_WORKERS);
        self.num_workers = num_workers.map_or(self.num_workers, |number| number as usize);
        let busy_poll = relay.integer("busy-poll-us", BUSY_POLL_US);
        self.busy_poll = busy_poll.map_or(self.busy_poll, Duration::from_micros);
        self.gso = relay.boolean("gso").unwrap_or(self.gso);
        self.rule_filter = relay.boolean("rule-filter").unwrap_or(self.rule_filter);
        self.consume = relay.boolean("consume").unwrap_or(self.consume);
        if self.consume && !self.rule_filter {
            relay.mistake("consume", format!("{NEEDS_FILTER}: leave one of the two out"));
        }
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

/// The rules that can be read; whatever is wrong with any of them is a mistake of its section.
fn read_rules(sections: &[Section<'_>]) -> Vec<Rule> {
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
    let input = section.section("input").and_then(|input| read_input(&input));
    // Every output is read, so that every mistake is found, before one that cannot be read spoils the rule.
    let outputs: Vec<_> = section.sections("outputs")?.iter().map(read_output).collect();
    let outputs = outputs.into_iter().collect::<Option<_>>()?;
    let input = input?;
    Some(Rule { name: name.map_or_else(|| input.to_string(), str::to_owned), input, outputs })
}

fn read_input(section: &Section<'_>) -> Option<Input> {
    let interface = required_interface(section);
    let group = required_address(section);
    let port = required_port(section);
    let source = address(section, "source", "the sender's address, such as \"10.0.0.9\"");
    report(section, endpoint_faults("", interface.as_deref(), group, source));
    if section.has("source") && source.is_none() {
        return None;
    }
    Some(Input { interface: interface?, group: group?, port: port?, source })
}

fn read_output(section: &Section<'_>) -> Option<Output> {
    let interface = required_interface(section);
    let group = required_address(section);
    let port = required_port(section);
    report(section, endpoint_faults("", interface.as_deref(), group, None));
    let ttl = section.integer("ttl", 1..=255).map_or(Output::DEFAULT_TTL, |ttl| ttl as u8);
    Some(Output { group: group?, port: port?, interface: interface?, ttl })
}

fn required_interface(section: &Section<'_>) -> Option<String> {
    section.require("interface", "the name of an interface, such as \"eth0\"");
    section.string("interface").map(str::to_owned)
}

fn required_address(section: &Section<'_>) -> Option<IpAddr> {
    const EXPECTED: &str = "an IP address, such as \"239.1.1.1\" or \"ff15::1\"";
    section.require("group", EXPECTED);
    address(section, "group", EXPECTED)
}

fn required_port(section: &Section<'_>) -> Option<u16> {
    section.require("port", "a UDP port from 1 to 65535");
    section.integer("port", 1..=65_535).map(|port| port as u16)
}

fn address(section: &Section<'_>, key: &str, expected: &str) -> Option<IpAddr> {
    section.parsed(key, expected, |text| text.parse().ok())
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
