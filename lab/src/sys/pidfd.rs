//! A process held by a descriptor, so that a signal cannot reach another one that got the same id since.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use super::signal::Signal;

/// A reference to one process, good for as long as it is held (`pidfd_open(2)`, Linux 5.3).
#[derive(Debug)]
pub(crate) struct Pidfd {
    descriptor: File,
}

impl Pidfd {
    /// Refers to the process that has the id `pid` now.
    ///
    /// # Errors
    /// `ESRCH` when there is none.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        // SAFETY: pidfd_open takes two integers and no pointer.
        let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let descriptor =
            RawFd::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
        // SAFETY: the kernel just returned `descriptor`, checked above not to be negative, to nobody but us.
        let descriptor = unsafe { File::from_raw_fd(descriptor) };
        Ok(Self { descriptor })
    }

    /// Sends SIGKILL.
    ///
    /// # Errors
    /// `ESRCH` when the process has been reaped, `EPERM` without the right to.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.send(Signal::Kill)
    }

    /// Sends `signal`.
    ///
    /// # Errors
    /// `ESRCH` when the process has been reaped, `EPERM` without the right to.
    pub(crate) fn send(&self, signal: Signal) -> io::Result<()> {
        // SAFETY: `self.descriptor` is open while it is borrowed, and a null siginfo is what the call documents
        // for "as kill(2) would fill it".
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.descriptor.as_raw_fd(),
                signal.number(),
                ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until the process has ended, whoever reaps it, signals notwithstanding. False: it still ran after
    /// `patience`.
    pub(crate) fn wait(&self, patience: Duration) -> io::Result<bool> {
        let start = Instant::now();
        loop {
            match self.wait_once(patience.saturating_sub(start.elapsed())) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn wait_once(&self, patience: Duration) -> io::Result<bool> {
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let patience = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer is to one initialised pollfd, which is the count given, and it outlives the call.
        let ready = unsafe { libc::poll(&raw mut poll, 1, patience) };
        if ready >= 0 { Ok(ready == 1) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::os::unix::thread::JoinHandleExt;
    use std::process::Command;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_killed_process_is_waited_for() {
        let mut child = Command::new("sleep").arg("600").spawn().expect("start sleep");
        let held = Pidfd::open(child.id()).expect("open the child");
        assert!(!held.wait(Duration::ZERO).expect("poll"));
        held.kill().expect("kill the child");
        assert!(held.wait(Duration::from_secs(30)).expect("poll"));
        assert_eq!(child.wait().expect("reap").signal(), Some(libc::SIGKILL));
        assert_eq!(held.kill().expect_err("reaped").raw_os_error(), Some(libc::ESRCH));
    }

    static HANDLED: AtomicU32 = AtomicU32::new(0);

    extern "C" fn count_it(_: libc::c_int) {
        HANDLED.fetch_add(1, Ordering::Relaxed);
    }

    #[test]
    fn a_signal_does_not_end_the_wait() {
        let handler: extern "C" fn(libc::c_int) = count_it;
        // SAFETY: the handler only touches an atomic, and no other test uses SIGURG, which is ignored by default.
        unsafe { libc::signal(libc::SIGURG, handler as libc::sighandler_t) };
        let mut child = Command::new("sleep").arg("600").spawn().expect("start sleep");
        let held = Arc::new(Pidfd::open(child.id()).expect("open the child"));
        let waiting = Arc::clone(&held);
        let waiting = std::thread::spawn(move || waiting.wait(Duration::from_mins(1)));
        let deadline = Instant::now() + Duration::from_mins(1);
        while HANDLED.load(Ordering::Relaxed) < 50 && !waiting.is_finished() {
            assert!(Instant::now() < deadline, "no signal came through");
            // SAFETY: the thread is not joined yet, so that its id is its own even if it has ended.
            unsafe { libc::pthread_kill(waiting.as_pthread_t(), libc::SIGURG) };
            std::thread::yield_now();
        }
        held.kill().expect("kill the child");
        let waited = waiting.join().expect("no panic");
        child.wait().expect("reap");
        assert!(waited.expect("no error"), "the wait ended before the process did");
    }

    #[test]
    fn an_id_out_of_range_is_no_process() {
        assert_eq!(Pidfd::open(u32::MAX).expect_err("no such id").raw_os_error(), Some(libc::ESRCH));
    }
}
