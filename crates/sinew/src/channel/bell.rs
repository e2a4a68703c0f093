//! Who sleeps says so, and is rung for by whoever changes what it waits for.
//!
//! A sleeper numbers its sleeps, and puts the number where others look after each change. They ring once for each
//! number, so a sleeper costs every one of them one system call, and one that is awake none. A successor goes on
//! behind the last number of the dead, for which some have rung already.
//!
//! Neither word is trusted: a wrong number costs a wake-up too many or the sleeper's own.
//!
//! Source: futex(2).

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use super::fence::Fencing;
use super::memory::Atom;
use crate::error::Stop;
use crate::sync::word::{ALL, Word};
use crate::wait::Wait;

/// How often a sleeper looks whose kernel has begun to refuse it the fence.
const LOOK: Duration = Duration::from_millis(1);

/// In the word of a sleeper: it is not in a call, and wants its doorbell made readable.
pub(crate) const BY_DOORBELL: u64 = 1 << 63;

#[cfg(all(test, sinew_loom))]
mod models;

/// The words of one who may sleep.
#[derive(Debug)]
pub(crate) struct Bell<'a, A, W> {
    /// Zero, or the number of the sleep: only the sleeper writes it.
    pub(crate) sleeping: &'a A,
    /// The number of the last sleep: only the sleeper writes it.
    pub(crate) sleeps: &'a A,
    /// What it sleeps on: everybody adds to it.
    pub(crate) word: &'a W,
}

impl<A, W> Clone for Bell<'_, A, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, W> Copy for Bell<'_, A, W> {}

/// The sleeps of one sleeper.
#[derive(Debug, Default)]
pub(crate) struct Sleeps {
    /// The number of the last one.
    pub(crate) last: u64,
}

/// For whom a peer has rung.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rung {
    last: u64,
}

impl<A: Atom, W: Word> Bell<'_, A, W> {
    /// Sleeps until `look` finds something, as long as `wait` allows. It looks once more at the end of that.
    #[cold]
    pub(crate) fn sleep_until<T>(
        self,
        sleeps: &mut Sleeps,
        fencing: Fencing,
        wait: Wait<'_>,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, Stop> {
        loop {
            let heard = self.word.load(Acquire);
            if !cfg!(sabotage = "bell-one-number") || sleeps.last == 0 {
                sleeps.last = (sleeps.last.wrapping_add(1) & !BY_DOORBELL).max(1);
            }
            if !cfg!(sabotage = "bell-no-number") {
                self.sleeps.store(sleeps.last, Relaxed);
            }
            if !cfg!(sabotage = "bell-no-flag") {
                // Not before the number is stored: who dies from here on may have been rung for.
                self.sleeping.store(sleeps.last, Release);
            }
            let sure = cfg!(sabotage = "bell-no-fence") || fencing.before_sleep();
            // Partner: `ring_if_asleep`. One of the two sees what the other did.
            if !cfg!(sabotage = "bell-no-second-look")
                && let Some(found) = look()
            {
                self.sleeping.store(0, Relaxed);
                return Ok(found);
            }
            let late = cfg!(sabotage = "bell-late-listen");
            let heard = if late { self.word.load(Acquire) } else { heard };
            let slept = if sure {
                self.word.sleep(heard, wait)
            } else {
                self.word.sleep_and_look(heard, wait, LOOK)
            };
            self.sleeping.store(0, Relaxed);
            if let Some(found) = look() {
                return Ok(found);
            }
            slept?;
        }
    }

    /// Rings if there is somebody asleep for whom this peer has not rung yet. To be called after every
    /// change that it may wait for. Gives whether it rang.
    #[inline]
    pub(crate) fn ring_if_asleep(self, rung: &mut Rung, fencing: Fencing) -> bool {
        if !cfg!(sabotage = "bell-no-publish-fence") {
            fencing.after_publish();
        }
        let sleep = self.sleeping.load(Relaxed);
        if sleep == 0 || sleep == rung.last {
            return false;
        }
        self.ring_for(sleep, rung)
    }

    #[cold]
    #[inline(never)]
    fn ring_for(self, sleep: u64, rung: &mut Rung) -> bool {
        rung.last = sleep;
        self.ring();
        true
    }

    /// Rings whether anybody sleeps or not: for a death, a close, an interrupt.
    pub(crate) fn ring(self) {
        // Before the wake-up: who is about to sleep sees another number and does not.
        self.word.fetch_add(1, Release);
        self.word.wake(ALL);
    }
}
