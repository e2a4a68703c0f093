//! Futexes between two real processes: sleeping, waking, moving, many words, priority inheritance.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::Pid;
use sinew::futex::{self, Ended, Futex};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::wait::{Interrupt, Locks, Wait, Waits};
use sinew::{LockError, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use crate::anonymous::in_child;

pub(crate) const TESTS: &[Test] = tests![
    a_word_that_differs_is_not_slept_on,
    a_wake_reaches_another_process,
    a_wake_counts_whom_it_woke,
    only_a_common_bit_wakes,
    a_private_wake_reaches_no_other_process,
    sleepers_move_to_another_word,
    nothing_moves_where_the_word_differs,
    of_many_words_the_woken_one_is_told,
    many_words_are_not_too_many,
    every_form_keeps_its_deadline,
    an_interrupt_ends_every_sleep,
    memory_that_is_gone_is_an_error,
    a_pi_lock_excludes_and_hands_over,
    a_pi_lock_that_one_has_is_a_deadlock,
    a_pi_lock_keeps_deadlines_and_interrupts,
    a_pi_owner_that_dies_is_told_to_a_sleeper,
    a_pi_lock_of_nobody_is_corrupt,
    a_forked_child_unlocks_no_pi_lock_of_its_parent,
];
pub(crate) const ROLES: &[Role] = roles![worker];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

/// Waits until a process sleeps in futex(2) or `futex_waitv`.
pub(crate) fn until_on_futex(pid: Pid) {
    let pid = pid.as_raw_nonzero();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let asleep = stat.rsplit_once(") ").unwrap().1.starts_with('S');
        // The number of the call that it is in, where the kernel tells.
        let call = std::fs::read_to_string(format!("/proc/{pid}/syscall"));
        let waits = call.map_or(true, |call| {
            let number = call.split(' ').next().unwrap().parse::<i64>();
            number.is_ok_and(|n| n == libc::SYS_futex || n == libc::SYS_futex_waitv)
        });
        if asleep && waits {
            return;
        }
        std::thread::yield_now();
    }
}

/// Memory that peers can be given.
pub(crate) fn memory() -> (Memfd, Mapping) {
    let memfd = memfd::Options::new().create("words", 4096).unwrap();
    let map = memfd.map().unwrap();
    (memfd, map)
}

fn word(map: &Mapping, number: usize) -> &AtomicU32 {
    map.atomic_u32_at(4 * number).unwrap()
}

fn bits(bits: u32) -> NonZeroU32 {
    NonZeroU32::new(bits).unwrap()
}

/// Sleeps on words of a memfd as it is told, and says how that ended.
fn worker(link: &Link) {
    let map = Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
    let at = |number: usize| Futex::new(word(&map, number));
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        let (verb, number) = words.split_once(' ').unwrap();
        let number: u32 = number.parse().unwrap();
        match verb {
            "sleep" => link.say(format!("{:?}", at(number as usize).while_is(0).wait())),
            "bits" => {
                link.say(format!("{:?}", at(0).while_is(0).bits(bits(number)).wait()));
            }
            "any" => {
                let all = [at(0).while_is(0), at(1).while_is(0), at(2).while_is(0)];
                link.say(format!("{:?}", futex::any(&all[..number as usize]).wait()));
            }
            "lock" => {
                let pi = at(number as usize).pi();
                let guard = match pi.lock() {
                    Ok(guard) => {
                        link.say("locked");
                        guard
                    }
                    Err(LockError::OwnerDied(guard)) => {
                        link.say("owner died");
                        guard
                    }
                    Err(other) => panic!("{other:?}"),
                };
                link.expect("unlock");
                drop(guard);
                link.say("unlocked");
            }
            other => panic!("{other}"),
        }
    }
}

fn a_worker(memfd: &Memfd) -> Peer {
    let peer = Peer::spawn("futex::worker");
    peer.send_fd(memfd);
    peer
}

/// A worker that sleeps where it was told to.
fn asleep(memfd: &Memfd, told: &str) -> Peer {
    let peer = a_worker(memfd);
    peer.say(told);
    until_on_futex(peer.pid());
    peer
}

fn a_word_that_differs_is_not_slept_on() -> Result<(), Skip> {
    let (_, map) = memory();
    let first = Futex::new(word(&map, 0));
    assert_eq!(first.while_is(7).wait(), Ok(Ended::Differs));
    assert_eq!(first.while_is(7).try_wait(), Ok(Ended::Differs));
    assert_eq!(first.while_is(0).try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(first.while_is(7).bits(bits(1)).wait(), Ok(Ended::Differs));
    assert_eq!(futex::any(&[first.while_is(0), first.while_is(7)]).wait(), Ok(1));
    Ok(())
}

fn a_wake_reaches_another_process() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let peer = asleep(&memfd, "sleep 3");
    assert_eq!(Futex::new(word(&map, 2)).wake_all().unwrap(), 0, "another word");
    assert_eq!(Futex::new(word(&map, 3)).wake(1).unwrap(), 1);
    peer.expect("Ok(Woken)");
    word(&map, 3).store(1, Ordering::Release);
    peer.say("sleep 3");
    peer.expect("Ok(Differs)");
    Ok(())
}

fn a_wake_counts_whom_it_woke() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let peers: Vec<Peer> = (0..4).map(|_| asleep(&memfd, "sleep 0")).collect();
    let first = Futex::new(word(&map, 0));
    assert_eq!(first.wake(0).unwrap(), 0);
    assert_eq!(first.wake(3).unwrap(), 3);
    // Those who slept longest.
    for peer in &peers[..3] {
        peer.expect("Ok(Woken)");
    }
    until_on_futex(peers[3].pid());
    assert_eq!(first.wake_all().unwrap(), 1);
    peers[3].expect("Ok(Woken)");
    Ok(())
}

fn only_a_common_bit_wakes() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let odd = asleep(&memfd, "bits 1");
    let even = asleep(&memfd, "bits 2");
    let first = Futex::new(word(&map, 0));
    assert_eq!(first.wake_bits(9, bits(4)).unwrap(), 0);
    assert_eq!(first.wake_bits(0, bits(7)).unwrap(), 0);
    assert_eq!(first.wake_bits(9, bits(6)).unwrap(), 1);
    even.expect("Ok(Woken)");
    until_on_futex(odd.pid());
    assert_eq!(first.wake(9).unwrap(), 1, "a wake without bits wakes all");
    odd.expect("Ok(Woken)");
    Ok(())
}

fn a_private_wake_reaches_no_other_process() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let peer = asleep(&memfd, "sleep 0");
    assert_eq!(Futex::new(word(&map, 0)).private().wake_all().unwrap(), 0);
    assert_eq!(Futex::new(word(&map, 0)).wake_all().unwrap(), 1);
    peer.expect("Ok(Woken)");
    Ok(())
}

fn sleepers_move_to_another_word() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let peers: Vec<Peer> = (0..3).map(|_| asleep(&memfd, "sleep 0")).collect();
    let (from, to) = (Futex::new(word(&map, 0)), Futex::new(word(&map, 1)));
    assert_eq!(from.requeue(to, 1, 1).unwrap(), 2);
    peers[0].expect("Ok(Woken)");
    until_on_futex(peers[1].pid());
    assert_eq!(to.wake_all().unwrap(), 1);
    peers[1].expect("Ok(Woken)");
    assert_eq!(from.requeue_if(0, to, 0, 9).unwrap(), Some(1));
    assert_eq!(from.wake_all().unwrap(), 0);
    assert_eq!(to.wake_all().unwrap(), 1);
    peers[2].expect("Ok(Woken)");
    Ok(())
}

fn nothing_moves_where_the_word_differs() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let peer = asleep(&memfd, "sleep 0");
    let (from, to) = (Futex::new(word(&map, 0)), Futex::new(word(&map, 1)));
    assert_eq!(from.requeue_if(5, to, 1, 1).unwrap(), None);
    assert_eq!(from.wake_all().unwrap(), 1);
    peer.expect("Ok(Woken)");
    Ok(())
}

fn of_many_words_the_woken_one_is_told() -> Result<(), Skip> {
    let (memfd, map) = memory();
    for number in 0..3_u32 {
        let peer = asleep(&memfd, "any 3");
        let chosen = word(&map, number as usize);
        // Without `futex_waitv` only a change is noticed.
        chosen.store(1, Ordering::Release);
        Futex::new(chosen).wake(1).unwrap();
        peer.expect(&format!("Ok({number})"));
        chosen.store(0, Ordering::Release);
    }
    let peer = asleep(&memfd, "any 1");
    assert_eq!(Futex::new(word(&map, 0)).wake(1).unwrap(), 1);
    peer.expect("Ok(0)");
    Ok(())
}

fn many_words_are_not_too_many() -> Result<(), Skip> {
    let (_, map) = memory();
    let all: Vec<_> = (0..=futex::MOST).map(|n| Futex::new(word(&map, n)).while_is(0)).collect();
    let invalid = Err(WaitError::Os(Errno::INVAL.raw_os_error()));
    assert_eq!(futex::any(&[]).wait(), invalid);
    assert_eq!(futex::any(&all).wait(), invalid);
    assert_eq!(futex::any(&[all[0].bits(bits(1))]).wait(), invalid);
    assert_eq!(futex::any(&all[..futex::MOST]).wait_timeout(SHORT), Err(WaitError::TimedOut));
    let stop = Interrupt::new().unwrap();
    let wait = Wait::timeout(SHORT).interrupted_by(&stop);
    assert_eq!(futex::any(&all[..futex::MOST]).wait_for(wait), Err(WaitError::TimedOut));
    word(&map, 100).store(1, Ordering::Relaxed);
    assert_eq!(futex::any(&all[..futex::MOST]).wait(), Ok(100));
    Ok(())
}

/// Every kind of sleep on words that stay 0, each as a function of its wait.
fn with_every_sleep(check: impl Fn(&dyn Fn(Wait<'_>) -> WaitError)) {
    let (_, map) = memory();
    let first = Futex::new(word(&map, 0));
    let both = [first.while_is(0), Futex::new(word(&map, 1)).while_is(0)];
    check(&|wait| first.while_is(0).wait_for(wait).unwrap_err());
    check(&|wait| first.private().while_is(0).wait_for(wait).unwrap_err());
    check(&|wait| first.while_is(0).bits(bits(1)).wait_for(wait).unwrap_err());
    check(&|wait| futex::any(&both).wait_for(wait).unwrap_err());
}

fn every_form_keeps_its_deadline() -> Result<(), Skip> {
    with_every_sleep(|sleep| {
        let stop = Interrupt::new().unwrap();
        for interrupted in [false, true] {
            let and = |wait: Wait<'static>| {
                if interrupted { wait.interrupted_by(&stop) } else { wait }
            };
            assert_eq!(sleep(and(Wait::NEVER)), WaitError::WouldBlock);
            let start = Instant::now();
            assert_eq!(sleep(and(Wait::timeout(SHORT))), WaitError::TimedOut);
            assert!(start.elapsed() >= SHORT);
            assert_eq!(sleep(and(Wait::until(start))), WaitError::TimedOut);
        }
    });
    Ok(())
}

fn an_interrupt_ends_every_sleep() -> Result<(), Skip> {
    with_every_sleep(|sleep| {
        let stop = Interrupt::new().unwrap();
        let own = rustix::thread::gettid();
        std::thread::scope(|s| {
            s.spawn(|| {
                until_on_futex(own);
                stop.trigger();
            });
            let wait = Wait::timeout(LONG).interrupted_by(&stop);
            assert_eq!(sleep(wait), WaitError::Interrupted);
        });
        assert_eq!(sleep(Wait::FOREVER.interrupted_by(&stop)), WaitError::Interrupted);
    });
    Ok(())
}

fn memory_that_is_gone_is_an_error() -> Result<(), Skip> {
    // A page beyond the end of its file.
    let memfd = memfd::Options::new().resizable().create("short", 8192).unwrap();
    let map = memfd.map_unsealed(sinew::mapping::Options::new()).unwrap();
    rustix::fs::ftruncate(&memfd, 4096).unwrap();
    let gone = Futex::new(map.atomic_u32_at(4096).unwrap());
    assert_eq!(gone.wake(1).unwrap_err().raw_os_error(), Some(libc::EFAULT));
    Ok(())
}

fn a_pi_lock_excludes_and_hands_over() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let pi = Futex::new(word(&map, 0)).pi();
    let guard = pi.lock().unwrap();
    let peer = asleep(&memfd, "lock 0");
    assert_ne!(word(&map, 0).load(Ordering::Relaxed) & futex::WAITERS, 0);
    drop(guard);
    peer.expect("locked");
    let owner = word(&map, 0).load(Ordering::Relaxed) & futex::TID_MASK;
    assert_eq!(owner, peer.pid().as_raw_nonzero().get().unsigned_abs());
    assert!(matches!(pi.try_lock(), Err(LockError::WouldBlock)));
    peer.say("unlock");
    peer.expect("unlocked");
    drop(pi.try_lock().unwrap());
    assert_eq!(word(&map, 0).load(Ordering::Relaxed), 0);
    Ok(())
}

fn a_pi_lock_that_one_has_is_a_deadlock() -> Result<(), Skip> {
    let (_, map) = memory();
    let pi = Futex::new(word(&map, 0)).pi();
    let guard = pi.lock().unwrap();
    assert!(matches!(pi.lock(), Err(LockError::Deadlock)));
    assert!(matches!(pi.lock_timeout(LONG), Err(LockError::Deadlock)));
    drop(guard);
    Ok(())
}

fn a_pi_lock_keeps_deadlines_and_interrupts() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let peer = a_worker(&memfd);
    peer.say("lock 0");
    peer.expect("locked");
    let pi = Futex::new(word(&map, 0)).pi();
    let start = Instant::now();
    assert!(matches!(pi.lock_timeout(SHORT), Err(LockError::TimedOut)));
    assert!(start.elapsed() >= SHORT);
    let stop = Interrupt::new().unwrap();
    let own = rustix::thread::gettid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_on_futex(own);
            stop.trigger();
        });
        let wait = Wait::FOREVER.interrupted_by(&stop);
        assert!(matches!(pi.lock_wait(wait), Err(LockError::Interrupted)));
    });
    Ok(())
}

fn a_pi_owner_that_dies_is_told_to_a_sleeper() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let owner = a_worker(&memfd);
    owner.say("lock 0");
    owner.expect("locked");
    let heir = asleep(&memfd, "lock 0");
    owner.kill();
    heir.expect("owner died");
    heir.say("unlock");
    heir.expect("unlocked");
    assert_eq!(word(&map, 0).load(Ordering::Relaxed), 0);
    Ok(())
}

fn a_pi_lock_of_nobody_is_corrupt() -> Result<(), Skip> {
    let (memfd, map) = memory();
    let owner = a_worker(&memfd);
    owner.say("lock 0");
    owner.expect("locked");
    owner.kill();
    let pi = Futex::new(word(&map, 0)).pi();
    assert!(matches!(pi.lock(), Err(LockError::Corrupt)));
    assert!(matches!(pi.try_lock(), Err(LockError::Corrupt)));
    Ok(())
}

fn a_forked_child_unlocks_no_pi_lock_of_its_parent() -> Result<(), Skip> {
    let (_, map) = memory();
    let first = word(&map, 0);
    let guard = Futex::new(first).pi();
    let guard = guard.lock().unwrap();
    let locked = first.load(Ordering::Relaxed);
    in_child(|| {
        drop(guard);
        assert_eq!(first.load(Ordering::Relaxed), locked);
    });
    Ok(())
}
