use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

use super::socket::Owner;
use super::*;
use crate::control::hostile::{Hostile, messages, seed};
use crate::control::{
    Answer, LineBuffer, MAX_ANSWER, RuleSpec, Selector, decode_request, decode_response, encode_request,
    read_line,
};

/// Long enough for a machine that is busy with other things, short enough to notice that nothing comes.
const DEADLINE: Duration = Duration::from_secs(30);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A server with a supervisor that knows no rule, on a thread of its own until this drops.
struct Relay {
    path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    _folder: TempDir,
}

impl Relay {
    fn start(limits: Limits) -> Self {
        Self::start_with(limits, answer)
    }

    fn start_with(limits: Limits, answer: fn(Call)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let (stop, stopped) = oneshot::channel();
        let (runtime, barrier) = (runtime(), std::sync::Arc::new(Barrier::new(2)));
        let (bound, socket) = (barrier.clone(), path.clone());
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                let mut server = ControlServer::bind(&socket).unwrap();
                server.limits = limits;
                bound.wait();
                let (calls, mut called) = mpsc::channel(1);
                let supervise = async {
                    while let Some(call) = called.recv().await {
                        answer(call);
                    }
                };
                tokio::select! {
                    () = server.run(calls) => {}
                    () = supervise => {}
                    _ = stopped => {}
                }
            });
        });
        barrier.wait();
        Self { path, stop: Some(stop), thread: Some(thread), _folder: folder }
    }

    fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Client { stream, lines: LineBuffer::new(MAX_ANSWER) }
    }

    fn pings(&self) -> bool {
        let mut client = self.connect();
        let _ = client.stream.write_all(&encode_request(&Command::Ping));
        matches!(client.outcome(), Some(Ok(Answer::Pong { .. })))
    }

    /// Until clients that have left are forgotten.
    fn wait_for_a_place(&self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.pings() {
            assert!(Instant::now() < deadline, "no client is accepted after others have left");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
        let result = self.thread.take().map(JoinHandle::join);
        assert!(thread::panicking() || matches!(result, Some(Ok(()))), "the server panicked");
        assert!(thread::panicking() || !self.path.exists(), "the socket was left behind");
    }
}

fn answer(call: Call) {
    let _ = call.reply.send(outcome(call.command));
}

/// What a supervisor without rules answers.
fn outcome(command: Command) -> Outcome {
    match command {
        Command::Ping => Ok(Answer::Pong { pid: std::process::id(), version: "0".to_owned(), uptime_ms: 0 }),
        Command::Add { rules } => Ok(Answer::Added { names: rules.iter().map(RuleSpec::name).collect() }),
        Command::Remove { rules } => {
            let names: Vec<_> = rules.iter().map(Selector::to_string).collect();
            Err(Refusal::new(RefusalKind::UnknownRule, names.join(", ")))
        }
        command => Err(Refusal::new(RefusalKind::Failed, command.name())),
    }
}

struct Client {
    stream: UnixStream,
    lines: LineBuffer,
}

impl Client {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next response; `None` when the server ends the connection.
    fn outcome(&mut self) -> Option<Outcome> {
        let line = read_line(&mut self.stream, &mut self.lines).ok()??;
        Some(decode_response(&line).unwrap())
    }

    fn refusal(&mut self) -> Refusal {
        self.outcome().unwrap().unwrap_err()
    }

    fn is_closed(&mut self) -> bool {
        !matches!(self.stream.read(&mut [0]), Ok(1))
    }
}

fn line(text: &str) -> Vec<u8> {
    format!("{text}\n").into_bytes()
}

#[test]
fn requests_are_answered_in_their_order() {
    let relay = Relay::start(Limits::default());
    let mut client = relay.connect();
    let remove = |name: &str| Command::Remove { rules: vec![Selector::Name(name.to_owned())] };
    let names: Vec<_> = (0..200).map(|i| format!("rule {i}")).collect();
    let requests: Vec<u8> = names.iter().flat_map(|name| encode_request(&remove(name))).collect();
    client.send(&requests);
    for name in &names {
        assert_eq!(client.refusal(), Refusal::new(RefusalKind::UnknownRule, format!("rule {name:?}")));
    }
    drop(client);
    assert!(relay.pings());
}

#[test]
fn what_is_no_request_is_refused_and_the_next_one_answered() {
    let relay = Relay::start(Limits::default());
    let mut client = relay.connect();
    for (text, part) in [
        ("", "EOF"),
        ("nonsense", "expected"),
        (
            "{\"version\":2,\"command\":{\"wind\":\"up\"}}",
            "version 2 of the control protocol, the supervisor speaks version 1",
        ),
        ("{\"version\":1,\"command\":\"pong\"}", "unknown variant `pong`"),
        ("{\"version\":1,\"command\":{\"add\":{\"rules\":[],\"force\":true}}}", "unknown field `force`"),
        ("{\"version\":1,\"command\":\"ping\",\"to\":0}", "unknown field `to`"),
        ("{\"command\":\"ping\"}", "missing field `version`"),
    ] {
        client.send(&line(text));
        let refusal = client.refusal();
        assert_eq!(refusal.kind, RefusalKind::BadRequest);
        assert!(refusal.message.contains(part), "{text}: {refusal}");
    }
    client.send(&encode_request(&Command::Ping));
    assert!(client.outcome().unwrap().is_ok());
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let relay = Relay::start(Limits { request: 200_000, ..Limits::default() });
    let mut client = relay.connect();
    let name = "x".repeat(100_000);
    client.send(&encode_request(&Command::Remove { rules: vec![Selector::Name(name.clone())] }));
    assert!(client.refusal().message.contains(&name), "within the limit");
    // How much of it is taken before the server hangs up does not matter.
    let _ = client.stream.write_all(&vec![b'['; 1_000_000]);
    assert_eq!(client.refusal().kind, RefusalKind::TooLarge);
    assert!(client.is_closed());
    assert!(relay.pings());
}

#[test]
fn slow_and_silent_clients_are_let_go_and_keep_nobody_waiting() {
    let relay = Relay::start(Limits { send: Duration::from_millis(300), ..Limits::default() });
    let (mut silent, mut slow) = (relay.connect(), relay.connect());
    slow.send(b"{\"version\"");
    assert!(relay.pings());
    assert_eq!(slow.refusal().kind, RefusalKind::Timeout);
    assert!(slow.is_closed());
    assert!(silent.is_closed(), "and nothing is said to it");
}

#[test]
fn a_request_without_its_end_is_not_carried_out() {
    let relay = Relay::start(Limits::default());
    let mut client = relay.connect();
    let mut request = encode_request(&Command::Ping);
    request.pop();
    client.send(&request);
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let refusal = client.refusal();
    assert_eq!(refusal.kind, RefusalKind::BadRequest);
    assert!(refusal.message.contains("without a line end"));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_does_not_take_its_answer_is_let_go() {
    let answer = |call: Call| {
        let names = vec!["x".repeat(16 << 20)];
        let _ = call.reply.send(match call.command {
            Command::Reload => Ok(Answer::Added { names }),
            _ => Ok(Answer::Pong { pid: 1, version: String::new(), uptime_ms: 0 }),
        });
    };
    let relay = Relay::start_with(Limits { take: Duration::from_millis(300), ..Limits::default() }, answer);
    let mut client = relay.connect();
    client.send(&encode_request(&Command::Reload));
    assert!(relay.pings());
    // Its task ends by itself: the connection is closed although the client has not read.
    let deadline = Instant::now() + DEADLINE;
    while client.stream.write_all(b"\n").is_ok() {
        assert!(Instant::now() < deadline, "the server still holds the connection");
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(client.outcome(), None, "what was sent before is less than the answer");
}

#[test]
fn one_client_too_many_is_told_so() {
    let relay = Relay::start(Limits { clients: 3, ..Limits::default() });
    let mut clients: Vec<_> = (0..3).map(|_| relay.connect()).collect();
    for client in &mut clients {
        client.send(&encode_request(&Command::Ping));
        assert!(client.outcome().unwrap().is_ok());
    }
    let mut turned_away = relay.connect();
    let refusal = turned_away.refusal();
    assert_eq!(refusal.kind, RefusalKind::Unavailable);
    assert!(refusal.message.contains("3 clients are connected"));
    assert!(turned_away.is_closed());
    clients.pop();
    relay.wait_for_a_place();
}

#[test]
fn a_supervisor_that_does_not_answer_is_told_of() {
    // It keeps the call, and with it what it would answer through.
    let relay =
        Relay::start_with(Limits { answer: Duration::from_millis(300), ..Limits::default() }, |call| {
            std::mem::forget(call.reply);
        });
    let mut client = relay.connect();
    client.send(&encode_request(&Command::Ping));
    assert_eq!(client.refusal().kind, RefusalKind::Timeout);
    let relay = Relay::start_with(Limits::default(), drop);
    let mut client = relay.connect();
    client.send(&encode_request(&Command::Ping));
    assert_eq!(client.refusal().kind, RefusalKind::Unavailable);
}

#[test]
fn a_client_that_leaves_early_harms_nobody() {
    let relay = Relay::start(Limits::default());
    for _ in 0..200 {
        // Some of them are too many, and are told so before they have written.
        let _ = relay.connect().stream.write_all(&encode_request(&Command::Ping));
    }
    relay.wait_for_a_place();
}

#[test]
fn the_supervisor_is_told_who_asks() {
    let relay = Relay::start_with(Limits::default(), |call| {
        let _ = call.reply.send(Err(Refusal::new(RefusalKind::Failed, call.peer.to_string())));
    });
    let mut client = relay.connect();
    client.send(&encode_request(&Command::Ping));
    let (user, _) = credentials::effective();
    assert_eq!(client.refusal().message, format!("user {user}, process {}", std::process::id()));
}

#[test]
fn root_the_own_user_and_members_of_the_group_may_ask() {
    let owner = Owner { user: 990, group: 980 };
    let peer = |uid, gid| Peer { uid, gid, pid: None };
    for (peer, groups, expected) in [
        (peer(0, 0), &[][..], true),
        (peer(990, 1), &[], true),
        (peer(1_000, 980), &[], true),
        (peer(1_000, 1_000), &[27, 980], true),
        (peer(1_000, 1_000), &[27, 990], false),
        (peer(980, 0), &[], false),
    ] {
        assert_eq!(may_ask(&peer, groups, owner), expected, "{peer:?} {groups:?}");
    }
}

/// Sends `count` hostile messages, many at once, and compares every response with what it must be.
fn attack(relay: &Relay, seed: u64, count: usize, limit: usize) -> [usize; 3] {
    let mut hostile = Hostile::new(seed);
    let (mut sent, mut understood, mut refused) = (0, 0, 0);
    while sent < count {
        let mut client = relay.connect();
        // The answers to one volley fit into the socket's buffers, so that neither side waits for the other.
        for _ in 0..=hostile.below(20) {
            let mut volley = Vec::new();
            for _ in 0..=hostile.below(24) {
                volley.extend(hostile.message(limit));
                volley.push(b'\n');
                sent += 1;
            }
            // The server may hang up within it: before that it has answered what came first.
            let written = client.stream.write_all(&volley);
            let mut hung_up = false;
            for line in volley.split_inclusive(|byte| *byte == b'\n').map(|line| &line[..line.len() - 1]) {
                if line.len() > limit {
                    assert_eq!(client.refusal().kind, RefusalKind::TooLarge);
                    assert!(client.is_closed());
                    hung_up = true;
                    break;
                }
                let expected = decode_request(line).and_then(outcome);
                *if expected.is_ok() { &mut understood } else { &mut refused } += 1;
                assert_eq!(client.outcome(), Some(expected), "{:?}", String::from_utf8_lossy(line));
            }
            if hung_up {
                client = relay.connect();
            } else {
                written.unwrap();
            }
        }
        if hostile.below(2) == 0 {
            // And leaves in the middle of a line.
            let _ = client.stream.write_all(&hostile.message(limit));
        }
    }
    [sent, understood, refused]
}

#[test]
fn hostile_clients_get_one_response_a_line_and_harm_nobody() {
    const LIMIT: usize = 4_096;
    let limits = Limits { request: LIMIT, ..Limits::default() };
    let relay = Relay::start(limits);
    let counts = thread::scope(|scope| {
        let attack = |seed| attack(&relay, seed, messages() / 4, LIMIT);
        let attackers: Vec<_> = (1..5)
            .map(|thread| seed() ^ (thread << 32))
            .map(|seed| scope.spawn(move || attack(seed)))
            .collect();
        let counts = attackers.into_iter().map(|attacker| attacker.join().unwrap());
        counts.fold([0; 3], |sum, counts| [0, 1, 2].map(|i| sum[i] + counts[i]))
    });
    let [sent, understood, refused] = counts;
    println!("{sent} messages: {understood} commands carried out, {refused} lines refused");
    assert!(understood > sent / 50 && refused > sent / 2);
    relay.wait_for_a_place();
}
