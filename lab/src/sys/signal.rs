//! Signals to processes the lab started, by their id only.

use std::io;
use std::mem::MaybeUninit;

/// The signals the lab sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Report your counters.
    Report,
    /// End in your own time.
    Terminate,
    /// End now.
    Kill,
    /// Read your configuration again.
    Reload,
    /// A fault in the program.
    Fault,
    /// The program gives up.
    Abort,
    /// Hang.
    Stop,
}

impl Signal {
    pub(crate) fn number(self) -> libc::c_int {
        match self {
            Self::Report => libc::SIGUSR1,
            Self::Terminate => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Reload => libc::SIGHUP,
            Self::Fault => libc::SIGSEGV,
            Self::Abort => libc::SIGABRT,
            Self::Stop => libc::SIGSTOP,
        }
    }
}

/// Sends `signal` to the child process `pid`, which must not have been waited for: until then no other process can
/// have its id.
pub(crate) fn send(pid: u32, signal: Signal) -> io::Result<()> {
    kill(checked(pid)?, signal)
}

/// Sends `signal` to every process of the group that the child process `leader` leads. A group that is gone is no
/// error.
pub(crate) fn send_group(leader: u32, signal: Signal) -> io::Result<()> {
    match kill(-checked(leader)?, signal) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}

/// Whether the child process `pid` has ended. It is not waited for: its id, and that of the group it leads, stays its
/// own.
///
/// # Errors
/// `ECHILD` when there is no such child, or it has been waited for.
pub(crate) fn has_ended(pid: u32) -> io::Result<bool> {
    let id = libc::id_t::try_from(checked(pid)?).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a siginfo_t of ours, which the kernel may write during the call.
    let result = unsafe { libc::waitid(libc::P_PID, id, info.as_mut_ptr(), how) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before the kernel wrote to it, and plain numbers take every bit pattern.
    let info = unsafe { info.assume_init() };
    // SAFETY: waitid fills in the part of a child, or leaves it zero when none has changed its state.
    Ok(unsafe { info.si_pid() } != 0)
}

/// `pid` as kill(2) takes it. 0 and 1 would reach this process's own group and, negated, everybody.
fn checked(pid: u32) -> io::Result<libc::pid_t> {
    let pid = libc::pid_t::try_from(pid).ok().filter(|pid| *pid > 1);
    pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))
}

fn kill(pid: libc::pid_t, signal: Signal) -> io::Result<()> {
    // SAFETY: kill takes two integers and no pointer.
    let result = unsafe { libc::kill(pid, signal.number()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::Command;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_child_and_its_group_are_reached() {
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        send(child.id(), Signal::Terminate).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        send_group(child.id(), Signal::Kill).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        send_group(child.id(), Signal::Kill).unwrap();
    }

    #[test]
    fn an_end_is_seen_without_being_reaped() {
        let mut child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        assert!(!has_ended(child.id()).unwrap());
        send_group(child.id(), Signal::Kill).unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        while !has_ended(child.id()).unwrap() {
            assert!(Instant::now() < deadline, "still running");
            std::thread::yield_now();
        }
        assert!(has_ended(child.id()).unwrap(), "seen once more");
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
        assert_eq!(has_ended(child.id()).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    }

    #[test]
    fn nobody_else_is_reached() {
        for pid in [0, 1, u32::MAX] {
            assert_eq!(send(pid, Signal::Kill).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
            assert_eq!(send_group(pid, Signal::Kill).unwrap_err().raw_os_error(), Some(libc::ESRCH), "{pid}");
        }
    }
}
