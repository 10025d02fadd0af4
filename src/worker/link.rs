//! A worker's connection to its supervisor, and to the next one when that is gone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::order::{Answer, Descriptor, Inbox, Order, Outbox};
use crate::sys::channel::{Channel, Listener};
use crate::sys::poll;
use crate::sys::uring::{Token, Uring};

/// What comes over a link.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub(super) enum Incoming {
    /// An order, with its descriptor.
    Order(Order, Option<OwnedFd>),
    /// Another supervisor, who does not know yet what the ones before have ordered.
    Supervisor,
    /// Nobody can give orders any more.
    End,
}

/// A worker's connection to its supervisor.
#[derive(Debug)]
pub struct Link {
    /// Where the next supervisor connects.
    listener: Option<Listener>,
    /// Whose it must be, unless it is root's.
    owner: u32,
    channel: Option<Channel>,
    inbox: Inbox<Order>,
    outbox: Outbox<Answer>,
    /// Whether a poll is in flight, and whether it waits for room, too.
    armed: Option<bool>,
    had_supervisor: bool,
}

impl Link {
    /// A link to whoever connects to `listener`, one after the other.
    pub fn listening(listener: Listener) -> Self {
        Self::new(Some(listener), None)
    }

    /// A link to who has the other end of `channel` only.
    pub fn connected(channel: Channel) -> Self {
        Self::new(None, Some(channel))
    }

    fn new(listener: Option<Listener>, channel: Option<Channel>) -> Self {
        let (inbox, outbox) = Default::default();
        let owner = rustix::process::getuid().as_raw();
        Self { listener, owner, channel, inbox, outbox, armed: None, had_supervisor: false }
    }

    /// Waits for the first order.
    pub(super) fn first(&mut self) -> io::Result<(Order, Option<OwnedFd>)> {
        loop {
            match self.next()? {
                Some(Incoming::Order(order, descriptor)) => return Ok((order, descriptor)),
                Some(Incoming::End) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Some(Incoming::Supervisor) => {}
                None => _ = self.fd().map(poll::wait_readable).transpose()?,
            }
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        let channel = self.channel.as_ref().map(AsFd::as_fd);
        channel.or(self.listener.as_ref().map(AsFd::as_fd))
    }

    /// Has `ring` tell when there is something to do.
    pub(super) fn arm(&mut self, ring: &mut Uring) -> io::Result<()> {
        let wants_room = !self.outbox.is_empty();
        let Some(fd) = self.fd() else { return Ok(()) };
        if self.armed.is_none_or(|has_room| wants_room && !has_room) {
            ring.poll(fd, wants_room, Token::Order)?;
            self.armed = Some(wants_room);
        }
        Ok(())
    }

    /// What `arm` has asked for has come.
    pub(super) fn disarm(&mut self) {
        self.armed = None;
    }

    /// What has come, if anything has. Answers that wait are sent meanwhile.
    ///
    /// # Errors
    /// When a supervisor orders what cannot be understood.
    pub(super) fn next(&mut self) -> io::Result<Option<Incoming>> {
        let Some(channel) = &self.channel else { return self.accept() };
        let received = self.outbox.flush(channel).and_then(|_| self.inbox.receive(channel));
        match received {
            Ok((order, descriptor)) => Ok(Some(Incoming::Order(order, descriptor))),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error),
            // It is gone.
            Err(_) => {
                self.leave();
                self.accept()
            }
        }
    }

    /// Ends the connection. What a supervisor has begun to say and what it was to be told go with it.
    pub(super) fn leave(&mut self) {
        self.channel = None;
        self.armed = None;
        (self.inbox, self.outbox) = Default::default();
    }

    fn accept(&mut self) -> io::Result<Option<Incoming>> {
        let Some(listener) = &self.listener else { return Ok(Some(Incoming::End)) };
        match listener.accept() {
            Ok(channel) if ![0, self.owner].contains(&channel.peer()?.uid) => {
                tracing::warn!("refused orders of another user's process: {:?}", channel.peer()?);
                Ok(None)
            }
            Ok(channel) => {
                self.channel = Some(channel);
                self.armed = None;
                Ok(if std::mem::replace(&mut self.had_supervisor, true) {
                    Some(Incoming::Supervisor)
                } else {
                    self.next()?
                })
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Answers, now or when there is room.
    pub(super) fn answer(&mut self, answer: &Answer, descriptor: Option<Descriptor>) -> io::Result<()> {
        self.outbox.push(answer, descriptor)
    }

    /// Whether there is anybody to answer to.
    pub(super) fn is_connected(&self) -> bool {
        self.channel.is_some()
    }

    /// Sends what there is room for.
    pub(super) fn flush(&mut self) {
        if let Some(channel) = &self.channel {
            // Whoever is gone is met by `next`.
            let _ = self.outbox.flush(channel);
        }
    }
}
