//! A relay that runs, and what is asked of it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path as FilePath, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use lab::topology::Topology;
use multicast_relay::control::{self, Answer, Outcome, RuleStatus, Stats, decode_response, encode_request};

use super::{DEADLINE, Path};

/// A running relay, ended when this goes.
pub struct Relay {
    child: Child,
    reports: Receiver<Stats>,
    log: Arc<Mutex<Vec<String>>>,
    path: Path,
    /// Where it is controlled.
    pub folder: tempfile::TempDir,
    /// Workers of a supervisor before this one.
    pub orphans: Vec<u32>,
}

impl Relay {
    /// Starts a relay with `arguments` and waits until it captures.
    pub fn start(topology: &Topology, path: Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_multicast_relay"));
        command.args(["supervisor", "--json"]).args(path.arguments()).args(arguments);
        Self::spawn(topology, path, command)
    }

    /// Starts a relay by `command`, which is to end up on `path`, and waits until it captures.
    pub fn spawn(topology: &Topology, path: Path, command: Command) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = Arc::default();
        let (child, reports) = Self::launch(topology, command, folder.path(), &log);
        Self { child, reports, log, path, folder, orphans: Vec::new() }
    }

    /// Starts a supervisor by `command` with a control socket in `folder`, and waits until it relays.
    fn launch(
        topology: &Topology,
        mut command: Command,
        folder: &FilePath,
        log: &Arc<Mutex<Vec<String>>>,
    ) -> (Child, Receiver<Stats>) {
        command.arg("--control-socket").arg(folder.join("control.sock"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = topology.relay_namespace().run(|| command.spawn()).unwrap().unwrap();
        let (ready, is_ready) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let lines = Arc::clone(log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                eprintln!("relay: {line}");
                lines.lock().unwrap().push(line.clone());
                if line.contains("relaying") {
                    let _ = ready.send(());
                }
            }
        });
        let (report, reports) = channel();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = report.send(serde_json::from_str(&line).unwrap());
            }
        });
        is_ready.recv_timeout(DEADLINE).expect("the relay says that it relays");
        (child, reports)
    }

    /// Ends the supervisor at once, and leaves its workers alone.
    pub fn end_supervisor(&mut self) {
        self.orphans = self.workers();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts another supervisor with the same control socket.
    pub fn start_again(&mut self, topology: &Topology, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_multicast_relay"));
        command.args(["supervisor", "--json"]).args(self.path.arguments()).args(arguments);
        (self.child, self.reports) = Self::launch(topology, command, self.folder.path(), &self.log);
    }

    /// The supervisor's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    fn control_socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Runs one of the commands that ask a supervisor.
    pub fn run(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_multicast_relay"));
        let output =
            command.args(arguments).arg("--control-socket").arg(self.control_socket()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A connection to its control socket.
    pub fn connect(&self) -> BufReader<UnixStream> {
        let stream = UnixStream::connect(self.control_socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        BufReader::new(stream)
    }

    /// What it answers to `command`.
    pub fn ask(&self, command: &control::Command) -> Outcome {
        exchange(&mut self.connect(), command)
    }

    /// Its rules and what becomes of them.
    pub fn rules(&self) -> Vec<RuleStatus> {
        match self.ask(&control::Command::List).unwrap() {
            Answer::Rules(rules) => rules,
            other => panic!("{other:?}"),
        }
    }

    /// What it has logged so far; all until it relays is there when it has been started.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    pub fn signal(&self, signal: i32) {
        kill(self.child.id(), signal);
    }

    /// The processes of its workers.
    pub fn workers(&self) -> Vec<u32> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        let children = children.unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().unwrap());
        // One that has ended and nobody has looked for yet has no command line.
        let lives =
            |pid: &&u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
        children.chain(self.orphans.iter().filter(lives).copied()).collect()
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.signal(libc::SIGUSR1);
        self.reports.recv_timeout(DEADLINE).expect("a report after SIGUSR1")
    }

    /// The counters when `done` says so of them.
    pub fn stats_when(&self, done: impl Fn(&Stats) -> bool) -> Stats {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let stats = self.stats();
            if done(&stats) {
                return stats;
            }
            assert!(Instant::now() < deadline, "the counters stay at {stats:?}");
        }
    }

    /// Asks the relay to stop: its final counters, which must balance, after it exited with success.
    pub fn stop(mut self) -> Stats {
        self.signal(libc::SIGTERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        let stats = self.reports.recv_timeout(DEADLINE).expect("a final report");
        stats.balance().unwrap();
        assert_eq!(stats.rx, self.path.name());
        stats
    }
}

/// What a supervisor answers to `command` over `connection`.
pub fn exchange(connection: &mut BufReader<UnixStream>, command: &control::Command) -> Outcome {
    connection.get_mut().write_all(&encode_request(command)).unwrap();
    let mut line = String::new();
    connection.read_line(&mut line).unwrap();
    decode_response(line.trim_end().as_bytes()).unwrap()
}

/// Sends a process a signal, if it is there.
pub fn kill(pid: u32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Workers go on without a supervisor.
        let workers = self.workers();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for worker in workers {
            kill(worker, libc::SIGKILL);
        }
    }
}
