//! Reading one `[[subject]]`.

use std::collections::BTreeMap;

use multicast_relay::config::Config;
use multicast_relay::config::document::Section;

use super::read::{defaulted, parse_name};
use super::{Command, Mapping, Relay, Subject, SubjectKind};
use crate::subject::template::Template;
use crate::trial::flows::MOST_IDLE_INPUTS;

/// What says what a subject is, of which it has one.
const KINDS: [&str; 3] = ["relay", "command", "wire"];
/// How many rules a relay has beside those of the flows.
const EXTRA_RULES: &str = "extra-rules";

/// Reads a subject: a relay with its table, a command with its files, or a wire.
pub(super) fn read(section: &Section<'_>) -> Option<Subject> {
    section.require("name", "a name such as \"recv\"");
    let expected = "a name of letters, digits, `-`, `_` and `.`, such as \"recv\"";
    let name = section.parsed("name", expected, parse_name);
    let kinds: Vec<_> = KINDS.into_iter().filter(|key| section.has(key)).collect();
    let kind = match kinds[..] {
        ["relay"] => {
            refuse_keys_of_a_command(section, "the relay's files and outputs are the lab's");
            relay(section).map(SubjectKind::Relay)
        }
        ["command"] => {
            refuse_extra_rules(section);
            command(section).map(SubjectKind::Command)
        }
        ["wire"] => {
            refuse_extra_rules(section);
            refuse_keys_of_a_command(section, "a wire runs none");
            section.choice("wire", &[("direct", ())]).map(|()| SubjectKind::Wire)
        }
        [_, one_too_many, ..] => {
            section.mistake(one_too_many, "a subject is a relay, a command or a wire: remove all but one");
            None
        }
        _ => {
            section.require(
                "relay",
                "relay = { rx = \"recv\" }, command = [\"program\", \"argument\"], or wire = \"direct\"",
            );
            None
        }
    };
    Some(Subject { name: name?, kind: kind? })
}

fn refuse_keys_of_a_command(section: &Section<'_>, why: &str) {
    for key in ["files", "output"].into_iter().filter(|key| section.has(key)) {
        section.mistake(key, format!("belongs to a command: {why}"));
    }
    if section.has("optional") {
        let why = "a relay and a wire are always there, remove it";
        section.mistake("optional", format!("belongs to a command: {why}"));
    }
}

fn refuse_extra_rules(section: &Section<'_>) {
    if section.has(EXTRA_RULES) {
        section.mistake(
            EXTRA_RULES,
            "belongs to a relay: remove it, or measure one with relay = { rx = \"mmap\" }",
        );
    }
}

fn relay(section: &Section<'_>) -> Option<Relay> {
    let extra_rules =
        defaulted(section, EXTRA_RULES, 0, || section.integer(EXTRA_RULES, 0..=MOST_IDLE_INPUTS as u64));
    Some(Relay { table: relay_table(section)?, extra_rules: extra_rules? as usize })
}

fn relay_table(section: &Section<'_>) -> Option<toml::Table> {
    let toml::Value::Table(table) = section.verbatim("relay")? else {
        section.mistake("relay", "must be a table such as { rx = \"recv\" }");
        return None;
    };
    // The relay's own reader knows its keys; the line is that of the scenario.
    let configuration = toml::Table::from_iter([("relay".to_owned(), toml::Value::Table(table.clone()))]);
    if let Err(mistakes) = Config::parse(&configuration.to_string()) {
        for mistake in mistakes.0 {
            section.mistake(&mistake.key, mistake.message);
        }
    }
    Some(table)
}

fn command(section: &Section<'_>) -> Option<Command> {
    let files = files(section)?;
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let texts =
        section.parsed_list("command", "a program or an argument in quotes", |text| Some(text.to_owned()))?;
    if texts.first().is_some_and(String::is_empty) {
        section.mistake("command", "the program has no name: give one such as \"socat\"");
        return None;
    }
    let line: Option<Vec<_>> = texts.iter().map(|text| template(section, "command", text, &names)).collect();
    let mappings = [("same", Mapping::Same), ("mapped", Mapping::Mapped)];
    let output = if section.has("output") { section.choice("output", &mappings)? } else { Mapping::Mapped };
    let optional = defaulted(section, "optional", false, || section.boolean("optional"))?;
    Some(Command { line: line?, files, output, optional })
}

fn files(section: &Section<'_>) -> Option<BTreeMap<String, Template>> {
    if !section.has("files") {
        return Some(BTreeMap::new());
    }
    let toml::Value::Table(table) = section.verbatim("files")? else {
        section.mistake("files", "must be a table of texts such as { \"relay.conf\" = \"...\" }");
        return None;
    };
    let names: Vec<&str> = table.keys().map(String::as_str).collect();
    let read = table.iter().map(|(name, text)| {
        if parse_name(name).is_none() {
            section
                .mistake("files", format!("\"{name}\" is no plain file name: use one like \"relay.conf\""));
            return None;
        }
        let Some(text) = text.as_str() else {
            section.mistake("files", format!("\"{name}\" must be a text in quotes"));
            return None;
        };
        Some((name.clone(), template(section, "files", text, &names)?))
    });
    // Collected in two steps so that every file is looked at.
    let read: Vec<_> = read.collect();
    read.into_iter().collect()
}

fn template(section: &Section<'_>, key: &str, text: &str, files: &[&str]) -> Option<Template> {
    Template::parse(text, files).map_err(|error| section.mistake(key, error.to_string())).ok()
}
