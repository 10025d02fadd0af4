//! Reading `[traffic]`, and everything about it that cannot be.

use std::path::Path;
use std::time::Duration;

use multicast_relay::config::document::Section;

use super::read::defaulted;
use super::{Cast, GeneratorChoice, Links, Traffic, replay};
use crate::datagram::MIN_BYTES;
use crate::generator::{GeneratorKind, train_obstacle, xdp_obstacle};
use crate::impairments::Impairments;
use crate::plan::{MAX_DATAGRAMS, MAX_IPV4_PAYLOAD, MAX_IPV6_PAYLOAD};
use crate::topology::Family;

/// The most flows of a scenario, fewer than a plan can have: they are told apart by their group or port, and the ports
/// from 6000 on must be enough.
const MOST_FLOWS: u64 = 10_000;
/// The most datagrams, times sinks, that one trial may count: together the sinks get the memory that a plan grants one.
const MAX_COUNTED: u128 = MAX_DATAGRAMS as u128;
/// The longest a trial may offer traffic.
const MAX_DURATION: Duration = Duration::from_hours(1);

pub(super) const DURATION: &str = "a duration up to an hour, such as \"3s\", \"500ms\" or \"1m\"";

/// The highest rate of a scenario.
pub(super) const MOST_PPS: u64 = 10_000_000;
/// What is offered beside the flows.
const FOREIGN: &str = "foreign-pps";

const GENERATORS: &[(&str, GeneratorChoice)] = &[
    ("auto", GeneratorChoice::Auto),
    ("xdp", GeneratorChoice::Always(GeneratorKind::Xdp)),
    ("packet", GeneratorChoice::Always(GeneratorKind::Packet)),
    ("trains", GeneratorChoice::Always(GeneratorKind::Trains)),
    ("pcap", GeneratorChoice::Always(GeneratorKind::Pcap)),
];

/// Reads the table, for a scenario in `folder` with so many sinks at most.
pub(super) fn read(section: &Section<'_>, link: &Links, sinks: usize, folder: &Path) -> Option<Traffic> {
    let generator =
        defaulted(section, "generator", GeneratorChoice::Auto, || section.choice("generator", GENERATORS));
    if generator == Some(GeneratorChoice::Always(GeneratorKind::Pcap)) {
        return replay::read(section, link, folder);
    }
    replay::refuse(section);
    section.require("rate-pps", "datagrams per second, such as 100_000 or [10_000, 100_000]");

    let casts = defaulted(section, "cast", vec![Cast::MulticastToMulticast], || {
        section.choice_list("cast", &Cast::NAMES)
    });
    let rates = section.integers("rate-pps", 1..=MOST_PPS);
    let foreign = defaulted(section, FOREIGN, vec![0], || section.integers(FOREIGN, 0..=MOST_PPS));
    let payloads = defaulted(section, "payload-bytes", vec![100], || read_payloads(section, link));
    let burst = defaulted(section, "burst", 1, || section.integer("burst", 1..=MAX_DATAGRAMS));
    let flows = defaulted(section, "flows", vec![1], || section.integers("flows", 1..=MOST_FLOWS));
    let [duration, warmup] = read_times(section);
    let impairments = read_impairments(section.section("impairments").as_ref());
    let traffic = Traffic {
        generator: generator?,
        casts: casts?,
        rates_pps: rates?,
        foreign_pps: foreign?,
        payloads_bytes: payloads?.into_iter().map(|bytes| bytes as usize).collect(),
        burst: burst?,
        impairments: impairments?,
        replay: None,
        flows: flows?.into_iter().map(|flows| flows as usize).collect(),
        duration: duration?,
        warmup: warmup?,
    };
    check_amounts(section, &traffic, sinks);
    check_generator(section, &traffic, link);
    check_foreign(section, &traffic);
    Some(traffic)
}

/// How long traffic is offered, and how long before that uncounted.
pub(super) fn read_times(section: &Section<'_>) -> [Option<Duration>; 2] {
    [("duration", Duration::from_secs(3)), ("warmup", Duration::from_millis(500))].map(|(key, default)| {
        defaulted(section, key, default, || section.parsed(key, DURATION, parse_duration))
    })
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
        GeneratorChoice::Always(GeneratorKind::Packet | GeneratorKind::Pcap) | GeneratorChoice::Auto => {
            return;
        }
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

/// What is foreign must come about, and go where the plan's own does not.
fn check_foreign(section: &Section<'_>, traffic: &Traffic) {
    for &rate in traffic.foreign_pps.iter().filter(|rate| **rate > 0) {
        let datagrams = u128::from(rate) * traffic.duration.as_nanos() / 1_000_000_000;
        if datagrams == 0 || datagrams > u128::from(MAX_DATAGRAMS) {
            let remedy = format!("give a rate and a duration that make 1 to {MAX_DATAGRAMS}");
            section.mistake(FOREIGN, format!("{rate} packets/s make {datagrams} datagrams: {remedy}"));
        }
    }
    if traffic.has_foreign() && traffic.generator == GeneratorChoice::Always(GeneratorKind::Trains) {
        section.mistake(
            FOREIGN,
            "does not go with generator = \"trains\", which have one destination: take \"packet\" or \"xdp\"",
        );
    }
}

/// Says that nothing foreign is offered where delays are measured.
pub(super) fn refuse_foreign(section: &Section<'_>, traffic: &Traffic) {
    if traffic.has_foreign() {
        section.mistake(
            FOREIGN,
            "is offered while datagrams are counted, and none are with trials.measure = \"join-leave\": remove it",
        );
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

/// A number and a unit: `us`, `ms`, `s` or `m`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
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
mod tests {
    use crate::scenario::Scenario;

    /// A scenario with these keys in `[traffic]` and in what follows it.
    fn scenario(traffic: &str, rest: &str) -> Result<Scenario, Vec<String>> {
        let subject = if rest.contains("[[subject]]") { "" } else { "[[subject]]\nname = 'r'\nrelay = {}\n" };
        let text = format!("name = 'x'\n[traffic]\nrate-pps = 1_000\n{traffic}\n{rest}\n{subject}");
        text.parse().map_err(|mistakes: multicast_relay::config::document::Mistakes| {
            mistakes.0.iter().map(ToString::to_string).collect()
        })
    }

    fn mistake(traffic: &str, rest: &str) -> String {
        let mistakes = scenario(traffic, rest).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        mistakes[0].clone()
    }

    #[test]
    fn what_is_foreign_is_part_of_a_condition() {
        let rates = |scenario: &Scenario| -> Vec<_> {
            scenario
                .conditions()
                .iter()
                .map(|condition| (condition.foreign_pps, condition.rate_pps))
                .collect()
        };
        assert_eq!(rates(&scenario("", "").unwrap()), [(0, 1_000)]);
        assert_eq!(rates(&scenario("foreign-pps = 7_000", "").unwrap()), [(7_000, 1_000)]);
        let both = scenario("foreign-pps = [0, 2_000]\nflows = [1, 2]", "").unwrap();
        assert_eq!(rates(&both), [(0, 1_000), (2_000, 1_000), (0, 1_000), (2_000, 1_000)]);
    }

    #[test]
    fn what_cannot_be_foreign_is_refused() {
        assert_eq!(
            mistake("foreign-pps = -1", ""),
            "line 4: traffic.foreign-pps: must be a whole number from 0 to 10000000, or a list of such, found -1"
        );
        let trains = mistake("foreign-pps = [0, 2_000]\ngenerator = 'trains'", "");
        assert!(trains.contains("traffic.foreign-pps: does not go with generator = \"trains\""), "{trains}");
        assert!(scenario("foreign-pps = 0\ngenerator = 'trains'", "").is_ok());
        let join = mistake("foreign-pps = 2_000", "[trials]\nmeasure = 'join-leave'");
        assert!(join.contains("traffic.foreign-pps: is offered while datagrams are counted"), "{join}");
        let wire = "[[subject]]\nname = 'w'\nwire = 'direct'\n";
        let direct = mistake("foreign-pps = 2_000", wire);
        assert!(direct.contains("subject[0].wire: \"direct\" has no relay from which"), "{direct}");
        assert!(scenario("foreign-pps = 0", wire).is_ok());
        let none = mistake("foreign-pps = 1\nduration = '500ms'", "");
        assert!(none.contains("1 packets/s make 0 datagrams: give a rate and a duration"), "{none}");
        let many = mistake("foreign-pps = 10_000_000\nduration = '10m'", "");
        assert!(many.contains("make 6000000000 datagrams"), "{many}");
    }

    #[test]
    fn a_ratio_may_be_between_two_amounts_of_it() {
        let when = "[[expect.ratio]]\nmetric = 'relay-cpu'\nof = 'r'\nto = 'r'\nof-when = { foreign-pps = 2_000 }\n\
                    to-when = { foreign-pps = 0 }\n";
        let read = scenario("foreign-pps = [0, 2_000]", when).unwrap();
        let conditions = read.conditions_of(&read.expect.ratios[0]);
        let [[of, to]] = conditions[..] else { panic!("one pair: {conditions:?}") };
        assert_eq!((of.foreign_pps, to.foreign_pps), (2_000, 0));
        assert_eq!(read.expect.ratios[0].sides(), ["r (foreign-pps 2000)", "r (foreign-pps 0)"]);
        assert!(
            mistake("foreign-pps = [0, 3_000]", when)
                .contains("has no 2000: traffic.foreign-pps has 0, 3000")
        );
    }
}
