//! Sleeping on a 32-bit word until another process or thread wakes whoever sleeps there: the one
//! place where the library's locks, semaphores and barriers wait (futex(2), `futex_waitv`).

use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::futex;
use rustix::time::{ClockId, Timespec, clock_gettime};

use super::Wait;
use crate::error::Stop;
use crate::kernel::Feature;

/// How often an interrupt is looked at where the kernel cannot wait for two words (before 5.16).
const LOOK: Duration = Duration::from_millis(1);

/// Sleeps while `word` is `expected`, as long as `wait` allows. Ok says only that the caller has to
/// look again: it was woken, the word had another value, or a signal came.
///
/// The word may be in any shared mapping: the futex is not a private one.
pub(crate) fn sleep(word: &AtomicU32, expected: u32, wait: Wait<'_>) -> Result<(), Stop> {
    let left = wait.left()?;
    match wait.interrupt {
        None => outcome(sleep_on_one(word, expected, left)),
        Some(interrupt) => {
            wait.check_interrupt()?;
            if Feature::FutexWaitv.usable() {
                match sleep_on_two(word, expected, &interrupt.word, left) {
                    Err(Errno::NOSYS | Errno::PERM) => Feature::FutexWaitv.refused(),
                    done => return outcome(done),
                }
            }
            let slice = left.map_or(LOOK, |left| left.min(LOOK));
            outcome(sleep_on_one(word, expected, Some(slice)))
        }
    }
}

/// Wakes at most `count` of those who sleep on `word`, in any process. Gives how many were woken.
pub(crate) fn wake(word: &AtomicU32, count: u32) -> Result<usize, Errno> {
    futex::wake(word, futex::Flags::empty(), count.min(i32::MAX.unsigned_abs()))
}

/// Wakes all threads of this process that sleep on a word which no other process has.
pub(super) fn wake_own(word: &AtomicU32) {
    // It can fail only on a bad address, and this is a reference.
    let _ = futex::wake(word, futex::Flags::PRIVATE, i32::MAX.unsigned_abs());
}

fn sleep_on_one(word: &AtomicU32, expected: u32, left: Option<Duration>) -> Result<(), Errno> {
    // A time too long for the kernel's clock is none.
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    futex::wait(word, futex::Flags::empty(), expected, left.as_ref())
}

fn sleep_on_two(
    word: &AtomicU32,
    expected: u32,
    interrupt: &AtomicU32,
    left: Option<Duration>,
) -> Result<(), Errno> {
    let entry = |word: &AtomicU32, expected: u32, flags| {
        let mut entry = futex::Wait::new();
        entry.val = u64::from(expected);
        entry.uaddr = ptr::from_ref(word).cast_mut().cast::<std::ffi::c_void>().into();
        entry.flags = flags;
        entry
    };
    let both = [
        entry(word, expected, futex::WaitFlags::SIZE_U32),
        entry(interrupt, 0, futex::WaitFlags::SIZE_U32 | futex::WaitFlags::PRIVATE),
    ];
    // This call takes the moment of the end, not the time that is left.
    let end = left.and_then(|left| {
        let left = Timespec::try_from(left).ok()?;
        clock_gettime(ClockId::Monotonic).checked_add(left)
    });
    let flags = futex::WaitvFlags::empty();
    futex::waitv(&both, flags, end.as_ref(), ClockId::Monotonic).map(drop)
}

fn outcome(slept: Result<(), Errno>) -> Result<(), Stop> {
    match slept {
        // The deadline is looked at before the next sleep.
        Ok(()) | Err(Errno::AGAIN | Errno::INTR | Errno::TIMEDOUT) => Ok(()),
        Err(errno) => Err(Stop::Os(errno.raw_os_error())),
    }
}
