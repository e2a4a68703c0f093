//! POSIX semaphores, between two real processes.

#![allow(unsafe_code, reason = "the comparison with sem_wait(3), and a second user, need libc")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use rustix::process::{Signal, umask};
use sinew::mapping::{self, Mapping};
use sinew::posix_sem::{MAX, Options, PostError, Semaphore, Unnamed, unlink};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError, anonymous, file, memfd};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, skip, steps, tests};

use crate::pipe::{pretend, stop, until_asleep};
use crate::posix_mq::{become_nobody, in_call};
use crate::posix_shm::remove_provisional_names;

pub(crate) const TESTS: &[Test] = tests![
    create_open_and_unlink_mean_what_they_say,
    names_are_those_of_the_c_library,
    the_mode_is_exact_whatever_the_umask,
    the_bytes_are_those_of_the_c_library,
    the_value_has_a_limit,
    the_four_forms_take,
    an_opener_never_finds_a_part_of_a_semaphore,
    an_opener_never_finds_a_part_without_nameless_files_either,
    of_many_creators_one_wins,
    a_killed_creator_leaves_a_whole_semaphore_or_none,
    what_is_no_semaphore_is_refused,
    a_full_file_system_is_an_error_and_no_signal,
    memory_that_cannot_hold_one_is_refused,
    one_for_threads_only_is_refused,
    a_token_crosses_processes,
    a_descriptor_crosses_processes,
    an_unlinked_semaphore_goes_on,
    many_tokens_wake_many,
    a_bounded_wait_ends_in_time_and_not_before,
    an_interrupt_ends_a_wait,
    an_interrupt_ends_a_wait_on_an_old_kernel,
    a_signal_ends_no_wait,
    a_killed_waiter_takes_nothing_with_it,
    a_token_of_a_waiter_killed_when_woken_is_found_by_the_next,
    processes_lose_and_double_no_ticket,
    rubbish_ends_in_an_error_and_not_in_a_hang,
    rubbish_while_somebody_sleeps_passes_no_deadline,
    another_user_is_refused,
    with_tokens_there_is_no_system_call,
    a_token_costs_no_more_than_in_the_c_library,
];
pub(crate) const ROLES: &[Role] = roles![user, generator, racer, clerk, stranger];

/// A length of time in which nothing happens that a correct program would notice.
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(60);
/// Where in a memory the semaphores of these tests lie.
const PLACE: usize = 64;

/// A name that no other run uses.
fn name(what: &str) -> String {
    format!("/sinew-test-{}-{what}", std::process::id())
}

fn path(name: &str) -> String {
    format!("/dev/shm/sem.{}", name.trim_start_matches('/'))
}

fn memory() -> memfd::Memfd {
    memfd::Options::new().create("semaphores", 4096).unwrap()
}

/// Takes and posts as it is told, on a semaphore with a name or in a memory that is sent.
fn user(link: &Link) {
    let place = link.hear();
    if place == "memory" {
        let memory = memfd::Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
        let semaphore = Options::new().open_at(&memory, PLACE).unwrap();
        serve(link, &semaphore, |n| semaphore.post_many(n));
    } else if place == "descriptor" {
        let semaphore = Semaphore::try_from(link.recv_fd()).unwrap();
        serve(link, &semaphore, |n| semaphore.post_many(n));
    } else {
        let semaphore = Options::new().open(place).unwrap();
        serve(link, &semaphore, |n| semaphore.post_many(n));
    }
}

fn serve(
    link: &Link,
    semaphore: &impl Waits<Waited = ()>,
    post: impl Fn(u32) -> Result<(), PostError>,
) {
    link.say("open");
    while let Some((bytes, _)) = link.try_receive() {
        let words = String::from_utf8(bytes).unwrap();
        match words.split_once(' ') {
            Some(("post", n)) => link.say(format!("{:?}", post(n.parse().unwrap()))),
            Some(("bounded", ms)) => {
                let time = Duration::from_millis(ms.parse().unwrap());
                link.say(format!("{:?}", semaphore.wait_timeout(time)));
            }
            _ => link.say(format!("{:?}", semaphore.wait())),
        }
    }
}

fn user_of(name: &str) -> Peer {
    let peer = Peer::spawn("posix_sem::user");
    peer.say(name);
    peer.expect("open");
    peer
}

/// A peer that sleeps at a semaphore.
pub(crate) fn waiter_at(name: &str) -> Peer {
    let peer = user_of(name);
    peer.say("wait");
    in_call(&peer, libc::SYS_futex);
    until_asleep(peer.pid());
    peer
}

fn create_open_and_unlink_mean_what_they_say() -> Result<(), Skip> {
    let (name, options) = (name("a"), Options::new());
    assert_eq!(options.open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(unlink(&name).unwrap_err().kind(), ErrorKind::NotFound);
    let first = options.value(3).create(&name).unwrap();
    assert_eq!(first.name(), name.as_str());
    let error = options.create(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().starts_with(&format!("posix-sem {name:?}: create")), "{error}");
    // What exists keeps its value and mode.
    let second = options.value(7).mode(0o666).open_or_create(&name).unwrap();
    assert_eq!((second.value(), second.waiters()), (3, 0));
    assert_eq!(fs::metadata(path(&name)).unwrap().mode() & 0o777, 0o600);
    second.wait().unwrap();
    assert_eq!(first.value(), 2);
    assert!(!first.is_unlinked().unwrap());
    unlink(&name).unwrap();
    assert!(first.is_unlinked().unwrap());
    let third = options.value(9).open_or_create(&name).unwrap().unlink_on_drop();
    assert_eq!(first.unlink().unwrap_err().kind(), ErrorKind::NotFound, "it is another's now");
    assert_eq!((third.value(), first.value()), (9, 2));
    drop(third);
    assert_eq!(options.open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn names_are_those_of_the_c_library() -> Result<(), Skip> {
    let own = std::process::id();
    let bare = format!("sinew-test-{own}-bare");
    let made = Options::new().value(5).create(&bare).unwrap().unlink_on_drop();
    for same in [format!("/{bare}"), format!("///{bare}")] {
        assert_eq!(Options::new().open(same).unwrap().value(), 5);
    }
    drop(made);
    let longest = format!("/{own:0>251}");
    drop(Options::new().create(&longest).unwrap().unlink_on_drop());
    let too_long = format!("/{own:0>252}");
    for wrong in ["", "/", "///", "/a/b", "a/b", "/a\0b", &too_long] {
        for error in [
            Options::new().create(wrong).unwrap_err(),
            Options::new().open(wrong).unwrap_err(),
            Options::new().open_or_create(wrong).unwrap_err(),
            unlink(wrong).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
    Ok(())
}

fn the_mode_is_exact_whatever_the_umask() -> Result<(), Skip> {
    let old = umask(Mode::from_raw_mode(0o077));
    for mode in [0o600, 0o640, 0o666] {
        let name = name("mode");
        let _made = Options::new().mode(mode).create(&name).unwrap().unlink_on_drop();
        assert_eq!(fs::metadata(path(&name)).unwrap().permissions().mode() & 0o7777, mode);
    }
    umask(old);
    Ok(())
}

fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(4).map(|w| u32::from_ne_bytes(w.try_into().unwrap())).collect()
}

fn the_bytes_are_those_of_the_c_library() -> Result<(), Skip> {
    let name = name("bytes");
    let semaphore = Options::new().value(5).create(&name).unwrap().unlink_on_drop();
    semaphore.wait().unwrap();
    assert_eq!(words(&fs::read(path(&name)).unwrap()), [4, 0, 0x80, 0, 0, 0, 0, 0]);
    for _ in 0..4 {
        semaphore.wait().unwrap();
    }
    let waiter = waiter_at(&name);
    assert_eq!(words(&fs::read(path(&name)).unwrap()), [0, 1, 0x80, 0, 0, 0, 0, 0]);
    semaphore.post().unwrap();
    waiter.expect("Ok(())");
    assert_eq!(words(&fs::read(path(&name)).unwrap()), [0, 0, 0x80, 0, 0, 0, 0, 0]);

    // What sem_init(3) writes.
    let memory = memory().map().unwrap();
    Options::new().value(6).create_at(&memory, PLACE).unwrap();
    // SAFETY: inside the map.
    let place = unsafe { memory.as_mut_ptr().add(512) };
    // SAFETY: the place is inside the map, aligned, and nobody else's.
    let done = unsafe { libc::sem_init(place.cast(), 1, 6) };
    assert_eq!(done, 0);
    let (mut ours, mut theirs) = ([0; 32], [0; 32]);
    memory.read_at(PLACE, &mut ours).unwrap();
    memory.read_at(512, &mut theirs).unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(Options::new().open_at(&memory, 512).unwrap().value(), 6);
    Ok(())
}

fn the_value_has_a_limit() -> Result<(), Skip> {
    let name = name("limit");
    for error in [
        Options::new().value(MAX + 1).create(&name).unwrap_err(),
        Options::new().value(u32::MAX).open_or_create(&name).unwrap_err(),
        Options::new().value(MAX + 1).create_at(&memory().map().unwrap(), 0).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("2147483647"), "{error}");
    }
    let semaphore = Options::new().value(MAX - 2).create(&name).unwrap().unlink_on_drop();
    assert_eq!(semaphore.post_many(3), Err(PostError::Overflow));
    assert_eq!(semaphore.post_many(u32::MAX), Err(PostError::Overflow));
    assert_eq!(semaphore.value(), MAX - 2);
    semaphore.post_many(2).unwrap();
    assert_eq!(semaphore.post(), Err(PostError::Overflow));
    semaphore.post_many(0).unwrap();
    assert_eq!(semaphore.value(), MAX);
    assert_eq!(
        std::io::Error::from(PostError::Overflow).raw_os_error(),
        Some(libc::EOVERFLOW),
        "as sem_post(3) says"
    );
    semaphore.wait().unwrap();
    semaphore.post().unwrap();
    Ok(())
}

fn the_four_forms_take() -> Result<(), Skip> {
    let memory = memory().map().unwrap();
    let semaphore = Options::new().value(4).create_at(&memory, PLACE).unwrap();
    semaphore.wait().unwrap();
    semaphore.try_wait().unwrap();
    semaphore.wait_timeout(Duration::ZERO).unwrap();
    // A deadline in the past still makes one attempt.
    semaphore.wait_until(Instant::now()).unwrap();
    assert_eq!(semaphore.try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(semaphore.wait_timeout(Duration::ZERO), Err(WaitError::TimedOut));
    assert_eq!(semaphore.wait_until(Instant::now()), Err(WaitError::TimedOut));
    assert_eq!((semaphore.value(), semaphore.waiters()), (0, 0));
    Ok(())
}

/// Creates and removes a semaphore, over and over, until it is killed.
fn generator(link: &Link) {
    let name = link.hear();
    link.say("running");
    loop {
        let semaphore = Options::new().value(1).create(&name).unwrap();
        semaphore.unlink().unwrap();
    }
}

fn open_while_generated(peer: Peer, name: &str) {
    peer.say(name);
    peer.expect("running");
    let mut opened = 0;
    while opened < 500 {
        match Options::new().open(name) {
            Ok(semaphore) => {
                assert_eq!((semaphore.value(), semaphore.waiters()), (1, 0));
                opened += 1;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
    peer.kill();
    let _ = unlink(name);
}

fn an_opener_never_finds_a_part_of_a_semaphore() -> Result<(), Skip> {
    open_while_generated(Peer::spawn("posix_sem::generator"), &name("race"));
    if fallbacks_forced() {
        remove_provisional_names();
    }
    Ok(())
}

fn an_opener_never_finds_a_part_without_nameless_files_either() -> Result<(), Skip> {
    let peer = Peer::spawn_with("posix_sem::generator", |c| {
        c.env("SINEW_WITHOUT", "all");
    });
    open_while_generated(peer, &name("race"));
    remove_provisional_names();
    Ok(())
}

/// Opens or creates, and posts once.
fn racer(link: &Link) {
    let name = link.hear();
    link.say("ready");
    link.expect("go");
    Options::new().value(100).open_or_create(&name).unwrap().post().unwrap();
    link.say("posted");
}

fn of_many_creators_one_wins() -> Result<(), Skip> {
    let name = name("winner");
    let racers: Vec<Peer> = (0..16).map(|_| Peer::spawn("posix_sem::racer")).collect();
    for racer in &racers {
        racer.say(&name);
        racer.expect("ready");
    }
    racers.iter().for_each(|racer| racer.say("go"));
    for racer in racers {
        racer.expect("posted");
        racer.join();
    }
    assert_eq!(Options::new().open(&name).unwrap().unlink_on_drop().value(), 116);
    Ok(())
}

fn a_killed_creator_leaves_a_whole_semaphore_or_none() -> Result<(), Skip> {
    let name = name("killed");
    for _ in 0..40 {
        let peer = Peer::spawn("posix_sem::generator");
        peer.say(&name);
        peer.expect("running");
        // At whatever instruction it is now.
        peer.kill();
        match Options::new().open(&name) {
            Ok(semaphore) => {
                assert_eq!(semaphore.value(), 1);
                semaphore.unlink().unwrap();
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{error}"),
        }
    }
    if fallbacks_forced() {
        remove_provisional_names();
    }
    Ok(())
}

fn what_is_no_semaphore_is_refused() -> Result<(), Skip> {
    let name = name("other");
    let path = path(&name);
    let refused = |what: &str| {
        for result in [Options::new().open(&name), Options::new().open_or_create(&name)] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
    };
    let with_words = |words: [u32; 3]| {
        let mut bytes = words.map(u32::to_ne_bytes).concat();
        bytes.resize(32, 0);
        bytes
    };
    for (bytes, what) in [
        (vec![], "0 bytes"),
        (vec![0; 31], "31 bytes"),
        (vec![0; 33], "33 bytes"),
        (vec![0; 32], "single process"),
        (vec![0xA5; 32], "no semaphore"),
        (with_words([1, 0, 0]), "single process"),
        (with_words([MAX + 1, 0, 0x80]), "value"),
        (with_words([u32::MAX, u32::MAX, 0x80]), "value"),
    ] {
        fs::write(&path, bytes).unwrap();
        refused(what);
        fs::remove_file(&path).unwrap();
    }
    symlink("/proc/self/status", &path).unwrap();
    refused("link");
    fs::remove_file(&path).unwrap();
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    refused("FIFO");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("");
    fs::remove_dir(&path).unwrap();
    let (pipe, _writer) = std::io::pipe().unwrap();
    let error = Semaphore::try_from(OwnedFd::from(pipe)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    Ok(())
}

fn a_full_file_system_is_an_error_and_no_signal() -> Result<(), Skip> {
    // A test that may mount has a /dev/shm of its own.
    let small = c"size=4k,nr_inodes=100";
    if !sinew_testkit::census::can_be_private()
        || mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(small)).is_err()
    {
        return skip("no small /dev/shm can be mounted here");
    }
    fs::write("/dev/shm/all", [1; 4096]).unwrap();
    let error = Options::new().create(name("full")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    for part in ["32 bytes", "4096 bytes, 0 of them free", "remount"] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert_eq!(Options::new().open(name("full")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_file("/dev/shm/all").unwrap();
    Options::new().create(name("full")).unwrap().unlink_on_drop().post().unwrap();
    unmount("/dev/shm", UnmountFlags::empty()).unwrap();
    Ok(())
}

fn memory_that_cannot_hold_one_is_refused() -> Result<(), Skip> {
    let memory = memory();
    let kind = |map: &Mapping, offset| Options::new().create_at(map, offset).unwrap_err().kind();
    let map = memory.map().unwrap();
    for offset in [1, 4, 4096, 4072, usize::MAX, usize::MAX - 31] {
        assert_eq!(kind(&map, offset), ErrorKind::InvalidInput, "{offset}");
        let error = Options::new().open_at(&map, offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    let last = Options::new().value(1).create_at(&map, 4064).unwrap();
    last.wait().unwrap();
    let read_only = memory.map_with(mapping::Options::new().read_only()).unwrap();
    assert_eq!(kind(&read_only, 0), ErrorKind::PermissionDenied);
    let private = memory.map_with(mapping::Options::new().private()).unwrap();
    assert_eq!(kind(&private, 0), ErrorKind::InvalidInput);
    Ok(())
}

fn one_for_threads_only_is_refused() -> Result<(), Skip> {
    let memory = memory().map().unwrap();
    // SAFETY: the place is inside the map, aligned, and nobody else's.
    let done = unsafe { libc::sem_init(memory.as_mut_ptr().cast(), 0, 1) };
    assert_eq!(done, 0);
    for offset in [0, PLACE] {
        let error = Options::new().open_at(&memory, offset).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("pshared"), "{error}");
    }
    memory.write_at(PLACE, &[0xA5; 32]).unwrap();
    let error = Options::new().open_at(&memory, PLACE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    Ok(())
}

fn a_token_crosses_processes() -> Result<(), Skip> {
    let name = name("tokens");
    let named = Options::new().create(&name).unwrap().unlink_on_drop();
    let peer = waiter_at(&name);
    assert_eq!(named.waiters(), 1);
    named.post().unwrap();
    peer.expect("Ok(())");
    assert_eq!((named.value(), named.waiters()), (0, 0));
    peer.say("post 2");
    peer.expect("Ok(())");
    named.wait().unwrap();
    named.wait().unwrap();
    assert_eq!(named.try_wait(), Err(WaitError::WouldBlock));

    let memory = memory();
    let map = memory.map().unwrap();
    let unnamed = Options::new().create_at(&map, PLACE).unwrap();
    let peer = Peer::spawn("posix_sem::user");
    peer.say("memory");
    peer.send_fd(&memory);
    peer.expect("open");
    peer.say("wait");
    until_asleep(peer.pid());
    unnamed.post().unwrap();
    peer.expect("Ok(())");
    peer.say("post 1");
    unnamed.wait_timeout(LONG).unwrap();
    peer.expect("Ok(())");
    Ok(())
}

fn a_descriptor_crosses_processes() -> Result<(), Skip> {
    let semaphore = Options::new().create(name("sent")).unwrap();
    semaphore.unlink().unwrap();
    let peer = Peer::spawn("posix_sem::user");
    peer.say("descriptor");
    peer.send_fd(&semaphore);
    peer.expect("open");
    peer.say("post 1");
    semaphore.wait_timeout(LONG).unwrap();
    peer.expect("Ok(())");
    let flags = rustix::io::fcntl_getfd(&semaphore).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    let again = Semaphore::try_from(OwnedFd::from(semaphore)).unwrap();
    assert_eq!(again.name(), "");
    Ok(())
}

fn an_unlinked_semaphore_goes_on() -> Result<(), Skip> {
    let name = name("vanishing");
    let semaphore = Options::new().create(&name).unwrap();
    let peer = waiter_at(&name);
    fs::remove_file(path(&name)).unwrap();
    assert!(semaphore.is_unlinked().unwrap());
    assert_eq!(semaphore.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    semaphore.post().unwrap();
    peer.expect("Ok(())");
    Ok(())
}

fn many_tokens_wake_many() -> Result<(), Skip> {
    let name = name("many");
    let semaphore = Options::new().create(&name).unwrap().unlink_on_drop();
    let peers: Vec<Peer> = (0..5).map(|_| waiter_at(&name)).collect();
    assert_eq!(semaphore.waiters(), 5);
    semaphore.post_many(4).unwrap();
    // Four of the five have one.
    while (semaphore.value(), semaphore.waiters()) != (0, 1) {
        std::thread::yield_now();
    }
    semaphore.post_many(7).unwrap();
    peers.iter().for_each(|peer| peer.expect("Ok(())"));
    assert_eq!((semaphore.value(), semaphore.waiters()), (6, 0));
    Ok(())
}

fn a_bounded_wait_ends_in_time_and_not_before() -> Result<(), Skip> {
    let name = name("bounded");
    let semaphore = Options::new().create(&name).unwrap().unlink_on_drop();
    let begin = Instant::now();
    assert_eq!(semaphore.wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    let begin = Instant::now();
    assert_eq!(semaphore.wait_until(begin + SHORT), Err(WaitError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(semaphore.waiters(), 0, "who gives up is not counted");
    // A stopped peer is not a dead one, and takes nothing.
    let peer = waiter_at(&name);
    stop(&peer);
    semaphore.post().unwrap();
    assert_eq!(semaphore.wait_timeout(LONG), Ok(()));
    peer.signal(Signal::CONT);
    semaphore.post().unwrap();
    peer.expect("Ok(())");
    peer.say("bounded 60000");
    in_call(&peer, libc::SYS_futex);
    semaphore.post().unwrap();
    peer.expect("Ok(())");
    // A time-out too long for the clock is none.
    semaphore.post().unwrap();
    semaphore.wait_timeout(Duration::MAX).unwrap();
    Ok(())
}

fn interrupted(semaphore: &Unnamed<'_>) {
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let waiting = s.spawn(|| semaphore.wait_for(Wait::FOREVER.interrupted_by(&stop)));
        while semaphore.waiters() == 0 {
            std::thread::yield_now();
        }
        assert!(!waiting.is_finished());
        stop.trigger();
        assert_eq!(waiting.join().unwrap(), Err(WaitError::Interrupted));
    });
    assert_eq!(semaphore.waiters(), 0);
    semaphore.post().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(semaphore.wait_for(wait), Err(WaitError::Interrupted), "before what is there");
    assert_eq!(semaphore.value(), 1);
    stop.clear();
    semaphore.wait_for(wait).unwrap();
    let wait = Wait::timeout(SHORT).interrupted_by(&stop);
    assert_eq!(semaphore.wait_for(wait), Err(WaitError::TimedOut));
    // A token comes while it could be interrupted.
    std::thread::scope(|s| {
        let waiting = s.spawn(|| semaphore.wait_for(Wait::timeout(LONG).interrupted_by(&stop)));
        while semaphore.waiters() == 0 {
            std::thread::yield_now();
        }
        semaphore.post().unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let memory = memory().map().unwrap();
    interrupted(&Options::new().create_at(&memory, PLACE).unwrap());
    Ok(())
}

fn an_interrupt_ends_a_wait_on_an_old_kernel() -> Result<(), Skip> {
    pretend("all");
    let memory = memory().map().unwrap();
    interrupted(&Options::new().create_at(&memory, PLACE).unwrap());
    Ok(())
}

fn a_signal_ends_no_wait() -> Result<(), Skip> {
    extern "C" fn nothing(_: i32) {}
    let memory = anonymous::create(4096).unwrap();
    let semaphore = Options::new().create_at(&memory, 0).unwrap();
    // SAFETY: numbers and an empty set of signals.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: a handler that does nothing, without SA_RESTART, so that calls end with EINTR.
    let done = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    let me = rustix::process::getpid();
    std::thread::scope(|s| {
        let poster = s.spawn(|| {
            for _ in 0..20 {
                until_asleep(me);
                rustix::process::kill_process(me, Signal::USR1).unwrap();
            }
            semaphore.post().unwrap();
        });
        semaphore.wait().unwrap();
        poster.join().unwrap();
    });
    Ok(())
}

fn a_killed_waiter_takes_nothing_with_it() -> Result<(), Skip> {
    let name = name("dead");
    let semaphore = Options::new().create(&name).unwrap().unlink_on_drop();
    waiter_at(&name).kill();
    assert_eq!(semaphore.waiters(), 1, "it stays counted");
    semaphore.post().unwrap();
    assert_eq!((semaphore.try_wait(), semaphore.value()), (Ok(()), 0));
    // The next one is woken all the same.
    let next = waiter_at(&name);
    assert_eq!(semaphore.waiters(), 2);
    semaphore.post().unwrap();
    next.expect("Ok(())");
    Ok(())
}

/// Two peers slept, and the first of them was killed after a post had woken it: the token is there,
/// and the second sleeps. The post is made by hand without its wake-up, which the dead one had.
fn killed_when_woken(name: &str) -> (Semaphore, Peer) {
    let semaphore = Options::new().create(name).unwrap();
    let first = waiter_at(name);
    let second = waiter_at(name);
    first.kill();
    let file = file::Options::new().open(path(name)).unwrap();
    file.map().unwrap().atomic_u32_at(0).unwrap().fetch_add(1, Ordering::Release);
    (semaphore, second)
}

fn a_token_of_a_waiter_killed_when_woken_is_found_by_the_next() -> Result<(), Skip> {
    let name = name("orphan");
    let (semaphore, second) = killed_when_woken(&name);
    second.expect("Ok(())");
    assert_eq!((semaphore.value(), semaphore.waiters()), (0, 1));
    semaphore.unlink().unwrap();
    Ok(())
}

/// Draws tickets until there is none for a while, or sells them.
fn clerk(link: &Link) {
    let memory = memfd::Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
    let tickets = Options::new().open_at(&memory, PLACE).unwrap();
    let sold = memory.atomic_u32_at(0).unwrap();
    let work = link.hear();
    match work.strip_prefix("sell ") {
        Some(count) => {
            for _ in 0..count.parse().unwrap() {
                sold.fetch_add(1, Ordering::Relaxed);
                tickets.post().unwrap();
            }
            link.say("sold");
        }
        None => {
            let mut drawn = 0;
            // The last ticket of all is for nobody: it says that there are no more.
            loop {
                tickets.wait().unwrap();
                if memory.load_u32_at(4) == Some(1) {
                    break;
                }
                drawn += 1;
            }
            link.say(drawn);
        }
    }
}

fn processes_lose_and_double_no_ticket() -> Result<(), Skip> {
    const TICKETS: u32 = 100_000;
    let memory = memory();
    let map = memory.map().unwrap();
    let tickets = Options::new().create_at(&map, PLACE).unwrap();
    let clerks = |words: &str| -> Vec<Peer> {
        let spawn = |_| {
            let peer = Peer::spawn("posix_sem::clerk");
            peer.send_fd(&memory);
            peer.say(words);
            peer
        };
        (0..4).map(spawn).collect()
    };
    let drawers = clerks("draw");
    for seller in clerks(&format!("sell {}", TICKETS / 4)) {
        seller.expect("sold");
        seller.join();
    }
    // Every ticket is drawn; only then do the drawers learn that there are no more.
    while tickets.value() > 0 || tickets.waiters() < 4 {
        std::thread::yield_now();
    }
    map.atomic_u32_at(4).unwrap().store(1, Ordering::Release);
    tickets.post_many(4).unwrap();
    let drawn: u32 = drawers.iter().map(|peer| peer.hear().parse::<u32>().unwrap()).sum();
    assert_eq!((drawn, map.load_u32_at(0)), (TICKETS, Some(TICKETS)));
    assert_eq!((tickets.value(), tickets.waiters()), (0, 0));
    Ok(())
}

/// Words that no honest process writes, and some that one might.
const RUBBISH: [u32; 8] = [0, 1, MAX, MAX + 1, u32::MAX, 0xA5A5_A5A5, 0x7FFF_FFFE, 0x8000_0001];

fn rubbish_ends_in_an_error_and_not_in_a_hang() -> Result<(), Skip> {
    let memory = memory().map().unwrap();
    let semaphore = Options::new().create_at(&memory, PLACE).unwrap();
    for value in RUBBISH {
        for waiters in RUBBISH {
            for kind in RUBBISH {
                let set = || {
                    let words = [value, waiters, kind, kind, value, waiters, kind, kind];
                    memory.write_at(PLACE, &words.map(u32::to_ne_bytes).concat()).unwrap();
                };
                set();
                let waited = semaphore.wait_timeout(Duration::from_micros(10));
                let expected = match value {
                    0 => Err(WaitError::TimedOut),
                    1..=MAX => Ok(()),
                    _ => Err(WaitError::Corrupt),
                };
                assert_eq!(waited, expected, "{value:#x} {waiters:#x}");
                // One more than the most is none.
                let after = if value == 0 && waiters == u32::MAX { 0 } else { waiters };
                assert_eq!(semaphore.waiters(), after);
                set();
                let posted = semaphore.post();
                let expected = match value {
                    0..MAX => Ok(()),
                    MAX => Err(PostError::Overflow),
                    _ => Err(PostError::Corrupt),
                };
                assert_eq!(posted, expected, "{value:#x} {waiters:#x}");
                assert_eq!(semaphore.waiters(), waiters, "as it was before");
            }
        }
    }
    Ok(())
}

fn rubbish_while_somebody_sleeps_passes_no_deadline() -> Result<(), Skip> {
    let memory = memory();
    let map = memory.map().unwrap();
    let semaphore = Options::new().create_at(&map, PLACE).unwrap();
    let peer = Peer::spawn("posix_sem::user");
    peer.say("memory");
    peer.send_fd(&memory);
    peer.expect("open");
    for value in [0, 5, MAX + 1, u32::MAX] {
        for waiters in [0, 1, u32::MAX] {
            map.write_at(PLACE, &[0; 8]).unwrap();
            peer.say("bounded 100");
            let begin = Instant::now();
            // On a slow machine it may be over before this process looks.
            while semaphore.waiters() == 0 && begin.elapsed() < Duration::from_secs(5) {
                std::thread::yield_now();
            }
            map.write_at(PLACE, &[value, waiters].map(u32::to_ne_bytes).concat()).unwrap();
            let expected = match value {
                0 => "Err(TimedOut)",
                1..=MAX => "Ok(())",
                _ => "Err(Corrupt)",
            };
            let answer = peer.hear();
            assert!([expected, "Err(TimedOut)"].contains(&answer.as_str()), "{answer}");
        }
    }
    // A number of sleepers that was overwritten delays a sleeper, and keeps it from nothing.
    map.write_at(PLACE, &[0; 8]).unwrap();
    peer.say("wait");
    until_asleep(peer.pid());
    map.atomic_u32_at(PLACE + 4).unwrap().store(u32::MAX, Ordering::Relaxed);
    semaphore.post().unwrap();
    peer.expect("Ok(())");
    Ok(())
}

/// Another user tries to open and to remove.
fn stranger(link: &Link) {
    let name = link.hear();
    become_nobody();
    for result in [Options::new().open(&name), Options::new().open_or_create(&name)] {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("mode"), "{error}");
    }
    let error = unlink(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    link.say("refused");
}

fn another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can be two users");
    }
    let name = name("private");
    let _semaphore = Options::new().create(&name).unwrap().unlink_on_drop();
    let peer = Peer::spawn("posix_sem::stranger");
    peer.say(&name);
    peer.expect("refused");
    peer.join();
    Ok(())
}

fn with_tokens_there_is_no_system_call() -> Result<(), Skip> {
    let semaphore = Options::new().value(9).create(name("calls")).unwrap().unlink_on_drop();
    let calls = |operation: &mut dyn FnMut()| {
        steps::measure(2, operation).map(|done| done.calls.iter().map(|c| c.number).collect())
    };
    let soon = Instant::now() + LONG;
    let Ok(none): Result<Vec<i64>, _> = calls(&mut || {
        semaphore.wait().unwrap();
        semaphore.post().unwrap();
        semaphore.try_wait().unwrap();
        semaphore.post_many(2).unwrap();
        semaphore.wait_until(soon).unwrap();
    }) else {
        return skip("this process may not trace its own child");
    };
    assert_eq!(none, []);
    // Who finds nothing, and may not wait, makes none either.
    let empty = Options::new().create(name("empty")).unwrap().unlink_on_drop();
    let none = calls(&mut || assert_eq!(empty.try_wait(), Err(WaitError::WouldBlock))).unwrap();
    assert_eq!(none, []);
    // To wake a sleeper is one.
    let _sleeper = waiter_at(&name("empty"));
    let one = calls(&mut || empty.post_many(0).unwrap()).unwrap();
    assert_eq!(one, []);
    let one = steps::measure(0, || empty.post().unwrap()).unwrap();
    assert_eq!(one.calls.iter().map(|c| c.number).collect::<Vec<_>>(), [libc::SYS_futex]);
    Ok(())
}

fn a_token_costs_no_more_than_in_the_c_library() -> Result<(), Skip> {
    let memory = memory().map().unwrap();
    let named = Options::new().value(1).create(name("cost")).unwrap().unlink_on_drop();
    let unnamed = Options::new().value(1).create_at(&memory, PLACE).unwrap();
    // SAFETY: the semaphore that is there.
    let theirs: *mut libc::sem_t = unsafe { memory.as_mut_ptr().add(PLACE).cast() };
    let count = |operation: &mut dyn FnMut()| {
        steps::measure(3, operation).map(|done| done.instructions_after)
    };
    let Ok(c) = count(&mut || {
        // SAFETY: it lives as long as the map.
        assert_eq!(unsafe { libc::sem_wait(theirs) }, 0);
        // SAFETY: it lives as long as the map.
        assert_eq!(unsafe { libc::sem_post(theirs) }, 0);
    }) else {
        return skip("this process may not trace its own child");
    };
    let ours = count(&mut || {
        unnamed.wait().unwrap();
        unnamed.post().unwrap();
    });
    let ours_named = count(&mut || {
        named.wait().unwrap();
        named.post().unwrap();
    });
    let (ours, ours_named) = (ours.unwrap(), ours_named.unwrap());
    if cfg!(not(debug_assertions)) {
        assert!(ours <= c && ours_named <= c, "{ours} and {ours_named} instructions, C {c}");
    }
    Ok(())
}
