//! A bit for each datagram that a sink expects.

use std::ops::Range;

/// A fixed number of bits, all clear at first. The pages of a large one exist only once touched.
#[derive(Debug)]
pub(crate) struct Bitmap {
    words: Vec<u64>,
    bits: u64,
}

impl Bitmap {
    pub(crate) fn new(bits: u64) -> Self {
        Self { words: vec![0; bits.div_ceil(64) as usize], bits }
    }

    /// Sets a bit and says whether it was set before; a bit out of range counts as set.
    pub(crate) fn set(&mut self, bit: u64) -> bool {
        let Some(word) = self.words.get_mut((bit / 64) as usize) else { return true };
        let mask = 1 << (bit % 64);
        let before = *word & mask != 0;
        *word |= mask;
        before
    }

    /// Clears a bit and says whether it was set before.
    pub(crate) fn clear(&mut self, bit: u64) -> bool {
        let Some(word) = self.words.get_mut((bit / 64) as usize) else { return false };
        let mask = 1 << (bit % 64);
        let before = *word & mask != 0;
        // Untouched pages stay untouched.
        if before {
            *word &= !mask;
        }
        before
    }

    /// Sets every bit that is set in `words`, lowest bit first; what is out of range is left out.
    pub(crate) fn merge(&mut self, words: &[u64]) {
        for (mine, theirs) in self.words.iter_mut().zip(words) {
            *mine |= theirs;
        }
    }

    /// How many bits are clear in `range`; there are none out of range.
    pub(crate) fn count_clear(&self, range: Range<u64>) -> u64 {
        let (mut count, mut at, end) = (0, range.start, range.end.min(self.bits));
        while at < end {
            let word = self.words.get((at / 64) as usize).copied().unwrap_or(u64::MAX);
            let width = (64 - at % 64).min(end - at);
            let mask = if width == 64 { u64::MAX } else { ((1 << width) - 1) << (at % 64) };
            count += u64::from((!word & mask).count_ones());
            at += width;
        }
        count
    }

    /// Runs of clear bits, in order.
    pub(crate) fn clear_runs(&self) -> impl Iterator<Item = Range<u64>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next_clear(at)?;
            let end = self.next_set(start);
            at = end;
            Some(start..end)
        })
    }

    /// The first set bit at or after `from`, or how many bits there are.
    fn next_set(&self, from: u64) -> u64 {
        let mut index = (from / 64) as usize;
        // Bits below `from` in its word count as clear.
        let mut ignored = (1_u64 << (from % 64)) - 1;
        while let Some(word) = self.words.get(index) {
            let set = word & !ignored;
            if set != 0 {
                return (index as u64 * 64 + u64::from(set.trailing_zeros())).min(self.bits);
            }
            ignored = 0;
            index += 1;
        }
        self.bits
    }

    /// The first clear bit at or after `from`.
    pub(crate) fn next_clear(&self, from: u64) -> Option<u64> {
        let mut index = (from / 64) as usize;
        // Bits below `from` in its word count as set.
        let mut ignored = (1_u64 << (from % 64)) - 1;
        while let Some(word) = self.words.get(index) {
            let clear = !(word | ignored);
            if clear != 0 {
                let bit = index as u64 * 64 + u64::from(clear.trailing_zeros());
                return (bit < self.bits).then_some(bit);
            }
            ignored = 0;
            index += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_bits_are_counted_within_a_range() {
        let mut bits = Bitmap::new(200);
        for bit in [3, 63, 64, 70, 199] {
            bits.set(bit);
        }
        for (range, count) in [(0..200, 195), (3..4, 0), (0..3, 3), (60..72, 9), (190..900, 9), (7..7, 0)] {
            assert_eq!(bits.count_clear(range.clone()), count, "{range:?}");
        }
    }

    #[test]
    fn runs_of_clear_bits_begin_and_end_anywhere() {
        let mut bits = Bitmap::new(200);
        (0..200).filter(|bit| !(5..70).contains(bit) && *bit != 128 && *bit < 198).for_each(|bit| {
            bits.set(bit);
        });
        assert_eq!(bits.clear_runs().collect::<Vec<_>>(), [5..70, 128..129, 198..200]);
        assert_eq!(Bitmap::new(130).clear_runs().collect::<Vec<_>>(), vec![0..130]);
        assert_eq!(Bitmap::new(0).clear_runs().count(), 0);
    }

    #[test]
    fn bitmaps_end_where_they_should() {
        let mut bits = Bitmap::new(130);
        assert!((0..130).all(|bit| !bits.set(bit)));
        assert_eq!(bits.next_clear(0), None);
        assert!(bits.clear(128) && !bits.clear(128));
        assert_eq!(
            (bits.next_clear(0), bits.next_clear(128), bits.next_clear(129)),
            (Some(128), Some(128), None)
        );
        assert!(bits.set(10_000), "out of range counts as set");
    }
}
