//! Sending through one packet socket.
//!
//! Frames go out with `sendmmsg` on `AF_PACKET`, which needs no IP configuration where the generator lives and is
//! cheaper than a UDP socket or a transmit ring. What the kernel refuses is retried for a moment where that can
//! help, and otherwise counted by the name of the error.
//!
//! The queueing discipline is not bypassed: on a veth, which has none, that saves nothing measurable, and it would
//! hide the frames from a capture on the generator's own device.

use std::os::fd::AsFd;

use super::due::{Batch, Patience};
use super::offering::{Guise, Offer};
use super::report::Recorder;
use super::{Frames, Stretch};
use crate::datagram::{Kind, Stamps};
use crate::sys::mmsg::SendBatch;
use crate::sys::packet_socket::{NO_PROTOCOL, PacketSocket, interface_index};
use crate::traffic_error::{TrafficError, errno_name};

/// Most frames per system call, but at least one datagram's: what is due together, at a rate the receiving side's
/// backlog (1,000) digests.
const BATCH: usize = 64;
/// Bytes of frames the socket may have under way.
pub(super) const SEND_BUFFER_BYTES: usize = 8 << 20;

/// A packet socket and the frames it sends.
#[derive(Debug)]
pub(super) struct PacketSender {
    socket: PacketSocket,
    batch: SendBatch,
    /// Which slots hold what is foreign.
    foreign: Vec<bool>,
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
        Ok(Self { socket, batch: SendBatch::new(slots, &lengths), foreign: vec![false; slots] })
    }

    /// What it sends through.
    pub(super) fn socket(&self) -> &PacketSocket {
        &self.socket
    }
}

impl Batch for PacketSender {
    fn room(&self) -> usize {
        self.batch.slots()
    }

    fn write(&mut self, index: usize, frames: &mut Frames, offer: &Offer, kind: Kind, stamps: Stamps) {
        if let Some(slot) = self.batch.slot(index) {
            frames.write(slot, offer, kind, stamps);
        }
        if let Some(foreign) = self.foreign.get_mut(index) {
            *foreign = offer.guise == Guise::NoRule;
        }
    }

    fn push(&mut self, filled: usize, stretch: &Stretch<'_>, recorder: &mut Recorder) {
        let frames = self.batch.frames_per_slot();
        let mut next = 0;
        let mut patience = Patience::default();
        while next < filled * frames {
            match self.batch.send(self.socket.as_fd(), next, filled * frames) {
                Ok(taken) => {
                    next += taken.max(1);
                    patience = Patience::default();
                }
                Err(error) if patience.is_left(&error, stretch, recorder) => {}
                Err(error) => {
                    if self.foreign.get(next / frames) == Some(&true) {
                        recorder.refused_foreign(&errno_name(&error));
                    } else {
                        recorder.refused(&errno_name(&error), 1);
                    }
                    // Without this frame the rest of its datagram is worth nothing.
                    next = (next / frames + 1) * frames;
                    patience = Patience::default();
                }
            }
        }
    }
}
