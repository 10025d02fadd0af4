//! Orders and answers as messages of a [`Channel`]: several in one where they fit, one in several where it does not.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::sys::channel::{Channel, MAX_DESCRIPTORS, MAX_MESSAGE};

/// A descriptor that several hold.
pub type Descriptor = Arc<OwnedFd>;

/// Something that travels, maybe with a descriptor.
pub trait Travels: Serialize + DeserializeOwned {
    /// Whether one comes with it.
    fn has_descriptor(&self) -> bool;
}

/// The first byte of a message: whether what it carries goes on in the next one.
const LAST: u8 = 0;
const MORE: u8 = 1;
/// Bytes of a message behind that.
const ROOM: usize = MAX_MESSAGE - 1;

/// What is to be sent.
#[derive(Debug)]
pub struct Outbox<T> {
    /// What goes into one message, as lines of JSON.
    lines: Vec<u8>,
    descriptors: Vec<Descriptor>,
    messages: VecDeque<(Vec<u8>, Vec<Descriptor>)>,
    kind: PhantomData<T>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), descriptors: Vec::new(), messages: VecDeque::new(), kind: PhantomData }
    }
}

impl<T: Travels> Outbox<T> {
    /// Puts `item` behind what is there.
    pub fn push(&mut self, item: &T, descriptor: Option<Descriptor>) -> io::Result<()> {
        let line = serde_json::to_vec(item)?;
        if self.lines.len() + line.len() >= ROOM || self.descriptors.len() == MAX_DESCRIPTORS {
            self.close();
        }
        self.lines.extend(line);
        self.lines.push(b'\n');
        self.descriptors.extend(descriptor);
        Ok(())
    }

    fn close(&mut self) {
        let lines = std::mem::take(&mut self.lines);
        let mut descriptors = std::mem::take(&mut self.descriptors);
        let count = lines.len().div_ceil(ROOM);
        for (i, part) in lines.chunks(ROOM).enumerate() {
            let first = if i + 1 == count { LAST } else { MORE };
            self.messages.push_back(([&[first], part].concat(), std::mem::take(&mut descriptors)));
        }
    }

    /// Sends what the channel has room for; says whether that was all.
    pub fn flush(&mut self, channel: &Channel) -> io::Result<bool> {
        self.close();
        while let Some((message, descriptors)) = self.messages.front() {
            let descriptors: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_fd()).collect();
            match channel.send(message, &descriptors) {
                Ok(()) => drop(self.messages.pop_front()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.messages.is_empty()
    }
}

/// What has been received.
#[derive(Debug)]
pub struct Inbox<T> {
    lines: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    items: VecDeque<(T, Option<OwnedFd>)>,
}

impl<T> Default for Inbox<T> {
    fn default() -> Self {
        Self { lines: Vec::new(), descriptors: VecDeque::new(), items: VecDeque::new() }
    }
}

impl<T: Travels> Inbox<T> {
    /// The next item that has arrived, with its descriptor.
    ///
    /// # Errors
    /// `WouldBlock` when there is none yet, `UnexpectedEof` when the other end is gone, `InvalidData` when it says what cannot
    /// be understood.
    pub fn receive(&mut self, channel: &Channel) -> io::Result<(T, Option<OwnedFd>)> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return Ok(item);
            }
            let (message, descriptors) = channel.receive()?.ok_or(io::ErrorKind::UnexpectedEof)?;
            self.descriptors.extend(descriptors);
            let (first, part) = message.split_first().ok_or(io::ErrorKind::InvalidData)?;
            self.lines.extend(part);
            if *first == LAST {
                self.read()?;
            }
        }
    }

    fn read(&mut self) -> io::Result<()> {
        let lines = std::mem::take(&mut self.lines);
        for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            let item: T = serde_json::from_slice(line).map_err(invalid)?;
            let descriptor = if item.has_descriptor() {
                Some(self.descriptors.pop_front().ok_or(io::ErrorKind::InvalidData)?)
            } else {
                None
            };
            self.items.push_back((item, descriptor));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::super::{Answer, Order};
    use super::*;

    #[test]
    fn many_orders_arrive_in_order_each_with_its_descriptor() {
        let (one, other) = Channel::pair().unwrap();
        let (reader, mut writer) = io::pipe().unwrap();
        let pipe = Arc::new(OwnedFd::from(reader));
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::<Order>::default());
        assert_eq!(inbox.receive(&other).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        for number in 0..1_000 {
            outbox.push(&Order::Hold { place: 0 }, Some(Arc::clone(&pipe))).unwrap();
            outbox.push(&Order::Answer(number), None).unwrap();
        }
        let mut next = || {
            loop {
                outbox.flush(&one).unwrap();
                match inbox.receive(&other) {
                    Ok(item) => return item,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        };
        for number in 0..1_000 {
            let (order, descriptor) = next();
            assert_eq!(order, Order::Hold { place: 0 });
            // Closed at once: a process may have a thousand.
            writer.write_all(b"x").unwrap();
            File::from(descriptor.unwrap()).read_exact(&mut [0]).unwrap();
            let (order, descriptor) = next();
            assert!(descriptor.is_none());
            assert_eq!(order, Order::Answer(number));
        }
        assert!(outbox.is_empty());
        drop(one);
        assert_eq!(inbox.receive(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn one_that_is_larger_than_a_message_arrives_too() {
        let (one, other) = Channel::pair().unwrap();
        let (mut outbox, mut inbox) = (Outbox::default(), Inbox::<Answer>::default());
        let large = Answer::Failed("x".repeat(5 * MAX_MESSAGE / 2));
        for answer in [&Answer::Done(1), &large, &Answer::Done(2)] {
            outbox.push(answer, None).unwrap();
        }
        let mut received = Vec::new();
        while received.len() < 3 {
            outbox.flush(&one).unwrap();
            if let Ok((answer, _)) = inbox.receive(&other) {
                received.push(answer);
            }
        }
        assert_eq!(received, [Answer::Done(1), large, Answer::Done(2)]);
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        for (message, descriptors) in
            [(&b"\0nonsense\n"[..], 0), (b"\0\"Hold\"\n", 0), (b"\0{\"Answer\":-1}\n", 1), (b"\0\xff\n", 0)]
        {
            let (one, other) = Channel::pair().unwrap();
            let (reader, _writer) = io::pipe().unwrap();
            one.send(message, &vec![reader.as_fd(); descriptors]).unwrap();
            let error = Inbox::<Order>::default().receive(&other).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
    }
}
