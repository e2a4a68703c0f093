//! Values from one process to another through shared memory, with a doorbell for the loop: what both
//! sides have in common.
//!
//! A ring of words in a sealed memfd. The sender writes values, then how many there are in all, then
//! rings; the receiver takes them, then says how many it took, and tells that there is room. Each side
//! keeps its own count, and believes of the other's only what can be.

use std::sync::atomic::AtomicU64;

use sinew::Result;
use sinew::mapping::Mapping;
use sinew::memfd::Memfd;

/// How many values the ring holds.
pub(crate) const CAPACITY: u64 = 256;
/// Where the words are: what was sent and what was taken, in cache lines of their own, and the values.
const SENT: usize = 0;
const TAKEN: usize = 64;
const VALUES: usize = 128;
/// How long the memory is.
pub(crate) const SIZE: u64 = VALUES as u64 + 8 * CAPACITY;

pub(crate) struct Ring(Mapping);

impl Ring {
    /// In memory whose size is sealed. That is looked at, and taken from the kernel.
    pub(crate) fn new(memory: &Memfd) -> Result<Self> {
        if memory.size()? < SIZE {
            let error = sinew::Error::new(sinew::ErrorKind::Mismatch, "map a doorbell");
            return Err(error.because("the memory is too short"));
        }
        memory.map().map(Self)
    }

    /// How many values were sent in all.
    pub(crate) fn sent(&self) -> &AtomicU64 {
        self.word(SENT)
    }

    /// How many of them were taken.
    pub(crate) fn taken(&self) -> &AtomicU64 {
        self.word(TAKEN)
    }

    /// The place of the value with this number.
    pub(crate) fn value(&self, number: u64) -> &AtomicU64 {
        self.word(VALUES + 8 * (number % CAPACITY) as usize)
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.0.atomic_u64_at(at).expect("the size was checked")
    }
}
