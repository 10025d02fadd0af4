//! A connection to a supervisor.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ClientError;
use crate::cli::client::Connect;
use crate::control::{
    Answer, Command, LineBuffer, MAX_ANSWER, ProtocolError, decode_response, encode_request, read_line,
};

/// How long to wait for what only tells.
const TELLING: Duration = Duration::from_secs(10);
/// How long to wait for what changes something: longer than the supervisor's own limit, whose word is worth more.
const CHANGING: Duration = Duration::from_secs(75);

pub(super) struct Connection {
    path: PathBuf,
    stream: UnixStream,
    lines: LineBuffer,
}

impl Connection {
    pub(super) fn open(connect: &Connect) -> Result<Self, ClientError> {
        let path = connect.control_socket.clone();
        let stream = UnixStream::connect(&path).map_err(|error| ClientError::of_connection(&path, &error))?;
        Ok(Self { path, stream, lines: LineBuffer::new(MAX_ANSWER) })
    }

    /// Asks, and waits for the answer.
    pub(super) fn ask(&mut self, command: &Command) -> Result<Answer, ClientError> {
        self.ask_within(command, if command.changes() { CHANGING } else { TELLING })
    }

    /// Asks, and waits for the answer no longer than that.
    pub(super) fn ask_within(&mut self, command: &Command, limit: Duration) -> Result<Answer, ClientError> {
        let line = self.exchange(&encode_request(command), limit).map_err(|error| match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                ClientError::Silent { path: self.path.clone(), limit }
            }
            _ => ClientError::of_connection(&self.path, &error),
        })?;
        match decode_response(&line) {
            Ok(outcome) => outcome.map_err(ClientError::Refused),
            Err(error) => Err(ClientError::Protocol { path: self.path.clone(), error }),
        }
    }

    /// An answer to another question.
    pub(super) fn unexpected(&self, answer: &Answer) -> ClientError {
        let what = serde_json::to_string(answer).unwrap_or_default();
        let message = format!("it answers another question: {}", what.chars().take(80).collect::<String>());
        ClientError::Protocol { path: self.path.clone(), error: ProtocolError::Malformed(message) }
    }

    fn exchange(&mut self, request: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
        let mut stream = Timed { stream: &self.stream, end: Instant::now() + limit };
        let sent = stream.write_all(request);
        // A supervisor that takes no more has said why before it hung up.
        match (read_line(&mut stream, &mut self.lines), sent) {
            (Ok(Some(line)), _) => Ok(line),
            (_, Err(error)) | (Err(error), Ok(())) => Err(error),
            (Ok(None), Ok(())) => Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// A connection of which everything together has a time limit.
struct Timed<'s> {
    stream: &'s UnixStream,
    end: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
