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
}
