//! Speaking to the relay over its control socket.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use multicast_relay::control::{
    Answer, Command, LineBuffer, MAX_ANSWER, ProtocolError, Refusal, decode_response, encode_request,
    read_line,
};

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    /// The socket.
    #[error("{operation} the control socket: {source}")]
    Socket { operation: &'static str, source: io::Error },
    /// The relay closed the connection.
    #[error("the relay closed the connection")]
    Closed,
    /// What came back.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The relay does not want to.
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
}

/// A connection to the relay.
pub(super) struct Client {
    stream: UnixStream,
    lines: LineBuffer,
}

impl Client {
    /// Connects to the socket at `path`; each command may then take as long as `patience`.
    pub(super) fn connect(path: &Path, patience: Duration) -> Result<Self, CallError> {
        let failed = |operation| move |source| CallError::Socket { operation, source };
        let stream = UnixStream::connect(path).map_err(failed("connect to"))?;
        stream.set_read_timeout(Some(patience)).map_err(failed("set up"))?;
        stream.set_write_timeout(Some(patience)).map_err(failed("set up"))?;
        Ok(Self { stream, lines: LineBuffer::new(MAX_ANSWER) })
    }

    /// What the relay answers to `command`.
    pub(super) fn call(&mut self, command: &Command) -> Result<Answer, CallError> {
        let failed = |operation| move |source| CallError::Socket { operation, source };
        io::Write::write_all(&mut self.stream, &encode_request(command)).map_err(failed("write to"))?;
        let line = read_line(&mut self.stream, &mut self.lines).map_err(failed("read from"))?;
        Ok(decode_response(&line.ok_or(CallError::Closed)?)??)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use multicast_relay::control::{RefusalKind, encode_response};

    use super::*;

    #[test]
    fn answers_refusals_and_silence_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let connect = || Client::connect(&path, Duration::from_secs(30));
        assert!(matches!(connect(), Err(CallError::Socket { operation: "connect to", .. })));
        let listener = UnixListener::bind(&path).unwrap();
        let relay = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut requests = BufReader::new(stream.try_clone().unwrap()).lines();
            let refusal = Refusal::new(RefusalKind::Failed, "no such file");
            for outcome in [Ok(Answer::Removed { names: vec!["a".into()] }), Err(refusal)] {
                assert_eq!(requests.next().unwrap().unwrap(), r#"{"version":1,"command":"reload"}"#);
                stream.write_all(&encode_response(&outcome)).unwrap();
            }
            requests.next().unwrap().unwrap();
        });
        let mut client = connect().unwrap();
        assert_eq!(client.call(&Command::Reload).unwrap(), Answer::Removed { names: vec!["a".into()] });
        let refused = client.call(&Command::Reload).unwrap_err().to_string();
        assert_eq!(refused, "refused: no such file");
        assert!(matches!(client.call(&Command::Reload), Err(CallError::Closed)));
        relay.join().unwrap();
    }
}
