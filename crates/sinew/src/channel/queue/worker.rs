#![allow(unsafe_code, reason = "a message is read in place, in mapped memory")]
//! The receiving ends.

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use super::crew;
use super::map::Slots;
use super::recovery::{Recovery, Successor};
use super::slots::{self, Dead, Found, Taken, Who};
use crate::channel::attach::{Events, private};
use crate::channel::bell::doorbell::Doorbell;
use crate::channel::bell::{Bell, MANY, Rung, Sleeps};
use crate::channel::fence::Fencing;
use crate::channel::lane::{Side, SideField};
use crate::channel::layout::Shape;
use crate::channel::member::{Member, Role};
use crate::channel::memory::Memory;
use crate::channel::options;
use crate::channel::presence::{Presence, Seen};
use crate::channel::ring::Corrupt;
use crate::channel::{spin, stats};
use crate::error::{Error, ErrorKind, RecvError, Result};
use crate::fork::Origin;
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::wait::{Borrows, Receives, Wait};

/// How many messages of one sender are taken in a row while others have some too.
const TURN: u32 = 32;

/// One of those who take messages from a queue. See the [module](super).
///
/// One thread at a time uses it; it can be handed to another.
pub struct Worker {
    ends: Box<[End]>,
    /// Whose turn it is, and how many of its messages were taken in a row.
    turn: Cell<usize>,
    taken: Cell<u32>,
    index: u64,
    who: Who,
    /// How many messages it has.
    has: Cell<usize>,
    own: Side,
    recovery: Recovery,
    doorbell: Doorbell,
    told_cpu: Cell<u32>,
    fencing: Fencing,
    /// Whether it waits for further senders when all have left.
    waits_on: Cell<bool>,
    successor: Successor,
    origin: Origin,
    /// Left after this end has said that it leaves: fields are dropped after `drop`.
    member: Option<Member>,
}

/// The receiving end of one lane.
struct End {
    slots: Slots,
    sender: Side,
    rung: Cell<Rung>,
    /// The turn of the sender whose end was told last.
    told: Cell<u64>,
}

/// Which messages a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Next,
    Aside,
}

/// What a look found: the number of the lane, and the message.
type Look = Result<(usize, Taken), RecvError>;

impl Worker {
    /// Takes a worker's place, which nobody else has now.
    pub(super) fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        index: u64,
        events: &Events,
        member: Option<Member>,
        successor: Successor,
    ) -> Self {
        let recovery = Recovery::of(map, shape, events);
        let own = recovery.workers.side(index).clone();
        // Whoever slept here before is gone.
        own.word(SideField::Sleeping).store(0, Relaxed);
        let turn = Seen::at(&own).turn + 1;
        let who = Who::new(index, turn);
        crew::clear(&recovery.workers, index);
        let end = |(slots, sender): (&Slots, &Side)| End {
            slots: slots.clone(),
            sender: sender.clone(),
            rung: Cell::default(),
            told: Cell::new(0),
        };
        let worker = Self {
            ends: recovery.lanes.iter().zip(&*recovery.senders).map(end).collect(),
            turn: Cell::new(0),
            taken: Cell::new(0),
            index,
            who,
            has: Cell::new(0),
            own,
            doorbell: Doorbell::default(),
            told_cpu: Cell::new(0),
            fencing: Fencing::of(shape.kernel_fences),
            waits_on: Cell::new(false),
            successor,
            origin: Origin::here(),
            recovery,
            member,
        };
        Seen { presence: Presence::Here, turn }.say(&worker.own);
        // If the one before died, and nobody did this for it.
        worker.recovery.hand_on(Dead::Before(who));
        worker
    }

    /// Attaches to a worker's place, from 0 on, of a queue that
    /// [`Options::create_in`](crate::channel::Options::create_in) made. What the one before had is given to the next.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if there is no queue, one of another version, or rubbish;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no such place, or the map is private;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if it is read-only.
    ///
    /// # Safety
    /// As long as the queue is in use, every process that can write the memory uses it only as a channel of this library, and
    /// nobody else has this place.
    pub unsafe fn open_in(map: &Arc<Mapping>, place: u32) -> Result<Self> {
        let shape = options::open_queue(map, &[])?;
        if u64::from(place) >= shape.receivers {
            let why = format!("place {place} of a queue with {} workers", shape.receivers);
            let error = Error::new(ErrorKind::InvalidInput, "open").on(Mechanism::Channel);
            return Err(error.because(why));
        }
        let events = Events::default();
        Ok(Self::attach(map, &shape, u64::from(place), &events, None, Successor::OfDead))
    }

    /// A descriptor that is readable while there may be a message, to be polled beside others: as
    /// [`Receiver::doorbell`](crate::channel::Receiver::doorbell). Of several workers that poll, all are rung for, as any may
    /// be busy elsewhere, and one gets the message.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) where there is none: for [`open_in`](Self::open_in).
    pub fn doorbell(&self) -> Result<BorrowedFd<'_>> {
        self.doorbell.take(&self.own)
    }

    /// Whether it waits for further senders when all have left, instead of being told
    /// [`Closed`](RecvError::Closed). At first it does not.
    pub fn outlast_senders(&self, waits: bool) {
        self.waits_on.set(waits);
    }

    /// Says that the worker at a place is dead, for whoever has proof of it, a pidfd that is readable: what it had is
    /// handed on. Before another takes the place.
    pub fn worker_died(&self, place: u32) {
        let place = u64::from(place);
        if place != self.index && place < crew::Crew::workers(&self.recovery.workers) {
            self.recovery.worker_died(place, self.recovery.turn_of(place));
        }
    }

    /// Says that the sender of a lane is dead, for whoever has proof of it, a pidfd that is readable. Before
    /// another takes the lane.
    pub fn sender_died(&self, lane: u32) {
        if (lane as usize) < self.ends.len() {
            self.recovery.sender_died(u64::from(lane));
        }
    }

    /// What is counted of this worker: see [`stats`].
    #[must_use]
    pub fn stats(&self) -> stats::Receiver {
        stats::Receiver::of_worker(&|field| self.own.word(field).load(Relaxed))
    }

    /// The messages that were set aside, to be received by themselves.
    pub const fn aside(&self) -> Aside<'_> {
        Aside { worker: self }
    }

    /// The next message of at most `most` bytes.
    #[inline]
    fn next(&self, which: Which, most: usize, wait: Wait<'_>) -> Look {
        if !self.origin.is_here() {
            return Err(RecvError::Forked);
        }
        let end = &self.ends[self.turn.get()];
        if which == Which::Next
            && self.taken.get() < TURN
            && let Ok(Found::Job(job)) = slots::claim(&end.slots, self.who, most as u64)
        {
            self.taken.set(self.taken.get() + u32::from(self.ends.len() > 1));
            self.rest();
            return Ok((self.turn.get(), job));
        }
        self.look_further(which, most, wait)
    }

    #[inline(never)]
    fn look_further(&self, which: Which, most: usize, wait: Wait<'_>) -> Look {
        self.taken.set(0);
        let look = || self.look_around(which, most as u64);
        if let Some(found) = look() {
            self.rest();
            return found;
        }
        if wait.is_never() {
            return self.arm(which, look).unwrap_or(Err(RecvError::Empty));
        }
        wait.check_interrupt_word().map_err(RecvError::from)?;
        let glance = || self.ends.iter().any(|end| slots::may_have_more(&end.slots));
        let last = &self.ends[self.turn.get()].sender;
        if let Some(found) = spin::spin(last, glance, look) {
            return found;
        }
        self.rest();
        self.own.count(SideField::Sleeps, 1);
        if which == Which::Aside {
            // Senders do not ring for it, only whoever sets something aside, who rings for all.
            let (sleeping, sleeps) = (&AtomicU64::new(0), &AtomicU64::new(0));
            let nobodys = Bell { sleeping, sleeps, word: self.own.bell().word };
            let found = nobodys.sleep_until(&mut Sleeps::default(), self.fencing, wait, look);
            return found.unwrap_or_else(|stop| Err(RecvError::from(stop)));
        }
        // A message that stays where it is; or more than one, and who was rung for may be stopped.
        let leaves_work = |found: &Look| match found {
            Ok(_) => glance(),
            Err(why) => matches!(why, RecvError::TooSmall { .. }),
        };
        let (crew, index) = (&self.recovery.workers, self.index);
        let found = crew::sleep_until(crew, index, self.fencing, wait, look, leaves_work);
        found.unwrap_or_else(|stop| Err(RecvError::from(stop)))
    }

    /// Nothing was found: arms the doorbell, if it was taken. Gives what was found after that.
    fn arm(&self, which: Which, look: impl FnMut() -> Option<Look>) -> Option<Look> {
        if which == Which::Aside {
            return None;
        }
        let workers = &self.recovery.workers;
        let last = self.own.word(SideField::Sleeps).load(Relaxed);
        let (sleeps, tell) = (Cell::new(Sleeps::behind(last)), || crew::set(workers, self.index));
        // Who sends looks at the crew's word, where nobody asks for fences.
        let (own, moved) = (&self.own, || MANY);
        let found = self.doorbell.arm_with(own, &sleeps, self.fencing, moved, tell, look);
        if found.is_some() {
            crew::clear(workers, self.index);
        }
        found
    }

    /// Puts the doorbell at rest: something was found, or a call sleeps.
    #[inline]
    fn rest(&self) {
        if self.doorbell.is_armed() {
            self.doorbell.rest(&self.own, &Cell::default());
            crew::clear(&self.recovery.workers, self.index);
        }
    }

    /// Looks at every lane once, from the one after the last turn. An end is told when no lane has more.
    fn look_around(&self, which: Which, most: u64) -> Option<Look> {
        let count = self.ends.len();
        let (mut died, mut gone) = (None, true);
        for step in 1..=count {
            let index = (self.turn.get() + step) % count;
            let end = &self.ends[index];
            // Before the look at the lane: what a sender sent before it left is seen.
            let seen = Seen::at(&end.sender);
            let found = match which {
                Which::Next => slots::claim(&end.slots, self.who, most),
                Which::Aside => slots::claim_aside(&end.slots, self.who, most),
            };
            match found {
                Ok(Found::Job(job)) => {
                    self.turn.set(index);
                    return Some(Ok((index, job)));
                }
                Ok(Found::TooLong(len)) => {
                    let needed = usize::try_from(len).ok();
                    return Some(Err(RecvError::TooSmall { needed, lost: false }));
                }
                Ok(Found::Nothing) => {}
                Err(Corrupt) => return Some(Err(RecvError::Corrupt)),
            }
            match seen.presence {
                Presence::Here => gone = false,
                Presence::Died if end.told.get() != seen.turn => died = Some((end, seen.turn)),
                Presence::Left | Presence::Died | Presence::Never => {}
            }
        }
        if let Some((end, turn)) = died
            && which == Which::Next
        {
            end.told.set(turn);
            return Some(Err(RecvError::PeerDied));
        }
        let (has_some, left_is_end) = (self.has.get() > 0, !self.waits_on.get());
        let over = gone && self.recovery.is_over(self.who, has_some, left_is_end, self.successor);
        over.then_some(Err(RecvError::Closed))
    }

    #[inline]
    fn tell_cpu(&self) {
        let mut told = self.told_cpu.get();
        spin::tell_cpu(&self.own, &mut told);
        self.told_cpu.set(told);
    }

    /// A message is done, or back: its sender may sleep, or somebody who waits for the end.
    #[inline]
    fn settled(&self, end: &End) {
        let mut rung = end.rung.get();
        if end.sender.ring_if_asleep(&mut rung, self.fencing) {
            end.rung.set(rung);
            self.own.count(SideField::Rung, 1);
        }
        // After the fence in there. Partner: `is_over`, of who sleeps.
        if Seen::at(&end.sender).presence != Presence::Here {
            crew::wake_those_asleep(&self.recovery.workers);
        }
    }

    /// This worker is done with a message. Who dies before has one less counted.
    #[inline]
    fn count(&self, job: &Taken) {
        self.own.count(SideField::Received, 1);
        self.own.count(SideField::Bytes, job.place.len);
    }

    #[inline]
    fn copy_out(&self, lane: usize, job: &Taken, buf: &mut [u8]) -> Result<usize, RecvError> {
        let end = &self.ends[lane];
        let len = job.place.len as usize;
        end.slots.lane.read(job.place.offset, &mut buf[..len]);
        let own = slots::release(&end.slots, job);
        if own {
            self.count(job);
        }
        self.settled(end);
        self.tell_cpu();
        // Somebody took this worker for dead, and the message is another's.
        if own { Ok(len) } else { Err(RecvError::Corrupt) }
    }

    #[inline]
    fn lend(&self, (lane, taken): (usize, Taken)) -> Job<'_> {
        self.has.set(self.has.get() + 1);
        self.tell_cpu();
        Job { worker: self, lane, taken }
    }
}

impl Receives for Worker {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let (lane, job) = self.next(Which::Next, buf.len(), wait)?;
        self.copy_out(lane, &job, buf)
    }
}

impl Borrows for Worker {
    type Message<'a> = Job<'a>;

    #[inline]
    fn borrow_wait(&self, wait: Wait<'_>) -> Result<Job<'_>, RecvError> {
        self.next(Which::Next, usize::MAX, wait).map(|found| self.lend(found))
    }
}

impl private::End for Worker {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    const ROLE: Role = Role::Receiver;
    const OF_QUEUE: bool = true;

    #[allow(private_interfaces, reason = "nobody outside can name them")]
    fn attach(
        map: &Arc<Mapping>,
        shape: &Shape,
        events: &Events,
        member: Member,
        named: bool,
    ) -> Result<Self> {
        let place = u64::from(member.who().lane);
        if place >= shape.receivers {
            return Err(options::damaged(Corrupt));
        }
        Ok(Self::attach(map, shape, place, events, Some(member), Successor::of(named)))
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            return;
        }
        if self.has.get() > 0 {
            // Jobs that were forgotten.
            self.recovery.hand_on(Dead::This(self.who));
        }
        let turn = Seen::at(&self.own).turn;
        Seen { presence: Presence::Left, turn }.say(&self.own);
        self.recovery.ring_senders();
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("place", &self.index).finish_non_exhaustive()
    }
}

/// The messages of a queue that were set aside, because so many workers as
/// [`Options::deliveries`](crate::channel::queue::Options::deliveries) says died over each.
///
/// Their bytes stay where they are until they are received here, and senders step over them. Who waits here is woken
/// when one is set aside.
#[derive(Clone, Copy, Debug)]
pub struct Aside<'a> {
    worker: &'a Worker,
}

impl Aside<'_> {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        let count = |end: &End| slots::tally(&end.slots, self.worker.who).aside;
        self.worker.ends.iter().map(count).sum()
    }
}

impl Receives for Aside<'_> {
    type Received = usize;

    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let (lane, job) = self.worker.next(Which::Aside, buf.len(), wait)?;
        self.worker.copy_out(lane, &job, buf)
    }
}

impl<'w> Borrows for Aside<'w> {
    type Message<'a>
        = Job<'w>
    where
        Self: 'a;

    fn borrow_wait(&self, wait: Wait<'_>) -> Result<Job<'w>, RecvError> {
        let worker = self.worker;
        worker.next(Which::Aside, usize::MAX, wait).map(|found| worker.lend(found))
    }
}

/// A message that a worker has, where its sender wrote it. Dropped, it is done; dropped while its thread panics,
/// it [goes back](Self::give_back).
#[must_use = "dropped, it is done"]
pub struct Job<'a> {
    worker: &'a Worker,
    lane: usize,
    taken: Taken,
}

impl Job<'_> {
    /// Its number among those of its sender's lane, from 0.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.taken.sequence
    }

    /// How often it was given to a worker: more than once only where one died before it was done, or gave it back.
    #[must_use]
    pub const fn delivery_count(&self) -> u64 {
        self.taken.vain + 1
    }

    /// Gives it back, to be given to another worker or to this one, or set aside if that was tried too often.
    pub fn give_back(self) {
        ManuallyDrop::new(self).back();
    }

    fn back(&self) {
        let (worker, end) = (self.worker, &self.worker.ends[self.lane]);
        if !worker.origin.is_here() {
            return;
        }
        worker.has.set(worker.has.get() - 1);
        slots::give_back(&end.slots, &self.taken, worker.recovery.deliveries);
        // All: who waits for what is set aside, too.
        crew::wake_all(&worker.recovery.workers);
    }
}

impl Deref for Job<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let (end, place) = (&self.worker.ends[self.lane], self.taken.place);
        // SAFETY: a message that this worker took and is not done with; its sender is trusted to leave it alone
        // until then.
        unsafe { end.slots.lane.bytes(place.offset, place.len as usize) }
    }
}

impl Drop for Job<'_> {
    #[inline]
    fn drop(&mut self) {
        let (worker, end) = (self.worker, &self.worker.ends[self.lane]);
        if thread::panicking() {
            self.back();
        } else if worker.origin.is_here() {
            worker.has.set(worker.has.get() - 1);
            if slots::release(&end.slots, &self.taken) {
                worker.count(&self.taken);
            }
            worker.settled(end);
        }
    }
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job")
            .field("number", &self.number())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}
