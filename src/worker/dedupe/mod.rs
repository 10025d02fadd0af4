//! Duplicates by design: a stream comes in by two rules, its legs, and the first copy of each datagram is relayed.
//!
//! Which leg brings it does not matter, nor which worker: what has come in stands in memory that all of them share, and that outlives
//! each of them.

mod key;
mod window;

use std::io;
use std::os::fd::OwnedFd;

pub use key::Key;
use serde::{Deserialize, Serialize};
pub use window::{Side, Window};

use crate::rules::{Dedupe, DedupeKey, RuleIndex};
use crate::stats::MAX_RULES;
use crate::sys::clock::monotonic_ms;

/// Most streams at a time.
pub const MAX_STREAMS: usize = 1 << 8;

/// Which leg of which stream a rule is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Place of the stream.
    pub stream: u32,
    /// Which of its legs.
    pub side: Side,
}

/// The streams that a worker knows, and which rules are their legs, by places that others choose.
#[derive(Debug, Default)]
pub(super) struct Streams {
    known: Vec<Option<Stream>>,
    legs: Vec<Option<Leg>>,
    /// When the batch at hand came, if anybody had to know.
    now: Option<u64>,
    /// Whether the batch is one that another worker died over.
    is_again: bool,
}

#[derive(Debug)]
struct Stream {
    key: DedupeKey,
    window: Window,
}

impl Streams {
    /// Puts a stream at `place`, with its window's memory.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such place, `InvalidData` when the memory is something else.
    pub(super) fn set(&mut self, place: u32, dedupe: &Dedupe, memory: OwnedFd) -> io::Result<()> {
        let window = Window::open(memory, dedupe.window_ms)?;
        *slot(&mut self.known, place, MAX_STREAMS)? = Some(Stream { key: dedupe.key, window });
        Ok(())
    }

    /// Forgets the stream at `place`.
    pub(super) fn remove(&mut self, place: u32) {
        if let Some(stream) = self.known.get_mut(place as usize) {
            *stream = None;
        }
    }

    /// The memory of the stream at `place`.
    pub(super) fn memory(&self, place: u32) -> Option<io::Result<OwnedFd>> {
        let stream = self.known.get(place as usize)?.as_ref()?;
        Some(stream.window.memory().try_clone_to_owned())
    }

    /// Has `rule` be that leg, or none.
    ///
    /// # Errors
    /// `InvalidInput` when there is no such place.
    pub(super) fn set_leg(&mut self, rule: RuleIndex, leg: Option<Leg>) -> io::Result<()> {
        if leg.is_some() || (rule.0 as usize) < self.legs.len() {
            *slot(&mut self.legs, rule.0, MAX_RULES)? = leg;
        }
        Ok(())
    }

    /// Begins a batch, which may be one that another worker died over.
    #[inline]
    pub(super) fn begin(&mut self, is_again: bool) {
        (self.now, self.is_again) = (None, is_again);
    }

    /// Whether the rule's stream has brought this datagram before, so that it is not to be relayed.
    #[inline]
    pub(super) fn is_repeated(&mut self, rule: RuleIndex, payload: &[u8]) -> bool {
        match self.legs.get(rule.0 as usize) {
            Some(Some(leg)) => {
                let leg = *leg;
                self.has_brought(leg, payload)
            }
            _ => false,
        }
    }

    fn has_brought(&mut self, leg: Leg, payload: &[u8]) -> bool {
        let Some(Some(stream)) = self.known.get(leg.stream as usize) else { return false };
        let now = *self.now.get_or_insert_with(monotonic_ms);
        let key = Key::of(stream.key, payload);
        !if self.is_again {
            stream.window.is_first_again(now, leg.side, key)
        } else {
            stream.window.is_first(now, leg.side, key)
        }
    }
}

/// What is at `place`, of at most `most`.
fn slot<T>(slots: &mut Vec<Option<T>>, place: u32, most: usize) -> io::Result<&mut Option<T>> {
    let place = place as usize;
    if place >= slots.len() && place < most {
        slots.resize_with(place + 1, || None);
    }
    slots.get_mut(place).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}
