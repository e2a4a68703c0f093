//! What a channel is made as.

use std::sync::Arc;

use super::attach::Events;
use super::fence;
use super::lane::{Lane, Side};
use super::layout::{BORROWED_SHIFT, FEWEST_SLOTS, MOST_MEMBERS, OVERTAKE, Shape};
use super::member::FACTS;
use super::queue::{self, MOST_DELIVERIES, MOST_SLOTS, MOST_WORKERS};
use super::receiver::Receiver;
use super::ring::{self, Corrupt, overtake};
use super::sender::Sender;
use super::typed::{self, Type, Typed, TypedOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::memfd::{self, Memfd};

/// The records of a channel whose maker says nothing: 1 MiB.
const CAPACITY: u64 = 1 << 20;
/// The most senders of one channel.
const MOST_SENDERS: u32 = 64;

/// The slots of each lane of a queue whose maker says nothing.
const SLOTS: u32 = 1024;
/// How often a message of a queue is given out whose maker says nothing.
const DELIVERIES: u32 = 5;

/// What the name of a channel's memory begins with, as /proc shows it.
pub(super) const LABEL: &str = "sinew:";

/// How many messages can be borrowed at a time where the oldest are dropped, and its maker says nothing.
const BORROWED: u32 = 7;

/// What happens to a message for which there is no room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Full {
    /// The sender waits for room, as long as its call allows.
    #[default]
    Block,
    /// The call fails at once, whatever it allows.
    Fail,
    /// The message is dropped and counted, and the call succeeds: it never waits. See [`Counts`](super::Counts). A loan, which
    /// is no message yet, fails at once.
    DropNewest,
    /// The oldest messages are dropped that nobody has received, as many as there has to be room for: a sender never waits, whatever
    /// becomes of the receiver, and is told of none that is gone. The receiver is told [`Lagged`](crate::RecvError::Lagged), and goes on
    /// with the oldest that is there. What it has borrowed stays; so the longest message is shorter:
    /// [`Options::max_borrowed`].
    DropOldest,
}

/// How a channel is made.
#[derive(Clone, Copy, Debug)]
#[must_use = "it makes nothing until `pair`, `create_in` or an end of it does"]
pub struct Options {
    pattern: Pattern,
    capacity: u64,
    /// If it was said.
    full: Option<Full>,
    pub(super) slots: u32,
    pub(super) deliveries: u32,
    /// Of the messages; zero for bytes.
    pub(super) type_hash: u64,
    borrowed: u32,
}

/// Who sends to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pattern {
    Stream,
    FanIn { senders: u32 },
    Queue { senders: u32, workers: u32 },
}

impl Options {
    /// From one sender to one receiver.
    pub const fn stream() -> Self {
        Self::of(Pattern::Stream)
    }

    /// From up to so many senders at a time, 1 to 64, to one receiver, which takes from them in turns. The messages of one sender
    /// arrive in their order; those of two in any.
    pub const fn fan_in(senders: u32) -> Self {
        Self::of(Pattern::FanIn { senders })
    }

    /// From up to so many senders at a time, 1 to 64, each message to exactly one of up to so many workers, 1 to 64: see
    /// [`queue`](super::queue).
    pub const fn queue(senders: u32, workers: u32) -> queue::Options {
        queue::Options::new(Self::of(Pattern::Queue { senders, workers }))
    }

    const fn of(pattern: Pattern) -> Self {
        Self {
            pattern,
            capacity: CAPACITY,
            full: None,
            slots: SLOTS,
            deliveries: DELIVERIES,
            type_hash: 0,
            borrowed: BORROWED,
        }
    }

    /// How many bytes of messages that nobody has received yet there is room for, for each sender: rounded up to a
    /// power of two of at least 4096, and at most 4 GiB. A message takes 8 bytes more than it has and is rounded up; the longest
    /// has 16 bytes less than the capacity.
    pub const fn capacity(mut self, bytes: u64) -> Self {
        self.capacity = bytes;
        self
    }

    /// How many messages of each sender can be borrowed at a time where the [oldest are dropped](Full::DropOldest), 1 to 15. First:
    /// 7. Room for them is set aside: of a capacity of C bytes the longest message has about C / (2 n + 4) for n of them (58,240
    /// bytes of 1 MiB for 7). Elsewhere it is [`MOST_BORROWED`](super::MOST_BORROWED), and this means nothing.
    pub const fn max_borrowed(mut self, count: u32) -> Self {
        self.borrowed = count;
        self
    }

    /// What happens to a message for which there is no room. First: the sender waits. Who joins a channel and says it is
    /// refused where it is not so; who does not say it takes what there is.
    pub const fn full(mut self, full: Full) -> Self {
        self.full = Some(full);
        self
    }

    /// With messages of a type: values or slices of a [`Plain`](crate::shared::Plain) type, or for a receiver several
    /// [`versions!`](crate::versions) of one. See [`TypedOptions`].
    pub const fn typed<V: Typed + ?Sized>(self) -> TypedOptions<V> {
        TypedOptions::new(self)
    }

    pub(super) const fn policy(&self) -> Full {
        match self.full {
            Some(full) => full,
            None => Full::Block,
        }
    }

    /// What a newcomer wants of the channel that it joins.
    pub(super) fn facts(&self) -> [u8; FACTS] {
        let mut facts = [0; FACTS];
        facts[0] = self.full.map_or(0, Full::fact);
        facts
    }

    /// Makes a channel whose two ends are in this process, for two threads or for one.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a capacity or a number of senders that cannot be; as for
    /// [`memfd::Options::create`], where there is not so much memory.
    pub fn pair(self) -> Result<(Sender, Receiver)> {
        let (_, map, shape) = self.make("pair")?;
        let lanes = (0..shape.lanes).map(|index| Lane::of(&map, &shape, index)).collect();
        let events = Events::new(&shape)?;
        let side = || Side::of_receiver(&map, &shape, 0).with_event(events.receiver(0));
        let bell = events.sender(0);
        let receiver =
            Receiver::attach(lanes, &shape, side(), bell, None, false).map_err(damaged)?;
        let lane = Lane::of(&map, &shape, 0);
        let own = lane.sender_side().with_event(bell);
        let sender = Sender::attach(lane, &shape, own, side(), None, false).map_err(damaged)?;
        Ok((sender, receiver))
    }

    /// How much memory the channel takes, in bytes.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a capacity or a number of senders that cannot be.
    pub fn bytes(self) -> Result<u64> {
        Ok(self.shape()?.bytes())
    }

    /// Makes a channel in memory that was shared some other way, whatever is there: from the beginning of the map, which
    /// nobody else uses yet. Ends are attached by [`Sender::open_in`] and [`Receiver::open_in`]. There is no name, and nobody
    /// is told of deaths but by [`Receiver::sender_died`] and [`Sender::receiver_died`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use sinew::channel::{Options, Receiver, Sender};
    /// use sinew::memfd;
    /// use sinew::wait::{Receives, Sends};
    ///
    /// let options = Options::stream().capacity(4096);
    /// let map = Arc::new(memfd::Options::new().create("example", options.bytes()?)?.map()?);
    /// options.create_in(&map)?;
    /// // SAFETY: nobody else has the memory.
    /// let receiver = unsafe { Receiver::open_in(&map) }?;
    /// // SAFETY: as above.
    /// let sender = unsafe { Sender::open_in(&map, 0) }?;
    /// sender.send(b"hello").unwrap();
    /// assert_eq!(receiver.recv(&mut [0; 16]), Ok(5));
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) as for [`bytes`](Self::bytes), or if the map is too short or
    /// private; [`PermissionDenied`](ErrorKind::PermissionDenied) if it is read-only.
    pub fn create_in(self, map: &Arc<Mapping>) -> Result<()> {
        let shape = self.shape()?.fenced();
        usable(map, "create")?;
        if shape.bytes() > map.len() as u64 {
            let (takes, has) = (shape.bytes(), map.len());
            return Err(invalid(format!("it takes {takes} bytes, and the map has {has}")));
        }
        shape.write(map)
    }

    pub(super) fn make(self, label: &str) -> Result<(Memfd, Arc<Mapping>, Shape)> {
        let shape = self.shape()?.fenced();
        let memfd = memfd::Options::new().create(&format!("{LABEL}{label}"), shape.bytes())?;
        let map = Arc::new(memfd.map()?);
        shape.write(&map)?;
        Ok((memfd, map, shape))
    }

    /// As the header and newcomers have it.
    pub(super) const fn pattern_number(self) -> u16 {
        match self.pattern {
            Pattern::Stream => 1,
            Pattern::FanIn { .. } => 2,
            Pattern::Queue { .. } => 3,
        }
    }

    fn shape(self) -> Result<Shape> {
        let (lanes, receivers, is_queue) = match self.pattern {
            Pattern::Stream => (1, 1, false),
            Pattern::FanIn { senders } => (senders, 1, false),
            Pattern::Queue { senders, workers } => (senders, workers, true),
        };
        if lanes == 0 || lanes > MOST_SENDERS {
            return Err(invalid(format!("1 to {MOST_SENDERS} senders, not {lanes}")));
        }
        if self.capacity > ring::MOST {
            return Err(invalid(format!(
                "at most {} bytes of messages for each sender, not {}",
                ring::MOST,
                self.capacity
            )));
        }
        let borrowed = u64::from(self.borrowed);
        if self.policy() == Full::DropOldest && !(1..=overtake::MOST_BORROWED).contains(&borrowed) {
            let most = overtake::MOST_BORROWED;
            return Err(invalid(format!("1 to {most} borrowed messages, not {borrowed}")));
        }
        let (slots, deliveries) = (u64::from(self.slots), u64::from(self.deliveries));
        if is_queue {
            if !matches!(self.policy(), Full::Block | Full::Fail) {
                let why =
                    "a queue drops nothing: each message goes to a worker; use `Block` or `Fail`";
                return Err(invalid(why.to_owned()));
            }
            if receivers == 0 || u64::from(receivers) > MOST_WORKERS {
                return Err(invalid(format!("1 to {MOST_WORKERS} workers, not {receivers}")));
            }
            if slots > MOST_SLOTS {
                return Err(invalid(format!("at most {MOST_SLOTS} slots, not {slots}")));
            }
            if !(1..=MOST_DELIVERIES).contains(&deliveries) {
                return Err(invalid(format!(
                    "1 to {MOST_DELIVERIES} deliveries, not {deliveries}"
                )));
            }
        }
        Ok(Shape {
            pattern: self.pattern_number().into(),
            full: self.policy().number(self.borrowed),
            // One more, for a newcomer while the place of a dead member is not free yet.
            members: (u64::from(lanes) + u64::from(receivers) + 1).min(MOST_MEMBERS),
            receivers: u64::from(receivers),
            lanes: u64::from(lanes),
            capacity: self.capacity.max(4096).next_power_of_two(),
            slots: if is_queue { slots.next_power_of_two().max(FEWEST_SLOTS) } else { 0 },
            deliveries: if is_queue { deliveries } else { 0 },
            type_hash: self.type_hash,
            kernel_fences: false,
        })
    }
}

impl Shape {
    /// With the kernel's fences, if this process may have them.
    fn fenced(self) -> Self {
        Self { kernel_fences: fence::register(), ..self }
    }
}

/// Reads what channel is in a map, to attach an end to it that takes these types.
pub(super) fn open(map: &Arc<Mapping>, types: &[Type]) -> Result<Shape> {
    let shape = open_any(map, types)?;
    if shape.slots == 0 { Ok(shape) } else { Err(other("a queue")) }
}

/// The same for a queue.
pub(super) fn open_queue(map: &Arc<Mapping>, types: &[Type]) -> Result<Shape> {
    let shape = open_any(map, types)?;
    if shape.slots == 0 { Err(other("no queue")) } else { Ok(shape) }
}

fn open_any(map: &Arc<Mapping>, types: &[Type]) -> Result<Shape> {
    usable(map, "open")?;
    let shape = Shape::read(map)?;
    typed::check_type(types, &shape)?;
    Ok(shape)
}

#[cold]
fn other(what: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, "open").on(Mechanism::Channel).because(what)
}

impl Full {
    /// As the header has it.
    pub(super) const fn of(shape: &Shape) -> Self {
        // Others are refused with the header.
        match shape.full {
            1 => Self::Fail,
            2 => Self::DropNewest,
            0 => Self::Block,
            _ => Self::DropOldest,
        }
    }

    /// As a newcomer says which it wants; zero is any.
    const fn fact(self) -> u8 {
        match self {
            Self::Block => 1,
            Self::Fail => 2,
            Self::DropNewest => 3,
            Self::DropOldest => 4,
        }
    }

    /// Why a newcomer that says this does not want a channel of this shape.
    pub(super) fn refusal(facts: &[u8; FACTS], shape: &Shape) -> Option<String> {
        let full = Self::of(shape);
        let wanted = facts[0];
        (wanted != 0 && wanted != full.fact())
            .then(|| format!("when it is full: {full:?}, which the newcomer does not want"))
    }

    const fn number(self, borrowed: u32) -> u64 {
        match self {
            Self::Block => 0,
            Self::Fail => 1,
            Self::DropNewest => 2,
            Self::DropOldest => OVERTAKE | (borrowed as u64) << BORROWED_SHIFT,
        }
    }
}

fn usable(map: &Mapping, operation: &'static str) -> Result<()> {
    let error = |kind| Error::new(kind, operation).on(Mechanism::Channel);
    if !map.is_shared() {
        let why = "the map is private: no other process sees it";
        return Err(error(ErrorKind::InvalidInput).because(why));
    }
    if !map.is_writable() {
        return Err(error(ErrorKind::PermissionDenied).because("the map is read-only"));
    }
    Ok(())
}

#[cold]
fn invalid(why: String) -> Error {
    Error::new(ErrorKind::InvalidInput, "create").on(Mechanism::Channel).because(why)
}

#[cold]
pub(super) fn damaged(_: Corrupt) -> Error {
    Error::new(ErrorKind::Mismatch, "attach")
        .on(Mechanism::Channel)
        .because("its memory is damaged")
}
