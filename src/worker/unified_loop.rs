//! The turn of a worker: wait, receive, forward, send, release.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use super::WorkerError;
use super::egress::Egress;
use super::forward::forward;
use super::receiver::{Batch, ReceiveError, Receiver};
use crate::rules::RuleTable;
use crate::stats::{Cause, Counters};
use crate::sys::uring::{Token, Uring, Wait};

/// How long a worker that was told to stop goes on with what it had received by then.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// How often in a row nothing may be left, with a pause in between: a processor that was about to capture a frame when
/// capture ended still does.
const DRAINED_LOOKS: u32 = 3;
const DRAIN_PAUSE: Duration = Duration::from_millis(1);

/// What a worker's loop works with, whatever the receive path.
pub(super) struct Surroundings<'a> {
    /// Which rule takes what.
    pub rules: &'a RuleTable,
    /// Where copies leave.
    pub egress: &'a mut Egress,
    /// What is counted.
    pub counters: &'a Counters,
    /// How long to look for frames before sleeping.
    pub busy_poll: Duration,
}

/// A worker's loop over one receive path.
pub(super) struct UnifiedLoop<'a, R> {
    /// For everything that is waited for.
    pub ring: Uring,
    /// The receive path.
    pub receiver: R,
    /// The rest.
    pub surroundings: Surroundings<'a>,
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
    /// Whether the stop signal has come.
    stop: bool,
    /// Whether there was something to relay.
    busy: bool,
}

impl<R: Receiver> UnifiedLoop<'_, R> {
    /// Turns until the other end of `stop` is closed, then drains.
    pub(super) fn run(mut self, stop: &PipeReader) -> Result<(), WorkerError> {
        self.ring.poll(stop.as_fd(), Token::Stop).map_err(WorkerError::ring)?;
        let mut patience = Patience::new(self.surroundings.busy_poll);
        loop {
            let turn = self.turn(patience.is_over())?;
            if turn.stop {
                return self.drain();
            }
            if turn.busy {
                patience.renew();
            }
        }
    }

    /// One turn. With `sleep` it waits until there is something to do.
    fn turn(&mut self, sleep: bool) -> Result<Turn, WorkerError> {
        let sleep = sleep && !self.receiver.is_ready();
        self.receiver.arm(&mut self.ring, sleep).map_err(WorkerError::ring)?;
        let wait = if sleep { self.receiver.sleep() } else { Wait::Not };
        self.ring.wait(wait).map_err(WorkerError::ring)?;
        let stop = self.complete();
        // Whatever failed, all that has arrived is relayed.
        let busy = self.relay().map_err(WorkerError::ring)?;
        Ok(Turn { stop: stop?, busy })
    }

    /// Hands completions to whom they belong; says whether the stop signal was among them.
    fn complete(&mut self) -> Result<bool, WorkerError> {
        let counters = self.surroundings.counters;
        let mut stop = false;
        let mut fatal = None;
        while let Some(completion) = self.ring.next_completion() {
            match completion.token {
                Token::Stop => stop = true,
                Token::Receive(_) => match self.receiver.complete(completion) {
                    Err(ReceiveError::InterfaceDown(input)) => counters.interface_down(input.0.into()),
                    Err(ReceiveError::Undescribed(input)) => {
                        counters.received(input.0.into(), 1);
                        counters.dropped.add(Cause::Coalesced, 1);
                    }
                    Err(error) => fatal = Some(error),
                    Ok(()) => {}
                },
                Token::Wake | Token::Send(_) => {}
            }
        }
        fatal.map_or(Ok(stop), |error| Err(error.into()))
    }

    /// Relays what has arrived and releases it; says whether anything had.
    fn relay(&mut self) -> io::Result<bool> {
        let Surroundings { rules, egress, counters, .. } = &mut self.surroundings;
        let Some(batch) = self.receiver.lend() else { return Ok(false) };
        let mut egress = egress.begin(counters);
        for frame in batch.frames() {
            let input = frame.input.0.into();
            match forward(&frame, rules) {
                Ok(taken) => {
                    let count = taken.count();
                    counters.received(input, count);
                    counters.matched(taken.rule.0 as usize, count, taken.payload.len());
                    for payload in taken.datagrams() {
                        egress.queue(&mut self.ring, taken.rule, payload)?;
                    }
                }
                Err(cause) => {
                    counters.received(input, 1);
                    counters.dropped.add(cause, 1);
                }
            }
        }
        egress.send(&mut self.ring)?;
        Ok(true)
    }

    /// Ends capture and relays what was captured before.
    fn drain(&mut self) -> Result<(), WorkerError> {
        self.receiver.end_capture().map_err(WorkerError::ring)?;
        let deadline = Instant::now() + DRAIN_TIME;
        let mut found_drained = 0;
        while found_drained < DRAINED_LOOKS {
            if Instant::now() > deadline {
                tracing::warn!(
                    "stopped after {DRAIN_TIME:?} with frames left unread: see `queued` in the report"
                );
                break;
            }
            let drained = self.receiver.is_drained().map_err(WorkerError::ring)?;
            found_drained = if drained { found_drained + 1 } else { 0 };
            // After the look: a receive that ended before it has its completion now.
            if !self.turn(false)?.busy {
                thread::sleep(DRAIN_PAUSE);
            }
        }
        Ok(())
    }
}
