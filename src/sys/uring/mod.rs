//! One `io_uring` for everything a worker waits for: receives, sends, and the stop signal.
//!
//! Sends borrow their payload, so [`Uring::send_all`] returns only when the kernel holds none of them. Receives write
//! to buffers that the ring owns, and a completed one brings its buffer along.

mod receive;
mod send;
mod token;

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::squeue::{self, Entry};
use io_uring::{IoUring, cqueue, opcode, types};

use receive::Form;
use send::Messages;
pub use send::{IpHeader, SEND_BATCH, Send};
pub use token::Token;
use token::UserData;

use super::buffer_pool::{BufferPool, Filled};

const SUBMISSIONS: u32 = 2 * SEND_BATCH as u32;

/// The one group of provided buffers that a ring has.
const GROUP: u16 = 0;

/// One finished operation, or one result of a multishot operation.
#[derive(Debug)]
pub struct Completion {
    /// What it belongs to.
    pub token: Token,
    /// Bytes moved, or the errno. A receive tells the length of its datagram even where the buffer is shorter.
    pub result: Result<usize, i32>,
    /// Whether more results of the same operation will come.
    pub more: bool,
    /// The buffer of a receive.
    pub filled: Option<Filled>,
}

/// How long to wait for completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all: collect what is there.
    Not,
    /// Until there is one.
    First,
    /// Until `time` is over (before Linux 5.11 until there is one), unless there are `count` before. What comes by itself need not wake the thread: since
    /// Linux 6.7 frames that gather in a socket count once.
    Coalesced {
        /// How many, from 1.
        count: usize,
        /// How long at most.
        time: Duration,
    },
}

/// An `io_uring` that belongs to one thread.
pub struct Uring {
    ring: IoUring,
    /// Whether it took no submissions at first, which is when restrictions can be registered.
    is_restrictable: bool,
    pool: Option<BufferPool>,
    /// After `ring`, so that the kernel is done with them when they go.
    messages: Messages,
    multishot_header: Box<libc::msghdr>,
    /// Completions that came while the results of sends were awaited.
    deferred: VecDeque<Completion>,
    /// Set when an entry with a borrowed payload may still stand in the submission queue: nothing may be submitted
    /// any more.
    poisoned: bool,
    /// The kernel lets only the thread that made a ring submit to it.
    _not_send: PhantomData<*mut ()>,
}

impl Uring {
    /// Sets up a ring that holds up to `completions` results, at least 512, before they are taken.
    pub fn new(completions: u32) -> io::Result<Self> {
        let ring = Self::disabled(completions)?;
        if ring.is_restrictable {
            ring.ring.submitter().register_enable_rings()?;
        }
        Ok(ring)
    }

    /// Sets up a ring like [`Uring::new`] that takes nothing before [`Uring::restrict`].
    pub fn disabled(completions: u32) -> io::Result<Self> {
        let build = |configure: fn(&mut io_uring::Builder)| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(completions.max(SUBMISSIONS));
            configure(&mut builder);
            builder.build(SUBMISSIONS)
        };
        // Completion work runs when this thread asks for it, not when it interrupts (Linux 6.1); else whenever the
        // thread enters the kernel (5.19); else as the kernel likes, disabled at first (5.10) or not.
        let disabled =
            build(|builder| _ = builder.setup_r_disabled().setup_single_issuer().setup_defer_taskrun())
                .or_else(|_| build(|builder| _ = builder.setup_r_disabled().setup_coop_taskrun()))
                .or_else(|_| build(|builder| _ = builder.setup_r_disabled()));
        let (ring, is_restrictable) = match disabled {
            Ok(ring) => (ring, true),
            Err(_) => (build(|_| ())?, false),
        };
        let deferred = VecDeque::with_capacity(completions as usize);
        Ok(Self {
            ring,
            is_restrictable,
            pool: None,
            messages: Messages::new(),
            multishot_header: Box::new(receive::multishot_header()),
            deferred,
            poisoned: false,
            _not_send: PhantomData,
        })
    }

    /// Enables a ring that was set up disabled, for the operations of this module only: system calls that go through a
    /// ring are not seen by a seccomp filter. Nothing can be registered any more, so buffers come before. Before Linux
    /// 5.10 there are no restrictions, which is logged.
    ///
    /// # Errors
    /// `EBADFD` when it is enabled already.
    pub fn restrict(&mut self) -> io::Result<()> {
        if !self.is_restrictable {
            tracing::warn!("io_uring is not restricted to the operations of a relay: that needs Linux 5.10");
            return Ok(());
        }
        let submitter = self.ring.submitter();
        submitter.register_restrictions(&mut restrictions())?;
        submitter.register_enable_rings()
    }

    /// Gives the ring its receive buffers: `count` of them, a power of two, of at least `len` bytes. With
    /// `multishot`, the kernel takes them as it needs them.
    pub fn set_buffers(&mut self, count: u16, len: usize, multishot: bool) -> io::Result<()> {
        if self.pool.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut pool = BufferPool::map(count, receive::HEAD_LEN + len)?;
        if multishot {
            let submitter = self.ring.submitter();
            // SAFETY: the pool calls this with the address of `count` zeroed entries in a page-aligned mapping that
            // never ends.
            pool.provide(|entries, count| unsafe {
                submitter.register_buf_ring_with_flags(entries, count, GROUP, 0)
            })?;
        }
        self.pool = Some(pool);
        Ok(())
    }

    /// Returns the buffer of a receive.
    pub fn give_back(&mut self, filled: Filled) {
        if let Some(pool) = &mut self.pool {
            pool.give_back(filled);
        }
    }

    /// Whether receives can be multishot. That has no probe of its own, but came with the same release (Linux 6.0) as
    /// the operation `SEND_ZC`, which has.
    pub fn has_multishot_receive(&self) -> bool {
        let mut probe = io_uring::Probe::new();
        self.ring.submitter().register_probe(&mut probe).is_ok() && probe.is_supported(opcode::SendZc::CODE)
    }

    /// Asks to be told once when `fd` is readable or its other end is closed, and with `room` also when it can be written to.
    pub fn poll(&mut self, fd: BorrowedFd<'_>, room: bool, token: Token) -> io::Result<()> {
        let events = libc::POLLIN | if room { libc::POLLOUT } else { 0 };
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), events as u32).build();
        // SAFETY: the operation reads and writes no memory of the process.
        unsafe { self.push(entry, token, None) }
    }

    /// Ends the operation in flight on `fd` whose results come with `token`: no more of them come. Before Linux 5.19 it goes on,
    /// and keeps what `fd` stands for open, as long as the ring.
    pub fn cancel(&mut self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let all = types::CancelBuilder::fd(types::Fd(fd.as_raw_fd())).all();
        // SAFETY: the operation reads and writes no memory of the process.
        unsafe { self.push(opcode::AsyncCancel2::new(all).build(), Token::Cancel, None) }?;
        let (mut cancelled, mut ended) = (false, false);
        while !(cancelled && ended) {
            enter(&self.ring, 1)?;
            while let Some(entry) = self.ring.completion().next() {
                let completion = read(&entry, &mut self.pool);
                if completion.token == Token::Cancel {
                    cancelled = true;
                    // None was there to be cancelled, or it cannot be.
                    ended |= !matches!(completion.result, Ok(1..));
                } else {
                    ended |= completion.token == token && !completion.more;
                    self.deferred.push_back(completion);
                }
            }
        }
        Ok(())
    }

    /// Submits what is queued and waits for completions.
    pub fn wait(&mut self, wait: Wait) -> io::Result<()> {
        self.check()?;
        if wait == Wait::Not {
            // A no-operation completes at once: the kernel runs its completion work and returns.
            // SAFETY: the operation reads and writes no memory of the process.
            unsafe { self.push(opcode::Nop::new().build(), Token::Wake, None) }?;
        }
        match wait {
            _ if !self.deferred.is_empty() => Ok(()),
            Wait::Not | Wait::First => enter(&self.ring, 1),
            Wait::Coalesced { .. } if !self.ring.params().is_feature_ext_arg() => enter(&self.ring, 1),
            Wait::Coalesced { count, time } => {
                let time = types::Timespec::from(time);
                let arguments = types::SubmitArgs::new().timespec(&time);
                tolerate(self.ring.submitter().submit_with_args(count, &arguments))
            }
        }
    }

    /// The next completion that is there.
    pub fn next_completion(&mut self) -> Option<Completion> {
        if let Some(completion) = self.deferred.pop_front() {
            return Some(completion);
        }
        let entry = self.ring.completion().next()?;
        Some(read(&entry, &mut self.pool))
    }

    fn check(&self) -> io::Result<()> {
        if self.poisoned { Err(io::Error::other("an earlier submission failed")) } else { Ok(()) }
    }

    /// # Safety
    /// What the entry points to stays valid until its completion.
    unsafe fn push(&mut self, entry: Entry, token: Token, buffer: Option<u16>) -> io::Result<()> {
        self.check()?;
        let entry = entry.user_data(UserData { token, buffer, form: Form::Plain }.pack());
        // SAFETY: passed on to the caller.
        unsafe { push_entry(&mut self.ring, &entry) }
    }
}

/// # Safety
/// What the entry points to stays valid until its completion.
unsafe fn push_entry(ring: &mut IoUring, entry: &Entry) -> io::Result<()> {
    loop {
        // SAFETY: passed on to the caller.
        if unsafe { ring.submission().push(entry) }.is_ok() {
            return Ok(());
        }
        // The queue is full: the kernel takes what is there.
        enter(ring, 0)?;
    }
}

/// What a restricted ring allows: these operations, with no flag but that of a receive into provided buffers.
fn restrictions() -> [Restriction; 8] {
    [
        Restriction::sqe_op(opcode::Nop::CODE),
        Restriction::sqe_op(opcode::PollAdd::CODE),
        Restriction::sqe_op(opcode::Recv::CODE), // the multishot kind, too
        Restriction::sqe_op(opcode::RecvMsg::CODE), // likewise
        Restriction::sqe_op(opcode::Send::CODE),
        Restriction::sqe_op(opcode::SendMsg::CODE),
        Restriction::sqe_op(opcode::AsyncCancel::CODE),
        Restriction::sqe_flags_allowed(squeue::Flags::BUFFER_SELECT.bits()),
    ]
}

fn enter(ring: &IoUring, want: usize) -> io::Result<()> {
    tolerate(ring.submit_and_wait(want))
}

/// Lets pass what only says that the caller is to take what is there and come again: the time is over, a signal came, or
/// memory is short for a moment.
fn tolerate(entered: io::Result<usize>) -> io::Result<()> {
    const COME_AGAIN: [i32; 4] = [libc::ETIME, libc::EINTR, libc::EBUSY, libc::EAGAIN];
    match entered {
        Err(error) if error.raw_os_error().is_none_or(|errno| !COME_AGAIN.contains(&errno)) => Err(error),
        _ => Ok(()),
    }
}

/// Reads a completion and takes the buffer that it brings.
fn read(entry: &cqueue::Entry, pool: &mut Option<BufferPool>) -> Completion {
    let UserData { token, buffer, form } = UserData::unpack(entry.user_data());
    let mut result = usize::try_from(entry.result()).map_err(|_| -entry.result());
    let buffer = buffer.or_else(|| cqueue::buffer_select(entry.flags()));
    let len = result.map_or(0, |result| form.filled_len(result));
    let mut filled = pool.as_mut().and_then(|pool| pool.claim(buffer?, len));
    if let (Ok(result), Some(whole)) = (&mut result, filled.take_if(|_| form != Form::Plain)) {
        let (len, opened) = form.open(*result, whole);
        *result = len;
        filled = Some(opened);
    }
    Completion { token, result, more: cqueue::more(entry.flags()), filled }
}

#[cfg(test)]
mod tests;
