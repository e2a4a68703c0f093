#![allow(unsafe_code, reason = "a message is read in place, in mapped memory")]
//! The receiving end, of one lane or of several.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::attach::{Events, private};
use super::bell::doorbell::{Doorbell, Event};
use super::bell::{Rung, Sleeps};
use super::counters::Counts;
use super::fence::Fencing;
use super::lane::{Lane, Side, SideField};
use super::layout::Shape;
use super::member::{Member, Role};
use super::memory::{Memory, ReceiverField};
use super::options;
use super::presence::{Presence, Seen};
use super::ring::overtake::Pins;
use super::ring::overtake::chase::{Chasing, Counted};
use super::ring::{Corrupt, Receiving, Record};
use super::typed::Type;
use super::{spin, stats};
use crate::error::{RecvError, Result};
use crate::fork::Origin;
use crate::mapping::Mapping;
use crate::wait::{Borrows, Receives, Wait};

mod overtaken;
#[cfg(test)]
mod tests;
mod watched;

/// The most messages that can be borrowed at a time, of one sender; fewer where the oldest are dropped:
/// [`Options::max_borrowed`](super::Options::max_borrowed).
pub const MOST_BORROWED: usize = 64;
/// How many messages of one sender are taken in a row while others have some too.
const TURN: u32 = 32;

/// The receiving end of a channel. See the [module](super).
///
/// One thread at a time uses it; it can be handed to another.
pub struct Receiver {
    ends: Box<[End]>,
    /// Whose turn it is, and how many of its messages were taken in a row.
    turn: Cell<usize>,
    /// Where senders overtake it is always the next one's turn, and this is `TURN`.
    taken: Cell<u32>,
    own: Side,
    sleeps: Cell<Sleeps>,
    doorbell: Doorbell,
    told_cpu: Cell<u32>,
    fencing: Fencing,
    /// Whether it waits for further senders when all have left.
    waits_on: Cell<bool>,
    /// Whether another sender can come when the only one is gone.
    lasts: bool,
    origin: Origin,
    /// Left after this end has said that it leaves: fields are dropped after `drop`.
    member: Option<Member>,
}

/// What a look at all lanes finds.
enum Sight {
    /// A message of the lane of this index.
    Message(usize, Record),
    /// So many messages of the lane of this index were missed, and nobody was told yet.
    Lagged(usize, u64),
    Corrupt,
    /// The sender of the lane of this index died, in this turn of its, and nobody was told yet.
    Died(usize, u64),
    Closed,
}

/// The receiving end of one lane.
struct End {
    lane: Lane,
    /// Whose words are those of the whole receiver.
    own: Side,
    sender: Side,
    ring: Receiving,
    rung: Cell<Rung>,
    fencing: Fencing,
    borrowed: Borrowed,
    /// Up to where a receiver before this one was given messages, and how often the first of them was given.
    given: u64,
    attempts: u64,
    first: u64,
    /// The turn of the sender whose end was told last.
    told: Cell<u64>,
    /// Where the sender overtakes: then this is used, and not `ring` and `borrowed`, which has no room.
    chase: Option<Box<Chasing>>,
}

/// Messages that are borrowed, or wait for older ones to be released.
#[derive(Default)]
struct Borrowed {
    /// How many, from the oldest.
    count: Cell<usize>,
    /// Which of them, counted from the oldest, are released.
    released: Cell<u64>,
    /// Where the oldest one's entry is.
    first: Cell<usize>,
    entries: Box<[Cell<(u64, u64)>]>,
}

impl Receiver {
    /// Takes the lanes, from which nobody else receives now.
    pub(super) fn attach(
        lanes: Vec<Lane>,
        shape: &Shape,
        own: Side,
        senders: Option<&Event>,
        member: Option<Member>,
        lasts: bool,
    ) -> Result<Self, Corrupt> {
        own.word(SideField::Sleeping).store(0, Relaxed);
        let last = own.word(SideField::Sleeps).load(Relaxed);
        let fencing = Fencing::of(shape.kernel_fences);
        let pins = shape.pins();
        let ends = lanes.into_iter().map(|lane| End::attach(lane, pins, &own, senders, fencing));
        let ends = ends.collect::<Result<Box<[End]>, Corrupt>>()?;
        let receiver = Self {
            ends,
            turn: Cell::new(0),
            taken: Cell::new(if pins.is_some() { TURN } else { 0 }),
            own,
            sleeps: Cell::new(Sleeps::behind(last)),
            doorbell: Doorbell::default(),
            told_cpu: Cell::new(0),
            fencing,
            waits_on: Cell::new(false),
            lasts,
            origin: Origin::here(),
            member,
        };
        let turn = Seen::at(&receiver.own).turn + 1;
        Seen { presence: Presence::Here, turn }.say(&receiver.own);
        receiver.ends.iter().for_each(|end| end.sender.ring());
        Ok(receiver)
    }

    /// Attaches to a channel that [`Options::create_in`](super::Options::create_in) made. It goes on where the last receiver
    /// ended.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if there is no channel, one of another version, or rubbish;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if the map is private;
    /// [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if it is read-only.
    ///
    /// # Safety
    /// As long as the channel is in use, every process that can write the memory uses it only as a channel of this library, and
    /// nobody else receives from it.
    pub unsafe fn open_in(map: &Arc<Mapping>) -> Result<Self> {
        // SAFETY: the caller's.
        unsafe { Self::open_of(map, &[]) }.map(|(receiver, _)| receiver)
    }

    /// The same for messages of one of these types. Gives the hash of that one, too.
    ///
    /// # Safety
    /// As for `open_in`.
    pub(super) unsafe fn open_of(map: &Arc<Mapping>, types: &[Type]) -> Result<(Self, u64)> {
        let shape = options::open(map, types)?;
        let lanes = (0..shape.lanes).map(|index| Lane::of(map, &shape, index)).collect();
        let own = Side::of_receiver(map, &shape, 0);
        Self::attach(lanes, &shape, own, None, None, true)
            .map(|receiver| (receiver, shape.type_hash))
            .map_err(options::damaged)
    }

    /// What became of the messages of a lane. None if there is no such lane.
    #[must_use]
    pub fn counts(&self, lane: u32) -> Option<Counts> {
        let end = self.ends.get(lane as usize)?;
        Some(Counts::of(&end.lane, end.chase.is_some()))
    }

    /// What is counted of this receiver: see [`stats`].
    #[must_use]
    pub fn stats(&self) -> stats::Receiver {
        let counts = |end: &End| {
            let word = |field| end.lane.receiver(field).load(Relaxed);
            match &end.chase {
                None => (word(ReceiverField::Received), word(ReceiverField::Bytes)),
                Some(_) => {
                    let counted = Counted::of(word);
                    (counted.received, counted.bytes)
                }
            }
        };
        let lanes = self.ends.iter().map(counts);
        stats::Receiver::of_lanes(&|field| self.own.word(field).load(Relaxed), lanes)
    }

    /// A descriptor that is readable while there may be a message, to be polled beside others: after a
    /// [`try_recv`](Receives::try_recv) or [`try_borrow`](Borrows::try_borrow) said [`Empty`](RecvError::Empty), it becomes readable when
    /// there is a message, or a sender has died or left. Not for a call to read or write: only to poll. Taking
    /// it twice gives the same.
    ///
    /// ```
    /// use sinew::channel::Options;
    /// use sinew::poller::{Interest, Poller, Token};
    /// use sinew::wait::{Receives, Sends, Waits};
    ///
    /// let (sender, receiver) = Options::stream().pair()?;
    /// let poller = Poller::new()?;
    /// let bell = receiver.doorbell()?.try_clone_to_owned().unwrap();
    /// let _bell = poller.add(bell, Token(1), Interest::READABLE)?;
    /// assert!(receiver.try_recv(&mut [0; 8]).is_err());
    /// sender.send(b"ding").unwrap();
    /// let mut events = sinew::poller::Events::with_capacity(8);
    /// assert_eq!(poller.fill(&mut events).wait(), Ok(1));
    /// assert_eq!(receiver.try_recv(&mut [0; 8]), Ok(4));
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where there is none: for [`open_in`](Self::open_in).
    pub fn doorbell(&self) -> Result<BorrowedFd<'_>> {
        self.doorbell.take(&self.own)
    }

    /// Whether it waits for further senders when all have left, instead of being told
    /// [`Closed`](RecvError::Closed). At first it does not.
    pub fn outlast_senders(&self, waits: bool) {
        self.waits_on.set(waits);
    }

    /// Says that the sender of a lane is dead: for whoever has proof of it, a pidfd that is readable. What waits
    /// for it is woken.
    pub fn sender_died(&self, lane: u32) {
        if let Some(end) = self.ends.get(lane as usize) {
            Seen::died(&end.sender, || false);
            self.own.ring();
        }
    }

    /// The next message, of whichever sender's turn it is.
    #[inline]
    fn next(&self, wait: Wait<'_>) -> Result<(&End, Record), RecvError> {
        if !self.origin.is_here() {
            return Err(RecvError::Forked);
        }
        let end = &self.ends[self.turn.get()];
        if self.taken.get() < TURN
            && let Ok(Some(record)) = end.peek()
        {
            self.taken.set(self.taken.get() + u32::from(self.ends.len() > 1));
            return Ok((end, record));
        }
        // A loop that polls comes by here.
        if wait.is_never() && self.ends.len() == 1 && Seen::is_at_work(&end.sender) && !end.glance()
        {
            return self.found_nothing();
        }
        self.look_further(wait)
    }

    #[inline(never)]
    fn look_further(&self, wait: Wait<'_>) -> Result<(&End, Record), RecvError> {
        if self.ends[0].chase.is_none() {
            self.taken.set(0);
        }
        if let Some(found) = self.look_around() {
            return found;
        }
        if wait.is_never() {
            return self.found_nothing();
        }
        wait.check_interrupt_word().map_err(RecvError::from)?;
        let last = &self.ends[self.turn.get()];
        let glance = || self.ends.len() > 1 || last.glance();
        if let Some(found) = spin::spin(&last.sender, glance, || self.look_around()) {
            return found;
        }
        self.doorbell.rest(&self.own, &self.sleeps);
        let mut sleeps = self.sleeps.get().after(self.moved());
        let bell = self.own.bell();
        let found = bell.sleep_until(&mut sleeps, self.fencing, wait, || self.look_around());
        self.sleeps.set(sleeps);
        found.unwrap_or_else(|stop| Err(RecvError::from(stop)))
    }

    #[inline]
    fn found_nothing(&self) -> Result<(&End, Record), RecvError> {
        let (moved, look) = (|| self.moved(), || self.look_around());
        let found = self.doorbell.arm(&self.own, &self.sleeps, self.fencing, moved, look);
        found.unwrap_or(Err(RecvError::Empty))
    }

    /// How many messages were given out.
    fn moved(&self) -> u64 {
        self.ends.iter().fold(0, |sum, end| sum.wrapping_add(end.next()))
    }

    /// One more was given out.
    #[inline]
    fn count(&self) {
        self.tell_cpu();
        if self.sleeps.get().has_asked() {
            self.count_asked();
        }
    }

    #[cold]
    fn count_asked(&self) {
        let mut sleeps = self.sleeps.get();
        self.own.bell().moved_one(&mut sleeps);
        self.sleeps.set(sleeps);
    }

    /// Looks at every lane once, from the one after the last turn. An end is told when no lane has more.
    fn look_around(&self) -> Option<Result<(&End, Record), RecvError>> {
        Some(match self.sight()? {
            Sight::Message(index, record) => {
                self.turn.set(index);
                Ok((&self.ends[index], record))
            }
            Sight::Lagged(index, missed) => {
                self.turn.set(index);
                self.ends[index].chase.as_ref().inspect(|chase| chase.told());
                Err(RecvError::Lagged(missed))
            }
            Sight::Corrupt => Err(RecvError::Corrupt),
            Sight::Died(index, turn) => {
                self.ends[index].told.set(turn);
                Err(RecvError::PeerDied)
            }
            Sight::Closed => Err(RecvError::Closed),
        })
    }

    /// What there is to be told, if anything. It changes nothing: the next look sees the same.
    #[inline]
    fn sight(&self) -> Option<Sight> {
        let count = self.ends.len();
        let (mut died, mut left, mut here, mut gone) = (None, 0, 0, 0);
        for step in 1..=count {
            let index = (self.turn.get() + step) % count;
            let end = &self.ends[index];
            // Before the look at the lane: what a sender sent before it left is seen.
            let seen = Seen::at(&end.sender);
            match end.find() {
                Ok(Some(record)) => return Some(Sight::Message(index, record)),
                Ok(None) => {}
                Err(RecvError::Lagged(missed)) => return Some(Sight::Lagged(index, missed)),
                Err(_) => return Some(Sight::Corrupt),
            }
            match seen.presence {
                Presence::Here => here += 1,
                Presence::Left => left += 1,
                Presence::Died if end.told.get() != seen.turn => died = Some((index, seen.turn)),
                Presence::Died => gone += 1,
                Presence::Never => {}
            }
        }
        if let Some((index, turn)) = died {
            return Some(Sight::Died(index, turn));
        }
        let over = here == 0 && (left > 0 && !self.waits_on.get() || gone > 0 && !self.lasts);
        over.then_some(Sight::Closed)
    }

    #[inline]
    fn tell_cpu(&self) {
        let mut told = self.told_cpu.get();
        spin::tell_cpu(&self.own, &mut told);
        self.told_cpu.set(told);
    }
}

impl End {
    fn attach(
        lane: Lane,
        pins: Option<Pins>,
        own: &Side,
        event: Option<&Event>,
        fencing: Fencing,
    ) -> Result<Self, Corrupt> {
        let chase = pins.map(|pins| Chasing::resume(&lane, pins)).transpose()?.map(Box::new);
        let most = if chase.is_some() { 0 } else { MOST_BORROWED };
        let (ring, given) = Receiving::resume(&lane)?;
        let sender = lane.sender_side().with_event(event);
        let first = ring.head();
        // How often the message that is first now was given out.
        let attempts = match lane.receiver(ReceiverField::AttemptsAt).load(Relaxed) == first {
            _ if given <= first => 0,
            true => lane.receiver(ReceiverField::Attempts).load(Relaxed).max(1),
            false => 1,
        };
        Ok(Self {
            lane,
            own: own.clone(),
            sender,
            ring,
            rung: Cell::default(),
            fencing,
            borrowed: Borrowed {
                entries: (0..most).map(|_| Cell::default()).collect(),
                ..Borrowed::default()
            },
            given,
            attempts,
            first,
            told: Cell::new(0),
            chase,
        })
    }

    #[inline]
    fn peek(&self) -> Result<Option<Record>, Corrupt> {
        self.ring.peek(&self.lane, || self.consumed())
    }

    /// The next message, or why there is none.
    fn find(&self) -> Result<Option<Record>, RecvError> {
        match &self.chase {
            None => self.peek().map_err(|Corrupt| RecvError::Corrupt),
            Some(chase) => overtaken::find(chase, &self.lane),
        }
    }

    /// The number of the next message.
    fn next(&self) -> u64 {
        self.chase.as_ref().map_or_else(|| self.ring.next(), |chase| chase.next())
    }

    #[inline]
    fn glance(&self) -> bool {
        match &self.chase {
            None => self.ring.glance(&self.lane),
            Some(chase) => chase.glance(&self.lane),
        }
    }

    /// Gives a message out and releases it at once: it was copied.
    #[inline]
    fn consume(&self, record: &Record) {
        self.ring.step(record);
        if self.borrowed.count.get() == 0 {
            self.ring.release(&self.lane, record.end, 1, record.len);
            self.consumed();
        } else {
            let index = self.borrowed.push(record);
            self.release(index);
        }
    }

    /// The head moved: the sender may sleep.
    #[inline]
    fn consumed(&self) {
        if cfg!(sabotage = "recv-silent-release") {
            return;
        }
        let mut rung = self.rung.get();
        if self.sender.ring_if_asleep(&mut rung, self.fencing) {
            self.rung.set(rung);
            self.own.count(SideField::Rung, 1);
        }
    }

    /// Releases a borrowed message: with those before it, or when they are released.
    #[inline]
    fn release(&self, index: usize) {
        if let Some(chase) = &self.chase {
            return chase.release(&self.lane, index);
        }
        let (end, count, bytes) = self.borrowed.release(index);
        if count == 0 {
            return;
        }
        let end = if self.borrowed.count.get() == 0 { self.ring.position() } else { end };
        self.ring.release(&self.lane, end, count, bytes);
        self.consumed();
    }

    /// Counts another time for the first of those that a dead receiver had.
    #[cold]
    #[inline(never)]
    fn give_again(&self, record: &Record) {
        if self.is_first(record) {
            let count = self.lane.receiver(ReceiverField::Attempts);
            count.store(self.attempts.saturating_add(1), Relaxed);
            // Who dies between the two has it counted once too few.
            self.lane.receiver(ReceiverField::AttemptsAt).store(self.first, Relaxed);
        }
    }

    fn is_first(&self, record: &Record) -> bool {
        record.at == self.first + super::ring::HEADER
    }

    /// How often a message was given out, with this time.
    fn deliveries(&self, record: &Record, index: usize) -> u64 {
        if let Some(chase) = &self.chase {
            return chase.deliveries(index);
        }
        let before =
            if self.is_first(record) { self.attempts } else { u64::from(record.end <= self.given) };
        before.saturating_add(1)
    }
}

impl Borrowed {
    fn is_full(&self) -> bool {
        self.count.get() == self.entries.len()
    }

    /// Notes a message. Gives the number of its entry.
    #[inline]
    fn push(&self, record: &Record) -> usize {
        let index = (self.first.get() + self.count.get()) % MOST_BORROWED;
        self.entries[index].set((record.end, record.len));
        self.count.set(self.count.get() + 1);
        index
    }

    /// Marks one as released. Gives the end of those that are released now from the oldest on, how many they are, and
    /// their bytes.
    #[inline]
    fn release(&self, index: usize) -> (u64, u64, u64) {
        let from_oldest = (index + MOST_BORROWED - self.first.get()) % MOST_BORROWED;
        let mut released = self.released.get() | 1 << from_oldest;
        let (mut end, mut count, mut bytes) = (0, 0, 0);
        while released & 1 != 0 {
            let (its_end, len) = self.entries[self.first.get()].get();
            (end, count, bytes) = (its_end, count + 1, bytes + len);
            released >>= 1;
            self.first.set((self.first.get() + 1) % MOST_BORROWED);
            self.count.set(self.count.get() - 1);
        }
        self.released.set(released);
        (end, count, bytes)
    }
}

impl Receives for Receiver {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let (end, record) = self.next(wait)?;
        let len = record.len as usize;
        let Some(room) = buf.get_mut(..len) else {
            return Err(RecvError::TooSmall { needed: Some(len), lost: false });
        };
        if end.borrowed.is_full() {
            return self.recv_overtaken(end, &record, room);
        }
        if cfg!(sabotage = "recv-early-release") {
            end.consume(&record);
            end.lane.read(record.at, room);
            return Ok(len);
        }
        end.lane.read(record.at, room);
        end.consume(&record);
        self.count();
        Ok(len)
    }
}

impl Borrows for Receiver {
    type Message<'a> = Message<'a>;

    #[inline]
    fn borrow_wait(&self, wait: Wait<'_>) -> Result<Message<'_>, RecvError> {
        let (end, record) = self.next(wait)?;
        if end.borrowed.is_full() {
            return self.borrow_overtaken(end, record);
        }
        let number = end.ring.next();
        end.ring.step(&record);
        if cfg!(sabotage = "recv-no-given") {
        } else if record.end > end.given {
            end.ring.give(&end.lane);
        } else {
            end.give_again(&record);
        }
        let index = end.borrowed.push(&record);
        self.count();
        Ok(Message { end, record, index, number, origin: &self.origin })
    }
}

impl private::End for Receiver {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    const ROLE: Role = Role::Receiver;
    const OF_QUEUE: bool = false;

    #[allow(private_interfaces, reason = "nobody outside can name them")]
    fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        events: &Events,
        member: Member,
        lasts: bool,
    ) -> Result<Self> {
        let lanes = (0..shape.lanes).map(|index| Lane::of(map, shape, index)).collect();
        let own = Side::of_receiver(map, shape, 0).with_event(events.receiver(0));
        Self::attach(lanes, shape, own, events.sender(0), Some(member), lasts)
            .map_err(options::damaged)
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if self.origin.is_here() {
            let turn = Seen::at(&self.own).turn;
            Seen { presence: Presence::Left, turn }.say(&self.own);
            if !cfg!(sabotage = "recv-silent-close") {
                self.ends.iter().for_each(|end| end.sender.ring());
            }
            self.ends
                .iter()
                .filter_map(|end| Some((end.chase.as_ref()?, &end.lane)))
                .for_each(|(chase, lane)| chase.leave(lane));
        }
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").field("lanes", &self.ends.len()).finish_non_exhaustive()
    }
}

/// A message where its sender wrote it. Dropped, it is released: the sender may write there again.
#[must_use = "dropped, it is released"]
pub struct Message<'a> {
    end: &'a End,
    record: Record,
    index: usize,
    number: u64,
    origin: &'a Origin,
}

impl Message<'_> {
    /// Its number among those of its sender's lane, from 0.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// How often it was given to a receiver: more than once only where one died before it released it.
    #[must_use]
    pub fn delivery_count(&self) -> u64 {
        self.end.deliveries(&self.record, self.index)
    }
}

impl Deref for Message<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: a message that was received and is not released; its sender is trusted to leave it alone
        // until then.
        unsafe { self.end.lane.bytes(self.record.at, self.record.len as usize) }
    }
}

impl Drop for Message<'_> {
    #[inline]
    fn drop(&mut self) {
        // A forked child has a copy of it, and not the message.
        if self.origin.is_here() {
            self.end.release(self.index);
        }
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, len) = (self.number, self.record.len);
        f.debug_struct("Message")
            .field("number", &number)
            .field("len", &len)
            .finish_non_exhaustive()
    }
}
