//! What became of the messages of a lane.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::memory::{Atom, Memory, ReceiverField, SenderField};

/// What became of the messages of one sender's lane, by its former senders and receivers too. Exact while neither end is in a
/// call and nothing is borrowed; else as of some moment of each of the numbers.
///
/// `sent` is `received` and `dropped` and what is [waiting](Self::waiting), also when either end was killed. A message that
/// its sender had in hand when it was killed was sent and dropped, or neither; what a receiver had just released when it was
/// killed is counted from the next message on.
///
/// ```
/// use sinew::channel::{Full, Options};
/// use sinew::wait::{Receives, Sends};
///
/// let (sender, receiver) = Options::stream().capacity(4096).full(Full::DropNewest).pair()?;
/// for _ in 0..1000 {
///     sender.send(&[0; 56]).unwrap();
/// }
/// receiver.recv(&mut [0; 56]).unwrap();
/// let counts = sender.counts();
/// assert_eq!((counts.sent, counts.received), (1000, 1));
/// assert_eq!((counts.dropped, counts.waiting()), (937, 62));
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Messages that were sent: `send` returned, or a loan was sent.
    pub sent: u64,
    /// Of these, messages that were received and released.
    pub received: u64,
    /// Of these, messages that were dropped because there was no room: [`DropNewest`](super::Full::DropNewest).
    pub dropped: u64,
    /// The bytes of those that were dropped. Of one at which its sender was killed the bytes may be counted and not the message.
    pub dropped_bytes: u64,
}

impl Counts {
    pub(super) fn of(lane: &impl Memory) -> Self {
        // The receiver's first: what was received was sent before.
        let received = lane.receiver(ReceiverField::Received).load(Acquire);
        let dropped = lane.sender(SenderField::Dropped).load(Acquire);
        let committed = lane.sender(SenderField::Sent).load(Acquire);
        let dropped_bytes = lane.sender(SenderField::DroppedBytes).load(Relaxed);
        Self { sent: committed.wrapping_add(dropped), received, dropped, dropped_bytes }
    }

    /// How many messages are in the channel.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        self.sent.wrapping_sub(self.received).wrapping_sub(self.dropped)
    }
}
