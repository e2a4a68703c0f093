//! No wake-up is lost: one process rings, another waits, and each ring has to end one wait.
//!
//! The pause before a ring varies by microseconds, so that it comes while the waiter is still on its
//! way to sleep, just asleep, and long asleep; half of the time it is on another CPU. How many found it
//! asleep is counted by the kernel, as the times that the waiter gave up its CPU. `cargo xtask wakeups`
//! runs the same with a million each; with `--messages`, so many go through a channel that is often full
//! and often empty.

#![allow(unsafe_code, reason = "getrusage tells how often this thread slept; attaches to channels")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use sinew::channel::{Options, Receiver, Sender};
use sinew::condvar::Condvar;
use sinew::eventfd::{self, Counter, EventFd};
use sinew::futex::Futex;
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::mutex::Mutex;
use sinew::posix_sem;
use sinew::wait::{Borrows, Loans, Locks, Receives, Sends, Waits};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

pub(crate) const TESTS: &[Test] = tests![
    every_ring_of_an_eventfd_ends_a_wait,
    every_post_of_a_semaphore_ends_a_wait,
    every_wake_of_a_futex_ends_a_wait,
    every_notification_of_a_condvar_ends_a_wait,
    every_message_of_a_channel_ends_a_wait,
    no_message_of_a_full_channel_is_lost,
];
pub(crate) const ROLES: &[Role] = roles![waiter, taker];

/// How many rings, where the environment asks for no other number.
const SAMPLE: u64 = 20_000;
/// After so long without an answer the ring is lost.
const PATIENCE: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(60);

/// What both processes have.
struct Shared {
    /// Its first word is the last ring that ended a wait; the rest is for the mechanism.
    memory: Arc<Mapping>,
    fd: Option<OwnedFd>,
}

impl Shared {
    fn answered(&self) -> &AtomicU64 {
        self.memory.atomic_u64_at(0).unwrap()
    }
}

type Ringer<'a> = Box<dyn FnMut(u64) + 'a>;
type Waiter<'a> = Box<dyn FnMut(u64, bool) + 'a>;

/// One mechanism by which a process wakes another.
struct Row {
    name: &'static str,
    /// Makes what it needs, before the waiter starts.
    make: fn(&Arc<Mapping>) -> Option<OwnedFd>,
    /// Rings for the time that it is given.
    ringer: fn(&Shared) -> Ringer<'_>,
    /// Waits for the ring of that time; in a form with a deadline where the second is true.
    waiter: fn(&Shared) -> Waiter<'_>,
}

const ROWS: &[Row] = &[EVENTFD, POSIX_SEM, FUTEX, CONDVAR, CHANNEL];

const EVENTFD: Row = Row {
    name: "eventfd",
    make: |_| Some(eventfd::counter().unwrap().into()),
    ringer: |shared| {
        let bell = bell(shared);
        Box::new(move |_| bell.notify().unwrap())
    },
    waiter: |shared| {
        let bell = bell(shared);
        Box::new(move |_, bounded| {
            let got = if bounded { bell.wait_timeout(LONG) } else { bell.wait() };
            assert_eq!(got, Ok(1), "one ring, one wait");
        })
    },
};

fn bell(shared: &Shared) -> EventFd<Counter> {
    let fd = shared.fd.as_ref().unwrap().as_fd();
    EventFd::try_from(fd.try_clone_to_owned().unwrap()).unwrap()
}

/// Where in the shared memory the words of a mechanism lie.
const PLACE: usize = 64;

const POSIX_SEM: Row = Row {
    name: "posix-sem",
    make: |memory| {
        posix_sem::Options::new().create_at(memory, PLACE).unwrap();
        None
    },
    ringer: |shared| {
        let semaphore = posix_sem::Options::new().open_at(&shared.memory, PLACE).unwrap();
        Box::new(move |_| semaphore.post().unwrap())
    },
    waiter: |shared| {
        let semaphore = posix_sem::Options::new().open_at(&shared.memory, PLACE).unwrap();
        Box::new(move |_, bounded| {
            let got = if bounded { semaphore.wait_timeout(LONG) } else { semaphore.wait() };
            assert_eq!(got, Ok(()));
            assert_eq!(semaphore.value(), 0, "one post, one wait");
        })
    },
};

const FUTEX: Row = Row {
    name: "futex",
    make: |_| None,
    ringer: |shared| {
        let word = shared.memory.atomic_u32_at(PLACE).unwrap();
        Box::new(move |time| {
            word.store(time as u32, Ordering::Release);
            Futex::new(word).wake(1).unwrap();
        })
    },
    waiter: |shared| {
        let word = shared.memory.atomic_u32_at(PLACE).unwrap();
        Box::new(move |time, bounded| {
            let before = time as u32 - 1;
            while word.load(Ordering::Acquire) == before {
                let sleep = Futex::new(word).while_is(before);
                if bounded { sleep.wait_timeout(LONG) } else { sleep.wait() }.unwrap();
            }
        })
    },
};

/// Where the condition variable and its condition lie, after the mutex.
const CONDVAR_PLACE: usize = PLACE + 64;
const CONDITION: usize = PLACE + 128;

const CONDVAR: Row = Row {
    name: "condvar",
    make: |memory| {
        Mutex::create_in(memory, PLACE).unwrap();
        Condvar::create_in(memory, CONDVAR_PLACE).unwrap();
        None
    },
    ringer: |shared| {
        let mutex = Mutex::open_in(&shared.memory, PLACE).unwrap();
        let condvar = Condvar::open_in(&shared.memory, CONDVAR_PLACE).unwrap();
        let condition = shared.memory.atomic_u64_at(CONDITION).unwrap();
        Box::new(move |time| {
            let guard = mutex.lock().unwrap();
            condition.store(time, Ordering::Relaxed);
            drop(guard);
            condvar.notify_one();
        })
    },
    waiter: |shared| {
        let mutex = Mutex::open_in(&shared.memory, PLACE).unwrap();
        let condvar = Condvar::open_in(&shared.memory, CONDVAR_PLACE).unwrap();
        let condition = shared.memory.atomic_u64_at(CONDITION).unwrap();
        Box::new(move |time, bounded| {
            let mut guard = mutex.lock().unwrap();
            while condition.load(Ordering::Relaxed) < time {
                if bounded {
                    let (again, ended) = condvar.wait_timeout(guard, LONG).unwrap();
                    assert_eq!(ended, Ok(()));
                    guard = again;
                } else {
                    guard = condvar.wait(guard).unwrap();
                }
            }
        })
    },
};

/// In memory of its own.
const CHANNEL: Row = Row {
    name: "channel",
    make: |_| Some(small_channel().into()),
    ringer: |shared| {
        let sender = sender(shared.fd.as_ref().unwrap().try_clone().unwrap());
        Box::new(move |time| sender.send(&time.to_le_bytes()).unwrap())
    },
    waiter: |shared| {
        let receiver = receiver(shared.fd.as_ref().unwrap().try_clone().unwrap());
        Box::new(move |time, bounded| {
            let mut buf = [0; 8];
            let got = if bounded {
                receiver.recv_timeout(&mut buf, LONG)
            } else {
                receiver.recv(&mut buf)
            };
            assert_eq!((got, u64::from_le_bytes(buf)), (Ok(8), time));
        })
    },
};

fn small_channel() -> Memfd {
    let options = Options::stream().capacity(4096);
    let memfd = memfd::Options::new().create("channel", options.bytes().unwrap()).unwrap();
    options.create_in(&Arc::new(memfd.map().unwrap())).unwrap();
    memfd
}

fn sender(fd: OwnedFd) -> Sender {
    let map = Arc::new(Memfd::try_from(fd).unwrap().map().unwrap());
    // SAFETY: the other process uses it as a channel too, of which it is the receiver.
    unsafe { Sender::open_in(&map, 0) }.unwrap()
}

fn receiver(fd: OwnedFd) -> Receiver {
    let map = Arc::new(Memfd::try_from(fd).unwrap().map().unwrap());
    // SAFETY: as above, and this is its receiver.
    unsafe { Receiver::open_in(&map) }.unwrap()
}

/// The CPUs of the ringer and of the waiter: two if there are two.
fn cpus() -> [usize; 2] {
    let allowed = sched_getaffinity(None).unwrap();
    let mut found = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let first = found.next().unwrap();
    [first, found.next().unwrap_or(first)]
}

fn stay_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).unwrap();
}

/// How often this thread gave up its CPU to sleep.
fn sleeps() -> i64 {
    // SAFETY: rusage is made of numbers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` is an rusage, borrowed for the call.
    let done = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    assert_eq!(done, 0);
    usage.ru_nvcsw
}

fn waiter(link: &Link) {
    let name = link.hear();
    let row = ROWS.iter().find(|row| row.name == name).unwrap();
    let count: u64 = link.hear().parse().unwrap();
    let memory = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let (_, fds) = link.receive();
    let shared = Shared { memory, fd: fds.into_iter().next() };
    let mut wait = (row.waiter)(&shared);
    let mut asleep = 0_u64;
    let [near, far] = cpus();
    stay_on(far);
    link.say("waiting");
    for time in 1..=count {
        if time == count / 2 {
            stay_on(near);
        }
        let before = sleeps();
        wait(time, time % 2 == 0);
        asleep += u64::from(sleeps() > before);
        shared.answered().store(time, Ordering::Release);
    }
    link.say(asleep);
}

/// Rings so often as the environment says, and asserts that each one was heard.
fn ring(row: &Row) {
    let count = std::env::var("SINEW_WAKEUPS").map_or(SAMPLE, |n| n.parse().unwrap());
    let memfd = memfd::Options::new().create("wakeups", 8192).unwrap();
    let memory = Arc::new(memfd.map().unwrap());
    let fd = (row.make)(&memory);
    let peer = Peer::spawn("wakeups::waiter");
    peer.say(row.name);
    peer.say(count);
    peer.send_fd(&memfd);
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
    peer.send(b"all", &fds);
    let shared = Shared { memory, fd };
    let mut ring = (row.ringer)(&shared);
    peer.expect("waiting");
    let [near, _] = cpus();
    stay_on(near);

    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for time in 1..=count {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        // Mostly short ones: what can go wrong does so on the way to sleep.
        let pause = Duration::from_nanos(random % (1 << ((random >> 32) % 14)));
        let answered = Instant::now();
        while answered.elapsed() < pause {
            std::hint::spin_loop();
        }
        ring(time);
        let rung = Instant::now();
        while shared.answered().load(Ordering::Acquire) < time {
            assert!(rung.elapsed() < PATIENCE, "ring {time} of {} is lost", row.name);
            std::thread::yield_now();
        }
        longest = longest.max(rung.elapsed());
    }
    let took = begin.elapsed();
    let asleep: u64 = peer.hear().parse().unwrap();
    assert!(asleep >= count / 10, "only {asleep} of {count} found the waiter asleep");
    report(row.name, count, asleep, took, longest);
    drop(ring);
    peer.join();
}

/// Tells the caller, if there is one who asks for it. The longest time until an answer is there because
/// who sleeps in slices would only be late where a wake-up was lost.
fn report(name: &str, count: u64, asleep: u64, took: Duration, longest: Duration) {
    let Some(path) = std::env::var_os("SINEW_WAKEUPS_REPORT") else { return };
    let mut file = File::options().append(true).open(path).unwrap();
    let (seconds, longest) = (took.as_secs_f64(), longest.as_secs_f64() * 1e3);
    writeln!(file, "{name} {count} {asleep} {seconds:.1} {longest:.1}").unwrap();
}

fn every_ring_of_an_eventfd_ends_a_wait() -> Result<(), Skip> {
    ring(&EVENTFD);
    Ok(())
}

fn every_post_of_a_semaphore_ends_a_wait() -> Result<(), Skip> {
    ring(&POSIX_SEM);
    Ok(())
}

fn every_wake_of_a_futex_ends_a_wait() -> Result<(), Skip> {
    ring(&FUTEX);
    Ok(())
}

fn every_notification_of_a_condvar_ends_a_wait() -> Result<(), Skip> {
    ring(&CONDVAR);
    Ok(())
}

fn every_message_of_a_channel_ends_a_wait() -> Result<(), Skip> {
    ring(&CHANNEL);
    Ok(())
}

/// How many messages, where the environment asks for no other number.
const MESSAGES: u64 = 200_000;

/// Numbers that look like chance, the same in both processes.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// The length of the next message, and after it a pause, now and then.
fn draw(random: &mut u64) -> (usize, u32) {
    let drawn = next(random);
    let pause = if drawn >> 56 == 0 { 1 << ((drawn >> 40) % 12) } else { 0 };
    (8 + (drawn % 150) as usize, pause)
}

fn pause(turns: u32) {
    (0..turns).for_each(|_| std::hint::spin_loop());
}

/// Which CPU both are on in this part of the whole: most of the time the same one.
fn cpu_of(number: u64, count: u64, own: usize) -> Option<usize> {
    let part = (count / 8).max(1);
    number
        .is_multiple_of(part)
        .then(|| if number / part % 4 == 3 { cpus()[own] } else { cpus()[0] })
}

/// Takes so many messages as it is told, and looks at each byte.
fn taker(link: &Link) {
    let receiver = receiver(link.recv_fd());
    let count: u64 = link.hear().parse().unwrap();
    let (mut random, mut other) = (0x9E37_79B9_7F4A_7C15_u64, 0x1357_9BDF_0246_8ACE);
    let before = sleeps();
    let mut buf = [0; 160];
    for number in 0..count {
        if let Some(cpu) = cpu_of(number, count, 1) {
            stay_on(cpu);
        }
        let (len, _) = draw(&mut random);
        let right = |message: &[u8]| {
            message.len() == len
                && message[..8] == number.to_le_bytes()
                && message[8..].iter().all(|byte| *byte == number as u8)
        };
        if number % 2 == 0 {
            assert!(right(&receiver.borrow().unwrap()), "number {number}");
        } else {
            let len = receiver.recv(&mut buf).unwrap();
            assert!(right(&buf[..len]), "number {number}");
        }
        pause(draw(&mut other).1);
    }
    link.say(sleeps() - before);
}

fn no_message_of_a_full_channel_is_lost() -> Result<(), Skip> {
    let count = std::env::var("SINEW_MESSAGES").map_or(MESSAGES, |n| n.parse().unwrap());
    let memfd = small_channel();
    let peer = Peer::spawn("wakeups::taker");
    peer.send_fd(&memfd);
    peer.say(count);
    let mut sender = sender(memfd.into());
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    let (begin, before) = (Instant::now(), sleeps());
    let mut message = [0; 160];
    for number in 0..count {
        if let Some(cpu) = cpu_of(number, count, 0) {
            stay_on(cpu);
        }
        let (len, turns) = draw(&mut random);
        message[..8].copy_from_slice(&number.to_le_bytes());
        message[8..len].fill(number as u8);
        if number % 3 == 0 {
            let mut loan = sender.loan_timeout(len, PATIENCE).unwrap();
            loan.copy_from_slice(&message[..len]);
            loan.send();
        } else {
            sender.send_timeout(&message[..len], PATIENCE).unwrap();
        }
        pause(turns);
    }
    let blocked = sleeps() - before;
    let asleep: i64 = peer.hear().parse().unwrap();
    peer.join();
    let took = begin.elapsed();
    assert!(asleep.unsigned_abs() >= count / 100, "the receiver slept {asleep} times only");
    assert!(blocked.unsigned_abs() >= count / 1000, "the sender slept {blocked} times only");
    report("channel-empty", count, asleep.unsigned_abs(), took, Duration::ZERO);
    report("channel-full", count, blocked.unsigned_abs(), took, Duration::ZERO);
    Ok(())
}
