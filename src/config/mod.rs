//! Configuration: TOML and flags in, a checked [`Config`] out. The only reader of the environment.
//!
//! A flag beats the file. Below this module nothing reads a default, a file or the environment.

pub mod document;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::{fs, io};

use document::{Document, Mistakes, Section};

use crate::rules::{Fault, Input, Output, Rule, SpecError, endpoint_faults, faults_between};

/// How frames are received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rx {
    /// The best path that works here.
    #[default]
    Auto,
    /// `recv` on a packet socket through `io_uring`.
    Recv,
}

impl Rx {
    /// The names that files and flags use.
    pub const CHOICES: [(&'static str, Self); 2] = [("auto", Self::Auto), ("recv", Self::Recv)];
}

/// A checked configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The receive path.
    pub rx: Rx,
    /// The rules; every name and every input is unique among them.
    pub rules: Vec<Rule>,
}

/// What the command line says; `None` and empty leave it to the file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`.
    pub file: Option<PathBuf>,
    /// `--rule`, as written.
    pub rules: Vec<String>,
    /// `--rx`.
    pub rx: Option<Rx>,
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
        let document = Document::parse(text);
        let config = Self::read(&document.root());
        document.finish(Some(config))
    }

    /// Reads and checks the file at `path`, which must have a rule.
    pub fn load_file(path: &Path) -> Result<Self, ConfigError> {
        let config = Self::read_file(path)?;
        if config.rules.is_empty() {
            return Err(ConfigError::NoRule(format!("{}: ", path.display())));
        }
        Ok(config)
    }

    /// Puts file and flags together. Rules of flags come after those of the file.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let mut config = flags.file.as_deref().map_or_else(|| Ok(Self::default()), Self::read_file)?;
        config.rx = flags.rx.unwrap_or(config.rx);
        let wrong = |spec: &String, message| ConfigError::Rule { spec: spec.clone(), message };
        let from_file = config.rules.len();
        for spec in &flags.rules {
            let rule: Rule = spec.parse().map_err(|error: SpecError| wrong(spec, error.to_string()))?;
            if let Some(Fault { key, message }) = rule.faults().into_iter().next() {
                return Err(wrong(spec, format!("{key} {message}")));
            }
            config.rules.push(rule);
        }
        // The file's rules are without such a fault already, so the later rule of a pair is a flag's.
        if let Some((i, fault)) = faults_between(&config.rules).into_iter().next()
            && let Some(spec) = flags.rules.get(i - from_file)
        {
            return Err(wrong(spec, fault.message));
        }
        if config.rules.is_empty() {
            return Err(ConfigError::NoRule(String::new()));
        }
        Ok(config)
    }

    fn read_file(path: &Path) -> Result<Self, ConfigError> {
        let text =
            fs::read_to_string(path).map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        Self::parse(&text).map_err(|mistakes| ConfigError::File { path: path.to_owned(), mistakes })
    }

    fn read(root: &Section<'_>) -> Self {
        let mut config = Self::default();
        if let Some(relay) = root.section("relay") {
            config.rx = relay.choice("rx", &Rx::CHOICES).unwrap_or_default();
        }
        config.rules = read_rules(&root.sections("rule").unwrap_or_default());
        config
    }
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
mod tests {
    use super::*;

    const EXAMPLE: &str = r#"
[relay]
rx = "auto"

[[rule]]
name = "video"
input = { interface = "eth0", group = "239.1.1.1", port = 5000, source = "10.0.0.9" }
outputs = [
  { group = "239.2.2.2", port = 6000, interface = "eth1" },
  { group = "10.9.0.7", port = 6000, interface = "wg0", ttl = 7 },
]
"#;

    fn mistakes(text: &str) -> Vec<String> {
        Config::parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_configuration_is_read() {
        let config = Config::parse(EXAMPLE).unwrap();
        let rule = &config.rules[0];
        assert_eq!(rule.input.to_string(), "eth0:239.1.1.1:5000 from 10.0.0.9");
        assert_eq!(
            rule.outputs.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["239.2.2.2:6000:eth1", "10.9.0.7:6000:wg0"]
        );
        assert_eq!(rule.outputs.iter().map(|output| output.ttl).collect::<Vec<_>>(), [64, 7]);
    }

    #[test]
    fn every_mistake_names_line_key_and_remedy() {
        let text = r#"
[relay]
rx = "fast"
[[rule]]
input = { interface = "eth0", group = "239.1.1.1", port = 0 }
outputs = [{ group = "nowhere", port = 6000, interface = "eth1" }]
[[rule]]
name = "a"
input = { interface = "eth0", group = "239.1.1.1", port = 1 }
outputs = [{ group = "239.1.1.1", port = 1, interface = "eth0" }]
[[rule]]
name = "b"
input = { interface = "eth0", group = "239.1.1.1", port = 1 }
outputs = []
[[rule]]
inputs = {}
"#;
        let found = mistakes(text);
        let starts = [
            "line 3: relay.rx: must be one of",
            "line 5: rule[0].input.port: must be a whole number from 1 to 65535, found 0",
            "line 6: rule[0].outputs[0].group: must be an IP address",
            "line 10: rule[1].outputs[0]: is the rule's own input, a loop",
            "line 13: rule[2].input: rules \"a\" and \"b\" have the same input",
            "line 14: rule[2].outputs: is empty",
            "line 15: rule[3].input: is missing",
            "line 15: rule[3].outputs: is missing",
            "line 16: rule[3].inputs: unknown key; did you mean `input`?",
        ];
        assert_eq!(found.len(), starts.len(), "{found:#?}");
        for (found, start) in found.iter().zip(starts) {
            assert!(found.starts_with(start), "{found} does not start with {start}");
        }
    }

    #[test]
    fn what_is_right_by_itself_is_checked_beside_what_is_missing() {
        let text = "[[rule]]\ninput = { interface = \"\", group = \"239.1.1.1\", source = \"fd00::1\" }\noutputs = [5]\n";
        let found = mistakes(text);
        let keys: Vec<_> = found.iter().filter_map(|mistake| mistake.split(": ").nth(1)).collect();
        let expected = ["port", "interface", "source"].map(|key| format!("rule[0].input.{key}"));
        assert_eq!(keys[..3], expected, "{found:#?}");
        assert_eq!(keys[3..], ["rule[0].outputs[0]"], "{found:#?}");
    }

    #[test]
    fn outputs_that_are_no_tables_are_one_mistake() {
        let rule = "[[rule]]\ninput = { interface = \"eth0\", group = \"239.1.1.1\", port = 1 }\noutputs = ";
        assert_eq!(
            mistakes(&format!("{rule}5")),
            ["line 3: rule[0].outputs: must be a list of tables, found 5"]
        );
        assert_eq!(mistakes(&format!("{rule}[5]")), ["line 3: rule[0].outputs[0]: must be a table, found 5"]);
    }

    #[test]
    fn flags_add_rules_and_beat_the_file() {
        let mut flags = Flags {
            rules: vec![
                "eth0:239.1.1.1:1=239.2.2.2:1:eth1".into(),
                "eth0:239.1.1.2:1=239.2.2.2:2:eth1".into(),
            ],
            rx: Some(Rx::Recv),
            ..Flags::default()
        };
        let config = Config::load(&flags).unwrap();
        assert_eq!((config.rx, config.rules.len()), (Rx::Recv, 2));
        flags.rules.push("eth0:239.1.1.1:1=239.2.2.9:1:eth1".into());
        let error = Config::load(&flags).unwrap_err().to_string();
        assert!(error.contains("have the same input eth0:239.1.1.1:1"), "{error}");
        flags.rules.clear();
        assert!(matches!(Config::load(&flags), Err(ConfigError::NoRule(_))));
    }
}
