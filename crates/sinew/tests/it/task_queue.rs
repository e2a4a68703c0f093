//! The example of a task queue: both of its programs, as a user runs them.

#![allow(clippy::duplicate_mod, reason = "two programs, and each has what they share")]

use std::io::{BufRead, BufReader, Lines, PipeReader};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sinew::mapping::Mapping;
use sinew::memfd::Memfd;
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, tests};

#[path = "../../../../examples/task-queue/boss.rs"]
mod boss;
#[path = "../../../../examples/task-queue/worker.rs"]
mod worker;

pub(crate) const TESTS: &[Test] = tests![
    every_task_is_done_once_by_many_workers,
    the_task_of_a_killed_worker_is_done_by_another,
    a_task_that_kills_three_workers_is_given_up,
    a_stopped_worker_keeps_its_task,
    workers_end_with_the_boss,
    the_latency_of_each_wake_is_told,
];
pub(crate) const ROLES: &[Role] = roles![boss_program, worker_program];

fn boss_program(_: &Link) {
    boss::main().unwrap();
}

fn worker_program(_: &Link) {
    worker::main().unwrap();
}

fn path() -> PathBuf {
    scratch().join("tasks")
}

/// How many primes are below 100, and below what takes a worker long enough to be stopped while it counts.
const PRIMES: [(&str, u64); 2] =
    [("100", 25), if cfg!(debug_assertions) { ("30000", 3_245) } else { ("300000", 25_997) }];

struct Boss {
    peer: Peer,
    lines: Lines<BufReader<PipeReader>>,
}

impl Boss {
    fn start(arguments: &[&str]) -> Self {
        let (out, theirs) = std::io::pipe().unwrap();
        let peer = Peer::spawn_with("task_queue::boss_program", |c| {
            c.arg(path()).args(arguments).stdout(theirs);
        });
        let mut lines = BufReader::new(out).lines();
        let first = lines.next().unwrap().unwrap();
        assert!(first.starts_with("listening at "), "{first}");
        Self { peer, lines }
    }

    /// The shared memory, looked at from outside.
    fn memory(&self) -> Mapping {
        let fds = format!("/proc/{}/fd", self.peer.pid().as_raw_nonzero());
        let is_it = |fd: &PathBuf| {
            std::fs::read_link(fd).is_ok_and(|link| link.starts_with("/memfd:tasks (deleted)"))
        };
        let mut all = std::fs::read_dir(fds).unwrap().map(|fd| fd.unwrap().path());
        let file = std::fs::File::options().read(true).write(true).open(all.find(is_it).unwrap());
        Memfd::try_from(OwnedFd::from(file.unwrap())).unwrap().map().unwrap()
    }

    /// What it says at its end.
    fn end(self) -> Vec<String> {
        let lines = self.lines.map(Result::unwrap).collect();
        self.peer.join();
        lines
    }
}

fn worker() -> Peer {
    Peer::spawn_with("task_queue::worker_program", |c| {
        c.arg(path());
    })
}

/// The state of a slot: see `queue.rs` of the example.
fn state(memory: &Mapping, slot: usize) -> u64 {
    memory.load_u64_at(64 + 64 * slot).unwrap()
}
const DONE: u64 = 2;
const TAKEN: u64 = 1 << 32;

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "never {what}");
        std::thread::yield_now();
    }
}

/// A worker, the boss's next, that is stopped in the middle of the first task.
fn stopped_in_the_first_task(memory: &Mapping, number: u64) -> Peer {
    let worker = worker();
    until("in its task", || {
        crate::pipe::stop(&worker);
        let there = state(memory, 0) == TAKEN + number;
        if !there {
            worker.signal(Signal::CONT);
        }
        there
    });
    worker
}

fn every_task_is_done_once_by_many_workers() -> Result<(), Skip> {
    let (size, primes) = PRIMES[0];
    let boss = Boss::start(&["1000", size]);
    let workers: Vec<_> = (0..3).map(|_| worker()).collect();
    let said = boss.end();
    assert_eq!(said[0], format!("1000 tasks done, the sum is {}", 1000 * primes));
    assert_eq!(said[1], "0 given out again, 0 given up");
    workers.into_iter().for_each(Peer::join);
    Ok(())
}

/// Lets the first task be the end of so many workers, and then another do everything.
fn kill(workers: u64) -> Vec<String> {
    let boss = Boss::start(&["10", PRIMES[1].0]);
    let memory = boss.memory();
    for number in 0..workers {
        let worker = stopped_in_the_first_task(&memory, number);
        worker.kill();
        until("recovered", || state(&memory, 0) != TAKEN + number);
    }
    let last = worker();
    let said = boss.end();
    last.join();
    said
}

fn the_task_of_a_killed_worker_is_done_by_another() -> Result<(), Skip> {
    let said = kill(1);
    assert_eq!(said[0], format!("10 tasks done, the sum is {}", 10 * PRIMES[1].1));
    assert_eq!(said[1], "1 given out again, 0 given up");
    Ok(())
}

fn a_task_that_kills_three_workers_is_given_up() -> Result<(), Skip> {
    let said = kill(3);
    assert_eq!(said[0], format!("10 tasks done, the sum is {}", 9 * PRIMES[1].1));
    assert_eq!(said[1], "2 given out again, 1 given up");
    Ok(())
}

fn a_stopped_worker_keeps_its_task() -> Result<(), Skip> {
    let boss = Boss::start(&["10", PRIMES[1].0]);
    let memory = boss.memory();
    let stopped = stopped_in_the_first_task(&memory, 0);
    // Another does all the rest, and waits.
    let other = worker();
    until("done", || (1..10).all(|slot| state(&memory, slot) == DONE));
    assert_eq!(state(&memory, 0), TAKEN);
    stopped.signal(Signal::CONT);
    let said = boss.end();
    assert_eq!(said[0], format!("10 tasks done, the sum is {}", 10 * PRIMES[1].1));
    assert_eq!(said[1], "0 given out again, 0 given up");
    stopped.join();
    other.join();
    Ok(())
}

fn workers_end_with_the_boss() -> Result<(), Skip> {
    let Boss { peer, mut lines } = Boss::start(&["1", PRIMES[0].0, "--one-by-one"]);
    crate::pipe::stop(&peer);
    // One worker connects to a boss that does not answer, and then dies.
    let mut early = worker();
    crate::pipe::until_asleep(early.pid());
    peer.signal(Signal::KILL);
    peer.kill();
    // Without a greeting there is nothing to do, which is an error.
    assert!(!early.wait().success());
    assert!(lines.next().is_none());
    std::fs::remove_file(path()).unwrap();

    let boss = Boss::start(&["1000000", PRIMES[0].0]);
    let memory = boss.memory();
    let greeted = worker();
    until("done", || memory.load_u64_at(0).unwrap() > 100);
    boss.peer.kill();
    greeted.join();
    std::fs::remove_file(path()).unwrap();
    Ok(())
}

fn the_latency_of_each_wake_is_told() -> Result<(), Skip> {
    let boss = Boss::start(&["200", PRIMES[0].0, "--one-by-one"]);
    let worker = worker();
    let said = boss.end();
    worker.join();
    assert_eq!(said[2], "wake latency, from ringing until the worker runs:");
    let mut wakes = 0;
    for line in &said[3..] {
        let words: Vec<&str> = line.split_whitespace().collect();
        let count = words.iter().position(|word| *word == "wakes,").unwrap() - 1;
        wakes += words[count].parse::<u32>().unwrap();
        assert!(line.contains(" p50 ") && line.contains(" p99 "), "{line}");
    }
    // One that comes while the worker is still on its way to sleep wakes nobody.
    assert!((1..=200).contains(&wakes), "{said:?}");
    Ok(())
}
