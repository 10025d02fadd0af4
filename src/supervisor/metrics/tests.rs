//! That everything is told, and that no client can keep the server from telling it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

use super::*;
use crate::control::{OutputStatus, RuleStatus, State, WorkerState, WorkerStatus};
use crate::rules::Rule;
use crate::stats::{
    Cause, InputStats, LegStats, Named, OutputStats, RemovedStats, RuleStats, SendFailure, Stats, WorkerStats,
};

/// How long anything may take on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
const RULE: &str = "eth0:239.1.1.1:5000=239.2.2.2:6000:eth1";

/// A snapshot in which no two counts are the same.
fn snapshot() -> Snapshot {
    let mut rule: Rule = RULE.parse().unwrap();
    rule.name = "a \"video\"\nof \\ two lines".to_owned();
    let failures =
        SendFailure::ALL.iter().enumerate().map(|(i, failure)| (failure.name().to_owned(), 100 + i as u64));
    let output = OutputStats {
        destination: "239.2.2.2:6000:eth1".to_owned(),
        relayed: 21,
        bytes: 22,
        dropped: failures.collect(),
    };
    let input = InputStats {
        interface: "eth0".to_owned(),
        foreign: 1,
        consumed: 2,
        captured: 60,
        dropped: 3,
        frames: 4,
        received: 5,
        went_down: 6,
        freezes: 7,
        follows_loss: 8,
        abandoned: 9,
        taken_again: 10,
    };
    let causes =
        Cause::ALL.iter().enumerate().skip(1).map(|(i, cause)| (cause.name().to_owned(), 200 + i as u64));
    let stats = Stats {
        rx: "mmap-v3".to_owned(),
        workers: vec![WorkerStats { received: 31, matched: 32 }],
        received: 9_000,
        matched: 12,
        relayed: 13,
        dropped: causes.collect(),
        removed: RemovedStats {
            matched: 16,
            relayed: 17,
            dropped: BTreeMap::from([("refused".to_owned(), 18)]),
        },
        inputs: vec![input],
        rules: vec![RuleStats {
            name: rule.name.clone(),
            matched: 14,
            bytes: 15,
            outputs: vec![output],
            leg: Some(LegStats { stream: "studio".to_owned(), missing: 19, crowded: 20 }),
        }],
    };
    let worker = WorkerStatus {
        number: 0,
        pid: Some(77),
        state: WorkerState::Running,
        cpu: Some(1),
        uptime_ms: 5,
        restarts: 41,
        last_exit: None,
        received: 42,
        cpu_ns: 1_500_000_000,
    };
    let waiting = OutputStatus { state: State::Waiting, reasons: vec!["eth1 is down".to_owned()] };
    let rules = vec![RuleStatus {
        rule: (&rule).into(),
        state: State::Relaying,
        reasons: Vec::new(),
        outputs: vec![waiting],
    }];
    let failed = WorkerStatus { number: 1, state: WorkerState::Failed, ..worker.clone() };
    Snapshot { uptime_ms: 61_500, stats, workers: vec![worker, failed], rules }
}

fn text() -> String {
    exposition::text(snapshot()).unwrap()
}

/// Every name of a sample in the text.
fn names() -> BTreeSet<String> {
    let text = text();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect()
}

/// Everything in a text that looks like the name of a metric.
fn mentioned(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let is_metric = |word: &&str| word.starts_with("multicast_relay_") && *word != "multicast_relay_";
    words.filter(is_metric).map(str::to_owned).collect()
}

fn packaged(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file)).unwrap()
}

#[test]
fn every_count_is_told() {
    let text = text();
    let rule = "rule=\"a \\\"video\\\"\\nof \\\\ two lines\"";
    let output = format!("{rule},output=\"239.2.2.2:6000:eth1\"");
    for line in [
        format!("info{{version=\"{}\",rx=\"mmap-v3\"}} 1.0", env!("CARGO_PKG_VERSION")),
        "uptime_seconds 61.5".to_owned(),
        "received_datagrams_total 9000".to_owned(),
        "matched_datagrams_total 12".to_owned(),
        "relayed_datagrams_total 13".to_owned(),
        "removed_matched_datagrams_total 16".to_owned(),
        "removed_relayed_datagrams_total 17".to_owned(),
        "removed_dropped_datagrams_total{reason=\"refused\"} 18".to_owned(),
        "removed_dropped_datagrams_total{reason=\"other\"} 0".to_owned(),
        "dropped_frames_total{cause=\"no_rule\"} 0".to_owned(),
        format!("dropped_frames_total{{cause=\"malformed\"}} {}", 200 + Cause::Malformed.index()),
        "input_foreign_datagrams_total{interface=\"eth0\"} 1".to_owned(),
        "input_consumed_frames_total{interface=\"eth0\"} 2".to_owned(),
        "input_captured_frames_total{interface=\"eth0\"} 60".to_owned(),
        "input_kernel_dropped_frames_total{interface=\"eth0\"} 3".to_owned(),
        "input_frames_total{interface=\"eth0\"} 4".to_owned(),
        "input_received_datagrams_total{interface=\"eth0\"} 5".to_owned(),
        "input_down_events_total{interface=\"eth0\"} 6".to_owned(),
        "input_ring_freezes_total{interface=\"eth0\"} 7".to_owned(),
        "input_loss_marks_total{interface=\"eth0\"} 8".to_owned(),
        "input_abandoned_frames_total{interface=\"eth0\"} 9".to_owned(),
        "input_taken_again_frames_total{interface=\"eth0\"} 10".to_owned(),
        "input_queued_frames{interface=\"eth0\"} 44.0".to_owned(),
        format!("rule_received_datagrams_total{{{rule}}} 14"),
        format!("rule_received_bytes_total{{{rule}}} 15"),
        format!("rule_relaying{{{rule}}} 0.0"),
        format!("leg_missing_datagrams_total{{{rule},stream=\"studio\"}} 19"),
        format!("leg_crowded_datagrams_total{{{rule},stream=\"studio\"}} 20"),
        format!("output_relayed_datagrams_total{{{output}}} 21"),
        format!("output_relayed_bytes_total{{{output}}} 22"),
        format!(
            "output_dropped_datagrams_total{{{output}}} {}",
            // Duplicates are no loss.
            (100..).take(SendFailure::ALL.len()).sum::<u64>() - 100 - SendFailure::Duplicate.index() as u64
        ),
        format!("output_dropped_datagrams_by_reason_total{{{output},reason=\"buffer_full\"}} 100"),
        format!(
            "output_dropped_datagrams_by_reason_total{{{output},reason=\"other\"}} {}",
            100 + SendFailure::Other.index()
        ),
        "worker_up{worker=\"0\"} 1.0".to_owned(),
        "worker_up{worker=\"1\"} 0.0".to_owned(),
        "worker_restarts_total{worker=\"0\"} 41".to_owned(),
        "worker_received_datagrams_total{worker=\"0\"} 42".to_owned(),
        "worker_cpu_seconds_total{worker=\"0\"} 1.5".to_owned(),
    ] {
        assert!(text.contains(&format!("\nmulticast_relay_{line}\n")), "no {line} in {text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(text.matches("cause=").count(), Cause::ALL.len());
    assert_eq!(text.matches(",reason=").count(), SendFailure::ALL.len());
}

/// What Prometheus refuses: a sample told twice, a name without a type, samples of a metric that do not stand together.
#[test]
fn the_text_is_well_formed() {
    let text = text();
    let mut types = BTreeMap::new();
    let mut samples = BTreeSet::new();
    let mut current = String::new();
    for line in text.lines() {
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            name.clone_into(&mut current);
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            assert!(value.parse::<f64>().is_ok_and(f64::is_finite), "{line}");
            assert!(samples.insert(sample.to_owned()), "{sample} twice");
            let name = sample.split('{').next().unwrap();
            let total = if types[&current] == "counter" { "_total" } else { "" };
            assert_eq!(name, format!("{current}{total}"), "stands below another name");
        }
    }
    assert!(types.values().all(|kind| kind == "counter" || kind == "gauge"), "{types:?}");
    assert_eq!(text.matches("# HELP ").count(), types.len());
}

#[test]
fn nothing_is_well_formed_too() {
    let text = exposition::text(Snapshot::default()).unwrap();
    assert!(
        text.contains("\nmulticast_relay_received_datagrams_total 0\n") && text.ends_with("# EOF\n"),
        "{text}"
    );
}

#[test]
fn the_documentation_lists_every_metric_and_no_other() {
    assert_eq!(mentioned(&packaged("METRICS.md")), names());
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let text = packaged("grafana/dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 8 && dashboard["title"].is_string() && dashboard["uid"].is_string());
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{}", panel["title"]);
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            let used = mentioned(expression);
            assert!(!used.is_empty(), "{expression}");
            let unknown: Vec<_> = used.difference(&names()).cloned().collect();
            assert!(unknown.is_empty(), "{unknown:?} in {expression}");
        }
    }
    assert!(mentioned(&text).difference(&names()).next().is_none(), "all of them, variables included");
}

#[test]
fn addresses_to_listen_on() {
    let address = |text| listen_address(text).map(|address| address.to_string());
    assert_eq!(address("9464").as_deref(), Ok("127.0.0.1:9464"));
    assert_eq!(address(":9464").as_deref(), Ok("127.0.0.1:9464"));
    assert_eq!(address("192.0.2.1:1").as_deref(), Ok("192.0.2.1:1"));
    assert_eq!(address("[::]:9464").as_deref(), Ok("[::]:9464"));
    for wrong in ["", ":", "0x1", "65536", "localhost:1", "1.2.3.4", "::1"] {
        assert!(address(wrong).unwrap_err().contains("give a port"), "{wrong}");
    }
}

/// Runs `test` beside a server whose supervisor answers, or is gone.
fn served<F: Future<Output = ()>>(supervisor: bool, test: impl FnOnce(SocketAddr) -> F) {
    let runtime: Runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = MetricsServer::bind(listen_address("0").unwrap()).unwrap();
        let address = server.address().unwrap();
        let (sender, mut scrapes) = mpsc::channel::<Scrape>(1);
        tokio::spawn(server.serve(sender));
        if supervisor {
            tokio::spawn(async move {
                while let Some(scrape) = scrapes.recv().await {
                    let _ = scrape.reply.send(snapshot());
                }
            });
        } else {
            drop(scrapes);
        }
        time::timeout(PATIENCE, test(address)).await.expect("the server answers in time");
    });
}

/// What comes back for a request as it stands.
async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // It may be answered, and closed, before all of it is sent.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr) -> String {
    exchange(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await
}

#[test]
fn a_scrape_is_answered() {
    served(true, async |address| {
        let answer = get(address).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0"), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(body, text());
        let answer = exchange(address, b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
        let answer = exchange(address, b"GET /metrics HTTP/1.0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
    });
}

#[test]
fn what_is_no_scrape_is_refused() {
    served(true, async |address| {
        let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * REQUEST_BYTES));
        let many = format!("GET /metrics HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(REQUEST_HEADERS + 1));
        for (request, status) in [
            ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("GET /metrics/../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "404"),
            ("POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "405"),
            ("nonsense\r\n\r\n", "400"),
            (&long, "431"),
            (&many, "431"),
        ] {
            let answer = exchange(address, request.as_bytes()).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.60}: {answer}");
        }
        assert!(get(address).await.contains("# EOF"), "it still answers");
    });
}

#[test]
fn a_supervisor_that_is_gone_is_told() {
    served(false, async |address| assert!(get(address).await.starts_with("HTTP/1.1 503 ")));
}

/// As many as there may be say nothing: the next one is closed, and when they have had their time others are answered.
#[test]
fn silent_clients_have_an_end() {
    served(true, async |address| {
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert_eq!(get(address).await, "", "the server is full");
        for mut stream in silent {
            // Closed without a word, or reset.
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert!(!answer.starts_with(b"HTTP/1.1 200"));
        }
        assert!(get(address).await.contains("# EOF"));
    });
}

/// One that takes nothing of its answer holds up nobody.
#[test]
fn a_client_that_does_not_read_holds_up_nobody() {
    served(true, async |address| {
        let mut stuck = TcpStream::connect(address).await.unwrap();
        stuck.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let scrapes = (0..10).map(|_| get(address));
        for answer in futures_util::future::join_all(scrapes).await {
            assert!(answer.ends_with("# EOF\n"));
        }
        drop(stuck);
    });
}
