//! What every receive path offers the loop. Nothing but a receiver knows which path runs.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use super::packet_ring::Shape;
use crate::rules::InputIndex;
use crate::stats::Cause;
use crate::sys::packet_socket::{self, Coalescing, Train};
use crate::sys::uring::{Completion, Uring, Wait};
use crate::wire::LinkLayer;

/// A frame, borrowed from the batch that lends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Where it came from.
    pub input: InputIndex,
    /// What it begins with.
    pub link_layer: LinkLayer,
    /// The frame, as far as it was received.
    pub bytes: &'a [u8],
    /// The VLAN tag that the kernel took out of it; see [`Receiver::tell_tags`].
    pub vlan_tag: Option<u16>,
    /// Whether the transport checksum needs no check: the device has checked it, or it is of this host's making and
    /// not filled in yet.
    pub checksum_verified: bool,
    /// How to split it, where it is a train of datagrams.
    pub train: Option<Train>,
    /// Why it cannot be relayed, whatever is in it.
    pub defect: Option<Cause>,
}

impl<'a> Frame<'a> {
    /// A frame with the `virtio_net_hdr` that came before it; `truncated` says whether its end is missing.
    pub(super) fn new(
        input: InputIndex,
        link_layer: LinkLayer,
        vnet_header: &[u8],
        bytes: &'a [u8],
        truncated: bool,
    ) -> Self {
        let (train, defect) = match Coalescing::read(vnet_header) {
            _ if truncated => (None, Some(Cause::Truncated)),
            Coalescing::Single => (None, None),
            Coalescing::Train(train) => (Some(train), None),
            Coalescing::Foreign => (None, Some(Cause::Coalesced)),
        };
        let checksum_verified = packet_socket::is_checksum_verified(vnet_header);
        Self { bytes, checksum_verified, train, defect, ..Self::empty(input, link_layer) }
    }

    /// A frame of which nothing is there.
    pub(super) fn empty(input: InputIndex, link_layer: LinkLayer) -> Self {
        Self {
            input,
            link_layer,
            bytes: &[],
            vlan_tag: None,
            checksum_verified: false,
            train: None,
            defect: None,
        }
    }
}

/// Frames that have arrived. Dropping a batch releases its memory, so no frame outlives it.
pub(super) trait Batch {
    /// The frames, in order of arrival for each input.
    fn frames(&self) -> impl Iterator<Item = Frame<'_>>;

    /// Whether another worker died over them.
    fn is_taken_again(&self) -> bool {
        false
    }
}

/// What a socket captures.
#[derive(Clone, Debug)]
pub(super) struct Source {
    /// Name of the interface.
    pub name: String,
    /// What its frames begin with.
    pub link_layer: LinkLayer,
    /// The socket's ring, if the path is by rings.
    pub shape: Option<Shape>,
}

/// A receive path.
pub(super) trait Receiver {
    /// What it lends.
    type Batch<'a>: Batch
    where
        Self: 'a;

    /// Receives at `place` from now on what `socket` gets of `source`. Where somebody else has received before, it goes on
    /// from there.
    fn add(&mut self, place: InputIndex, source: Source, socket: OwnedFd) -> io::Result<()>;

    /// Tells of frames at `place` from now on which VLAN tag the kernel has taken out of them, where that has to be asked for. Until
    /// then none with a tag comes there.
    fn tell_tags(&mut self, _place: InputIndex, _ring: &mut Uring) -> io::Result<()> {
        Ok(())
    }

    /// Receives at `place` no more. What has been lent is not, and capture has ended.
    fn remove(&mut self, place: InputIndex, ring: &mut Uring) -> io::Result<()>;

    /// The socket at `place`.
    fn socket(&self, place: InputIndex) -> Option<BorrowedFd<'_>>;

    /// Whether there is something to lend already.
    fn is_ready(&self) -> bool;

    /// Queues on `ring` what makes a wait end when frames arrive, and gives back what released batches have used.
    /// Called before every wait; `sleep` says whether that one lasts until something happens.
    fn arm(&mut self, ring: &mut Uring, sleep: bool) -> io::Result<()>;

    /// How to sleep until there is something to lend.
    fn sleep(&mut self) -> Wait {
        Wait::First
    }

    /// Takes a completion of what `arm` has queued. Says whether a socket reported an error instead of a frame.
    fn complete(&mut self, completion: Completion) -> Result<(), ReceiveError>;

    /// Lends what has arrived, `None` if nothing has.
    fn lend(&mut self) -> Option<Self::Batch<'_>>;

    /// Where it receives.
    fn places(&self) -> Vec<InputIndex>;

    /// Whether, after the end of capture, everything that was captured there has been lent.
    fn is_drained(&self, place: InputIndex) -> io::Result<bool>;
}

/// What an errno of a receive on `input`, whose name is `name`, means. Nothing where asking again is all there is to do.
pub(super) fn failed(input: InputIndex, name: &str, errno: i32) -> Result<(), ReceiveError> {
    match errno {
        // Out of buffers or of memory for a moment, or interrupted: the next turn asks again.
        libc::ENOBUFS | libc::ENOMEM | libc::EINTR | libc::EAGAIN | libc::ECANCELED => Ok(()),
        libc::ENETDOWN => Err(ReceiveError::InterfaceDown(input)),
        _ => Err(ReceiveError::Fatal { input: name.to_owned(), error: io::Error::from_raw_os_error(errno) }),
    }
}

/// A receive that failed.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The interface went down; frames come again when it is up.
    #[error("interface of input {} went down", .0.0)]
    InterfaceDown(InputIndex),
    /// The kernel dropped a frame that it could not describe in a `virtio_net_hdr`: a train of UDP datagrams, which
    /// that header knows since Linux 6.2.
    #[error("coalesced frame on input {} that this kernel cannot describe", .0.0)]
    Undescribed(InputIndex),
    /// Nothing more can be received.
    #[error("receive on {input}: {error}")]
    Fatal {
        /// Name of the input.
        input: String,
        /// What the kernel said.
        error: io::Error,
    },
}
