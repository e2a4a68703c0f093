//! What the lock cores run on: a 32-bit word with the atomic operations, and sleeping on it.
//!
//! The cores (mutex, rwlock, condvar, once) are state machines over [`Word`]s and know nothing of maps,
//! thread numbers or robust lists; that of a semaphore is one too, over a word of 64 bits of its own. In the library a word is an [`AtomicU32`] in
//! shared memory, slept on by futex(2). Under `--cfg sinew_loom` their tests run them over
//! [`model::Word`], where loom tries every interleaving that the memory model allows:
//!
//! ```sh
//! cargo xtask loom
//! ```
//!
//! The tests of a core under loom are in a module called `models`; `xtask/src/loom.rs` lists the
//! cores that must have some.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::error::Stop;
use crate::wait::Wait;
use crate::wait::word::{self, Change};

#[cfg(all(test, sinew_loom))]
pub(crate) mod model;

/// A word to synchronise by, and to sleep on.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
    fn swap(&self, value: u32, order: Ordering) -> u32;
    /// Replaces `current` by `new`; else gives what was there. Never fails by itself.
    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32>;
    fn fetch_add(&self, value: u32, order: Ordering) -> u32;
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32;
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32;
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32;

    /// Sleeps while the word is `expected`, as long as `wait` allows. Ok says only that the caller has
    /// to look again.
    fn sleep(&self, expected: u32, wait: Wait<'_>) -> Result<(), Stop>;

    /// The same, but comes back after `look` at the latest, with Ok: for what no wake-up tells, such
    /// as a death. A model never comes back by itself, so that a lost wake-up is found.
    fn sleep_and_look(&self, expected: u32, wait: Wait<'_>, look: Duration) -> Result<(), Stop>;

    /// Wakes at most `count` of those who sleep on it. Gives how many it were.
    fn wake(&self, count: u32) -> usize;

    /// Changes the word and wakes at most `count` of those who sleep on it, in one step that a kill
    /// does not divide. Gives how many were woken.
    fn change_and_wake(&self, change: Change, count: u32) -> usize;

    /// Between an access that stores and one that loads, both SeqCst, of which one has to see the
    /// other side's: they are enough by themselves, but loom does not know that.
    fn settle();

    /// What a loop does that waits for another without sleeping. A model runs the other.
    fn spin();
}

/// For [`Word::wake`]: all of them.
pub(crate) const ALL: u32 = u32::MAX;

impl Word for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        Self::store(self, value, order);
    }

    #[inline]
    fn swap(&self, value: u32, order: Ordering) -> u32 {
        Self::swap(self, value, order)
    }

    #[inline]
    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        Self::compare_exchange(self, current, new, success, failure)
    }

    #[inline]
    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        Self::fetch_add(self, value, order)
    }

    #[inline]
    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        Self::fetch_sub(self, value, order)
    }

    #[inline]
    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        Self::fetch_or(self, bits, order)
    }

    #[inline]
    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        Self::fetch_and(self, bits, order)
    }

    #[inline]
    fn sleep(&self, expected: u32, wait: Wait<'_>) -> Result<(), Stop> {
        word::sleep(self, expected, wait)
    }

    fn sleep_and_look(&self, expected: u32, wait: Wait<'_>, look: Duration) -> Result<(), Stop> {
        word::sleep_and_look(self, expected, wait, look)
    }

    fn wake(&self, count: u32) -> usize {
        // What runs in Miri sleeps nowhere, and rustix asks of it what strict provenance forbids.
        if cfg!(miri) {
            return 0;
        }
        // It can fail only on a bad address, and this is a reference.
        word::wake(self, count).unwrap_or(0)
    }

    fn change_and_wake(&self, change: Change, count: u32) -> usize {
        // As for `wake`.
        word::change_and_wake(self, change, self, count).unwrap_or(0)
    }

    #[inline]
    fn settle() {}

    #[inline]
    fn spin() {
        std::hint::spin_loop();
    }
}
