//! Handing over what is due, a batch at a time.

use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::offering::Offer;
use super::pace::wait_until;
use super::report::Recorder;
use super::{Frames, Sender, Stretch};
use crate::clock::Moment;
use crate::datagram::{Kind, Stamps};

/// How often a full queue is tried again before it counts as a refusal ...
const ATTEMPTS: u32 = 40;
/// ... and how long to wait in between: 2 ms in all.
const PAUSE: Duration = Duration::from_micros(50);

/// Datagrams that go to the kernel together.
pub(super) trait Batch: std::fmt::Debug + Send {
    /// How many fit, at least one.
    fn room(&self) -> usize;

    /// Writes what is offered as number `index` of the batch; all before it have been written.
    fn write(&mut self, index: usize, frames: &mut Frames, offer: &Offer, kind: Kind, stamps: Stamps);

    /// Hands the first `filled` datagrams to the kernel; each ends up sent or refused.
    fn push(&mut self, filled: usize, stretch: &Stretch<'_>, recorder: &mut Recorder);
}

impl<B: Batch> Sender for B {
    fn send(&mut self, frames: &mut Frames, stretch: &Stretch<'_>, recorder: &mut Recorder) -> u64 {
        let mut offering = stretch.offering();
        let start = Moment::now();
        recorder.started(start.realtime_ns);
        let mut done = 0;
        while done < stretch.count() && !stretch.is_stopped() {
            let now = Instant::now();
            let now_ns = now.saturating_duration_since(start.monotonic).as_nanos() as u64;
            let left = (stretch.count() - done).min(self.room() as u64) as usize;
            let mut filled = 0;
            while filled < left && offering.peek().turn.due_ns <= now_ns {
                let offer = offering.peek();
                let (intended_ns, actual_ns) =
                    (start.realtime_ns + offer.turn.due_ns, start.realtime_ns + now_ns);
                self.write(filled, frames, &offer, stretch.kind, Stamps { intended_ns, actual_ns });
                recorder.handed_over(&offer, now_ns);
                offering.advance();
                filled += 1;
            }
            if filled == 0 {
                wait_until(start.monotonic + Duration::from_nanos(offering.peek().turn.due_ns), stretch.stop);
                continue;
            }
            self.push(filled, stretch, recorder);
            done += filled as u64;
            stretch.progress.store(done, Ordering::Relaxed);
            recorder.batch_over(now_ns);
        }
        done
    }
}

/// How often in a row the kernel has refused the same frame.
#[derive(Debug, Default)]
pub(super) struct Patience {
    attempts: u32,
}

impl Patience {
    /// Whether to try again after this error. Has waited a moment if so.
    pub(super) fn is_left(
        &mut self,
        error: &io::Error,
        stretch: &Stretch<'_>,
        recorder: &mut Recorder,
    ) -> bool {
        if self.attempts >= ATTEMPTS || stretch.is_stopped() || !is_temporary(error) {
            return false;
        }
        self.attempts += 1;
        recorder.retried();
        std::thread::sleep(PAUSE);
        true
    }
}

/// Whether the same frame may be taken a moment later: a full queue (packet(7): `ENOBUFS` means it was not sent),
/// a full socket buffer, a signal.
fn is_temporary(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN | libc::EINTR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_queues_and_signals_are_tried_again() {
        for (errno, temporary) in [
            (libc::ENOBUFS, true),
            (libc::EAGAIN, true),
            (libc::EINTR, true),
            (libc::ENETDOWN, false),
            (libc::EMSGSIZE, false),
            (libc::ENXIO, false),
        ] {
            assert_eq!(is_temporary(&io::Error::from_raw_os_error(errno)), temporary);
        }
    }
}
