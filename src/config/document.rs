//! TOML with positions: every value knows its line, and every mistake is collected instead of the first.
//!
//! A reader asks a [`Section`] for the keys it knows. Whatever is missing, of the wrong type or out of range becomes
//! a [`Mistake`] and reads as absent; whatever nobody asked for is an unknown key, reported when the section drops.
//! The caller builds what it can and looks at the mistakes once, at the end.

use std::cell::RefCell;
use std::fmt;
use std::ops::RangeInclusive;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

/// One mistake in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the document, from 1.
    pub line: usize,
    /// Path of the key, such as `rule[1].input.port`; empty when the text is not TOML at all.
    pub key: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "line {}: {}", self.line, self.message)
        } else {
            write!(f, "line {}: {}: {}", self.line, self.key, self.message)
        }
    }
}

/// Every mistake of a document, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Mistakes(pub Vec<Mistake>);

/// A TOML text and the mistakes found in it so far.
pub struct Document<'i> {
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
    root: Spanned<DeTable<'i>>,
    /// Mistakes that make it no TOML; what is read from such a text means nothing.
    syntax: usize,
    mistakes: RefCell<Vec<Mistake>>,
}

/// What a value that begins like a number is mostly meant to be.
fn quotes(message: &str) -> &'static str {
    let is_so = ["invalid date", "invalid time", "invalid float", "invalid integer"]
        .iter()
        .any(|begin| message.starts_with(begin));
    if is_so { "; addresses, prefixes and ranges stand in quotes, such as \"5000-5009\"" } else { "" }
}

impl<'i> Document<'i> {
    /// Parses `text`; what is not TOML becomes a mistake like any other.
    pub fn parse(text: &'i str) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text);
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines: Vec<_> = std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect();
        let mistake = |error: &toml::de::Error| Mistake {
            line: line_of(&lines, error.span().map_or(0, |span| span.start)),
            key: String::new(),
            message: format!("{}{}", error.message(), quotes(error.message())),
        };
        let mistakes: Vec<_> = errors.iter().map(mistake).collect();
        Self { lines, root, syntax: mistakes.len(), mistakes: RefCell::new(mistakes) }
    }

    /// The table that is the whole document.
    pub fn root(&self) -> Section<'_> {
        Section::new(self, self.root.get_ref(), 1, String::new())
    }

    /// `value` when nothing was wrong, else every mistake. Call it after the last section is dropped.
    pub fn finish<T>(self, value: Option<T>) -> Result<T, Mistakes> {
        let mut mistakes = self.mistakes.into_inner();
        if self.syntax > 0 {
            mistakes.truncate(self.syntax);
        }
        mistakes.sort_by_key(|mistake| mistake.line);
        match value {
            Some(value) if mistakes.is_empty() => Ok(value),
            _ => Err(Mistakes(mistakes)),
        }
    }
}

/// One table of a document.
pub struct Section<'d> {
    document: &'d Document<'d>,
    table: &'d DeTable<'d>,
    line: usize,
    path: String,
    known: RefCell<Vec<String>>,
}

impl<'d> Section<'d> {
    fn new(document: &'d Document<'_>, table: &'d DeTable<'d>, line: usize, path: String) -> Self {
        Self { document, table, line, path, known: RefCell::default() }
    }

    /// The line where this table begins.
    pub fn line(&self) -> usize {
        self.line
    }

    /// Whether `key` is written here, right or wrong.
    pub fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// Records a mistake at `key`, which may be a path such as `outputs[0].group`: at its line, or where the deepest
    /// part of it that is written stands.
    pub fn mistake(&self, key: &str, message: impl Into<String>) {
        let line = deepest(self.table, key).map_or(self.line, |value| self.line_at(value));
        let key = if key.is_empty() { self.path.clone() } else { self.path_of(key) };
        self.document.mistakes.borrow_mut().push(Mistake { line, key, message: message.into() });
    }

    /// Records a mistake unless `key` is written here; `expected` says what it is, with an example.
    pub fn require(&self, key: &str, expected: &str) {
        if !self.has(key) {
            self.mistake(key, format!("is missing: give {expected}"));
        }
    }

    /// A text.
    pub fn string(&self, key: &str) -> Option<&'d str> {
        self.value(key, "a text in quotes", |value| value.as_str())
    }

    /// `true` or `false`.
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.value(key, "true or false", DeValue::as_bool)
    }

    /// A whole number within `range`.
    pub fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = whole_number(&range);
        self.value(key, &expected, |value| integer(value).filter(|number| range.contains(number)))
    }

    /// A whole number, or a text that `parse` understands; `expected` names what both are, with an example.
    pub fn integer_or_parsed(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<u64>,
    ) -> Option<u64> {
        self.value(key, expected, |value| integer(value).or_else(|| value.as_str().and_then(&parse)))
    }

    /// One or several whole numbers within `range`: a number or a list of them.
    pub fn integers(&self, key: &str, range: RangeInclusive<u64>) -> Option<Vec<u64>> {
        let expected = whole_number(&range);
        self.values(key, &expected, |value| integer(value).filter(|number| range.contains(number)))
    }

    /// A floating-point or whole number within `range`.
    pub fn number(&self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        self.value(key, &expected, |value| {
            let text = value
                .as_float()
                .map(toml::de::DeFloat::as_str)
                .or(value.as_integer().map(toml::de::DeInteger::as_str));
            text?.replace('_', "").parse().ok().filter(|number| range.contains(number))
        })
    }

    /// A text that `parse` understands; `expected` names what that is, with an example.
    pub fn parsed<T>(&self, key: &str, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.value(key, expected, |value| value.as_str().and_then(&parse))
    }

    /// One or several texts that `parse` understands.
    pub fn parsed_list<T>(
        &self,
        key: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<Vec<T>> {
        self.values(key, expected, |value| value.as_str().and_then(&parse))
    }

    /// One of the texts in `choices`.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        self.parsed(key, &one_of(choices), |text| choose(choices, text))
    }

    /// One or several of the texts in `choices`.
    pub fn choice_list<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Option<Vec<T>> {
        self.parsed_list(key, &one_of(choices), |text| choose(choices, text))
    }

    /// The table `key`.
    pub fn section(&self, key: &str) -> Option<Section<'d>> {
        let value = self.find(key)?;
        self.table_of(key, value)
    }

    /// The tables of the array `key` (`[[key]]`, or a list of inline tables).
    pub fn sections(&self, key: &str) -> Option<Vec<Section<'d>>> {
        let value = self.find(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let remedy =
                if value.get_ref().is_table() { format!(": write [[{key}]]") } else { String::new() };
            self.mistake(key, format!("must be a list of tables, found {}{remedy}", shown(value.get_ref())));
            return None;
        };
        let tables = array.iter().enumerate().map(|(i, item)| self.table_of(&format!("{key}[{i}]"), item));
        let tables: Vec<_> = tables.collect();
        tables.into_iter().collect()
    }

    /// The value `key` as it stands, for tables whose keys belong to somebody else.
    pub fn verbatim(&self, key: &str) -> Option<toml::Value> {
        let value = self.find(key)?;
        match toml::Value::deserialize(ValueDeserializer::from(value.clone())) {
            Ok(value) => Some(value),
            Err(error) => {
                self.mistake(key, error.message().to_owned());
                None
            }
        }
    }

    fn table_of(&self, key: &str, value: &'d Spanned<DeValue<'d>>) -> Option<Section<'d>> {
        if let Some(table) = value.get_ref().as_table() {
            return Some(Section::new(self.document, table, self.line_at(value), self.path_of(key)));
        }
        self.mistake(key, format!("must be a table, found {}", shown(value.get_ref())));
        None
    }

    /// What `read` makes of the value; `expected` names what that is.
    pub(super) fn value<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'d DeValue<'d>) -> Option<T>,
    ) -> Option<T> {
        let value = self.find(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.mistake(key, format!("must be {expected}, found {}", shown(value.get_ref())));
        }
        read
    }

    fn values<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'d DeValue<'d>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let Some(array) = self.find(key)?.get_ref().as_array() else {
            return self.value(key, &format!("{expected}, or a list of such"), read).map(|one| vec![one]);
        };
        if array.is_empty() {
            self.mistake(key, format!("is an empty list: give {expected}, or a list of such"));
            return None;
        }
        let mut list = Vec::with_capacity(array.len());
        for item in array {
            match read(item.get_ref()) {
                Some(value) => list.push(value),
                None => self.mistake(key, format!("must hold {expected}, found {}", shown(item.get_ref()))),
            }
        }
        (list.len() == array.len()).then_some(list)
    }

    fn find(&self, key: &str) -> Option<&'d Spanned<DeValue<'d>>> {
        let mut known = self.known.borrow_mut();
        if !known.iter().any(|name| name == key) {
            known.push(key.to_owned());
        }
        self.table.get(key)
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn line_at(&self, value: &Spanned<DeValue<'_>>) -> usize {
        line_of(&self.document.lines, value.span().start)
    }
}

impl Drop for Section<'_> {
    /// Whatever nobody asked for is an unknown key.
    fn drop(&mut self) {
        let known = self.known.take();
        for (key, _) in self.table {
            let name: &str = key.get_ref();
            if known.iter().any(|known| known == name) {
                continue;
            }
            let nearest = known
                .iter()
                .map(|known| (strsim::jaro_winkler(known, name), known))
                .filter(|(likeness, _)| *likeness > 0.8)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let remedy = match nearest {
                Some((_, nearest)) => format!("did you mean `{nearest}`?"),
                None => format!("the keys here are {}", known.join(", ")),
            };
            self.document.mistakes.borrow_mut().push(Mistake {
                line: line_of(&self.document.lines, key.span().start),
                key: self.path_of(name),
                message: format!("unknown key; {remedy}"),
            });
        }
    }
}

/// The value that `path` leads to, as far as it leads anywhere.
fn deepest<'t>(table: &'t DeTable<'t>, path: &str) -> Option<&'t Spanned<DeValue<'t>>> {
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    let (key, index) = step.strip_suffix(']').and_then(|step| step.split_once('[')).unwrap_or((step, ""));
    let mut value = table.get(key)?;
    if let (Some(array), Ok(index)) = (value.get_ref().as_array(), index.parse::<usize>()) {
        value = array.get(index).unwrap_or(value);
    }
    let inner = value.get_ref().as_table().filter(|_| !rest.is_empty());
    inner.and_then(|inner| deepest(inner, rest)).or(Some(value))
}

/// The line, from 1, that the byte at `offset` stands in.
fn line_of(lines: &[usize], offset: usize) -> usize {
    lines.partition_point(|start| *start <= offset).max(1)
}

/// The number that `value` is, if it is a whole one.
pub(super) fn integer(value: &DeValue<'_>) -> Option<u64> {
    let integer = value.as_integer()?;
    u64::from_str_radix(integer.as_str(), integer.radix()).ok()
}

pub(super) fn whole_number(range: &RangeInclusive<u64>) -> String {
    match *range.end() {
        u64::MAX => format!("a whole number from {}", range.start()),
        end => format!("a whole number from {} to {end}", range.start()),
    }
}

fn one_of<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
    match names.as_slice() {
        [one] => one.clone(),
        _ => format!("one of {}", names.join(", ")),
    }
}

fn choose<T: Copy>(choices: &[(&str, T)], text: &str) -> Option<T> {
    choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value)
}

/// A value as the reader of an error would write it.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("\"{text}\""),
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes<T>(text: &str, read: impl Fn(&Section<'_>) -> T) -> Vec<String> {
        let document = Document::parse(text);
        let _ = read(&document.root());
        document.finish(None::<()>).unwrap_err().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values_are_read() {
        let text = "name = 'x'\nrates = [1_000, 0x10]\none = 5\nfactor = 0.8\n[[t]]\nflag = true\n";
        let document = Document::parse(text);
        let root = document.root();
        assert_eq!(root.string("name"), Some("x"));
        assert_eq!(root.integers("rates", 1..=2_000), Some(vec![1_000, 16]));
        assert_eq!(root.integers("one", 1..=9), Some(vec![5]));
        assert_eq!(root.number("factor", 0.0..=1.0), Some(0.8));
        let tables = root.sections("t").unwrap();
        assert_eq!((tables[0].line(), tables[0].boolean("flag")), (5, Some(true)));
        drop(tables);
        drop(root);
        assert_eq!(document.finish(Some(1)), Ok(1));
    }

    #[test]
    fn every_mistake_is_reported_with_line_key_and_remedy() {
        let text = "rx = 'fast'\n[relay]\nworkers = 0\nnam = 'x'\n";
        let found = mistakes(text, |root| {
            let _ = root.choice("rx", &[("auto", 0), ("recv", 1)]);
            let relay = root.section("relay").unwrap();
            let _ = (relay.integer("workers", 1..=8), relay.string("name"));
            relay.require("port", "a port such as 5000");
        });
        assert_eq!(
            found,
            [
                "line 1: rx: must be one of \"auto\", \"recv\", found \"fast\"",
                "line 2: relay.port: is missing: give a port such as 5000",
                "line 3: relay.workers: must be a whole number from 1 to 8, found 0",
                "line 4: relay.nam: unknown key; did you mean `name`?",
            ]
        );
    }

    #[test]
    fn wrong_types_are_mistakes() {
        let found = mistakes("a = 1\nb = [1, 'x']\nc = []\nd = -4\n", |root| {
            let _ = (root.section("a"), root.integers("b", 0..=9), root.integers("c", 0..=9));
            let _ = root.integer("d", 0..=9);
        });
        assert_eq!(
            found,
            [
                "line 1: a: must be a table, found 1",
                "line 2: b: must hold a whole number from 0 to 9, found \"x\"",
                "line 3: c: is an empty list: give a whole number from 0 to 9, or a list of such",
                "line 4: d: must be a whole number from 0 to 9, found -4",
            ]
        );
    }

    #[test]
    fn what_is_not_toml_is_a_mistake_with_a_line_and_hides_all_others() {
        let found = mistakes("a = 'x'\r\nb = = 2\r\n", |root| root.integer("a", 0..=9));
        assert!(
            !found.is_empty() && found.iter().all(|mistake| mistake.starts_with("line 2: ")),
            "{found:?}"
        );
    }

    #[test]
    fn a_list_of_tables_says_which_of_its_items_is_none() {
        let found = mistakes("[t]\nx = 1\n", |root| root.sections("t").is_none());
        assert_eq!(found, ["line 1: t: must be a list of tables, found a table: write [[t]]"]);
        let found = mistakes("t = [\n {},\n 5,\n]\n", |root| assert!(root.sections("t").is_none()));
        assert_eq!(found, ["line 3: t[1]: must be a table, found 5"]);
    }

    #[test]
    fn a_foreign_table_is_kept_as_it_stands() {
        let document = Document::parse("relay = { rx = \"recv\", n = [1, 2] }\n");
        let value = document.root().verbatim("relay").unwrap();
        assert_eq!(value["rx"].as_str(), Some("recv"));
        assert_eq!(value["n"].as_array().map(Vec::len), Some(2));
        assert_eq!(document.finish(Some(())), Ok(()));
    }
}
