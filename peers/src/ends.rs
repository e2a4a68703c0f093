//! What each system has to be able to do, and what all have in common.

use crate::Result;
use crate::job::{Job, Work};
use crate::link::Link;

/// The records of a channel in bytes, for all that have a choice.
pub(crate) const CAPACITY: usize = 256 << 10;

/// How many messages of a size there is room for: what Sinew's capacity gives, for all that have slots.
pub(crate) const fn slots(size: usize) -> usize {
    // A record has a header of eight bytes.
    let stride = size + 8;
    capacity(size) / stride
}

/// Of at least eight messages.
pub(crate) const fn capacity(size: usize) -> usize {
    if CAPACITY >= 8 * (size + 8) { CAPACITY } else { (8 * (size + 8)).next_power_of_two() }
}

/// Two ends between two processes, one for each direction. Messages of one size.
pub(crate) trait Ends<const N: usize>: Sized {
    /// Makes what both need. One link to each of the others.
    fn near(job: &Job, links: &[Link]) -> Result<Self>;
    /// Takes what the near side made.
    fn far(job: &Job, link: &Link) -> Result<Self>;
    /// Sends one message, however long that takes.
    fn send(&mut self, message: &[u8; N]) -> Result<()>;
    /// Receives one, however long that takes.
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()>;

    /// Receives at least one, all that are there, and tells of each. Only where that is another thing than `recv`.
    fn recv_many(&mut self, each: &mut impl FnMut(&[u8; N])) -> Result<()> {
        let mut room = [0; N];
        self.recv(&mut room)?;
        each(&room);
        Ok(())
    }
}

/// Whether the calls of this work look without pause instead of waiting.
pub(crate) const fn is_busy(work: Work) -> bool {
    matches!(work, Work::Busy)
}
