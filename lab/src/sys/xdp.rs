//! Live frames: the BPF program of `lab/bpf/generator.bpf.c` and the ring in which it finds what to send.

use std::error::Error;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::Map;
use aya::maps::xdp::DevMap;
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp, XdpMode};

use crate::bpf;

/// Longest frame: what a page of 4 KiB has left beside the kernel's own notes on a live frame.
pub(crate) const MOST_BYTES: usize = 3328;
/// Most frames in the ring ...
const MOST_SLOTS: usize = 4096;
/// ... and most bytes.
const CONTENTS_BYTES: usize = 2 << 20;
/// Slots begin at multiples of this, a cache line.
const SLOT_ALIGNMENT: usize = 64;

/// What the program changes in a frame when it sends it.
#[derive(Clone, Debug)]
pub(crate) struct Stamp {
    /// Where the time goes, big endian, ns of `CLOCK_REALTIME`; zero before.
    pub(crate) at: usize,
    /// Where the CRC-32 over it is, big endian.
    pub(crate) crc_at: usize,
    /// Where the UDP checksum over both is. All three are at an even distance from each other.
    pub(crate) checksum_at: usize,
    /// What each value of each byte of the time changes in the CRC-32.
    pub(crate) crc: Box<[[u32; 256]; 8]>,
}

/// The program in the kernel, the device it sends on, and a ring of frames of one length.
#[derive(Debug)]
pub(crate) struct LiveFrames {
    ebpf: Ebpf,
    ring: Ring,
    slots: usize,
    slot_bytes: usize,
    /// What the kernel makes its frames as long as. It also copies the contents, which are written over.
    blank: Vec<u8>,
}

impl LiveFrames {
    /// Brings the program for frames of `frame_bytes` (14 to [`MOST_BYTES`]) into the kernel. They lead nowhere yet.
    ///
    /// # Errors
    /// `EPERM` without privileges for BPF, `EINVAL` for another length or where the kernel knows no such program.
    pub(crate) fn load(frame_bytes: usize, stamp: Option<&Stamp>) -> io::Result<Self> {
        if frame_bytes == 0 || frame_bytes > MOST_BYTES {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let mut ebpf = Ebpf::load(&bpf::generator()).map_err(system_error)?;
        program(&mut ebpf)?.load().map_err(system_error)?;
        let Some(Map::Array(map)) = ebpf.map("ring") else { return Err(missing("ring")) };
        let mut ring = Ring::map(map.fd().as_fd())?;
        let slot_bytes = frame_bytes.next_multiple_of(SLOT_ALIGNMENT);
        // The program asks for room for the longest frame in every slot.
        let slots = ((CONTENTS_BYTES - MOST_BYTES) / slot_bytes).min(MOST_SLOTS);
        ring.describe(frame_bytes, slots, slot_bytes, stamp);
        Ok(Self { ebpf, ring, slots, slot_bytes, blank: vec![0; frame_bytes] })
    }

    /// Attaches the program to a device of the calling thread's network namespace as well, for as long as this lives.
    /// While it is on none, the kernel sets up a way to call it in every run, and waits 25 ms for that. What the
    /// device receives is dropped.
    ///
    /// # Errors
    /// `EBUSY` when the device has an XDP program.
    pub(crate) fn attach_to(&mut self, device: &str) -> io::Result<()> {
        program(&mut self.ebpf)?.attach(device, XdpMode::Skb).map(drop).map_err(system_error)
    }

    /// Sends on the device with this index in the calling thread's network namespace from now on.
    ///
    /// # Errors
    /// `EINVAL` when there is no such device.
    pub(crate) fn lead_to(&mut self, interface_index: u32) -> io::Result<()> {
        let map = self.ebpf.map_mut("device").ok_or_else(|| missing("device"))?;
        let mut device = DevMap::try_from(map).map_err(system_error)?;
        device.set(0, interface_index, None, 0).map_err(system_error)
    }

    /// Empties the ring and counts from 0 again. From now on `to_realtime_ns`, added modulo 2^64, makes `CLOCK_REALTIME`
    /// of `CLOCK_MONOTONIC`.
    pub(crate) fn begin(&mut self, to_realtime_ns: u64) {
        for (at, value) in [
            (offset_of!(Shared, filled), 0),
            (offset_of!(Shared, sent), 0),
            (offset_of!(Shared, to_realtime_ns), to_realtime_ns),
        ] {
            self.ring.number(at).store(value, Ordering::Relaxed);
        }
        self.ring.small(offset_of!(Shared, next)).store(0, Ordering::Relaxed);
    }

    /// The frame in the next free slot, to be written in whole and then [`Self::commit`]ted; `None` while all wait.
    pub(crate) fn free_slot(&mut self) -> Option<&mut [u8]> {
        let filled = self.filled();
        if filled - self.sent() >= self.slots as u64 {
            return None;
        }
        let start = self.slot_of(filled) * self.slot_bytes;
        let length = self.blank.len();
        self.ring.contents().get_mut(start..start + length)
    }

    /// Leaves the frame in the next free slot to the program, to be sent at `due_ns` of `CLOCK_MONOTONIC` or later.
    pub(crate) fn commit(&mut self, due_ns: u64) {
        let filled = self.filled();
        self.times(filled).0.store(due_ns, Ordering::Relaxed);
        self.ring.number(offset_of!(Shared, filled)).store(filled + 1, Ordering::Relaxed);
    }

    /// Gives up what waits, as if it had been sent, and returns how many that are.
    pub(crate) fn discard(&mut self) -> u64 {
        let (filled, sent) = (self.filled(), self.sent());
        self.ring.number(offset_of!(Shared, sent)).store(filled, Ordering::Relaxed);
        self.ring.small(offset_of!(Shared, next)).store(self.slot_of(filled) as u32, Ordering::Relaxed);
        filled - sent
    }

    /// How many frames the program has sent since [`Self::begin`]: redirected to the device. What became of them there
    /// the statistics of the device tell.
    pub(crate) fn sent(&self) -> u64 {
        self.ring.number(offset_of!(Shared, sent)).load(Ordering::Relaxed)
    }

    /// When a frame is due, ns of `CLOCK_MONOTONIC`. `index` counts from 0; its slot must not have been filled again.
    pub(crate) fn due_ns(&self, index: u64) -> u64 {
        self.times(index).0.load(Ordering::Relaxed)
    }

    /// When a frame was sent, likewise.
    pub(crate) fn sent_ns(&self, index: u64) -> u64 {
        self.times(index).1.load(Ordering::Relaxed)
    }

    /// Lets the program pass `passes` times; in each it sends a frame if one is due. After every `batch` passes (1 to
    /// 256) the kernel hands over to the device, which then receives in this thread's time.
    ///
    /// # Errors
    /// `EINTR` for a signal, `ENOMEM` without memory for frames. What was sent before counts.
    pub(crate) fn run(&mut self, passes: u32, batch: u32) -> io::Result<()> {
        let options = TestRunOptions {
            data_in: Some(&self.blank),
            repeat: passes,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf)?.test_run(options).map(drop).map_err(system_error)
    }

    /// The next frame as it would be sent.
    #[cfg(test)]
    pub(crate) fn dry_run(&mut self) -> io::Result<Vec<u8>> {
        let mut out = vec![0; self.blank.len()];
        let options = TestRunOptions {
            data_in: Some(&self.blank),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        program(&mut self.ebpf)?.test_run(options).map_err(system_error)?;
        Ok(out)
    }

    fn filled(&self) -> u64 {
        self.ring.number(offset_of!(Shared, filled)).load(Ordering::Relaxed)
    }

    fn slot_of(&self, index: u64) -> usize {
        (index % self.slots as u64) as usize
    }

    /// When a frame is due and when it was sent.
    fn times(&self, index: u64) -> (&AtomicU64, &AtomicU64) {
        let at = offset_of!(Shared, times) + self.slot_of(index) * size_of::<Times>();
        (self.ring.number(at + offset_of!(Times, due_ns)), self.ring.number(at + offset_of!(Times, sent_ns)))
    }
}

/// `struct times` of `generator.bpf.c`.
#[repr(C)]
struct Times {
    due_ns: u64,
    sent_ns: u64,
}

/// `struct ring` of `generator.bpf.c`.
#[repr(C)]
struct Shared {
    filled: u64,
    sent: u64,
    next: u32,
    slots: u32,
    frame_bytes: u32,
    slot_bytes: u32,
    is_stamped: u32,
    stamp_at: u32,
    crc_at: u32,
    checksum_at: u32,
    to_realtime_ns: u64,
    stamp_crc: [[u32; 256]; 8],
    times: [Times; MOST_SLOTS],
    contents: [u8; CONTENTS_BYTES],
}

/// The memory of the map, shared with the program. That runs in [`LiveFrames::run`] only, on the caller's processor, so
/// that nothing is read while it is written.
#[derive(Debug)]
struct Ring {
    memory: NonNull<Shared>,
}

// SAFETY: the mapping belongs to this value alone and is not tied to the thread that made it.
unsafe impl Send for Ring {}

impl Ring {
    fn map(map: BorrowedFd<'_>) -> io::Result<Self> {
        let (access, length) = (libc::PROT_READ | libc::PROT_WRITE, size_of::<Shared>());
        // SAFETY: a mapping at an address of the kernel's choice touches no memory of ours. The kernel refuses one that
        // is longer than the map, rounded up to pages.
        let memory =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, map.as_raw_fd(), 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { memory })
    }

    fn describe(&mut self, frame_bytes: usize, slots: usize, slot_bytes: usize, stamp: Option<&Stamp>) {
        let set = |at, value: usize| self.small(at).store(value as u32, Ordering::Relaxed);
        set(offset_of!(Shared, slots), slots);
        set(offset_of!(Shared, frame_bytes), frame_bytes);
        set(offset_of!(Shared, slot_bytes), slot_bytes);
        set(offset_of!(Shared, is_stamped), usize::from(stamp.is_some()));
        let Some(stamp) = stamp else { return };
        set(offset_of!(Shared, stamp_at), stamp.at);
        set(offset_of!(Shared, crc_at), stamp.crc_at);
        set(offset_of!(Shared, checksum_at), stamp.checksum_at);
        for (index, change) in stamp.crc.iter().flatten().enumerate() {
            set(offset_of!(Shared, stamp_crc) + index * size_of::<u32>(), *change as usize);
        }
    }

    /// The 32-bit number at this offset of [`Shared`].
    fn small(&self, at: usize) -> &AtomicU32 {
        self.at(at)
    }

    /// The 64-bit number at this offset of [`Shared`].
    fn number(&self, at: usize) -> &AtomicU64 {
        self.at(at)
    }

    fn at<T>(&self, at: usize) -> &T {
        assert!(
            at + size_of::<T>() <= offset_of!(Shared, contents) && at.is_multiple_of(align_of::<T>()),
            "a number of the ring lies before its contents"
        );
        // SAFETY: inside the mapping, by the check above.
        let number = unsafe { self.memory.cast::<u8>().add(at) }.cast::<T>();
        // SAFETY: aligned, by the check above and because mappings begin at pages; mapped for as long as `self` lives;
        // and both callers ask for atomic numbers, for which any bytes will do.
        unsafe { number.as_ref() }
    }

    fn contents(&mut self) -> &mut [u8] {
        // SAFETY: the contents lie inside the mapping.
        let start = unsafe { self.memory.cast::<u8>().add(offset_of!(Shared, contents)) };
        // SAFETY: so do all their bytes; nothing else refers to them while `self` is borrowed, and the program runs in
        // `LiveFrames::run`, which borrows `self` too.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), CONTENTS_BYTES) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: address and length are those that `map` was given, and no borrow outlives `self`. It cannot fail.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), size_of::<Shared>()) };
    }
}

/// `CLOCK_MONOTONIC` now, ns: the clock of the program, and of [`std::time::Instant`], which does not tell the number.
pub(crate) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes the `timespec` behind the pointer, which is ours. This clock always exists.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
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
        if let Some(errno) = inner.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(errno);
        }
        cause = inner.source();
    }
    io::Error::other(error)
}
