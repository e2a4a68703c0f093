//! What became of the messages of a lane.

use std::sync::atomic::Ordering::{Acquire, Relaxed};

use super::memory::{Atom, Memory, ReceiverField, SenderField};
use super::ring::overtake::chase::Counted;

/// What became of the messages of one sender's lane, by its former senders and receivers too. Exact while neither end is in a
/// call and nothing is borrowed; else as of some moment of each of the numbers.
///
/// `sent` is `received`, `lagged`, `dropped` and what is [waiting](Self::waiting), also when either end was killed. A message that
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
    /// Of these, messages that the receiver missed, or will have: [`DropOldest`](super::Full::DropOldest).
    pub lagged: u64,
    /// Of these, messages that were dropped because there was no room: [`DropNewest`](super::Full::DropNewest).
    pub dropped: u64,
    /// The bytes of those that were dropped. Of one at which its sender was killed the bytes may be counted and not the message.
    pub dropped_bytes: u64,
}

impl Counts {
    pub(super) fn of(lane: &impl Memory, overtaken: bool) -> Self {
        // The receiver's first: what was received was sent before.
        let (received, lagged) = if overtaken {
            let counted = Counted::of(|field| lane.receiver(field).load(Acquire));
            let oldest = lane.sender(SenderField::OldestNumber).load(Acquire);
            (counted.received, counted.lagged(oldest))
        } else {
            (lane.receiver(ReceiverField::Received).load(Acquire), 0)
        };
        let dropped = lane.sender(SenderField::Dropped).load(Acquire);
        let committed = lane.sender(SenderField::Sent).load(Acquire);
        let dropped_bytes = lane.sender(SenderField::DroppedBytes).load(Relaxed);
        Self { sent: committed.wrapping_add(dropped), received, lagged, dropped, dropped_bytes }
    }

    /// How many messages are in the channel.
    #[must_use]
    pub const fn waiting(&self) -> u64 {
        let gone = self.received.wrapping_add(self.lagged).wrapping_add(self.dropped);
        self.sent.wrapping_sub(gone)
    }
}
