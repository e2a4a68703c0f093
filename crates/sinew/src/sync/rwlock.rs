//! A lock in shared memory that many may read under or one may write under, whoever is killed.
//!
//! ```
//! use std::sync::Arc;
//! use sinew::rwlock::RwLock;
//! use sinew::wait::Locks;
//! use sinew::{LockError, memfd};
//!
//! let map = Arc::new(memfd::Options::new().create("example", 4096)?.map()?);
//! let lock = RwLock::create_in(&map, 0, 8)?;
//! // Another process: RwLock::open_in(&its_map, 0).
//!
//! let together = (lock.reader().lock().unwrap(), lock.reader().lock().unwrap());
//! drop(together);
//! match lock.writer().lock() {
//!     Ok(alone) => drop(alone),
//!     Err(LockError::OwnerDied(recovery)) => {
//!         // Make good what the dead one left half-done, then:
//!         let alone = recovery.repaired();
//!         drop(alone);
//!     }
//!     Err(other) => panic!("{other}"),
//! }
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! [`reader`](RwLock::reader) and [`writer`](RwLock::writer) are views with the verbs of [`Locks`].
//!
//! # When somebody dies
//! By `kill -9` too, and at any instruction. A dead reader has changed nothing: its place is free, and a
//! writer that waits for it goes on at once. When a writer dies, whoever locks next, to read or to
//! write, has the lock alone and is told by [`OwnerDied`](LockError::OwnerDied). That holds a
//! [`ReadRecovery`] or a [`WriteRecovery`], which is for the repair, and whose `repaired` gives what was
//! asked for. Dropped without that, nobody can lock ever again
//! ([`NotRecoverable`](LockError::NotRecoverable)). A writer that dies before it has the
//! lock, or after it has given it back, is no matter. A thread that ends with a guard forgotten counts
//! as dead; a stopped one does not, and is waited for.
//!
//! # Order
//! A writer that waits keeps new readers out; they and other writers wait in the line of one
//! [`mutex`](crate::mutex), which hands over to whoever has waited for a millisecond. So neither side
//! starves.
//!
//! # Places
//! Each reader takes one of the places that the lock was created with. When all are taken, the next waits
//! as if a writer were there, and keeps later ones waiting behind it.
//!
//! # Twice in one thread
//! To read while reading is given as long as nobody waits to write; else it is a
//! [`Deadlock`](LockError::Deadlock), and so is any other second lock: the thread would wait for itself.
//!
//! # Costs
//! Where nobody contends, no system call: to read, an atomic operation each way; to write, those of the mutex,
//! and a look at each place, which is a cache line: a nanosecond for three while they are near, and tens for
//! one that a reader on another CPU has used. So do not ask for many more places than there will be readers.
//!
//! # Where it can be, and whom to trust
//! As for the [`mutex`](crate::mutex): in any shared, writable [`Mapping`], [`size`] bytes from a multiple
//! of [`ALIGN`]; in one pid namespace; for processes that may die and mean well. A forked child has none
//! of its parent's locks.
//!
//! Source: get_robust_list(2), futex(2), pthread_rwlockattr_setkind_np(3).

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use super::place::{self, Place, Row};
use super::robust::{self, OWNER_DIED, TID_MASK, Thread, WAITERS};
use crate::error::{Error, ErrorKind, LockError, Result, Stop};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::mutex::{self, Mutex};
use crate::wait::word::{self, Entry};
use crate::wait::{Locks, Wait};
use core::{Drained, Entered, OPEN, PASSING, Places, WRITING};

mod core;

const MECHANISM: Mechanism = Mechanism::Rwlock;

/// The most readers at a time that a lock can be created for.
pub const MOST: u32 = 64;
/// Where one may begin in a map: at a multiple of this.
pub const ALIGN: usize = place::SIZE;

// The head is laid out as a place is, without being one: these are the words that a lock has of its own. The
// gate is not here but beside the mutex: who wants one of them wants both.
const MAGIC_OWN: usize = 0;
const READERS_OWN: usize = 1;
const NAMESPACE_OWN: usize = 2;
/// "SwR", and the version of the layout.
const MAGIC: u32 = 0x5377_5201;

const MUTEX_AT: usize = place::SIZE;
const PLACES_AT: usize = MUTEX_AT + mutex::SIZE;
/// A place more, for the reader that repairs: nobody can stand in its way there.
const SPARE: usize = 1;

/// How many bytes a lock for so many readers at a time takes.
#[must_use]
pub const fn size(readers: u32) -> usize {
    PLACES_AT + (readers as usize + SPARE) * place::SIZE
}

/// A handle to a lock in shared memory. See the [module](self).
///
/// It keeps the mapping. Threads share it by reference; every process opens its own.
pub struct RwLock {
    places: Row,
    mutex: Mutex,
    /// That of the lock, read when it was opened; and the generation of the process in which it was compared.
    namespace: u32,
    compared: AtomicU32,
}

impl RwLock {
    /// Makes a new lock, for so many readers at a time, at `offset` of a mapping, whatever is there. Let
    /// others open it only after that.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not all inside the map or not aligned, the map is
    /// private, or there are no readers or more than [`MOST`];
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if the map is read-only; as
    /// [`Mutex::create_in`](mutex::Mutex::create_in).
    pub fn create_in(map: &Arc<Mapping>, offset: usize, readers: u32) -> Result<Self> {
        if readers == 0 || readers > MOST {
            return Err(refused("create", ErrorKind::InvalidInput, offset)
                .because(format!("1 to {MOST} readers at a time, not {readers}")));
        }
        let head = head_at(map, offset, "create")?;
        head.get(0).own(MAGIC_OWN).store(0, Ordering::Relaxed);
        let places = places_at(map, offset, readers, "create")?;
        let mutex = Mutex::create_in(map, offset + MUTEX_AT)?;
        let namespace = namespace("create", offset)?;
        places.all().for_each(|place| place.word().store(0, Ordering::Relaxed));
        let own = head.get(0);
        mutex.beside().store(OPEN, Ordering::Relaxed);
        own.own(READERS_OWN).store(readers, Ordering::Relaxed);
        own.own(NAMESPACE_OWN).store(namespace, Ordering::Relaxed);
        // Whoever sees the magic number sees the rest.
        own.own(MAGIC_OWN).store(MAGIC, Ordering::Release);
        Ok(Self { places, mutex, namespace, compared: AtomicU32::new(0) })
    }

    /// Opens the lock that was made at `offset` of the object.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if there is none, or one of another version; else as
    /// [`create_in`](Self::create_in). From another pid namespace it can be opened, and not locked.
    pub fn open_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        let head = head_at(map, offset, "open")?;
        let own = head.get(0);
        let magic = own.own(MAGIC_OWN).load(Ordering::Acquire);
        let readers = own.own(READERS_OWN).load(Ordering::Relaxed);
        if magic != MAGIC || readers == 0 || readers > MOST {
            let error = refused("open", ErrorKind::Mismatch, offset);
            return Err(if magic >> 8 == MAGIC >> 8 && magic != MAGIC {
                error.because("the lock there is of another version of this library")
            } else {
                error.because("there is no such lock")
            });
        }
        let namespace = own.own(NAMESPACE_OWN).load(Ordering::Relaxed);
        let places = places_at(map, offset, readers, "open")?;
        let mutex = Mutex::open_in(map, offset + MUTEX_AT)?;
        Ok(Self { places, mutex, namespace, compared: AtomicU32::new(0) })
    }

    /// To read: with many others.
    #[inline]
    #[must_use]
    pub const fn reader(&self) -> Reader<'_> {
        Reader { lock: self }
    }

    /// To write: alone.
    #[inline]
    #[must_use]
    pub const fn writer(&self) -> Writer<'_> {
        Writer { lock: self }
    }

    /// The mapping it is in.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        self.mutex.mapping()
    }

    /// How many can read at a time.
    #[must_use]
    #[inline]
    pub fn places(&self) -> u32 {
        (self.places.count() - SPARE) as u32
    }

    #[inline]
    fn gate(&self) -> &AtomicU32 {
        self.mutex.beside()
    }

    /// This thread, if it may lock: in the right pid namespace.
    #[inline]
    fn thread<D>(&self) -> Result<Thread, LockError<D>> {
        let thread = Thread::current().map_err(|refused| LockError::Os(refused.errno()))?;
        // Relaxed: the comparison gives the same for every thread of the process.
        if self.compared.load(Ordering::Relaxed) != thread.generation() || thread.generation() == 0
        {
            self.compare_namespaces(thread)?;
        }
        Ok(thread)
    }

    #[cold]
    fn compare_namespaces<D>(&self, thread: Thread) -> Result<(), LockError<D>> {
        let own = robust::namespace().map_err(|errno| LockError::Os(errno.raw_os_error()))?;
        if own as u32 != self.namespace {
            return Err(LockError::OtherPidNamespace);
        }
        self.compared.store(thread.generation(), Ordering::Relaxed);
        Ok(())
    }

    /// Has the mutex: alone with the gate. `Died` if the one who had it before died as it wrote.
    #[inline]
    fn turn<D>(&self, wait: Wait<'_>, here: &Here<'_>) -> Result<Turn<'_>, LockError<D>> {
        match self.mutex.try_lock() {
            Ok(guard) if self.gate().load(Ordering::Relaxed) == OPEN => Ok(Turn::Clean(guard)),
            other => self.turn_of(other, wait, here),
        }
    }

    #[cold]
    fn turn_of<'a, D>(
        &'a self,
        mut locked: Result<mutex::Guard<'a>, LockError<mutex::Recovery<'a>>>,
        wait: Wait<'_>,
        here: &Here<'_>,
    ) -> Result<Turn<'a>, LockError<D>> {
        if matches!(locked, Err(LockError::WouldBlock)) {
            // Whoever has the mutex may be waiting for this very thread to end reading.
            if core::reads(here, here.thread.tid()) {
                return Err(LockError::Deadlock);
            }
            locked = self.mutex.lock_wait(wait);
        }
        match locked {
            Ok(guard) => match self.gate().load(Ordering::Relaxed) {
                OPEN => Ok(Turn::Clean(guard)),
                _ => Err(LockError::Corrupt),
            },
            Err(LockError::OwnerDied(recovery)) => match self.gate().load(Ordering::Relaxed) {
                WRITING => Ok(Turn::Died(recovery)),
                // It was about to, or had done, or it was a reader: nothing is half-done.
                OPEN | PASSING => {
                    self.gate().store(OPEN, Ordering::SeqCst);
                    Ok(Turn::Clean(recovery.repaired()))
                }
                _ => Err(LockError::Corrupt),
            },
            Err(other) => Err(other.of_others()),
        }
    }

    /// Reads, after a look that found the gate closed or no place.
    #[cold]
    fn read_in_turn(
        &self,
        thread: Thread,
        wait: Wait<'_>,
    ) -> Result<ReadGuard<'_>, LockError<ReadRecovery<'_>>> {
        let here = Here { lock: self, thread };
        let tid = thread.tid();
        if core::reads(&here, tid) {
            return Err(LockError::Deadlock);
        }
        match self.turn(wait, &here)? {
            Turn::Clean(turn) => {
                let index = match core::pass(&here, tid, NEAR.get()) {
                    Some(index) => index,
                    None => self.await_place(&here, tid, wait)?,
                };
                NEAR.set(index);
                drop(turn);
                Ok(ReadGuard { lock: self, index, thread })
            }
            Turn::Died(recovery) => {
                // Nobody reads while somebody writes, and only who has the mutex takes this one.
                let spare = self.places();
                let seen = self.places.get(spare as usize).word().load(Ordering::Relaxed);
                if seen & TID_MASK != 0 || !here.take(spare, seen, tid) {
                    return Err(LockError::Corrupt);
                }
                let guard = ReadGuard { lock: self, index: spare, thread };
                Err(LockError::OwnerDied(ReadRecovery { guard, turn: recovery }))
            }
        }
    }

    /// Writes, after a look that found the mutex or a place taken.
    #[cold]
    fn write_in_turn<'a>(
        &'a self,
        locked: Result<mutex::Guard<'a>, LockError<mutex::Recovery<'a>>>,
        wait: Wait<'_>,
    ) -> Result<WriteGuard<'a>, LockError<WriteRecovery<'a>>> {
        let here = Here { lock: self, thread: self.thread()? };
        let turn = match self.turn_of(locked, wait, &here)? {
            Turn::Clean(turn) => turn,
            Turn::Died(turn) => {
                return Err(LockError::OwnerDied(WriteRecovery { lock: self, turn }));
            }
        };
        match core::drain(&here, here.thread.tid(), wait)? {
            Drained::Empty => Ok(WriteGuard::new(self, turn)),
            Drained::Deadlock => Err(LockError::Deadlock),
            Drained::Corrupt => Err(LockError::Corrupt),
        }
    }

    /// Waits until a place is free. The caller has the mutex, so that nobody comes in between.
    #[cold]
    fn await_place(&self, here: &Here<'_>, tid: u32, wait: Wait<'_>) -> Result<u32, Stop> {
        loop {
            if let Some(index) = core::claim(here, tid, 0) {
                return Ok(index);
            }
            let mut watched = Vec::with_capacity(self.places() as usize);
            for place in self.places.all().take(self.places() as usize) {
                let word = place.word();
                let seen = word.load(Ordering::Relaxed);
                let marked = seen | WAITERS;
                let known = seen & TID_MASK != 0
                    && word
                        .compare_exchange(seen, marked, Ordering::SeqCst, Ordering::Relaxed)
                        .is_ok();
                if known {
                    watched.push(Entry { word, expected: marked, private: false });
                }
            }
            // One has changed meanwhile: look again.
            if watched.len() < self.places() as usize {
                continue;
            }
            word::sleep_on_any(&watched, wait)?;
        }
    }
}

/// A turn of the mutex.
enum Turn<'a> {
    Clean(mutex::Guard<'a>),
    Died(mutex::Recovery<'a>),
}

thread_local! {
    /// Where this thread read last: threads that read at the same time find places of their own.
    static NEAR: Cell<u32> = const { Cell::new(0) };
}

/// The lock, as its core sees it in this thread.
struct Here<'a> {
    lock: &'a RwLock,
    thread: Thread,
}

impl Places for Here<'_> {
    type Word = AtomicU32;

    #[inline]
    fn turn(&self) -> &AtomicU32 {
        self.lock.mutex.word()
    }

    #[inline]
    fn gate(&self) -> &AtomicU32 {
        self.lock.gate()
    }

    #[inline]
    fn count(&self) -> u32 {
        self.lock.places()
    }

    #[inline]
    fn all(&self) -> u32 {
        self.lock.places() + SPARE as u32
    }

    #[inline]
    fn place(&self, index: u32) -> &AtomicU32 {
        self.lock.places.get(index as usize).word()
    }

    #[inline]
    fn take(&self, index: u32, seen: u32, tid: u32) -> bool {
        self.lock.places.get(index as usize).replace(self.thread, seen, tid)
    }

    #[inline]
    fn give_back(&self, index: u32, tid: u32) {
        let place = self.lock.places.get(index as usize);
        place.give_back(self.thread, |word| core::leave(word, tid));
    }
}

/// To read under an [`RwLock`]: see [`Locks`].
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    lock: &'a RwLock,
}

impl<'a> Locks for Reader<'a> {
    type Guard<'b>
        = ReadGuard<'a>
    where
        Self: 'b;
    type Died<'b>
        = ReadRecovery<'a>
    where
        Self: 'b;

    #[inline]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<ReadGuard<'a>, LockError<ReadRecovery<'a>>> {
        let lock = self.lock;
        let thread = lock.thread()?;
        wait.check_interrupt_word()?;
        let tid = thread.tid();
        match core::enter(&Here { lock, thread }, tid, NEAR.get()) {
            Entered::At(index) => {
                NEAR.set(index);
                Ok(ReadGuard { lock, index, thread })
            }
            Entered::Closed | Entered::Full => lock.read_in_turn(thread, wait),
            Entered::Corrupt => Err(LockError::Corrupt),
        }
    }
}

/// To write under an [`RwLock`]: see [`Locks`].
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    lock: &'a RwLock,
}

impl<'a> Locks for Writer<'a> {
    type Guard<'b>
        = WriteGuard<'a>
    where
        Self: 'b;
    type Died<'b>
        = WriteRecovery<'a>
    where
        Self: 'b;

    // Always inlined, as that of the mutex.
    #[inline(always)]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<WriteGuard<'a>, LockError<WriteRecovery<'a>>> {
        let lock = self.lock;
        let locked = lock.mutex.try_lock();
        if let Ok(turn) = locked {
            let open = lock.gate().load(Ordering::Relaxed) == OPEN;
            if open && core::is_empty(lock.places.all().map(Place::word)) {
                return Ok(WriteGuard::new(lock, turn));
            }
            return lock.write_in_turn(Ok(turn), wait);
        }
        lock.write_in_turn(locked, wait)
    }
}

/// Reads until dropped, by the thread that locked.
#[derive(Debug)]
#[must_use = "dropped, it unlocks"]
pub struct ReadGuard<'a> {
    lock: &'a RwLock,
    index: u32,
    /// Not Send: the kernel knows who reads, and only that thread can end it.
    thread: Thread,
}

impl<'a> ReadGuard<'a> {
    /// What it holds.
    #[must_use]
    pub const fn lock(&self) -> &'a RwLock {
        self.lock
    }
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // In a forked child this is another thread: its parent reads.
        if place::is_current(self.thread) {
            let here = Here { lock: self.lock, thread: self.thread };
            here.give_back(self.index, self.thread.tid());
        }
    }
}

/// Writes until dropped, by the thread that locked.
// One word wide, as that of the mutex: it stands for a guard of that.
#[derive(Debug)]
#[must_use = "dropped, it unlocks"]
pub struct WriteGuard<'a> {
    lock: &'a RwLock,
    /// Not Send: the kernel knows who writes, and only that thread can end it.
    stays: PhantomData<*const ()>,
}

impl<'a> WriteGuard<'a> {
    /// The caller has the mutex of `lock`, and nobody reads.
    #[inline(always)]
    fn new(lock: &'a RwLock, turn: mutex::Guard<'a>) -> Self {
        // From here on a death leaves something half-done: before anything is done.
        lock.gate().store(WRITING, Ordering::Release);
        compiler_fence(Ordering::SeqCst);
        // `drop` unlocks instead.
        let _ = ManuallyDrop::new(turn);
        Self { lock, stays: PhantomData }
    }

    /// What it holds.
    #[must_use]
    pub const fn lock(&self) -> &'a RwLock {
        self.lock
    }
}

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let RwLock { mutex, .. } = self.lock;
        // In a forked child nothing happens: its parent writes.
        mutex.unlock_held(|| self.lock.gate().store(OPEN, Ordering::Release));
    }
}

/// Has the lock alone after a writer died, to repair what it left, and then to write.
#[derive(Debug)]
#[must_use = "dropped without `repaired`, nobody can ever lock again"]
pub struct WriteRecovery<'a> {
    lock: &'a RwLock,
    turn: mutex::Recovery<'a>,
}

impl<'a> WriteRecovery<'a> {
    /// Says that what is guarded is sound again.
    pub fn repaired(self) -> WriteGuard<'a> {
        WriteGuard::new(self.lock, self.turn.repaired())
    }
}

/// Has the lock alone after a writer died, to repair what it left, and then to read.
#[derive(Debug)]
#[must_use = "dropped without `repaired`, nobody can ever lock again"]
pub struct ReadRecovery<'a> {
    guard: ReadGuard<'a>,
    turn: mutex::Recovery<'a>,
}

impl<'a> ReadRecovery<'a> {
    /// Says that what is guarded is sound again: others may read now too.
    pub fn repaired(self) -> ReadGuard<'a> {
        if place::is_current(self.guard.thread) {
            self.guard.lock.gate().store(OPEN, Ordering::SeqCst);
        }
        drop(self.turn.repaired());
        self.guard
    }
}

fn head_at(map: &Arc<Mapping>, at: usize, operation: &'static str) -> Result<Row> {
    if !map.is_shared() {
        return Err(refused(operation, ErrorKind::InvalidInput, at)
            .because("the map is private: no other process sees it"));
    }
    Row::at(map, at, 1).ok_or_else(|| no_room(map, at, 1, operation))
}

fn places_at(map: &Arc<Mapping>, at: usize, readers: u32, operation: &'static str) -> Result<Row> {
    let places = at.checked_add(PLACES_AT);
    let row = places.and_then(|places| Row::at(map, places, readers as usize + SPARE));
    row.ok_or_else(|| no_room(map, at, readers, operation))
}

#[cold]
fn no_room(map: &Mapping, at: usize, readers: u32, operation: &'static str) -> Error {
    if !map.is_writable() {
        return refused(operation, ErrorKind::PermissionDenied, at).because("the map is read-only");
    }
    refused(operation, ErrorKind::InvalidInput, at).because(format!(
        "it takes {} bytes from a multiple of {ALIGN}, and the map has {}",
        size(readers),
        map.len()
    ))
}

/// The pid namespace of the caller: as much of its inode as tells it from others.
fn namespace(operation: &'static str, at: usize) -> Result<u32> {
    robust::namespace().map(|inode| inode as u32).map_err(|errno| {
        Error::os(operation, errno)
            .on(MECHANISM)
            .object(format!("at {at}"))
            .because("the pid namespace is read from /proc/self/ns/pid")
            .fix("mount /proc")
    })
}

#[cold]
fn refused(operation: &'static str, kind: ErrorKind, at: usize) -> Error {
    Error::new(kind, operation).on(MECHANISM).object(format!("at {at}"))
}

impl fmt::Debug for RwLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let had = |place: &Place<'_>| {
            let seen = place.word().load(Ordering::Relaxed);
            seen & TID_MASK != 0 && seen & OWNER_DIED == 0
        };
        f.debug_struct("RwLock")
            .field("places", &self.places())
            .field("readers", &self.places.all().filter(had).count())
            .field("writing", &(self.gate().load(Ordering::Relaxed) == WRITING))
            .field("mutex", &self.mutex)
            .finish_non_exhaustive()
    }
}
