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
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Sender;
use super::report::Recorder;
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
    /// Sends on `device` of the calling thread's network namespace; a datagram is frames of these lengths.
    pub(super) fn open(
        socket: PacketSocket,
        device: &str,
        frame_lengths: &[usize],
    ) -> Result<Self, TrafficError> {
        let failed = |operation| TrafficError::socket(operation, device);
        // A smaller buffer only means more retries, which are counted.
        let _ = socket.set_send_buffer(SEND_BUFFER_BYTES);
        let index = interface_index(device).map_err(failed("find interface"))?;
        socket.bind(index, NO_PROTOCOL).map_err(failed("bind packet socket"))?;
        let slots = (BATCH / frame_lengths.len().max(1)).max(1);
        Ok(Self { socket, batch: SendBatch::new(slots, frame_lengths) })
    }
}

impl Sender for PacketSender {
    fn slots(&self) -> usize {
        self.batch.slots()
    }

    fn slot(&mut self, index: usize) -> Option<&mut [u8]> {
        self.batch.slot(index)
    }

    fn push(&mut self, filled: usize, stop: &AtomicBool, recorder: &mut Recorder) {
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
                    let patient = attempts < ATTEMPTS && !stop.load(Ordering::Relaxed);
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
