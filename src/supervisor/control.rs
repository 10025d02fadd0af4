//! The control socket: whoever may ask, one request at a time, and what the supervisor is asked.

use tokio::sync::oneshot;

use crate::control::{Command, Outcome};

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
