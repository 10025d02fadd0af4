//! What the generator says it did.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::plan::due_ns;
use crate::traffic_error::{TrafficError, errno_name};

/// How late datagrams were handed to the kernel, ns after their intended time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lag {
    /// Median.
    pub p50: u64,
    /// 99th percentile.
    pub p99: u64,
    /// Worst.
    pub max: u64,
}

/// What one stretch of sending came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GeneratorReport {
    /// What was asked for.
    pub intended: u64,
    /// What the kernel took.
    pub sent: u64,
    /// What the kernel did not take, by the name of the error.
    pub refused: BTreeMap<String, u64>,
    /// How often a full queue was tried again.
    pub retried: u64,
    /// Whether it ended before everything intended was due, because it was told to.
    pub stopped: bool,
    /// From the first to the last hand-over, plus one gap of the schedule: `sent` ÷ this is the rate.
    pub elapsed: Duration,
    /// Lateness of each datagram.
    pub lag_ns: Lag,
    /// CPU time of the calling thread, including what the kernel did on its behalf; `None` where not accounted.
    pub cpu: Option<Duration>,
}

impl GeneratorReport {
    /// Datagrams per second that the kernel took; 0 when none was.
    pub fn offered_pps(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.sent as f64 / seconds } else { 0.0 }
    }

    /// How many were never due, because it was told to stop before.
    pub fn not_offered(&self) -> u64 {
        self.intended.saturating_sub(self.sent + self.refused_total())
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
}

/// A lag beyond this is recorded as this, ns.
const MAX_LAG_NS: u64 = 600_000_000_000;

impl Recorder {
    pub(super) fn new(intended: u64) -> Result<Self, TrafficError> {
        Ok(Self {
            report: GeneratorReport { intended, ..GeneratorReport::default() },
            lag: Histogram::new_with_bounds(1, MAX_LAG_NS, 3)?,
            first_ns: None,
            last_ns: 0,
        })
    }

    /// A datagram left this late.
    pub(super) fn lag(&mut self, late_ns: u64) {
        self.lag.saturating_record(late_ns);
    }

    /// A batch was handed over at this time since the start.
    pub(super) fn sent_at(&mut self, now_ns: u64) {
        self.first_ns.get_or_insert(now_ns);
        self.last_ns = now_ns;
    }

    pub(super) fn retried(&mut self) {
        self.report.retried += 1;
    }

    pub(super) fn refused(&mut self, error: &io::Error) {
        *self.report.refused.entry(errno_name(error)).or_default() += 1;
    }

    /// Closes the report over `done` datagrams that were due at `rate_pps`.
    pub(super) fn finish(mut self, done: u64, rate_pps: u64, cpu: Option<Duration>) -> GeneratorReport {
        self.report.sent = done.saturating_sub(self.report.refused_total());
        self.report.stopped = done < self.report.intended;
        self.report.cpu = cpu;
        if let Some(first_ns) = self.first_ns {
            self.report.elapsed = Duration::from_nanos(self.last_ns - first_ns + due_ns(1, rate_pps));
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

    #[test]
    fn every_datagram_is_sent_or_refused_by_name() {
        let mut recorder = Recorder::new(10).unwrap();
        for index in 0..10 {
            recorder.lag(index);
            recorder.sent_at(index * 1_000_000);
        }
        recorder.refused(&io::Error::from_raw_os_error(libc::ENOBUFS));
        recorder.refused(&io::Error::from_raw_os_error(libc::ENOBUFS));
        recorder.refused(&io::Error::from_raw_os_error(libc::ENETDOWN));
        recorder.retried();
        let report = recorder.finish(10, 1_000, None);
        assert_eq!((report.intended, report.sent, report.refused_total()), (10, 7, 3));
        assert_eq!(report.refused, BTreeMap::from([("ENOBUFS".to_owned(), 2), ("ENETDOWN".to_owned(), 1)]));
        assert_eq!(report.elapsed, Duration::from_millis(10));
        assert!((report.offered_pps() - 700.0).abs() < 1e-6);
        assert_eq!((report.retried, report.stopped, report.lag_ns.max), (1, false, 9));
        assert_eq!(report.not_offered(), 0);
    }

    #[test]
    fn nothing_sent_is_no_rate() {
        let report = Recorder::new(10).unwrap().finish(0, 1_000, None);
        assert!(report.stopped);
        assert_eq!(report.not_offered(), 10);
        assert_eq!((report.sent, report.elapsed, report.offered_pps()), (0, Duration::ZERO, 0.0));
    }
}
