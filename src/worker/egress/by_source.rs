//! Outputs whose copies keep their source: each source has a lane of its own, through a socket that only the supervisor can open.
//! Until the first copies of a source have one they wait, no longer in the batch's memory but in their own.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::lane::Lane;
use super::senders::{Found, Gone, Kept, Key};
use super::{Egress, EgressBatch, Label, Through};
use crate::rules::RuleIndex;
use crate::stats::{Counters, SendFailure};
use crate::sys::udp_socket::can_be_kept;
use crate::sys::uring::Uring;

impl<'b> EgressBatch<'_, 'b> {
    /// Queues a copy for the lane of its source, or keeps it until there is one.
    pub(super) fn wait_by_source(&mut self, key: Key, payload: &'b [u8], label: Label) {
        if !can_be_kept(key.source) {
            return self.counters.not_sent(label.counters, SendFailure::SourceRefused);
        }
        let mut closed = None;
        let found = self.egress.senders.find(key, &mut closed);
        if let Some(lane) = closed {
            self.egress.lanes.close(lane);
        }
        match found {
            Found::Lane(lane) => self.enqueue(lane, payload, label),
            Found::Wanted if self.egress.senders.keep(&key, payload, label) => {}
            Found::Wanted => self.counters.not_sent(label.counters, SendFailure::SourcePending),
            Found::Refused(why) => self.counters.not_sent(label.counters, why),
        }
    }
}

impl Egress {
    /// Has sockets of sources take at most so many descriptors.
    pub fn limit_senders(&mut self, most: usize) {
        self.senders.limit(most);
    }

    /// Takes the time, which is as fine as turns are.
    pub fn tick(&mut self) {
        // Nobody else needs to know.
        if self.outputs_by_source > 0 {
            self.senders.tick(Instant::now());
        }
    }

    /// After what time to look again although nothing has come, if ever: see [`Egress::look`].
    pub fn look_after(&self) -> Option<Duration> {
        self.senders.look_after()
    }

    /// Whether copies wait for a socket of their source.
    pub fn is_waiting(&self) -> bool {
        self.senders.is_waiting()
    }

    /// A source that needs a socket, which the supervisor is to be asked for now; none where there are enough.
    pub fn ask(&mut self) -> Option<Key> {
        self.senders.ask()
    }

    /// Asks for everything again, as there is another supervisor.
    pub fn ask_again(&mut self) {
        self.senders.ask_again();
    }

    /// What was asked for has come: what waits for it is sent.
    pub fn open_sender(
        &mut self,
        key: Key,
        socket: OwnedFd,
        ring: &mut Uring,
        counters: &Counters,
    ) -> io::Result<()> {
        let output = self.outputs.get(key.output as usize).and_then(Option::as_ref);
        let Some(Through::BySource(to)) = output.map(|output| &output.through) else { return Ok(()) };
        // Nobody may wait for it any more.
        if !self.senders.is_wanted(&key) {
            return Ok(());
        }
        let lane = self.lanes.open(Lane::new(&Rc::clone(to), Arc::new(socket)));
        let copies = self.senders.answer(key, Ok(lane));
        let mut batch = self.begin(counters);
        for Kept { label, payload } in &copies {
            if batch.waiting.is_full() {
                batch.send(ring)?;
            }
            batch.enqueue(lane, payload, *label);
        }
        batch.send(ring)
    }

    /// What was asked for cannot be had, because of `errno`.
    pub fn refuse_sender(&mut self, key: Key, errno: i32, counters: &Counters) {
        let why = match SendFailure::from_errno(errno) {
            why @ (SendFailure::Unreachable | SendFailure::InterfaceDown) => why,
            _ => SendFailure::SourceRefused,
        };
        if self.senders.is_wanted(&key) {
            count(&self.senders.answer(key, Err(why)), why, counters);
        }
    }

    /// Gives up what has waited too long, and closes what has long been idle, from time to time.
    pub fn look(&mut self, counters: &Counters) {
        if let Some(gone) = self.senders.look() {
            self.let_go(gone, SendFailure::SourcePending, counters);
        }
    }

    /// Gives up what waits and `rule` has taken.
    pub fn give_up_rule(&mut self, rule: RuleIndex, counters: &Counters) {
        let Some(hops) = self.routes.get(rule.0 as usize) else { return };
        if self.senders.is_waiting() {
            let copies = self.senders.take_copies(|place| hops.iter().any(|hop| hop.counters == place));
            count(&copies, SendFailure::SourcePending, counters);
        }
    }

    /// Gives up everything that waits.
    pub fn give_up(&mut self, counters: &Counters) {
        let gone = self.senders.give_up();
        self.let_go(gone, SendFailure::SourcePending, counters);
    }

    /// The output at `place` is gone.
    pub(super) fn end_senders(&mut self, place: u32, counters: &Counters) {
        let gone = self.senders.end_output(place);
        self.let_go(gone, SendFailure::InterfaceDown, counters);
    }

    fn let_go(&mut self, gone: Gone, why: SendFailure, counters: &Counters) {
        gone.lanes.into_iter().for_each(|lane| self.lanes.close(lane));
        count(&gone.copies, why, counters);
    }
}

fn count(copies: &[Kept], why: SendFailure, counters: &Counters) {
    for copy in copies {
        counters.not_sent(copy.label.counters, why);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Arrived, Hop, PATIENCE};
    use super::*;
    use crate::stats::{MAX_OUTPUTS, Named};
    use crate::sys::udp_socket::EgressAddress;

    const RULE: RuleIndex = RuleIndex(0);

    /// A rule with an output that keeps sources, and how a datagram from the last byte of an address is queued.
    fn egress() -> (Egress, Counters, Uring) {
        let mut address = EgressAddress::new(([127, 0, 0, 1], 9).into(), "lo", 1);
        address.preserve = true;
        let mut egress = Egress::default();
        egress.set_output(3, &address, io::pipe().unwrap().1.into(), true).unwrap();
        egress.set_route(RULE, &[Hop::new(Some(3), 5)]).unwrap();
        egress.tick();
        (egress, Counters::new().unwrap(), Uring::new(8).unwrap())
    }

    fn queue(egress: &mut Egress, counters: &Counters, ring: &mut Uring, sources: &[[u8; 4]]) {
        let mut batch = egress.begin(counters);
        for source in sources {
            let arrived = Arrived { source: (*source, 4_000).into(), ..Arrived::nowhere() };
            batch.queue(ring, RULE, b"payload", arrived).unwrap();
        }
        batch.send(ring).unwrap();
    }

    fn dropped(counters: &Counters) -> Vec<(String, u64)> {
        counters.output(5).unwrap().dropped().report().into_iter().collect()
    }

    #[test]
    fn whatever_becomes_of_copies_that_wait_is_counted() {
        type End = fn(&mut Egress, &Counters);
        let ends: [(SendFailure, End); 6] = [
            (SendFailure::SourcePending, |egress, counters| egress.give_up(counters)),
            (SendFailure::SourcePending, |egress, counters| egress.give_up_rule(RULE, counters)),
            (SendFailure::InterfaceDown, |egress, counters| egress.remove_output(3, counters)),
            (SendFailure::SourcePending, |egress, counters| {
                egress.senders.tick(Instant::now() + PATIENCE);
                egress.look(counters);
            }),
            (SendFailure::SourceRefused, |egress, counters| refuse(egress, libc::EADDRINUSE, counters)),
            (SendFailure::Unreachable, |egress, counters| refuse(egress, libc::ENETUNREACH, counters)),
        ];
        for (name, end) in ends {
            let (mut egress, counters, mut ring) = egress();
            queue(&mut egress, &counters, &mut ring, &[[10, 0, 0, 1]; 3]);
            assert!(egress.is_waiting() && dropped(&counters).is_empty());
            end(&mut egress, &counters);
            assert_eq!(dropped(&counters), [(name.name().to_owned(), 3)]);
            egress.give_up(&counters);
            assert_eq!(dropped(&counters).len(), 1, "and nothing is counted again");
        }
    }

    fn refuse(egress: &mut Egress, errno: i32, counters: &Counters) {
        let key = egress.ask().unwrap();
        egress.refuse_sender(key, errno, counters);
        egress.refuse_sender(key, errno, counters);
    }

    #[test]
    fn a_source_that_cannot_be_kept_is_not_asked_for() {
        let (mut egress, counters, mut ring) = egress();
        queue(&mut egress, &counters, &mut ring, &[[169, 254, 1, 1], [0; 4], [127, 0, 0, 1]]);
        assert_eq!((egress.ask(), egress.is_waiting()), (None, false));
        assert_eq!(dropped(&counters), [("source_refused".to_owned(), 3)]);
    }

    #[test]
    fn a_socket_that_nobody_waits_for_is_closed() {
        let (mut egress, counters, mut ring) = egress();
        let source = ([10, 0, 0, 1], 4_000).into();
        for output in [3, 4, MAX_OUTPUTS as u32] {
            let (mut reader, writer) = io::pipe().unwrap();
            egress.open_sender(Key { output, source }, writer.into(), &mut ring, &counters).unwrap();
            assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0, "nobody has the other end");
        }
    }
}
