//! Sending what was recorded: frame by frame, as it is. What warms up is made by the lab like any other.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::due::Patience;
use super::offering::Offer;
use super::pace::wait_until;
use super::packet::PacketSender;
use super::report::Recorder;
use super::{Frames, Sender, Stretch};
use crate::clock::Moment;
use crate::datagram::Kind;
use crate::replay::Replay;
use crate::schedule::{Turn, due_ns};
use crate::traffic_error::errno_name;

/// A packet socket, and the frames it sends once the way is warm.
#[derive(Debug)]
pub(super) struct ReplaySender {
    packets: PacketSender,
    replay: Replay,
}

impl ReplaySender {
    /// Warms up through `packets`, and sends what is recorded through its socket.
    pub(super) fn new(packets: PacketSender, replay: Replay) -> Self {
        Self { packets, replay }
    }

    fn replay(&self, stretch: &Stretch<'_>, recorder: &mut Recorder) -> u64 {
        let Replay { recording, .. } = &self.replay;
        let start = Moment::now();
        recorder.started(start.realtime_ns);
        let mut done = 0;
        for (index, datagram) in recording.datagrams().iter().take(stretch.own as usize).enumerate() {
            let due_ns = self.replay.due_ns(index, stretch.rate_pps);
            wait_until(start.monotonic + Duration::from_nanos(due_ns), stretch.stop);
            if stretch.is_stopped() {
                return done;
            }
            let now_ns = Instant::now().saturating_duration_since(start.monotonic).as_nanos() as u64;
            let turn = Turn { flow: datagram.flow, sequence: done, due_ns, begins_burst: true };
            recorder.handed_over(&Offer::of(turn), now_ns);
            self.push(recording.frame(datagram), stretch, recorder);
            recorder.batch_over(now_ns);
            done += 1;
            stretch.progress.store(done, Ordering::Relaxed);
        }
        recorder.silent_until(due_ns(done, stretch.rate_pps));
        done
    }

    /// Hands over a frame, which ends up sent or refused.
    fn push(&self, frame: &[u8], stretch: &Stretch<'_>, recorder: &mut Recorder) {
        let mut patience = Patience::default();
        while let Err(error) = self.packets.socket().send(frame) {
            if !patience.is_left(&error, stretch, recorder) {
                recorder.refused(&errno_name(&error), 1);
                return;
            }
        }
    }
}

impl Sender for ReplaySender {
    fn send(&mut self, frames: &mut Frames, stretch: &Stretch<'_>, recorder: &mut Recorder) -> u64 {
        match stretch.kind {
            Kind::WarmUp => self.packets.send(frames, stretch, recorder),
            Kind::Measured => self.replay(stretch, recorder),
        }
    }
}
