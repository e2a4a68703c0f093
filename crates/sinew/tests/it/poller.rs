//! Many descriptors at once: levels, edges, one-shots, wakes, registrations that end, forks.

#![allow(unsafe_code, reason = "tests fork, and set what the library finds of the kernel")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::process::{Pid, WaitOptions, waitpid};
use sinew::poller::{Event, Events, Interest, Poller, Registered, Token};
use sinew::wait::{Interrupt, Receives, Sends, Wait, Waits};
use sinew::{ErrorKind, RecvError, WaitError, pipe, unix};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, skip, steps, tests};

use crate::pipe::{pretend, until_asleep};
use crate::posix_mq::{in_call, refuse};
use crate::wait::interrupt_every_millisecond;

pub(crate) const TESTS: &[Test] = tests![
    a_level_tells_until_it_is_taken,
    an_edge_tells_each_arrival_once,
    a_one_shot_tells_once_until_armed,
    a_change_of_interest_changes_what_is_told,
    no_interest_still_tells_a_hang_up,
    an_end_is_readable_and_no_reader_is_writable,
    what_does_not_fit_comes_later,
    nobody_starves_behind_a_busy_one,
    the_four_forms_wait,
    a_deadline_is_never_early,
    a_time_out_too_long_for_the_clock_is_none,
    an_interrupt_ends_a_wait,
    a_signal_ends_no_wait_and_moves_no_deadline,
    one_wait_is_one_system_call,
    a_wake_ends_this_wait_or_the_next,
    no_wake_is_lost,
    one_wake_ends_one_of_several_waits,
    a_dropped_registration_is_over_though_a_duplicate_lives,
    a_registration_gives_back_or_borrows,
    what_is_registered_twice_is_refused,
    what_cannot_be_polled_is_refused,
    pollers_watch_each_other_but_not_in_a_circle,
    exclusive_excludes_what_the_kernel_excludes,
    exclusive_wakes_one_process,
    the_limit_on_watches_is_named,
    no_descriptor_left_names_the_limit,
    a_forked_child_is_refused_and_takes_nothing,
    a_peer_that_is_killed_is_an_event,
];
pub(crate) const ROLES: &[Role] = roles![waiter, writer];

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);
const A: Token = Token(1);
const B: Token = Token(u64::MAX);

/// Every way in which the library may find the kernel.
const KERNELS: [&str; 4] = ["none", "epoll-pwait2", "wipe-on-fork", "all"];

/// The tokens of what is there now.
fn now(poller: &Poller) -> Vec<Token> {
    all_now(poller).iter().map(|event| event.token()).collect()
}

fn all_now(poller: &Poller) -> Vec<Event> {
    let mut events = Events::with_capacity(8);
    match poller.fill(&mut events).try_wait() {
        Ok(count) => assert_eq!(count, events.len()),
        Err(error) => {
            assert_eq!(error, WaitError::WouldBlock);
            assert!(events.is_empty());
        }
    }
    events.iter().collect()
}

fn counter() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap()
}

fn bump(counter: impl AsFd) {
    rustix::io::write(counter, &1_u64.to_ne_bytes()).unwrap();
}

fn take(counter: impl AsFd) -> u64 {
    let mut count = [0; 8];
    rustix::io::read(counter, &mut count).unwrap();
    u64::from_ne_bytes(count)
}

fn a_level_tells_until_it_is_taken() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (rx, tx) = pipe::pipe().unwrap();
    let rx = poller.add(rx, A, Interest::READABLE).unwrap();
    assert_eq!(now(&poller), []);
    tx.send(b"xy").unwrap();
    assert_eq!(now(&poller), [A]);
    assert_eq!(rx.recv(&mut [0; 1]), Ok(1));
    assert_eq!(now(&poller), [A], "a byte is left");
    assert_eq!(rx.recv(&mut [0; 1]), Ok(1));
    assert_eq!(now(&poller), []);
    Ok(())
}

fn an_edge_tells_each_arrival_once() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(b"x").unwrap();
    // What was there before counts as one.
    let rx = poller.add(rx, A, Interest::READABLE.edge()).unwrap();
    assert_eq!(now(&poller), [A]);
    assert_eq!(now(&poller), []);
    tx.send(b"y").unwrap();
    assert_eq!(now(&poller), [A]);
    assert_eq!(rx.recv(&mut [0; 1]), Ok(1));
    assert_eq!(now(&poller), [], "what is left is no edge");
    rx.modify(B, Interest::READABLE.edge()).unwrap();
    assert_eq!(now(&poller), [B], "a change looks again");
    Ok(())
}

fn a_one_shot_tells_once_until_armed() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (rx, tx) = pipe::pipe().unwrap();
    let rx = poller.add(rx, A, Interest::READABLE.one_shot()).unwrap();
    tx.send(b"x").unwrap();
    assert_eq!(now(&poller), [A]);
    tx.send(b"y").unwrap();
    assert_eq!(now(&poller), []);
    drop(tx);
    assert_eq!(now(&poller), [], "not even the end");
    rx.modify(A, Interest::READABLE.one_shot()).unwrap();
    assert_eq!(now(&poller), [A]);
    assert_eq!(now(&poller), []);
    Ok(())
}

fn a_change_of_interest_changes_what_is_told() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (a, b) = unix::pair().unwrap();
    let a = poller.add(a, A, Interest::READABLE | Interest::WRITABLE).unwrap();
    let events = all_now(&poller);
    assert_eq!(events.len(), 1);
    assert!(events[0].is_writable() && !events[0].is_readable(), "{events:?}");
    a.modify(B, Interest::READABLE).unwrap();
    assert_eq!(now(&poller), []);
    b.send(b"x").unwrap();
    let events = all_now(&poller);
    assert!(events[0].is_readable() && !events[0].is_writable(), "{events:?}");
    assert_eq!(events[0].token(), B);
    a.modify(A, Interest::NONE).unwrap();
    assert_eq!(now(&poller), []);
    // Urgent data of TCP.
    let (a, b) = sinew::inet::pair().unwrap();
    let a = poller.add(a, A, Interest::PRIORITY).unwrap();
    b.send(b"x").unwrap();
    assert_eq!(now(&poller), []);
    rustix::net::send(&b, b"!", rustix::net::SendFlags::OOB).unwrap();
    let events = wait_for_one(&poller);
    assert!(events.is_priority(), "{events:?}");
    drop(a);
    Ok(())
}

/// The next event, where the kernel may take a moment.
fn wait_for_one(poller: &Poller) -> Event {
    let mut events = Events::with_capacity(1);
    assert_eq!(poller.fill(&mut events).wait_timeout(LONG), Ok(1));
    events.iter().next().unwrap()
}

fn no_interest_still_tells_a_hang_up() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (a, b) = unix::pair().unwrap();
    let a = poller.add(a, A, Interest::NONE).unwrap();
    assert_eq!(now(&poller), []);
    b.send(b"x").unwrap();
    assert_eq!(now(&poller), []);
    drop(b);
    let events = all_now(&poller);
    assert!(events[0].is_closed() && events[0].is_readable(), "{events:?}");
    drop(a);
    assert_eq!(now(&poller), []);
    Ok(())
}

fn an_end_is_readable_and_no_reader_is_writable() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    // The kernel gives a pipe without writers no "readable" of its own: only a hang-up.
    let (rx, tx) = pipe::pipe().unwrap();
    let rx = poller.add(rx, A, Interest::READABLE).unwrap();
    drop(tx);
    let event = wait_for_one(&poller);
    assert!(event.is_readable() && event.is_closed() && event.is_read_closed(), "{event:?}");
    assert_eq!(rx.try_recv(&mut [0]), Err(RecvError::Closed));
    drop(rx);

    let (rx, tx) = pipe::pipe().unwrap();
    while tx.try_send(&[0; 4096]).is_ok() {}
    let tx = poller.add(tx, A, Interest::WRITABLE).unwrap();
    assert_eq!(now(&poller), []);
    drop(rx);
    let event = wait_for_one(&poller);
    assert!(event.is_writable() && event.is_error(), "{event:?}");
    drop(tx);

    // Half an end.
    let (a, b) = unix::pair().unwrap();
    let a = poller.add(a, A, Interest::READABLE).unwrap();
    b.shutdown(std::net::Shutdown::Write).unwrap();
    let event = wait_for_one(&poller);
    assert!(event.is_readable() && event.is_read_closed() && !event.is_closed(), "{event:?}");
    drop(a);
    Ok(())
}

fn what_does_not_fit_comes_later() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let sources: Vec<_> = (0..10)
        .map(|i| {
            let source = counter();
            bump(&source);
            poller.add(source, Token(i), Interest::READABLE.edge()).unwrap()
        })
        .collect();
    let mut events = Events::with_capacity(4);
    let mut seen = Vec::new();
    while let Ok(count) = poller.fill(&mut events).try_wait() {
        assert!((1..=4).contains(&count));
        seen.extend(events.iter().map(|event| event.token().0));
    }
    assert_eq!(seen, Vec::from_iter(0..10), "each once, in the order of their arrival");
    drop(sources);
    assert_eq!(Events::with_capacity(0).capacity(), 1);
    Ok(())
}

fn nobody_starves_behind_a_busy_one() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let sources: Vec<_> = (0..5)
        .map(|i| {
            let source = counter();
            bump(&source);
            poller.add(source, Token(i), Interest::READABLE).unwrap()
        })
        .collect();
    // All stay ready. With room for one event each has every fifth wait.
    let mut events = Events::with_capacity(1);
    for _ in 0..10 {
        let mut round: Vec<_> = (0..5)
            .map(|_| {
                poller.fill(&mut events).try_wait().unwrap();
                let token = events.iter().next().unwrap().token().0;
                bump(&sources[0]);
                token
            })
            .collect();
        round.sort_unstable();
        assert_eq!(round, [0, 1, 2, 3, 4]);
    }
    Ok(())
}

fn the_four_forms_wait() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let source = poller.add(counter(), A, Interest::READABLE).unwrap();
    let mut events = Events::with_capacity(4);
    let past = Instant::now();
    assert_eq!(poller.fill(&mut events).try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(poller.fill(&mut events).wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert_eq!(poller.fill(&mut events).wait_until(past), Err(WaitError::TimedOut));
    bump(&source);
    assert_eq!(poller.fill(&mut events).wait(), Ok(1));
    assert_eq!(poller.fill(&mut events).try_wait(), Ok(1));
    assert_eq!(poller.fill(&mut events).wait_timeout(LONG), Ok(1));
    assert_eq!(poller.fill(&mut events).wait_timeout(Duration::ZERO), Ok(1));
    assert_eq!(poller.fill(&mut events).wait_until(past), Ok(1), "it looks once");
    take(&source);
    // What the last wait gave is gone when the next one fails.
    assert_eq!(events.len(), 1);
    assert_eq!(poller.fill(&mut events).wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(events.is_empty());
    Ok(())
}

fn a_deadline_is_never_early() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let mut events = Events::with_capacity(1);
    for micros in [1, 50, 999, 1_001, 3_500] {
        let timeout = Duration::from_micros(micros);
        let start = Instant::now();
        assert_eq!(poller.fill(&mut events).wait_timeout(timeout), Err(WaitError::TimedOut));
        assert!(start.elapsed() >= timeout);
    }
    if fallbacks_forced() {
        return Ok(());
    }
    // Its deadlines are finer than a millisecond: a hundred waits of 50 us, the shortest of which has
    // to be seen on a busy machine too.
    let shortest = (0..100)
        .map(|_| {
            let start = Instant::now();
            let _ = poller.fill(&mut events).wait_timeout(Duration::from_micros(50));
            start.elapsed()
        })
        .min();
    assert!(shortest.unwrap() < Duration::from_millis(1), "{shortest:?}");
    Ok(())
}

fn a_time_out_too_long_for_the_clock_is_none() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let waker = poller.waker(A).unwrap();
    let mut events = Events::with_capacity(1);
    // The last is longer than the older call can say in its milliseconds.
    for timeout in
        [Duration::MAX, Duration::from_secs(u64::MAX / 4), Duration::from_secs(3_600_000)]
    {
        std::thread::scope(|s| {
            s.spawn(|| {
                until_asleep(Pid::from_raw(i32::try_from(std::process::id()).unwrap()).unwrap());
                waker.wake();
            });
            assert_eq!(poller.fill(&mut events).wait_timeout(timeout), Ok(1));
        });
    }
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let source = poller.add(counter(), A, Interest::READABLE).unwrap();
    let stop = Interrupt::new().unwrap();
    let mut events = Events::with_capacity(1);
    let main = rustix::process::getpid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(main);
            stop.trigger();
        });
        let wait = Wait::FOREVER.interrupted_by(&stop);
        assert_eq!(poller.fill(&mut events).wait_for(wait), Err(WaitError::Interrupted));
    });
    // It comes before what is ready, and stays.
    bump(&source);
    for wait in [Wait::FOREVER, Wait::NEVER, Wait::timeout(LONG)] {
        let wait = wait.interrupted_by(&stop);
        assert_eq!(poller.fill(&mut events).wait_for(wait), Err(WaitError::Interrupted));
    }
    stop.clear();
    for wait in [Wait::FOREVER, Wait::NEVER, Wait::timeout(LONG)] {
        let wait = wait.interrupted_by(&stop);
        assert_eq!(poller.fill(&mut events).wait_for(wait), Ok(1));
    }
    take(&source);
    let wait = Wait::timeout(SHORT).interrupted_by(&stop);
    assert_eq!(poller.fill(&mut events).wait_for(wait), Err(WaitError::TimedOut));
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(main);
            bump(&source);
        });
        let wait = Wait::FOREVER.interrupted_by(&stop);
        assert_eq!(poller.fill(&mut events).wait_for(wait), Ok(1));
    });
    Ok(())
}

fn a_signal_ends_no_wait_and_moves_no_deadline() -> Result<(), Skip> {
    interrupt_every_millisecond();
    let poller = Poller::new().unwrap();
    let mut events = Events::with_capacity(1);
    for timeout in [SHORT * 6, SHORT * 6 + Duration::from_micros(300)] {
        let start = Instant::now();
        assert_eq!(poller.fill(&mut events).wait_timeout(timeout), Err(WaitError::TimedOut));
        assert!(start.elapsed() >= timeout);
    }
    Ok(())
}

fn one_wait_is_one_system_call() -> Result<(), Skip> {
    // With the page that is wiped; without it each wait asks for the process id before.
    pretend("");
    // A deadline takes two looks at the clock.
    let waits = [
        (Some(Wait::FOREVER), libc::SYS_epoll_pwait, 100),
        (Some(Wait::NEVER), libc::SYS_epoll_pwait, 150),
        (None, libc::SYS_epoll_pwait2, 600),
    ];
    for (wait, number, instructions) in waits {
        // The child that is measured makes its own.
        let mut made: Option<(Poller, Registered<OwnedFd>, Events)> = None;
        let done = steps::measure(2, || {
            let (poller, _, events) = made.get_or_insert_with(|| {
                let poller = Poller::new().unwrap();
                let source = poller.add(counter(), A, Interest::READABLE).unwrap();
                bump(&source);
                (poller, source, Events::with_capacity(8))
            });
            let wait = wait.unwrap_or_else(|| Wait::timeout(LONG));
            assert_eq!(poller.fill(events).wait_for(wait), Ok(1));
        });
        let Ok(done) = done else {
            return skip("this process may not trace its own child");
        };
        assert_eq!(done.calls.iter().map(|call| call.number).collect::<Vec<_>>(), [number]);
        if cfg!(not(debug_assertions)) {
            let before = done.calls[0].instructions_before;
            assert!(before <= instructions, "{wait:?}: {before}");
        }
    }
    Ok(())
}

fn a_wake_ends_this_wait_or_the_next() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let waker = poller.waker(A).unwrap();
    let other = poller.waker(B).unwrap();
    assert_eq!(now(&poller), []);
    for _ in 0..3 {
        waker.wake();
    }
    assert_eq!(now(&poller), [A], "several are one");
    assert_eq!(now(&poller), []);
    let copy = waker.clone();
    copy.wake();
    other.wake();
    assert_eq!(now(&poller), [A, B]);
    let main = rustix::process::getpid();
    std::thread::scope(|s| {
        s.spawn(move || {
            until_asleep(main);
            copy.wake();
        });
        assert_eq!(wait_for_one(&poller).token(), A);
    });
    // One that comes while nobody waits, and whose waker is gone.
    other.wake();
    drop(other);
    assert_eq!(now(&poller), [], "it ends with its waker");
    waker.wake();
    assert_eq!(now(&poller), [A]);
    // Another poller, or whatever else, sees it too.
    let outer = Poller::new().unwrap();
    let inner = outer.add(poller, B, Interest::READABLE).unwrap();
    assert_eq!(now(&outer), []);
    waker.wake();
    assert_eq!(now(&outer), [B]);
    assert_eq!(now(&inner), [A]);
    assert_eq!(now(&outer), []);
    Ok(())
}

fn no_wake_is_lost() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let waker = poller.waker(A).unwrap();
    let (go, went) = mpsc::sync_channel::<()>(0);
    let mut events = Events::with_capacity(1);
    std::thread::scope(|s| {
        s.spawn(move || {
            while let Ok(()) = went.recv() {
                waker.wake();
            }
        });
        // Each wake races with the wait that it is for.
        for _ in 0..20_000 {
            go.send(()).unwrap();
            assert_eq!(poller.fill(&mut events).wait_timeout(LONG), Ok(1));
        }
        drop(go);
    });
    Ok(())
}

fn one_wake_ends_one_of_several_waits() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let waker = poller.waker(A).unwrap();
    let (told, tells) = mpsc::channel();
    std::thread::scope(|s| {
        for _ in 0..3 {
            let (told, poller) = (told.clone(), &poller);
            s.spawn(move || {
                let mut events = Events::with_capacity(4);
                told.send(poller.fill(&mut events).wait()).unwrap();
            });
        }
        for _ in 0..3 {
            assert_eq!(tells.try_recv(), Err(mpsc::TryRecvError::Empty));
            waker.wake();
            assert_eq!(tells.recv_timeout(LONG), Ok(Ok(1)));
        }
    });
    Ok(())
}

fn a_dropped_registration_is_over_though_a_duplicate_lives() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (rx, tx) = pipe::pipe().unwrap();
    let duplicate = rx.try_clone().unwrap();
    tx.send(b"x").unwrap();
    let registered = poller.add(rx, A, Interest::READABLE).unwrap();
    assert_eq!(now(&poller), [A]);
    drop(registered);
    // Closed without being removed first, it would give events for ever.
    assert_eq!(now(&poller), []);
    let registered = poller.add(duplicate, B, Interest::READABLE).unwrap();
    assert_eq!(now(&poller), [B]);
    // It may outlive its poller.
    drop(poller);
    registered.modify(A, Interest::NONE).unwrap();
    drop(registered);
    Ok(())
}

fn a_registration_gives_back_or_borrows() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let source = counter();
    bump(&source);
    {
        let _borrowed = poller.add(&source, A, Interest::READABLE).unwrap();
        assert_eq!(now(&poller), [A]);
    }
    assert_eq!(now(&poller), []);
    let shared = Arc::new(source);
    let registered = poller.add(Arc::clone(&shared), B, Interest::READABLE).unwrap();
    assert_eq!(now(&poller), [B]);
    let back = registered.into_inner();
    assert_eq!(now(&poller), []);
    assert_eq!(take(&back), 1);
    let again = poller.add(back, A, Interest::READABLE).unwrap();
    bump(&shared);
    assert_eq!(now(&poller), [A]);
    assert!(format!("{again:?}").starts_with("Registered("));

    // What is watched can be changed, as long as its descriptor stays.
    struct Counting(OwnedFd, u64);
    impl AsFd for Counting {
        fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
    let mut counting = poller.add(Counting(counter(), 0), B, Interest::READABLE).unwrap();
    counting.get_mut().1 += 1;
    assert_eq!((counting.1, counting.into_inner().1), (1, 1));
    Ok(())
}

fn what_is_registered_twice_is_refused() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let source = counter();
    bump(&source);
    let first = poller.add(&source, A, Interest::READABLE).unwrap();
    let error = poller.add(&source, B, Interest::READABLE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("`modify`"), "{error}");
    assert_eq!(now(&poller), [A], "the first one stays");
    let duplicate = source.try_clone().unwrap();
    let second = poller.add(duplicate, B, Interest::READABLE).unwrap();
    assert_eq!(now(&poller).len(), 2);
    drop((first, second));
    Ok(())
}

fn what_cannot_be_polled_is_refused() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    for file in ["/proc/self/exe", "/"] {
        let file = std::fs::File::open(file).unwrap();
        let error = poller.add(file, A, Interest::READABLE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("regular file"), "{error}");
    }
    Ok(())
}

fn pollers_watch_each_other_but_not_in_a_circle() -> Result<(), Skip> {
    let inner = Poller::new().unwrap();
    let outer = Poller::new().unwrap();
    let error = inner.add(&inner, A, Interest::READABLE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let source = inner.add(counter(), A, Interest::READABLE).unwrap();
    let registered = outer.add(&inner, B, Interest::READABLE).unwrap();
    let error = inner.add(&outer, A, Interest::READABLE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(error.to_string().contains("circle"), "{error}");
    assert_eq!(now(&outer), []);
    bump(&source);
    assert_eq!(now(&outer), [B]);
    assert_eq!(now(&inner), [A]);
    take(&source);
    assert_eq!(now(&outer), []);
    drop(registered);
    Ok(())
}

fn exclusive_excludes_what_the_kernel_excludes() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let invalid = |done: sinew::Result<Registered<OwnedFd>>| {
        let error = done.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    };
    invalid(poller.add(counter(), A, Interest::READABLE.exclusive().one_shot()));
    invalid(poller.add(counter(), A, Interest::PRIORITY.exclusive()));
    let source = poller.add(counter(), A, Interest::READABLE.exclusive().edge()).unwrap();
    bump(&source);
    assert_eq!(now(&poller), [A]);
    let error = source.modify(B, Interest::READABLE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    Ok(())
}

/// Waits in a poller of its own for a counter of others, and says when it was woken.
fn waiter(link: &Link) {
    let source = link.recv_fd();
    let interest = match link.hear().as_str() {
        "exclusive" => Interest::READABLE.exclusive(),
        _ => Interest::READABLE,
    };
    let poller = Poller::new().unwrap();
    let source = poller.add(source, A, interest).unwrap();
    let mut events = Events::with_capacity(1);
    link.say("waits");
    assert_eq!(poller.fill(&mut events).wait(), Ok(1));
    link.say("woken");
    link.expect("end");
    drop(source);
}

fn exclusive_wakes_one_process() -> Result<(), Skip> {
    for interest in ["all", "exclusive"] {
        let source = counter();
        let mut peers: Vec<_> = (0..3).map(|_| Peer::spawn("poller::waiter")).collect();
        for peer in &peers {
            peer.send_fd(&source);
            peer.say(interest);
            peer.expect("waits");
            in_call(peer, libc::SYS_epoll_pwait);
        }
        bump(&source);
        if interest == "all" {
            for peer in &peers {
                peer.expect("woken");
            }
        } else {
            // Who was woken says so; the others sleep on in the very call.
            while peers.len() > 1 {
                let slept = peers.iter().filter(|peer| sleeps_in_epoll(peer)).count();
                assert!(slept >= peers.len() - 1, "more than one was woken");
                let mut spoke = None;
                while spoke.is_none() {
                    spoke = peers.iter().position(|peer| !sleeps_in_epoll(peer));
                }
                let woken = peers.remove(spoke.unwrap());
                woken.expect("woken");
                assert!(peers.iter().all(sleeps_in_epoll), "more than one was woken");
                woken.say("end");
                woken.join();
                bump(&source);
            }
            peers[0].expect("woken");
        }
        for peer in peers {
            peer.say("end");
            peer.join();
        }
    }
    Ok(())
}

/// Whether it is asleep in epoll_wait at this moment.
fn sleeps_in_epoll(peer: &Peer) -> bool {
    let path = format!("/proc/{}/syscall", peer.pid().as_raw_nonzero());
    let call = std::fs::read_to_string(path).unwrap();
    call.split(' ').next() == Some(&libc::SYS_epoll_pwait.to_string())
}

fn the_limit_on_watches_is_named() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    refuse(libc::SYS_epoll_ctl, libc::ENOSPC);
    let error = poller.add(counter(), A, Interest::READABLE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("fs.epoll.max_user_watches ("), "{error}");
    Ok(())
}

fn no_descriptor_left_names_the_limit() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    crate::pipe::leave_descriptors(0);
    for error in [Poller::new().unwrap_err(), poller.waker(A).unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().contains("RLIMIT_NOFILE ("), "{error}");
    }
    Ok(())
}

fn a_forked_child_is_refused_and_takes_nothing() -> Result<(), Skip> {
    for without in KERNELS {
        let peer = Peer::spawn_with("poller::writer", |command| {
            command.env("SINEW_WITHOUT", without);
        });
        peer.say("fork");
        peer.expect("done");
        peer.join();
    }
    Ok(())
}

/// Runs `child` in a forked child, and expects that it returns.
fn forked(child: impl FnOnce()) {
    // SAFETY: the process has one thread.
    match unsafe { libc::fork() } {
        0 => {
            child();
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(0), "the child failed");
        }
    }
}

fn refuses(poller: &Poller, registered: &Registered<OwnedFd>) {
    let mut events = Events::with_capacity(1);
    let stop = Interrupt::new().unwrap();
    for wait in [Wait::NEVER, Wait::FOREVER, Wait::timeout(LONG)] {
        for wait in [wait, wait.interrupted_by(&stop)] {
            assert_eq!(poller.fill(&mut events).wait_for(wait), Err(WaitError::Forked));
        }
    }
    for error in [
        poller.add(counter(), A, Interest::READABLE).unwrap_err(),
        poller.waker(A).unwrap_err(),
        registered.modify(A, Interest::NONE).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Forked);
        assert!(error.to_string().contains("forked child"), "{error}");
    }
}

fn check_forks() {
    let poller = Poller::new().unwrap();
    let waker = poller.waker(B).unwrap();
    let source = counter();
    bump(&source);
    let mut source = Some(poller.add(source, A, Interest::READABLE.one_shot()).unwrap());
    forked(|| {
        refuses(&poller, source.as_ref().unwrap());
        waker.wake();
        // Its own works, and is refused in turn to its child.
        let own = Poller::new().unwrap();
        let mine = own.add(counter(), A, Interest::READABLE).unwrap();
        bump(&*mine);
        assert_eq!(now(&own), [A]);
        forked(|| {
            refuses(&poller, source.as_ref().unwrap());
            refuses(&own, &mine);
            let own = Poller::new().unwrap();
            own.waker(A).unwrap().wake();
        });
        assert_eq!(now(&own), [A]);
        // Neither dropping nor giving back takes anything from the parent.
        drop(source.take());
        drop(waker.clone());
    });
    assert_eq!(now(&poller), [A], "the parent has its registration and its event");
    assert_eq!(now(&poller), []);
    source.as_ref().unwrap().modify(A, Interest::READABLE).unwrap();
    forked(|| drop(source.take().unwrap().into_inner()));
    assert_eq!(now(&poller), [A]);
    waker.wake();
    assert_eq!(now(&poller).len(), 2);
}

/// A peer that writes, or that tests forks.
fn writer(link: &Link) {
    match link.hear().as_str() {
        "fork" => {
            check_forks();
            link.say("done");
        }
        _ => {
            let tx: std::io::PipeWriter = link.recv_fd().into();
            let socket: std::os::unix::net::UnixStream = link.recv_fd().into();
            tx.send(b"hello").unwrap();
            socket.send(b"hello").unwrap();
            link.say("sent");
            link.expect("never");
        }
    }
}

fn a_peer_that_is_killed_is_an_event() -> Result<(), Skip> {
    let poller = Poller::new().unwrap();
    let (rx, tx) = pipe::pipe().unwrap();
    let (own, theirs) = unix::pair().unwrap();
    let rx = poller.add(rx, A, Interest::READABLE).unwrap();
    let own = poller.add(own, B, Interest::READABLE).unwrap();
    let peer = Peer::spawn("poller::writer");
    peer.say("write");
    peer.send_fd(&tx);
    peer.send_fd(&theirs);
    drop((tx, theirs));
    peer.expect("sent");
    let mut buf = [0; 16];
    let events = all_now(&poller);
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(|event| event.is_readable() && !event.is_closed()), "{events:?}");
    assert_eq!((rx.try_recv(&mut buf), own.try_recv(&mut buf)), (Ok(5), Ok(5)));
    // A stopped peer is slow, and nothing else.
    crate::pipe::stop(&peer);
    assert_eq!(now(&poller), []);
    peer.kill();
    let mut closed = all_now(&poller);
    closed.sort_unstable_by_key(|event| event.token());
    assert_eq!(closed.iter().map(|event| event.token()).collect::<Vec<_>>(), [A, B]);
    assert!(closed.iter().all(|event| event.is_closed()), "{closed:?}");
    assert_eq!(rx.try_recv(&mut buf), Err(RecvError::Closed));
    assert_eq!(own.try_recv(&mut buf), Err(RecvError::Closed));
    Ok(())
}
