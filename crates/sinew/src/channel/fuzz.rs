//! The cores of channels against a peer that rewrites what it likes between any two loads.
//!
//! An input is a string of bytes: which operations this side does, and what the other side makes of each word that is
//! loaded. Most loads find what was stored last; the others find it a little changed, or anything at all. Nothing may
//! panic, no operation may load without end, and no byte outside the lane may be touched.
//!
//! The inputs that were found to go different ways are in `fuzz/corpus`, and each is run by the tests; `cargo xtask fuzz`
//! looks for more.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use super::layout::Shape;
use super::memory::{Atom, Memory, ReceiverField, SenderField};
use super::ring::{NoRoom, Receiving, Sending};
use super::{member, queue};

type Target = (&'static str, fn(&[u8]));

/// What can be run on an input.
pub(super) const TARGETS: [Target; 6] = [
    ("header", header),
    ("message", member::fuzz::message),
    ("queue-sender", queue::fuzz::sender),
    ("queue-worker", queue::fuzz::worker),
    ("ring-receiver", receiver),
    ("ring-sender", sender),
];

/// Runs one target on an input. False if there is no such target.
pub fn run(target: &str, input: &[u8]) -> bool {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.map(|(_, run)| run(input)).is_some()
}

/// More loads than this no operation makes, whatever it finds.
const MOST_LOADS: u32 = 10_000;

/// The bytes that are left of an input. An operation that needs more finds the same bytes again.
pub(super) struct Input<'i> {
    all: &'i [u8],
    left: Cell<&'i [u8]>,
    over: Cell<bool>,
    loads: Cell<u32>,
}

impl<'i> Input<'i> {
    pub(super) const fn new(bytes: &'i [u8]) -> Self {
        Self {
            all: bytes,
            left: Cell::new(bytes),
            over: Cell::new(bytes.is_empty()),
            loads: Cell::new(0),
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.over.get()
    }

    fn take<const N: usize>(&self) -> [u8; N] {
        let left = self.left.get();
        let count = left.len().min(N);
        let mut bytes = [0; N];
        bytes[..count].copy_from_slice(&left[..count]);
        if count == left.len() {
            self.over.set(true);
            self.left.set(self.all);
        } else {
            self.left.set(&left[count..]);
        }
        bytes
    }

    pub(super) fn byte(&self) -> u8 {
        let [byte] = self.take();
        byte
    }

    pub(super) fn word(&self) -> u64 {
        u64::from_le_bytes(self.take())
    }

    /// A number below `end`, most often a small one.
    pub(super) fn below(&self, end: u64) -> u64 {
        let short = u16::from_le_bytes(self.take());
        u64::from(if short < 0x8000 { short & 0xFF } else { short }) % end
    }

    /// The rest of it.
    fn rest(&self) -> &'i [u8] {
        if self.over.get() { &[] } else { self.left.get() }
    }

    /// Begins another operation.
    pub(super) fn operation(&self) -> u8 {
        self.loads.set(0);
        self.byte()
    }

    fn load(&self, value: u64) -> u64 {
        let loads = self.loads.get() + 1;
        self.loads.set(loads);
        assert!(loads < MOST_LOADS, "it loads without end");
        let how = self.byte();
        match how & 7 {
            0..=3 => value,
            4 => value.wrapping_add(u64::from(how >> 3)),
            5 => value.wrapping_sub(u64::from(how >> 3) * 8),
            6 => value ^ 1 << (self.byte() & 63),
            _ => self.word(),
        }
    }
}

/// A word that the other side can write at any time.
pub(super) struct Word<'i> {
    value: Cell<u64>,
    input: &'i Input<'i>,
}

impl<'i> Word<'i> {
    pub(super) const fn new(input: &'i Input<'i>) -> Self {
        Self { value: Cell::new(0), input }
    }
}

impl Atom for Word<'_> {
    fn load(&self, _: Ordering) -> u64 {
        let found = self.input.load(self.value.get());
        self.value.set(found);
        found
    }

    fn store(&self, value: u64, _: Ordering) {
        self.value.set(value);
    }
}

impl queue::Swap for Word<'_> {
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        _: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        let found = self.load(failure);
        if found == current {
            self.value.set(new);
            Ok(found)
        } else {
            Err(found)
        }
    }

    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        let found = self.load(order);
        self.value.set(found | bits);
        found
    }

    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        let found = self.load(order);
        self.value.set(found & bits);
        found
    }
}

const CAPACITY: u64 = 4096;

/// A lane that the other side can write at any time.
struct Lane<'i> {
    sender: [Word<'i>; 16],
    receiver: [Word<'i>; 16],
    pins: [[Word<'i>; 16]; 2],
    words: Vec<Word<'i>>,
}

impl<'i> Lane<'i> {
    fn new(input: &'i Input<'i>) -> Self {
        let new = |_| Word::new(input);
        let words = (0..CAPACITY as usize / 8).map(new).collect();
        let block = || std::array::from_fn(new);
        Self { sender: block(), receiver: block(), pins: [block(), block()], words }
    }

    /// Which words these bytes are in.
    fn span(position: u64, len: usize) -> std::ops::Range<usize> {
        let at = (position % CAPACITY) as usize;
        assert!(at + len <= CAPACITY as usize, "{len} bytes at {at} are outside the lane");
        at / 8..(at + len).div_ceil(8)
    }
}

impl<'i> Memory for Lane<'i> {
    type Word = Word<'i>;

    fn sender(&self, field: SenderField) -> &Word<'i> {
        &self.sender[field as usize]
    }

    fn receiver(&self, field: ReceiverField) -> &Word<'i> {
        &self.receiver[field as usize]
    }

    fn pin(&self, index: usize) -> &Word<'i> {
        &self.pins[0][index]
    }

    fn pinned(&self, index: usize) -> &Word<'i> {
        &self.pins[1][index]
    }

    fn fence(&self) {}

    fn capacity(&self) -> u64 {
        CAPACITY
    }

    fn word(&self, position: u64) -> &Word<'i> {
        assert!(position.is_multiple_of(8), "{position} is no word's");
        &self.words[Self::span(position, 8)][0]
    }

    fn write(&self, position: u64, bytes: &[u8]) {
        for (word, bytes) in
            self.words[Self::span(position, bytes.len())].iter().zip(bytes.chunks(8))
        {
            word.value.set(u64::from(bytes[0]));
        }
    }

    fn read(&self, position: u64, bytes: &mut [u8]) {
        for (word, bytes) in
            self.words[Self::span(position, bytes.len())].iter().zip(bytes.chunks_mut(8))
        {
            bytes[0] = word.value.get().to_le_bytes()[0];
        }
    }
}

fn sender(bytes: &[u8]) {
    let input = Input::new(bytes);
    let lane = Lane::new(&input);
    while !input.is_empty() {
        // A new sender of the lane, as the last one left it.
        input.operation();
        let Ok(sending) = Sending::resume(&lane) else { continue };
        while !input.is_empty() {
            let operation = input.operation();
            let len = input.below(CAPACITY + 100);
            match operation & 7 {
                0 => break,
                1 => _ = sending.is_read(&lane),
                _ => match sending.reserve(&lane, len) {
                    Ok(room) => {
                        assert!(room.len == len && len <= sending.most());
                        lane.write(room.at, &vec![1; len as usize]);
                        if operation & 8 != 0 {
                            sending.lend(&room);
                        }
                        if operation & 16 == 0 {
                            sending.commit(&lane, len / (1 + u64::from(operation >> 6)), operation);
                        }
                    }
                    Err(NoRoom::TooBig) => assert!(len > sending.most()),
                    Err(NoRoom::Until(_)) => assert!(sending.fill() <= CAPACITY),
                    Err(NoRoom::Corrupt) => break,
                },
            }
        }
    }
}

fn receiver(bytes: &[u8]) {
    let input = Input::new(bytes);
    let lane = Lane::new(&input);
    while !input.is_empty() {
        input.operation();
        let Ok((receiving, _)) = Receiving::resume(&lane) else { continue };
        let mut borrowed = std::collections::VecDeque::new();
        while !input.is_empty() {
            match input.operation() & 7 {
                0 => break,
                1 => _ = receiving.glance(&lane),
                2 => {
                    if let Some((end, len)) = borrowed.pop_front() {
                        let end = if borrowed.is_empty() { receiving.position() } else { end };
                        receiving.release(&lane, end, 1, len);
                    }
                }
                _ => match receiving.peek(&lane, || ()) {
                    Ok(Some(record)) => {
                        lane.read(record.at, &mut vec![0; record.len as usize]);
                        receiving.step(&record);
                        receiving.give(&lane);
                        // What is given out is what honest senders have room for.
                        borrowed.push_back((record.end, record.len));
                    }
                    Ok(None) => {}
                    Err(_) => break,
                },
            }
        }
    }
}

fn header(bytes: &[u8]) {
    let input = Input::new(bytes);
    let len = if input.byte() & 1 == 0 { u64::from(u32::MAX) } else { input.word() };
    let honest = Shape {
        pattern: 1 + input.below(3),
        full: input.below(4),
        members: input.below(140),
        receivers: input.below(70),
        lanes: input.below(70),
        capacity: 1 << (input.below(40)),
        slots: if input.byte() & 1 == 0 { 0 } else { 1 << input.below(20) },
        deliveries: input.below(20),
        type_hash: input.word(),
        kernel_fences: input.byte() & 1 == 0,
    };
    // As it is: what cannot be is refused. Then with words that are none of an honest maker's.
    for rest in [&[][..], input.rest()] {
        let input = Input::new(rest);
        let Ok(shape) = Shape::parse(|at| input.load(honest.word(at)), len) else { continue };
        assert!(shape.bytes() <= len);
        for lane in 0..shape.lanes {
            let (words, records) = shape.lane_at(lane);
            let ends = [words as u64 + super::layout::LANE, records as u64 + shape.capacity];
            let slots = shape.slots_at(lane) as u64 + shape.slots * queue::SLOT;
            assert!(ends.into_iter().chain([slots]).all(|end| end <= len));
        }
        for receiver in 0..shape.receivers {
            assert!(shape.receiver_at(receiver) as u64 + super::layout::RECEIVER <= len);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::TARGETS;

    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files = fs::read_dir(folder).expect("each target has a corpus");
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "it reads files")]
    fn what_was_found_to_matter_is_survived() {
        for (target, run) in TARGETS {
            let inputs = corpus(target);
            assert!(inputs.len() >= 10, "{target}: {} inputs", inputs.len());
            inputs.iter().for_each(|input| run(input));
        }
    }

    #[test]
    fn what_looks_like_chance_is_survived() {
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        // Messages have descriptors, which Miri knows none of.
        for (_, run) in TARGETS.into_iter().filter(|(name, _)| !cfg!(miri) || *name != "message") {
            for _ in 0..if cfg!(miri) { 3 } else { 300 } {
                let len = next() % 600;
                // Few words are changed, in most.
                let calm = next() % 4 != 0;
                let byte = |number: u64| {
                    (if calm && number & 0x700 != 0 { number & 0xFB } else { number }) as u8
                };
                let input: Vec<u8> = (0..len).map(|_| byte(next())).collect();
                run(&input);
            }
        }
    }
}
