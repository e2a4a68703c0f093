//! Pid files: one owner, known by its lock, whatever the file says.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::fs::Mode;
use rustix::process::{Pid, Signal, WaitOptions, umask, waitpid};
use sinew::ErrorKind;
use sinew::pidfile::{self, Options, Owner, Pidfile};
use sinew::wait::{Interrupt, Wait};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, scratch, skip, tests};

use crate::file_lock::{forked, reaped};
use crate::pipe::{stop, until_asleep};
use crate::posix_mq::in_call;

pub(crate) const TESTS: &[Test] = tests![
    the_file_says_who_and_goes_with_its_owner,
    a_live_owner_is_told_from_what_the_file_says,
    a_file_of_a_dead_owner_is_taken_over,
    a_killed_owner_leaves_a_file_that_is_taken_over,
    a_process_killed_at_any_system_call_is_taken_over_from,
    a_stopped_owner_is_alive,
    an_owner_is_waited_for,
    bounded_waits_say_who_is_in_the_way,
    an_interrupt_ends_a_wait,
    a_waiter_does_not_take_a_removed_file,
    a_file_of_another_is_not_removed,
    a_child_removes_nothing,
    a_child_may_adopt_it,
    there_is_one_owner_among_many,
    what_is_no_file_of_its_own_is_refused,
    the_mode_is_0600_or_what_is_asked_whatever_the_umask,
    the_path_holds_wherever_the_owner_goes,
    looking_disturbs_nobody,
];
pub(crate) const ROLES: &[Role] = roles![owner, waiter, racer];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

fn path() -> PathBuf {
    scratch().join("pid")
}

fn create() -> Pidfile {
    Options::new().create(path()).unwrap()
}

fn text() -> String {
    std::fs::read_to_string(path()).unwrap()
}

fn own_text() -> String {
    format!("{}\n", std::process::id())
}

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// Owns the file until it is told to leave, and removes it then.
fn owner(link: &Link) {
    let pidfile = create();
    link.say("owns");
    if link.try_receive().is_some() {
        pidfile.remove().unwrap();
        link.say("removed");
        let _ = link.try_receive();
    }
}

fn an_owner() -> Peer {
    let peer = Peer::spawn("pidfile::owner");
    peer.expect("owns");
    peer
}

/// Waits for the file as long as it takes, and owns it until it is told to leave.
fn waiter(link: &Link) {
    link.say("waits");
    let pidfile = Options::new().create_wait(path(), Wait::FOREVER).unwrap();
    link.say(text().trim());
    let _ = link.try_receive();
    drop(pidfile);
}

fn the_file_says_who_and_goes_with_its_owner() -> Result<(), Skip> {
    let pidfile = create();
    assert_eq!(text(), own_text());
    assert_eq!(pidfile.path(), path());
    let flags = rustix::io::fcntl_getfd(pidfile.as_fd()).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    drop(pidfile);
    assert!(!path().exists());
    create().remove().unwrap();
    assert!(!path().exists());
    Ok(())
}

fn a_live_owner_is_told_from_what_the_file_says() -> Result<(), Skip> {
    let peer = an_owner();
    let error = Options::new().create(path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    let says = format!("the file says that its process id is {}", number(peer.pid()));
    assert!(error.to_string().contains(&says), "{error}");
    assert!(error.to_string().starts_with("file-lock \"/"), "{error}");
    // What it says is not what proves it.
    for (lie, said) in [("1\n", Some(1)), ("nonsense", None), ("", None), ("-5", None)] {
        std::fs::write(path(), lie).unwrap();
        assert_eq!(pidfile::owner(path()).unwrap(), Some(Owner { said }));
        assert_eq!(Options::new().create(path()).unwrap_err().kind(), ErrorKind::InUse);
    }
    peer.say("leave");
    peer.expect("removed");
    assert_eq!(pidfile::owner(path()).unwrap(), None);
    drop(create());
    // Of one process too.
    let first = create();
    assert_eq!(Options::new().create(path()).unwrap_err().kind(), ErrorKind::InUse);
    drop(first);
    Ok(())
}

fn a_file_of_a_dead_owner_is_taken_over() -> Result<(), Skip> {
    // A number that is alive, our own, one that cannot be, and what no owner writes.
    let own = own_text();
    let long = "7".repeat(10_000);
    for left in ["1\n", own.as_str(), "999999999\n", "", "nonsense", long.as_str()] {
        std::fs::write(path(), left).unwrap();
        assert_eq!(pidfile::owner(path()).unwrap(), None, "{left}");
        let pidfile = create();
        assert_eq!(text(), own);
        drop(pidfile);
        assert!(!path().exists());
    }
    Ok(())
}

fn a_killed_owner_leaves_a_file_that_is_taken_over() -> Result<(), Skip> {
    let peer = an_owner();
    let theirs = number(peer.pid());
    peer.kill();
    assert_eq!(text(), format!("{theirs}\n"));
    assert_eq!(pidfile::owner(path()).unwrap(), None);
    let pidfile = create();
    assert_eq!(text(), own_text());
    drop(pidfile);
    Ok(())
}

/// Lets a forked child run to its `stops`-th entry into or return from a system call and kills it
/// there. Gives its number, and whether that was before its end.
fn killed_at(stops: usize, work: &mut dyn FnMut()) -> std::io::Result<(Pid, bool)> {
    let child = forked(&mut || {
        // SAFETY: PTRACE_TRACEME takes no pointers.
        if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } != 0 {
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(99) }
        }
        // SAFETY: raising a signal in oneself touches no memory.
        unsafe { libc::raise(libc::SIGSTOP) };
        work();
    });
    let wait = || waitpid(Some(child), WaitOptions::UNTRACED).map(|found| found.unwrap().1);
    let mut status = wait()?;
    if status.exit_status() == Some(99) {
        return Err(std::io::ErrorKind::PermissionDenied.into());
    }
    for _ in 0..stops {
        // SAFETY: going on touches only the tracee.
        unsafe { libc::ptrace(libc::PTRACE_SYSCALL, child.as_raw_nonzero().get(), 0, 0) };
        status = wait()?;
        if status.exited() {
            assert_eq!(status.exit_status(), Some(0));
            return Ok((child, false));
        }
    }
    rustix::process::kill_process(child, Signal::KILL)?;
    while !wait()?.signaled() {}
    Ok((child, true))
}

fn a_process_killed_at_any_system_call_is_taken_over_from() -> Result<(), Skip> {
    const STALE: &str = "999999999\n";
    for stale in [false, true] {
        let mut stops = 0;
        loop {
            if stale {
                std::fs::write(path(), STALE).unwrap();
            }
            let (child, killed) = match killed_at(stops, &mut || drop(create())) {
                Ok(done) => done,
                Err(error) => return skip(format!("it may not trace its own child: {error}")),
            };
            if let Ok(left) = std::fs::read_to_string(path()) {
                // Old contents, none, or new ones.
                let stale = if stale { STALE } else { "" };
                let new = format!("{}\n", number(child));
                assert!(
                    ["", stale, &new].contains(&left.as_str()),
                    "after {stops} stops: {left:?}"
                );
            }
            assert_eq!(pidfile::owner(path()).unwrap(), None, "after {stops} stops");
            let pidfile = create();
            assert_eq!(text(), own_text());
            drop(pidfile);
            // Nothing else is left.
            assert_eq!(std::fs::read_dir(scratch()).unwrap().count(), 0);
            if !killed {
                break;
            }
            stops += 1;
        }
        assert!(stops > 20, "it made {stops} stops only");
    }
    Ok(())
}

fn a_stopped_owner_is_alive() -> Result<(), Skip> {
    let peer = an_owner();
    stop(&peer);
    let error = Options::new().create_wait(path(), Wait::timeout(SHORT)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(pidfile::owner(path()).unwrap().is_some());
    peer.signal(Signal::CONT);
    peer.say("leave");
    peer.expect("removed");
    Ok(())
}

fn an_owner_is_waited_for() -> Result<(), Skip> {
    for killed in [false, true] {
        let pidfile = an_owner();
        let peer = Peer::spawn("pidfile::waiter");
        peer.expect("waits");
        in_call(&peer, libc::SYS_fcntl);
        until_asleep(peer.pid());
        if killed {
            pidfile.signal(Signal::KILL);
        } else {
            pidfile.say("leave");
            pidfile.expect("removed");
        }
        peer.expect(&number(peer.pid()).to_string());
        assert_eq!(Options::new().create(path()).unwrap_err().kind(), ErrorKind::InUse);
        peer.say("leave");
        peer.join();
    }
    assert!(!path().exists());
    Ok(())
}

fn bounded_waits_say_who_is_in_the_way() -> Result<(), Skip> {
    let peer = an_owner();
    let begin = Instant::now();
    let error = Options::new().create_wait(path(), Wait::timeout(SHORT)).unwrap_err();
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.to_string().contains(&number(peer.pid()).to_string()), "{error}");
    std::thread::scope(|s| {
        let peer = &peer;
        let own = rustix::process::getpid();
        s.spawn(move || {
            until_asleep(own);
            peer.say("leave");
        });
        drop(Options::new().create_wait(path(), Wait::timeout(LONG)).unwrap());
    });
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let peer = Peer::spawn("pidfile::waiter");
    peer.expect("waits");
    peer.expect(&number(peer.pid()).to_string());
    let interrupt = Interrupt::new().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&interrupt);
    std::thread::scope(|s| {
        let own = rustix::process::getpid();
        let interrupt = &interrupt;
        s.spawn(move || {
            until_asleep(own);
            interrupt.trigger();
        });
        let error = Options::new().create_wait(path(), wait).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    });
    peer.say("leave");
    peer.join();
    Ok(())
}

fn a_waiter_does_not_take_a_removed_file() -> Result<(), Skip> {
    let pidfile = create();
    let peer = Peer::spawn("pidfile::waiter");
    peer.expect("waits");
    in_call(&peer, libc::SYS_fcntl);
    until_asleep(peer.pid());
    // Somebody removes the file, and another becomes the owner of a new one.
    std::fs::remove_file(path()).unwrap();
    let second = create();
    // The waiter has the lock of the removed file now, and must not be content with it.
    drop(pidfile);
    in_call(&peer, libc::SYS_fcntl);
    until_asleep(peer.pid());
    assert_eq!(text(), own_text());
    drop(second);
    peer.expect(&number(peer.pid()).to_string());
    peer.say("leave");
    peer.join();
    Ok(())
}

fn a_file_of_another_is_not_removed() -> Result<(), Skip> {
    let pidfile = create();
    std::fs::remove_file(path()).unwrap();
    std::fs::write(path(), "another's").unwrap();
    pidfile.remove().unwrap();
    assert_eq!(text(), "another's");
    let pidfile = create();
    std::fs::remove_file(path()).unwrap();
    drop(pidfile);
    Ok(())
}

fn a_child_removes_nothing() -> Result<(), Skip> {
    let mut pidfile = Some(create());
    reaped(forked(&mut || drop(pidfile.take())));
    assert_eq!(text(), own_text());
    reaped(forked(&mut || pidfile.take().unwrap().remove().unwrap()));
    assert_eq!(text(), own_text());
    // It has unlocked nothing either.
    let peer = Peer::spawn("pidfile::waiter");
    peer.expect("waits");
    in_call(&peer, libc::SYS_fcntl);
    drop(pidfile);
    peer.expect(&number(peer.pid()).to_string());
    peer.say("leave");
    peer.join();
    Ok(())
}

fn a_child_may_adopt_it() -> Result<(), Skip> {
    let mut pidfile = Some(create());
    let parents = own_text();
    let (told, tells) = std::io::pipe().unwrap();
    let child = forked(&mut || {
        let pidfile = pidfile.take().unwrap();
        pidfile.adopt().unwrap();
        assert_ne!(text(), parents);
        assert_eq!(text(), own_text());
        // Until the parent has left it.
        rustix::io::read(&told, &mut [0]).unwrap();
        drop(pidfile);
        assert!(!path().exists());
    });
    pidfile.unwrap().leave();
    let error = Options::new().create(path()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    rustix::io::write(&tells, b"x").unwrap();
    reaped(child);
    Ok(())
}

const ROUNDS: usize = 150;

/// Owns the file again and again, and makes sure each time that nobody else does.
fn racer(link: &Link) {
    let witness = scratch().join("witness");
    for round in 0..ROUNDS {
        let pidfile = match round % 3 {
            0 => Options::new().create_wait(path(), Wait::FOREVER).unwrap(),
            1 => Options::new().create_wait(path(), Wait::timeout(LONG)).unwrap(),
            _ => loop {
                match Options::new().create(path()) {
                    Ok(pidfile) => break pidfile,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::InUse, "{error}"),
                }
            },
        };
        File::create_new(&witness).expect("no other owner");
        assert_eq!(text(), own_text());
        std::fs::remove_file(&witness).unwrap();
        if round % 2 == 0 {
            drop(pidfile);
        } else {
            // As a killed one does.
            pidfile.leave();
        }
    }
    link.say("done");
}

fn there_is_one_owner_among_many() -> Result<(), Skip> {
    let peers: Vec<_> = (0..4).map(|_| Peer::spawn("pidfile::racer")).collect();
    for peer in peers {
        peer.expect("done");
        peer.join();
    }
    drop(create());
    Ok(())
}

fn what_is_no_file_of_its_own_is_refused() -> Result<(), Skip> {
    let refused = || {
        let error = Options::new().create(path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        error.to_string()
    };
    let victim = scratch().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, path()).unwrap();
    refused();
    assert_eq!(pidfile::owner(path()).unwrap_err().kind(), ErrorKind::Mismatch);
    std::fs::remove_file(path()).unwrap();
    symlink(scratch().join("nowhere"), path()).unwrap();
    refused();
    std::fs::remove_file(path()).unwrap();
    std::fs::hard_link(&victim, path()).unwrap();
    assert!(refused().contains("other names"));
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
    std::fs::remove_file(path()).unwrap();
    std::fs::remove_file(victim).unwrap();
    std::fs::create_dir(path()).unwrap();
    refused();
    std::fs::remove_dir(path()).unwrap();
    let error = Options::new().create(scratch().join("no/folder")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    Ok(())
}

fn the_mode_is_0600_or_what_is_asked_whatever_the_umask() -> Result<(), Skip> {
    for mask in [0, 0o777] {
        umask(Mode::from_raw_mode(mask));
        for (options, mode) in [(Options::new(), 0o600), (Options::new().mode(0o644), 0o644)] {
            let pidfile = options.create(path()).unwrap();
            let found = std::fs::metadata(path()).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, mode, "under umask {mask:o}");
            drop(pidfile);
        }
    }
    Ok(())
}

fn the_path_holds_wherever_the_owner_goes() -> Result<(), Skip> {
    std::env::set_current_dir(scratch()).unwrap();
    let pidfile = Options::new().create("pid").unwrap();
    std::env::set_current_dir("/").unwrap();
    assert_eq!(pidfile.path(), path());
    drop(pidfile);
    assert!(!path().exists());
    Ok(())
}

fn looking_disturbs_nobody() -> Result<(), Skip> {
    assert_eq!(pidfile::owner(path()).unwrap(), None);
    assert!(!path().exists());
    std::fs::write(path(), "7\n").unwrap();
    assert_eq!(pidfile::owner(path()).unwrap(), None);
    assert_eq!(text(), "7\n");
    // Who may only read may look.
    let pidfile = Options::new().create(path()).unwrap();
    let found = pidfile::owner(path()).unwrap().unwrap();
    assert_eq!(found.said, Some(std::process::id()));
    assert_eq!(pidfile::owner(path()).unwrap(), Some(found));
    drop(pidfile);
    Ok(())
}
