//! Readers and writers in real processes, and what is left when they are killed.

#![allow(unsafe_code, reason = "a forked child uses what is its parent's")]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, waitpid};
use sinew::mapping::{self, Mapping};
use sinew::memfd::{self, Memfd};
use sinew::rwlock::{self, RwLock};
use sinew::wait::{Interrupt, Locks, Wait};
use sinew::{ErrorKind, LockError};
use sinew_testkit::steps::measure;
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, tests};

use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    readers_share_and_a_writer_is_alone,
    a_killed_reader_is_released,
    a_reader_killed_while_a_writer_waits_is_released,
    a_killed_writer_is_told_to_the_next_writer,
    a_killed_writer_is_told_to_the_next_reader,
    one_of_four_sleepers_has_the_lock_of_a_killed_writer,
    what_nobody_repaired_is_never_locked_again,
    a_death_in_the_repair_is_told_again,
    a_writer_that_died_before_it_had_the_lock_is_no_matter,
    a_waiting_writer_keeps_new_readers_out,
    nobody_starves,
    a_stopped_holder_is_waited_for,
    who_finds_no_place_waits_for_one,
    a_killed_reader_makes_a_place,
    twice_in_one_thread_is_no_hang,
    waits_end_in_time,
    an_interrupt_ends_a_wait,
    a_forked_child_holds_nothing,
    a_thread_that_ends_counts_as_dead,
    writers_and_readers_in_processes_never_meet,
    uncontended_it_costs_no_system_call,
    what_is_no_lock_is_refused,
    rubbish_is_no_hang,
];
pub(crate) const ROLES: &[Role] = roles![holder, contender];

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);
/// Where the tests keep what is guarded: two words that are equal whenever nobody writes.
const DATA: usize = 8192;

struct Place {
    memfd: Memfd,
    map: Arc<Mapping>,
    lock: RwLock,
}

impl Place {
    fn new(readers: u32) -> Self {
        let memfd = memfd::Options::new().create("rwlock", 16384).unwrap();
        let map = Arc::new(memfd.map().unwrap());
        let lock = RwLock::create_in(&map, 0, readers).unwrap();
        Self { memfd, map, lock }
    }

    fn peer(&self) -> Peer {
        self.peer_of("rwlock::holder")
    }

    fn peer_of(&self, role: &str) -> Peer {
        let peer = Peer::spawn(role);
        peer.send_fd(self.memfd.as_fd());
        peer.expect("ready");
        peer
    }

    /// One that has the lock.
    fn with(&self, what: &str) -> Peer {
        let peer = self.peer();
        peer.say(what);
        peer.expect("has it");
        peer
    }

    /// One that sleeps for it.
    fn waiting(&self, what: &str) -> Peer {
        let peer = self.peer();
        peer.say(what);
        until_asleep(peer.pid());
        peer
    }
}

/// Locks as it is told, says how that ended, and holds it until it is told.
fn holder(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let lock = RwLock::open_in(&map, 0).unwrap();
    link.say("ready");
    while let Some((words, _)) = link.try_receive() {
        match String::from_utf8(words).unwrap().as_str() {
            "read" => hold(link, lock.reader().lock(), |died| {
                link.say("died");
                link.expect("unlock");
                drop(died.repaired());
            }),
            "write" => hold(link, lock.writer().lock(), |died| {
                link.say("died");
                link.expect("unlock");
                drop(died.repaired());
            }),
            "write after a while" => {
                hold(link, lock.writer().lock_timeout(LONG), |died| drop(died.repaired()));
            }
            "drop what died" => match lock.writer().lock() {
                Err(LockError::OwnerDied(died)) => {
                    drop(died);
                    link.say("dropped");
                }
                other => panic!("{other:?}"),
            },
            other => panic!("{other}"),
        }
    }
}

fn hold<G, D>(link: &Link, locked: Result<G, LockError<D>>, died: impl FnOnce(D)) {
    match locked {
        Ok(guard) => {
            link.say("has it");
            link.expect("unlock");
            drop(guard);
            link.say("unlocked");
        }
        Err(LockError::OwnerDied(recovery)) => {
            died(recovery);
            link.say("repaired");
        }
        Err(other) => link.say(format!("{:?}", other.map_died(drop))),
    }
}

fn readers_share_and_a_writer_is_alone() -> Result<(), Skip> {
    let place = Place::new(4);
    let lock = &place.lock;
    let one = place.with("read");
    let two = place.with("read");
    let own = lock.reader().try_lock().unwrap();
    let Err(LockError::Deadlock) = lock.writer().try_lock() else { panic!("this thread reads") };
    drop(own);
    let Err(LockError::TimedOut) = lock.writer().lock_timeout(SHORT) else { panic!("two read") };
    let writer = place.waiting("write");
    for peer in [&one, &two] {
        peer.say("unlock");
        peer.expect("unlocked");
    }
    writer.expect("has it");
    assert!(matches!(lock.reader().try_lock(), Err(LockError::WouldBlock)));
    assert!(matches!(lock.writer().try_lock(), Err(LockError::WouldBlock)));
    one.say("read");
    until_asleep(one.pid());
    writer.say("unlock");
    one.expect("has it");
    one.say("unlock");
    one.expect("unlocked");
    drop(lock.writer().lock().unwrap());
    Ok(())
}

fn a_killed_reader_is_released() -> Result<(), Skip> {
    let place = Place::new(2);
    let one = place.with("read");
    assert!(matches!(place.lock.writer().lock_timeout(SHORT), Err(LockError::TimedOut)));
    one.kill();
    drop(place.lock.writer().lock().unwrap());
    drop(place.lock.reader().lock().unwrap());
    Ok(())
}

fn a_reader_killed_while_a_writer_waits_is_released() -> Result<(), Skip> {
    let place = Place::new(4);
    let readers = [place.with("read"), place.with("read")];
    let writer = place.waiting("write");
    let behind = place.waiting("read");
    for reader in readers {
        reader.kill();
    }
    writer.expect("has it");
    writer.say("unlock");
    behind.expect("has it");
    Ok(())
}

fn a_killed_writer_is_told_to_the_next_writer() -> Result<(), Skip> {
    let place = Place::new(2);
    place.with("write").kill();
    let Err(LockError::OwnerDied(died)) = place.lock.writer().lock() else { panic!("it died") };
    let guard = died.repaired();
    let other = place.waiting("read");
    drop(guard);
    other.expect("has it");
    other.say("unlock");
    other.expect("unlocked");
    // It is as new.
    drop(place.lock.reader().lock().unwrap());
    drop(place.lock.writer().lock().unwrap());
    Ok(())
}

fn a_killed_writer_is_told_to_the_next_reader() -> Result<(), Skip> {
    let place = Place::new(2);
    place.with("write").kill();
    let Err(LockError::OwnerDied(died)) = place.lock.reader().lock() else { panic!("it died") };
    // Alone, until it is repaired.
    let (reads, writes) = (place.waiting("read"), place.peer());
    let guard = died.repaired();
    reads.expect("has it");
    writes.say("write");
    until_asleep(writes.pid());
    reads.say("unlock");
    reads.expect("unlocked");
    drop(guard);
    writes.expect("has it");
    // The place for repairs is free again.
    writes.kill();
    let Err(LockError::OwnerDied(died)) = place.lock.reader().lock() else { panic!("it died") };
    drop(died.repaired());
    drop(place.lock.writer().lock().unwrap());
    Ok(())
}

fn one_of_four_sleepers_has_the_lock_of_a_killed_writer() -> Result<(), Skip> {
    for sleepers in [["write"; 4], ["read"; 4], ["read", "write", "read", "write"]] {
        let place = Place::new(4);
        let victim = place.with("write");
        let sleepers = sleepers.map(|what| place.waiting(what));
        victim.kill();
        for sleeper in &sleepers {
            sleeper.say("unlock");
        }
        // One is told; the others have it in turn, or together.
        let told = sleepers.iter().filter(|sleeper| match sleeper.hear().as_str() {
            "died" => {
                sleeper.expect("repaired");
                true
            }
            "has it" => {
                sleeper.expect("unlocked");
                false
            }
            other => panic!("{other}"),
        });
        assert_eq!(told.count(), 1);
    }
    Ok(())
}

fn what_nobody_repaired_is_never_locked_again() -> Result<(), Skip> {
    let place = Place::new(2);
    place.with("write").kill();
    let dropper = place.peer();
    let sleeper = place.peer();
    dropper.say("drop what died");
    dropper.expect("dropped");
    for what in ["read", "write"] {
        sleeper.say(what);
        sleeper.expect("NotRecoverable");
    }
    assert!(matches!(place.lock.reader().lock(), Err(LockError::NotRecoverable)));
    assert!(matches!(place.lock.writer().lock(), Err(LockError::NotRecoverable)));
    // Anew.
    let anew = RwLock::create_in(&place.map, 0, 2).unwrap();
    drop(anew.writer().lock().unwrap());
    Ok(())
}

fn a_death_in_the_repair_is_told_again() -> Result<(), Skip> {
    let place = Place::new(2);
    for next in ["write", "read", "write"] {
        let victim = place.with("write");
        victim.kill();
        let repairs = place.peer();
        repairs.say(next);
        repairs.expect("died");
        repairs.kill();
        let Err(LockError::OwnerDied(died)) = place.lock.reader().lock() else { panic!("twice") };
        drop(died.repaired());
    }
    drop(place.lock.writer().lock().unwrap());
    Ok(())
}

fn a_writer_that_died_before_it_had_the_lock_is_no_matter() -> Result<(), Skip> {
    let place = Place::new(2);
    let guard = place.lock.reader().lock().unwrap();
    let writer = place.waiting("write");
    let behind = place.waiting("write");
    let reads = place.waiting("read");
    writer.kill();
    // It was waiting for the reader, and kept the others out.
    drop(guard);
    behind.expect("has it");
    behind.say("unlock");
    behind.expect("unlocked");
    reads.expect("has it");
    Ok(())
}

fn a_waiting_writer_keeps_new_readers_out() -> Result<(), Skip> {
    let place = Place::new(4);
    let reads = place.with("read");
    let writes = place.waiting("write");
    assert!(matches!(place.lock.reader().try_lock(), Err(LockError::WouldBlock)));
    assert!(matches!(place.lock.reader().lock_timeout(SHORT), Err(LockError::TimedOut)));
    reads.say("unlock");
    reads.expect("unlocked");
    writes.expect("has it");
    Ok(())
}

/// Locks in turns until told to end: reads or writes what is guarded, and counts.
fn contender(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let lock = RwLock::open_in(&map, 0).unwrap();
    let word = |at| -> &AtomicU32 { map.atomic_u32_at(DATA + at).unwrap() };
    link.say("ready");
    let what = link.hear();
    let mut turns = 0_u32;
    let mut longest = Duration::ZERO;
    while word(64).load(Ordering::Relaxed) == 0 {
        let begin = Instant::now();
        let writes = what == "write" || what == "both" && turns.is_multiple_of(3);
        if writes {
            let guard = lock.writer().lock().unwrap();
            longest = longest.max(begin.elapsed());
            let value = word(0).load(Ordering::Relaxed);
            word(0).store(value + 1, Ordering::Relaxed);
            std::hint::black_box(turns);
            word(4).store(value + 1, Ordering::Relaxed);
            drop(guard);
        } else {
            let guard = lock.reader().lock().unwrap();
            longest = longest.max(begin.elapsed());
            let (one, two) = (word(0).load(Ordering::Relaxed), word(4).load(Ordering::Relaxed));
            assert_eq!(one, two, "somebody writes meanwhile");
            drop(guard);
        }
        turns += 1;
    }
    link.say(format!("{turns} {}", longest.as_millis()));
}

fn contend(place: &Place, what: &[&str], how_long: Duration) -> Vec<(u32, u32)> {
    let peers: Vec<Peer> = what.iter().map(|_| place.peer_of("rwlock::contender")).collect();
    for (peer, what) in peers.iter().zip(what) {
        peer.say(what);
    }
    // What ends them is a lock that nobody else ever has, waited for so long.
    let patience = Place::new(1);
    let reads = patience.with("read");
    assert!(matches!(patience.lock.writer().lock_timeout(how_long), Err(LockError::TimedOut)));
    drop(reads);
    place.map.atomic_u32_at(DATA + 64).unwrap().store(1, Ordering::Relaxed);
    let said = peers.iter().map(|peer| {
        let said = peer.hear();
        let (turns, longest) = said.split_once(' ').unwrap();
        (turns.parse().unwrap(), longest.parse().unwrap())
    });
    said.collect()
}

fn nobody_starves() -> Result<(), Skip> {
    for what in [["write", "read", "read", "read"], ["read", "write", "write", "write"]] {
        let place = Place::new(4);
        let said = contend(&place, &what, Duration::from_millis(300));
        assert!(said.iter().all(|(turns, _)| *turns > 0), "{said:?}");
    }
    Ok(())
}

fn writers_and_readers_in_processes_never_meet() -> Result<(), Skip> {
    // More readers than places, too.
    for readers in [1, 2, 8] {
        let place = Place::new(readers);
        let said = contend(&place, &["both", "both", "read", "write"], Duration::from_millis(300));
        assert!(said.iter().all(|(turns, _)| *turns > 0), "{said:?}");
        let word = |at| place.map.load_u32_at(DATA + at).unwrap();
        assert_eq!(word(0), word(4));
        let writes: u32 = said[..2].iter().map(|(turns, _)| turns.div_ceil(3)).sum();
        assert_eq!(word(0), writes + said[3].0, "every write counts");
    }
    Ok(())
}

fn a_stopped_holder_is_waited_for() -> Result<(), Skip> {
    let place = Place::new(2);
    for what in ["read", "write"] {
        let peer = place.with(what);
        stop(&peer);
        assert!(matches!(place.lock.writer().lock_timeout(SHORT * 3), Err(LockError::TimedOut)));
        peer.say("unlock");
        peer.signal(Signal::CONT);
        drop(place.lock.writer().lock_timeout(LONG).unwrap());
    }
    Ok(())
}

fn who_finds_no_place_waits_for_one() -> Result<(), Skip> {
    let place = Place::new(2);
    let readers = [place.with("read"), place.with("read")];
    assert!(matches!(place.lock.reader().try_lock(), Err(LockError::WouldBlock)));
    assert!(matches!(place.lock.reader().lock_timeout(SHORT), Err(LockError::TimedOut)));
    let third = place.waiting("read");
    let writer = place.waiting("write");
    // The second place is as good as the first.
    readers[1].say("unlock");
    readers[1].expect("unlocked");
    third.expect("has it");
    for peer in [&readers[0], &third] {
        peer.say("unlock");
        peer.expect("unlocked");
    }
    writer.expect("has it");
    Ok(())
}

fn a_killed_reader_makes_a_place() -> Result<(), Skip> {
    let place = Place::new(1);
    let reader = place.with("read");
    let second = place.waiting("read");
    reader.kill();
    second.expect("has it");
    second.kill();
    drop(place.lock.reader().lock().unwrap());
    Ok(())
}

fn twice_in_one_thread_is_no_hang() -> Result<(), Skip> {
    let place = Place::new(4);
    let lock = &place.lock;
    let one = lock.reader().lock().unwrap();
    let two = lock.reader().lock().unwrap();
    assert!(matches!(lock.writer().lock(), Err(LockError::Deadlock)));
    drop(two);
    let writer = place.waiting("write");
    assert!(matches!(lock.reader().lock(), Err(LockError::Deadlock)));
    assert!(matches!(lock.writer().lock(), Err(LockError::Deadlock)));
    drop(one);
    writer.expect("has it");
    writer.say("unlock");
    writer.expect("unlocked");
    let guard = lock.writer().lock().unwrap();
    assert!(matches!(lock.reader().lock(), Err(LockError::Deadlock)));
    assert!(matches!(lock.writer().lock(), Err(LockError::Deadlock)));
    drop(guard);
    drop(lock.reader().lock().unwrap());
    Ok(())
}

fn waits_end_in_time() -> Result<(), Skip> {
    let place = Place::new(2);
    for what in ["read", "write"] {
        let peer = place.with(what);
        let begin = Instant::now();
        assert!(matches!(place.lock.writer().lock_timeout(SHORT), Err(LockError::TimedOut)));
        assert!(begin.elapsed() >= SHORT);
        assert!(matches!(place.lock.writer().lock_until(begin), Err(LockError::TimedOut)));
        assert!(matches!(place.lock.writer().try_lock(), Err(LockError::WouldBlock)));
        if what == "write" {
            assert!(matches!(place.lock.reader().lock_timeout(SHORT), Err(LockError::TimedOut)));
            assert!(matches!(place.lock.reader().lock_until(begin), Err(LockError::TimedOut)));
        } else {
            // A writer that gave up lets readers in again.
            drop(place.lock.reader().lock_until(begin).unwrap());
        }
        peer.say("unlock");
        peer.expect("unlocked");
        drop(place.lock.writer().lock_until(begin).unwrap());
    }
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let place = Place::new(1);
    for (holds, waits) in
        [("read", "write"), ("read", "read"), ("write", "read"), ("write", "write")]
    {
        let peer = place.with(holds);
        let interrupt = Interrupt::new().unwrap();
        std::thread::scope(|s| {
            s.spawn(|| {
                until_asleep(getpid());
                interrupt.trigger();
            });
            let wait = Wait::timeout(LONG).interrupted_by(&interrupt);
            let interrupted = if waits == "read" {
                matches!(place.lock.reader().lock_wait(wait), Err(LockError::Interrupted))
            } else {
                matches!(place.lock.writer().lock_wait(wait), Err(LockError::Interrupted))
            };
            assert!(interrupted, "{holds}, {waits}");
        });
        peer.say("unlock");
        peer.expect("unlocked");
        drop(place.lock.writer().lock().unwrap());
    }
    Ok(())
}

fn a_forked_child_holds_nothing() -> Result<(), Skip> {
    let place = Place::new(2);
    let read = place.lock.reader().lock().unwrap();
    let in_child = |check: &dyn Fn() -> bool| {
        // SAFETY: this process has one thread, so the child may do whatever it may.
        match unsafe { libc::fork() } {
            // SAFETY: ends the child at once, running nothing of the parent's.
            0 => unsafe { libc::_exit(i32::from(!check())) },
            pid => {
                let ended = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap();
                assert_eq!(ended.1.exit_status(), Some(0));
            }
        }
    };
    in_child(&|| {
        // Its drop of the copy ends nothing, and it reads or not as anybody.
        let copy = std::mem::ManuallyDrop::new(&read);
        let _ = &copy;
        let own = place.lock.reader().try_lock().is_ok();
        own && matches!(place.lock.writer().try_lock(), Err(LockError::WouldBlock))
    });
    drop(read);
    let write = place.lock.writer().lock().unwrap();
    in_child(&|| {
        matches!(place.lock.reader().try_lock(), Err(LockError::WouldBlock))
            && matches!(place.lock.writer().try_lock(), Err(LockError::WouldBlock))
    });
    // SAFETY: as above.
    match unsafe { libc::fork() } {
        0 => {
            drop(write);
            let locked = matches!(place.lock.writer().try_lock(), Err(LockError::WouldBlock));
            // SAFETY: as above.
            unsafe { libc::_exit(i32::from(!locked)) }
        }
        pid => {
            let ended = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(ended.1.exit_status(), Some(0));
        }
    }
    drop(write);
    drop(place.lock.writer().lock().unwrap());
    Ok(())
}

fn a_thread_that_ends_counts_as_dead() -> Result<(), Skip> {
    let place = Place::new(2);
    for writes in [false, true] {
        let map = Arc::clone(&place.map);
        let thread = std::thread::spawn(move || {
            let lock = RwLock::open_in(&map, 0).unwrap();
            #[expect(clippy::mem_forget, reason = "a thread that ends without unlocking")]
            if writes {
                std::mem::forget(lock.writer().lock().unwrap());
            } else {
                std::mem::forget(lock.reader().lock().unwrap());
            }
        });
        thread.join().unwrap();
        match place.lock.writer().lock() {
            Ok(guard) => drop(guard),
            Err(LockError::OwnerDied(died)) => {
                assert!(writes);
                drop(died.repaired());
            }
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

fn uncontended_it_costs_no_system_call() -> Result<(), Skip> {
    let place = Place::new(16);
    // The child that is stepped looks itself up in the first, warm run.
    let steps = match measure(1, || drop(place.lock.reader().lock().unwrap())) {
        Ok(steps) => steps,
        Err(e) => return skip(format!("cannot step: {e}")),
    };
    assert_eq!(steps.calls, []);
    let steps = measure(1, || drop(place.lock.writer().lock().unwrap())).unwrap();
    assert_eq!(steps.calls, []);
    Ok(())
}

fn what_is_no_lock_is_refused() -> Result<(), Skip> {
    let place = Place::new(2);
    let open = |at| RwLock::open_in(&place.map, at).unwrap_err().kind();
    assert_eq!(open(1024), ErrorKind::Mismatch);
    assert_eq!(open(8), ErrorKind::InvalidInput);
    assert_eq!(open(16384), ErrorKind::InvalidInput);
    assert_eq!(open(usize::MAX - 63), ErrorKind::InvalidInput);
    let create = |at, readers| RwLock::create_in(&place.map, at, readers).unwrap_err().kind();
    assert_eq!(create(0, 0), ErrorKind::InvalidInput);
    assert_eq!(create(0, rwlock::MOST + 1), ErrorKind::InvalidInput);
    assert_eq!(create(16384 - 128, 2), ErrorKind::InvalidInput);
    let fits = 16384 - rwlock::size(rwlock::MOST);
    let lock = RwLock::create_in(&place.map, fits, rwlock::MOST).unwrap();
    assert_eq!(lock.places(), rwlock::MOST);
    assert_eq!(RwLock::open_in(&place.map, fits).unwrap().places(), rwlock::MOST);
    let read_only = mapping::Options::new().read_only();
    let read_only = Arc::new(place.memfd.map_with(read_only).unwrap());
    let error = RwLock::open_in(&read_only, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    let private = Arc::new(place.memfd.map_with(mapping::Options::new().private()).unwrap());
    assert_eq!(RwLock::open_in(&private, 0).unwrap_err().kind(), ErrorKind::InvalidInput);
    Ok(())
}

fn rubbish_is_no_hang() -> Result<(), Skip> {
    let own = getpid().as_raw_nonzero().get().unsigned_abs();
    let values = [1, 2, 7, own, 1 << 30, 1 << 31, 3 << 30, 3 << 30 | 1, u32::MAX];
    for at in (0..rwlock::size(2)).step_by(4) {
        for value in values {
            let place = Place::new(2);
            place.map.atomic_u32_at(at).unwrap().store(value, Ordering::SeqCst);
            let begin = Instant::now();
            let opened = RwLock::open_in(&place.map, 0);
            for lock in [Some(&place.lock), opened.as_ref().ok()].into_iter().flatten() {
                let _ = lock.reader().try_lock();
                let _ = lock.writer().try_lock();
                let _ = lock.writer().lock_timeout(Duration::from_micros(100));
                let _ = lock.reader().lock_timeout(Duration::from_micros(100));
            }
            assert!(begin.elapsed() < LONG, "{at}: {value:#x}");
            place.map.atomic_u32_at(at).unwrap().store(0, Ordering::SeqCst);
        }
    }
    let place = Place::new(2);
    // The gate, in the line of the mutex, which is the second.
    place.map.atomic_u32_at(64 + 56).unwrap().store(77, Ordering::SeqCst);
    assert!(matches!(place.lock.reader().lock(), Err(LockError::Corrupt)));
    assert!(matches!(place.lock.writer().lock(), Err(LockError::Corrupt)));
    Ok(())
}
