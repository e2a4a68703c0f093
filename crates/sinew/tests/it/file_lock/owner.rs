//! Who is one owner to the kernel, and who stands in the way.

use std::fs::File;

use rustix::fs::OFlags;
use sinew::file_lock::{Kind, Options, Owner, RecordLock};
use sinew::wait::{Locks, Wait};
use sinew::{ErrorKind, LockError};
use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use super::{Any, KINDS, LONG, Made, SHORT, file, ofd, path, peer, records, told};
use crate::pipe::flags;

pub(crate) const TESTS: &[Test] = tests![
    a_handle_is_one_owner,
    a_second_thread_takes_a_handle_of_its_own,
    a_failed_lock_leaves_nothing,
    any_close_loses_the_locks_of_a_process,
    a_process_has_one_handle_of_records,
    the_holder_is_told,
];
pub(crate) const ROLES: &[Role] = roles![];

fn a_handle_is_one_owner() -> Result<(), Skip> {
    for kind in KINDS {
        for first in [Kind::Exclusive, Kind::Shared] {
            let _file = Made::new();
            let own = Any::new(kind);
            let peer = peer(kind);
            let guard = own.lock(first, Wait::FOREVER).unwrap();
            for second in [Kind::Exclusive, Kind::Shared] {
                let again = |wait| own.lock(second, wait).unwrap_err();
                assert_eq!(again(Wait::NEVER), LockError::WouldBlock);
                assert_eq!(again(Wait::FOREVER), LockError::Deadlock);
                assert_eq!(again(Wait::timeout(LONG)), LockError::Deadlock);
                std::thread::scope(|s| {
                    s.spawn(|| assert_eq!(again(Wait::FOREVER), LockError::Deadlock));
                });
            }
            // None of it has released or converted anything.
            told(&peer, "try exclusive", "WouldBlock");
            let shares = if first == Kind::Shared { "locked" } else { "WouldBlock" };
            told(&peer, "try shared", shares);
            told(&peer, "unlock", "unlocked");
            drop(guard);
            told(&peer, "try exclusive", "locked");
        }
    }
    // Bytes that do not meet are another lock.
    let _file = Made::new();
    let own = ofd();
    let low = own.exclusive().range(..10).lock().unwrap();
    let high = own.shared().range(10..).lock().unwrap();
    assert_eq!(own.shared().range(9..11).try_lock().unwrap_err(), LockError::WouldBlock);
    drop(low);
    let peer = peer("ofd");
    told(&peer, "try exclusive 0 10", "locked");
    told(&peer, "try exclusive 10 11", "WouldBlock");
    drop(high);
    told(&peer, "try exclusive 10 11", "locked");
    Ok(())
}

fn a_second_thread_takes_a_handle_of_its_own() -> Result<(), Skip> {
    let _file = Made::new();
    let first = ofd();
    // The file itself is opened, not its name.
    std::fs::rename(path(), scratch().join("moved")).unwrap();
    let second = first.reopen().unwrap();
    std::fs::rename(scratch().join("moved"), path()).unwrap();
    let guard = first.lock().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            assert_eq!(second.try_lock().unwrap_err(), LockError::WouldBlock);
            assert_eq!(second.lock_timeout(SHORT).unwrap_err(), LockError::TimedOut);
        });
    });
    drop(guard);
    drop(second.try_lock().unwrap());
    let reader = Options::new().read_only().open(path()).unwrap();
    assert_eq!(flags(reader.reopen().unwrap()) & OFlags::ACCMODE, OFlags::RDONLY);
    Ok(())
}

fn a_failed_lock_leaves_nothing() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let first = peer(kind);
        told(&first, "lock exclusive", "locked");
        own.lock(Kind::Exclusive, Wait::NEVER).unwrap_err();
        own.lock(Kind::Exclusive, Wait::timeout(SHORT)).unwrap_err();
        drop(first);
        let second = peer(kind);
        told(&second, "lock exclusive", "locked");
        told(&second, "unlock", "unlocked");
        drop(own.lock(Kind::Exclusive, Wait::NEVER).unwrap());
    }
    Ok(())
}

fn any_close_loses_the_locks_of_a_process() -> Result<(), Skip> {
    for (kind, then) in [("record", "locked"), ("ofd", "WouldBlock"), ("flock", "WouldBlock")] {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        let guard = own.lock(Kind::Exclusive, Wait::FOREVER).unwrap();
        told(&peer, "try exclusive", "WouldBlock");
        std::fs::read(path()).unwrap();
        told(&peer, "try exclusive", then);
        drop(guard);
    }
    Ok(())
}

fn a_process_has_one_handle_of_records() -> Result<(), Skip> {
    let _file = Made::new();
    let own = records();
    let guard = own.lock().unwrap();
    let link = scratch().join("link");
    std::fs::hard_link(path(), &link).unwrap();
    let (error, first) = RecordLock::new(file()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let (_, second) = RecordLock::new(File::open(&link).unwrap()).unwrap_err();
    std::fs::remove_file(link).unwrap();
    // Refusing has closed nothing.
    let peer = peer("record");
    told(&peer, "try exclusive", "WouldBlock");
    drop(guard);
    drop((first, second, own));
    told(&peer, "try exclusive", "locked");
    drop(RecordLock::new(file()).unwrap());
    let kept = std::os::fd::OwnedFd::from(records());
    records().try_lock().unwrap_err();
    drop(kept);
    Ok(())
}

fn the_holder_is_told() -> Result<(), Skip> {
    let _file = Made::new();
    let own = ofd();
    assert_eq!(own.exclusive().holder(), Ok(None));
    let guard = own.shared().range(3..9).lock().unwrap();
    // What is held through this handle stands in nobody's way here.
    assert_eq!(own.exclusive().holder(), Ok(None));
    let other = own.reopen().unwrap();
    let found = other.exclusive().holder().unwrap().unwrap();
    assert_eq!((found.kind, found.start, found.end), (Kind::Shared, 3, Some(9)));
    assert_eq!(found.owner, Owner::Description);
    assert_eq!(other.shared().holder(), Ok(None));
    assert_eq!(other.exclusive().range(9..).holder(), Ok(None));
    drop(guard);
    let peer = peer("record");
    told(&peer, "lock exclusive 5 -", "locked");
    let found = own.shared().holder().unwrap().unwrap();
    assert_eq!((found.kind, found.start, found.end), (Kind::Exclusive, 5, None));
    let pid = peer.pid().as_raw_nonzero().get().unsigned_abs();
    assert_eq!(found.owner, Owner::Process(Some(pid)));
    assert_eq!(records().shared().holder().unwrap().unwrap(), found);
    Ok(())
}
