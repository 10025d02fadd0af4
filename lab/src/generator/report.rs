//! What the generator says it did.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::offering::{Guise, Offer};
use crate::schedule::due_ns;
use crate::traffic_error::TrafficError;

/// How late datagrams were handed to the kernel, ns.
///
/// The first of a burst, as everything in evenly paced traffic, is late from its intended time on. The rest of a burst is
/// intended for the same time and cannot leave at it: that is late from the hand-over of the batch before, so that the
/// worst lag also tells of a pause in the midst of a burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Worst.
    pub max: u64,
}

/// What became of the foreign datagrams of a stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ForeignReport {
    /// What was asked for.
    pub intended: u64,
    /// What the kernel took.
    pub sent: u64,
    /// What the kernel did not take, by the name of the error.
    pub refused: BTreeMap<String, u64>,
}

impl ForeignReport {
    /// How many were never due, because it was told to stop before.
    pub fn not_offered(&self) -> u64 {
        self.intended.saturating_sub(self.sent + self.refused.values().sum::<u64>())
    }
}

/// What one stretch of sending came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GeneratorReport {
    /// What was asked for, with what was to be sent twice or in addition, and without what was to be left out.
    pub intended: u64,
    /// How many places in the schedule that takes.
    pub scheduled: u64,
    /// What the kernel took.
    pub sent: u64,
    /// What the kernel did not take, by the name of the error.
    pub refused: BTreeMap<String, u64>,
    /// What the kernel did not take because the link was down, on purpose: not among those refused.
    pub link_down: u64,
    /// The same of what was foreign, which is in no other count.
    pub foreign: ForeignReport,
    /// When the first was due, ns of `CLOCK_REALTIME`.
    pub started_ns: u64,
    /// How often a full queue was tried again.
    pub retried: u64,
    /// Whether it ended before everything intended was due, because it was told to.
    pub stopped: bool,
    /// From the first hand-over to the end of the silence that the schedule has after the last datagram or burst:
    /// `scheduled` ÷ this is the rate.
    pub elapsed: Duration,
    /// Lateness of each datagram.
    pub lag_ns: Lag,
    /// CPU time of the calling thread, including what the kernel did on its behalf; `None` where not accounted.
    pub cpu: Option<Duration>,
}

impl GeneratorReport {
    /// Places of the schedule per second whose datagrams the kernel took, or would have but for a link that was down; 0 when
    /// there was none.
    pub fn offered_pps(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        let of_intended = (self.sent + self.link_down) as f64 / self.intended.max(1) as f64;
        if seconds > 0.0 { self.scheduled as f64 * of_intended / seconds } else { 0.0 }
    }

    /// How many were never due, because it was told to stop before.
    pub fn not_offered(&self) -> u64 {
        self.intended.saturating_sub(self.sent + self.refused_total() + self.link_down)
    }

    /// Lays refusals to a link that was down while `most` datagrams were offered: those that a device makes which sees
    /// nobody at its other end.
    pub fn excuse_link_down(&mut self, most: u64) {
        if let Some(count) = self.refused.get_mut(NOT_REDIRECTED) {
            self.link_down = (*count).min(most);
            *count -= self.link_down;
        }
        self.refused.retain(|_, count| *count > 0);
    }

    /// When the schedule was over, ns of `CLOCK_REALTIME`.
    pub fn ended_ns(&self) -> u64 {
        self.started_ns + u64::try_from(self.elapsed.as_nanos()).unwrap_or(u64::MAX)
    }

    /// All refusals together.
    pub fn refused_total(&self) -> u64 {
        self.refused.values().sum()
    }
}

/// Collects a report while sending.
pub(super) struct Recorder {
    report: GeneratorReport,
    lag: Histogram<u64>,
    first_ns: Option<u64>,
    last_ns: u64,
    /// When the burst under way began, and how many of it have been handed over.
    burst_ns: u64,
    of_burst: u64,
    /// How many of what is foreign have been handed over.
    foreign: u64,
    /// Until when the schedule is silent after the last datagram, where its pace does not say so.
    silent_until_ns: u64,
}

/// What a frame is called that nobody has counted: the kernel tells of it in a trace point of this name only.
pub(super) const NOT_REDIRECTED: &str = "xdp_redirect_err";

/// A lag beyond this is recorded as this, ns.
const MAX_LAG_NS: u64 = 600_000_000_000;

impl Recorder {
    pub(super) fn new(intended: u64, scheduled: u64, foreign: u64) -> Result<Self, TrafficError> {
        let foreign = ForeignReport { intended: foreign, ..ForeignReport::default() };
        Ok(Self {
            report: GeneratorReport { intended, scheduled, foreign, ..GeneratorReport::default() },
            lag: Histogram::new_with_bounds(1, MAX_LAG_NS, 3)?,
            first_ns: None,
            last_ns: 0,
            burst_ns: 0,
            of_burst: 0,
            foreign: 0,
            silent_until_ns: 0,
        })
    }

    /// The first is due at this time, ns of `CLOCK_REALTIME`.
    pub(super) fn started(&mut self, realtime_ns: u64) {
        self.report.started_ns = realtime_ns;
    }

    /// A datagram is handed over in a batch at this time since the start.
    pub(super) fn handed_over(&mut self, Offer { turn, guise }: &Offer, now_ns: u64) {
        if *guise == Guise::NoRule {
            self.foreign += 1;
            return;
        }
        let mut possible_ns = turn.due_ns;
        if turn.begins_burst {
            (self.burst_ns, self.of_burst) = (now_ns, 0);
        } else {
            possible_ns = possible_ns.max(self.last_ns);
        }
        self.of_burst += 1;
        self.lag.saturating_record(now_ns.saturating_sub(possible_ns));
    }

    /// The batch that was handed over at this time since the start is complete.
    pub(super) fn batch_over(&mut self, now_ns: u64) {
        self.first_ns.get_or_insert(now_ns);
        self.last_ns = now_ns;
    }

    /// The schedule lasts until this time since the start, with silence in the end.
    pub(super) fn silent_until(&mut self, ns: u64) {
        self.silent_until_ns = ns;
    }

    pub(super) fn retried(&mut self) {
        self.report.retried += 1;
    }

    /// The kernel did not take `count` of the datagrams handed over, for a reason of this name.
    pub(super) fn refused(&mut self, name: &str, count: u64) {
        if count > 0 {
            *self.report.refused.entry(name.to_owned()).or_default() += count;
        }
    }

    /// The kernel did not take a foreign one, for a reason of this name.
    pub(super) fn refused_foreign(&mut self, name: &str) {
        *self.report.foreign.refused.entry(name.to_owned()).or_default() += 1;
    }

    /// Closes the report over `done` datagrams, of which the plan's own were due at `rate_pps`.
    pub(super) fn finish(mut self, done: u64, rate_pps: u64, cpu: Option<Duration>) -> GeneratorReport {
        let foreign = &mut self.report.foreign;
        foreign.sent = self.foreign.saturating_sub(foreign.refused.values().sum());
        self.report.stopped = done < self.report.intended + foreign.intended;
        self.report.sent = done.saturating_sub(self.foreign + self.report.refused_total());
        self.report.cpu = cpu;
        if let Some(first_ns) = self.first_ns {
            // A burst that took longer than its silence lasts has none.
            let end_ns = self.last_ns.max(self.burst_ns + due_ns(self.of_burst, rate_pps));
            self.report.elapsed = Duration::from_nanos(end_ns.max(self.silent_until_ns) - first_ns);
            self.report.lag_ns = Lag {
                p50: self.lag.value_at_quantile(0.5),
                p99: self.lag.value_at_quantile(0.99),
                max: self.lag.max(),
            };
        }
        self.report
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Turn;

    #[test]
    fn every_datagram_is_sent_or_refused_by_name() {
        let mut recorder = Recorder::new(10, 10, 0).unwrap();
        for index in 0..10 {
            recorder.handed_over(&turn(index * 1_000_000, true), index * 1_000_000 + index);
            recorder.batch_over(index * 1_000_000 + index);
        }
        recorder.refused("ENOBUFS", 1);
        recorder.refused("ENOBUFS", 1);
        recorder.refused("ENETDOWN", 1);
        recorder.refused("ENXIO", 0);
        recorder.retried();
        let report = recorder.finish(10, 1_000, None);
        assert_eq!((report.intended, report.sent, report.refused_total()), (10, 7, 3));
        assert_eq!(report.refused, BTreeMap::from([("ENOBUFS".to_owned(), 2), ("ENETDOWN".to_owned(), 1)]));
        assert_eq!(report.elapsed, Duration::from_nanos(10_000_009));
        assert!((report.offered_pps() - 700.0).abs() < 1e-3);
        assert_eq!((report.retried, report.stopped, report.lag_ns.max), (1, false, 9));
        assert_eq!(report.not_offered(), 0);
    }

    #[test]
    fn what_a_link_that_was_down_did_not_take_is_not_refused() {
        let mut recorder = Recorder::new(10, 10, 0).unwrap();
        recorder.started(5_000_000);
        (0..10).for_each(|index| {
            recorder.handed_over(&turn(index * 1_000_000, true), index * 1_000_000);
            recorder.batch_over(index * 1_000_000);
        });
        recorder.refused(NOT_REDIRECTED, 4);
        recorder.refused("ENOBUFS", 1);
        let report = recorder.finish(10, 1_000, None);
        assert_eq!((report.started_ns, report.ended_ns()), (5_000_000, 15_000_000));
        for (most, link_down, refused) in [(3, 3, 2), (4, 4, 1), (9, 4, 1)] {
            let mut report = report.clone();
            report.excuse_link_down(most);
            assert_eq!(
                (report.link_down, report.refused_total(), report.not_offered()),
                (link_down, refused, 0)
            );
            let offered = (5 + link_down) as f64 * 100.0;
            assert!((report.offered_pps() - offered).abs() < 1e-6, "{report:?}");
        }
    }

    fn turn(due_ns: u64, begins_burst: bool) -> Offer {
        Offer::of(Turn { flow: 0, sequence: 0, due_ns, begins_burst })
    }

    #[test]
    fn what_is_foreign_is_counted_by_itself_and_spoils_no_rate() {
        let mut recorder = Recorder::new(10, 10, 20).unwrap();
        for index in 0..30 {
            // Every third is the plan's own; what is foreign may come late.
            let own = turn(index / 3 * 1_000_000, true);
            let offer = if index % 3 == 0 { own } else { Offer { guise: Guise::NoRule, ..own } };
            let late = if index % 3 == 2 { 900_000 } else { 0 };
            recorder.handed_over(&offer, offer.turn.due_ns + late);
            recorder.batch_over(offer.turn.due_ns + late);
        }
        recorder.refused("ENOBUFS", 1);
        recorder.refused_foreign("ENOBUFS");
        recorder.refused_foreign("ENXIO");
        let report = recorder.finish(30, 1_000, None);
        assert_eq!((report.sent, report.stopped, report.lag_ns.max), (9, false, 0));
        assert_eq!(report.elapsed, Duration::from_millis(10));
        let refused = BTreeMap::from([("ENOBUFS".to_owned(), 1), ("ENXIO".to_owned(), 1)]);
        assert_eq!(report.foreign, ForeignReport { intended: 20, sent: 18, refused });
        assert_eq!((report.not_offered(), report.foreign.not_offered()), (0, 0));

        let mut recorder = Recorder::new(1, 1, 2).unwrap();
        recorder.handed_over(&turn(0, true), 0);
        recorder.handed_over(&Offer { guise: Guise::NoRule, ..turn(0, true) }, 0);
        let report = recorder.finish(2, 1_000, None);
        assert_eq!((report.stopped, report.not_offered(), report.foreign.not_offered()), (true, 0, 1));
    }

    /// Bursts of 5 at 1,000 a second, handed over in batches of up to 3, each `batch_ns` after the one before; the last
    /// burst has `last` datagrams.
    fn bursts(batch_ns: u64, last: u64) -> GeneratorReport {
        let mut recorder = Recorder::new(10 + last, 10 + last, 0).unwrap();
        let mut now_ns = 0;
        for (burst, datagrams) in [5, 5, last].into_iter().enumerate() {
            let due_ns = burst as u64 * 5_000_000;
            now_ns = due_ns.max(now_ns);
            for index in 0..datagrams {
                recorder.handed_over(&turn(due_ns, index == 0), now_ns);
                if index % 3 == 2 || index + 1 == datagrams {
                    recorder.batch_over(now_ns);
                    now_ns += batch_ns;
                }
            }
        }
        recorder.finish(10 + last, 1_000, None)
    }

    #[test]
    fn the_silence_after_the_last_burst_is_part_of_the_run() {
        let report = bursts(1_000, 5);
        assert_eq!((report.elapsed, report.lag_ns.max), (Duration::from_millis(15), 1_000));
        assert!((report.offered_pps() - 1_000.0).abs() < 1e-6);
        let report = bursts(1_000, 2);
        assert_eq!(report.elapsed, Duration::from_millis(12));
    }

    #[test]
    fn a_burst_that_outlasts_its_silence_shows_in_rate_and_lag() {
        // Two batches of 4 ms each do not fit 5 ms.
        let report = bursts(4_000_000, 5);
        assert_eq!(report.elapsed, Duration::from_millis(16 + 5));
        // The third burst is 6 ms late, no datagram of the others is later than the batch before it.
        assert!((5_990_000..=6_010_000).contains(&report.lag_ns.max), "{report:?}");
        // Here even the last one ends after its silence should have.
        assert_eq!(bursts(7_000_000, 5).elapsed, Duration::from_millis(35));
    }

    #[test]
    fn a_recording_lasts_as_long_as_its_mean_rate_says() {
        let mut recorder = Recorder::new(4, 4, 0).unwrap();
        for at_ns in [0, 10, 20_000_000, 700_000_000] {
            recorder.handed_over(&turn(at_ns, true), at_ns + 5);
            recorder.batch_over(at_ns + 5);
        }
        recorder.silent_until(1_000_000_000);
        let report = recorder.finish(4, 4, None);
        assert_eq!((report.sent, report.lag_ns.max), (4, 5));
        assert!((report.offered_pps() - 4.0).abs() < 0.001, "{report:?}");
    }

    #[test]
    fn what_is_left_out_on_purpose_takes_its_time_all_the_same() {
        let mut recorder = Recorder::new(8, 10, 0).unwrap();
        for index in (0..10).filter(|index| index % 5 != 3) {
            recorder.handed_over(&turn(index * 1_000_000, true), index * 1_000_000);
            recorder.batch_over(index * 1_000_000);
        }
        let report = recorder.finish(8, 1_000, None);
        assert_eq!((report.sent, report.stopped), (8, false));
        assert!((report.offered_pps() - 1_000.0).abs() < 1e-6);
    }

    #[test]
    fn nothing_sent_is_no_rate() {
        let report = Recorder::new(10, 10, 0).unwrap().finish(0, 1_000, None);
        assert!(report.stopped);
        assert_eq!(report.not_offered(), 10);
        assert_eq!((report.sent, report.elapsed, report.offered_pps()), (0, Duration::ZERO, 0.0));
    }
}
