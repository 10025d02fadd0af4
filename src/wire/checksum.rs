//! The Internet checksum (RFC 1071).

/// A sum in ones' complement, over pieces of which all but the last have a length divisible by four.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds `bytes`; a last odd part counts as if followed by zeros.
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        // The order of bytes does not matter to the sum (RFC 1071 section 2), so words are taken as they stand. The
        // largest packet has 2^14 of them, so 64 bits cannot overflow.
        let (words, rest) = bytes.as_chunks::<4>();
        let mut last = [0; 4];
        last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let words = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word)));
        Self(self.0 + words.sum::<u64>() + u64::from(u32::from_ne_bytes(last)))
    }

    /// Whether what was added, its own checksum included, is as it was sent.
    pub(super) fn is_valid(self) -> bool {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum == 0xffff
    }
}
