//! Two rules that bring the same stream over different ways: the first copy of each datagram is relayed, the second one is not.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::Rule;
use super::check::Fault;

/// How many rules bring a stream.
pub const LEGS: usize = 2;

/// That a rule is one of the two legs of a stream, in the spirit of SMPTE ST 2022-7.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Dedupe {
    /// Name of the stream, which both legs have.
    pub stream: String,
    /// What copies of one datagram have in common.
    #[serde(default)]
    pub key: DedupeKey,
    /// How much later than the first copy the second one may come, in milliseconds, within [`Dedupe::WINDOW_MS`].
    #[serde(default = "Dedupe::default_window_ms")]
    pub window_ms: u16,
}

/// What copies of one datagram have in common, beside the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DedupeKey {
    /// Synchronization source, sequence number and timestamp of their RTP header (RFC 3550 section 5.1); where there is none,
    /// their content.
    #[default]
    Rtp,
    /// Their content. Datagrams alike are told apart by their number on each leg.
    Content,
}

impl Dedupe {
    /// What a window can be: a copy that is later than that is a datagram of its own.
    pub const WINDOW_MS: RangeInclusive<u64> = 1..=4_000;

    /// What a window is that nobody names: twice the skew of ST 2022-7 class B.
    pub const DEFAULT_WINDOW_MS: u16 = 100;

    fn default_window_ms() -> u16 {
        Self::DEFAULT_WINDOW_MS
    }

    /// What is wrong with it by itself.
    pub(super) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.stream.is_empty() {
            faults.push(Fault::new("dedupe.stream", "is empty: give the stream a name that both legs have"));
        }
        if !Self::WINDOW_MS.contains(&self.window_ms.into()) {
            let (first, last) = (Self::WINDOW_MS.start(), Self::WINDOW_MS.end());
            let message = format!("must be a whole number from {first} to {last}, found {}", self.window_ms);
            faults.push(Fault::new("dedupe.window-ms", message));
        }
        faults
    }
}

impl DedupeKey {
    /// All of them, as they are written.
    pub const CHOICES: [(&str, Self); 2] = [("rtp", Self::Rtp), ("content", Self::Content)];
}

impl fmt::Display for DedupeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rtp => "rtp",
            Self::Content => "content",
        })
    }
}

/// What keeps the last of `legs`, all of one stream and in the order in which they came, from being one beside the others.
pub fn leg_fault(legs: &[&Rule]) -> Option<String> {
    let [others @ .., last] = legs else { return None };
    let other = others.last()?;
    let stream = &last.dedupe.as_ref()?.stream;
    let name = &last.name;
    if others.len() >= LEGS {
        let others: Vec<_> = others.iter().map(|rule| format!("\"{}\"", rule.name)).collect();
        return Some(format!(
            "rule \"{name}\": stream \"{stream}\" has its {LEGS} legs, {}: give another stream",
            others.join(" and ")
        ));
    }
    let differs = |what| {
        Some(format!(
            "rules \"{}\" and \"{name}\" are legs of stream \"{stream}\" with different {what}: make them the same",
            other.name
        ))
    };
    if last.dedupe != other.dedupe {
        return differs("keys or windows");
    }
    if last.outputs != other.outputs {
        return differs("outputs");
    }
    None
}

/// The streams of which only one of `rules` is a leg, and what to make of it.
pub fn lone_legs(rules: &[Rule]) -> Vec<String> {
    let mut by_stream: BTreeMap<&str, Vec<&Rule>> = BTreeMap::new();
    for rule in rules {
        if let Some(dedupe) = &rule.dedupe {
            by_stream.entry(&dedupe.stream).or_default().push(rule);
        }
    }
    let lone = |(stream, legs): (&str, Vec<&Rule>)| match legs[..] {
        [rule] => Some(format!(
            "stream \"{stream}\" has one leg, rule \"{}\": the other one names it alike, here or when it is added",
            rule.name
        )),
        _ => None,
    };
    by_stream.into_iter().filter_map(lone).collect()
}

/// What is wrong with legs among `rules`, as the index of the later rule and what to say.
pub(super) fn leg_faults(rules: &[Rule]) -> Vec<(usize, String)> {
    let mut streams = HashMap::<_, Vec<&Rule>>::new();
    let mut faults = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let Some(dedupe) = &rule.dedupe else { continue };
        let legs = streams.entry(dedupe.stream.as_str()).or_default();
        legs.push(rule);
        if let Some(message) = leg_fault(legs) {
            legs.pop();
            faults.push((i, message));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leg(name: &str, interface: &str) -> Rule {
        let mut rule: Rule = format!("{interface}:239.1.1.1:5000=239.2.2.2:6000:eth9").parse().unwrap();
        let stream = "studio".to_owned();
        rule.name = name.to_owned();
        rule.dedupe = Some(Dedupe { stream, key: DedupeKey::Rtp, window_ms: 100 });
        rule
    }

    fn change(rule: &mut Rule, change: impl FnOnce(&mut Dedupe)) {
        change(rule.dedupe.as_mut().unwrap());
    }

    #[test]
    fn two_legs_alike_make_a_stream() {
        let mut rules = vec![leg("a", "eth0"), leg("b", "eth1")];
        assert_eq!(leg_faults(&rules), []);
        change(&mut rules[1], |dedupe| dedupe.window_ms = 50);
        assert!(leg_faults(&rules)[0].1.contains("rules \"a\" and \"b\" are legs of stream \"studio\""));
        rules[1] = leg("b", "eth1");
        rules[1].outputs[0].port = "6001".parse().unwrap();
        assert!(leg_faults(&rules)[0].1.contains("different outputs"));
    }

    #[test]
    fn a_third_leg_is_one_too_many_and_another_stream_is_not() {
        let mut rules = vec![leg("a", "eth0"), leg("b", "eth1"), leg("c", "eth2")];
        let faults = leg_faults(&rules);
        assert!(faults.len() == 1 && faults[0].0 == 2, "{faults:?}");
        assert!(faults[0].1.contains("its 2 legs, \"a\" and \"b\""), "{faults:?}");
        change(&mut rules[2], |dedupe| dedupe.stream = "other".to_owned());
        assert_eq!(leg_faults(&rules), []);
    }

    #[test]
    fn nonsense_is_a_fault() {
        let mut rule = leg("a", "eth0");
        assert_eq!(rule.faults(), []);
        change(&mut rule, |dedupe| (dedupe.stream, dedupe.window_ms) = (String::new(), 4_001));
        let keys: Vec<_> = rule.faults().into_iter().map(|fault| fault.key).collect();
        assert_eq!(keys, ["dedupe.stream", "dedupe.window-ms"]);
        let mut range = leg("a", "eth0");
        range.input.port = "5000-5001".parse().unwrap();
        assert_eq!(range.faults()[0].key, "dedupe");
    }
}
