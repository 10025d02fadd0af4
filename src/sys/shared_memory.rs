//! Memory that processes share: numbers that any of them may read and write at any time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Numbers of a record: two lines of the processor's cache.
pub const RECORD_LEN: usize = 16;
/// Numbers that belong together.
pub type Record = [AtomicU64; RECORD_LEN];

/// Shared memory, mapped as long as this lives. What no process has written is zero, and takes no memory.
#[derive(Debug)]
pub struct SharedMemory {
    memory: OwnedFd,
    start: NonNull<Record>,
    count: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedMemory {}
// SAFETY: there is access to atomic numbers only.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes memory for `count` records under a name for who looks at `/proc/<pid>/maps`.
    pub fn new(name: &str, count: usize) -> io::Result<Self> {
        let memory = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memory, (count * size_of::<Record>()) as u64)?;
        // Whoever else gets it cannot take it away.
        rustix::fs::fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Self::map(memory, count)
    }

    /// Maps memory that [`SharedMemory::new`] has made in another process.
    ///
    /// # Errors
    /// `InvalidData` when it has not `count` records, or could be taken away while it is mapped.
    pub fn open(memory: OwnedFd, count: usize) -> io::Result<Self> {
        let is_sealed = rustix::fs::fcntl_get_seals(&memory)?.contains(SealFlags::SHRINK);
        let len = rustix::fs::fstat(&memory)?.st_size;
        if !is_sealed || u64::try_from(len) != Ok((count * size_of::<Record>()) as u64) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Self::map(memory, count)
    }

    fn map(memory: OwnedFd, count: usize) -> io::Result<Self> {
        let (access, len) = (ProtFlags::READ | ProtFlags::WRITE, count * size_of::<Record>());
        // SAFETY: a mapping at an address of the kernel's choice touches no memory in use.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, &memory, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory, start, count })
    }

    /// All records.
    pub fn records(&self) -> &[Record] {
        // SAFETY: `count` records are mapped as long as this lives, and cannot go before, for the memory is sealed. It is
        // aligned to a page, and any bytes are atomic numbers.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl AsFd for SharedMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the range is that of a successful mmap, and what was borrowed from it borrowed this.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.count * size_of::<Record>()) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn what_one_writes_another_reads() {
        let one = SharedMemory::new("test", 3).unwrap();
        let other = SharedMemory::open(one.as_fd().try_clone_to_owned().unwrap(), 3).unwrap();
        one.records()[2][15].store(7, Ordering::Relaxed);
        assert_eq!(other.records()[2][15].load(Ordering::Relaxed), 7);
        assert_eq!(other.records().len(), 3);
        assert!(other.records()[..2].iter().flatten().all(|number| number.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn memory_that_could_be_taken_away_is_refused() {
        let memory = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&memory, size_of::<Record>() as u64).unwrap();
        assert!(SharedMemory::open(memory, 1).is_err());
        let shared = SharedMemory::new("test", 2).unwrap();
        assert!(SharedMemory::open(shared.as_fd().try_clone_to_owned().unwrap(), 1).is_err(), "another size");
        assert!(rustix::fs::ftruncate(&shared, 0).is_err());
    }
}
