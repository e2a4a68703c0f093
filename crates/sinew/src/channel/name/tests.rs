//! Names between threads, each with folders, locks and sockets of its own. What takes two processes is
//! tested through the patterns.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;
use crate::wait::{Accepts, Interrupt, Receives, Sends};

const SOON: Duration = Duration::from_secs(30);

fn soon() -> Wait<'static> {
    Wait::timeout(SOON)
}

fn root() -> TempDir {
    let root = tempfile::tempdir().expect("a folder");
    // Whatever the umask is.
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
    root
}

fn name(root: &TempDir, name: &str) -> Name {
    Name::new(Folder::at(root.path()).expect("of this user"), name).expect("a name")
}

/// What a killed holder leaves.
fn leave_stale(path: &Path) {
    drop(UnixListener::bind(path).expect("bind"));
    // The child of another test has a copy of it between its fork and its exec.
    while UnixStream::connect(path).is_ok() {
        thread::yield_now();
    }
    assert!(fs::symlink_metadata(path).expect("it is left").file_type().is_socket());
}

/// Takes the name after a socket, and has it noted.
fn follow(name: &Name, last: Identity) -> Result<Listener> {
    let noted = std::cell::Cell::new(last);
    let listener = name.replace(&|| last, &|next| noted.set(next), soon())?;
    Ok(Some(listener).filter(|listener| listener.identity() == noted.get()).expect("it is noted"))
}

/// What stands in the folder.
fn census(root: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(root.path()).expect("read the folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Both ends of a new connection carry a message.
fn talk(listener: &Listener, client: &Connection) {
    let server = listener.accept().expect("accept").expect("there is a connection");
    client.socket.send(b"hello").expect("send");
    let mut buf = [0; 8];
    assert_eq!(server.recv(&mut buf), Ok(5));
}

/// Waits until a thread of this process sleeps.
fn until_asleep(thread: i32) {
    let deadline = Instant::now() + SOON;
    loop {
        let stat =
            fs::read_to_string(format!("/proc/self/task/{thread}/stat")).expect("it is there");
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')) {
            return;
        }
        assert!(Instant::now() < deadline, "it never sleeps");
        thread::yield_now();
    }
}

fn this_thread() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

#[test]
fn names_have_1_to_200_bytes_and_no_dot_first() {
    let root = root();
    let make = |text: &str| Name::new(Folder::at(root.path()).expect("a folder"), text);
    for good in ["a", "a.b", "über uns", &"x".repeat(200)] {
        assert_eq!(make(good).expect("a name").as_str(), good);
    }
    for bad in ["", ".", "..", ".a", "a/b", "/", "a\0", &"x".repeat(201)] {
        assert_eq!(make(bad).expect_err("no name").kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    let text = make(&"x".repeat(201)).expect_err("too long").to_string();
    assert!(text.contains("201") && text.contains("200"), "{text}");
}

#[test]
fn a_claimed_name_is_found_and_goes_with_its_listener() {
    let root = root();
    let name = name(&root, "jobs");
    assert_eq!(name.connect().expect_err("nobody").kind(), ErrorKind::NotFound);

    let listener = name.claim(soon()).expect("free");
    assert_eq!(census(&root), ["jobs"]);
    assert_eq!(listener.name().path(), root.path().join("jobs"));
    assert!(listener.accept().expect("accept").is_none());
    let client = name.connect().expect("it is there");
    assert!(client.process.is_some());
    talk(&listener, &client);

    assert!(listener.is_in_place().expect("look"));
    drop(listener);
    assert!(census(&root).is_empty());
    assert_eq!(name.connect().expect_err("gone").kind(), ErrorKind::NotFound);
}

#[test]
fn the_socket_has_its_mode_from_its_first_moment_under_the_name() {
    let root = root();
    let mode = |name: &Name| fs::metadata(name.path()).expect("there").permissions().mode() & 0o777;
    let private = name(&root, "private");
    let _private = private.claim(soon()).expect("free");
    assert_eq!(mode(&private), 0o600);
    // More than any usual umask leaves.
    let open = name(&root, "open").mode(0o666);
    let _open = open.claim(soon()).expect("free");
    assert_eq!(mode(&open), 0o666);
}

#[test]
fn a_long_name_in_a_deep_folder_is_taken_and_found() {
    let root = root();
    let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
    fs::create_dir_all(&deep).expect("mkdir");
    fs::set_permissions(&deep, fs::Permissions::from_mode(0o700)).expect("chmod");
    let name = Name::new(Folder::at(&deep).expect("a folder"), &"n".repeat(200)).expect("a name");
    let listener = name.claim(soon()).expect("free");
    talk(&listener, &name.connect().expect("it is there"));
}

#[test]
fn a_live_holder_keeps_its_name_and_is_named() {
    let root = root();
    let name = name(&root, "jobs");
    let listener = name.claim(soon()).expect("free");
    let error = name.claim(soon()).expect_err("it has a holder");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    let held = format!("held by {};", std::process::id());
    assert!(error.to_string().contains(&held), "{error}");
    assert!(listener.is_in_place().expect("look"));
    assert_eq!(census(&root), ["jobs"]);

    // That look was a connection, and is over.
    let looked = listener.accept().expect("accept").expect("there is one");
    assert_eq!(looked.recv(&mut [0; 8]), Err(crate::RecvError::Closed));
    let Ok(Claimed::Theirs(client)) = name.claim_or_connect(soon()) else { panic!("it is live") };
    talk(&listener, &client);
}

#[test]
fn a_stale_name_is_nobodys_and_taken_over() {
    let root = root();
    let name = name(&root, "jobs");
    leave_stale(&name.path());
    let error = name.connect().expect_err("nobody listens");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("have ended"), "{error}");
    let Ok(Claimed::Ours(listener)) = name.claim_or_connect(soon()) else { panic!("it is free") };
    talk(&listener, &name.connect().expect("it is there"));
}

#[test]
fn what_is_no_socket_is_never_removed() {
    let root = root();
    let name = name(&root, "jobs");
    for what in ["a file", "a folder", "a link to nothing", "a link to a file"] {
        let put = match what {
            "a file" => fs::write(name.path(), "kept"),
            "a folder" => fs::create_dir(name.path()),
            "a link to nothing" => symlink("nothing", name.path()),
            _ => symlink("/etc/passwd", name.path()),
        };
        put.expect(what);
        for error in [
            name.claim(soon()).expect_err(what),
            name.connect().expect_err(what),
            name.connect_wait(soon()).expect_err(what),
        ] {
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{what}: {error}");
        }
        assert_eq!(census(&root), ["jobs"], "{what}");
        let removed = fs::remove_file(name.path()).or_else(|_| fs::remove_dir(name.path()));
        removed.expect("it is still there");
    }
}

#[test]
fn what_a_killed_claim_left_is_removed_by_the_next() {
    let root = root();
    let claim = root.path().join(format!(".claim-{}", folder::user()));
    // Killed before and after it listened: the socket is closed in either case.
    leave_stale(&claim);
    let first = name(&root, "one").claim(soon()).expect("free");
    assert_eq!(census(&root), ["one"]);
    // A child of the killed one may have it still.
    let _forked = UnixListener::bind(&claim).expect("bind");
    let second = name(&root, "two").claim(soon()).expect("free");
    assert_eq!(census(&root), ["one", "two"]);
    for (listener, name) in [(&first, name(&root, "one")), (&second, name(&root, "two"))] {
        talk(listener, &name.connect().expect("it is there"));
    }

    fs::write(&claim, "kept").expect("write");
    let error = name(&root, "three").claim(soon()).expect_err("no socket");
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert_eq!(fs::read(&claim).expect("read"), b"kept");
}

#[test]
fn of_a_hundred_on_a_stale_name_one_wins_and_is_found_by_all() {
    let root = root();
    for _ in 0..5 {
        let path = root.path().join("jobs");
        leave_stale(&path);
        let (start, done) = (Barrier::new(100), Barrier::new(100));
        let winners: usize = thread::scope(|scope| {
            let racers: Vec<_> = (0..100)
                .map(|_| {
                    scope.spawn(|| {
                        let name = name(&root, "jobs");
                        start.wait();
                        let won = name.claim(soon());
                        // Whoever lost, or won, finds the winner.
                        let found = name.connect();
                        done.wait();
                        found.expect("somebody has it");
                        match won {
                            Ok(listener) => usize::from(listener.is_in_place().expect("look")),
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
                                0
                            }
                        }
                    })
                })
                .collect();
            racers.into_iter().map(|racer| racer.join().expect("no panic")).sum()
        });
        assert_eq!(winners, 1);
        assert!(census(&root).is_empty());
    }
}

#[test]
fn a_listener_removes_no_name_but_its_own() {
    let root = root();
    let name = name(&root, "jobs");
    let first = name.claim(soon()).expect("free");
    fs::remove_file(name.path()).expect("by hand");
    assert!(!first.is_in_place().expect("look"));
    let second = name.claim(soon()).expect("free again");
    drop(first);
    assert!(second.is_in_place().expect("look"));
    talk(&second, &name.connect().expect("it is there"));
}

#[test]
fn who_follows_a_holder_replaces_it_and_no_other() {
    let root = root();
    let name = name(&root, "jobs");
    let first = name.claim(soon()).expect("free");
    let old = name.connect().expect("it is there").place.identity;
    assert_eq!(first.identity(), old);
    let second = follow(&name, old).expect("it follows");
    assert!(second.is_in_place().expect("look") && !first.is_in_place().expect("look"));
    // Too late: it is not the old one that stands there.
    let error = follow(&name, old).expect_err("another has it");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    drop(first);
    while second.accept().expect("accept").is_some() {}
    talk(&second, &name.connect().expect("it is there"));
    drop(second);
    assert!(follow(&name, old).is_ok(), "a free name too");
}

#[test]
fn a_holder_that_does_not_accept_is_alive() {
    let root = root();
    let name = name(&root, "jobs");
    let address = Address::path(name.path()).expect("short");
    let busy = unix::Options::new().backlog(1).seqpacket(&address).expect("bind");
    let mut waiting = Vec::new();
    let error = loop {
        match name.connect() {
            Ok(connection) => waiting.push(connection),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
    assert!(!waiting.is_empty());
    let error = name.claim(soon()).expect_err("it lives");
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    let short = Wait::timeout(Duration::from_millis(20));
    assert_eq!(name.connect_wait(short).expect_err("full").kind(), ErrorKind::TimedOut);
    let short = Wait::timeout(Duration::from_millis(20));
    assert_eq!(name.claim_or_connect(short).expect_err("full").kind(), ErrorKind::TimedOut);

    // Proven dead by whoever knows it, it is replaced all the same.
    let next = follow(&name, waiting[0].place.identity).expect("it follows");
    talk(&next, &name.connect().expect("it is there"));
    assert!(busy.accept().is_ok(), "what waits at the old one is still there");
}

#[test]
fn who_waits_is_woken_by_the_name() {
    let root = root();
    for stale in [false, true] {
        let name = name(&root, "jobs");
        if stale {
            leave_stale(&name.path());
        }
        let (tell, told) = std::sync::mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                tell.send(this_thread()).expect("heard");
                name.connect_wait(soon())
            });
            until_asleep(told.recv().expect("it started"));
            let listener = name.claim(soon()).expect("free");
            let client = waiter.join().expect("no panic").expect("it came");
            talk(&listener, &client);
        });
    }
}

#[test]
fn no_name_is_missed_between_the_look_and_the_watch() {
    let root = root();
    let name = name(&root, "jobs");
    let start = Barrier::new(2);
    for round in 0..300 {
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                start.wait();
                name.connect_wait(soon()).expect("it came")
            });
            start.wait();
            for _ in 0..round * 20 {
                std::hint::spin_loop();
            }
            let listener = name.claim(soon()).expect("free");
            talk(&listener, &waiter.join().expect("no panic"));
        });
    }
}

#[test]
fn who_waits_is_woken_by_a_name_in_a_folder_that_was_not_there() {
    let root = root();
    let path = root.path().join("later");
    fs::create_dir(&path).expect("mkdir");
    let name = Name::new(Folder::at(&path).expect("a folder"), "jobs").expect("a name");
    fs::remove_dir(&path).expect("rmdir");
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tell.send(this_thread()).expect("heard");
            name.connect_wait(soon())
        });
        until_asleep(told.recv().expect("it started"));
        fs::create_dir(&path).expect("mkdir");
        let listener = name.claim(soon()).expect("free");
        let client = waiter.join().expect("no panic").expect("it came");
        talk(&listener, &client);
    });
}

#[test]
fn a_wait_for_a_name_ends_by_its_deadline_and_by_an_interrupt() {
    let root = root();
    let name = name(&root, "jobs");
    assert_eq!(name.connect_wait(Wait::NEVER).expect_err("never").kind(), ErrorKind::NotFound);
    let begun = Instant::now();
    let error = name.connect_wait(Wait::timeout(Duration::from_millis(20))).expect_err("nobody");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(begun.elapsed() >= Duration::from_millis(20));
    assert!(error.to_string().contains("no channel of this name"), "{error}");

    let stop = Interrupt::new().expect("an eventfd");
    let (tell, told) = std::sync::mpsc::channel();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tell.send(this_thread()).expect("heard");
            // Bounded, so that a failure ends.
            name.connect_wait(soon().interrupted_by(&stop))
        });
        until_asleep(told.recv().expect("it started"));
        stop.trigger();
        let error = waiter.join().expect("no panic").expect_err("interrupted");
        assert_eq!(error.kind(), ErrorKind::Interrupted);
    });
}

#[test]
fn who_holds_the_lock_of_the_folder_is_named() {
    let root = root();
    let name = name(&root, "jobs");
    let dir = name.folder.open().expect("open");
    let lock = name.lock_of(&dir).expect("open");
    let held = lock.lock().expect("free");
    let error = name.claim(Wait::timeout(Duration::from_millis(20))).expect_err("locked");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let by = format!("held by {};", std::process::id());
    assert!(error.to_string().contains(&by), "{error}");
    assert_eq!(name.claim(Wait::NEVER).expect_err("locked").kind(), ErrorKind::WouldBlock);
    drop(held);
    name.claim(Wait::NEVER).expect("free");
}

#[test]
fn a_private_folder_that_was_removed_is_made_again() {
    let root = root();
    let path = root.path().join("own");
    let name = Name::new(Folder::private(&path).expect("made"), "jobs").expect("a name");
    let first = name.claim(soon()).expect("free");
    let before = name.connect().expect("it is there");
    fs::remove_dir_all(&path).expect("by hand");

    assert!(!first.is_in_place().expect("look"));
    assert_eq!(name.connect().expect_err("gone").kind(), ErrorKind::NotFound);
    talk(&first, &before);
    let second = name.claim(soon()).expect("free again");
    drop(first);
    assert!(second.is_in_place().expect("look"));
    talk(&second, &name.connect().expect("it is there"));
}

#[test]
fn a_given_folder_that_was_removed_is_not_guessed() {
    let root = root();
    let path = root.path().join("given");
    fs::create_dir(&path).expect("mkdir");
    let name = Name::new(Folder::at(&path).expect("a folder"), "jobs").expect("a name");
    let listener = name.claim(soon()).expect("free");
    fs::remove_dir_all(&path).expect("by hand");
    assert_eq!(name.claim(soon()).expect_err("no folder").kind(), ErrorKind::NotFound);
    assert!(!listener.is_in_place().expect("look"));
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn equal_names_in_two_folders_are_two_channels() {
    let (ours, theirs) = (root(), root());
    let first = name(&ours, "jobs").claim(soon()).expect("free");
    let second = name(&theirs, "jobs").claim(soon()).expect("free");
    let client = name(&theirs, "jobs").connect().expect("it is there");
    assert!(first.accept().expect("accept").is_none());
    talk(&second, &client);
}

#[test]
fn names_that_come_and_go_are_taken_by_one_at_a_time() {
    let root = root();
    let holders = std::sync::atomic::AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let name = name(&root, "jobs");
                for _ in 0..200 {
                    match name.claim_or_connect(soon()).expect("one or the other") {
                        Claimed::Ours(listener) => {
                            use std::sync::atomic::Ordering::SeqCst;
                            assert_eq!(holders.fetch_add(1, SeqCst), 0);
                            assert!(listener.is_in_place().expect("look"));
                            holders.fetch_sub(1, SeqCst);
                        }
                        Claimed::Theirs(connection) => drop(connection),
                    }
                }
            });
        }
    });
    assert!(census(&root).is_empty());
}
