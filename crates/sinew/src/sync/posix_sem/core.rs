//! The counting itself: one 64-bit word, as glibc has it on machines with 64-bit atomics.
//!
//! The low half is the value, the high half how many have announced that they sleep. Both change in
//! one atomic step, and the value is also the futex word. So a post that is not seen by a waiter
//! before it sleeps sees the waiter in the very word that it changes: no fence is needed, the order of
//! one word is enough. Source: sysdeps/nptl and nptl/sem_waitcommon.c of glibc 2.36.
//!
//! What glibc does not do, and other programs do not notice: who takes a token and sees that tokens
//! and sleepers are left wakes one more, and who sleeps behind another looks again each second.
//! Otherwise one waiter that is killed after it was woken and before it took its token leaves the
//! token there and the next sleeper asleep.

use std::sync::atomic::Ordering::{self, Acquire, Release};

use crate::error::WaitError;

/// The largest value (`SEM_VALUE_MAX`).
pub(crate) const MAX: u32 = i32::MAX.cast_unsigned();

/// One waiter, in the word.
const WAITER: u64 = 1 << 32;

/// The word, of a mapping or of a model.
pub(crate) trait Count {
    /// Loads it. Relaxed: every decision is confirmed by an exchange.
    fn load(&self) -> u64;
    /// Replaces `old` by `new`; may fail for no reason.
    fn exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64>;
    /// Adds, wrapping; gives what was there before. Relaxed: waiters publish nothing.
    fn add(&self, n: u64) -> u64;
    /// Subtracts, wrapping; gives what was there before. Relaxed as well.
    fn sub(&self, n: u64) -> u64;
    /// Wakes at most so many of those who sleep on the low half.
    fn wake(&self, count: u32);
}

/// Why a count was not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The value would be more than [`MAX`].
    Overflow,
    /// It is already: nobody's semaphore.
    Corrupt,
}

/// The value in a word.
#[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
pub(crate) const fn value_of(word: u64) -> u32 {
    word as u32
}

/// How many sleep, by a word.
#[allow(clippy::cast_possible_truncation, reason = "the high half fits")]
pub(crate) const fn waiters_of(word: u64) -> u32 {
    (word >> 32) as u32
}

/// Takes a token if there is one.
#[inline]
pub(crate) fn try_take(count: &impl Count) -> Result<bool, Refused> {
    let mut now = count.load();
    loop {
        match value_of(now) {
            0 => return Ok(false),
            1..=MAX => {}
            _ => return Err(Refused::Corrupt),
        }
        // The acquire pairs with the release of the post whose token this is: every change of the
        // word in between is an exchange or an addition, so it carries the release on.
        match count.exchange(now, now - 1, Acquire) {
            Ok(_) => return Ok(true),
            Err(other) => now = other,
        }
    }
}

/// Takes a token, and sleeps until there is one. `sleep` is told whether nobody else has announced
/// that it sleeps; it returns when the value may be above zero, or with what ends the wait.
#[inline(never)]
pub(crate) fn take(
    count: &impl Count,
    mut sleep: impl FnMut(bool) -> Result<(), WaitError>,
) -> Result<(), WaitError> {
    // Broken: sleeps without having announced it, so that no post wakes it.
    #[cfg(not(sabotage = "semaphore-unannounced"))]
    let mut now = count.add(WAITER).wrapping_add(WAITER);
    #[cfg(sabotage = "semaphore-unannounced")]
    let mut now = count.load();
    loop {
        match value_of(now) {
            0 => {
                if let Err(end) = sleep(waiters_of(now) == 1) {
                    retire(count);
                    return Err(end);
                }
                now = count.load();
                continue;
            }
            1..=MAX => {}
            _ => {
                retire(count);
                return Err(WaitError::Corrupt);
            }
        }
        // Others may have overwritten the number of waiters: it never goes below zero.
        let waiters = u64::from(waiters_of(now).saturating_sub(1));
        let left = waiters << 32 | u64::from(value_of(now) - 1);
        // Broken: what was written before the post need not be seen.
        #[cfg(not(sabotage = "semaphore-unordered"))]
        let order = Acquire;
        #[cfg(sabotage = "semaphore-unordered")]
        let order = Ordering::Relaxed;
        // Broken: takes what it saw a moment ago, and another may have.
        #[cfg(sabotage = "semaphore-unchecked")]
        if now > left {
            count.sub(now - left);
            return Ok(());
        }
        // Pairs with the release of the post, as in `try_take`.
        match count.exchange(now, left, order) {
            Ok(_) => {
                if value_of(left) > 0 && waiters > 0 {
                    count.wake(1);
                }
                return Ok(());
            }
            Err(other) => now = other,
        }
    }
}

/// Takes back that the caller sleeps.
fn retire(count: &impl Count) {
    if count.sub(WAITER) < WAITER {
        // Somebody has overwritten the number. Too many cost a system call, too few a wake-up.
        count.add(WAITER);
    }
}

/// Adds `n` tokens and wakes who sleeps for them.
#[inline]
pub(crate) fn post(count: &impl Count, n: u32) -> Result<(), Refused> {
    let mut now = count.load();
    loop {
        let value = value_of(now);
        if value > MAX {
            return Err(Refused::Corrupt);
        }
        if n > MAX - value {
            return Err(Refused::Overflow);
        }
        // Pairs with the acquire of who takes a token.
        match count.exchange(now, now + u64::from(n), Release) {
            Ok(_) => break,
            Err(other) => now = other,
        }
    }
    // The number of waiters is of the very state that got the tokens: who is not in it finds them.
    let waiters = waiters_of(now);
    let woken = n.min(waiters);
    if woken > 0 {
        wake_some(count, woken);
    }
    Ok(())
}

#[cold]
#[inline(never)]
fn wake_some(count: &impl Count, n: u32) {
    count.wake(n);
}

#[cfg(all(test, sinew_loom))]
mod models;
#[cfg(test)]
mod tests;
