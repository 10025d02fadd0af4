use super::*;
use crate::rules::{Dscp, SourceAddress, TimeToLive};
use crate::sys::memory::page_size;
use crate::worker::packet_ring::{MAX_BLOCK_SIZE, Version};

const EXAMPLE: &str = r#"
[relay]
rx = "auto"

[[rule]]
name = "video"
input = { interface = "eth0", group = "239.1.1.1", port = 5000, source = "10.0.0.9" }
outputs = [
  { group = "239.2.2.2", port = 6000, interface = "eth1" },
  { group = "10.9.0.7", port = 6000, interface = "wg0", ttl = 7 },
  { group = "10.9.0.8", port = 6000, interface = "wg0", ttl = "decrement", dscp = "keep", fragment = false },
]
"#;

fn mistakes(text: &str) -> Vec<String> {
    Config::parse(text).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_configuration_is_read() {
    let config = Config::parse(EXAMPLE).unwrap();
    let rule = &config.rules[0];
    assert_eq!(rule.input.to_string(), "eth0:239.1.1.1:5000 from 10.0.0.9");
    assert_eq!(
        rule.outputs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["239.2.2.2:6000:eth1", "10.9.0.7:6000:wg0", "10.9.0.8:6000:wg0"]
    );
    assert_eq!(
        rule.outputs.iter().map(|output| (output.ttl, output.dscp, output.fragment)).collect::<Vec<_>>(),
        [
            (TimeToLive::Fixed(64), Dscp::Fixed(0), true),
            (TimeToLive::Fixed(7), Dscp::Fixed(0), true),
            (TimeToLive::Decrement, Dscp::Keep, false)
        ]
    );
}

#[test]
fn an_output_says_whether_its_copies_keep_their_source() {
    let text = |to: &str, source: &str| {
        format!(
            "[[rule]]\ninput = {{ interface = \"eth0\", group = \"239.1.1.1\", port = 5000 }}\n\
             outputs = [\n  {{ group = \"{to}\", port = 6000, interface = \"eth1\"{source} }},\n]\n"
        )
    };
    let source = |text: &str| Config::parse(text).unwrap().rules[0].outputs[0].source;
    assert_eq!(source(&text("239.2.2.2", "")), SourceAddress::Relay);
    assert_eq!(source(&text("239.2.2.2", ", source = \"relay\"")), SourceAddress::Relay);
    assert_eq!(source(&text("239.2.2.2", ", source = \"preserve\"")), SourceAddress::Preserve);
    let found = mistakes(&text("239.2.2.2", ", source = \"10.0.0.9\""));
    assert_eq!(
        found,
        ["line 4: rule[0].outputs[0].source: must be one of \"relay\", \"preserve\", found \"10.0.0.9\""]
    );
    let found = mistakes(&text("ff15::1", ", source = \"preserve\""));
    assert!(found[0].starts_with("line 4: rule[0].outputs[0].source: cannot be \"preserve\""), "{found:?}");
}

#[test]
fn every_mistake_names_line_key_and_remedy() {
    let text = r#"
[relay]
rx = "fast"
[[rule]]
input = { interface = "eth0", group = "239.1.1.1", port = 0 }
outputs = [{ group = "nowhere", port = 6000, interface = "eth1" }]
[[rule]]
name = "a"
input = { interface = "eth0", group = "239.1.1.1", port = 1 }
outputs = [{ group = "239.1.1.1", port = 1, interface = "eth0" }]
[[rule]]
name = "b"
input = { interface = "eth0", group = "239.1.1.1", port = 1 }
outputs = []
[[rule]]
inputs = {}
"#;
    let found = mistakes(text);
    let starts = [
        "line 3: relay.rx: must be one of",
        "line 5: rule[0].input.port: must be a port: a whole number from 1 to 65535",
        "line 6: rule[0].outputs[0].group: must be an IP address",
        "line 10: rule[1].outputs[0]: is the rule's own input, so that it sends in a circle",
        "line 13: rule[2].input: rules \"a\" and \"b\" have the same input",
        "line 14: rule[2].outputs: is empty",
        "line 15: rule[3].input: is missing",
        "line 15: rule[3].outputs: is missing",
        "line 16: rule[3].inputs: unknown key; did you mean `input`?",
    ];
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (found, start) in found.iter().zip(starts) {
        assert!(found.starts_with(start), "{found} does not start with {start}");
    }
}

#[test]
fn what_is_right_by_itself_is_checked_beside_what_is_missing() {
    let text = "[[rule]]\ninput = { interface = \"\", group = \"239.1.1.1\", source = \"fd00::1\" }\noutputs = [5]\n";
    let found = mistakes(text);
    let keys: Vec<_> = found.iter().filter_map(|mistake| mistake.split(": ").nth(1)).collect();
    let expected = ["port", "interface", "source"].map(|key| format!("rule[0].input.{key}"));
    assert_eq!(keys[..3], expected, "{found:#?}");
    assert_eq!(keys[3..], ["rule[0].outputs[0]"], "{found:#?}");
}

#[test]
fn outputs_that_are_no_tables_are_one_mistake() {
    let rule = "[[rule]]\ninput = { interface = \"eth0\", group = \"239.1.1.1\", port = 1 }\noutputs = ";
    assert_eq!(mistakes(&format!("{rule}5")), ["line 3: rule[0].outputs: must be a list of tables, found 5"]);
    assert_eq!(mistakes(&format!("{rule}[5]")), ["line 3: rule[0].outputs[0]: must be a table, found 5"]);
}

#[test]
fn flags_add_rules_and_beat_the_file() {
    let mut flags = Flags {
        rules: vec!["eth0:239.1.1.1:1=239.2.2.2:1:eth1".into(), "eth0:239.1.1.2:1=239.2.2.2:2:eth1".into()],
        rx: Some(Rx::Recv),
        ..Flags::default()
    };
    let config = Config::load_with(&flags, |_| None).unwrap();
    assert_eq!((config.rx, config.rules.len()), (Rx::Recv, 2));
    flags.rules.push("eth0:239.1.1.1:1=239.2.2.9:1:eth1".into());
    let error = Config::load_with(&flags, |_| None).unwrap_err().to_string();
    assert!(error.contains("have the same input eth0:239.1.1.1:1"), "{error}");
    flags.rules.clear();
    assert_eq!(Config::load_with(&flags, |_| None).unwrap().rules, [], "rules can come later");
}

const RULE: &str = "eth0:239.1.1.1:1=239.2.2.2:1:eth1";
const SIZE: &str = "MCR_RING_BLOCK_SIZE";
const COUNT: &str = "MCR_RING_BLOCK_COUNT";

/// What `text` as the file, `environment` and `flags` make together; with a rule.
fn load(text: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    let flags = Flags { file: Some(file.path().to_owned()), rules: vec![RULE.into()], ..flags };
    Config::load_with(&flags, |name| {
        environment.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
    })
}

fn ring_flags(block_size: &str, block_count: &str) -> Flags {
    let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let (block_size, block_count) = (given(block_size), given(block_count));
    Flags { ring: RingFlags { block_size, block_count, ..RingFlags::default() }, ..Flags::default() }
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = load("", &[], Flags::default()).unwrap();
    assert_eq!(config, Config { rules: config.rules.clone(), ..Config::default() });
    assert_eq!(config.ring, Layout::new(Version::V3, 128 << 10, 512, 1).unwrap());
    assert_eq!(
        (config.rx, config.num_workers, config.fanout, config.busy_poll),
        (Rx::Auto, 1, FanoutMode::Hash, Duration::ZERO)
    );
    assert!(config.gso);
}

#[test]
fn trains_can_be_forbidden_by_file_or_flag() {
    let gso = |text: &str, no_gso| load(text, &[], Flags { no_gso, ..Flags::default() }).unwrap().gso;
    assert!(gso("[relay]\ngso = true\n", false) && !gso("[relay]\ngso = false\n", false));
    assert!(!gso("", true) && !gso("[relay]\ngso = true\n", true) && !gso("[relay]\ngso = false\n", true));
}

#[test]
fn the_rule_filter_can_be_left_out_but_not_where_it_consumes() {
    let consume = |text: &str, no_rule_filter, consume| {
        load(text, &[], Flags { no_rule_filter, consume, ..Flags::default() }).map(|config| config.consume)
    };
    assert!(!consume("", false, false).unwrap() && consume("", false, true).unwrap());
    assert!(consume("[relay]\nconsume = true\n", false, false).unwrap());
    for error in [
        consume("", true, true),
        consume("[relay]\nconsume = true\n", true, false),
        consume("[relay]\nconsume = true\nrule-filter = false\n", false, false),
    ] {
        assert!(error.unwrap_err().to_string().contains("without the rule filter"));
    }
    assert!(Config::default().rule_filter);
    let filter = |text: &str, no_rule_filter| {
        load(text, &[], Flags { no_rule_filter, ..Flags::default() }).unwrap().rule_filter
    };
    assert!(!filter("[relay]\nrule-filter = false\n", false) && !filter("", true) && filter("", false));
}

const SHAPED: &str = "[relay]\nrx = \"mmap\"\nnum-workers = 4\nfanout = \"cpu\"\nbusy-poll-us = 50\nring-version = 2\n\
                      ring-block-size = \"128 KiB\"\nring-block-count = 8\nring-retire-ms = 3\n";

#[test]
fn the_file_beats_the_defaults_and_flags_beat_the_file() {
    let config = load(SHAPED, &[], Flags::default()).unwrap();
    assert_eq!(config.ring, Layout::new(Version::V2, 128 << 10, 8, 3).unwrap());
    assert_eq!(
        (config.rx, config.num_workers, config.fanout, config.busy_poll),
        (Rx::Mmap, 4, FanoutMode::Cpu, Duration::from_micros(50))
    );
    let text = |text: &str| Some(text.to_owned());
    let flags = Flags {
        rx: Some(Rx::Recv),
        ring: RingFlags {
            version: Some(Version::V3),
            block_size: text("1MiB"),
            block_count: text("16"),
            retire_ms: text("1000"),
        },
        num_workers: text("256"),
        fanout: Some(FanoutMode::LoadBalance),
        busy_poll_us: text("1000000"),
        ..Flags::default()
    };
    let config = load(SHAPED, &[], flags).unwrap();
    assert_eq!(config.ring, Layout::new(Version::V3, 1 << 20, 16, 1_000).unwrap());
    assert_eq!(
        (config.rx, config.num_workers, config.fanout, config.busy_poll),
        (Rx::Recv, 256, FanoutMode::LoadBalance, Duration::from_secs(1))
    );
}

#[test]
fn the_environment_stands_between_file_and_flags() {
    let shape = |text: &str, environment: &[(&str, &str)], flags| {
        let ring = load(text, environment, flags).unwrap().ring;
        (ring.block_size() >> 10, ring.block_count())
    };
    let environment = [(SIZE, "256KiB"), (COUNT, "32")];
    assert_eq!(shape("", &environment, Flags::default()), (256, 32));
    assert_eq!(shape(SHAPED, &environment, Flags::default()), (256, 32));
    assert_eq!(shape(SHAPED, &environment[1..], Flags::default()), (128, 32));
    assert_eq!(shape(SHAPED, &environment, ring_flags("512KiB", "")), (512, 32));
    assert_eq!(shape(SHAPED, &environment, ring_flags("512KiB", "3")), (512, 3));
    assert_eq!(shape(SHAPED, &[(SIZE, ""), (COUNT, "")], Flags::default()), (128, 8), "empty is not set");
    let nonsense = [(SIZE, "x"), (COUNT, "-1")];
    assert_eq!(shape(SHAPED, &nonsense, ring_flags("64KiB", "3")), (64, 3), "what is beaten is not read");
}

#[test]
fn a_file_is_read_without_the_environment() {
    assert_eq!(Config::parse("").unwrap(), Config::default());
    assert_eq!(Config::parse("[relay]\nring-block-size = 65536\n").unwrap().ring.block_size(), 65_536);
}

#[test]
fn bad_numbers_in_flags_and_environment_name_place_value_and_range() {
    let page = page_size();
    let size = format!(
        "a multiple of the page size, from {page} to {MAX_BLOCK_SIZE} bytes, such as 65536, 64KiB or 1MiB"
    );
    let count = format!("a whole number from 2 to {}", u64::from(u32::MAX) / page);
    let too_large = "18446744073709551616";
    for text in ["", "x", "-1", "-1KiB", "1.5MiB", "64KB", "64 K", "99999999999GiB", too_large] {
        let expected = format!("must be {size}, found {text:?}");
        if !text.is_empty() {
            let error = load("", &[(SIZE, text)], Flags::default()).unwrap_err().to_string();
            assert_eq!(error, format!("environment variable MCR_RING_BLOCK_SIZE: {expected}"));
        }
        let ring = RingFlags { block_size: Some(text.into()), ..RingFlags::default() };
        let error = load("", &[], Flags { ring, ..Flags::default() }).unwrap_err().to_string();
        assert_eq!(error, format!("--ring-block-size: {expected}"));
    }
    for text in ["x", "-1", "64KiB", "6.4", too_large] {
        let error = load("", &[(COUNT, text)], Flags::default()).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("environment variable MCR_RING_BLOCK_COUNT: must be {count}, found {text:?}")
        );
        let error = load("", &[], ring_flags("", text)).unwrap_err().to_string();
        assert_eq!(error, format!("--ring-block-count: must be {count}, found {text:?}"));
    }
    for text in ["", "x", "-1", "0", "257", too_large] {
        let flags = Flags { num_workers: Some(text.into()), ..Flags::default() };
        let error = load("", &[], flags).unwrap_err().to_string();
        assert_eq!(error, format!("--num-workers: must be a whole number from 1 to 256, found {text:?}"));
    }
    for text in ["", "x", "-1", "1000001"] {
        let flags = Flags { busy_poll_us: Some(text.into()), ..Flags::default() };
        let error = load("", &[], flags).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("--busy-poll-us: must be a whole number from 0 to 1000000, found {text:?}")
        );
    }
    let retire = |text: &str| {
        let ring = RingFlags { retire_ms: Some(text.into()), ..RingFlags::default() };
        load("", &[], Flags { ring, ..Flags::default() }).unwrap_err().to_string()
    };
    assert_eq!(retire("1ms"), "--ring-retire-ms: must be a whole number from 1 to 1000, found \"1ms\"");
    assert_eq!(retire("1001"), "--ring-retire-ms: 1001 ms until a block is handed over: give from 1 to 1000");
}

#[test]
fn an_environment_that_is_not_unicode_is_an_error() {
    use std::os::unix::ffi::OsStringExt;
    let flags = Flags { rules: vec![RULE.into()], ..Flags::default() };
    for variable in [SIZE, COUNT] {
        let environment = |name: &str| (name == variable).then(|| OsString::from_vec(vec![b'6', 0xff]));
        let error = Config::load_with(&flags, environment).unwrap_err().to_string();
        assert!(error.starts_with(&format!("environment variable {variable}: must be a ")), "{error}");
        assert!(error.ends_with("found \"6\u{fffd}\""), "{error}");
    }
}

#[test]
fn a_block_size_that_the_kernel_would_refuse_is_named_with_its_place() {
    let page = page_size();
    let range = format!("give a multiple of the page size, from {page} to {MAX_BLOCK_SIZE}");
    for (text, given) in [("0", 0_u64), ("5000", 5_000), ("2GiB", 2 << 30)] {
        let error = load("", &[], ring_flags(text, "")).unwrap_err().to_string();
        assert_eq!(error, format!("--ring-block-size: a block of {given} bytes: {range}"));
        let error = load("", &[(SIZE, text)], Flags::default()).unwrap_err().to_string();
        assert_eq!(error, format!("environment variable {SIZE}: a block of {given} bytes: {range}"));
    }
}

#[test]
fn too_many_blocks_are_the_fault_of_the_last_that_spoke() {
    let file = "[relay]\nring-block-size = \"2MiB\"\nring-block-count = 2000\n";
    let mib = |mib: u64| mib << 20;
    let of_size = "; ring-block-size is";
    let of_count = "; ring-block-count is";
    let rows = [
        ("", None, ["", "32768"], "--ring-block-count", [32_768, 128 << 10, 32_767], of_size, " the default"),
        ("", None, ["128MiB", ""], "--ring-block-size", [512, mib(128), 31], of_count, " the default"),
        ("", None, ["1GiB", "4"], "--ring-block-count", [4, mib(1_024), 3], "", ""),
        ("", Some((COUNT, "1")), ["2MiB", ""], COUNT, [1, mib(2), 2_047], of_size, " from the command line"),
        (file, Some((SIZE, "4MiB")), ["", ""], SIZE, [2_000, mib(4), 1_023], of_count, " from the file"),
        (file, Some((COUNT, "2048")), ["", ""], COUNT, [2_048, mib(2), 2_047], of_size, " from the file"),
        (
            file,
            Some((COUNT, "1500")),
            ["4MiB", ""],
            "--ring-block-size",
            [1_500, mib(4), 1_023],
            of_count,
            " from the environment",
        ),
    ];
    for (text, variable, [size, count], place, [given, bytes, most], other, origin) in rows {
        let environment: Vec<_> = variable.into_iter().collect();
        let error = load(text, &environment, ring_flags(size, count)).unwrap_err().to_string();
        let place =
            if place.starts_with("MCR") { format!("environment variable {place}") } else { place.into() };
        let blocks =
            format!("{given} blocks of {bytes} bytes: give from 2 to {most}, a ring is smaller than 4 GiB");
        assert_eq!(error, format!("{place}: {blocks}{other}{origin}"));
    }
}

#[test]
fn a_file_must_be_right_by_itself() {
    let error = load("[relay]\nring-block-count = 40000\n", &[], ring_flags("64KiB", "")).unwrap_err();
    assert!(matches!(error, ConfigError::File { .. }), "{error}");
}

#[test]
fn bad_values_of_the_relay_in_a_file_name_line_key_and_range() {
    let page = page_size();
    let size = format!(
        "a multiple of the page size, from {page} to {MAX_BLOCK_SIZE} bytes, such as 65536, 64KiB or 1MiB"
    );
    let most = u64::from(u32::MAX) / page;
    for (line, expected) in [
        ("num-workers = 0", "must be a whole number from 1 to 256, found 0".to_owned()),
        ("num-workers = \"4\"", "must be a whole number from 1 to 256, found \"4\"".to_owned()),
        ("busy-poll-us = 1_000_001", "must be a whole number from 0 to 1000000, found 1000001".to_owned()),
        ("fanout = \"rr\"", "must be one of \"hash\", \"cpu\", \"lb\", found \"rr\"".to_owned()),
        ("rx = \"ring\"", "must be one of \"auto\", \"mmap\", \"recv\", found \"ring\"".to_owned()),
        ("ring-version = 1", "must be a whole number from 2 to 3, found 1".to_owned()),
        ("ring-block-size = -4096", format!("must be {size}, found -4096")),
        ("ring-block-size = \"\"", format!("must be {size}, found \"\"")),
        ("ring-block-size = \"64kb\"", format!("must be {size}, found \"64kb\"")),
        ("ring-block-size = true", format!("must be {size}, found true")),
        (
            "ring-block-size = 5000",
            format!(
                "a block of 5000 bytes: give a multiple of the page size, from {page} to {MAX_BLOCK_SIZE}"
            ),
        ),
        (
            "ring-block-size = \"128MiB\"",
            "512 blocks of 134217728 bytes: give from 2 to 31, a ring is smaller than 4 GiB; \
             ring-block-count is the default"
                .to_owned(),
        ),
        ("ring-block-count = \"64\"", format!("must be a whole number from 2 to {most}, found \"64\"")),
        (
            "ring-block-count = 0",
            "0 blocks of 131072 bytes: give from 2 to 32767, a ring is smaller than 4 GiB; \
             ring-block-size is the default"
                .to_owned(),
        ),
        ("ring-retire-ms = 0", "0 ms until a block is handed over: give from 1 to 1000".to_owned()),
        ("ring-retire-ms = 0.5", "must be a whole number from 1 to 1000, found 0.5".to_owned()),
    ] {
        let key = line.split(' ').next().unwrap();
        assert_eq!(mistakes(&format!("[relay]\n{line}\n")), [format!("line 2: relay.{key}: {expected}")]);
    }
}

#[test]
fn every_mistake_of_a_ring_is_named_and_makes_no_others() {
    let keys = |text: &str| {
        let mistakes = Config::parse(text).unwrap_err().0;
        mistakes.into_iter().map(|mistake| (mistake.line, mistake.key)).collect::<Vec<_>>()
    };
    let ring = [(2, "relay.ring-block-size"), (3, "relay.ring-block-count"), (4, "relay.ring-retire-ms")]
        .map(|(line, key)| (line, key.to_owned()));
    let text = "[relay]\nring-block-size = 5000\nring-block-count = 1\nring-retire-ms = 0\n";
    assert_eq!(keys(text), ring);
    let text = "[relay]\nring-block-size = \"x\"\nring-block-count = 5000\nring-retire-ms = 1\n";
    assert_eq!(keys(text), ring[..1]);
    let text = "[relay]\nring-block-size = \"1GiB\"\nring-block-count = \"x\"\nring-retire-ms = 1\n";
    assert_eq!(keys(text), ring[1..2]);
    let text = "[relay]\nring-block-size = \"1GiB\"\nring-block-count = 4\nring-retire-ms = 1\n";
    assert_eq!(keys(text), ring[1..2]);
}

#[test]
fn a_profile_says_what_nothing_else_says() {
    const LATENCY: &str = "[relay]\nprofile = \"latency\"\n";
    let settings = |text: &str, flags: Flags| {
        let config = load(text, &[], flags).unwrap();
        (config.ring.version(), config.busy_poll.as_micros(), config.recv_coalesce.as_micros())
    };
    let latency = || Flags { profile: Some(Profile::Latency), ..Flags::default() };
    assert_eq!(settings("", Flags::default()), (Version::V3, 0, 1_000));
    assert_eq!(settings(LATENCY, Flags::default()), (Version::V2, 50, 0));
    assert_eq!(
        settings("[relay]\nprofile = \"throughput\"\n", latency()),
        (Version::V2, 50, 0),
        "a flag beats a file"
    );
    // Wherever a setting of its own stands, it was meant.
    let own = "[relay]\nbusy-poll-us = 0\nring-version = 3\nrecv-coalesce-us = 9\n";
    assert_eq!(settings(own, latency()), (Version::V3, 0, 9));
    let ring = RingFlags { version: Some(Version::V3), ..RingFlags::default() };
    let flags = Flags {
        ring,
        busy_poll_us: Some("7".into()),
        recv_coalesce_us: Some("8".into()),
        ..Flags::default()
    };
    assert_eq!(settings(LATENCY, flags), (Version::V3, 7, 8));
    assert!(mistakes("[relay]\nprofile = \"fast\"\n")[0].contains("\"throughput\", \"latency\""));
    let Config { ring, busy_poll, recv_coalesce, .. } = Config::parse(LATENCY).unwrap();
    assert_eq!((ring.version(), busy_poll.as_micros(), recv_coalesce.as_micros()), (Version::V2, 50, 0));
}
