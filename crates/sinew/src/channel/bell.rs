//! Who sleeps says so, and is rung for by whoever changes what it waits for.
//!
//! A sleeper numbers its sleeps, and puts the number where others look after each change. They ring once for each
//! number, so a sleeper costs every one of them one system call, and one that is awake none. A successor goes on
//! behind the last number of the dead, for which some have rung already.
//!
//! Neither word is trusted: a wrong number costs a wake-up too many or the sleeper's own, a wrong `FENCE` a fence.
//!
//! # Who fences
//! Who seldom sleeps has the kernel fence for the others when it does (see `fence`), and they pay nothing. Where
//! nearly every message is waited for, that system call would be a third of what a message costs. So who sleeps after few messages
//! *asks*: it sets `FENCE` in its word, and leaves it there when it wakes. Whoever sees that fences after each change and
//! looks at the word again, and the sleeper fences for itself alone. Who has asked and moves some messages without
//! a sleep takes it back.
//!
//! Of a change and a sleep, one of the two is always seen by the other:
//!
//! - A sleep with the kernel's fence. The other's look at the word is before that fence, and so is the change, which
//!   the sleeper then sees; or behind it, and sees this sleep. What was in the word before, and whether
//!   it was looked at twice, is no matter: the change is before both looks.
//! - A sleep with a fence of one's own. Its owner has asked before, in a sleep with the kernel's fence behind it that was not refused, and
//!   has not taken it back since. The other's first look is before that fence: then so is the change, and every
//!   look for work since has seen it. Or behind it: then it sees `FENCE`, fences, and looks again. Both have a full fence between
//!   their store and their look, so one sees the other's.
//! - Taking it back, or putting it in, is nothing that has to be seen: the next sleep is with the kernel's fence.
//!   The number of a sleep by a doorbell stays in the word meanwhile, to be rung for.
//! - A successor does not know what the dead asked for: it begins with nothing asked, so with the kernel's fence.
//! - Where everybody fences at each change anyway, nobody asks.
//!
//! Source: futex(2), membarrier(2).

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
/// In the word, whether its owner sleeps or not: whoever has changed something fences before it looks here.
pub(crate) const FENCE: u64 = 1 << 62;
/// In the word of a sleeper.
const NUMBER: u64 = FENCE - 1;
/// Who sleeps after fewer messages than these asks for fences; who moves as many without a sleep takes it back. As many fences
/// cost less than the kernel's.
const FEW: u64 = 16;
/// As many as if it never slept: for who is told of changes by other words too, and may ask nobody for fences.
pub(crate) const MANY: u64 = u64::MAX;

/// Whether the word of a side says that it sleeps.
#[inline]
pub(crate) const fn is_asleep(word: u64) -> bool {
    word & !FENCE != 0
}

pub(super) mod doorbell;
#[cfg(all(test, sinew_loom))]
mod models;

/// The words of one who may sleep.
#[derive(Debug)]
pub(crate) struct Bell<'a, A, W> {
    /// Zero, or the number of the sleep, and whether others fence: only the sleeper writes it.
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
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sleeps {
    /// The number of the last one.
    last: u64,
    /// What its word says.
    said: u64,
    /// How many messages its owner had moved at the last one.
    moved: u64,
    /// Whether the last one came after few.
    often: bool,
    /// How many more it moves before it asks for fences no longer.
    left: u64,
}

impl Sleeps {
    /// Of one who goes on behind the last sleep of those before.
    pub(crate) fn behind(last: u64) -> Self {
        Self { last, ..Self::default() }
    }

    /// About to sleep, having moved so many messages by now.
    pub(crate) fn after(self, moved: u64) -> Self {
        Self { moved, often: moved.wrapping_sub(self.moved) < FEW, ..self }
    }

    /// Whether the others fence, because this one asked them to.
    #[inline]
    pub(crate) fn has_asked(self) -> bool {
        self.said & FENCE != 0
    }
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
            let sure = self.say_asleep(sleeps, fencing, 0, || ());
            // Partner: `ring_if_asleep`. One of the two sees what the other did.
            if !cfg!(sabotage = "bell-no-second-look")
                && let Some(found) = look()
            {
                self.say_awake(sleeps);
                return Ok(found);
            }
            let late = cfg!(sabotage = "bell-late-listen");
            let heard = if late { self.word.load(Acquire) } else { heard };
            let slept = if sure {
                self.word.sleep(heard, wait)
            } else {
                self.word.sleep_and_look(heard, wait, LOOK)
            };
            self.say_awake(sleeps);
            if let Some(found) = look() {
                return Ok(found);
            }
            slept?;
        }
    }

    /// Says that its owner sleeps, in a call or `BY_DOORBELL`, has `tell` say so too, and fences. What it waits for has to be
    /// looked for after that. Gives whether everybody's changes are seen then.
    pub(crate) fn say_asleep(
        self,
        sleeps: &mut Sleeps,
        fencing: Fencing,
        by: u64,
        tell: impl FnOnce(),
    ) -> bool {
        if !cfg!(sabotage = "bell-one-number") || sleeps.last == 0 {
            sleeps.last = (sleeps.last.wrapping_add(1) & NUMBER).max(1);
        }
        if !cfg!(sabotage = "bell-no-number") {
            self.sleeps.store(sleeps.last, Relaxed);
        }
        let had_asked = sleeps.has_asked();
        let ask = had_asked || sleeps.often && fencing.is_by_kernel();
        sleeps.said = sleeps.last | by | if ask { FENCE } else { 0 };
        sleeps.left = FEW;
        if !cfg!(sabotage = "bell-no-flag") {
            // Not before the number is stored: who dies from here on may have been rung for.
            self.sleeping.store(sleeps.said, Release);
        }
        tell();
        if cfg!(sabotage = "bell-no-fence") {
            return true;
        }
        if had_asked || ask && cfg!(sabotage = "bell-ask-unfenced") {
            fencing.full();
            return true;
        }
        let sure = fencing.before_sleep();
        if !sure {
            // Somebody may not have seen that it asks.
            sleeps.said &= !FENCE;
        }
        sure
    }

    /// Says that its owner is awake.
    pub(crate) fn say_awake(self, sleeps: &mut Sleeps) {
        sleeps.said &= FENCE;
        let said = if cfg!(sabotage = "bell-asks-once") { 0 } else { sleeps.said };
        self.sleeping.store(said, Relaxed);
    }

    /// One who has asked for fences has moved another message without a sleep: it takes that back after some.
    #[cold]
    #[inline(never)]
    pub(crate) fn moved_one(self, sleeps: &mut Sleeps) {
        sleeps.left = sleeps.left.saturating_sub(1);
        if sleeps.left == 0 {
            self.ask_no_longer(sleeps);
        }
    }

    fn ask_no_longer(self, sleeps: &mut Sleeps) {
        if !cfg!(sabotage = "bell-ask-on") {
            sleeps.said &= !FENCE;
        }
        // The number of a sleep by a doorbell stays.
        let stays = if cfg!(sabotage = "bell-ask-no-doorbell") { 0 } else { !FENCE };
        self.sleeping.store(sleeps.said & stays, Relaxed);
    }

    /// Rings if there is somebody asleep for whom this peer has not rung yet. To be called after every
    /// change that it may wait for. `by_doorbell` is called where it sleeps by that. Gives whether it rang.
    #[inline]
    pub(crate) fn ring_if_asleep(
        self,
        rung: &mut Rung,
        fencing: Fencing,
        by_doorbell: impl FnOnce(),
    ) -> bool {
        if !cfg!(sabotage = "bell-no-publish-fence") {
            fencing.after_publish();
        }
        let word = self.sleeping.load(Relaxed);
        word != 0 && word != rung.last && self.ring_for(word, rung, fencing, by_doorbell)
    }

    #[cold]
    #[inline(never)]
    fn ring_for(
        self,
        mut word: u64,
        rung: &mut Rung,
        fencing: Fencing,
        by_doorbell: impl FnOnce(),
    ) -> bool {
        if word & FENCE != 0 {
            if !cfg!(sabotage = "bell-asked-in-vain") {
                fencing.full();
            }
            // What was there before the fence says nothing.
            if !cfg!(sabotage = "bell-asked-too-late") {
                word = self.sleeping.load(Relaxed);
            }
        }
        if !is_asleep(word) || word & !FENCE == rung.last {
            return false;
        }
        // Without the bit: as long as it is there, each change comes by here.
        rung.last = word & !FENCE;
        self.ring();
        if word & BY_DOORBELL != 0 {
            by_doorbell();
            self.ring_again();
        }
        true
    }

    /// After a doorbell was made readable: see `doorbell`.
    fn ring_again(self) {
        if !cfg!(sabotage = "doorbell-rung-once") {
            self.word.fetch_add(1, Release);
        }
    }

    /// Rings whether anybody sleeps or not: for a death, a close, an interrupt.
    pub(crate) fn ring(self) {
        // Before the wake-up: who is about to sleep sees another number and does not.
        self.word.fetch_add(1, Release);
        self.word.wake(ALL);
    }
}
