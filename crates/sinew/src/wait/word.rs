//! Sleeping on 32-bit words until another process or thread wakes whoever sleeps there: the one
//! place where the library's locks, semaphores and barriers wait (futex(2), `futex_waitv`).

use std::num::NonZeroU32;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Wait;
use crate::error::Stop;
use crate::kernel::Feature;

/// How often an interrupt is looked at where the kernel cannot wait for two words (before 5.16), or
/// not so.
const LOOK: Duration = Duration::from_millis(1);

/// The most words that the kernel waits for at once. One of them is the interrupt's.
pub(crate) const MOST: usize = 128;
const FEW: usize = 4;

/// A word, and the value at which it is slept on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) word: &'a AtomicU32,
    pub(crate) expected: u32,
    /// No other process sleeps there or wakes.
    pub(crate) private: bool,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slept {
    /// Somebody woke those who sleep on the word of this number.
    Woken(usize),
    /// A word has another value.
    Differs,
    /// Neither: the caller looks again, and sleeps on as far as its wait allows.
    Look,
}

/// Sleeps while `word` is `expected`, as long as `wait` allows. Ok says only that the caller has to
/// look again: it was woken, the word had another value, or a signal came.
///
/// The word may be in any shared mapping: the futex is not a private one.
// Inlined where nothing bounds the wait: what runs between the wake-up and the caller is what another
// process waits for that hands something over, and its code comes from afar after a sleep.
#[inline]
pub(crate) fn sleep(word: &AtomicU32, expected: u32, wait: Wait<'_>) -> Result<(), Stop> {
    if !wait.is_unbounded() {
        return sleep_within(word, expected, wait);
    }
    match futex::wait(word, flags(false), expected, None) {
        Ok(()) => Ok(()),
        Err(errno) => not_woken(errno),
    }
}

#[cold]
fn not_woken(errno: Errno) -> Result<(), Stop> {
    outcome(Err(errno)).map(drop)
}

/// Sleeps so where a deadline or an interrupt ends it.
#[inline(never)]
fn sleep_within(word: &AtomicU32, expected: u32, wait: Wait<'_>) -> Result<(), Stop> {
    let left = wait.left()?;
    let entry = Entry { word, expected, private: false };
    match wait.interrupt {
        None => outcome(sleep_on_one(entry, left)).map(drop),
        Some(_) => sleep_on_any(&[entry], wait).map(drop),
    }
}

/// The same, but comes back after `look` at the latest, with Ok. It costs no more than one call: where
/// nothing else bounds the wait, the clock is not read.
pub(crate) fn sleep_and_look(
    word: &AtomicU32,
    expected: u32,
    wait: Wait<'_>,
    look: Duration,
) -> Result<(), Stop> {
    if wait.is_unbounded() {
        let entry = Entry { word, expected, private: false };
        return outcome(sleep_on_one(entry, Some(look))).map(drop);
    }
    // The end of the look is no end of the wait.
    wait.left()?;
    sleep(word, expected, wait.at_most(look))
}

/// Sleeps while every word is what its entry says, as long as `wait` allows. At most one less than
/// [`MOST`]; EINVAL for none or more.
pub(crate) fn sleep_on_any(entries: &[Entry<'_>], wait: Wait<'_>) -> Result<Slept, Stop> {
    let left = wait.left()?;
    let (Some(first), true) = (entries.first(), entries.len() < MOST) else {
        return Err(Stop::Os(Errno::INVAL.raw_os_error()));
    };
    wait.check_interrupt_word()?;
    let one = entries.len() == 1 && wait.interrupt.is_none();
    if !one && Feature::FutexWaitv.usable() {
        // Most wait for a few, for whom it is not worth clearing room for all.
        let done = match entries.len() {
            ..FEW => sleep_by_waitv::<FEW>(entries, wait, left),
            _ => sleep_by_waitv::<MOST>(entries, wait, left),
        };
        match done {
            Err(Errno::NOSYS | Errno::PERM) => Feature::FutexWaitv.refused(),
            done => return outcome(done),
        }
    }
    let slice = if one { left } else { Some(left.map_or(LOOK, |left| left.min(LOOK))) };
    outcome(sleep_on_one(*first, slice))
}

/// The same for one word, woken only by who has one of these `bits`.
pub(crate) fn sleep_for_bits(
    entry: Entry<'_>,
    bits: NonZeroU32,
    wait: Wait<'_>,
) -> Result<Slept, Stop> {
    let mut left = wait.left()?;
    if wait.interrupt.is_some() {
        wait.check_interrupt_word()?;
        left = Some(left.map_or(LOOK, |left| left.min(LOOK)));
    }
    // This call takes the moment of the end, not the time that is left.
    let end = left.and_then(end_of);
    let flags = flags(entry.private);
    outcome(futex::wait_bitset(entry.word, flags, entry.expected, end.as_ref(), bits).map(|()| 0))
}

/// Locks a word with priority inheritance (`FUTEX_LOCK_PI2`). Ok(false): the caller looks again, and
/// tries again as far as its wait allows.
pub(crate) fn lock_pi(word: &AtomicU32, private: bool, wait: Wait<'_>) -> Result<bool, Stop> {
    let mut left = wait.left()?;
    if wait.interrupt.is_some() {
        wait.check_interrupt_word()?;
        left = Some(left.map_or(LOOK, |left| left.min(LOOK)));
    }
    let end = left.and_then(end_of);
    match futex::lock_pi2(word, flags(private), end.as_ref()) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(false),
        Err(errno) => Err(Stop::Os(errno.raw_os_error())),
    }
}

/// Changes `target` and wakes at most `count` of those who sleep on `word`, in one step that a kill
/// does not divide: nobody dies between the two (FUTEX_WAKE_OP). Gives how many were woken.
pub(crate) fn change_and_wake(
    target: &AtomicU32,
    change: Change,
    word: &AtomicU32,
    count: u32,
) -> Result<usize, Errno> {
    let (op, argument) = match change {
        Change::Set(value) => (futex::WakeOp::Set, value),
        Change::ToBit(bit) => (futex::WakeOp::SetShift, bit),
        Change::ClearBit(bit) => (futex::WakeOp::AndNShift, bit),
    };
    // If the old value of `target` compares so, one sleeper on it is woken too: never but for -1, and
    // whoever is woken for nothing looks again.
    let (compare, with) = (futex::WakeOpCmp::Eq, 0xFFF);
    let (flags, count) = (flags(false), count.min(i32::MAX.unsigned_abs()));
    futex::wake_op(word, flags, count, 0, target, op, compare, argument, with)
}

/// What [`change_and_wake`] does to the target.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change {
    /// Stores a value of at most 2047.
    Set(u16),
    /// Stores the value that has only the bit of this number.
    ToBit(u16),
    /// Clears the bit of this number.
    ClearBit(u16),
}

/// Wakes at most `count` of those who sleep on `word`, in any process. Gives how many were woken.
pub(crate) fn wake(word: &AtomicU32, count: u32) -> Result<usize, Errno> {
    futex::wake(word, flags(false), count.min(i32::MAX.unsigned_abs()))
}

/// Wakes all threads of this process that sleep on a word which no other process has.
pub(super) fn wake_own(word: &AtomicU32) {
    // It can fail only on a bad address, and this is a reference.
    let _ = futex::wake(word, flags(true), i32::MAX.unsigned_abs());
}

/// The flags of futex(2).
pub(crate) fn flags(private: bool) -> futex::Flags {
    if private { futex::Flags::PRIVATE } else { futex::Flags::empty() }
}

fn sleep_on_one(entry: Entry<'_>, left: Option<Duration>) -> Result<usize, Errno> {
    // A time too long for the kernel's clock is none.
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    futex::wait(entry.word, flags(entry.private), entry.expected, left.as_ref()).map(|()| 0)
}

/// For less than `ROOM` words: one place is the interrupt's.
fn sleep_by_waitv<const ROOM: usize>(
    entries: &[Entry<'_>],
    wait: Wait<'_>,
    left: Option<Duration>,
) -> Result<usize, Errno> {
    let as_waiter = |entry: &Entry<'_>| {
        let mut waiter = futex::Wait::new();
        waiter.val = u64::from(entry.expected);
        waiter.uaddr = ptr::from_ref(entry.word).cast_mut().cast::<std::ffi::c_void>().into();
        waiter.flags = futex::WaitFlags::SIZE_U32;
        if entry.private {
            waiter.flags |= futex::WaitFlags::PRIVATE;
        }
        waiter
    };
    let interrupt = wait.interrupt.map(|i| Entry { word: &i.word, expected: 0, private: true });
    let mut waiters = [const { futex::Wait::new() }; ROOM];
    let mut count = 0;
    for (waiter, entry) in waiters.iter_mut().zip(entries.iter().chain(interrupt.as_ref())) {
        *waiter = as_waiter(entry);
        count += 1;
    }
    let end = left.and_then(end_of);
    let none = futex::WaitvFlags::empty();
    let woken = futex::waitv(&waiters[..count], none, end.as_ref(), ClockId::Monotonic)?;
    // The interrupt is looked at before the next sleep.
    if woken < entries.len() { Ok(woken) } else { Err(Errno::INTR) }
}

/// The moment at which `left` is over, for calls that take that.
fn end_of(left: Duration) -> Option<Timespec> {
    let left = Timespec::try_from(left).ok()?;
    clock_gettime(ClockId::Monotonic).checked_add(left)
}

fn outcome(slept: Result<usize, Errno>) -> Result<Slept, Stop> {
    match slept {
        Ok(woken) => Ok(Slept::Woken(woken)),
        Err(Errno::AGAIN) => Ok(Slept::Differs),
        // The deadline is looked at before the next sleep.
        Err(Errno::INTR | Errno::TIMEDOUT) => Ok(Slept::Look),
        Err(errno) => Err(Stop::Os(errno.raw_os_error())),
    }
}
