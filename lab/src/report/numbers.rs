//! Numbers that are easy to read.

/// `value` as `show` writes it, a dash when there is none.
pub(super) fn or_nothing<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// Nanoseconds, in microseconds.
pub(super) fn micros(nanos: f64) -> String {
    let micros = nanos / 1_000.0;
    if micros < 100.0 { format!("{micros:.1}") } else { rounded(micros) }
}

/// Bytes, in MiB.
pub(super) fn mebibytes(bytes: u64) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}

/// A ratio.
pub(super) fn factor(ratio: f64) -> String {
    format!("{ratio:.3}")
}

/// What is known of a ratio by its bounds.
pub(super) fn bounds(least: Option<f64>, most: Option<f64>) -> String {
    match (least.map(factor), most.map(factor)) {
        (Some(least), Some(most)) => format!("{least} to {most}"),
        (Some(least), None) => format!("at least {least}"),
        (None, Some(most)) => format!("at most {most}"),
        (None, None) => "not known".to_owned(),
    }
}

/// Without fraction.
pub(super) fn rounded(number: f64) -> String {
    let sign = if number.round() < 0.0 { "-" } else { "" };
    format!("{sign}{}", grouped(number.abs().round() as u64))
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_that_is_not_there_is_not_told() {
        let told = [(Some(1.9), Some(2.2)), (Some(1.9), None), (None, Some(2.2)), (None, None)]
            .map(|(least, most)| bounds(least, most));
        assert_eq!(told, ["1.900 to 2.200", "at least 1.900", "at most 2.200", "not known"]);
    }

    #[test]
    fn numbers_are_easy_to_read() {
        let shown = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([450.0, 99_960.0, 1_234_567.0].map(micros), ["0.5", "100.0", "1,235"]);
        assert_eq!([0, 27_262_976].map(mebibytes), ["0.0", "26.0"]);
        assert_eq!([1_234.5, -1_234.5, -0.2].map(rounded), ["1,235", "-1,235", "0"]);
        assert_eq!((or_nothing(None, rounded), or_nothing(Some(1.0), rounded)), ("-".into(), "1".into()));
    }
}
