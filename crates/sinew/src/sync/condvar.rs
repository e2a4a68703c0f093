//! Waiting in shared memory until what a mutex guards is as wanted, and notifying who waits.
//!
//! ```
//! use std::sync::Arc;
//! use std::sync::atomic::Ordering;
//! use sinew::anonymous;
//! use sinew::condvar::{self, Condvar};
//! use sinew::mutex::Mutex;
//! use sinew::wait::Locks;
//!
//! let map = Arc::new(anonymous::create(4096)?);
//! let mutex = Mutex::create_in(&map, 0)?;
//! let filled = Condvar::create_in(&map, 64)?;
//! let count = map.atomic_u32_at(128).unwrap();
//!
//! std::thread::scope(|s| {
//!     s.spawn(|| {
//!         let guard = mutex.lock().unwrap();
//!         count.store(1, Ordering::Relaxed);
//!         drop(guard);
//!         filled.notify_one();
//!     });
//!     let mut guard = mutex.lock().unwrap();
//!     // Look again after each wait: it ends for other reasons too.
//!     while count.load(Ordering::Relaxed) == 0 {
//!         guard = filled.wait(guard).unwrap();
//!     }
//! });
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! [`wait`](Condvar::wait) gives the lock back and sleeps, in one step as far as notifiers that change the
//! condition under the lock can tell: none of their notifications is lost. Before it returns it has
//! the lock again. [`wait_timeout`](Condvar::wait_timeout), [`wait_until`](Condvar::wait_until) and
//! [`wait_for`](Condvar::wait_for), which an interrupt can end, also say how the wait ended.
//!
//! # When a process dies
//! The variable is one number and knows nobody, so a waiter that is killed leaves nothing that disturbs the
//! others. What it takes along is the notification that it had been woken by and did nothing about: where
//! waiters may die, notify all of them, or let each pass on what it found. A notifier that dies after it changed
//! the condition, before or during its notification, has woken nobody: where notifiers may die, wait with a
//! time limit. The number itself says nothing about the condition, so it is sound whenever that happens. An
//! owner of the mutex that dies is told to a waiter as to anybody else who locks it:
//! [`OwnerDied`](LockError::OwnerDied).
//!
//! # Costs
//! A notification is one system call, whether anybody waits or not: nobody is counted. A wait ends without
//! reason when 2^32 notifications come between giving the lock back and sleeping.
//!
//! # Trust
//! Whoever can write to the number, or has it mapped at all, can wake those who wait or keep them asleep. A
//! deadline holds whatever is done to it.
//!
//! Source: pthread_cond_wait(3p), futex(2).

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::word::ALL;
use crate::error::{Error, ErrorKind, LockError, Result, WaitError};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::mutex::{Guard, Recovery};
use crate::wait::{Locks, Wait};

mod core;

use self::core::Core;

/// How many bytes of a mapping a condition variable takes: the number, "SwC" with the version, and
/// the rest of the cache line.
pub const SIZE: usize = 64;
/// Of what its offset has to be a multiple.
pub const ALIGN: usize = 64;

/// Where "SwC" and the version are, after the number.
const MAGIC_AT: usize = 4;
const MAGIC: u32 = 0x5377_4301;

/// How long after its deadline a wait still waits for the lock.
const GRACE: Duration = Duration::from_secs(1);

/// A handle to a condition variable in shared memory. See the [module](self).
#[derive(Debug)]
pub struct Condvar {
    map: Arc<Mapping>,
    offset: usize,
}

impl Condvar {
    /// Makes a new one at `offset` of a mapping, whatever is there.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is not all inside the map or not aligned, or the map is
    /// private; [`PermissionDenied`](ErrorKind::PermissionDenied) if the map is read-only.
    pub fn create_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        let (sequence, magic) = place(map, offset, "create")?;
        magic.store(0, Ordering::Relaxed);
        sequence.store(0, Ordering::Relaxed);
        // Whoever sees the magic number sees the rest.
        magic.store(MAGIC, Ordering::Release);
        Ok(Self { map: Arc::clone(map), offset })
    }

    /// Opens the one that was made at `offset` of the object.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if there is none, or one of another version; else as
    /// [`create_in`](Self::create_in).
    pub fn open_in(map: &Arc<Mapping>, offset: usize) -> Result<Self> {
        let (_, magic) = place(map, offset, "open")?;
        let found = magic.load(Ordering::Acquire);
        if found == MAGIC {
            return Ok(Self { map: Arc::clone(map), offset });
        }
        let error = Error::new(ErrorKind::Mismatch, "open").on(Mechanism::Condvar);
        Err(if found >> 8 == MAGIC >> 8 {
            error.because("the condition variable there is of another version of this library")
        } else {
            error.because(format!("there is no condition variable at {offset}"))
        })
    }

    /// Wakes one of those who wait. Gives how many slept: one, or none. Never blocks.
    pub fn notify_one(&self) -> usize {
        self.notify(1)
    }

    /// Wakes all who wait. Gives how many slept. Never blocks.
    pub fn notify_all(&self) -> usize {
        self.notify(ALL)
    }

    fn notify(&self, count: u32) -> usize {
        self.sequence().map_or(0, |sequence| Core { sequence }.notify(count))
    }

    /// Gives the lock back, waits for a notification, and locks again, as long as that takes.
    ///
    /// # Errors
    /// What locking gives: see [`Mutex`](crate::mutex::Mutex).
    pub fn wait<'g>(&self, guard: Guard<'g>) -> Result<Guard<'g>, LockError<Recovery<'g>>> {
        self.wait_for(guard, Wait::FOREVER).map(|(guard, _)| guard)
    }

    /// The same, waiting at most `timeout` for a notification. See [`wait_for`](Self::wait_for).
    ///
    /// # Errors
    /// See [`wait_for`](Self::wait_for).
    pub fn wait_timeout<'g>(&self, guard: Guard<'g>, timeout: Duration) -> Waited<'g> {
        self.wait_for(guard, Wait::timeout(timeout))
    }

    /// The same, waiting at most until `deadline` for a notification. See [`wait_for`](Self::wait_for).
    ///
    /// # Errors
    /// See [`wait_for`](Self::wait_for).
    pub fn wait_until<'g>(&self, guard: Guard<'g>, deadline: Instant) -> Waited<'g> {
        self.wait_for(guard, Wait::until(deadline))
    }

    /// Gives the lock back, waits for a notification as `wait` allows, and locks again. Beside the guard it
    /// says whether a notification came: else why not.
    ///
    /// # Errors
    /// What locking gives: see [`Mutex`](crate::mutex::Mutex). The lock is waited for even where the time is up or the
    /// interrupt came, but only for a second longer: then it is [`TimedOut`](LockError::TimedOut), and
    /// not held.
    pub fn wait_for<'g>(&self, guard: Guard<'g>, wait: Wait<'_>) -> Waited<'g> {
        let mutex = guard.mutex();
        let Some(sequence) = self.sequence() else {
            return Ok((guard, Err(WaitError::Os(Errno::INVAL.raw_os_error()))));
        };
        let core = Core { sequence };
        let ticket = core.ticket();
        drop(guard);
        let ended = core.wait_past(ticket, wait);
        let again = match (ended, wait.left()) {
            (Ok(()), Ok(None)) => Wait::FOREVER,
            (_, Ok(Some(left))) => Wait::timeout(left + GRACE),
            _ => Wait::timeout(GRACE),
        };
        let guard = mutex.lock_wait(again)?;
        Ok((guard, ended.map_err(WaitError::from)))
    }

    fn sequence(&self) -> Option<&AtomicU32> {
        self.map.atomic_u32_at(self.offset)
    }
}

/// The lock, and whether a notification came; or why the lock was not had again.
pub type Waited<'g> = Result<(Guard<'g>, Result<(), WaitError>), LockError<Recovery<'g>>>;

/// The words of one at `offset`, if it can be there.
fn place<'m>(
    map: &'m Mapping,
    offset: usize,
    operation: &'static str,
) -> Result<(&'m AtomicU32, &'m AtomicU32)> {
    let error =
        |kind| Error::new(kind, operation).on(Mechanism::Condvar).object(format!("at {offset}"));
    let invalid = |because: String| Err(error(ErrorKind::InvalidInput).because(because));
    if offset.checked_add(SIZE).is_none_or(|end| end > map.len()) {
        return invalid(format!("it takes {SIZE} bytes, and the map has {}", map.len()));
    }
    if !map.is_shared() {
        return invalid("the map is private: no other process sees it".to_owned());
    }
    if !map.is_writable() {
        return Err(error(ErrorKind::PermissionDenied).because("the map is read-only"));
    }
    if !map.as_ptr().wrapping_add(offset).addr().is_multiple_of(ALIGN) {
        return invalid(format!("its address is no multiple of {ALIGN}"));
    }
    match (map.atomic_u32_at(offset), map.atomic_u32_at(offset + MAGIC_AT)) {
        (Some(sequence), Some(magic)) => Ok((sequence, magic)),
        _ => invalid("it is not inside the map".to_owned()),
    }
}
