//! Scenarios that are right, and every way of being wrong.

use std::time::Duration;

use super::*;
use crate::generator::GeneratorKind;
use crate::impairments::Impairments;
use crate::memory::MemoryLimits;
use crate::scenario::Condition;
use crate::scenario::traffic::parse_duration;
use crate::scenario::{Metric, Search, SearchRatio, When};
use crate::verdict::Counts;

const LEAST: &str =
    "name = 'x'\n[traffic]\nrate-pps = 1000\n[[subject]]\nname = 'r'\nrelay = { rx = 'recv' }\n";

fn scenario(text: &str) -> Result<Scenario, Mistakes> {
    text.parse()
}

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
    assert_eq!(
        (scenario.link.mtu, &scenario.sinks.counts[..], &scenario.traffic.flows[..]),
        (1_500, &[1][..], &[1][..])
    );
    assert_eq!((scenario.trials.blocks, scenario.trials.retries), (1, 2));
    assert_eq!(scenario.traffic.duration, Duration::from_secs(3));
    assert_eq!(scenario.traffic.warmup, Duration::from_millis(500));
    assert_eq!(scenario.traffic.payloads_bytes, [100]);
    let condition = Condition {
        cast: Cast::MulticastToMulticast,
        segmentation: Segmentation::Wire,
        sink_kind: SinkKind::Xdp,
        fan_out: 1,
        generator: GeneratorKind::Xdp,
        flows: 1,
        payload_bytes: 100,
        foreign_pps: 0,
        rate_pps: 1_000,
    };
    assert_eq!(scenario.conditions(), [condition]);
    assert_eq!(scenario.expected_of(&scenario.subjects[0]), Some(Counts::default()));
    assert!(
        matches!(&scenario.subjects[0].kind, SubjectKind::Relay(relay) if relay.table["rx"].as_str() == Some("recv"))
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
        optional = true
        [expect]
        loss = 1
        duplicates = 2
        reordered = 3
        corrupted = 4
        memory-mib = 32
        memory-growth-kib = 0
        subjects = ["ours"]
        "#,
    )
    .unwrap();
    assert_eq!(scenario.conditions().len(), 8);
    assert_eq!(scenario.traffic.duration, Duration::from_millis(1_500));
    let expected = Counts { lost: 1, duplicated: 2, reordered: 3, corrupted: 4 };
    assert_eq!(scenario.expected_of(&scenario.subjects[0]), Some(expected));
    assert_eq!(scenario.expected_of(&scenario.subjects[1]), None);
    let limits = MemoryLimits { most: Some(32 << 20), growth: Some(0), descriptors: None };
    assert_eq!(scenario.memory_limits_of(&scenario.subjects[0]), limits);
    assert_eq!(scenario.memory_limits_of(&scenario.subjects[1]), MemoryLimits::default());
    assert!(matches!(&scenario.subjects[1].kind, SubjectKind::Command(command) if command.optional));
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
            "line 6: sinks.count: must be a whole number from 1 to 16, or a list of such, found 17",
            "line 7: subject[0].relay: is missing: give relay = { rx = \"recv\" }, command = [\"program\", \
             \"argument\"], or wire = \"direct\"",
        ]
    );
}

#[test]
fn the_limits_are_those_of_what_is_built() {
    let smallest = LEAST.replace("[[sub", "payload-bytes = 40\n[link]\nmtu = 68\n[[sub");
    assert_eq!(scenario(&smallest).unwrap().link.mtu, Family::Ipv4.least_mtu());
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

/// The kinds of sink of every condition of the least scenario with `more` in it.
fn kinds(more: &str) -> Vec<SinkKind> {
    let scenario = scenario(&LEAST.replace("[[sub", &format!("{more}\n[[sub"))).unwrap();
    scenario.conditions().iter().map(|condition| condition.sink_kind).collect()
}

#[test]
fn auto_is_the_xdp_sink_where_that_can_count() {
    use SinkKind::{Packet, Socket, Xdp};
    assert_eq!(kinds("[sinks]\nkind = 'auto'"), [Xdp]);
    assert_eq!(kinds("payload-bytes = [100, 1_473]"), [Xdp, Packet]);
    assert_eq!(kinds("[sinks]\nkind = ['auto', 'xdp', 'socket', 'packet']"), [Xdp, Socket, Packet]);
    for link in ["segmentation = 'offload'", "mtu = 9_000"] {
        assert_eq!(kinds(&format!("[link]\n{link}")), [Packet]);
    }
    let mut offload = scenario(&LEAST.replace("[[sub", "[link]\nsegmentation = 'offload'\n[[sub")).unwrap();
    assert!(!offload.may_choose_xdp());
    assert_eq!(offload.xdp_unfit().len(), 1);
    offload.without_xdp();
    assert_eq!(offload.xdp_unfit(), []);
    // What holds for one segmentation is nothing to the other.
    let both = "[link]\nsegmentation = ['wire', 'offload']";
    assert_eq!(kinds(both), [Xdp, Packet]);
    assert_eq!(kinds(&format!("{both}\n[sinks]\nkind = ['auto', 'packet']")), [Xdp, Packet, Packet]);
    let both = scenario(&LEAST.replace("[[sub", &format!("{both}\n[[sub"))).unwrap();
    assert_eq!((both.may_choose_xdp(), both.xdp_unfit().len()), (true, 1));
    let mut wire = scenario(LEAST).unwrap();
    assert!(wire.may_choose_xdp());
    wire.without_xdp();
    assert_eq!(wire.conditions()[0].sink_kind, Packet);
}

#[test]
fn a_named_xdp_sink_must_be_able_to_count() {
    let with = |more: &str| {
        mistake(&LEAST.replace("[[sub", &format!("{more}\n[sinks]\nkind = ['packet', 'xdp']\n[[sub")))
    };
    let offload = with("[link]\nsegmentation = 'offload'");
    assert!(
        offload.starts_with("line 7: sinks.kind: segmentation = \"offload\" does not go with"),
        "{offload}"
    );
    let both = with("[link]\nsegmentation = ['wire', 'offload']");
    assert!(both.contains("segmentation = \"offload\" does not go with"), "{both}");
    assert!(with("[link]\nmtu = 9_000").contains("an MTU of 9000 takes no program"));
    assert!(with("payload-bytes = [100, 2_000]").contains("payloads of 2000 bytes come as fragments"));
    let other = mistake(&LEAST.replace("[[sub", "[sinks]\nkind = 'ring'\n[[sub"));
    assert!(other.contains("\"auto\", \"xdp\", \"packet\""), "{other}");
}

#[test]
fn sizes_are_bounded_by_the_mtu_and_the_family() {
    let with = |keys: &str| LEAST.replace("[[sub", &format!("{keys}\n[[sub"));
    // Over IPv4, what is larger than the MTU is sent as fragments.
    assert!(scenario(&with("payload-bytes = [1472, 1473, 65507]")).is_ok());
    assert!(mistake(&with("payload-bytes = 65508")).contains("from 18 to 65507"));
    assert!(mistake(&with("payload-bytes = 17")).contains("from 18 to 65507"));
    assert!(scenario(&with("payload-bytes = 1452\nfamily = 'ipv6'")).is_ok());
    let six = mistake(&with("payload-bytes = [100, 1453]\nfamily = 'ipv6'"));
    assert!(
        six.starts_with("line 4: traffic.payload-bytes: over IPv6 an MTU of 1500 carries at most 1452"),
        "{six}"
    );
    assert!(six.contains("found 1453: IPv6 fragments are not in this version"), "{six}");
    assert!(mistake(&with("family = 'ipv6'\n[link]\nmtu = 1279")).contains("from 1280 to 65535"));
}

#[test]
fn the_generator_is_one_that_can_send_it() {
    let with = |keys: &str| LEAST.replace("[[sub", &format!("{keys}\n[[sub"));
    let kinds = |keys: &str| {
        let conditions = scenario(&with(keys)).unwrap().conditions();
        conditions.into_iter().map(|condition| condition.generator).collect::<Vec<_>>()
    };
    let (xdp, packet) = (GeneratorKind::Xdp, GeneratorKind::Packet);
    assert_eq!(kinds("payload-bytes = [1472, 1473, 8000]"), [xdp, packet, packet]);
    assert_eq!(kinds("payload-bytes = [3286, 3287]\n[link]\nmtu = 9000"), [xdp, packet]);
    assert_eq!(kinds("payload-bytes = 3267\nfamily = 'ipv6'\n[link]\nmtu = 9000"), [packet]);
    assert_eq!(kinds("generator = 'xdp'"), [xdp]);
    assert_eq!(kinds("generator = 'packet'"), [packet]);
    assert_eq!(
        mistake(&with("generator = 'xdp'\npayload-bytes = [100, 1473]")),
        "line 4: traffic.generator: \"xdp\" cannot send payloads of 1473 bytes, which an MTU of 1500 cuts into fragments: \
         take \"packet\", or \"auto\" for \"packet\" where it is needed"
    );
    assert!(
        mistake(&with("generator = 'xdp'\npayload-bytes = 4000\n[link]\nmtu = 9000")).contains("3328 bytes")
    );
    assert!(mistake(&with("generator = 'pktgen'")).contains("one of \"auto\", \"xdp\", \"packet\""));
    assert_eq!(kinds("generator = 'trains'\npayload-bytes = [100, 1472]"), [GeneratorKind::Trains; 2]);
    assert_eq!(
        mistake(&with("generator = 'trains'\nflows = [1, 2]")),
        "line 4: traffic.generator: \"trains\" cannot send 2 flows in turn: a train has one destination: take \"packet\""
    );
    assert!(
        mistake(&with("generator = 'trains'\npayload-bytes = 1473"))
            .contains("into fragments: take \"packet\"")
    );
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
fn a_burst_is_part_of_what_is_sent() {
    let with = |keys: &str| LEAST.replace("[[sub", &format!("{keys}\n[[sub"));
    assert_eq!(scenario(LEAST).unwrap().traffic.burst, 1);
    assert_eq!(scenario(&with("burst = 3_000")).unwrap().traffic.burst, 3_000);
    let large = mistake(&with("burst = 3_001"));
    assert_eq!(
        large,
        "line 4: traffic.burst: 1000 packets/s make 3000 datagrams, less than one burst of 3001: lower burst, or raise \
         rate-pps or duration"
    );
    assert!(mistake(&with("burst = 0")).contains("from 1 to 4294967296"));
}

#[test]
fn subjects_are_one_thing_with_a_name_of_their_own() {
    let twice = format!("{LEAST}[[subject]]\nname = 'r'\ncommand = 'true'\n");
    assert!(mistake(&twice).starts_with("line 8: subject[1].name: there is a subject \"r\" already"));
    let both = LEAST.replace("relay =", "command = ['x']\nrelay =");
    assert!(mistake(&both).contains("a relay, a command or a wire: remove all but one"));
    let files = LEAST.replace("relay =", "files = {}\nrelay =");
    assert!(mistake(&files).contains("belongs to a command"));
    let relay = mistake(&LEAST.replace("relay =", "optional = true\nrelay ="));
    assert_eq!(
        relay,
        "line 6: subject[0].optional: belongs to a command: a relay and a wire are always there, remove it"
    );
}

#[test]
fn a_search_has_a_width() {
    let width = |more: &str| scenario(&format!("{LEAST}{more}")).map(|scenario| scenario.search.width);
    assert_eq!((width("").unwrap(), width("[search]\nwidth = 0.2\n").unwrap()), (0.05, 0.2));
    assert!(mistake(&format!("{LEAST}[search]\nwidth = 0\n")).contains("from 0.001 to 1"));
    assert!(mistake(&format!("{LEAST}[search]\nwith = 1\n")).contains("did you mean `width`?"));
}

#[test]
fn searches_may_be_compared() {
    let text =
        LEAST.replace("1000", "[1_000, 9_000]") + "[[subject]]\nname = 's'\nrelay = {}\n[[search.ratio]]\n";
    let good = format!("{text}of = 'r'\nto = 's'\nat-least = 1.7\n");
    let read = scenario(&good).unwrap().search;
    let ratio = SearchRatio { of: "r".into(), to: "s".into(), at_least: 1.7 };
    assert_eq!(read, Search { width: 0.05, ratios: vec![ratio] });

    let told = |from: &str, to: &str| mistake(&good.replace(from, to)).split_once(": ").unwrap().1.to_owned();
    assert_eq!(told("to = 's'", "to = 'q'"), "search.ratio[0].to: no subject \"q\": there is \"r\", \"s\"");
    assert!(told("to = 's'", "to = 'r'").contains("is the same subject as `of`: name another one"));
    assert!(told("1.7", "0").contains("at-least: must be a number from 0.001 to 1000"));
    assert!(told("at-least = 1.7", "").contains("at-least: is missing: give what the ratio must come to"));
    assert!(told("at-least", "at-most = 1\nat-least").contains("ratio[0].at-most: unknown key"));
    assert!(told("of = 'r'", "").contains("search.ratio[0].of: is missing"));
    assert_eq!(
        told("[1_000, 9_000]", "1_000"),
        "search.ratio: takes a search between two rates, and there is only 1000: write traffic.rate-pps = [1000, 10000]"
    );
    let delays = good.replace("[[search", "[trials]\nmeasure = 'join-leave'\n[[search");
    assert!(mistake(&delays).contains("search.ratio: takes a search, which looks for loss"));
    assert!(mistake(&good.replace("[[search.ratio]]", "[search.ratio]")).contains("write [[ratio]]"));
}

#[test]
fn a_wire_has_one_end_and_changes_nothing() {
    let with = |keys: &str| LEAST.replace("relay = { rx = 'recv' }", keys);
    let wire = scenario(&with("wire = 'direct'")).unwrap();
    assert!(matches!(wire.subjects[0].kind, SubjectKind::Wire));
    assert!(mistake(&with("wire = 'crossed'")).contains("\"direct\""));
    assert!(
        mistake(&with("wire = 'direct'\noutput = 'same'")).contains("belongs to a command: a wire runs none")
    );
    assert!(mistake(&with("wire = 'direct'\nrelay = {}")).contains("remove all but one"));
    let unicast = with("wire = 'direct'").replace("[[sub", "cast = 'unicast-to-multicast'\n[[sub");
    assert!(mistake(&unicast).contains("\"direct\" cannot be with cast \"unicast-to-multicast\""));
    let sinks = with("wire = 'direct'").replace("[[sub", "[sinks]\ncount = 2\n[[sub");
    assert!(mistake(&sinks).contains("has one end, not 2: use sinks.count = 1"));
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
    let half = mistake(&with("command = ['x']\noptional = 'yes'"));
    assert_eq!(half, "line 7: subject[0].optional: must be true or false, found \"yes\"");
    let typo = mistake(&with("command = ['x']\noptionl = true"));
    assert_eq!(typo, "line 7: subject[0].optionl: unknown key; did you mean `optional`?");
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
fn memory_is_expected_of_processes() {
    let with = |keys: &str| format!("{LEAST}[expect]\n{keys}\n");
    let wire = "[[subject]]\nname = 'w'\nwire = 'direct'\n";
    let both = scenario(&format!("{LEAST}{wire}[expect]\nmemory-mib = 32\n")).unwrap();
    let limits = |subject: usize| both.memory_limits_of(&both.subjects[subject]);
    assert_eq!(limits(0), MemoryLimits { most: Some(32 << 20), growth: None, descriptors: None });
    assert_eq!(limits(1), MemoryLimits::default(), "a wire has no processes");
    let named = format!("{LEAST}{wire}[expect]\nmemory-growth-kib = 1\nsubjects = ['w']\n");
    assert_eq!(
        mistake(&named),
        "line 11: expect.memory-growth-kib: is about the memory of a subject's processes, and a wire has none: name a \
         relay or a command in expect.subjects"
    );
    assert!(
        mistake(&with("memory-mib = 0"))
            .contains("expect.memory-mib: must be a whole number from 1 to 1048576")
    );
    assert!(mistake(&with("memory-growth-kib = -1")).contains("from 0 to 1073741824"));
    assert!(mistake(&with("memory-mb = 3")).contains("did you mean `memory-mib`?"));
    let join_leave = with("memory-mib = 32\n[trials]\nmeasure = 'join-leave'");
    assert!(mistake(&join_leave).contains("not measured with trials.measure = \"join-leave\": remove it"));
}

#[test]
fn a_relay_may_have_more_rules_than_flows() {
    let with = |keys: &str| LEAST.replace("relay = { rx = 'recv' }", keys);
    assert_eq!(scenario(LEAST).unwrap().subjects[0].extra_rules(), 0);
    assert_eq!(scenario(&with("relay = {}\nextra-rules = 9_999")).unwrap().subjects[0].extra_rules(), 9_999);
    assert!(mistake(&with("relay = {}\nextra-rules = 65_536")).contains("from 0 to 65535"));
    for other in ["wire = 'direct'", "command = ['x']"] {
        assert_eq!(
            mistake(&with(&format!("{other}\nextra-rules = 1"))),
            "line 7: subject[0].extra-rules: belongs to a relay: remove it, or measure one with relay = { rx = \"mmap\" }"
        );
    }
}

/// Two subjects in `blocks` blocks, and one ratio with `keys`.
fn with_ratio(blocks: usize, keys: &str) -> String {
    format!(
        "{LEAST}[[subject]]\nname = 's'\nrelay = {{ rx = 'recv' }}\n[trials]\nblocks = {blocks}\n[[expect.ratio]]\n{keys}\n"
    )
}

#[test]
fn ratios_are_read() {
    let ratio = |keys: &str| scenario(&with_ratio(3, keys)).unwrap().expect.ratios.remove(0);
    let read = ratio("metric = 'p999'\nof = 's'\nto = 'r'");
    assert_eq!((read.metric, read.of.as_str(), read.to.as_str()), (Metric::P999, "s", "r"));
    assert_eq!((read.at_most, read.rates_pps), (None, vec![1_000]));
    let read = ratio("metric = 'relay-cpu'\nof = 's'\nto = 'r'\nat-most = 0.8\nrate-pps = 1_000");
    assert_eq!((read.at_most, read.rates_pps), (Some(0.8), vec![1_000]));
}

#[test]
fn ratios_are_checked() {
    let told = |keys: &str| mistake(&with_ratio(3, keys));
    let good = "metric = 'p99'\nof = 's'\nto = 'r'";
    assert_eq!(
        told(&good.replace("'s'", "'q'")),
        "line 14: expect.ratio[0].of: no subject \"q\": there is \"r\", \"s\""
    );
    assert_eq!(
        told(&good.replace("'r'", "'s'")),
        "line 15: expect.ratio[0].to: is the same subject as `of`: name another one, or tell two conditions of it apart \
         by `of-when` and `to-when`"
    );
    assert!(
        told(&good.replace("p99", "p98"))
            .contains("one of \"relay-cpu\", \"relay-cpu-per-copy\", \"system-cpu\", \"p50\"")
    );
    for at_most in ["0", "-0.5"] {
        let told = told(&format!("{good}\nat-most = {at_most}"));
        assert!(
            told.starts_with("line 16: expect.ratio[0].at-most: must be a number from 0.001 to 1000"),
            "{told}"
        );
    }
    assert_eq!(
        told(&format!("{good}\nrate-pps = [1_000, 7]")),
        "line 16: expect.ratio[0].rate-pps: 7 is no rate of this scenario: traffic.rate-pps has 1000"
    );
    assert!(told("of = 's'\nto = 'r'").contains("metric: is missing: give what to compare"));
    assert!(told(&format!("{good}\natmost = 1")).contains("did you mean `at-most`?"));
}

#[test]
fn a_ratio_may_fix_parts_of_both_conditions() {
    let with = |keys: &str| {
        let lists = "flows = [1, 2]\npayload-bytes = [18, 100]\n[link]\nsegmentation = ['wire', 'offload']\n[sinks]\n\
                     count = [1, 8]\n[[sub";
        with_ratio(3, &format!("metric = 'relay-cpu'\nof = 's'\nto = 's'\n{keys}"))
            .replace("rate-pps = 1000", "rate-pps = [1_000, 2_000]")
            .replacen("[[sub", lists, 1)
    };
    let all = "{ segmentation = 'offload', sinks = 8, flows = 2, payload-bytes = 18, rate-pps = 2_000 }";
    let one = "{ segmentation = 'wire', sinks = 1, flows = 1, payload-bytes = 100, rate-pps = 1_000 }";
    let read = scenario(&with(&format!("of-when = {all}\nto-when = {one}"))).unwrap();
    let ratio = &read.expect.ratios[0];
    let of = When {
        segmentation: Some(Segmentation::Offload),
        fan_out: Some(8),
        flows: Some(2),
        payload_bytes: Some(18),
        foreign_pps: None,
        rate_pps: Some(2_000),
    };
    assert_eq!((ratio.of_when, read.conditions_of(ratio).len()), (of, 1));
    let part = scenario(&with("of-when = { sinks = 8 }\nto-when = { sinks = 1 }\nrate-pps = 2_000")).unwrap();
    assert_eq!(part.conditions_of(&part.expect.ratios[0]).len(), 8);

    let told = |keys: &str| mistake(&with(keys)).split_once(": ").unwrap().1.to_owned();
    assert_eq!(
        told("of-when = { sinks = 8 }\nto-when = { sinks = 2 }"),
        "expect.ratio[0].to-when.sinks: the scenario has no 2: sinks.count has 1, 8"
    );
    assert!(
        told("of-when = { payload-bytes = 18 }\nto-when = { payload-bytes = 19 }")
            .contains("has no 19: traffic.payload-bytes has 18, 100")
    );
    assert_eq!(
        told("of-when = { sinks = 8, flows = 1 }\nto-when = { sinks = 1 }"),
        "expect.ratio[0].to-when: `of-when` fixes `flows` and `to-when` does not: write it in both tables"
    );
    assert!(told("to-when = { sinks = 1 }").starts_with("expect.ratio[0].to-when: `to-when` fixes `sinks`"));
    assert!(
        told("of-when = { sinks = 1 }\nto-when = { sinks = 1 }").contains("the same subject as `of`: name")
    );
    assert!(
        told("of-when = { rate-pps = 2_000 }\nto-when = { rate-pps = 1_000 }\nrate-pps = 1_000")
            .starts_with("expect.ratio[0].rate-pps: the rates are fixed by `of-when`")
    );
    assert!(
        told("of-when = { segmentation = 'nic' }\nto-when = { segmentation = 'wire' }")
            .contains("of-when.segmentation: must be one of \"wire\", \"offload\", found \"nic\"")
    );
    assert!(
        told("of-when = { sinks = 8 }\nto-when = { sinks = '1' }").contains("to-when.sinks: must be a whole")
    );
    assert!(told("of-when = { sinks = 8 }\nto-when = 1").contains("to-when: must be a table, found 1"));
    let empty = mistakes(&with("of-when = {}\nto-when = { sinks = 1 }"));
    assert!(
        empty[1].contains("of-when: fixes nothing: give one of segmentation, sinks, flows"),
        "{empty:#?}"
    );
    let typo = mistakes(&with("of-when = { sink = 8 }\nto-when = { sinks = 1 }"));
    assert!(typo.iter().any(|line| line.contains("of-when.sink: unknown key; did you mean `sinks`?")));
}

#[test]
fn a_verdict_on_a_ratio_takes_blocks() {
    let keys = "metric = 'p99'\nof = 's'\nto = 'r'\nat-most = 0.8";
    assert!(scenario(&with_ratio(3, keys)).is_ok());
    assert_eq!(
        mistake(&with_ratio(2, keys)),
        "line 16: expect.ratio[0].at-most: a verdict takes 3 blocks or more, found 2: raise trials.blocks, or leave \
         at-most out to have the ratio reported only"
    );
    assert!(scenario(&with_ratio(1, &keys.replace("at-most = 0.8", ""))).is_ok());
}

#[test]
fn latencies_are_compared_where_payloads_have_room_for_a_time() {
    let with = |payloads: &str, metric: &str| {
        let keys = format!("metric = '{metric}'\nof = 's'\nto = 'r'");
        with_ratio(1, &keys).replacen("[[sub", &format!("payload-bytes = {payloads}\n[[sub"), 1)
    };
    assert!(mistake(&with("[18, 33]", "p50")).contains("payload-bytes must have one of 34 or more"));
    assert!(scenario(&with("[18, 34]", "p50")).is_ok());
    assert!(scenario(&with("18", "relay-cpu")).is_ok());
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

#[test]
fn impairments_have_room_and_are_for_wires() {
    let wire = LEAST.replace("relay = { rx = 'recv' }", "wire = 'direct'");
    assert_ne!(wire, LEAST);
    let with = |text: &str, faults: &str| {
        text.replace("[[sub", &format!("[traffic.impairments]\n{faults}\n[expect]\nalien = 5\n[[sub"))
    };
    let all = "drop = 1\nduplicate = 2\nswap = 3\ncorrupt = 4\nforeign = 5";
    let read = scenario(&with(&wire, all)).unwrap();
    let impairments = Impairments { drop: 1, duplicate: 2, swap: 3, corrupt: 4, foreign: 5 };
    assert_eq!((read.traffic.impairments, read.expect.alien), (impairments, 5));
    assert_eq!(
        mistake(&with(LEAST, "drop = 1")).split_once(": ").unwrap().1,
        "subject[0].relay: what becomes of traffic.impairments is known beforehand without a relay only: use \
         wire = \"direct\", or a scenario of its own for this subject"
    );
    assert!(scenario(&with(LEAST, "drop = 0")).is_ok());
    assert!(
        mistake(&with(&wire, "swap = 751"))
            .contains("1000 packets/s make 3000 datagrams, and so many faults take 3004")
    );
    assert!(mistake(&with(&wire, "lose = 1")).contains("traffic.impairments.lose: unknown key"));
}

#[test]
fn what_comes_on_top_of_the_wire_takes_a_wire() {
    let text =
        LEAST.replace("name = 'r'", "name = 'a'") + "[[subject]]\nname = 'b'\nrelay = { rx = 'recv' }\n";
    let ratio = "[[expect.ratio]]\nmetric = 'system-cpu'\nof = 'a'\nto = 'b'\n";
    let with = |calibrate| format!("{text}[trials]\ncalibrate = {calibrate}\n{ratio}");
    assert!(scenario(&with("true")).is_ok_and(|scenario| scenario.trials.calibrate));
    assert!(mistake(&with("false")).contains("is what comes on top of the direct wire"));
    assert!(mistake(&with("1")).contains("trials.calibrate"));
}

#[test]
fn flows_and_sinks_may_be_lists() {
    let text =
        LEAST.replace("[[sub", "flows = [1, 10]\npayload-bytes = [18, 20]\n[sinks]\ncount = [1, 3]\n[[sub");
    let conditions = scenario(&text).unwrap().conditions();
    let shown: Vec<_> = conditions
        .iter()
        .map(|condition| (condition.fan_out, condition.flows, condition.payload_bytes))
        .collect();
    let expected =
        [(1, 1, 18), (1, 1, 20), (1, 10, 18), (1, 10, 20), (3, 1, 18), (3, 1, 20), (3, 10, 18), (3, 10, 20)];
    assert_eq!(shown, expected);
    // What holds for one of them must hold for all.
    assert!(
        mistake(&text.replace("[1, 10]", "[1, 3_001]"))
            .contains("1000 packets/s make 3000 datagrams for 3001 flows")
    );
    assert!(mistake(&text.replace("count = [1, 3]", "count = [1, 17]")).contains("from 1 to 16"));
    let wire = text.replace("relay = { rx = 'recv' }", "wire = 'direct'");
    assert!(mistake(&wire).contains("has one end, not 3"));
}

#[test]
fn segmentation_may_be_a_list() {
    let with = |list: &str| LEAST.replace("[[sub", &format!("[link]\nsegmentation = {list}\n[[sub"));
    let both = scenario(&with("['wire', 'offload', 'wire']")).unwrap();
    let conditions = both.conditions();
    let shown: Vec<_> = conditions.iter().map(|condition| condition.segmentation).collect();
    assert_eq!(shown, [Segmentation::Wire, Segmentation::Offload]);
    let links = conditions.iter().map(|condition| both.link_under(condition).segmentation);
    assert_eq!(links.collect::<Vec<_>>(), shown);
    assert_eq!(
        mistake(&with("['wire', 'nic']")),
        "line 5: link.segmentation: must hold one of \"wire\", \"offload\", found \"nic\""
    );
    assert!(mistake(&with("[]")).contains("link.segmentation: is an empty list"));
}

#[test]
fn joining_and_leaving_takes_a_relay() {
    let text =
        LEAST.replace("name = 'r'", "name = 'a'") + "[[subject]]\nname = 'b'\nrelay = { rx = 'recv' }\n";
    let with = |measure, metric| {
        let ratio = format!("[[expect.ratio]]\nmetric = '{metric}'\nof = 'a'\nto = 'b'\n");
        format!("{text}[trials]\nmeasure = '{measure}'\n{ratio}")
    };
    let read = scenario(&with("join-leave", "join-delay")).unwrap();
    assert_eq!(read.trials.measure, Measure::JoinLeave);
    assert!(scenario(&with("traffic", "p99")).is_ok());
    assert!(mistake(&with("traffic", "leave-delay")).contains("takes trials.measure = \"join-leave\""));
    assert!(mistake(&with("join-leave", "p99")).contains("takes trials.measure = \"traffic\""));
    assert_eq!(read.expected_of(&read.subjects[0]), None, "there is nothing to count");
    let counted = |measure| format!("{text}[trials]\nmeasure = '{measure}'\n[expect]\nloss = 1\n");
    assert!(scenario(&counted("traffic")).is_ok());
    assert!(mistake(&counted("join-leave")).contains("is about counts"));
    let wire = "name = 'x'\n[traffic]\nrate-pps = 1\n[trials]\nmeasure = 'join-leave'\n[[subject]]\nname = 'w'\n\
                wire = 'direct'\n";
    assert!(mistake(wire).contains("neither joins nor leaves anything"));
}
