//! The mutex between real processes: exclusion, deaths, repair, deadlines, rubbish.

#![allow(unsafe_code, reason = "forks, and libc's own robust mutexes beside ours")]

pub(crate) mod libc_list;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use sinew::futex::{OWNER_DIED, TID_MASK, WAITERS};
use sinew::mapping::{self, Mapping};
use sinew::memfd::Memfd;
use sinew::mutex::{self, Guard, Mutex, Options, Recovery};
use sinew::wait::{Interrupt, Locks, Wait};
use sinew::{ErrorKind, LockError, anonymous};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

use crate::anonymous::in_child;
use crate::futex::{memory, until_on_futex};
use crate::pipe::stop;

pub(crate) const TESTS: &[Test] = tests![
    a_lock_excludes_another_process,
    many_locks_lose_no_count,
    a_killed_owner_is_told_to_one_sleeper,
    of_four_sleepers_each_has_its_turn,
    an_owner_that_died_alone_is_told_to_the_next,
    what_is_repaired_is_as_new,
    what_nobody_repairs_is_never_locked_again,
    a_death_during_the_repair_is_told_again,
    killed_sleepers_cost_nobody_his_turn,
    a_thread_that_ends_with_the_lock_counts_as_dead,
    a_forgotten_guard_keeps_its_memory,
    every_form_keeps_its_deadline,
    an_interrupt_ends_a_wait,
    a_lock_that_one_has_is_a_deadlock,
    a_forked_child_has_none_of_its_parents_locks,
    a_forked_child_locks_as_itself,
    another_pid_namespace_is_refused,
    a_dead_number_in_the_word_is_corrupt,
    rubbish_ends_in_an_error,
    an_heir_that_does_not_come_is_not_waited_for,
    priority_is_inherited_where_asked_for,
    a_lock_makes_no_system_call,
    a_hand_over_is_one_sleep_and_one_wake,
    nobody_waits_long,
    what_is_no_mutex_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![member];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

/// Both kinds of mutex.
const KINDS: [Options; 2] = [Options::new(), Options::new().inherit_priority()];

/// Where the counter is that the mutex guards.
const COUNTER: usize = 128;

type Denied<'a> = LockError<Recovery<'a>>;

/// What locking gave, in a word.
fn told(result: &Result<Guard<'_>, Denied<'_>>) -> &'static str {
    match result {
        Ok(_) => "locked",
        Err(LockError::OwnerDied(_)) => "owner died",
        Err(LockError::WouldBlock) => "would block",
        Err(LockError::TimedOut) => "timed out",
        Err(LockError::Interrupted) => "interrupted",
        Err(LockError::Deadlock) => "deadlock",
        Err(LockError::NotRecoverable) => "not recoverable",
        Err(LockError::OtherPidNamespace) => "other pid namespace",
        Err(LockError::Corrupt) => "corrupt",
        Err(_) => "another error",
    }
}

/// Opens the mutex at the start of a memfd, and locks it as it is told.
fn member(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let mutex = Mutex::open_in(&map, 0).unwrap();
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        if let Some(turns) = words.strip_prefix("count ") {
            for _ in 0..turns.parse::<u32>().unwrap() {
                let guard = mutex.lock().unwrap();
                count(&map);
                drop(guard);
            }
            link.say("counted");
            continue;
        }
        if let Some(turns) = words.strip_prefix("lend ") {
            for turn in 1..=turns.parse::<u32>().unwrap() {
                let guard = mutex.lock().unwrap();
                until(|| word(&map).load(Ordering::Relaxed) & WAITERS != 0);
                drop(guard);
                let counter = map.atomic_u32_at(COUNTER).unwrap();
                until(|| counter.load(Ordering::Relaxed) == turn);
                until(|| word(&map).load(Ordering::Relaxed) == 0);
            }
            link.say("lent");
            continue;
        }
        if let Some(time) = words.strip_prefix("contend ") {
            let (turns, longest) = contend(&mutex, Duration::from_millis(time.parse().unwrap()));
            link.say(format!("{turns} {}", longest.as_micros()));
            continue;
        }
        assert_eq!(words, "lock");
        let locked = mutex.lock();
        link.say(told(&locked));
        let Some((then, _)) = link.try_receive() else { return };
        match (String::from_utf8(then).unwrap().as_str(), locked) {
            ("unlock", locked) => drop(locked),
            ("repair", Err(LockError::OwnerDied(recovery))) => drop(recovery.repaired()),
            (other, locked) => panic!("{other}: {locked:?}"),
        }
        link.say("unlocked");
    }
}

/// One more, as a program without atomics would count: whoever else does so at the same time is lost.
fn count(map: &Mapping) {
    let counter = map.atomic_u32_at(COUNTER).unwrap();
    let value = counter.load(Ordering::Relaxed);
    counter.store(value + 1, Ordering::Relaxed);
}

fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        std::thread::yield_now();
    }
}

/// Takes turns as fast as it can. Gives how many, and the longest wait for one.
fn contend(mutex: &Mutex, time: Duration) -> (u32, Duration) {
    let (mut turns, mut longest) = (0, Duration::ZERO);
    let start = Instant::now();
    while start.elapsed() < time {
        let before = Instant::now();
        let guard = mutex.lock().unwrap();
        let locked = Instant::now();
        longest = longest.max(locked - before);
        while locked.elapsed() < Duration::from_micros(20) {}
        drop(guard);
        turns += 1;
    }
    (turns, longest)
}

/// A mutex at the start of memory that peers can be given.
fn made(options: Options) -> (Memfd, Arc<Mapping>, Mutex) {
    let (memfd, map) = memory();
    let map = Arc::new(map);
    let mutex = options.create_in(&map, 0).unwrap();
    (memfd, map, mutex)
}

/// The lock word.
fn word(map: &Mapping) -> &AtomicU32 {
    map.atomic_u32_at(0).unwrap()
}

fn a_member(memfd: &Memfd) -> Peer {
    let peer = Peer::spawn("mutex::member");
    peer.send_fd(memfd);
    peer
}

/// A member that has the lock.
fn an_owner(memfd: &Memfd) -> Peer {
    let peer = a_member(memfd);
    peer.say("lock");
    peer.expect("locked");
    peer
}

/// A member that sleeps for the lock.
fn a_sleeper(memfd: &Memfd) -> Peer {
    let peer = a_member(memfd);
    peer.say("lock");
    until_on_futex(peer.pid());
    peer
}

#[expect(clippy::mem_forget, reason = "a guard that is never dropped is what is tested")]
fn forget(guard: Guard<'_>) {
    std::mem::forget(guard);
}

/// What the first of several says.
fn first_of<'a>(peers: &mut Vec<&'a Peer>) -> (&'a Peer, String) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let mut fds: Vec<_> = peers.iter().map(|peer| PollFd::new(&***peer, PollFlags::IN)).collect();
    let patience = Timespec { tv_sec: 30, tv_nsec: 0 };
    assert_ne!(poll(&mut fds, Some(&patience)).unwrap(), 0, "no peer says anything");
    let number = fds.iter().position(|fd| !fd.revents().is_empty()).unwrap();
    let peer = peers.remove(number);
    (peer, peer.hear())
}

fn a_lock_excludes_another_process() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, map, mutex) = made(kind);
        let peer = an_owner(&memfd);
        let owner = peer.pid().as_raw_nonzero().get().unsigned_abs();
        assert_eq!(word(&map).load(Ordering::Relaxed) & TID_MASK, owner);
        assert_eq!(told(&mutex.try_lock()), "would block");
        peer.say("unlock");
        peer.expect("unlocked");
        let guard = mutex.try_lock().unwrap();
        assert!(std::ptr::eq(guard.mutex(), &raw const mutex));
        peer.say("lock");
        until_on_futex(peer.pid());
        drop(guard);
        peer.expect("locked");
        peer.say("unlock");
        peer.expect("unlocked");
        assert_eq!(word(&map).load(Ordering::Relaxed) & !WAITERS, 0);
    }
    Ok(())
}

fn many_locks_lose_no_count() -> Result<(), Skip> {
    for (kind, turns) in KINDS.into_iter().zip([30_000, 3_000]) {
        let (memfd, map, _mutex) = made(kind);
        let peers: Vec<Peer> = (0..4).map(|_| a_member(&memfd)).collect();
        for peer in &peers {
            peer.say(format!("count {turns}"));
        }
        for peer in &peers {
            peer.expect("counted");
        }
        assert_eq!(map.load_u32_at(COUNTER), Some(4 * turns));
    }
    Ok(())
}

fn a_killed_owner_is_told_to_one_sleeper() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, _, mutex) = made(kind);
        let owner = an_owner(&memfd);
        let sleeper = a_sleeper(&memfd);
        owner.kill();
        sleeper.expect("owner died");
        sleeper.say("repair");
        sleeper.expect("unlocked");
        drop(mutex.lock().unwrap());
    }
    Ok(())
}

fn of_four_sleepers_each_has_its_turn() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, map, mutex) = made(kind);
        let owner = an_owner(&memfd);
        let sleepers: Vec<Peer> = (0..4).map(|_| a_sleeper(&memfd)).collect();
        owner.kill();
        let mut left: Vec<&Peer> = sleepers.iter().collect();
        let (heir, words) = first_of(&mut left);
        assert_eq!(words, "owner died");
        assert_eq!(told(&mutex.try_lock()), "would block");
        heir.say("repair");
        heir.expect("unlocked");
        while !left.is_empty() {
            let (next, words) = first_of(&mut left);
            assert_eq!(words, "locked");
            next.say("unlock");
            next.expect("unlocked");
        }
        drop(mutex.lock().unwrap());
        assert_eq!(word(&map).load(Ordering::Relaxed) & !WAITERS, 0);
    }
    Ok(())
}

fn an_owner_that_died_alone_is_told_to_the_next() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, map, mutex) = made(kind);
        an_owner(&memfd).kill();
        assert_eq!(word(&map).load(Ordering::Relaxed), OWNER_DIED);
        let Err(LockError::OwnerDied(recovery)) = mutex.try_lock() else { panic!("not told") };
        drop(recovery.repaired());
        assert_eq!(word(&map).load(Ordering::Relaxed), 0);
        // One that ends by itself without unlocking is no better.
        let peer = an_owner(&memfd);
        drop(peer);
        assert_eq!(told(&mutex.lock()), "owner died");
    }
    Ok(())
}

fn what_is_repaired_is_as_new() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, _, mutex) = made(kind);
        an_owner(&memfd).kill();
        let Err(LockError::OwnerDied(recovery)) = mutex.lock() else { panic!("not told") };
        let guard = recovery.repaired();
        let sleeper = a_sleeper(&memfd);
        drop(guard);
        sleeper.expect("locked");
        sleeper.say("unlock");
        sleeper.expect("unlocked");
        drop(mutex.try_lock().unwrap());
    }
    Ok(())
}

fn what_nobody_repairs_is_never_locked_again() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, map, mutex) = made(kind);
        an_owner(&memfd).kill();
        let Err(LockError::OwnerDied(recovery)) = mutex.lock() else { panic!("not told") };
        let sleepers: Vec<Peer> = (0..3).map(|_| a_sleeper(&memfd)).collect();
        drop(recovery);
        for sleeper in &sleepers {
            sleeper.expect("not recoverable");
        }
        assert_eq!(told(&mutex.lock()), "not recoverable");
        assert_eq!(told(&mutex.try_lock()), "not recoverable");
        assert_eq!(told(&mutex.lock_timeout(LONG)), "not recoverable");
        assert_eq!(told(&Mutex::open_in(&map, 0).unwrap().lock()), "not recoverable");
        // A new one in its place is a new one.
        drop(kind.create_in(&map, 0).unwrap().lock().unwrap());
    }
    Ok(())
}

fn a_death_during_the_repair_is_told_again() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, _, mutex) = made(kind);
        an_owner(&memfd).kill();
        for _ in 0..3 {
            let heir = a_member(&memfd);
            heir.say("lock");
            heir.expect("owner died");
            heir.kill();
        }
        assert_eq!(told(&mutex.lock()), "owner died");
    }
    Ok(())
}

fn killed_sleepers_cost_nobody_his_turn() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, _, mutex) = made(kind);
        let guard = mutex.lock().unwrap();
        let mut sleepers: Vec<Peer> = (0..6).map(|_| a_sleeper(&memfd)).collect();
        // Those asleep longest, one in the middle, and one in the instant when the lock is released.
        sleepers.remove(0).kill();
        sleepers.remove(2).kill();
        let woken = sleepers.remove(0);
        stop(&woken);
        drop(guard);
        woken.kill();
        let mut left: Vec<&Peer> = sleepers.iter().collect();
        while !left.is_empty() {
            let (next, words) = first_of(&mut left);
            // The kernel may have handed a PI lock to the one that was killed then.
            assert!(words == "locked" || words == "owner died", "{words}");
            next.say(if words == "locked" { "unlock" } else { "repair" });
            next.expect("unlocked");
        }
    }
    Ok(())
}

fn a_thread_that_ends_with_the_lock_counts_as_dead() -> Result<(), Skip> {
    for kind in KINDS {
        let (_, _, mutex) = made(kind);
        std::thread::scope(|s| {
            s.spawn(|| forget(mutex.lock().unwrap()));
        });
        let Err(LockError::OwnerDied(recovery)) = mutex.lock() else { panic!("not told") };
        drop(recovery.repaired());
        drop(mutex.lock().unwrap());
    }
    Ok(())
}

fn a_forgotten_guard_keeps_its_memory() -> Result<(), Skip> {
    let address = |mutex: &Mutex| mutex.mapping().as_ptr().addr();
    let mapped = |address: usize| {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().any(|line| line.starts_with(&format!("{address:x}-")))
    };
    let map = Arc::new(anonymous::create(4096).unwrap());
    let mutex = Mutex::create_in(&map, 0).unwrap();
    let place = address(&mutex);
    drop(mutex.lock().unwrap());
    drop((mutex, map));
    assert!(!mapped(place), "an unlocked one goes");

    let map = Arc::new(anonymous::create(4096).unwrap());
    let mutex = Mutex::create_in(&map, 0).unwrap();
    let place = address(&mutex);
    forget(mutex.lock().unwrap());
    drop((mutex, map));
    assert!(mapped(place));
    // The robust list still leads there.
    let (_, _, other) = made(Options::new());
    drop(other.lock().unwrap());
    Ok(())
}

fn every_form_keeps_its_deadline() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, map, mutex) = made(kind);
        let owner = an_owner(&memfd);
        let start = Instant::now();
        assert_eq!(told(&mutex.lock_timeout(SHORT)), "timed out");
        assert!(start.elapsed() >= SHORT);
        assert_eq!(told(&mutex.lock_until(start)), "timed out");
        assert_eq!(told(&mutex.try_lock()), "would block");
        let interrupt = Interrupt::new().unwrap();
        let wait = Wait::timeout(SHORT).interrupted_by(&interrupt);
        assert_eq!(told(&mutex.lock_wait(wait)), "timed out");
        // Whoever went without leaves no trace: the others still have their turns.
        let sleeper = a_sleeper(&memfd);
        assert_eq!(told(&mutex.lock_timeout(SHORT)), "timed out");
        owner.say("unlock");
        owner.expect("unlocked");
        sleeper.expect("locked");
        sleeper.say("unlock");
        sleeper.expect("unlocked");
        drop(mutex.lock_timeout(LONG).unwrap());
        assert_eq!(word(&map).load(Ordering::Relaxed) & !WAITERS, 0);
        drop(mutex.lock_until(start).unwrap());
    }
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    for kind in KINDS {
        let (memfd, _, mutex) = made(kind);
        let _owner = an_owner(&memfd);
        let interrupt = Interrupt::new().unwrap();
        let own = gettid();
        std::thread::scope(|s| {
            s.spawn(|| {
                until_on_futex(own);
                interrupt.trigger();
            });
            let wait = Wait::FOREVER.interrupted_by(&interrupt);
            assert_eq!(told(&mutex.lock_wait(wait)), "interrupted");
        });
    }
    Ok(())
}

fn a_lock_that_one_has_is_a_deadlock() -> Result<(), Skip> {
    for kind in KINDS {
        let (_, _, mutex) = made(kind);
        let guard = mutex.lock().unwrap();
        assert_eq!(told(&mutex.lock()), "deadlock");
        assert_eq!(told(&mutex.try_lock()), "deadlock");
        assert_eq!(told(&mutex.lock_timeout(LONG)), "deadlock");
        drop(guard);
        drop(mutex.lock().unwrap());
    }
    Ok(())
}

fn a_forked_child_has_none_of_its_parents_locks() -> Result<(), Skip> {
    for kind in KINDS {
        let (_, map, mutex) = made(kind);
        let guard = mutex.lock().unwrap();
        let locked = word(&map).load(Ordering::Relaxed);
        let inherited = &guard;
        in_child(|| {
            // SAFETY: the child ends without dropping the original.
            drop(unsafe { std::ptr::read(inherited) });
            assert_eq!(word(&map).load(Ordering::Relaxed), locked);
            assert_eq!(told(&mutex.try_lock()), "would block");
            assert_eq!(told(&mutex.lock_timeout(SHORT)), "timed out");
        });
        assert_eq!(word(&map).load(Ordering::Relaxed) & !WAITERS, locked);
        drop(guard);
        drop(mutex.lock().unwrap());
    }
    Ok(())
}

fn a_forked_child_locks_as_itself() -> Result<(), Skip> {
    for kind in KINDS {
        let (_, map, mutex) = made(kind);
        drop(mutex.lock().unwrap());
        in_child(|| {
            let guard = mutex.lock().unwrap();
            let own = gettid().as_raw_nonzero().get().unsigned_abs();
            assert_eq!(word(&map).load(Ordering::Relaxed), own);
            drop(guard);
            // It dies with the lock.
            forget(mutex.lock().unwrap());
        });
        let Err(LockError::OwnerDied(recovery)) = mutex.lock() else { panic!("not told") };
        drop(recovery.repaired());
    }
    Ok(())
}

fn another_pid_namespace_is_refused() -> Result<(), Skip> {
    let (_, map, mutex) = made(Options::new());
    drop(mutex.lock().unwrap());
    let flags = if rustix::process::geteuid().is_root() {
        libc::CLONE_NEWPID
    } else {
        libc::CLONE_NEWUSER | libc::CLONE_NEWPID
    };
    // SAFETY: concerns the children of this process, which is the test's own.
    if unsafe { libc::unshare(flags) } != 0 {
        return skip("no pid namespace of one's own here");
    }
    in_child(|| {
        assert_eq!(told(&mutex.lock()), "other pid namespace");
        assert_eq!(told(&mutex.try_lock()), "other pid namespace");
        // It can be looked at, and one of its own can be made.
        assert_eq!(told(&Mutex::open_in(&map, 0).unwrap().lock()), "other pid namespace");
        drop(Mutex::create_in(&map, 256).unwrap().lock().unwrap());
    });
    assert_eq!(told(&Mutex::open_in(&map, 256).unwrap().lock()), "other pid namespace");
    drop(mutex.lock().unwrap());
    Ok(())
}

/// A number that no thread has.
fn dead_number() -> u32 {
    let child = std::process::Command::new("true").spawn().unwrap();
    let number = child.id();
    let mut child = child;
    child.wait().unwrap();
    number
}

fn a_dead_number_in_the_word_is_corrupt() -> Result<(), Skip> {
    for kind in KINDS {
        let (_, map, mutex) = made(kind);
        word(&map).store(dead_number(), Ordering::Relaxed);
        assert_eq!(told(&mutex.lock()), "corrupt");
        word(&map).store(dead_number(), Ordering::Relaxed);
        assert_eq!(told(&mutex.lock_timeout(LONG)), "corrupt");
    }
    Ok(())
}

fn rubbish_ends_in_an_error() -> Result<(), Skip> {
    let alive = std::process::id();
    let numbers = [0, 1, 0x7fff_ffff, u32::MAX, WAITERS, OWNER_DIED, WAITERS | OWNER_DIED];
    for kind in KINDS {
        let (_, map, mutex) = made(kind);
        for rubbish in numbers.into_iter().chain([TID_MASK, TID_MASK | WAITERS, 1 << 23, 77 << 23])
        {
            for own in 0..4 {
                // The word, and each of the words beside it.
                map.write_at(0, &[0; 40]).unwrap();
                map.atomic_u32_at(4 * own).unwrap().store(rubbish, Ordering::Relaxed);
                let case = format!("{rubbish:#x} in {own}");
                let result = mutex.lock_timeout(SHORT);
                assert_ne!(told(&result), "another error", "{case}: {result:?}");
                if let Err(LockError::OwnerDied(recovery)) = result {
                    drop(recovery.repaired());
                }
                assert_ne!(told(&mutex.try_lock()), "another error", "{case}");
            }
        }
        // A thread that lives and has not got it: nobody can know.
        map.write_at(0, &[0; 40]).unwrap();
        word(&map).store(alive, Ordering::Relaxed);
        std::thread::scope(|s| {
            s.spawn(|| assert_eq!(told(&mutex.lock_timeout(SHORT)), "timed out"));
        });
    }
    Ok(())
}

fn an_heir_that_does_not_come_is_not_waited_for() -> Result<(), Skip> {
    let (memfd, map, mutex) = made(Options::new());
    let heir = a_member(&memfd);
    stop(&heir);
    let number = heir.pid().as_raw_nonzero().get().unsigned_abs();
    // As if it had waited long and the lock had been released to it.
    for (number, form) in [(number, 0), (number, 1), (dead_number(), 2), (u32::MAX, 2)] {
        map.atomic_u32_at(4).unwrap().store(number, Ordering::Relaxed);
        word(&map).store(WAITERS, Ordering::Relaxed);
        match form {
            0 => drop(mutex.lock().unwrap()),
            1 => drop(mutex.lock_timeout(LONG).unwrap()),
            _ => drop(mutex.try_lock().unwrap()),
        }
        assert_eq!(word(&map).load(Ordering::Relaxed), 0);
    }
    heir.signal(Signal::CONT);
    Ok(())
}

fn priority_is_inherited_where_asked_for() -> Result<(), Skip> {
    let (_, map, mutex) = made(Options::new().inherit_priority());
    assert!(mutex.inherits_priority());
    assert!(Mutex::open_in(&map, 0).unwrap().inherits_priority());
    let (memfd, plain, _) = made(Options::new());
    assert!(!Mutex::open_in(&plain, 0).unwrap().inherits_priority());
    drop(memfd);
    let (memfd, _, mutex) = made(Options::new().inherit_priority());
    let guard = mutex.lock().unwrap();
    let own = || {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
        let rest = stat.rsplit_once(") ").unwrap().1.to_owned();
        rest.split(' ').nth(15).unwrap().parse::<i64>().unwrap()
    };
    let before = own();
    // A waiter that runs before all ordinary threads: then so does the owner.
    let peer = a_member(&memfd);
    let priority = libc::sched_param { sched_priority: 5 };
    // SAFETY: concerns the peer only.
    let done = unsafe {
        libc::sched_setscheduler(
            peer.pid().as_raw_nonzero().get(),
            libc::SCHED_FIFO,
            &raw const priority,
        )
    };
    if done != 0 {
        return skip("no real-time priority for this user");
    }
    peer.say("lock");
    until_on_futex(peer.pid());
    assert_eq!(own(), -6, "the priority of a real-time thread in /proc/PID/stat");
    drop(guard);
    assert_eq!(own(), before);
    peer.expect("locked");
    Ok(())
}

fn a_lock_makes_no_system_call() -> Result<(), Skip> {
    for kind in KINDS {
        let (_, _, mutex) = made(kind);
        let measured = steps::measure(2, || drop(mutex.lock().unwrap()));
        let Ok(steps) = measured else { return skip("no single-stepper here") };
        assert_eq!(steps.calls, []);
        if !cfg!(debug_assertions) {
            assert!(steps.instructions_after <= 150, "{steps:?}");
        }
    }
    Ok(())
}

/// On one CPU, where nobody looks at the word for a while first.
fn a_hand_over_is_one_sleep_and_one_wake() -> Result<(), Skip> {
    const WARM: usize = 2;
    let allowed = sched_getaffinity(None).unwrap();
    let mut one = CpuSet::new();
    one.set((0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).unwrap());
    sched_setaffinity(None, &one).unwrap();

    let (memfd, map, mutex) = made(Options::new());
    let peer = a_member(&memfd);
    let owner = peer.pid().as_raw_nonzero().get().unsigned_abs();
    peer.say(format!("lend {}", WARM + 1));
    let measured = steps::measure(WARM, || {
        while word(&map).load(Ordering::Relaxed) != owner {
            std::hint::spin_loop();
        }
        let guard = mutex.lock().unwrap();
        count(&map);
        drop(guard);
    });
    let Ok(steps) = measured else { return skip("no single-stepper here") };
    peer.expect("lent");
    let numbers: Vec<_> = steps.calls.iter().map(|call| call.number).collect();
    assert_eq!(numbers, [libc::SYS_futex; 2]);
    if !cfg!(debug_assertions) {
        // From the wake-up to the end of `lock` and on to the next wake.
        assert!(steps.calls[1].instructions_before <= 200, "{steps:?}");
    }
    Ok(())
}

fn nobody_waits_long() -> Result<(), Skip> {
    let (memfd, _, _mutex) = made(Options::new());
    let peers: Vec<Peer> = (0..4).map(|_| a_member(&memfd)).collect();
    for peer in &peers {
        peer.say("contend 1000");
    }
    for peer in &peers {
        let words = peer.hear();
        let (turns, longest) = words.split_once(' ').unwrap();
        assert!(turns.parse::<u32>().unwrap() > 0);
        // Far above what it is: tests run beside others. Without an order it is the whole second.
        assert!(longest.parse::<u32>().unwrap() < 500_000, "{words}");
    }
    Ok(())
}

fn what_is_no_mutex_is_refused() -> Result<(), Skip> {
    let (memfd, map, mutex) = made(Options::new());
    let kind = |result: sinew::Result<Mutex>| result.unwrap_err().kind();
    assert_eq!(kind(Mutex::open_in(&map, 64)), ErrorKind::Mismatch);
    assert_eq!(kind(Mutex::open_in(&map, 8)), ErrorKind::InvalidInput);
    assert_eq!(kind(Mutex::create_in(&map, 4096)), ErrorKind::InvalidInput);
    assert_eq!(kind(Mutex::create_in(&map, 4096 - mutex::SIZE + 1)), ErrorKind::InvalidInput);
    assert_eq!(kind(Mutex::create_in(&map, usize::MAX - 63)), ErrorKind::InvalidInput);
    drop(Mutex::create_in(&map, 4096 - mutex::SIZE).unwrap().lock().unwrap());
    let read_only = Arc::new(memfd.map_with(mapping::Options::new().read_only()).unwrap());
    assert_eq!(kind(Mutex::open_in(&read_only, 0)), ErrorKind::PermissionDenied);
    let private = Arc::new(memfd.map_with(mapping::Options::new().private()).unwrap());
    assert_eq!(kind(Mutex::open_in(&private, 0)), ErrorKind::InvalidInput);
    // Another version of the layout.
    map.write_at(40, &[2]).unwrap();
    let error = Mutex::open_in(&map, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("version"), "{error}");
    drop(mutex);
    Ok(())
}
