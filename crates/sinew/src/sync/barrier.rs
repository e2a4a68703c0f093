//! A barrier in shared memory: nobody goes on before all have come, and a member that dies is known.
//!
//! A thread becomes a [`Member`] with [`Barrier::join`], and is one until it drops that. `wait` (of
//! [`Waits`], so with its four forms) returns once every member has called it.
//!
//! ```
//! use std::sync::Arc;
//! use sinew::barrier::Barrier;
//! use sinew::memfd;
//! use sinew::wait::Waits;
//!
//! let map = Arc::new(memfd::Options::new().create("meeting", 4096)?.map()?);
//! let barrier = Barrier::create_in(&map, 0, 2)?;
//! let here = barrier.join()?;
//! std::thread::scope(|s| {
//!     // Another process: `Barrier::open_in(&its_map, 0)`.
//!     s.spawn(|| barrier.join().unwrap().wait().unwrap());
//!     while barrier.members() < 2 {
//!         std::thread::yield_now();
//!     }
//!     let met = here.wait().unwrap();
//!     assert_eq!(met.generation, 0);
//! });
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Members come and go
//! Only those who have joined are waited for: agree by other means when all have, before the first
//! `wait`. Dropping a [`Member`] leaves properly, and those who wait then wait for one less. A call
//! that gives up (time-out, interrupt) has not come: the others go on waiting for it.
//!
//! # When a member dies
//! At any instruction, by `kill -9` too, the kernel marks its place and wakes one of those who wait,
//! which wakes the others: all get [`PeerDied`](WaitError::PeerDied), and so does everybody who calls
//! `wait` later, until somebody says [`forget_dead`](Barrier::forget_dead) or the barrier is created
//! anew. After that the members that are left call `wait` again. The end of the thread that joined
//! and execve(2) count as its death; a stopped process is slow, not dead.
//!
//! On Linux before 5.16 those who wait look every millisecond instead of being woken.
//!
//! # Trust
//! For peers that mean well. A barrier that was overwritten is [`Corrupt`](WaitError::Corrupt) where
//! that can be seen; the kernel follows a list of its members' places when a thread ends, which
//! a hostile peer could lead astray. At most [`MOST`] members, in one pid namespace.
//!
//! Source: pthread_barrier_wait(3p); get_robust_list(2), Documentation/locking/robust-futexes.rst and
//! futex(2) of the kernel.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::place::{self, Place};
use super::robust::{self, OWNER_DIED, TID_MASK, Thread, WAITERS};
use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::wait::word::{self, Change, Entry};
use crate::wait::{Wait, Waits};

const MECHANISM: Mechanism = Mechanism::Barrier;

/// The most members that a barrier can have.
pub const MOST: u32 = 32;
/// Where a barrier may begin in a map: at a multiple of this.
pub const ALIGN: usize = 64;

/// "Barr", and the version of the layout.
const MAGIC: u64 = 0x0001_0000_7272_6142;

// The head.
const MAGIC_AT: usize = 0;
const STATE_AT: usize = 8;
const NAMESPACE_AT: usize = 16;
const BELL_AT: usize = 24;
const PLACES_AT: usize = 28;
const HEAD: usize = 64;

/// How many bytes a barrier for so many members takes.
#[must_use]
pub const fn size(members: u32) -> usize {
    HEAD + members as usize * place::SIZE
}

/// A handle to a barrier in shared memory. See the [module](self).
///
/// It keeps the mapping. Threads share it by reference; every process opens its own.
pub struct Barrier {
    map: Arc<Mapping>,
    at: usize,
    places: u32,
}

/// Its words.
#[derive(Clone, Copy)]
struct Words<'m> {
    map: &'m Mapping,
    at: usize,
    places: u32,
    /// The generation, and one bit for each place whose member has come in it.
    state: &'m AtomicU64,
    /// Changes whenever those who wait have to look again.
    bell: &'m AtomicU32,
}

/// What one look at all places says.
enum Look {
    /// Somebody who was a member is dead.
    Dead,
    /// Everybody has come.
    Complete,
    /// Somebody is missing.
    Missing,
}

impl Barrier {
    /// Makes a barrier for at most `members` in the [`size`] bytes from `offset` on, whatever was
    /// there before: nobody may use it at that time.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it does not fit the map, is not aligned to
    /// [`ALIGN`], or has no members or more than [`MOST`];
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if the map is read-only.
    pub fn create_in(map: &Arc<Mapping>, offset: usize, members: u32) -> Result<Self> {
        if members == 0 || members > MOST {
            return Err(refused("create", ErrorKind::InvalidInput, offset)
                .because(format!("a barrier has 1 to {MOST} members, not {members}")));
        }
        let magic = word64(map, offset, MAGIC_AT, "create")?;
        magic.store(0, Ordering::Relaxed);
        let barrier = Self::of(map, offset, members, "create")?;
        let words = barrier.words();
        words.state.store(0, Ordering::Relaxed);
        words.bell.store(0, Ordering::Relaxed);
        words.all().for_each(|place| place.word().store(0, Ordering::Relaxed));
        word32(map, offset, PLACES_AT, "create")?.store(members, Ordering::Relaxed);
        word64(map, offset, NAMESPACE_AT, "create")?
            .store(namespace("create", offset)?, Ordering::Relaxed);
        // Partner: the load in `open`. Whoever sees this sees all of the above.
        magic.store(MAGIC, Ordering::Release);
        Ok(barrier)
    }

    /// Finds the barrier that somebody created at `offset`.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if none is there, or one of another version;
    /// [`Unsupported`](ErrorKind::Unsupported) from another pid namespace than its creator's;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if the map is read-only.
    pub fn open_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        let mismatch = |why: String| refused("open", ErrorKind::Mismatch, offset).because(why);
        let magic = word64(map, offset, MAGIC_AT, "open")?.load(Ordering::Acquire);
        if magic != MAGIC {
            return Err(mismatch(format!("no barrier of this version is there ({magic:#x})")));
        }
        let members = word32(map, offset, PLACES_AT, "open")?.load(Ordering::Relaxed);
        if members == 0 || members > MOST {
            return Err(mismatch(format!("a barrier of {members} members cannot be")));
        }
        let recorded = word64(map, offset, NAMESPACE_AT, "open")?.load(Ordering::Relaxed);
        if recorded != namespace("open", offset)? {
            return Err(refused("open", ErrorKind::Unsupported, offset)
                .because("it was created in another pid namespace, where thread numbers differ"));
        }
        Self::of(map, offset, members, "open")
    }

    fn of(map: &Arc<Mapping>, at: usize, places: u32, operation: &'static str) -> Result<Self> {
        if !at.is_multiple_of(ALIGN) {
            return Err(refused(operation, ErrorKind::InvalidInput, at)
                .because(format!("a barrier begins at a multiple of {ALIGN}")));
        }
        if at.checked_add(size(places)).is_none_or(|end| end > map.len()) {
            return Err(refused(operation, ErrorKind::InvalidInput, at).because(format!(
                "it has {} bytes, and the map {}",
                size(places),
                map.len()
            )));
        }
        if !map.is_shared() {
            return Err(refused(operation, ErrorKind::InvalidInput, at)
                .because("the map is private: no other process sees it"));
        }
        // Whether a thread can have a place at all is said here, where there is room for the reason.
        Thread::current().map_err(|e| e.error(operation).on(MECHANISM))?;
        Ok(Self { map: Arc::clone(map), at, places })
    }

    fn words(&self) -> Words<'_> {
        let Self { map, at, places } = self;
        let state = map.atomic_u64_at(at + STATE_AT).expect("checked when it was opened");
        let bell = map.atomic_u32_at(at + BELL_AT).expect("checked when it was opened");
        Words { map, at: *at, places: *places, state, bell }
    }

    /// Makes the calling thread a member, from the current generation on.
    ///
    /// # Errors
    /// [`LimitReached`](ErrorKind::LimitReached) if all places are taken, by dead members too;
    /// [`InUse`](ErrorKind::InUse) if this thread is a member already, which could only wait for
    /// itself.
    pub fn join(&self) -> Result<Member<'_>> {
        let thread = Thread::current().map_err(|e| e.error("join").on(MECHANISM))?;
        let tid = thread.tid();
        let words = self.words();
        if words.all().any(|place| place.word().load(Ordering::Relaxed) & TID_MASK == tid) {
            return Err(refused("join", ErrorKind::InUse, self.at)
                .because("this thread is a member already"));
        }
        for (index, place) in (0..).zip(words.all()) {
            let seen = place.word().load(Ordering::Relaxed);
            // With the bit for waiters from the start: a death always wakes one of those who wait.
            // They sleep on free places too, so they need not be told that this one is taken.
            if seen & !WAITERS == 0 && place.replace(thread, seen, tid | WAITERS) {
                // Whoever had the place may have died after it came.
                words.state.fetch_and(!bit(index), Ordering::SeqCst);
                return Ok(Member { barrier: self, place, index, thread });
            }
        }
        Err(refused("join", ErrorKind::LimitReached, self.at)
            .because(format!("all {} places are taken", self.places))
            .fix("create it for more members, or `forget_dead`"))
    }

    /// How many members it has now, the dead ones not counted.
    #[must_use]
    pub fn members(&self) -> u32 {
        self.words().count(|seen| seen & OWNER_DIED == 0 && seen & TID_MASK != 0)
    }

    /// How many members died that nobody has told it to forget.
    #[must_use]
    pub fn dead(&self) -> u32 {
        self.words().count(|seen| seen & OWNER_DIED != 0)
    }

    /// Goes on without the members that are dead, and gives how many those were. Those who wait, and
    /// have not yet been told, go on waiting for the living ones.
    pub fn forget_dead(&self) -> u32 {
        let words = self.words();
        let mut forgotten = 0;
        for place in words.all() {
            if place.word().load(Ordering::Acquire) & OWNER_DIED != 0 {
                // Clearing the mark frees the place, and does nothing to one that was freed and taken
                // meanwhile. It can fail only on a bad address, and these are references.
                let free = Change::ClearBit(OWNER_DIED.trailing_zeros() as u16);
                let _ = word::change_and_wake(place.word(), free, words.bell, u32::MAX);
                forgotten += 1;
            }
        }
        forgotten
    }

    /// The mapping it is in.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }
}

impl Drop for Barrier {
    fn drop(&mut self) {
        place::keep_if_had(&self.map, self.words().all());
    }
}

impl<'m> Words<'m> {
    /// Every place, in order.
    fn all(self) -> impl Iterator<Item = Place<'m>> {
        (0..self.places as usize).map(move |index| {
            let at = self.at + HEAD + index * place::SIZE;
            Place::at(self.map, at).expect("checked when it was opened")
        })
    }

    fn count(self, which: impl Fn(u32) -> bool) -> u32 {
        self.all().filter(|place| which(place.word().load(Ordering::Acquire))).count() as u32
    }

    /// Lets everybody who waits look again. Only members call it: the kernel tells one of the others of
    /// the death of one that is killed between the two steps, and that one rings again.
    fn ring(self) {
        self.bell.fetch_add(1, Ordering::SeqCst);
        // It can fail only on a bad address, and this is a reference.
        let _ = word::wake(self.bell, u32::MAX);
    }

    /// Looks at all places, of whose members those in `come` have come, and notes what it saw of the
    /// others than `own`: on that they sleep, so that whatever changes after this look ends the sleep.
    fn look(self, come: u64, own: u32, watched: &mut Watched<'m>) -> Look {
        let mut found = Look::Complete;
        for (index, place) in (0..).zip(self.all()) {
            let seen = place.word().load(Ordering::SeqCst);
            if seen & OWNER_DIED != 0 {
                return Look::Dead;
            }
            if seen & TID_MASK != 0 && come & bit(index) == 0 {
                found = Look::Missing;
            }
            if index != own {
                watched.add(place.word(), seen);
            }
        }
        found
    }
}

/// The words that one who waits sleeps on: the bell, and every place but its own.
struct Watched<'m> {
    entries: [Entry<'m>; MOST as usize],
    count: usize,
}

impl<'m> Watched<'m> {
    fn new(bell: &'m AtomicU32, expected: u32) -> Self {
        let bell = Entry { word: bell, expected, private: false };
        Self { entries: [bell; MOST as usize], count: 1 }
    }

    fn add(&mut self, word: &'m AtomicU32, expected: u32) {
        self.entries[self.count] = Entry { word, expected, private: false };
        self.count += 1;
    }

    fn sleep(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        Ok(word::sleep_on_any(&self.entries[..self.count], wait).map(drop)?)
    }
}

/// A thread's part in a barrier: [`wait`](Waits::wait) for the others, drop it to leave.
///
/// It belongs to the thread that joined. A forked child that uses its copy gets
/// [`Forked`](WaitError::Forked).
pub struct Member<'a> {
    barrier: &'a Barrier,
    place: Place<'a>,
    index: u32,
    thread: Thread,
}

/// All have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    /// How often all had come before, since the barrier was created; it wraps.
    pub generation: u32,
    /// Whether this member is the one that was last; exactly one of them is, unless it dies.
    pub last: bool,
}

impl Waits for Member<'_> {
    type Waited = Met;

    /// Waits until every member has come.
    ///
    /// # Errors
    /// [`PeerDied`](WaitError::PeerDied) if one is dead, now or later, until
    /// [`forget_dead`](Barrier::forget_dead); [`Forked`](WaitError::Forked) in a forked child. See
    /// [`WaitError`]. After each of them this member has not come.
    fn wait_for(&self, wait: Wait<'_>) -> Result<Met, WaitError> {
        let words = self.barrier.words();
        let Words { state, bell, places, .. } = words;
        let own = bit(self.index);
        if !place::is_current(self.thread) {
            return Err(WaitError::Forked);
        }
        wait.check_interrupt_word()?;
        if self.place.word().load(Ordering::Relaxed) != self.thread.tid() | WAITERS {
            return Err(WaitError::Corrupt);
        }
        let before = state.fetch_or(own, Ordering::SeqCst);
        let generation = generation_of(before);
        if before & own != 0 || before & ALL_PLACES & !((1 << places) - 1) != 0 {
            return Err(WaitError::Corrupt);
        }
        loop {
            // Read before the look: whoever rings after it ends the sleep below.
            let rung = bell.load(Ordering::SeqCst);
            let seen = state.load(Ordering::SeqCst);
            if generation_of(seen) != generation {
                return self.met(generation);
            }
            if seen & own == 0 {
                return Err(WaitError::Corrupt);
            }
            let mut watched = Watched::new(bell, rung);
            let stop = match words.look(seen, self.index, &mut watched) {
                Look::Complete => {
                    let next = u64::from(generation.wrapping_add(1)) << 32;
                    let done =
                        state.compare_exchange(seen, next, Ordering::SeqCst, Ordering::SeqCst);
                    if done.is_ok() {
                        words.ring();
                        return Ok(Met { generation, last: true });
                    }
                    continue;
                }
                // The kernel has woken one of those who wait, and it may be this one: the others
                // have to know too.
                Look::Dead => {
                    // Kept to itself: the others sleep on.
                    if !cfg!(sabotage = "barrier-untold") {
                        words.ring();
                    }
                    WaitError::PeerDied
                }
                Look::Missing => match watched.sleep(wait) {
                    Ok(()) => continue,
                    Err(stop) => stop,
                },
            };
            return self.give_up(generation, stop);
        }
    }
}

impl Member<'_> {
    /// The barrier that it is a member of.
    #[must_use]
    pub fn barrier(&self) -> &Barrier {
        self.barrier
    }

    /// All have come in `generation`. Whoever completed it may have died before it told the others,
    /// and the kernel tells one only.
    fn met(&self, generation: u32) -> Result<Met, WaitError> {
        if self.barrier.dead() > 0 {
            self.barrier.words().ring();
        }
        Ok(Met { generation, last: false })
    }

    /// Has not come after all; unless the others have gone on with it meanwhile.
    fn give_up(&self, generation: u32, why: WaitError) -> Result<Met, WaitError> {
        let state = self.barrier.words().state;
        let mut seen = state.load(Ordering::SeqCst);
        while generation_of(seen) == generation {
            let without = seen & !bit(self.index);
            match state.compare_exchange(seen, without, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Err(why),
                Err(now) => seen = now,
            }
        }
        self.met(generation)
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        // A forked child has no part in it.
        if !place::is_current(self.thread) {
            return;
        }
        let bell = self.barrier.words().bell;
        // In one step, so that whoever is killed here has left and told, or is a dead member. Those who
        // have not yet gone to sleep see another value here.
        self.place.give_back(self.thread, |word| {
            let _ = word::change_and_wake(word, Change::Set(0), bell, u32::MAX);
        });
    }
}

/// The bits of the state that stand for places.
const ALL_PLACES: u64 = u32::MAX as u64;

fn bit(index: u32) -> u64 {
    1 << index
}

fn generation_of(state: u64) -> u32 {
    (state >> 32) as u32
}

/// The pid namespace of the caller.
fn namespace(operation: &'static str, at: usize) -> Result<u64> {
    robust::namespace().map_err(|e| {
        Error::os(operation, e)
            .on(MECHANISM)
            .object(format!("at {at}"))
            .because("which pid namespace this is cannot be seen")
            .fix("mount /proc")
    })
}

fn word32<'m>(
    map: &'m Mapping,
    at: usize,
    part: usize,
    operation: &'static str,
) -> Result<&'m AtomicU32> {
    let word = at.checked_add(part).and_then(|at| map.atomic_u32_at(at));
    word.ok_or_else(|| no_word(map, at, operation))
}

fn word64<'m>(
    map: &'m Mapping,
    at: usize,
    part: usize,
    operation: &'static str,
) -> Result<&'m AtomicU64> {
    let word = at.checked_add(part).and_then(|at| map.atomic_u64_at(at));
    word.ok_or_else(|| no_word(map, at, operation))
}

#[cold]
fn no_word(map: &Mapping, at: usize, operation: &'static str) -> Error {
    if map.is_writable() {
        refused(operation, ErrorKind::InvalidInput, at)
            .because(format!("it is not all inside the map of {} bytes, aligned", map.len()))
    } else {
        refused(operation, ErrorKind::PermissionDenied, at).because("the map is read-only")
    }
}

#[cold]
fn refused(operation: &'static str, kind: ErrorKind, at: usize) -> Error {
    Error::new(kind, operation).on(MECHANISM).object(format!("at {at}"))
}

impl fmt::Debug for Barrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.words().state.load(Ordering::Relaxed);
        f.debug_struct("Barrier")
            .field("places", &self.places)
            .field("generation", &generation_of(state))
            .field("members", &self.members())
            .field("dead", &self.dead())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Member<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("place", &self.index)
            .field("barrier", &self.barrier)
            .finish_non_exhaustive()
    }
}
