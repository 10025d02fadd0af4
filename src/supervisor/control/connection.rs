//! One client: its requests, one after the other, each within the limits.

use std::io::{self, ErrorKind};

use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::{Call, Limits, Peer};
use crate::control::{
    Answer, Command, LineBuffer, Outcome, Refusal, RefusalKind, TooLong, decode_request, encode_response,
};

/// From how many bytes of a request on another thread reads it, so that the supervisor's own goes on meanwhile.
const LARGE_REQUEST: usize = 64 << 10;
/// The same of the rules that an answer is about.
const MANY_RULES: usize = 500;
/// Most bytes read at once.
const PIECE: usize = 16 << 10;

/// A client that is served.
pub(super) struct Connection {
    stream: UnixStream,
    peer: Peer,
    limits: Limits,
    calls: mpsc::Sender<Call>,
    lines: LineBuffer,
}

/// What a client sends.
enum Received {
    Request(Vec<u8>),
    /// No more of it.
    End,
}

/// Why nothing more can be read from a client.
enum Broken {
    Connection,
    TooLong(TooLong),
}

impl Connection {
    pub(super) fn new(stream: UnixStream, peer: Peer, limits: Limits, calls: mpsc::Sender<Call>) -> Self {
        Self { stream, peer, limits, calls, lines: LineBuffer::new(limits.request) }
    }

    /// Answers request by request until the client has no more or breaks a limit.
    pub(super) async fn serve(mut self) {
        loop {
            let received = timeout(self.limits.send, receive(&self.stream, &mut self.lines)).await;
            let (outcome, last) = match received {
                Ok(Ok(Received::Request(line))) => (self.answer(line).await, false),
                // To one that has asked nothing an answer would be one to what it asks next.
                Ok(Ok(Received::End)) | Err(_) if self.lines.is_empty() => return,
                Ok(Ok(Received::End)) => (Err(unended()), true),
                Ok(Err(Broken::Connection)) => return,
                Ok(Err(Broken::TooLong(error))) => (Err(too_large(error)), true),
                Err(_) => (Err(self.late()), true),
            };
            let response = self.encode(outcome).await;
            let sent = timeout(self.limits.take, send(&self.stream, &response)).await;
            if last || !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    }

    async fn answer(&self, line: Vec<u8>) -> Outcome {
        let command = if line.len() < LARGE_REQUEST {
            decode_request(&line)
        } else {
            elsewhere(move || decode_request(&line)).await.unwrap_or_else(|| Err(ending()))
        };
        match timeout(self.limits.answer, self.ask(command?)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Refusal::new(
                RefusalKind::Timeout,
                format!(
                    "the supervisor has not answered in {:?}, and may carry the command out yet: see `multicast_relay list`",
                    self.limits.answer
                ),
            )),
        }
    }

    async fn ask(&self, command: Command) -> Outcome {
        let (reply, answer) = oneshot::channel();
        self.calls.send(Call { command, peer: self.peer, reply }).await.map_err(|_| ending())?;
        answer.await.unwrap_or_else(|_| Err(ending()))
    }

    async fn encode(&self, outcome: Outcome) -> Vec<u8> {
        let rules = match &outcome {
            Ok(Answer::Rules(rules)) => rules.len(),
            Ok(Answer::Stats(report)) => report.stats.rules.len(),
            _ => 0,
        };
        if rules >= MANY_RULES {
            return elsewhere(move || encode_response(&outcome)).await.unwrap_or_default();
        }
        encode_response(&outcome)
    }

    fn late(&self) -> Refusal {
        let message = format!("the request did not end within {:?}", self.limits.send);
        Refusal::new(RefusalKind::Timeout, message)
    }
}

/// Does `work` on another thread. `None` when the runtime ends before it.
async fn elsewhere<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn ending() -> Refusal {
    Refusal::new(RefusalKind::Unavailable, "the supervisor is about to end")
}

fn unended() -> Refusal {
    Refusal::new(RefusalKind::BadRequest, "the request ends without a line end: write one after it")
}

fn too_large(error: TooLong) -> Refusal {
    let message = format!("{error} is no request: send fewer rules at once");
    Refusal::new(RefusalKind::TooLarge, message)
}

async fn receive(stream: &UnixStream, lines: &mut LineBuffer) -> Result<Received, Broken> {
    loop {
        if let Some(line) = lines.next_line().map_err(Broken::TooLong)? {
            return Ok(Received::Request(line));
        }
        stream.readable().await.map_err(|_| Broken::Connection)?;
        let mut piece = [0; PIECE];
        match stream.try_read(&mut piece) {
            Ok(0) => return Ok(Received::End),
            Ok(length) => lines.push(&piece[..length]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Err(Broken::Connection),
        }
    }
}

async fn send(stream: &UnixStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Says why to a client that is not served. A response this short fits into any socket's buffer, and what does not is
/// left away: nothing waits for such a client.
pub(super) fn turn_away(stream: &UnixStream, refusal: Refusal) {
    let _ = stream.try_write(&encode_response(&Err(refusal)));
}
