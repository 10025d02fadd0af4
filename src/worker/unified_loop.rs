//! The turn of a worker: wait, receive, forward, send, release.

use std::io::{self, PipeReader};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::WorkerError;
use super::egress::Egress;
use super::forward::forward;
use super::receiver::{Batch, ReceiveError, Receiver};
use crate::rules::RuleTable;
use crate::stats::{Cause, Counters};
use crate::sys::uring::{Token, Uring};

/// How long a worker that was told to stop goes on with what it had received by then.
const DRAIN_TIME: Duration = Duration::from_secs(5);

/// A worker's loop over one receive path.
pub(super) struct UnifiedLoop<'a, R> {
    /// For everything that is waited for.
    pub ring: Uring,
    /// The receive path.
    pub receiver: R,
    /// Which rule takes what.
    pub rules: &'a RuleTable,
    /// Where copies leave.
    pub egress: &'a Egress,
    /// What is counted.
    pub counters: &'a Counters,
}

impl<R: Receiver> UnifiedLoop<'_, R> {
    /// Turns until the other end of `stop` is closed, then drains.
    pub(super) fn run(mut self, stop: &PipeReader) -> Result<(), WorkerError> {
        self.ring.poll(stop.as_fd(), Token::Stop).map_err(WorkerError::ring)?;
        while !self.turn(true)? {}
        self.drain()
    }

    /// One turn; says whether the stop signal has come.
    fn turn(&mut self, block: bool) -> Result<bool, WorkerError> {
        self.receiver.arm(&mut self.ring).map_err(WorkerError::ring)?;
        self.ring.wait(block).map_err(WorkerError::ring)?;
        let stop = self.complete();
        // Whatever failed, all that has arrived is relayed.
        self.relay().map_err(WorkerError::ring)?;
        stop
    }

    /// Hands completions to whom they belong; says whether the stop signal was among them.
    fn complete(&mut self) -> Result<bool, WorkerError> {
        let mut stop = false;
        let mut fatal = None;
        while let Some(completion) = self.ring.next_completion() {
            match completion.token {
                Token::Stop => stop = true,
                Token::Receive(_) => match self.receiver.complete(completion) {
                    Err(ReceiveError::InterfaceDown(input)) => self.counters.interface_down(input.0.into()),
                    Err(ReceiveError::Undescribed(input)) => {
                        self.counters.received(input.0.into());
                        self.counters.dropped.add(Cause::Coalesced, 1);
                    }
                    Err(error) => fatal = Some(error),
                    Ok(()) => {}
                },
                Token::Wake | Token::Send(_) => {}
            }
        }
        fatal.map_or(Ok(stop), |error| Err(error.into()))
    }

    /// Relays what has arrived and releases it.
    fn relay(&mut self) -> io::Result<()> {
        let Some(batch) = self.receiver.lend() else { return Ok(()) };
        let mut egress = self.egress.begin(self.counters);
        for frame in batch.frames() {
            self.counters.received(frame.input.0.into());
            match forward(&frame, self.rules) {
                Ok((rule, payload)) => {
                    self.counters.matched(rule.0 as usize, payload.len());
                    egress.queue(&mut self.ring, rule, payload)?;
                }
                Err(cause) => self.counters.dropped.add(cause, 1),
            }
        }
        egress.send(&mut self.ring)
    }

    /// Ends capture and relays what was captured before.
    fn drain(&mut self) -> Result<(), WorkerError> {
        self.receiver.end_capture().map_err(WorkerError::ring)?;
        let deadline = Instant::now() + DRAIN_TIME;
        while !self.receiver.is_drained().map_err(WorkerError::ring)? {
            if Instant::now() > deadline {
                tracing::warn!(
                    "stopped after {DRAIN_TIME:?} with frames left unread: see `queued` in the report"
                );
                break;
            }
            self.turn(false)?;
        }
        // A receive that ended between the last turn and the check has its completion here.
        self.turn(false).map(drop)
    }
}
