//! What the boss and its workers share: a circular buffer in a memfd, and two bells.
//!
//! Each slot is one cache line and belongs to one process at a time; its state says whose turn it is.
//! Whoever changes the state to `Release` what it wrote before is seen by whoever `Acquire`s it.
//!
//! ```text
//!            boss writes a task          a worker claims it        the worker is done
//!     FREE ---------------------> READY ------------------> TAKEN + n ----------------> DONE
//!      ^                            ^---------------------------'                         |
//!      |                             boss: worker n is dead                               |
//!      '------------------------------- boss reads the result ----------------------------'
//! ```

use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU64;

use sinew::eventfd::{Counter, EventFd, Semaphore};
use sinew::mapping::Mapping;
use sinew::memfd::Memfd;
use sinew::timerfd::Clock;

/// How many tasks there can be at a time.
pub(crate) const SLOTS: u64 = 64;
/// The size of a slot, and where the first one lies: before it is a cache line for `oldest`.
pub(crate) const LINE: usize = 64;

/// The states; zero is FREE.
pub(crate) const READY: u64 = 1;
pub(crate) const DONE: u64 = 2;
/// And the number of the worker.
pub(crate) const TAKEN: u64 = 1 << 32;

pub(crate) struct Queue {
    memory: Mapping,
    /// Rung once for each task that is ready. One ring wakes one worker.
    pub(crate) ready: EventFd<Semaphore>,
    /// Rung for each task that is done.
    pub(crate) done: EventFd<Counter>,
}

pub(crate) struct Slot<'a> {
    pub(crate) state: &'a AtomicU64,
    pub(crate) input: &'a AtomicU64,
    pub(crate) result: &'a AtomicU64,
    /// When the boss rang, in nanoseconds, and on which CPU.
    pub(crate) rung: [&'a AtomicU64; 2],
    /// How many nanoseconds later the worker ran, and on which CPU; zero if it was awake anyway.
    pub(crate) woken: [&'a AtomicU64; 2],
}

impl Queue {
    /// Takes the three descriptors that make one. Each is checked to be what it has to be.
    pub(crate) fn new(memory: OwnedFd, ready: OwnedFd, done: OwnedFd) -> sinew::Result<Self> {
        Ok(Self {
            memory: Memfd::try_from(memory)?.map()?,
            ready: ready.try_into()?,
            done: done.try_into()?,
        })
    }

    /// The slot of a task, by the number of the task.
    pub(crate) fn slot(&self, task: u64) -> Slot<'_> {
        let line = LINE + (task % SLOTS) as usize * LINE;
        let word = |index: usize| self.word(line + 8 * index);
        Slot {
            state: word(0),
            input: word(1),
            result: word(2),
            rung: [word(3), word(4)],
            woken: [word(5), word(6)],
        }
    }

    /// The number of the oldest task that is not finished.
    pub(crate) fn oldest(&self) -> &AtomicU64 {
        self.word(0)
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        self.memory.atomic_u64_at(offset).expect("the boss made the memory large enough")
    }
}

/// The time and the CPU, now.
pub(crate) fn here() -> [u64; 2] {
    let now = Clock::Monotonic.now();
    let nanoseconds = now.as_secs() * 1_000_000_000 + u64::from(now.subsec_nanos());
    [nanoseconds, rustix::thread::sched_getcpu() as u64]
}
