//! What the cores of channels run on: words of 64 bits and bytes, in a lane that two processes share.
//!
//! The cores (`ring`, `bell`) are state machines over a [`Memory`] and know nothing of maps. In the
//! library a lane is in shared memory ([`Lane`](super::lane::Lane)); under `--cfg sinew_loom` it is a
//! model whose every interleaving is tried, and a fuzzer's rewrites words between any two loads.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(all(test, sinew_loom))]
pub(crate) mod model;

/// A word that another process may read and write.
pub(crate) trait Atom {
    fn load(&self, order: Ordering) -> u64;
    fn store(&self, value: u64, order: Ordering);
}

impl Atom for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        Self::load(self, order)
    }

    #[inline]
    fn store(&self, value: u64, order: Ordering) {
        Self::store(self, value, order);
    }
}

/// The memory of one lane: what its sender writes, what its receiver writes, and the records.
pub(crate) trait Memory {
    type Word: Atom;

    /// A word that only the lane's sender writes.
    fn sender(&self, field: SenderField) -> &Self::Word;

    /// A word that only the lane's receiver writes.
    fn receiver(&self, field: ReceiverField) -> &Self::Word;

    /// How many bytes of records there are: a power of two of at least 64; in a channel, of at
    /// least a page. Known to this process, not read from the lane.
    fn capacity(&self) -> u64;

    /// The word at a position, which is a multiple of eight. Positions only grow; the memory is that of
    /// the position modulo the capacity.
    fn word(&self, position: u64) -> &Self::Word;

    /// Where the receiver says what it is looking at, or has borrowed: `ring::overtake`.
    fn pin(&self, index: usize) -> &Self::Word;

    /// The number of the message that is pinned there, for a successor of the receiver.
    fn pinned(&self, index: usize) -> &Self::Word;

    /// Between a store and a load of one side, of which the other side does the reverse.
    fn fence(&self);

    /// Copies bytes to a position, from which there are as many before the end of the memory.
    fn write(&self, position: u64, bytes: &[u8]);

    /// Copies bytes from a position, as for [`write`](Self::write).
    fn read(&self, position: u64, bytes: &mut [u8]);
}

/// The words that a sender writes at each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum SenderField {
    /// The position after the last record that was committed, or after the one before it.
    Tail = 0,
    /// How many messages were committed, or one less.
    Sent = 1,
    /// How many bytes were in them.
    Bytes = 2,
    /// How many messages were dropped for which there was no room.
    Dropped = 3,
    /// How many bytes were in them.
    DroppedBytes = 4,
    /// Up to where records were taken away: apart from the others, since the receiver reads it.
    Oldest = 8,
    /// The number of the message there, or a later one.
    OldestNumber = 9,
}

/// The words that a receiver writes at each message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum ReceiverField {
    /// The position after the last record that was released, before which the sender may write again.
    Head = 0,
    /// How many messages were released.
    Received = 1,
    /// How many bytes were in them.
    Bytes = 2,
    /// How often the message at `AttemptsAt` was given out, if more than once.
    Attempts = 4,
    /// The position of that message.
    AttemptsAt = 5,
    /// The position after the last record that was given out.
    Given = 3,
    /// Where the sender overtakes: which of the two sets below holds, by whether it is even.
    Turn = 6,
    /// Up to where messages were released or missed, how many those are, how many were released, and their bytes.
    EvenHead = 7,
    EvenNumber = 8,
    EvenReceived = 9,
    EvenBytes = 10,
    OddHead = 11,
    OddNumber = 12,
    OddReceived = 13,
    OddBytes = 14,
}
