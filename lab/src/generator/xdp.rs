//! Sending by XDP: the kernel makes frames of its own, has a program fill them from the batch, and redirects them
//! into the receive ring of the peer.
//!
//! There is no socket, no queueing discipline and no `sk_buff` on this side. Nor is there anybody who says what became
//! of a frame: a full ring refuses it, and a peer that is down or without NAPI lets it vanish. But the device counts
//! what its peer took, so that a stretch of sending is settled at its end: what was not taken was refused.
//!
//! A call costs some 14 µs whatever it carries, for the kernel sets up a pool of pages for it. So a call takes along
//! what is due, like `sendmmsg`, and the time it takes makes the next one take more.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Sender;
use super::report::Recorder;
use crate::sys::ethtool::Statistics;
use crate::sys::packet_socket::interface_index;
use crate::sys::xdp::{LiveFrames, MOST_FRAMES};
use crate::traffic_error::{TrafficError, errno_name};

/// A device of every network namespace, which carries nothing in that of the generator.
const IDLE_DEVICE: &str = "lo";
/// Counted for each transmit queue: frames that the peer's ring had room for ...
const TAKEN: &str = "xdp_xmit";
/// ... and frames that it had not.
const RING_FULL: &str = "xdp_xmit_errors";
/// What a frame is called that nobody has counted: the kernel tells of it in a trace point of this name only.
const NOT_REDIRECTED: &str = "xdp_redirect_err";

/// The program, its frames, and the counters of the device they leave by.
#[derive(Debug)]
pub(super) struct XdpSender {
    frames: LiveFrames,
    statistics: Statistics,
    /// At the beginning of the stretch; `None` when the device could not be asked.
    before: Option<Transmitted>,
    /// How many frames have been redirected since then.
    redirected: u64,
}

/// What the device counted since it was made.
#[derive(Clone, Copy, Debug, Default)]
struct Transmitted {
    taken: u64,
    ring_full: u64,
}

impl XdpSender {
    /// Sends on `device` of the calling thread's network namespace; a datagram is a frame of this length.
    pub(super) fn open(device: &str, frame_lengths: &[usize]) -> Result<Self, TrafficError> {
        let &[frame_bytes] = frame_lengths else {
            let source = io::Error::other("a datagram is several frames, which XDP does not send");
            return Err(TrafficError::xdp("send fragments on", device)(source));
        };
        let failed = TrafficError::xdp;
        let mut frames = LiveFrames::load(frame_bytes).map_err(failed("load the program for", device))?;
        frames.attach_to(IDLE_DEVICE).map_err(failed("attach the program to", IDLE_DEVICE))?;
        let index = interface_index(device).map_err(failed("find interface", device))?;
        frames.lead_to(index).map_err(failed("redirect to", device))?;
        let statistics = Statistics::open(device).map_err(failed("read the statistics of", device))?;
        transmitted(&statistics).map_err(failed("read the statistics of", device))?;
        Ok(Self { frames, statistics, before: None, redirected: 0 })
    }
}

impl Sender for XdpSender {
    fn slots(&self) -> usize {
        MOST_FRAMES
    }

    fn slot(&mut self, index: usize) -> Option<&mut [u8]> {
        self.frames.slot(index)
    }

    fn begin(&mut self) {
        self.before = transmitted(&self.statistics).ok();
        self.redirected = 0;
    }

    fn push(&mut self, filled: usize, stop: &AtomicBool, recorder: &mut Recorder) {
        let mut next = 0;
        while next < filled {
            match self.frames.send(next, filled) {
                Ok(redirected) => {
                    next += redirected;
                    self.redirected += redirected as u64;
                }
                Err(error)
                    if error.kind() == io::ErrorKind::Interrupted && !stop.load(Ordering::Relaxed) =>
                {
                    recorder.retried();
                }
                Err(error) => {
                    recorder.refused(&errno_name(&error), (filled - next) as u64);
                    return;
                }
            }
        }
    }

    fn end(&mut self, recorder: &mut Recorder) {
        for (name, count) in unsent(self.redirected, self.before, transmitted(&self.statistics)) {
            recorder.refused(&name, count);
        }
    }
}

/// What of `redirected` frames the device did not send, by name. A device that cannot be asked has sent nothing that
/// anybody could vouch for.
fn unsent(
    redirected: u64,
    before: Option<Transmitted>,
    after: io::Result<Transmitted>,
) -> Vec<(String, u64)> {
    let (before, after) = match (before, after) {
        (Some(before), Ok(after)) => (before, after),
        (_, Err(error)) => return vec![(errno_name(&error), redirected)],
        (None, Ok(after)) => (after, after),
    };
    let missing = redirected.saturating_sub(after.taken.saturating_sub(before.taken));
    let ring_full = after.ring_full.saturating_sub(before.ring_full).min(missing);
    vec![(RING_FULL.to_owned(), ring_full), (NOT_REDIRECTED.to_owned(), missing - ring_full)]
}

/// Reads the counters, over all queues.
fn transmitted(statistics: &Statistics) -> io::Result<Transmitted> {
    let read = statistics.read()?;
    let sum = |counter: &str| {
        let queues = read.iter().filter(|(name, _)| is_of_queue(name, counter));
        let counts: Vec<u64> = queues.map(|(_, count)| *count).collect();
        (!counts.is_empty()).then(|| counts.iter().sum())
    };
    let counters = sum(TAKEN).zip(sum(RING_FULL));
    let (taken, ring_full) = counters.ok_or_else(|| io::Error::other("it counts no XDP frames: not a veth"))?;
    Ok(Transmitted { taken, ring_full })
}

/// Whether `name` is `tx_queue_<number>_<counter>`.
fn is_of_queue(name: &str, counter: &str) -> bool {
    let rest = name.strip_prefix("tx_queue_").and_then(|rest| rest.strip_suffix(counter));
    let number = rest.and_then(|rest| rest.strip_suffix('_'));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_queues_are_told_from_each_other() {
        assert!(is_of_queue("tx_queue_0_xdp_xmit", TAKEN) && is_of_queue("tx_queue_12_xdp_xmit", TAKEN));
        assert!(is_of_queue("tx_queue_0_xdp_xmit_errors", RING_FULL));
        for other in ["tx_queue_0_xdp_xmit_errors", "rx_queue_0_xdp_xmit", "tx_queue__xdp_xmit", "xdp_xmit"] {
            assert!(!is_of_queue(other, TAKEN), "{other}");
        }
    }

    fn by_name(
        redirected: u64,
        before: Option<Transmitted>,
        after: io::Result<Transmitted>,
    ) -> Vec<(String, u64)> {
        let all = unsent(redirected, before, after).into_iter();
        all.filter(|(_, count)| *count > 0).collect()
    }

    #[test]
    fn what_the_peer_did_not_take_has_a_name() {
        let counters = |taken, ring_full| Transmitted { taken, ring_full };
        let before = Some(counters(1_000, 10));
        assert_eq!(by_name(100, before, Ok(counters(1_100, 10))), []);
        assert_eq!(by_name(100, before, Ok(counters(1_070, 40))), [(RING_FULL.to_owned(), 30)]);
        let vanished = by_name(100, before, Ok(counters(1_050, 40)));
        assert_eq!(vanished, [(RING_FULL.to_owned(), 30), (NOT_REDIRECTED.to_owned(), 20)]);
    }

    #[test]
    fn a_device_that_is_gone_vouches_for_nothing() {
        let gone = || Err(io::Error::from_raw_os_error(libc::ENODEV));
        assert_eq!(by_name(7, Some(Transmitted::default()), gone()), [("ENODEV".to_owned(), 7)]);
        assert_eq!(by_name(7, None, Ok(Transmitted::default())), [(NOT_REDIRECTED.to_owned(), 7)]);
        assert_eq!(by_name(0, None, gone()), []);
    }
}
