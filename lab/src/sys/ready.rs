//! Waiting for any of many descriptors: a small `epoll`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Most descriptors reported by one wait; the others are reported by the next.
const EVENTS: usize = 64;

/// A set of descriptors waited on for reading.
#[derive(Debug)]
pub struct Ready {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
    filled: usize,
}

/// One descriptor that can be read or has an error to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What it was added as.
    pub token: u64,
    /// Whether the kernel reports an error on it.
    pub failed: bool,
}

impl Ready {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes no pointer; a negative result is turned into an error before it is used as a descriptor.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `epoll` was checked to be a descriptor, is new, and nothing else owns it.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        Ok(Self { epoll, events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS], filled: 0 })
    }

    /// Adds a descriptor, reported as `token` as long as there is something to read. It leaves when it is closed.
    pub fn add(&self, descriptor: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: token };
        let (epoll, descriptor) = (self.epoll.as_raw_fd(), descriptor.as_raw_fd());
        // SAFETY: both descriptors are borrowed and open; the kernel copies `event` during the call.
        let result = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &raw mut event) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Waits until something is ready or `timeout` (rounded up to ms) is over; a signal ends it early.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<impl Iterator<Item = Event>> {
        let milliseconds = timeout.as_micros().div_ceil(1_000).min(60_000) as libc::c_int;
        let (events, room) = (self.events.as_mut_ptr(), self.events.len() as libc::c_int);
        // SAFETY: `events` has room for `room` entries and is exclusively ours during the call.
        let filled = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events, room, milliseconds) };
        self.filled = match usize::try_from(filled) {
            Ok(filled) => filled,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(self.events.iter().take(self.filled).map(|event| Event {
            token: event.u64,
            failed: event.events & (libc::EPOLLERR | libc::EPOLLHUP) as u32 != 0,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn only_what_can_be_read_is_reported() {
        let (mut writer, reader) = UnixStream::pair().unwrap();
        let (_other_writer, other_reader) = UnixStream::pair().unwrap();
        let mut ready = Ready::new().unwrap();
        ready.add(reader.as_fd(), 7).unwrap();
        ready.add(other_reader.as_fd(), 8).unwrap();
        assert_eq!(ready.wait(Duration::ZERO).unwrap().count(), 0);
        writer.write_all(b"x").unwrap();
        let events: Vec<_> = ready.wait(Duration::from_secs(10)).unwrap().collect();
        assert_eq!(events, [Event { token: 7, failed: false }]);
    }
}
