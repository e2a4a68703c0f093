//! A worker of the task queue: takes tasks until the boss has gone.
//!
//! `cargo run --release --example task-queue-worker -- PATH`; as many as you like, at any time.

mod queue;

use std::error::Error;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use queue::{DONE, Queue, READY, SLOTS, Slot, TAKEN, here};
use sinew::WaitError;
use sinew::poller::{Events, Interest, Poller, Token};
use sinew::unix::{Address, Socket};
use sinew::wait::{Connects, Receives, Waits};

const TASKS: Token = Token(0);
const BOSS: Token = Token(1);

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: task-queue-worker PATH")?;

    // The boss sends our number, with the memory and the two bells.
    let boss = Address::path(path)?.seqpacket().connect()?;
    let mut number = [0; 8];
    let fds = boss.fds(3).recv(&mut number)?.fds;
    let [memory, ready, done] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| "three descriptors")?;
    let queue = Queue::new(memory, ready, done)?;
    let number = u64::from_ne_bytes(number);

    // Exclusive: a ring wakes one of the workers, not all.
    let poller = Poller::new()?;
    let _tasks = poller.add(&queue.ready, TASKS, Interest::READABLE.exclusive())?;
    let _boss = poller.add(&boss, BOSS, Interest::READABLE)?;
    let mut events = Events::with_capacity(2);
    let mut woken = None;
    loop {
        // Who takes a ring looks until nothing is ready, so that no task is left without one.
        while took_a_ring(&queue)? {
            while let Some(task) = claim(&queue, number) {
                let rung = task.rung[0].load(Relaxed);
                let [time, cpu] = woken.take().unwrap_or([rung, 0]);
                task.woken[0].store(time.saturating_sub(rung), Relaxed);
                task.woken[1].store(cpu, Relaxed);
                task.result.store(count_primes(task.input.load(Relaxed)), Relaxed);
                task.state.store(DONE, Release);
                queue.done.notify()?;
            }
        }
        poller.fill(&mut events).wait()?;
        woken = Some(here());
        if events.iter().any(|event| event.token() == BOSS) {
            // It never sends anything more: it is gone, and so is the queue.
            return Ok(());
        }
    }
}

/// An event is only a hint: another worker may have been faster.
fn took_a_ring(queue: &Queue) -> Result<bool, WaitError> {
    match queue.ready.try_wait() {
        Ok(()) => Ok(true),
        Err(WaitError::WouldBlock) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes the oldest task that is ready ours.
fn claim(queue: &Queue, number: u64) -> Option<Slot<'_>> {
    let oldest = queue.oldest().load(Acquire);
    (oldest..oldest + SLOTS)
        .map(|task| queue.slot(task))
        .find(|slot| slot.state.compare_exchange(READY, TAKEN + number, Acquire, Relaxed).is_ok())
}

/// What there is to do: how many primes are below `end`.
fn count_primes(end: u64) -> u64 {
    let is_prime = |n: &u64| (2..).take_while(|d| d * d <= *n).all(|d| !n.is_multiple_of(d));
    (2..end).filter(is_prime).count() as u64
}
