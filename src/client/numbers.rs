//! Numbers and times as people read them.

use std::collections::BTreeMap;
use std::time::Duration;

/// `1 rule`, `2 rules`.
pub(super) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// Three digits and a unit, such as `1.05M`; 0 is `0`.
pub(super) fn short(number: f64) -> String {
    let (mut number, mut units) = (number, ["", "k", "M", "G", "T"].into_iter());
    let mut unit = units.next().unwrap_or_default();
    // 999.5 is where rounding would need a fourth digit.
    while number >= 999.5 {
        let Some(next) = units.next() else { break };
        (number, unit) = (number / 1_000.0, next);
    }
    match number {
        0.0 => "0".to_owned(),
        n if n < 9.995 && !(unit.is_empty() && n.fract() == 0.0) => format!("{n:.2}{unit}"),
        n if n < 99.95 && !(unit.is_empty() && n.fract() == 0.0) => format!("{n:.1}{unit}"),
        n => format!("{n:.0}{unit}"),
    }
}

/// The two largest units, such as `3h 5min`.
pub(super) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}min {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}min"),
        _ => format!("{days}d {hours}h"),
    }
}

/// `12 (refused 10, too_large 2)`, or `0`.
pub(super) fn by_name(counts: &BTreeMap<String, u64>) -> String {
    match counts.values().sum::<u64>() {
        0 => "0".to_owned(),
        total => format!("{total} ({})", names(counts)),
    }
}

/// `refused 10, too_large 2`: what has happened.
pub(super) fn names(counts: &BTreeMap<String, u64>) -> String {
    let counts = counts.iter().filter(|(_, count)| **count > 0);
    counts.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown =
            [0.0, 0.25, 7.0, 12.0, 999.0, 999.6, 1_234.0, 99_960.0, 1_049_999.0, 2e9, 5e15].map(short);
        let expected = ["0", "0.25", "7", "12", "999", "1.00k", "1.23k", "100k", "1.05M", "2.00G", "5000T"];
        assert_eq!(shown, expected);
    }

    #[test]
    fn ages_have_two_units() {
        let shown = [0, 59, 61, 3_600, 90_061].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0s", "59s", "1min 1s", "1h 0min", "1d 1h"]);
    }
}
