#![allow(unsafe_code, reason = "a message is written in place, in mapped memory")]
//! The sending end.

use std::cell::Cell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::attach::{Events, private};
use super::bell::doorbell::Doorbell;
use super::bell::{Rung, Sleeps};
use super::counters::Counts;
use super::fence::Fencing;
use super::lane::{Lane, Side, SideField};
use super::layout::Shape;
use super::member::{Member, Role};
use super::memory::{Memory, SenderField};
use super::options::{self, Full};
use super::presence::{Presence, Seen};
use super::ring::{Corrupt, NoRoom, Room, Sending};
use super::typed::Type;
use super::{spin, stats};
use crate::error::{Error, ErrorKind, Result, SendError};
use crate::fork::Origin;
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::wait::{Loans, Sends, Wait};

mod watched;

/// The sending end of a channel. See the [module](super).
///
/// One thread at a time uses it; it can be handed to another.
pub struct Sender {
    lane: Lane,
    /// This end's words, and those of the receiver.
    own: Side,
    peer: Side,
    ring: Sending,
    rung: Cell<Rung>,
    sleeps: Cell<Sleeps>,
    doorbell: Doorbell,
    /// How long the message was that last found no room, until a wait set was told of some.
    refused: Cell<Option<usize>>,
    told_cpu: Cell<u32>,
    fencing: Fencing,
    full: Full,
    /// Whether another receiver can come when this one is gone.
    lasts: bool,
    origin: Origin,
    /// Left after this end has said that it leaves: fields are dropped after `drop`.
    member: Option<Member>,
}

impl Sender {
    /// Takes a lane, which nobody else sends through now.
    pub(super) fn attach(
        lane: Lane,
        shape: &Shape,
        own: Side,
        peer: Side,
        member: Option<Member>,
        lasts: bool,
    ) -> Result<Self, Corrupt> {
        let ring = match shape.pins() {
            None => Sending::resume(&lane)?,
            Some(pins) => Sending::resume_overtaking(&lane, pins)?,
        };
        // Whoever slept here before is gone.
        own.word(SideField::Sleeping).store(0, Relaxed);
        let last = own.word(SideField::Sleeps).load(Relaxed);
        let sender = Self {
            lane,
            own,
            peer,
            ring,
            rung: Cell::default(),
            sleeps: Cell::new(Sleeps::behind(last)),
            doorbell: Doorbell::default(),
            refused: Cell::new(None),
            told_cpu: Cell::new(0),
            fencing: Fencing::of(shape.kernel_fences),
            full: Full::of(shape),
            lasts,
            origin: Origin::here(),
            member,
        };
        let turn = Seen::at(&sender.own).turn + 1;
        Seen { presence: Presence::Here, turn }.say(&sender.own);
        sender.peer.ring();
        Ok(sender)
    }

    /// Attaches to a lane of a channel that [`Options::create_in`](super::Options::create_in) made: lane 0, and in a fan-in up
    /// to one less than there can be senders. It goes on where the last sender of the lane ended.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if there is no channel, one of another version, or rubbish;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no such lane, or the map is private;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if it is read-only.
    ///
    /// # Safety
    /// As long as the channel is in use, every process that can write the memory uses it only as a channel of this library, and
    /// nobody else sends through this lane.
    pub unsafe fn open_in(map: &Arc<Mapping>, lane: u32) -> Result<Self> {
        // SAFETY: the caller's.
        unsafe { Self::open_of(map, lane, &[]) }
    }

    /// The same for messages of one of these types.
    ///
    /// # Safety
    /// As for `open_in`.
    pub(super) unsafe fn open_of(map: &Arc<Mapping>, lane: u32, types: &[Type]) -> Result<Self> {
        let shape = options::open(map, types)?;
        if u64::from(lane) >= shape.lanes {
            let why = format!("lane {lane} of a channel with {}", shape.lanes);
            let error = Error::new(ErrorKind::InvalidInput, "open").on(Mechanism::Channel);
            return Err(error.because(why));
        }
        let peer = Side::of_receiver(map, &shape, 0);
        let lane = Lane::of(map, &shape, u64::from(lane));
        let own = lane.sender_side();
        Self::attach(lane, &shape, own, peer, None, true).map_err(options::damaged)
    }

    /// Says that the receiver is dead: for whoever has proof of it, a pidfd that is readable. What waits for
    /// it is woken.
    pub fn receiver_died(&self) {
        Seen::died(&self.peer, || false);
        self.own.ring();
    }

    /// How many messages were sent through this lane, by its former senders too, without those that were dropped: so one that comes back
    /// knows which of its own was the last that was committed.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.ring.sent()
    }

    /// What became of the messages of this lane.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.lane, self.full == Full::DropOldest)
    }

    /// What is counted of this lane: see [`stats`].
    #[must_use]
    pub fn stats(&self) -> stats::Lane {
        let receiver = |field| self.lane.receiver(field).load(Acquire);
        stats::Lane::of(
            &|field| self.lane.sender(field).load(Acquire),
            &|field| self.own.word(field).load(Acquire),
            Some((self.lane.capacity(), &receiver)),
            self.full == Full::DropOldest,
        )
    }

    /// A descriptor that is readable while there may be room, to be polled beside others: after a
    /// [`try_send`](Sends::try_send) said [`Full`](SendError::Full), it becomes readable when there is room for that message, or nobody
    /// can receive any more. Not for a call to read or write: only to poll. Taking it twice gives the same.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where there is none: in a fan-in, and for [`open_in`](Self::open_in).
    pub fn doorbell(&self) -> Result<BorrowedFd<'_>> {
        self.doorbell.take(&self.own)
    }

    /// The most bytes that a message can have.
    #[must_use]
    pub fn max_message(&self) -> usize {
        usize::try_from(self.ring.most()).unwrap_or(usize::MAX)
    }

    /// Finds room for so many bytes, as `wait` and the policy allow.
    #[inline]
    fn room(&self, len: usize, wait: Wait<'_>) -> Result<Room, SendError> {
        if !self.origin.is_here() {
            return Err(SendError::Forked);
        }
        match self.ring.known_room(len as u64) {
            Some(room) => Ok(room),
            None => self.wait_for_room(len, wait),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&self, len: usize, wait: Wait<'_>) -> Result<Room, SendError> {
        let room = self.ring.look(&self.lane, len as u64);
        self.own.note_fill(self.ring.fill());
        match room {
            Ok(room) => return Ok(room),
            Err(NoRoom::TooBig) => return Err(SendError::TooBig { limit: self.max_message() }),
            Err(NoRoom::Corrupt) => return Err(SendError::Corrupt),
            Err(NoRoom::Until(_)) => {}
        }
        // Padding may have been committed.
        if !cfg!(sabotage = "send-silent-padding") {
            self.published();
        }
        let full = self.full;
        if full != Full::Block || wait.is_never() {
            let found = self.look(len).or_else(|| {
                let (moved, look) = (|| self.ring.sent(), || self.look(len));
                self.doorbell.arm(&self.own, &self.sleeps, self.fencing, moved, look)
            });
            return found.unwrap_or_else(|| {
                self.refused.set(Some(len));
                Err(SendError::Full)
            });
        }
        wait.check_interrupt_word().map_err(SendError::from)?;
        if let Some(done) =
            spin::spin(&self.peer, || self.ring.is_read(&self.lane), || self.look(len))
        {
            return done;
        }
        self.doorbell.rest(&self.own, &self.sleeps);
        let mut sleeps = self.sleeps.get().after(self.ring.sent());
        let found = self.own.bell().sleep_until(&mut sleeps, self.fencing, wait, || self.look(len));
        self.sleeps.set(sleeps);
        found.unwrap_or_else(|stop| Err(SendError::from(stop)))
    }

    /// A message that was not sent is dropped, where it is so.
    #[cold]
    fn unsent(&self, len: usize, why: SendError) -> Result<(), SendError> {
        if self.full != Full::DropNewest || why != SendError::Full {
            return Err(why);
        }
        let add = |field, count| {
            let word = self.lane.sender(field);
            // Only this end writes them. The count of messages last: who sees it sees their bytes.
            word.store(word.load(Relaxed).wrapping_add(count), Release);
        };
        add(SenderField::DroppedBytes, len as u64);
        if !cfg!(sabotage = "send-uncounted-drop") {
            add(SenderField::Dropped, 1);
        }
        Ok(())
    }

    /// Whether there is room now, or never.
    fn look(&self, len: usize) -> Option<Result<Room, SendError>> {
        let ring = &self.ring;
        let before = ring.tail();
        let room = ring.reserve(&self.lane, len as u64);
        self.own.note_fill(ring.fill());
        if ring.tail() != before && !cfg!(sabotage = "send-silent-padding") {
            self.published();
        }
        match room {
            Ok(room) => Some(Ok(room)),
            Err(NoRoom::Until(_)) => {
                let presence = Seen::at(&self.peer).presence;
                let gone = matches!(presence, Presence::Left | Presence::Died) && !self.lasts;
                // It may have read all of it before it left.
                (gone && !self.ring.is_read(&self.lane)).then_some(Err(SendError::Closed))
            }
            Err(NoRoom::TooBig) => Some(Err(SendError::TooBig { limit: self.max_message() })),
            Err(NoRoom::Corrupt) => Some(Err(SendError::Corrupt)),
        }
    }

    /// Something was committed: the receiver may sleep.
    #[inline]
    fn published(&self) {
        let mut rung = self.rung.get();
        let rang = self.peer.ring_if_asleep(&mut rung, self.fencing);
        if rang {
            self.rung.set(rung);
            self.own.count(SideField::Rung, 1);
        }
    }

    /// One more was sent by an end that has slept often.
    #[cold]
    fn count(&self) {
        let mut sleeps = self.sleeps.get();
        self.own.bell().moved_one(&mut sleeps);
        self.sleeps.set(sleeps);
    }

    #[inline]
    fn commit(&self, len: usize) {
        self.ring.commit(&self.lane, len as u64, 0);
        let mut told = self.told_cpu.get();
        spin::tell_cpu(&self.own, &mut told);
        self.told_cpu.set(told);
        if self.sleeps.get().has_asked() {
            self.count();
        }
        if !cfg!(sabotage = "send-silent") {
            self.published();
        }
    }
}

impl Sends for Sender {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let room = match self.room(data.len(), wait) {
            Ok(room) => room,
            Err(why) => return self.unsent(data.len(), why),
        };
        if cfg!(sabotage = "send-early-commit") {
            self.commit(data.len());
            self.lane.write(room.at, data);
            return Ok(());
        }
        self.lane.write(room.at, data);
        self.commit(data.len());
        Ok(())
    }
}

impl Loans for Sender {
    type Loan<'a> = Loan<'a>;

    #[inline]
    fn loan_wait(&mut self, len: usize, wait: Wait<'_>) -> Result<Loan<'_>, SendError> {
        let room = self.room(len, wait)?;
        self.ring.lend(&room);
        Ok(Loan { sender: self, room, len })
    }
}

impl private::End for Sender {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    const ROLE: Role = Role::Sender;
    const OF_QUEUE: bool = false;

    #[allow(private_interfaces, reason = "nobody outside can name them")]
    fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        events: &Events,
        member: Member,
        lasts: bool,
    ) -> Result<Self> {
        let lane = u64::from(member.who().lane);
        if lane >= shape.lanes {
            return Err(options::damaged(Corrupt));
        }
        let peer = Side::of_receiver(map, shape, 0).with_event(events.receiver(0));
        let lane = Lane::of(map, shape, lane);
        let own = lane.sender_side().with_event(events.sender(0));
        Self::attach(lane, shape, own, peer, Some(member), lasts).map_err(options::damaged)
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.origin.is_here() {
            let turn = Seen::at(&self.own).turn;
            Seen { presence: Presence::Left, turn }.say(&self.own);
            if !cfg!(sabotage = "send-silent-close") {
                self.peer.ring();
            }
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("sent", &self.sent()).finish_non_exhaustive()
    }
}

/// Room for a message, in the memory that the receiver reads. Dropped, nothing was sent.
#[derive(Debug)]
#[must_use = "dropped, nothing is sent"]
pub struct Loan<'a> {
    sender: &'a Sender,
    room: Room,
    len: usize,
}

impl Loan<'_> {
    /// Sends the message that was written here.
    #[inline]
    pub fn send(self) {
        self.sender.commit(self.len);
    }

    /// Sends only the first `len` bytes; all if there are no more.
    #[inline]
    pub fn send_first(self, len: usize) {
        self.sender.commit(len.min(self.len));
    }
}

impl Deref for Loan<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: reserved for a message that is not committed; the loan has the sender alone (`loan_wait`).
        unsafe { self.sender.lane.bytes(self.room.at, self.len) }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.sender.lane.bytes_mut(self.room.at, self.len) }
    }
}
