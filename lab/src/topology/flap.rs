//! Links that go away and come back while a trial is on.
//!
//! A device that is to be made anew is taken to the namespace at the other end of its cable and brought back under another
//! index. To whoever lives in the relay's namespace that is a device which is deleted, and one of the same name which is
//! made; but the cable stays, and who sends at its other end need not know.

use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;

use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::LinkAttribute;

use super::wiring::{self, Cable};
use super::{MAX_MTU, NetError, Port, Topology};
use crate::net::Namespace;
use crate::net::netlink::{Session, session};

/// What a device that is made anew has as its index, and more: those before it are far below.
const FIRST_NEW_INDEX: u32 = 1_000;
/// By how much an MTU changes ...
const MTU_STEP: u32 = 500;
/// ... downwards from here on: a veth takes no more than a page at whose other end a program runs (XDP).
const LARGE_MTU: u32 = 2_500;

/// A link of the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leg {
    /// That from the generator.
    Ingress,
    /// That to the first sink.
    Egress,
    /// The one beside them; see [`Topology::add_spare`].
    Spare,
}

/// How a link changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Down, and up again.
    Down,
    /// Gone, and made anew under the same name.
    Gone,
    /// Another MTU, and the old one again.
    Mtu,
}

impl Topology {
    /// The relay's end of `leg` and the other one, if there is such a leg.
    fn ends(&self, leg: Leg) -> Option<(&Port, &Port)> {
        match leg {
            Leg::Ingress => Some((&self.ingress, &self.generator)),
            Leg::Egress => self.egress.first().zip(self.sinks.first()),
            Leg::Spare => self.spare.as_ref().map(|(near, far)| (near, far)),
        }
    }

    /// Changes `leg`. A leg that is not there does not change.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn disturb(&self, leg: Leg, change: Change) -> Result<(), NetError> {
        let Some((near, far)) = self.ends(leg) else { return Ok(()) };
        match change {
            Change::Down => near.set_up(false),
            Change::Gone => session(near.namespace(), async |session: &Session| {
                session.set_down(near.device()).await?;
                session.move_to(near.device(), far.namespace(), None).await
            }),
            Change::Mtu => {
                let mtu = self.link.mtu;
                let other = if mtu < LARGE_MTU { mtu + MTU_STEP } else { mtu - MTU_STEP };
                near.set_mtu(other.min(MAX_MTU))
            }
        }
    }

    /// Makes `leg` what it was before it was [disturbed](Self::disturb), its addresses and routes included, and waits until
    /// it carries frames.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn restore(&self, leg: Leg, change: Change) -> Result<(), NetError> {
        let Some((near, far)) = self.ends(leg) else { return Ok(()) };
        match change {
            Change::Mtu => return near.set_mtu(self.link.mtu),
            Change::Gone => {
                let index = FIRST_NEW_INDEX + self.made_anew.fetch_add(1, Ordering::Relaxed);
                session(far.namespace(), async |session: &Session| {
                    session.move_to(near.device(), near.namespace(), Some(index)).await
                })?;
            }
            Change::Down => {}
        }
        wiring::start_again(&Cable::between(near, far), self.link, leg)
    }

    /// Lays a cable from the relay to the generator's namespace that nothing is offered on.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_spare(&mut self) -> Result<(), NetError> {
        self.spare = Some(wiring::lay_spare(&self.namespaces, self.link)?);
        Ok(())
    }

    /// The relay's end of the spare cable, if there is one.
    pub fn spare_device(&self) -> Option<&str> {
        self.spare.as_ref().map(|(near, _)| near.device())
    }
}

impl Port {
    fn set_mtu(&self, mtu: u32) -> Result<(), NetError> {
        session(self.namespace(), async |session: &Session| session.set_mtu(self.device(), mtu).await)
    }
}

impl Session {
    /// Takes a device of this namespace, which is down, to another one, where it has this index or any.
    async fn move_to(&self, name: &str, to: &Namespace, index: Option<u32>) -> Result<(), NetError> {
        let mut message = LinkUnspec::new_with_name(name).setns_by_fd(to.file().as_raw_fd()).build();
        message.attributes.extend(index.map(|index| LinkAttribute::NewIfIndex(index as i32)));
        let operation = || format!("move {name} to {}", to.name());
        self.handle().link().change(message).execute().await.map_err(|error| self.failed(operation(), error))
    }

    async fn set_mtu(&self, name: &str, mtu: u32) -> Result<(), NetError> {
        let change = self.handle().link().change(LinkUnspec::new_with_name(name).mtu(mtu).build());
        change.execute().await.map_err(|error| self.failed(format!("set the MTU of {name} to {mtu}"), error))
    }
}
