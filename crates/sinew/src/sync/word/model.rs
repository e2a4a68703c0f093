//! A word in the model checker: loom's atomic, and the kernel's futex as a lock and a bell.
//!
//! As in the kernel, comparing the value and going to sleep are one step to whoever wakes. No sleep
//! ends by itself: one that nobody ends is a deadlock, which loom reports. A wait whose deadline has
//! passed does not sleep, and when that happens relative to everything else is tried in every order.
//!
//! loom takes SeqCst accesses for AcqRel: what needs more than that needs a fence to pass.

use std::sync::atomic::Ordering;
use std::time::Duration;

use loom::sync::{Condvar, Mutex};

use crate::error::Stop;
use crate::sync::robust::{OWNER_DIED, TID_MASK, WAITERS};
use crate::wait::Wait;
use crate::wait::word::Change;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Word {
    value: loom::sync::atomic::AtomicU32,
    /// How many sleep.
    queue: Mutex<usize>,
    bell: Condvar,
}

impl Word {
    pub(crate) fn new(value: u32) -> Self {
        Self {
            value: loom::sync::atomic::AtomicU32::new(value),
            queue: Mutex::new(0),
            bell: Condvar::new(),
        }
    }
}

impl Word {
    /// What the kernel does with a robust word when the thread that has it dies.
    pub(crate) fn owner_dies(&self, tid: u32) {
        let mut seen = self.value.load(Ordering::SeqCst);
        while seen & TID_MASK == tid {
            let left = seen & WAITERS | OWNER_DIED;
            match self.value.compare_exchange(seen, left, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) if seen & WAITERS != 0 => {
                    super::Word::wake(self, 1);
                    return;
                }
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

impl super::Word for Word {
    fn load(&self, order: Ordering) -> u32 {
        self.value.load(order)
    }

    fn store(&self, value: u32, order: Ordering) {
        self.value.store(value, order);
    }

    fn swap(&self, value: u32, order: Ordering) -> u32 {
        self.value.swap(value, order)
    }

    fn compare_exchange(
        &self,
        current: u32,
        new: u32,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u32, u32> {
        self.value.compare_exchange(current, new, success, failure)
    }

    fn fetch_add(&self, value: u32, order: Ordering) -> u32 {
        self.value.fetch_add(value, order)
    }

    fn fetch_sub(&self, value: u32, order: Ordering) -> u32 {
        self.value.fetch_sub(value, order)
    }

    fn fetch_or(&self, bits: u32, order: Ordering) -> u32 {
        self.value.fetch_or(bits, order)
    }

    fn fetch_and(&self, bits: u32, order: Ordering) -> u32 {
        self.value.fetch_and(bits, order)
    }

    fn sleep(&self, expected: u32, wait: Wait<'_>) -> Result<(), Stop> {
        wait.left()?;
        let mut asleep = self.queue.lock().unwrap();
        if self.value.load(Ordering::SeqCst) == expected {
            *asleep += 1;
            drop(self.bell.wait(asleep).unwrap());
        }
        Ok(())
    }

    fn sleep_and_look(&self, expected: u32, wait: Wait<'_>, _: Duration) -> Result<(), Stop> {
        self.sleep(expected, wait)
    }

    fn wake(&self, count: u32) -> usize {
        // Whoever compares after this sees what was stored before it, as in the kernel.
        let mut asleep = self.queue.lock().unwrap();
        let woken = (*asleep).min(count as usize);
        for _ in 0..woken {
            self.bell.notify_one();
        }
        *asleep -= woken;
        woken
    }

    fn change_and_wake(&self, change: Change, count: u32) -> usize {
        // Readers that do not sleep see the change on its own, so this order is no stronger.
        let _before = match change {
            Change::Set(value) => self.value.swap(u32::from(value), Ordering::SeqCst),
            Change::ToBit(bit) => self.value.swap(1 << bit, Ordering::SeqCst),
            Change::ClearBit(bit) => self.value.fetch_and(!(1 << bit), Ordering::SeqCst),
        };
        super::Word::wake(self, count)
    }

    fn settle() {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }

    fn spin() {
        loom::thread::yield_now();
    }
}
