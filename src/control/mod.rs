//! What a running supervisor is told and answers, as shapes that serialise: no I/O here.
//!
//! One request and one response are a line of JSON each, and every line says which [`VERSION`] of these shapes it is in:
//!
//! ```text
//! → {"version":1,"command":{"remove":{"rules":[{"name":"video"}]}}}
//! ← {"version":1,"answer":{"removed":{"names":["video"]}}}
//! → {"version":1,"command":"reload"}
//! ← {"version":1,"refusal":{"kind":"failed","message":"..."}}
//! ```
//!
//! Commands are read strictly: a field that nobody knows is refused, because ignoring it would do something else than
//! what was asked. Answers may gain fields without a new version, so whoever reads them skips what it does not know.

mod framing;
#[cfg(test)]
pub(crate) mod hostile;
mod rates;
mod request;
mod response;
mod rule;

pub use framing::{
    LineBuffer, MAX_ANSWER, MAX_REQUEST, ProtocolError, TooLong, VERSION, decode_request, decode_response,
    encode_request, encode_response, read_line,
};
pub use request::{Command, LogLevel, Selector};
pub use response::{
    Answer, Outcome, OutputRates, OutputStatus, Refusal, RefusalKind, RuleRates, RuleStatus, State,
    StatsReport, WorkerState, WorkerStatus,
};
pub use rule::{InputSpec, InvalidRule, OutputSpec, RuleSpec};

pub use crate::stats::{InputStats, OutputStats, RemovedStats, RuleStats, Stats, WorkerStats};

#[cfg(test)]
mod tests;
