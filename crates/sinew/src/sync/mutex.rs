//! A lock in shared memory, for threads of any process, that survives the death of its owner.
//!
//! ```
//! use std::sync::Arc;
//! use sinew::mutex::Mutex;
//! use sinew::wait::Locks;
//! use sinew::{LockError, memfd};
//!
//! let map = Arc::new(memfd::Options::new().create("example", 4096)?.map()?);
//! let mutex = Mutex::create_in(&map, 0)?;
//! // Another process: Mutex::open_in(&its_map, 0).
//!
//! match mutex.lock() {
//!     Ok(guard) => drop(guard),
//!     Err(LockError::OwnerDied(recovery)) => {
//!         // Make good what the dead one left half-done, then:
//!         let guard = recovery.repaired();
//!         drop(guard);
//!     }
//!     Err(other) => panic!("{other}"),
//! }
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! It guards whatever the processes agree on, in the same mapping or anywhere.
//!
//! # When the owner dies
//! By `kill -9` too, and at any instruction: the kernel marks the lock and wakes a sleeper, which has it
//! at once and is told by [`OwnerDied`](LockError::OwnerDied). The [`Recovery`] holds the lock as a guard
//! does; [`repaired`](Recovery::repaired) makes it one, and the mutex is as new. Dropped without
//! that, the mutex can never be locked again: everybody, the sleepers too, gets
//! [`NotRecoverable`](LockError::NotRecoverable). Dying during the repair is the same as dying before it.
//! A thread that ends with a guard forgotten counts as dead; a stopped one does not.
//!
//! # Order
//! Whoever runs may take a free lock before a sleeper is awake. Who has waited for a millisecond is handed the lock
//! by the next release. With [`inherit_priority`](Options::inherit_priority) the kernel decides: by
//! priority, then in order.
//!
//! # Costs
//! Where nobody contends, no system call: two atomic operations. Who waits looks for a few microseconds while
//! the owner may be running on another CPU, and then sleeps. After that it looks once in a while
//! whether the owner still exists.
//!
//! # Where it can be
//! In any shared, writable [`Mapping`], [`SIZE`] bytes from a multiple of [`ALIGN`]. The layout is our own and
//! fixed: programs of different builds share it, pthread mutexes do not. The thread's robust list is
//! shared with libc, whose robust mutexes can be held at the same time, in any order.
//!
//! Thread numbers mean something only in one pid namespace: the mutex belongs to that of its creator, and others
//! get [`OtherPidNamespace`](LockError::OtherPidNamespace). That needs /proc.
//!
//! After a fork the child has none of its parent's locks, and a guard dropped there unlocks nothing.
//!
//! # Trust
//! It is for processes that may die and mean well. One that writes rubbish into the lock makes others
//! fail with [`Corrupt`](LockError::Corrupt), or wait for their deadline; one that overwrites the links
//! of a lock that another holds leads that one's next unlock astray.
//!
//! Source: get_robust_list(2), futex(2), the kernel's documentation of robust and of PI futexes,
//! pthread_mutexattr_setrobust(3).

#![allow(unsafe_code, reason = "a lock in shared memory, linked into the robust list")]

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::futex;
use super::robust::{self, Node, OWNER_DIED, Thread, UNSEEN};
use crate::error::{Error, ErrorKind, LockError, Result};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::wait::{Locks, Wait};

mod core;

use self::core::{Core, Host, Once, Refused, Taken};

/// How many bytes of a mapping a mutex takes.
pub const SIZE: usize = size_of::<Layout>();
/// Of what its offset and its address have to be a multiple: a cache line of its own.
pub const ALIGN: usize = align_of::<Layout>();

/// The bytes in shared memory. Version 1.
#[repr(C, align(64))]
struct Layout {
    /// The word, the links, and between them: heir, state, and the owner's CPU.
    node: Node,
    magic: AtomicU32,
    /// Bit 0: priority is inherited.
    flags: AtomicU32,
    /// The inode of the pid namespace of its creator.
    namespace: AtomicU64,
    /// For what is built on the mutex: see [`Mutex::beside`].
    beside: AtomicU32,
    reserved: AtomicU32,
}

const _: () = {
    assert!(offset_of!(Layout, node) == 0);
    assert!(offset_of!(Layout, magic) == 40);
    assert!(offset_of!(Layout, flags) == 44);
    assert!(offset_of!(Layout, namespace) == 48);
    assert!(offset_of!(Layout, beside) == 56);
    assert!(offset_of!(Layout, reserved) == 60);
    assert!(size_of::<Layout>() == 64);
};

/// "SwM" and the version.
const MAGIC: u32 = 0x5377_4d01;
const INHERITS: u32 = 1;
/// In [`Mutex::held`]: more than any thread's number.
const DIED: u64 = 1 << 31;

const HEIR: usize = 0;
const STATE: usize = 1;
const CPU: usize = 2;

/// After how long a sleeper is handed the lock.
const PATIENCE: Duration = Duration::from_millis(1);
/// How often the word is looked at before sleeping: a few microseconds.
const SPINS: u32 = 100;

/// How a mutex is made.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "it makes nothing until `create_in`"]
pub struct Options {
    inherits: bool,
}

impl Options {
    /// Without priority inheritance.
    pub const fn new() -> Self {
        Self { inherits: false }
    }

    /// Lets the owner run with the highest priority of those who wait (FUTEX_LOCK_PI). For real-time
    /// threads: every contended operation is a system call then, and slower.
    pub const fn inherit_priority(mut self) -> Self {
        self.inherits = true;
        self
    }

    /// Makes a new mutex, unlocked, at `offset` of a mapping, whatever is there. Let others open it
    /// only after that.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not all inside the map or not aligned, or the
    /// map is private; [`PermissionDenied`](ErrorKind::PermissionDenied) if the map is read-only;
    /// [`Unsupported`](ErrorKind::Unsupported) if the C library's robust list has another form;
    /// [`NotFound`](ErrorKind::NotFound) without /proc.
    pub fn create_in(&self, map: &Arc<Mapping>, offset: usize) -> Result<Mutex> {
        let operation = "create";
        let layout = place(map, offset, operation)?;
        let namespace = own_namespace(operation)?;
        // SAFETY: inside the map, aligned, shared and writable, checked by `place`; mapped as long as
        // `map`, which outlives this reference. All fields are atomic.
        let fields = unsafe { layout.as_ref() };
        fields.magic.store(0, Ordering::Relaxed);
        fields.node.word.store(0, Ordering::Relaxed);
        for own in &fields.node.own {
            own.store(0, Ordering::Relaxed);
        }
        fields.flags.store(if self.inherits { INHERITS } else { 0 }, Ordering::Relaxed);
        fields.namespace.store(namespace, Ordering::Relaxed);
        fields.beside.store(0, Ordering::Relaxed);
        fields.reserved.store(0, Ordering::Relaxed);
        // Whoever sees the magic number sees the rest.
        fields.magic.store(MAGIC, Ordering::Release);
        Mutex::at(map, layout, namespace, self.inherits, operation)
    }
}

/// A handle to a mutex in shared memory. See the [module](self).
///
/// It keeps the mapping. Threads share it by reference; every process opens its own.
// In one cache line: all of it is used by each lock and unlock, and by no neighbour.
#[repr(align(64))]
pub struct Mutex {
    layout: NonNull<Layout>,
    inherits: bool,
    /// That of the mutex, read when it was opened.
    namespace: u64,
    /// The generation of the process in which the namespace was compared.
    compared: AtomicU32,
    /// A thread that had it once and existed: what a sleeper trusts to wake it.
    known: AtomicU32,
    /// The id of its owner while a guard of this handle exists, or was forgotten; with [`DIED`] where
    /// what the last owner left is not repaired. It is of this process: no peer writes there.
    held: AtomicU64,
    /// Stays for ever where it is dropped while `held`: the robust list leads into it.
    map: Arc<Mapping>,
}

// SAFETY: all that a handle does to the shared memory is atomic, and the map is kept by it.
unsafe impl Send for Mutex {}
// SAFETY: as above; guards, which are bound to their thread, are not Send.
unsafe impl Sync for Mutex {}

impl Mutex {
    /// Makes a new mutex without priority inheritance. See [`Options::create_in`].
    ///
    /// # Errors
    /// See [`Options::create_in`].
    pub fn create_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        Options::new().create_in(map, offset)
    }

    /// Opens the mutex that was made at `offset` of the object.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if there is none, or one of another version; else as
    /// [`Options::create_in`]. From another pid namespace it can be opened, and not locked.
    pub fn open_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        let operation = "open";
        let layout = place(map, offset, operation)?;
        // SAFETY: as in `create_in`.
        let fields = unsafe { layout.as_ref() };
        let magic = fields.magic.load(Ordering::Acquire);
        let flags = fields.flags.load(Ordering::Relaxed);
        if magic != MAGIC || flags & !INHERITS != 0 {
            let error = error(ErrorKind::Mismatch, operation);
            return Err(if magic >> 8 == MAGIC >> 8 {
                error.because("the mutex there is of another version of this library")
            } else {
                error.because(format!("there is no mutex at {offset}"))
            });
        }
        let namespace = fields.namespace.load(Ordering::Relaxed);
        Self::at(map, layout, namespace, flags & INHERITS != 0, operation)
    }

    fn at(
        map: &Arc<Mapping>,
        layout: NonNull<Layout>,
        namespace: u64,
        inherits: bool,
        operation: &'static str,
    ) -> Result<Self> {
        // Whether it can be locked at all is said here, where there is room for the reason.
        Thread::current().map_err(|refused| refused.error(operation).on(Mechanism::Mutex))?;
        own_namespace(operation)?;
        Ok(Self {
            layout,
            inherits,
            namespace,
            compared: AtomicU32::new(0),
            known: AtomicU32::new(0),
            held: AtomicU64::new(0),
            map: Arc::clone(map),
        })
    }

    /// The mapping it is in.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }

    /// Whether the owner inherits the priority of those who wait.
    #[must_use]
    pub const fn inherits_priority(&self) -> bool {
        self.inherits
    }

    #[inline]
    fn layout(&self) -> &Layout {
        // SAFETY: inside the map and aligned, checked by `place`; mapped as long as `self`, which has
        // the map. All fields are atomic.
        unsafe { self.layout.as_ref() }
    }

    /// 0 while nobody has it.
    #[inline]
    pub(super) fn word(&self) -> &AtomicU32 {
        &self.layout().node.word
    }

    /// A word in the same cache line, of which the mutex knows nothing; 0 in a new one.
    #[inline]
    pub(super) fn beside(&self) -> &AtomicU32 {
        &self.layout().beside
    }

    #[inline]
    fn core(&self) -> Core<'_, AtomicU32> {
        let node = &self.layout().node;
        Core { word: &node.word, heir: &node.own[HEIR], state: &node.own[STATE] }
    }

    /// What stands before the first lock of a process, the first after a fork, and a lock that
    /// cannot be.
    #[cold]
    #[inline(never)]
    fn lock_first(&self, wait: Wait<'_>) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        let thread = Thread::current().map_err(|refused| LockError::Os(refused.errno()))?;
        let own = robust::namespace().map_err(|errno| LockError::Os(errno.raw_os_error()))?;
        if own != self.namespace {
            return Err(LockError::OtherPidNamespace);
        }
        if thread.generation() != UNSEEN {
            // Relaxed: the comparison gives the same for every thread of the process.
            self.compared.store(thread.generation(), Ordering::Relaxed);
        }
        self.lock_as(thread, wait)
    }

    #[inline(always)]
    fn lock_as(
        &self,
        thread: Thread,
        wait: Wait<'_>,
    ) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        wait.check_interrupt_word()?;
        // No pending slot: a death between taking the word and its entry in the list is not seen.
        if !cfg!(sabotage = "mutex-no-pending") {
            thread.begin(&self.layout().node.word, self.inherits);
        }
        if !self.core().take_free(thread.tid()) {
            return self.lock_taken(thread, wait);
        }
        self.hold_sound(thread)
    }

    /// Where this thread has the word: keeps it if it is worth having.
    #[inline(always)]
    fn hold_sound(&self, thread: Thread) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        match self.core().state() {
            Ok(()) => Ok(self.hold(thread, 0)),
            Err(refused) => self.go_without(thread, refused),
        }
    }

    /// Enters the lock that this thread has into its list.
    #[inline(always)]
    fn hold(&self, thread: Thread, died: u64) -> Guard<'_> {
        // Emptied too early: a death before the entry is in the list is not seen.
        if cfg!(sabotage = "mutex-pending-too-short") {
            thread.end();
        }
        let node = &self.layout().node;
        node.own[CPU].store(robust::current_cpu(), Ordering::Relaxed);
        self.held.store(thread.id() | died, Ordering::Relaxed);
        // SAFETY: this thread has just come to have the word, so the node is in no list. The map stays
        // as long as this handle, and for ever where the handle is dropped while it is `held`.
        // That peers are trusted is the contract of the type.
        unsafe { thread.link(node, self.inherits) };
        thread.end();
        Guard { mutex: self, stays: PhantomData }
    }

    /// Goes on where the word was not free; the pending slot is filled.
    #[cold]
    #[inline(never)]
    fn lock_taken(
        &self,
        thread: Thread,
        wait: Wait<'_>,
    ) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        if self.inherits {
            return self.lock_further(thread, wait, false);
        }
        match self.core().sleep_once(thread.tid(), wait, &self.here()) {
            Once::Taken => self.hold_sound(thread),
            Once::Slept => self.lock_further(thread, wait, true),
            Once::Awake => self.lock_further(thread, wait, false),
        }
    }

    /// The same, where more is to do than to sleep once.
    #[cold]
    #[inline(never)]
    fn lock_further(
        &self,
        thread: Thread,
        wait: Wait<'_>,
        slept: bool,
    ) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        let taken = if self.inherits {
            self.take_with_priority(thread, wait)
        } else {
            let taken = self.core().lock_taken(thread.tid(), wait, &self.here(), slept);
            taken.map_err(LockError::from)
        };
        match taken {
            Ok(Taken::Clean) => Ok(self.hold(thread, 0)),
            Ok(Taken::OwnerDied) => Err(LockError::OwnerDied(Recovery(self.hold(thread, DIED)))),
            Err(refused) => {
                thread.end();
                Err(refused)
            }
        }
    }

    #[inline(always)]
    fn here(&self) -> Here<'_> {
        Here { cpu: &self.layout().node.own[CPU], known: &self.known, start: Cell::new(None) }
    }

    /// Releases what is not worth having.
    #[cold]
    #[inline(never)]
    fn go_without(
        &self,
        thread: Thread,
        refused: Refused,
    ) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        self.release(thread);
        thread.end();
        Err(refused.into())
    }

    /// By the thread that has it.
    #[inline(always)]
    fn unlock(&self, thread: Thread) {
        let node = &self.layout().node;
        if !cfg!(sabotage = "mutex-no-pending") {
            thread.begin(&node.word, self.inherits);
        }
        // SAFETY: linked when the guard was made, which is dropped once.
        unsafe { thread.unlink(node) };
        self.held.store(0, Ordering::Relaxed);
        self.release(thread);
        thread.end();
    }

    /// What the drop of a guard does; before that, where the calling thread has the lock, `last`.
    #[inline(always)]
    pub(super) fn unlock_held(&self, last: impl FnOnce()) {
        let held = self.held.load(Ordering::Relaxed);
        match Thread::of_id(held) {
            Some(thread) => {
                last();
                self.unlock(thread);
            }
            None => self.unlock_last(held, last),
        }
    }

    /// Where more is to do, or nothing: in a forked child the thread has not got it, its parent has.
    #[cold]
    #[inline(never)]
    fn unlock_last(&self, held: u64, last: impl FnOnce()) {
        let Ok(thread) = Thread::current() else { return };
        if held & !DIED != thread.id() {
            return;
        }
        last();
        if held & DIED != 0 {
            self.core().give_up();
        }
        self.unlock(thread);
    }

    #[inline(always)]
    fn release(&self, thread: Thread) {
        if self.inherits { self.release_with_priority(thread) } else { self.core().unlock() }
    }

    fn take_with_priority(
        &self,
        thread: Thread,
        wait: Wait<'_>,
    ) -> Result<Taken, LockError<Recovery<'_>>> {
        let core = self.core();
        if !core.take_free(thread.tid()) {
            futex::take_by_kernel(core.word, false, wait)?;
        }
        if let Err(refused) = core.state() {
            self.release_with_priority(thread);
            return Err(refused.into());
        }
        let died = core.word.load(Ordering::Relaxed) & OWNER_DIED != 0;
        Ok(if died { Taken::OwnerDied } else { Taken::Clean })
    }

    fn release_with_priority(&self, thread: Thread) {
        let Core { word, .. } = self.core();
        let free = word.compare_exchange(thread.tid(), 0, Ordering::Release, Ordering::Relaxed);
        if free.is_err() {
            futex::release_by_kernel(word, false);
        }
    }
}

impl Locks for Mutex {
    type Guard<'a> = Guard<'a>;
    type Died<'a> = Recovery<'a>;

    // Always inlined, so that a guard of a free lock is made of registers.
    #[inline(always)]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<Guard<'_>, LockError<Recovery<'_>>> {
        match Thread::of_generation(self.compared.load(Ordering::Relaxed)) {
            Some(thread) => self.lock_as(thread, wait),
            None => self.lock_first(wait),
        }
    }
}

impl Drop for Mutex {
    fn drop(&mut self) {
        if self.held.load(Ordering::Relaxed) != 0 {
            // A guard was forgotten: its thread's list leads into the map, which stays.
            let _ = Arc::into_raw(Arc::clone(&self.map));
        }
    }
}

impl fmt::Debug for Mutex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.layout().node.word.load(Ordering::Relaxed);
        f.debug_struct("Mutex")
            .field("inherits_priority", &self.inherits)
            .field("owner", &(word & robust::TID_MASK))
            .field("waiters", &(word & robust::WAITERS != 0))
            .field("owner_died", &(word & OWNER_DIED != 0))
            .finish_non_exhaustive()
    }
}

/// Holds a mutex until dropped, by the thread that locked it.
// One word wide, so that it is moved in a register; what else it knows is in `held`.
#[must_use = "dropped, it unlocks"]
pub struct Guard<'a> {
    mutex: &'a Mutex,
    /// Not Send: the kernel knows the owner, and only the owner can unlock.
    stays: PhantomData<*const ()>,
}

impl<'a> Guard<'a> {
    /// What it holds.
    #[must_use]
    pub const fn mutex(&self) -> &'a Mutex {
        self.mutex
    }
}

impl Drop for Guard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.mutex.unlock_held(|| ());
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("mutex", self.mutex).finish_non_exhaustive()
    }
}

/// Holds a mutex whose owner died, until dropped: for repairing what it left. Else as a [`Guard`].
#[derive(Debug)]
#[must_use = "dropped without `repaired`, nobody can ever lock the mutex again"]
pub struct Recovery<'a>(Guard<'a>);

impl<'a> Recovery<'a> {
    /// Says that what the mutex guards is sound again: the mutex is as new, and still held.
    pub fn repaired(self) -> Guard<'a> {
        let mutex = self.0.mutex;
        let held = mutex.held.load(Ordering::Relaxed);
        if Thread::current().is_ok_and(|thread| held == thread.id() | DIED) {
            mutex.core().repaired();
            mutex.held.store(held & !DIED, Ordering::Relaxed);
        }
        self.0
    }
}

impl<'a> Deref for Recovery<'a> {
    type Target = Guard<'a>;

    fn deref(&self) -> &Guard<'a> {
        &self.0
    }
}

/// The world around the state machine: this host.
struct Here<'a> {
    cpu: &'a AtomicU32,
    known: &'a AtomicU32,
    start: Cell<Option<Instant>>,
}

impl Here<'_> {
    #[cold]
    fn get_to_know(&self, tid: u32) -> bool {
        let exists = robust::exists(tid);
        if exists {
            self.known.store(tid, Ordering::Relaxed);
        }
        exists
    }

    /// After the first sleep.
    #[cold]
    fn has_waited_long(&self) -> bool {
        match self.start.get() {
            Some(start) => start.elapsed() >= PATIENCE,
            None => {
                self.start.set(Some(Instant::now()));
                false
            }
        }
    }
}

impl Host for Here<'_> {
    fn exists(&self, tid: u32) -> bool {
        robust::exists(tid)
    }

    fn is_known(&self, tid: u32) -> bool {
        // Relaxed: it stands for no other memory, and every thread may look by itself.
        self.known.load(Ordering::Relaxed) == tid || self.get_to_know(tid)
    }

    fn impatient(&self, sleeps: u32) -> bool {
        // Whoever has its turn after one sleep does not read the clock.
        sleeps > 0 && self.has_waited_long()
    }

    fn spins(&self) -> u32 {
        let owners = self.cpu.load(Ordering::Relaxed);
        if owners == 0 || owners == robust::current_cpu() { 0 } else { SPINS }
    }
}

impl<D> From<Refused> for LockError<D> {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Stop(stop) => stop.into(),
            Refused::Deadlock => Self::Deadlock,
            Refused::NotRecoverable => Self::NotRecoverable,
            Refused::Corrupt => Self::Corrupt,
        }
    }
}

/// Where a mutex at `offset` is, if it can be there.
fn place(map: &Mapping, offset: usize, operation: &'static str) -> Result<NonNull<Layout>> {
    let bad = |because: String| {
        error(ErrorKind::InvalidInput, operation).object(format!("at {offset}")).because(because)
    };
    if offset.checked_add(SIZE).is_none_or(|end| end > map.len()) {
        return Err(bad(format!("it takes {SIZE} bytes, and the map has {}", map.len())));
    }
    if !map.is_shared() {
        return Err(bad("the map is private: no other process sees it".to_owned()));
    }
    if !map.is_writable() {
        return Err(error(ErrorKind::PermissionDenied, operation).because("the map is read-only"));
    }
    #[allow(clippy::cast_ptr_alignment, reason = "checked in the next line")]
    let layout = NonNull::new(map.as_mut_ptr().wrapping_add(offset).cast::<Layout>());
    layout
        .filter(|layout| layout.is_aligned())
        .ok_or_else(|| bad(format!("its address is no multiple of {ALIGN}")))
}

fn own_namespace(operation: &'static str) -> Result<u64> {
    robust::namespace().map_err(|errno| {
        Error::os(operation, errno)
            .on(Mechanism::Mutex)
            .because("the pid namespace is read from /proc/self/ns/pid")
            .fix("mount /proc")
    })
}

fn error(kind: ErrorKind, operation: &'static str) -> Error {
    Error::new(kind, operation).on(Mechanism::Mutex)
}
