//! Who may read and who may write, over [`Word`]s: a mutex that is not here, a gate, and a place for
//! each reader.
//!
//! Writers come one at a time, through the mutex. The one who has it waits at each place that is taken;
//! a reader takes a place and then looks whether somebody has the mutex. Whatever the order, one of
//! the two sees the other (both sides are SeqCst). A reader that finds it taken gives its place back and
//! waits for the mutex like everybody else, so neither side starves the other.
//!
//! The gate says what the one who has the mutex does. A reader that has it for its turn lets others in
//! meanwhile, or they would keep each other out for ever without any writer. A writer leaves its mark there
//! in case that it dies.
//!
//! A place is a robust word: when its reader dies the kernel puts the mark of the dead into it and
//! wakes the writer that sleeps there. Only the one who has the mutex ever sleeps on places.

use std::sync::atomic::Ordering;

use crate::error::Stop;
use crate::sync::robust::{OWNER_DIED, TID_MASK, WAITERS};
use crate::sync::word::Word;
use crate::wait::Wait;
use crate::wait::word::Change;

/// Readers may come in while nobody has the mutex.
pub(super) const OPEN: u32 = 0;
/// Whoever has the mutex reads: others may come in all the same.
pub(super) const PASSING: u32 = 1;
/// Whoever has the mutex writes.
pub(super) const WRITING: u32 = 2;

/// How often a writer looks at a place before it sleeps there: readers are usually short.
const LOOKS: u32 = if cfg!(sinew_loom) { 0 } else { 50 };

/// The words of a lock.
pub(super) trait Places {
    /// What they are.
    type Word: Word;

    /// The word of the mutex: 0 while nobody has it.
    fn turn(&self) -> &Self::Word;

    /// [`OPEN`], [`PASSING`] or [`WRITING`].
    fn gate(&self) -> &Self::Word;

    /// How many readers there is a place for.
    fn count(&self) -> u32;

    /// With those that only who has the mutex may take.
    fn all(&self) -> u32;

    /// Zero, or who reads. `index` is below `all`.
    fn place(&self, index: u32) -> &Self::Word;

    /// Replaces `seen` by `tid` if it is there still, with the effect of SeqCst, and has the place
    /// marked by the kernel if this thread dies from that instant on.
    fn take(&self, index: u32, seen: u32, tid: u32) -> bool;

    /// Undoes that: [`leave`] is what happens to the word.
    fn give_back(&self, index: u32, tid: u32);
}

/// How an attempt to read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// It reads, at this place.
    At(u32),
    /// A writer is there, or comes.
    Closed,
    /// All places are taken.
    Full,
    /// The gate is rubbish.
    Corrupt,
}

/// How waiting for the readers ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Drained {
    /// Nobody reads.
    Empty,
    /// The caller itself reads.
    Deadlock,
    /// A place is rubbish.
    Corrupt,
}

/// Comes in to read, if nobody writes or is about to. `near` is the place to look at first.
#[inline]
pub(super) fn enter<P: Places>(places: &P, tid: u32, near: u32) -> Entered {
    match look(places, Ordering::Relaxed) {
        Look::Open => {}
        Look::Closed => return Entered::Closed,
        Look::Corrupt => return Entered::Corrupt,
    }
    let Some(index) = claim(places, tid, near) else { return Entered::Full };
    P::Word::settle();
    // A writer that comes sees the place, or this sees the writer. Unchecked: without this second look
    // both can be in.
    if look(places, Ordering::SeqCst) != Look::Open && !cfg!(sabotage = "rwlock-unchecked") {
        places.give_back(index, tid);
        return Entered::Closed;
    }
    Entered::At(index)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Open,
    Closed,
    Corrupt,
}

/// Whether readers may come in. First the mutex, then the gate: one that a reader has opened before a
/// writer came is not taken for open after that.
#[inline]
fn look<P: Places>(places: &P, order: Ordering) -> Look {
    let had = places.turn().load(order) != 0;
    match places.gate().load(order) {
        OPEN if had => Look::Closed,
        OPEN | PASSING => Look::Open,
        WRITING => Look::Closed,
        _ => Look::Corrupt,
    }
}

/// The same for who has the mutex. Lets others in meanwhile.
#[cold]
pub(super) fn pass<P: Places>(places: &P, tid: u32, near: u32) -> Option<u32> {
    // Whoever finds this has seen what the last writer did.
    places.gate().store(PASSING, Ordering::SeqCst);
    let index = claim(places, tid, near);
    // SeqCst: whoever found the gate passing took a place before that, and the next writer, which has
    // the mutex after this, sees the place.
    places.gate().store(OPEN, Ordering::SeqCst);
    index
}

/// Takes a place that is free or whose reader is dead, whatever the gate is.
#[inline]
pub(super) fn claim<P: Places>(places: &P, tid: u32, near: u32) -> Option<u32> {
    let count = places.count();
    let near = if near < count { near } else { 0 };
    (near..count).chain(0..near).find(|index| {
        let seen = places.place(*index).load(Ordering::Relaxed);
        seen & TID_MASK == 0 && places.take(*index, seen, tid)
    })
}

/// Frees a place, and wakes whoever sleeps there.
#[inline]
pub(super) fn leave<W: Word>(word: &W, tid: u32) {
    if word.compare_exchange(tid, 0, Ordering::Release, Ordering::Relaxed).is_err() {
        // Unwoken: the place is freed, and whoever sleeps there sleeps on.
        if cfg!(sabotage = "rwlock-unwoken") {
            return word.store(0, Ordering::Release);
        }
        // Freed and woken in one step: killed in between, this thread would leave it asleep.
        word.change_and_wake(Change::Set(0), 1);
    }
}

/// Whether a thread reads already.
#[cold]
pub(super) fn reads<P: Places>(places: &P, tid: u32) -> bool {
    (0..places.all()).any(|i| places.place(i).load(Ordering::Relaxed) & TID_MASK == tid)
}

/// Whether nobody reads. These are all places, and the caller has the mutex.
#[inline]
pub(super) fn is_empty<'a, W: Word + 'a>(places: impl Iterator<Item = &'a W>) -> bool {
    W::settle();
    // Partner: the release in `leave`. No branch for each: all are looked at nearly always.
    places.fold(0, |any, word| any | word.load(Ordering::SeqCst)) == 0
        // Not waited for: whoever reads is not seen.
        || cfg!(sabotage = "rwlock-undrained")
}

/// Waits until nobody reads; the caller has the mutex.
pub(super) fn drain<P: Places>(places: &P, tid: u32, wait: Wait<'_>) -> Result<Drained, Stop> {
    if is_empty((0..places.all()).map(|index| places.place(index))) {
        return Ok(Drained::Empty);
    }
    // To wait for others first would not end it.
    if reads(places, tid) {
        return Ok(Drained::Deadlock);
    }
    for index in 0..places.all() {
        match drain_one(places.place(index), wait)? {
            Drained::Empty => {}
            other => return Ok(other),
        }
    }
    Ok(Drained::Empty)
}

#[cold]
fn drain_one<W: Word>(word: &W, wait: Wait<'_>) -> Result<Drained, Stop> {
    let mut looks = 0;
    loop {
        let seen = word.load(Ordering::SeqCst);
        let owner = seen & TID_MASK;
        if seen == 0 {
            return Ok(Drained::Empty);
        } else if owner == 0 {
            // Its reader is dead: what the kernel left there goes. Else somebody came, who is too late and
            // gives it back at once.
            let freed = word.compare_exchange(seen, 0, Ordering::SeqCst, Ordering::Relaxed);
            if freed.is_ok() {
                return Ok(Drained::Empty);
            }
        } else if seen & OWNER_DIED != 0 {
            return Ok(Drained::Corrupt);
        } else if looks < LOOKS {
            looks += 1;
            W::spin();
        } else {
            let marked = seen | WAITERS;
            if word.compare_exchange(seen, marked, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
                word.sleep(marked, wait)?;
            }
        }
    }
}

#[cfg(all(test, sinew_loom))]
mod models;
