//! What is relayed where: rules, the checks on them, and the table that finds a datagram's rule. No I/O, no clock.

mod check;
mod cycles;
mod dedupe;
mod header;
mod rule;
mod spec;
mod table;

pub use check::{Fault, endpoint_faults, faults_between};
pub use cycles::{Sent, Takers, circles, describe};
pub use dedupe::{Dedupe, DedupeKey, LEGS, leg_fault};
pub use header::{Dscp, NumberOrWord, SourceAddress, TimeToLive};
pub use rule::{Input, Output, Rule, interfaces};
pub use spec::SpecError;
pub use table::{InputIndex, RuleIndex, RuleTable};
