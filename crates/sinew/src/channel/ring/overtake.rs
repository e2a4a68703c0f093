//! A sender that never waits: where there is no room, it takes the oldest messages away.
//!
//! # Taking
//! The sender goes over the headers of its oldest records, says in `Oldest` up to where it has taken them away, and
//! writes there. What was received by then is taken away too, and nobody misses it. The receiver knows which number
//! comes next, and finds by the header at `Oldest` how many it has missed: so it alone counts what is lost, and
//! `received + lagged` is the number of its next message, always.
//!
//! # Pins
//! Before the receiver looks at anything it *pins* it: stores where it begins in a word of its own, fences, and looks
//! whether `Oldest` has passed it. The sender stores `Oldest`, fences, and looks at the pins. So one of the two sees what
//! the other did: either the receiver sees that it came too late, and touches nothing, or the sender sees the pin, and steps
//! over that memory with padding, in each lap, for as long as the pin stands. No message is read that somebody
//! writes, none is checked after it was copied, and neither side waits for the other.
//!
//! Each pin stands for `Pins::span` bytes, so one pin lasts for many small messages: the receiver fences once for
//! those. A message that is borrowed gets another pin, stored while the first still stands; the sender looks at the first one
//! first, so it sees one of the two.
//!
//! # Room
//! However the pins lie, there is room for the longest message without the memory that they stand for: see [`Pins::new`].
//! So the sender never fails for want of room, and no word that the receiver writes can make it wait.
//!
//! # Deaths
//! A sender that dies leaves `Oldest` where it was or where it was going to be; both are the begin of a record, or the tail. A
//! receiver says how far it is in one of two sets of words by turns, and by one store which of them holds: so what
//! it received and what it missed are exact, at whatever instruction it dies. What it had borrowed stays pinned, and
//! its successor is given that again; anything else that was taken away by then it has missed.
//!
//! # Trust
//! A pin is any word: a wrong one costs room for padding. A wrong `Oldest`, header or number is [`Corrupt`], or misses
//! messages that are there. No loop is bounded by a shared word.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::super::memory::{Atom, Memory, ReceiverField, SenderField};
use super::{
    Corrupt, DATA, FLAGS_SHIFT, HEADER, KIND_SHIFT, LINE, NOWHERE, NUMBER_MASK, NUMBER_SHIFT,
    NoRoom, PADDING, Record, Room, Sending, header_of, need, stride, to_end,
};

pub(crate) mod chase;
#[cfg(all(test, sinew_loom))]
mod models;
#[cfg(test)]
mod tests;

/// The most pins of a lane: for as many borrowed messages less one.
pub(crate) const MOST_PINS: usize = 16;
/// The most messages that can be borrowed at a time.
pub(crate) const MOST_BORROWED: u64 = MOST_PINS as u64 - 1;
/// A pin that stands: positions are multiples of eight.
const STANDS: u64 = 1;
/// After so many records `Oldest` is stored, so that its number is known by its low bits.
const STRETCH: u64 = 1 << 20;

/// How many pins there are, and for how many bytes each stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pins {
    count: usize,
    span: u64,
    capacity: u64,
}

impl Pins {
    /// For so many borrowed messages, and one more pin for what is looked at.
    ///
    /// Pins of `span` bytes, the end of the memory and the tail cut the ring into at most `count + 2` pieces beside the pins; so the
    /// longest of them has at least `(capacity - count * span) / (count + 2)` bytes, which is to be `span` and a header.
    pub(crate) const fn new(borrowed: u64, capacity: u64) -> Self {
        let count = borrowed + 1;
        let span = ((capacity - HEADER * (count + 2)) / (2 * count + 2)) & !7;
        Self { count: count as usize, span, capacity }
    }

    /// The most bytes that a message can have.
    pub(crate) const fn most(&self) -> u64 {
        let total = if self.span >= LINE { self.span } else { 1 << self.span.ilog2() };
        total - HEADER
    }

    /// Reads a header, which is not zero.
    fn record(&self, header: u64, position: u64) -> Result<Record, Corrupt> {
        let len = header & 0xFFFF_FFFF;
        let (kind, flags) = (header >> KIND_SHIFT & 0xF, (header >> FLAGS_SHIFT & 0xF) as u8);
        let total = HEADER + len;
        let end = match kind {
            DATA if total <= to_end(position, self.capacity) && len <= self.most() => {
                position + stride(len)
            }
            // It may go over the end of the memory: there are no bytes in it.
            PADDING if total <= self.capacity && total & 7 == 0 => position + total,
            _ => return Err(Corrupt),
        };
        Ok(Record { at: position + HEADER, len, end, number: header >> NUMBER_SHIFT, kind, flags })
    }

    /// The pins that stand now.
    fn standing<M: Memory>(&self, memory: &M) -> Standing {
        let mut standing = Standing { pins: *self, begins: [NOWHERE; MOST_PINS] };
        if cfg!(sabotage = "overtake-blind") {
            return standing;
        }
        // The last one first: what it stood for may have got another pin.
        for index in (0..self.count).rev() {
            let pin = memory.pin(index).load(Acquire);
            if pin & STANDS != 0 {
                standing.begins[index] = pin & !7;
            }
        }
        standing
    }
}

/// Pins as they were at one look.
struct Standing {
    pins: Pins,
    begins: [u64; MOST_PINS],
}

impl Standing {
    /// Where what may not be written at this position ends, if it is so.
    fn pinned(&self, position: u64) -> Option<u64> {
        let Pins { span, capacity, .. } = self.pins;
        let ends = self.begins.iter().filter_map(|begin| {
            // In the lap of the pin the memory is the message's own; or it is still to come.
            let laps = position.checked_sub(begin.checked_add(capacity)?)?;
            let into = laps & (capacity - 1);
            (into < span).then_some(position - into + span)
        });
        ends.max()
    }

    /// The first position from `from` to `to` that may not be written.
    fn first(&self, from: u64, to: u64) -> Option<u64> {
        if self.pinned(from).is_some() {
            return (from < to).then_some(from);
        }
        let capacity = self.pins.capacity;
        let begins = self.begins.iter().filter_map(|begin| {
            let lap = begin.checked_add(capacity)?;
            let next = from + (begin.wrapping_sub(from) & (capacity - 1));
            Some(next.max(lap))
        });
        begins.min().filter(|begin| *begin < to)
    }

    /// The first place from a position on for a record of so many bytes.
    fn place(&self, from: u64, len: u64) -> Option<u64> {
        let mut at = from;
        for _ in 0..2 * self.pins.count + 4 {
            let left = to_end(at, self.pins.capacity);
            if HEADER + len > left {
                at += left;
            }
            let Some(begin) = self.first(at, need(at, len)) else { return Some(at) };
            at = begin;
            for _ in 0..self.pins.count {
                at = self.pinned(at).unwrap_or(at);
            }
        }
        None
    }
}

/// What a sender that overtakes knows beside.
#[derive(Debug)]
pub(super) struct Overtake {
    pins: Pins,
    /// Up to where records are taken away, and the number of the next message.
    oldest: Cell<u64>,
    number: Cell<u64>,
}

impl Sending {
    /// As [`resume`](Self::resume), of a sender that takes the oldest messages away where there is no room.
    pub(crate) fn resume_overtaking<M: Memory>(memory: &M, pins: Pins) -> Result<Self, Corrupt> {
        let read = |header, position| pins.record(header, position);
        let mut sending = Self::resume_by(memory, read)?;
        let oldest = memory.sender(SenderField::Oldest).load(Acquire);
        let hint = memory.sender(SenderField::OldestNumber).load(Relaxed);
        let (tail, sent) = (sending.tail.get(), sending.sent.get());
        if oldest & 7 != 0 || oldest > tail || tail - oldest > pins.capacity {
            return Err(Corrupt);
        }
        let number = if oldest == tail {
            sent
        } else {
            // The dead may have stored the number and not the position.
            pins.record(memory.word(oldest).load(Acquire), oldest)?.number_before(hint)
        };
        if number > sent {
            return Err(Corrupt);
        }
        sending.most = pins.most();
        let overtake = Overtake { pins, oldest: Cell::new(oldest), number: Cell::new(number) };
        overtake.publish(memory, oldest, number);
        sending.overtake = Some(overtake);
        sending.note(memory);
        Ok(sending)
    }

    /// Finds room whatever the receiver does.
    #[cold]
    pub(super) fn overtake<M: Memory>(
        &self,
        memory: &M,
        len: u64,
        state: &Overtake,
    ) -> Result<Room, NoRoom> {
        if len > self.most {
            return Err(NoRoom::TooBig);
        }
        let (tail, capacity) = (self.tail.get(), self.capacity);
        // With everything taken away.
        let all = tail + capacity;
        let mut end = need(tail, len);
        let mut looks = 0;
        let (start, standing) = loop {
            if !cfg!(sabotage = "overtake-late-oldest") {
                self.take(memory, state, end.saturating_sub(capacity))?;
            }
            // Partner: `Chasing::pin`. One of the two sees what the other did.
            memory.fence();
            let standing = state.pins.standing(memory);
            if cfg!(sabotage = "overtake-late-oldest") {
                self.take(memory, state, end.saturating_sub(capacity))?;
            }
            // There is a place before everything is taken away: see `Pins::new`.
            let start = standing.place(tail, len).ok_or(Corrupt)?;
            let until = need(start, len);
            if until > all {
                return Err(NoRoom::Corrupt);
            }
            if until <= state.oldest.get() + capacity {
                break (start, standing);
            }
            looks += 1;
            end = if looks > MOST_PINS { all } else { until };
        };
        if start > tail {
            memory.word(start).store(0, Relaxed);
            let padding = header_of(PADDING, start - tail - HEADER, 0, self.sent.get());
            memory.word(tail).store(padding, Release);
            self.tail.set(start);
            self.zero.set(NOWHERE);
            memory.sender(SenderField::Tail).store(start, Release);
        }
        let free = state.oldest.get() + capacity;
        self.limit.set(standing.first(start, free).unwrap_or(free));
        Ok(Room { at: start + HEADER, len })
    }

    /// Takes records away up to a position at least, and some that were received already.
    fn take<M: Memory>(&self, memory: &M, state: &Overtake, to: u64) -> Result<(), Corrupt> {
        let (mut at, mut number) = (state.oldest.get(), state.number.get());
        let tail = self.tail.get();
        debug_assert!(to <= tail, "no more than there is");
        if at >= to {
            return Ok(());
        }
        // Not believed: it makes a difference to the receiver only.
        let released = memory.receiver(ReceiverField::Head).load(Relaxed).min(tail);
        let to = to.max(released.min(to + self.capacity / 4));
        let mut steps = 0;
        while at < to {
            let record = state.pins.record(memory.word(at).load(Relaxed), at)?;
            if record.number != number & NUMBER_MASK || record.end > tail {
                return Err(Corrupt);
            }
            at = record.end;
            number = number.wrapping_add(u64::from(record.is_message()));
            steps += 1;
            if steps % STRETCH == 0 {
                state.publish(memory, at, number);
            }
        }
        state.publish(memory, at, number);
        Ok(())
    }
}

impl Overtake {
    fn publish<M: Memory>(&self, memory: &M, oldest: u64, number: u64) {
        self.oldest.set(oldest);
        self.number.set(number);
        // Before the position, and not before the last position.
        memory.sender(SenderField::OldestNumber).store(number, Release);
        memory.sender(SenderField::Oldest).store(oldest, Release);
    }
}

impl Record {
    /// Its whole number, which is the same as `hint` or a little before it.
    fn number_before(&self, hint: u64) -> u64 {
        hint.wrapping_sub(hint.wrapping_sub(self.number) & NUMBER_MASK)
    }
}
