//! Locks of files with flock(1), sqlite and Java at the other side.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use sinew::LockError;
use sinew::file_lock::{FileLock, Flock, Owner, Ranged, RecordLock, View};
use sinew::wait::Locks;
use sinew_testkit::{Role, Skip, Test, roles, scratch, skip, tests};

use super::{Program, python, text};
use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    flock_of_a_program_keeps_ours_out,
    our_flock_keeps_a_program_out,
    flock_of_a_shell_ends_with_it,
    a_flock_does_not_see_the_other_locks,
    a_transaction_of_sqlite_keeps_ours_out,
    our_locks_keep_sqlite_out,
    our_locks_keep_the_command_of_sqlite_out,
    a_lock_of_java_keeps_ours_out,
    our_locks_keep_java_out,
];
pub(crate) const ROLES: &[Role] = roles![];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

/// The bytes that sqlite locks: "Locking and concurrency", and os.h.
const PENDING: u64 = 0x4000_0000;
const RESERVED: u64 = PENDING + 1;
const SHARED: std::ops::Range<u64> = PENDING + 2..PENDING + 2 + 510;

/// A file that is gone at the end of the test.
struct Made(PathBuf);

impl Made {
    fn new(name: &str) -> Self {
        let path = scratch().join(name);
        File::create(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        text(&self.0)
    }

    fn open(&self) -> File {
        OpenOptions::new().read(true).write(true).open(&self.0).unwrap()
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn end(command: &mut Command) -> Option<Output> {
    command.stdin(Stdio::null()).output().ok()
}

/// The name of flock(1), where it is there.
fn flock_1() -> Result<&'static str, Skip> {
    let flock = "flock";
    if !end(Command::new(flock).arg("--version")).is_some_and(|output| output.status.success()) {
        skip("no flock of util-linux")?;
    }
    Ok(flock)
}

/// How flock(1) with these options ends: 0 with the lock, 1 without.
fn flock_ends(flock: &str, options: &[&str], file: &Made) -> Option<i32> {
    let output = end(Command::new(flock).args(options).arg(&file.0).arg("true")).unwrap();
    output.status.code()
}

fn pid(program: &Program) -> Pid {
    Pid::from_raw(i32::try_from(program.pid()).unwrap()).unwrap()
}

/// Waits until a program sleeps in this system call.
fn in_call(program: &Program, number: i64) {
    let begin = Instant::now();
    let tasks = format!("/proc/{}/task", program.pid());
    loop {
        let found = std::fs::read_dir(&tasks).unwrap().flatten().any(|task| {
            let call = std::fs::read_to_string(task.path().join("syscall")).unwrap_or_default();
            call.split(' ').next() == Some(&number.to_string())
        });
        if found {
            return;
        }
        assert!(begin.elapsed() < LONG, "it never sleeps in call {number}");
        std::thread::yield_now();
    }
}

/// Takes a lock that a program has, which is told to let go when this process sleeps.
fn wait_for<L: Locks + Sync>(lock: &L, program: &mut Program, words: &str) {
    let own = rustix::process::getpid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(own);
            program.say(words);
        });
        let Ok(guard) = lock.lock() else { panic!("it is not locked") };
        drop(guard);
    });
}

fn flock_of_a_program_keeps_ours_out() -> Result<(), Skip> {
    let flock = flock_1()?;
    let file = Made::new("file");
    let own = Flock::from(file.open());
    let hold = ["-c", "echo held; read word"];
    let mut holder = Program::start(Command::new(flock).arg(&file.0).args(hold));
    holder.expect("held");
    assert_eq!(own.try_lock().unwrap_err(), LockError::WouldBlock);
    assert_eq!(own.shared().try_lock().unwrap_err(), LockError::WouldBlock);
    assert_eq!(own.lock_timeout(SHORT).unwrap_err(), LockError::TimedOut);
    wait_for(&own, &mut holder, "go");
    holder.end();
    let mut holder = Program::start(Command::new(flock).arg("-s").arg(&file.0).args(hold));
    holder.expect("held");
    drop(own.shared().try_lock().unwrap());
    assert_eq!(own.try_lock().unwrap_err(), LockError::WouldBlock);
    holder.say("go");
    drop(own.lock_timeout(LONG).unwrap());
    holder.end();
    Ok(())
}

fn our_flock_keeps_a_program_out() -> Result<(), Skip> {
    let flock = flock_1()?;
    let file = Made::new("file");
    let own = Flock::from(file.open());
    let guard = own.lock().unwrap();
    assert_eq!(flock_ends(flock, &["-n"], &file), Some(1));
    assert_eq!(flock_ends(flock, &["-s", "-n"], &file), Some(1));
    assert_eq!(flock_ends(flock, &["-w", "0.01"], &file), Some(1));
    let mut waiter = Program::start(Command::new(flock).arg(&file.0).args(["echo", "got it"]));
    in_call(&waiter, libc::SYS_flock);
    until_asleep(pid(&waiter));
    drop(guard);
    waiter.expect("got it");
    waiter.end();
    let guard = own.shared().lock().unwrap();
    assert_eq!(flock_ends(flock, &["-s", "-n"], &file), Some(0));
    assert_eq!(flock_ends(flock, &["-n"], &file), Some(1));
    drop(guard);
    assert_eq!(flock_ends(flock, &["-n"], &file), Some(0));
    Ok(())
}

fn flock_of_a_shell_ends_with_it() -> Result<(), Skip> {
    flock_1()?;
    let file = Made::new("file");
    let own = Flock::from(file.open());
    let script = "exec 9>>\"$1\"; flock -n 9 && echo held; read word";
    let mut shell = Program::start(Command::new("sh").args(["-c", script, "sh", file.path()]));
    shell.expect("held");
    assert_eq!(own.try_lock().unwrap_err(), LockError::WouldBlock);
    // Killed and reaped.
    drop(shell);
    drop(own.try_lock().unwrap());
    Ok(())
}

fn a_flock_does_not_see_the_other_locks() -> Result<(), Skip> {
    let flock = flock_1()?;
    let file = Made::new("file");
    let description = FileLock::from(file.open());
    let guard = description.lock().unwrap();
    assert_eq!(flock_ends(flock, &["-n"], &file), Some(0));
    drop(guard);
    let records = RecordLock::new(file.open()).unwrap();
    let _guard = records.lock().unwrap();
    assert_eq!(flock_ends(flock, &["-n"], &file), Some(0));
    Ok(())
}

/// Runs SQL in a database with one table `t`, a statement a line; answers with the rows or the error.
const SQLITE: &str = r"
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
database.execute('create table if not exists t (x)')
print('ready')
for line in sys.stdin:
    try:
        print(database.execute(line).fetchall())
    except sqlite3.OperationalError as error:
        print(error)
";

fn sqlite(file: &Made) -> Result<Program, Skip> {
    let mut program = Program::start(python("sqlite3")?.args([SQLITE, file.path()]));
    program.expect("ready");
    Ok(program)
}

#[track_caller]
fn told(program: &mut Program, words: &str, answer: &str) {
    program.say(words);
    program.expect(answer);
}

/// Both kinds of handles that keep sqlite and Java out.
fn with_both(file: &Made, mut check: impl FnMut(&dyn Handle)) {
    check(&FileLock::from(file.open()));
    check(&RecordLock::new(file.open()).unwrap());
}

/// What is done with either of them.
trait Handle {
    fn try_part(&self, exclusive: bool, part: std::ops::Range<u64>) -> Result<Held<'_>, LockError>;
    fn holder(&self, part: std::ops::Range<u64>) -> Option<Owner>;
    fn wait_for(&self, part: std::ops::Range<u64>, program: &mut Program, words: &str);
}

/// A guard of either.
type Held<'a> = Box<dyn std::fmt::Debug + 'a>;

fn try_part<L: Ranged + std::fmt::Debug>(view: View<'_, L>) -> Result<Held<'_>, LockError> {
    view.try_lock().map(|guard| Box::new(guard) as Held<'_>)
}

macro_rules! handle {
    ($handle:ty) => {
        impl Handle for $handle {
            fn try_part(
                &self,
                exclusive: bool,
                part: std::ops::Range<u64>,
            ) -> Result<Held<'_>, LockError> {
                let view = if exclusive { self.exclusive() } else { self.shared() };
                try_part(view.range(part))
            }

            fn holder(&self, part: std::ops::Range<u64>) -> Option<Owner> {
                self.exclusive().range(part).holder().unwrap().map(|holder| holder.owner)
            }

            fn wait_for(&self, part: std::ops::Range<u64>, program: &mut Program, words: &str) {
                wait_for(&self.exclusive().range(part), program, words);
            }
        }
    };
}

handle!(FileLock);
handle!(RecordLock);

fn a_transaction_of_sqlite_keeps_ours_out() -> Result<(), Skip> {
    let file = Made::new("database");
    let mut sqlite = sqlite(&file)?;
    let owner = Some(Owner::Process(Some(sqlite.pid())));
    with_both(&file, |own| {
        let refused = |exclusive, part| {
            assert_eq!(own.try_part(exclusive, part).unwrap_err(), LockError::WouldBlock);
        };
        // A reader.
        told(&mut sqlite, "begin", "[]");
        told(&mut sqlite, "select count(*) from t where x = 'none'", "[(0,)]");
        refused(true, SHARED);
        drop(own.try_part(false, SHARED).unwrap());
        drop(own.try_part(true, RESERVED..RESERVED + 1).unwrap());
        assert_eq!(own.holder(SHARED), owner);
        told(&mut sqlite, "commit", "[]");
        assert_eq!(own.holder(PENDING..SHARED.end), None);
        // A writer that has written nothing yet, beside which others read.
        told(&mut sqlite, "begin immediate", "[]");
        refused(true, RESERVED..RESERVED + 1);
        refused(true, SHARED);
        drop(own.try_part(false, SHARED).unwrap());
        told(&mut sqlite, "commit", "[]");
        // A writer that keeps everybody out.
        told(&mut sqlite, "begin exclusive", "[]");
        refused(false, SHARED);
        refused(false, PENDING..PENDING + 1);
        told(&mut sqlite, "insert into t values ('ours')", "[]");
        own.wait_for(PENDING..SHARED.end, &mut sqlite, "commit");
        sqlite.expect("[]");
        drop(own.try_part(true, PENDING..SHARED.end).unwrap());
    });
    told(&mut sqlite, "select count(*) from t", "[(2,)]");
    sqlite.end();
    Ok(())
}

fn our_locks_keep_sqlite_out() -> Result<(), Skip> {
    let file = Made::new("database");
    let mut sqlite = sqlite(&file)?;
    let locked = "database is locked";
    let read = "select count(*) from t where x = 'none'";
    with_both(&file, |own| {
        // As a writer does: nobody reads.
        let guard = own.try_part(true, SHARED).unwrap();
        told(&mut sqlite, read, locked);
        told(&mut sqlite, "begin exclusive", locked);
        drop(guard);
        told(&mut sqlite, read, "[(0,)]");
        // As one that is going to write: nobody else is, and all read.
        let guard = own.try_part(true, RESERVED..RESERVED + 1).unwrap();
        told(&mut sqlite, "begin immediate", locked);
        told(&mut sqlite, read, "[(0,)]");
        drop(guard);
        // As a reader: it may prepare to write, and not write.
        let guard = own.try_part(false, SHARED).unwrap();
        told(&mut sqlite, "begin immediate", "[]");
        told(&mut sqlite, "insert into t values ('theirs')", "[]");
        told(&mut sqlite, "commit", locked);
        drop(guard);
        told(&mut sqlite, "commit", "[]");
        // As one that waits for readers to go: no new ones come.
        let guard = own.try_part(true, PENDING..PENDING + 1).unwrap();
        told(&mut sqlite, read, locked);
        drop(guard);
        told(&mut sqlite, read, "[(0,)]");
    });
    told(&mut sqlite, "select count(*) from t", "[(2,)]");
    sqlite.end();
    Ok(())
}

fn our_locks_keep_the_command_of_sqlite_out() -> Result<(), Skip> {
    let file = Made::new("database");
    let run = |sql: &str| end(Command::new("sqlite3").args(["-batch", file.path(), sql]));
    let Some(made) = run("create table t (x); insert into t values (7);") else {
        return skip("no sqlite3");
    };
    assert!(made.status.success(), "{made:?}");
    with_both(&file, |own| {
        let guard = own.try_part(true, SHARED).unwrap();
        let output = run("select x from t;").unwrap();
        assert!(!output.status.success());
        assert!(String::from_utf8_lossy(&output.stderr).contains("database is locked"));
        drop(guard);
        assert_eq!(run("select x from t;").unwrap().stdout, b"7\n");
    });
    Ok(())
}

/// Java with the class that locks, which it compiles by itself.
fn java(file: &Made, source: &Made) -> Result<Program, Skip> {
    // A runtime alone compiles nothing.
    let compiles = end(Command::new("java").args(["--list-modules"]))
        .is_some_and(|out| String::from_utf8_lossy(&out.stdout).contains("jdk.compiler"));
    if !compiles {
        skip("no Java with a compiler (JDK 11 or later)")?;
    }
    std::fs::write(&source.0, include_str!("../../interop/Locks.java")).unwrap();
    let mut command = Command::new("java");
    // No file in /tmp for those who watch it, and a quick start.
    command.args(["-XX:-UsePerfData", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]);
    let mut program = Program::start(command.arg(&source.0).arg(&file.0));
    program.expect("ready");
    Ok(program)
}

fn a_lock_of_java_keeps_ours_out() -> Result<(), Skip> {
    let (file, source) = (Made::new("file"), Made::new("Locks.java"));
    let mut java = java(&file, &source)?;
    let owner = Some(Owner::Process(Some(java.pid())));
    with_both(&file, |own| {
        told(&mut java, "lock exclusive 100 10", "locked");
        assert_eq!(own.try_part(false, 109..110).unwrap_err(), LockError::WouldBlock);
        drop(own.try_part(true, 0..100).unwrap());
        drop(own.try_part(true, 110..1 << 40).unwrap());
        assert_eq!(own.holder(0..1 << 40), owner);
        own.wait_for(0..200, &mut java, "unlock");
        java.expect("unlocked");
        told(&mut java, "lock shared 0 9223372036854775807", "locked");
        assert_eq!(own.try_part(true, 5..6).unwrap_err(), LockError::WouldBlock);
        drop(own.try_part(false, 5..6).unwrap());
        told(&mut java, "unlock", "unlocked");
        drop(own.try_part(true, 5..6).unwrap());
    });
    java.end();
    Ok(())
}

fn our_locks_keep_java_out() -> Result<(), Skip> {
    let (file, source) = (Made::new("file"), Made::new("Locks.java"));
    let mut java = java(&file, &source)?;
    with_both(&file, |own| {
        let guard = own.try_part(true, 100..110).unwrap();
        told(&mut java, "try shared 109 1", "refused");
        told(&mut java, "try exclusive 110 1", "locked");
        told(&mut java, "unlock", "unlocked");
        java.say("lock exclusive 0 9223372036854775807");
        in_call(&java, libc::SYS_fcntl);
        drop(guard);
        java.expect("locked");
        assert_eq!(own.try_part(false, 7..8).unwrap_err(), LockError::WouldBlock);
        told(&mut java, "unlock", "unlocked");
        let guard = own.try_part(false, 0..10).unwrap();
        told(&mut java, "try shared 0 10", "locked");
        told(&mut java, "unlock", "unlocked");
        told(&mut java, "try exclusive 0 10", "refused");
        drop(guard);
    });
    java.end();
    Ok(())
}
