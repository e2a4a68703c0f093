//! The slots of a lane: which message is whose. The bytes of a message lie elsewhere, so that no byte that a user
//! wrote is ever compared with.
//!
//! A message has a number; it is in the slot of that number modulo the slots. One word of a slot says
//! what became of it, with the round of the number, who has it, and how often it was given out in vain:
//!
//! ```text
//! FREE or DONE (round before) --send--> READY --claim--> TAKEN by a worker --release--> DONE
//!                                         ^                  |
//!                                         +----it died-------+---too often---> ASIDE --claim--> TAKEN
//! ```
//!
//! The sender alone leaves FREE and DONE, by a store. Every other change is one exchange of the whole word, and a round does
//! not come again: who was late by any time changes nothing. There are 2^40 rounds: of 1024 slots, for three years at
//! ten million messages a second.
//!
//! # Where to look
//! The hint says from which number on a message may be READY. Who has looked further moves it on, and who makes an older
//! message READY again moves it back ([`rewind`]) and numbers it anew: so nobody moves it on who looked before that.
//! Whatever is READY can be claimed in whichever round it was sent, and whoever looks goes over each slot
//! at most once, up to the sender's tail, and one further: a sender may die between the two stores.
//!
//! # Memory order
//! READY is stored with release and seen with acquire, and every later change of the word is an exchange, which
//! continues that: who claims sees the bytes. DONE releases, and the sender acquires it: what was read is read before it is written
//! again.

use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

use crate::channel::memory::{Atom, SenderField};
use crate::channel::ring::Corrupt;

/// How many bytes a slot takes: a line, so that two workers do not write to one.
pub(crate) const SLOT: u64 = 64;
/// The most slots of a lane.
pub(crate) const MOST_SLOTS: u64 = 1 << 16;
/// What the bytes of messages are aligned to, and their lengths rounded up to: nor do they share a line.
pub(super) const GRAIN: u64 = 64;

// A state word: the state (3 bits), who has it (17), how often it was given out in vain (4), the round (40).
const STATE_SHIFT: u32 = 61;
const WHO_SHIFT: u32 = 44;
const WHO_MASK: u64 = (1 << 17) - 1;
const VAIN_SHIFT: u32 = 40;
const VAIN_MASK: u64 = (1 << 4) - 1;
const ROUND_MASK: u64 = (1 << VAIN_SHIFT) - 1;
/// The most times that a message can be given out.
pub(crate) const MOST_DELIVERIES: u64 = VAIN_MASK;
const FREE: u64 = 0;
const READY: u64 = 1;
const TAKEN: u64 = 2;
const DONE: u64 = 3;
const ASIDE: u64 = 4;

/// Who has a message: the place of a worker, and the how-manieth worker it is there. So who hands on the messages of the dead, and
/// is slow at that, leaves those of its successor alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who(u64);

/// How many bits the turn has.
const TURN: u32 = 10;

impl Who {
    /// The worker at place `worker`, of at most 64, in its turn.
    pub(super) const fn new(worker: u64, turn: u64) -> Self {
        Self((worker + 1) << TURN | turn & ((1 << TURN) - 1))
    }

    /// Whether the two were at one place.
    pub(super) const fn is_at_place_of(self, other: Self) -> bool {
        self.0 >> TURN == other.0 >> TURN
    }
}

/// A word that is exchanged.
pub(in crate::channel) trait Swap: Atom {
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64>;
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64;
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64;
}

/// The words of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Field {
    State = 0,
    /// Where its bytes are, in the upper half, and how many.
    Place = 1,
    /// How many messages were sent through the lane before it.
    Sequence = 2,
    /// How many bytes were sent with it and before.
    Bytes = 3,
}

/// The words of a lane.
pub(super) trait Table {
    type Word: Swap;

    /// How many slots there are: a power of two of at least 2. Known to this process.
    fn slots(&self) -> u64;

    /// How many bytes there are for messages: a multiple of [`GRAIN`] of at most 2^32. Known to this process.
    fn capacity(&self) -> u64;

    /// A word of the slot of this number.
    fn word(&self, number: u64, field: Field) -> &Self::Word;

    /// A word that only the sender writes.
    fn sender(&self, field: SenderField) -> &Self::Word;

    /// From where on to look: written by whoever has looked.
    fn hint(&self) -> &Self::Word;
}

/// What a state word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Ready,
    Taken,
    Done,
    Aside,
}

/// A state word, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) state: State,
    /// The number of the message; of a slot that is free, none.
    pub(super) number: u64,
}

impl Seen {
    /// What is in the slot of this number.
    pub(super) fn at<T: Table>(table: &T, number: u64) -> Result<Self, Corrupt> {
        let word = table.word(number, Field::State).load(Acquire);
        let state = match word >> STATE_SHIFT {
            FREE if word == 0 => State::Free,
            READY => State::Ready,
            TAKEN => State::Taken,
            DONE => State::Done,
            ASIDE => State::Aside,
            _ => return Err(Corrupt),
        };
        let slots = table.slots();
        Ok(Self { state, number: (word & ROUND_MASK) * slots + (number & (slots - 1)) })
    }
}

/// The number at which there are no more rounds.
pub(super) const fn end(slots: u64) -> u64 {
    slots << VAIN_SHIFT
}

/// The word of a message that has just been sent.
pub(super) const fn ready(number: u64, slots: u64) -> u64 {
    (READY << STATE_SHIFT) | (number / slots)
}

/// Who has a message that nobody has.
const NOBODY: Who = Who(0);

const fn state_of(word: u64) -> u64 {
    word >> STATE_SHIFT
}

const fn who_of(word: u64) -> Who {
    Who(word >> WHO_SHIFT & WHO_MASK)
}

const fn vain_of(word: u64) -> u64 {
    word >> VAIN_SHIFT & VAIN_MASK
}

/// The same message in another state.
const fn change(word: u64, state: u64, who: Who, vain: u64) -> u64 {
    state << STATE_SHIFT | who.0 << WHO_SHIFT | vain << VAIN_SHIFT | word & ROUND_MASK
}

/// Where bytes are: a place word that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u64,
    pub(super) len: u64,
}

/// How much memory a message of so many bytes takes.
#[inline]
pub(super) const fn room_for(len: u64) -> u64 {
    (if len == 0 { 1 } else { len }).next_multiple_of(GRAIN)
}

impl Place {
    pub(super) const fn word(self) -> u64 {
        self.offset << 32 | self.len
    }

    pub(super) fn of<T: Table>(table: &T, number: u64) -> Result<Self, Corrupt> {
        let word = table.word(number, Field::Place).load(Relaxed);
        let (offset, len) = (word >> 32, word & 0xFFFF_FFFF);
        if !offset.is_multiple_of(GRAIN) || offset + room_for(len) > table.capacity() {
            return Err(Corrupt);
        }
        Ok(Self { offset, len })
    }
}

/// A message that a worker has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its slot, and what the word of that says as long as the worker has it.
    index: u64,
    word: u64,
    pub(super) place: Place,
    /// How many were sent before it.
    pub(super) sequence: u64,
    /// How often it was given out before, in vain.
    pub(super) vain: u64,
}

/// What somebody found who looked for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Job(Taken),
    /// There is one of so many bytes, and it was left there.
    TooLong(u64),
    Nothing,
}

/// Takes the next message of at most `most` bytes for a worker.
pub(super) fn claim<T: Table>(table: &T, who: Who, most: u64) -> Result<Found, Corrupt> {
    // The hint first: it is never further than a tail that is read later, and one.
    let hint = table.hint().load(Acquire);
    let tail = table.sender(SenderField::Tail).load(Acquire);
    let begin = begin_of(hint, tail, table.slots())?;
    let mut number = begin;
    loop {
        match claim_slot(table, number, READY, who, most)? {
            Some(Found::Job(job)) => {
                move_on(table, hint, begin, number + 1);
                return Ok(Found::Job(job));
            }
            Some(found) => return Ok(found),
            None if number >= tail => {
                move_on(table, hint, begin, number);
                return Ok(Found::Nothing);
            }
            None => number += 1,
        }
    }
}

/// Takes a message that was set aside.
pub(super) fn claim_aside<T: Table>(table: &T, who: Who, most: u64) -> Result<Found, Corrupt> {
    for index in 0..table.slots() {
        if let Some(found) = claim_slot(table, index, ASIDE, who, most)? {
            return Ok(found);
        }
    }
    Ok(Found::Nothing)
}

/// Takes the message of one slot, if it is in this state.
#[inline]
fn claim_slot<T: Table>(
    table: &T,
    number: u64,
    wanted: u64,
    who: Who,
    most: u64,
) -> Result<Option<Found>, Corrupt> {
    let index = number & (table.slots() - 1);
    let state = table.word(index, Field::State);
    let word = state.load(Acquire);
    if state_of(word) != wanted {
        return Ok(None);
    }
    // Before it is taken; if the exchange does not fail, they were this message's.
    let place = Place::of(table, index)?;
    let sequence = table.word(index, Field::Sequence).load(Relaxed);
    if place.len > most {
        // Unless another has it meanwhile, and these were of a later one.
        let still = state.load(Acquire) == word;
        return Ok(still.then_some(Found::TooLong(place.len)));
    }
    let taken = change(word, TAKEN, who, vain_of(word));
    if cfg!(sabotage = "queue-claim-by-store") {
        state.store(taken, Release);
    } else if state.compare_exchange(word, taken, AcqRel, Relaxed).is_err() {
        return Ok(None);
    }
    let vain = vain_of(word);
    Ok(Some(Found::Job(Taken { index, word: taken, place, sequence, vain })))
}

/// From which number on to look.
fn begin_of(hint: u64, tail: u64, slots: u64) -> Result<u64, Corrupt> {
    if tail >= end(slots) {
        return Err(Corrupt);
    }
    // The number's lower half is in the lower half of the hint.
    let behind = i64::from((tail as u32).wrapping_sub(hint as u32).cast_signed());
    match u64::try_from(behind) {
        Ok(behind) => Ok(tail.saturating_sub(behind.min(slots))),
        // A sender stores its tail after the message.
        Err(_) if behind == -1 => Ok(tail + 1),
        Err(_) => Err(Corrupt),
    }
}

/// Whether there may be a message to take.
pub(super) fn may_have_more<T: Table>(table: &T) -> bool {
    let hint = table.hint().load(Acquire);
    let tail = table.sender(SenderField::Tail).load(Acquire);
    begin_of(hint, tail, table.slots()).is_ok_and(|begin| begin < tail)
}

/// Says that nothing before this number is READY, if nobody has made something so since the hint was read.
#[inline]
fn move_on<T: Table>(table: &T, hint: u64, begin: u64, number: u64) {
    if number > begin {
        let new = hint & !0xFFFF_FFFF | number & 0xFFFF_FFFF;
        // Failed: somebody else has moved it on, or back.
        let _ = table.hint().compare_exchange(hint, new, AcqRel, Relaxed);
    }
}

/// A word that others change more often than this in the middle of one exchange is not written by honest peers.
const TURNS: usize = 1000;

/// Moves the hint back to where the oldest message may be: after something older was made READY again.
pub(super) fn rewind<T: Table>(table: &T) {
    if cfg!(sabotage = "queue-no-rewind") {
        return;
    }
    let tail = table.sender(SenderField::Tail).load(Acquire);
    let number = tail.saturating_sub(table.slots()) & 0xFFFF_FFFF;
    let mut hint = table.hint().load(Acquire);
    for _ in 0..TURNS {
        // Another number each time: who looked before moves it nowhere.
        let turn = if cfg!(sabotage = "queue-unnumbered-rewind") { 0 } else { 1 << 32 };
        let new = (hint & !0xFFFF_FFFF).wrapping_add(turn) | number;
        match table.hint().compare_exchange(hint, new, AcqRel, Acquire) {
            Ok(_) => return,
            Err(now) => hint = now,
        }
    }
}

/// Says that a worker is done with a message. Gives whether the message was still the worker's.
#[inline]
pub(super) fn release<T: Table>(table: &T, job: &Taken) -> bool {
    let state = table.word(job.index, Field::State);
    let done = change(job.word, DONE, NOBODY, job.vain);
    if cfg!(sabotage = "queue-release-by-store") {
        state.store(done, Release);
        return true;
    }
    let order = if cfg!(sabotage = "queue-relaxed-release") { Relaxed } else { Release };
    state.compare_exchange(job.word, done, order, Relaxed).is_ok()
}

/// Puts a message back that a worker cannot finish: or aside, if that was so `bound` times. The caller
/// rings.
pub(super) fn give_back<T: Table>(table: &T, job: &Taken, bound: u64) -> bool {
    let state = table.word(job.index, Field::State);
    let new = in_vain(job.word, bound);
    let back = state.compare_exchange(job.word, new, AcqRel, Relaxed).is_ok();
    if back {
        rewind(table);
    }
    back
}

/// The word of a message that a worker did not finish.
fn in_vain(word: u64, bound: u64) -> u64 {
    let vain = (vain_of(word) + 1).min(MOST_DELIVERIES);
    change(word, if vain >= bound { ASIDE } else { READY }, NOBODY, vain)
}

/// Whose messages are handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dead {
    This(Who),
    /// Whoever was at this one's place before.
    Before(Who),
}

impl Dead {
    fn had(self, word: u64) -> bool {
        let who = who_of(word);
        state_of(word) == TAKEN
            && match self {
                Self::This(dead) => who == dead,
                Self::Before(own) => who.is_at_place_of(own) && who != own,
            }
    }
}

/// Hands on every message that a dead worker had. Whoever has proof of the death does it, several at a time
/// too; whoever dies over it is followed by another who does all of it again. The caller rings for everybody.
pub(super) fn recover<T: Table>(table: &T, dead: Dead, bound: u64) {
    hand_on(table, dead, bound);
    // Always: who handed something on before may have died before this.
    rewind(table);
}

/// What [`recover`] does first.
pub(super) fn hand_on<T: Table>(table: &T, dead: Dead, bound: u64) {
    for index in 0..table.slots() {
        let state = table.word(index, Field::State);
        let word = state.load(Acquire);
        if dead.had(word) {
            let new = in_vain(word, bound);
            if cfg!(sabotage = "queue-hand-on-by-store") {
                state.store(new, Release);
            } else {
                // Failed: another has handed it on.
                let _ = state.compare_exchange(word, new, AcqRel, Relaxed);
            }
        }
    }
}

/// How many messages are in each state; of those that are taken, how many another has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) ready: u64,
    pub(super) taken: u64,
    pub(super) aside: u64,
}

/// Counts them, each as it is when it is looked at.
pub(super) fn tally<T: Table>(table: &T, own: Who) -> Tally {
    let mut tally = Tally::default();
    for index in 0..table.slots() {
        let word = table.word(index, Field::State).load(Acquire);
        match state_of(word) {
            READY => tally.ready += 1,
            TAKEN => tally.taken += u64::from(who_of(word) != own),
            ASIDE => tally.aside += 1,
            _ => {}
        }
    }
    tally
}
