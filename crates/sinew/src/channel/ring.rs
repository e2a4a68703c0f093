//! Records of variable length in a ring, from one sender to one receiver, either of whom may be killed at
//! any instruction.
//!
//! A record is a header word and the bytes of a message. The header of a record that is not committed is
//! zero: a sender writes the bytes, makes the word behind them zero, and commits by one store of the header,
//! which says how long the record is. So a receiver looks at one word, which lies in one cache line with a
//! small message, and either sees a whole message or nothing. It says up to where it has released in a word of
//! its own, which the sender reads only when its last look leaves no room.
//!
//! # Positions
//! are bytes since the beginning of the lane, and only grow; a record lies at its position modulo the capacity,
//! in one piece: what does not fit before the end is preceded by padding. A record takes eight bytes more than the message; up
//! to 64 bytes together it is rounded up to a power of two, so that messages of one small size never lie in two cache
//! lines; above, to a multiple of eight.
//!
//! # Deaths
//! A sender that dies leaves its unfinished record uncommitted; its successor begins there
//! ([`Sending::resume`]). A receiver that dies leaves what it had not released; its successor begins there. The
//! counts of messages are exact after that too, a receiver's from its next message on: a header holds the low bits of
//! the message's number, which tell whether the count was stored before the death or not. Those of bytes can be off by
//! what was sent or released at the death.
//!
//! # Memory order
//! The commit is a release store, and the look at the header an acquire load: the bytes, and the zero of the next header,
//! are seen by whoever sees the commit. The release of a record is a release store of the head, and the
//! sender's look at it an acquire load: what was read is read before it is written again.
//!
//! # Trust
//! Whatever is read from the other side is copied once and checked here; what no honest peer writes is
//! [`Corrupt`]. Positions of one's own are never read back from the lane.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::memory::{Atom, Memory, ReceiverField, SenderField};

#[cfg(all(test, sinew_loom))]
mod models;
pub(crate) mod overtake;
#[cfg(test)]
mod tests;

/// How many bytes a header takes.
pub(crate) const HEADER: u64 = 8;
/// By how much the largest message is smaller than the capacity: its header, and the one behind it.
pub(crate) const OVERHEAD: u64 = 2 * HEADER;
/// The most bytes of records: a length has 32 bits.
pub(crate) const MOST: u64 = 1 << 32;
const LINE: u64 = 64;
/// No position of a record.
const NOWHERE: u64 = u64::MAX;

/// The lane holds what no honest peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// Why there is no room for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Until the receiver's head is at this position.
    Until(u64),
    /// Ever: so long a message does not fit.
    TooBig,
    Corrupt,
}

impl From<Corrupt> for NoRoom {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt
    }
}

// A header: the length (32 bits), the kind (4), flags (4), and the low bits of the message's number (24).
const KIND_SHIFT: u32 = 32;
const FLAGS_SHIFT: u32 = 36;
const NUMBER_SHIFT: u32 = 40;
const NUMBER_MASK: u64 = (1 << 24) - 1;
const DATA: u64 = 1;
const PADDING: u64 = 2;

/// What a sender says of a message beside its bytes: four bits.
pub(crate) type Flags = u8;

const fn header_of(kind: u64, len: u64, flags: Flags, number: u64) -> u64 {
    len | kind << KIND_SHIFT
        | ((flags & 0xF) as u64) << FLAGS_SHIFT
        | (number & NUMBER_MASK) << NUMBER_SHIFT
}

/// How far the next record is from one of so many bytes.
#[inline]
const fn stride(len: u64) -> u64 {
    let total = HEADER + len;
    if total <= LINE {
        if total <= 16 { 16 } else { total.next_power_of_two() }
    } else {
        (total + 7) & !7
    }
}

/// Up to where a sender may use memory, for a record and the zero behind it.
#[inline]
const fn need(at: u64, len: u64) -> u64 {
    let zero = if cfg!(sabotage = "ring-tight-room") { 0 } else { HEADER };
    at + stride(len) + zero
}

/// How many bytes there are from a position to the end of the memory.
#[inline]
const fn to_end(position: u64, capacity: u64) -> u64 {
    capacity - (position & (capacity - 1))
}

/// The sender's side of a lane.
#[derive(Debug)]
pub(crate) struct Sending {
    /// Where the next record begins.
    tail: Cell<u64>,
    /// Up to where the memory is known to be free.
    limit: Cell<u64>,
    /// Where a word behind the tail is known to be zero.
    zero: Cell<u64>,
    sent: Cell<u64>,
    bytes: Cell<u64>,
    capacity: u64,
    most: u64,
    /// Where it takes the oldest messages away.
    overtake: Option<overtake::Overtake>,
}

/// Room for a record: where its bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Where the bytes of the message begin.
    pub(crate) at: u64,
    /// How many there may be.
    pub(crate) len: u64,
}

impl Sending {
    /// Takes the lane over as its last sender left it: a new lane is all zeros.
    pub(crate) fn resume<M: Memory>(memory: &M) -> Result<Self, Corrupt> {
        let capacity = memory.capacity();
        let read = |header, position| Record::of(header, position, capacity);
        let sending = Self::resume_by(memory, read)?;
        sending.see(memory.receiver(ReceiverField::Head).load(Acquire))?;
        sending.note(memory);
        Ok(sending)
    }

    /// What the last sender committed, by headers that are read so.
    fn resume_by<M: Memory>(
        memory: &M,
        read: impl Fn(u64, u64) -> Result<Record, Corrupt>,
    ) -> Result<Self, Corrupt> {
        let capacity = memory.capacity();
        let tail = memory.sender(SenderField::Tail).load(Acquire);
        let sent = memory.sender(SenderField::Sent).load(Acquire);
        let bytes = memory.sender(SenderField::Bytes).load(Relaxed);
        if tail & 7 != 0 || tail > u64::MAX - 4 * MOST {
            return Err(Corrupt);
        }
        let sending = Self {
            tail: Cell::new(tail),
            limit: Cell::new(0),
            zero: Cell::new(NOWHERE),
            sent: Cell::new(sent),
            bytes: Cell::new(bytes),
            capacity,
            most: capacity - OVERHEAD,
            overtake: None,
        };
        // At most one record was committed and not noted.
        let header = memory.word(tail).load(Acquire);
        if header != 0 && !cfg!(sabotage = "ring-blind-resume") {
            let record = read(header, tail)?;
            if record.is_message() {
                // Whether the death came before the count was stored, or after.
                if record.number == sent & NUMBER_MASK {
                    sending.sent.set(sent.wrapping_add(1));
                    sending.bytes.set(bytes.wrapping_add(record.len));
                } else if record.number != sent.wrapping_sub(1) & NUMBER_MASK {
                    return Err(Corrupt);
                }
            }
            sending.tail.set(record.end);
            if memory.word(record.end).load(Acquire) != 0 {
                return Err(Corrupt);
            }
        }
        Ok(sending)
    }

    /// Where the next record begins.
    #[inline]
    pub(crate) const fn tail(&self) -> u64 {
        self.tail.get()
    }

    /// How many messages were sent, by former senders of the lane too.
    pub(crate) const fn sent(&self) -> u64 {
        self.sent.get()
    }

    /// The most bytes that a message can have.
    pub(crate) const fn most(&self) -> u64 {
        self.most
    }

    /// Finds room for a message of so many bytes, which are then written, and committed.
    #[inline]
    pub(crate) fn reserve<M: Memory>(&self, memory: &M, len: u64) -> Result<Room, NoRoom> {
        self.known_room(len).map_or_else(|| self.look(memory, len), Ok)
    }

    /// Room that is known to be free without a look at the receiver's head.
    #[inline]
    pub(crate) fn known_room(&self, len: u64) -> Option<Room> {
        let tail = self.tail.get();
        // In this order nothing overflows, whatever the length.
        let fits =
            len <= to_end(tail, self.capacity) - HEADER && need(tail, len) <= self.limit.get();
        fits.then_some(Room { at: tail + HEADER, len })
    }

    /// The same after a look at the receiver's head, with padding where the end of the memory is near.
    #[cold]
    #[inline(never)]
    pub(crate) fn look<M: Memory>(&self, memory: &M, len: u64) -> Result<Room, NoRoom> {
        if let Some(overtake) = &self.overtake {
            return self.overtake(memory, len, overtake);
        }
        if len > self.most() {
            return Err(NoRoom::TooBig);
        }
        let order = if cfg!(sabotage = "ring-relaxed-room") { Relaxed } else { Acquire };
        self.see(memory.receiver(ReceiverField::Head).load(order))?;
        let tail = self.tail.get();
        let end = to_end(tail, self.capacity);
        if HEADER + len > end {
            // The header behind the padding is the first of the memory, and has to be free.
            self.room_up_to(tail + end + HEADER)?;
            memory.word(tail + end).store(0, Relaxed);
            let padding = header_of(PADDING, end - HEADER, 0, 0);
            memory.word(tail).store(padding, Release);
            self.tail.set(tail + end);
            memory.sender(SenderField::Tail).store(tail + end, Release);
        }
        let tail = self.tail.get();
        self.room_up_to(need(tail, len))?;
        Ok(Room { at: tail + HEADER, len })
    }

    /// Whether the receiver's head has moved since the last look.
    #[inline]
    pub(crate) fn is_read<M: Memory>(&self, memory: &M) -> bool {
        let head = memory.receiver(ReceiverField::Head).load(Relaxed);
        head.wrapping_add(self.capacity) != self.limit.get()
    }

    fn room_up_to(&self, position: u64) -> Result<(), NoRoom> {
        if position <= self.limit.get() {
            return Ok(());
        }
        Err(NoRoom::Until(position - self.capacity))
    }

    /// What the receiver says of itself.
    fn see(&self, head: u64) -> Result<(), Corrupt> {
        let tail = self.tail.get();
        // Not before where it was, nor after what was sent. A new sender knows nothing of where it was.
        let limit = head.checked_add(self.capacity).ok_or(Corrupt)?;
        if head > tail || limit < self.limit.get() || tail - head > self.capacity {
            return Err(Corrupt);
        }
        self.limit.set(limit);
        Ok(())
    }

    /// How many bytes the receiver had not released when this side last looked.
    pub(crate) const fn fill(&self) -> u64 {
        (self.tail.get() + self.capacity) - self.limit.get()
    }

    /// Commits a message of `len` bytes, at most those of the room that was found last.
    #[inline]
    pub(crate) fn commit<M: Memory>(&self, memory: &M, len: u64, flags: Flags) {
        let (tail, limit) = (self.tail.get(), self.limit.get());
        debug_assert!(need(tail, len) <= limit, "reserved before");
        let next = tail + stride(len);
        let header = header_of(DATA, len, flags, self.sent.get());
        let late = cfg!(sabotage = "ring-late-zero");
        if cfg!(sabotage = "ring-early-note") {
            memory.sender(SenderField::Tail).store(next, Release);
        }
        if late {
            memory.word(tail).store(header, Release);
        }
        // The word behind a committed record is zero. Published by the commit.
        if next != self.zero.get() && !cfg!(sabotage = "ring-no-zero") {
            memory.word(next).store(0, Relaxed);
        }
        if !late {
            let order = if cfg!(sabotage = "ring-relaxed-commit") { Relaxed } else { Release };
            memory.word(tail).store(header, order);
        }
        self.tail.set(next);
        self.sent.set(self.sent.get().wrapping_add(1));
        self.bytes.set(self.bytes.get().wrapping_add(len));
        // Behind the next message, if that is as long: now, while nobody waits, so that the next commit has
        // to wait for no other line than its own.
        let behind = next + stride(len);
        if behind < limit && !cfg!(sabotage = "ring-no-zero") {
            memory.word(behind).store(0, Relaxed);
            self.zero.set(behind);
        }
        self.note(memory);
    }

    /// Says that the bytes of a room are lent: they are written, whether they are sent or not.
    #[inline]
    pub(crate) fn lend(&self, room: &Room) {
        if self.zero.get() < room.at + room.len && !cfg!(sabotage = "ring-no-lend") {
            self.zero.set(NOWHERE);
        }
    }

    /// Stores what others count by. Whoever dies before has committed what `resume` finds.
    #[inline]
    fn note<M: Memory>(&self, memory: &M) {
        memory.sender(SenderField::Bytes).store(self.bytes.get(), Relaxed);
        // Before the tail: what lies before the tail is counted.
        memory.sender(SenderField::Sent).store(self.sent.get(), Release);
        memory.sender(SenderField::Tail).store(self.tail.get(), Release);
    }
}

/// A committed record, as its header says and as far as that could be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where its bytes begin.
    pub(crate) at: u64,
    /// How many there are.
    pub(crate) len: u64,
    /// Where the next record begins.
    pub(crate) end: u64,
    /// The low bits of the message's number.
    number: u64,
    kind: u64,
    pub(crate) flags: Flags,
}

impl Record {
    /// Reads a header, which is not zero.
    #[inline]
    fn of(header: u64, position: u64, capacity: u64) -> Result<Self, Corrupt> {
        let len = header & 0xFFFF_FFFF;
        let kind = header >> KIND_SHIFT & 0xF;
        let (number, flags) = (header >> NUMBER_SHIFT, (header >> FLAGS_SHIFT & 0xF) as Flags);
        let total = HEADER + len;
        let left = to_end(position, capacity);
        let end = match kind {
            DATA if total <= left && len <= capacity - OVERHEAD => position + stride(len),
            PADDING if total == left => position + total,
            _ => return Err(Corrupt),
        };
        Ok(Self { at: position + HEADER, len, end, number, kind, flags })
    }

    const fn is_message(&self) -> bool {
        self.kind == DATA
    }
}

/// The receiver's side of a lane.
#[derive(Debug)]
pub(crate) struct Receiving {
    /// Where the next record is.
    position: Cell<u64>,
    /// Up to where records were released.
    head: Cell<u64>,
    /// The number of the next message.
    next: Cell<u64>,
    /// Whether that is known. A receiver that died may have stored its head and not its count: then the
    /// next message tells.
    counted: Cell<bool>,
    /// Up to where messages were given out, by former receivers too.
    given: Cell<u64>,
    received: Cell<u64>,
    bytes: Cell<u64>,
    capacity: u64,
}

impl Receiving {
    /// Takes the lane over as its last receiver left it: a new lane is all zeros. Beside it gives up to
    /// where messages were given out before, and perhaps not released.
    pub(crate) fn resume<M: Memory>(memory: &M) -> Result<(Self, u64), Corrupt> {
        let head = memory.receiver(ReceiverField::Head).load(Acquire);
        let given = memory.receiver(ReceiverField::Given).load(Relaxed);
        let received = memory.receiver(ReceiverField::Received).load(Relaxed);
        let bytes = memory.receiver(ReceiverField::Bytes).load(Relaxed);
        let capacity = memory.capacity();
        if head & 7 != 0 || head > u64::MAX - 4 * MOST {
            return Err(Corrupt);
        }
        let (position, next) = (head, received);
        let receiving = Self {
            position: Cell::new(position),
            head: Cell::new(head),
            next: Cell::new(next),
            counted: Cell::new(false),
            given: Cell::new(given),
            received: Cell::new(received),
            bytes: Cell::new(bytes),
            capacity,
        };
        Ok((receiving, given))
    }

    /// The number of the next message.
    pub(crate) const fn next(&self) -> u64 {
        self.next.get()
    }

    /// Where the next record is looked for.
    pub(crate) const fn position(&self) -> u64 {
        self.position.get()
    }

    /// Up to where everything was released.
    pub(crate) const fn head(&self) -> u64 {
        self.head.get()
    }

    /// The next message, if one is there. It stays the next one until [`step`](Self::step). Padding that was in
    /// the way is released; `released` is for whoever waits for it.
    #[inline]
    pub(crate) fn peek<M: Memory>(
        &self,
        memory: &M,
        released: impl FnOnce(),
    ) -> Result<Option<Record>, Corrupt> {
        let order = if cfg!(sabotage = "ring-relaxed-look") { Relaxed } else { Acquire };
        let header = memory.word(self.position.get()).load(order);
        if header == 0 {
            return Ok(None);
        }
        let record = Record::of(header, self.position.get(), self.capacity)?;
        if !record.is_message() {
            return self.skip(memory, record, released);
        }
        if record.number != self.next.get() & NUMBER_MASK {
            self.count(&record)?;
        }
        Ok(Some(record))
    }

    /// Whether a record is there.
    #[inline]
    pub(crate) fn glance<M: Memory>(&self, memory: &M) -> bool {
        memory.word(self.position.get()).load(Relaxed) != 0
    }

    /// Takes the number of the first message as it is.
    #[cold]
    fn count(&self, record: &Record) -> Result<(), Corrupt> {
        let ahead = record.number.wrapping_sub(self.next.get()) & NUMBER_MASK;
        if !cfg!(sabotage = "ring-no-number") && (self.counted.get() || ahead > NUMBER_MASK / 2) {
            return Err(Corrupt);
        }
        self.received.set(self.received.get().wrapping_add(ahead));
        self.next.set(self.next.get().wrapping_add(ahead));
        Ok(())
    }

    /// Goes on behind padding, which is never twice in a row.
    #[cold]
    fn skip<M: Memory>(
        &self,
        memory: &M,
        padding: Record,
        released: impl FnOnce(),
    ) -> Result<Option<Record>, Corrupt> {
        let nothing_borrowed = self.head.get() == self.position.get();
        self.position.set(padding.end);
        if nothing_borrowed {
            // The sender may be waiting for just these bytes.
            self.head.set(padding.end);
            if !cfg!(sabotage = "ring-silent-skip") {
                memory.receiver(ReceiverField::Head).store(self.head.get(), Release);
                released();
            }
        }
        let header = memory.word(self.position.get()).load(Acquire);
        if header == 0 {
            return Ok(None);
        }
        let record = Record::of(header, self.position.get(), self.capacity)?;
        if !record.is_message() {
            return Err(Corrupt);
        }
        if record.number != self.next.get() & NUMBER_MASK {
            self.count(&record)?;
        }
        Ok(Some(record))
    }

    /// Goes on behind a message that [`peek`](Self::peek) gave, which is not released by that.
    #[inline]
    pub(crate) fn step(&self, record: &Record) {
        self.position.set(record.end);
        self.next.set(self.next.get().wrapping_add(1));
        self.counted.set(true);
    }

    /// Says that everything up to here was given out: a successor that finds it not released knows.
    #[inline]
    pub(crate) fn give<M: Memory>(&self, memory: &M) {
        // What a dead receiver had further on stays given.
        if self.position.get() > self.given.get() || cfg!(sabotage = "ring-forget-given") {
            self.given.set(self.position.get());
            memory.receiver(ReceiverField::Given).store(self.position.get(), Relaxed);
        }
    }

    /// Releases `count` messages of `bytes` bytes, up to the position `end`: the sender may write there.
    /// Where nothing stays borrowed, that is [`position`](Self::position), behind padding too.
    #[inline]
    pub(crate) fn release<M: Memory>(&self, memory: &M, end: u64, count: u64, bytes: u64) {
        debug_assert!(self.head.get() < end && end <= self.position.get(), "given out before");
        self.head.set(end);
        self.received.set(self.received.get().wrapping_add(count));
        self.bytes.set(self.bytes.get().wrapping_add(bytes));
        if cfg!(sabotage = "ring-early-count") {
            memory.receiver(ReceiverField::Received).store(self.received.get(), Release);
        }
        let order = if cfg!(sabotage = "ring-relaxed-release") { Relaxed } else { Release };
        memory.receiver(ReceiverField::Head).store(end, order);
        // After the head: a count is never ahead of it.
        memory.receiver(ReceiverField::Received).store(self.received.get(), Release);
        memory.receiver(ReceiverField::Bytes).store(self.bytes.get(), Relaxed);
    }
}
