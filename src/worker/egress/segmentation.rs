//! Which trains an output can take, as experience tells. No I/O.

use crate::stats::SendFailure;

/// Most datagrams of a train: `UDP_MAX_SEGMENTS` of all kernels (`include/linux/udp.h`; 128 since 6.9).
pub(super) const MAX_SEGMENTS: usize = 64;
/// Most bytes of its payloads: they travel as one IP datagram until they are cut.
pub(super) const MAX_BYTES: usize = 65_507;

/// What is known of one output.
///
/// What the kernel refuses depends on the datagrams' size (none may exceed the path's MTU: `EMSGSIZE`, on old kernels
/// `EINVAL`) or on the device (`EIO`, where it transforms datagrams or, to an old kernel, has no checksum offload).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segmentation {
    /// Datagrams of up to so many bytes have left in a train.
    proven: usize,
    /// Larger ones do not.
    limit: usize,
    /// Whether any was refused.
    has_failed: bool,
}

impl Segmentation {
    /// Nothing is known yet, or `enabled` forbids all trains.
    pub(super) fn new(enabled: bool) -> Self {
        Self { proven: 0, limit: if enabled { MAX_BYTES } else { 0 }, has_failed: false }
    }

    /// Whether a train of `count` datagrams of `size` bytes can take another one of `next` bytes. A shorter one can only
    /// be its last.
    pub(super) fn takes(&self, size: usize, count: usize, next: usize) -> bool {
        (1..=size).contains(&next)
            && size <= self.limit
            && count < MAX_SEGMENTS
            && count * size + next <= MAX_BYTES
    }

    /// Whether a train of datagrams of this size can be counted on to leave.
    pub(super) fn is_proven(&self, size: usize) -> bool {
        size <= self.proven
    }

    /// A train of datagrams of this size has left.
    pub(super) fn succeeded(&mut self, size: usize) {
        self.proven = self.proven.max(size);
    }

    /// A train of datagrams of this size was refused for being one. Returns whether it is the first.
    pub(super) fn failed(&mut self, size: usize, errno: i32) -> bool {
        let limit = if errno == libc::EIO { 0 } else { size.saturating_sub(1) };
        self.limit = self.limit.min(limit);
        self.proven = self.proven.min(limit);
        !std::mem::replace(&mut self.has_failed, true)
    }
}

/// Whether datagrams that were refused so in a train may leave one by one.
pub(super) fn is_for_being_a_train(errno: i32) -> bool {
    matches!(errno, libc::EIO | libc::EMSGSIZE | libc::EINVAL)
}

/// Whether a train that failed so would fail again at once, one datagram at a time: there is no room for any.
pub(super) fn is_for_want_of_room(errno: i32) -> bool {
    matches!(SendFailure::from_errno(errno), SendFailure::BufferFull | SendFailure::QueueFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_train_holds_datagrams_of_one_size_and_a_shorter_one_up_to_the_limits() {
        let segmentation = Segmentation::new(true);
        assert!(segmentation.takes(100, 1, 100) && segmentation.takes(100, 63, 100));
        assert!(!segmentation.takes(100, 64, 100), "too many");
        assert!(segmentation.takes(100, 1, 1) && segmentation.takes(100, 1, 99), "shorter");
        assert!(!segmentation.takes(100, 1, 101) && !segmentation.takes(100, 1, 0), "longer, or nothing");
        assert!(
            segmentation.takes(1_472, 43, 1_472) && !segmentation.takes(1_472, 44, 1_472),
            "65,507 bytes"
        );
        assert!(segmentation.takes(1_523, 43, 18) && !segmentation.takes(1_523, 43, 19), "with the last one");
        assert!(!segmentation.takes(0, 1, 0), "nothing cannot be cut apart");
        assert!(!Segmentation::new(false).takes(100, 1, 100));
    }

    #[test]
    fn what_was_refused_for_its_size_is_not_tried_again() {
        let mut segmentation = Segmentation::new(true);
        assert!(!segmentation.is_proven(1));
        segmentation.succeeded(1_400);
        assert!(segmentation.is_proven(100) && !segmentation.is_proven(1_401));
        for (size, errno) in [(1_300, libc::EMSGSIZE), (1_200, libc::EINVAL)] {
            assert_eq!(segmentation.failed(size, errno), size == 1_300, "the first");
            assert!(!segmentation.takes(size, 1, size) && segmentation.takes(size - 1, 1, size - 1));
            assert!(segmentation.is_proven(size - 1) && !segmentation.is_proven(size));
        }
    }

    #[test]
    fn a_device_that_cannot_is_not_asked_again() {
        let mut segmentation = Segmentation::new(true);
        assert!(segmentation.failed(100, libc::EIO) && !segmentation.failed(100, libc::EIO));
        assert!(!segmentation.takes(1, 1, 1));
    }

    #[test]
    fn other_failures_say_nothing_of_segmentation() {
        for errno in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::EAGAIN, libc::ENOBUFS, libc::ENETDOWN] {
            assert!(!is_for_being_a_train(errno));
        }
        assert!(is_for_want_of_room(libc::EAGAIN) && is_for_want_of_room(libc::ENOBUFS));
        assert!(!is_for_want_of_room(libc::ECONNREFUSED) && !is_for_want_of_room(libc::EMSGSIZE));
    }
}
