//! A task queue: one program gives out tasks, any number of others do them.
//!
//! ```text
//! cargo run --release --example task-queue-boss -- /tmp/tasks 1000 &
//! cargo run --release --example task-queue-worker -- /tmp/tasks
//! ```
//!
//! `task-queue-boss PATH COUNT [SIZE] [--one-by-one]` gives out COUNT tasks, each to count the primes
//! below SIZE, and says how long it took from ringing for a task until a worker that waited ran. With
//! `--one-by-one` the workers sleep before each task, so that this is the time of a wake-up and nothing
//! else. Where the two ran, it says too; `taskset -c 0` before both puts them on the same CPU.
//!
//! # What is promised
//! Tasks and results are in shared memory: giving one out and taking its result is a system call to ring
//! and none to copy. Workers come and go, and may be killed with `kill -9` at any instruction:
//!
//! - Each task is done at least once. It is done twice only if its worker was killed between its last
//!   step and the word that says DONE, so a task must not mind that.
//! - A task whose worker dies goes to another at once. One that had three workers die is given up.
//! - A worker that is stopped is not dead: its task waits for it, and no time-out takes it away.
//! - The boss owns the queue: when it dies, the workers end, and what was not done is gone.
//! - All of them are trusted: who can write into the memory can spoil it.
#![allow(clippy::print_stdout, reason = "a program of its own")]

mod queue;

use std::collections::BTreeMap;
use std::error::Error;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use queue::{DONE, LINE, Queue, READY, SLOTS, TAKEN, here};
use sinew::poller::{Events, Interest, Poller, Registered, Token};
use sinew::unix::{Address, Seqpacket, SeqpacketListener, Socket};
use sinew::wait::{Accepts, Sends, Waits};
use sinew::{WaitError, eventfd, memfd};

/// A slot without a task.
const FREE: u64 = 0;

const DOOR: Token = Token(0);
const RESULTS: Token = Token(1);
/// And the number of the worker.
const WORKER: u64 = 2;
/// How many workers a task may kill.
const LIVES: u32 = 3;
/// The result of a task that was given up.
const GIVEN_UP: u64 = u64::MAX;
/// How long nothing must happen before the next task, if it is one by one: the workers sleep then.
const REST: Duration = Duration::from_micros(300);

/// The queue as its owner sees it: what is in shared memory, and what only the boss knows.
struct Boss {
    queue: Queue,
    /// The number of the next task. The oldest that is not finished is in the queue.
    next: u64,
    /// How many workers each slot's task has killed.
    deaths: [u32; SLOTS as usize],
    again: u64,
    given_up: u64,
    results: u64,
    /// Nanoseconds from ringing to running: on the same CPU, on another.
    latencies: [Vec<u64>; 2],
}

impl Boss {
    fn oldest(&self) -> u64 {
        self.queue.oldest().load(Relaxed)
    }

    fn has_room(&self) -> bool {
        self.next - self.oldest() < SLOTS
    }

    fn submit(&mut self, input: u64) -> Result<(), Box<dyn Error>> {
        self.deaths[(self.next % SLOTS) as usize] = 0;
        self.queue.slot(self.next).input.store(input, Relaxed);
        self.next += 1;
        self.ring_for(self.next - 1)
    }

    fn ring_for(&self, task: u64) -> Result<(), Box<dyn Error>> {
        let slot = self.queue.slot(task);
        let [time, cpu] = here();
        slot.rung[0].store(time, Relaxed);
        slot.rung[1].store(cpu, Relaxed);
        slot.state.store(READY, Release);
        Ok(self.queue.ready.notify()?)
    }

    /// Takes the results of the tasks that are done, in the order of the tasks.
    fn collect(&mut self) {
        while self.oldest() < self.next {
            let slot = self.queue.slot(self.oldest());
            if slot.state.load(Acquire) != DONE {
                return;
            }
            match slot.result.load(Relaxed) {
                GIVEN_UP => self.given_up += 1,
                result => self.results += result,
            }
            let latency = slot.woken[0].load(Relaxed);
            if latency > 0 {
                let same_cpu = slot.rung[1].load(Relaxed) == slot.woken[1].load(Relaxed);
                self.latencies[usize::from(!same_cpu)].push(latency);
            }
            slot.state.store(FREE, Relaxed);
            self.queue.oldest().store(self.oldest() + 1, Release);
        }
    }

    /// Gives out again what a dead worker had.
    fn recover(&mut self, worker: u64) -> Result<(), Box<dyn Error>> {
        for task in self.oldest()..self.next {
            let slot = self.queue.slot(task);
            if slot.state.load(Acquire) != TAKEN + worker {
                continue;
            }
            let deaths = &mut self.deaths[(task % SLOTS) as usize];
            *deaths += 1;
            if *deaths < LIVES {
                self.again += 1;
                self.ring_for(task)?;
            } else {
                slot.result.store(GIVEN_UP, Relaxed);
                slot.state.store(DONE, Release);
            }
        }
        // It may have died with a ring that it took, before it looked; or done, before it rang.
        self.queue.ready.notify()?;
        self.collect();
        Ok(())
    }
}

pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (options, words): (Vec<_>, Vec<_>) = words.iter().partition(|word| word.starts_with("--"));
    let [path, count, size @ ..] = words.as_slice() else {
        return Err("usage: task-queue-boss PATH COUNT [SIZE] [--one-by-one]".into());
    };
    let count: u64 = count.parse()?;
    let size: u64 = size.first().map_or(Ok(1_000), |size| size.parse())?;
    let one_by_one = options.iter().any(|option| *option == "--one-by-one");

    let memory = memfd::Options::new().create("tasks", LINE as u64 * (1 + SLOTS))?;
    let (ready, done) = (eventfd::semaphore()?, eventfd::counter()?);
    // What each worker gets, and the boss too.
    let all = [memory.as_fd(), ready.as_fd(), done.as_fd()];
    let [memory, ready, done] = all.map(|fd| fd.try_clone_to_owned());
    let mut boss = Boss {
        queue: Queue::new(memory?, ready?, done?)?,
        next: 0,
        deaths: [0; SLOTS as usize],
        again: 0,
        given_up: 0,
        results: 0,
        latencies: [Vec::new(), Vec::new()],
    };

    let listener = SeqpacketListener::bind(&Address::path(path)?)?;
    let poller = Poller::new()?;
    println!("listening at {path}");
    let listener = poller.add(listener, DOOR, Interest::READABLE)?;
    let results = boss.queue.done.try_clone()?;
    let results = poller.add(results, RESULTS, Interest::READABLE)?;
    let mut workers: BTreeMap<u64, Registered<Seqpacket>> = BTreeMap::new();
    let mut hired = 0;
    let mut events = Events::with_capacity(64);
    while boss.oldest() < count {
        while !one_by_one && boss.next < count && boss.has_room() {
            boss.submit(size)?;
        }
        let idle = one_by_one && boss.oldest() == boss.next && !workers.is_empty();
        if idle {
            match poller.fill(&mut events).wait_timeout(REST) {
                Err(WaitError::TimedOut) => boss.submit(size)?,
                other => drop(other?),
            }
        } else {
            poller.fill(&mut events).wait()?;
        }
        for event in &events {
            match event.token() {
                DOOR => {
                    let Ok(worker) = listener.try_accept() else { continue };
                    // Who is gone already is no worker.
                    if worker.with_fds(&all).try_send(&u64::to_ne_bytes(hired)).is_ok() {
                        let token = Token(WORKER + hired);
                        workers.insert(hired, poller.add(worker, token, Interest::READABLE)?);
                        hired += 1;
                    }
                }
                RESULTS => {
                    // One look for many rings. What is done after it rings again.
                    let _ = results.try_wait();
                    boss.collect();
                }
                // A worker says nothing: its connection is readable when it is gone. No child of it has
                // the connection too, and it does nothing to the queue without it.
                Token(token) => {
                    let worker = token - WORKER;
                    workers.remove(&worker);
                    boss.recover(worker)?;
                }
            }
        }
    }

    println!("{count} tasks done, the sum is {}", boss.results);
    println!("{} given out again, {} given up", boss.again, boss.given_up);
    println!("wake latency, from ringing until the worker runs:");
    for (place, latencies) in ["the same CPU", "another CPU"].iter().zip(&mut boss.latencies) {
        latencies.sort_unstable();
        let (count, last) = (latencies.len(), latencies.len().saturating_sub(1));
        let at = |percent: usize| Some(*latencies.get((count * percent / 100).min(last))? as f64);
        if let (Some(median), Some(tail)) = (at(50), at(99)) {
            let (median, tail) = (median / 1_000.0, tail / 1_000.0);
            println!("  on {place}: {count} wakes, p50 {median:.1} us, p99 {tail:.1} us");
        }
    }
    Ok(())
}
