//! One `io_uring` for everything a worker waits for: receives, sends, and the stop signal.
//!
//! Sends borrow their payload, so [`Uring::send_all`] returns only when the kernel holds none of them. Receives write
//! to buffers that the ring owns, and a completed one brings its buffer along.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::squeue::Entry;
use io_uring::{IoUring, cqueue, opcode, types};

use super::buffer_pool::{BufferPool, Filled};

/// The largest batch of [`Uring::send_all`]. The submission queue holds twice that, so that a batch always fits.
pub const SEND_BATCH: usize = 256;
const SUBMISSIONS: u32 = 2 * SEND_BATCH as u32;

/// The one group of provided buffers that a ring has.
const GROUP: u16 = 0;

/// What a completion belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// The stop signal.
    Stop,
    /// A receive on the input with this number.
    Receive(u16),
    /// A no-operation that only ends a wait.
    Wake,
    /// The send with this place in its batch.
    Send(u32),
}

/// What an entry's user data say: the token, and the buffer of a receive that brings its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct UserData {
    token: Token,
    buffer: Option<u16>,
}

impl UserData {
    // Bits 0..32: a number; 32..48: the buffer; 48: whether there is one; 56..: the kind of token.
    fn pack(self) -> u64 {
        let (kind, number) = match self.token {
            Token::Stop => (0, 0),
            Token::Receive(input) => (1, u64::from(input)),
            Token::Wake => (2, 0),
            Token::Send(place) => (3, u64::from(place)),
        };
        kind << 56 | self.buffer.map_or(0, |buffer| 1 << 48 | u64::from(buffer) << 32) | number
    }

    fn unpack(data: u64) -> Self {
        let token = match data >> 56 {
            0 => Token::Stop,
            1 => Token::Receive(data as u16),
            2 => Token::Wake,
            _ => Token::Send(data as u32),
        };
        Self { token, buffer: (data >> 48 & 1 != 0).then_some((data >> 32) as u16) }
    }
}

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

/// One datagram to send.
#[derive(Clone, Copy, Debug)]
pub struct Send<'a> {
    /// A connected socket.
    pub socket: BorrowedFd<'a>,
    /// What the datagram carries.
    pub payload: &'a [u8],
}

/// An `io_uring` that belongs to one thread.
pub struct Uring {
    ring: IoUring,
    pool: Option<BufferPool>,
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
        let build = |configure: fn(&mut io_uring::Builder)| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(completions.max(SUBMISSIONS));
            configure(&mut builder);
            builder.build(SUBMISSIONS)
        };
        // Completion work runs when this thread asks for it, not when it interrupts (Linux 6.1); else whenever the
        // thread enters the kernel (5.19); else as the kernel likes.
        let ring = build(|builder| _ = builder.setup_single_issuer().setup_defer_taskrun())
            .or_else(|_| build(|builder| _ = builder.setup_coop_taskrun()))
            .or_else(|_| build(|_| ()))?;
        let deferred = VecDeque::with_capacity(completions as usize);
        Ok(Self { ring, pool: None, deferred, poisoned: false, _not_send: PhantomData })
    }

    /// Gives the ring its receive buffers: `count` of them, a power of two, of at least `len` bytes. With
    /// `multishot`, the kernel takes them as it needs them.
    pub fn set_buffers(&mut self, count: u16, len: usize, multishot: bool) -> io::Result<()> {
        if self.pool.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut pool = BufferPool::map(count, len)?;
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

    /// Bytes of each receive buffer.
    pub fn buffer_len(&self) -> usize {
        self.pool.as_ref().map_or(0, BufferPool::buffer_len)
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

    /// Asks to be told once when `fd` is readable or its other end is closed.
    pub fn poll(&mut self, fd: BorrowedFd<'_>, token: Token) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        // SAFETY: the operation reads and writes no memory of the process.
        unsafe { self.push(entry, token, None) }
    }

    /// Receives into provided buffers until an error ends it (Linux 6.0).
    pub fn receive_multishot(&mut self, socket: BorrowedFd<'_>, input: u16) -> io::Result<()> {
        let entry =
            opcode::RecvMulti::new(types::Fd(socket.as_raw_fd()), GROUP).flags(libc::MSG_TRUNC).build();
        // SAFETY: the kernel writes to provided buffers only, which are mapped as long as the process.
        unsafe { self.push(entry, Token::Receive(input), None) }
    }

    /// Receives once into a free buffer; `false` when none is free.
    pub fn receive_once(&mut self, socket: BorrowedFd<'_>, input: u16) -> io::Result<bool> {
        let Some((id, start, len)) = self.pool.as_mut().and_then(BufferPool::take_free) else {
            return Ok(false);
        };
        let fd = types::Fd(socket.as_raw_fd());
        let entry = opcode::Recv::new(fd, start.as_ptr(), len).flags(libc::MSG_TRUNC).build();
        // SAFETY: `take_free` has made the buffer the kernel's until its completion, and it is mapped as long as the
        // process.
        let pushed = unsafe { self.push(entry, Token::Receive(input), Some(id)) };
        if let (Err(_), Some(pool)) = (&pushed, &mut self.pool) {
            pool.reclaim(id);
        }
        pushed.map(|()| true)
    }

    /// Submits what is queued and waits until there is a completion; with `block` unset it only collects what is
    /// there.
    pub fn wait(&mut self, block: bool) -> io::Result<()> {
        self.check()?;
        if !block {
            // A no-operation completes at once: the kernel runs its completion work and returns.
            // SAFETY: the operation reads and writes no memory of the process.
            unsafe { self.push(opcode::Nop::new().build(), Token::Wake, None) }?;
        }
        if self.deferred.is_empty() { enter(&self.ring, 1) } else { Ok(()) }
    }

    /// The next completion that is there.
    pub fn next_completion(&mut self) -> Option<Completion> {
        if let Some(completion) = self.deferred.pop_front() {
            return Some(completion);
        }
        let entry = self.ring.completion().next()?;
        Some(read(&entry, &mut self.pool))
    }

    /// Sends at most [`SEND_BATCH`] datagrams in order, without waiting for room in a socket's buffer, and tells
    /// `done` the result of each. When it returns the kernel holds none of the payloads. After an error the ring is
    /// of no further use.
    pub fn send_all(
        &mut self,
        sends: &[Send<'_>],
        mut done: impl FnMut(usize, Result<usize, i32>),
    ) -> io::Result<()> {
        self.check()?;
        // Until the end: on an error, and when `done` panics, entries that must never be submitted can be left.
        self.poisoned = true;
        for (place, send) in sends.iter().enumerate() {
            let fd = types::Fd(send.socket.as_raw_fd());
            let length = send.payload.len() as u32;
            let entry =
                opcode::Send::new(fd, send.payload.as_ptr(), length).flags(libc::MSG_DONTWAIT).build();
            let data = UserData { token: Token::Send(place as u32), buffer: None };
            // SAFETY: the payload is borrowed until this function returns, which is after its completion, or with the
            // ring poisoned so that the entry is never submitted. A submitted send with MSG_DONTWAIT never waits, so
            // none is in flight when the kernel returns from submitting it.
            unsafe { push_entry(&mut self.ring, &entry.user_data(data.pack())) }?;
        }
        let mut pending = sends.len();
        while pending > 0 {
            enter(&self.ring, 1)?;
            for entry in self.ring.completion() {
                let completion = read(&entry, &mut self.pool);
                match completion.token {
                    Token::Send(place) => {
                        pending = pending.saturating_sub(1);
                        done(place as usize, completion.result);
                    }
                    _ => self.deferred.push_back(completion),
                }
            }
        }
        self.poisoned = false;
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        if self.poisoned { Err(io::Error::other("an earlier submission failed")) } else { Ok(()) }
    }

    /// # Safety
    /// What the entry points to stays valid until its completion.
    unsafe fn push(&mut self, entry: Entry, token: Token, buffer: Option<u16>) -> io::Result<()> {
        self.check()?;
        let entry = entry.user_data(UserData { token, buffer }.pack());
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

fn enter(ring: &IoUring, want: usize) -> io::Result<()> {
    match ring.submit_and_wait(want) {
        Ok(_) => Ok(()),
        // A signal came, or memory is short for a moment: the caller takes what is there and comes again.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) => {
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Reads a completion and takes the buffer that it brings.
fn read(entry: &cqueue::Entry, pool: &mut Option<BufferPool>) -> Completion {
    let UserData { token, buffer } = UserData::unpack(entry.user_data());
    let result = usize::try_from(entry.result()).map_err(|_| -entry.result());
    let buffer = buffer.or_else(|| cqueue::buffer_select(entry.flags()));
    let len = result.unwrap_or(0);
    let filled = pool.as_mut().and_then(|pool| pool.claim(buffer?, len));
    Completion { token, result, more: cqueue::more(entry.flags()), filled }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        (sender, receiver)
    }

    fn next(ring: &mut Uring) -> Completion {
        ring.wait(true).unwrap();
        ring.next_completion().unwrap()
    }

    #[test]
    fn user_data_survives_packing() {
        for token in [Token::Stop, Token::Receive(65_535), Token::Wake, Token::Send(255)] {
            for buffer in [None, Some(0), Some(32_767)] {
                let data = UserData { token, buffer };
                assert_eq!(UserData::unpack(data.pack()), data);
            }
        }
    }

    #[test]
    fn a_failed_batch_is_never_submitted_later() {
        let (sender, receiver) = pair();
        let mut ring = Uring::new(1_024).unwrap();
        let payload = b"gone".to_vec();
        let sends = [Send { socket: sender.as_fd(), payload: &payload }; 2];
        // A batch that ends before its time, as one that the kernel refuses to take would.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ring.send_all(&sends, |_, _| panic!("before its time"))
        }));
        assert!(ended.is_err());
        drop(payload);
        assert!(ring.wait(true).is_err() && ring.wait(false).is_err());
        assert!(ring.poll(receiver.as_fd(), Token::Stop).is_err());
        assert!(ring.send_all(&[], |_, _| ()).is_err());
    }

    #[test]
    fn sends_arrive_in_order_and_every_result_is_told() {
        let (sender, receiver) = pair();
        let mut ring = Uring::new(1_024).unwrap();
        let payloads: Vec<_> = (0..SEND_BATCH).map(|i| vec![i as u8; i % 9 + 1]).collect();
        let sends: Vec<_> = payloads.iter().map(|payload| Send { socket: sender.as_fd(), payload }).collect();
        let mut results = vec![None; SEND_BATCH];
        ring.send_all(&sends, |place, result| results[place] = Some(result)).unwrap();
        let mut buffer = [0; 100];
        for (payload, result) in payloads.iter().zip(results) {
            assert_eq!(result, Some(Ok(payload.len())));
            let len = receiver.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], payload);
        }
    }

    #[test]
    fn a_send_that_fails_names_its_errno_and_the_others_go_on() {
        let (sender, receiver) = pair();
        let mut ring = Uring::new(1_024).unwrap();
        let large = vec![0; 65_535];
        let sends = [&large[..], b"small"].map(|payload| Send { socket: sender.as_fd(), payload });
        let mut results = Vec::new();
        ring.send_all(&sends, |place, result| results.push((place, result))).unwrap();
        results.sort_unstable();
        assert_eq!(results, [(0, Err(libc::EMSGSIZE)), (1, Ok(5))]);
        assert_eq!(receiver.recv(&mut [0; 10]).unwrap(), 5);
    }

    #[test]
    fn a_full_socket_buffer_is_an_answer_not_a_wait() {
        let (sender, _receiver) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut ring = Uring::new(1_024).unwrap();
        let payload = vec![0; 4_096];
        let sends = vec![Send { socket: sender.as_fd(), payload: &payload }; SEND_BATCH];
        let mut refused = 0;
        ring.send_all(&sends, |_, result| refused += usize::from(result == Err(libc::EAGAIN))).unwrap();
        assert!(refused > 0 && refused < SEND_BATCH, "{refused} refused");
    }

    #[test]
    fn both_kinds_of_receive_fill_buffers_and_tell_the_whole_length() {
        for multishot in [true, false] {
            let (sender, receiver) = pair();
            let mut ring = Uring::new(1_024).unwrap();
            ring.set_buffers(4, 64, multishot).unwrap();
            assert!(ring.set_buffers(4, 64, multishot).is_err(), "a ring has one set of buffers");
            if multishot {
                ring.receive_multishot(receiver.as_fd(), 7).unwrap();
            }
            // More than there are buffers, so each is used again.
            for payload in [&b"first"[..], &[9; 100], b"3", b"4", b"5", b"6"] {
                if !multishot {
                    assert!(ring.receive_once(receiver.as_fd(), 7).unwrap());
                }
                sender.send(payload).unwrap();
                let completion = next(&mut ring);
                assert_eq!(completion.token, Token::Receive(7));
                assert_eq!((completion.result, completion.more), (Ok(payload.len()), multishot));
                let filled = completion.filled.unwrap();
                assert_eq!(filled.bytes(), &payload[..payload.len().min(64)]);
                ring.give_back(filled);
            }
        }
    }

    #[test]
    fn a_receive_needs_a_free_buffer() {
        let (_sender, receiver) = pair();
        let mut ring = Uring::new(1_024).unwrap();
        assert!(!ring.receive_once(receiver.as_fd(), 0).unwrap(), "no buffers yet");
        ring.set_buffers(1, 64, false).unwrap();
        assert!(ring.receive_once(receiver.as_fd(), 0).unwrap());
        assert!(!ring.receive_once(receiver.as_fd(), 0).unwrap(), "it is the kernel's");
    }

    #[test]
    fn receives_that_complete_during_sends_are_kept() {
        let (sender, receiver) = pair();
        let mut ring = Uring::new(1_024).unwrap();
        ring.set_buffers(4, 64, true).unwrap();
        ring.receive_multishot(receiver.as_fd(), 0).unwrap();
        ring.wait(false).unwrap();
        let sends = [Send { socket: sender.as_fd(), payload: b"x" }; 3];
        ring.send_all(&sends, |_, result| assert_eq!(result, Ok(1))).unwrap();
        let mut received = 0;
        while received < 3 {
            ring.wait(true).unwrap();
            while let Some(completion) = ring.next_completion() {
                received += usize::from(completion.token == Token::Receive(0));
            }
        }
    }

    #[test]
    fn a_closed_pipe_ends_a_wait() {
        let (reader, writer) = io::pipe().unwrap();
        let mut ring = Uring::new(1_024).unwrap();
        ring.poll(reader.as_fd(), Token::Stop).unwrap();
        drop(writer);
        assert_eq!(next(&mut ring).token, Token::Stop);
    }
}
