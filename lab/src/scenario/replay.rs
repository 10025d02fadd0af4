//! Reading `[traffic]` with `generator = "pcap"`, and everything that does not go with it.
//!
//! Where datagrams go to and how large they are is what the file says. It is read here, so that whatever is wrong with it is
//! told like any other mistake of the scenario.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use multicast_relay::config::document::Section;

use super::read::defaulted;
use super::traffic::{MOST_PPS, read_times};
use super::{Cast, GeneratorChoice, Links, Measure, Subject, SubjectKind, Traffic};
use crate::datagram::MIN_BYTES;
use crate::generator::GeneratorKind;
use crate::impairments::Impairments;
use crate::plan::MAX_RATE_PPS;
use crate::replay::{Bounds, MOST_DATAGRAMS, Pace, Recording, Replay};
use crate::topology::Segmentation;

/// Keys of a replay only.
const OWN: [&str; 3] = ["file", "pace", "datagrams"];
/// Keys that say what the file does, or what is not done to a recording.
const OF_OTHERS: [&str; 5] = ["flows", "payload-bytes", "burst", "foreign-pps", "impairments"];
const PACES: [(&str, Pace); 2] = [("even", Pace::Even), ("recorded", Pace::Recorded)];

/// Says that other generators have no file.
pub(super) fn refuse(section: &Section<'_>) {
    for key in OWN.into_iter().filter(|key| section.has(key)) {
        section.mistake(key, "belongs to generator = \"pcap\": remove it, or replay a file");
    }
}

/// Reads the table, and the file that it names, for a scenario in `folder`.
pub(super) fn read(section: &Section<'_>, link: &Links, folder: &Path) -> Option<Traffic> {
    for key in OF_OTHERS.into_iter().filter(|key| section.has(key)) {
        section.mistake(
            key,
            "does not go with generator = \"pcap\", which sends what is in its file: remove it",
        );
    }
    section.require("file", "a pcap or pcapng file, such as \"capture.pcap\"");
    let file = section.string("file");
    let pace = defaulted(section, "pace", Pace::Even, || section.choice("pace", &PACES));
    let rates = read_rates(section, pace);
    let casts = defaulted(section, "cast", vec![Cast::MulticastToMulticast], || {
        section.choice_list("cast", &Cast::NAMES)
    });
    if casts.as_ref().is_some_and(|casts| casts.contains(&Cast::UnicastToMulticast)) {
        section.mistake(
            "cast",
            "must be from multicast with generator = \"pcap\", which sends what went to groups",
        );
    }
    let datagrams =
        defaulted(section, "datagrams", MOST_DATAGRAMS, || section.integer("datagrams", 1..=MOST_DATAGRAMS));
    let [duration, warmup] = read_times(section);
    let (pace, rates, duration) = (pace?, rates?, duration?);
    let bounds = Bounds {
        datagrams: datagrams?.min(most_datagrams(pace, &rates, duration)),
        span: (pace == Pace::Recorded).then_some(duration),
        family: link.family,
        mtu: link.mtu,
    };
    let recording = read_file(section, &folder.join(file?), &bounds)?;
    let rates_pps = match pace {
        Pace::Even => rates,
        Pace::Recorded => vec![recorded_rate(section, &recording)?],
    };
    let traffic = Traffic {
        generator: GeneratorChoice::Always(GeneratorKind::Pcap),
        casts: casts?,
        rates_pps,
        foreign_pps: vec![0],
        payloads_bytes: vec![recording.largest_payload().max(MIN_BYTES)],
        burst: 1,
        impairments: Impairments::default(),
        flows: vec![recording.flows().len()],
        replay: Some(Replay { recording: Arc::new(recording), pace }),
        duration,
        warmup: warmup?,
    };
    check_amounts(section, &traffic);
    Some(traffic)
}

/// Rates to be sent at; none where the recording has its own.
fn read_rates(section: &Section<'_>, pace: Option<Pace>) -> Option<Vec<u64>> {
    const RATE: &str = "rate-pps";
    match pace? {
        Pace::Even => {
            section.require(RATE, "datagrams per second, such as 10_000, or pace = \"recorded\"");
            section.integers(RATE, 1..=MOST_PPS)
        }
        Pace::Recorded => {
            if section.has(RATE) {
                section.mistake(RATE, "does not go with pace = \"recorded\": remove either");
            }
            Some(Vec::new())
        }
    }
}

/// How many datagrams any trial can send.
fn most_datagrams(pace: Pace, rates: &[u64], duration: Duration) -> u64 {
    let fastest = u128::from(rates.iter().copied().max().unwrap_or_default());
    match pace {
        Pace::Even => u64::try_from(fastest * duration.as_nanos() / 1_000_000_000).unwrap_or(u64::MAX).max(1),
        Pace::Recorded => u64::MAX,
    }
}

fn read_file(section: &Section<'_>, path: &Path, bounds: &Bounds) -> Option<Recording> {
    Recording::read(path, bounds).map_err(|error| section.mistake("file", error.to_string())).ok()
}

/// The mean rate of the recording, which stands for its pace.
fn recorded_rate(section: &Section<'_>, recording: &Recording) -> Option<u64> {
    let rate = recording.mean_pps();
    if (1..=MAX_RATE_PPS).contains(&rate) {
        return Some(rate);
    }
    section.mistake(
        "pace",
        "the file has less than one datagram a second: give a rate, such as rate-pps = 1_000, and remove this",
    );
    None
}

/// Each rate must come to a datagram.
fn check_amounts(section: &Section<'_>, traffic: &Traffic) {
    for rate in traffic.rates_pps.iter().filter(|rate| traffic.datagrams(**rate) == 0) {
        section.mistake("duration", format!("{rate} packets/s make no datagram: raise rate-pps or duration"));
    }
}

/// Says what beside `[traffic]` does not go with a recording.
pub(super) fn check_beside(
    root: &Section<'_>,
    section: &Section<'_>,
    traffic: &Traffic,
    link: &Links,
    measure: Measure,
) {
    if traffic.replay.is_none() {
        return;
    }
    if link.segmentations.contains(&Segmentation::Offload) {
        root.mistake(
            "link.segmentation",
            "must be \"wire\" with generator = \"pcap\": nobody can tell how many payloads of different sizes are in a \
             super-frame",
        );
    }
    if measure == Measure::JoinLeave {
        section.mistake(
            "generator",
            "\"pcap\" does not go with trials.measure = \"join-leave\", which needs the times in the lab's own datagrams: \
             take \"packet\"",
        );
    }
    if root.has("event") {
        let why = "which is told apart by bytes only when a trial is over";
        root.mistake("event", format!("does not go with generator = \"pcap\", {why}: remove either"));
    }
}

/// Says that what was recorded needs a relay: with its tags, options and checksums it is not what sinks take.
pub(super) fn check_subject(section: &Section<'_>, subject: &Subject, traffic: Option<&Traffic>) {
    let is_replayed = traffic.is_some_and(|traffic| traffic.replay.is_some());
    if is_replayed && matches!(subject.kind, SubjectKind::Wire) {
        section.mistake(
            "wire",
            "\"direct\" does not go with generator = \"pcap\", whose frames only a relay turns into what sinks take: \
             remove either",
        );
    }
}

#[cfg(test)]
mod tests {
    use multicast_relay::config::document::Mistakes;
    use tempfile::TempDir;

    use super::super::read::scenario as read_scenario;
    use super::*;
    use crate::replay::tests::{frame_to, pcap, pcap_of};
    use crate::scenario::Scenario;
    use crate::sink::SinkKind;

    /// A scenario with these keys in `[traffic]`, and with what follows, beside a file of ten datagrams over 900 ms in two
    /// flows.
    fn scenario(traffic: &str, rest: &str) -> Result<Scenario, Vec<String>> {
        let folder = TempDir::new().unwrap();
        let frame = |number: u8| frame_to([239, 1, 1, 1 + number % 2], 5_004, &[number; 100]);
        let packets: Vec<_> = (0..10).map(|number| (u64::from(number) * 100_000, frame(number))).collect();
        std::fs::write(folder.path().join("a.pcap"), pcap(&packets)).unwrap();
        std::fs::write(folder.path().join("raw.pcap"), pcap_of(101, &packets)).unwrap();
        std::fs::write(folder.path().join("none.txt"), "no capture").unwrap();
        let slow = [(0, frame(0)), (2_500_000, frame(1))];
        std::fs::write(folder.path().join("slow.pcap"), pcap(&slow)).unwrap();
        let subject = if rest.contains("[[subject]]") { "" } else { "[[subject]]\nname = 'r'\nrelay = {}\n" };
        let text = format!("name = 'x'\n[traffic]\ngenerator = 'pcap'\n{traffic}\n{rest}\n{subject}");
        read_scenario(&text, folder.path())
            .map_err(|mistakes: Mistakes| mistakes.0.iter().map(ToString::to_string).collect())
    }

    fn mistake(traffic: &str, rest: &str) -> String {
        let mistakes = scenario(traffic, rest).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
        mistakes[0].clone()
    }

    const EVEN: &str = "file = 'a.pcap'\nrate-pps = 1_000";
    const RECORDED: &str = "file = 'a.pcap'\npace = 'recorded'";

    #[test]
    fn the_file_says_what_is_sent_and_the_scenario_how_much_of_it() {
        let conditions = scenario(EVEN, "").unwrap().conditions();
        let [condition] = conditions[..] else { panic!("{conditions:?}") };
        assert_eq!((condition.flows, condition.payload_bytes, condition.rate_pps), (2, 100, 1_000));
        assert_eq!((condition.generator, condition.sink_kind), (GeneratorKind::Pcap, SinkKind::Packet));
        let datagrams = |traffic: &str| {
            let traffic = scenario(traffic, "").unwrap().traffic;
            traffic.rates_pps.iter().map(|rate| (*rate, traffic.datagrams(*rate))).collect::<Vec<_>>()
        };
        assert_eq!(datagrams(EVEN), [(1_000, 10)]);
        assert_eq!(datagrams(&format!("{EVEN}\nduration = '7ms'")), [(1_000, 7)]);
        assert_eq!(datagrams(&format!("{EVEN}\ndatagrams = 4")), [(1_000, 4)]);
        let rates = "file = 'a.pcap'\nduration = '5ms'\nrate-pps = [400, 1_000]";
        assert_eq!(datagrams(rates), [(400, 2), (1_000, 5)]);
        assert_eq!(datagrams(RECORDED), [(10, 10)]);
        assert_eq!(datagrams(&format!("{RECORDED}\nduration = '300ms'")), [(3, 3)]);
    }

    #[test]
    fn a_file_that_cannot_be_replayed_is_named_with_a_remedy() {
        let raw = mistake("file = 'raw.pcap'\nrate-pps = 1", "");
        assert!(
            raw.starts_with("line 4: traffic.file: ")
                && raw.contains("raw.pcap: packet 1 has link type 101, and only"),
            "{raw}"
        );
        let none = mistake("file = 'none.txt'\nrate-pps = 1", "");
        assert!(none.contains("none.txt: is neither a pcap nor a pcapng file: record one"), "{none}");
        let absent = mistake("file = 'b.pcap'\nrate-pps = 1", "");
        assert!(absent.contains("b.pcap: No such file or directory"), "{absent}");
        let large = mistake(EVEN, "[link]\nmtu = 100");
        assert!(large.contains("packet 1 has an IP packet of 128 bytes, which an MTU of 100"), "{large}");
        let six = mistake(&format!("{EVEN}\nfamily = 'ipv6'"), "");
        assert!(six.contains("(not sent: 10 of the other address family)"), "{six}");
        let slow = mistake("file = 'slow.pcap'\npace = 'recorded'", "");
        assert!(
            slow.starts_with("line 5: traffic.pace: the file has less than one datagram a second"),
            "{slow}"
        );
    }

    #[test]
    fn what_does_not_go_with_it_is_refused() {
        for key in ["flows = 2", "payload-bytes = 100", "burst = 2", "foreign-pps = 9", "impairments = {}"] {
            let told = mistake(&format!("{EVEN}\n{key}"), "");
            assert!(told.contains("does not go with generator = \"pcap\""), "{told}");
        }
        for (traffic, rest, told) in [
            ("rate-pps = 1", "", "traffic.file: is missing"),
            ("file = 'a.pcap'", "", "traffic.rate-pps: is missing"),
            (&format!("{RECORDED}\nrate-pps = 1"), "", "traffic.rate-pps: does not go with pace"),
            (&format!("{EVEN}\ncast = 'unicast-to-multicast'"), "", "traffic.cast: must be from multicast"),
            (&format!("{EVEN}\nduration = '1us'"), "", "1000 packets/s make no datagram"),
            (EVEN, "[link]\nsegmentation = 'offload'", "link.segmentation: must be \"wire\""),
            (EVEN, "[sinks]\nkind = 'xdp'", "sinks.kind: recorded payloads have no numbers"),
            (EVEN, "[trials]\nmeasure = 'join-leave'", "traffic.generator: \"pcap\" does not go with"),
            (EVEN, "[[event]]\nkill = 'worker'\nat = '1s'", "event: does not go with"),
            (
                EVEN,
                "[[subject]]\nname = 'w'\nwire = 'direct'",
                "subject[0].wire: \"direct\" does not go with",
            ),
            (EVEN, "[[expect.ratio]]\nmetric = 'p99'\nof = 'r'\nto = 'r'\n", "metric: is not measured of"),
        ] {
            let mistakes = scenario(traffic, rest).unwrap_err();
            assert!(mistakes.iter().any(|mistake| mistake.contains(told)), "{told}: {mistakes:#?}");
        }
        let others =
            "name = 'x'\n[traffic]\nrate-pps = 1\nfile = 'a.pcap'\n[[subject]]\nname = 'r'\nrelay = {}\n";
        let mistakes = others.parse::<Scenario>().unwrap_err().to_string();
        assert!(mistakes.contains("traffic.file: belongs to generator = \"pcap\""), "{mistakes}");
    }
}
