//! The shape of a ring: numbers that are checked before the kernel sees them (`packet_set_ring` in the kernel).

use std::fmt;

use crate::sys::memory::page_size;

/// How the kernel hands frames over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// `TPACKET_V3`: blocks full of frames, when they are full or after a time. Least CPU per frame.
    #[default]
    V3,
    /// `TPACKET_V2`: every frame as it arrives. Least latency.
    V2,
}

/// A ring's shape. Whatever value there is of it, the kernel can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    version: Version,
    block_size: u32,
    block_count: u32,
    retire_ms: u32,
}

/// Why numbers make no ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The block size is not a positive multiple of the page size, or too large for the kernel.
    #[error("a block of {given} bytes: give a multiple of the page size, from {page} to {MAX_BLOCK_SIZE}")]
    BlockSize {
        /// As given, in bytes.
        given: u64,
        /// This machine's page size, in bytes.
        page: u64,
    },
    /// The block count is out of range for the block size.
    #[error(
        "{given} blocks of {block_size} bytes: give from {MIN_BLOCK_COUNT} to {most}, a ring is smaller than 4 GiB"
    )]
    BlockCount {
        /// As given.
        given: u64,
        /// The block size, in bytes.
        block_size: u64,
        /// Most blocks of that size.
        most: u64,
    },
    /// The time is out of range.
    #[error("{0} ms until a block is handed over: give from 1 to {MAX_RETIRE_MS}")]
    Retire(u64),
}

/// Most bytes of a block: the kernel takes the size as a positive `int`, and pages can be 64 KiB.
pub const MAX_BLOCK_SIZE: u64 = (1 << 31) - (1 << 16);
/// Fewest blocks: one that the kernel fills while another is read.
pub const MIN_BLOCK_COUNT: u64 = 2;
/// Longest that frames may wait for their block to fill, in ms: much less than a worker that is told to stop waits.
pub const MAX_RETIRE_MS: u64 = 1_000;

impl Layout {
    /// Bytes of a block unless the user says otherwise: the least that holds the largest datagram.
    ///
    /// Not more, because a worker that falls behind has no more blocks than there are: the kernel hands one over every
    /// [`DEFAULT_RETIRE_MS`](Self::DEFAULT_RETIRE_MS) however little is in it. 64 MiB in blocks of 1 MiB are full
    /// after 64 ms, at 100,000 small datagrams per second with 2 % of their bytes in use, and in blocks of 128 KiB after
    /// half a second. Measured with bursts of 150,000 datagrams (burst.toml): 52,000 lost, and none.
    pub const DEFAULT_BLOCK_SIZE: u64 = 128 << 10;
    /// Blocks unless the user says otherwise. 64 MiB hold some 280,000 datagrams of 100 bytes.
    pub const DEFAULT_BLOCK_COUNT: u64 = 512;
    /// Until a block that is not full is handed over, in ms, unless the user says otherwise: the least there is.
    /// Measured at 100,000 frames per second: 4 ms make the median latency 3.1 ms instead of 0.8 and take 4.1 µs of CPU
    /// time per frame instead of 4.8; 10 ms save no more than that.
    pub const DEFAULT_RETIRE_MS: u64 = 1;

    /// A ring of `block_count` blocks of `block_size` bytes each; a block of V3 that is not full is handed over
    /// `retire_ms` after it was begun.
    ///
    /// # Errors
    /// The first number that is out of its range.
    pub fn new(
        version: Version,
        block_size: u64,
        block_count: u64,
        retire_ms: u64,
    ) -> Result<Self, LayoutError> {
        let page = page_size();
        if !(page..=MAX_BLOCK_SIZE).contains(&block_size) || !block_size.is_multiple_of(page) {
            return Err(LayoutError::BlockSize { given: block_size, page });
        }
        let most = u64::from(u32::MAX) / block_size;
        if !(MIN_BLOCK_COUNT..=most).contains(&block_count) {
            return Err(LayoutError::BlockCount { given: block_count, block_size, most });
        }
        if !(1..=MAX_RETIRE_MS).contains(&retire_ms) {
            return Err(LayoutError::Retire(retire_ms));
        }
        Ok(Self {
            version,
            block_size: block_size as u32,
            block_count: block_count as u32,
            retire_ms: retire_ms as u32,
        })
    }

    /// How the kernel hands frames over.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Bytes of each block: a multiple of the page size.
    pub fn block_size(&self) -> usize {
        self.block_size as usize
    }

    /// Number of blocks.
    pub fn block_count(&self) -> usize {
        self.block_count as usize
    }

    /// Milliseconds until a block of V3 that is not full is handed over.
    pub fn retire_ms(&self) -> u32 {
        self.retire_ms
    }

    /// Bytes of the whole ring: under 4 GiB.
    pub fn size(&self) -> usize {
        self.block_size() * self.block_count()
    }

    /// The same with half as many blocks, `None` when it has the fewest already.
    #[must_use]
    pub fn halved(&self) -> Option<Self> {
        let block_count = self.block_count / 2;
        (u64::from(block_count) >= MIN_BLOCK_COUNT).then_some(Self { block_count, ..*self })
    }
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            version: Version::default(),
            block_size: Self::DEFAULT_BLOCK_SIZE as u32,
            block_count: Self::DEFAULT_BLOCK_COUNT as u32,
            retire_ms: Self::DEFAULT_RETIRE_MS as u32,
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.block_size / 1_024;
        let (size, unit) = if kib.is_multiple_of(1_024) { (kib / 1_024, "MiB") } else { (kib, "KiB") };
        let count = self.block_count;
        match self.version {
            Version::V3 => {
                write!(f, "TPACKET_V3, {count} blocks of {size} {unit}, retired after {} ms", self.retire_ms)
            }
            Version::V2 => write!(f, "TPACKET_V2, {count} blocks of {size} {unit}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(block_size: u64, block_count: u64, retire_ms: u64) -> Result<Layout, LayoutError> {
        Layout::new(Version::V3, block_size, block_count, retire_ms)
    }

    #[test]
    fn the_default_is_a_layout_like_any_other() {
        let built =
            layout(Layout::DEFAULT_BLOCK_SIZE, Layout::DEFAULT_BLOCK_COUNT, Layout::DEFAULT_RETIRE_MS);
        assert_eq!(built, Ok(Layout::default()));
        assert_eq!(Layout::default().size(), 64 << 20);
    }

    #[test]
    fn what_the_kernel_would_refuse_or_overflow_on_is_named() {
        let page = page_size();
        for given in [0, 1, page - 1, page + 16, MAX_BLOCK_SIZE + page, 1 << 32, u64::MAX] {
            assert_eq!(layout(given, 4, 1), Err(LayoutError::BlockSize { given, page }));
        }
        for (block_size, given, most) in [
            (1 << 20, 0, 4_095),
            (1 << 20, 1, 4_095),
            (1 << 20, 4_096, 4_095),
            (1 << 30, 4, 3),
            (1 << 20, u64::MAX, 4_095),
        ] {
            assert_eq!(
                layout(block_size, given, 1),
                Err(LayoutError::BlockCount { given, block_size, most })
            );
        }
        for given in [0, MAX_RETIRE_MS + 1] {
            assert_eq!(layout(1 << 20, 64, given), Err(LayoutError::Retire(given)));
        }
        let error = layout(1 << 20, 5_000, 1).unwrap_err().to_string();
        assert_eq!(error, "5000 blocks of 1048576 bytes: give from 2 to 4095, a ring is smaller than 4 GiB");
        assert!(layout(MAX_BLOCK_SIZE, 2, 1).is_ok() && layout(page, 2, MAX_RETIRE_MS).is_ok());
    }

    #[test]
    fn halving_ends_at_two_blocks() {
        let counts = std::iter::successors(layout(1 << 20, 9, 1).ok(), Layout::halved);
        assert_eq!(counts.map(|layout| layout.block_count()).collect::<Vec<_>>(), [9, 4, 2]);
    }
}
