//! The ledger of a trial: ordered counts from the generator to the sinks, each loss with its place. Pure code.
//!
//! ```text
//! intended > sent > ingress device > relay received > matched > relayed copies > egress device > sink device > sink
//! ```
//!
//! Between two neighbouring steps a count may only shrink by drops that somebody names, and grow by the fan-out.
//! What is neither is *unexplained*, and whoever keeps that step answers for it: the lab for its own wires and
//! programs (the trial is then worth nothing), the subject for what lies between its two interfaces. A subject that
//! reports no counters has no steps of its own, rather than steps of zero, and what is missing between its
//! interfaces is its loss.
//!
//! Foreign datagrams, which are offered beside the trial's and which no rule takes, join at the ingress device, and each of
//! them has to be named where it ends like any other.

mod facts;
mod foreign;
mod settle;

use std::fmt;

use serde::Serialize;

pub use facts::{Facts, Output, RelayCounters, Wire};
pub use foreign::Foreign;
pub use settle::settle;
pub(crate) use settle::{FOREIGN, LINK_DOWN};

/// A place where datagrams are counted, in the order in which they pass it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// What the generator was asked for.
    Intended,
    /// What the kernel took from the generator.
    Sent,
    /// What the subject's input device received.
    IngressDevice,
    /// What the subject says it took from the device.
    RelayReceived,
    /// What of that one of its rules took.
    Matched,
    /// The copies that the subject says it sent.
    RelayedCopies,
    /// What the subject's output devices transmitted.
    EgressDevice,
    /// What the sinks' devices received.
    SinkDevice,
    /// What the sinks counted.
    Sink,
}

/// Who answers for what is unexplained at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Keeper {
    /// The lab: its measurement cannot be trusted.
    Lab,
    /// The subject: its own account contradicts what goes in and out of it.
    Subject,
}

impl Place {
    /// Who answers for what is unexplained between the place before and this one.
    pub fn keeper(self) -> Keeper {
        match self {
            Self::Intended | Self::Sent | Self::IngressDevice | Self::SinkDevice | Self::Sink => Keeper::Lab,
            Self::RelayReceived | Self::Matched | Self::RelayedCopies | Self::EgressDevice => Keeper::Subject,
        }
    }

    /// Whether a device counts here, which also counts frames that are none of ours.
    fn is_device(self) -> bool {
        matches!(self, Self::IngressDevice | Self::EgressDevice | Self::SinkDevice)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intended => "intended",
            Self::Sent => "sent",
            Self::IngressDevice => "ingress device",
            Self::RelayReceived => "relay received",
            Self::Matched => "matched",
            Self::RelayedCopies => "relayed copies",
            Self::EgressDevice => "egress device",
            Self::SinkDevice => "sink device",
            Self::Sink => "sink",
        })
    }
}

/// Datagrams that went missing for a reason somebody names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedDrop {
    /// Why, in the words of whoever counted it.
    pub name: String,
    /// Who counted it: an errno, a device counter, the kernel's socket statistics, the relay, the sink.
    pub source: String,
    /// How many.
    pub count: u64,
}

/// One place and what happened between the place before and it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The place.
    pub place: Place,
    /// What was counted there, frames that are none of ours included.
    pub count: u64,
    /// How many of these each one of the place before becomes (the fan-out); 1 nearly everywhere.
    pub copies: u64,
    /// What went missing on the way here and why.
    pub drops: Vec<NamedDrop>,
    /// How many of these were lost on the lab's own wires: the lab answers for them although they have a name.
    pub lost_on_wire: u64,
    /// How many joined on the way here: datagrams that were offered beside the trial's.
    pub foreign: u64,
    /// How many of these were taken a second time, because the worker that had taken them died.
    #[serde(skip_serializing_if = "is_zero")]
    pub taken_again: u64,
    /// Frames counted here that nobody of the lab offered.
    pub other_frames: u64,
    /// What was added on the way here by a subject that reports no counters (duplicates, datagrams of its own).
    pub added_by_subject: u64,
    /// What is missing here without a reason; negative when there is more than there can be.
    pub unexplained: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde hands it a reference.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// What the ledger cannot explain, and whose fault that is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Where.
    pub place: Place,
    /// Which output, where the place exists once for each.
    pub output: Option<usize>,
    /// How many are missing; negative when there are too many.
    pub unexplained: i64,
    /// Who answers for it.
    pub keeper: Keeper,
    /// What would tell more, if anything does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<&'static str>,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ledger at \"{}", self.place)?;
        if let Some(output) = self.output {
            write!(f, " {output}")?;
        }
        let many = self.unexplained.unsigned_abs();
        let how =
            if self.unexplained > 0 { "missing without a named drop" } else { "more than there can be" };
        write!(f, "\": {many} {how}")?;
        self.remedy.map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

/// The settled ledger of one trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// The steps that exist for this subject, in order, summed over the outputs.
    pub steps: Vec<Step>,
    /// What became of the foreign datagrams, if there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub foreign: Option<Foreign>,
    /// Everything unexplained; empty when the ledger adds up.
    pub gaps: Vec<Gap>,
    /// Whether everything is explained.
    pub adds_up: bool,
}

impl Ledger {
    /// The step at `place`, if this subject has it.
    pub fn step(&self, place: Place) -> Option<&Step> {
        self.steps.iter().find(|step| step.place == place)
    }

    /// What is unexplained and `keeper` answers for.
    pub fn gaps_of(&self, keeper: Keeper) -> impl Iterator<Item = &Gap> {
        self.gaps.iter().filter(move |gap| gap.keeper == keeper)
    }
}
