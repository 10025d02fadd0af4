//! What the relay tells other programs, as shapes that serialise: no I/O here.

pub use crate::stats::{InputStats, OutputStats, RemovedStats, RuleStats, Stats, WorkerStats};
