//! A worker as a process of its own.

use std::io;
use std::os::fd::AsFd;

use super::order::Task;
use super::{Link, WorkerError};
use crate::sys::affinity;
use crate::sys::channel::Listener;
use crate::sys::sandbox::{Part, Sandbox};

/// Works for whoever connects to the socket that this process has as its standard input.
pub fn run() -> Result<(), WorkerError> {
    // For who looks at processes: as it is started it would be called `exe`.
    let _ = rustix::thread::set_name(c"mcr-worker");
    let listener = io::stdin().as_fd().try_clone_to_owned().map_err(WorkerError::Orders)?;
    let listener = Listener::from(listener);
    listener.stand_for().map_err(WorkerError::Orders)?;
    super::run(Link::listening(listener), confine)
}

/// Gives up everything that relaying does not take.
fn confine(task: &Task) -> Result<(), WorkerError> {
    if let Some(cpu) = task.cpu
        && let Err(error) = affinity::pin_to(cpu)
    {
        tracing::warn!("pin worker {} to CPU {cpu}: {error}", task.number);
    }
    let was_root = rustix::process::geteuid().is_root();
    let report = Sandbox::enter(None)?;
    // That a supervisor which is not root cannot make its workers less is known.
    if report.keeps(Part::SystemCalls) || was_root && report.keeps(Part::User) {
        tracing::warn!("worker {}: {report}", task.number);
    } else {
        tracing::debug!("worker {}: {report}", task.number);
    }
    Ok(())
}
