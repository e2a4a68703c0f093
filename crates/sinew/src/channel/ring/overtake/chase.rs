//! The receiver of a lane whose sender overtakes it.

use std::cell::Cell;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::super::{Corrupt, HEADER, MOST, NOWHERE, NUMBER_MASK, Record};
use super::{MOST_PINS, Pins, STANDS};
use crate::channel::memory::{Atom, Memory, ReceiverField, SenderField};

/// How often it tries to pin the oldest message, which the sender is taking away.
const TRIES: u32 = 64;
/// How many records it passes in one look: between two messages there is at most a padding for each pin, and some at the end.
const MOST_PADDING: usize = 2 * MOST_PINS + 4;
/// Of the word with the number of a pinned message: how often it was given out.
const GIVEN_SHIFT: u32 = 56;

/// What is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Nothing,
    Message(Record),
    /// So many messages were missed; what is there now comes next.
    Lagged(u64),
}

/// A message that is borrowed, or waits for older ones to be released.
#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Where its record is.
    begin: u64,
    end: u64,
    len: u64,
    number: u64,
    /// How often it was given out.
    given: u64,
}

/// How far a receiver is: what it says by one store.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    /// Up to where messages were released or missed.
    head: u64,
    /// The number of the message there: so many were released or missed.
    number: u64,
    received: u64,
    bytes: u64,
}

/// The receiver's side of a lane whose sender overtakes.
#[derive(Debug)]
pub(crate) struct Chasing {
    pins: Pins,
    /// Where the next record is, and the number of the next message.
    position: Cell<u64>,
    next: Cell<u64>,
    /// How many were missed that nobody was told of.
    untold: Cell<u64>,
    /// Where what is pinned to be looked at begins.
    begin: Cell<u64>,
    done: Cell<Done>,
    /// How often that was said.
    turn: Cell<u64>,
    /// What is borrowed: a ring of pins.
    entries: [Cell<Entry>; MOST_PINS],
    first: Cell<usize>,
    count: Cell<usize>,
    released: Cell<u64>,
    /// How many pins behind those are what a dead receiver had borrowed.
    left: Cell<usize>,
}

/// The words of the set that holds in this turn.
const fn set(turn: u64) -> [ReceiverField; 4] {
    use ReceiverField::{
        EvenBytes, EvenHead, EvenNumber, EvenReceived, OddBytes, OddHead, OddNumber, OddReceived,
    };
    if turn.is_multiple_of(2) {
        [EvenHead, EvenNumber, EvenReceived, EvenBytes]
    } else {
        [OddHead, OddNumber, OddReceived, OddBytes]
    }
}

impl Done {
    fn read(word: impl Fn(ReceiverField) -> u64, turn: u64) -> Self {
        let [head, number, received, bytes] = set(turn).map(word);
        Self { head, number, received, bytes }
    }
}

/// What others are told of a receiver, and so as of some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counted {
    pub(crate) received: u64,
    pub(crate) bytes: u64,
    /// Up to which number messages were received or missed.
    pub(crate) number: u64,
}

impl Counted {
    /// By its words.
    pub(crate) fn of(word: impl Fn(ReceiverField) -> u64) -> Self {
        let turn = word(ReceiverField::Turn);
        let Done { received, bytes, number, .. } = Done::read(word, turn);
        Self { received, bytes, number }
    }

    /// How many were missed, where messages up to the number `oldest` are gone: the receiver may not know yet.
    pub(crate) fn lagged(&self, oldest: u64) -> u64 {
        self.number.max(oldest).saturating_sub(self.received)
    }
}

impl Chasing {
    /// Takes the lane over as its last receiver left it.
    pub(crate) fn resume<M: Memory>(memory: &M, pins: Pins) -> Result<Self, Corrupt> {
        let turn = memory.receiver(ReceiverField::Turn).load(Acquire);
        let done = Done::read(|field| memory.receiver(field).load(Relaxed), turn);
        let possible = done.head & 7 == 0 && done.head <= u64::MAX - 4 * MOST;
        if !possible || done.received > done.number || done.number >= 1 << GIVEN_SHIFT {
            return Err(Corrupt);
        }
        let chasing = Self {
            pins,
            position: Cell::new(done.head),
            next: Cell::new(done.number),
            untold: Cell::new(0),
            begin: Cell::new(NOWHERE),
            done: Cell::new(done),
            turn: Cell::new(turn),
            entries: Default::default(),
            first: Cell::new(0),
            count: Cell::new(0),
            released: Cell::new(0),
            left: Cell::new(0),
        };
        chasing.inherit(memory)?;
        Ok(chasing)
    }

    /// Finds what a dead receiver had borrowed: a row of pins in the order of their positions. Each is read once.
    fn inherit<M: Memory>(&self, memory: &M) -> Result<(), Corrupt> {
        let room = self.room();
        let (mut oldest, mut standing) = (NOWHERE, 0_u32);
        for index in 0..room {
            let pin = memory.pin(index).load(Acquire);
            let begin = pin & !7;
            if pin & STANDS == 0 {
                continue;
            }
            if begin < self.done.get().head {
                // Released before the death.
                memory.pin(index).store(0, Release);
                continue;
            }
            let word = memory.pinned(index).load(Relaxed);
            let (number, given) = (word & ((1 << GIVEN_SHIFT) - 1), word >> GIVEN_SHIFT);
            self.entries[index].set(Entry { begin, number, given, ..Entry::default() });
            standing |= 1 << index;
            if begin < oldest {
                oldest = begin;
                self.first.set(index);
            }
        }
        let mut last: Option<Entry> = None;
        for step in 0..standing.count_ones() as usize {
            let index = (self.first.get() + step) % room;
            let this = self.entries[index].get();
            let follows = |last: Entry| last.begin < this.begin && last.number < this.number;
            if standing & 1 << index == 0 || !last.is_none_or(follows) {
                return Err(Corrupt);
            }
            last = Some(this);
        }
        self.left.set(standing.count_ones() as usize);
        Ok(())
    }

    /// How many can be borrowed.
    const fn room(&self) -> usize {
        self.pins.count - 1
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count.get() == self.room()
    }

    /// The number of the next message.
    pub(crate) const fn next(&self) -> u64 {
        self.next.get()
    }

    /// Whether a look may find something.
    pub(crate) fn glance<M: Memory>(&self, memory: &M) -> bool {
        let position = self.position.get();
        self.untold.get() > 0
            || !self.covers(position, HEADER)
            || memory.word(position).load(Relaxed) != 0
    }

    /// Whether so many bytes are pinned.
    fn covers(&self, position: u64, len: u64) -> bool {
        let begin = self.begin.get();
        begin <= position && position + len <= begin.saturating_add(self.pins.span)
    }

    /// What a dead receiver had borrowed and is to be given next: it is pinned.
    fn kept(&self) -> Option<Entry> {
        let index = (self.first.get() + self.count.get()) % self.room();
        (self.left.get() > 0).then(|| self.entries[index].get())
    }

    /// The next message, or how many were missed: until that was [told](Self::told).
    pub(crate) fn peek<M: Memory>(&self, memory: &M) -> Result<Next, Corrupt> {
        if self.untold.get() > 0 {
            return Ok(Next::Lagged(self.untold.get()));
        }
        for _ in 0..MOST_PADDING {
            let position = self.position.get();
            let kept = self.kept();
            if kept.is_some_and(|kept| kept.begin < position) {
                return Err(Corrupt);
            }
            let own = kept.is_some_and(|kept| kept.begin == position);
            if !own && !self.covers(position, HEADER) && !self.pin(memory, position) {
                match self.lag(memory)? {
                    None => return Ok(Next::Nothing),
                    Some(0) => continue,
                    Some(missed) => {
                        self.untold.set(missed);
                        return Ok(Next::Lagged(missed));
                    }
                }
            }
            let header = memory.word(position).load(Acquire);
            if header == 0 {
                return if own { Err(Corrupt) } else { Ok(Next::Nothing) };
            }
            let record = self.pins.record(header, position)?;
            if record.number != self.next.get() & NUMBER_MASK {
                return Err(Corrupt);
            }
            if !record.is_message() {
                self.position.set(record.end);
                continue;
            }
            if !own && !self.covers(position, HEADER + record.len) {
                // Passed by the sender meanwhile: the next look says so.
                if !self.pin(memory, position) {
                    continue;
                }
            }
            return Ok(Next::Message(record));
        }
        Err(Corrupt)
    }

    /// The user knows what was missed.
    pub(crate) fn told(&self) {
        self.untold.set(0);
    }

    /// Pins a position, from which the sender has taken nothing away yet. Gives whether it came in time.
    fn pin<M: Memory>(&self, memory: &M, position: u64) -> bool {
        self.begin.set(NOWHERE);
        // Whoever sees this sees the pins of what was borrowed from under the last one.
        memory.pin(self.room()).store(position | STANDS, Release);
        // Partner: `Sending::overtake`.
        if !cfg!(sabotage = "overtake-no-fence") {
            memory.fence();
        }
        let late = memory.sender(SenderField::Oldest).load(Acquire) > position;
        if late && !cfg!(sabotage = "overtake-unchecked") {
            return false;
        }
        self.begin.set(position);
        true
    }

    /// Goes on at the oldest message that is there. Gives how many were missed; nothing if the sender was faster each time: then it
    /// is about to send.
    #[cold]
    fn lag<M: Memory>(&self, memory: &M) -> Result<Option<u64>, Corrupt> {
        for _ in 0..TRIES {
            let oldest = memory.sender(SenderField::Oldest).load(Acquire);
            // Before it is looked at again: so it is that of `oldest`, or of the next.
            let hint = memory.sender(SenderField::OldestNumber).load(Acquire);
            if oldest & 7 != 0 || oldest <= self.position.get() || oldest > u64::MAX - 4 * MOST {
                return Err(Corrupt);
            }
            if let Some(kept) = self.kept().filter(|kept| kept.begin < oldest) {
                return self.go_on(memory, kept.begin, kept.number).map(Some);
            }
            if !self.pin(memory, oldest) {
                continue;
            }
            let header = memory.word(oldest).load(Acquire);
            // Where there is no message yet, no number of a later one was stored before.
            let number = match header {
                0 => hint,
                _ => self.pins.record(header, oldest)?.number_before(hint),
            };
            return self.go_on(memory, oldest, number).map(Some);
        }
        Ok(None)
    }

    fn go_on<M: Memory>(&self, memory: &M, position: u64, number: u64) -> Result<u64, Corrupt> {
        let missed = number.checked_sub(self.next.get()).ok_or(Corrupt)?;
        if number >= 1 << GIVEN_SHIFT {
            return Err(Corrupt);
        }
        self.position.set(position);
        self.next.set(number);
        if self.count.get() == 0 {
            self.say(memory, Done { head: position, number, ..self.done.get() });
        }
        Ok(if cfg!(sabotage = "overtake-miscount") { missed.saturating_sub(1) } else { missed })
    }

    /// Takes a message that [`peek`](Self::peek) gave: it is copied, and released at once.
    pub(crate) fn consume<M: Memory>(&self, memory: &M, record: &Record) {
        if self.count.get() > 0 || self.is_kept(record) {
            let index = self.borrow(memory, record);
            self.release(memory, index);
            return;
        }
        self.step(record);
        let done = self.done.get();
        let (received, bytes) = (done.received + 1, done.bytes.wrapping_add(record.len));
        let (head, number) = (self.position.get(), self.next.get());
        self.say(memory, Done { head, number, received, bytes });
    }

    fn step(&self, record: &Record) {
        self.position.set(record.end);
        self.next.set(self.next.get() + 1);
    }

    fn is_kept(&self, record: &Record) -> bool {
        self.kept().is_some_and(|kept| kept.begin == record.at - HEADER)
    }

    /// Takes a message that [`peek`](Self::peek) gave: it is pinned until it is released. Gives its place. There is room.
    pub(crate) fn borrow<M: Memory>(&self, memory: &M, record: &Record) -> usize {
        let index = (self.first.get() + self.count.get()) % self.room();
        let mut given = 1;
        if self.is_kept(record) {
            given = (self.entries[index].get().given + 1).min(0xFF);
            self.left.set(self.left.get() - 1);
        }
        let (begin, number) = (record.at - HEADER, self.next.get());
        memory.pinned(index).store(number | given << GIVEN_SHIFT, Relaxed);
        memory.pin(index).store(begin | STANDS, Release);
        let (end, len) = (record.end, record.len);
        self.entries[index].set(Entry { begin, end, len, number, given });
        self.count.set(self.count.get() + 1);
        self.step(record);
        index
    }

    /// How often what is borrowed was given out, with this time: more than once only where a receiver died over it.
    pub(crate) fn deliveries(&self, index: usize) -> u64 {
        self.entries[index].get().given
    }

    /// Releases a message: with those before it, or when they are released.
    pub(crate) fn release<M: Memory>(&self, memory: &M, index: usize) {
        let (room, first) = (self.room(), self.first.get());
        let mut released = self.released.get() | 1 << ((index + room - first) % room);
        let mut done = self.done.get();
        let mut count = 0;
        while released & 1 != 0 {
            let entry = self.entries[(first + count) % room].get();
            done = Done {
                head: entry.end,
                number: entry.number + 1,
                received: done.received + 1,
                bytes: done.bytes.wrapping_add(entry.len),
            };
            released >>= 1;
            count += 1;
        }
        self.released.set(released);
        if count == 0 {
            return;
        }
        self.first.set((first + count) % room);
        self.count.set(self.count.get() - count);
        if self.count.get() == 0 {
            // Behind what was missed and padding too.
            (done.head, done.number) = (self.position.get(), self.next.get());
        }
        self.say(memory, done);
        // After that: who dies here has received them.
        (0..count).for_each(|step| memory.pin((first + step) % room).store(0, Release));
    }

    fn say<M: Memory>(&self, memory: &M, done: Done) {
        let turn = self.turn.get().wrapping_add(1);
        let values = [done.head, done.number, done.received, done.bytes];
        for (field, value) in set(turn).into_iter().zip(values) {
            memory.receiver(field).store(value, Relaxed);
        }
        memory.receiver(ReceiverField::Turn).store(turn, Release);
        // What the sender may take away without loss.
        memory.receiver(ReceiverField::Head).store(done.head, Release);
        self.turn.set(turn);
        self.done.set(done);
    }

    /// Leaves in order: nothing is looked at any more.
    pub(crate) fn leave<M: Memory>(&self, memory: &M) {
        memory.pin(self.room()).store(0, Release);
    }
}
