//! Signals: names, masks in scopes, and sending with a value between two processes.

use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, getrlimit, pidfd_open, setrlimit};
use sinew::ErrorKind;
use sinew::signal::{Set, Signal, Target, Value};
use sinew::signalfd::{Info, Kind, SignalFd};
use sinew::wait::Waits;
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

pub(crate) const TESTS: &[Test] = tests![
    a_signal_has_the_name_and_number_of_linux,
    real_time_signals_are_counted_as_the_c_library_does,
    a_set_holds_what_was_put_in,
    a_scope_blocks_this_thread_and_restores_it,
    scopes_nest_in_any_order,
    what_others_changed_stays_changed,
    what_cannot_be_blocked_is_refused,
    a_blocked_signal_strikes_when_the_scope_ends,
    a_program_starts_with_the_mask_of_the_thread,
    a_thousand_queued_signals_arrive_in_order_with_their_values,
    the_lowest_real_time_signal_comes_first,
    what_a_killed_sender_queued_arrives,
    a_full_queue_names_the_limit_of_the_receiver,
    a_lost_sender_is_not_taken_for_root,
    a_thread_gets_what_is_sent_to_it,
    a_receiver_that_is_gone_is_not_found,
    another_users_process_is_refused,
    numbers_that_mean_groups_are_refused,
    what_is_no_pidfd_is_refused,
    c_sees_and_gives_the_same_value,
];
pub(crate) const ROLES: &[Role] = roles![receiver, sender];

/// All that the tests below send. Enough for a pidfd of a peer.
fn ours() -> Set {
    (0..4).filter_map(Signal::rt).collect::<Set>().with(Signal::USR1).with(Signal::USR2)
}

fn rt(n: u32) -> Signal {
    Signal::rt(n).unwrap()
}

pub(crate) fn pidfd_of(peer: &Peer) -> OwnedFd {
    pidfd_open(peer.pid(), PidfdFlags::empty()).unwrap()
}

fn number_of(peer: &Peer) -> u32 {
    peer.pid().as_raw_nonzero().get().unsigned_abs()
}

/// A peer that has blocked what it gets, and the number of its thread.
fn blocking_peer() -> (Peer, u32) {
    let peer = Peer::spawn("signal::receiver");
    let thread = peer.hear().parse().unwrap();
    (peer, thread)
}

/// Blocks, says so, and on "read N" reads so many signals and says them, on "rest" what is pending.
fn receiver(link: &Link) {
    let _blocked = ours().block().unwrap();
    let events = SignalFd::new(ours()).unwrap();
    link.say(rustix::thread::gettid().as_raw_nonzero());
    while let Some((words, _)) = link.try_receive() {
        let words = String::from_utf8(words).unwrap();
        let words: Vec<_> = words.split(' ').collect();
        match words[..] {
            ["limit", most] => {
                let current = most.parse().ok();
                let maximum = getrlimit(Resource::Sigpending).maximum;
                setrlimit(Resource::Sigpending, Rlimit { current, maximum }).unwrap();
                link.say("lowered");
            }
            ["read", count] => {
                for _ in 0..count.parse::<usize>().unwrap() {
                    link.say(told(&events.wait().unwrap()));
                }
            }
            ["rest"] => {
                while let Ok(info) = events.try_wait() {
                    link.say(told(&info));
                }
                link.say("no more");
            }
            _ => panic!("{words:?}"),
        }
    }
}

/// `SIGRTMIN+2 Queued 7 by 12`
fn told(info: &Info) -> String {
    let kind = match info.kind() {
        Kind::Queued(value) => format!("queued {}", value.as_int()),
        Kind::Sent => "sent".into(),
        Kind::SentToThread => "sent to thread".into(),
        other => format!("{other:?}"),
    };
    let sender = info.sender().map_or("nobody".into(), |sender| {
        format!("{}{}", sender.pid, if sender.vouched { "" } else { ", it says" })
    });
    format!("{} {kind} by {sender}", info.signal())
}

/// Queues what it is told to a pidfd that it is given, and never ends by itself.
fn sender(link: &Link) {
    let pidfd = link.recv_fd();
    for value in 0..100_i32 {
        Target::from(&pidfd).queue(rt(0), value).unwrap();
    }
    link.say("queued");
    let _ = link.try_receive();
}

fn a_signal_has_the_name_and_number_of_linux() -> Result<(), Skip> {
    let listed = Command::new("bash").args(["-c", "kill -l TERM USR1 CHLD IO SYS"]).output();
    if let Ok(output) = listed {
        let numbers = [Signal::TERM, Signal::USR1, Signal::CHLD, Signal::IO, Signal::SYS];
        let numbers: String = numbers.map(|signal| format!("{}\n", signal.as_raw())).concat();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), numbers);
    }
    for number in 1..=31 {
        let signal = Signal::from_raw(number).unwrap();
        assert_eq!(signal.as_raw(), number);
        assert!(signal.to_string().starts_with("SIG"), "{number} has no name");
        assert!(!signal.is_rt());
    }
    assert_eq!(Signal::from_raw(32).unwrap().to_string(), "signal 32");
    for number in [0, -1, 65, i32::MAX, i32::MIN] {
        assert_eq!(Signal::from_raw(number), None);
    }
    assert_eq!(format!("{:>9}|{:?}", Signal::HUP, Signal::HUP), "   SIGHUP|SIGHUP");
    Ok(())
}

fn real_time_signals_are_counted_as_the_c_library_does() -> Result<(), Skip> {
    assert_eq!(rt(0).as_raw(), libc::SIGRTMIN());
    let count = Signal::rt_count();
    assert_eq!(rt(count - 1).as_raw(), libc::SIGRTMAX());
    assert_eq!(Signal::rt(count), None);
    assert_eq!(Signal::rt(u32::MAX), None);
    assert!(rt(0).is_rt());
    assert_eq!(rt(5).to_string(), "SIGRTMIN+5");
    Ok(())
}

fn a_set_holds_what_was_put_in() -> Result<(), Skip> {
    let set = Set::from([Signal::TERM, rt(30), Signal::HUP]);
    assert_eq!(set.iter().collect::<Vec<_>>(), [Signal::HUP, Signal::TERM, rt(30)]);
    assert_eq!(set.without(Signal::HUP), Set::from(rt(30)).union(Signal::TERM.into()));
    assert_eq!(set.difference(set), Set::new());
    assert!(Set::new().is_empty() && Set::new().iter().next().is_none());
    let all = Set::all();
    assert!(!all.contains(Signal::KILL) && !all.contains(Signal::STOP));
    assert_eq!(all.iter().count(), 29 + Signal::rt_count() as usize);
    assert_eq!(format!("{set:?}"), "{SIGHUP, SIGTERM, SIGRTMIN+30}");
    Ok(())
}

fn a_scope_blocks_this_thread_and_restores_it() -> Result<(), Skip> {
    let before = Set::blocked().unwrap();
    let set = Set::from([Signal::USR1, rt(1)]);
    let scope = set.block().unwrap();
    assert_eq!(scope.signals(), set);
    assert_eq!(Set::blocked().unwrap(), before.union(set));
    std::thread::scope(|s| {
        // A new thread has the mask of its maker, and its own from there on.
        s.spawn(|| {
            assert_eq!(Set::blocked().unwrap(), before.union(set));
            let _open = set.unblock().unwrap();
            let _more = Set::from(Signal::USR2).block().unwrap();
            assert_eq!(Set::blocked().unwrap(), before.with(Signal::USR2));
        });
    });
    assert_eq!(Set::blocked().unwrap(), before.union(set));
    drop(scope);
    assert_eq!(Set::blocked().unwrap(), before);
    Ok(())
}

fn scopes_nest_in_any_order() -> Result<(), Skip> {
    let before = Set::blocked().unwrap();
    let one = Set::from(Signal::USR1);
    let both = one.with(Signal::USR2);
    // A block in a block, and out of it in the same order.
    let outer = one.block().unwrap();
    let inner = both.block().unwrap();
    drop(outer);
    assert_eq!(Set::blocked().unwrap(), before.union(both));
    drop(inner);
    assert_eq!(Set::blocked().unwrap(), before);
    // Open in a block: every order of dropping ends where it began.
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut scopes = [
            Some(both.block().unwrap()),
            Some(one.unblock().unwrap()),
            Some(both.block().unwrap()),
        ];
        assert_eq!(Set::blocked().unwrap(), before.union(both));
        for at in order {
            scopes[at] = None;
            // The youngest that is left decides, signal by signal.
            let expected = match (&scopes[0], &scopes[1], &scopes[2]) {
                (_, _, Some(_)) => before.union(both),
                (Some(_), Some(_), None) => before.with(Signal::USR2),
                (None, Some(_), None) | (None, None, None) => before,
                (Some(_), None, None) => before.union(both),
            };
            assert_eq!(Set::blocked().unwrap(), expected, "{order:?}");
        }
    }
    Ok(())
}

fn what_others_changed_stays_changed() -> Result<(), Skip> {
    // A scope that found a signal blocked has nothing to take back.
    let _found = Set::from(Signal::USR1).block().unwrap();
    drop(Set::from([Signal::USR1, Signal::USR2]).block().unwrap());
    assert!(Set::blocked().unwrap().contains(Signal::USR1));
    assert!(!Set::blocked().unwrap().contains(Signal::USR2));
    // A panic goes through it.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let caught = std::panic::catch_unwind(|| {
        let _scope = Set::from(Signal::USR2).block().unwrap();
        panic!("out of here");
    });
    std::panic::set_hook(hook);
    assert!(caught.is_err());
    assert!(!Set::blocked().unwrap().contains(Signal::USR2));
    Ok(())
}

fn what_cannot_be_blocked_is_refused() -> Result<(), Skip> {
    for number in [libc::SIGKILL, libc::SIGSTOP, 32, 33] {
        let signal = Signal::from_raw(number).unwrap();
        assert!(!signal.can_be_blocked());
        let before = Set::blocked().unwrap();
        let error = Set::from([signal, Signal::USR1]).block().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains(&signal.to_string()), "{error}");
        assert_eq!(Set::blocked().unwrap(), before, "nothing was changed");
    }
    let scope = Set::all().block().unwrap();
    assert_eq!(Set::blocked().unwrap(), Set::all());
    drop(scope);
    Ok(())
}

fn a_blocked_signal_strikes_when_the_scope_ends() -> Result<(), Skip> {
    // SAFETY: one thread, which ends here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let blocked = Set::from(Signal::USR1).block();
        let own = Target::process(std::process::id()).send(Signal::USR1);
        let pending = Set::pending();
        if blocked.is_ok() && own.is_ok() && pending.is_ok_and(|p| p.contains(Signal::USR1)) {
            drop(blocked);
        }
        // SAFETY: ends the child, running nothing of the parent's.
        unsafe { libc::_exit(1) };
    }
    let pid = Pid::from_raw(pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    assert_eq!(status.terminating_signal(), Some(libc::SIGUSR1));
    Ok(())
}

/// The mask of the process that runs it.
fn started_with() -> u64 {
    let output = Command::new("grep").args(["SigBlk", "/proc/self/status"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap()
}

fn a_program_starts_with_the_mask_of_the_thread() -> Result<(), Skip> {
    let bit = 1 << (libc::SIGUSR2 - 1);
    let set = Set::from(Signal::USR2);
    let _blocked = set.block().unwrap();
    assert_eq!(started_with() & bit, bit);
    let _open = set.unblock().unwrap();
    assert_eq!(started_with() & bit, 0);
    Ok(())
}

fn a_thousand_queued_signals_arrive_in_order_with_their_values() -> Result<(), Skip> {
    let (peer, _) = blocking_peer();
    let pidfd = pidfd_of(&peer);
    let own = std::process::id();
    for value in 0..1000_i32 {
        // By both ways, which lead to one queue.
        if value % 2 == 0 {
            Target::from(&pidfd).queue(rt(2), value).unwrap();
        } else {
            Target::process(number_of(&peer)).queue(rt(2), value).unwrap();
        }
    }
    for value in 0..1000 {
        if value % 100 == 0 {
            peer.say("read 100");
        }
        peer.expect(&format!("SIGRTMIN+2 queued {value} by {own}, it says"));
    }
    peer.say("rest");
    peer.expect("no more");
    Ok(())
}

fn the_lowest_real_time_signal_comes_first() -> Result<(), Skip> {
    let (peer, _) = blocking_peer();
    let pidfd = pidfd_of(&peer);
    for (number, value) in [(3, 1), (1, 2), (3, 3), (0, 4), (1, 5)] {
        Target::from(&pidfd).queue(rt(number), value).unwrap();
    }
    peer.say("read 5");
    for (number, value) in [(0, 4), (1, 2), (1, 5), (3, 1), (3, 3)] {
        let words = peer.hear();
        assert!(words.starts_with(&format!("{} queued {value} by", rt(number))), "{words}");
    }
    Ok(())
}

fn what_a_killed_sender_queued_arrives() -> Result<(), Skip> {
    let (peer, _) = blocking_peer();
    let sender = Peer::spawn("signal::sender");
    let pid = number_of(&sender);
    sender.send_fd(pidfd_of(&peer));
    sender.expect("queued");
    sender.kill();
    peer.say("read 100");
    for value in 0..100 {
        peer.expect(&format!("SIGRTMIN+0 queued {value} by {pid}, it says"));
    }
    Ok(())
}

fn a_full_queue_names_the_limit_of_the_receiver() -> Result<(), Skip> {
    let (peer, _) = blocking_peer();
    peer.say("limit 10");
    peer.expect("lowered");
    let pidfd = pidfd_of(&peer);
    for target in [Target::from(&pidfd), Target::process(number_of(&peer))] {
        // Other processes of this user may have signals queued too.
        let refused = (0..=10_i32).find_map(|n| Some((n, target.queue(rt(0), n).err()?)));
        let (sent, error) = refused.expect("11 signals do not fit 10");
        assert_eq!(error.kind(), ErrorKind::LimitReached);
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let text = error.to_string();
        assert!(text.contains("RLIMIT_SIGPENDING of the receiver (10)"), "{text}");
        assert!(text.contains("ulimit -i"), "{text}");
        peer.say("rest");
        for value in 0..sent {
            assert!(peer.hear().contains(&format!("queued {value} ")));
        }
        peer.expect("no more");
    }
    Ok(())
}

fn a_lost_sender_is_not_taken_for_root() -> Result<(), Skip> {
    let (peer, _) = blocking_peer();
    peer.say("limit 0");
    peer.expect("lowered");
    // Of these the kernel keeps the number only: no sender, no value, no second one.
    let pidfd = pidfd_of(&peer);
    Target::from(&pidfd).send(rt(1)).unwrap();
    Target::from(&pidfd).send(rt(1)).unwrap();
    Target::from(&pidfd).queue(Signal::USR2, 7).unwrap();
    peer.say("rest");
    peer.expect("SIGUSR2 sent by nobody");
    peer.expect("SIGRTMIN+1 sent by nobody");
    peer.expect("no more");
    // A plain standard signal has room in any case.
    Target::from(&pidfd).send(Signal::USR1).unwrap();
    peer.say("rest");
    peer.expect(&format!("SIGUSR1 sent by {}", std::process::id()));
    peer.expect("no more");
    Ok(())
}

fn a_thread_gets_what_is_sent_to_it() -> Result<(), Skip> {
    let (peer, thread) = blocking_peer();
    let pid = number_of(&peer);
    let target = Target::thread(pid, thread);
    target.send(Signal::USR1).unwrap();
    target.queue(rt(0), 5).unwrap();
    let own = std::process::id();
    peer.say("read 2");
    peer.expect(&format!("SIGUSR1 sent to thread by {own}"));
    peer.expect(&format!("SIGRTMIN+0 queued 5 by {own}, it says"));
    // This thread exists, and is of another process.
    for done in
        [Target::thread(pid, own).send(Signal::USR1), Target::thread(pid, own).queue(rt(0), 1)]
    {
        assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
    }
    peer.say("rest");
    peer.expect("no more");
    Ok(())
}

fn a_receiver_that_is_gone_is_not_found() -> Result<(), Skip> {
    let (mut peer, _) = blocking_peer();
    let pidfd = pidfd_of(&peer);
    let pid = number_of(&peer);
    peer.signal(rustix::process::Signal::KILL);
    let mut ended = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
    rustix::event::poll(&mut ended, None).unwrap();
    // It ended and nobody has waited for it.
    Target::from(&pidfd).send(Signal::USR1).unwrap();
    Target::process(pid).send(Signal::USR1).unwrap();
    peer.wait();
    for target in [Target::from(&pidfd), Target::process(pid), Target::thread(pid, pid)] {
        for done in [target.send(Signal::USR1), target.queue(rt(0), 1)] {
            let error = done.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
            assert_eq!(error.raw_os_error(), Some(libc::ESRCH));
        }
    }
    Ok(())
}

fn another_users_process_is_refused() -> Result<(), Skip> {
    // SAFETY: one thread, which ends here.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().get().unsigned_abs();
        // Root becomes nobody; an ordinary user finds root's first process.
        let root = rustix::process::geteuid().is_root();
        if root {
            // SAFETY: numbers only, in a child with one thread.
            unsafe { libc::setresuid(65534, 65534, 65534) };
        }
        let target = Target::process(if root { parent } else { 1 });
        let refused = target.send(Signal::URG).is_err_and(|error| {
            error.kind() == ErrorKind::PermissionDenied && error.to_string().contains("CAP_KILL")
        });
        // SAFETY: ends the child, running nothing of the parent's.
        unsafe { libc::_exit(if refused { 0 } else { 1 }) };
    }
    let pid = Pid::from_raw(pid).unwrap();
    let (_, status) = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())
        .unwrap()
        .unwrap();
    assert_eq!(status.exit_status(), Some(0));
    Ok(())
}

fn numbers_that_mean_groups_are_refused() -> Result<(), Skip> {
    let _blocked = ours().block().unwrap();
    let own = std::process::id();
    for target in [
        Target::process(0),
        // -1 means everybody, -2 a group.
        Target::process(u32::MAX),
        Target::process(u32::MAX - 1),
        Target::thread(own, 0),
        Target::thread(0, own),
        Target::thread(u32::MAX, own),
    ] {
        for done in [target.send(Signal::USR1), target.queue(rt(0), 1)] {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }
    assert!(Set::pending().unwrap().is_empty());
    Ok(())
}

fn what_is_no_pidfd_is_refused() -> Result<(), Skip> {
    let (rx, _tx) = std::io::pipe().unwrap();
    let error = Target::from(&rx.as_fd()).send(Signal::USR1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    assert!(error.to_string().contains("no pidfd"), "{error}");
    Ok(())
}

fn c_sees_and_gives_the_same_value() -> Result<(), Skip> {
    let _blocked = ours().block().unwrap();
    let events = SignalFd::new(ours()).unwrap();
    let pid = std::process::id().cast_signed();
    // The C library's sigqueue to us.
    let value = libc::sigval { sival_ptr: std::ptr::without_provenance_mut(usize::MAX - 6) };
    // SAFETY: numbers only; the pointer is a number to the kernel.
    assert_eq!(unsafe { libc::sigqueue(pid, rt(0).as_raw(), value) }, 0);
    let Kind::Queued(value) = events.wait().unwrap().kind() else { panic!() };
    assert_eq!(value.as_usize(), usize::MAX - 6);
    assert_eq!(value.as_int(), -7);
    assert_eq!(value, Value::from(usize::MAX - 6));
    // Ours to the C library's sigwaitinfo.
    Target::process(std::process::id()).queue(rt(1), -7).unwrap();
    // SAFETY: siginfo_t and sigset_t are made of numbers, for which zero is a value.
    let (mut info, mut set): (libc::siginfo_t, libc::sigset_t) = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialised.
    unsafe { libc::sigaddset(&raw mut set, rt(1).as_raw()) };
    // SAFETY: both places live as long as the call.
    let got = unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) };
    assert_eq!((got, info.si_code), (rt(1).as_raw(), libc::SI_QUEUE));
    // SAFETY: a signal of SI_QUEUE has it, and the next two.
    let from = unsafe { info.si_pid() };
    // SAFETY: the same.
    let uid = unsafe { info.si_uid() };
    // SAFETY: the same.
    let value = unsafe { info.si_value() };
    assert_eq!((from, uid), (pid, rustix::process::getuid().as_raw()));
    assert_eq!(value.sival_ptr.addr() & 0xffff_ffff, 0xffff_fff9);
    Ok(())
}
