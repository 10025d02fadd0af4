//! The turn of a worker: wait, receive, forward, send, release, carry out orders.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::WorkerError;
use super::dedupe::Streams;
use super::egress::{Egress, PATIENCE};
use super::forward::forward;
use super::link::Link;
use super::order::{Answer, Task};
use super::own::Own;
use super::receiver::{Batch, ReceiveError, Receiver};
use super::told::Told;
use crate::rules::{InputIndex, RuleTable};
use crate::stats::{Cause, Counters, SendFailure};
use crate::sys::packet_socket;
use crate::sys::uring::{Token, Uring, Wait};

/// How long a worker that was told to stop goes on with what it had received by then.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How often in a row nothing may be left, with a pause in between: a processor that was about to capture a frame when
/// capture ended still does.
const DRAINED_LOOKS: u32 = 3;
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// A worker's loop over one receive path.
pub(super) struct UnifiedLoop<'a, R> {
    /// For everything that is waited for.
    pub ring: Uring,
    /// The receive path.
    pub receiver: R,
    /// Which rule takes what.
    pub rules: RuleTable,
    /// Whom nothing is taken from.
    pub own: Own,
    /// What came in before.
    pub streams: Streams,
    /// Where copies leave.
    pub egress: Egress,
    /// What is counted.
    pub counters: &'a Counters,
    /// What this worker is.
    pub task: Task,
    /// Who gives orders.
    pub link: Link,
    /// The orders that hold.
    pub told: Told,
    /// Whether there was something on the link that nobody has looked at yet.
    pub is_called: bool,
}

/// How long a worker without work stays awake.
struct Patience {
    length: Duration,
    since: Instant,
}

impl Patience {
    fn new(length: Duration) -> Self {
        Self { length, since: Instant::now() }
    }

    // Without patience nobody needs to know the time.
    fn is_over(&self) -> bool {
        self.length.is_zero() || self.since.elapsed() >= self.length
    }

    fn renew(&mut self) {
        if !self.length.is_zero() {
            self.since = Instant::now();
        }
    }
}

/// What came of a turn.
struct Turn {
    /// Whether there is something on the link.
    called: bool,
    /// Whether there was something to relay.
    busy: bool,
}

impl<R: Receiver> UnifiedLoop<'_, R> {
    /// Turns until it is told to drain, and does.
    pub(super) fn run(&mut self) -> Result<(), WorkerError> {
        let mut patience = Patience::new(self.task.busy_poll);
        let mut go_on = self.carry_out_orders()?;
        while go_on {
            let turn = self.turn(patience.is_over())?;
            if turn.called || self.is_called {
                self.is_called = false;
                go_on = self.carry_out_orders()?;
            }
            if turn.busy {
                patience.renew();
            }
        }
        let places = self.receiver.places();
        if !self.drain(&places, DRAIN_TIME)? {
            tracing::warn!(
                "stopped after {DRAIN_TIME:?} with frames left unread: see `queued` in the report"
            );
        }
        self.drain_egress()
    }

    /// Sends what waits for sockets that the supervisor has been asked for, as far as they come.
    fn drain_egress(&mut self) -> Result<(), WorkerError> {
        let deadline = Instant::now() + PATIENCE;
        while self.egress.is_waiting() && Instant::now() < deadline && self.carry_out_orders()? {
            self.turn(false)?;
            thread::sleep(DRAIN_PAUSE);
        }
        self.egress.give_up(self.counters);
        Ok(())
    }

    /// One turn. With `sleep` it waits until there is something to do.
    fn turn(&mut self, sleep: bool) -> Result<Turn, WorkerError> {
        self.counters.turns().add(1);
        let sleep = sleep && !self.receiver.is_ready();
        self.link.arm(&mut self.ring).map_err(WorkerError::ring)?;
        self.receiver.arm(&mut self.ring, sleep).map_err(WorkerError::ring)?;
        let wait = if sleep { self.sleep() } else { Wait::Not };
        self.ring.wait(wait).map_err(WorkerError::ring)?;
        self.egress.tick();
        let called = self.complete();
        // Whatever failed, all that has arrived is relayed.
        let busy = self.relay().map_err(WorkerError::ring)?;
        self.attend_senders().map_err(WorkerError::Orders)?;
        Ok(Turn { called: called?, busy })
    }

    /// How to sleep until there is something to do.
    fn sleep(&mut self) -> Wait {
        match (self.receiver.sleep(), self.egress.look_after()) {
            (Wait::First, Some(time)) => Wait::Coalesced { count: 1, time },
            (wait, _) => wait,
        }
    }

    /// Looks after outputs whose copies keep their source: asks the supervisor for the sockets that it takes.
    fn attend_senders(&mut self) -> io::Result<()> {
        self.egress.look(self.counters);
        if !self.egress.is_waiting() || !self.link.is_connected() {
            return Ok(());
        }
        let mut has_asked = false;
        while let Some(key) = self.egress.ask() {
            self.link.answer(&Answer::Wanted(key), None)?;
            has_asked = true;
        }
        if has_asked {
            self.link.flush();
        }
        Ok(())
    }

    /// Hands completions to whom they belong; says whether there is something on the link.
    fn complete(&mut self) -> Result<bool, WorkerError> {
        let counters = self.counters;
        let mut called = false;
        let mut fatal = None;
        while let Some(completion) = self.ring.next_completion() {
            match completion.token {
                Token::Order => {
                    self.link.disarm();
                    called = true;
                }
                Token::Receive(_) => match self.receiver.complete(completion) {
                    Err(ReceiveError::InterfaceDown(place)) => {
                        if let Some(input) = counters.input(place.0.into()) {
                            input.went_down().add(1);
                        }
                    }
                    Err(ReceiveError::Undescribed(place)) => {
                        counters.received(place.0.into(), 1);
                        counters.dropped().add(Cause::Coalesced, 1);
                    }
                    Err(error) => fatal = Some(error),
                    Ok(()) => {}
                },
                Token::Wake | Token::Send(_) | Token::Cancel => {}
            }
        }
        fatal.map_or(Ok(called), |error| Err(error.into()))
    }

    /// Relays what has arrived and releases it; says whether anything had.
    fn relay(&mut self) -> io::Result<bool> {
        let Self { rules, own, streams, egress, counters, .. } = self;
        let Some(batch) = self.receiver.lend() else { return Ok(false) };
        let mut egress = egress.begin(counters);
        streams.begin(batch.is_taken_again());
        for frame in batch.frames() {
            let input = frame.input.0.into();
            match forward(&frame, rules, own) {
                Ok(taken) => {
                    let count = taken.count();
                    counters.received(input, count);
                    counters.matched(taken.rule.0 as usize, count, taken.payload.len());
                    for payload in taken.datagrams() {
                        if streams.is_repeated(taken.rule, payload) {
                            egress.leave_out(taken.rule, SendFailure::Duplicate);
                        } else {
                            egress.queue(&mut self.ring, taken.rule, payload, taken.arrived)?;
                        }
                    }
                }
                Err(cause) => {
                    counters.received(input, 1);
                    counters.dropped().add(cause, 1);
                }
            }
        }
        egress.send(&mut self.ring)?;
        Ok(true)
    }

    /// Ends capture at `places` and relays what was captured there before, for at most `time`. Says whether that was all.
    pub(super) fn drain(&mut self, places: &[InputIndex], time: Duration) -> Result<bool, WorkerError> {
        for place in places {
            let socket = self.receiver.socket(*place);
            socket.map_or(Ok(()), packet_socket::end_capture).map_err(WorkerError::ring)?;
        }
        let deadline = Instant::now() + time;
        let mut found_drained = 0;
        while found_drained < DRAINED_LOOKS {
            if Instant::now() > deadline {
                return Ok(false);
            }
            let is_drained = |place: &InputIndex| self.receiver.is_drained(*place);
            let drained = places.iter().map(is_drained).collect::<Result<Vec<_>, _>>();
            let drained = drained.map_err(WorkerError::ring)?.into_iter().all(|drained| drained);
            found_drained = if drained { found_drained + 1 } else { 0 };
            // After the look: a receive that ended before it has its completion now.
            let turn = self.turn(false)?;
            self.is_called |= turn.called;
            if !turn.busy {
                thread::sleep(DRAIN_PAUSE);
            }
        }
        Ok(true)
    }
}
