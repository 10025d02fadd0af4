//! How a metric is shown: in the words of the terminal's tables.

use super::numbers::{grouped, micros, rounded};

/// The unit of a metric that is recorded in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit {
    pub(super) name: &'static str,
    /// A value in nanoseconds, in this unit, with it.
    pub(super) show: fn(f64) -> String,
    nanos: f64,
}

impl Unit {
    /// CPU times are in nanoseconds, latencies in microseconds.
    pub(super) fn of(metric: &str) -> Self {
        if metric.contains("-cpu") {
            Self { name: "ns", show: |nanos| format!("{} ns", rounded(nanos)), nanos: 1.0 }
        } else {
            Self { name: "µs", show: |nanos| format!("{} µs", micros(nanos)), nanos: 1_000.0 }
        }
    }

    /// `nanos` in this unit, for an axis.
    pub(super) fn value(self, nanos: f64) -> f64 {
        nanos / self.nanos
    }
}

/// `part` of `whole` in percent, with three digits; a loss is never rounded to none.
pub(super) fn share(part: u64, whole: u64) -> String {
    let percent = percent(part, whole);
    match percent {
        _ if part == 0 => "0 %".to_owned(),
        _ if percent < 0.001 => "< 0.001 %".to_owned(),
        _ if percent < 1.0 => format!("{percent:.3} %"),
        _ => format!("{percent:.1} %"),
    }
}

/// `part` of `whole` in percent.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

/// So many of something, which has a plural with s or es.
pub(super) fn many(count: usize, what: &str) -> String {
    let plural = match count {
        1 => "",
        _ if what.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{} {what}{plural}", grouped(count as u64))
}

/// Seconds since 1970 as date and time.
pub(super) fn date(seconds: u64) -> String {
    // Years of 400 repeat themselves, and begin in March so that the leap day is the last of them: the algorithm is
    // Howard Hinnant's "chrono-compatible low-level date algorithms".
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute) = (seconds / 3_600 % 24, seconds / 60 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_shown_as_in_the_terminal() {
        for metric in ["relay-cpu", "relay-cpu-per-copy", "system-cpu"] {
            assert_eq!((Unit::of(metric).show)(4_711.6), "4,712 ns");
        }
        assert_eq!((Unit::of("p99").show)(4_711.6), "4.7 µs");
    }

    #[test]
    fn there_are_many_of_most_things() {
        assert_eq!([1, 2].map(|count| many(count, "trial")), ["1 trial", "2 trials"]);
        assert_eq!([1, 2].map(|count| many(count, "search")), ["1 search", "2 searches"]);
    }

    #[test]
    fn a_loss_is_never_rounded_to_none() {
        let shown =
            [(0, 5), (1, 10_000_000), (1, 1_000), (1, 8), (3, 0)].map(|(part, whole)| share(part, whole));
        assert_eq!(shown, ["0 %", "< 0.001 %", "0.100 %", "12.5 %", "300.0 %"]);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let shown = [0, 951_782_400, 1_795_496_400, u64::MAX].map(date);
        assert_eq!(shown[0], "1970-01-01 00:00 UTC");
        assert_eq!(shown[1], "2000-02-29 00:00 UTC");
        assert_eq!(shown[2], "2026-11-24 05:00 UTC");
        assert!(shown[3].ends_with(" UTC"));
    }
}
