//! What lies where in the memory of a channel.
//!
//! ```text
//! 0          the header: what the channel is, and who holds its name       a page
//! MEMBERS    who takes part: 64 bytes each                                 whole pages
//!            the receivers: 256 bytes each                                 from a page boundary
//!            the lanes' words: 768 bytes each                              behind them
//!            the lanes' slots, of a queue: 64 bytes each                   from a page boundary
//!            the lanes' records: the capacity each                         from a page boundary each
//! ```
//!
//! What one side writes is apart from what another side writes by at least 128 bytes: processors fetch lines in pairs.

use std::sync::atomic::Ordering;

use super::member::SOCKET;
use super::queue::{MOST_DELIVERIES, MOST_SLOTS, MOST_WORKERS, SLOT};
use super::ring::overtake;
use super::{bell, lane, ring};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;

/// "Sinewch", and the version of this layout.
pub(crate) const MAGIC: u64 = 0x0168_6377_656E_6953;
pub(crate) const ABI: u64 = 1;
const PAGE: u64 = 4096;

/// Where the members begin.
pub(crate) const MEMBERS: u64 = PAGE;
/// What a member takes.
pub(crate) const MEMBER: u64 = 64;
/// The fewest slots of a lane of a queue.
pub(crate) const FEWEST_SLOTS: u64 = 16;
/// The most members.
pub(crate) const MOST_MEMBERS: u64 = 128;
/// What a receiver's words take.
pub(crate) const RECEIVER: u64 = 256;
/// What happens when it is full, as far as nothing more is to be said.
const MOST_FULL: u64 = 2;
/// That the sender overtakes. Above is how many messages can be borrowed at a time.
pub(crate) const OVERTAKE: u64 = 3;
pub(crate) const BORROWED_SHIFT: u32 = 8;
/// What a lane's words take.
pub(crate) const LANE: u64 = 768;

// Of the header, words of eight bytes.
const MAGIC_AT: usize = 0;
const ABI_AT: usize = 8;
const HASH_AT: usize = 16;
const PATTERN_AT: usize = 24;
const FULL_AT: usize = 32;
const MEMBERS_AT: usize = 40;
const RECEIVERS_AT: usize = 48;
const LANES_AT: usize = 56;
const CAPACITY_AT: usize = 64;
const TYPE_AT: usize = 72;
const SIZE_AT: usize = 80;
const FENCE_AT: usize = 88;
const SLOTS_AT: usize = 96;
const DELIVERIES_AT: usize = 104;
/// How many words there are between the magic number and the check.
const WORDS: usize = 13;
/// A hash over all these.
const CHECK_AT: usize = 112;
/// Who holds the name: its place among the members and one; zero for nobody. A word of 32 bits.
pub(crate) const HOLDER_AT: usize = 128;
/// Which socket was the last to have the name for the channel: three words of 64 bits, behind the holder's. Written by
/// whoever takes the name, with the folder locked.
pub(crate) const SOCKET_AT: usize = HOLDER_AT + SOCKET;
/// Of a queue: a bit for each worker that sleeps.
pub(crate) const ASLEEP_AT: usize = 256;

/// What a channel is, as its header says. The same for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// The number of the pattern.
    pub(crate) pattern: u64,
    /// The number of what happens when it is full.
    pub(crate) full: u64,
    /// The most that take part at a time.
    pub(crate) members: u64,
    pub(crate) receivers: u64,
    pub(crate) lanes: u64,
    /// The bytes of records of each lane: a power of two.
    pub(crate) capacity: u64,
    /// Of a queue, how many messages of each lane may be under way: a power of two. Else zero.
    pub(crate) slots: u64,
    /// Of a queue, how often a message is given out. Else zero.
    pub(crate) deliveries: u64,
    /// The hash of the type of messages; zero for bytes.
    pub(crate) type_hash: u64,
    /// Whether sleepers have the kernel fence for the others.
    pub(crate) kernel_fences: bool,
}

impl Shape {
    const fn receivers_at(&self) -> u64 {
        MEMBERS + round_up(self.members * MEMBER)
    }

    const fn lanes_at(&self) -> u64 {
        self.receivers_at() + self.receivers * RECEIVER
    }

    const fn all_slots_at(&self) -> u64 {
        round_up(self.lanes_at() + self.lanes * LANE)
    }

    const fn records_at(&self) -> u64 {
        round_up(self.all_slots_at() + self.lanes * self.slots * SLOT)
    }

    /// Where the words of a receiver are.
    pub(crate) const fn receiver_at(&self, index: u64) -> usize {
        assert!(index < self.receivers, "a receiver of the channel");
        (self.receivers_at() + index * RECEIVER) as usize
    }

    /// Where the words of a lane are, and its records.
    pub(crate) const fn lane_at(&self, index: u64) -> (usize, usize) {
        assert!(index < self.lanes, "a lane of the channel");
        let records = self.records_at() + index * self.capacity;
        ((self.lanes_at() + index * LANE) as usize, records as usize)
    }

    /// Where the slots of a lane are.
    pub(crate) const fn slots_at(&self, index: u64) -> usize {
        assert!(index < self.lanes, "a lane of the channel");
        (self.all_slots_at() + index * self.slots * SLOT) as usize
    }

    /// How much memory the channel takes.
    pub(crate) const fn bytes(&self) -> u64 {
        self.records_at() + self.lanes * self.capacity
    }

    /// Whether there can be such a channel. So nothing above overflows.
    fn is_possible(&self) -> bool {
        (self.full <= MOST_FULL || self.is_possible_overtaking())
            && self.members >= 1
            && self.members <= MOST_MEMBERS
            && self.receivers >= 1
            && self.receivers <= self.members
            && self.lanes >= 1
            && self.lanes <= self.members
            && self.capacity.is_power_of_two()
            && self.capacity >= PAGE
            && self.capacity <= ring::MOST
            && if self.slots == 0 { self.deliveries == 0 } else { self.is_possible_queue() }
    }

    const fn is_possible_overtaking(&self) -> bool {
        let borrowed = self.full >> BORROWED_SHIFT;
        self.full & ((1 << BORROWED_SHIFT) - 1) == OVERTAKE
            && borrowed >= 1
            && borrowed <= overtake::MOST_BORROWED
            && self.slots == 0
    }

    /// The pins of its lanes, where the sender overtakes.
    pub(crate) const fn pins(&self) -> Option<overtake::Pins> {
        if self.full <= MOST_FULL {
            return None;
        }
        Some(overtake::Pins::new(self.full >> BORROWED_SHIFT, self.capacity))
    }

    const fn is_possible_queue(&self) -> bool {
        self.slots.is_power_of_two()
            && self.slots >= FEWEST_SLOTS
            && self.slots <= MOST_SLOTS
            && self.receivers <= MOST_WORKERS
            && self.deliveries >= 1
            && self.deliveries <= MOST_DELIVERIES
    }

    /// Makes a new channel in memory that nobody else uses: all is zero but the header.
    pub(crate) fn write(&self, map: &Mapping) -> Result<()> {
        debug_assert!(self.is_possible(), "checked where it was made");
        let heads = (0..self.lanes).map(|lane| self.lane_at(lane).1);
        for at in (0..self.records_at() as usize).step_by(8).chain(heads) {
            let word = map.atomic_u64_at(at).ok_or_else(|| wrong("its memory is too short"))?;
            word.store(0, Ordering::Release);
        }
        let words = self.words();
        for (index, value) in words.into_iter().enumerate() {
            let at = (index + 1) * 8;
            let word = map.atomic_u64_at(at).ok_or_else(|| wrong("its memory is too short"))?;
            word.store(value, Ordering::Release);
        }
        for (at, value) in [(CHECK_AT, hash(&words)), (MAGIC_AT, MAGIC)] {
            let word = map.atomic_u64_at(at).ok_or_else(|| wrong("its memory is too short"))?;
            word.store(value, Ordering::Release);
        }
        Ok(())
    }

    /// The words of the header from the one behind the magic number on.
    const fn words(&self) -> [u64; WORDS] {
        let mut words = [0; WORDS];
        words[ABI_AT / 8 - 1] = ABI;
        words[HASH_AT / 8 - 1] = LAYOUT_HASH;
        words[PATTERN_AT / 8 - 1] = self.pattern;
        words[FULL_AT / 8 - 1] = self.full;
        words[MEMBERS_AT / 8 - 1] = self.members;
        words[RECEIVERS_AT / 8 - 1] = self.receivers;
        words[LANES_AT / 8 - 1] = self.lanes;
        words[CAPACITY_AT / 8 - 1] = self.capacity;
        words[TYPE_AT / 8 - 1] = self.type_hash;
        words[SIZE_AT / 8 - 1] = self.bytes();
        words[FENCE_AT / 8 - 1] = self.kernel_fences as u64;
        words[SLOTS_AT / 8 - 1] = self.slots;
        words[DELIVERIES_AT / 8 - 1] = self.deliveries;
        words
    }

    /// The word of the header at this place.
    #[cfg(any(test, sinew_fuzz))]
    pub(super) const fn word(&self, at: usize) -> u64 {
        match at {
            MAGIC_AT => MAGIC,
            CHECK_AT => hash(&self.words()),
            _ => self.words()[at / 8 - 1],
        }
    }

    /// Reads a header, each word once, and checks it against the map.
    pub(crate) fn read(map: &Mapping) -> Result<Self> {
        Self::parse(|at| map.load_u64_at(at).unwrap_or(0), map.len() as u64)
    }

    /// The same of an object of `len` bytes, by its words.
    pub(crate) fn parse(word: impl Fn(usize) -> u64, len: u64) -> Result<Self> {
        if word(MAGIC_AT) != MAGIC {
            return Err(wrong("it holds no channel"));
        }
        if (word(ABI_AT), word(HASH_AT)) != (ABI, LAYOUT_HASH) {
            return Err(wrong("it is a channel of another version of this library"));
        }
        let shape = Self {
            pattern: word(PATTERN_AT),
            full: word(FULL_AT),
            members: word(MEMBERS_AT),
            receivers: word(RECEIVERS_AT),
            lanes: word(LANES_AT),
            capacity: word(CAPACITY_AT),
            type_hash: word(TYPE_AT),
            slots: word(SLOTS_AT),
            deliveries: word(DELIVERIES_AT),
            kernel_fences: word(FENCE_AT) == 1,
        };
        // First whether it is possible: else its size may overflow.
        let sound = shape.is_possible()
            && shape.bytes() <= len
            && word(SIZE_AT) == shape.bytes()
            && word(CHECK_AT) == hash(&shape.words());
        if sound { Ok(shape) } else { Err(wrong("its header is damaged")) }
    }
}

const fn round_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(PAGE)
}

/// Over what programs have to agree on: where everything is, and what a sleeper's word says.
const LAYOUT_HASH: u64 = hash(&[
    MEMBERS,
    MEMBER,
    RECEIVER,
    LANE,
    HOLDER_AT as u64,
    SOCKET_AT as u64,
    ASLEEP_AT as u64,
    SLOT,
    ring::HEADER,
    lane::SENDER_AT as u64,
    lane::SENDER_SIDE_AT as u64,
    lane::RECEIVER_AT as u64,
    lane::BELL_AT as u64,
    bell::BY_DOORBELL | bell::FENCE,
    lane::PINS_AT as u64,
]);

/// FNV-1a, over words.
const fn hash(words: &[u64]) -> u64 {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    let mut i = 0;
    while i < words.len() {
        hash = (hash ^ words[i]).wrapping_mul(0x0100_0000_01B3);
        i += 1;
    }
    hash
}

#[cold]
fn wrong(why: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, "open a channel").on(Mechanism::Channel).because(why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{anonymous, mapping};

    const SHAPE: Shape = Shape {
        pattern: 1,
        full: 0,
        members: 3,
        receivers: 1,
        lanes: 2,
        capacity: 8192,
        slots: 16,
        deliveries: 3,
        type_hash: 7,
        kernel_fences: true,
    };

    /// Of its own: Miri knows no other.
    fn map() -> Mapping {
        let private = anonymous::Options::new().map_with(mapping::Options::new().private());
        private.create(SHAPE.bytes() as usize).unwrap()
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let map = map();
        assert_eq!(Shape::read(&map).unwrap_err().kind(), ErrorKind::Mismatch);
        SHAPE.write(&map).unwrap();
        assert_eq!(Shape::read(&map).unwrap(), SHAPE);
    }

    #[test]
    fn no_damaged_header_is_taken() {
        let map = map();
        SHAPE.write(&map).unwrap();
        for at in (0..=CHECK_AT).step_by(8) {
            let word = map.atomic_u64_at(at).unwrap();
            let honest = word.load(Ordering::Relaxed);
            for rubbish in
                [0, honest.wrapping_add(1), honest << 1, u64::MAX, 1 << 63, honest ^ 1 << 40]
            {
                if rubbish != honest {
                    word.store(rubbish, Ordering::Relaxed);
                    let error = Shape::read(&map).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Mismatch, "{rubbish:#x} at {at}: {error}");
                }
            }
            word.store(honest, Ordering::Relaxed);
        }
        assert_eq!(Shape::read(&map).unwrap(), SHAPE);
    }

    #[test]
    fn nothing_overlaps() {
        let mut ends = vec![(0, MEMBERS), (MEMBERS, MEMBERS + SHAPE.members * MEMBER)];
        ends.push((SHAPE.receiver_at(0) as u64, SHAPE.receiver_at(0) as u64 + RECEIVER));
        for lane in 0..SHAPE.lanes {
            let (words, records) = SHAPE.lane_at(lane);
            ends.push((words as u64, words as u64 + LANE));
            let slots = SHAPE.slots_at(lane) as u64;
            ends.push((slots, slots + SHAPE.slots * SLOT));
            ends.push((records as u64, records as u64 + SHAPE.capacity));
        }
        ends.sort_unstable();
        assert!(ends.windows(2).all(|two| two[0].1 <= two[1].0), "{ends:?}");
        assert_eq!(ends.last().unwrap().1, SHAPE.bytes());
    }
}
