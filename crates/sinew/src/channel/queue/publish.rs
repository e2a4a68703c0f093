//! The sender's side of a lane: where the bytes go, and which number is next.
//!
//! The bytes of messages follow each other in the memory, and are free again in the order of their numbers. A message that
//! somebody keeps, a slow worker or one that was set aside, does not hold up those behind it: when it is in the way, the
//! sender steps over it, over its bytes and over the numbers that would fall in its slot, as often as it comes by.
//! So the lane is full only when nobody takes what is there.
//!
//! Where everything is is known to the sender alone, and never read back from the lane: only whether a message is done.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::slots::{self, Field, GRAIN, Place, Seen, State, Table, room_for};
use crate::channel::memory::{Atom, SenderField};
use crate::channel::ring::Corrupt;

/// Why there is no room for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// Now.
    Yet,
    /// Ever: so long a message does not fit.
    TooBig,
    Corrupt,
}

impl From<Corrupt> for NoRoom {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt
    }
}

/// What a slot holds, as the sender knows it.
#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    offset: u64,
    end: u64,
    kept: Kept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    /// Nothing, or a message that is done.
    No,
    /// A message between the oldest and the next.
    InTurn,
    /// A message that was stepped over.
    Aside,
}

/// What ends the free memory behind the last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    EndOfMemory,
    /// The oldest message in turn.
    Oldest,
    /// One that was stepped over, up to its end.
    Aside(u64),
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Publishing {
    /// The number of the next message.
    next: u64,
    /// Every number before is done, stepped over or skipped.
    oldest: u64,
    sent: u64,
    bytes: u64,
    /// Where the next message goes, and up to where the memory is known to be free.
    at: u64,
    free_up_to: u64,
    /// The slots of numbers before this one are known to be free.
    slots_up_to: u64,
    entries: Box<[Entry]>,
    /// The slots of what was stepped over; there is room for all.
    aside: Vec<u64>,
    slots: u64,
    capacity: u64,
}

impl Publishing {
    /// Takes a lane over as its last sender left it: a new lane is all zeros.
    pub(super) fn resume<T: Table>(table: &T) -> Result<Self, Corrupt> {
        let (slots, capacity) = (table.slots(), table.capacity());
        let tail = table.sender(SenderField::Tail).load(Acquire);
        let mut last = None;
        let mut entries = Vec::with_capacity(usize::try_from(slots).map_err(|_| Corrupt)?);
        let mut aside = Vec::with_capacity(entries.capacity());
        for index in 0..slots {
            let seen = Seen::at(table, index)?;
            let mut entry = Entry { number: seen.number, offset: 0, end: 0, kept: Kept::No };
            if seen.state != State::Free {
                last = last.max(Some(seen.number));
            }
            if matches!(seen.state, State::Ready | State::Taken | State::Aside) {
                let place = Place::of(table, index)?;
                entry.offset = place.offset;
                entry.end = place.offset + room_for(place.len);
                // The order of turns is not known any more.
                entry.kept = Kept::Aside;
                aside.push(index);
            }
            entries.push(entry);
        }
        // At most one message was sent and not noted. What the words of its slot say is then its own.
        let (mut sent, mut bytes) = (
            table.sender(SenderField::Sent).load(Acquire),
            table.sender(SenderField::Bytes).load(Acquire),
        );
        let next = match last {
            Some(last) if last > tail => return Err(Corrupt),
            Some(last) if last == tail => {
                sent = table.word(last, Field::Sequence).load(Relaxed).wrapping_add(1);
                bytes = table.word(last, Field::Bytes).load(Relaxed);
                last + 1
            }
            _ => tail,
        };
        if next >= slots::end(slots) {
            return Err(Corrupt);
        }
        let publishing = Self {
            next,
            oldest: next,
            sent,
            bytes,
            at: 0,
            free_up_to: 0,
            slots_up_to: next,
            entries: entries.into(),
            aside,
            slots,
            capacity,
        };
        publishing.note(table);
        Ok(publishing)
    }

    /// How many messages were sent, by former senders of the lane too.
    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// The most bytes that a message can have.
    pub(super) const fn most(&self) -> u64 {
        self.capacity - GRAIN
    }

    /// How many bytes are between the oldest message in turn and the next.
    pub(super) fn fill(&self) -> u64 {
        if self.oldest == self.next {
            return 0;
        }
        let oldest = self.entry(self.oldest).offset;
        if oldest < self.at { self.at - oldest } else { self.capacity - oldest + self.at }
    }

    fn index(&self, number: u64) -> usize {
        (number & (self.slots - 1)) as usize
    }

    fn entry(&self, number: u64) -> &Entry {
        &self.entries[self.index(number)]
    }

    /// Finds room for a message of so many bytes: the offset at which they are then written, before it is committed.
    #[inline]
    pub(super) fn reserve<T: Table>(&mut self, table: &T, len: u64) -> Result<u64, NoRoom> {
        self.known_room(len).map_or_else(|| self.look(table, len), Ok)
    }

    /// Room that is known to be free without a look at what is done.
    #[inline]
    pub(super) fn known_room(&self, len: u64) -> Option<u64> {
        let fits = len <= self.most()
            && self.next < self.slots_up_to
            && room_for(len) <= self.free_up_to - self.at;
        fits.then_some(self.at)
    }

    /// The same after a look at what is done.
    #[cold]
    #[inline(never)]
    pub(super) fn look<T: Table>(&mut self, table: &T, len: u64) -> Result<u64, NoRoom> {
        if len > self.most() {
            return Err(NoRoom::TooBig);
        }
        let size = room_for(len);
        self.collect(table)?;
        self.find_slot(table)?;
        self.find_memory(table, size)?;
        let mask = self.slots - 1;
        let aside =
            self.aside.iter().map(|index| self.next + (index.wrapping_sub(self.next) & mask));
        let limit = self.oldest + self.slots;
        self.slots_up_to = aside.fold(limit, u64::min).min(slots::end(self.slots));
        Ok(self.at)
    }

    /// Forgets what is done.
    fn collect<T: Table>(&mut self, table: &T) -> Result<(), Corrupt> {
        while self.oldest < self.next {
            let index = self.index(self.oldest);
            let entry = &mut self.entries[index];
            // Else the number was skipped.
            if entry.number == self.oldest && entry.kept == Kept::InTurn {
                if !is_done(table, entry.number)? {
                    break;
                }
                entry.kept = Kept::No;
            }
            self.oldest += 1;
        }
        let mut i = 0;
        while let Some(index) = self.aside.get(i) {
            let entry = &mut self.entries[*index as usize];
            if is_done(table, entry.number)? {
                entry.kept = Kept::No;
                self.aside.swap_remove(i);
            } else {
                i += 1;
            }
        }
        Ok(())
    }

    /// Skips numbers whose slots somebody keeps.
    fn find_slot<T: Table>(&mut self, table: &T) -> Result<(), NoRoom> {
        let end = (self.next + self.slots).min(slots::end(self.slots));
        let mut number = self.next;
        while number < end {
            let kept = self.entry(number).kept;
            match kept {
                Kept::No => {
                    if number > self.next {
                        self.next = number;
                        table.sender(SenderField::Tail).store(number, Release);
                        self.collect(table)?;
                    }
                    return Ok(());
                }
                Kept::Aside => number += 1,
                // It is the oldest: everything between it and the next was passed here.
                Kept::InTurn if self.step_over(table)? => {}
                Kept::InTurn => return Err(NoRoom::Yet),
            }
        }
        Err(NoRoom::Yet)
    }

    /// Goes on behind what is in the way, once around at most.
    fn find_memory<T: Table>(&mut self, table: &T, size: u64) -> Result<(), NoRoom> {
        let mut around = false;
        loop {
            let (up_to, obstacle) = self.free_memory();
            self.free_up_to = up_to;
            if size <= up_to - self.at {
                return Ok(());
            }
            match obstacle {
                Obstacle::EndOfMemory if around => return Err(NoRoom::Yet),
                Obstacle::EndOfMemory => (self.at, around) = (0, true),
                Obstacle::Aside(end) => self.at = end,
                Obstacle::Oldest if self.step_over(table)? => {}
                Obstacle::Oldest => return Err(NoRoom::Yet),
            }
            self.free_up_to = self.at;
        }
    }

    /// Up to where the memory is free, and what is there.
    fn free_memory(&self) -> (u64, Obstacle) {
        let mut found = (self.capacity, Obstacle::EndOfMemory);
        if self.oldest < self.next {
            let offset = self.entry(self.oldest).offset;
            if offset >= self.at {
                found = (offset, Obstacle::Oldest);
            }
        }
        for index in &self.aside {
            let entry = self.entry(*index);
            if entry.offset >= self.at && entry.offset < found.0 {
                found = (entry.offset, Obstacle::Aside(entry.end));
            }
        }
        found
    }

    /// Steps over the oldest message, if somebody keeps it.
    fn step_over<T: Table>(&mut self, table: &T) -> Result<bool, Corrupt> {
        let index = self.index(self.oldest);
        let seen = Seen::at(table, self.oldest)?;
        if seen.state == State::Ready {
            return Ok(false);
        }
        self.entries[index].kept = Kept::Aside;
        self.aside.push(index as u64);
        self.oldest += 1;
        // It, and those behind it, may be done.
        self.collect(table)?;
        Ok(true)
    }

    /// Publishes the message of `len` bytes, at most as many as room was found for last, that were written there.
    #[inline]
    pub(super) fn commit<T: Table>(&mut self, table: &T, len: u64) {
        let (number, offset) = (self.next, self.at);
        let end = offset + room_for(len);
        debug_assert!(end <= self.free_up_to && number < self.slots_up_to, "reserved before");
        let index = self.index(number);
        self.entries[index] = Entry { number, offset, end, kept: Kept::InTurn };
        let bytes = self.bytes.wrapping_add(len);
        table.word(number, Field::Place).store(Place { offset, len }.word(), Relaxed);
        table.word(number, Field::Sequence).store(self.sent, Relaxed);
        table.word(number, Field::Bytes).store(bytes, Relaxed);
        // Partner: the look of `claim`. The message is sent by this store.
        let order = if cfg!(sabotage = "queue-relaxed-publish") { Relaxed } else { Release };
        table.word(number, Field::State).store(slots::ready(number, self.slots), order);
        (self.next, self.at, self.sent, self.bytes) =
            (number + 1, end, self.sent.wrapping_add(1), bytes);
        self.note(table);
    }

    /// Stores what others count by. The tail last: whoever dies before it has sent what `resume` finds.
    #[inline]
    fn note<T: Table>(&self, table: &T) {
        table.sender(SenderField::Bytes).store(self.bytes, Relaxed);
        table.sender(SenderField::Sent).store(self.sent, Release);
        table.sender(SenderField::Tail).store(self.next, Release);
    }
}

/// Whether a message is done, which is in its slot until the sender puts another there.
fn is_done<T: Table>(table: &T, number: u64) -> Result<bool, Corrupt> {
    let seen = Seen::at(table, number)?;
    if seen.number != number || seen.state == State::Free {
        return Err(Corrupt);
    }
    Ok(seen.state == State::Done)
}
