//! Many datagrams per system call: `sendmmsg` and `recvmmsg` over buffers that these types own.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Frames, side by side, ready to be sent together. They are written slot by slot; a slot is one frame or, when they
/// belong together, several.
#[derive(Debug)]
pub struct SendBatch {
    bytes: Vec<u8>,
    slot_bytes: usize,
    slots: usize,
    /// Where each frame is in `bytes`.
    frames: Vec<Range<usize>>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
}

// SAFETY: the pointers in `vectors` and `headers` are written anew before each system call and used by nothing else,
// so they may be carried to another thread stale.
unsafe impl Send for SendBatch {}

impl SendBatch {
    /// Room for `slots` slots, each of frames of these lengths.
    pub fn new(slots: usize, frame_lengths: &[usize]) -> Self {
        let mut end = 0;
        let lengths = frame_lengths.iter().cycle().take(slots * frame_lengths.len());
        let frames: Vec<_> = lengths
            .map(|length| {
                let start = end;
                end += length;
                start..end
            })
            .collect();
        Self {
            bytes: vec![0; end],
            slot_bytes: frame_lengths.iter().sum(),
            slots,
            vectors: vec![empty_vector(); frames.len()],
            headers: vec![empty_header(); frames.len()],
            frames,
        }
    }

    /// How many slots there are.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// How many frames each slot has; at least 1.
    pub fn frames_per_slot(&self) -> usize {
        (self.frames.len() / self.slots.max(1)).max(1)
    }

    /// The frames in this slot, side by side; `None` behind the last.
    pub fn slot(&mut self, index: usize) -> Option<&mut [u8]> {
        let start = index.checked_mul(self.slot_bytes)?;
        self.bytes.get_mut(start..start.checked_add(self.slot_bytes)?)
    }

    /// Sends frames `first..end` without waiting and returns how many the kernel took, at least one.
    ///
    /// # Errors
    /// What the kernel said to the first of them; none was sent then.
    pub fn send(&mut self, socket: BorrowedFd<'_>, first: usize, end: usize) -> io::Result<usize> {
        let Some(frames) = self.frames.get(first..end.min(self.frames.len())).filter(|f| !f.is_empty())
        else {
            return Ok(0);
        };
        let bytes = self.bytes.as_mut_ptr();
        for ((frame, vector), header) in frames.iter().zip(&mut self.vectors).zip(&mut self.headers) {
            vector.iov_base = bytes.wrapping_add(frame.start).cast();
            vector.iov_len = frame.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
        }
        let (headers, count) = (self.headers.as_mut_ptr(), frames.len() as u32);
        // SAFETY: the loop above pointed the first `count` headers (there is one for each frame) at vectors, and those
        // at frames, which `new` laid out inside `bytes`; all are owned by `self` and not touched during the call.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// Room for the control messages of a datagram: a timestamp (32 bytes) and the larger packet info (40).
const CONTROL_BYTES: usize = 128;

/// Buffers for many datagrams and what the kernel says about each.
#[derive(Debug)]
pub struct ReceiveBatch {
    bytes: Vec<u8>,
    slot_bytes: usize,
    control: Vec<[u64; CONTROL_BYTES / 8]>,
    vectors: Vec<libc::iovec>,
    headers: Vec<libc::mmsghdr>,
    filled: usize,
}

// SAFETY: as for `SendBatch`: pointers are written anew before each system call and used by nothing else.
unsafe impl Send for ReceiveBatch {}

/// A datagram from a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received<'batch> {
    /// Its payload, cut to the size of the buffer.
    pub payload: &'batch [u8],
    /// Where it was sent to, if the socket asked for packet info.
    pub destination: Option<IpAddr>,
    /// When the kernel received it, ns of `CLOCK_REALTIME`, if the socket asked for time stamps.
    pub stamp_ns: Option<u64>,
}

impl ReceiveBatch {
    /// Room for `slots` datagrams of up to `slot_bytes` each.
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        Self {
            bytes: vec![0; slots * slot_bytes],
            slot_bytes,
            control: vec![[0; CONTROL_BYTES / 8]; slots],
            vectors: vec![empty_vector(); slots],
            headers: vec![empty_header(); slots],
            filled: 0,
        }
    }

    /// How many datagrams fit.
    pub fn slots(&self) -> usize {
        self.headers.len()
    }

    /// Takes what is queued, without waiting, and returns how many.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is queued; otherwise what the kernel says.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.filled = 0;
        let slots = self.bytes.chunks_exact_mut(self.slot_bytes.max(1));
        let parts = slots.zip(&mut self.control).zip(&mut self.vectors).zip(&mut self.headers);
        for (((slot, control), vector), header) in parts {
            vector.iov_base = slot.as_mut_ptr().cast();
            vector.iov_len = slot.len();
            header.msg_hdr.msg_iov = vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            // The kernel leaves here how much it wrote: it must be told anew each time.
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        let (headers, count) = (self.headers.as_mut_ptr(), self.headers.len() as u32);
        // SAFETY: the loop above pointed all `count` headers at vectors, slots and control buffers of the lengths
        // given, all owned by `self` and exclusively borrowed during the call; no timeout is passed.
        let filled = unsafe {
            libc::recvmmsg(socket.as_raw_fd(), headers, count, libc::MSG_DONTWAIT, std::ptr::null_mut())
        };
        self.filled = usize::try_from(filled).map_err(|_| io::Error::last_os_error())?;
        Ok(self.filled)
    }

    /// What the last [`Self::receive`] took.
    pub fn datagrams(&self) -> impl Iterator<Item = Received<'_>> {
        let slots = self.bytes.chunks_exact(self.slot_bytes.max(1));
        slots.zip(&self.control).zip(&self.headers).take(self.filled).map(|((slot, control), header)| {
            let length = (header.msg_len as usize).min(slot.len());
            let written = header.msg_hdr.msg_controllen.min(CONTROL_BYTES);
            let mut bytes = [0; CONTROL_BYTES];
            for (to, from) in bytes.chunks_exact_mut(8).zip(control) {
                to.copy_from_slice(&from.to_ne_bytes());
            }
            let control = Control::parse(&bytes[..written]);
            Received {
                payload: &slot[..length],
                destination: control.destination,
                stamp_ns: control.stamp_ns,
            }
        })
    }
}

/// What control messages say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Control {
    destination: Option<IpAddr>,
    stamp_ns: Option<u64>,
}

/// `struct cmsghdr` on 64-bit Linux: length (usize, header included), level, type (i32 each); messages begin at
/// multiples of 8.
const CMSG_HEADER: usize = size_of::<libc::cmsghdr>();

impl Control {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut control = Self::default();
        while let Some(header) = bytes.first_chunk::<CMSG_HEADER>() {
            let Some((length, rest)) = header.split_first_chunk() else { break };
            let length = usize::from_ne_bytes(*length);
            let number = |at: usize| i32::from_ne_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
            let Some(data) = bytes.get(CMSG_HEADER..length) else { break };
            control.message(number(0), number(4), data);
            let Some(next) = length.checked_next_multiple_of(align_of::<usize>()) else { break };
            bytes = bytes.get(next..).unwrap_or_default();
        }
        control
    }

    fn message(&mut self, level: i32, kind: i32, data: &[u8]) {
        match (level, kind) {
            (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) => self.stamp_ns = read_timespec(data),
            // in_pktinfo: interface index, local address, then the address in the header at offset 8.
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let address = data.get(8..).and_then(<[u8]>::first_chunk::<4>);
                self.destination = address.map(|octets| Ipv4Addr::from(*octets).into());
            }
            // in6_pktinfo: address, then the interface index.
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                self.destination = data.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets).into());
            }
            _ => {}
        }
    }
}

/// Two 64-bit numbers, seconds and ns.
fn read_timespec(data: &[u8]) -> Option<u64> {
    let seconds = u64::from_ne_bytes(*data.first_chunk()?);
    let nanoseconds = u64::from_ne_bytes(*data.get(8..)?.first_chunk()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanoseconds)
}

fn empty_vector() -> libc::iovec {
    libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: a plain C structure whose padding is private; null pointers with zero lengths are valid in it.
    unsafe { MaybeUninit::zeroed().assume_init() }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use proptest::prelude::*;

    use super::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (CMSG_HEADER + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn control_messages_are_read_in_any_order() {
        let mut stamp = 12_u64.to_ne_bytes().to_vec();
        stamp.extend(34_u64.to_ne_bytes());
        let info = [1, 0, 0, 0, 10, 0, 0, 1, 239, 1, 2, 3];
        let mut bytes = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS, &stamp);
        bytes.extend(message(libc::IPPROTO_IP, libc::IP_PKTINFO, &info));
        let expected = Control { destination: Some([239, 1, 2, 3].into()), stamp_ns: Some(12_000_000_034) };
        assert_eq!(Control::parse(&bytes), expected);
        let group: Ipv6Addr = "ff15::82:0:7".parse().unwrap();
        let six =
            message(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &[&group.octets()[..], &[2, 0, 0, 0]].concat());
        assert_eq!(Control::parse(&six).destination, Some(group.into()));
    }

    proptest! {
        #[test]
        fn any_control_bytes_are_read_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = Control::parse(&bytes);
        }
    }

    #[test]
    fn batches_pass_between_sockets_in_order() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut batch = SendBatch::new(4, &[5]);
        for index in 0..4 {
            batch.slot(index).unwrap().fill(index as u8);
        }
        assert!(batch.slot(4).is_none());
        assert_eq!((batch.slots(), batch.frames_per_slot()), (4, 1));
        assert_eq!(batch.send(sender.as_fd(), 1, 9).unwrap(), 3);
        assert_eq!(batch.send(sender.as_fd(), 4, 4).unwrap(), 0);

        let mut received = ReceiveBatch::new(8, 3);
        assert_eq!(received.receive(receiver.as_fd()).unwrap(), 3);
        let payloads: Vec<_> = received.datagrams().map(|one| one.payload.to_vec()).collect();
        assert_eq!(payloads, [vec![1; 3], vec![2; 3], vec![3; 3]]);
        assert_eq!(received.receive(receiver.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(received.datagrams().count(), 0);
    }
    #[test]
    fn a_slot_may_hold_several_frames() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        sender.connect(receiver.local_addr().unwrap()).unwrap();
        let mut batch = SendBatch::new(2, &[3, 3, 1]);
        assert_eq!((batch.slots(), batch.frames_per_slot()), (2, 3));
        batch.slot(0).unwrap().copy_from_slice(b"abcdefg");
        batch.slot(1).unwrap().copy_from_slice(b"hijklmn");
        assert_eq!(batch.send(sender.as_fd(), 1, 6).unwrap(), 5);
        let mut received = ReceiveBatch::new(8, 9);
        assert_eq!(received.receive(receiver.as_fd()).unwrap(), 5);
        let payloads: Vec<_> = received.datagrams().map(|one| one.payload.to_vec()).collect();
        assert_eq!(payloads, [&b"def"[..], b"g", b"hij", b"klm", b"n"]);
    }
}
