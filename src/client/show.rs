//! Answers as text and as JSON.

use std::time::Duration;

use super::numbers::{age, counted};
use super::table::{printable, table, text as table_text};
use super::{list, stats};
use crate::control::{Answer, WorkerState, WorkerStatus};

/// Up to how many rules are named one by one.
const NAMED: usize = 20;

/// The content of `answer` as one line of JSON, without the name of the command.
pub(super) fn json(answer: &Answer) -> String {
    let content = match serde_json::to_value(answer) {
        Ok(serde_json::Value::Object(object)) => object.into_iter().next().map(|(_, content)| content),
        _ => None,
    };
    format!("{}\n", content.unwrap_or_default())
}

/// `answer` for people.
pub(super) fn text(answer: &Answer) -> String {
    match answer {
        Answer::Pong { pid, version, uptime_ms } => {
            let up = age(Duration::from_millis(*uptime_ms));
            format!("multicast_relay {}, process {pid}, up {up}\n", printable(version))
        }
        Answer::Added { names } => named("added", names),
        Answer::Removed { names } => named("removed", names),
        Answer::Rules(rules) if rules.is_empty() => "no rule: `multicast_relay add` adds one\n".to_owned(),
        Answer::Rules(rules) => table_text(&list::rules(rules)),
        Answer::Stats(report) => stats::page(report, true),
        Answer::Workers(workers) => workers_table(workers),
        Answer::Reloaded { added, removed, changed, unchanged, needs_restart } => {
            let rules = [("added", added), ("removed", removed), ("changed", changed)];
            let mut lines: Vec<_> = rules.map(|(what, names)| named(what, names)).into();
            lines.push(format!("unchanged {}\n", counted(*unchanged, "rule")));
            let later = |key: &String| format!("{} is in force after a restart only\n", printable(key));
            lines.extend(needs_restart.iter().map(later));
            lines.concat()
        }
        Answer::LogLevel { level } => format!("logging from level {level} on\n"),
    }
}

fn named(what: &str, names: &[String]) -> String {
    if names.len() > NAMED {
        return format!("{what} {}\n", counted(names.len(), "rule"));
    }
    let lines: Vec<_> = names.iter().map(|name| format!("{what} {}\n", printable(name))).collect();
    lines.concat()
}

fn workers_table(workers: &[WorkerStatus]) -> String {
    let header = ["worker", "process", "state", "cpu", "up", "restarts", "received", "cpu time", "last exit"];
    let mut table = table(&header, &[0, 1, 3, 5, 6, 7]);
    let or_dash = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    for worker in workers {
        table.add_row([
            worker.number.to_string(),
            or_dash(worker.pid),
            state(worker.state).to_owned(),
            or_dash(worker.cpu),
            age(Duration::from_millis(worker.uptime_ms)),
            worker.restarts.to_string(),
            worker.received.to_string(),
            format!("{:.2}s", Duration::from_nanos(worker.cpu_ns).as_secs_f64()),
            worker.last_exit.as_deref().map_or("-".to_owned(), printable),
        ]);
    }
    table_text(&table)
}

/// What a worker's state is called.
pub(super) fn state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Running => "running",
        WorkerState::Restarting => "restarting",
        WorkerState::Failed => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::LogLevel;

    #[test]
    fn json_is_the_content_of_an_answer() {
        let names = vec!["a".to_owned(), "\u{1b}[0m\n".to_owned()];
        let added = json(&Answer::Added { names });
        assert_eq!(added, "{\"names\":[\"a\",\"\\u001b[0m\\n\"]}\n");
        assert_eq!(json(&Answer::Rules(Vec::new())), "[]\n");
        assert_eq!(json(&Answer::LogLevel { level: LogLevel::Debug }), "{\"level\":\"debug\"}\n");
    }

    #[test]
    fn a_reload_tells_what_it_did_and_what_it_did_not() {
        let text = text(&Answer::Reloaded {
            added: vec!["a".to_owned()],
            removed: (0..30).map(|i| i.to_string()).collect(),
            changed: Vec::new(),
            unchanged: 1,
            needs_restart: vec!["num-workers".to_owned()],
        });
        let expected =
            "added a\nremoved 30 rules\nunchanged 1 rule\nnum-workers is in force after a restart only\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn workers_are_a_table() {
        let worker = WorkerStatus {
            number: 0,
            pid: Some(71),
            state: WorkerState::Running,
            cpu: Some(1),
            uptime_ms: 65_000,
            restarts: 2,
            last_exit: Some("killed by SIGKILL".to_owned()),
            received: 10,
            cpu_ns: 1_500_000_000,
        };
        let failed =
            WorkerStatus { number: 1, pid: None, state: WorkerState::Failed, cpu: None, ..worker.clone() };
        let text = workers_table(&[worker, failed]);
        let words: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(words[1][..4], ["0", "71", "running", "1"]);
        assert_eq!(words[2][..4], ["1", "-", "failed", "-"]);
        assert!(text.contains("1min 5s") && text.contains("1.50s") && text.contains("killed by SIGKILL"));
    }
}
