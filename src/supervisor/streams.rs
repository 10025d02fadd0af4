//! Streams that come in by two rules, and which rules are their legs.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::SupervisorError;
use super::book::LiveRule;
use super::places::Places;
use super::relay::Relay;
use crate::rules::{Dedupe, LEGS};
use crate::stats::LegStats;
use crate::sys::clock::monotonic_ms;
use crate::worker::dedupe::{Leg, MAX_STREAMS, Side, Window};
use crate::worker::order::{Descriptor, Order};

/// The streams of all rules.
#[derive(Debug)]
pub(super) struct Streams {
    /// By what their legs say, so that a stream whose settings change is another one.
    by_dedupe: HashMap<Dedupe, Stream>,
    places: Places,
}

#[derive(Debug)]
struct Stream {
    place: u32,
    window: Window,
    /// The rules that are its legs, by their places.
    legs: [Option<u32>; LEGS],
}

impl Streams {
    pub(super) fn new() -> Self {
        Self { by_dedupe: HashMap::new(), places: Places::new(MAX_STREAMS) }
    }

    /// Makes the rule at `rule` a leg of its stream. Where that is a new one, returns the order for workers to have it, too.
    ///
    /// # Errors
    /// When there is no memory for another stream, there are too many, or the stream has its legs.
    pub(super) fn enter(
        &mut self,
        dedupe: &Dedupe,
        rule: u32,
    ) -> io::Result<(Leg, Option<(Order, Descriptor)>)> {
        let mut order = None;
        if !self.by_dedupe.contains_key(dedupe) {
            let place = self.places.take();
            let place =
                place.ok_or_else(|| io::Error::other(format!("there are {MAX_STREAMS} streams already")))?;
            let window = Window::new(dedupe.window_ms, seed(), monotonic_ms())
                .inspect_err(|_| self.places.give_back(place))?;
            let stream = Stream { place, window, legs: [None; LEGS] };
            order = Some(stream.order(dedupe)?);
            self.by_dedupe.insert(dedupe.clone(), stream);
        }
        let stream = self.by_dedupe.get_mut(dedupe);
        let free = stream.and_then(|stream| {
            let side = Side::ALL.into_iter().find(|side| stream.legs[*side as usize].is_none())?;
            Some((stream, side))
        });
        let (stream, side) = free.ok_or_else(|| io::Error::other(format!("it has its {LEGS} legs")))?;
        stream.legs[side as usize] = Some(rule);
        stream.window.join(side, monotonic_ms());
        Ok((Leg { stream: stream.place, side }, order))
    }

    /// Has a stream that another supervisor has made; no rule is a leg of it yet.
    pub(super) fn adopt(&mut self, place: u32, dedupe: Dedupe, memory: OwnedFd) -> io::Result<()> {
        let window = Window::open(memory, dedupe.window_ms)?;
        self.places.occupy(place);
        self.by_dedupe.insert(dedupe, Stream { place, window, legs: [None; LEGS] });
        Ok(())
    }

    /// The rule at `rule` is that leg, as it was before.
    pub(super) fn restore(&mut self, dedupe: &Dedupe, leg: Leg, rule: u32) {
        let stream = self.by_dedupe.get_mut(dedupe).filter(|stream| stream.place == leg.stream);
        if let Some(stream) = stream {
            stream.legs[leg.side as usize] = Some(rule);
        }
    }

    /// The rule at `rule` is no leg any more. Its stream stays until [`Streams::close_unused`], for the rule that comes in its stead.
    pub(super) fn vacate(&mut self, dedupe: &Dedupe, rule: u32) {
        if let Some(stream) = self.by_dedupe.get_mut(dedupe) {
            for leg in stream.legs.iter_mut().filter(|leg| **leg == Some(rule)) {
                *leg = None;
            }
        }
    }

    /// Ends streams without legs; the orders for workers to do so.
    pub(super) fn close_unused(&mut self) -> Vec<Order> {
        let is_unused = |stream: &Stream| stream.legs == [None; LEGS];
        let unused = self.by_dedupe.extract_if(|_, stream| is_unused(stream));
        let places: Vec<_> = unused.map(|(_, stream)| stream.place).collect();
        let end = |place| {
            self.places.give_back(place);
            Order::EndStream { place }
        };
        places.into_iter().map(end).collect()
    }

    /// The orders that make a new worker have all streams.
    pub(super) fn orders(&self) -> impl Iterator<Item = io::Result<(Order, Descriptor)>> {
        self.by_dedupe.iter().map(|(dedupe, stream)| stream.order(dedupe))
    }

    /// Ends what is over in all windows.
    pub(super) fn sweep(&self) {
        let now = monotonic_ms();
        self.by_dedupe.values().for_each(|stream| stream.window.sweep(now));
    }

    /// What is counted for a leg.
    pub(super) fn stats(&self, dedupe: &Dedupe, leg: Leg) -> Option<LegStats> {
        let window = &self.by_dedupe.get(dedupe)?.window;
        let (missing, crowded) = (window.missing(leg.side), window.crowded());
        Some(LegStats { stream: dedupe.stream.clone(), missing, crowded })
    }
}

impl Relay {
    /// Makes the rule at `place` a leg, if it is to be one.
    pub(super) fn take_leg(&mut self, place: u32) -> Result<(), SupervisorError> {
        let Some(live) = self.book.get_mut(place) else { return Ok(()) };
        let Some(dedupe) = &live.rule.dedupe else { return Ok(()) };
        let (leg, order) = self.streams.enter(dedupe, place).map_err(|error| SupervisorError::Stream {
            rule: live.rule.name.clone(),
            stream: dedupe.stream.clone(),
            error,
        })?;
        live.leg = Some(leg);
        if let Some((order, memory)) = order {
            self.workers.tell(&order, Some(&memory));
        }
        Ok(())
    }

    /// A rule that is struck out is no leg any more.
    pub(super) fn leave_leg(&mut self, place: u32, live: &LiveRule) {
        if let Some(dedupe) = &live.rule.dedupe {
            self.streams.vacate(dedupe, place);
        }
    }

    /// A rule is the leg again that it was.
    pub(super) fn restore_leg(&mut self, place: u32, live: &LiveRule) {
        if let (Some(dedupe), Some(leg)) = (&live.rule.dedupe, live.leg) {
            self.streams.restore(dedupe, leg, place);
        }
    }

    /// Ends streams that no rule is a leg of.
    pub(super) fn end_streams(&mut self) {
        for order in self.streams.close_unused() {
            self.workers.tell(&order, None);
        }
    }
}

impl Stream {
    fn order(&self, dedupe: &Dedupe) -> io::Result<(Order, Descriptor)> {
        let memory = Arc::new(self.window.memory().try_clone_to_owned()?);
        Ok((Order::Stream { place: self.place, dedupe: dedupe.clone() }, memory))
    }
}

/// A number that nobody can tell.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::DedupeKey;

    fn dedupe(stream: &str) -> Dedupe {
        Dedupe { stream: stream.to_owned(), key: DedupeKey::Rtp, window_ms: 100 }
    }

    #[test]
    fn a_stream_has_two_legs_and_ends_with_the_last() {
        let mut streams = Streams::new();
        let one = dedupe("one");
        let (a, order) = streams.enter(&one, 7).unwrap();
        assert!(matches!(order, Some((Order::Stream { place: 0, .. }, _))));
        let (b, order) = streams.enter(&one, 8).unwrap();
        assert!(order.is_none() && a.side != b.side);
        assert!(streams.enter(&one, 9).unwrap_err().to_string().contains("2 legs"));
        streams.vacate(&one, 7);
        assert_eq!(streams.close_unused(), []);
        assert_eq!(streams.enter(&one, 9).unwrap().0, a, "in its stead");
        streams.vacate(&one, 9);
        streams.restore(&one, a, 7);
        assert!(streams.enter(&one, 9).is_err(), "it is there again");
        streams.vacate(&one, 7);
        streams.vacate(&one, 8);
        assert_eq!((streams.orders().count(), streams.close_unused().len()), (1, 1));
        assert_eq!((streams.orders().count(), streams.stats(&one, a)), (0, None));
    }

    #[test]
    fn another_supervisor_goes_on_with_what_was_counted() {
        let (mut streams, mut other) = (Streams::new(), Streams::new());
        let one = dedupe("one");
        let (leg, order) = streams.enter(&one, 3).unwrap();
        let memory = order.unwrap().1.try_clone().unwrap();
        other.adopt(5, one.clone(), memory).unwrap();
        other.restore(&one, Leg { stream: 5, ..leg }, 3);
        assert_eq!(other.stats(&one, leg).unwrap().missing, 0);
        assert!(other.enter(&dedupe("two"), 4).unwrap().0.stream != 5, "that place is taken");
        assert!(other.adopt(6, dedupe("three"), std::io::pipe().unwrap().0.into()).is_err());
    }
}
