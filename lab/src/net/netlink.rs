//! Netlink requests to one namespace, as plain blocking calls.
//!
//! rtnetlink is asynchronous. A session runs on a thread of its own, inside the namespace, in a runtime of its
//! own, and everything of it (thread, runtime, connection, socket) ends with the call. So it works from any
//! thread, in or out of a runtime, and leaves nothing that would keep a namespace alive.

use std::io;
use std::panic;
use std::thread;
use std::time::{Duration, Instant};

use rtnetlink::Handle;

use super::{Namespace, NetError};

/// How long a session may take, waiting for links included. The work of one is milliseconds; this is for a
/// machine in great trouble.
const SESSION_PATIENCE: Duration = Duration::from_mins(1);
/// How long to wait for something the kernel does in its own time.
pub(crate) const SETTLE_PATIENCE: Duration = Duration::from_secs(20);
/// How often to look.
const SETTLE_INTERVAL: Duration = Duration::from_millis(2);

/// An open connection to the routing part of the kernel, inside one namespace.
#[derive(Debug)]
pub(crate) struct Session {
    handle: Handle,
    namespace: String,
}

impl Session {
    /// The requests rtnetlink offers.
    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// An error of the request `operation`.
    pub(crate) fn failed(&self, operation: impl Into<String>, error: rtnetlink::Error) -> NetError {
        netlink_error(&self.namespace, operation.into(), io_error(error))
    }

    /// Asks `look` again and again until it finds `Ok`; `Err` describes what it saw instead.
    pub(crate) async fn settle<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Result<T, String>, NetError>,
    ) -> Result<T, NetError> {
        let start = Instant::now();
        loop {
            let seen = match look().await? {
                Ok(found) => return Ok(found),
                Err(seen) => seen,
            };
            if start.elapsed() >= SETTLE_PATIENCE {
                return Err(deadline(&self.namespace, what, start.elapsed(), seen));
            }
            tokio::time::sleep(SETTLE_INTERVAL).await;
        }
    }
}

/// Runs `work` with a session inside `namespace` and returns what it returns.
///
/// # Errors
/// Those of `work`; [`NetError::Netlink`] when no session can be had; [`NetError::Deadline`] when it hangs.
pub(crate) fn session<T: Send>(
    namespace: &Namespace,
    work: impl AsyncFnOnce(&Session) -> Result<T, NetError> + Send,
) -> Result<T, NetError> {
    let failed = |source| netlink_error(namespace.name(), "open a netlink session".to_owned(), source);
    thread::scope(|scope| {
        let inside = move || namespace.run(|| drive(namespace.name(), work)).and_then(|result| result);
        let thread = thread::Builder::new().name("lab-netlink".to_owned());
        let thread = thread.spawn_scoped(scope, inside).map_err(failed)?;
        thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))
    })
}

/// The session proper, on a thread that is inside the namespace.
fn drive<T>(namespace: &str, work: impl AsyncFnOnce(&Session) -> Result<T, NetError>) -> Result<T, NetError> {
    let failed = |source| netlink_error(namespace, "open a netlink session".to_owned(), source);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build().map_err(failed)?;
    runtime.block_on(async {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection().map_err(failed)?;
        let session = Session { handle, namespace: namespace.to_owned() };
        let work = tokio::time::timeout(SESSION_PATIENCE, work(&session));
        // Polled beside the work instead of spawned: it is dropped here, whatever happens.
        tokio::select! {
            done = work => done.unwrap_or_else(|_| {
                Err(deadline(namespace, "the answers of netlink", SESSION_PATIENCE, "none".to_owned()))
            }),
            () = connection => Err(failed(io::ErrorKind::ConnectionAborted.into())),
        }
    })
}

fn deadline(namespace: &str, what: &str, waited: Duration, seen: String) -> NetError {
    NetError::Deadline { what: what.to_owned(), namespace: namespace.to_owned(), waited, seen }
}

fn netlink_error(namespace: &str, operation: String, source: io::Error) -> NetError {
    NetError::or_needs_root(source, |source| NetError::Netlink {
        operation,
        namespace: namespace.to_owned(),
        source,
    })
}

/// The kernel's answer inside rtnetlink's error.
fn io_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(answer) => answer.to_io(),
        other => io::Error::other(other),
    }
}
