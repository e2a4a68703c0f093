//! Who of the workers sleeps, and whom to wake.
//!
//! A worker that goes to sleep sets its bit in a word that all share. Who has sent a message takes one bit out and rings for its
//! worker: one for each message, not all. Nothing is lost by that:
//!
//! - Who sleeps with its bit set saw nothing READY after it set the bit (fence between). Who sends looks for bits
//!   after the message is READY (fence between). So either it finds a bit, or everybody who is not at work on a message
//!   will look once more before it sleeps.
//! - A bit that was taken out is a promise: its worker will look, and take a message or find none. So for
//!   each message that is READY and whose sender has looked, as long as somebody sleeps with its bit set, there is one who
//!   was rung for and has not looked yet. Another that takes the message, rung for or not, takes one of each away.
//! - Who was rung for and leaves a message where it is, as too long for its buffer, rings for the next.
//! - Who rings sees whether the kernel woke somebody. One that is stopped sleeps on no word, so that nobody was: then
//!   the next is rung for too. (One that is stopped between being woken and taking a message is not seen; who
//!   comes by later, woken itself, sees more messages and rings on.)
//! - Who sleeps by its doorbell may be a program that is busy elsewhere: as for a stopped one, the next is rung for too.
//!   So of several that sleep so all are rung for, and of a message nobody is the last hope.
//! - Who dies between taking a bit out and ringing, or being rung for and taking a message, breaks the promise. Its
//!   death rings for everybody, after its own messages were handed on.
//!
//! Nobody writes the word who neither sleeps nor wakes.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::time::Duration;

use super::slots::Swap;
use crate::channel::fence::Fencing;
use crate::channel::memory::Atom;
use crate::error::Stop;
use crate::sync::word::{ALL, Word};
use crate::wait::Wait;

/// The most workers: each has a bit.
pub(crate) const MOST_WORKERS: u64 = 64;
/// How often a sleeper looks whose kernel has begun to refuse it the fence.
const LOOK: Duration = Duration::from_millis(1);

/// The workers.
pub(super) trait Crew {
    type Bits: Swap;
    type Bell: Word;

    /// A bit for each worker that sleeps and was not rung for.
    fn asleep(&self) -> &Self::Bits;

    /// How many there may be. Known to this process.
    fn workers(&self) -> u64;

    /// What a worker sleeps on.
    fn bell(&self, worker: u64) -> &Self::Bell;

    /// Rings for a worker, whether it sleeps or not. Gives whether the kernel woke it.
    fn ring(&self, worker: u64) -> bool {
        self.bell(worker).fetch_add(1, Release);
        self.bell(worker).wake(ALL) > 0
    }
}

/// Sleeps until `look` finds something, as long as `wait` allows. It looks once more at the end of that. If what it
/// found leaves work for others, by `leaves_work`, it rings for the next.
#[cold]
pub(super) fn sleep_until<C: Crew, T>(
    crew: &C,
    worker: u64,
    fencing: Fencing,
    wait: Wait<'_>,
    mut look: impl FnMut() -> Option<T>,
    leaves_work: impl FnOnce(&T) -> bool,
) -> Result<T, Stop> {
    let (word, bit) = (crew.bell(worker), 1 << worker);
    let found = loop {
        let heard = word.load(Acquire);
        crew.asleep().fetch_or(bit, AcqRel);
        let sure = cfg!(sabotage = "queue-no-fence") || fencing.before_sleep();
        // Partner: `wake_one`. One of the two sees what the other did.
        if !cfg!(sabotage = "queue-no-second-look")
            && let Some(found) = look()
        {
            crew.asleep().fetch_and(!bit, AcqRel);
            break found;
        }
        let slept =
            if sure { word.sleep(heard, wait) } else { word.sleep_and_look(heard, wait, LOOK) };
        // Whoever took the bit out before has published what is looked for now.
        crew.asleep().fetch_and(!bit, AcqRel);
        if let Some(found) = look() {
            break found;
        }
        slept?;
    };
    if leaves_work(&found) && !cfg!(sabotage = "queue-work-kept") {
        wake_one(crew, fencing);
    }
    Ok(found)
}

/// Rings for one that sleeps, if there is one: after a message was published.
#[inline]
pub(super) fn wake_one<C: Crew>(crew: &C, fencing: Fencing) -> bool {
    if !cfg!(sabotage = "queue-no-publish-fence") {
        fencing.after_publish();
    }
    crew.asleep().load(Relaxed) != 0 && ring_one(crew)
}

#[cold]
#[inline(never)]
pub(super) fn ring_one<C: Crew>(crew: &C) -> bool {
    let mut rang = false;
    // The lowest first: a few stay warm.
    for worker in 0..crew.workers() {
        let bit = 1 << worker;
        if crew.asleep().load(Relaxed) & bit == 0
            || crew.asleep().fetch_and(!bit, AcqRel) & bit == 0
        {
            continue;
        }
        rang = true;
        // Else it was on its way, or is stopped, or sleeps by its doorbell.
        if crew.ring(worker) || cfg!(sabotage = "queue-stopped-believed") {
            break;
        }
    }
    rang
}

/// Rings for all that sleep, and were not rung for.
#[inline]
pub(super) fn wake_those_asleep<C: Crew>(crew: &C) {
    while crew.asleep().load(Relaxed) != 0 && ring_one(crew) {}
}

/// Rings for all, whether they sleep or not: for a death, a close, a message handed on.
pub(super) fn wake_all<C: Crew>(crew: &C) {
    for worker in 0..crew.workers() {
        crew.ring(worker);
    }
}

/// Says that a worker sleeps that is not in a call.
pub(super) fn set<C: Crew>(crew: &C, worker: u64) {
    crew.asleep().fetch_or(1 << worker, AcqRel);
}

/// Takes out the bit of one that is dead, or that begins.
pub(super) fn clear<C: Crew>(crew: &C, worker: u64) {
    crew.asleep().fetch_and(!(1 << worker), AcqRel);
}
