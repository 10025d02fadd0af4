//! The sources that outputs have met which keep them: for each the lane that its copies leave through, or the copies that wait until
//! the supervisor has opened it a socket. As many as may be; those that are idle make room. No I/O, and no clock.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Label;
use crate::stats::SendFailure;

/// Most pairs of an output and a source, unless the worker can open fewer sockets.
pub const MAX_SENDERS: usize = 1_024;
/// How long copies wait for a socket.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// How long a source must have been silent to make room for another one. Less would have many steady sources push each other out.
const IDLE: Duration = Duration::from_secs(1);
/// How long until it does so although nobody needs the room: other programs of the host may need its port.
const LONG_IDLE: Duration = Duration::from_mins(1);
/// How often to look for what has waited too long, and for what has long been idle.
const SOON: Duration = Duration::from_millis(100);
const LATER: Duration = Duration::from_secs(10);
/// Most bytes of copies that wait, the cost of each included.
const ROOM: usize = 4 << 20;
/// What a copy takes beside its payload, with what an allocator adds.
const COST: usize = 128;
/// Most sockets that the supervisor has been asked for and not given yet.
const MAX_ASKED: usize = 64;

/// An output and a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Place of the output.
    pub output: u32,
    /// Where datagrams come from.
    pub source: SocketAddr,
}

/// A copy that waits for a socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) label: Label,
    pub(super) payload: Box<[u8]>,
}

/// What there is for a source.
#[derive(Debug)]
enum State {
    /// The place of a lane.
    Open(usize),
    /// A socket is needed, since the time at which the sender was last used.
    Wanted { is_asked: bool, copies: Vec<Kept> },
    /// There is none, for this reason.
    Refused(SendFailure),
}

#[derive(Debug)]
struct Sender {
    state: State,
    used: Instant,
}

/// Where a copy is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Through the lane at this place.
    Lane(usize),
    /// To those that wait.
    Wanted,
    /// Nowhere.
    Refused(SendFailure),
}

/// What nobody has any more.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Gone {
    /// Places of lanes.
    pub(super) lanes: Vec<usize>,
    pub(super) copies: Vec<Kept>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Senders {
    // Senders of datagrams choose what is in it; a table so small suffers little where they make it slow.
    all: HashMap<Key, Sender, foldhash::quality::RandomState>,
    most: usize,
    /// Those that the supervisor is to be asked for, the first one first, and perhaps such as have gone since.
    to_ask: VecDeque<Key>,
    /// How many it was asked for and has not given yet.
    asked: usize,
    /// How many need a socket.
    wanted: usize,
    /// Bytes of the copies that wait.
    kept: usize,
    now: Instant,
    /// When to look next.
    next_look: Instant,
    /// Not before that will any be idle, where none is.
    full_until: Option<Instant>,
}

impl Default for Senders {
    fn default() -> Self {
        let now = Instant::now();
        let (all, to_ask) = Default::default();
        let most = MAX_SENDERS;
        Self { all, most, to_ask, asked: 0, wanted: 0, kept: 0, now, next_look: now, full_until: None }
    }
}

impl Senders {
    /// Has at most so many.
    pub(super) fn limit(&mut self, most: usize) {
        self.most = most;
    }

    /// It is `now`.
    pub(super) fn tick(&mut self, now: Instant) {
        self.now = now;
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.wanted > 0
    }

    /// After what time to look again, if ever.
    pub(super) fn look_after(&self) -> Option<Duration> {
        if self.wanted > 0 {
            return Some(SOON);
        }
        (!self.all.is_empty()).then_some(LATER)
    }

    /// Where a copy for `key` is to go. The lane that a new one has displaced is `closed`.
    pub(super) fn find(&mut self, key: Key, closed: &mut Option<usize>) -> Found {
        let now = self.now;
        if let Some(sender) = self.all.get_mut(&key) {
            match sender.state {
                State::Open(lane) => {
                    sender.used = now;
                    return Found::Lane(lane);
                }
                State::Wanted { .. } => return Found::Wanted,
                State::Refused(why) if now < sender.used + IDLE => return Found::Refused(why),
                // What was in its way may be gone.
                State::Refused(_) => {}
            }
            self.remove(&key);
        }
        if self.all.len() >= self.most && !self.make_room(closed) {
            return Found::Refused(SendFailure::TooManySources);
        }
        let state = State::Wanted { is_asked: false, copies: Vec::new() };
        self.all.insert(key, Sender { state, used: self.now });
        self.wanted += 1;
        self.to_ask.push_back(key);
        Found::Wanted
    }

    /// Drops the one that has been idle longest, if it is long enough.
    fn make_room(&mut self, closed: &mut Option<usize>) -> bool {
        if self.full_until.is_some_and(|until| self.now < until) {
            return false;
        }
        let can_go = |(_, sender): &(&Key, &Sender)| !matches!(sender.state, State::Wanted { .. });
        let longest = self.all.iter().filter(can_go).min_by_key(|(_, sender)| sender.used);
        let Some((key, used)) = longest.map(|(key, sender)| (*key, sender.used)) else { return false };
        // Whoever is used meanwhile is idle only later.
        let is_idle = self.now >= used + IDLE;
        self.full_until = (!is_idle).then_some(used + IDLE);
        if is_idle {
            *closed = self.remove(&key).lanes.pop();
        }
        is_idle
    }

    /// Has a copy wait for what `key` needs, if there is room.
    pub(super) fn keep(&mut self, key: &Key, payload: &[u8], label: Label) -> bool {
        let cost = payload.len() + COST;
        let Some(Sender { state: State::Wanted { copies, .. }, .. }) = self.all.get_mut(key) else {
            return false;
        };
        let has_room = self.kept + cost <= ROOM;
        if has_room {
            copies.push(Kept { label, payload: payload.into() });
            self.kept += cost;
        }
        has_room
    }

    /// One that the supervisor is to be asked for now.
    pub(super) fn ask(&mut self) -> Option<Key> {
        while self.asked < MAX_ASKED {
            let key = self.to_ask.pop_front()?;
            if let Some(Sender { state: State::Wanted { is_asked: is_asked @ false, .. }, .. }) =
                self.all.get_mut(&key)
            {
                *is_asked = true;
                self.asked += 1;
                return Some(key);
            }
        }
        None
    }

    /// Another supervisor does not know what the one before was asked for.
    pub(super) fn ask_again(&mut self) {
        self.to_ask.clear();
        self.asked = 0;
        for (key, sender) in &mut self.all {
            if let State::Wanted { is_asked, .. } = &mut sender.state {
                *is_asked = false;
                self.to_ask.push_back(*key);
            }
        }
    }

    /// Whether `key` needs a socket.
    pub(super) fn is_wanted(&self, key: &Key) -> bool {
        self.all.get(key).is_some_and(|sender| matches!(sender.state, State::Wanted { .. }))
    }

    /// What needed a socket has the lane at this place, or none; returns the copies that waited.
    pub(super) fn answer(&mut self, key: Key, lane: Result<usize, SendFailure>) -> Vec<Kept> {
        let Gone { copies, .. } = self.remove(&key);
        let state = lane.map_or_else(State::Refused, State::Open);
        self.all.insert(key, Sender { state, used: self.now });
        copies
    }

    /// Gives up what has waited too long, and what has long been idle, when it is time to look.
    pub(super) fn look(&mut self) -> Option<Gone> {
        let after = self.look_after()?;
        if self.now < self.next_look {
            // What is wanted since then does not wait for the late look.
            self.next_look = self.next_look.min(self.now + after);
            return None;
        }
        self.next_look = self.now + after;
        let now = self.now;
        Some(self.remove_all(|_, Sender { state, used }| {
            let limit = match state {
                State::Wanted { .. } => PATIENCE,
                State::Refused(_) => IDLE,
                State::Open(_) => LONG_IDLE,
            };
            now >= *used + limit
        }))
    }

    /// Gives up those of an output.
    pub(super) fn end_output(&mut self, output: u32) -> Gone {
        self.remove_all(|key, _| key.output == output)
    }

    /// Gives up everything that waits.
    pub(super) fn give_up(&mut self) -> Gone {
        self.remove_all(|_, sender| matches!(sender.state, State::Wanted { .. }))
    }

    /// Takes the copies that wait and are counted at one of these places.
    pub(super) fn take_copies(&mut self, is_meant: impl Fn(u32) -> bool) -> Vec<Kept> {
        let mut taken = Vec::new();
        for sender in self.all.values_mut() {
            if let State::Wanted { copies, .. } = &mut sender.state {
                taken.extend(copies.extract_if(.., |copy| is_meant(copy.label.counters)));
            }
        }
        self.kept -= cost(&taken);
        taken
    }

    fn remove_all(&mut self, goes: impl Fn(&Key, &Sender) -> bool) -> Gone {
        let keys: Vec<_> = self.all.iter().filter(|(key, it)| goes(key, it)).map(|(key, _)| *key).collect();
        let mut all = Gone::default();
        for key in &keys {
            let Gone { lanes, copies } = self.remove(key);
            all.lanes.extend(lanes);
            all.copies.extend(copies);
        }
        all
    }

    fn remove(&mut self, key: &Key) -> Gone {
        self.full_until = None;
        match self.all.remove(key).map(|sender| sender.state) {
            Some(State::Open(lane)) => Gone { lanes: vec![lane], copies: Vec::new() },
            Some(State::Wanted { is_asked, copies }) => {
                self.wanted -= 1;
                self.asked -= usize::from(is_asked);
                self.kept -= cost(&copies);
                Gone { lanes: Vec::new(), copies }
            }
            Some(State::Refused(_)) | None => Gone::default(),
        }
    }
}

fn cost(copies: &[Kept]) -> usize {
    copies.iter().map(|copy| copy.payload.len() + COST).sum()
}

#[cfg(test)]
#[path = "senders_tests.rs"]
mod tests;
