//! What a forked child may do with a lock.

use rustix::process::{Signal, WaitOptions, waitpid};
use sinew::LockError;
use sinew::file_lock::{Flock, Kind};
use sinew::wait::{Locks, Wait};
use sinew_testkit::{Role, Skip, Test, roles, tests};

use super::{Any, Held, KINDS, Made, file, forked, ofd, peer, reaped, told};

pub(crate) const TESTS: &[Test] = tests![
    a_guard_dropped_in_a_child_unlocks_nothing,
    a_child_keeps_what_its_parent_left,
    a_child_may_adopt_the_lock,
];
pub(crate) const ROLES: &[Role] = roles![];

fn a_guard_dropped_in_a_child_unlocks_nothing() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let handle = Any::new(kind);
        let peer = peer(kind);
        let mut guard = Some(handle.lock(Kind::Shared, Wait::FOREVER).unwrap());
        reaped(forked(&mut || {
            // What a child that goes on as its parent would have done does.
            let again = handle.lock_part(Kind::Exclusive, 0, None, Wait::NEVER);
            assert_eq!(again.unwrap_err(), LockError::Forked);
            let again = handle.lock_part(Kind::Exclusive, 5, Some(6), Wait::FOREVER);
            assert_eq!(again.unwrap_err(), LockError::Forked);
            let guard = guard.take().unwrap();
            assert_eq!(guard.upgrade(Wait::NEVER).unwrap_err(), LockError::Forked);
            // One of its own keeps to the rules.
            let mine = Any::new(kind);
            assert_eq!(mine.lock(Kind::Exclusive, Wait::NEVER).unwrap_err(), LockError::WouldBlock);
            drop(mine.lock(Kind::Shared, Wait::NEVER).unwrap());
        }));
        told(&peer, "try exclusive", "WouldBlock");
        handle.lock(Kind::Shared, Wait::NEVER).unwrap_err();
        drop(guard);
        told(&peer, "try exclusive", "locked");
    }
    Ok(())
}

fn a_child_keeps_what_its_parent_left() -> Result<(), Skip> {
    for kind in ["ofd", "flock"] {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        match own.lock(Kind::Exclusive, Wait::FOREVER).unwrap() {
            Held::Ofd(guard) => guard.leave(),
            Held::Flock(guard) => guard.leave(),
            Held::Record(_) => unreachable!("not one of these"),
        }
        assert_eq!(own.lock(Kind::Exclusive, Wait::NEVER).unwrap_err(), LockError::WouldBlock);
        let child = forked(&mut || {
            loop {
                rustix::thread::sched_yield();
            }
        });
        drop(own);
        told(&peer, "try exclusive", "WouldBlock");
        rustix::process::kill_process(child, Signal::KILL).unwrap();
        waitpid(Some(child), WaitOptions::empty()).unwrap();
        told(&peer, "try exclusive", "locked");
    }
    Ok(())
}

fn a_child_may_adopt_the_lock() -> Result<(), Skip> {
    let _file = Made::new();
    let own = ofd();
    let peer = peer("ofd");
    let mut guard = Some(own.lock().unwrap());
    reaped(forked(&mut || {
        own.adopt();
        assert_eq!(own.try_lock().unwrap_err(), LockError::WouldBlock);
        told(&peer, "try exclusive", "WouldBlock");
        drop(guard.take());
        told(&peer, "try exclusive", "locked");
        told(&peer, "unlock", "unlocked");
    }));
    guard.unwrap().leave();
    let flock = Flock::from(file());
    let mut guard = Some(flock.lock().unwrap());
    reaped(forked(&mut || {
        flock.adopt();
        Flock::from(file()).try_lock().unwrap_err();
        drop(guard.take());
        drop(Flock::from(file()).try_lock().unwrap());
    }));
    guard.unwrap().leave();
    Ok(())
}
