//! Who takes part in a channel: members, how they find each other, and what becomes of those that die.
//!
//! Every member has a place in a [`Table`] in the memory of the channel, and a pidfd of every other one in
//! the epoll of its process's [service](super::service). The pidfd is the proof of a death, the only one; a
//! connection that hangs up is a reason to look, no more.
//!
//! # A channel with a name
//! One member, the *holder*, listens under the name. A newcomer connects to it and says hello. The
//! holder gives it a place, first tells all others of it, with its pidfd, and only then welcomes it, with
//! the memory and the pidfds of the others. So whoever was welcomed is known to every survivor, by a
//! message in its queue, even if the holder dies at this moment.
//!
//! When the holder is dead or has left, each survivor tries to put itself into the word of the holder, and
//! one of them does. That one takes the places of newcomers back that have not arrived (they start anew),
//! makes good what the dead left, takes the name and listens; the others connect to it, and show the place
//! that they have. A holder that leaves in order names its heir in that word itself and hands it the
//! socket on which it listened, with the newcomers that wait there.
//!
//! # A pair
//! It has no name and no holder. Each end is the memory and one end of a connection; whoever attaches an
//! end says so to the other over it, with its pidfd.
//!
//! # Whom to trust
//! Members are processes of one user, by SO_PEERCRED, which may be killed at any instruction but mean
//! well. Messages and words are checked all the same: what no honest member writes is dropped.
//!
//! # Locks
//! `inner` is held for a moment, never while anything waits, and never while a [`Pattern`] is told
//! something. What attends to a descriptor is dropped under it by the service only; others take it out
//! and drop it when they have let go, as the handler that they would wait for may wait for the lock.

mod access;
mod forget;
#[cfg(any(test, sinew_fuzz))]
pub(super) mod fuzz;
mod holder;
mod join;
mod link;
mod message;
mod pair;
mod slot;
mod take_over;
#[cfg(test)]
mod tests;

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::name::{Listener, Name};
use super::service::{Attend, Attendance, Handle, Known};
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Origin;
use crate::inotify::PathWatch;
use crate::mechanism::Mechanism;
use crate::pidfd::PidFd;
use crate::poller::Interest;
use crate::timerfd::{Clock, Schedule, Timer};
use crate::unix::{Seqpacket, SeqpacketListener, Socket};
use crate::wait::{Sends, Wait};

use holder::Holding;
use link::Link;
use message::{How, Writer};

pub(crate) use access::started;
#[allow(unused_imports, reason = "who attaches by name uses them")]
pub(crate) use message::{FACTS, Hello, MOST_MORE, Place, TYPES, Welcome};
#[allow(unused_imports, reason = "who attaches by name uses them")]
pub(crate) use slot::{Holder, Info, Kind, MOST, NAME, Role, SIZE, SOCKET, State, Table};

/// A member, and what of the channel is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) slot: usize,
    pub(crate) generation: u32,
    pub(crate) role: Role,
    /// Its lane, or its receiver's block.
    pub(crate) lane: u16,
}

impl Who {
    const fn place(self) -> Place {
        Place { slot: self.slot, generation: self.generation }
    }
}

/// What a pattern is told of the members, and asked when a newcomer comes.
///
/// Called on the service thread, one at a time. Never waits for anything but a lock that is held for a
/// moment, and does not drop the member.
pub(crate) trait Pattern: Send + Sync {
    /// This one takes part from now on. It may not have arrived yet.
    fn joined(&self, who: Who);

    /// It has left in order, or never arrived. After `joined` for the same comes one of this and
    /// [`died`](Self::died). In a pair also for the other end that nobody will attach any more.
    fn left(&self, who: Who);

    /// It is proven dead. Wakes who sleeps here and counts on it.
    fn died(&self, who: Who);

    /// Makes good what it left, in the memory of the channel; called where this process holds the name (in a
    /// pair: at the other end). Doing it twice does no harm: whoever does it may be killed in the middle.
    /// Says whether the place can be another's now; if not, it is asked again before each newcomer.
    fn recover(&self, who: Who) -> bool;

    /// Where a newcomer goes.
    ///
    /// # Errors
    /// Why it cannot be let in: the newcomer's `open` fails by this.
    fn seat(&self, hello: &Hello, table: &Table) -> Result<Seat>;
}

/// Where a newcomer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// To any place that is free, with this lane.
    Any { lane: u16 },
    /// To this place, which is free, or whose member has left or died: it goes on as that one.
    Same { slot: usize, lane: u16 },
}

/// A descriptor that the pattern uses too.
pub(crate) type Shared = Arc<dyn AsFd + Send + Sync>;

/// What a channel is made of.
pub(crate) struct Object {
    /// The memory that all map.
    pub(crate) memory: OwnedFd,
    /// What else newcomers are handed: at most `MOST_MORE`.
    pub(crate) more: Vec<Shared>,
    pub(crate) table: Table,
    /// What newcomers are told of it.
    pub(crate) facts: [u8; FACTS],
}

/// Taking part in a channel. Dropping it leaves, in order; in a forked child it does nothing.
pub(crate) struct Member {
    core: Arc<Core>,
    /// Dropped last, and not by the thread itself: whoever drops the last member waits for the thread's end, and
    /// with it for everything that the thread was doing.
    _service: Handle,
}

struct Core {
    me: Who,
    table: Table,
    pattern: Arc<dyn Pattern>,
    origin: Origin,
    service: Known,
    inner: Mutex<Inner>,
    /// Held while the pattern is told: one thing after the other.
    telling: Mutex<()>,
    own: Weak<Self>,
}

struct Inner {
    /// Set when the member leaves: nothing is done any more.
    over: bool,
    memory: OwnedFd,
    more: Vec<Shared>,
    facts: [u8; FACTS],
    /// The random number of the channel.
    channel: [u8; 16],
    /// None in a pair.
    name: Option<Name>,
    /// The others, by place.
    peers: Vec<Option<Peer>>,
    /// Who had each place before, and how it went.
    gone: Vec<(u32, How)>,
    /// What the pattern is to be told.
    news: Vec<News>,
    /// If this is the holder.
    holding: Option<Holding>,
    /// The connection to the holder, or to the other end of a pair.
    link: Option<Link>,
    /// How many connections to a new holder ended without an answer.
    unanswered: u32,
    /// What a leaving holder handed over.
    taken: Option<SeqpacketListener>,
    /// News of the name, while the new holder is looked for.
    watch: Option<Attendance<PathWatch>>,
    /// For what no event tells when it can be tried again.
    timer: Option<Attendance<Timer>>,
    /// Whether the timer runs, and how long it does the next time.
    armed: bool,
    pause: Duration,
    /// The number of the last connection.
    serial: u64,
}

struct Peer {
    who: Who,
    /// None where no descriptor was left for it: then the holder tells.
    pidfd: Option<Attendance<PidFd>>,
}

#[derive(Clone, Copy, Debug)]
enum News {
    Joined(Who),
    Left(Who),
    Died(Who),
    Recover(Who),
}

/// The first pause before something is tried again, and the longest.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

// The kinds of tokens, in the upper byte; the rest says which.
const PIDFD: u64 = 1 << 56;
const LINK: u64 = 2 << 56;
const LISTENER: u64 = 3 << 56;
const GUEST: u64 = 4 << 56;
const WATCH: u64 = 5 << 56;
const TIMER: u64 = 6 << 56;
const KIND: u64 = 0xff << 56;

fn pidfd_token(place: Place) -> u64 {
    PIDFD | (place.slot as u64) << 32 | u64::from(place.generation)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Member {
    /// Which member this is.
    pub(crate) fn who(&self) -> Who {
        self.core.me
    }

    /// All members.
    pub(crate) fn table(&self) -> &Table {
        &self.core.table
    }

    /// Whether this process is the one that joined.
    ///
    /// # Errors
    /// `Forked` in a child of that process.
    pub(crate) fn check(&self) -> Result<()> {
        if self.core.origin.is_here() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forked, "use the channel")
            .on(Mechanism::Channel)
            .because("this process is a forked child of the one that attached")
            .fix("attach anew in the child"))
    }

    /// Whether this member holds the name.
    pub(crate) fn is_holder(&self) -> bool {
        self.core.origin.is_here() && lock(&self.core.inner).holding.is_some()
    }

    /// Whether newcomers find this member under the name.
    pub(crate) fn is_in_place(&self) -> bool {
        self.core.origin.is_here()
            && lock(&self.core.inner).holding.as_ref().is_some_and(Holding::is_in_place)
    }

    /// The first member of a channel, under a name that was just taken. It has place 0.
    ///
    /// # Errors
    /// When no descriptor or no thread is left.
    pub(crate) fn create(
        listener: Listener,
        object: Object,
        role: Role,
        lane: u16,
        durable: [u8; NAME],
        pattern: Arc<dyn Pattern>,
    ) -> Result<Self> {
        let service = Handle::get()?;
        let table = object.table;
        let info = Info { name: durable, ..access::info() };
        let generation = take_place(&table, 0, role, lane, &info)
            .ok_or_else(|| damaged("create", "its memory is not new"))?;
        table.set_first_holder(0);
        table.set_socket(listener.identity());
        let me = Who { slot: 0, generation, role, lane };
        let name = Some(listener.name().clone());
        let inner =
            Inner::new((object.memory, object.more), object.facts, random()?, name, table.count());
        let member = Self::new(me, table, pattern, service, inner);
        if !member.core.table.slot(0).is_some_and(|slot| slot.arrive(generation)) {
            return Err(damaged("create", "its memory is not new"));
        }
        let mut inner = lock(&member.core.inner);
        member.core.start_timer(&mut inner)?;
        let holding = Holding::new(&inner.memory);
        inner.holding.insert(holding).listen_by(&member.core, listener)?;
        drop(inner);
        Ok(member)
    }

    fn new(
        me: Who,
        table: Table,
        pattern: Arc<dyn Pattern>,
        service: Handle,
        inner: Inner,
    ) -> Self {
        let core = Arc::new_cyclic(|own| Core {
            me,
            table,
            pattern,
            origin: Origin::here(),
            service: service.known(),
            inner: Mutex::new(inner),
            telling: Mutex::new(()),
            own: Weak::clone(own),
        });
        Self { core, _service: service }
    }
}

impl Inner {
    fn new(
        (memory, more): (OwnedFd, Vec<Shared>),
        facts: [u8; FACTS],
        channel: [u8; 16],
        name: Option<Name>,
        places: usize,
    ) -> Self {
        Self {
            over: false,
            memory,
            more,
            facts,
            channel,
            name,
            peers: (0..places).map(|_| None).collect(),
            gone: vec![(0, How::Left); places],
            news: Vec::new(),
            holding: None,
            link: None,
            unanswered: 0,
            taken: None,
            watch: None,
            timer: None,
            armed: false,
            pause: PAUSE,
            serial: 0,
        }
    }

    /// Tries again in a while what no event tells of.
    fn later(&mut self) {
        let pause = self.pause;
        if !self.armed && self.arm(pause) {
            self.pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Has the service look at everything.
    fn soon(&mut self) {
        self.arm(Duration::from_nanos(1));
    }

    fn arm(&mut self, pause: Duration) -> bool {
        let timer = self.timer.as_ref();
        self.armed = timer.is_some_and(|timer| timer.source().arm(Schedule::after(pause)).is_ok());
        self.armed
    }

    fn peer(&self, place: Place) -> Option<&Peer> {
        self.peers.get(place.slot)?.as_ref().filter(|peer| peer.who.place() == place)
    }

    /// Everybody this member knows, itself included.
    fn known(&self, me: Who) -> Vec<Place> {
        let others = self.peers.iter().flatten().filter(|peer| peer.pidfd.is_some());
        others.map(|peer| peer.who.place()).chain([me.place()]).collect()
    }
}

impl Peer {
    fn has_ended(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| pidfd.source().has_ended())
    }
}

impl Core {
    fn attend<F: AsFd>(&self, source: F, token: u64) -> Result<Attendance<F>> {
        let own = self.own.upgrade().ok_or_else(|| damaged("attend", "the member is gone"))?;
        self.service.handle()?.attend(source, token, Interest::READABLE, own)
    }

    fn start_timer(&self, inner: &mut Inner) -> Result<()> {
        inner.timer = Some(self.attend(Timer::new(Clock::Monotonic)?, TIMER)?);
        Ok(())
    }

    /// Tells the pattern what happened. No lock of this member is held meanwhile but `telling`.
    fn settle(&self) {
        let _telling = lock(&self.telling);
        loop {
            let news = std::mem::take(&mut lock(&self.inner).news);
            if news.is_empty() {
                return;
            }
            for news in news {
                match news {
                    News::Joined(who) => self.pattern.joined(who),
                    News::Left(who) => self.pattern.left(who),
                    News::Died(who) => self.pattern.died(who),
                    News::Recover(who) => self.recover(who),
                }
            }
        }
    }

    /// Makes good what one left, unless that is done.
    fn recover(&self, who: Who) {
        let is_left = |state: State| matches!(state.kind, Kind::Left | Kind::Dead);
        if self.state_of(who.place()).is_some_and(is_left)
            && self.pattern.recover(who)
            && let Some(slot) = self.table.slot(who.slot)
        {
            slot.free(who.generation);
        }
    }

    /// Another one takes part.
    fn meet(&self, inner: &mut Inner, place: Place, pidfd: OwnedFd) -> Option<Who> {
        if place.slot == self.me.slot || inner.peer(place).is_some() {
            return None;
        }
        // It is gone again, or no pidfd came: nothing can be said about it.
        let state = self.state_of(place).filter(|state| state.is_taken())?;
        let pidfd = PidFd::try_from(pidfd).ok()?;
        if inner.peers.get(place.slot)?.is_some() {
            // Whoever had the place before made room for this one.
            let before = inner.peers[place.slot].as_ref().is_some_and(Peer::has_ended);
            self.part(inner, place.slot, if before { How::Died } else { How::Left });
        }
        let who = Who {
            slot: place.slot,
            generation: place.generation,
            role: state.role?,
            lane: state.lane,
        };
        let pidfd = self.attend(pidfd, pidfd_token(place)).ok();
        inner.peers[place.slot] = Some(Peer { who, pidfd });
        inner.news.push(News::Joined(who));
        Some(who)
    }

    /// Another one does not take part any more.
    fn part(&self, inner: &mut Inner, slot: usize, how: How) {
        let Some(peer) = inner.peers.get_mut(slot).and_then(Option::take) else { return };
        inner.gone[slot] = (peer.who.generation, how);
        inner.news.push(match how {
            How::Died => News::Died(peer.who),
            How::Left | How::NeverCame => News::Left(peer.who),
        });
        let recovers = inner.name.is_none() || inner.holding.is_some();
        if recovers && how != How::NeverCame {
            inner.news.push(News::Recover(peer.who));
        }
        self.tell_all(inner, slot);
    }

    /// What the word of a place says, if it is of this member.
    fn state_of(&self, place: Place) -> Option<State> {
        self.table.state(place.slot).filter(|state| state.generation == place.generation)
    }

    /// Looks whether one is dead, and does what is to be done then. Says whether it is.
    fn check(&self, inner: &mut Inner, slot: usize) -> bool {
        let ended = inner.peers.get(slot).and_then(Option::as_ref).filter(|peer| peer.has_ended());
        let Some(place) = ended.map(|peer| peer.who.place()) else { return false };
        let left = self.state_of(place).is_some_and(|state| state.kind == Kind::Left);
        if let Some(slot) = self.table.slot(slot) {
            // Another survivor may have been faster.
            slot.bury(place.generation);
        }
        self.part(inner, slot, if left { How::Left } else { How::Died });
        true
    }

    /// Everything that may have to be done and no event tells of.
    fn try_again(&self, inner: &mut Inner) {
        if inner.holding.is_some() {
            self.hold_on(inner);
        } else {
            self.look(inner);
        }
    }

    fn handle(&self, inner: &mut Inner, token: u64) {
        match token & KIND {
            PIDFD => {
                let slot = (token & !KIND) >> 32;
                if self.check(inner, slot as usize) {
                    self.look(inner);
                }
            }
            LINK => self.link_ready(inner, token & !KIND),
            LISTENER => self.accept(inner),
            WATCH => self.watch_ready(inner),
            TIMER => {
                // That takes what it tells, too.
                let _ = inner.timer.as_ref().map(|timer| timer.source().disarm());
                inner.armed = false;
                self.try_again(inner);
            }
            _ => {}
        }
    }
}

impl Attend for Core {
    fn ready(&self, token: u64) {
        let newcomer = {
            let mut inner = lock(&self.inner);
            if inner.over {
                return;
            }
            if token & KIND == GUEST {
                self.guest_ready(&mut inner, token & !KIND)
            } else {
                self.handle(&mut inner, token);
                None
            }
        };
        self.settle();
        if let Some(newcomer) = newcomer {
            self.admit(newcomer);
            self.settle();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let core = &self.core;
        if !core.origin.is_here() {
            // The copies of the parent's descriptors are closed, unless a thread of the parent's was in
            // the middle of using them.
            if let Ok(mut inner) = core.inner.try_lock() {
                let parts = inner.take_apart();
                drop(inner);
                drop(parts);
            }
            return;
        }
        let mut inner = lock(&core.inner);
        if std::mem::replace(&mut inner.over, true) {
            return;
        }
        if let Some(slot) = core.table.slot(core.me.slot) {
            slot.leave(core.me.generation);
        }
        let parts = inner.take_apart();
        // What attends waits, when it is dropped, for a handler that may be waiting for the lock.
        drop(inner);
        core.go(parts);
    }
}

/// Everything of a member that attends to something, and how the name is found.
struct Parts {
    name: Option<Name>,
    holding: Option<Holding>,
    link: Option<Link>,
    peers: Vec<Option<Peer>>,
    watch: Option<Attendance<PathWatch>>,
    timer: Option<Attendance<Timer>>,
    taken: Option<SeqpacketListener>,
}

impl Inner {
    fn take_apart(&mut self) -> Parts {
        Parts {
            name: self.name.clone(),
            holding: self.holding.take(),
            link: self.link.take(),
            peers: std::mem::take(&mut self.peers),
            watch: self.watch.take(),
            timer: self.timer.take(),
            taken: self.taken.take(),
        }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member").field("who", &self.core.me).finish_non_exhaustive()
    }
}

/// Gives a place to a member whose own process does it: the first one, and the ends of a pair.
fn take_place(table: &Table, slot: usize, role: Role, lane: u16, info: &Info) -> Option<u32> {
    let word = table.slot(slot)?;
    let seen = word.state().filter(|state| state.kind == Kind::Free)?;
    let generation = word.allot(seen, role, lane)?;
    table.write_info(slot, info);
    Some(generation)
}

fn random() -> Result<[u8; 16]> {
    let mut number = [0; 16];
    rustix::rand::getrandom(&mut number[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|e| Error::os("ask for random bytes", e).on(Mechanism::Channel))?;
    Ok(number)
}

#[cold]
fn damaged(operation: &'static str, because: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, operation).on(Mechanism::Channel).because(because)
}

/// Sends without waiting.
fn send(
    socket: &Seqpacket,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
) -> Result<(), crate::SendError> {
    if fds.is_empty() {
        socket.send_wait(message, Wait::NEVER)
    } else {
        socket.with_fds(fds).send_wait(message, Wait::NEVER)
    }
}

/// Tells somebody who is not let in why, if there is room for that.
fn refuse(socket: &Seqpacket, kind: ErrorKind, text: &str) {
    let _ = send(socket, &Writer::refused(kind, text), &[]);
}
