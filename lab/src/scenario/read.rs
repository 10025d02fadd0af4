//! From the text of a scenario to a checked one: every mistake is collected, with its line, key and remedy.

use std::path::Path;

use multicast_relay::config::document::{Document, Mistakes, Section};

use super::event;
use super::expect::{self, Known};
use super::sinks::unfit;
use super::{
    Cast, Links, Mapping, Measure, Scenario, SinkChoice, Sinks, Subject, SubjectKind, Traffic, Trials,
    replay, search, subject, traffic,
};
use crate::plan::LatencyFrom;
use crate::sink::SinkKind;
use crate::topology::{Checksum, Family, MAX_MTU, MAX_SINKS, Segmentation};

const NAME: &str = "a name of letters, digits, `-`, `_` and `.`, such as \"zero-loss\"";

/// Reads and checks a scenario in `folder`.
pub(super) fn scenario(text: &str, folder: &Path) -> Result<Scenario, Mistakes> {
    let document = Document::parse(text);
    let scenario = read(&document.root(), text, folder);
    document.finish(scenario)
}

fn read(root: &Section<'_>, text: &str, folder: &Path) -> Option<Scenario> {
    let name = root.parsed("name", NAME, parse_name);
    root.require("name", "a name such as \"zero-loss\"");
    root.require("traffic", "a table [traffic] with at least rate-pps");
    // Every table is opened once: closing it reports the keys nobody asked for.
    let [link, traffic_section, sink_section] = ["link", "traffic", "sinks"].map(|key| root.section(key));

    let family = traffic_section.as_ref().and_then(|traffic| traffic.choice("family", FAMILIES));
    let link = read_link(link.as_ref(), family.unwrap_or(Family::Ipv4));
    let sinks = read_sinks(sink_section.as_ref());
    let most_sinks = sinks.as_ref().and_then(|sinks| sinks.counts.iter().copied().max()).unwrap_or(1);
    let traffic =
        traffic_section.as_ref().and_then(|section| traffic::read(section, &link, most_sinks, folder));
    if let (Some(section), Some(sinks), Some(traffic)) = (&sink_section, &sinks, &traffic) {
        check_sinks(section, sinks, &link, traffic);
    }
    let trials = read_trials(root.section("trials").as_ref());
    let measure = trials.map_or(Measure::Traffic, |trials| trials.measure);
    if let (Some(section), Some(traffic), Measure::JoinLeave) = (&traffic_section, &traffic, measure) {
        traffic::refuse_foreign(section, traffic);
    }
    if let (Some(section), Some(traffic)) = (&traffic_section, &traffic) {
        replay::check_beside(root, section, traffic, &link, measure);
    }
    let subjects = read_subjects(root, traffic.as_ref(), most_sinks, measure);
    let mut known = Known {
        subjects: &subjects,
        links: &link,
        sinks: sinks.as_ref(),
        traffic: traffic.as_ref(),
        trials,
        events: &[],
    };
    let events = event::read(root, &known);
    known.events = events.as_deref().unwrap_or_default();
    let expect = expect::read(root.section("expect").as_ref(), &known);
    let search = search::read(root.section("search").as_ref(), &known);
    Some(Scenario {
        name: name?,
        link,
        traffic: traffic?,
        sinks: sinks?,
        trials: trials?,
        search: search?,
        subjects,
        events: events?,
        expect: expect?,
        source: text.parse().unwrap_or_default(),
    })
}

const FAMILIES: &[(&str, Family)] = &[("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];

const MEASURES: [(&str, Measure); 2] = [("traffic", Measure::Traffic), ("join-leave", Measure::JoinLeave)];

fn read_link(section: Option<&Section<'_>>, family: Family) -> Links {
    let mut link =
        Links { mtu: 1_500, segmentations: vec![Segmentation::Wire], checksum: Checksum::Offload, family };
    if let Some(section) = section {
        let checksums = [("wire", Checksum::Wire), ("offload", Checksum::Offload)];
        link.mtu = section
            .integer("mtu", family.least_mtu().into()..=MAX_MTU.into())
            .map_or(link.mtu, |mtu| mtu as u32);
        if let Some(segmentations) = section.choice_list("segmentation", &Segmentation::NAMES) {
            link.segmentations = segmentations;
        }
        link.checksum = section.choice("checksum", &checksums).unwrap_or(link.checksum);
    }
    link
}

fn read_sinks(section: Option<&Section<'_>>) -> Option<Sinks> {
    let Some(section) = section else {
        return Some(Sinks { counts: vec![1], kinds: vec![SinkChoice::Auto] });
    };
    let kinds = defaulted(section, "kind", vec![SinkChoice::Auto], || {
        section.choice_list("kind", &SinkChoice::NAMES)
    });
    let counts = defaulted(section, "count", vec![1], || section.integers("count", 1..=MAX_SINKS as u64));
    Some(Sinks { counts: counts?.into_iter().map(|count| count as usize).collect(), kinds: kinds? })
}

/// The xdp sink, asked for by name, must be able to count everything.
fn check_sinks(section: &Section<'_>, sinks: &Sinks, link: &Links, traffic: &Traffic) {
    if sinks.kinds.contains(&SinkChoice::Only(SinkKind::Xdp)) {
        for reason in unfit(link, traffic) {
            section.mistake("kind", reason.to_string());
        }
    }
}

fn read_trials(section: Option<&Section<'_>>) -> Option<Trials> {
    let Some(section) = section else {
        let (measure, latency_from) = (Measure::Traffic, LatencyFrom::Intended);
        return Some(Trials { blocks: 1, retries: 2, calibrate: true, measure, latency_from });
    };
    let blocks = defaulted(section, "blocks", 1, || section.integer("blocks", 1..=1_000));
    let retries = defaulted(section, "retries", 2, || section.integer("retries", 0..=100));
    let calibrate = defaulted(section, "calibrate", true, || section.boolean("calibrate"));
    let measure = defaulted(section, "measure", Measure::Traffic, || section.choice("measure", &MEASURES));
    let latency_from = defaulted(section, "latency-from", LatencyFrom::Intended, || {
        section.choice("latency-from", &LatencyFrom::NAMES)
    });
    Some(Trials {
        blocks: blocks? as usize,
        retries: retries? as usize,
        calibrate: calibrate?,
        measure: measure?,
        latency_from: latency_from?,
    })
}

fn read_subjects(
    root: &Section<'_>,
    traffic: Option<&Traffic>,
    most_sinks: usize,
    measure: Measure,
) -> Vec<Subject> {
    let sections = root.sections("subject").unwrap_or_default();
    root.require("subject", "at least one [[subject]] with a name and relay = { rx = \"recv\" }");
    let mut subjects: Vec<Subject> = Vec::new();
    for section in sections {
        let Some(subject) = subject::read(&section) else { continue };
        if subjects.iter().any(|known| known.name == subject.name) {
            let name = &subject.name;
            section.mistake(
                "name",
                format!("there is a subject \"{name}\" already: give this one another name"),
            );
        }
        check_mapping(&section, &subject, traffic);
        replay::check_subject(&section, &subject, traffic);
        check_impairments(&section, &subject, traffic);
        check_foreign(&section, &subject, traffic);
        if matches!(subject.kind, SubjectKind::Wire) && measure == Measure::JoinLeave {
            section
                .mistake("wire", "neither joins nor leaves anything: measure = \"join-leave\" takes a relay");
        }
        if matches!(subject.kind, SubjectKind::Wire) && most_sinks > 1 {
            section.mistake("wire", format!("\"direct\" has one end, not {most_sinks}: use sinks.count = 1"));
        }
        subjects.push(subject);
    }
    subjects
}

/// Faults are counted where nothing else can make or mend any.
fn check_impairments(section: &Section<'_>, subject: &Subject, traffic: Option<&Traffic>) {
    let key = match subject.kind {
        SubjectKind::Relay(_) => "relay",
        SubjectKind::Command(_) => "command",
        SubjectKind::Wire => return,
    };
    if traffic.is_some_and(|traffic| !traffic.impairments.is_empty()) {
        let why = "what becomes of traffic.impairments is known beforehand without a relay only";
        section
            .mistake(key, format!("{why}: use wire = \"direct\", or a scenario of its own for this subject"));
    }
}

/// What is foreign has nobody to be kept from without a relay.
fn check_foreign(section: &Section<'_>, subject: &Subject, traffic: Option<&Traffic>) {
    if matches!(subject.kind, SubjectKind::Wire) && traffic.is_some_and(Traffic::has_foreign) {
        let why = "has no relay from which traffic.foreign-pps could be kept";
        section.mistake(
            "wire",
            format!("\"direct\" {why}: remove either, or write a scenario of its own for the wire"),
        );
    }
}

/// Who keeps group and port cannot turn a group into a host.
fn check_mapping(section: &Section<'_>, subject: &Subject, traffic: Option<&Traffic>) {
    let (key, value) = match &subject.kind {
        SubjectKind::Command(command) if command.output == Mapping::Same => ("output", "same"),
        SubjectKind::Wire => ("wire", "direct"),
        SubjectKind::Command(_) | SubjectKind::Relay(_) => return,
    };
    let casts = traffic.map_or(&[][..], |traffic| &traffic.casts);
    if let Some(cast) = casts.iter().find(|cast| **cast != Cast::MulticastToMulticast) {
        section.mistake(
            key,
            format!("\"{value}\" cannot be with cast \"{cast}\": use cast = \"multicast-to-multicast\""),
        );
    }
}

/// What `read` makes of `key`, or `default` when it is not written at all.
pub(super) fn defaulted<T>(
    section: &Section<'_>,
    key: &str,
    default: T,
    read: impl FnOnce() -> Option<T>,
) -> Option<T> {
    if section.has(key) { read() } else { Some(default) }
}

/// A name that can be part of a file name.
pub(super) fn parse_name(text: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let fits = (1..=64).contains(&text.len()) && text.chars().all(allowed) && !text.starts_with('.');
    fits.then(|| text.to_owned())
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
