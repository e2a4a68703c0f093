#![allow(unsafe_code, reason = "a message is written in place, in mapped memory")]
//! The sending end.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::crew;
use super::map::{Slots, Workers};
use super::publish::{NoRoom, Publishing};
use super::recovery::Successor;
use crate::channel::attach::{Events, private};
use crate::channel::bell::Sleeps;
use crate::channel::bell::doorbell::Doorbell;
use crate::channel::fence::Fencing;
use crate::channel::lane::{Side, SideField};
use crate::channel::layout::Shape;
use crate::channel::member::{Member, Role};
use crate::channel::memory::Memory;
use crate::channel::options::{self, Full};
use crate::channel::presence::{Presence, Seen};
use crate::channel::ring::Corrupt;
use crate::channel::{spin, stats};
use crate::error::{Error, ErrorKind, Result, SendError};
use crate::fork::Origin;
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::wait::{Loans, Sends, Wait};

/// A sending end of a queue. See the [module](super).
///
/// One thread at a time uses it; it can be handed to another.
pub struct Sender {
    slots: Slots,
    own: Side,
    workers: Workers,
    core: RefCell<Publishing>,
    sleeps: Cell<Sleeps>,
    doorbell: Doorbell,
    told_cpu: Cell<u32>,
    fencing: Fencing,
    full: Full,
    successor: Successor,
    origin: Origin,
    /// Left after this end has said that it leaves: fields are dropped after `drop`.
    member: Option<Member>,
}

impl Sender {
    /// Takes a lane, which nobody else sends through now.
    pub(super) fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        lane: u64,
        events: &Events,
        member: Option<Member>,
        successor: Successor,
    ) -> Result<Self, Corrupt> {
        let slots = Slots::of(map, shape, lane);
        let core = Publishing::resume(&slots)?;
        let own = slots.lane.sender_side().with_event(events.sender(lane));
        // Whoever slept here before is gone.
        own.word(SideField::Sleeping).store(0, Relaxed);
        let last = own.word(SideField::Sleeps).load(Relaxed);
        let sender = Self {
            slots,
            own,
            workers: Workers::of(map, shape, events),
            core: RefCell::new(core),
            sleeps: Cell::new(Sleeps::behind(last)),
            doorbell: Doorbell::default(),
            told_cpu: Cell::new(0),
            fencing: Fencing::of(shape.kernel_fences),
            full: Full::of(shape),
            successor,
            origin: Origin::here(),
            member,
        };
        let turn = Seen::at(&sender.own).turn + 1;
        Seen { presence: Presence::Here, turn }.say(&sender.own);
        // The one before may have died between its last message and ringing.
        crew::wake_all(&sender.workers);
        Ok(sender)
    }

    /// Attaches to a lane, from 0 on, of a queue that [`Options::create_in`](crate::channel::Options::create_in) made. It goes on
    /// where the last sender of the lane ended.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if there is no queue, one of another version, or rubbish;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no such lane, or the map is private;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if it is read-only.
    ///
    /// # Safety
    /// As long as the queue is in use, every process that can write the memory uses it only as a channel of this library, and
    /// nobody else sends through this lane.
    pub unsafe fn open_in(map: &Arc<Mapping>, lane: u32) -> Result<Self> {
        let shape = options::open_queue(map, &[])?;
        if u64::from(lane) >= shape.lanes {
            let why = format!("lane {lane} of a queue with {}", shape.lanes);
            let error = Error::new(ErrorKind::InvalidInput, "open").on(Mechanism::Channel);
            return Err(error.because(why));
        }
        let events = Events::default();
        Self::attach(map, &shape, u64::from(lane), &events, None, Successor::OfDead)
            .map_err(options::damaged)
    }

    /// A descriptor that is readable while there may be room, to be polled beside others: as
    /// [`channel::Sender::doorbell`](crate::channel::Sender::doorbell).
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where there is none: for [`open_in`](Self::open_in), and in a queue of more
    /// than 124 senders and workers.
    pub fn doorbell(&self) -> Result<BorrowedFd<'_>> {
        self.doorbell.take(&self.own)
    }

    /// How many messages were sent through this lane, by its former senders too: so one that comes back
    /// knows which of its own was the last that was sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.core.borrow().sent()
    }

    /// What is counted of this lane: see [`stats`].
    #[must_use]
    pub fn stats(&self) -> stats::Lane {
        stats::Lane::of(
            &|field| self.slots.lane.sender(field).load(Relaxed),
            &|field| self.own.word(field).load(Relaxed),
            None,
            false,
        )
    }

    /// The most bytes that a message can have.
    #[must_use]
    pub fn max_message(&self) -> usize {
        usize::try_from(self.core.borrow().most()).unwrap_or(usize::MAX)
    }

    /// Finds room for so many bytes, as `wait` and the policy allow.
    #[inline]
    fn room(&self, len: usize, wait: Wait<'_>) -> Result<u64, SendError> {
        if !self.origin.is_here() {
            return Err(SendError::Forked);
        }
        let room = self.core.borrow().known_room(len as u64);
        match room {
            Some(at) => Ok(at),
            None => self.wait_for_room(len, wait),
        }
    }

    #[cold]
    #[inline(never)]
    fn wait_for_room(&self, len: usize, wait: Wait<'_>) -> Result<u64, SendError> {
        let room = {
            let mut core = self.core.borrow_mut();
            let room = core.look(&self.slots, len as u64);
            self.own.note_fill(core.fill());
            room
        };
        match room {
            Ok(at) => return Ok(at),
            Err(NoRoom::TooBig) => return Err(SendError::TooBig { limit: self.max_message() }),
            Err(NoRoom::Corrupt) => return Err(SendError::Corrupt),
            Err(NoRoom::Yet) => {}
        }
        if self.full != Full::Block || wait.is_never() {
            let found = self.look(len).or_else(|| {
                let (moved, look) = (|| self.sent(), || self.look(len));
                self.doorbell.arm(&self.own, &self.sleeps, self.fencing, moved, look)
            });
            return found.unwrap_or(Err(SendError::Full));
        }
        wait.check_interrupt_word().map_err(SendError::from)?;
        let last = self.workers.side(0);
        if let Some(done) = spin::spin(last, || false, || self.look(len)) {
            return done;
        }
        self.doorbell.rest(&self.own, &self.sleeps);
        let mut sleeps = self.sleeps.get().after(self.sent());
        let found = self.own.bell().sleep_until(&mut sleeps, self.fencing, wait, || self.look(len));
        self.sleeps.set(sleeps);
        found.unwrap_or_else(|stop| Err(SendError::from(stop)))
    }

    /// Whether there is room now, or never.
    fn look(&self, len: usize) -> Option<Result<u64, SendError>> {
        let gone = self.workers.are_gone(self.successor);
        let mut core = self.core.borrow_mut();
        let room = core.reserve(&self.slots, len as u64);
        self.own.note_fill(core.fill());
        match room {
            Ok(at) => Some(Ok(at)),
            Err(NoRoom::Yet) => gone.then_some(Err(SendError::Closed)),
            Err(NoRoom::TooBig) => Some(Err(SendError::TooBig { limit: self.max_message() })),
            Err(NoRoom::Corrupt) => Some(Err(SendError::Corrupt)),
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
        self.core.borrow_mut().commit(&self.slots, len as u64);
        let mut told = self.told_cpu.get();
        spin::tell_cpu(&self.own, &mut told);
        self.told_cpu.set(told);
        if self.sleeps.get().has_asked() {
            self.count();
        }
        if crew::wake_one(&self.workers, self.fencing) {
            self.own.count(SideField::Rung, 1);
        }
    }
}

impl Sends for Sender {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let at = self.room(data.len(), wait)?;
        self.slots.lane.write(at, data);
        self.commit(data.len());
        Ok(())
    }
}

impl Loans for Sender {
    type Loan<'a> = Loan<'a>;

    #[inline]
    fn loan_wait(&mut self, len: usize, wait: Wait<'_>) -> Result<Loan<'_>, SendError> {
        let at = self.room(len, wait)?;
        Ok(Loan { sender: self, at, len })
    }
}

impl private::End for Sender {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    const ROLE: Role = Role::Sender;
    const OF_QUEUE: bool = true;

    #[allow(private_interfaces, reason = "nobody outside can name them")]
    fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        events: &Events,
        member: Member,
        named: bool,
    ) -> Result<Self> {
        let lane = u64::from(member.who().lane);
        if lane >= shape.lanes {
            return Err(options::damaged(Corrupt));
        }
        let successor = Successor::of(named);
        Self::attach(map, shape, lane, events, Some(member), successor).map_err(options::damaged)
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
            crew::wake_all(&self.workers);
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("sent", &self.sent()).finish_non_exhaustive()
    }
}

/// Room for a message, in the memory that the workers read. Dropped, nothing was sent.
#[derive(Debug)]
#[must_use = "dropped, nothing is sent"]
pub struct Loan<'a> {
    sender: &'a Sender,
    at: u64,
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
        // SAFETY: reserved for a message that is not sent; the loan has the sender alone (`loan_wait`).
        unsafe { self.sender.slots.lane.bytes(self.at, self.len) }
    }
}

impl DerefMut for Loan<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.sender.slots.lane.bytes_mut(self.at, self.len) }
    }
}
