//! System V semaphores, between two real processes.

#![allow(unsafe_code, reason = "sets that are not complete are made by hand")]

use std::fs;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use sinew::sysv_sem::{Key, MAX, Op, Options, Owned, Set};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, census, roles, skip, tests};

use crate::pipe::{assert_one_call, stop, until_asleep};
use crate::posix_mq::{become_nobody, in_call, without};

pub(crate) const TESTS: &[Test] = tests![
    create_open_and_remove_mean_what_they_say,
    a_private_set_is_found_by_its_id_only,
    open_or_create_keeps_what_exists,
    racing_creators_agree_on_one_set,
    what_cannot_be_is_refused,
    the_status_is_typed,
    owner_and_mode_can_be_set,
    values_are_set_and_read_at_once,
    the_four_forms_take,
    all_operations_happen_or_none,
    a_step_of_many_operations_can_be_tried,
    an_operation_that_may_not_wait_ends_the_step,
    a_token_crosses_processes,
    who_waits_and_who_was_last_is_told,
    a_wait_for_zero_ends_at_zero,
    removal_closes_every_wait,
    a_bounded_wait_ends_in_time_and_not_before,
    an_interrupt_ends_a_wait,
    a_signal_ends_no_wait,
    a_killed_process_gives_back_what_it_took_with_undo,
    without_undo_a_killed_process_keeps_what_it_took,
    a_killed_waiter_takes_nothing_with_it,
    undo_has_a_limit_and_is_cleared_by_setting,
    an_opener_waits_until_a_set_is_complete,
    an_incomplete_set_is_explained,
    a_set_whose_maker_is_gone_is_explained_at_once,
    a_killed_creator_leaves_nothing_that_is_taken_for_a_set,
    too_many_of_anything_names_the_limit,
    processes_lose_and_double_no_ticket,
    another_user_is_refused,
    a_kernel_without_semaphores_says_so,
    an_operation_is_one_system_call,
];
pub(crate) const ROLES: &[Role] =
    roles![user, racer, opener, generator, half_maker, clerk, stranger];

/// A length of time in which nothing happens that a correct program would notice.
const SHORT: Duration = Duration::from_millis(30);
const LONG: Duration = Duration::from_secs(60);

fn private(values: &[u16]) -> Owned {
    Options::new().create(Key::PRIVATE, values).unwrap().remove_on_drop()
}

/// A key that is this test process's own.
fn key(n: u8) -> Key {
    Key::new(i32::from(n) << 24 | (std::process::id() & 0x00ff_ffff).cast_signed())
}

/// Takes and posts as it is told, at semaphore 0 of the set with an id.
fn user(link: &Link) {
    let set = Set::from_id(link.hear().parse().unwrap());
    link.say("open");
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        let done = match words.as_str() {
            "wait" => set.at(0).wait(),
            "wait with undo" => set.at(0).undo().wait(),
            "take both with undo" => {
                set.step(&[Op::take(0, 2).undo(), Op::take(1, 3).undo()]).wait()
            }
            "bounded" => set.at(0).wait_timeout(LONG),
            "zero" => set.at(0).zero().wait(),
            "post" => set.at(0).post(),
            "post with undo" => set.at(0).undo().post_many(5),
            other => panic!("{other}"),
        };
        link.say(format!("{done:?}"));
    }
}

fn user_of(set: &Set) -> Peer {
    let peer = Peer::spawn("sysv_sem::user");
    peer.say(set.id());
    peer.expect("open");
    peer
}

/// A peer that sleeps in what it was told to do.
fn asleep(set: &Set, words: &str) -> Peer {
    let peer = user_of(set);
    peer.say(words);
    in_call(&peer, libc::SYS_semtimedop);
    until_asleep(peer.pid());
    peer
}

fn create_open_and_remove_mean_what_they_say() -> Result<(), Skip> {
    let (key, options) = (key(1), Options::new());
    let missing = options.open(key).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert!(missing.to_string().starts_with("sysv-sem key 0x01"), "{missing}");
    let set = options.create(key, &[1, 2, 3]).unwrap();
    let error = options.create(key, &[1, 2, 3]).unwrap_err();
    assert_eq!(
        (error.kind(), error.raw_os_error()),
        (ErrorKind::AlreadyExists, Some(libc::EEXIST))
    );
    assert_eq!(options.open(key).unwrap(), set);
    assert_eq!(set.values().unwrap(), [1, 2, 3]);
    set.remove().unwrap();
    for error in [
        set.remove().unwrap_err(),
        set.status().unwrap_err(),
        set.values().unwrap_err(),
        set.set_values(&[0; 3]).unwrap_err(),
        set.at(0).value().unwrap_err(),
        set.at(0).set(1).unwrap_err(),
        Set::from_id(-1).remove().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    }
    assert_eq!(set.at(0).wait(), Err(WaitError::Closed));
    assert_eq!(set.at(0).try_wait(), Err(WaitError::Closed));
    assert_eq!(set.at(0).wait_timeout(SHORT), Err(WaitError::Closed));
    assert_eq!(set.at(0).post(), Err(WaitError::Closed));
    assert_eq!(options.open(key).unwrap_err().kind(), ErrorKind::NotFound);
    Ok(())
}

fn a_private_set_is_found_by_its_id_only() -> Result<(), Skip> {
    let (a, b) = (private(&[5]), private(&[6]));
    assert_ne!(a.id(), b.id());
    assert_eq!(Set::from_id(b.id()).values().unwrap(), [6]);
    let error = Options::new().open(Key::PRIVATE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    Ok(())
}

fn open_or_create_keeps_what_exists() -> Result<(), Skip> {
    let first = Options::new().open_or_create(key(2), &[4, 5]).unwrap().remove_on_drop();
    first.at(0).wait().unwrap();
    let second = Options::new().mode(0o666).open_or_create(key(2), &[9]).unwrap();
    assert_eq!(second, *first);
    assert_eq!((second.values().unwrap(), second.status().unwrap().mode), (vec![3, 5], 0o600));
    let error = Options::new().open_or_create(key(2), &[0; 3]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("fewer than 3"), "{error}");
    Ok(())
}

/// Opens or creates, and posts once.
fn racer(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    link.say("ready");
    link.expect("go");
    let set = Options::new().patience(LONG).open_or_create(key, &[100, 7]).unwrap();
    set.at(0).post().unwrap();
    link.say(set.at(1).value().unwrap());
}

fn racing_creators_agree_on_one_set() -> Result<(), Skip> {
    for round in 0..5 {
        let racers: Vec<Peer> = (0..8).map(|_| Peer::spawn("sysv_sem::racer")).collect();
        for racer in &racers {
            racer.say(key(3 + round).get());
            racer.expect("ready");
        }
        racers.iter().for_each(|racer| racer.say("go"));
        for racer in racers {
            racer.expect("7");
            racer.join();
        }
        let set = Options::new().open(key(3 + round)).unwrap().remove_on_drop();
        assert_eq!(set.values().unwrap(), [108, 7]);
    }
    Ok(())
}

fn what_cannot_be_is_refused() -> Result<(), Skip> {
    for values in [&[][..], &[MAX + 1], &[0, u16::MAX]] {
        for error in [
            Options::new().create(key(8), values).unwrap_err(),
            Options::new().open_or_create(key(8), values).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
        }
    }
    assert_eq!(Options::new().open(key(8)).unwrap_err().kind(), ErrorKind::NotFound);
    let set = private(&[MAX, 0]);
    let range = Err(WaitError::Os(libc::ERANGE));
    assert_eq!(set.at(0).post(), range);
    for count in [0, MAX + 1, u16::MAX] {
        assert_eq!(set.at(1).post_many(count), range);
        assert_eq!(set.at(0).take(count).wait(), range, "it neither waits nor takes");
        assert_eq!(set.at(1).take(count).try_wait(), range);
    }
    assert_eq!(set.at(2).wait(), Err(WaitError::Os(libc::EFBIG)));
    assert_eq!(set.step(&[]).wait(), Err(WaitError::Os(libc::EINVAL)));
    assert_eq!(set.step(&[]).try_wait(), Err(WaitError::Os(libc::EINVAL)));
    for error in [
        set.at(0).set(MAX + 1).unwrap_err(),
        set.at(2).set(1).unwrap_err(),
        set.at(2).value().unwrap_err(),
        set.set_values(&[1]).unwrap_err(),
        set.set_values(&[1; 3]).unwrap_err(),
        set.set_values(&[0, MAX + 1]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
    assert_eq!(set.values().unwrap(), [MAX, 0]);
    Ok(())
}

fn the_status_is_typed() -> Result<(), Skip> {
    let before = SystemTime::now() - Duration::from_secs(1);
    let set = Options::new().mode(0o640).create(key(9), &[0, 1]).unwrap().remove_on_drop();
    let user = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let status = set.status().unwrap();
    assert_eq!((status.owner, status.creator), (user, user));
    assert_eq!((status.key, status.mode, status.semaphores), (key(9), 0o640, 2));
    assert!(status.changed.unwrap() >= before && status.last_change.unwrap() >= before);
    Ok(())
}

fn owner_and_mode_can_be_set() -> Result<(), Skip> {
    let set = private(&[1]);
    set.set_mode(0o620).unwrap();
    assert_eq!(set.status().unwrap().mode, 0o620);
    let status = set.status().unwrap();
    let (user, group) = if rustix::process::geteuid().is_root() { (1, 2) } else { status.owner };
    set.set_owner(user, group).unwrap();
    assert_eq!(set.status().unwrap().owner, (user, group));
    assert_eq!(set.status().unwrap().creator, status.creator);
    Ok(())
}

fn values_are_set_and_read_at_once() -> Result<(), Skip> {
    let set = private(&[0; 300]);
    let values: Vec<u16> = (0..300).collect();
    set.set_values(&values).unwrap();
    assert_eq!(set.values().unwrap(), values);
    set.at(299).set(MAX).unwrap();
    assert_eq!(set.at(299).value().unwrap(), MAX);
    // Who can go on is woken by either.
    let peer = asleep(&set, "wait");
    set.at(0).set(2).unwrap();
    peer.expect("Ok(())");
    set.at(0).wait().unwrap();
    peer.say("wait");
    in_call(&peer, libc::SYS_semtimedop);
    set.set_values(&values.iter().map(|v| v + 1).collect::<Vec<_>>()).unwrap();
    peer.expect("Ok(())");
    Ok(())
}

fn the_four_forms_take() -> Result<(), Skip> {
    let set = private(&[6, 0]);
    set.at(0).wait().unwrap();
    set.at(0).try_wait().unwrap();
    set.at(0).wait_timeout(Duration::ZERO).unwrap();
    // A deadline in the past still makes one attempt.
    set.at(0).wait_until(Instant::now()).unwrap();
    set.at(0).take(2).wait_timeout(LONG).unwrap();
    assert_eq!(set.at(0).try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(set.at(0).wait_timeout(Duration::ZERO), Err(WaitError::TimedOut));
    assert_eq!(set.at(0).wait_until(Instant::now()), Err(WaitError::TimedOut));
    set.at(0).zero().wait().unwrap();
    set.at(0).post_many(9).unwrap();
    assert_eq!(set.at(0).zero().try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(set.values().unwrap(), [9, 0]);
    Ok(())
}

fn all_operations_happen_or_none() -> Result<(), Skip> {
    let set = private(&[2, 0, 1]);
    let step = [Op::take(0, 2), Op::post(1, 3), Op::zero(2)];
    assert_eq!(set.step(&step).try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(set.step(&step).wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert_eq!(set.values().unwrap(), [2, 0, 1]);
    set.at(2).wait().unwrap();
    set.step(&step).wait().unwrap();
    assert_eq!(set.values().unwrap(), [0, 3, 0]);
    // One may use what an earlier one has done.
    set.step(&[Op::post(0, 5), Op::take(0, 4), Op::take(0, 1), Op::zero(0)]).try_wait().unwrap();
    // A later one that fails takes back the earlier ones.
    let failing = set.step(&[Op::take(1, 1), Op::post(9, 1)]).wait();
    assert_eq!(failing, Err(WaitError::Os(libc::EFBIG)));
    assert_eq!(set.values().unwrap(), [0, 3, 0]);
    Ok(())
}

fn a_step_of_many_operations_can_be_tried() -> Result<(), Skip> {
    let set = private(&[1; 100]);
    let all: Vec<Op> = (0..100).map(|n| Op::take(n, 1)).collect();
    set.step(&all).try_wait().unwrap();
    assert_eq!(set.values().unwrap(), [0; 100]);
    assert_eq!(set.step(&all).try_wait(), Err(WaitError::WouldBlock));
    // What was given is as it was.
    let back: Vec<Op> = (0..100).map(|n| Op::post(n, 1)).collect();
    set.step(&back).wait().unwrap();
    set.step(&all).wait_timeout(LONG).unwrap();
    Ok(())
}

fn an_operation_that_may_not_wait_ends_the_step() -> Result<(), Skip> {
    let set = private(&[0, 0]);
    let step = [Op::take(0, 1).no_wait(), Op::take(1, 1)];
    assert_eq!(set.step(&step).wait(), Err(WaitError::WouldBlock));
    assert_eq!(set.step(&step).wait_timeout(LONG), Err(WaitError::WouldBlock));
    let stop = Interrupt::new().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(set.step(&step).wait_for(wait), Err(WaitError::WouldBlock));
    // It is the other one that it waits for now.
    set.at(0).post().unwrap();
    assert_eq!(set.step(&step).wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert_eq!(set.values().unwrap(), [1, 0]);
    Ok(())
}

fn a_token_crosses_processes() -> Result<(), Skip> {
    let set = private(&[0]);
    let peer = asleep(&set, "wait");
    set.at(0).post().unwrap();
    peer.expect("Ok(())");
    peer.say("post");
    set.at(0).wait_timeout(LONG).unwrap();
    peer.expect("Ok(())");
    Ok(())
}

fn who_waits_and_who_was_last_is_told() -> Result<(), Skip> {
    let set = private(&[0, 5]);
    let own = Some(std::process::id());
    assert_eq!(set.at(0).last_pid().unwrap(), own, "who created it has set its value");
    assert_eq!((set.at(0).waiters().unwrap(), set.at(1).waiters_for_zero().unwrap()), (0, 0));
    let first = asleep(&set, "wait");
    let second = asleep(&set, "bounded");
    assert_eq!((set.at(0).waiters().unwrap(), set.at(0).waiters_for_zero().unwrap()), (2, 0));
    set.at(0).post_many(2).unwrap();
    first.expect("Ok(())");
    second.expect("Ok(())");
    let last = set.at(0).last_pid().unwrap();
    let peers =
        [first.pid(), second.pid()].map(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    assert!(peers.contains(&last), "{last:?} {peers:?}");
    set.at(0).post().unwrap();
    let zero = asleep(&set, "zero");
    assert_eq!((set.at(0).waiters().unwrap(), set.at(0).waiters_for_zero().unwrap()), (0, 1));
    zero.kill();
    assert_eq!(set.at(0).waiters_for_zero().unwrap(), 0);
    Ok(())
}

fn a_wait_for_zero_ends_at_zero() -> Result<(), Skip> {
    let set = private(&[2]);
    let peer = asleep(&set, "zero");
    set.at(0).wait().unwrap();
    assert_eq!(set.at(0).waiters_for_zero().unwrap(), 1);
    set.at(0).wait().unwrap();
    peer.expect("Ok(())");
    Ok(())
}

fn removal_closes_every_wait() -> Result<(), Skip> {
    let set = private(&[0]);
    let peers = ["wait", "bounded", "wait with undo"].map(|words| asleep(&set, words));
    let (stop, id) = (Interrupt::new().unwrap(), set.id());
    std::thread::scope(|s| {
        let stop = &stop;
        let wait = move || Set::from_id(id).at(0).wait_for(Wait::FOREVER.interrupted_by(stop));
        let interruptible = s.spawn(wait);
        set.remove().unwrap();
        assert_eq!(interruptible.join().unwrap(), Err(WaitError::Closed));
    });
    peers.iter().for_each(|peer| peer.expect("Err(Closed)"));
    Ok(())
}

fn a_bounded_wait_ends_in_time_and_not_before() -> Result<(), Skip> {
    let set = private(&[0]);
    let begin = Instant::now();
    assert_eq!(set.at(0).wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    let begin = Instant::now();
    assert_eq!(set.at(0).wait_until(begin + SHORT), Err(WaitError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    // A stopped peer is not a dead one: the kernel has given it its token, and it will have it.
    let peer = asleep(&set, "bounded");
    stop(&peer);
    set.at(0).post().unwrap();
    peer.signal(Signal::CONT);
    peer.expect("Ok(())");
    // A time-out too long for the clock is none.
    set.at(0).post().unwrap();
    set.at(0).wait_timeout(Duration::MAX).unwrap();
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let set = private(&[0]);
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let waiting = s.spawn(|| set.at(0).wait_for(Wait::FOREVER.interrupted_by(&stop)));
        while set.at(0).waiters().unwrap() == 0 {
            std::thread::yield_now();
        }
        stop.trigger();
        assert_eq!(waiting.join().unwrap(), Err(WaitError::Interrupted));
    });
    set.at(0).post().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    assert_eq!(set.at(0).wait_for(wait), Err(WaitError::Interrupted), "before what is there");
    stop.clear();
    set.at(0).wait_for(wait).unwrap();
    let wait = Wait::timeout(SHORT).interrupted_by(&stop);
    assert_eq!(set.at(0).wait_for(wait), Err(WaitError::TimedOut));
    let wait = Wait::NEVER.interrupted_by(&stop);
    assert_eq!(set.at(0).wait_for(wait), Err(WaitError::WouldBlock));
    // A token comes while it could be interrupted.
    std::thread::scope(|s| {
        let waiting = s.spawn(|| set.at(0).wait_for(Wait::timeout(LONG).interrupted_by(&stop)));
        while set.at(0).waiters().unwrap() == 0 {
            std::thread::yield_now();
        }
        set.at(0).post().unwrap();
        assert_eq!(waiting.join().unwrap(), Ok(()));
    });
    Ok(())
}

fn a_signal_ends_no_wait() -> Result<(), Skip> {
    extern "C" fn nothing(_: i32) {}
    let set = private(&[0]);
    // SAFETY: numbers and an empty set of signals.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as *const () as usize;
    // SAFETY: a handler that does nothing.
    let done = unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    let me = rustix::process::getpid();
    for bounded in [false, true] {
        std::thread::scope(|s| {
            let poster = s.spawn(|| {
                for _ in 0..20 {
                    until_asleep(me);
                    rustix::process::kill_process(me, Signal::USR1).unwrap();
                }
                set.at(0).post().unwrap();
            });
            let wait = if bounded { Wait::timeout(LONG) } else { Wait::FOREVER };
            set.at(0).wait_for(wait).unwrap();
            poster.join().unwrap();
        });
    }
    Ok(())
}

fn a_killed_process_gives_back_what_it_took_with_undo() -> Result<(), Skip> {
    let set = private(&[2, 3]);
    let holder = user_of(&set);
    holder.say("take both with undo");
    holder.expect("Ok(())");
    assert_eq!(set.values().unwrap(), [0, 0]);
    let next = asleep(&set, "wait");
    holder.kill();
    next.expect("Ok(())");
    assert_eq!(set.values().unwrap(), [1, 3]);
    // What it added is taken back too; what others have taken of it meanwhile is not below zero.
    let poster = user_of(&set);
    poster.say("post with undo");
    poster.expect("Ok(())");
    set.at(0).take(4).wait().unwrap();
    poster.kill();
    assert_eq!(set.values().unwrap(), [0, 3]);
    // A good end is an end.
    set.at(0).post().unwrap();
    let holder = user_of(&set);
    holder.say("wait with undo");
    holder.expect("Ok(())");
    drop(holder);
    set.at(0).wait_timeout(LONG).unwrap();
    Ok(())
}

fn without_undo_a_killed_process_keeps_what_it_took() -> Result<(), Skip> {
    let set = private(&[1]);
    let holder = user_of(&set);
    holder.say("wait");
    holder.expect("Ok(())");
    holder.kill();
    assert_eq!(set.at(0).wait_timeout(SHORT), Err(WaitError::TimedOut));
    Ok(())
}

fn a_killed_waiter_takes_nothing_with_it() -> Result<(), Skip> {
    let set = private(&[0]);
    let dead = asleep(&set, "wait");
    let next = asleep(&set, "wait");
    dead.kill();
    assert_eq!(set.at(0).waiters().unwrap(), 1);
    set.at(0).post().unwrap();
    next.expect("Ok(())");
    Ok(())
}

fn undo_has_a_limit_and_is_cleared_by_setting() -> Result<(), Skip> {
    let set = private(&[0]);
    for _ in 0..2 {
        // What is added without undo is taken with it: the sum grows.
        set.at(0).post_many(16_384).unwrap();
        let taken = set.at(0).undo().take(16_384).try_wait();
        if taken.is_err() {
            assert_eq!(taken, Err(WaitError::Os(libc::ERANGE)));
            break;
        }
    }
    assert_eq!(set.at(0).value().unwrap(), 16_384, "the second was refused");
    // Whose value is set has nothing to undo any more.
    let peer = user_of(&set);
    peer.say("wait with undo");
    peer.expect("Ok(())");
    set.at(0).set(7).unwrap();
    peer.kill();
    assert_eq!(set.at(0).value().unwrap(), 7);
    Ok(())
}

/// Makes a set as a program does that is slow to go on, or gone.
fn made_by_hand(key: Key) -> Set {
    // SAFETY: numbers only.
    let id = unsafe { libc::semget(key.get(), 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
    assert!(id >= 0);
    Set::from_id(id)
}

/// Opens or creates, with much patience.
fn opener(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    let options = Options::new().patience(LONG);
    link.say("opening");
    let set = options.open_or_create(key, &[9]).unwrap();
    link.say(set.at(0).value().unwrap());
}

fn an_opener_waits_until_a_set_is_complete() -> Result<(), Skip> {
    let set = made_by_hand(key(20)).remove_on_drop();
    let peer = Peer::spawn("sysv_sem::opener");
    peer.say(key(20).get());
    peer.expect("opening");
    for _ in 0..3 {
        // It looks again and again.
        until_asleep(peer.pid());
        std::thread::yield_now();
    }
    set.at(0).set(3).unwrap();
    set.at(0).post().unwrap();
    peer.expect("4");
    // One that is removed is created by who waited for it.
    drop(set);
    let set = made_by_hand(key(20)).remove_on_drop();
    let peer = Peer::spawn("sysv_sem::opener");
    peer.say(key(20).get());
    peer.expect("opening");
    until_asleep(peer.pid());
    drop(set);
    peer.expect("9");
    Options::new().open(key(20)).unwrap().remove().unwrap();
    Ok(())
}

fn an_incomplete_set_is_explained() -> Result<(), Skip> {
    let set = made_by_hand(key(21)).remove_on_drop();
    let options = Options::new().patience(SHORT);
    let begin = Instant::now();
    let error = options.open(key(21)).unwrap_err();
    assert!(begin.elapsed() >= SHORT);
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    for part in ["nobody has set its values", "as_is", &format!("ipcrm -s {}", set.id())] {
        assert!(error.to_string().contains(part), "{error}");
    }
    let error = options.open_or_create(key(21), &[1]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(options.as_is().open(key(21)).unwrap(), *set);
    set.at(0).set(1).unwrap();
    let error = options.open(key(21)).unwrap_err();
    let own = format!("process {}, which set its values, has not used it", std::process::id());
    assert!(error.to_string().contains(&own), "{error}");
    set.at(0).wait().unwrap();
    options.open(key(21)).unwrap();
    Ok(())
}

/// Makes a set, sets its value, and does not use it.
fn half_maker(link: &Link) {
    let set = made_by_hand(Key::new(link.hear().parse().unwrap()));
    set.at(0).set(1).unwrap();
    link.say(set.id());
    let _ = link.try_receive();
}

fn a_set_whose_maker_is_gone_is_explained_at_once() -> Result<(), Skip> {
    let peer = Peer::spawn("sysv_sem::half_maker");
    peer.say(key(22).get());
    let set = Set::from_id(peer.hear().parse().unwrap()).remove_on_drop();
    let pid = peer.pid().as_raw_nonzero();
    peer.kill();
    let begin = Instant::now();
    let error = Options::new().patience(LONG).open(key(22)).unwrap_err();
    assert!(begin.elapsed() < LONG / 2, "it did not wait for the dead");
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let gone = format!("process {pid}, which set its values, is gone");
    assert!(error.to_string().contains(&gone), "{error}");
    assert!(error.to_string().contains(&format!("ipcrm -s {}", set.id())), "{error}");
    Ok(())
}

/// Creates and removes a set, over and over, until it is killed.
fn generator(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    link.say("running");
    loop {
        Options::new().create(key, &[5, 6]).unwrap().remove().unwrap();
    }
}

fn a_killed_creator_leaves_nothing_that_is_taken_for_a_set() -> Result<(), Skip> {
    let key = key(23);
    let options = Options::new().patience(SHORT);
    for _ in 0..40 {
        let peer = Peer::spawn("sysv_sem::generator");
        peer.say(key.get());
        peer.expect("running");
        // It is found whole, or not at all, while it comes and goes.
        for _ in 0..50 {
            match options.patience(LONG).open(key).and_then(|set| set.values()) {
                Ok(values) => assert_eq!(values, [5, 6]),
                Err(e) => {
                    assert!(matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Closed), "{e}");
                }
            }
        }
        // At whatever instruction it is now.
        peer.kill();
        match options.open(key) {
            Ok(set) => {
                assert_eq!(set.values().unwrap(), [5, 6]);
                set.remove().unwrap();
            }
            Err(e) if e.kind() == ErrorKind::TimedOut => {
                assert!(e.to_string().contains("ipcrm -s"), "{e}");
                options.as_is().open(key).unwrap().remove().unwrap();
            }
            Err(e) => assert_eq!(e.kind(), ErrorKind::NotFound, "{e}"),
        }
    }
    Ok(())
}

fn too_many_of_anything_names_the_limit() -> Result<(), Skip> {
    let limits = |numbers: &str| fs::write("/proc/sys/kernel/sem", numbers);
    if !census::can_be_private() || limits("4 8 3 3").is_err() {
        return skip("no IPC namespace of its own");
    }
    let refused = |values: &[u16], text: &str| {
        let error = Options::new().create(Key::PRIVATE, values).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::LimitReached, "{error}");
        for part in [text, "sysctl -w kernel.sem"] {
            assert!(error.to_string().contains(part), "{error}");
        }
    };
    refused(&[0; 5], "5 semaphores are more than SEMMSL (4)");
    let first = private(&[1; 4]);
    let _second = private(&[0; 2]);
    refused(&[0; 3], "3 semaphores more than the 6 there are exceed SEMMNS (8)");
    let _third = private(&[0]);
    refused(&[0], "3 sets exist, of SEMMNI (3)");
    let step: Vec<Op> = (0..4).map(|n| Op::take(n, 1)).collect();
    assert_eq!(first.step(&step).wait(), Err(WaitError::Os(libc::E2BIG)));
    assert_eq!(first.step(&step).try_wait(), Err(WaitError::Os(libc::E2BIG)));
    first.step(&step[..3]).wait().unwrap();
    assert_eq!(first.values().unwrap(), [0, 0, 0, 1]);
    Ok(())
}

/// Draws tickets until there are no more, or sells them. The one in hand is always given back if its
/// holder dies: it is counted and kept in one step.
fn clerk(link: &Link) {
    let set = Set::from_id(link.hear().parse().unwrap());
    let work = link.hear();
    if let Some(count) = work.strip_prefix("sell ") {
        for _ in 0..count.parse().unwrap() {
            // Sold, and still to be drawn; never more on the counter than there is room for.
            set.step(&[Op::post(0, 1), Op::take(2, 1)]).wait().unwrap();
        }
        link.say("sold");
        return;
    }
    let mut drawn = 0;
    loop {
        match set.step(&[Op::take(0, 1), Op::post(2, 1)]).wait_timeout(Duration::from_millis(20)) {
            Ok(()) => drawn += 1,
            Err(WaitError::TimedOut) if set.at(1).value().unwrap() == 1 => break,
            Err(WaitError::TimedOut) => {}
            Err(e) => panic!("{e}"),
        }
    }
    link.say(drawn);
}

fn processes_lose_and_double_no_ticket() -> Result<(), Skip> {
    const TICKETS: u32 = 100_000;
    // On the counter, whether all are sold, room on the counter.
    let set = private(&[0, 0, 1000]);
    let clerks = |words: &str| -> Vec<Peer> {
        let spawn = |_| {
            let peer = Peer::spawn("sysv_sem::clerk");
            peer.say(set.id());
            peer.say(words);
            peer
        };
        (0..3).map(spawn).collect()
    };
    let drawers = clerks("draw");
    for seller in clerks(&format!("sell {}", TICKETS / 4)) {
        seller.expect("sold");
    }
    let last = Peer::spawn("sysv_sem::clerk");
    last.say(set.id());
    last.say(format!("sell {}", TICKETS / 4));
    last.expect("sold");
    set.at(1).post().unwrap();
    let drawn: u32 = drawers.iter().map(|peer| peer.hear().parse::<u32>().unwrap()).sum();
    assert_eq!((drawn, set.values().unwrap()), (TICKETS, vec![0, 1, 1000]));
    Ok(())
}

/// Another user tries everything.
fn stranger(link: &Link) {
    let key = Key::new(link.hear().parse().unwrap());
    become_nobody();
    let set = Options::new().open(key).unwrap();
    for error in [
        set.status().unwrap_err(),
        set.values().unwrap_err(),
        set.set_values(&[0]).unwrap_err(),
        set.at(0).value().unwrap_err(),
        set.at(0).set(0).unwrap_err(),
        set.set_mode(0o666).unwrap_err(),
        set.remove().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    }
    let refused = Err(WaitError::Os(libc::EACCES));
    assert_eq!(set.at(0).try_wait(), refused);
    assert_eq!(set.at(0).post(), refused);
    assert_eq!(set.at(0).zero().wait(), refused);
    link.say("refused");
}

fn another_user_is_refused() -> Result<(), Skip> {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can be two users");
    }
    let set = Options::new().create(key(24), &[1]).unwrap().remove_on_drop();
    let peer = Peer::spawn("sysv_sem::stranger");
    peer.say(key(24).get());
    peer.expect("refused");
    peer.join();
    assert_eq!(set.values().unwrap(), [1]);
    Ok(())
}

fn a_kernel_without_semaphores_says_so() -> Result<(), Skip> {
    without(libc::SYS_semget);
    for error in [
        Options::new().create(key(25), &[1]).unwrap_err(),
        Options::new().open(key(25)).unwrap_err(),
        Options::new().open_or_create(key(25), &[1]).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("CONFIG_SYSVIPC"), "{error}");
    }
    Ok(())
}

fn an_operation_is_one_system_call() -> Result<(), Skip> {
    let set = private(&[100, 100, 0]);
    let call = libc::SYS_semtimedop;
    let far = Instant::now() + LONG;
    assert_one_call(call, || set.at(0).wait().unwrap())?;
    assert_one_call(call, || set.at(0).undo().wait().unwrap())?;
    assert_one_call(call, || set.at(0).try_wait().unwrap())?;
    assert_one_call(call, || set.at(0).wait_until(far).unwrap())?;
    assert_one_call(call, || set.at(0).post().unwrap())?;
    let step = [Op::take(0, 1), Op::take(1, 2), Op::zero(2)];
    assert_one_call(call, || set.step(&step).wait().unwrap())?;
    assert_one_call(call, || {
        assert_eq!(set.at(2).try_wait(), Err(WaitError::WouldBlock));
    })
}
