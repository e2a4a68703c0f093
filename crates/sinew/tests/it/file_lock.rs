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
    FileLock, Flock, FlockGuard, Guard, Kind, Options, Ranged, RecordLock, View,
};
use sinew::wait::{Interrupt, Locks, Wait};
use sinew::{ErrorKind, LockError};
use sinew_testkit::{
    Link, Peer, Role, Skip, Test, fallbacks_forced, roles, scratch, skip, steps, tests,
};

use crate::pipe::{flags, leave_descriptors, stop, until_asleep};
use crate::posix_mq::in_call;

pub(crate) mod fork;
pub(crate) mod owner;
pub(crate) mod upgrade;

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
