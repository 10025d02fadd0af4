//! Processes that live inside namespaces about to be removed, and their end.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process;
use std::time::{Duration, Instant};

use super::{NamespaceId, NetError};
use crate::sys::pidfd::Pidfd;

/// How long all of them together may take to end after SIGKILL.
const PATIENCE: Duration = Duration::from_secs(20);

/// Ends every process whose network namespace is one of `namespaces`, those that they start meanwhile too, and
/// returns their ids.
///
/// The caller's own process and namespace and that of the first process are never touched, whatever is asked.
///
/// # Errors
/// [`NetError::Process`] for one that cannot be killed or does not end.
pub(crate) fn end_occupants(namespaces: &BTreeSet<NamespaceId>) -> Result<Vec<u32>, NetError> {
    let targets = without_the_machines(namespaces);
    let deadline = Instant::now() + PATIENCE;
    let mut ended = Vec::new();
    loop {
        let found = occupants(&targets);
        let Some(last) = found.last() else { return Ok(ended) };
        if Instant::now() > deadline {
            return Err(NetError::Process { pid: *last, source: io::ErrorKind::TimedOut.into() });
        }
        for pid in found {
            let ended_now =
                end(pid, &targets, deadline).map_err(|source| NetError::Process { pid, source })?;
            if ended_now {
                ended.push(pid);
            }
        }
    }
}

/// `namespaces` without those of the machine: a name of the lab bound to one of them must not cost the machine its
/// processes.
fn without_the_machines(namespaces: &BTreeSet<NamespaceId>) -> BTreeSet<NamespaceId> {
    let lived_in = [NamespaceId::of_process(1), NamespaceId::of_process(process::id())];
    let kept: BTreeSet<_> = lived_in.into_iter().flatten().collect();
    namespaces.difference(&kept).copied().collect()
}

/// The processes inside one of `namespaces`. One that ends meanwhile, and a zombie, is in none.
fn occupants(namespaces: &BTreeSet<NamespaceId>) -> Vec<u32> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != process::id() && is_inside(*pid, namespaces)).collect()
}

fn is_inside(pid: u32, namespaces: &BTreeSet<NamespaceId>) -> bool {
    NamespaceId::of_process(pid).is_ok_and(|id| namespaces.contains(&id))
}

/// Kills the process and waits for its end. False: it had ended, or the id is another's by now.
fn end(pid: u32, namespaces: &BTreeSet<NamespaceId>, deadline: Instant) -> io::Result<bool> {
    let gone = |error: &io::Error| error.raw_os_error() == Some(libc::ESRCH);
    let process = match Pidfd::open(pid) {
        Err(error) if gone(&error) => return Ok(false),
        opened => opened?,
    };
    // Looked at again now that the descriptor pins whose id it is.
    if !is_inside(pid, namespaces) {
        return Ok(false);
    }
    match process.kill() {
        Err(error) if gone(&error) => return Ok(false),
        killed => killed?,
    }
    let patience = deadline.saturating_duration_since(Instant::now());
    if process.wait(patience)? { Ok(true) } else { Err(io::ErrorKind::TimedOut.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespaces_of_the_machine_are_never_emptied() {
        let own = NamespaceId::of_calling_thread().expect("/proc is mounted");
        assert_eq!(without_the_machines(&BTreeSet::from([own])), BTreeSet::new());
    }

    #[test]
    fn nothing_is_inside_no_namespace() {
        assert_eq!(end_occupants(&BTreeSet::new()).expect("nothing to do"), Vec::<u32>::new());
    }
}
