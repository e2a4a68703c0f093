//! eventfd: two kinds, all forms, many takers, full counters, and what peers do to a shared one.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::process::Signal;
use sinew::eventfd::{self, Counter, EventFd, Kind, Semaphore};
use sinew::memfd::Memfd;
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, SendError, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, fallbacks_forced, roles, tests};

use crate::pipe::{assert_one_call, flags, pretend, until_asleep};
use crate::posix_mq::in_call;

pub(crate) const TESTS: &[Test] = tests![
    a_counter_gives_all_and_a_semaphore_one,
    it_begins_with_what_is_asked,
    the_four_forms_take,
    a_deadline_is_never_early,
    the_four_forms_add,
    a_full_counter_blocks_until_it_is_taken,
    a_full_counter_of_any_kind_ends_bounded_additions,
    more_than_it_holds_is_refused,
    an_interrupt_ends_taking_and_adding,
    it_is_readable_while_it_is_not_zero,
    each_ticket_is_taken_once_by_many_processes,
    flags_that_a_peer_sets_change_no_result,
    one_of_others_that_blocks_is_not_read_where_nothing_could_end_it,
    only_an_eventfd_of_the_kind_becomes_one,
    it_is_close_on_exec_and_blocks_where_the_kernel_lets_it,
    a_clone_is_the_same_counter,
    a_killed_holder_leaves_the_count,
    without_descriptors_the_limit_is_named,
    taking_and_notifying_are_one_system_call,
];
pub(crate) const ROLES: &[Role] = roles![ticket_office, bounded_taker, taker, adder];

/// The two ways in which the library asks the kernel.
const KERNELS: [&str; 2] = ["none", "eventfd-nowait"];
const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);
const MOST: u64 = u64::MAX - 1;

fn a_counter_gives_all_and_a_semaphore_one() -> Result<(), Skip> {
    let counter = eventfd::counter().unwrap();
    counter.notify().unwrap();
    counter.add(41).unwrap();
    assert_eq!(counter.count().unwrap(), 42);
    assert_eq!(counter.wait(), Ok(42));
    assert_eq!(counter.try_wait(), Err(WaitError::WouldBlock));

    let tickets = eventfd::semaphore().unwrap();
    tickets.add(2).unwrap();
    assert_eq!(tickets.wait(), Ok(()));
    assert_eq!(tickets.count().unwrap(), 1);
    assert_eq!(tickets.try_wait(), Ok(()));
    assert_eq!(tickets.try_wait(), Err(WaitError::WouldBlock));
    // Nothing added is nothing to take.
    tickets.add(0).unwrap();
    assert_eq!(tickets.try_wait(), Err(WaitError::WouldBlock));
    Ok(())
}

fn it_begins_with_what_is_asked() -> Result<(), Skip> {
    let options = eventfd::Options::new().initial(u32::MAX);
    assert_eq!(options.counter().unwrap().wait(), Ok(u64::from(u32::MAX)));
    let tickets = options.nonblocking().semaphore().unwrap();
    assert_eq!(tickets.wait(), Ok(()));
    assert_eq!(tickets.count().unwrap(), u64::from(u32::MAX - 1));
    Ok(())
}

fn the_four_forms_take() -> Result<(), Skip> {
    let own = rustix::process::getpid();
    for options in [eventfd::Options::new(), eventfd::Options::new().nonblocking()] {
        let counter = options.counter().unwrap();
        assert_eq!(counter.try_wait(), Err(WaitError::WouldBlock));
        assert_eq!(counter.wait_timeout(SHORT), Err(WaitError::TimedOut));
        assert_eq!(counter.wait_until(Instant::now() + SHORT), Err(WaitError::TimedOut));
        assert_eq!(counter.wait_until(Instant::now()), Err(WaitError::TimedOut));
        for form in 0..4 {
            counter.add(7).unwrap();
            let got = match form {
                0 => counter.wait(),
                1 => counter.try_wait(),
                2 => counter.wait_timeout(Duration::ZERO),
                _ => counter.wait_until(Instant::now()),
            };
            assert_eq!(got, Ok(7));
        }
        for form in 0..3 {
            std::thread::scope(|s| {
                s.spawn(|| {
                    until_asleep(own);
                    counter.add(7).unwrap();
                });
                let got = match form {
                    0 => counter.wait(),
                    1 => counter.wait_timeout(LONG),
                    _ => counter.wait_until(Instant::now() + LONG),
                };
                assert_eq!(got, Ok(7));
            });
        }
    }
    Ok(())
}

fn a_deadline_is_never_early() -> Result<(), Skip> {
    let counter = eventfd::counter().unwrap();
    for micros in [1, 999, 12_345] {
        let timeout = Duration::from_micros(micros);
        let begin = Instant::now();
        assert_eq!(counter.wait_timeout(timeout), Err(WaitError::TimedOut));
        assert!(begin.elapsed() >= timeout);
    }
    Ok(())
}

fn the_four_forms_add() -> Result<(), Skip> {
    for options in [eventfd::Options::new(), eventfd::Options::new().nonblocking()] {
        let counter = options.counter().unwrap();
        counter.add(1).unwrap();
        counter.try_add(2).unwrap();
        counter.add_timeout(4, LONG).unwrap();
        counter.add_until(8, Instant::now()).unwrap();
        assert_eq!(counter.wait(), Ok(15));
    }
    Ok(())
}

/// Adds one, in the form that it is told, and says what came of it.
fn adder(link: &Link) {
    let counter = EventFd::<Counter>::try_from(link.recv_fd()).unwrap();
    loop {
        let Some((words, _)) = link.try_receive() else { return };
        let done = match String::from_utf8(words).unwrap().as_str() {
            "add" => counter.add(1),
            _ => counter.add_timeout(1, LONG),
        };
        link.say(format!("{done:?}"));
    }
}

fn a_full_counter_blocks_until_it_is_taken() -> Result<(), Skip> {
    for options in [eventfd::Options::new(), eventfd::Options::new().nonblocking()] {
        let counter = options.counter().unwrap();
        let peer = Peer::spawn("eventfd::adder");
        peer.send_fd(&counter);
        for form in ["add", "add_timeout"] {
            counter.add(MOST).unwrap();
            peer.say(form);
            if form == "add" && !flags(&counter).contains(OFlags::NONBLOCK) {
                in_call(&peer, libc::SYS_write);
            } else {
                until_asleep(peer.pid());
            }
            assert_eq!(counter.wait(), Ok(MOST));
            peer.expect("Ok(())");
            assert_eq!(counter.wait(), Ok(1));
        }
    }
    Ok(())
}

fn a_full_counter_of_any_kind_ends_bounded_additions() -> Result<(), Skip> {
    fn full<K: Kind>(event: &EventFd<K>) {
        assert_eq!(event.try_add(1), Err(SendError::Full));
        let begin = Instant::now();
        assert_eq!(event.add_timeout(1, SHORT), Err(SendError::TimedOut));
        assert!(begin.elapsed() >= SHORT);
        assert_eq!(event.add_until(1, Instant::now() + SHORT), Err(SendError::TimedOut));
        assert_eq!(event.add_until(1, Instant::now()), Err(SendError::TimedOut));
    }
    for options in [eventfd::Options::new(), eventfd::Options::new().nonblocking()] {
        let (counter, tickets) = (options.counter().unwrap(), options.semaphore().unwrap());
        counter.add(MOST).unwrap();
        full(&counter);
        tickets.add(MOST).unwrap();
        full(&tickets);
        // One free place is not two, though poll(2) says that there is room.
        assert_eq!(tickets.try_wait(), Ok(()));
        assert_eq!(tickets.try_add(2), Err(SendError::Full));
        assert_eq!(tickets.add_timeout(2, SHORT), Err(SendError::TimedOut));
    }
    let to_the_end = eventfd::Options::new().nonblocking().counter().unwrap();
    to_the_end.try_add(MOST - 1).unwrap();
    to_the_end.try_add(1).unwrap();
    assert_eq!(to_the_end.try_add(1), Err(SendError::Full));
    assert_eq!(to_the_end.try_wait(), Ok(MOST));
    Ok(())
}

fn more_than_it_holds_is_refused() -> Result<(), Skip> {
    let counter = eventfd::counter().unwrap();
    let refused = Err(SendError::Os(Errno::INVAL.raw_os_error()));
    assert_eq!(counter.add(u64::MAX), refused);
    assert_eq!(counter.try_add(u64::MAX), refused);
    assert_eq!(counter.count().unwrap(), 0);
    Ok(())
}

fn an_interrupt_ends_taking_and_adding() -> Result<(), Skip> {
    let own = rustix::process::getpid();
    for options in [eventfd::Options::new(), eventfd::Options::new().nonblocking()] {
        let counter = options.counter().unwrap();
        let stop = Interrupt::new().unwrap();
        let wait = Wait::FOREVER.interrupted_by(&stop);
        let trigger = || {
            until_asleep(own);
            stop.trigger();
        };
        std::thread::scope(|s| {
            s.spawn(trigger);
            assert_eq!(counter.wait_for(wait), Err(WaitError::Interrupted));
        });
        stop.clear();
        counter.add(MOST).unwrap();
        std::thread::scope(|s| {
            s.spawn(trigger);
            assert_eq!(counter.add_wait(1, wait), Err(SendError::Interrupted));
        });
        assert_eq!(counter.wait_for(wait), Err(WaitError::Interrupted));
        stop.clear();
        assert_eq!(counter.wait_for(wait), Ok(MOST));
    }
    Ok(())
}

fn ready(fd: impl AsFd) -> PollFlags {
    let mut one = [PollFd::new(&fd, PollFlags::IN | PollFlags::OUT)];
    poll(&mut one, Some(&Timespec::default())).unwrap();
    one[0].revents()
}

fn it_is_readable_while_it_is_not_zero() -> Result<(), Skip> {
    let tickets = eventfd::semaphore().unwrap();
    assert_eq!(ready(&tickets), PollFlags::OUT);
    tickets.add(2).unwrap();
    assert_eq!(ready(&tickets), PollFlags::IN | PollFlags::OUT);
    tickets.wait().unwrap();
    assert_eq!(ready(&tickets), PollFlags::IN | PollFlags::OUT);
    tickets.wait().unwrap();
    assert_eq!(ready(&tickets), PollFlags::OUT);
    tickets.add(MOST).unwrap();
    assert_eq!(ready(&tickets), PollFlags::IN);
    Ok(())
}

const TAKERS: usize = 3;
const EACH: u64 = 2_000;

/// Takes tickets in the bounded forms until it is told to stop. Each attempt that ends is counted in
/// a word of its own, the tickets in another.
fn bounded_taker(link: &Link) {
    let tickets = EventFd::<Semaphore>::try_from(link.recv_fd()).unwrap();
    let board = Memfd::try_from(link.recv_fd()).unwrap().map().unwrap();
    let own: usize = link.hear().parse().unwrap();
    let stop = board.atomic_u64_at(0).unwrap();
    let attempts = board.atomic_u64_at(8 + 16 * own).unwrap();
    let taken = board.atomic_u64_at(16 + 16 * own).unwrap();
    let mut form = 0;
    while stop.load(Ordering::Acquire) == 0 {
        form = (form + 1) % 3;
        let got = match form {
            0 => tickets.try_wait(),
            1 => tickets.wait_timeout(Duration::from_micros(20)),
            _ => tickets.wait_until(Instant::now() + Duration::from_micros(20)),
        };
        match got {
            Ok(()) => drop(taken.fetch_add(1, Ordering::AcqRel)),
            Err(WaitError::TimedOut | WaitError::WouldBlock) => {}
            Err(other) => panic!("{other}"),
        }
        attempts.fetch_add(1, Ordering::AcqRel);
    }
}

/// Takes its share, in the form that waits for ever.
fn taker(link: &Link) {
    let tickets = EventFd::<Semaphore>::try_from(link.recv_fd()).unwrap();
    for _ in 0..EACH {
        tickets.wait().unwrap();
    }
    link.say("done");
}

/// Gives out tickets to processes that all want the next one.
fn ticket_office(_: &Link) {
    let tickets = eventfd::semaphore().unwrap();
    let start = |role: &str| -> Vec<Peer> {
        let peers: Vec<_> = (0..TAKERS).map(|_| Peer::spawn(role)).collect();
        for peer in &peers {
            peer.send_fd(&tickets);
        }
        peers
    };

    let peers = start("eventfd::taker");
    for _ in 0..TAKERS as u64 * EACH {
        tickets.notify().unwrap();
    }
    for peer in peers {
        peer.expect("done");
        peer.join();
    }
    assert_eq!(tickets.try_wait(), Err(WaitError::WouldBlock));

    let memfd = sinew::memfd::Options::new().create("board", 4096).unwrap();
    let board = memfd.map().unwrap();
    let word = |at| board.atomic_u64_at(at).unwrap();
    let peers = start("eventfd::bounded_taker");
    for (own, peer) in peers.iter().enumerate() {
        peer.send_fd(&memfd);
        peer.say(own);
    }
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(20), "never {what}");
            std::thread::yield_now();
        }
    };
    for given in 1..=EACH {
        tickets.add(1).unwrap();
        let taken = || (0..TAKERS).map(|t| word(16 + 16 * t).load(Ordering::Acquire)).sum::<u64>();
        until("taken", &|| taken() == given);
        // Whoever was too late has to come out without it: no other ticket comes until then.
        for taker in 0..TAKERS {
            let attempts = word(8 + 16 * taker);
            let before = attempts.load(Ordering::Acquire);
            until("without", &|| attempts.load(Ordering::Acquire) > before);
        }
        assert_eq!(taken(), given);
    }
    word(0).store(1, Ordering::Release);
    peers.into_iter().for_each(Peer::join);
}

fn each_ticket_is_taken_once_by_many_processes() -> Result<(), Skip> {
    for without in KERNELS {
        Peer::spawn_with("eventfd::ticket_office", |c| {
            c.env("SINEW_WITHOUT", without);
        })
        .join();
    }
    Ok(())
}

fn flags_that_a_peer_sets_change_no_result() -> Result<(), Skip> {
    // Where the library has nothing but the flag, it refuses to read once the flag is gone: below.
    let settings = [OFlags::NONBLOCK, OFlags::empty()];
    for &other in &settings[..if fallbacks_forced() { 1 } else { 2 }] {
        for options in [eventfd::Options::new(), eventfd::Options::new().nonblocking()] {
            let counter = options.counter().unwrap();
            fcntl_setfl(&counter, other).unwrap();
            assert_eq!(counter.try_wait(), Err(WaitError::WouldBlock));
            assert_eq!(counter.wait_timeout(SHORT), Err(WaitError::TimedOut));
            counter.add(MOST).unwrap();
            assert_eq!(counter.try_add(1), Err(SendError::Full));
            assert_eq!(counter.add_timeout(1, SHORT), Err(SendError::TimedOut));
            let own = rustix::process::getpid();
            std::thread::scope(|s| {
                s.spawn(|| {
                    until_asleep(own);
                    assert_eq!(counter.wait(), Ok(MOST));
                });
                counter.add(1).unwrap();
            });
            assert_eq!(counter.wait(), Ok(1));
        }
    }
    Ok(())
}

fn one_of_others_that_blocks_is_not_read_where_nothing_could_end_it() -> Result<(), Skip> {
    pretend("eventfd-nowait");
    let foreign = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
    let counter = EventFd::<Counter>::try_from(foreign).unwrap();
    let refused = Err(WaitError::Os(Errno::OPNOTSUPP.raw_os_error()));
    let stop = Interrupt::new().unwrap();
    for count in [0, 5] {
        counter.add(count).unwrap();
        assert_eq!(counter.try_wait(), refused);
        assert_eq!(counter.wait_timeout(SHORT), refused);
        assert_eq!(counter.wait_for(Wait::FOREVER.interrupted_by(&stop)), refused);
    }
    assert_eq!(counter.wait(), Ok(5));
    // One that became blocking under our hands neither.
    let own = eventfd::counter().unwrap();
    assert_eq!(own.try_wait(), Err(WaitError::WouldBlock));
    fcntl_setfl(&own, OFlags::empty()).unwrap();
    assert_eq!(own.try_wait(), refused);
    Ok(())
}

fn only_an_eventfd_of_the_kind_becomes_one() -> Result<(), Skip> {
    let (rx, _tx) = std::io::pipe().unwrap();
    let file = tempfile::tempfile().unwrap();
    let clock = rustix::time::TimerfdClockId::Monotonic;
    let timer = rustix::time::timerfd_create(clock, rustix::time::TimerfdFlags::CLOEXEC).unwrap();
    for other in [OwnedFd::from(rx), OwnedFd::from(file), timer] {
        let error = EventFd::<Counter>::try_from(other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("not of kind eventfd"), "{error}");
    }
    let counter = OwnedFd::from(eventfd::counter().unwrap());
    let counter = OwnedFd::from(EventFd::<Counter>::try_from(counter).unwrap());
    if crate::pipe::kernel_is_at_least(6, 6) {
        let error = EventFd::<Semaphore>::try_from(counter).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("made as a counter"), "{error}");
        let semaphore = OwnedFd::from(eventfd::semaphore().unwrap());
        EventFd::<Counter>::try_from(semaphore).unwrap_err();
    }
    Ok(())
}

fn it_is_close_on_exec_and_blocks_where_the_kernel_lets_it() -> Result<(), Skip> {
    let tickets = eventfd::semaphore().unwrap();
    let clone = tickets.try_clone().unwrap();
    for fd in [tickets.as_fd(), clone.as_fd()] {
        assert!(rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
        assert_eq!(flags(fd).contains(OFlags::NONBLOCK), fallbacks_forced());
    }
    let nonblocking = eventfd::Options::new().nonblocking().counter().unwrap();
    assert!(flags(&nonblocking).contains(OFlags::NONBLOCK));
    Ok(())
}

fn a_clone_is_the_same_counter() -> Result<(), Skip> {
    let counter = eventfd::counter().unwrap();
    let clone = counter.try_clone().unwrap();
    counter.add(3).unwrap();
    assert_eq!(clone.wait(), Ok(3));
    assert_eq!(counter.try_wait(), Err(WaitError::WouldBlock));
    Ok(())
}

fn a_killed_holder_leaves_the_count() -> Result<(), Skip> {
    let counter = eventfd::counter().unwrap();
    let peer = Peer::spawn("eventfd::adder");
    peer.send_fd(&counter);
    peer.say("add");
    peer.expect("Ok(())");
    counter.add(MOST - 1).unwrap();
    // It dies asleep in the kernel: nothing of its addition is there.
    peer.say("add");
    if !flags(&counter).contains(OFlags::NONBLOCK) {
        in_call(&peer, libc::SYS_write);
    }
    peer.signal(Signal::KILL);
    peer.kill();
    assert_eq!(counter.wait(), Ok(MOST));
    assert_eq!(counter.try_wait(), Err(WaitError::WouldBlock));
    Ok(())
}

fn without_descriptors_the_limit_is_named() -> Result<(), Skip> {
    crate::pipe::leave_descriptors(1);
    let counter = eventfd::counter().unwrap();
    for error in [eventfd::counter().unwrap_err(), counter.try_clone().unwrap_err()] {
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert!(error.to_string().starts_with("eventfd: create"), "{error}");
        assert!(error.to_string().contains("RLIMIT_NOFILE"), "{error}");
    }
    Ok(())
}

fn taking_and_notifying_are_one_system_call() -> Result<(), Skip> {
    pretend("");
    let tickets = eventfd::semaphore().unwrap();
    tickets.add(100).unwrap();
    let later = Instant::now() + LONG;
    assert_one_call(libc::SYS_write, || tickets.notify().unwrap())?;
    assert_one_call(libc::SYS_read, || tickets.wait().unwrap())?;
    assert_one_call(libc::SYS_preadv2, || tickets.try_wait().unwrap())?;
    assert_one_call(libc::SYS_preadv2, || tickets.wait_until(later).unwrap())?;
    Ok(())
}
