//! What a worker gives up before it relays: whatever a frame could make of it, it can then only receive and send with
//! the descriptors that it has.
//!
//! A filter for system calls is the wall ([`filter`]); what else is given up is there for when it has a hole, or the
//! kernel has none. `io_uring` goes past it, so a worker restricts its ring, too
//! ([`Uring::restrict`](super::uring::Uring::restrict)).

mod filter;
mod root;

use std::fmt;
use std::io;

use rustix::process::{self, DumpableBehavior, Gid, Resource, Rlimit, Uid};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

/// Who a worker becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
}

impl User {
    /// Who owns nothing: `nobody` and its group, which by convention every system has.
    pub const NOBODY: Self = Self { uid: 65_534, gid: 65_534 };
}

/// Why a worker cannot be confined, beside what a [`Report`] tells.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Others would keep what one gives up.
    #[error("confine the worker: it has {0} threads instead of one")]
    Threads(usize),
    /// The kernel refuses what everyone may do.
    #[error("{operation}: {error} (does a security module forbid it?)")]
    Refused {
        /// What was asked for.
        operation: &'static str,
        /// Its answer.
        error: io::Error,
    },
}

/// Something that a worker can do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its root folder, and with it every file of the machine.
    Root,
    /// What capabilities a program that it starts could get. It can start none.
    BoundingSet,
    /// Membership of groups beside its own.
    Groups,
    /// Its own group.
    Group,
    /// Its user.
    User,
    /// All system calls but those of [`filter`].
    SystemCalls,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root folder",
            Self::BoundingSet => "capability bounding set",
            Self::Groups => "supplementary groups",
            Self::Group => "group",
            Self::User => "user",
            Self::SystemCalls => "system calls",
        })
    }
}

/// Why something is kept.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It takes a capability to give it up.
    #[error("needs {0}")]
    Lacks(&'static str),
    /// The kernel refuses.
    #[error(transparent)]
    Refused(#[from] io::Error),
    /// The filter cannot be made for this kind of processor.
    #[error(transparent)]
    Filter(#[from] seccompiler::BackendError),
}

impl From<rustix::io::Errno> for Reason {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Refused(errno.into())
    }
}

/// What a worker could not give up.
#[derive(Debug, Default)]
pub struct Report {
    /// Each part, and why it is kept.
    pub kept: Vec<(Part, Reason)>,
}

impl Report {
    /// Whether `part` is kept.
    pub fn keeps(&self, part: Part) -> bool {
        self.kept.iter().any(|(kept, _)| *kept == part)
    }

    fn add(&mut self, part: Part, given_up: Result<(), Reason>) {
        self.kept.extend(given_up.err().map(|reason| (part, reason)));
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kept.is_empty() {
            return f.write_str("keeps nothing that it does not need");
        }
        for (number, (part, reason)) in self.kept.iter().enumerate() {
            let separator = if number == 0 { "keeps its" } else { "," };
            write!(f, "{separator} {part} ({reason})")?;
        }
        Ok(())
    }
}

/// What a worker lives in when it has given everything up.
#[derive(Debug)]
pub struct Sandbox;

impl Sandbox {
    /// Gives up what a worker does not need, for good, and becomes `user`, or [`User::NOBODY`]. Without the capability
    /// to change its user or to leave its root folder a process keeps them, which the report says.
    ///
    /// Call it in a process with one thread that has set up and restricted its ring and holds its descriptors. From then
    /// on it opens nothing, starts nothing and maps no code; a call that the filter does not allow kills it with
    /// `SIGSYS`. Its parent can still read what `/proc` says of its time and memory, but not its memory.
    pub fn enter(user: Option<User>) -> Result<Report, SandboxError> {
        check_threads()?;
        let user = user.unwrap_or(User::NOBODY);
        let held =
            thread::capabilities(None).map_err(refused("read the capabilities of the worker"))?.effective;
        let mut report = Report::default();
        // Asks for no privilege, and from here on no program that is started could gain one.
        thread::set_no_new_privs(true).map_err(refused("set no_new_privs"))?;
        // Each as long as there is the capability that it takes: a new user has none left.
        report.add(Part::Root, with(held, CapabilitySet::SYS_CHROOT, "CAP_SYS_CHROOT", root::leave));
        report.add(Part::BoundingSet, clear_bounding_set(held));
        report.add(Part::Groups, leave_groups(held));
        report.add(Part::Group, change_group(held, user.gid));
        report.add(Part::User, change_user(held, user.uid));
        // A user who is not new, or whom securebits(7) let keep them, has them still.
        clear_capabilities()?;
        // For the system call that starts a process as well as for threads that io_uring would start.
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        process::setrlimit(Resource::Nproc, none).map_err(refused("limit processes"))?;
        // Not RLIMIT_FSIZE: what is logged may go to a file, and SIGXFSZ would be the answer.

        // A new user resets it, so not before. No process of the same user can attach to this one or read its memory.
        let behavior = DumpableBehavior::NotDumpable;
        process::set_dumpable_behavior(behavior).map_err(refused("set the dumpable attribute"))?;
        // Last, for it forbids all of the above.
        report.add(Part::SystemCalls, filter::install());
        Ok(report)
    }
}

fn refused(operation: &'static str) -> impl FnOnce(rustix::io::Errno) -> SandboxError {
    move |errno| SandboxError::Refused { operation, error: errno.into() }
}

/// Capabilities, users and the filter are a thread's own.
fn check_threads() -> Result<(), SandboxError> {
    match std::fs::read_dir("/proc/self/task").map(Iterator::count) {
        Ok(count) if count > 1 => Err(SandboxError::Threads(count)),
        // Without /proc it cannot be told.
        _ => Ok(()),
    }
}

/// Does what takes a capability if that is among those `held`.
fn with(
    held: CapabilitySet,
    needed: CapabilitySet,
    name: &'static str,
    give_up: impl FnOnce() -> Result<(), Reason>,
) -> Result<(), Reason> {
    if held.contains(needed) { give_up() } else { Err(Reason::Lacks(name)) }
}

fn clear_bounding_set(held: CapabilitySet) -> Result<(), Reason> {
    // As many as the kernel knows, which may be more than this program does.
    let known = (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number));
    for capability in known {
        match thread::capability_is_in_bounding_set(capability) {
            Ok(false) => {}
            Ok(true) => with(held, CapabilitySet::SETPCAP, "CAP_SETPCAP", || {
                Ok(thread::remove_capability_from_bounding_set(capability)?)
            })?,
            Err(_) => break,
        }
    }
    Ok(())
}

fn leave_groups(held: CapabilitySet) -> Result<(), Reason> {
    if process::getgroups()?.is_empty() {
        return Ok(());
    }
    with(held, CapabilitySet::SETGID, "CAP_SETGID", || Ok(thread::set_thread_groups(&[])?))
}

fn change_group(held: CapabilitySet, gid: u32) -> Result<(), Reason> {
    let gid = Gid::from_raw_unchecked(gid);
    with(held, CapabilitySet::SETGID, "CAP_SETGID", || Ok(thread::set_thread_res_gid(gid, gid, gid)?))
}

fn change_user(held: CapabilitySet, uid: u32) -> Result<(), Reason> {
    let uid = Uid::from_raw_unchecked(uid);
    with(held, CapabilitySet::SETUID, "CAP_SETUID", || {
        // What this process does not hold its parent does not either, and could not end another user's process.
        with(held, CapabilitySet::KILL, "CAP_KILL", || Ok(thread::set_thread_res_uid(uid, uid, uid)?))
    })
}

fn clear_capabilities() -> Result<(), SandboxError> {
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    // What is not permitted any more leaves the ambient set, too (capabilities(7)).
    thread::set_capabilities(None, sets).map_err(refused("give up the capabilities of the worker"))
}

#[cfg(test)]
mod tests;
