//! Locks on files: of descriptions, of flock(2), of processes.

use std::cell::OnceCell;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, WaitOptions, umask, waitpid};
use sinew::file_lock::{
    FileLock, Flock, FlockGuard, Guard, Kind, Options, Owner, Ranged, RecordLock, View,
};
use sinew::wait::{Interrupt, Locks, Wait};
use sinew::{ErrorKind, LockError};
use sinew_testkit::{
    Link, Peer, Role, Skip, Test, fallbacks_forced, roles, scratch, skip, steps, tests,
};

use crate::pipe::{flags, leave_descriptors, stop, until_asleep};
use crate::posix_mq::in_call;

pub(crate) const TESTS: &[Test] = tests![
    an_exclusive_lock_keeps_out_another_process,
    shared_locks_live_together,
    ranges_that_do_not_meet_live_together,
    locks_of_descriptions_and_of_processes_keep_each_other_out,
    a_bounded_wait_has_the_lock_when_it_is_free,
    bounded_waits_time_out,
    an_interrupt_ends_a_wait,
    a_killed_holder_leaves_it_to_who_waits,
    a_stopped_holder_keeps_it,
    a_handle_is_one_owner,
    a_second_thread_takes_a_handle_of_its_own,
    a_failed_lock_leaves_nothing,
    an_upgrade_keeps_the_shared_lock_until_it_has_the_other,
    a_downgrade_lets_others_share,
    a_flock_lets_go_to_upgrade,
    a_circle_of_processes_is_seen,
    a_circle_of_descriptions_ends_by_the_deadline,
    any_close_loses_the_locks_of_a_process,
    a_process_has_one_handle_of_records,
    a_guard_dropped_in_a_child_unlocks_nothing,
    a_child_keeps_what_its_parent_left,
    a_child_may_adopt_the_lock,
    the_holder_is_told,
    bad_ranges_and_modes_are_refused,
    a_lock_and_an_unlock_are_one_system_call_each,
    create_wants_a_new_name_and_open_an_old_one,
    the_mode_is_0600_or_what_is_asked_whatever_the_umask,
    what_is_no_file_is_refused,
    a_handle_is_close_on_exec_and_blocks,
    a_process_without_descriptors_names_the_limit,
    nothing_is_lost_among_many,
];
pub(crate) const ROLES: &[Role] = roles![locker, adder];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);
const KINDS: [&str; 3] = ["ofd", "flock", "record"];

fn path() -> PathBuf {
    scratch().join("file")
}

/// An empty file that is gone at the end of the test.
struct Made;

impl Made {
    fn new() -> Self {
        File::create(path()).unwrap();
        Self
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(path());
    }
}

fn file() -> File {
    OpenOptions::new().read(true).write(true).open(path()).unwrap()
}

fn ofd() -> FileLock {
    FileLock::from(file())
}

fn records() -> RecordLock {
    RecordLock::new(file()).unwrap()
}

/// One of the three kinds of handles.
enum Any {
    Ofd(FileLock),
    Flock(Flock),
    Record(RecordLock),
}

/// What is held by one of them.
#[derive(Debug)]
enum Held<'a> {
    Ofd(Guard<'a>),
    Flock(FlockGuard<'a>),
    Record(Guard<'a, RecordLock>),
}

impl Any {
    fn new(kind: &str) -> Self {
        match kind {
            "ofd" => Self::Ofd(ofd()),
            "flock" => Self::Flock(Flock::from(file())),
            "record" => Self::Record(records()),
            other => panic!("{other}"),
        }
    }

    fn lock(&self, kind: Kind, wait: Wait<'_>) -> Result<Held<'_>, LockError> {
        self.lock_part(kind, 0, None, wait)
    }

    fn lock_part(
        &self,
        kind: Kind,
        start: u64,
        end: Option<u64>,
        wait: Wait<'_>,
    ) -> Result<Held<'_>, LockError> {
        fn part<L: Ranged>(view: View<'_, L>, start: u64, end: Option<u64>) -> View<'_, L> {
            match end {
                Some(end) => view.range(start..end),
                None => view.range(start..),
            }
        }
        match (self, kind) {
            (Self::Ofd(l), Kind::Exclusive) => {
                part(l.exclusive(), start, end).lock_wait(wait).map(Held::Ofd)
            }
            (Self::Ofd(l), Kind::Shared) => {
                part(l.shared(), start, end).lock_wait(wait).map(Held::Ofd)
            }
            (Self::Record(l), Kind::Exclusive) => {
                part(l.exclusive(), start, end).lock_wait(wait).map(Held::Record)
            }
            (Self::Record(l), Kind::Shared) => {
                part(l.shared(), start, end).lock_wait(wait).map(Held::Record)
            }
            (Self::Flock(l), Kind::Exclusive) => l.exclusive().lock_wait(wait).map(Held::Flock),
            (Self::Flock(l), Kind::Shared) => l.shared().lock_wait(wait).map(Held::Flock),
        }
    }
}

impl Held<'_> {
    fn upgrade(self, wait: Wait<'_>) -> Result<Self, LockError> {
        Ok(match self {
            Self::Ofd(mut guard) => {
                guard.upgrade(wait)?;
                Self::Ofd(guard)
            }
            Self::Record(mut guard) => {
                guard.upgrade(wait)?;
                Self::Record(guard)
            }
            Self::Flock(guard) => Self::Flock(guard.upgrade(wait)?),
        })
    }
}

/// Locks as it is told: `try exclusive 0 10`, `lock shared 5 -`, `unlock`. The first word is the kind
/// of its handle.
fn locker(link: &Link) {
    let any = Any::new(&link.hear());
    link.say("ready");
    let mut held = Vec::new();
    loop {
        let Some((words, _)) = link.try_receive() else { return };
        let words = String::from_utf8(words).unwrap();
        let words: Vec<_> = words.split(' ').collect();
        let wait = match words[0] {
            "lock" => Wait::FOREVER,
            "try" => Wait::NEVER,
            "upgrade" => {
                let upgraded = held.pop().map(|guard: Held<'_>| guard.upgrade(Wait::FOREVER));
                match upgraded.unwrap() {
                    Ok(guard) => {
                        held.push(guard);
                        link.say("upgraded");
                    }
                    Err(error) => link.say(format!("{error:?}")),
                }
                continue;
            }
            "unlock" => {
                held.clear();
                link.say("unlocked");
                continue;
            }
            other => panic!("{other}"),
        };
        let kind = if words[1] == "shared" { Kind::Shared } else { Kind::Exclusive };
        let start = words.get(2).map_or(0, |w| w.parse().unwrap());
        let end = words.get(3).filter(|w| **w != "-").map(|w| w.parse().unwrap());
        match any.lock_part(kind, start, end, wait) {
            Ok(guard) => {
                held.push(guard);
                link.say("locked");
            }
            Err(error) => link.say(format!("{error:?}")),
        }
    }
}

/// A peer that locks with this kind of handle.
fn peer(kind: &str) -> Peer {
    let peer = Peer::spawn("file_lock::locker");
    peer.say(kind);
    peer.expect("ready");
    peer
}

/// Tells the peer, and waits for its answer.
#[track_caller]
fn told(peer: &Peer, words: &str, answer: &str) {
    peer.say(words);
    peer.expect(answer);
}

/// Waits until the peer sleeps in the kernel's own blocking call.
fn waits(peer: &Peer, kind: &str) {
    in_call(peer, if kind == "flock" { libc::SYS_flock } else { libc::SYS_fcntl });
    until_asleep(peer.pid());
}

fn an_exclusive_lock_keeps_out_another_process() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        let guard = own.lock(Kind::Exclusive, Wait::FOREVER).unwrap();
        told(&peer, "try exclusive", "WouldBlock");
        told(&peer, "try shared", "WouldBlock");
        peer.say("lock exclusive");
        waits(&peer, kind);
        drop(guard);
        peer.expect("locked");
        assert_eq!(own.lock(Kind::Exclusive, Wait::NEVER).unwrap_err(), LockError::WouldBlock);
        assert_eq!(own.lock(Kind::Shared, Wait::NEVER).unwrap_err(), LockError::WouldBlock);
        told(&peer, "unlock", "unlocked");
        drop(own.lock(Kind::Exclusive, Wait::NEVER).unwrap());
        // That one was dropped at once.
        told(&peer, "try exclusive", "locked");
    }
    Ok(())
}

fn shared_locks_live_together() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        let guard = own.lock(Kind::Shared, Wait::FOREVER).unwrap();
        told(&peer, "try shared", "locked");
        told(&peer, "unlock", "unlocked");
        told(&peer, "try exclusive", "WouldBlock");
        drop(guard);
        told(&peer, "try exclusive", "locked");
    }
    Ok(())
}

fn ranges_that_do_not_meet_live_together() -> Result<(), Skip> {
    for kind in ["ofd", "record"] {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        let _middle = own.lock_part(Kind::Exclusive, 10, Some(20), Wait::NEVER).unwrap();
        told(&peer, "try exclusive 0 10", "locked");
        told(&peer, "try exclusive 20 -", "locked");
        told(&peer, "try exclusive 19 20", "WouldBlock");
        told(&peer, "try shared 10 11", "WouldBlock");
        told(&peer, "unlock", "unlocked");
        // All from there, also what is appended later.
        let rest = own.lock_part(Kind::Exclusive, 1 << 40, None, Wait::NEVER).unwrap();
        told(&peer, "try exclusive 9000000000000000000 9000000000000000001", "WouldBlock");
        told(&peer, "try exclusive 1099511627775 1099511627776", "locked");
        drop(rest);
        told(&peer, "try exclusive 9000000000000000000 9000000000000000001", "locked");
    }
    Ok(())
}

fn locks_of_descriptions_and_of_processes_keep_each_other_out() -> Result<(), Skip> {
    let _file = Made::new();
    let (of_file, of_process) = (ofd(), records());
    // Within one process too.
    let guard = of_file.lock().unwrap();
    assert_eq!(of_process.try_lock().unwrap_err(), LockError::WouldBlock);
    drop(guard);
    let guard = of_process.lock().unwrap();
    assert_eq!(of_file.try_lock().unwrap_err(), LockError::WouldBlock);
    // A flock is another matter.
    drop(Flock::from(file()).try_lock().unwrap());
    drop(guard);
    for (ours, theirs) in [("ofd", "record"), ("record", "ofd")] {
        drop(std::fs::remove_file(path()));
        let _file = Made::new();
        let own = Any::new(ours);
        let peer = peer(theirs);
        let guard = own.lock(Kind::Exclusive, Wait::NEVER).unwrap();
        told(&peer, "try exclusive", "WouldBlock");
        peer.say("lock exclusive");
        waits(&peer, theirs);
        drop(guard);
        peer.expect("locked");
        assert_eq!(own.lock(Kind::Shared, Wait::NEVER).unwrap_err(), LockError::WouldBlock);
    }
    Ok(())
}

fn a_bounded_wait_has_the_lock_when_it_is_free() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        told(&peer, "lock exclusive", "locked");
        let myself = rustix::process::getpid();
        std::thread::scope(|s| {
            let peer = &peer;
            s.spawn(move || {
                until_asleep(myself);
                told(peer, "unlock", "unlocked");
            });
            drop(own.lock(Kind::Exclusive, Wait::timeout(LONG)).unwrap());
        });
    }
    Ok(())
}

fn bounded_waits_time_out() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        told(&peer, "lock shared", "locked");
        let begin = Instant::now();
        let error = own.lock(Kind::Exclusive, Wait::timeout(SHORT)).unwrap_err();
        assert_eq!(error, LockError::TimedOut);
        assert!(begin.elapsed() >= SHORT);
        // A deadline in the past still makes one attempt.
        assert_eq!(own.lock(Kind::Exclusive, Wait::until(begin)).unwrap_err(), LockError::TimedOut);
        drop(own.lock(Kind::Shared, Wait::until(begin)).unwrap());
        told(&peer, "unlock", "unlocked");
        drop(own.lock(Kind::Exclusive, Wait::until(begin)).unwrap());
    }
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let peer = peer(kind);
        told(&peer, "lock exclusive", "locked");
        let interrupt = Interrupt::new().unwrap();
        let wait = Wait::FOREVER.interrupted_by(&interrupt);
        let myself = rustix::process::getpid();
        std::thread::scope(|s| {
            s.spawn(|| {
                until_asleep(myself);
                interrupt.trigger();
            });
            assert_eq!(own.lock(Kind::Shared, wait).unwrap_err(), LockError::Interrupted);
        });
        assert_eq!(own.lock(Kind::Shared, wait).unwrap_err(), LockError::Interrupted);
        interrupt.clear();
        told(&peer, "unlock", "unlocked");
        drop(own.lock(Kind::Shared, wait).unwrap());
    }
    Ok(())
}

fn a_killed_holder_leaves_it_to_who_waits() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let [holder, waiter] = [peer(kind), peer(kind)];
        told(&holder, "lock exclusive", "locked");
        waiter.say("lock exclusive");
        waits(&waiter, kind);
        holder.signal(Signal::KILL);
        waiter.expect("locked");
        waiter.signal(Signal::KILL);
        drop(Any::new(kind).lock(Kind::Exclusive, Wait::FOREVER).unwrap());
    }
    Ok(())
}

fn a_stopped_holder_keeps_it() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let own = Any::new(kind);
        let holder = peer(kind);
        told(&holder, "lock exclusive", "locked");
        stop(&holder);
        let error = own.lock(Kind::Exclusive, Wait::timeout(SHORT)).unwrap_err();
        assert_eq!(error, LockError::TimedOut);
        holder.signal(Signal::CONT);
        told(&holder, "unlock", "unlocked");
        drop(own.lock(Kind::Exclusive, Wait::FOREVER).unwrap());
    }
    Ok(())
}

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

/// Runs `work` in a forked child, which must succeed; gives its process id. What the child takes out
/// of an `Option`, this process keeps.
pub(crate) fn forked(work: &mut dyn FnMut()) -> Pid {
    // SAFETY: this process has one thread, so its child may do what it may.
    match unsafe { libc::fork() } {
        0 => {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // SAFETY: ends the child at once, running nothing of the parent's.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 1 }) }
        }
        pid => Pid::from_raw(pid).unwrap(),
    }
}

/// Reaps a child, which ended well.
#[track_caller]
pub(crate) fn reaped(child: Pid) {
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(0), "{status:?}");
}

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

fn bad_ranges_and_modes_are_refused() -> Result<(), Skip> {
    let _file = Made::new();
    let own = ofd();
    let os = |errno: i32| LockError::Os(errno);
    assert_eq!(own.shared().range(5..5).lock().unwrap_err(), os(libc::EINVAL));
    assert_eq!(own.shared().range(5..=u64::MAX).lock().unwrap_err(), os(libc::EOVERFLOW));
    assert_eq!(own.shared().range(1 << 63..).holder().unwrap_err(), os(libc::EOVERFLOW));
    let reader = Options::new().read_only().open(path()).unwrap();
    assert_eq!(reader.lock().unwrap_err(), os(libc::EBADF));
    let mut guard = reader.shared().lock().unwrap();
    assert_eq!(guard.upgrade(Wait::FOREVER).unwrap_err(), os(libc::EBADF));
    assert_eq!(guard.kind(), Kind::Shared);
    // A flock does not look at the mode.
    drop(Flock::from(File::open(path()).unwrap()).lock().unwrap());
    drop(Flock::from(File::open(scratch()).unwrap()).lock().unwrap());
    Ok(())
}

fn a_lock_and_an_unlock_are_one_system_call_each() -> Result<(), Skip> {
    let _file = Made::new();
    let far = Instant::now() + LONG;
    // The process that is measured is a child, and makes its own while it warms up.
    let cells = (OnceCell::new(), OnceCell::new(), OnceCell::new());
    let own = || cells.0.get_or_init(ofd);
    let flock = || cells.1.get_or_init(|| Flock::from(file()));
    let records = || cells.2.get_or_init(records);
    type Operation<'a> = (&'a str, i64, Box<dyn FnMut() + 'a>);
    let (fcntl, flock_call) = (libc::SYS_fcntl, libc::SYS_flock);
    let operations: Vec<Operation<'_>> = vec![
        ("lock", fcntl, Box::new(|| drop(own().lock().unwrap()))),
        ("try_lock", fcntl, Box::new(|| drop(own().try_lock().unwrap()))),
        ("lock_until", fcntl, Box::new(|| drop(own().lock_until(far).unwrap()))),
        ("a range", fcntl, Box::new(|| drop(own().shared().range(5..9).lock().unwrap()))),
        ("a flock", flock_call, Box::new(|| drop(flock().lock().unwrap()))),
        (
            "a bounded flock",
            flock_call,
            Box::new(|| drop(flock().shared().lock_until(far).unwrap())),
        ),
        ("a record", fcntl, Box::new(|| drop(records().exclusive().range(5..9).lock().unwrap()))),
    ];
    for (name, number, operation) in operations {
        let measured = match steps::measure(2, operation) {
            Ok(measured) => measured,
            Err(e) => return skip(e.to_string()),
        };
        let calls: Vec<_> = measured.calls.iter().map(|c| c.number).collect();
        // Without a page that fork wipes, it asks who it is.
        let expected = match fallbacks_forced() {
            true => vec![libc::SYS_getpid, number, libc::SYS_getpid, number],
            false => vec![number, number],
        };
        assert_eq!(calls, expected, "{name}");
        if cfg!(not(debug_assertions)) {
            for call in &measured.calls {
                assert!(call.instructions_before <= 100, "{name}: {measured:?}");
            }
            assert!(measured.instructions_after <= 60, "{name}: {measured:?}");
        }
    }
    Ok(())
}

fn create_wants_a_new_name_and_open_an_old_one() -> Result<(), Skip> {
    assert_eq!(Options::new().open(path()).unwrap_err().kind(), ErrorKind::NotFound);
    let made = Options::new().create(path()).unwrap();
    (&mut made.file()).write_all(b"kept").unwrap();
    let error = Options::new().create(path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with("file-lock \"/"), "{error}");
    let guard = made.lock().unwrap();
    for again in [Options::new().open(path()), Options::new().open_or_create(path())] {
        assert_eq!(again.unwrap().try_lock().unwrap_err(), LockError::WouldBlock);
    }
    drop(guard);
    assert_eq!(std::fs::read(path()).unwrap(), b"kept");
    std::fs::remove_file(path()).unwrap();
    drop(Options::new().open_or_create(path()).unwrap().lock().unwrap());
    std::fs::remove_file(path()).unwrap();
    Ok(())
}

fn the_mode_is_0600_or_what_is_asked_whatever_the_umask() -> Result<(), Skip> {
    for mask in [0, 0o777] {
        umask(Mode::from_raw_mode(mask));
        for (options, mode) in [(Options::new(), 0o600), (Options::new().mode(0o664), 0o664)] {
            drop(options.create(path()).unwrap().lock().unwrap());
            let found = std::fs::metadata(path()).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "under umask {mask:o}");
            std::fs::remove_file(path()).unwrap();
        }
    }
    Ok(())
}

fn what_is_no_file_is_refused() -> Result<(), Skip> {
    for other in ["/dev/null", "/", "/proc/self/fd/0/.."] {
        let Err(error) = Options::new().open(other) else { panic!("{other} is opened") };
        assert!(matches!(error.kind(), ErrorKind::Mismatch | ErrorKind::NotFound), "{error}");
    }
    let error = Options::new().open_or_create("/dev/ptmx").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    symlink(scratch().join("nowhere"), path()).unwrap();
    let error = Options::new().open_or_create(path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("leads nowhere"), "{error}");
    assert_eq!(Options::new().create(path()).unwrap_err().kind(), ErrorKind::AlreadyExists);
    std::fs::remove_file(path()).unwrap();
    Ok(())
}

fn a_handle_is_close_on_exec_and_blocks() -> Result<(), Skip> {
    let made = Options::new().create(path()).unwrap();
    let opened = Options::new().read_only().open(path()).unwrap();
    let again = made.reopen().unwrap();
    for fd in [made.as_fd(), opened.as_fd(), again.as_fd()] {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert!(!flags(fd).contains(OFlags::NONBLOCK));
    }
    std::fs::remove_file(path()).unwrap();
    Ok(())
}

fn a_process_without_descriptors_names_the_limit() -> Result<(), Skip> {
    let _file = Made::new();
    leave_descriptors(0);
    let error = Options::new().open(path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    Ok(())
}

const ROUNDS: u64 = 200;

/// Adds to the number in the file, under the lock, by all forms of waiting.
fn adder(link: &Link) {
    let any = Any::new(&link.hear());
    let mut number = file();
    for round in 0..ROUNDS {
        let wait = if round % 2 == 0 { Wait::FOREVER } else { Wait::timeout(LONG) };
        let guard = any.lock(Kind::Exclusive, wait).unwrap();
        let mut text = String::new();
        number.rewind().unwrap();
        number.read_to_string(&mut text).unwrap();
        let sum = text.parse().unwrap_or(0) + 1_u64;
        number.rewind().unwrap();
        number.write_all(sum.to_string().as_bytes()).unwrap();
        drop(guard);
    }
    link.say("done");
}

fn nothing_is_lost_among_many() -> Result<(), Skip> {
    for kind in KINDS {
        let _file = Made::new();
        let peers: Vec<_> = (0..4).map(|_| Peer::spawn("file_lock::adder")).collect();
        for peer in &peers {
            peer.say(kind);
        }
        for peer in peers {
            peer.expect("done");
            peer.join();
        }
        assert_eq!(std::fs::read_to_string(path()).unwrap(), (4 * ROUNDS).to_string(), "{kind}");
    }
    Ok(())
}
