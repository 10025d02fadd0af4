//! Sending through one packet socket.
//!
//! Frames go out with `sendmmsg` on `AF_PACKET`, which needs no IP configuration where the generator lives and is
//! cheaper than a UDP socket or a transmit ring. What the kernel refuses is retried for a moment where that can
//! help, and otherwise counted by the name of the error.
//!
//! The queueing discipline is not bypassed: on a veth, which has none, that saves nothing measurable, and it would
//! hide the frames from a capture on the generator's own device.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::pace::wait_until;
use super::report::Recorder;
use super::{Frames, Sender, Stretch};
use crate::clock::Moment;
use crate::datagram::Stamps;
use crate::sys::mmsg::SendBatch;
use crate::sys::packet_socket::{NO_PROTOCOL, PacketSocket, interface_index};
use crate::traffic_error::{TrafficError, errno_name};

/// Most frames per system call, but at least one datagram's: what is due together, at a rate the receiving side's
/// backlog (1,000) digests.
const BATCH: usize = 64;
/// Bytes of frames the socket may have under way.
const SEND_BUFFER_BYTES: usize = 8 << 20;
/// How often a full queue is tried again before the datagram counts as refused ...
const ATTEMPTS: u32 = 40;
/// ... and how long to wait in between: 2 ms in all.
const PATIENCE: Duration = Duration::from_micros(50);

/// A packet socket and the frames it sends.
#[derive(Debug)]
pub(super) struct PacketSender {
    socket: PacketSocket,
    batch: SendBatch,
}

impl PacketSender {
    /// Sends on `device` of the calling thread's network namespace; the frames of a datagram fill a slot.
    pub(super) fn open(socket: PacketSocket, device: &str, frames: &Frames) -> Result<Self, TrafficError> {
        let failed = |operation| TrafficError::socket(operation, device);
        // A smaller buffer only means more retries, which are counted.
        let _ = socket.set_send_buffer(SEND_BUFFER_BYTES);
        let index = interface_index(device).map_err(failed("find interface"))?;
        socket.bind(index, NO_PROTOCOL).map_err(failed("bind packet socket"))?;
        let lengths = frames.templates.frames();
        let slots = (BATCH / lengths.len().max(1)).max(1);
        Ok(Self { socket, batch: SendBatch::new(slots, &lengths) })
    }
}

impl Sender for PacketSender {
    fn send(&mut self, frames: &mut Frames, stretch: &Stretch<'_>, recorder: &mut Recorder) -> u64 {
        let mut offering = stretch.offering();
        let start = Moment::now();
        let mut done = 0;
        while done < stretch.count && !stretch.is_stopped() {
            let now = Instant::now();
            let now_ns = now.saturating_duration_since(start.monotonic).as_nanos() as u64;
            let left = (stretch.count - done).min(self.batch.slots() as u64) as usize;
            let mut filled = 0;
            while filled < left && offering.peek().turn.due_ns <= now_ns {
                let offer = offering.peek();
                let Some(slot) = self.batch.slot(filled) else { break };
                let (intended_ns, actual_ns) =
                    (start.realtime_ns + offer.turn.due_ns, start.realtime_ns + now_ns);
                frames.write(slot, &offer, stretch.kind, Stamps { intended_ns, actual_ns });
                recorder.handed_over(&offer.turn, now_ns);
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

impl PacketSender {
    /// Hands the first `filled` datagrams of the batch to the kernel; each ends up sent or refused.
    fn push(&mut self, filled: usize, stretch: &Stretch<'_>, recorder: &mut Recorder) {
        let frames = self.batch.frames_per_slot();
        let mut next = 0;
        let mut attempts = 0;
        while next < filled * frames {
            match self.batch.send(self.socket.as_fd(), next, filled * frames) {
                Ok(taken) => {
                    next += taken.max(1);
                    attempts = 0;
                }
                Err(error) => {
                    let patient = attempts < ATTEMPTS && !stretch.is_stopped();
                    if patient && is_temporary(&error) {
                        attempts += 1;
                        recorder.retried();
                        std::thread::sleep(PATIENCE);
                    } else {
                        recorder.refused(&errno_name(&error), 1);
                        // Without this frame the rest of its datagram is worth nothing.
                        next = (next / frames + 1) * frames;
                        attempts = 0;
                    }
                }
            }
        }
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
