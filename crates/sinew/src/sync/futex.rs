//! Sleeping until a 32-bit word in memory changes, and waking who sleeps: what locks are made of.
//!
//! A [`Futex`] is a word that the kernel knows by the memory it is in, so that processes which have
//! the same memory mapped meet there. What [`Mapping::atomic_u32_at`](crate::mapping::Mapping::atomic_u32_at)
//! gives is one.
//!
//! ```
//! use std::sync::atomic::Ordering;
//! use sinew::anonymous;
//! use sinew::futex::Futex;
//! use sinew::wait::Waits;
//!
//! let map = anonymous::create(4096)?;
//! let word = map.atomic_u32_at(0).unwrap();
//! std::thread::scope(|s| {
//!     s.spawn(|| {
//!         word.store(1, Ordering::Release);
//!         Futex::new(word).wake(1)
//!     });
//!     // Between the look at the word and the sleep nothing can slip: the kernel compares again.
//!     while word.load(Ordering::Acquire) == 0 {
//!         Futex::new(word).while_is(0).wait().unwrap();
//!     }
//! });
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Verbs
//! | to | call |
//! |---|---|
//! | sleep while the word is 7 | `futex.while_is(7).wait()` |
//! | sleep until woken for one of these reasons | `futex.while_is(7).bits(mask).wait()` |
//! | sleep on many words | [`any`]`(&[a.while_is(7), b.while_is(0)]).wait()` |
//! | wake | [`wake`](Futex::wake), [`wake_all`](Futex::wake_all), [`wake_bits`](Futex::wake_bits) |
//! | move sleepers to another word | [`requeue`](Futex::requeue), [`requeue_if`](Futex::requeue_if) |
//! | lock with priority inheritance | `futex.pi().lock()` |
//!
//! A sleep is ended by a wake-up, and does not begin where the word has another value; which of the
//! two, [`Ended`] says. A wake-up can also come for no reason that still holds: look at the word and
//! decide again.
//!
//! # Shared and private
//! A futex is shared between processes unless [`private`](Futex::private) says otherwise. Who sleeps and who
//! wakes have to agree: a private wake-up never reaches a shared sleeper.
//!
//! # Crashes and trust
//! Nobody is woken when a process dies; [`mutex`](crate::mutex) is for that. Whoever has the
//! memory mapped, even only for reading, can wake sleepers and move them to other words, and they wait for
//! ever. Do not share a futex with a process that is not trusted.
//!
//! Source: futex(2), futex(7), "Futexes Are Tricky" (Drepper 2011), the kernel's documentation of
//! `futex_waitv` and of priority inheritance.

use std::fmt;
use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::thread::futex;

use crate::error::{Error, LockError, Result, Stop, WaitError};
use crate::mechanism::Mechanism;
use crate::wait::word::{self, Entry, Slept};
use crate::wait::{Locks, Wait, Waits};

/// The most words that [`any`] sleeps on.
pub const MOST: usize = word::MOST - 1;

/// The bits of a PI futex that name the thread which has it (FUTEX_TID_MASK).
pub const TID_MASK: u32 = 0x3fff_ffff;
/// The bit of a PI or robust futex that says that somebody sleeps (FUTEX_WAITERS).
pub const WAITERS: u32 = futex::WAITERS;
/// The bit of a PI or robust futex that says that the thread which had it died (FUTEX_OWNER_DIED).
pub const OWNER_DIED: u32 = futex::OWNER_DIED;

/// A word to sleep on. See the [module](self).
#[derive(Clone, Copy, Debug)]
pub struct Futex<'a> {
    word: &'a AtomicU32,
    private: bool,
}

impl<'a> Futex<'a> {
    /// The futex at `word`, shared by all processes that have the memory.
    #[must_use]
    pub const fn new(word: &'a AtomicU32) -> Self {
        Self { word, private: false }
    }

    /// The same for threads of this process only, which costs the kernel less. Others are neither
    /// woken nor can they wake.
    #[must_use]
    pub const fn private(self) -> Self {
        Self { private: true, ..self }
    }

    /// The word itself.
    #[must_use]
    pub const fn word(&self) -> &'a AtomicU32 {
        self.word
    }

    /// Sleeps while the word is `expected`, by the verb `wait`.
    pub const fn while_is(self, expected: u32) -> WhileIs<'a> {
        WhileIs { futex: self, expected, bits: None }
    }

    /// The futex as a lock whose owner inherits the priority of who waits for it.
    pub const fn pi(self) -> Pi<'a> {
        Pi(self)
    }

    /// Wakes at most `count` of those who sleep here, those first who have slept longest and
    /// have the highest real-time priority. Gives how many it were. Never blocks.
    ///
    /// # Errors
    /// When the memory is not there any more (EFAULT), or the word is in use with priority
    /// inheritance (EINVAL).
    pub fn wake(&self, count: u32) -> Result<usize> {
        if count == 0 {
            // The kernel would wake one.
            return Ok(0);
        }
        futex::wake(self.word, self.flags(), at_most(count)).map_err(|e| failed("wake", e))
    }

    /// Wakes all who sleep here. Gives how many it were.
    ///
    /// # Errors
    /// As [`wake`](Self::wake).
    pub fn wake_all(&self) -> Result<usize> {
        self.wake(u32::MAX)
    }

    /// Wakes at most `count` of those whose [`bits`](WhileIs::bits) have one in common with these, or
    /// who sleep without. Gives how many it were.
    ///
    /// # Errors
    /// As [`wake`](Self::wake).
    pub fn wake_bits(&self, count: u32, bits: NonZeroU32) -> Result<usize> {
        if count == 0 {
            return Ok(0);
        }
        futex::wake_bitset(self.word, self.flags(), at_most(count), bits)
            .map_err(|e| failed("wake by bits", e))
    }

    /// Wakes at most `wake` of those who sleep here, and lets at most `move_on` others sleep at `to`
    /// instead, without running. Gives how many were woken or moved.
    ///
    /// # Errors
    /// As [`wake`](Self::wake).
    pub fn requeue(&self, to: Futex<'_>, wake: u32, move_on: u32) -> Result<usize> {
        futex::requeue(self.word, self.flags(), at_most(wake), at_most(move_on), to.word)
            .map_err(|e| failed("requeue", e))
    }

    /// The same if the word is `expected`. Gives how many were woken or moved; `None` if it is not.
    ///
    /// # Errors
    /// As [`wake`](Self::wake).
    pub fn requeue_if(
        &self,
        expected: u32,
        to: Futex<'_>,
        wake: u32,
        move_on: u32,
    ) -> Result<Option<usize>> {
        let flags = self.flags();
        let (wake, move_on) = (at_most(wake), at_most(move_on));
        match futex::cmp_requeue(self.word, flags, wake, move_on, to.word, expected) {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(failed("requeue", errno)),
        }
    }

    fn flags(&self) -> futex::Flags {
        word::flags(self.private)
    }
}

/// The kernel counts with a sign.
fn at_most(count: u32) -> u32 {
    count.min(i32::MAX.unsigned_abs())
}

#[cold]
fn failed(operation: &'static str, errno: Errno) -> Error {
    Error::os(operation, errno).on(Mechanism::Futex)
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Somebody woke it.
    Woken,
    /// The word has another value: it never slept.
    Differs,
}

/// Sleeps while a word has one value. Made by [`Futex::while_is`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it sleeps by the verb `wait`"]
pub struct WhileIs<'a> {
    futex: Futex<'a>,
    expected: u32,
    bits: Option<NonZeroU32>,
}

impl WhileIs<'_> {
    /// Is woken only by who gives one of these bits, or none. [`any`] has no bits and refuses it.
    pub const fn bits(self, bits: NonZeroU32) -> Self {
        Self { bits: Some(bits), ..self }
    }

    fn entry(&self) -> Entry<'_> {
        Entry { word: self.futex.word, expected: self.expected, private: self.futex.private }
    }
}

impl Waits for WhileIs<'_> {
    type Waited = Ended;

    /// An interrupt of a sleep with bits is seen within a millisecond; any other at once.
    fn wait_for(&self, wait: Wait<'_>) -> Result<Ended, WaitError> {
        loop {
            if self.futex.word.load(Ordering::Acquire) != self.expected {
                return Ok(Ended::Differs);
            }
            let slept = match self.bits {
                Some(bits) => word::sleep_for_bits(self.entry(), bits, wait)?,
                None => word::sleep_on_any(&[self.entry()], wait)?,
            };
            match slept {
                Slept::Woken(_) => return Ok(Ended::Woken),
                Slept::Differs => return Ok(Ended::Differs),
                Slept::Look => {}
            }
        }
    }
}

/// Sleeps while every one of several words has its value, by the verb `wait`, which gives the number of one
/// that was woken or differs. At most [`MOST`]; the kernel's EINVAL for none or more.
///
/// Before Linux 5.16 the words are looked at every millisecond, and a wake-up that does not change
/// its word is noticed only at the first of them.
pub const fn any<'a>(words: &'a [WhileIs<'a>]) -> Any<'a> {
    Any(words)
}

/// Sleeps on several words. Made by [`any`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it sleeps by the verb `wait`"]
pub struct Any<'a>(&'a [WhileIs<'a>]);

impl Waits for Any<'_> {
    type Waited = usize;

    fn wait_for(&self, wait: Wait<'_>) -> Result<usize, WaitError> {
        let words = self.0;
        if words.is_empty() || words.len() > MOST || words.iter().any(|w| w.bits.is_some()) {
            return Err(WaitError::Os(Errno::INVAL.raw_os_error()));
        }
        let mut entries = [words[0].entry(); MOST];
        for (entry, word) in entries.iter_mut().zip(words) {
            *entry = word.entry();
        }
        let entries = &entries[..words.len()];
        loop {
            let differs = |e: &Entry<'_>| e.word.load(Ordering::Acquire) != e.expected;
            if let Some(number) = entries.iter().position(differs) {
                return Ok(number);
            }
            if let Slept::Woken(number) = word::sleep_on_any(entries, wait)? {
                return Ok(number);
            }
        }
    }
}

/// A futex as a lock with priority inheritance. Made by [`Futex::pi`].
///
/// The word is 0 while nobody has it, else the number of the thread that has, with [`WAITERS`] and
/// [`OWNER_DIED`]; nothing else may write to it. It is not robust: when its owner dies while nobody
/// waits, it stays locked, which is answered with [`Corrupt`](LockError::Corrupt).
/// [`mutex`](crate::mutex) is robust and has this as an option.
#[derive(Clone, Copy, Debug)]
#[must_use = "it is locked by the verb `lock`"]
pub struct Pi<'a>(Futex<'a>);

impl Locks for Pi<'_> {
    type Guard<'a>
        = PiGuard<'a>
    where
        Self: 'a;
    type Died<'a>
        = PiGuard<'a>
    where
        Self: 'a;

    fn lock_wait(&self, wait: Wait<'_>) -> Result<PiGuard<'_>, LockError<PiGuard<'_>>> {
        let Futex { word, private } = self.0;
        let tid = own_tid();
        wait.check_interrupt_word()?;
        let free = word.compare_exchange(0, tid, Ordering::Acquire, Ordering::Relaxed);
        if free.is_err() {
            take_by_kernel(word, private, wait)?;
        }
        let guard = PiGuard { futex: self.0, tid, stays: PhantomData };
        if word.load(Ordering::Relaxed) & OWNER_DIED != 0 {
            word.fetch_and(!OWNER_DIED, Ordering::Relaxed);
            return Err(LockError::OwnerDied(guard));
        }
        Ok(guard)
    }
}

/// The number by which the kernel knows this thread.
fn own_tid() -> u32 {
    rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs()
}

/// Has the kernel lock the word, which is not free.
pub(crate) fn take_by_kernel<D>(
    word: &AtomicU32,
    private: bool,
    wait: Wait<'_>,
) -> Result<(), LockError<D>> {
    if wait.is_never() {
        return match futex::trylock_pi(word, word::flags(private)) {
            Ok(_) => Ok(()),
            Err(errno) => Err(refused(Stop::Os(errno.raw_os_error()))),
        };
    }
    loop {
        match word::lock_pi(word, private, wait) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(stop) => return Err(refused(stop)),
        }
    }
}

/// Has the kernel release the word of this thread to who waits.
pub(crate) fn release_by_kernel(word: &AtomicU32, private: bool) {
    // Refused only where others wrote to the word.
    let _ = futex::unlock_pi(word, word::flags(private));
}

/// What the kernel's refusal to lock a word means.
fn refused<D>(stop: Stop) -> LockError<D> {
    let Stop::Os(errno) = stop else { return LockError::from(stop) };
    match Errno::from_raw_os_error(errno) {
        Errno::DEADLK => LockError::Deadlock,
        Errno::AGAIN => LockError::WouldBlock,
        // No such thread, one of the kernel's own, or waiters that the kernel knows nothing of.
        Errno::SRCH | Errno::PERM | Errno::INVAL => LockError::Corrupt,
        errno => LockError::Os(errno.raw_os_error()),
    }
}

/// Holds a [`Pi`] lock until dropped, by the thread that took it.
#[must_use = "dropped, it unlocks"]
pub struct PiGuard<'a> {
    futex: Futex<'a>,
    tid: u32,
    /// The kernel takes it back only from the thread that took it.
    stays: PhantomData<*const ()>,
}

impl Drop for PiGuard<'_> {
    fn drop(&mut self) {
        let Futex { word, private } = self.futex;
        if own_tid() != self.tid {
            // A forked child has not got it: its parent has.
            return;
        }
        if word.compare_exchange(self.tid, 0, Ordering::Release, Ordering::Relaxed).is_err() {
            release_by_kernel(word, private);
        }
    }
}

impl fmt::Debug for PiGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PiGuard").field("tid", &self.tid).finish_non_exhaustive()
    }
}
