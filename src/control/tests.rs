use super::hostile::{Hostile, check_refusal, messages, seed};
use super::*;
use crate::rules::{Rule, TimeToLive};

#[test]
fn lines_are_put_together_from_pieces() {
    let text = b"one\n\ntwo three\nfo";
    for size in 1..=text.len() {
        let mut lines = LineBuffer::new(9);
        let mut found = Vec::new();
        for piece in text.chunks(size) {
            lines.push(piece);
            while let Some(line) = lines.next_line().unwrap() {
                found.push(String::from_utf8(line).unwrap());
            }
        }
        assert_eq!(found, ["one", "", "two three"], "in pieces of {size}");
        assert!(!lines.is_empty());
        lines.push(b"ur five six\n");
        assert_eq!(lines.next_line(), Err(TooLong { limit: 9 }));
    }
    let mut lines = LineBuffer::new(3);
    lines.push(b"abcd");
    assert_eq!(lines.next_line(), Err(TooLong { limit: 3 }), "its end need not be there");
}

#[test]
fn lines_are_read_until_the_end() {
    let mut lines = LineBuffer::new(9);
    let mut from = &b"one\ntwo\nthr"[..];
    for expected in [Some("one"), Some("two"), None] {
        let line = read_line(&mut from, &mut lines).unwrap();
        assert_eq!(line.map(|line| String::from_utf8(line).unwrap()).as_deref(), expected);
    }
}

#[test]
fn the_shapes_are_these() {
    let rule: Rule = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap();
    let requests = [
        (Command::Ping, r#""ping""#.to_owned()),
        (Command::LogLevel { level: LogLevel::Warn }, r#"{"log-level":{"level":"warn"}}"#.to_owned()),
        (
            Command::Add { rules: vec![RuleSpec { name: None, ..RuleSpec::from(&rule) }] },
            r#"{"add":{"rules":[{"input":{"interface":"eth0","group":"239.1.1.1","port":5000},"outputs":[{"group":"239.2.2.2","port":6000,"interface":"eth1","ttl":64}]}]}}"#
                .to_owned(),
        ),
        (
            Command::Remove { rules: vec![Selector::Name("video".into())] },
            r#"{"remove":{"rules":[{"name":"video"}]}}"#.to_owned(),
        ),
    ];
    for (command, text) in requests {
        let line = format!("{{\"version\":1,\"command\":{text}}}\n");
        assert_eq!(String::from_utf8(encode_request(&command)).unwrap(), line);
        assert_eq!(decode_request(line.trim_end().as_bytes()), Ok(command));
    }
    let outcomes: [(Outcome, &str); 3] = [
        (
            Ok(Answer::Pong { pid: 7, version: "0.1.0".into(), uptime_ms: 5 }),
            r#""answer":{"pong":{"pid":7,"version":"0.1.0","uptime-ms":5}}"#,
        ),
        (Ok(Answer::Rules(Vec::new())), r#""answer":{"rules":[]}"#),
        (
            Err(Refusal::new(RefusalKind::UnknownRule, "no")),
            r#""refusal":{"kind":"unknown-rule","message":"no"}"#,
        ),
    ];
    for (outcome, text) in outcomes {
        let line = format!("{{\"version\":1,{text}}}\n");
        assert_eq!(String::from_utf8(encode_response(&outcome)).unwrap(), line);
        assert_eq!(decode_response(line.trim_end().as_bytes()).unwrap(), outcome);
    }
}

#[test]
fn another_version_is_named_with_ones_own() {
    let refusal = decode_request(br#"{"version":7,"command":{"new":1},"more":2}"#).unwrap_err();
    assert!(
        refusal.message.contains("in version 7") && refusal.message.contains("speaks version 1"),
        "{refusal}"
    );
    let error = decode_response(br#"{"version":7,"answer":{"new":1}}"#).unwrap_err().to_string();
    assert!(error.contains("speaks version 7") && error.contains("program version 1"), "{error}");
    let error = decode_response(br#"{"version":1}"#).unwrap_err().to_string();
    assert!(error.contains("not one of an answer and a refusal"), "{error}");
}

#[test]
fn an_answer_may_have_what_this_program_does_not_know() {
    let line = br#"{"version":1,"took-ns":1,"answer":{"added":{"names":["a"],"ids":[1]}}}"#;
    assert_eq!(decode_response(line).unwrap(), Ok(Answer::Added { names: vec!["a".into()] }));
}

#[test]
fn a_rule_is_told_whole_and_checked() {
    let mut rule: Rule = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1".parse().unwrap();
    rule.name = "video".into();
    rule.outputs[0].ttl = TimeToLive::Fixed(9);
    assert_eq!(Rule::try_from(RuleSpec::from(&rule)), Ok(rule.clone()));
    let mut spec = RuleSpec { name: None, ..RuleSpec::from(&rule) };
    spec.outputs[0].ttl = None;
    let unnamed = Rule::try_from(spec.clone()).unwrap();
    assert_eq!((unnamed.name.as_str(), unnamed.outputs[0].ttl), ("eth0:239.1.1.1:5000", TimeToLive::DEFAULT));
    assert!(Selector::Input(spec.input.clone()).selects(&rule));
    assert!(Selector::Name("video".into()).selects(&rule) && !Selector::Name("vide".into()).selects(&rule));
    spec.input.source = Some("10.0.0.9".parse().unwrap());
    assert!(!Selector::Input(spec.input.clone()).selects(&rule), "with a source it is another rule");
    spec.input.vlan = "5".parse().ok();
    assert!(!Rule::try_from(spec.clone()).unwrap().join, "as no report would be in the VLAN");
    assert_eq!(
        Rule::try_from(RuleSpec { join: Some(true), ..spec.clone() }).unwrap_err().faults[0].key,
        "join"
    );
    spec.outputs[0].interface = "a b".into();
    spec.input.group = "0.0.0.0".parse().unwrap();
    let error = Rule::try_from(spec).unwrap_err().to_string();
    let parts = ["rule \"eth0:0.0.0.0:5000 vlan 5 from 10.0.0.9\": input.group", "; outputs[0].interface"];
    assert!(parts.iter().all(|part| error.contains(part)), "{error}");
}

#[test]
fn hostile_lines_are_refused_or_mean_what_they_say() {
    let mut hostile = Hostile::new(seed());
    let (mut commands, mut answers, mut rules) = (0, 0, 0);
    let count = messages();
    for _ in 0..count {
        let message = hostile.message(4_096);
        match decode_request(&message) {
            Ok(command) => {
                commands += 1;
                assert_eq!(decode_request(encode_request(&command).trim_ascii_end()), Ok(command.clone()));
                let Command::Add { rules: specs } = command else { continue };
                for rule in specs.into_iter().filter_map(|spec| Rule::try_from(spec).ok()) {
                    rules += 1;
                    assert_eq!(Rule::try_from(RuleSpec::from(&rule)), Ok(rule));
                }
            }
            Err(refusal) => check_refusal(&refusal),
        }
        match decode_response(&message) {
            Ok(outcome) => {
                answers += 1;
                assert_eq!(decode_response(encode_response(&outcome).trim_ascii_end()).unwrap(), outcome);
            }
            Err(error) => assert!(error.to_string().len() < 600),
        }
    }
    println!("{count} messages: {commands} commands with {rules} rules, {answers} answers");
    assert!(commands > count / 20 && answers > count / 40 && rules > count / 100, "few get far");
}
