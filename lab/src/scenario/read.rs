//! From the text of a scenario to a checked one: every mistake is collected, with its line, key and remedy.

use std::time::Duration;

use multicast_relay::config::document::{Document, Mistakes, Section};

use super::expect::{self, Known};
use super::sinks::unfit;
use super::{
    Cast, GeneratorChoice, Links, Mapping, Measure, Scenario, SinkChoice, Sinks, Subject, SubjectKind,
    Traffic, Trials, search, subject,
};
use crate::datagram::MIN_BYTES;
use crate::generator::{GeneratorKind, train_obstacle, xdp_obstacle};
use crate::impairments::Impairments;
use crate::plan::{LatencyFrom, MAX_DATAGRAMS, MAX_IPV4_PAYLOAD, MAX_IPV6_PAYLOAD};
use crate::sink::SinkKind;
use crate::topology::{Checksum, Family, MAX_MTU, MAX_SINKS, Segmentation};

/// The most flows of a scenario, fewer than a plan can have: they are told apart by their group or port, and the ports
/// from 6000 on must be enough.
const MOST_FLOWS: u64 = 10_000;
/// The most datagrams, times sinks, that one trial may count: together the sinks get the memory that a plan grants one.
const MAX_COUNTED: u128 = MAX_DATAGRAMS as u128;
/// The longest a trial may offer traffic.
const MAX_DURATION: Duration = Duration::from_hours(1);

const NAME: &str = "a name of letters, digits, `-`, `_` and `.`, such as \"zero-loss\"";
const DURATION: &str = "a duration up to an hour, such as \"3s\", \"500ms\" or \"1m\"";

/// Reads and checks a scenario.
pub(super) fn scenario(text: &str) -> Result<Scenario, Mistakes> {
    let document = Document::parse(text);
    let scenario = read(&document.root(), text);
    document.finish(scenario)
}

fn read(root: &Section<'_>, text: &str) -> Option<Scenario> {
    let name = root.parsed("name", NAME, parse_name);
    root.require("name", "a name such as \"zero-loss\"");
    root.require("traffic", "a table [traffic] with at least rate-pps");
    // Every table is opened once: closing it reports the keys nobody asked for.
    let [link, traffic, sink_section] = ["link", "traffic", "sinks"].map(|key| root.section(key));

    let family = traffic.as_ref().and_then(|traffic| traffic.choice("family", FAMILIES));
    let link = read_link(link.as_ref(), family.unwrap_or(Family::Ipv4));
    let sinks = read_sinks(sink_section.as_ref());
    let most_sinks = sinks.as_ref().and_then(|sinks| sinks.counts.iter().copied().max()).unwrap_or(1);
    let traffic = traffic.and_then(|section| read_traffic(&section, &link, most_sinks));
    if let (Some(section), Some(sinks), Some(traffic)) = (&sink_section, &sinks, &traffic) {
        check_sinks(section, sinks, &link, traffic);
    }
    let trials = read_trials(root.section("trials").as_ref());
    let measure = trials.map_or(Measure::Traffic, |trials| trials.measure);
    let subjects = read_subjects(root, traffic.as_ref(), most_sinks, measure);
    let known =
        Known { subjects: &subjects, links: &link, sinks: sinks.as_ref(), traffic: traffic.as_ref(), trials };
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
        expect: expect?,
        source: text.parse().unwrap_or_default(),
    })
}

const GENERATORS: &[(&str, GeneratorChoice)] = &[
    ("auto", GeneratorChoice::Auto),
    ("xdp", GeneratorChoice::Always(GeneratorKind::Xdp)),
    ("packet", GeneratorChoice::Always(GeneratorKind::Packet)),
    ("trains", GeneratorChoice::Always(GeneratorKind::Trains)),
];

const MEASURES: [(&str, Measure); 2] = [("traffic", Measure::Traffic), ("join-leave", Measure::JoinLeave)];

const FAMILIES: &[(&str, Family)] = &[("ipv4", Family::Ipv4), ("ipv6", Family::Ipv6)];

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

fn read_traffic(section: &Section<'_>, link: &Links, sinks: usize) -> Option<Traffic> {
    let generator =
        defaulted(section, "generator", GeneratorChoice::Auto, || section.choice("generator", GENERATORS));
    section.require("rate-pps", "datagrams per second, such as 100_000 or [10_000, 100_000]");

    let casts = defaulted(section, "cast", vec![Cast::MulticastToMulticast], || {
        section.choice_list("cast", &Cast::NAMES)
    });
    let rates = section.integers("rate-pps", 1..=10_000_000);
    let payloads = defaulted(section, "payload-bytes", vec![100], || read_payloads(section, link));
    let burst = defaulted(section, "burst", 1, || section.integer("burst", 1..=MAX_DATAGRAMS));
    let flows = defaulted(section, "flows", vec![1], || section.integers("flows", 1..=MOST_FLOWS));
    let duration = defaulted(section, "duration", Duration::from_secs(3), || {
        section.parsed("duration", DURATION, parse_duration)
    });
    let warmup = defaulted(section, "warmup", Duration::from_millis(500), || {
        section.parsed("warmup", DURATION, parse_duration)
    });
    let impairments = read_impairments(section.section("impairments").as_ref());
    let traffic = Traffic {
        generator: generator?,
        casts: casts?,
        rates_pps: rates?,
        payloads_bytes: payloads?.into_iter().map(|bytes| bytes as usize).collect(),
        burst: burst?,
        impairments: impairments?,
        flows: flows?.into_iter().map(|flows| flows as usize).collect(),
        duration: duration?,
        warmup: warmup?,
    };
    check_amounts(section, &traffic, sinks);
    check_generator(section, &traffic, link);
    Some(traffic)
}

/// How many datagrams of each trial are to meet a fault; none that is not named.
fn read_impairments(section: Option<&Section<'_>>) -> Option<Impairments> {
    let Some(section) = section else { return Some(Impairments::default()) };
    let count = |key| defaulted(section, key, 0, || section.integer(key, 0..=Impairments::MOST));
    let [drop, duplicate, swap, corrupt, foreign] =
        ["drop", "duplicate", "swap", "corrupt", "foreign"].map(count);
    Some(Impairments {
        drop: drop?,
        duplicate: duplicate?,
        swap: swap?,
        corrupt: corrupt?,
        foreign: foreign?,
    })
}

/// IPv4 datagrams that are larger than the MTU are sent as fragments.
fn read_payloads(section: &Section<'_>, link: &Links) -> Option<Vec<u64>> {
    const LEAST: u64 = MIN_BYTES as u64;
    let most = match link.family {
        Family::Ipv4 => return section.integers("payload-bytes", LEAST..=MAX_IPV4_PAYLOAD as u64),
        Family::Ipv6 => u64::from(link.mtu) - (40 + 8),
    };
    let payloads = section.integers("payload-bytes", LEAST..=MAX_IPV6_PAYLOAD as u64)?;
    for bytes in payloads.iter().filter(|bytes| **bytes > most) {
        section.mistake(
            "payload-bytes",
            format!(
                "over IPv6 an MTU of {} carries at most {most} bytes, found {bytes}: IPv6 fragments are not in this \
                 version, so shorten the payload or raise link.mtu, or send fragments with family = \"ipv4\"",
                link.mtu
            ),
        );
    }
    Some(payloads)
}

/// A generator that is asked for by name must be able to send every payload.
fn check_generator(section: &Section<'_>, traffic: &Traffic, link: &Links) {
    match traffic.generator {
        GeneratorChoice::Always(GeneratorKind::Xdp) => {}
        GeneratorChoice::Always(GeneratorKind::Trains) => return check_trains(section, traffic, link),
        GeneratorChoice::Always(GeneratorKind::Packet) | GeneratorChoice::Auto => return,
    }
    for &payload_bytes in &traffic.payloads_bytes {
        if let Some(obstacle) = xdp_obstacle(link.ingress(), payload_bytes) {
            section.mistake(
                "generator",
                format!(
                    "\"xdp\" cannot send payloads of {payload_bytes} bytes, {obstacle}: take \"packet\", or \"auto\" for \
                     \"packet\" where it is needed"
                ),
            );
        }
    }
}

/// A train is one piece with one destination.
fn check_trains(section: &Section<'_>, traffic: &Traffic, link: &Links) {
    let flows = traffic.flows.iter().copied().max().unwrap_or(1);
    for &payload_bytes in &traffic.payloads_bytes {
        if let Some(obstacle) = train_obstacle(link.ingress(), payload_bytes, flows) {
            section.mistake("generator", format!("\"trains\" cannot send {obstacle}: take \"packet\""));
        }
    }
}

/// Every rate must give each flow something to carry, make up a burst, and be no more than can be counted.
fn check_amounts(section: &Section<'_>, traffic: &Traffic, sinks: usize) {
    for &rate in &traffic.rates_pps {
        let datagrams = u128::from(rate) * traffic.duration.as_nanos() / 1_000_000_000;
        let (flows, burst) = (traffic.flows.iter().copied().max().unwrap_or(1), traffic.burst);
        if datagrams < u128::from(burst) {
            let remedy = "lower burst, or raise rate-pps or duration";
            section.mistake(
                "burst",
                format!(
                    "{rate} packets/s make {datagrams} datagrams, less than one burst of {burst}: {remedy}"
                ),
            );
        }
        if datagrams < flows as u128 {
            let remedy = "raise rate-pps or duration, or take fewer flows";
            section.mistake(
                "duration",
                format!("{rate} packets/s make {datagrams} datagrams for {flows} flows: {remedy}"),
            );
        } else if datagrams < u128::from(traffic.impairments.least_datagrams(flows)) {
            let least = traffic.impairments.least_datagrams(flows);
            let remedy = "raise rate-pps or duration, or have fewer of them";
            section.mistake(
                "impairments",
                format!(
                    "{rate} packets/s make {datagrams} datagrams, and so many faults take {least}: {remedy}"
                ),
            );
        } else if datagrams * sinks as u128 > MAX_COUNTED {
            section.mistake(
                "duration",
                format!(
                    "{rate} packets/s make {datagrams} datagrams for each of {sinks} sinks, more than the \
                     {MAX_COUNTED} that one trial can count: shorten the duration"
                ),
            );
        }
    }
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
        check_impairments(&section, &subject, traffic);
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

/// A number and a unit: `us`, `ms`, `s` or `m`.
fn parse_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let seconds_per_unit = match unit.trim_start() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return None,
    };
    let seconds = number.parse::<f64>().ok()? * seconds_per_unit;
    Duration::try_from_secs_f64(seconds).ok().filter(|duration| *duration <= MAX_DURATION)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
