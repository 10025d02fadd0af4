//! Where in its ring a worker is: written down where it outlives the worker.

/// What is lent of a ring, and what comes after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The block or slot whose turn it is.
    pub first: u32,
    /// How many are lent, from `first` on.
    pub lent: u32,
}

impl Position {
    pub(super) fn new(first: usize, lent: usize) -> Self {
        Self { first: first as u32, lent: lent as u32 }
    }

    /// As one number, which is written at once.
    pub fn to_word(self) -> u64 {
        u64::from(self.first) << 32 | u64::from(self.lent)
    }

    /// Of [`Position::to_word`].
    pub fn from_word(word: u64) -> Self {
        Self { first: (word >> 32) as u32, lent: word as u32 }
    }
}
