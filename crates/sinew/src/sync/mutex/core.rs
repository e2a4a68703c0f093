//! The state machine of the mutex: who has the word, who sleeps for it, who is next.
//!
//! The word has the form that the kernel's robust list knows, see [`robust`](super::super::robust): owner,
//! WAITERS, OWNER_DIED. A sleeper sets WAITERS before it sleeps; who releases a word with WAITERS wakes
//! one. Whoever has slept takes the word with WAITERS, since others may sleep still.
//!
//! *Fairness.* Whoever runs takes a free word before a sleeper is awake, which is fast and can
//! starve the sleeper. One who has waited long writes its number into `heir`. An owner that finds an
//! heir releases to the word WAITERS instead of 0, which no fast path takes, and wakes all; those who
//! are not the heir leave it to the heir. That is a courtesy, not an obligation: they take the word when the
//! heir is dead or does not come for a while, so nothing hangs on `heir` being right.
//!
//! *Death.* OWNER_DIED stays in the word while whoever took over repairs, so that death during the
//! repair is the same again. `state` says that nobody repaired; everybody who comes to have the word
//! finds that, releases it and so wakes the next.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::time::Duration;

use crate::error::Stop;
use crate::sync::robust::{LAST_TID, OWNER_DIED, TID_MASK, WAITERS};
use crate::sync::word::{ALL, Word};
use crate::wait::Wait;

#[cfg(all(test, sinew_loom))]
mod models;

/// `state`: as it should be.
const SOUND: u32 = 0;
/// `state`: an owner died and nobody repaired what it left.
const NOT_RECOVERABLE: u32 = 1;

/// How often it is paused at most from one look at the word to the next.
const LONGEST_PAUSE: u32 = 32;

/// How long an heir is waited for.
const COURTESY: Duration = Duration::from_millis(10);
/// When a sleeper first looks after its owner; each time after that in twice the time, up to [`LAST_LOOK`].
/// A wake-up that a dying sleeper swallowed is made up for then.
const FIRST_LOOK: Duration = Duration::from_millis(50);
const LAST_LOOK: Duration = Duration::from_millis(400);

/// The words of one mutex.
#[derive(Debug)]
pub(super) struct Core<'a, W> {
    pub(super) word: &'a W,
    pub(super) heir: &'a W,
    pub(super) state: &'a W,
}

/// What the state machine asks of the world around it.
pub(super) trait Host {
    /// Whether a thread of this number exists.
    fn exists(&self, tid: u32) -> bool;
    /// The same, by a look that may be an old one.
    fn is_known(&self, tid: u32) -> bool;
    /// Whether it has waited too long, after so many sleeps.
    fn impatient(&self, sleeps: u32) -> bool;
    /// How often to look at the word before sleeping: 0 where its owner cannot be running.
    fn spins(&self) -> u32;
}

/// How the lock was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Clean,
    /// The last owner died: `repaired` or `give_up` has to follow.
    OwnerDied,
}

/// What [`Core::sleep_once`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Once {
    /// The caller has the word.
    Taken,
    Slept,
    /// Nothing: something is not as usual.
    Awake,
}

/// Why it was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Stop(Stop),
    Deadlock,
    NotRecoverable,
    Corrupt,
}

impl From<Stop> for Refused {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

impl<W: Word> Core<'_, W> {
    /// Takes the word if nobody has it and nobody is asleep. `state` has to follow.
    #[inline(always)]
    pub(super) fn take_free(&self, me: u32) -> bool {
        // SeqCst, here and in `take_turn`: who has the lock may look at what others did who look at
        // the word, as a rwlock does.
        self.word.compare_exchange(0, me, SeqCst, Relaxed).is_ok()
    }

    /// What is usual where the word is not free and its owner cannot be running, in one piece: sleeps once, and
    /// takes what a release left. `state` has to follow; else the rest, [`lock_taken`](Self::lock_taken).
    // What runs here after the sleep is what the next owner is waited for, and its code comes from afar.
    #[inline(always)]
    pub(super) fn sleep_once(&self, me: u32, wait: Wait<'_>, host: &impl Host) -> Once {
        let owner = self.word.load(Relaxed);
        let marked = owner | WAITERS;
        let usual = wait.is_unbounded()
            && (1..=LAST_TID).contains(&owner)
            && owner != me
            && host.spins() == 0
            && !host.impatient(0)
            && host.is_known(owner)
            && !cfg!(sabotage = "mutex-sleep-unseen");
        if !usual || self.word.compare_exchange(owner, marked, Relaxed, Relaxed).is_err() {
            return Once::Awake;
        }
        // Without a timer: see `take_turn`.
        if self.word.sleep(marked, wait).is_ok()
            && self.word.load(Relaxed) == 0
            && self.take_seen(0, me, true)
        {
            return Once::Taken;
        }
        Once::Slept
    }

    /// Goes on where the word is not free, by one who has slept for it or not.
    pub(super) fn lock_taken(
        &self,
        me: u32,
        wait: Wait<'_>,
        host: &impl Host,
        mut slept: bool,
    ) -> Result<Taken, Refused> {
        let taken = self.take_turn(me, wait, host, &mut slept);
        if taken.is_err() {
            self.leave(me, slept);
        }
        let taken = taken?;
        if let Err(refused) = self.state() {
            self.unlock();
            return Err(refused);
        }
        Ok(taken)
    }

    /// Whether what the caller has now is worth having; else it has to release it.
    #[inline(always)]
    pub(super) fn state(&self) -> Result<(), Refused> {
        match self.state.load(Relaxed) {
            SOUND => Ok(()),
            state => Err(unusable(state)),
        }
    }

    #[inline]
    pub(super) fn unlock(&self) {
        if self.heir.load(Relaxed) != 0 {
            return self.hand_over();
        }
        // Lost wake: the release says that somebody sleeps, and nobody is woken.
        if cfg!(sabotage = "mutex-lost-wake") {
            self.word.store(0, Release);
            return;
        }
        // Wake before store: the woken finds the word taken and sleeps again.
        if cfg!(sabotage = "mutex-wake-first") {
            if self.word.load(Relaxed) & WAITERS != 0 {
                self.word.wake(1);
            }
            self.word.store(0, Release);
            return;
        }
        if self.word.swap(0, Release) & WAITERS != 0 {
            self.word.wake(1);
        }
    }

    /// Notes that what a dead owner left is repaired. By who has the lock.
    pub(super) fn repaired(&self) {
        self.word.fetch_and(!OWNER_DIED, Relaxed);
    }

    /// Notes that it is not and never will be. By who has the lock, before its release.
    pub(super) fn give_up(&self) {
        self.state.store(NOT_RECOVERABLE, Relaxed);
    }

    /// Releases to the heir.
    #[cold]
    fn hand_over(&self) {
        // While it is had, others only add WAITERS.
        if self.word.load(Relaxed) & WAITERS != 0 {
            self.word.swap(WAITERS, AcqRel);
            self.word.wake(ALL);
        } else if self.word.swap(0, Release) & WAITERS != 0 {
            self.word.wake(1);
        }
    }

    fn take_turn(
        &self,
        me: u32,
        wait: Wait<'_>,
        host: &impl Host,
        slept: &mut bool,
    ) -> Result<Taken, Refused> {
        let mut spins = host.spins();
        let mut pauses = 1;
        let mut sleeps = u32::from(*slept);
        let mut left_to = 0;
        loop {
            // Acquire: with the release that `leave` and `hand_over` do, for `heir`.
            let seen = self.word.load(Acquire);
            let owner = seen & TID_MASK;
            if owner == 0 {
                if seen == WAITERS && self.is_for_another(me, &mut left_to, host) {
                    wait.left()?;
                    *slept = true;
                    self.word.sleep_and_look(seen, wait, COURTESY)?;
                    continue;
                }
                if !self.take_seen(seen, me, *slept) {
                    continue;
                }
                let died = seen & OWNER_DIED != 0;
                return Ok(if died { Taken::OwnerDied } else { Taken::Clean });
            }
            if owner == me {
                return Err(Refused::Deadlock);
            }
            if owner > LAST_TID {
                return Err(Refused::Corrupt);
            }
            if wait.is_never() {
                return Err(Refused::Stop(Stop::WouldBlock));
            }
            if seen & WAITERS == 0 && spins > 0 {
                // Each look takes the cache line away from the owner, so they come less and less often.
                for _ in 0..pauses.min(spins) {
                    W::spin();
                }
                spins = spins.saturating_sub(pauses);
                pauses = (2 * pauses).min(LONGEST_PAUSE);
                continue;
            }
            if host.impatient(sleeps) {
                let _ = self.heir.compare_exchange(0, me, Relaxed, Relaxed);
            }
            let marked = seen | WAITERS;
            // Sleep unseen: the owner may have released before the bit came, and it is not looked at again.
            if cfg!(sabotage = "mutex-sleep-unseen") {
                self.word.fetch_or(WAITERS, Relaxed);
                *slept = true;
                let now = self.word.load(Relaxed);
                self.word.sleep_and_look(now, wait, LAST_LOOK)?;
                continue;
            }
            if seen != marked && self.word.compare_exchange(seen, marked, Relaxed, Relaxed).is_err()
            {
                continue;
            }
            *slept = true;
            // The first to sleep is the first to be woken: no wake-up can be swallowed before it. So it
            // needs no timer, which costs as much as all of the rest; but its owner has to exist.
            if sleeps == 0 && seen != marked && host.is_known(owner) {
                self.word.sleep(marked, wait)?;
            } else {
                let look = FIRST_LOOK.saturating_mul(1 << sleeps.min(3)).min(LAST_LOOK);
                self.word.sleep_and_look(marked, wait, look)?;
            }
            if self.word.load(Relaxed) == marked && self.is_nobodys(marked, host) {
                return Err(Refused::Corrupt);
            }
            sleeps += 1;
        }
    }

    /// Takes the word if it is still as it was seen, without an owner.
    #[inline(always)]
    fn take_seen(&self, seen: u32, me: u32, slept: bool) -> bool {
        let mut new = seen | me;
        // Forget the others: whoever has slept takes the word as if nobody else slept.
        if slept && !cfg!(sabotage = "mutex-forget-others") {
            new |= WAITERS;
        }
        // Forget the sleepers of the dead: the kernel wakes only one of them.
        if seen & OWNER_DIED != 0 && cfg!(sabotage = "mutex-forget-sleepers-of-dead") {
            new &= !WAITERS;
        }
        let taken = self.word.compare_exchange(seen, new, SeqCst, Relaxed).is_ok();
        if taken {
            self.disinherit(me);
        }
        taken
    }

    /// Whether the word is that of an owner who does not exist. The kernel marks the word of a dead owner
    /// before its number is free; where it did not, the number was never that of an owner.
    #[cold]
    fn is_nobodys(&self, marked: u32, host: &impl Host) -> bool {
        !host.exists(marked & TID_MASK) && self.word.load(Relaxed) == marked
    }

    /// Whether a free word is to be left to an heir: once for each, while it exists.
    #[cold]
    fn is_for_another(&self, me: u32, left_to: &mut u32, host: &impl Host) -> bool {
        let heir = self.heir.load(Relaxed);
        if heir == 0 || heir == me {
            return false;
        }
        if *left_to != heir && heir <= LAST_TID && host.exists(heir) {
            *left_to = heir;
            return true;
        }
        self.disinherit(heir);
        false
    }

    #[inline]
    fn disinherit(&self, heir: u32) {
        if self.heir.load(Relaxed) == heir {
            let _ = self.heir.compare_exchange(heir, 0, Relaxed, Relaxed);
        }
    }

    /// Goes without the lock. A wake-up that was meant for one of the sleepers, or the bit that a
    /// faster one dropped when it took the word, is passed on.
    #[cold]
    fn leave(&self, me: u32, slept: bool) {
        self.disinherit(me);
        // By an operation that orders: who finds the word free after this finds no heir.
        let seen = self.word.fetch_or(if slept { WAITERS } else { 0 }, AcqRel);
        if seen & TID_MASK == 0 && (slept || seen & WAITERS != 0) {
            // Who leaves a free word to the caller may not be asleep yet: it sees that the word changes.
            let _ = self.word.compare_exchange(WAITERS, 0, AcqRel, Relaxed);
            self.word.wake(1);
        }
    }
}

#[cold]
fn unusable(state: u32) -> Refused {
    if state == NOT_RECOVERABLE { Refused::NotRecoverable } else { Refused::Corrupt }
}
