//! One process of a subject: started inside a namespace, its output kept, ended by its id.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::SubjectError;
use super::lines::Lines;
use crate::net::Namespace;
use crate::sys::affinity;
use crate::sys::signal::{self, Signal};

/// By which the relay is configured beside its file and its flags.
const RELAY_VARIABLES: [&str; 2] = ["MCR_RING_BLOCK_SIZE", "MCR_RING_BLOCK_COUNT"];

/// How often a process that was told to end is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// How often one that was struck is looked at.
const STRIKE_LOOK: Duration = Duration::from_millis(1);
/// How long to wait for the rest of its output once it has ended.
const PIPE_PATIENCE: Duration = Duration::from_secs(2);
/// How much of its last words is shown.
const TAIL_LINES: usize = 12;
const TAIL_BYTES: u64 = 4_096;
/// The longest line that is taken as one; longer ones are only in the file. The largest report there can be, of the
/// 160,000 outputs that a scenario allows, has some 15 MB.
const MAX_LINE: u64 = 64 << 20;

/// What to start, and where.
#[derive(Clone, Debug)]
pub struct Launch {
    /// The program, by name or path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Where its standard output and error are kept, as `stdout` and `stderr`.
    pub dir: PathBuf,
    /// The processors it may run on; `None` leaves that to the kernel.
    pub cpus: Option<Vec<usize>>,
}

/// A running process. Dropping it kills it and whatever it started in its group.
#[derive(Debug)]
pub struct Process {
    child: Child,
    dir: PathBuf,
    lines: Arc<Lines>,
    reader: Option<JoinHandle<()>>,
    /// Known once it has been reaped: from then on its id may be another's and is not used any more.
    status: Option<ExitStatus>,
}

/// How a process came to its end.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// What it returned.
    pub status: ExitStatus,
    /// Whether it had to be killed.
    pub killed: bool,
}

impl Process {
    /// Starts `launch` inside `namespace`, in a process group of its own so that a Ctrl-C at the terminal reaches
    /// the lab alone.
    pub fn start(launch: &Launch, namespace: &Namespace) -> Result<Self, SubjectError> {
        let output = |name: &str| {
            let path = launch.dir.join(name);
            // One that replaces another writes on.
            OpenOptions::new()
                .create(true)
                .append(true)
                .open(&path)
                .map_err(|source| SubjectError::File { path, source })
        };
        let (stdout, stderr) = (output("stdout")?, output("stderr")?);
        let mut command = Command::new(&launch.program);
        // What the relay reads of its environment would beat what the scenario says.
        for variable in RELAY_VARIABLES {
            command.env_remove(variable);
        }
        command
            .args(&launch.arguments)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr);
        let mut child = spawn_inside(&mut command, namespace, launch.cpus.as_deref())?
            .map_err(|source| SubjectError::Start { program: launch.program.clone(), source })?;
        let lines = Arc::new(Lines::default());
        let kept = Arc::clone(&lines);
        let reader =
            child.stdout.take().map(|pipe| thread::spawn(move || keep(pipe, stdout, &kept, MAX_LINE)));
        Ok(Self { child, dir: launch.dir.clone(), lines, reader, status: None })
    }

    /// Its process id; another's, perhaps, once it [has ended](Self::ended).
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has. What it started is ended with it: once it has been reaped nobody could tell its group
    /// from another's.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        // An error means that there is nobody to wait for, which cannot be before it has been reaped here.
        if self.status.is_none() && signal::has_ended(self.pid()).unwrap_or(false) {
            return self.kill_and_reap().ok();
        }
        self.status
    }

    /// Kills whoever of its group is left, its own process held by not being reaped before.
    fn kill_and_reap(&mut self) -> io::Result<ExitStatus> {
        signal::send_group(self.pid(), Signal::Kill)?;
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// Ends it, and it alone, with `signal`: what it started goes on. Returns when it has ended, or an error when it has not
    /// within `patience`.
    pub(crate) fn strike(&mut self, signal: Signal, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            // More than once: the runtime of Rust survives the first SIGSEGV that is nobody's fault.
            signal::send(self.pid(), signal)?;
            thread::sleep(STRIKE_LOOK);
            if signal::has_ended(self.pid())? {
                break;
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        self.status = Some(self.child.wait()?);
        Ok(())
    }

    /// Asks it to read its configuration again.
    pub(crate) fn ask_to_reload(&mut self) -> io::Result<()> {
        self.signal(Signal::Reload)
    }

    /// Asks it to report its counters.
    pub(crate) fn ask_for_report(&mut self) -> io::Result<()> {
        self.lines.take_all();
        self.signal(Signal::Report)
    }

    /// The next line of its standard output, waiting until `deadline`.
    pub fn next_line(&self, deadline: Instant) -> Option<String> {
        self.lines.next(deadline)
    }

    /// Asks it to end, and kills it when it has not done so within `patience`.
    pub fn stop(&mut self, patience: Duration) -> io::Result<Ended> {
        let deadline = Instant::now() + patience;
        if self.ended().is_none() {
            self.signal(Signal::Terminate)?;
        }
        while self.ended().is_none() && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        let (status, killed) = match self.ended() {
            Some(status) => (status, false),
            None => (self.kill_and_reap()?, true),
        };
        self.read_to_the_end();
        Ok(Ended { status, killed })
    }

    /// The lines of its standard output that nobody has read. Meaningful once it has ended.
    pub fn remaining_lines(&self) -> Vec<String> {
        self.lines.take_all()
    }

    /// The last lines of its standard error, or of its standard output when it wrote no error.
    pub fn last_words(&self) -> String {
        let tails = ["stderr", "stdout"].map(|name| tail(&self.dir.join(name)).unwrap_or_default());
        tails.into_iter().find(|tail| !tail.is_empty()).unwrap_or_default()
    }

    /// Waits for what it wrote last. With the group dead nobody should hold the other end of the pipe; a process
    /// that left the group may, and is not waited for.
    fn read_to_the_end(&mut self) {
        let deadline = Instant::now() + PIPE_PATIENCE;
        while self.reader.as_ref().is_some_and(|reader| !reader.is_finished()) && Instant::now() < deadline {
            thread::sleep(LOOK);
        }
        self.reader = None;
    }

    fn signal(&mut self, signal: Signal) -> io::Result<()> {
        match self.ended() {
            Some(_) => Ok(()),
            None => signal::send(self.pid(), signal),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            // Nobody is left to tell: what cannot be killed now is removed by `lab clean`.
            let _ = self.kill_and_reap();
        }
    }
}

/// Spawns on a thread of its own: a process inherits the processors of the thread that started it.
fn spawn_inside(
    command: &mut Command,
    namespace: &Namespace,
    cpus: Option<&[usize]>,
) -> Result<io::Result<Child>, SubjectError> {
    let spawn = || {
        if let Some(cpus) = cpus {
            affinity::pin_current_thread(cpus).map_err(|source| SubjectError::Placement { source })?;
        }
        Ok(namespace.run(|| command.spawn())?)
    };
    let result = thread::scope(|scope| scope.spawn(spawn).join());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Copies everything from `pipe` to `file`, and its lines, as far as they are no longer than `longest`, to `lines`.
fn keep(pipe: impl Read, mut file: impl Write, lines: &Lines, longest: u64) {
    let mut pipe = BufReader::new(pipe);
    let mut line = Vec::new();
    let mut is_rest = false;
    loop {
        line.clear();
        match pipe.by_ref().take(longest).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        // A full disk must not stop the subject: its lines still count.
        let _ = file.write_all(&line);
        let is_cut = line.last() != Some(&b'\n') && line.len() as u64 == longest;
        if !is_cut && !is_rest {
            lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
        }
        is_rest = is_cut;
    }
    lines.close();
}

/// The last lines of `path`.
fn tail(path: &Path) -> io::Result<String> {
    let length = fs::metadata(path)?.len();
    let mut file = File::open(path)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.trim_end().lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::RunName;

    #[test]
    fn a_line_too_long_is_kept_in_the_file_only() {
        let (text, lines) = (b"one\n1234567890\ntwo\nthe end", Lines::default());
        let mut file = Vec::new();
        keep(&text[..], &mut file, &lines, 8);
        assert_eq!(file, text);
        assert_eq!(lines.take_all(), ["one", "two", "the end"]);
    }

    /// Whether process `pid` does anything.
    fn is_alive(pid: &str) -> bool {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty())
    }

    #[test]
    #[ignore = "needs root: builds network namespaces"]
    fn what_a_process_started_ends_with_it_and_its_id_is_used_no_more() {
        let run = RunName::claim().unwrap_or_else(|error| panic!("{error}"));
        let namespace = Namespace::create(&run.namespace("relay")).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let launch = Launch {
            program: "sh".into(),
            arguments: ["-c", "sleep 120 & echo $!; exit 3"].map(str::to_owned).to_vec(),
            dir: dir.path().to_owned(),
            cpus: None,
        };
        let mut process = Process::start(&launch, &namespace).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        let started = process.next_line(deadline).expect("the id of what it started");
        let status = loop {
            assert!(Instant::now() < deadline, "still running");
            if let Some(status) = process.ended() {
                break status;
            }
            thread::sleep(LOOK);
        };
        assert_eq!((status.code(), process.status), (Some(3), Some(status)));
        while is_alive(&started) {
            assert!(Instant::now() < deadline, "{started} outlived who started it");
            thread::sleep(LOOK);
        }
        let ended = process.stop(Duration::ZERO).unwrap();
        assert_eq!((ended.status, ended.killed), (status, false));
    }
}
