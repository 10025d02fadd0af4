//! Receive buffers that pass between the kernel and the relay.
//!
//! A buffer is free, or the kernel's (an operation may write to it), or the caller's as a [`Filled`]. The pool keeps
//! account of which, so a slice of a buffer exists only while the kernel does not have it. Each ring has a pool of its
//! own, and only the ring makes a [`Filled`], of a completion that it takes from the kernel.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::BufRingEntry;

/// The largest number of buffers, a limit of provided-buffer rings.
pub const MAX_BUFFERS: u16 = 1 << 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Free,
    Kernel,
    Caller,
}

/// A buffer that the kernel has filled and given up. Give it back to the ring that it came from; one that is dropped
/// instead is never used again.
#[derive(Debug)]
pub struct Filled {
    id: u16,
    start: NonNull<u8>,
    len: usize,
    /// Where in it what has come begins, at most at `len`.
    begin: usize,
    tag: Option<u16>,
}

impl Filled {
    /// What has come.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `claim` made this when the kernel gave the buffer up, with `len` within the buffer. Nobody else has
        // the buffer until `give_back` consumes this, which ends the borrow; its mapping never ends.
        let whole = unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) };
        whole.get(self.begin..).unwrap_or_default()
    }

    /// The VLAN tag that the kernel has taken out of what has come, if it was asked to tell.
    pub fn tag(&self) -> Option<u16> {
        self.tag
    }

    /// The same where what has come begins only behind so many bytes, and has this tag.
    pub(super) fn behind(self, begin: usize, tag: Option<u16>) -> Self {
        Self { begin, tag, ..self }
    }
}

/// Equal buffers in memory that stays mapped as long as the process: a receive in flight may write to its buffer even
/// after the ring that it was submitted to is closed. A worker lives as long as its process, so nothing is wasted.
#[derive(Debug)]
pub(super) struct BufferPool {
    memory: NonNull<u8>,
    stride: usize,
    owners: Box<[Owner]>,
    provided: Option<ProvidedRing>,
}

impl BufferPool {
    /// Maps `count` buffers, a power of two up to [`MAX_BUFFERS`], of at least `len` bytes each.
    pub(super) fn map(count: u16, len: usize) -> io::Result<Self> {
        if !count.is_power_of_two() || count > MAX_BUFFERS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Whole cache lines, so that the kernel never writes to a line of a buffer that is being read.
        let stride = len.next_multiple_of(64);
        let total = stride.checked_mul(count.into()).ok_or(io::ErrorKind::InvalidInput)?;
        let memory = map_forever(total)?;
        Ok(Self { memory, stride, owners: vec![Owner::Free; count.into()].into(), provided: None })
    }

    /// Makes every buffer the kernel's, by way of a provided-buffer ring that `register` makes known to it. Only for a
    /// pool of which no buffer has been taken yet.
    pub(super) fn provide(&mut self, register: impl FnOnce(u64, u16) -> io::Result<()>) -> io::Result<()> {
        let count = self.owners.len() as u16;
        if self.owners.iter().any(|owner| *owner != Owner::Free) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut provided = ProvidedRing::map(count)?;
        register(provided.entries.as_ptr() as u64, count)?;
        for id in 0..count {
            self.set_owner(id, Owner::Kernel);
            provided.publish(self.start_of(id), self.stride as u32, id);
        }
        self.provided = Some(provided);
        Ok(())
    }

    /// A free buffer becomes the kernel's: its number, address and length.
    pub(super) fn take_free(&mut self) -> Option<(u16, NonNull<u8>, u32)> {
        let id = self.owners.iter().position(|owner| *owner == Owner::Free)? as u16;
        self.set_owner(id, Owner::Kernel);
        Some((id, self.start_of(id), self.stride as u32))
    }

    /// The operation that [`BufferPool::take_free`] was for has not begun.
    pub(super) fn reclaim(&mut self, id: u16) {
        self.set_owner(id, Owner::Free);
    }

    /// The kernel has completed an operation on buffer `id` and written `len` bytes to it. `None` when the buffer was
    /// not the kernel's, which would be a fault of the kernel.
    pub(super) fn claim(&mut self, id: u16, len: usize) -> Option<Filled> {
        if *self.owners.get(usize::from(id))? != Owner::Kernel {
            return None;
        }
        self.set_owner(id, Owner::Caller);
        let (start, len) = (self.start_of(id), len.min(self.stride));
        Some(Filled { id, start, len, begin: 0, tag: None })
    }

    /// Returns a buffer, to the kernel if its buffers are provided.
    #[allow(clippy::needless_pass_by_value)] // Taking it by value is what ends its use.
    pub(super) fn give_back(&mut self, filled: Filled) {
        let Filled { id, start, .. } = filled;
        if usize::from(id) >= self.owners.len() || start != self.start_of(id) {
            return; // Another ring's: this one has nothing to do with it.
        }
        if let Some(provided) = &mut self.provided {
            provided.publish(start, self.stride as u32, id);
            self.set_owner(id, Owner::Kernel);
        } else {
            self.set_owner(id, Owner::Free);
        }
    }

    fn set_owner(&mut self, id: u16, owner: Owner) {
        if let Some(slot) = self.owners.get_mut(usize::from(id)) {
            *slot = owner;
        }
    }

    fn start_of(&self, id: u16) -> NonNull<u8> {
        debug_assert!(usize::from(id) < self.owners.len());
        // SAFETY: the mapping has `stride` bytes for each of the buffers, and `id` is below their number: the callers
        // take it from `owners` or check it against `owners`.
        unsafe { self.memory.add(usize::from(id) * self.stride) }
    }
}

/// The ring through which buffers are provided to the kernel (`io_uring_register_buf_ring(3)`).
#[derive(Debug)]
struct ProvidedRing {
    entries: NonNull<BufRingEntry>,
    count: u16,
    tail: u16,
}

impl ProvidedRing {
    fn map(count: u16) -> io::Result<Self> {
        let entries = map_forever(usize::from(count) * size_of::<BufRingEntry>())?.cast();
        Ok(Self { entries, count, tail: 0 })
    }

    fn publish(&mut self, start: NonNull<u8>, len: u32, id: u16) {
        let index = usize::from(self.tail & (self.count - 1));
        // SAFETY: `index` is below `count`, a power of two, and the mapping has `count` entries.
        let entry = unsafe { self.entries.add(index) };
        // SAFETY: the entry is within the mapping. The kernel reads entries below the tail only, and this one is not
        // there before the store at the end; there are as many entries as buffers, so none is overwritten unread.
        let entry = unsafe { &mut *entry.as_ptr() };
        entry.set_addr(start.as_ptr() as u64);
        entry.set_len(len);
        entry.set_bid(id);
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the pointer is to the first entry of the ring, whose reserved field is the ring's tail.
        let tail = unsafe { BufRingEntry::tail(self.entries.as_ptr()) };
        // SAFETY: the tail lies in the mapping, which never ends; all access after registration is atomic.
        let tail = unsafe { AtomicU16::from_ptr(tail.cast_mut()) };
        // Pairs with the kernel's smp_load_acquire of `br->tail` in io_ring_buffer_select: it sees the entry first.
        tail.store(self.tail, Ordering::Release);
    }
}

/// Maps zeroed, page-aligned memory that is never unmapped.
fn map_forever(len: usize) -> io::Result<NonNull<u8>> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory in use.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(start.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_one_owner_at_a_time() {
        let mut pool = BufferPool::map(2, 100).unwrap();
        assert_eq!(pool.stride, 128);
        assert!(pool.claim(0, 10).is_none(), "not the kernel's yet");
        let (first, ..) = pool.take_free().unwrap();
        let (second, ..) = pool.take_free().unwrap();
        assert!(first != second && pool.take_free().is_none());
        let filled = pool.claim(first, 1_000).unwrap();
        assert_eq!(filled.bytes().len(), 128, "never more than the buffer");
        assert!(pool.claim(first, 10).is_none(), "already lent");
        assert!(pool.claim(9, 10).is_none(), "no such buffer");
        pool.give_back(filled);
        assert_eq!(pool.take_free().unwrap().0, first);
    }

    #[test]
    fn another_pools_buffer_is_not_taken() {
        let (mut one, mut other) = (BufferPool::map(1, 64).unwrap(), BufferPool::map(1, 64).unwrap());
        let id = one.take_free().unwrap().0;
        other.take_free().unwrap();
        other.give_back(one.claim(id, 1).unwrap());
        assert!(other.take_free().is_none());
    }

    #[test]
    fn buffers_are_provided_once_and_only_while_none_is_in_use() {
        let mut pool = BufferPool::map(2, 64).unwrap();
        pool.take_free().unwrap();
        assert!(pool.provide(|_, _| Ok(())).is_err());
        pool.reclaim(0);
        pool.provide(|_, _| Ok(())).unwrap();
        assert!(pool.provide(|_, _| Ok(())).is_err());
    }

    #[test]
    fn a_count_that_is_no_power_of_two_is_refused() {
        assert!(BufferPool::map(0, 64).is_err() && BufferPool::map(3, 64).is_err());
    }
}
