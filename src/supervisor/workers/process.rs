//! One worker's process, as its supervisor sees it.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::sys::channel::{Channel, Listener};
use crate::sys::{poll, process};
use crate::worker::egress::{Key, MAX_SENDERS};
use crate::worker::order::{Answer, Descriptor, Inbox, Order, Outbox};

/// How often in a row a worker that was asked for a sign of life may be found without one. Looks are counted, not time: a machine
/// that stood still is no fault of the worker's.
const HANG_LOOKS: u32 = 3;
/// The same before it has shown the first one: it sets up its rings.
const BEGIN_LOOKS: u32 = 100;

/// How long a worker may still take to end when it has closed its channel.
const LAST_MOMENT: Duration = Duration::from_millis(200);

/// A worker's process and the channel to it.
#[derive(Debug)]
pub(super) struct Process {
    channel: AsyncFd<Channel>,
    outbox: Outbox<Order>,
    inbox: Inbox<Answer>,
    /// Absent where another supervisor has started it.
    child: Option<Child>,
    handle: OwnedFd,
    /// Whether it has not carried out yet what it was told at its begin.
    launching: bool,
    pub(super) pid: u32,
    pub(super) since: Instant,
    /// The last number that it was asked for, and that it has answered.
    asked: u64,
    answered: u64,
    /// Orders that it could not carry out.
    refused: Vec<Refused>,
    /// Why it ends, as far as it has said.
    failure: Option<String>,
    pulse: Pulse,
    /// Sockets that it wants, and who is told that there are such.
    wanted: VecDeque<Key>,
    calls: Arc<Notify>,
}

/// An order that a worker could not carry out.
#[derive(Debug)]
struct Refused {
    /// The number that it had answered before.
    after: u64,
    /// The interface that it was to receive on, if that was it.
    input: Option<String>,
    why: String,
}

/// Orders that a worker was given, with their descriptors.
pub(in crate::supervisor) type Told = Vec<(Order, Option<OwnedFd>)>;

/// When a worker has last shown that it lives.
#[derive(Clone, Copy, Debug)]
struct Pulse {
    turns: u64,
    /// How often it was found without one since it was asked; none while it shows some by itself.
    looks: Option<u32>,
    has_begun: bool,
    /// Time that it had been on a processor at the last look.
    cpu_time: Duration,
}

/// Least time on a processor from one look to the next of a worker that is on one.
const SOME_TIME: Duration = Duration::from_millis(5);

impl Process {
    /// Starts one that listens at `path`, and connects. `arguments` come before the command `worker`.
    pub(super) fn spawn(path: &Path, arguments: &[String], calls: &Arc<Notify>) -> io::Result<Self> {
        let listener = Listener::bind(path)?;
        // The same program, even if there is another file of its name by now.
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments).arg("worker").stdin(OwnedFd::from(listener)).stdout(Stdio::null());
        // To name the lines of a backtrace it would have to open files, which it may not: the reason is told without.
        command.env_remove("RUST_BACKTRACE");
        // A terminal's interrupt is for the supervisor.
        let mut child = command.process_group(0).spawn()?;
        let pid = child.id();
        match Channel::connect(path).and_then(Channel::register) {
            Ok(channel) => Self::new(channel, pid, Some(child), calls),
            Err(error) => {
                end(&mut child);
                Err(error)
            }
        }
    }

    /// One that another supervisor has started and that listens at `path`.
    ///
    /// # Errors
    /// `ConnectionRefused` or `NotFound` when there is none.
    pub(super) fn connect(path: &Path, calls: &Arc<Notify>) -> io::Result<Self> {
        let channel = Channel::connect(path)?;
        // The kernel says who listens, whatever that one may say.
        let pid = u32::try_from(channel.peer()?.pid).map_err(|_| io::ErrorKind::InvalidData)?;
        let mut process = Self::new(channel.register()?, pid, None, calls)?;
        process.launching = false;
        Ok(process)
    }

    /// What it was told by others. Of the outputs in `seen`, which have come from another worker, no descriptor is kept.
    ///
    /// # Errors
    /// `InvalidData` when it is of another version, or says what cannot be.
    pub(super) async fn told(&mut self, seen: &mut HashSet<u32>) -> io::Result<Told> {
        let mut told = Told::new();
        loop {
            match self.inbox.receive(self.channel.get_ref()) {
                Ok((Answer::Told(order), _)) if !order.is_possible() => {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                Ok((Answer::Told(order), descriptor)) => {
                    let is_seen = matches!(order, Order::Output { place, .. } if !seen.insert(place));
                    told.push((order, descriptor.filter(|_| !is_seen)));
                }
                Ok((Answer::ToldAll, _)) => return Ok(told),
                Ok((answer, _)) => drop(answer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.channel.readable().await?.clear_ready();
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn new(
        channel: AsyncFd<Channel>,
        pid: u32,
        mut child: Option<Child>,
        calls: &Arc<Notify>,
    ) -> io::Result<Self> {
        let number = Pid::from_raw(pid as i32).ok_or(io::ErrorKind::InvalidData)?;
        let handle = pidfd_open(number, PidfdFlags::empty()).inspect_err(|_| {
            if let Some(child) = &mut child {
                end(child);
            }
        })?;
        Ok(Self {
            channel,
            outbox: Outbox::default(),
            inbox: Inbox::default(),
            child,
            handle,
            launching: true,
            pid,
            since: Instant::now(),
            asked: 0,
            answered: 0,
            refused: Vec::new(),
            failure: None,
            pulse: Pulse { turns: 0, looks: None, has_begun: false, cpu_time: Duration::ZERO },
            wanted: VecDeque::new(),
            calls: Arc::clone(calls),
        })
    }

    /// Gives an order, as soon as there is room for it.
    pub(super) fn tell(&mut self, order: &Order, descriptor: Option<Descriptor>) {
        if let Err(error) = self.outbox.push(order, descriptor) {
            self.failure.get_or_insert_with(|| format!("give it an order: {error}"));
            self.kill();
        }
    }

    /// Asks it to answer `number`, which must be greater than all before, when it has carried out its orders.
    pub(super) fn ask(&mut self, number: u64) {
        self.tell(&Order::Answer(number), None);
        self.asked = number;
    }

    /// The last number that it was asked for; 0 before the first.
    pub(super) fn asked(&self) -> u64 {
        self.asked
    }

    /// Whether it has answered everything that it was asked for.
    pub(super) fn has_answered(&self) -> bool {
        self.answered >= self.asked
    }

    /// What it has refused of the orders that came after it was asked for `number`.
    pub(super) fn take_refused_since(&mut self, number: u64) -> Option<String> {
        let recent = self.refused.extract_if(.., |refused| refused.after >= number);
        let recent: Vec<_> = recent.map(|refused| refused.why).collect();
        (!recent.is_empty()).then(|| recent.join("; "))
    }

    /// What else it has refused: interfaces that it does not receive on, and why.
    pub(super) fn take_refused_inputs(&mut self) -> impl Iterator<Item = (String, String)> {
        self.refused.drain(..).filter_map(|refused| Some((refused.input?, refused.why)))
    }

    /// Sends what waits and takes what has come; ready when the worker is gone.
    pub(super) fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.poll_channel(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(error) => {
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    self.failure.get_or_insert_with(|| error.to_string());
                }
                Poll::Ready(())
            }
        }
    }

    /// Ready with an error only.
    fn poll_channel(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        while !self.outbox.is_empty() {
            match self.outbox.flush(self.channel.get_ref()) {
                // Where it is gone, what it has said at last is to be heard.
                Ok(true) | Err(_) => break,
                Ok(false) => match self.channel.poll_write_ready(context) {
                    Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                    Poll::Ready(Err(error)) => return Poll::Ready(error),
                    Poll::Pending => break,
                },
            }
        }
        loop {
            match self.inbox.receive(self.channel.get_ref()) {
                Ok((Answer::Done(number), _)) => {
                    self.launching = false;
                    self.answered = self.answered.max(number);
                }
                Ok((Answer::Failed(why), _)) => self.failure = Some(why),
                Ok((Answer::Wanted(key), _)) => self.want(key),
                Ok((Answer::Refused { input, why }, _)) => {
                    // What it refuses later, who has ordered it hears.
                    if self.launching {
                        tracing::error!("process {} cannot {why}", self.pid);
                    }
                    self.refused.push(Refused { after: self.answered, input, why });
                }
                Ok((Answer::Told(_) | Answer::ToldAll, _)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.channel.poll_read_ready(context) {
                        Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                        Poll::Ready(Err(error)) => return Poll::Ready(error),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                Err(error) => return Poll::Ready(error),
            }
        }
    }

    /// Takes note that it wants a socket. Of one that wants more than it can have, nobody takes note any more.
    fn want(&mut self, key: Key) {
        if self.wanted.len() < MAX_SENDERS {
            self.wanted.push_back(key);
            self.calls.notify_one();
        }
    }

    /// Sockets that it wants, at most so many, and whether there are more.
    pub(super) fn take_wanted(&mut self, most: usize) -> (Vec<Key>, bool) {
        let wanted = self.wanted.drain(..most.min(self.wanted.len())).collect();
        (wanted, !self.wanted.is_empty())
    }

    /// Looks whether it lives, by the turns that it has made; asks it, where it may be asleep, and ends it when it does not
    /// answer.
    pub(super) fn check_pulse(&mut self, turns: u64) {
        let Pulse { turns: before, looks, has_begun, cpu_time: ran_before } = self.pulse;
        let cpu_time = process::cpu_time(self.pid).unwrap_or_default();
        self.pulse.cpu_time = cpu_time;
        // One that waits for a processor is no better off when another one takes its place.
        let is_starved = || cpu_time.saturating_sub(ran_before) < SOME_TIME && process::is_runnable(self.pid);
        let most = if has_begun { HANG_LOOKS } else { BEGIN_LOOKS };
        match looks {
            _ if turns != before => {
                // What one before it has counted is no sign of its own.
                let has_begun = has_begun || self.answered > 0;
                self.pulse = Pulse { turns, looks: None, has_begun, cpu_time };
            }
            None => {
                self.tell(&Order::Answer(0), None);
                self.pulse.looks = Some(0);
            }
            Some(_) if is_starved() => {}
            Some(looks) if looks >= most => {
                self.failure.get_or_insert_with(|| "did nothing any more".to_owned());
                self.kill();
            }
            Some(looks) => self.pulse.looks = Some(looks + 1),
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&self) {
        // It fails where it has ended already.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }

    /// Makes sure that it is gone and says how it ended.
    pub(super) fn bury(mut self) -> String {
        // Its channel is closed a moment before it ends.
        let _ = poll::is_readable_within(self.handle.as_fd(), LAST_MOMENT);
        self.kill();
        let ended = match self.child.as_mut().map(Child::wait) {
            Some(Ok(status)) => describe(status),
            Some(Err(error)) => format!("ended ({error})"),
            None => "ended".to_owned(),
        };
        match self.failure {
            Some(failure) => format!("{ended}: {failure}"),
            None => ended,
        }
    }
}

fn end(child: &mut Child) {
    // Either fails only where it has ended.
    let _ = child.kill();
    let _ = child.wait();
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(libc::SIGSYS), _) => {
            "killed by SIGSYS: it made a system call that its filter forbids".to_owned()
        }
        (Some(libc::SIGKILL), _) => "killed by SIGKILL".to_owned(),
        (Some(signal), _) => format!("killed by signal {signal}"),
        (_, Some(0)) => "ended".to_owned(),
        (_, Some(101)) => "panicked".to_owned(),
        (_, code) => format!("ended with status {}", code.unwrap_or(-1)),
    }
}
