//! Carrying out orders, between turns.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::WorkerError;
use super::egress::Key;
use super::link::Incoming;
use super::order::{Answer, Order};
use super::receiver::{Receiver, Source};
use super::unified_loop::UnifiedLoop;
use crate::rules::{InputIndex, RuleIndex};

/// How long to look for the rest of an input that has ended.
const END_INPUT_TIME: Duration = Duration::from_millis(100);

impl<R: Receiver> UnifiedLoop<'_, R> {
    /// Carries out what has come; says whether to go on.
    pub(super) fn carry_out_orders(&mut self) -> Result<bool, WorkerError> {
        loop {
            match self.link.next().map_err(WorkerError::Orders)? {
                None => {
                    self.link.flush();
                    return Ok(true);
                }
                Some(Incoming::End | Incoming::Order(Order::Drain, _)) => return Ok(false),
                Some(Incoming::Supervisor) => {
                    if let Err(error) = self.tell() {
                        tracing::error!("tell another supervisor what holds: {error}");
                        self.link.leave();
                    }
                    self.egress.ask_again();
                }
                Some(Incoming::Order(order, descriptor)) => self.carry_out(order, descriptor)?,
            }
        }
    }

    fn carry_out(&mut self, order: Order, descriptor: Option<OwnedFd>) -> Result<(), WorkerError> {
        match &order {
            Order::EndInput { place } => self.end_input(InputIndex(*place))?,
            Order::Sender(key) => self.open_sender(*key, descriptor)?,
            Order::Answer(number) => {
                self.link.answer(&Answer::Done(*number), None).map_err(WorkerError::Orders)?;
            }
            // One that cannot be carried out is no reason to leave all others undone.
            _ => {
                if let Err(error) = self.change(&order, descriptor) {
                    let why = format!("{}: {error}{}", subject(&order), remedy(&order, &error));
                    let input = match order {
                        Order::Input { interface, .. } => Some(interface),
                        _ => None,
                    };
                    return self
                        .link
                        .answer(&Answer::Refused { input, why }, None)
                        .map_err(WorkerError::Orders);
                }
            }
        }
        self.told.keep(order);
        Ok(())
    }

    fn change(&mut self, order: &Order, descriptor: Option<OwnedFd>) -> io::Result<()> {
        let descriptor = || descriptor.ok_or(io::ErrorKind::InvalidData);
        match order {
            Order::Input { place, interface, link_layer, shape } => {
                let source = Source { name: interface.clone(), link_layer: *link_layer, shape: *shape };
                self.receiver.add(InputIndex(*place), source, descriptor()?)?;
                if self.rules.names_vlan(InputIndex(*place)) {
                    self.receiver.tell_tags(InputIndex(*place), &mut self.ring)?;
                }
                Ok(())
            }
            Order::Output { place, address, own, segment } => {
                self.egress.remove_output(*place, self.counters);
                self.egress.set_output(*place, address, descriptor()?, *segment)?;
                self.own.set(*place, *own);
                Ok(())
            }
            Order::EndOutput { place } => {
                self.own.remove(*place);
                self.egress.remove_output(*place, self.counters);
                Ok(())
            }
            Order::NoSender { key, errno } => {
                self.egress.refuse_sender(*key, *errno, self.counters);
                Ok(())
            }
            Order::Stream { place, dedupe } => self.streams.set(*place, dedupe, descriptor()?),
            Order::EndStream { place } => {
                self.streams.remove(*place);
                Ok(())
            }
            Order::Rule { place, rule, input, hops, leg } => {
                self.forget_rule(*place);
                self.egress.set_route(RuleIndex(*place), hops)?;
                self.streams.set_leg(RuleIndex(*place), *leg)?;
                if let Some(input) = input.map(InputIndex) {
                    self.rules.insert(input, &rule.input, RuleIndex(*place));
                    if rule.input.vlan.is_some() {
                        self.receiver.tell_tags(input, &mut self.ring)?;
                    }
                }
                Ok(())
            }
            Order::EndRule { place } => {
                self.forget_rule(*place);
                self.egress.give_up_rule(RuleIndex(*place), self.counters);
                self.streams.set_leg(RuleIndex(*place), None)?;
                self.egress.set_route(RuleIndex(*place), &[])
            }
            Order::Hold { place } => {
                self.told.hold(*place, descriptor()?);
                Ok(())
            }
            Order::LogLevel(level) => {
                crate::logging::set_level(level);
                Ok(())
            }
            // A worker begins once.
            Order::Begin(_) => Err(io::ErrorKind::InvalidData.into()),
            Order::EndInput { .. }
            | Order::Sender(_)
            | Order::LetGo { .. }
            | Order::LetAllGo
            | Order::Answer(_)
            | Order::Drain => Ok(()),
        }
    }

    fn forget_rule(&mut self, place: u32) {
        if let Some(Order::Rule { rule, input: Some(input), .. }) = self.told.rule(place) {
            self.rules.remove(InputIndex(*input), &rule.input);
        }
    }

    fn open_sender(&mut self, key: Key, socket: Option<OwnedFd>) -> Result<(), WorkerError> {
        let Some(socket) = socket else { return Ok(()) };
        self.egress.open_sender(key, socket, &mut self.ring, self.counters).map_err(WorkerError::ring)
    }

    fn end_input(&mut self, place: InputIndex) -> Result<(), WorkerError> {
        // What is left then is told by the counters.
        self.drain(&[place], END_INPUT_TIME)?;
        self.receiver.remove(place, &mut self.ring).map_err(WorkerError::ring)
    }

    /// Tells another supervisor what holds.
    fn tell(&mut self) -> io::Result<()> {
        let task = Order::Begin(self.task.clone());
        self.link
            .answer(&Answer::Told(task), Some(Arc::new(self.counters.memory().try_clone_to_owned()?)))?;
        for order in self.told.orders() {
            let descriptor = match order {
                Order::Output { place, .. } => self.egress.socket(*place),
                Order::Stream { place, .. } => self.streams.memory(*place).transpose()?.map(Arc::new),
                Order::Input { place, .. } => {
                    let socket = self.receiver.socket(InputIndex(*place));
                    socket.map(|socket| socket.try_clone_to_owned()).transpose()?.map(Arc::new)
                }
                _ => None,
            };
            self.link.answer(&Answer::Told(order.clone()), descriptor)?;
        }
        self.link.answer(&Answer::ToldAll, None)?;
        self.link.flush();
        Ok(())
    }
}

/// What an order is about, for messages.
fn subject(order: &Order) -> String {
    match order {
        Order::Input { interface, .. } => {
            format!("receive on {interface}")
        }
        Order::Output { address, .. } => format!("send to {address}"),
        Order::Stream { dedupe, .. } => format!("have stream \"{}\"", dedupe.stream),
        Order::Rule { rule, .. } => format!("relay by rule \"{}\"", rule.name),
        order => format!("{order:?}"),
    }
}

fn remedy(order: &Order, error: &io::Error) -> &'static str {
    match (order, error.raw_os_error()) {
        (Order::Input { shape: Some(_), .. }, Some(libc::ENOMEM)) => {
            ": give the relay more memory, or smaller rings (--ring-block-count)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::super::order::{Inbox, Outbox, Path, Task};
    use super::super::{Link, run};
    use super::*;
    use crate::stats::Counters;
    use crate::sys::channel::Channel;
    use crate::sys::poll;
    use crate::wire::LinkLayer;

    #[test]
    fn an_order_that_cannot_be_carried_out_is_refused_and_ends_no_worker() {
        let (channel, other) = Channel::pair().unwrap();
        let worker = std::thread::spawn(|| run(Link::connected(other), |_| Ok(())));
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::<Answer>::default());
        let memory = Counters::new().unwrap().memory().try_clone_to_owned().unwrap();
        let task = Task::new(0, Path::Blocks, Duration::ZERO, None);
        outbox.push(&Order::Begin(task), Some(Arc::new(memory))).unwrap();
        // Neither a packet socket nor a ring.
        let pipe = Arc::new(OwnedFd::from(io::pipe().unwrap().0));
        let (interface, link_layer) = ("eth0".to_owned(), LinkLayer::Ethernet);
        let input = Order::Input { place: 0, interface, link_layer, shape: None };
        outbox.push(&input, Some(pipe)).unwrap();
        outbox.push(&Order::Answer(1), None).unwrap();
        outbox.flush(&channel).unwrap();
        let mut answer = || {
            poll::wait_readable(channel.as_fd()).unwrap();
            inbox.receive(&channel).unwrap().0
        };
        let Answer::Refused { input, why } = answer() else { panic!("it cannot be done") };
        assert_eq!(input.as_deref(), Some("eth0"));
        assert!(why.starts_with("receive on eth0: "), "{why}");
        assert_eq!(answer(), Answer::Done(1));
        drop(channel);
        worker.join().unwrap().unwrap();
    }
}
