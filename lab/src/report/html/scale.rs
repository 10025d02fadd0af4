//! Scales: from values to places in a drawing, and the ticks on the way. Total functions: whatever the value, the
//! place lies in the drawing.

use crate::report::numbers::grouped;

/// What lies outside is drawn at the edge; nothing measured comes near, and inside no power overflows.
const RANGE: [f64; 2] = [1e-12, 1e18];
/// How many ticks are sought, and how many can be told apart.
const TICKS: f64 = 5.0;
const MOST_TICKS: usize = 9;
/// From which ratio of its ends on a logarithmic scale has 1, 2, 5, 10 as its ticks, and from which on only tens.
const WIDE: f64 = 6.0;
const VERY_WIDE: f64 = 200.0;

/// An axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scale {
    /// The values at its ends.
    ends: [f64; 2],
    places: [f64; 2],
    is_log: bool,
}

impl Scale {
    /// From zero to a round number that no value exceeds.
    pub(super) fn from_zero(values: impl IntoIterator<Item = f64>, places: [f64; 2]) -> Self {
        let most = values.into_iter().filter(|value| *value > 0.0).fold(0.0, f64::max);
        let most = if most > 0.0 { most.clamp(RANGE[0], RANGE[1]) } else { 1.0 };
        let step = step(most);
        Self { ends: [0.0, (most / step).ceil() * step], places, is_log: false }
    }

    /// From a value a little less than all to one a little greater, so that the same factor has the same length.
    pub(super) fn by_factors(values: impl IntoIterator<Item = f64>, places: [f64; 2]) -> Self {
        let positive = values.into_iter().filter(|value| *value > 0.0);
        let values: Vec<_> = positive.map(|value| value.clamp(RANGE[0], RANGE[1])).collect();
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(0.0, f64::max);
        let (least, most) = if values.is_empty() { (1.0, 10.0) } else { (least, most) };
        let margin = (most / least).powf(0.06).max(1.05);
        Self { ends: [least / margin, most * margin], places, is_log: true }
    }

    /// Between ends that are known.
    pub(super) fn between(ends: [f64; 2], places: [f64; 2]) -> Self {
        Self { ends, places, is_log: false }
    }

    /// Where `value` is.
    pub(super) fn at(&self, value: f64) -> f64 {
        let [low, high] = self.ends;
        // What is no number is put at the beginning, like what is too small.
        let value = if value > low { value.min(high) } else { low };
        let share =
            if self.is_log { (value / low).ln() / (high / low).ln() } else { (value - low) / (high - low) };
        self.places[0] + share.clamp(0.0, 1.0) * (self.places[1] - self.places[0])
    }

    /// Round values along it.
    pub(super) fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.ends;
        let ticks = if self.is_log && high / low >= WIDE {
            let multiples: &[f64] = if high / low >= VERY_WIDE { &[1.0] } else { &[1.0, 2.0, 5.0] };
            let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
            decades.flat_map(|decade| multiples.iter().map(move |m| m * 10_f64.powi(decade))).collect()
        } else {
            let step = step(high - low);
            let first = (low / step).ceil();
            (0..MOST_TICKS).map(|i| (first + i as f64) * step).collect::<Vec<_>>()
        };
        // Half a thousandth of room for what the arithmetic rounds away.
        let (low, high) = (low - low.abs() * 5e-4, high + high.abs() * 5e-4);
        let inside: Vec<_> = ticks.into_iter().filter(|tick| (low..=high).contains(tick)).collect();
        let every = inside.len().div_ceil(MOST_TICKS).max(1);
        inside.into_iter().step_by(every).collect()
    }
}

/// 1, 2 or 5 times a power of ten, so that some [`TICKS`] of it make `length`.
fn step(length: f64) -> f64 {
    let rough = (length / TICKS).clamp(RANGE[0] / 10.0, RANGE[1]);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = rough / power;
    power * [1.0, 2.0, 5.0].into_iter().find(|round| factor <= round * 1.001).unwrap_or(10.0)
}

/// A tick's value: as many decimals as it has, and no more.
pub(super) fn label(tick: f64) -> String {
    if tick >= 1e15 || (tick > 0.0 && tick < 1e-6) {
        return format!("{tick:.0e}");
    }
    let text = format!("{:.6}", tick.max(0.0));
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let fraction = fraction.trim_end_matches('0');
    let whole = whole.parse().map_or_else(|_| whole.to_owned(), grouped);
    if fraction.is_empty() { whole } else { format!("{whole}.{fraction}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(label).collect()
    }

    #[test]
    fn ticks_are_round() {
        let linear = Scale::from_zero([4_712.0, 7_911.0, -3.0], [0.0, 100.0]);
        assert_eq!(labels(&linear), ["0", "2,000", "4,000", "6,000", "8,000"]);
        let narrow = Scale::by_factors([0.57, 1.0, 0.8], [0.0, 100.0]);
        assert_eq!(labels(&narrow), ["0.6", "0.8", "1"]);
        let wide = Scale::by_factors([3.0, 40.0], [0.0, 100.0]);
        assert_eq!(labels(&wide), ["5", "10", "20"]);
        let decades = Scale::by_factors([0.5, 20_000.0], [0.0, 100.0]);
        assert_eq!(labels(&decades), ["1", "10", "100", "1,000", "10,000"]);
    }

    #[test]
    fn a_scale_places_values_between_its_ends() {
        let linear = Scale::from_zero([10.0], [20.0, 120.0]);
        for (value, place) in [(0.0, 20.0), (5.0, 70.0), (10.0, 120.0)] {
            assert!((linear.at(value) - place).abs() < 1e-9);
        }
        let factors = Scale::by_factors([1.0, 100.0], [0.0, 100.0]);
        assert!((factors.at(10.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn odd_values_stay_in_the_drawing() {
        let odd = [0.0, -1.0, f64::NAN, f64::INFINITY, 1e308, 5e-324, 1.0];
        let mut scales = vec![Scale::from_zero(odd, [10.0, 90.0]), Scale::by_factors(odd, [90.0, 10.0])];
        for value in odd {
            scales.push(Scale::from_zero([value], [10.0, 90.0]));
            scales.push(Scale::by_factors([value], [10.0, 90.0]));
        }
        scales.push(Scale::by_factors([], [10.0, 90.0]));
        for scale in scales {
            for value in odd.into_iter().chain(scale.ticks()) {
                assert!(
                    (10.0..=90.0).contains(&scale.at(value)),
                    "{value} at {} of {scale:?}",
                    scale.at(value)
                );
            }
            let ticks = scale.ticks().len();
            assert!((1..=MOST_TICKS).contains(&ticks), "{ticks} ticks of {scale:?}");
        }
    }
}
