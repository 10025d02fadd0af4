//! What of a stream has come in of late, on which of its legs, in memory that all workers and the supervisor share.
//!
//! An entry stands for datagrams alike. It says by how many one leg is ahead of the other, which decides about the next one, and,
//! when its time is over, what the other leg has not brought.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::quality::FixedState;

use super::key::Key;
use crate::rules::LEGS;
use crate::sys::shared_memory::{RECORD_LEN, Record, SharedMemory};

/// Entries are looked for in one record; there are so many of these, which makes 262,144 entries, of 2 MiB.
const BUCKETS: usize = 1 << 14;
/// The records before them: one, of numbers that are no entries.
const HEADER: usize = 1;

// Where these numbers are.
const MISSING: usize = 0;
const JOINED: usize = MISSING + LEGS;
const SWEPT: usize = JOINED + LEGS;
const CROWDED: usize = SWEPT + 1;
const SEED: usize = CROWDED + 1;
const _: () = assert!(SEED < RECORD_LEN);

/// After so many milliseconds without a sweep, whoever has something to enter sweeps: in time before times begin anew.
const SWEEP_MS: u64 = 2_000;

/// How often to try when others change the same entries.
const ATTEMPTS: usize = 8;

/// One of the two legs of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Side {
    /// The one.
    A,
    /// The other.
    B,
}

impl Side {
    /// Both.
    pub const ALL: [Self; LEGS] = [Self::A, Self::B];

    fn index(self) -> usize {
        self as usize
    }

    /// What a datagram on this leg adds to the lead of the first one.
    fn step(self) -> i32 {
        match self {
            Self::A => 1,
            Self::B => -1,
        }
    }
}

/// A datagram that has come in.
#[derive(Clone, Copy)]
struct Arrival {
    side: Side,
    tag: u64,
    is_counted: bool,
    /// Whether it may have been entered by a worker that died before it sent it.
    is_again: bool,
}

/// An entry: what its datagrams have in common, above the lead, above when the last one was relayed.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const NONE: Self = Self(0);
    /// Bits of the time, in milliseconds: it begins anew after 16 seconds.
    const TIME: u32 = 14;
    /// Bits of the lead. It is never stored as 0, so that no entry is [`Entry::NONE`].
    const LEAD: u32 = 7;
    const MOST_LEAD: i32 = (1 << (Self::LEAD - 1)) - 1;

    fn new(tag: u64, lead: i32, now: u64) -> Self {
        let lead = lead.clamp(-Self::MOST_LEAD, Self::MOST_LEAD) + (1 << (Self::LEAD - 1));
        Self(tag << (Self::LEAD + Self::TIME) | (lead as u64) << Self::TIME | now & low(Self::TIME))
    }

    /// What all of a key have of its hash that are not told by the bucket.
    fn tag(hash: u64) -> u64 {
        hash >> (Self::LEAD + Self::TIME)
    }

    fn has_tag(self, tag: u64) -> bool {
        self != Self::NONE && self.0 >> (Self::LEAD + Self::TIME) == tag
    }

    /// By how many datagrams the first leg is ahead of the second one.
    fn lead(self) -> i32 {
        (self.0 >> Self::TIME & low(Self::LEAD)) as i32 - (1 << (Self::LEAD - 1))
    }

    /// How long ago the last one was relayed, in milliseconds; another processor's clock may be a little ahead.
    fn age(self, now: u64) -> u64 {
        let age = now.wrapping_sub(self.0) & low(Self::TIME);
        if age >> (Self::TIME - 1) == 0 { age } else { 0 }
    }

    fn with_lead(self, lead: i32) -> Self {
        Self::new(self.0 >> (Self::LEAD + Self::TIME), lead, self.0)
    }
}

fn low(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// What of a stream has come in of late.
#[derive(Debug)]
pub struct Window {
    memory: SharedMemory,
    length_ms: u64,
    hash: FixedState,
}

impl Window {
    /// A window of so many milliseconds, of a stream of which nothing has come in before `now`. `seed` is for hashes, so that who sends
    /// cannot tell them.
    pub fn new(length_ms: u16, seed: u64, now: u64) -> io::Result<Self> {
        let memory = SharedMemory::new("multicast_relay stream", HEADER + BUCKETS)?;
        memory.records()[0][SEED].store(seed, Ordering::Relaxed);
        memory.records()[0][SWEPT].store(now, Ordering::Relaxed);
        Ok(Self::of(memory, length_ms))
    }

    /// The window that another process has made.
    ///
    /// # Errors
    /// `InvalidData` when the memory is not of that kind.
    pub fn open(memory: OwnedFd, length_ms: u16) -> io::Result<Self> {
        SharedMemory::open(memory, HEADER + BUCKETS).map(|memory| Self::of(memory, length_ms))
    }

    fn of(memory: SharedMemory, length_ms: u16) -> Self {
        let seed = memory.records()[0][SEED].load(Ordering::Relaxed);
        let hash = FixedState::with_seed(seed);
        Self { memory, length_ms: length_ms.into(), hash }
    }

    /// The memory, for another process.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }

    fn number(&self, at: usize) -> &AtomicU64 {
        &self.memory.records()[0][at]
    }

    /// What the leg did not bring of what the other one has brought, so far as the window is over.
    pub fn missing(&self, side: Side) -> u64 {
        self.number(MISSING + side.index()).load(Ordering::Relaxed)
    }

    /// Entries whose place another one needed before their time was over: of those a second copy may have been relayed.
    pub fn crowded(&self) -> u64 {
        self.number(CROWDED).load(Ordering::Relaxed)
    }

    /// There is another leg from now on, in milliseconds of the monotonic clock, which has missed nothing before.
    pub fn join(&self, side: Side, now: u64) {
        self.number(JOINED + side.index()).store(now, Ordering::Relaxed);
        self.number(MISSING + side.index()).store(0, Ordering::Relaxed);
    }

    /// A datagram has come in on that leg: whether it is to be relayed, for it is not one that the other leg has brought before.
    /// `now` are milliseconds of the monotonic clock.
    pub fn is_first(&self, now: u64, side: Side, key: Key<'_>) -> bool {
        self.admits(now, side, key, false)
    }

    /// The same for a datagram that is taken once more, in place of a worker that died over it. That may have entered it and not sent
    /// it, so it is relayed unless it cannot have been the first.
    pub fn is_first_again(&self, now: u64, side: Side, key: Key<'_>) -> bool {
        self.admits(now, side, key, true)
    }

    fn admits(&self, now: u64, side: Side, key: Key<'_>, is_again: bool) -> bool {
        if now.saturating_sub(self.number(SWEPT).load(Ordering::Relaxed)) >= SWEEP_MS {
            self.sweep(now);
        }
        let hash = key.hash(&self.hash);
        let bucket = &self.memory.records()[HEADER + (hash as usize & (BUCKETS - 1))];
        let arrival = Arrival { side, tag: Entry::tag(hash), is_counted: key.is_counted(), is_again };
        for _ in 0..ATTEMPTS {
            if let Some(is_first) = self.enter(bucket, now, arrival) {
                return is_first;
            }
        }
        true
    }

    /// Enters a datagram, unless another process has changed what it needs meanwhile. Says whether it is to be relayed.
    fn enter(&self, bucket: &Record, now: u64, arrival: Arrival) -> Option<bool> {
        let mut oldest = (0, u64::MAX, 0);
        for (place, number) in bucket.iter().enumerate() {
            let found = number.load(Ordering::Relaxed);
            let entry = Entry(found);
            let age = if entry == Entry::NONE { u64::MAX } else { entry.age(now) };
            if age < self.length_ms && entry.has_tag(arrival.tag) {
                let (is_first, next) = meet(entry, now, arrival);
                return exchange(number, found, next).then_some(is_first);
            }
            // The first of all that are over, so that another process chooses the same.
            let age = age.min(self.length_ms);
            if oldest.1 == u64::MAX || age > oldest.1 {
                oldest = (place, age, found);
            }
        }
        let (place, age, found) = oldest;
        if !exchange(&bucket[place], found, Entry::new(arrival.tag, arrival.side.step(), now)) {
            return None;
        }
        self.end(Entry(found), now);
        if age < self.length_ms {
            self.number(CROWDED).fetch_add(1, Ordering::Relaxed);
        }
        Some(true)
    }

    /// Ends what is over, and counts what a leg has not brought of it. Once a second at the least.
    pub fn sweep(&self, now: u64) {
        let before = self.number(SWEPT).swap(now, Ordering::Relaxed);
        // Times have begun anew since, so that they say nothing: there was neither traffic nor a supervisor.
        let is_late = now.saturating_sub(before) >> (Entry::TIME - 1) > 0;
        for number in self.memory.records()[HEADER..].iter().flatten() {
            let found = number.load(Ordering::Relaxed);
            let is_over = is_late || Entry(found).age(now) >= self.length_ms;
            if found != Entry::NONE.0 && is_over && exchange(number, found, Entry::NONE) {
                self.end(Entry(found), now);
            }
        }
    }

    /// `entry` is no more: what one leg was ahead, the other one has not brought.
    fn end(&self, entry: Entry, now: u64) {
        if entry == Entry::NONE || entry.lead() == 0 {
            return;
        }
        let behind = if entry.lead() > 0 { Side::B } else { Side::A };
        let came = now.saturating_sub(entry.age(now));
        if came >= self.number(JOINED + behind.index()).load(Ordering::Relaxed) {
            let missing = u64::from(entry.lead().unsigned_abs());
            self.number(MISSING + behind.index()).fetch_add(missing, Ordering::Relaxed);
        }
    }
}

/// What becomes of `entry` with another one like it, and whether that is to be relayed.
fn meet(entry: Entry, now: u64, arrival: Arrival) -> (bool, Entry) {
    let Arrival { side, tag, is_counted, is_again } = arrival;
    let lead = entry.lead();
    let is_behind = lead * side.step() < 0;
    if is_behind {
        (false, entry.with_lead(lead + side.step()))
    } else if is_again {
        (true, entry)
    } else if is_counted {
        (true, Entry::new(tag, lead + side.step(), now))
    } else {
        (false, entry)
    }
}

/// Whether what was `found` was still there, and is `next` now.
fn exchange(number: &AtomicU64, found: u64, next: Entry) -> bool {
    // Nothing else is read because of what stands here.
    number.compare_exchange(found, next.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
