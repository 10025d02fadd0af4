//! Workers that another supervisor has started, and that have outlived it.

use std::collections::{BTreeSet, HashSet};
use std::future::poll_fn;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::task::Poll;
use std::time::Duration;

use super::process::{Process, Told};
use super::{SYNC_TIME, State, Workers, socket_of};
use crate::stats::Counters;
use crate::supervisor::counted;
use crate::worker::order::{Order, Task};

/// How long workers of another supervisor may take to drain, as long as those of this one.
const RETIRE_TIME: Duration = Duration::from_secs(7);

impl Workers {
    /// Connects to workers that another supervisor, which is gone, has started at the same control socket. If they are as these
    /// workers are to be, they take their place, and what each was told is returned; if not, they drain, and end.
    pub(in crate::supervisor) async fn adopt(&mut self) -> Option<Vec<Told>> {
        let (mut found, mut seen) = (Vec::new(), HashSet::new());
        for (number, path) in sockets(&self.socket) {
            let mut process = match Process::connect(&path, &self.calls) {
                Ok(process) => process,
                Err(error) => {
                    if !is_nobody(&error) {
                        tracing::error!("take over the worker at {}: {error}", path.display());
                    }
                    drop(std::fs::remove_file(&path));
                    continue;
                }
            };
            let told = tokio::time::timeout(SYNC_TIME, process.told(&mut seen)).await;
            let why = match told {
                Ok(Ok(told)) => {
                    found.push((number, process, told));
                    continue;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::InvalidData => {
                    "it is of another version".to_owned()
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer".to_owned(),
            };
            // It would relay beside those that are started now.
            process.kill();
            let pid = process.pid;
            let end = process.bury();
            tracing::error!(
                "take over worker {number} (process {pid}): {why}; it is {end}, and what comes until another has begun is lost"
            );
        }
        if found.is_empty() {
            return None;
        }
        found.sort_by_key(|(number, ..)| *number);
        let adopted: Option<Vec<_>> =
            (0..).zip(&mut found).map(|(place, found)| self.suit(place, found)).collect();
        if let Some(memories) = adopted.filter(|memories| memories.len() == self.len()) {
            return Some(self.take_in(found, memories));
        }
        retire(found.into_iter().map(|(_, process, _)| process).collect()).await;
        None
    }

    /// The counters of a worker that was found, if it is what worker `place` is to be.
    fn suit(&self, place: usize, found: &mut (usize, Process, Told)) -> Option<Counters> {
        let (number, _, told) = found;
        let begin = told.iter_mut().find(|(order, _)| matches!(order, Order::Begin(_)))?;
        let (Order::Begin(task), memory) = begin else { return None };
        let wanted = &self.all.get(place)?.task;
        let is_same = Task { cpu: wanted.cpu, ..task.clone() } == *wanted;
        if *number != place || !is_same {
            return None;
        }
        Counters::open(memory.take()?).ok()
    }

    fn take_in(&mut self, found: Vec<(usize, Process, Told)>, memories: Vec<Counters>) -> Vec<Told> {
        let mut all_told = Vec::new();
        for ((worker, (_, process, told)), counters) in self.all.iter_mut().zip(found).zip(memories) {
            worker.counters = counters;
            worker.state = State::Running(Box::new(process));
            all_told.push(told);
        }
        all_told
    }
}

/// Has workers drain that cannot be taken over.
async fn retire(mut processes: Vec<Process>) {
    tracing::warn!(
        "{} of another supervisor relay in another way than these are to: they drain and end, and what comes until \
         these have begun is lost",
        counted(processes.len(), "worker")
    );
    for process in &mut processes {
        process.tell(&Order::Drain, None);
    }
    let all_end = poll_fn(|context| {
        let pending = processes
            .iter_mut()
            .fold(false, |pending, process| process.poll_end(context).is_pending() | pending);
        if pending { Poll::Pending } else { Poll::Ready(()) }
    });
    let _ = tokio::time::timeout(RETIRE_TIME, all_end).await;
    for process in processes {
        process.bury();
    }
}

/// Whether an error of connecting says that nobody listens.
fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Where workers of the supervisor at `control_socket` may listen, with their numbers.
fn sockets(control_socket: &Path) -> Vec<(usize, PathBuf)> {
    let folder = control_socket.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = std::fs::read_dir(folder.unwrap_or(Path::new("."))) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let number = |name: String| name.rsplit_once(".worker-")?.1.parse().ok();
    let numbers = names.filter_map(number).collect::<BTreeSet<usize>>();
    let paths = numbers.into_iter().map(|number| (number, socket_of(control_socket, number)));
    paths.filter(|(_, path)| is_own(path)).collect()
}

/// Whether this user, or root, has made the file.
fn is_own(path: &Path) -> bool {
    let own = [0, rustix::process::geteuid().as_raw()];
    std::fs::symlink_metadata(path).is_ok_and(|file| own.contains(&file.uid()))
}
