//! Barriers between real processes: who comes, who leaves, who dies.

#![allow(unsafe_code, reason = "a forked child uses what is its parent's")]

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::process::{Signal, WaitOptions, getpid, waitpid};
use sinew::barrier::{self, Barrier, Met};
use sinew::mapping::{self, Mapping};
use sinew::memfd::{self, Memfd};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use crate::pipe::{stop, until_asleep};

pub(crate) const TESTS: &[Test] = tests![
    nobody_goes_on_before_all_have_come,
    many_rounds_lose_no_wake_up,
    who_leaves_is_not_waited_for,
    a_killed_member_is_told_to_all,
    a_member_killed_in_its_sleep_is_told_to_all,
    two_killed_at_once_are_told_to_all,
    those_left_go_on_without_the_dead,
    members_killed_at_any_time_are_told_to_all,
    a_stopped_member_is_slow_and_not_dead,
    a_thread_that_ends_is_dead,
    who_gives_up_has_not_come,
    an_interrupt_ends_a_wait,
    a_place_for_each_and_one_for_a_thread,
    a_forked_child_has_no_part,
    what_is_no_barrier_is_refused,
    rubbish_is_no_hang,
];
pub(crate) const ROLES: &[Role] = roles![member, runner];

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(60);

/// Memory for a barrier, and how to hand it over.
struct Place {
    memfd: Memfd,
    map: Arc<Mapping>,
}

impl Place {
    fn new() -> Self {
        let memfd = memfd::Options::new().create("barrier", 8192).unwrap();
        let map = Arc::new(memfd.map().unwrap());
        Self { memfd, map }
    }

    /// A process that is a member.
    fn member(&self) -> Peer {
        let peer = Peer::spawn("barrier::member");
        peer.send_fd(self.memfd.as_fd());
        peer.expect("joined");
        peer
    }
}

/// Joins the barrier at the beginning of the memory that it is sent, and does what it is told.
fn member(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let barrier = Barrier::open_in(&map, 0).unwrap();
    let mut here = Some(barrier.join().unwrap());
    link.say("joined");
    while let Some((words, _)) = link.try_receive() {
        match String::from_utf8(words).unwrap().as_str() {
            "wait" => link.say(text(here.as_ref().unwrap().wait())),
            "wait shortly" => link.say(text(here.as_ref().unwrap().wait_timeout(SHORT))),
            "go on" => while here.as_ref().unwrap().wait().is_ok() {},
            "leave" => {
                here = None;
                link.say("left");
            }
            other => panic!("{other}"),
        }
    }
}

fn text(met: Result<Met, WaitError>) -> String {
    match met {
        Ok(met) => format!("met {}", met.generation),
        Err(e) => format!("{e:?}"),
    }
}

fn nobody_goes_on_before_all_have_come() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 3).unwrap();
    let (one, two) = (place.member(), place.member());
    let here = barrier.join().unwrap();
    assert_eq!((barrier.members(), barrier.dead()), (3, 0));
    for round in 0..3 {
        one.say("wait");
        until_asleep(one.pid());
        assert_eq!(here.try_wait(), Err(WaitError::WouldBlock));
        two.say("wait");
        until_asleep(two.pid());
        let met = here.wait().unwrap();
        assert_eq!(met, Met { generation: round, last: true });
        one.expect(&format!("met {round}"));
        two.expect(&format!("met {round}"));
    }
    for peer in [&one, &two] {
        peer.say("wait");
    }
    let met = here.wait().unwrap();
    assert_eq!(met.generation, 3);
    Ok(())
}

/// Joins, and meets the others as often as it is told, counting in the memory.
fn runner(link: &Link) {
    let map = Arc::new(Memfd::try_from(link.recv_fd()).unwrap().map().unwrap());
    let barrier = Barrier::open_in(&map, 0).unwrap();
    let here = barrier.join().unwrap();
    link.say("joined");
    let rounds: u32 = link.hear().parse().unwrap();
    let mut lasts = 0;
    for round in 0..rounds {
        // Between two meetings everybody adds one, so the sum is known at each.
        map.atomic_u32_at(4096).unwrap().fetch_add(1, Ordering::Relaxed);
        lasts += u32::from(here.wait().unwrap().last);
        let sum = map.atomic_u32_at(4096).unwrap().load(Ordering::Relaxed);
        assert_eq!(sum, (round + 1) * barrier.members());
        here.wait().unwrap();
    }
    link.say(lasts);
    link.expect("leave");
}

fn many_rounds_lose_no_wake_up() -> Result<(), Skip> {
    let rounds = 500;
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 8).unwrap();
    let peers: Vec<Peer> = (0..4).map(|_| Peer::spawn("barrier::runner")).collect();
    for peer in &peers {
        peer.send_fd(place.memfd.as_fd());
        peer.expect("joined");
    }
    assert_eq!(barrier.members(), 4);
    for peer in &peers {
        peer.say(rounds);
    }
    let lasts: u32 = peers.iter().map(|peer| peer.hear().parse::<u32>().unwrap()).sum();
    assert_eq!(lasts, rounds, "one is the last in every round");
    for peer in peers {
        peer.say("leave");
        peer.join();
    }
    assert_eq!((barrier.members(), barrier.dead()), (0, 0));
    Ok(())
}

fn who_leaves_is_not_waited_for() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 4).unwrap();
    let (one, two) = (place.member(), place.member());
    let here = barrier.join().unwrap();
    one.say("wait");
    two.say("wait");
    until_asleep(one.pid());
    until_asleep(two.pid());
    // The one that all wait for leaves: they have met.
    drop(here);
    one.expect("met 0");
    two.expect("met 0");
    one.say("leave");
    one.expect("left");
    two.say("wait");
    two.expect("met 1");
    assert_eq!(barrier.members(), 1);
    Ok(())
}

fn a_killed_member_is_told_to_all() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 6).unwrap();
    let waiting: Vec<Peer> = (0..4).map(|_| place.member()).collect();
    let victim = place.member();
    for peer in &waiting {
        peer.say("wait");
        until_asleep(peer.pid());
    }
    victim.kill();
    for peer in &waiting {
        peer.expect("PeerDied");
    }
    assert_eq!((barrier.members(), barrier.dead()), (4, 1));
    // Later too, and whoever joins now.
    waiting[0].say("wait");
    waiting[0].expect("PeerDied");
    assert_eq!(barrier.join().unwrap().wait(), Err(WaitError::PeerDied));
    Ok(())
}

fn a_member_killed_in_its_sleep_is_told_to_all() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 6).unwrap();
    let waiting: Vec<Peer> = (0..3).map(|_| place.member()).collect();
    let missing = place.member();
    for peer in &waiting {
        peer.say("wait");
        until_asleep(peer.pid());
    }
    waiting[0].signal(Signal::KILL);
    for peer in &waiting[1..] {
        peer.expect("PeerDied");
    }
    missing.say("wait");
    missing.expect("PeerDied");
    assert_eq!(barrier.dead(), 1);
    Ok(())
}

fn two_killed_at_once_are_told_to_all() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 6).unwrap();
    let waiting: Vec<Peer> = (0..4).map(|_| place.member()).collect();
    let victim = place.member();
    for peer in &waiting {
        peer.say("wait");
        until_asleep(peer.pid());
    }
    // The one that the kernel wakes may die before it can tell the others.
    victim.signal(Signal::KILL);
    waiting[0].signal(Signal::KILL);
    for peer in &waiting[1..] {
        peer.expect("PeerDied");
    }
    while barrier.dead() < 2 {
        std::thread::yield_now();
    }
    assert_eq!(barrier.forget_dead(), 2);
    Ok(())
}

fn those_left_go_on_without_the_dead() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 3).unwrap();
    let (one, two) = (place.member(), place.member());
    let here = barrier.join().unwrap();
    two.kill();
    one.say("wait");
    one.expect("PeerDied");
    assert_eq!(here.wait(), Err(WaitError::PeerDied));
    assert_eq!(barrier.join().unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(barrier.forget_dead(), 1);
    assert_eq!(barrier.forget_dead(), 0);
    one.say("wait");
    until_asleep(one.pid());
    assert_eq!(here.wait(), Ok(Met { generation: 0, last: true }));
    one.expect("met 0");
    // The place is free again.
    let three = place.member();
    for peer in [&one, &three] {
        peer.say("wait");
        until_asleep(peer.pid());
    }
    assert_eq!(here.wait(), Ok(Met { generation: 1, last: true }));
    Ok(())
}

fn members_killed_at_any_time_are_told_to_all() -> Result<(), Skip> {
    for round in 0..20_u32 {
        let place = Place::new();
        let barrier = Barrier::create_in(&place.map, 0, 3).unwrap();
        let here = barrier.join().unwrap();
        let victim = place.member();
        victim.say("go on");
        for _ in 0..(1 + round * 37 % 400) {
            here.wait().unwrap();
        }
        victim.signal(Signal::KILL);
        let end = loop {
            if let Err(e) = here.wait() {
                break e;
            }
        };
        assert_eq!(end, WaitError::PeerDied);
        victim.kill();
        assert_eq!(barrier.forget_dead(), 1);
        assert!(here.wait().unwrap().last);
    }
    Ok(())
}

fn a_stopped_member_is_slow_and_not_dead() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
    let peer = place.member();
    let here = barrier.join().unwrap();
    stop(&peer);
    assert_eq!(here.wait_timeout(SHORT * 5), Err(WaitError::TimedOut));
    assert_eq!((barrier.members(), barrier.dead()), (2, 0));
    peer.say("wait");
    peer.signal(Signal::CONT);
    assert_eq!(here.wait_timeout(LONG).unwrap().generation, 0);
    peer.expect("met 0");
    // Stopped in its sleep.
    peer.say("wait");
    until_asleep(peer.pid());
    stop(&peer);
    assert_eq!(here.wait_timeout(LONG), Ok(Met { generation: 1, last: true }));
    peer.signal(Signal::CONT);
    peer.expect("met 1");
    Ok(())
}

fn a_thread_that_ends_is_dead() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
    let here = barrier.join().unwrap();
    std::thread::scope(|s| {
        #[expect(clippy::mem_forget, reason = "a thread that ends without leaving")]
        s.spawn(|| std::mem::forget(barrier.join().unwrap()));
        while barrier.members() < 2 && barrier.dead() == 0 {
            std::thread::yield_now();
        }
        assert_eq!(here.wait(), Err(WaitError::PeerDied));
    });
    Ok(())
}

fn who_gives_up_has_not_come() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
    let peer = place.member();
    let here = barrier.join().unwrap();
    let begin = Instant::now();
    assert_eq!(here.wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(here.wait_until(begin), Err(WaitError::TimedOut));
    assert_eq!(here.try_wait(), Err(WaitError::WouldBlock));
    peer.say("wait shortly");
    peer.expect("TimedOut");
    peer.say("wait");
    until_asleep(peer.pid());
    assert_eq!(here.try_wait(), Ok(Met { generation: 0, last: true }));
    peer.expect("met 0");
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
    let _peer = place.member();
    let here = barrier.join().unwrap();
    let interrupt = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(getpid());
            interrupt.trigger();
        });
        let wait = Wait::timeout(LONG).interrupted_by(&interrupt);
        assert_eq!(here.wait_for(wait), Err(WaitError::Interrupted));
    });
    assert_eq!(here.wait_for(Wait::NEVER), Err(WaitError::WouldBlock));
    Ok(())
}

fn a_place_for_each_and_one_for_a_thread() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
    let one = place.member();
    let here = barrier.join().unwrap();
    let twice = barrier.join().unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::InUse);
    assert!(twice.to_string().starts_with("barrier at 0"), "{twice}");
    std::thread::scope(|s| {
        let full = s.spawn(|| barrier.join().map(drop).unwrap_err().kind()).join().unwrap();
        assert_eq!(full, ErrorKind::LimitReached);
    });
    one.say("leave");
    one.expect("left");
    drop(place.member());
    drop(here);
    assert_eq!(barrier.members() + barrier.dead(), 1);
    assert!(format!("{:?}", barrier.join()).contains("generation: 0"));
    Ok(())
}

fn a_forked_child_has_no_part() -> Result<(), Skip> {
    let place = Place::new();
    let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
    let here = barrier.join().unwrap();
    // SAFETY: this process has one thread, so the child may do whatever it may.
    match unsafe { libc::fork() } {
        0 => {
            let refused = here.wait() == Err(WaitError::Forked);
            drop(here);
            // It may join by itself, and leaves by its end as a dead member.
            let joined = barrier.join().is_ok_and(|own| own.try_wait().is_err());
            // SAFETY: ends the child at once, running nothing of the parent's.
            unsafe { libc::_exit(i32::from(!(refused && joined))) }
        }
        pid => {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0));
        }
    }
    assert_eq!((barrier.members(), barrier.dead()), (1, 0));
    assert!(here.wait().unwrap().last);
    Ok(())
}

fn what_is_no_barrier_is_refused() -> Result<(), Skip> {
    let place = Place::new();
    let open = |at| Barrier::open_in(&place.map, at).unwrap_err().kind();
    assert_eq!(open(0), ErrorKind::Mismatch);
    assert_eq!(open(8192), ErrorKind::InvalidInput);
    assert_eq!(open(usize::MAX), ErrorKind::InvalidInput);
    let create = |at, members| Barrier::create_in(&place.map, at, members).unwrap_err().kind();
    assert_eq!(create(0, 0), ErrorKind::InvalidInput);
    assert_eq!(create(0, barrier::MOST + 1), ErrorKind::InvalidInput);
    assert_eq!(create(8, 2), ErrorKind::InvalidInput);
    assert_eq!(create(8192 - 64, 2), ErrorKind::InvalidInput);
    let fits = 8192 - barrier::size(barrier::MOST);
    Barrier::create_in(&place.map, fits, barrier::MOST).unwrap();
    assert_eq!(create(fits + 64, barrier::MOST), ErrorKind::InvalidInput);
    Barrier::create_in(&place.map, 0, 2).unwrap();
    let read_only = mapping::Options::new().read_only();
    let read_only = Arc::new(place.memfd.map_with(read_only).unwrap());
    let error = Barrier::open_in(&read_only, 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    Ok(())
}

fn rubbish_is_no_hang() -> Result<(), Skip> {
    let place = Place::new();
    let values = [1, 7, 0x4000_0000, 0x8000_0000, 0xC000_0001, u32::MAX, getpid_word()];
    for at in (0..barrier::size(2)).step_by(4) {
        for value in values {
            let barrier = Barrier::create_in(&place.map, 0, 2).unwrap();
            let here = barrier.join().unwrap();
            let word = place.map.atomic_u32_at(at).unwrap();
            let honest = word.swap(value, Ordering::SeqCst);
            // Whatever they say, they say it, and in time.
            let _ = Barrier::open_in(&place.map, 0).map(|again| drop(again.join()));
            let _ = here.try_wait();
            let _ = here.wait_timeout(Duration::from_millis(1));
            let _ = barrier.forget_dead();
            word.store(honest, Ordering::SeqCst);
            drop(here);
        }
    }
    Ok(())
}

/// The number of this thread, as a lock word has it.
fn getpid_word() -> u32 {
    getpid().as_raw_nonzero().get().unsigned_abs()
}
