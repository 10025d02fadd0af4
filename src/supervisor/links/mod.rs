//! The network interfaces of this network namespace, as they come, change and go.
//!
//! The kernel tells of changes on a netlink socket (rtnetlink(7)), which is subscribed to before the present state is
//! asked for, on the same socket: what comes is in the order in which it happened, so nothing is missed and nothing old
//! overwrites what is new. When the kernel had to drop messages, the state is asked for again and compared.
//!
//! - [`crate::sys::netlink`]: the socket.
//! - `message`: from its bytes to events.
//! - `table`: what there is, and what changed since that was last told.

mod message;
#[cfg(test)]
mod message_tests;
mod table;
#[cfg(test)]
mod table_tests;

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

use crate::sys::interface::Interface;
use crate::sys::netlink::{Received, Request, RouteSocket};
use crate::wire::LinkLayer;
use message::Event;
use table::Table;

/// Datagrams that are read before changes are told, if more keep coming.
const BATCH: usize = 4096;
/// How often the state is asked for before that is given up for a while.
const ATTEMPTS: usize = 10;
/// How many answers are taken together for a whole one, when something changed during each: there may be no calm.
const ENOUGH: usize = 3;
/// How long to leave a kernel alone that did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// Something happened to an interface. What it is like now is what [`Links::find`] says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// What.
    pub kind: Kind,
    /// The interface's name.
    pub name: String,
}

/// What can happen to an interface. A renamed one is gone by its old name, and appeared by the new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing has that name any more.
    Gone,
    /// Another interface has the name, or the same one with another kind of headers: what was opened on it is of no
    /// use, nor is what was known of it.
    Recreated,
    /// There is an interface of that name, up or not.
    Appeared,
    /// Administratively down.
    WentDown,
    /// Administratively up. Also said of one that was up and is, but was not in between: routes and IPv6 addresses may
    /// be gone.
    WentUp,
    /// Still up, without a carrier. The kernel takes up to a second to say so.
    LostCarrier,
    /// Up, with a carrier that was not there, be it for a moment.
    GotCarrier,
    /// Another MTU.
    Mtu,
    /// Its addresses changed, or a route through it was added: a reason to try again what found no way through it, and to
    /// look at the source address of what did.
    AddressesChanged,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gone => "is gone",
            Self::Recreated => "was made anew",
            Self::Appeared => "appeared",
            Self::WentDown => "went down",
            Self::WentUp => "went up",
            Self::LostCarrier => "lost its carrier",
            Self::GotCarrier => "got a carrier",
            Self::Mtu => "has another MTU",
            Self::AddressesChanged => "has other addresses or routes",
        })
    }
}

/// What an interface is to be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To capture from.
    Ingress,
    /// To send through.
    Egress,
}

/// The interfaces of the network namespace in which the caller of [`Links::watch`] was.
#[derive(Debug)]
pub struct Links {
    socket: RouteSocket,
    table: Table,
    /// The kernel has dropped messages, and the state was not asked for since.
    behind: bool,
    /// When to begin anew, after an error.
    reopen_at: Option<Instant>,
    overruns: u64,
}

impl Links {
    /// Reads what there is, and begins to follow it. Needs no privilege; with `CAP_NET_ADMIN` the kernel can fall further
    /// behind without loss. Waits for the kernel's lock on the network configuration, as every look at it does.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O and time.
    pub fn watch() -> io::Result<Self> {
        let mut links = Self {
            socket: RouteSocket::open()?,
            table: Table::default(),
            behind: false,
            reopen_at: None,
            overruns: 0,
        };
        links.synchronize()?;
        links.table.take_changes();
        Ok(links)
    }

    /// Waits until something changes, and tells everything that has changed by then, since the last time or since
    /// [`Links::watch`]: what becomes of each name in the end, once. Removals come first. When it is cancelled, nothing
    /// is lost.
    pub async fn changed(&mut self) -> Vec<Change> {
        loop {
            if let Err(error) = self.follow().await {
                tracing::warn!("follow the state of interfaces: {error}; trying again in {RETRY:?}");
                self.reopen_at = Some(Instant::now() + RETRY);
            }
            let changes = self.table.take_changes();
            if !changes.is_empty() {
                for Change { kind, name } in &changes {
                    tracing::debug!("interface {name} {kind}");
                }
                return changes;
            }
        }
    }

    /// The interface that has this name, or alternative name, as far as [`Links::changed`] has told.
    pub fn find(&self, name: &str) -> Option<&Interface> {
        self.table.find(name)
    }

    /// Every interface, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Interface> {
        self.table.interfaces()
    }

    /// What keeps the interface from being used on this side. `None`: nothing.
    pub fn why_not(&self, name: &str, side: Side) -> Option<&'static str> {
        match self.find(name) {
            None => Some("no such interface"),
            Some(interface) if side == Side::Ingress && interface.link_layer == LinkLayer::Other => {
                Some("has neither Ethernet nor IP headers")
            }
            Some(interface) if !interface.up => Some("is down"),
            Some(interface) if !interface.carrier => Some("has no carrier"),
            Some(_) => None,
        }
    }

    /// How many times the kernel had to drop messages, so that the state was asked for again.
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    /// Waits for news and takes in all there is. Nothing is awaited once there is some, so that a caller who goes away
    /// leaves nothing half done.
    async fn follow(&mut self) -> io::Result<()> {
        if let Some(at) = self.reopen_at {
            sleep_until(at).await;
            self.socket = RouteSocket::open()?;
            self.synchronize()?;
            self.reopen_at = None;
            return Ok(());
        }
        let mut received = if self.behind {
            yield_now().await;
            self.socket.try_receive()?
        } else {
            self.socket.receive().await?
        };
        for _ in 0..BATCH {
            match received {
                Received::Datagram(datagram) => self.table.apply_all(datagram),
                Received::Overrun => self.fall_behind(),
                // Only now: while anything is left in the queue the kernel goes on to drop, and does not say so again
                // (NETLINK_S_CONGESTED, net/netlink/af_netlink.c).
                Received::Nothing if self.behind => return self.synchronize(),
                Received::Nothing => return Ok(()),
            }
            received = self.socket.try_receive()?;
        }
        Ok(())
    }

    fn fall_behind(&mut self) {
        tracing::debug!("the kernel dropped news of interfaces: their state will be asked for");
        self.overruns += 1;
        self.behind = true;
    }

    /// Makes the table what the kernel says that there is.
    fn synchronize(&mut self) -> io::Result<()> {
        let mut interrupted = 0;
        for _ in 0..ATTEMPTS {
            let overruns = self.overruns;
            self.take_rest()?;
            if interrupted == 0 || self.overruns != overruns {
                self.table.begin();
                interrupted = 0;
            }
            let whole = match self.ask(Request::Links)?.max(self.ask(Request::Addresses)?) {
                Answer::Whole => true,
                Answer::Interrupted => {
                    interrupted += 1;
                    interrupted == ENOUGH
                }
                Answer::CutShort => {
                    interrupted = 0;
                    false
                }
            };
            if whole {
                self.table.sweep();
                self.behind = false;
                return Ok(());
            }
        }
        Err(io::Error::other(format!("no answer of the kernel was whole in {ATTEMPTS} attempts")))
    }

    /// Empties the queue: an answer may not be mixed with the rest of one that was given up, nor come after an overrun.
    fn take_rest(&mut self) -> io::Result<()> {
        loop {
            match self.socket.try_receive()? {
                Received::Datagram(datagram) => self.table.apply_all(datagram),
                Received::Overrun => self.fall_behind(),
                Received::Nothing => return Ok(()),
            }
        }
    }

    /// Asks for everything of a kind, and takes in the answer and what happens meanwhile. The kernel does its part within
    /// the calls, so nothing is waited for.
    fn ask(&mut self, request: Request) -> io::Result<Answer> {
        let sequence = self.socket.ask(request)?;
        let mut answer = Answer::Whole;
        loop {
            let datagram = match self.socket.try_receive()? {
                Received::Datagram(datagram) => datagram,
                Received::Overrun => {
                    self.fall_behind();
                    answer = Answer::CutShort;
                    continue;
                }
                Received::Nothing => return Ok(Answer::CutShort),
            };
            for message in message::parse(datagram) {
                let answers = message.sequence == sequence;
                if answers && message.interrupted {
                    answer = answer.max(Answer::Interrupted);
                }
                match message.event {
                    Event::End(Some(error)) if answers => return Err(error),
                    Event::End(None) if answers => return Ok(answer),
                    event => self.table.apply(event),
                }
            }
        }
    }
}

/// How much of what was asked for is in an answer, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Answer {
    /// All of it.
    Whole,
    /// All of it on newer kernels. Where the kernel lost its place when something was removed, something that follows
    /// may be missing; another time it will be something else, if anything.
    Interrupted,
    /// Perhaps little.
    CutShort,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without `lo` in its table, as if the news had been lost.
    fn without_loopback() -> Links {
        let mut links = Links::watch().unwrap();
        let index = links.find("lo").unwrap().index;
        links.table.apply(Event::LinkGone(index));
        links.table.take_changes();
        assert_eq!(links.find("lo"), None);
        links
    }

    async fn finds_loopback(mut links: Links) {
        let changes = tokio::time::timeout(Duration::from_mins(1), links.changed()).await.unwrap();
        assert!(changes.contains(&Change { kind: Kind::Appeared, name: "lo".to_owned() }), "{changes:?}");
        assert!(!links.behind && links.reopen_at.is_none());
    }

    #[tokio::test]
    async fn what_is_there_is_found_without_privileges() {
        let links = Links::watch().unwrap();
        assert_eq!(links.find("lo"), Interface::find("lo").ok().as_ref());
        assert_eq!(links.find("no-such-if"), None);
        assert_eq!(links.why_not("no-such-if", Side::Ingress), Some("no such interface"));
    }

    #[tokio::test]
    async fn what_was_dropped_is_asked_for() {
        let mut links = without_loopback();
        links.fall_behind();
        assert_eq!(links.overruns(), 1);
        finds_loopback(links).await;
    }

    #[tokio::test]
    async fn after_an_error_it_begins_anew() {
        let mut links = without_loopback();
        links.reopen_at = Some(Instant::now());
        finds_loopback(links).await;
    }
}
