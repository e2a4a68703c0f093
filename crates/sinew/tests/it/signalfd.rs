//! Signals read from a descriptor: typed, merged, in batches, and by several readers.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::FdFlags;
use sinew::signal::{Set, Signal, Target};
use sinew::signalfd::{Child, Info, Kind, Sender, SignalFd};
use sinew::wait::{Interrupt, Wait, Waits};
use sinew::{ErrorKind, WaitError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, skip, steps, tests};

use crate::pipe::{flags, until_asleep};
use crate::signal::pidfd_of;

pub(crate) const TESTS: &[Test] = tests![
    what_is_not_blocked_is_refused,
    standard_signals_are_merged,
    signals_of_one_read_come_in_the_kernels_order,
    a_signal_is_one_system_call_and_many_are_too,
    a_bounded_wait_ends,
    an_interrupt_ends_a_wait,
    a_wait_sleeps_until_the_peer_sends,
    of_many_readers_one_has_it_and_none_hangs,
    a_blocking_one_is_replaced,
    what_is_no_signalfd_is_refused,
    it_is_pollable_close_on_exec_and_non_blocking,
    a_forked_child_reads_its_own,
    a_thread_reads_what_was_sent_to_it_and_no_other_does,
    what_becomes_of_a_child_is_told,
    children_that_end_together_are_one_signal,
    a_timer_tells_how_often_it_ran_out,
    a_ready_descriptor_is_told,
    a_sender_that_lies_is_not_vouched_for,
    no_descriptor_names_the_limit,
];
pub(crate) const ROLES: &[Role] = roles![waiter];

const SHORT: Duration = Duration::from_millis(10);
const LONG: Duration = Duration::from_secs(60);

fn own() -> Target<'static> {
    Target::process(std::process::id())
}

fn rt(n: u32) -> Signal {
    Signal::rt(n).unwrap()
}

/// Nothing happens here for so long.
fn idle(time: Duration) {
    let time = Timespec::try_from(time).unwrap();
    assert_eq!(poll(&mut [], Some(&time)), Ok(0));
}

fn waiter(link: &Link) {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    link.say("waits");
    let info = events.wait().unwrap();
    let sender = info.sender().unwrap();
    link.say(format!("{} {} {}", info.signal(), sender.pid, sender.uid));
}

fn what_is_not_blocked_is_refused() -> Result<(), Skip> {
    let error = SignalFd::new(Signal::USR1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().contains("SIGUSR1") && error.to_string().contains("block()"),
        "{error}"
    );
    let _blocked = Set::from(Signal::USR1).block().unwrap();
    SignalFd::new(Signal::USR1).unwrap();
    let error = SignalFd::new([Signal::USR1, Signal::USR2]).unwrap_err();
    assert!(error.to_string().contains("does not block {SIGUSR2}"), "{error}");
    for set in [Set::new(), Signal::KILL.into(), Set::from([Signal::STOP, Signal::USR1])] {
        assert_eq!(SignalFd::new(set).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    Ok(())
}

fn standard_signals_are_merged() -> Result<(), Skip> {
    let set = Set::from([Signal::USR1, Signal::USR2]);
    let _blocked = set.block().unwrap();
    let events = SignalFd::new(set).unwrap();
    own().queue(Signal::USR1, 1).unwrap();
    for value in 2..100_i32 {
        own().queue(Signal::USR1, value).unwrap();
        own().send(Signal::USR2).unwrap();
    }
    assert_eq!(Set::pending().unwrap(), set);
    let mut infos = events.many::<8>().wait().unwrap();
    assert_eq!(infos.len(), 2);
    let first = infos.next().unwrap();
    // The value is that of the first; the others were lost.
    assert_eq!((first.signal(), first.kind()), (Signal::USR1, Kind::Queued(1.into())));
    assert_eq!(infos.next().unwrap().signal(), Signal::USR2);
    assert_eq!(infos.next(), None);
    assert_eq!(events.try_wait(), Err(WaitError::WouldBlock));
    assert!(Set::pending().unwrap().is_empty());
    Ok(())
}

fn signals_of_one_read_come_in_the_kernels_order() -> Result<(), Skip> {
    let set = Set::from([Signal::TERM, rt(0), rt(1)]);
    let _blocked = set.block().unwrap();
    let events = SignalFd::new(set).unwrap();
    for value in 0..3_i32 {
        own().queue(rt(1), value).unwrap();
        own().queue(rt(0), value).unwrap();
    }
    own().send(Signal::TERM).unwrap();
    let seen: Vec<_> = events.many::<4>().wait().unwrap().map(|info| info.signal()).collect();
    assert_eq!(seen, [Signal::TERM, rt(0), rt(0), rt(0)]);
    let seen: Vec<_> = events.many::<4>().try_wait().unwrap().map(|info| info.kind()).collect();
    assert_eq!(seen, [0, 1, 2].map(|value: i32| Kind::Queued(value.into())));
    assert_eq!(events.many::<4>().try_wait().map(|_| ()), Err(WaitError::WouldBlock));
    Ok(())
}

fn a_signal_is_one_system_call_and_many_are_too() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    let one = steps::measure(2, || {
        for _ in 0..16 {
            own().queue(rt(0), 1).unwrap();
        }
        events.wait().unwrap();
        assert_eq!(events.many::<16>().wait().unwrap().len(), 15);
    });
    let Ok(one) = one else { return skip("this process may not trace its own child") };
    let reads = one.calls.iter().filter(|call| call.number != libc::SYS_rt_sigqueueinfo);
    let reads: Vec<_> = reads
        .filter(|call| ![libc::SYS_getpid, libc::SYS_getuid].contains(&call.number))
        .map(|call| call.number)
        .collect();
    assert_eq!(reads, [libc::SYS_read; 2]);
    Ok(())
}

fn a_bounded_wait_ends() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    assert_eq!(events.try_wait(), Err(WaitError::WouldBlock));
    let start = Instant::now();
    assert_eq!(events.wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(start.elapsed() >= SHORT);
    assert_eq!(events.wait_until(start), Err(WaitError::TimedOut));
    // A deadline that has passed still takes what is there.
    own().send(rt(0)).unwrap();
    assert!(events.wait_until(start).is_ok());
    Ok(())
}

fn an_interrupt_ends_a_wait() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let waits = s.spawn(|| events.wait_for(Wait::timeout(LONG).interrupted_by(&stop)));
        stop.trigger();
        assert_eq!(waits.join().unwrap(), Err(WaitError::Interrupted));
    });
    Ok(())
}

fn a_wait_sleeps_until_the_peer_sends() -> Result<(), Skip> {
    let peer = Peer::spawn("signalfd::waiter");
    peer.expect("waits");
    until_asleep(peer.pid());
    Target::from(&pidfd_of(&peer)).send(rt(0)).unwrap();
    let uid = rustix::process::getuid().as_raw();
    peer.expect(&format!("SIGRTMIN+0 {} {uid}", std::process::id()));
    peer.join();
    Ok(())
}

fn of_many_readers_one_has_it_and_none_hangs() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    let taken = AtomicUsize::new(0);
    const SENT: usize = 200;
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                // Each wake-up wakes all four, and one of them finds something.
                while taken.load(Ordering::Relaxed) < SENT {
                    match events.wait_timeout(SHORT) {
                        Ok(_) => _ = taken.fetch_add(1, Ordering::Relaxed),
                        Err(error) => assert_eq!(error, WaitError::TimedOut),
                    }
                }
            });
        }
        for _ in 0..SENT {
            own().queue(rt(0), 0).unwrap();
        }
    });
    assert_eq!(taken.into_inner(), SENT);
    Ok(())
}

/// As a C program makes one.
fn made_by_c(set: Set, flags: i32) -> OwnedFd {
    // SAFETY: a sigset_t is made of numbers, for which zero is a value.
    let mut c_set: libc::sigset_t = unsafe { std::mem::zeroed() };
    for signal in set {
        // SAFETY: the set is initialised.
        unsafe { libc::sigaddset(&raw mut c_set, signal.as_raw()) };
    }
    // SAFETY: the set is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const c_set, flags | libc::SFD_CLOEXEC) };
    assert!(fd >= 0);
    // SAFETY: a new descriptor that nothing else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn a_blocking_one_is_replaced() -> Result<(), Skip> {
    let set = Set::from([rt(0), Signal::USR1]);
    let _blocked = set.with(Signal::USR2).block().unwrap();
    let blocking = made_by_c(set, 0);
    let other = blocking.try_clone().unwrap();
    let events = SignalFd::try_from(blocking).unwrap();
    assert_eq!(events.try_wait(), Err(WaitError::WouldBlock));
    assert_eq!(events.wait_timeout(SHORT), Err(WaitError::TimedOut));
    assert!(!flags(&other).contains(OFlags::NONBLOCK), "the other one was left alone");
    // The same set, and no more.
    own().send(Signal::USR2).unwrap();
    assert_eq!(events.try_wait(), Err(WaitError::WouldBlock));
    for signal in set {
        own().send(signal).unwrap();
        assert_eq!(events.wait().unwrap().signal(), signal);
    }
    // One that does not block stays what it is.
    let kept = made_by_c(set, libc::SFD_NONBLOCK);
    let number = kept.as_raw_fd();
    let kept = OwnedFd::from(SignalFd::try_from(kept).unwrap());
    assert_eq!(kept.as_raw_fd(), number);
    // Pending SIGUSR2 would strike at the end.
    SignalFd::new(Signal::USR2).unwrap().wait().unwrap();
    Ok(())
}

fn what_is_no_signalfd_is_refused() -> Result<(), Skip> {
    let (rx, _tx) = std::io::pipe().unwrap();
    let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    for fd in [OwnedFd::from(rx), event] {
        let error = SignalFd::try_from(fd).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        assert!(error.to_string().contains("not a signalfd"), "{error}");
    }
    Ok(())
}

fn it_is_pollable_close_on_exec_and_non_blocking() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    assert_eq!(rustix::io::fcntl_getfd(&events).unwrap(), FdFlags::CLOEXEC);
    assert!(flags(&events).contains(OFlags::NONBLOCK));
    let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(0));
    own().send(rt(0)).unwrap();
    assert_eq!(poll(&mut fds, None), Ok(1));
    events.wait().unwrap();
    assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(0));
    Ok(())
}

fn a_forked_child_reads_its_own() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    own().queue(rt(0), 1).unwrap();
    // SAFETY: one thread, which ends here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // What is pending is not inherited, the mask is.
        let nothing = events.try_wait() == Err(WaitError::WouldBlock);
        let sent = own().queue(rt(0), 2).is_ok();
        let got = events.wait().map(|info| info.kind()) == Ok(Kind::Queued(2.into()));
        // SAFETY: ends the child, running nothing of the parent's.
        unsafe { libc::_exit(if nothing && sent && got { 0 } else { 1 }) };
    }
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    assert_eq!(status.exit_status(), Some(0));
    assert_eq!(events.wait().unwrap().kind(), Kind::Queued(1.into()));
    assert_eq!(events.try_wait(), Err(WaitError::WouldBlock));
    Ok(())
}

fn a_thread_reads_what_was_sent_to_it_and_no_other_does() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    let (go, wait) = std::sync::mpsc::channel();
    std::thread::scope(|s| {
        let events = &events;
        let reader = s.spawn(move || {
            tx.send(rustix::thread::gettid()).unwrap();
            wait.recv().unwrap();
            events.try_wait()
        });
        let thread = rx.recv().unwrap().as_raw_nonzero().get().unsigned_abs();
        Target::thread(std::process::id(), thread).send(rt(0)).unwrap();
        assert_eq!(events.try_wait(), Err(WaitError::WouldBlock), "it is the other thread's");
        go.send(()).unwrap();
        assert_eq!(reader.join().unwrap().unwrap().kind(), Kind::SentToThread);
    });
    Ok(())
}

fn what_becomes_of_a_child_is_told() -> Result<(), Skip> {
    let _blocked = Set::from(Signal::CHLD).block().unwrap();
    let events = SignalFd::new(Signal::CHLD).unwrap();
    let mut child =
        Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    let uid = rustix::process::getuid().as_raw();
    let next = |expected: Child| {
        let info: Info = events.wait().unwrap();
        assert_eq!(info.kind(), Kind::Child(expected));
        assert_eq!(info.sender(), Some(Sender { pid, uid, vouched: true }));
    };
    Target::process(pid).send(Signal::STOP).unwrap();
    next(Child::Stopped(Signal::STOP));
    Target::process(pid).send(Signal::CONT).unwrap();
    next(Child::Continued);
    Target::process(pid).send(Signal::TERM).unwrap();
    next(Child::Killed(Signal::TERM));
    child.wait().unwrap();
    let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
    let info = events.wait().unwrap();
    assert_eq!(info.kind(), Kind::Child(Child::Exited(3)));
    assert_eq!(info.sender().unwrap().pid, child.id());
    child.wait().unwrap();
    Ok(())
}

fn children_that_end_together_are_one_signal() -> Result<(), Skip> {
    let _blocked = Set::from(Signal::CHLD).block().unwrap();
    let events = SignalFd::new(Signal::CHLD).unwrap();
    let mut children: Vec<_> = (0..5).map(|_| Command::new("true").spawn().unwrap()).collect();
    for child in &children {
        let pid = rustix::process::Pid::from_child(child);
        let flags = rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT;
        rustix::process::waitid(rustix::process::WaitId::Pid(pid), flags).unwrap();
    }
    assert_eq!(events.many::<8>().wait().unwrap().len(), 1);
    assert_eq!(events.try_wait(), Err(WaitError::WouldBlock));
    // Nobody but the one who looks finds the others.
    for child in &mut children {
        assert!(child.try_wait().unwrap().is_some());
    }
    Ok(())
}

fn a_timer_tells_how_often_it_ran_out() -> Result<(), Skip> {
    let _blocked = Set::from(rt(1)).block().unwrap();
    let events = SignalFd::new(rt(1)).unwrap();
    // SAFETY: a sigevent is made of numbers, for which zero is a value.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = rt(1).as_raw();
    event.sigev_value.sival_ptr = std::ptr::without_provenance_mut(77);
    let mut timer = std::ptr::null_mut();
    // SAFETY: both places live as long as the call.
    let made = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
    assert_eq!(made, 0);
    let millisecond = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let every = libc::itimerspec { it_interval: millisecond, it_value: millisecond };
    // SAFETY: the timer exists, and no old value is asked for.
    assert_eq!(unsafe { libc::timer_settime(timer, 0, &raw const every, std::ptr::null_mut()) }, 0);
    idle(Duration::from_millis(20));
    let info = events.wait().unwrap();
    // SAFETY: the timer exists.
    unsafe { libc::timer_delete(timer) };
    let Kind::Timer { overrun, value, .. } = info.kind() else { panic!("{info:?}") };
    assert!(overrun >= 10, "{overrun}");
    assert_eq!(value.as_usize(), 77);
    assert_eq!(info.sender(), None);
    Ok(())
}

/// libc does not name it.
const F_SETSIG: i32 = 10;

fn a_ready_descriptor_is_told() -> Result<(), Skip> {
    let _blocked = Set::from(rt(2)).block().unwrap();
    let events = SignalFd::new(rt(2)).unwrap();
    let (rx, tx) = std::io::pipe().unwrap();
    let fd = rx.as_raw_fd();
    let own = std::process::id();
    // SAFETY: numbers only, on a descriptor that is open.
    unsafe { libc::fcntl(fd, libc::F_SETOWN, own) };
    // SAFETY: the same.
    unsafe { libc::fcntl(fd, F_SETSIG, rt(2).as_raw()) };
    // SAFETY: the same.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_ASYNC) }, 0);
    std::io::Write::write_all(&mut &tx, b"x").unwrap();
    let info = events.wait().unwrap();
    let Kind::Io { fd: ready, events } = info.kind() else { panic!("{info:?}") };
    assert_eq!(ready, fd);
    assert_ne!(events & u32::from(PollFlags::IN.bits()), 0);
    // The end of the pipe would be told too.
    // SAFETY: the same.
    assert_eq!(unsafe { libc::fcntl(fd, libc::F_SETFL, 0) }, 0);
    Ok(())
}

fn a_sender_that_lies_is_not_vouched_for() -> Result<(), Skip> {
    let peer = Peer::spawn("signalfd::waiter");
    peer.expect("waits");
    // SAFETY: a siginfo_t is made of numbers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_signo = rt(0).as_raw();
    let queue = |info: &libc::siginfo_t, pid: i32| {
        let at = std::ptr::from_ref(info);
        // SAFETY: a whole siginfo_t, which the kernel copies.
        unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, rt(0).as_raw(), at) }
    };
    // What the library takes for the kernel's word, nobody can say to another process.
    for code in [libc::SI_USER, libc::SI_TKILL, libc::SI_KERNEL, libc::CLD_EXITED] {
        info.si_code = code;
        assert_eq!(queue(&info, peer.pid().as_raw_nonzero().get()), -1, "{code}");
    }
    drop(peer);
    // As for the rest, they can.
    let _blocked = Set::from(rt(0)).block().unwrap();
    let events = SignalFd::new(rt(0)).unwrap();
    for code in [libc::SI_QUEUE, libc::SI_MESGQ, libc::SI_TIMER, libc::SI_ASYNCIO] {
        info.si_code = code;
        // SAFETY: the pid of this layout stands right after the three numbers and their padding.
        let pid = unsafe { (&raw mut info).cast::<i32>().add(4) };
        // SAFETY: inside of `info`, which is borrowed by nobody now.
        unsafe { pid.write(1) };
        assert_eq!(queue(&info, std::process::id().cast_signed()), 0);
        let got = events.wait().unwrap();
        let said = Some(Sender { pid: 1, uid: 0, vouched: false });
        let has_one = [libc::SI_QUEUE, libc::SI_MESGQ].contains(&code);
        assert_eq!(got.sender(), said.filter(|_| has_one), "{got:?}");
    }
    Ok(())
}

fn no_descriptor_names_the_limit() -> Result<(), Skip> {
    let _blocked = Set::from(rt(0)).block().unwrap();
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let none = rustix::process::Rlimit { current: Some(0), maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, none).unwrap();
    let error = SignalFd::new(rt(0)).unwrap_err();
    let back = rustix::process::Rlimit { current: maximum, maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, back).unwrap();
    assert_eq!(error.kind(), ErrorKind::LimitReached);
    assert!(error.to_string().contains("RLIMIT_NOFILE (0)"), "{error}");
    Ok(())
}
