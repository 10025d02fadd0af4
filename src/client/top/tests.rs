use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::view::Sort;
use super::*;
use crate::control::{InputStats, OutputStats, RuleStats, Stats, WorkerState};

/// What there is after `seconds` of 1,000 datagrams a second on every rule, times its place; the last loses a tenth.
fn sample(rules: u64, seconds: u64) -> Sample {
    let rule = |i: u64| {
        let matched = 1_000 * (i + 1) * seconds;
        let lost = if i + 1 == rules { matched / 10 } else { 0 };
        let output = OutputStats {
            destination: "239.2.2.2:6000:eth1".to_owned(),
            relayed: matched - lost,
            bytes: 100 * (matched - lost),
            dropped: [("queue_full".to_owned(), lost)].into(),
        };
        RuleStats {
            name: format!("rule-{i}"),
            matched,
            bytes: 100 * matched,
            outputs: vec![output],
            leg: None,
        }
    };
    let input = InputStats { interface: "eth0".to_owned(), dropped: 5 * seconds, ..InputStats::default() };
    let stats = Stats {
        rx: "mmap-v3".to_owned(),
        rules: (0..rules).map(rule).collect(),
        inputs: vec![input],
        dropped: [("no_rule".to_owned(), seconds)].into(),
        ..Stats::default()
    };
    let worker = |number: u32, state| WorkerStatus {
        number,
        pid: Some(number + 70),
        state,
        cpu: None,
        uptime_ms: 0,
        restarts: 0,
        last_exit: None,
        received: 0,
        cpu_ns: seconds * 400_000_000,
    };
    Sample {
        stats: StatsReport::new(0, Duration::from_secs(60 + seconds), stats, None),
        workers: vec![worker(0, WorkerState::Running), worker(1, WorkerState::Failed)],
    }
}

fn frame(rules: u64) -> Frame {
    let earlier = sample(rules, 1);
    Frame::new(&sample(rules, 3).since(&earlier), Some(&earlier))
}

fn press(view: &mut View, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '>' => KeyCode::PageDown,
            key => KeyCode::Char(key),
        };
        assert_eq!(view.key(KeyEvent::new(code, KeyModifiers::NONE)), Step::Go, "{key:?}");
    }
}

fn screen(view: &mut View) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(100, 12)).unwrap();
    terminal.draw(|canvas| screen::draw(canvas, view)).unwrap();
    let text = terminal.backend().to_string();
    text.lines().map(|line| line.trim_matches('"').trim_end().to_owned()).collect()
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn a_page_has_rates_losses_and_causes() {
    let page = page(&frame(2));
    let lines: Vec<_> = page.lines().collect();
    assert_eq!(lines[0], "multicast_relay   up 1min 3s   received by mmap-v3   2 rules");
    assert_eq!(
        lines[1],
        "in 3.00k pkt/s, 2.40M bit/s   out 2.80k pkt/s   dropped by kernel 15 (+10)   dropped before a rule: no_rule 3"
    );
    assert_eq!(lines[2], "workers, CPU: 0 40%   1 failed");
    assert_eq!(words(lines[5]), ["rule-0", "1.00k", "800k", "1.00k", "0", "0"]);
    assert_eq!(words(lines[6]), ["rule-1", "2.00k", "1.60M", "1.80k", "10", "600", "queue_full", "600"]);
}

#[test]
fn the_screen_shows_what_fits_and_says_what_does_not() {
    let mut view = View::new(frame(30));
    let lines = screen(&mut view);
    assert_eq!(words(&lines[4])[0], "RULE", "{lines:#?}");
    assert_eq!(words(&lines[5])[..2], ["rule-0", "1.00k"]);
    assert_eq!(words(&lines[10])[0], "rule-5");
    press(&mut view, ">");
    assert_eq!(words(&screen(&mut view)[5])[0], "rule-6");
    press(&mut view, ">>>>>>>>>>");
    assert_eq!(words(&screen(&mut view)[10])[0], "rule-29");
    press(&mut view, "d");
    assert_eq!(words(&screen(&mut view)[5])[0], "rule-29", "what lost most comes first");
    press(&mut view, "/rule-1");
    assert!(screen(&mut view)[11].contains("show rules with: rule-1"));
    press(&mut view, "\n");
    assert_eq!(view.rows().len(), 11);
    press(&mut view, "\u{1b}ir");
    assert_eq!((view.sort, view.rows().len()), (Sort::In, 30));
    assert_eq!(view.rows()[0].rule, "rule-0", "the least, reversed");
    view.trouble = Some("no answer".to_owned());
    assert!(screen(&mut view)[11].contains("no answer"));
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)), Step::Quit);
    assert_eq!(view.key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Step::Quit);
}

#[test]
fn a_supervisor_that_has_begun_anew_has_no_rates_yet() {
    let anew = sample(2, 1).since(&sample(2, 3));
    assert!(anew.stats.rates.iter().all(|rates| rates.matched_pps == 0.0));
    assert!(Frame::new(&anew, Some(&sample(2, 3))).header[2].contains("0 -"), "no CPU time either");
}

#[test]
fn a_screen_of_no_size_is_no_error() {
    for (width, height) in [(0, 0), (1, 1), (5, 3), (300, 4)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let mut view = View::new(frame(30));
        terminal.draw(|canvas| screen::draw(canvas, &mut view)).unwrap();
        press(&mut view, ">j");
    }
}
