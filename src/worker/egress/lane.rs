//! A lane: a socket, and which trains of copies it can take.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use super::mapping::Mapping;
use super::segmentation::Segmentation;
use crate::sys::udp_socket::EgressAddress;
use crate::sys::uring::{IpHeader, Send};

/// Where lanes lead, for all of the same output.
#[derive(Debug)]
pub(super) struct Destination {
    /// As `GROUP:PORT:IF`, for messages.
    name: String,
    is_ipv4: bool,
    /// Whether an answer to an earlier datagram (ICMP) may be in the way of a later one.
    is_answered: bool,
    /// What one lane learns of the device and the way holds for the others.
    segmentation: Cell<Segmentation>,
    /// Where copies go, if they bring their destination.
    pub(super) mapping: Option<Mapping>,
}

/// A way that keeps its order.
#[derive(Debug)]
pub(super) struct Lane {
    to: Rc<Destination>,
    /// A UDP socket, connected unless there is a mapping.
    socket: Arc<OwnedFd>,
    /// Place of the queue of copies that wait for it, unless they bring their destination.
    pub(super) queue: Option<usize>,
}

/// All lanes, each at a place of its own.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    all: Vec<Option<Lane>>,
    free: Vec<usize>,
}

impl Destination {
    pub(super) fn new(address: &EgressAddress, segment: bool) -> Rc<Self> {
        Rc::new(Self {
            name: address.to_string(),
            is_ipv4: address.destination.is_ipv4(),
            // An answer goes to the source, and where that is kept it is another host.
            is_answered: address.is_answered() && !address.preserve,
            segmentation: Cell::new(Segmentation::new(segment)),
            mapping: Mapping::new(address),
        })
    }
}

impl Lane {
    pub(super) fn new(to: &Rc<Destination>, socket: Arc<OwnedFd>) -> Self {
        Self { to: Rc::clone(to), socket, queue: None }
    }

    /// Where copies go, if they bring their destination.
    pub(super) fn mapping(&self) -> Option<Mapping> {
        self.to.mapping
    }

    /// The trains that it can take.
    pub(super) fn segmentation(&self) -> Segmentation {
        self.to.segmentation.get()
    }

    /// Whether a train of datagrams of `size` bytes may be refused.
    pub(super) fn may_refuse(&self, size: usize) -> bool {
        self.to.is_answered || !self.segmentation().is_proven(size)
    }

    /// Whether a send may meet the answer to a datagram that went somewhere else.
    pub(super) fn meets_answers_of_others(&self) -> bool {
        self.to.is_answered && self.to.mapping.is_some()
    }

    /// A train of datagrams of this size has left.
    pub(super) fn succeeded(&self, size: usize) {
        let mut segmentation = self.segmentation();
        if !segmentation.is_proven(size) {
            segmentation.succeeded(size);
            self.to.segmentation.set(segmentation);
        }
    }

    /// A train of datagrams of this size was refused for being one, which is told once.
    pub(super) fn failed(&self, size: usize, errno: i32) {
        let mut segmentation = self.segmentation();
        if segmentation.failed(size, errno) {
            let (name, error) = (&self.to.name, io::Error::from_raw_os_error(errno));
            tracing::warn!(
                "{name}: cannot send datagrams of {size} bytes as trains: {error}; sending what is refused so one by one, \
                 which takes more CPU time and loses nothing"
            );
        }
        self.to.segmentation.set(segmentation);
    }

    /// What the kernel is told of `copies` that leave together: of `size` bytes each, but for the last one.
    pub(super) fn send_of<'a>(
        &'a self,
        copies: &'a [IoSlice<'a>],
        size: usize,
        header: IpHeader,
        destination: Option<SocketAddr>,
    ) -> Send<'a> {
        let segment_size = if copies.len() > 1 { NonZeroU16::new(size as u16) } else { None };
        let (socket, is_ipv4) = (self.socket.as_fd(), self.to.is_ipv4);
        Send { socket, is_ipv4, header, payloads: copies, segment_size, destination }
    }
}

impl Lanes {
    /// Has one more, and says where.
    pub(super) fn open(&mut self, lane: Lane) -> usize {
        let place = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            self.all.len() - 1
        });
        self.all[place] = Some(lane);
        place
    }

    /// Closes the one at `place`, for which no copy waits.
    pub(super) fn close(&mut self, place: usize) {
        if self.all.get_mut(place).and_then(Option::take).is_some() {
            self.free.push(place);
        }
    }

    pub(super) fn get(&self, place: usize) -> Option<&Lane> {
        self.all.get(place)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Lane> {
        self.all.get_mut(place)?.as_mut()
    }
}
