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
use crate::wait::Wait;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Word {
    value: loom::sync::atomic::AtomicU32,
    queue: Mutex<()>,
    bell: Condvar,
}

impl Word {
    pub(crate) fn new(value: u32) -> Self {
        Self {
            value: loom::sync::atomic::AtomicU32::new(value),
            queue: Mutex::new(()),
            bell: Condvar::new(),
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
        let queue = self.queue.lock().unwrap();
        if self.value.load(Ordering::SeqCst) == expected {
            drop(self.bell.wait(queue).unwrap());
        }
        Ok(())
    }

    fn sleep_and_look(&self, expected: u32, wait: Wait<'_>, _: Duration) -> Result<(), Stop> {
        self.sleep(expected, wait)
    }

    fn wake(&self, count: u32) {
        // Whoever compares after this sees what was stored before it, as in the kernel.
        let queue = self.queue.lock().unwrap();
        if count == super::ALL {
            self.bell.notify_all();
        } else {
            for _ in 0..count {
                self.bell.notify_one();
            }
        }
        drop(queue);
    }

    fn spin() {
        loom::thread::yield_now();
    }
}
