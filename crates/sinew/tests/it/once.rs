//! What one process sets up and others wait for, whoever dies meanwhile.

#![allow(unsafe_code, reason = "a forked child uses what is its parent's")]

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};
use sinew::mapping::{self, Mapping};
use sinew::memfd::{self, Memfd};
use sinew::once::{self, Once, Turn};
use sinew::wait::{Interrupt, Locks, Wait};
use sinew::{ErrorKind, LockError};
use sinew_testkit::steps::measure;
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    one_initialises_and_the_others_see_it,
    of_many_processes_one_initialises,
    the_next_takes_over_from_a_killed_initialiser,
    one_of_four_sleepers_takes_over_and_the_others_wait_for_it,
    takeovers_go_on_however_many_die,
    who_comes_later_takes_over_too,
    a_stopped_initialiser_is_waited_for,
    a_claim_dropped_passes_on,
    a_panic_passes_on,
    a_thread_that_ends_passes_on,
    initialising_inside_is_a_deadlock,
    waits_end_in_time,
    an_interrupt_ends_a_wait,
    a_forked_child_has_no_claim,
    what_is_done_costs_no_system_call,
    places_that_cannot_be_are_refused,
    rubbish_is_no_hang,
];
pub(crate) const ROLES: &[Role] = roles![initialiser];

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);
/// Where the tests keep what is initialised.
const DATA: usize = 1024;

struct Place {
    memfd: Memfd,
    map: Arc<Mapping>,
    once: Once,
}

impl Place {
    fn new() -> Self {
        let memfd = memfd::Options::new().create("once", 4096).unwrap();
        let map = Arc::new(memfd.map().unwrap());
        let once = Once::open_in(&map, 0).unwrap();
        Self { memfd, map, once }
    }

    fn peer(&self) -> Peer {
        let peer = Peer::spawn("once::initialiser");
        peer.send_fd(self.memfd.as_fd());
        peer.expect("ready");
        peer
    }

    fn data(&self) -> u32 {
        self.map.load_u32_at(DATA).unwrap()
    }
}

/// Initialises when and how it is told.
fn initialiser(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let once = Once::open_in(&map, 0).unwrap();
    let data = || map.atomic_u32_at(DATA).unwrap();
    link.say("ready");
    while let Some((words, _)) = link.try_receive() {
        match String::from_utf8(words).unwrap().as_str() {
            "claim" => match once.lock() {
                Ok(Turn::Done) => link.say(format!("done {}", data().load(Ordering::Relaxed))),
                Ok(Turn::Yours(claim)) => {
                    link.say("first");
                    link.expect("finish");
                    data().fetch_add(1, Ordering::Relaxed);
                    claim.done();
                    link.say("finished");
                }
                Err(LockError::OwnerDied(claim)) => {
                    link.say("again");
                    link.expect("finish");
                    data().fetch_add(1, Ordering::Relaxed);
                    claim.done();
                    link.say("finished");
                }
                Err(e) => link.say(format!("{e:?}")),
            },
            // Meant for who has the claim, and it has passed by.
            "finish" => {}
            "claim, and die of it" => {
                let Err(LockError::OwnerDied(_claim)) = once.lock() else { panic!("it died") };
                data().fetch_add(1, Ordering::Relaxed);
                kill_process(getpid(), Signal::KILL).unwrap();
            }
            "call" => {
                let call = once.call(|again| {
                    assert!(!again);
                    data().fetch_add(1, Ordering::Relaxed);
                });
                call.unwrap();
                link.say(data().load(Ordering::Relaxed));
            }
            other => panic!("{other}"),
        }
    }
}

fn one_initialises_and_the_others_see_it() -> Result<(), Skip> {
    let place = Place::new();
    let (one, two) = (place.peer(), place.peer());
    assert!(!place.once.is_done());
    one.say("claim");
    one.expect("first");
    two.say("claim");
    until_asleep(two.pid());
    assert!(matches!(place.once.try_lock(), Err(LockError::WouldBlock)));
    assert!(!place.once.is_done());
    one.say("finish");
    one.expect("finished");
    two.expect("done 1");
    assert!(place.once.is_done());
    place.once.call(|_| panic!("it is done")).unwrap();
    assert!(matches!(place.once.try_lock(), Ok(Turn::Done)));
    one.say("claim");
    one.expect("done 1");
    Ok(())
}

fn of_many_processes_one_initialises() -> Result<(), Skip> {
    let peers: Vec<Peer> = {
        let first = Place::new();
        let peers: Vec<Peer> = (0..6).map(|_| first.peer()).collect();
        for peer in &peers {
            peer.say("call");
        }
        for peer in &peers {
            peer.expect("1");
        }
        assert_eq!(first.data(), 1);
        peers
    };
    peers.into_iter().for_each(drop);
    Ok(())
}

fn the_next_takes_over_from_a_killed_initialiser() -> Result<(), Skip> {
    let place = Place::new();
    let (one, two) = (place.peer(), place.peer());
    one.say("claim");
    one.expect("first");
    two.say("claim");
    until_asleep(two.pid());
    one.kill();
    two.expect("again");
    assert!(!place.once.is_done());
    two.say("finish");
    two.expect("finished");
    assert!(place.once.is_done());
    Ok(())
}

fn one_of_four_sleepers_takes_over_and_the_others_wait_for_it() -> Result<(), Skip> {
    let place = Place::new();
    let victim = place.peer();
    victim.say("claim");
    victim.expect("first");
    let peers: Vec<Peer> = (0..4).map(|_| place.peer()).collect();
    for peer in &peers {
        peer.say("claim");
        until_asleep(peer.pid());
    }
    victim.kill();
    for peer in &peers {
        peer.say("finish");
    }
    // One is told, and the others wait until it has finished.
    let told = peers.iter().filter(|peer| match peer.hear().as_str() {
        "again" => {
            peer.expect("finished");
            true
        }
        other => {
            assert_eq!(other, "done 1");
            false
        }
    });
    assert_eq!(told.count(), 1);
    Ok(())
}

fn takeovers_go_on_however_many_die() -> Result<(), Skip> {
    let place = Place::new();
    let victim = place.peer();
    victim.say("claim");
    victim.expect("first");
    let mut peers: Vec<Peer> = (0..4).map(|_| place.peer()).collect();
    for peer in &peers {
        peer.say("claim, and die of it");
        until_asleep(peer.pid());
    }
    victim.kill();
    // Each death wakes the next, in whatever order.
    for peer in &mut peers {
        assert_eq!(peer.wait().signal(), Some(Signal::KILL.as_raw()));
    }
    let Err(LockError::OwnerDied(claim)) = place.once.lock() else { panic!("all died of it") };
    claim.done();
    assert_eq!(place.data(), 4);
    Ok(())
}

fn who_comes_later_takes_over_too() -> Result<(), Skip> {
    let place = Place::new();
    let one = place.peer();
    one.say("claim");
    one.expect("first");
    one.kill();
    let mut told = None;
    place.once.call(|again| told = Some(again)).unwrap();
    assert_eq!(told, Some(true));
    assert!(place.once.is_done());
    Ok(())
}

fn a_stopped_initialiser_is_waited_for() -> Result<(), Skip> {
    let place = Place::new();
    let one = place.peer();
    one.say("claim");
    one.expect("first");
    stop(&one);
    assert!(matches!(place.once.lock_timeout(SHORT * 5), Err(LockError::TimedOut)));
    one.say("finish");
    one.signal(Signal::CONT);
    assert!(matches!(place.once.lock_timeout(LONG), Ok(Turn::Done)));
    Ok(())
}

fn a_claim_dropped_passes_on() -> Result<(), Skip> {
    let place = Place::new();
    let Ok(Turn::Yours(claim)) = place.once.lock() else { panic!("nobody has begun") };
    let peer = place.peer();
    peer.say("claim");
    until_asleep(peer.pid());
    drop(claim);
    peer.expect("again");
    peer.say("finish");
    peer.expect("finished");
    assert!(place.once.is_done());
    Ok(())
}

fn a_panic_passes_on() -> Result<(), Skip> {
    let place = Place::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        place.once.call(|again| {
            assert!(!again);
            std::panic::resume_unwind(Box::new(()));
        })
    }));
    assert!(panicked.is_err());
    let mut told = None;
    place.once.call(|again| told = Some(again)).unwrap();
    assert_eq!(told, Some(true));
    Ok(())
}

fn a_thread_that_ends_passes_on() -> Result<(), Skip> {
    let place = Place::new();
    let map = Arc::clone(&place.map);
    let thread = std::thread::spawn(move || {
        let once = Once::open_in(&map, 0).unwrap();
        #[expect(clippy::mem_forget, reason = "a thread that ends without giving back")]
        std::mem::forget(once.lock().unwrap());
    });
    thread.join().unwrap();
    // The thread has gone from /proc, so its list was gone through.
    while !matches!(place.once.lock_timeout(LONG), Err(LockError::OwnerDied(_))) {}
    Ok(())
}

fn initialising_inside_is_a_deadlock() -> Result<(), Skip> {
    let place = Place::new();
    let mut inner = None;
    place.once.call(|_| inner = Some(place.once.call(|_| {}))).unwrap();
    assert_eq!(inner, Some(Err(LockError::Deadlock)));
    assert!(place.once.is_done());
    Ok(())
}

fn waits_end_in_time() -> Result<(), Skip> {
    let place = Place::new();
    let one = place.peer();
    one.say("claim");
    one.expect("first");
    let begin = Instant::now();
    assert!(matches!(place.once.lock_timeout(SHORT), Err(LockError::TimedOut)));
    assert!(begin.elapsed() >= SHORT);
    assert!(matches!(place.once.lock_until(begin), Err(LockError::TimedOut)));
    assert!(matches!(place.once.try_lock(), Err(LockError::WouldBlock)));
    assert_eq!(place.once.call_wait(Wait::NEVER, |_| {}), Err(LockError::WouldBlock));
    one.say("finish");
    one.expect("finished");
    assert!(matches!(place.once.lock_until(begin), Ok(Turn::Done)));
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let place = Place::new();
    let one = place.peer();
    one.say("claim");
    one.expect("first");
    let interrupt = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(getpid());
            interrupt.trigger();
        });
        let wait = Wait::timeout(LONG).interrupted_by(&interrupt);
        assert_eq!(place.once.call_wait(wait, |_| {}), Err(LockError::Interrupted));
    });
    Ok(())
}

fn a_forked_child_has_no_claim() -> Result<(), Skip> {
    let place = Place::new();
    let Ok(Turn::Yours(claim)) = place.once.lock() else { panic!("nobody has begun") };
    // SAFETY: this process has one thread, so the child may do whatever it may.
    match unsafe { libc::fork() } {
        0 => {
            claim.done();
            let waits = matches!(place.once.try_lock(), Err(LockError::WouldBlock));
            // SAFETY: ends the child at once, running nothing of the parent's.
            unsafe { libc::_exit(i32::from(!waits)) }
        }
        pid => {
            let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
    }
    assert!(!place.once.is_done());
    claim.done();
    assert!(place.once.is_done());
    Ok(())
}

fn what_is_done_costs_no_system_call() -> Result<(), Skip> {
    let place = Place::new();
    place.once.call(|_| {}).unwrap();
    let steps = match measure(1, || place.once.call(|_| {}).unwrap()) {
        Ok(steps) => steps,
        Err(e) => return skip(format!("cannot step: {e}")),
    };
    assert_eq!(steps.calls, []);
    Ok(())
}

fn places_that_cannot_be_are_refused() -> Result<(), Skip> {
    let place = Place::new();
    let kind = |at| Once::open_in(&place.map, at).unwrap_err().kind();
    assert_eq!(kind(8), ErrorKind::InvalidInput);
    assert_eq!(kind(4096), ErrorKind::InvalidInput);
    assert_eq!(kind(usize::MAX), ErrorKind::InvalidInput);
    Once::open_in(&place.map, 4096 - once::SIZE).unwrap();
    let read_only = mapping::Options::new().read_only();
    let read_only = Arc::new(place.memfd.map_with(read_only).unwrap());
    let error = Once::open_in(&read_only, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let private = Arc::new(place.memfd.map_with(mapping::Options::new().private()).unwrap());
    assert_eq!(Once::open_in(&private, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    Ok(())
}

fn rubbish_is_no_hang() -> Result<(), Skip> {
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    for value in [1, own, own | 1 << 31, 1 << 29, 3 << 29, 1 << 30, 1 << 31, 5 << 29, u32::MAX] {
        let place = Place::new();
        let word = place.map.atomic_u32_at(0).unwrap();
        word.store(value, Ordering::SeqCst);
        let begin = Instant::now();
        let _ = place.once.try_lock();
        let _ = place.once.call_wait(Wait::timeout(SHORT), |_| {});
        assert!(begin.elapsed() < LONG);
        // Overwritten while it is claimed.
        let place = Place::new();
        if let Ok(Turn::Yours(claim)) = place.once.try_lock() {
            place.map.atomic_u32_at(0).unwrap().store(value, Ordering::SeqCst);
            let _ = place.once.call_wait(Wait::timeout(SHORT), |_| {});
            claim.done();
        }
    }
    let place = Place::new();
    place.map.atomic_u32_at(0).unwrap().store(0x2ABC_DEF0, Ordering::SeqCst);
    assert!(matches!(place.once.lock(), Err(LockError::Corrupt)));
    Ok(())
}
