//! The state machine of the condition variable: a number that every notification changes.
//!
//! A waiter reads the number while it has the lock, releases the lock, and sleeps while the number is
//! that one. So a notification after the release is never missed, and the number says nothing about
//! who waits: a waiter that dies leaves nothing behind.

use std::sync::atomic::Ordering::Relaxed;

use crate::error::Stop;
use crate::sync::word::Word;
use crate::wait::Wait;

#[cfg(all(test, sinew_loom))]
mod models;

/// The word of one condition variable.
#[derive(Debug)]
pub(super) struct Core<'a, W> {
    pub(super) sequence: &'a W,
}

impl<W: Word> Core<'_, W> {
    /// What to give `wait_past`. While the lock is had, which orders it with what notifiers do.
    pub(super) fn ticket(&self) -> u32 {
        self.sequence.load(Relaxed)
    }

    /// Waits for a notification after the ticket was read.
    pub(super) fn wait_past(&self, ticket: u32, wait: Wait<'_>) -> Result<(), Stop> {
        // Late ticket: a notification between the release of the lock and this line is missed.
        let ticket = if cfg!(sabotage = "condvar-late-ticket") { self.ticket() } else { ticket };
        // Relaxed, here and below: what a notification is about is guarded by the lock.
        while self.sequence.load(Relaxed) == ticket {
            self.sequence.sleep(ticket, wait)?;
        }
        Ok(())
    }

    /// Notifies `count` of those who wait. Gives how many slept.
    pub(super) fn notify(&self, count: u32) -> usize {
        // Wake before the change: whoever is about to sleep is not woken, and sleeps.
        if cfg!(sabotage = "condvar-wake-first") {
            let woken = self.sequence.wake(count);
            self.sequence.fetch_add(1, Relaxed);
            return woken;
        }
        // Wake without a change: whoever is woken sleeps again, and so does who is about to.
        if cfg!(sabotage = "condvar-unnumbered") {
            return self.sequence.wake(count);
        }
        // The change before the wake: whoever is about to sleep finds it. Two steps are as good as one:
        // killed in between, a notifier has notified whoever is not asleep yet, and that is no more to
        // the others than one killed before it notified.
        self.sequence.fetch_add(1, Relaxed);
        self.sequence.wake(count)
    }
}
