//! Something in shared memory that exactly one process sets up, whoever dies meanwhile.
//!
//! ```
//! use std::sync::Arc;
//! use sinew::memfd;
//! use sinew::once::Once;
//!
//! let map = Arc::new(memfd::Options::new().create("table", 8192)?.map()?);
//! // Fresh memory is zero, which is a `Once` that nobody has begun: there is nothing to create.
//! let once = Once::open_in(&map, 0)?;
//! once.call(|again| {
//!     // `again`: somebody began before and did not finish, so anything may be there already.
//!     let _ = again;
//!     map.write_at(4096, b"ready").unwrap();
//! })?;
//! assert!(once.is_done());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! One process initialises, the others wait and see all that it wrote. By hand: [`Locks::lock`] and its
//! other forms give a [`Turn`].
//!
//! # When the initialiser dies
//! At any instruction, by `kill -9` too, one of those who wait has the turn at once, or whoever comes
//! next, and is told that somebody has begun before: by [`LockError::OwnerDied`], or by the argument of
//! `call`. A panic that leaves the initialiser, and a [`Claim`] that is dropped, count as that. The end of
//! the thread and execve(2) too; a stopped process is slow, and waited for.
//!
//! # Trust
//! For peers that mean well, in one pid namespace. A word that was overwritten is
//! [`Corrupt`](LockError::Corrupt) where that can be seen; the kernel follows a list through the
//! word's neighbours when a thread ends, which a hostile peer could lead astray.
//!
//! Source: pthread_once(3p), get_robust_list(2), futex(2).

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::place::{self, Place};
use super::robust::{self, Thread};
use crate::error::{Error, ErrorKind, LockError, Result};
use crate::mapping::Mapping;
use crate::wait::{Locks, Wait};
use core::Claimed;

mod core;

/// How many bytes of a map one takes.
pub const SIZE: usize = place::SIZE;
/// Where one may begin in a map: at a multiple of this.
pub const ALIGN: usize = place::SIZE;

/// A handle to whether something was set up, in shared memory. See the [module](self).
///
/// It keeps the mapping. Threads share it by reference; every process opens its own.
pub struct Once {
    map: Arc<Mapping>,
    at: usize,
}

impl Once {
    /// The one in the [`SIZE`] bytes from `offset` on. Zeroed memory is one that nobody has begun; who
    /// wants an old one anew zeroes it while nobody uses it.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it does not fit the map or is not aligned to
    /// [`ALIGN`], or the map is private; [`PermissionDenied`](ErrorKind::PermissionDenied) if the map is
    /// read-only; [`Unsupported`](ErrorKind::Unsupported) if the C library's robust list has another form.
    pub fn open_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        let refused = |kind, why: String| {
            Err(Error::new(kind, "open a once").object(format!("at {offset}")).because(why))
        };
        if !map.is_writable() {
            return refused(ErrorKind::PermissionDenied, "the map is read-only".to_owned());
        }
        if !map.is_shared() {
            let why = "the map is private: no other process sees it".to_owned();
            return refused(ErrorKind::InvalidInput, why);
        }
        if Place::at(map, offset).is_none() {
            let bytes = map.len();
            let why = format!("a once takes {SIZE} bytes at a multiple of {ALIGN}, of {bytes}");
            return refused(ErrorKind::InvalidInput, why);
        }
        // Whether it can be claimed at all is said here, where there is room for the reason.
        Thread::current().map_err(|e| e.error("open a once"))?;
        Ok(Self { map: Arc::clone(map), at: offset })
    }

    fn place(&self) -> Place<'_> {
        Place::at(&self.map, self.at).expect("checked when it was opened")
    }

    /// The mapping it is in.
    #[must_use]
    pub fn mapping(&self) -> &Arc<Mapping> {
        &self.map
    }

    /// Whether it is done. Who sees that sees all that the initialiser wrote.
    #[inline]
    #[must_use]
    pub fn is_done(&self) -> bool {
        // Partner: the release in `core::finish`.
        self.place().word().load(Ordering::Acquire) == core::DONE
    }

    /// Initialises by `init`, or waits until somebody has. The argument of `init` says whether somebody
    /// began before and did not finish.
    ///
    /// # Errors
    /// [`Deadlock`](LockError::Deadlock) from inside `init`; see [`LockError`].
    #[inline]
    pub fn call(&self, init: impl FnOnce(bool)) -> Result<(), LockError> {
        self.call_wait(Wait::FOREVER, init)
    }

    /// The same, waiting for others as `wait` allows. Nothing bounds `init` itself.
    ///
    /// # Errors
    /// As those of [`call`](Self::call).
    pub fn call_wait(&self, wait: Wait<'_>, init: impl FnOnce(bool)) -> Result<(), LockError> {
        let (claim, again) = match self.lock_wait(wait) {
            Ok(Turn::Done) => return Ok(()),
            Ok(Turn::Yours(claim)) => (claim, false),
            Err(LockError::OwnerDied(claim)) => (claim, true),
            Err(other) => return Err(other.of_others()),
        };
        init(again);
        claim.done();
        Ok(())
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        place::keep_if_had(&self.map, std::iter::once(self.place()));
    }
}

/// What [`Once`] gives to who locks it.
#[derive(Debug)]
pub enum Turn<'a> {
    /// It is done.
    Done,
    /// The caller is the first, and initialises.
    Yours(Claim<'a>),
}

impl Locks for Once {
    type Guard<'a>
        = Turn<'a>
    where
        Self: 'a;
    type Died<'a>
        = Claim<'a>
    where
        Self: 'a;

    /// Waits until it is done, or the caller's turn. No system call where it need not wait.
    ///
    /// # Errors
    /// [`OwnerDied`](LockError::OwnerDied), with the claim, if whoever initialised died or gave up;
    /// [`Deadlock`](LockError::Deadlock) if this thread has the claim already. See [`LockError`].
    fn lock_wait(&self, wait: Wait<'_>) -> Result<Turn<'_>, LockError<Claim<'_>>> {
        if self.is_done() {
            return Ok(Turn::Done);
        }
        wait.check_interrupt_word()?;
        let thread = Thread::current().map_err(|e| LockError::Os(e.errno()))?;
        let taken =
            |claimed: &Result<Claimed, _>| matches!(claimed, Ok(Claimed::First | Claimed::Again));
        let place = self.place();
        let claimed = place.take(thread, |word| core::claim(word, thread.tid(), wait), taken)?;
        // Numbers of threads are compared below, so what they are numbers in has to be told too.
        let namespace = robust::namespace().unwrap_or(0) as u32;
        let claim = || {
            place.own(0).store(namespace, Ordering::Relaxed);
            Claim { place, thread }
        };
        match claimed {
            Claimed::Done => Ok(Turn::Done),
            Claimed::First => Ok(Turn::Yours(claim())),
            Claimed::Again => Err(LockError::OwnerDied(claim())),
            Claimed::Deadlock if place.own(0).load(Ordering::Relaxed) != namespace => {
                Err(LockError::OtherPidNamespace)
            }
            Claimed::Deadlock => Err(LockError::Deadlock),
            Claimed::Corrupt => Err(LockError::Corrupt),
        }
    }
}

/// The right to initialise. Dropped without [`done`](Self::done) it passes to the next, who is told
/// that it was begun. It belongs to the thread that has it.
#[must_use = "dropped, it passes to the next"]
pub struct Claim<'a> {
    place: Place<'a>,
    thread: Thread,
}

impl Claim<'_> {
    /// It is done: the others go on, and see all that was written before this.
    pub fn done(self) {
        ManuallyDrop::new(self).end(core::finish);
    }

    fn end(&self, how: fn(&AtomicU32, u32)) {
        // A forked child has no part in it.
        if place::is_current(self.thread) {
            self.place.give_back(self.thread, |word| how(word, self.thread.tid()));
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.end(core::abandon);
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("done", &self.is_done()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim").field("thread", &self.thread.tid()).finish_non_exhaustive()
    }
}
