//! From shared to exclusive and back, and circles of those who wait.

use std::time::Instant;

use sinew::LockError;
use sinew::file_lock::{Flock, Kind};
use sinew::wait::{Locks, Wait};
use sinew_testkit::{Role, Skip, Test, roles, tests};

use super::{Any, Held, KINDS, Made, SHORT, file, ofd, peer, records, told, waits};

pub(crate) const TESTS: &[Test] = tests![
    an_upgrade_keeps_the_shared_lock_until_it_has_the_other,
    a_downgrade_lets_others_share,
    a_flock_lets_go_to_upgrade,
    a_circle_of_processes_is_seen,
    a_circle_of_descriptions_ends_by_the_deadline,
];
pub(crate) const ROLES: &[Role] = roles![];

fn an_upgrade_keeps_the_shared_lock_until_it_has_the_other() -> Result<(), Skip> {
    let _file = Made::new();
    let own = ofd();
    let peer = peer("ofd");
    let mut guard = own.shared().lock().unwrap();
    told(&peer, "lock shared", "locked");
    let begin = Instant::now();
    assert_eq!(guard.upgrade(Wait::NEVER), Err(LockError::WouldBlock));
    assert_eq!(guard.upgrade(Wait::timeout(SHORT)), Err(LockError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(guard.kind(), Kind::Shared);
    told(&peer, "unlock", "unlocked");
    told(&peer, "try exclusive", "WouldBlock");
    told(&peer, "try shared", "locked");
    told(&peer, "unlock", "unlocked");
    guard.upgrade(Wait::FOREVER).unwrap();
    assert_eq!(guard.kind(), Kind::Exclusive);
    guard.upgrade(Wait::FOREVER).unwrap();
    told(&peer, "try shared", "WouldBlock");
    drop(guard);
    told(&peer, "try exclusive", "locked");
    Ok(())
}

fn a_downgrade_lets_others_share() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        let guard = own.lock(Kind::Exclusive, Wait::FOREVER).unwrap();
        peer.say("lock shared");
        waits(&peer, kind);
        let guard = match guard {
            Held::Ofd(mut guard) => {
                guard.downgrade().unwrap();
                assert_eq!(guard.kind(), Kind::Shared);
                Held::Ofd(guard)
            }
            Held::Record(mut guard) => {
                guard.downgrade().unwrap();
                Held::Record(guard)
            }
            Held::Flock(guard) => Held::Flock(guard.downgrade(Wait::FOREVER).unwrap()),
        };
        peer.expect("locked");
        told(&peer, "unlock", "unlocked");
        told(&peer, "try exclusive", "WouldBlock");
        drop(guard);
        told(&peer, "try exclusive", "locked");
    }
    Ok(())
}

fn a_flock_lets_go_to_upgrade() -> Result<(), Skip> {
    let _file = Made::new();
    let own = Flock::from(file());
    let peer = peer("flock");
    told(&peer, "lock shared", "locked");
    let guard = own.shared().lock().unwrap();
    assert_eq!(guard.kind(), Kind::Shared);
    assert_eq!(guard.upgrade(Wait::NEVER).unwrap_err(), LockError::WouldBlock);
    // Nothing is held now, by the kernel and by the handle.
    told(&peer, "upgrade", "upgraded");
    assert_eq!(own.shared().try_lock().unwrap_err(), LockError::WouldBlock);
    told(&peer, "unlock", "unlocked");
    let guard = own.shared().try_lock().unwrap().upgrade(Wait::FOREVER).unwrap();
    assert_eq!(guard.kind(), Kind::Exclusive);
    told(&peer, "try shared", "WouldBlock");
    Ok(())
}

fn a_circle_of_processes_is_seen() -> Result<(), Skip> {
    let _file = Made::new();
    let own = records();
    let peer = peer("record");
    let low = own.exclusive().range(..1).lock().unwrap();
    told(&peer, "lock exclusive 1 2", "locked");
    peer.say("lock exclusive 0 1");
    waits(&peer, "record");
    assert_eq!(own.exclusive().range(1..2).lock().unwrap_err(), LockError::Deadlock);
    // Also where both upgrade.
    drop(low);
    peer.expect("locked");
    told(&peer, "unlock", "unlocked");
    told(&peer, "lock shared", "locked");
    let mut guard = own.shared().lock().unwrap();
    peer.say("upgrade");
    waits(&peer, "record");
    assert_eq!(guard.upgrade(Wait::FOREVER), Err(LockError::Deadlock));
    assert_eq!(guard.kind(), Kind::Shared);
    drop(guard);
    peer.expect("upgraded");
    Ok(())
}

fn a_circle_of_descriptions_ends_by_the_deadline() -> Result<(), Skip> {
    let _file = Made::new();
    let own = ofd();
    let peer = peer("ofd");
    let low = own.exclusive().range(..1).lock().unwrap();
    told(&peer, "lock exclusive 1 2", "locked");
    peer.say("lock exclusive 0 1");
    waits(&peer, "ofd");
    let error = own.exclusive().range(1..2).lock_timeout(SHORT).unwrap_err();
    assert_eq!(error, LockError::TimedOut);
    drop(low);
    peer.expect("locked");
    Ok(())
}
