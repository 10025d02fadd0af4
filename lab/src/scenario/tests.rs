//! Scenarios that are right, and every way of being wrong.

use super::*;
use crate::scenario::Condition;

const LEAST: &str =
    "name = 'x'\n[traffic]\nrate-pps = 1000\n[[subject]]\nname = 'r'\nrelay = { rx = 'recv' }\n";

fn mistakes(text: &str) -> Vec<String> {
    scenario(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

/// The one mistake in `text`.
fn mistake(text: &str) -> String {
    let found = mistakes(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

#[test]
fn the_least_scenario_has_every_default() {
    let scenario = scenario(LEAST).unwrap();
    assert_eq!(scenario.name, "x");
    assert_eq!((scenario.link.mtu, scenario.sinks.count, scenario.traffic.flows), (1_500, 1, 1));
    assert_eq!((scenario.trials.blocks, scenario.trials.retries), (1, 2));
    assert_eq!(scenario.traffic.duration, Duration::from_secs(3));
    assert_eq!(scenario.traffic.warmup, Duration::from_millis(500));
    assert_eq!(scenario.traffic.payloads_bytes, [100]);
    let condition = Condition {
        cast: Cast::MulticastToMulticast,
        sink_kind: SinkKind::Packet,
        payload_bytes: 100,
        rate_pps: 1_000,
    };
    assert_eq!(scenario.conditions(), [condition]);
    assert_eq!(scenario.expected_of(&scenario.subjects[0]), Some(Counts::default()));
    assert!(
        matches!(&scenario.subjects[0].kind, SubjectKind::Relay(table) if table["rx"].as_str() == Some("recv"))
    );
}

#[test]
fn a_full_scenario_is_read() {
    let scenario = scenario(
        r#"
        name = "full"
        [link]
        mtu = 9000
        segmentation = "offload"
        checksum = "wire"
        [traffic]
        generator = "packet"
        family = "ipv6"
        cast = ["multicast-to-multicast"]
        rate-pps = [1_000, 2_000]
        payload-bytes = [18, 8952]
        flows = 3
        duration = "1.5s"
        warmup = "0ms"
        [sinks]
        count = 16
        kind = ["packet", "socket", "auto"]
        [trials]
        blocks = 4
        retries = 0
        [[subject]]
        name = "ours"
        relay = { rx = "recv" }
        [[subject]]
        name = "other"
        command = ["other", "-f", "{file:other.conf}", "{ingress}"]
        files = { "other.conf" = "from {group} { }" }
        output = "same"
        [expect]
        loss = 1
        duplicates = 2
        reordered = 3
        corrupted = 4
        subjects = ["ours"]
        "#,
    )
    .unwrap();
    assert_eq!(scenario.conditions().len(), 8);
    assert_eq!(scenario.traffic.duration, Duration::from_millis(1_500));
    let expected = Counts { lost: 1, duplicated: 2, reordered: 3, corrupted: 4 };
    assert_eq!(scenario.expected_of(&scenario.subjects[0]), Some(expected));
    assert_eq!(scenario.expected_of(&scenario.subjects[1]), None);
}

#[test]
fn every_mistake_is_collected_with_its_line() {
    let text =
        "name = 'a/b'\n[traffic]\nrate-pps = 0\nflws = 2\n[sinks]\ncount = 17\n[[subject]]\nname = 'r'\n";
    assert_eq!(
        mistakes(text),
        [
            "line 1: name: must be a name of letters, digits, `-`, `_` and `.`, such as \"zero-loss\", found \"a/b\"",
            "line 3: traffic.rate-pps: must be a whole number from 1 to 10000000, or a list of such, found 0",
            "line 4: traffic.flws: unknown key; did you mean `flows`?",
            "line 6: sinks.count: must be a whole number from 1 to 16, found 17",
            "line 7: subject[0].relay: is missing: give relay = { rx = \"recv\" }, or a command = [\"program\", \
             \"argument\"]",
        ]
    );
}

#[test]
fn the_limits_are_those_of_what_is_built() {
    let smallest = LEAST.replace("[[sub", "payload-bytes = 40\n[link]\nmtu = 68\n[[sub");
    assert_eq!(scenario(&smallest).unwrap().link.mtu, Family::Ipv4.least_mtu());
    let larger = mistake(&smallest.replace("= 40", "= 41"));
    assert!(larger.contains("from 18 to 40"), "{larger}");
    assert!(mistake(&smallest.replace("= 68", "= 67")).contains("from 68 to 65535"));
}

#[test]
fn what_must_be_there_is_asked_for() {
    let found = mistakes("");
    let keys = ["name: is missing", "traffic: is missing", "subject: is missing"];
    assert!(keys.iter().all(|key| found.iter().any(|line| line.contains(key))), "{found:#?}");
    assert!(
        mistake(&LEAST.replace("rate-pps = 1000", "")).starts_with("line 2: traffic.rate-pps: is missing")
    );
}

#[test]
fn what_is_not_in_this_version_says_so() {
    let xdp = mistake(&LEAST.replace("[[sub", "generator = 'xdp'\n[[sub"));
    assert!(xdp.contains("\"xdp\" is not in this version"), "{xdp}");
    let sink = mistake(&LEAST.replace("[[sub", "[sinks]\nkind = ['packet', 'xdp']\n[[sub"));
    assert!(sink.starts_with("line 5: sinks.kind: \"xdp\" is not in this version"), "{sink}");
    let ratio = mistake(&format!("{LEAST}[[expect.ratio]]\nmetric = 'p99'\n"));
    assert!(ratio.contains("expect.ratio: comparing subjects is not in this version"), "{ratio}");
}

#[test]
fn sizes_are_bounded_by_the_mtu_and_the_family() {
    let with = |keys: &str| LEAST.replace("[[sub", &format!("{keys}\n[[sub"));
    assert!(scenario(&with("payload-bytes = 1472")).is_ok());
    assert!(mistake(&with("payload-bytes = 1473")).contains("from 18 to 1472"));
    assert!(mistake(&with("payload-bytes = 17")).contains("from 18 to 1472"));
    assert!(mistake(&with("payload-bytes = 1453\nfamily = 'ipv6'")).contains("from 18 to 1452"));
    assert!(mistake(&with("family = 'ipv6'\n[link]\nmtu = 1279")).contains("from 1280 to 65535"));
}

#[test]
fn amounts_that_cannot_be_counted_are_refused() {
    let with = |keys: &str| LEAST.replace("[[sub", &format!("{keys}\n[[sub"));
    let few = mistake(&with("flows = 10\nduration = '5ms'"));
    assert!(few.contains("1000 packets/s make 5 datagrams for 10 flows"), "{few}");
    let many = mistake(&with("duration = '1h'"));
    assert!(many.contains("must be a duration up to an hour"), "{many}");
    let text = LEAST.replace("1000", "10_000_000").replace("[[sub", "duration = '30m'\n[[sub");
    assert!(mistake(&text).contains("more than the 4294967296"), "{text}");
}

#[test]
fn subjects_are_one_thing_with_a_name_of_their_own() {
    let twice = format!("{LEAST}[[subject]]\nname = 'r'\ncommand = 'true'\n");
    assert!(mistake(&twice).starts_with("line 8: subject[1].name: there is a subject \"r\" already"));
    let both = LEAST.replace("relay =", "command = ['x']\nrelay =");
    assert!(mistake(&both).contains("either a relay or a command"));
    let files = LEAST.replace("relay =", "files = {}\nrelay =");
    assert!(mistake(&files).contains("belongs to a command"));
}

#[test]
fn the_relays_table_is_checked_by_the_relay() {
    let text = LEAST.replace("rx = 'recv'", "rxx = 'recv'");
    assert_eq!(mistake(&text), "line 6: subject[0].relay.rxx: unknown key; did you mean `rx`?");
    assert!(mistake(&LEAST.replace("{ rx = 'recv' }", "7")).contains("must be a table"));
}

#[test]
fn commands_are_checked() {
    let with = |keys: &str| LEAST.replace("relay = { rx = 'recv' }", keys);
    assert!(mistake(&with("command = ['x', '{prot}']")).contains("unknown placeholder {prot}"));
    assert!(mistake(&with("command = ['x', '{file:a}']")).contains("no file \"a\""));
    assert!(mistake(&with("command = ['']")).contains("the program has no name"));
    assert!(mistake(&with("command = ['x']\nfiles = { '../a' = '' }")).contains("no plain file name"));
    assert!(mistake(&with("command = ['x']\nfiles = { 'a' = 1 }")).contains("\"a\" must be a text"));
    assert!(mistake(&with("command = ['x']\noutput = 'elsewhere'")).contains("one of \"same\", \"mapped\""));
    let same = with("command = ['x']\noutput = 'same'");
    let cast = same.replace("[[sub", "cast = 'multicast-to-unicast'\n[[sub");
    assert!(mistake(&cast).contains("\"same\" cannot be with cast \"multicast-to-unicast\""));
}

#[test]
fn expectations_name_subjects_that_exist() {
    let text = format!("{LEAST}[expect]\nsubjects = ['q']\n");
    assert_eq!(mistake(&text), "line 8: expect.subjects: no subject \"q\": there is \"r\"");
}

#[test]
fn durations_have_units() {
    let good =
        [("3s", 3_000_000), ("500ms", 500_000), ("20us", 20), ("1m", 60_000_000), ("1.5 s", 1_500_000)];
    for (text, micros) in good {
        assert_eq!(parse_duration(text), Some(Duration::from_micros(micros)), "{text}");
    }
    for bad in ["", "3", "s", "3h", "-1s", "61m", "1e3s", "..s", "3 ms s"] {
        assert_eq!(parse_duration(bad), None, "{bad}");
    }
}
