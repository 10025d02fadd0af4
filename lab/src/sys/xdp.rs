//! Live frames: the BPF program of `lab/bpf/generator.bpf.c` and the memory in which it finds what to send.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use aya::maps::Map;
use aya::maps::xdp::DevMap;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};

/// Most frames of a batch. The receive ring of a veth holds four times as many (`VETH_RING_SIZE`).
pub(crate) const MOST_FRAMES: usize = 64;
/// Longest frame: what a page of 4 KiB has left beside the kernel's own notes on a live frame.
pub(crate) const MOST_BYTES: usize = 3328;

static OBJECT: &[u8] = include_bytes_aligned!("../../bpf/generator.bpf.o");

/// The program in the kernel, the device it sends on, and a batch of frames of one length.
#[derive(Debug)]
pub(crate) struct LiveFrames {
    ebpf: Ebpf,
    batch: Batch,
    /// What the kernel makes its frames as long as. It also copies the contents, which are written over.
    blank: Vec<u8>,
}

impl LiveFrames {
    /// Brings the program for frames of `frame_bytes` (14 to [`MOST_BYTES`]) into the kernel. They lead nowhere yet.
    ///
    /// # Errors
    /// `EPERM` without privileges for BPF, `EINVAL` for another length or when this kernel knows no such program.
    pub(crate) fn load(frame_bytes: usize) -> io::Result<Self> {
        if frame_bytes > MOST_BYTES {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut ebpf = Ebpf::load(OBJECT).map_err(system_error)?;
        program(&mut ebpf)?.load().map_err(system_error)?;
        let Some(Map::Array(map)) = ebpf.map("batch") else { return Err(missing("batch")) };
        let batch = Batch::map(map.fd().as_fd(), frame_bytes as u32)?;
        Ok(Self { ebpf, batch, blank: vec![0; frame_bytes] })
    }

    /// Attaches the program to a device of the calling thread's network namespace as well, for as long as this lives.
    /// While it is on none, the kernel makes a call of its own for it and waits 25 ms for that, in every run. What
    /// that device receives between runs is dropped.
    ///
    /// # Errors
    /// `EBUSY` when the device has an XDP program.
    pub(crate) fn attach_to(&mut self, device: &str) -> io::Result<()> {
        program(&mut self.ebpf)?.attach(device, XdpMode::Skb).map(drop).map_err(system_error)
    }

    /// Sends on the device with this index in the calling thread's network namespace from now on.
    ///
    /// # Errors
    /// `EINVAL` when there is no such device or it takes no frames of XDP.
    pub(crate) fn lead_to(&mut self, interface_index: u32) -> io::Result<()> {
        let map = self.ebpf.map_mut("device").ok_or_else(|| missing("device"))?;
        let mut device = DevMap::try_from(map).map_err(system_error)?;
        device.set(0, interface_index, None, 0).map_err(system_error)
    }

    /// The frame in this slot; `None` behind the last, which is [`MOST_FRAMES`] - 1.
    pub(crate) fn slot(&mut self, index: usize) -> Option<&mut [u8]> {
        let length = self.blank.len();
        let start = if index < MOST_FRAMES { index * length } else { return None };
        self.batch.contents().get_mut(start..start + length)
    }

    /// Sends the frames in slots `first..end` and returns how many the program redirected, at least one: what became
    /// of them, the device's statistics tell.
    ///
    /// # Errors
    /// What the kernel said before the first of them; none was sent then.
    pub(crate) fn send(&mut self, first: usize, end: usize) -> io::Result<usize> {
        let end = end.min(MOST_FRAMES);
        if first >= end {
            return Ok(0);
        }
        self.batch.turn(first, end);
        let ran = program(&mut self.ebpf)?.test_run(TestRunOptions {
            data_in: Some(&self.blank),
            repeat: (end - first) as u32,
            attrs: TestRunAttrs::new().xdp_live_frames(MOST_FRAMES as u32),
            ..TestRunOptions::default()
        });
        match (self.batch.next() - first, ran) {
            (0, Err(error)) => Err(system_error(error)),
            (0, Ok(_)) => Err(io::Error::other("the BPF program of the generator did not run")),
            (done, _) => Ok(done),
        }
    }

    /// The frame that the program makes of this slot, without sending it.
    #[cfg(test)]
    pub(crate) fn dry_run(&mut self, slot: usize) -> io::Result<Vec<u8>> {
        self.batch.turn(slot, slot + 1);
        let mut out = vec![0; self.blank.len()];
        let options = TestRunOptions {
            data_in: Some(&self.blank),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf)?.test_run(options).map_err(system_error)?;
        Ok(out)
    }
}

/// The kernel's `struct batch` of `generator.bpf.c`: four numbers, then the contents.
const HEADER_BYTES: usize = 16;
const CONTENTS_BYTES: usize = MOST_FRAMES * MOST_BYTES;
/// Indices of the numbers.
const FRAMES: usize = 0;
const BYTES: usize = 1;
const NEXT: usize = 2;

/// The memory of the map, shared with the program.
#[derive(Debug)]
struct Batch {
    memory: NonNull<u8>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for Batch {}

impl Batch {
    fn map(map: BorrowedFd<'_>, frame_bytes: u32) -> io::Result<Self> {
        let (access, length) = (libc::PROT_READ | libc::PROT_WRITE, HEADER_BYTES + CONTENTS_BYTES);
        // SAFETY: a mapping at an address of the kernel's choice touches no memory of ours.
        let memory = unsafe {
            libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, map.as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        let batch = Self { memory };
        batch.header(BYTES).store(frame_bytes, Ordering::Relaxed);
        Ok(batch)
    }

    /// One of the numbers. The program reads and writes them during [`LiveFrames::send`], on the CPU of the caller.
    fn header(&self, index: usize) -> &AtomicU32 {
        let number = self.memory.cast::<AtomicU32>();
        // SAFETY: the callers' indices are those of the constants above, inside the header, which `map` made sure is
        // there by mapping it whole.
        let number = unsafe { number.add(index) };
        // SAFETY: page-aligned plus a multiple of 4, mapped as long as `self` lives, and nobody uses it but as atomic.
        unsafe { number.as_ref() }
    }

    /// Tells the program to send slots `first..end`.
    fn turn(&self, first: usize, end: usize) {
        self.header(NEXT).store(first as u32, Ordering::Relaxed);
        self.header(FRAMES).store(end as u32, Ordering::Relaxed);
    }

    /// The slot whose turn it is.
    fn next(&self) -> usize {
        self.header(NEXT).load(Ordering::Relaxed) as usize
    }

    fn contents(&mut self) -> &mut [u8] {
        // SAFETY: the contents follow the header in the same mapping.
        let start = unsafe { self.memory.add(HEADER_BYTES) };
        // SAFETY: `map` mapped this many bytes behind the header, and `self` is borrowed for as long as the slice is:
        // the program only reads them, and runs in `LiveFrames::send`, which borrows `self` too.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), CONTENTS_BYTES) }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: address and length are those that `map` was given, and no borrow outlives `self`. It cannot fail.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), HEADER_BYTES + CONTENTS_BYTES) };
    }
}

fn program(ebpf: &mut Ebpf) -> io::Result<&mut Xdp> {
    let program = ebpf.program_mut("generate").ok_or_else(|| missing("generate"))?;
    program.try_into().map_err(system_error)
}

fn missing(name: &str) -> io::Error {
    io::Error::other(format!("the BPF object of the generator has no \"{name}\""))
}

/// The kernel's answer inside an error of aya's, or else the words of that.
fn system_error(error: impl Error + Send + Sync + 'static) -> io::Error {
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while let Some(inner) = cause {
        let errno = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
        if let Some(errno) = errno {
            return io::Error::from_raw_os_error(errno);
        }
        cause = inner.source();
    }
    io::Error::other(error)
}
