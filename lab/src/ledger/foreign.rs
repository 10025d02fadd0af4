//! What became of the foreign datagrams: those that were offered beside the trial's and that no rule takes.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::Facts;

/// Where they came to. At the subject's input device they are in the ledger's steps, with all that follows there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Foreign {
    /// What the generator was asked for.
    pub intended: u64,
    /// What the kernel took from it.
    pub sent: u64,
    /// What the kernel refused, by errno.
    pub refused: BTreeMap<String, u64>,
    /// What the relay's filter in the kernel kept from it; absent where no relay tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtered: Option<u64>,
    /// What the relay received and no rule of its took; likewise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received: Option<u64>,
    /// What came to the sinks.
    pub at_sinks: u64,
}

/// What a relay calls a datagram that no rule takes.
const NO_RULE: &str = "no_rule";

impl Foreign {
    /// What `facts` say of them; `None` when there were to be none.
    pub(super) fn of(facts: &Facts) -> Option<Self> {
        let relay = facts.relay.as_ref();
        let offered = &facts.foreign;
        (offered.intended > 0).then(|| Self {
            intended: offered.intended,
            sent: offered.sent,
            refused: offered.refused.clone(),
            filtered: relay.map(|relay| relay.foreign),
            received: relay.map(|relay| relay.dropped.get(NO_RULE).copied().unwrap_or_default()),
            at_sinks: facts.outputs.iter().map(|output| output.foreign).sum(),
        })
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} offered, {} sent", self.intended, self.sent)?;
        for (name, count) in &self.refused {
            write!(f, ", {count} refused ({name})")?;
        }
        if let (Some(filtered), Some(received)) = (self.filtered, self.received) {
            write!(f, ", {filtered} not captured (rule filter), {received} received by the relay (no_rule)")?;
        }
        write!(f, ", {} at the sinks", self.at_sinks)
    }
}
