//! A lane in the model checker: every word is loom's, and every access of one side that is not ordered
//! with one of the other side is found.
//!
//! Eight bytes are a header at one time and a part of a message at another. As a header everybody may
//! load and store them, as a part of a message they belong to one side. So two cells go with each word,
//! which loom watches:
//!
//! |                       | `headers` | `messages` |
//! |-----------------------|-----------|------------|
//! | a header is loaded    | read      |            |
//! | a header is stored    |           | written    |
//! | a message is read     |           | read       |
//! | a message is written  | written   | written    |
//!
//! A side uses the lane through a [`View`], which ends it after so many accesses: a death at that instruction.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::atomic::AtomicU64;

use super::{Atom, Memory, ReceiverField, SenderField};
use crate::channel::fence;

/// Of each side; and the receiver's pins, and what they are numbered.
const FIELDS: usize = 16;

/// The memory of a lane. See the [module](self).
pub(crate) struct Lane {
    slots: Vec<Slot>,
}

/// Eight bytes.
pub(crate) struct Slot {
    value: AtomicU64,
    headers: UnsafeCell<()>,
    messages: UnsafeCell<()>,
}

impl Slot {
    pub(crate) fn new() -> Self {
        let cells = (UnsafeCell::new(()), UnsafeCell::new(()));
        Self { value: AtomicU64::new(0), headers: cells.0, messages: cells.1 }
    }
}

/// How many accesses one has before it, and on which processor, where that matters.
pub(crate) struct Life {
    left: Cell<u32>,
    cpu: Option<usize>,
}

/// What the end of a life unwinds with.
struct Death;

impl Life {
    pub(crate) const fn long() -> Self {
        Self { left: Cell::new(u32::MAX), cpu: None }
    }

    /// A long one, where the kernel's fence passes.
    pub(crate) const fn on(cpu: usize) -> Self {
        Self { left: Cell::new(u32::MAX), cpu: Some(cpu) }
    }

    pub(crate) fn step(&self) {
        let left = self.left.get();
        if left == 0 {
            resume_unwind(Box::new(Death));
        }
        self.left.set(left - 1);
        if let Some(cpu) = self.cpu {
            fence::model::pass(cpu);
        }
    }
}

/// Runs something that dies after so many accesses. Nothing where it did.
pub(crate) fn live<T>(accesses: u32, act: impl FnOnce(&Life) -> T) -> Option<T> {
    let life = Life { left: Cell::new(accesses), cpu: None };
    match catch_unwind(AssertUnwindSafe(|| act(&life))) {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<Death>() => None,
        Err(panic) => resume_unwind(panic),
    }
}

impl Lane {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { slots: (0..4 * FIELDS + capacity / 8).map(|_| Slot::new()).collect() }
    }

    /// The lane as one sees it that lives so long.
    pub(crate) fn seen_by<'a>(&'a self, life: &'a Life) -> View<'a> {
        View { words: self.slots.iter().map(|slot| Word { slot, life }).collect() }
    }
}

/// A word as one side sees it.
pub(crate) struct Word<'a> {
    pub(crate) slot: &'a Slot,
    pub(crate) life: &'a Life,
}

impl Atom for Word<'_> {
    fn load(&self, order: Ordering) -> u64 {
        self.life.step();
        let value = self.slot.value.load(order);
        self.slot.headers.with(|_| ());
        value
    }

    fn store(&self, value: u64, order: Ordering) {
        self.life.step();
        self.slot.messages.with_mut(|_| ());
        self.slot.value.store(value, order);
    }
}

/// A lane as one side sees it.
pub(crate) struct View<'a> {
    words: Vec<Word<'a>>,
}

impl<'a> View<'a> {
    /// The words of a message.
    fn message(&self, position: u64, len: usize) -> impl Iterator<Item = &Word<'a>> {
        let begin = position & (self.capacity() - 1);
        assert!(begin + len as u64 <= self.capacity(), "in one piece");
        assert!(position.is_multiple_of(8) && len.is_multiple_of(8), "models send whole words");
        (0..len as u64 / 8).map(move |index| self.word(position + index * 8))
    }
}

impl<'a> Memory for View<'a> {
    type Word = Word<'a>;

    fn sender(&self, field: SenderField) -> &Word<'a> {
        &self.words[field as usize]
    }

    fn receiver(&self, field: ReceiverField) -> &Word<'a> {
        &self.words[FIELDS + field as usize]
    }

    fn pin(&self, index: usize) -> &Word<'a> {
        &self.words[2 * FIELDS + index]
    }

    fn pinned(&self, index: usize) -> &Word<'a> {
        &self.words[3 * FIELDS + index]
    }

    fn fence(&self) {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    fn capacity(&self) -> u64 {
        (self.words.len() - 4 * FIELDS) as u64 * 8
    }

    fn word(&self, position: u64) -> &Word<'a> {
        &self.words[4 * FIELDS + (position & (self.capacity() - 1)) as usize / 8]
    }

    fn write(&self, position: u64, bytes: &[u8]) {
        for (word, bytes) in self.message(position, bytes.len()).zip(bytes.chunks_exact(8)) {
            word.life.step();
            word.slot.headers.with_mut(|_| ());
            word.slot.messages.with_mut(|_| ());
            let value = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            word.slot.value.store(value, Ordering::Relaxed);
        }
    }

    fn read(&self, position: u64, bytes: &mut [u8]) {
        for (word, bytes) in self.message(position, bytes.len()).zip(bytes.chunks_exact_mut(8)) {
            word.life.step();
            word.slot.messages.with(|_| ());
            bytes.copy_from_slice(&word.slot.value.load(Ordering::Relaxed).to_le_bytes());
        }
    }
}
