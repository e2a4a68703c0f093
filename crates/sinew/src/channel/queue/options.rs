//! What a queue is made as.

use std::sync::Arc;

use super::{Sender, Successor, Worker};
use crate::channel::attach::{Attach, Events, Unattached};
use crate::channel::options::{self, Full};
use crate::channel::ring::Corrupt;
use crate::channel::typed::{Typed, TypedOptions};
use crate::error::Result;
use crate::mapping::Mapping;

/// How a queue is made. Made by [`channel::Options::queue`](crate::channel::Options::queue).
#[derive(Clone, Copy, Debug)]
#[must_use = "it makes nothing until `local`, `create_in` or an end of it does"]
pub struct Options(crate::channel::Options);

impl Options {
    pub(in crate::channel) const fn new(options: crate::channel::Options) -> Self {
        Self(options)
    }

    /// How many bytes of messages that are not done there is room for, for each sender: rounded up to a power of two of at
    /// least 4096, and at most 4 GiB. A message takes what it has, rounded up to 64 bytes; the longest has 64 bytes less than
    /// the capacity. First: 1 MiB.
    pub const fn capacity(mut self, bytes: u64) -> Self {
        self.0 = self.0.capacity(bytes);
        self
    }

    /// How many messages of each sender may be in it at a time, with those that workers have: rounded up to a power of two
    /// of at least 16, and at most 65,536. First: 1024.
    pub const fn slots(mut self, count: u32) -> Self {
        self.0.slots = count;
        self
    }

    /// How often a message is given to a worker, 1 to 15: if that many die over it, it is
    /// [set aside](Worker::aside). First: 5.
    pub const fn deliveries(mut self, most: u32) -> Self {
        self.0.deliveries = most;
        self
    }

    /// What happens to a message for which there is no room: [`Block`](Full::Block), as first, or [`Fail`](Full::Fail). A queue
    /// drops nothing. Who joins one and says it is refused where it is not so.
    pub const fn full(mut self, full: Full) -> Self {
        self.0 = self.0.full(full);
        self
    }

    /// With messages of a type, as [`channel::Options::typed`](crate::channel::Options::typed).
    pub const fn typed<V: Typed + ?Sized>(self) -> TypedOptions<V, Sender, Worker> {
        TypedOptions::new(self.0)
    }

    /// A sending end, to be attached under a name.
    pub const fn sender(self) -> Attach<Sender> {
        Attach::new(self.0)
    }

    /// A worker, to be attached under a name.
    pub const fn receiver(self) -> Attach<Worker> {
        Attach::new(self.0)
    }

    /// Makes a queue without a name, whose two ends can be handed to other processes before they are attached there. For one
    /// sender and one worker only: others find each other by a name.
    ///
    /// # Errors
    /// As for [`channel::Options::ends`](crate::channel::Options::ends).
    pub fn ends(self) -> Result<(Unattached<Sender>, Unattached<Worker>)> {
        Unattached::pair(self.0)
    }

    /// Makes a queue all of whose ends are in this process: as many senders and workers as there can be.
    ///
    /// # Errors
    /// As for [`channel::Options::pair`](crate::channel::Options::pair).
    pub fn local(self) -> Result<(Vec<Sender>, Vec<Worker>)> {
        let (_, map, shape) = self.0.make("queue")?;
        let events = Events::new(&shape)?;
        let follows = Successor::OfDead;
        let worker = |place| Worker::attach(&map, &shape, place, &events, None, follows);
        let workers = (0..shape.receivers).map(worker).collect();
        let sender = |lane| Sender::attach(&map, &shape, lane, &events, None, follows);
        let senders = (0..shape.lanes).map(sender).collect::<Result<_, Corrupt>>();
        Ok((senders.map_err(options::damaged)?, workers))
    }

    /// How much memory the queue takes, in bytes.
    ///
    /// # Errors
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for what cannot be: a capacity, or a number of slots, deliveries, senders
    /// or workers.
    pub fn bytes(self) -> Result<u64> {
        self.0.bytes()
    }

    /// Makes a queue in memory that was shared some other way, as
    /// [`channel::Options::create_in`](crate::channel::Options::create_in) does. Ends are attached by [`Sender::open_in`] and
    /// [`Worker::open_in`]; nobody is told of deaths but by [`Worker::worker_died`] and [`Worker::sender_died`].
    ///
    /// # Errors
    /// As for [`channel::Options::create_in`](crate::channel::Options::create_in).
    pub fn create_in(self, map: &Arc<Mapping>) -> Result<()> {
        self.0.create_in(map)
    }
}
