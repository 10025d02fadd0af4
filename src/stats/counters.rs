//! Counters in shared memory: where each is, who writes it, and what becomes of them when a worker dies.

use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Cause, Named, RemovedStats, SendFailure};
use crate::sys::shared_memory::{RECORD_LEN, Record, SharedMemory};

/// Most inputs at a time.
pub const MAX_INPUTS: usize = 1 << 10;
/// Most rules at a time.
pub const MAX_RULES: usize = 1 << 17;
/// Most outputs of all rules together at a time.
pub const MAX_OUTPUTS: usize = 1 << 18;

/// Where the records of each kind begin.
const GENERAL: usize = 0;
const DROPPED: usize = 1;
const REMOVED_DROPPED: usize = 2;
const INPUTS: usize = 3;
const RULES: usize = INPUTS + MAX_INPUTS;
const OUTPUTS: usize = RULES + MAX_RULES;
const RECORDS: usize = OUTPUTS + MAX_OUTPUTS;

/// Numbers before those of a set in an output's record.
const BEFORE_SET: usize = 2;

const _: () = assert!(Cause::ALL.len() <= RECORD_LEN && BEFORE_SET + SendFailure::ALL.len() <= RECORD_LEN);

/// A monotonic count with one writer and any number of readers.
#[derive(Clone, Copy, Debug)]
pub struct Counter<'a>(&'a AtomicU64);

impl Counter<'_> {
    /// Adds `n`. Only the one writer may call it: load and store are cheaper than a locked add.
    #[inline]
    pub fn add(self, n: u64) {
        self.set(self.0.load(Ordering::Relaxed).wrapping_add(n));
    }

    /// Writes `n`, for numbers that are no counts. Only the one writer may call it.
    #[inline]
    pub fn set(self, n: u64) {
        // Pairs with the load in `get`: who sees this count sees all that were written before it.
        self.0.store(n, Ordering::Release);
    }

    /// The count so far.
    #[inline]
    pub fn get(self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// One counter for each member of a closed set.
#[derive(Clone, Copy, Debug)]
pub struct CounterSet<'a, N> {
    counts: &'a [AtomicU64],
    names: PhantomData<N>,
}

impl<'a, N: Named> CounterSet<'a, N> {
    fn new(counts: &'a [AtomicU64]) -> Self {
        Self { counts, names: PhantomData }
    }

    /// Adds `n` to the counter of `name`.
    #[inline]
    pub fn add(self, name: N, n: u64) {
        if let Some(count) = self.counts.get(name.index()) {
            Counter(count).add(n);
        }
    }

    /// What is not zero, by name.
    pub fn report(self) -> BTreeMap<String, u64> {
        let counts = N::ALL.iter().zip(self.counts).map(|(name, count)| (name.name(), Counter(count).get()));
        counts.filter(|(_, count)| *count > 0).map(|(name, count)| (name.to_owned(), count)).collect()
    }

    /// What is counted for `name`.
    pub fn get(self, name: N) -> u64 {
        self.counts.get(name.index()).map_or(0, |count| Counter(count).get())
    }

    /// The sum over all members.
    pub fn total(self) -> u64 {
        self.counts.iter().take(N::ALL.len()).map(|count| Counter(count).get()).sum()
    }
}

macro_rules! record {
    ($(#[$doc:meta])* @private $type:ident { $($field:ident = $place:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        struct $type<'a>(&'a Record);

        impl<'a> $type<'a> {
            $(#[inline]
            fn $field(self) -> Counter<'a> {
                Counter(&self.0[$place])
            })+
        }
    };
    ($(#[$doc:meta])* $type:ident { $($(#[$field_doc:meta])* $field:ident = $place:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $type<'a>(&'a Record);

        impl<'a> $type<'a> {
            $($(#[$field_doc])*
            #[inline]
            pub fn $field(self) -> Counter<'a> {
                Counter(&self.0[$place])
            })+
        }
    };
}

record! {
    /// What is counted for one input.
    InputCounters {
        /// Frames taken from the socket.
        frames = 0,
        /// Datagrams in them; a frame that reached no rule counts as one.
        received = 1,
        /// Times its interface went down.
        went_down = 2,
        /// Loans of a ring that the kernel marked as following a loss.
        follows_loss = 3,
        /// Frames taken a second time, because the worker that had taken them died before it gave them back.
        taken_again = 4,
        /// No count: where in the ring the worker is, as [`crate::worker::packet_ring::Position`] writes it.
        position = 5,
        /// No count: `frames` when the worker began with what the ring lends.
        frames_before = 6,
        /// Frames that passed the filter, dropped ones included, as the supervisor has read it from the kernel.
        captured = 7,
        /// Frames that the kernel dropped, likewise.
        kernel_dropped = 8,
        /// Times that the ring had no block left, likewise.
        freezes = 9,
        /// Frames that nobody took: a dead worker had them in its own memory, as the supervisor has found out, or several have
        /// died over them.
        abandoned = 10,
        /// No count: how many workers in a row have died over what the ring lends.
        deaths = 11,
    }
}

record! {
    /// What is counted for one rule.
    RuleCounters {
        /// Datagrams the rule took.
        matched = 0,
        /// Their payload bytes.
        bytes = 1,
    }
}

record! {
    /// What is counted for one output of a rule.
    OutputCounters {
        /// Datagrams the kernel took.
        relayed = 0,
        /// Their payload bytes.
        bytes = 1,
    }
}

impl<'a> OutputCounters<'a> {
    /// Datagrams that the kernel refused, or that did not get so far.
    #[inline]
    pub fn dropped(self) -> CounterSet<'a, SendFailure> {
        CounterSet::new(&self.0[BEFORE_SET..])
    }
}

record! {
    /// What belongs to no input and no rule.
    @private General {
        turns = 0,
        removed_received = 1,
        removed_matched = 2,
        removed_relayed = 3,
    }
}

/// What one worker counts, in memory that outlives it. Inputs, rules and outputs are known by places that the supervisor gives
/// them; it writes what the kernel has counted and what has been removed, the worker everything else.
#[derive(Debug)]
pub struct Counters(SharedMemory);

impl Counters {
    /// Zeroed counters. What is not counted takes no memory.
    pub fn new() -> io::Result<Self> {
        SharedMemory::new("multicast_relay counters", RECORDS).map(Self)
    }

    /// The counters in memory that another process has made.
    ///
    /// # Errors
    /// `InvalidData` when it is not of that kind.
    pub fn open(memory: OwnedFd) -> io::Result<Self> {
        SharedMemory::open(memory, RECORDS).map(Self)
    }

    /// The memory, for another process.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn record(&self, place: usize) -> &Record {
        &self.0.records()[place]
    }

    fn general(&self) -> General<'_> {
        General(self.record(GENERAL))
    }

    fn removed_dropped(&self) -> CounterSet<'_, SendFailure> {
        CounterSet::new(self.record(REMOVED_DROPPED))
    }

    /// No count of datagrams: grows with every turn of the worker, a sign of life.
    #[inline]
    pub fn turns(&self) -> Counter<'_> {
        self.general().turns()
    }

    /// Frames that reached no rule.
    #[inline]
    pub fn dropped(&self) -> CounterSet<'_, Cause> {
        CounterSet::new(self.record(DROPPED))
    }

    /// Those of the input at `place`, if it is below [`MAX_INPUTS`].
    #[inline]
    pub fn input(&self, place: usize) -> Option<InputCounters<'_>> {
        (place < MAX_INPUTS).then(|| InputCounters(self.record(INPUTS + place)))
    }

    /// Those of the rule at `place`, if it is below [`MAX_RULES`].
    #[inline]
    pub fn rule(&self, place: usize) -> Option<RuleCounters<'_>> {
        (place < MAX_RULES).then(|| RuleCounters(self.record(RULES + place)))
    }

    /// Those of the output at `place`, if it is below [`MAX_OUTPUTS`].
    #[inline]
    pub fn output(&self, place: usize) -> Option<OutputCounters<'_>> {
        (place < MAX_OUTPUTS).then(|| OutputCounters(self.record(OUTPUTS + place)))
    }

    /// Counts a frame taken from the input at `place`, with so many datagrams.
    #[inline]
    pub fn received(&self, place: usize, datagrams: u64) {
        if let Some(input) = self.input(place) {
            input.frames().add(1);
            input.received().add(datagrams);
        }
    }

    /// Counts datagrams of `bytes` payload bytes together that the rule at `place` took.
    #[inline]
    pub fn matched(&self, place: usize, datagrams: u64, bytes: usize) {
        if let Some(rule) = self.rule(place) {
            rule.matched().add(datagrams);
            rule.bytes().add(bytes as u64);
        }
    }

    /// Counts a copy for the output at `place` that was not sent.
    pub fn not_sent(&self, place: u32, failure: SendFailure) {
        if let Some(output) = self.output(place as usize) {
            output.dropped().add(failure, 1);
        }
    }

    /// Datagrams received through `inputs`, by their places, and through such as were removed.
    pub fn total_received(&self, inputs: impl Iterator<Item = usize>) -> u64 {
        let received = inputs.filter_map(|place| self.input(place)).map(|input| input.received().get());
        received.sum::<u64>() + self.general().removed_received().get()
    }

    /// Datagrams that `rules`, by their places, took, and such as were removed.
    pub fn total_matched(&self, rules: impl Iterator<Item = usize>) -> u64 {
        let matched = rules.filter_map(|place| self.rule(place)).map(|rule| rule.matched().get());
        matched.sum::<u64>() + self.general().removed_matched().get()
    }

    /// Makes the counters of the input at `place` zero, for another one; what it received stays in the total. The worker
    /// knows it no more.
    pub fn remove_input(&self, place: usize) {
        let Some(input) = self.input(place) else { return };
        self.general().removed_received().add(input.received().get());
        clear(input.0);
    }

    /// Makes the counters of the rule at `place`, and those of its outputs at `outputs`, zero, for another one; what they took and
    /// what left stays in the totals. The worker knows them no more.
    pub fn remove_rule(&self, place: usize, outputs: impl Iterator<Item = usize>) {
        for output in outputs.filter_map(|place| self.output(place)) {
            self.general().removed_relayed().add(output.relayed().get());
            for name in SendFailure::ALL {
                self.removed_dropped().add(*name, output.dropped().get(*name));
            }
            clear(output.0);
        }
        if let Some(rule) = self.rule(place) {
            self.general().removed_matched().add(rule.matched().get());
            clear(rule.0);
        }
    }

    /// Datagrams received through inputs that have been removed.
    pub fn removed_received(&self) -> u64 {
        self.general().removed_received().get()
    }

    /// What was counted for rules that have been removed.
    pub fn removed(&self) -> RemovedStats {
        RemovedStats {
            relayed: self.general().removed_relayed().get(),
            dropped: self.removed_dropped().report(),
            matched: self.general().removed_matched().get(),
        }
    }

    /// Counts as interrupted what the worker, which is dead, had begun and not finished: `inputs` are the places of its inputs,
    /// `rules` those of its rules, each with the places of its outputs.
    pub fn settle<'a>(
        &self,
        inputs: impl Iterator<Item = usize>,
        rules: impl Iterator<Item = (usize, &'a [u32])> + Clone,
    ) {
        for (rule, outputs) in rules.clone() {
            let Some(rule) = self.rule(rule) else { continue };
            for output in outputs.iter().filter_map(|place| self.output(*place as usize)) {
                let finished = output.relayed().get() + output.dropped().total();
                output.dropped().add(SendFailure::Interrupted, rule.matched().get().saturating_sub(finished));
            }
        }
        let finished = self.total_matched(rules.map(|(place, _)| place)) + self.dropped().total();
        self.dropped().add(Cause::Interrupted, self.total_received(inputs).saturating_sub(finished));
    }
}

fn clear(record: &Record) {
    for number in record {
        Counter(number).set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_report_by_name_what_is_not_zero() {
        let counters = Counters::new().unwrap();
        counters.dropped().add(Cause::Fragment, 3);
        let output = counters.output(7).unwrap();
        output.dropped().add(SendFailure::from_errno(libc::ENOBUFS), 2);
        output.relayed().add(1);
        assert_eq!(counters.dropped().report(), BTreeMap::from([("fragment".into(), 3)]));
        assert_eq!(output.dropped().report(), BTreeMap::from([("queue_full".into(), 2)]));
        assert_eq!((output.dropped().total(), output.bytes().get()), (2, 0));
    }

    #[test]
    fn every_place_has_a_record_of_its_own() {
        let counters = Counters::new().unwrap();
        let last = |max: usize| [0, max - 1];
        for place in last(MAX_INPUTS) {
            counters.received(place, 2);
            counters.input(place).unwrap().abandoned().add(1);
        }
        for place in last(MAX_RULES) {
            counters.matched(place, 1, 100);
        }
        for place in last(MAX_OUTPUTS) {
            for name in SendFailure::ALL {
                counters.output(place).unwrap().dropped().add(*name, 1);
            }
        }
        for name in Cause::ALL {
            counters.dropped().add(*name, 1);
        }
        counters.turns().add(1);
        let sum: u64 = counters.0.records().iter().flatten().map(|number| Counter(number).get()).sum();
        let sets = 2 * SendFailure::ALL.len() + Cause::ALL.len();
        assert_eq!(sum, 2 * (1 + 2 + 1) + 2 * (1 + 100) + sets as u64 + 1);
        assert!(counters.input(MAX_INPUTS).is_none() && counters.rule(MAX_RULES).is_none());
        assert!(counters.output(MAX_OUTPUTS).is_none());
    }

    #[test]
    fn another_process_goes_on_where_one_has_ended() {
        let one = Counters::new().unwrap();
        one.received(3, 5);
        let other = Counters::open(one.memory().try_clone_to_owned().unwrap()).unwrap();
        other.received(3, 1);
        assert_eq!(one.input(3).unwrap().received().get(), 6);
    }

    #[test]
    fn what_a_worker_died_over_is_settled_once() {
        let counters = Counters::new().unwrap();
        (0..10).for_each(|_| counters.received(0, 1));
        counters.dropped().add(Cause::NoRule, 2);
        (0..7).for_each(|_| counters.matched(4, 1, 100));
        counters.output(8).unwrap().relayed().add(5);
        counters.output(9).unwrap().dropped().add(SendFailure::Refused, 7);
        let rules = [(4, &[8, 9][..])];
        for _ in 0..2 {
            counters.settle([0].into_iter(), rules.into_iter());
            assert_eq!(counters.output(8).unwrap().dropped().report()["interrupted"], 2);
            assert_eq!(counters.output(9).unwrap().dropped().total(), 7);
            assert_eq!(counters.dropped().report()["interrupted"], 1);
        }
    }

    #[test]
    fn what_is_removed_stays_in_the_totals() {
        let counters = Counters::new().unwrap();
        counters.received(1, 5);
        counters.matched(2, 4, 100);
        counters.remove_input(1);
        counters.output(3).unwrap().relayed().add(3);
        counters.output(3).unwrap().dropped().add(SendFailure::Other, 1);
        counters.remove_rule(2, [3].into_iter());
        counters.received(1, 1);
        assert_eq!(counters.input(1).unwrap().received().get(), 1);
        assert_eq!(counters.total_received([1].into_iter()), 6);
        assert_eq!(counters.total_matched([2].into_iter()), 4);
        let dropped = BTreeMap::from([("other".to_owned(), 1)]);
        assert_eq!(counters.removed(), RemovedStats { matched: 4, relayed: 3, dropped });
        assert_eq!(counters.removed_received(), 5);
        assert_eq!(counters.output(3).unwrap().relayed().get(), 0);
    }
}
