//! The receiving side of a doorbell.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;

use sinew::eventfd::{Counter, EventFd};
use sinew::memfd::{self, Memfd};
use sinew::wait::Waits;
use sinew::{Result, eventfd};

use super::doorbell::{CAPACITY, Ring, SIZE};

/// The receiving side, which makes it all.
pub(crate) struct Receiver {
    ring: Ring,
    taken: u64,
    memory: Memfd,
    bell: EventFd<Counter>,
    room: EventFd<Counter>,
}

/// The other side wrote what cannot be.
#[derive(Debug)]
pub(crate) struct Corrupt;

impl Receiver {
    pub(crate) fn new() -> Result<Self> {
        let memory = memfd::Options::new().create("doorbell", SIZE)?;
        let ring = Ring::new(&memory)?;
        Ok(Self { ring, taken: 0, memory, bell: eventfd::counter()?, room: eventfd::counter()? })
    }

    /// What the sender needs.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        [self.memory.as_fd(), self.bell.as_fd(), self.room.as_fd()]
    }

    /// Takes all values that are there.
    pub(crate) fn take(&mut self, mut each: impl FnMut(u64)) -> Result<(), Corrupt> {
        // The bell first: a value that comes after the look at the count rings it anew.
        let _ = self.bell.try_wait();
        let sent = self.ring.sent().load(Ordering::Acquire);
        let count = sent.wrapping_sub(self.taken);
        if count > CAPACITY {
            return Err(Corrupt);
        }
        for _ in 0..count {
            each(self.ring.value(self.taken).load(Ordering::Relaxed));
            self.taken = self.taken.wrapping_add(1);
        }
        if count > 0 {
            self.ring.taken().store(self.taken, Ordering::Release);
            // Fails only where the sender, who has it too, filled it: then it knows.
            let _ = self.room.try_add(1);
        }
        Ok(())
    }
}

impl AsFd for Receiver {
    /// What a poller watches.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}
