//! A structure in shared memory, under a lock, found by a name or handed over as a descriptor.
//!
//! ```
//! use sinew::LockError;
//! use sinew::shared::Options;
//! use sinew::wait::Locks;
//!
//! sinew::plain! {
//!     #[derive(Default)]
//!     struct Counters { hits: u64, misses: u64 }
//! }
//!
//! let name = format!("/sinew-example-{}", std::process::id());
//! // SAFETY: the programs that know the name use it as `Shared<Counters>`, and not in forked children.
//! let counters = unsafe { Options::new().create(&name, Counters::default()) }?;
//!
//! // Another process: Options::new().open::<Counters>(&name).
//! match counters.lock() {
//!     Ok(mut guard) => guard.hits += 1,
//!     Err(LockError::OwnerDied(mut recovery)) => {
//!         // Whoever died may have changed one and not the other.
//!         *recovery = Counters::default();
//!         recovery.repaired().hits += 1;
//!     }
//!     Err(other) => panic!("{other}"),
//! }
//! assert_eq!(counters.reader().lock().unwrap().hits, 1);
//! counters.unlink()?;
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! The guard is a `&mut T`, and that of [`reader`](Shared::reader) a `&T`. The lock is a
//! [`mutex`](crate::mutex), or with [`Options::readers`] an [`rwlock`](crate::rwlock); what they
//! say about deaths, order and pid namespaces holds.
//!
//! # Who may use it
//! A reference promises the compiler that nobody else writes, and here other processes are held
//! to that by nothing but the lock. So making or opening one is `unsafe`: the caller vouches for
//! everybody who can open the object. For peers that may be hostile there are copies
//! ([`Mapping::read_at`]) and [`memfd::Frozen`](crate::memfd::Frozen).
//!
//! # What is checked
//! The header says how the structure is laid out: size, alignment, and a hash over the names, places
//! and kinds of its fields ([`Layout`]). A program that was built with another structure, or
//! another version of this library's layout, is refused with [`Mismatch`](ErrorKind::Mismatch).
//!
//! # No half-made object
//! The name appears when value, lock and header are there: a creator that is killed at any
//! instruction leaves a whole object or none. It stays until [`Shared::unlink`] or
//! [`posix_shm::unlink`]; one without a name, until its last descriptor and map are gone.
//!
//! Source: shm_open(3), memfd_create(2), get_robust_list(2).

#![allow(unsafe_code, reason = "the value is read and written in place, in mapped memory")]

use std::ffi::OsStr;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, ErrorKind, LockError, Result};
use crate::mapping::Mapping;
use crate::memfd::{self, Memfd, Seals};
use crate::mutex::{self, Mutex};
use crate::posix_shm::{self, Segment};
use crate::rwlock::{self, RwLock};
use crate::wait::{Locks, Wait};

mod layout;

pub use layout::{Field, Layout, Plain};

/// "Shared" and the version of this header.
const MAGIC: u64 = 0x0001_6465_7261_6853;

// The header: 64 bytes, then the lock, then the value.
const MAGIC_AT: usize = 0;
const HASH_AT: usize = 8;
const SIZE_AT: usize = 16;
const ALIGN_AT: usize = 24;
/// How many read at a time; 0 for a mutex.
const READERS_AT: usize = 32;
const LOCK_AT: usize = 64;
/// Where the value may begin at the earliest boundary: maps begin at one of 4096.
const LINE: usize = 64;

/// How a shared structure is made or found.
#[derive(Clone, Copy, Debug)]
#[must_use = "it makes nothing until `create` or `open`"]
pub struct Options {
    mode: u32,
    readers: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600, and a mutex.
    pub const fn new() -> Self {
        Self { mode: 0o600, readers: 0 }
    }

    /// The permission bits of a new object. The umask has no say.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Guards a new object by an rwlock for so many readers at a time: 1 to [`rwlock::MOST`].
    pub const fn readers(mut self, readers: u32) -> Self {
        self.readers = readers;
        self
    }

    /// Makes a new object under a name that must be free, with this value.
    ///
    /// # Errors
    /// As [`posix_shm::Options::create`]; [`InvalidInput`](ErrorKind::InvalidInput) for too many
    /// readers, or an alignment of more than a page.
    ///
    /// # Safety
    /// As long as the object is in use, every process that can open it uses it only as a [`Shared`] of this
    /// library, locked, and no forked child uses a guard of its parent.
    pub unsafe fn create<T: Plain>(&self, name: impl AsRef<OsStr>, value: T) -> Result<Shared<T>> {
        let bytes = self.bytes::<T>()?;
        let options = posix_shm::Options::new().mode(self.mode);
        let draft = options.draft(name.as_ref(), bytes)?;
        // Half-made: the name is there before what it names.
        if cfg!(sabotage = "shared-half-made") {
            let segment = draft.publish()?;
            let parts = self.fill(segment.map()?, value)?;
            return Ok(parts.with(Object::Segment(segment)));
        }
        let parts = self.fill(draft.map()?, value)?;
        Ok(parts.with(Object::Segment(draft.publish()?)))
    }

    /// Opens the object that has this name.
    ///
    /// # Errors
    /// As [`posix_shm::Options::open`]; [`Mismatch`](ErrorKind::Mismatch) if it is none of these, or
    /// holds another structure.
    ///
    /// # Safety
    /// As [`create`](Self::create).
    pub unsafe fn open<T: Plain>(&self, name: impl AsRef<OsStr>) -> Result<Shared<T>> {
        let segment = posix_shm::Options::new().open(name.as_ref())?;
        let parts = check(segment.map()?).map_err(|e| e.object(format!("{:?}", name.as_ref())))?;
        Ok(parts.with(Object::Segment(segment)))
    }

    /// Opens the object that has this name, or makes it with what `value` gives.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open).
    ///
    /// # Safety
    /// As [`create`](Self::create).
    pub unsafe fn open_or_create<T: Plain>(
        &self,
        name: impl AsRef<OsStr>,
        mut value: impl FnMut() -> T,
    ) -> Result<Shared<T>> {
        let name = name.as_ref();
        loop {
            // SAFETY: the caller's.
            match unsafe { self.open(name) } {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                done => return done,
            }
            // SAFETY: the caller's.
            match unsafe { self.create(name, value()) } {
                // Somebody else was faster, so it can be opened now.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
    }

    /// Makes a new object without a name, to be handed over as a descriptor ([`AsFd`]). `label` shows in
    /// /proc and identifies nothing.
    ///
    /// # Errors
    /// As [`memfd::Options::create`], and [`create`](Self::create).
    ///
    /// # Safety
    /// As [`create`](Self::create), of every process that is given the descriptor.
    pub unsafe fn create_memfd<T: Plain>(&self, label: &str, value: T) -> Result<Shared<T>> {
        let memfd = memfd::Options::new().create(label, self.bytes::<T>()?)?;
        let parts = self.fill(memfd.map()?, value)?;
        Ok(parts.with(Object::Memfd(memfd)))
    }

    /// Opens an object whose descriptor was handed over.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if it is none of these, can be shortened, or holds another structure.
    ///
    /// # Safety
    /// As [`create_memfd`](Self::create_memfd).
    pub unsafe fn open_memfd<T: Plain>(&self, memfd: Memfd) -> Result<Shared<T>> {
        memfd.require(Seals::SHRINK)?;
        Ok(check(memfd.map()?)?.with(Object::Memfd(memfd)))
    }

    /// How much memory an object takes.
    fn bytes<T: Plain>(&self) -> Result<u64> {
        if self.readers > rwlock::MOST {
            return Err(Error::new(ErrorKind::InvalidInput, "create").because(format!(
                "{} readers at a time, of at most {}",
                self.readers,
                rwlock::MOST
            )));
        }
        if align_of::<T>() > 4096 {
            return Err(Error::new(ErrorKind::InvalidInput, "create")
                .because("it is aligned to more than a page"));
        }
        Ok((value_at::<T>(self.readers) + size_of::<T>().max(1)) as u64)
    }

    /// Writes a whole object into memory that nobody else has.
    fn fill<T: Plain>(&self, map: Mapping, value: T) -> Result<Parts<T>> {
        let map = Arc::new(map);
        let lock = if self.readers == 0 {
            Lock::Mutex(Mutex::create_in(&map, LOCK_AT)?)
        } else {
            Lock::RwLock(RwLock::create_in(&map, LOCK_AT, self.readers)?)
        };
        let place = value_in::<T>(&map, self.readers).ok_or_else(|| wrong("it is too short"))?;
        // SAFETY: inside the map and aligned, checked by `value_in`; nobody else has the object yet.
        unsafe { place.write(value) };
        let header = [
            (HASH_AT, T::LAYOUT.hash()),
            (SIZE_AT, T::LAYOUT.size() as u64),
            (ALIGN_AT, T::LAYOUT.align() as u64),
            (READERS_AT, u64::from(self.readers)),
        ];
        for (at, field) in header {
            store(&map, at, field);
        }
        store(&map, MAGIC_AT, MAGIC);
        Ok(Parts { lock, value: place })
    }
}

fn store(map: &Mapping, at: usize, value: u64) {
    // The header is inside: the value, which lies behind it, is.
    if let Some(word) = map.atomic_u64_at(at) {
        word.store(value, Ordering::Release);
    }
}

/// Where the value lies.
const fn value_at<T>(readers: u32) -> usize {
    let lock = if readers == 0 { mutex::SIZE } else { rwlock::size(readers) };
    let boundary = if align_of::<T>() > LINE { align_of::<T>() } else { LINE };
    (LOCK_AT + lock).next_multiple_of(boundary)
}

fn value_in<T>(map: &Mapping, readers: u32) -> Option<NonNull<T>> {
    let at = value_at::<T>(readers);
    let fits = at.checked_add(size_of::<T>()).is_some_and(|end| end <= map.len());
    // `wrapping`: inside the map, where it fits.
    let place = NonNull::new(map.as_mut_ptr().wrapping_add(at).cast::<T>())?;
    (fits && place.is_aligned()).then_some(place)
}

/// Opens what is in a map, if it is what it should be.
fn check<T: Plain>(map: Mapping) -> Result<Parts<T>> {
    let field = |at| map.load_u64_at(at).unwrap_or(0);
    let magic = field(MAGIC_AT);
    if magic != MAGIC {
        return Err(wrong(if magic << 16 == MAGIC << 16 {
            "its header is of another version of this library"
        } else {
            "it holds no shared structure"
        }));
    }
    let theirs = [field(SIZE_AT), field(ALIGN_AT), field(HASH_AT)];
    let ours = [T::LAYOUT.size() as u64, T::LAYOUT.align() as u64, T::LAYOUT.hash()];
    if theirs != ours {
        return Err(wrong("it holds another structure").because(format!(
            "it holds another structure: {} bytes aligned to {} with layout {:#x}, not {} bytes \
             aligned to {} with layout {:#x}",
            theirs[0], theirs[1], theirs[2], ours[0], ours[1], ours[2]
        )));
    }
    let readers = u32::try_from(field(READERS_AT)).unwrap_or(u32::MAX);
    if readers > rwlock::MOST {
        return Err(wrong("its header is damaged"));
    }
    let value = value_in(&map, readers).ok_or_else(|| wrong("it is too short"))?;
    let map = Arc::new(map);
    let lock = if readers == 0 {
        Lock::Mutex(Mutex::open_in(&map, LOCK_AT)?)
    } else {
        Lock::RwLock(RwLock::open_in(&map, LOCK_AT)?)
    };
    Ok(Parts { lock, value })
}

#[cold]
fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, "open a shared structure").because(why)
}

/// What an object consists of, in the map that the lock keeps.
struct Parts<T> {
    lock: Lock,
    value: NonNull<T>,
}

impl<T: Plain> Parts<T> {
    fn with(self, object: Object) -> Shared<T> {
        Shared { lock: self.lock, value: self.value, object, _owned: PhantomData }
    }
}

#[derive(Debug)]
enum Lock {
    Mutex(Mutex),
    RwLock(RwLock),
}

#[derive(Debug)]
enum Object {
    Segment(Segment),
    Memfd(Memfd),
}

/// A structure in shared memory, and the lock over it. See the [module](self).
pub struct Shared<T: Plain> {
    /// It keeps the map, in which the value lies.
    lock: Lock,
    value: NonNull<T>,
    object: Object,
    _owned: PhantomData<T>,
}

// SAFETY: the value is reached only under the lock, from whatever thread; `T` is Send and Sync.
unsafe impl<T: Plain> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Plain> Sync for Shared<T> {}

impl<T: Plain> Shared<T> {
    /// To read: with others, where the object was made with [`Options::readers`]; else alone.
    #[must_use]
    pub const fn reader(&self) -> Reader<'_, T> {
        Reader { shared: self }
    }

    /// Removes its name. It lives on for those who have it open.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the name is gone, or another object's, or it had none.
    pub fn unlink(&self) -> Result<()> {
        match &self.object {
            Object::Segment(segment) => segment.unlink(),
            Object::Memfd(_) => {
                Err(Error::new(ErrorKind::NotFound, "unlink").because("a memfd has no name"))
            }
        }
    }

    /// How many can read at a time; 0 where a mutex guards it.
    #[must_use]
    pub fn readers(&self) -> u32 {
        match &self.lock {
            Lock::Mutex(_) => 0,
            Lock::RwLock(lock) => lock.places(),
        }
    }

    fn value(&self) -> &T {
        // SAFETY: inside the map and aligned, checked by `value_in`; the lock keeps the map. The caller is
        // a guard: this process has the lock, so nobody else writes, for which whoever made or opened
        // the object has vouched. Every combination of bytes is a value, by `Plain`.
        unsafe { self.value.as_ref() }
    }

    #[expect(clippy::mut_from_ref, reason = "whoever calls this has the lock")]
    fn value_mut(&self) -> &mut T {
        let mut value = self.value;
        // SAFETY: as in `value`, and the guard has the lock alone.
        unsafe { value.as_mut() }
    }
}

impl<T: Plain> Locks for Shared<T> {
    type Guard<'a> = Guard<'a, T>;
    type Died<'a> = Recovery<'a, T>;

    fn lock_wait(&self, wait: Wait<'_>) -> Result<Guard<'_, T>, LockError<Recovery<'_, T>>> {
        match &self.lock {
            Lock::Mutex(lock) => match lock.lock_wait(wait) {
                Ok(guard) => Ok(Guard { shared: self, held: Held::Mutex(guard) }),
                Err(e) => {
                    Err(e.map_died(|died| Recovery { shared: self, died: Died::Mutex(died) }))
                }
            },
            Lock::RwLock(lock) => match lock.writer().lock_wait(wait) {
                Ok(guard) => Ok(Guard { shared: self, held: Held::Write(guard) }),
                Err(e) => {
                    Err(e.map_died(|died| Recovery { shared: self, died: Died::Write(died) }))
                }
            },
        }
    }
}

/// To read a [`Shared`]: see [`Locks`].
#[derive(Debug)]
pub struct Reader<'a, T: Plain> {
    shared: &'a Shared<T>,
}

impl<'a, T: Plain> Locks for Reader<'a, T> {
    type Guard<'b>
        = ReadGuard<'a, T>
    where
        Self: 'b;
    type Died<'b>
        = ReadRecovery<'a, T>
    where
        Self: 'b;

    fn lock_wait(
        &self,
        wait: Wait<'_>,
    ) -> Result<ReadGuard<'a, T>, LockError<ReadRecovery<'a, T>>> {
        let shared = self.shared;
        let recovery = |died| ReadRecovery { shared, died };
        match &shared.lock {
            Lock::Mutex(lock) => match lock.lock_wait(wait) {
                Ok(guard) => Ok(ReadGuard { shared, _held: Held::Mutex(guard) }),
                Err(e) => Err(e.map_died(|died| recovery(Died::Mutex(died)))),
            },
            Lock::RwLock(lock) => match lock.reader().lock_wait(wait) {
                Ok(guard) => Ok(ReadGuard { shared, _held: Held::Read(guard) }),
                Err(e) => Err(e.map_died(|died| recovery(Died::Read(died)))),
            },
        }
    }
}

/// The guard of the lock underneath.
#[derive(Debug)]
enum Held<'a> {
    Mutex(#[expect(dead_code, reason = "held")] mutex::Guard<'a>),
    Write(#[expect(dead_code, reason = "held")] rwlock::WriteGuard<'a>),
    Read(#[expect(dead_code, reason = "held")] rwlock::ReadGuard<'a>),
}

/// The recovery of the lock underneath.
#[derive(Debug)]
enum Died<'a> {
    Mutex(mutex::Recovery<'a>),
    Write(rwlock::WriteRecovery<'a>),
    Read(rwlock::ReadRecovery<'a>),
}

impl<'a> Died<'a> {
    fn repaired(self) -> Held<'a> {
        match self {
            Self::Mutex(died) => Held::Mutex(died.repaired()),
            Self::Write(died) => Held::Write(died.repaired()),
            Self::Read(died) => Held::Read(died.repaired()),
        }
    }
}

/// The value, for the thread that locked it alone, until dropped.
#[must_use = "dropped, it unlocks"]
pub struct Guard<'a, T: Plain> {
    shared: &'a Shared<T>,
    #[expect(dead_code, reason = "held")]
    held: Held<'a>,
}

/// The value, to read, until dropped.
#[must_use = "dropped, it unlocks"]
pub struct ReadGuard<'a, T: Plain> {
    shared: &'a Shared<T>,
    _held: Held<'a>,
}

/// The value as somebody left it who died while it was locked, for this thread alone: to be made sound.
/// Dropped without [`repaired`](Self::repaired) nobody can ever lock it again.
#[must_use = "dropped without `repaired`, nobody can ever lock it again"]
pub struct Recovery<'a, T: Plain> {
    shared: &'a Shared<T>,
    died: Died<'a>,
}

/// As a [`Recovery`], for who wanted to read.
#[must_use = "dropped without `repaired`, nobody can ever lock it again"]
pub struct ReadRecovery<'a, T: Plain> {
    shared: &'a Shared<T>,
    died: Died<'a>,
}

impl<'a, T: Plain> Recovery<'a, T> {
    /// Says that the value is sound again.
    pub fn repaired(self) -> Guard<'a, T> {
        Guard { shared: self.shared, held: self.died.repaired() }
    }
}

impl<'a, T: Plain> ReadRecovery<'a, T> {
    /// Says that the value is sound again.
    pub fn repaired(self) -> ReadGuard<'a, T> {
        ReadGuard { shared: self.shared, _held: self.died.repaired() }
    }
}

macro_rules! reads {
    ($($guard:ident),*) => {
        $(
            impl<T: Plain> Deref for $guard<'_, T> {
                type Target = T;

                fn deref(&self) -> &T {
                    self.shared.value()
                }
            }

            impl<T: Plain> fmt::Debug for $guard<'_, T> {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.debug_struct(stringify!($guard))
                        .field("layout", &T::LAYOUT)
                        .finish_non_exhaustive()
                }
            }
        )*
    };
}

macro_rules! writes {
    ($($guard:ident),*) => {
        $(
            impl<T: Plain> DerefMut for $guard<'_, T> {
                fn deref_mut(&mut self) -> &mut T {
                    self.shared.value_mut()
                }
            }
        )*
    };
}

reads!(Guard, ReadGuard, Recovery, ReadRecovery);
writes!(Guard, Recovery, ReadRecovery);

impl<T: Plain> AsFd for Shared<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.object {
            Object::Segment(segment) => segment.as_fd(),
            Object::Memfd(memfd) => memfd.as_fd(),
        }
    }
}

impl<T: Plain> From<Shared<T>> for OwnedFd {
    fn from(shared: Shared<T>) -> Self {
        match shared.object {
            Object::Segment(segment) => segment.into(),
            Object::Memfd(memfd) => memfd.into(),
        }
    }
}

impl<T: Plain> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("layout", &T::LAYOUT)
            .field("object", &self.object)
            .field("lock", &self.lock)
            .finish_non_exhaustive()
    }
}
