//! What is relayed where: rules, the checks on them, and the table that finds a datagram's rule. No I/O, no clock.

mod check;
mod cycles;
mod dedupe;
mod header;
mod range;
mod rule;
mod spec;
mod table;
mod takers;

pub use check::{Fault, endpoint_faults, faults_between, overlap};
pub use cycles::{circles, describe};
pub use dedupe::{Dedupe, DedupeKey, LEGS, leg_fault, lone_legs};
pub use header::{Dscp, NumberOrWord, SourceAddress, TimeToLive};
pub use range::{Destinations, GroupRange, PortBlock, PortRange, RangeError};
pub use rule::{Input, Output, Rule, interfaces};
pub use spec::SpecError;
pub use table::{InputIndex, RuleIndex, RuleTable};
pub use takers::{Sent, Takers};
