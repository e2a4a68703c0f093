//! The words by which members say who takes part: one for each place, and one for who holds the name.
//!
//! A place goes round: free, joining, here, then left or dead, and free again. Each step is one exchange
//! of its word, and each is one party's to take:
//!
//! | step | who | when |
//! |---|---|---|
//! | free -> joining | the holder's service | a newcomer said hello; the generation goes up |
//! | joining -> here | the newcomer | it has mapped the object |
//! | joining -> free | a new holder, or the holder whose newcomer hung up | the newcomer's own step then fails, and it starts anew |
//! | here -> left | the member | it closes |
//! | joining, here -> dead | any survivor | with the proof in its hand: the member's pidfd |
//! | left, dead -> free | the holder | what the member left is made good |
//!
//! So whoever is killed between two steps leaves a word that says what remains to be done, and doing it
//! twice does no harm.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::channel::name::Identity;
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;

#[cfg(all(test, sinew_loom))]
mod models;
#[cfg(test)]
mod tests;

/// The most members that a channel has.
pub(crate) const MOST: usize = 128;
/// How many bytes of the object each place takes.
pub(crate) const SIZE: usize = 64;
/// How many bytes the name of a durable member has at most.
pub(crate) const NAME: usize = 32;

/// A word that others change more often than this in the middle of one step is not written by honest members.
const TURNS: usize = 1000;

/// What a member does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Role {
    Sender = 1,
    Receiver = 2,
}

impl Role {
    pub(super) const fn parse(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Sender),
            2 => Some(Self::Receiver),
            _ => None,
        }
    }
}

/// How far a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub(crate) enum Kind {
    Free = 0,
    Joining = 1,
    Here = 2,
    Left = 3,
    Dead = 4,
}

/// What the word of a place says. A place that was never used is free, of generation 0, without a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) kind: Kind,
    /// None only in a place that was never used.
    pub(crate) role: Option<Role>,
    /// Which of the lanes, or of the receivers' blocks, is its own.
    pub(crate) lane: u16,
    /// Which of those that had the place one after the other.
    pub(crate) generation: u32,
}

impl State {
    pub(super) const fn word(self) -> u64 {
        let role = match self.role {
            Some(role) => role as u64,
            None => 0,
        };
        (self.kind as u64) | role << 8 | (self.lane as u64) << 16 | (self.generation as u64) << 32
    }

    /// None for what no member writes.
    pub(crate) fn parse(word: u64) -> Option<Self> {
        let [kind, role, low, high, a, b, c, d] = word.to_le_bytes();
        let kind = match kind {
            0 => Kind::Free,
            1 => Kind::Joining,
            2 => Kind::Here,
            3 => Kind::Left,
            4 => Kind::Dead,
            _ => return None,
        };
        let role = Role::parse(role);
        if role.is_none() && word != 0 {
            return None;
        }
        let lane = u16::from_le_bytes([low, high]);
        Some(Self { kind, role, lane, generation: u32::from_le_bytes([a, b, c, d]) })
    }

    /// Whether a member has the place: it may do what it likes there until it is proven dead.
    pub(crate) fn is_taken(self) -> bool {
        matches!(self.kind, Kind::Joining | Kind::Here)
    }

    /// Whether it is nobody's, and not free: of one that died or left.
    pub(crate) fn is_kept(self) -> bool {
        matches!(self.kind, Kind::Left | Kind::Dead)
    }

    const fn with(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}

/// What a place's word runs on; the models have one of their own.
pub(super) trait Word {
    fn load(&self) -> u64;
    /// Replaces `current`, and says whether it was there.
    fn exchange(&self, current: u64, new: u64) -> bool;
}

impl Word for AtomicU64 {
    fn load(&self) -> u64 {
        // SeqCst, here and below: a member that leaves looks for others after it said so, and they look
        // for it after they arrived. One of the two has to see the other.
        Self::load(self, Ordering::SeqCst)
    }

    fn exchange(&self, current: u64, new: u64) -> bool {
        self.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The word of one place.
#[derive(Debug)]
pub(super) struct Slot<'a, W>(pub(super) &'a W);

impl<W: Word> Slot<'_, W> {
    pub(super) fn state(&self) -> Option<State> {
        State::parse(self.0.load())
    }

    fn step(&self, from: State, to: State) -> bool {
        self.0.exchange(from.word(), to.word())
    }

    /// Gives a place that is `seen`, and nobody's, to a newcomer. Gives its generation.
    pub(super) fn allot(&self, seen: State, role: Role, lane: u16) -> Option<u32> {
        let generation = seen.generation.wrapping_add(1);
        let new = State { kind: Kind::Joining, role: Some(role), lane, generation };
        (!seen.is_taken() && self.step(seen, new)).then_some(generation)
    }

    /// The newcomer is here. Not if the place was taken back.
    pub(super) fn arrive(&self, generation: u32) -> bool {
        // Blind arrival: a newcomer whose place was taken back is there all the same.
        let from: &[Kind] = if cfg!(sabotage = "slot-blind-arrival") {
            &[Kind::Joining, Kind::Free]
        } else {
            &[Kind::Joining]
        };
        self.advance(generation, from, Kind::Here).is_some()
    }

    /// The place of a newcomer that has not arrived is free again.
    pub(super) fn cancel(&self, generation: u32) -> bool {
        self.advance(generation, &[Kind::Joining], Kind::Free).is_some()
    }

    /// The member leaves in order.
    pub(super) fn leave(&self, generation: u32) -> bool {
        self.advance(generation, &[Kind::Joining, Kind::Here], Kind::Left).is_some()
    }

    /// The member is proven dead. Says whether this made the difference.
    pub(super) fn bury(&self, generation: u32) -> bool {
        self.advance(generation, &[Kind::Joining, Kind::Here], Kind::Dead).is_some()
    }

    /// What the member left is made good.
    pub(super) fn free(&self, generation: u32) -> bool {
        // Free of generation 0 would be a place that was never used.
        self.advance(generation, &[Kind::Left, Kind::Dead], Kind::Free).is_some()
    }

    /// Takes the step from one of `from` to `to`, if the member of this generation has the place still.
    fn advance(&self, generation: u32, from: &[Kind], to: Kind) -> Option<State> {
        for _ in 0..TURNS {
            let seen = self.state()?;
            // Any generation: who is late with a proof buries the next one.
            let other = seen.generation != generation && !cfg!(sabotage = "slot-any-generation");
            if other || !from.contains(&seen.kind) {
                return None;
            }
            if self.step(seen, seen.with(to)) {
                return Some(seen);
            }
        }
        None
    }
}

/// Who holds the name of the channel: which place, and how often the name went over, so that a holder that
/// has the same place as an earlier one is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder(u32);

impl Holder {
    /// The first holder.
    pub(super) const fn first(slot: usize) -> Self {
        Self(slot as u32 + 1)
    }

    pub(crate) const fn from_word(word: u32) -> Self {
        Self(word)
    }

    pub(super) const fn word(self) -> u32 {
        self.0
    }

    /// Its place. None in a channel without a name.
    pub(crate) const fn slot(self) -> Option<usize> {
        (self.0 as usize & 0xff).checked_sub(1)
    }

    /// The holder after this one.
    pub(super) const fn followed_by(self, slot: usize) -> Self {
        Self((self.0 & !0xff).wrapping_add(0x100) | (slot as u32 + 1))
    }
}

/// What a member says about itself, for people and for `seat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Info {
    /// As the member sees it. For people: nothing is decided by it.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// The inode number of its pid namespace.
    pub(crate) namespace: u64,
    /// When it started, in clock ticks since the host did.
    pub(crate) started: u64,
    /// The name of a durable member; zeros where it has none.
    pub(crate) name: [u8; NAME],
}

impl Info {
    fn bytes(&self) -> [u8; SIZE - 8] {
        let mut bytes = [0; SIZE - 8];
        bytes[..4].copy_from_slice(&self.pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.uid.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.namespace.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.started.to_le_bytes());
        bytes[24..].copy_from_slice(&self.name);
        bytes
    }

    pub(crate) fn parse(bytes: &[u8; SIZE - 8]) -> Self {
        let four = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let eight = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        Self {
            pid: four(0),
            uid: four(4),
            namespace: eight(8),
            started: eight(16),
            name: std::array::from_fn(|i| bytes[24 + i]),
        }
    }
}

/// How far behind the word of the holder the three are that say which socket had the name last.
pub(crate) const SOCKET: usize = 8;

/// The table of the members, and the words of the holder and its socket, in the memory of the channel.
///
/// Whatever a member writes there, each word is read once and taken for what it says only if an honest
/// member could have written it.
#[derive(Clone)]
pub(crate) struct Table {
    map: Arc<Mapping>,
    at: usize,
    count: usize,
    holder_at: usize,
}

impl Table {
    /// `count` places from byte `at` of the object on; the words of the holder are from `holder_at` on.
    ///
    /// # Errors
    /// `InvalidInput` if they are not all inside the map, writable and aligned.
    pub(crate) fn new(
        map: Arc<Mapping>,
        at: usize,
        count: usize,
        holder_at: usize,
    ) -> Result<Self> {
        let table = Self { map, at, count, holder_at };
        let end = count.checked_mul(SIZE).and_then(|size| size.checked_add(at));
        let fits = (1..=MOST).contains(&count)
            && end.is_some_and(|end| end <= table.map.len())
            && (0..count).all(|slot| table.word(slot).is_some())
            && table.map.atomic_u32_at(holder_at).is_some()
            && table.socket_words().all(|word| word.is_some());
        if !fits {
            return Err(Error::new(ErrorKind::InvalidInput, "find the table of the members")
                .on(Mechanism::Channel)
                .because(format!("{count} places at {at} are not inside the object")));
        }
        Ok(table)
    }

    /// How many places there are.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Who has a place. None for a place that is not there, and for what no member writes.
    pub(crate) fn state(&self, slot: usize) -> Option<State> {
        self.slot(slot)?.state()
    }

    /// What a member says about itself.
    pub(crate) fn info(&self, slot: usize) -> Info {
        let mut bytes = [0; SIZE - 8];
        if slot < self.count {
            // It lies inside: checked when the table was made.
            let _ = self.map.read_at(self.at + slot * SIZE + 8, &mut bytes);
        }
        Info::parse(&bytes)
    }

    /// Who holds the name.
    pub(crate) fn holder(&self) -> Holder {
        let word = self.map.atomic_u32_at(self.holder_at);
        Holder::from_word(word.map_or(0, |word| word.load(Ordering::SeqCst)))
    }

    /// Which socket had the name last. Read with the folder locked, or it may be in the middle of a change.
    pub(super) fn socket(&self) -> Identity {
        let mut words = self.socket_words().map(|w| w.map_or(0, |w| w.load(Ordering::Acquire)));
        Identity::from_words(std::array::from_fn(|_| words.next().unwrap_or(0)))
    }

    /// Notes which socket has the name next. The folder is locked.
    pub(super) fn set_socket(&self, identity: Identity) {
        for (word, value) in self.socket_words().zip(identity.words()) {
            if let Some(word) = word {
                word.store(value, Ordering::Release);
            }
        }
    }

    fn socket_words(&self) -> impl Iterator<Item = Option<&AtomicU64>> {
        let first = self.holder_at + SOCKET;
        (0..3).map(move |index| self.map.atomic_u64_at(first + 8 * index))
    }

    pub(super) fn slot(&self, slot: usize) -> Option<Slot<'_, AtomicU64>> {
        self.word(slot).map(Slot)
    }

    pub(super) fn write_info(&self, slot: usize, info: &Info) {
        if slot < self.count {
            // As for reading.
            let _ = self.map.write_at(self.at + slot * SIZE + 8, &info.bytes());
        }
    }

    /// `new` holds the name, if `old` did until now.
    pub(super) fn pass(&self, old: Holder, new: Holder) -> bool {
        self.map.atomic_u32_at(self.holder_at).is_some_and(|word| pass(word, old, new))
    }

    pub(super) fn set_first_holder(&self, slot: usize) {
        if let Some(word) = self.map.atomic_u32_at(self.holder_at) {
            word.store(Holder::first(slot).word(), Ordering::SeqCst);
        }
    }

    fn word(&self, slot: usize) -> Option<&AtomicU64> {
        (slot < self.count).then(|| self.map.atomic_u64_at(self.at + slot * SIZE))?
    }
}

fn pass(word: &AtomicU32, old: Holder, new: Holder) -> bool {
    word.compare_exchange(old.word(), new.word(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states = (0..self.count).map(|slot| self.state(slot)).filter(|state| {
            // Those that were never used say nothing.
            state.is_none_or(|state| state.role.is_some())
        });
        f.debug_list().entries(states).finish()
    }
}
