//! Lines, and what is on them.

use std::io::{self, ErrorKind, Read};

use serde::{Deserialize, Serialize};

use super::{Answer, Command, Outcome, Refusal, RefusalKind};

/// The version of the shapes in this module, part of every line.
pub const VERSION: u32 = 1;
/// Longest request, in bytes without its line end: some 70,000 rules.
pub const MAX_REQUEST: usize = 8 << 20;
/// Longest response, likewise: the counters of as many rules.
pub const MAX_ANSWER: usize = 128 << 20;
/// Longest message about a line that is no request, in bytes: the parser quotes what it did not understand.
const MAX_QUOTE: usize = 400;

#[derive(Serialize)]
struct RequestOut<'a> {
    version: u32,
    command: &'a Command,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestIn {
    version: u32,
    command: Command,
}

/// What every version says.
#[derive(Deserialize)]
struct AnyVersion {
    version: u32,
}

#[derive(Serialize)]
struct ResponseOut<'a> {
    version: u32,
    #[serde(flatten)]
    outcome: OutcomeOut<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
enum OutcomeOut<'a> {
    Answer(&'a Answer),
    Refusal(&'a Refusal),
}

#[derive(Deserialize)]
struct ResponseIn {
    version: u32,
    answer: Option<Answer>,
    refusal: Option<Refusal>,
}

/// Why a line is no response, or there is none.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The other side speaks another version.
    #[error(
        "the supervisor speaks version {theirs} of the control protocol, this program version {VERSION}: use the program that the supervisor was started from"
    )]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// The line is no response.
    #[error("what came back is no response of a supervisor: {0}")]
    Malformed(String),
}

/// `command` as a line.
pub fn encode_request(command: &Command) -> Vec<u8> {
    line(&RequestOut { version: VERSION, command })
}

/// The command on `line`, which has no line end any more.
pub fn decode_request(line: &[u8]) -> Result<Command, Refusal> {
    let bad = |message: String| Refusal::new(RefusalKind::BadRequest, message);
    let other_version = |theirs: u32| {
        bad(format!(
            "the request is in version {theirs} of the control protocol, the supervisor speaks version {VERSION}: use the program that the supervisor was started from"
        ))
    };
    match serde_json::from_slice::<RequestIn>(line) {
        Ok(request) if request.version == VERSION => Ok(request.command),
        Ok(request) => Err(other_version(request.version)),
        // Another version may well have other commands: that it is another explains the error.
        Err(error) => match serde_json::from_slice::<AnyVersion>(line) {
            Ok(AnyVersion { version }) if version != VERSION => Err(other_version(version)),
            _ => Err(bad(quoted(&error))),
        },
    }
}

/// `outcome` as a line.
pub fn encode_response(outcome: &Outcome) -> Vec<u8> {
    let outcome = match outcome {
        Ok(answer) => OutcomeOut::Answer(answer),
        Err(refusal) => OutcomeOut::Refusal(refusal),
    };
    line(&ResponseOut { version: VERSION, outcome })
}

/// The outcome on `line`, which has no line end any more.
pub fn decode_response(line: &[u8]) -> Result<Outcome, ProtocolError> {
    let error = match serde_json::from_slice::<ResponseIn>(line) {
        Ok(ResponseIn { version: VERSION, answer: Some(answer), refusal: None }) => return Ok(Ok(answer)),
        Ok(ResponseIn { version: VERSION, answer: None, refusal: Some(refusal) }) => return Ok(Err(refusal)),
        Ok(_) => "it has not one of an answer and a refusal".to_owned(),
        Err(error) => quoted(&error),
    };
    match serde_json::from_slice::<AnyVersion>(line) {
        Ok(AnyVersion { version: theirs }) if theirs != VERSION => Err(ProtocolError::Version { theirs }),
        _ => Err(ProtocolError::Malformed(error)),
    }
}

fn line(message: &impl Serialize) -> Vec<u8> {
    // Keys are texts and no value refuses to be written, so this cannot fail.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// An error of the parser, with what it quotes made fit to be shown.
fn quoted(error: &serde_json::Error) -> String {
    let mut text = String::new();
    for c in error.to_string().chars() {
        if text.len() >= MAX_QUOTE {
            text.push('…');
            break;
        }
        if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
    }
    text
}

/// A line that does not end in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {limit} bytes")]
pub struct TooLong {
    /// Bytes that a line may have.
    pub limit: usize,
}

/// Puts lines together from the pieces in which they come.
#[derive(Debug)]
pub struct LineBuffer {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where no line end is.
    scanned: usize,
    limit: usize,
}

impl LineBuffer {
    /// For lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), start: 0, scanned: 0, limit }
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// Takes out the next line, without its end, if all of it is here.
    pub fn next_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let end = self.bytes[self.scanned..].iter().position(|byte| *byte == b'\n');
        let end = end.map(|end| self.scanned + end);
        self.scanned = end.unwrap_or(self.bytes.len());
        if self.scanned - self.start > self.limit {
            return Err(TooLong { limit: self.limit });
        }
        let Some(end) = end else { return Ok(None) };
        let line = self.bytes[self.start..end].to_vec();
        (self.start, self.scanned) = (end + 1, end + 1);
        if self.is_empty() {
            // A long line is not to take its room for as long as the connection lasts.
            *self = Self::new(self.limit);
        }
        Ok(Some(line))
    }

    /// Whether no part of a line is here.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }
}

/// Reads `from` until `lines` has a line; `None` when `from` ends before.
pub fn read_line(from: &mut impl Read, lines: &mut LineBuffer) -> io::Result<Option<Vec<u8>>> {
    let mut piece = vec![0; 64 << 10];
    loop {
        match lines.next_line() {
            Ok(Some(line)) => return Ok(Some(line)),
            Ok(None) => {}
            Err(error) => return Err(io::Error::new(ErrorKind::InvalidData, error)),
        }
        match from.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(length) => lines.push(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
