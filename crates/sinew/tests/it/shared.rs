//! Structures in shared memory between real processes: whole or not there, and of one layout.

#![allow(unsafe_code, reason = "whoever opens a shared structure vouches for the others")]

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::process::Signal;
use sinew::memfd::{self, Memfd};
use sinew::ptrace::{self, Next, Reason};
use sinew::shared::{Field, Layout, Options, Plain, Shared};
use sinew::wait::Locks;
use sinew::{ErrorKind, LockError, plain, posix_shm};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, skip, tests};

use crate::pipe::until_asleep;
use crate::posix_shm::remove_provisional_names;

pub(crate) const TESTS: &[Test] = tests![
    processes_count_under_the_lock,
    a_descriptor_is_as_good_as_a_name,
    a_death_in_the_middle_is_repaired_by_the_next,
    readers_share_where_an_rwlock_guards,
    another_layout_is_refused,
    what_is_no_shared_structure_is_refused,
    at_every_system_call_of_a_creator_there_is_a_whole_object_or_none,
    a_killed_creator_leaves_a_whole_object_or_none,
    of_many_creators_one_wins,
    names_are_those_of_segments,
    the_hash_tells_layouts_apart,
    rubbish_in_the_header_is_refused,
];
pub(crate) const ROLES: &[Role] = roles![counter, generator, stranger, racer];

plain! {
    /// Two numbers that are equal whenever nobody holds the lock.
    #[derive(Clone, Debug, PartialEq)]
    struct Pair {
        one: u64,
        fill: [u8; 1000],
        two: u64,
    }
}

mod other {
    sinew::plain! {
        /// As a program would have it that was built with fields in another order.
        #[derive(Debug)]
        pub(super) struct Pair {
            pub(super) two: u64,
            pub(super) fill: [u8; 1000],
            pub(super) one: u64,
        }
    }
}

mod shorter {
    sinew::plain! {
        #[derive(Debug)]
        pub(super) struct Pair {
            pub(super) one: u64,
            pub(super) two: u64,
        }
    }
}

mod same {
    sinew::plain! {
        #[derive(Debug)]
        pub(super) struct Renamed {
            pub(super) one: u64,
            pub(super) fill: [u8; 1000],
            pub(super) two: u64,
        }
    }
}

impl Pair {
    fn new(value: u64) -> Self {
        Self { one: value, fill: [7; 1000], two: value }
    }
}

const SHORT: Duration = Duration::from_millis(20);

fn name(what: &str) -> String {
    format!("/sinew-test-{}-{what}", std::process::id())
}

fn create(options: Options, name: &str) -> Shared<Pair> {
    // SAFETY: only this file knows the name, and uses it so.
    unsafe { options.create(name, Pair::new(0)) }.unwrap()
}

fn open(name: &str) -> sinew::Result<Shared<Pair>> {
    // SAFETY: as in `create`.
    unsafe { Options::new().open(name) }
}

/// Opens what it is told of, by name or descriptor, and uses it as it is told.
fn counter(link: &Link) {
    let name = link.hear();
    let shared = if name == "memfd" {
        let memfd = Memfd::try_from(link.recv_fd()).unwrap();
        // SAFETY: as in `create`.
        unsafe { Options::new().open_memfd(memfd) }.unwrap()
    } else {
        open(&name).unwrap()
    };
    link.say("ready");
    while let Some((words, _)) = link.try_receive() {
        match String::from_utf8(words).unwrap().as_str() {
            "count" => {
                for _ in 0..1000 {
                    let mut guard = shared.lock().unwrap();
                    guard.one += 1;
                    guard.two = guard.one;
                    drop(guard);
                    let guard = shared.reader().lock().unwrap();
                    assert_eq!(guard.one, guard.two);
                }
                link.say("counted");
            }
            "half" => {
                let mut guard = shared.lock().unwrap();
                guard.one += 1;
                link.say("half");
                link.expect("never");
            }
            "read" => {
                let guard = shared.reader().lock().unwrap();
                link.say(guard.one);
                link.expect("unlock");
            }
            other => panic!("{other}"),
        }
    }
}

fn counters(name: &str, count: usize) -> Vec<Peer> {
    let peers: Vec<Peer> = (0..count).map(|_| Peer::spawn("shared::counter")).collect();
    for peer in &peers {
        peer.say(name);
        peer.expect("ready");
    }
    peers
}

fn processes_count_under_the_lock() -> Result<(), Skip> {
    for (readers, what) in [(0, "mutex"), (4, "rwlock")] {
        let name = name(what);
        let shared = create(Options::new().readers(readers), &name);
        assert_eq!(shared.readers(), readers);
        let peers = counters(&name, 3);
        for peer in &peers {
            peer.say("count");
        }
        for peer in &peers {
            peer.expect("counted");
        }
        let guard = shared.lock().unwrap();
        assert_eq!((guard.one, guard.two), (3000, 3000));
        assert!(guard.fill.iter().all(|byte| *byte == 7));
        drop(guard);
        shared.unlink().unwrap();
        assert_eq!(open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    }
    Ok(())
}

fn a_descriptor_is_as_good_as_a_name() -> Result<(), Skip> {
    // SAFETY: only this test's peer is given the descriptor.
    let shared = unsafe { Options::new().create_memfd("pair", Pair::new(5)) }.unwrap();
    let peer = Peer::spawn("shared::counter");
    peer.say("memfd");
    peer.send_fd(shared.as_fd());
    peer.expect("ready");
    peer.say("count");
    peer.expect("counted");
    assert_eq!(shared.lock().unwrap().two, 1005);
    assert_eq!(shared.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    // One that its holder can shorten would be a SIGBUS.
    let loose = memfd::Options::new().resizable().create("loose", 8192).unwrap();
    // SAFETY: nobody else has it.
    let error = unsafe { Options::new().open_memfd::<Pair>(loose) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    Ok(())
}

fn a_death_in_the_middle_is_repaired_by_the_next() -> Result<(), Skip> {
    for (readers, reads) in [(0, false), (0, true), (4, false), (4, true)] {
        let name = name("death");
        let shared = create(Options::new().readers(readers), &name);
        let victim = counters(&name, 1).remove(0);
        victim.say("half");
        victim.expect("half");
        assert!(matches!(shared.try_lock(), Err(LockError::WouldBlock)));
        assert!(matches!(shared.reader().lock_timeout(SHORT), Err(LockError::TimedOut)));
        let waits = counters(&name, 1).remove(0);
        victim.kill();
        if reads {
            let Err(LockError::OwnerDied(mut left)) = shared.reader().lock() else {
                panic!("it died")
            };
            assert_eq!((left.one, left.two), (1, 0));
            left.two = left.one;
            let guard = left.repaired();
            assert_eq!((guard.one, guard.two), (1, 1));
        } else {
            let Err(LockError::OwnerDied(mut left)) = shared.lock() else { panic!("it died") };
            assert_eq!((left.one, left.two), (1, 0));
            left.two = left.one;
            left.repaired().fill[0] = 8;
        }
        waits.say("count");
        waits.expect("counted");
        assert_eq!(shared.lock().unwrap().two, 1001);
        shared.unlink().unwrap();
    }
    Ok(())
}

fn readers_share_where_an_rwlock_guards() -> Result<(), Skip> {
    let name = name("readers");
    let shared = create(Options::new().readers(2), &name);
    let peer = counters(&name, 1).remove(0);
    peer.say("read");
    peer.expect("0");
    let guard = shared.reader().try_lock().unwrap();
    assert_eq!(*guard, Pair::new(0));
    drop(guard);
    assert!(matches!(shared.try_lock(), Err(LockError::WouldBlock)));
    peer.signal(Signal::KILL);
    shared.lock().unwrap().one = 1;
    shared.unlink().unwrap();
    Ok(())
}

/// A program that was built with other structures.
fn stranger(link: &Link) {
    let name = link.hear();
    // SAFETY: it opens nothing.
    let swapped = unsafe { Options::new().open::<other::Pair>(&name) }.unwrap_err();
    // SAFETY: as above.
    let shorter = unsafe { Options::new().open::<shorter::Pair>(&name) }.unwrap_err();
    // SAFETY: as above.
    let number = unsafe { Options::new().open::<u64>(&name) }.unwrap_err();
    for error in [&swapped, &shorter, &number] {
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        assert!(error.to_string().contains("another structure: 1016 bytes"), "{error}");
        assert!(error.to_string().contains(&name), "{error}");
    }
    // What only its type's name differs in is the same.
    // SAFETY: it has the same layout.
    let same = unsafe { Options::new().open::<same::Renamed>(&name) }.unwrap();
    same.lock().unwrap().two = 9;
    link.say("refused");
}

fn another_layout_is_refused() -> Result<(), Skip> {
    let name = name("layout");
    let shared = create(Options::new(), &name);
    let peer = Peer::spawn("shared::stranger");
    peer.say(&name);
    peer.expect("refused");
    peer.join();
    assert_eq!(shared.lock().unwrap().two, 9);
    // SAFETY: as in `create`.
    let error = unsafe { Options::new().open_or_create(&name, || 5_u64) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    shared.unlink().unwrap();
    Ok(())
}

fn what_is_no_shared_structure_is_refused() -> Result<(), Skip> {
    let name = name("none");
    for bytes in [1, 16, 4096, 65536] {
        let segment = posix_shm::Options::new().create(&name, bytes).unwrap().unlink_on_drop();
        let error = open(&name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
        drop(segment);
    }
    // Of another version, and cut off.
    let shared = create(Options::new(), &name);
    let map = posix_shm::Options::new().open(&name).unwrap().map().unwrap();
    let magic = map.atomic_u64_at(0).unwrap();
    let honest = magic.fetch_add(1 << 48, Ordering::SeqCst);
    let error = open(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("another version"), "{error}");
    magic.store(honest, Ordering::SeqCst);
    drop(open(&name).unwrap());
    let fd = shared.as_fd().try_clone_to_owned().unwrap();
    rustix::fs::ftruncate(&fd, 1000).unwrap();
    let error = open(&name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    shared.unlink().unwrap();
    Ok(())
}

/// Makes and removes objects under one name until it is killed.
fn generator(link: &Link) {
    let name = link.hear();
    link.say("go");
    for value in 1.. {
        // SAFETY: as in `create`.
        let shared = unsafe { Options::new().readers(3).create(&name, Pair::new(value)) }.unwrap();
        // Long enough for the test to find it, on one CPU too.
        for _ in 0..3 {
            std::thread::yield_now();
        }
        shared.unlink().unwrap();
    }
}

fn at_every_system_call_of_a_creator_there_is_a_whole_object_or_none() -> Result<(), Skip> {
    let name = name("steps");
    let peer = Peer::spawn("shared::racer");
    let pid = peer.pid().as_raw_nonzero().get().unsigned_abs();
    until_asleep(peer.pid());
    let tracee = match ptrace::Options::new().seize(pid) {
        Ok(tracee) => tracee,
        Err(e) => return skip(format!("cannot trace: {e}")),
    };
    tracee.interrupt().unwrap();
    peer.say(&name);
    let mut running = tracee;
    let mut seen = [0, 0];
    loop {
        let Next::Stopped(stopped) = running.next() else { panic!("it ended") };
        // It says what it made when it has, and has it locked by then.
        let says = libc::SYS_sendmsg.unsigned_abs();
        if matches!(stopped.reason(), Reason::SyscallEntry { number, .. } if number == says) {
            break;
        }
        seen[usize::from(is_whole(&name))] += 1;
        running = stopped.to_syscall();
    }
    assert!(seen[0] > 4 && seen[1] > 0, "{seen:?}");
    assert_eq!(peer.hear(), pid.to_string());
    posix_shm::unlink(&name).unwrap();
    Ok(())
}

fn a_killed_creator_leaves_a_whole_object_or_none() -> Result<(), Skip> {
    let name = name("killed");
    for round in 0..20 {
        let peer = Peer::spawn("shared::generator");
        peer.say(&name);
        peer.expect("go");
        // It is there now and then, and each time whole.
        while !is_whole(&name) {
            std::thread::yield_now();
        }
        for _ in 0..round * 20 {
            is_whole(&name);
        }
        peer.kill();
        is_whole(&name);
        let _ = posix_shm::unlink(&name);
    }
    if fallbacks_forced() {
        remove_provisional_names();
    }
    Ok(())
}

/// Whether the object is there. Where it is, it is whole.
fn is_whole(name: &str) -> bool {
    match open(name) {
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
            false
        }
        Ok(shared) => {
            let guard = shared.lock().unwrap();
            assert_eq!(*guard, Pair::new(guard.one));
            assert!(guard.one > 0);
            true
        }
    }
}

/// Opens or creates, and says what it found.
fn racer(link: &Link) {
    let name = link.hear();
    let own = u64::from(std::process::id());
    // SAFETY: as in `create`.
    let shared = unsafe { Options::new().open_or_create(&name, || Pair::new(own)) }.unwrap();
    let guard = shared.lock().unwrap();
    assert_eq!(guard.one, guard.two);
    link.say(guard.one);
}

fn of_many_creators_one_wins() -> Result<(), Skip> {
    let name = name("race");
    let peers: Vec<Peer> = (0..6).map(|_| Peer::spawn("shared::racer")).collect();
    for peer in &peers {
        until_asleep(peer.pid());
    }
    for peer in &peers {
        peer.say(&name);
    }
    let said: Vec<String> = peers.iter().map(|peer| peer.hear()).collect();
    assert!(said.iter().all(|winner| *winner == said[0]), "{said:?}");
    posix_shm::unlink(&name).unwrap();
    Ok(())
}

fn names_are_those_of_segments() -> Result<(), Skip> {
    let name = name("names");
    assert_eq!(open(&name).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(open("no slash").unwrap_err().kind(), ErrorKind::InvalidInput);
    let shared = create(Options::new().mode(0o640), &name);
    let mode = rustix::fs::fstat(shared.as_fd()).unwrap().st_mode & 0o777;
    assert_eq!(mode, 0o640);
    // SAFETY: as in `create`.
    let again = unsafe { Options::new().create(&name, Pair::new(1)) }.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    // SAFETY: as in `create`.
    let many = unsafe { Options::new().readers(65).create("/sinew-many", 1_u32) }.unwrap_err();
    assert_eq!(many.kind(), ErrorKind::InvalidInput);
    shared.unlink().unwrap();
    assert_eq!(shared.unlink().unwrap_err().kind(), ErrorKind::NotFound);
    shared.lock().unwrap().one = 3;
    Ok(())
}

fn the_hash_tells_layouts_apart() -> Result<(), Skip> {
    let layouts = [
        u32::LAYOUT,
        i32::LAYOUT,
        f32::LAYOUT,
        u64::LAYOUT,
        <[u32; 1]>::LAYOUT,
        <[u32; 2]>::LAYOUT,
        <[[u32; 1]; 2]>::LAYOUT,
        Pair::LAYOUT,
        other::Pair::LAYOUT,
        shorter::Pair::LAYOUT,
        Layout::of_struct::<u64>(&[Field::new("a", 0, u32::LAYOUT)]),
        Layout::of_struct::<u64>(&[Field::new("b", 0, u32::LAYOUT)]),
        Layout::of_struct::<u64>(&[Field::new("a", 4, u32::LAYOUT)]),
    ];
    for (index, one) in layouts.iter().enumerate() {
        for two in &layouts[index + 1..] {
            assert_ne!(one.hash(), two.hash(), "{one:?} {two:?}");
        }
    }
    assert_eq!(Pair::LAYOUT, same::Renamed::LAYOUT);
    assert_eq!(Pair::LAYOUT.size(), 1016);
    Ok(())
}

fn rubbish_in_the_header_is_refused() -> Result<(), Skip> {
    let name = name("rubbish");
    for at in (0..40).step_by(8) {
        for rubbish in [0, 1, 64, 65, 1 << 20, u64::MAX] {
            let shared = create(Options::new(), &name);
            let map = posix_shm::Options::new().open(&name).unwrap().map().unwrap();
            let word = map.atomic_u64_at(at).unwrap();
            if word.swap(rubbish, Ordering::SeqCst) != rubbish {
                let error = open(&name).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Mismatch, "{at}: {rubbish:#x}: {error}");
            }
            shared.unlink().unwrap();
        }
    }
    Ok(())
}
