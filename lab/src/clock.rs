//! One clock at both ends: `CLOCK_REALTIME`, because the kernel stamps what arrives with it.
//!
//! Pacing runs on `CLOCK_MONOTONIC` (what [`Instant`] reads), which cannot step. Both are disciplined alike, so
//! their difference moves only when somebody sets the clock: then latencies of that trial mean nothing.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How far the clocks may move apart during a trial before its latencies are not believed.
pub const STEP_LIMIT: Duration = Duration::from_micros(100);

/// A pair of readings closer together than this is good enough; a preempted attempt is repeated.
const GOOD_WIDTH: Duration = Duration::from_nanos(500);
const ATTEMPTS: usize = 64;

/// `CLOCK_REALTIME` now, ns since 1970; 0 when the clock is set before that.
pub fn realtime_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The two clocks read at what is as good as one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Half way between the monotonic readings around the other.
    pub monotonic: Instant,
    /// `CLOCK_REALTIME`, ns since 1970.
    pub realtime_ns: u64,
    /// How long reading took: the pair is right to within half of it.
    pub width: Duration,
}

impl Moment {
    /// Reads both, repeating while something came in between, at most some dozens of times.
    #[must_use]
    pub fn now() -> Self {
        let mut best = Self::read();
        for _ in 1..ATTEMPTS {
            if best.width <= GOOD_WIDTH {
                break;
            }
            let again = Self::read();
            if again.width < best.width {
                best = again;
            }
        }
        best
    }

    fn read() -> Self {
        let before = Instant::now();
        let realtime_ns = realtime_ns();
        let width = before.elapsed();
        Self { monotonic: before + width / 2, realtime_ns, width }
    }
}

/// The clock was set while somebody watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockStep {
    /// How far `CLOCK_REALTIME` moved against `CLOCK_MONOTONIC`, ns; negative when it was set back.
    pub moved_ns: i64,
}

/// Watches for a step of the clock between [`StepWatch::start`] and [`StepWatch::step`].
#[derive(Clone, Copy, Debug)]
pub struct StepWatch {
    start: Moment,
}

impl StepWatch {
    /// Starts watching.
    #[must_use]
    pub fn start() -> Self {
        Self { start: Moment::now() }
    }

    /// The step since the start, if the clocks moved apart by more than [`STEP_LIMIT`] and the error of reading them.
    pub fn step(&self) -> Option<ClockStep> {
        self.step_until(&Moment::now())
    }

    fn step_until(&self, end: &Moment) -> Option<ClockStep> {
        let monotonic = end.monotonic.saturating_duration_since(self.start.monotonic).as_nanos() as i64;
        let realtime = end.realtime_ns.wrapping_sub(self.start.realtime_ns) as i64;
        let moved_ns = realtime.wrapping_sub(monotonic);
        let doubt = (self.start.width + end.width) / 2;
        (u128::from(moved_ns.unsigned_abs()) > (STEP_LIMIT + doubt).as_nanos())
            .then_some(ClockStep { moved_ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(moment: &Moment, monotonic: Duration, realtime_ns: i64) -> Moment {
        Moment {
            monotonic: moment.monotonic + monotonic,
            realtime_ns: moment.realtime_ns.wrapping_add_signed(realtime_ns),
            width: Duration::from_nanos(100),
        }
    }

    #[test]
    fn steps_either_way_are_found_and_passing_time_is_not_one() {
        let start = Moment { width: Duration::from_nanos(100), ..Moment::now() };
        let watch = StepWatch { start };
        let second = Duration::from_secs(1);
        assert_eq!(watch.step_until(&later(&start, second, 1_000_000_000)), None);
        assert_eq!(watch.step_until(&later(&start, second, 1_000_050_000)), None);
        let forward = watch.step_until(&later(&start, second, 1_500_000_000));
        assert_eq!(forward, Some(ClockStep { moved_ns: 500_000_000 }));
        let back = watch.step_until(&later(&start, second, -2_000_000_000));
        assert_eq!(back, Some(ClockStep { moved_ns: -3_000_000_000 }));
    }

    #[test]
    fn a_badly_read_clock_is_not_called_a_step() {
        let start = Moment { width: Duration::from_millis(3), ..Moment::now() };
        let end = later(&start, Duration::ZERO, 1_000_000);
        assert_eq!(StepWatch { start }.step_until(&end), None);
    }

    #[test]
    fn real_time_is_after_the_year_2020() {
        assert!(realtime_ns() > 1_577_836_800_000_000_000);
    }
}
