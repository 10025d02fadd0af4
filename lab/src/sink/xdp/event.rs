//! A datagram that the program leaves to user space.

use crate::tally::Before;

/// Bytes before the frame (`struct event` of the program): six numbers.
const HEAD_BYTES: usize = 48;
/// `enum before` of the program.
const UNSEEN: u64 = 1;
const SEEN: u64 = 2;

/// What the program tells of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event<'ring> {
    /// When it came, ns of `CLOCK_REALTIME`.
    pub(super) stamp_ns: u64,
    /// How things stood before it, where the program marked its sequence.
    pub(super) before: Option<Before>,
    /// All of it.
    pub(super) frame: &'ring [u8],
}

impl<'ring> Event<'ring> {
    /// Reads an entry of the ring; `None` for one that contradicts itself.
    pub(super) fn read(entry: &'ring [u8]) -> Option<Self> {
        let (head, frame) = entry.split_first_chunk::<HEAD_BYTES>()?;
        let (numbers, _) = head.as_chunks::<8>();
        let number = |index: usize| numbers.get(index).map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        let seen = match number(2) {
            UNSEEN => Some(false),
            SEEN => Some(true),
            _ => None,
        };
        let before =
            seen.map(|seen| Before { flow: number(3) as u16, sequence: number(4), seen, next: number(5) });
        let frame = frame.get(..usize::try_from(number(1)).ok()?)?;
        Some(Self { stamp_ns: number(0), before, frame })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(numbers: [u64; 6], frame: &[u8]) -> Vec<u8> {
        [&numbers.map(u64::to_ne_bytes).concat(), frame].concat()
    }

    #[test]
    fn entries_are_read_or_refused() {
        let bytes = entry([7, 3, SEEN, 5, 9, 11], &[1, 2, 3, 0, 0]);
        let before = Some(Before { flow: 5, sequence: 9, seen: true, next: 11 });
        assert_eq!(Event::read(&bytes), Some(Event { stamp_ns: 7, before, frame: &[1, 2, 3] }));
        let bytes = entry([7, 5, 0, 5, 9, 11], &[1, 2, 3, 0, 0]);
        assert_eq!(Event::read(&bytes), Some(Event { stamp_ns: 7, before: None, frame: &[1, 2, 3, 0, 0] }));
        for frame_bytes in [6, u64::MAX] {
            assert_eq!(Event::read(&entry([7, frame_bytes, 0, 0, 0, 0], &[1, 2, 3, 0, 0])), None);
        }
        assert_eq!(Event::read(&bytes[..47]), None);
    }
}
