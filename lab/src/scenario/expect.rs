//! What a scenario expects: exact counts of each subject, and ratios between two of them.

use std::fmt;
use std::ops::RangeInclusive;

use multicast_relay::config::document::Section;
use serde::Serialize;

use super::around;
use super::read::defaulted;
use super::when::{self, Lists};
use super::{Condition, Event, Links, Measure, Sinks, Subject, SubjectKind, Traffic, Trials, When};
use crate::comparison::LEAST_PAIRS;
use crate::datagram::STAMPED_BYTES;
use crate::disturbance::EventLimits;
use crate::memory::MemoryLimits;
use crate::verdict::Counts;

/// What is expected of a run.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// Exact counts over all sinks.
    pub counts: Counts,
    /// Exact number of datagrams at the sinks that are none of the trial's.
    pub alien: u64,
    /// What a subject may have of memory and descriptors.
    pub memory: MemoryLimits,
    /// What a subject may do around an event.
    pub around: EventLimits,
    /// The same of subjects for whom something else holds, by name.
    pub around_of: Vec<(String, EventLimits)>,
    /// Names of the subjects of whom that is expected; `None` for all.
    pub subjects: Option<Vec<String>>,
    /// Which subjects are compared, and by what.
    pub ratios: Vec<Ratio>,
}

/// A metric of one subject, divided by that of another, or of the same under another condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratio {
    /// What is compared.
    pub metric: Metric,
    /// The subject above the line.
    pub of: String,
    /// Under which conditions.
    pub of_when: When,
    /// The subject beneath it.
    pub to: String,
    /// Under which conditions; fixes the same parts as `of_when`, and all others are equal on both sides.
    pub to_when: When,
    /// What the ratio must not exceed; `None` when it is only reported.
    pub at_most: Option<f64>,
    /// At which rates of the `of` side; never empty.
    pub rates_pps: Vec<u64>,
}

impl Ratio {
    /// What stands above the line and what beneath it, each with what is fixed for it.
    pub fn sides(&self) -> [String; 2] {
        [(&self.of, self.of_when), (&self.to, self.to_when)].map(|(name, when)| {
            if when == When::default() { name.clone() } else { format!("{name} ({when})") }
        })
    }

    /// Whether it is to be told under the conditions of both sides: payloads without room for a time have no latency to
    /// compare.
    pub(crate) fn applies_to(&self, sides: &[Condition; 2]) -> bool {
        self.rates_pps.contains(&sides[0].rate_pps)
            && sides.iter().all(|condition| self.metric.is_measured_with(condition.payload_bytes))
    }
}

/// What subjects can be compared by. Less is better in all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Time of the subject's processes for each datagram.
    RelayCpu,
    /// The same for each copy that is to be made: divided by the fan-out.
    RelayCpuPerCopy,
    /// Time of the whole machine for each datagram, less what the direct wire takes.
    SystemCpu,
    /// Median of the latency.
    P50,
    /// 99th percentile of the latency.
    P99,
    /// 99.9th percentile of the latency.
    P999,
    /// From the subject's start to the first datagram of its last flow.
    JoinDelay,
    /// From the signal that ends the subject to its last datagram.
    LeaveDelay,
}

impl Metric {
    /// Every metric with its name in scenarios and results.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("relay-cpu", Self::RelayCpu),
        ("relay-cpu-per-copy", Self::RelayCpuPerCopy),
        ("system-cpu", Self::SystemCpu),
        ("p50", Self::P50),
        ("p99", Self::P99),
        ("p999", Self::P999),
        ("join-delay", Self::JoinDelay),
        ("leave-delay", Self::LeaveDelay),
    ];

    /// Whether it is about time on the way, and not on a processor.
    pub fn is_latency(self) -> bool {
        matches!(self, Self::P50 | Self::P99 | Self::P999)
    }

    /// Whether it is about the time of the subject's processes.
    pub fn is_relay_cpu(self) -> bool {
        matches!(self, Self::RelayCpu | Self::RelayCpuPerCopy)
    }

    /// What a trial must be about to tell it.
    fn measure(self) -> Measure {
        if matches!(self, Self::JoinDelay | Self::LeaveDelay) { Measure::JoinLeave } else { Measure::Traffic }
    }

    fn is_measured_with(self, payload_bytes: usize) -> bool {
        !self.is_latency() || payload_bytes >= STAMPED_BYTES
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::NAMES.iter().find(|(_, metric)| metric == self).map_or("", |(name, _)| name))
    }
}

/// What the rest of the scenario says, as far as it could be read; what could not be is not held against a ratio.
pub(super) struct Known<'a> {
    pub(super) subjects: &'a [Subject],
    pub(super) links: &'a Links,
    pub(super) sinks: Option<&'a Sinks>,
    pub(super) traffic: Option<&'a Traffic>,
    pub(super) trials: Option<Trials>,
    pub(super) events: &'a [Event],
}

impl Known<'_> {
    /// Records a mistake when there is no subject `name`.
    pub(super) fn check_subject(&self, section: &Section<'_>, key: &str, name: &str) {
        if !self.subjects.iter().any(|subject| subject.name == name) {
            let known = self.subjects.iter().map(|subject| format!("\"{}\"", subject.name));
            let known = known.collect::<Vec<_>>().join(", ");
            section.mistake(key, format!("no subject \"{name}\": there is {known}"));
        }
    }
}

/// What can be expected of the counts.
const COUNTS: [&str; 5] = ["loss", "duplicates", "reordered", "corrupted", "alien"];
/// What can be expected of memory and descriptors, and from what to what.
const MEMORY: [(&str, RangeInclusive<u64>); 3] =
    [("memory-mib", 1..=1 << 20), ("memory-growth-kib", 0..=1 << 30), ("descriptor-growth", 0..=1 << 20)];
/// The growth of memory in other units.
const MEMORY_GROWTH: &str = "memory-growth";

/// Reads `[expect]`.
pub(super) fn read(section: Option<&Section<'_>>, known: &Known<'_>) -> Option<Expect> {
    let Some(section) = section else { return Some(Expect::default()) };
    // Read before anything can end this early: every mistake is to be found.
    let ratios =
        if section.has("ratio") { section.sections("ratio").unwrap_or_default() } else { Vec::new() };
    let ratios: Vec<_> = ratios.iter().map(|section| read_ratio(section, known)).collect();
    let names = section.parsed_list("subjects", "the name of a subject", |name| Some(name.to_owned()));
    for name in names.iter().flatten() {
        known.check_subject(section, "subjects", name);
    }
    if known.trials.is_some_and(|trials| trials.measure == Measure::JoinLeave) {
        for key in COUNTS.into_iter().chain(["subjects"]).filter(|key| section.has(key)) {
            section.mistake(key, "is about counts, and there are none with trials.measure = \"join-leave\"");
        }
    }
    let memory = read_memory(section, names.as_deref(), known);
    let (around, around_of) = around::read(section, known);
    let count = |key| defaulted(section, key, 0, || section.integer(key, 0..=u64::MAX));
    let [lost, duplicated, reordered, corrupted, alien] = COUNTS.map(count);
    let counts =
        Counts { lost: lost?, duplicated: duplicated?, reordered: reordered?, corrupted: corrupted? };
    Some(Expect {
        counts,
        alien: alien?,
        memory,
        around,
        around_of,
        subjects: names,
        ratios: ratios.into_iter().collect::<Option<_>>()?,
    })
}

/// Reads what the subjects of these `names`, or all, may have of memory.
fn read_memory(section: &Section<'_>, names: Option<&[String]>, known: &Known<'_>) -> MemoryLimits {
    let named = |subject: &&Subject| names.is_none_or(|names| names.contains(&subject.name));
    let mut asked = known.subjects.iter().filter(named).peekable();
    let wires_only = asked.peek().is_some() && asked.all(|one| matches!(one.kind, SubjectKind::Wire));
    let join_leave = known.trials.is_some_and(|trials| trials.measure == Measure::JoinLeave);
    let keys = MEMORY.iter().map(|(key, _)| *key).chain([MEMORY_GROWTH]);
    for key in keys.filter(|key| section.has(key)) {
        if join_leave {
            section.mistake(
                key,
                "is about memory, which is not measured with trials.measure = \"join-leave\": remove it",
            );
        } else if wires_only {
            section.mistake(
                key,
                "is about the memory of a subject's processes, and a wire has none: name a relay or a command in \
                 expect.subjects",
            );
        }
    }
    let [most, growth, descriptors] = MEMORY.map(|(key, range)| section.integer(key, range));
    let expected = "a size such as \"4MiB\" or \"256KiB\"";
    let bytes = section.parsed(MEMORY_GROWTH, expected, parse_size);
    if section.has(MEMORY_GROWTH) && section.has("memory-growth-kib") {
        section.mistake(MEMORY_GROWTH, "is the same as memory-growth-kib: remove one");
    }
    MemoryLimits {
        most: most.map(|mib| mib << 20),
        growth: growth.map(|kib| kib << 10).or(bytes),
        descriptors,
    }
}

fn read_ratio(section: &Section<'_>, known: &Known<'_>) -> Option<Ratio> {
    section.require("metric", "what to compare, such as \"relay-cpu\" or \"p99\"");
    section.require("of", "the subject above the line, such as \"mmap\"");
    section.require("to", "the subject beneath the line, such as \"recv\"");
    let metric = section.choice("metric", &Metric::NAMES);
    let [of, to] = ["of", "to"].map(|key| section.string(key));
    for (key, name) in [("of", of), ("to", to)] {
        if let Some(name) = name {
            known.check_subject(section, key, name);
        }
    }
    let lists = Lists { links: known.links, sinks: known.sinks, traffic: known.traffic };
    let when = when::read(section, lists);
    if of.is_some() && of == to && when.is_some_and(|[of, to]| of == to) {
        let remedy = "name another one, or tell two conditions of it apart by `of-when` and `to-when`";
        section.mistake("to", format!("is the same subject as `of`: {remedy}"));
    }
    if let (Some(metric), Some(traffic)) = (metric, known.traffic)
        && !traffic.payloads_bytes.iter().any(|bytes| metric.is_measured_with(*bytes))
    {
        let remedy = format!("payload-bytes must have one of {STAMPED_BYTES} or more");
        section
            .mistake("metric", format!("no payload has room for a time, so there is no latency: {remedy}"));
    }
    if let (Some(metric), Some(traffic)) = (metric, known.traffic)
        && traffic.replay.is_some()
        && (metric.is_latency() || metric == Metric::SystemCpu)
    {
        let why = "has no times of the lab's in it, and goes over no direct wire";
        section.mistake(
            "metric",
            format!("is not measured of what was recorded, which {why}: take \"relay-cpu\""),
        );
    }
    if metric == Some(Metric::SystemCpu) && known.trials.is_some_and(|trials| !trials.calibrate) {
        section.mistake("metric", "is what comes on top of the direct wire: leave trials.calibrate out");
    }
    if let (Some(metric), Some(trials)) = (metric, known.trials)
        && metric.measure() != trials.measure
    {
        let other = if trials.measure == Measure::Traffic { "join-leave" } else { "traffic" };
        section.mistake("metric", format!("takes trials.measure = \"{other}\""));
    }
    let at_most = read_at_most(section, known.trials);
    let rates_pps = read_rates(section, known.traffic);
    let [of_when, to_when] = when?;
    Some(Ratio {
        metric: metric?,
        of: of?.to_owned(),
        of_when,
        to: to?.to_owned(),
        to_when,
        at_most,
        rates_pps: rates_pps?,
    })
}

fn read_at_most(section: &Section<'_>, trials: Option<Trials>) -> Option<f64> {
    let at_most = section.number("at-most", 0.001..=1_000.0)?;
    if let Some(Trials { blocks, .. }) = trials
        && blocks < LEAST_PAIRS
    {
        section.mistake(
            "at-most",
            format!(
                "a verdict takes {LEAST_PAIRS} blocks or more, found {blocks}: raise trials.blocks, or leave \
                 at-most out to have the ratio reported only"
            ),
        );
    }
    Some(at_most)
}

fn read_rates(section: &Section<'_>, traffic: Option<&Traffic>) -> Option<Vec<u64>> {
    let written = section.has("rate-pps").then(|| section.integers("rate-pps", 1..=u64::MAX));
    let all = &traffic?.rates_pps;
    let Some(rates) = written else { return Some(all.clone()) };
    let rates = rates?;
    for rate in rates.iter().filter(|rate| !all.contains(rate)) {
        let known = all.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        section
            .mistake("rate-pps", format!("{rate} is no rate of this scenario: traffic.rate-pps has {known}"));
    }
    Some(rates)
}

/// Bytes, with a unit.
fn parse_size(text: &str) -> Option<u64> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let bytes_per_unit: u64 = match unit.trim_start() {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(bytes_per_unit)
}
