//! The condition variable between real processes: notifications, deadlines, deaths.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::gettid;
use sinew::condvar::{self, Condvar};
use sinew::mapping::{self, Mapping};
use sinew::memfd::Memfd;
use sinew::mutex::Mutex;
use sinew::wait::{Interrupt, Locks, Wait};
use sinew::{ErrorKind, LockError, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use crate::futex::{memory, until_on_futex};

pub(crate) const TESTS: &[Test] = tests![
    a_notification_ends_a_wait_in_another_process,
    one_is_notified_or_all,
    nobody_who_waits_is_nobody_notified,
    every_form_keeps_its_deadline,
    an_interrupt_ends_a_wait,
    killed_waiters_disturb_nobody,
    an_owner_that_dies_is_told_to_a_waiter,
    a_lock_that_stays_away_is_not_waited_for_beyond_a_second,
    rubbish_in_the_number_ends_no_deadline,
    what_is_no_condvar_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![waiter];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

/// Where things are in the memory.
const CONDVAR: usize = 64;
const CONDITION: usize = 128;

struct Shared {
    map: Arc<Mapping>,
    mutex: Mutex,
    condvar: Condvar,
}

impl Shared {
    fn open(memfd: &Memfd) -> Self {
        let map = Arc::new(memfd.map().unwrap());
        let mutex = Mutex::open_in(&map, 0).unwrap();
        let condvar = Condvar::open_in(&map, CONDVAR).unwrap();
        Self { map, mutex, condvar }
    }

    fn made() -> (Memfd, Self) {
        let (memfd, map) = memory();
        let map = Arc::new(map);
        Mutex::create_in(&map, 0).unwrap();
        Condvar::create_in(&map, CONDVAR).unwrap();
        let shared = Self::open(&memfd);
        (memfd, shared)
    }

    /// What is waited for: how many may go on.
    fn condition(&self) -> &AtomicU32 {
        self.map.atomic_u32_at(CONDITION).unwrap()
    }

    /// Lets so many go on, and tells nobody.
    fn put(&self, count: u32) {
        let guard = self.mutex.lock().unwrap();
        self.condition().store(self.condition().load(Ordering::Relaxed) + count, Ordering::Relaxed);
        drop(guard);
    }
}

/// Waits until it may go on, as often as it is told; or dies with the lock.
fn waiter(link: &Link) {
    let shared = Shared::open(&Memfd::try_from(link.recv_fd()).unwrap());
    while let Some((words, _)) = link.try_receive() {
        let locked = shared.mutex.lock();
        match words.as_slice() {
            b"wait" => {
                let mut guard = locked.unwrap();
                while shared.condition().load(Ordering::Relaxed) == 0 {
                    match shared.condvar.wait(guard) {
                        Ok(again) => guard = again,
                        Err(LockError::OwnerDied(recovery)) => {
                            drop(recovery.repaired());
                            link.say("owner died");
                            return;
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                }
                let left = shared.condition().load(Ordering::Relaxed) - 1;
                shared.condition().store(left, Ordering::Relaxed);
                drop(guard);
                link.say("went on");
            }
            b"hold" => {
                link.say("held");
                let _ = link.try_receive();
                drop(locked);
            }
            other => panic!("{other:?}"),
        }
    }
}

fn a_waiter(memfd: &Memfd) -> Peer {
    let peer = Peer::spawn("condvar::waiter");
    peer.send_fd(memfd);
    peer.say("wait");
    until_on_futex(peer.pid());
    peer
}

fn a_notification_ends_a_wait_in_another_process() -> Result<(), Skip> {
    let (memfd, shared) = Shared::made();
    let peer = a_waiter(&memfd);
    // It has given the lock back.
    shared.put(1);
    until_on_futex(peer.pid());
    assert_eq!(shared.condvar.notify_one(), 1);
    peer.expect("went on");
    // A notification without the condition ends no wait of one that looks again.
    peer.say("wait");
    until_on_futex(peer.pid());
    assert_eq!(shared.condvar.notify_one(), 1);
    until_on_futex(peer.pid());
    shared.put(1);
    while shared.condvar.notify_one() == 0 {}
    peer.expect("went on");
    Ok(())
}

fn one_is_notified_or_all() -> Result<(), Skip> {
    let (memfd, shared) = Shared::made();
    let peers: Vec<Peer> = (0..4).map(|_| a_waiter(&memfd)).collect();
    shared.put(4);
    assert_eq!(shared.condvar.notify_one(), 1);
    // The one that slept longest.
    peers[0].expect("went on");
    for peer in &peers[1..] {
        until_on_futex(peer.pid());
    }
    assert_eq!(shared.condvar.notify_all(), 3);
    for peer in &peers[1..] {
        peer.expect("went on");
    }
    assert_eq!(shared.condition().load(Ordering::Relaxed), 0);
    Ok(())
}

fn nobody_who_waits_is_nobody_notified() -> Result<(), Skip> {
    let (_, shared) = Shared::made();
    assert_eq!(shared.condvar.notify_one(), 0);
    assert_eq!(shared.condvar.notify_all(), 0);
    // What came before is over.
    let guard = shared.mutex.lock().unwrap();
    let (guard, ended) = shared.condvar.wait_timeout(guard, SHORT).unwrap();
    assert_eq!(ended, Err(WaitError::TimedOut));
    drop(guard);
    Ok(())
}

fn every_form_keeps_its_deadline() -> Result<(), Skip> {
    let (_, shared) = Shared::made();
    let mut guard = shared.mutex.lock().unwrap();
    let stop = Interrupt::new().unwrap();
    let start = Instant::now();
    let deadline = start + SHORT;
    for wait in [
        Wait::timeout(SHORT),
        Wait::until(deadline),
        Wait::timeout(SHORT).interrupted_by(&stop),
        Wait::until(start),
    ] {
        let (again, ended) = shared.condvar.wait_for(guard, wait).unwrap();
        assert_eq!(ended, Err(WaitError::TimedOut));
        guard = again;
    }
    assert!(start.elapsed() >= SHORT);
    let (guard, ended) = shared.condvar.wait_for(guard, Wait::NEVER).unwrap();
    assert_eq!(ended, Err(WaitError::WouldBlock));
    let (guard, ended) = shared.condvar.wait_until(guard, deadline).unwrap();
    assert_eq!(ended, Err(WaitError::TimedOut));
    // The lock is had each time.
    assert!(matches!(shared.mutex.try_lock(), Err(LockError::Deadlock)));
    drop(guard);
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let (_, shared) = Shared::made();
    let stop = Interrupt::new().unwrap();
    let own = gettid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_on_futex(own);
            stop.trigger();
        });
        let guard = shared.mutex.lock().unwrap();
        let wait = Wait::timeout(LONG).interrupted_by(&stop);
        let (guard, ended) = shared.condvar.wait_for(guard, wait).unwrap();
        assert_eq!(ended, Err(WaitError::Interrupted));
        drop(guard);
    });
    Ok(())
}

fn killed_waiters_disturb_nobody() -> Result<(), Skip> {
    let (memfd, shared) = Shared::made();
    let peer = a_waiter(&memfd);
    for _ in 0..20 {
        a_waiter(&memfd).kill();
        let doomed = a_waiter(&memfd);
        shared.put(1);
        // The one that dies is on its way back from the wait, or has the lock already, or has not.
        assert_eq!(shared.condvar.notify_all(), 2);
        doomed.kill();
        // Of both, it may be the one that went on.
        let dead = match shared.mutex.lock() {
            Ok(guard) => {
                drop(guard);
                false
            }
            Err(LockError::OwnerDied(recovery)) => {
                drop(recovery.repaired());
                true
            }
            Err(other) => panic!("{other:?}"),
        };
        shared.put(1);
        shared.condvar.notify_all();
        let words = peer.hear();
        if words == "owner died" {
            return Ok(());
        }
        assert_eq!(words, "went on", "{dead}");
        let guard = shared.mutex.lock().unwrap();
        shared.condition().store(0, Ordering::Relaxed);
        drop(guard);
        peer.say("wait");
        until_on_futex(peer.pid());
    }
    Ok(())
}

fn an_owner_that_dies_is_told_to_a_waiter() -> Result<(), Skip> {
    let (memfd, shared) = Shared::made();
    let peer = a_waiter(&memfd);
    let owner = Peer::spawn("condvar::waiter");
    owner.send_fd(&memfd);
    owner.say("hold");
    owner.expect("held");
    assert_eq!(shared.condvar.notify_all(), 1);
    // It waits for the lock now.
    until_on_futex(peer.pid());
    owner.kill();
    peer.expect("owner died");
    Ok(())
}

fn a_lock_that_stays_away_is_not_waited_for_beyond_a_second() -> Result<(), Skip> {
    let (memfd, shared) = Shared::made();
    let guard = shared.mutex.lock().unwrap();
    let owner = Peer::spawn("condvar::waiter");
    owner.send_fd(&memfd);
    owner.say("hold");
    let start = Instant::now();
    // The peer has the lock as soon as the wait gives it back.
    let ended = shared.condvar.wait_timeout(guard, Duration::from_millis(500));
    assert!(matches!(ended, Err(LockError::TimedOut)), "{ended:?}");
    assert!(start.elapsed() >= Duration::from_millis(1500));
    owner.expect("held");
    Ok(())
}

fn rubbish_in_the_number_ends_no_deadline() -> Result<(), Skip> {
    let (_, shared) = Shared::made();
    for rubbish in [0, 1, u32::MAX, 1 << 31] {
        shared.map.atomic_u32_at(CONDVAR).unwrap().store(rubbish, Ordering::Relaxed);
        let guard = shared.mutex.lock().unwrap();
        let (guard, ended) = shared.condvar.wait_timeout(guard, SHORT).unwrap();
        assert_eq!(ended, Err(WaitError::TimedOut));
        drop(guard);
        assert_eq!(shared.condvar.notify_all(), 0);
    }
    Ok(())
}

fn what_is_no_condvar_is_refused() -> Result<(), Skip> {
    let (memfd, shared) = Shared::made();
    let map = &shared.map;
    let kind = |result: sinew::Result<Condvar>| result.unwrap_err().kind();
    // A mutex is none, and a condition variable no mutex.
    assert_eq!(kind(Condvar::open_in(map, 0)), ErrorKind::Mismatch);
    assert_eq!(Mutex::open_in(map, CONDVAR).unwrap_err().kind(), ErrorKind::Mismatch);
    assert_eq!(kind(Condvar::open_in(map, 192)), ErrorKind::Mismatch);
    assert_eq!(kind(Condvar::create_in(map, 8)), ErrorKind::InvalidInput);
    assert_eq!(kind(Condvar::create_in(map, 4096)), ErrorKind::InvalidInput);
    assert_eq!(kind(Condvar::create_in(map, usize::MAX - 63)), ErrorKind::InvalidInput);
    Condvar::create_in(map, 4096 - condvar::SIZE).unwrap();
    let read_only = Arc::new(memfd.map_with(mapping::Options::new().read_only()).unwrap());
    assert_eq!(kind(Condvar::open_in(&read_only, CONDVAR)), ErrorKind::PermissionDenied);
    let private = Arc::new(memfd.map_with(mapping::Options::new().private()).unwrap());
    assert_eq!(kind(Condvar::open_in(&private, CONDVAR)), ErrorKind::InvalidInput);
    map.write_at(CONDVAR + 4, &[2]).unwrap();
    let error = Condvar::open_in(map, CONDVAR).unwrap_err();
    assert!(error.to_string().contains("version"), "{error}");
    Ok(())
}
