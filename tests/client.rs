//! What the commands that ask a supervisor print and how they exit, before a supervisor that says what it is told to.

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use assert_cmd::Command as Program;
use multicast_relay::control::{
    Answer, Command, LineBuffer, LogLevel, MAX_REQUEST, Outcome, Refusal, RefusalKind, RuleSpec, RuleStatus,
    Selector, State, Stats, StatsReport, WorkerState, WorkerStatus, decode_request, encode_response,
    read_line,
};
use multicast_relay::rules::Rule;
use tempfile::TempDir;

const SPEC: &str = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1";

/// A supervisor's control socket.
struct Supervisor {
    folder: TempDir,
}

impl Supervisor {
    /// One that answers like this, until the test program ends.
    fn new(answer: fn(Command) -> Outcome) -> Self {
        Self::speaking(move |line| encode_response(&decode_request(line).and_then(answer)))
    }

    /// One that says this to a line.
    fn speaking(say: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Self {
        let supervisor = Self::absent();
        let listener = UnixListener::bind(supervisor.path()).unwrap();
        thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut lines = LineBuffer::new(MAX_REQUEST);
                while let Ok(Some(line)) = read_line(&mut stream, &mut lines) {
                    if stream.write_all(&say(&line)).is_err() {
                        break;
                    }
                }
            }
        });
        supervisor
    }

    fn absent() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// What a run with these arguments prints, which must exit with `code`.
    fn run(&self, code: i32, arguments: &[&str]) -> String {
        self.run_with("", code, arguments)
    }

    fn run_with(&self, input: &str, code: i32, arguments: &[&str]) -> String {
        let assert = Program::cargo_bin("multicast_relay")
            .unwrap()
            .args(arguments)
            .args(["--control-socket", self.path().to_str().unwrap()])
            .write_stdin(input)
            .timeout(Duration::from_mins(1))
            .assert()
            .code(code);
        let output = assert.get_output();
        let (text, other) =
            if code == 0 { (&output.stdout, &output.stderr) } else { (&output.stderr, &output.stdout) };
        assert!(other.is_empty(), "what is asked for goes to standard output, errors to standard error");
        String::from_utf8(text.clone()).unwrap()
    }
}

fn rule(name: &str, spec: &str) -> Rule {
    Rule { name: name.to_owned(), ..spec.parse().unwrap() }
}

/// A supervisor with two rules, which adds what it is told to.
fn answer(command: Command) -> Outcome {
    let rules = [rule("video", SPEC), rule("audio \"2\"", "eth0:[ff15::1]:1=10.0.0.9:1:wg0")];
    let status = |rule: &Rule| RuleStatus {
        rule: RuleSpec::from(rule),
        state: State::Relaying,
        reasons: Vec::new(),
        outputs: Vec::new(),
    };
    Ok(match command {
        Command::Ping => Answer::Pong { pid: 7, version: "9.9.9".to_owned(), uptime_ms: 61_000 },
        Command::Add { rules } => {
            Answer::Added { names: rules.iter().map(|spec| format!("{spec:?}")).collect() }
        }
        Command::Remove { rules: selectors } => {
            for selector in &selectors {
                if !rules.iter().any(|rule| selector.selects(rule)) {
                    return Err(Refusal::new(RefusalKind::UnknownRule, format!("no {selector}")));
                }
            }
            Answer::Removed { names: selectors.iter().map(Selector::to_string).collect() }
        }
        Command::List => Answer::Rules(rules.iter().map(status).collect()),
        Command::Stats => Answer::Stats(Box::new(StatsReport::new(
            1,
            Duration::from_mins(1),
            Stats { rx: "mmap-v3".to_owned(), ..Stats::default() },
            None,
        ))),
        Command::Workers => Answer::Workers(vec![WorkerStatus {
            number: 0,
            pid: Some(7),
            state: WorkerState::Running,
            cpu: None,
            uptime_ms: 1,
            restarts: 0,
            last_exit: None,
            received: 5,
            cpu_ns: 9,
        }]),
        Command::Reload => return Err(Refusal::new(RefusalKind::Failed, "there is no file to read again")),
        Command::LogLevel { level } => Answer::LogLevel { level },
    })
}

#[test]
fn answers_are_printed_for_people_and_for_programs() {
    let supervisor = Supervisor::new(answer);
    assert_eq!(supervisor.run(0, &["ping"]), "multicast_relay 9.9.9, process 7, up 1min 1s\n");
    assert_eq!(
        supervisor.run(0, &["ping", "--json"]),
        "{\"pid\":7,\"uptime-ms\":61000,\"version\":\"9.9.9\"}\n"
    );
    assert_eq!(supervisor.run(0, &["log-level", "warn"]), "logging from level warn on\n");
    assert_eq!(
        supervisor.run(0, &["remove", "video", "audio \"2\""]),
        "removed rule \"video\"\nremoved rule \"audio \\\"2\\\"\"\n"
    );
    let workers = supervisor.run(0, &["workers", "--json"]);
    assert_eq!(serde_json::from_str::<Vec<WorkerStatus>>(&workers).unwrap()[0].cpu_ns, 9);
    let report: StatsReport = serde_json::from_str(&supervisor.run(0, &["stats", "--json"])).unwrap();
    assert_eq!((report.at_ms, report.stats.rx.as_str()), (1, "mmap-v3"));
    assert!(supervisor.run(0, &["stats"]).contains("received by mmap-v3"));
    let top = supervisor.run(0, &["top", "--once"]);
    assert!(top.contains("workers, CPU: 0") && top.contains("OUT pkt/s"), "{top}");
    assert_eq!(supervisor.run(1, &["reload"]), "there is no file to read again\n");
    assert!(supervisor.run(2, &["top"]).contains("use --once or --json"));
}

#[test]
fn what_is_listed_can_be_configured_and_added() {
    let supervisor = Supervisor::new(answer);
    let table = supervisor.run(0, &["list"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.contains("239.2.2.2:6000:eth1  relaying"), "{table}");
    let statuses: Vec<RuleStatus> = serde_json::from_str(&supervisor.run(0, &["list", "--json"])).unwrap();
    let toml = supervisor.run(0, &["list", "--format", "toml"]);
    let file = supervisor.folder.path().join("rules.toml");
    std::fs::write(&file, &toml).unwrap();
    let file = file.to_str().unwrap();
    Program::cargo_bin("multicast_relay").unwrap().args(["check", file]).assert().success();
    let expected: Vec<_> = statuses.iter().map(|status| format!("added {:?}\n", status.rule)).collect();
    let expected = expected.concat();
    assert_eq!(supervisor.run(0, &["add", "--file", file]), expected);
    assert_eq!(supervisor.run_with(&toml, 0, &["add", "--file", "-"]), expected);
}

#[test]
fn rules_are_added_by_flags_and_by_specs() {
    let supervisor = Supervisor::new(answer);
    let input = ["--input-interface", "eth0=x", "--input-group", "ff15::1", "--input-port", "5000"];
    let output =
        ["--outputs", "239.2.2.2:6000:eth1,[ff15::2]:1:wg0", "--name", "v", "--input-source", "fd00::9"];
    let added = supervisor.run(0, &[&["add", "--json", "--rule", SPEC], &input[..], &output[..]].concat());
    let by_spec = RuleSpec::from(&SPEC.parse::<Rule>().unwrap());
    let mut by_flags = rule("v", "eth0:[ff15::1]:5000=239.2.2.2:6000:eth1,[ff15::2]:1:wg0");
    by_flags.input.interface = "eth0=x".to_owned();
    by_flags.input.source = Some("fd00::9".parse().unwrap());
    let names = [by_spec, RuleSpec::from(&by_flags)].map(|rule| format!("{rule:?}"));
    assert_eq!(added, format!("{}\n", serde_json::json!({ "names": names })));
    let removed = supervisor.run(
        0,
        &["remove", "--input-interface", "eth0", "--input-group", "239.1.1.1", "--input-port", "5000"],
    );
    assert_eq!(removed, "removed rule with input eth0:239.1.1.1:5000\n");
}

#[test]
fn rules_that_cannot_be_are_bad_usage() {
    let supervisor = Supervisor::new(answer);
    let flags = |group, outputs| {
        [
            "add",
            "--input-interface",
            "eth0",
            "--input-group",
            group,
            "--input-port",
            "1",
            "--outputs",
            outputs,
        ]
    };
    let specs = ["--rule", SPEC, "--rule", SPEC];
    for (arguments, part) in [
        (&["add"][..], "--input-interface <IF>"),
        (&["add", "--input-interface", "eth0"], "--input-group <GROUP>"),
        (&["add", "--name", "x", "--rule", SPEC, "--rule", SPEC], "--name \"x\" is for one rule"),
        (&["add", "--rule", "eth0"], "--rule \"eth0\": no `=` between input and outputs"),
        (&[&["add"], &specs[..]].concat(), "have the same input eth0:239.1.1.1:5000"),
        (&["add", "--file", "/no/such/file"], "/no/such/file"),
        (&flags("0.0.0.0", "239.2.2.2:1:eth1"), "input.group 0.0.0.0 is no destination"),
        (&flags("239.1.1.1", "239.2.2.2:0:eth1"), "--outputs \"239.2.2.2:0:eth1\": \"0\" is not a port"),
        (&flags("239.1.1.1", "239.1.1.1:1:eth0"), "sends in a circle"),
        (&["remove"], "<NAME"),
        (&["list", "--format", "xml"], "[possible values: table, toml, json]"),
        (&["log-level", "loud"], "[possible values: error, warn, info, debug, trace]"),
    ] {
        let error = supervisor.run(2, arguments);
        assert!(error.contains(part), "{arguments:?}: {error}");
    }
    assert!(supervisor.run_with("[relay]\n", 2, &["add", "--file", "-"]).contains("no rule to add"));
    let error = supervisor.run_with("[[rule]\n", 2, &["add", "--file", "-"]);
    assert!(error.starts_with("standard input:1: "), "{error}");
}

#[test]
fn an_unknown_rule_is_told_with_the_names_nearest_to_it() {
    let supervisor = Supervisor::new(answer);
    let error = supervisor.run(1, &["remove", "vidoe"]);
    assert_eq!(error, "no rule \"vidoe\"; did you mean \"video\" by \"vidoe\"?\n");
}

#[test]
fn a_supervisor_that_is_not_there_is_told_with_the_remedy() {
    let absent = Supervisor::absent();
    let error = absent.run(1, &["ping"]);
    assert!(
        error.contains(absent.path().to_str().unwrap()) && error.contains("no supervisor is running: start"),
        "{error}"
    );
    drop(UnixListener::bind(absent.path()).unwrap());
    assert!(absent.run(1, &["list"]).contains("no supervisor is running any more"));
    assert!(absent.run(1, &["top", "--once"]).contains("no supervisor is running any more"));
}

#[test]
fn one_that_is_no_supervisor_or_of_another_version_is_told_as_such() {
    let other = Supervisor::speaking(|_| b"{\"version\":2,\"answer\":{\"pong\":{}}}\n".to_vec());
    let error = other.run(1, &["ping"]);
    assert!(error.contains("speaks version 2 of the control protocol, this program version 1"), "{error}");
    let none = Supervisor::speaking(|_| b"220 smtp.example.org\n".to_vec());
    assert!(none.run(1, &["ping"]).contains("no response of a supervisor"));
    let foreign = Supervisor::new(|_| Ok(Answer::LogLevel { level: LogLevel::Info }));
    assert!(foreign.run(1, &["top", "--once"]).contains("answers another question"));
}

#[test]
fn one_that_hangs_up_is_told_as_such_unless_it_says_why() {
    let silent = Supervisor::absent();
    let listener = UnixListener::bind(silent.path()).unwrap();
    let hang_up = |stream: UnixStream| drop(stream);
    thread::spawn(move || listener.incoming().map_while(Result::ok).for_each(hang_up));
    let error = silent.run(1, &["ping"]);
    assert!(error.contains("hung up before it answered"), "{error}");
    let turning_away = Supervisor::absent();
    let listener = UnixListener::bind(turning_away.path()).unwrap();
    let refusal = encode_response(&Err(Refusal::new(RefusalKind::Unavailable, "64 clients are connected")));
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            stream.write_all(&refusal).unwrap();
        }
    });
    assert_eq!(turning_away.run(1, &["ping"]), "64 clients are connected\n");
}
