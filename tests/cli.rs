//! What the command line says and how it exits: 0 done, 1 failed at run time, 2 bad usage or bad configuration.

#![allow(clippy::unwrap_used)]

use std::ffi::OsStr;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use assert_cmd::Command;
use assert_cmd::assert::Assert;

const RULE: &str = "eth0:239.1.1.1:1=239.2.2.2:1:eth1";
const RULE_IN_FILE: &str = "[[rule]]\ninput = { interface = \"eth0\", group = \"239.1.1.1\", port = 1 }\n\
                            outputs = [{ group = \"239.2.2.2\", port = 1, interface = \"eth1\" }]\n";

fn relay(arguments: &[&str]) -> Assert {
    relay_in(&[], arguments)
}

/// A run in an environment that has these variables of the relay, and no others.
fn relay_in(environment: &[(&str, &OsStr)], arguments: &[&str]) -> Assert {
    Command::cargo_bin("multicast_relay")
        .unwrap()
        .env_remove("MCR_RING_BLOCK_SIZE")
        .env_remove("MCR_RING_BLOCK_COUNT")
        .envs(environment.iter().copied())
        .args(arguments)
        .timeout(std::time::Duration::from_mins(1))
        .assert()
}

/// Standard error of a run that must exit with `code`.
fn fails(code: i32, arguments: &[&str]) -> String {
    fails_in(&[], code, arguments)
}

fn fails_in(environment: &[(&str, &OsStr)], code: i32, arguments: &[&str]) -> String {
    let output = relay_in(environment, arguments).code(code).get_output().clone();
    assert!(output.stdout.is_empty(), "a failure writes to standard error only");
    String::from_utf8(output.stderr).unwrap()
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn check(text: &str) -> (String, String) {
    let file = file(text);
    let path = file.path().to_str().unwrap();
    (fails(2, &["check", path]), path.to_owned())
}

#[test]
fn a_sound_file_passes() {
    let file = file(
        "[relay]\nrx = \"recv\"\n[[rule]]\nname = \"video\"\n\
         input = { interface = \"eth0\", group = \"239.1.1.1\", port = 5000 }\n\
         outputs = [{ group = \"239.2.2.2\", port = 6000, interface = \"eth1\", ttl = 8 }]\n",
    );
    let path = file.path().to_str().unwrap();
    let output = relay(&["check", path]).success().get_output().stdout.clone();
    assert_eq!(String::from_utf8(output).unwrap(), format!("{path}: 1 rule, no mistake\n"));
}

#[test]
fn every_mistake_of_a_file_is_named_with_file_line_key_and_remedy() {
    let (errors, path) = check(
        "[relay]\nrxx = \"recv\"\n[[rule]]\ninput = { interface = \"eth0\", group = \"239.1.1.1\", port = 0 }\n\
         outputs = [{ group = \"239.2.2\", port = 6000, interface = \"eth1\" }]\n",
    );
    let expected = [
        format!("{path}:2: relay.rxx: unknown key; did you mean `rx`?"),
        format!("{path}:4: rule[0].input.port: must be a port: a whole number from 1 to 65535, or a range"),
        format!("{path}:5: rule[0].outputs[0].group: must be an IP address"),
    ];
    for (line, expected) in errors.lines().zip(&expected) {
        assert!(line.starts_with(expected), "{line} does not start with {expected}");
    }
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
}

#[test]
fn rules_that_send_in_a_circle_are_refused_in_a_file_and_beside_one() {
    let back = "[[rule]]\ninput = { interface = \"eth1\", group = \"239.2.2.2\", port = 1 }\n\
                outputs = [{ group = \"239.1.1.1\", port = 1, interface = \"eth0\" }]\n";
    let circle = "these rules send in a circle: \"eth0:239.1.1.1:1\" sends 239.2.2.2:1 on eth1, \
                  which \"eth1:239.2.2.2:1\" takes; ";
    let (error, path) = check(&format!("{RULE_IN_FILE}{back}"));
    assert!(error.starts_with(&format!("{path}:6: rule[1].outputs: {circle}")), "{error}");
    let (file, rule) = (file(RULE_IN_FILE), "eth1:239.2.2.2:1=239.1.1.1:1:eth0");
    let path = file.path().to_str().unwrap();
    for arguments in [
        ["supervisor", "--config", path, "--rule", rule],
        ["add", "--file", path, "--rule", rule],
        ["add", "--rule", RULE, "--rule", rule],
    ] {
        let error = fails(2, &arguments);
        assert!(error.contains(circle), "{error}");
    }
}

#[test]
fn a_file_without_sense_is_refused() {
    assert!(check("[[rule]\n").0.contains(":1: "));
    assert!(fails(2, &["check", "/no/such/file"]).contains("read configuration /no/such/file: No such file"));
    assert!(fails(2, &["supervisor", "--config", "/no/such/file"]).contains("/no/such/file"));
}

#[test]
fn bad_rules_on_the_command_line_are_refused() {
    for (spec, part) in [
        ("eth0:239.1.1.1:5000", "no `=` between input and outputs"),
        ("eth0:239.1.1.1:0=239.2.2.2:1:eth1", "\"0\" is not a port"),
        ("eth0:239.1.1.1:1=239.1.1.1:1:eth0", "sends in a circle"),
        ("eth0:somewhere:1=239.1.1.1:1:eth0", "\"somewhere\" is not an IP address"),
    ] {
        let error = fails(2, &["supervisor", "--rule", spec]);
        assert!(error.contains(spec) && error.contains(part), "{error}");
    }
    assert!(fails(2, &["supervisor", "--rx", "fast"]).contains("give one of: auto, mmap, recv"));
    assert!(fails(2, &["nonsense"]).contains("nonsense"));
}

/// An error that is one line.
fn only_line(error: &str) -> &str {
    assert_eq!(error.lines().count(), 1, "{error}");
    error.trim_end()
}

#[test]
fn bad_numbers_on_the_command_line_are_one_error_with_the_range() {
    for (flag, value, range) in [
        ("--num-workers", "0", "from 1 to 256, found \"0\""),
        ("--num-workers", "257", "from 1 to 256, found \"257\""),
        ("--num-workers", "many", "from 1 to 256, found \"many\""),
        ("--busy-poll-us", "-1", "from 0 to 1000000, found \"-1\""),
        ("--busy-poll-us", "1000001", "from 0 to 1000000, found \"1000001\""),
        ("--recv-coalesce-us", "10001", "from 0 to 10000, found \"10001\""),
        ("--ring-retire-ms", "0", "0 ms until a block is handed over: give from 1 to 1000"),
        ("--ring-retire-ms", "1ms", "from 1 to 1000, found \"1ms\""),
        ("--ring-block-size", "0", "a block of 0 bytes: give a multiple of the page size, from "),
        ("--ring-block-size", "5000", "a block of 5000 bytes: give a multiple of the page size, from "),
        ("--ring-block-size", "-1MiB", "bytes, such as 65536, 64KiB or 1MiB, found \"-1MiB\""),
        ("--ring-block-size", "1MB", "bytes, such as 65536, 64KiB or 1MiB, found \"1MB\""),
        ("--ring-block-size", "", "bytes, such as 65536, 64KiB or 1MiB, found \"\""),
        ("--ring-block-size", "99999999999GiB", "64KiB or 1MiB, found \"99999999999GiB\""),
        ("--ring-block-size", "1GiB", "512 blocks of 1073741824 bytes: give from 2 to 3"),
        ("--ring-block-count", "1", "1 blocks of 131072 bytes: give from 2 to 32767"),
        ("--ring-block-count", "32768", "32768 blocks of 131072 bytes: give from 2 to 32767"),
        ("--ring-block-count", "few", "must be a whole number from 2 to "),
    ] {
        let error = fails(2, &["supervisor", "--rule", RULE, flag, value]);
        let error = only_line(&error);
        assert!(error.starts_with(&format!("{flag}: ")) && error.contains(range), "{error}");
    }
}

#[test]
fn bad_choices_on_the_command_line_are_refused() {
    for (flag, value, remedy) in [
        ("--rx", "ring", "give one of: auto, mmap, recv"),
        ("--ring-version", "1", "give one of: 3, 2"),
        ("--fanout", "rr", "give one of: hash, cpu, lb"),
    ] {
        let error = fails(2, &["supervisor", "--rule", RULE, flag, value]);
        assert!(error.contains(&format!("'{value}' for '{flag} ")) && error.contains(remedy), "{error}");
    }
    let error = fails(2, &["supervisor", "--rule", RULE, "--rx", "recv", "--use-packet-mmap"]);
    assert!(error.contains("--rx <PATH>' cannot be used with '--use-packet-mmap'"), "{error}");
}

#[test]
fn a_bad_environment_is_one_error_that_names_the_variable() {
    for (variable, value, part) in [
        (
            "MCR_RING_BLOCK_SIZE",
            &b"5000"[..],
            "a block of 5000 bytes: give a multiple of the page size, from ",
        ),
        ("MCR_RING_BLOCK_SIZE", b"1 MB", "64KiB or 1MiB, found \"1 MB\""),
        ("MCR_RING_BLOCK_SIZE", b"\xff", "64KiB or 1MiB, found \"\u{fffd}\""),
        ("MCR_RING_BLOCK_COUNT", b"-2", "must be a whole number from 2 to "),
        ("MCR_RING_BLOCK_COUNT", b"40000", "give from 2 to 32767, a ring is smaller than 4 GiB"),
    ] {
        let environment = [(variable, OsStr::from_bytes(value))];
        let error = fails_in(&environment, 2, &["supervisor", "--rule", RULE]);
        let error = only_line(&error);
        assert!(error.starts_with(&format!("environment variable {variable}: ")), "{error}");
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn quotes_that_are_missing_are_told() {
    let rule = |input: &str| format!("[[rule]]\ninput = {{ interface = \"eth0\", {input} }}\n");
    for input in [
        "group = \"239.1.1.1\", port = 5000-5009",
        "group = 239.1.0.0/16, port = 1",
        "group = 239.1.1.1, port = 1",
    ] {
        let (error, path) = check(&rule(input));
        assert!(error.contains(&format!("{path}:2: ")) && error.contains("stand in quotes"), "{error}");
    }
}

#[test]
fn what_is_no_mistake_and_hardly_what_is_wanted_is_a_warning() {
    let rule = |more: &str, input: &str| {
        format!(
            "[[rule]]\n{more}\ninput = {{ interface = \"eth0\", {input} }}\n\
             outputs = [{{ group = \"239.2.2.2\", port = 6000, interface = \"eth1\" }}]\n"
        )
    };
    let told = |text: &str| {
        let file = file(text);
        let output = relay(&["check", file.path().to_str().unwrap()]).success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    let leg =
        |last: u8| rule("dedupe = { stream = \"b\" }", &format!("group = \"239.1.1.{last}\", port = 5000"));
    assert!(told(&leg(1)).contains("warning: stream \"b\" has one leg, rule \"eth0:239.1.1.1:5000\""));
    assert!(!told(&[leg(1), leg(2)].concat()).contains("warning"));
    // Sixteen sizes of blocks of ports for each length of a prefix.
    let shapes = [16, 17, 18].map(|prefix| {
        rule("join = false", &format!("group = \"239.{prefix}.0.0/{prefix}\", port = \"1-65535\""))
    });
    assert!(!told(&shapes[..2].concat()).contains("warning"));
    let three = shapes.concat();
    assert!(told(&three).contains("warning: filter by the rules on eth0: "));
    let (error, _) = check(&format!("[relay]\nconsume = true\n{three}"));
    assert!(error.contains("consume on eth0: ") && error.contains("prefixes of one length"), "{error}");
}

#[test]
fn the_environment_is_no_part_of_what_check_checks() {
    let file = file(&format!("[relay]\nring-block-size = \"64KiB\"\n{RULE_IN_FILE}"));
    let environment = [("MCR_RING_BLOCK_SIZE", OsStr::new("nonsense"))];
    relay_in(&environment, &["check", file.path().to_str().unwrap()]).success();
}

#[test]
fn bad_values_of_the_relay_in_a_file_are_named_with_file_and_line() {
    let (errors, path) = check(&format!(
        "[relay]\nnum-workers = 300\nfanout = \"rr\"\nring-version = 4\nring-block-size = \"5KB\"\n\
         ring-block-count = 1\nring-retire-ms = 0\nbusy-poll-us = -1\nrecv-coalesce-us = -2\n{RULE_IN_FILE}"
    ));
    let expected = [
        "2: relay.num-workers: must be a whole number from 1 to 256, found 300",
        "3: relay.fanout: must be one of \"hash\", \"cpu\", \"lb\", found \"rr\"",
        "4: relay.ring-version: must be a whole number from 2 to 3, found 4",
        "5: relay.ring-block-size: must be a multiple of the page size, from ",
        "6: relay.ring-block-count: 1 blocks of ",
        "7: relay.ring-retire-ms: 0 ms until a block is handed over: give from 1 to 1000",
        "8: relay.busy-poll-us: must be a whole number from 0 to 1000000, found -1",
        "9: relay.recv-coalesce-us: must be a whole number from 0 to 10000, found -2",
    ];
    for (line, expected) in errors.lines().zip(expected) {
        assert!(line.starts_with(&format!("{path}:{expected}")), "{line} is not about {expected}");
    }
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
    let (error, path) =
        check(&format!("[relay]\nring-block-size = \"1GiB\"\n\nring-block-count = 4\n{RULE_IN_FILE}"));
    let expected = "4 blocks of 1073741824 bytes: give from 2 to 3, a ring is smaller than 4 GiB";
    assert_eq!(only_line(&error), format!("{path}:4: relay.ring-block-count: {expected}"));
}

#[test]
fn the_manual_and_completions_are_printed_and_written() {
    let printed = |arguments: &[&str]| {
        let output = relay(arguments).success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    assert!(printed(&["man"]).contains(".TH MULTICAST_RELAY 8"));
    assert!(printed(&["man", "check"]).contains(".TH MULTICAST_RELAY-CHECK 8"));
    assert!(printed(&["completions", "bash"]).contains("complete -F _multicast_relay"));
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(printed(&["man", "--out", folder.path().to_str().unwrap()]), "");
    assert!(folder.path().join("man5/multicast_relay.toml.5").is_file());
    assert!(folder.path().join("man8/multicast_relay-doctor.8").is_file());
    assert!(fails(2, &["man", "nonsense"]).contains("no page \"nonsense\""));
    assert!(fails(1, &["man", "--out", "/proc/nowhere"]).contains("write manual page /proc/nowhere/man8"));
    assert!(fails(2, &["completions", "nonsense"]).contains("possible values: bash"));
}
