//! What the command line says and how it exits: 0 done, 1 failed at run time, 2 bad usage or bad configuration.

#![allow(clippy::unwrap_used)]

use std::io::Write;

use assert_cmd::Command;
use assert_cmd::assert::Assert;

fn relay(arguments: &[&str]) -> Assert {
    Command::cargo_bin("multicast_relay")
        .unwrap()
        .args(arguments)
        .timeout(std::time::Duration::from_mins(1))
        .assert()
}

/// Standard error of a run that must exit with `code`.
fn fails(code: i32, arguments: &[&str]) -> String {
    let output = relay(arguments).code(code).get_output().clone();
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
        format!("{path}:4: rule[0].input.port: must be a whole number from 1 to 65535, found 0"),
        format!("{path}:5: rule[0].outputs[0].group: must be an IP address"),
    ];
    for (line, expected) in errors.lines().zip(&expected) {
        assert!(line.starts_with(expected), "{line} does not start with {expected}");
    }
    assert_eq!(errors.lines().count(), expected.len(), "{errors}");
}

#[test]
fn a_file_without_rules_or_without_sense_is_refused() {
    assert!(check("").0.contains("no rule, so nothing to relay"));
    assert!(check("[[rule]\n").0.contains(":1: "));
    assert!(fails(2, &["check", "/no/such/file"]).contains("read configuration /no/such/file: No such file"));
    assert!(fails(2, &["supervisor", "--config", "/no/such/file"]).contains("/no/such/file"));
}

#[test]
fn bad_rules_on_the_command_line_are_refused() {
    for (spec, part) in [
        ("eth0:239.1.1.1:5000", "no `=` between input and outputs"),
        ("eth0:239.1.1.1:0=239.2.2.2:1:eth1", "\"0\" is not a port"),
        ("eth0:239.1.1.1:1=239.1.1.1:1:eth0", "a loop"),
        ("eth0:somewhere:1=239.1.1.1:1:eth0", "\"somewhere\" is not an IP address"),
    ] {
        let error = fails(2, &["supervisor", "--rule", spec]);
        assert!(error.contains(spec) && error.contains(part), "{error}");
    }
    assert!(fails(2, &["supervisor"]).contains("no rule, so nothing to relay"));
    assert!(fails(2, &["supervisor", "--rx", "fast"]).contains("give one of: auto, recv"));
    assert!(fails(2, &["nonsense"]).contains("nonsense"));
}

#[test]
fn a_missing_interface_is_a_failure_that_names_it_and_its_rule() {
    let error = fails(1, &["supervisor", "--rule", "no-such-if:239.1.1.1:1=239.2.2.2:1:lo"]);
    assert!(error.contains("find interface no-such-if: No such device"), "{error}");
    assert!(error.contains("rule \"no-such-if:239.1.1.1:1\" needs it"), "{error}");
}
