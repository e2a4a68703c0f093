//! Whether the one at a side is there: a word that it writes itself, and a survivor once it is proven dead.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use super::bell;
use super::lane::{Side, SideField};
use super::memory::Atom;

/// Whether somebody is at an end of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nobody was there yet.
    Never,
    /// It is there; it may have died just now.
    Here,
    /// It left in order.
    Left,
    /// It died, as a survivor has seen.
    Died,
}

/// What is in the word: the kind, and how many were here before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) presence: Presence,
    /// The how-manieth it is.
    pub(crate) turn: u64,
}

pub(super) const KINDS: u64 = 2;

/// The kind in a word.
pub(super) const fn kind_of(word: u64) -> Presence {
    match word & ((1 << KINDS) - 1) {
        0 => Presence::Never,
        1 => Presence::Here,
        2 => Presence::Left,
        _ => Presence::Died,
    }
}

impl Seen {
    pub(crate) fn at(side: &Side) -> Self {
        Self::of(side.word(SideField::Presence))
    }

    pub(crate) fn of(word: &impl Atom) -> Self {
        // Partner: `say_in`. What the other did before it left is seen.
        let word = word.load(Acquire);
        Self { presence: kind_of(word), turn: word >> KINDS }
    }

    /// Says that whoever is here is dead, as is proven, unless somebody else is here by now: `replaced` looks for that.
    pub(crate) fn died(side: &Side, replaced: impl FnOnce() -> bool) {
        let word = side.word(SideField::Presence);
        let seen = word.load(Acquire);
        if seen & ((1 << KINDS) - 1) == 1 && !replaced() {
            // Who comes after the look says so itself, after this or before it, when this fails.
            let _ = word.compare_exchange(seen, seen | 3, AcqRel, Relaxed);
        }
    }

    /// Says that nobody will come, if nobody ever did.
    pub(crate) fn never_comes(side: &Side) {
        let _ = side.word(SideField::Presence).compare_exchange(0, 2, AcqRel, Relaxed);
    }

    /// Whether somebody is there who does not sleep: nothing has to be told, and nobody rung for.
    #[inline]
    pub(crate) fn is_at_work(side: &Side) -> bool {
        let presence = side.word(SideField::Presence).load(Acquire);
        presence & ((1 << KINDS) - 1) == 1
            && !bell::is_asleep(side.word(SideField::Sleeping).load(Acquire))
    }

    /// Says so to the others, who may have to be rung for.
    pub(crate) fn say(self, side: &Side) {
        self.say_in(side.word(SideField::Presence));
    }

    pub(crate) fn say_in(self, word: &impl Atom) {
        let kind = match self.presence {
            Presence::Never => 0,
            Presence::Here => 1,
            Presence::Left => 2,
            Presence::Died => 3,
        };
        word.store(self.turn << KINDS | kind, Release);
    }
}
