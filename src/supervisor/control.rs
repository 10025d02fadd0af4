//! The control socket: who may ask, one request at a time, and what the supervisor is asked.
//!
//! Every client is a task of its own, with limits on what it may send and for how long, so that none keeps another
//! one waiting. What a client asks goes to the supervisor as a [`Call`]; nothing else is shared with it.

mod connection;
mod socket;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use self::connection::Connection;
pub use self::socket::ControlError;
use self::socket::{Owner, Socket};
use crate::control::{Command, MAX_REQUEST, Outcome, Refusal, RefusalKind};
use crate::sys::credentials;

/// How long to wait where no client can be accepted, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A command of a client, for the supervisor to answer.
#[derive(Debug)]
pub(super) struct Call {
    /// What is asked.
    pub(super) command: Command,
    /// Who asks.
    pub(super) peer: Peer,
    /// Where the answer goes. That nobody waits for it any more is no error: the client went away.
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// The process at the other end of a connection, as it was when it connected (`SO_PEERCRED`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its effective user.
    pub(super) uid: u32,
    /// Its effective group.
    pub(super) gid: u32,
    /// The process; absent when it is of no PID namespace that is seen from here.
    pub(super) pid: Option<u32>,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "user {}, process {pid}", self.uid),
            None => write!(f, "user {}", self.uid),
        }
    }
}

/// What clients may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Clients at once.
    clients: usize,
    /// Bytes of a request.
    request: usize,
    /// How long until all of a request must be there, from the connection or the response before it.
    send: Duration,
    /// How long the supervisor may take to answer.
    answer: Duration,
    /// How long until all of a response must be taken.
    take: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 64,
            request: MAX_REQUEST,
            send: Duration::from_secs(10),
            answer: Duration::from_mins(1),
            take: Duration::from_secs(10),
        }
    }
}

/// A control socket that listens. It is removed when this drops.
#[derive(Debug)]
pub(super) struct ControlServer {
    listener: UnixListener,
    socket: Socket,
    limits: Limits,
}

impl ControlServer {
    /// Listens at `path`, in place of a socket that nobody listens at any more. Must be called within a runtime.
    pub(super) fn bind(path: &Path) -> Result<Self, ControlError> {
        let (socket, listener) = Socket::bind(path)?;
        let register = || {
            listener.set_nonblocking(true)?;
            UnixListener::from_std(listener)
        };
        let listener = register().map_err(|error| ControlError::Bind { path: path.to_owned(), error })?;
        Ok(Self { listener, socket, limits: Limits::default() })
    }

    /// Serves clients until it is dropped. `calls` is asked for nothing but what they ask.
    pub(super) async fn run(self, calls: mpsc::Sender<Call>) {
        let mut clients = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => self.admit(stream, &calls, &mut clients),
                    Err(error) => {
                        tracing::warn!("accept a client at the control socket: {error}");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(_) = clients.join_next() => {}
            }
        }
    }

    fn admit(&self, stream: UnixStream, calls: &mpsc::Sender<Call>, clients: &mut JoinSet<()>) {
        while clients.try_join_next().is_some() {}
        let admitted = self.identify(&stream).and_then(|peer| match clients.len() {
            count if count < self.limits.clients => Ok(peer),
            count => Err(Refusal::new(
                RefusalKind::Unavailable,
                format!("{count} clients are connected, and there can be no more: try again"),
            )),
        });
        match admitted {
            Ok(peer) => {
                clients.spawn(Connection::new(stream, peer, self.limits, calls.clone()).serve());
            }
            Err(refusal) => {
                tracing::debug!("a client of the control socket was turned away: {refusal}");
                connection::turn_away(&stream, refusal);
            }
        }
    }

    /// Who `stream` leads to, if they may ask. Who cannot write to the socket does not even come here; this holds too
    /// where the socket's mode was changed, or its descriptor passed on.
    fn identify(&self, stream: &UnixStream) -> Result<Peer, Refusal> {
        let forbidden = |message: String| Refusal::new(RefusalKind::Forbidden, message);
        let unknown = |error: io::Error| forbidden(format!("find out who asks: {error}"));
        let credentials = stream.peer_cred().map_err(unknown)?;
        let pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0);
        let peer = Peer { uid: credentials.uid(), gid: credentials.gid(), pid };
        let Owner { user, group } = self.socket.owner;
        if may_ask(&peer, &credentials::peer_groups(stream).map_err(unknown)?, self.socket.owner) {
            return Ok(peer);
        }
        let own = if user == 0 { String::new() } else { format!(", as user {user}") };
        Err(forbidden(format!(
            "user {} may not control this relay: ask as root{own}, or as a member of group {group}",
            peer.uid
        )))
    }
}

/// Whether a process of these supplementary groups may ask at a socket of `owner`.
fn may_ask(peer: &Peer, groups: &[u32], owner: Owner) -> bool {
    peer.uid == 0 || peer.uid == owner.user || peer.gid == owner.group || groups.contains(&owner.group)
}
