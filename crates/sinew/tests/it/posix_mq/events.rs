//! Signals and polling: being told of a message, and not being disturbed.

#![allow(unsafe_code, reason = "waiting for a signal needs libc")]

use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sinew::posix_mq::Queue;
use sinew::wait::{Receives, Sends};
use sinew::{ErrorKind, RecvError};
use sinew_testkit::{Link, Peer, Role, Skip, Test, roles, tests};

use super::{SHORT, unnamed};

pub(crate) const TESTS: &[Test] = tests![
    a_signal_does_not_end_a_wait,
    poll_says_readable_exactly_while_a_message_waits,
    a_signal_comes_once_when_the_empty_queue_gets_a_message,
    one_process_at_a_time_is_notified,
];
pub(crate) const ROLES: &[Role] = roles![registrant];

/// Blocks the signal, so that it waits until it is asked for.
fn block(signal: i32) -> libc::sigset_t {
    // SAFETY: a sigset_t is a bit field, for which zero is a value.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `set` is initialised and borrowed for the call.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    // SAFETY: as above; no old mask is asked for.
    let done =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    set
}

/// The next signal of the set within 10 seconds, or none if `wait` is false and none is there.
fn signalled(set: &libc::sigset_t, wait: bool) -> Option<(i32, i32)> {
    // SAFETY: siginfo_t is plain data.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let time = libc::timespec { tv_sec: if wait { 10 } else { 0 }, tv_nsec: 0 };
    // SAFETY: the three are whole and borrowed for the call.
    let got = unsafe { libc::sigtimedwait(set, &raw mut info, &raw const time) };
    (got >= 0).then_some((got, info.si_code))
}

fn a_signal_does_not_end_a_wait() -> Result<(), Skip> {
    extern "C" fn nothing(_: i32) {}
    // SAFETY: sigaction is plain data.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(i32) as usize;
    // SAFETY: the handler does nothing, and `action` is borrowed for the call.
    let done = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) };
    assert_eq!(done, 0);
    let every = libc::timeval { tv_sec: 0, tv_usec: 2_000 };
    let timer = libc::itimerval { it_interval: every, it_value: every };
    // SAFETY: `timer` is borrowed for the call; no old value is asked for.
    let done =
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
    assert_eq!(done, 0);

    let queue = unnamed(1, 8);
    let begin = Instant::now();
    assert_eq!(queue.recv_timeout(&mut [0; 8], SHORT), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    // An unbounded wait sleeps through EINTR, too: a thread sends after the signals came.
    std::thread::scope(|s| {
        s.spawn(|| {
            let nobody = unnamed(1, 1).recv_timeout(&mut [0; 1], SHORT);
            assert_eq!(nobody, Err(RecvError::TimedOut));
            queue.send(b"1").unwrap();
        });
        assert_eq!(queue.recv(&mut [0; 8]).unwrap().len, 1);
    });
    Ok(())
}

fn poll_says_readable_exactly_while_a_message_waits() -> Result<(), Skip> {
    let queue = unnamed(2, 8);
    let ready = || {
        let mut fds = [PollFd::new(&queue, PollFlags::IN | PollFlags::OUT)];
        poll(&mut fds, Some(&Timespec::default())).unwrap();
        (fds[0].revents().contains(PollFlags::IN), fds[0].revents().contains(PollFlags::OUT))
    };
    let mut buf = [0; 8];
    assert_eq!(ready(), (false, true));
    queue.send(b"1").unwrap();
    assert_eq!(ready(), (true, true));
    queue.send(b"2").unwrap();
    assert_eq!(ready(), (true, false));
    queue.recv(&mut buf).unwrap();
    assert_eq!(ready(), (true, true), "partly drained");
    queue.recv(&mut buf).unwrap();
    assert_eq!(ready(), (false, true));
    Ok(())
}

fn a_signal_comes_once_when_the_empty_queue_gets_a_message() -> Result<(), Skip> {
    let set = block(libc::SIGUSR1);
    let queue = unnamed(4, 8);
    queue.notify(libc::SIGUSR1).unwrap();
    assert_eq!(signalled(&set, false), None);

    let peer = Peer::spawn("posix_mq::echo");
    peer.send_fd(&queue);
    peer.expect("ready");
    peer.say("one");
    assert_eq!(signalled(&set, true), Some((libc::SIGUSR1, libc::SI_MESGQ)));
    peer.expect("done");
    // Used up, and the queue is not empty.
    queue.send(b"two").unwrap();
    assert_eq!(signalled(&set, false), None);
    // Registered while messages wait: nothing until the queue has been empty.
    queue.notify(libc::SIGUSR1).unwrap();
    queue.send(b"three").unwrap();
    assert_eq!(signalled(&set, false), None);
    for _ in 0..3 {
        queue.recv(&mut [0; 8]).unwrap();
    }
    queue.send(b"four").unwrap();
    assert_eq!(signalled(&set, false), Some((libc::SIGUSR1, libc::SI_MESGQ)));
    queue.recv(&mut [0; 8]).unwrap();
    // Cancelled.
    queue.notify(libc::SIGUSR1).unwrap();
    queue.cancel_notify().unwrap();
    queue.send(b"five").unwrap();
    assert_eq!(signalled(&set, false), None);
    assert_eq!(queue.notify(4096).unwrap_err().kind(), ErrorKind::InvalidInput);
    peer.say("end");
    peer.join();
    Ok(())
}

fn one_process_at_a_time_is_notified() -> Result<(), Skip> {
    let set = block(libc::SIGUSR1);
    let queue = unnamed(1, 8);
    queue.notify(libc::SIGUSR1).unwrap();
    let error = queue.notify(libc::SIGUSR1).unwrap_err();
    assert_eq!((error.kind(), error.raw_os_error()), (ErrorKind::InUse, Some(libc::EBUSY)));
    queue.cancel_notify().unwrap();

    let peer = Peer::spawn("posix_mq::events::registrant");
    peer.send_fd(&queue);
    peer.expect("registered");
    assert_eq!(queue.notify(libc::SIGUSR1).unwrap_err().kind(), ErrorKind::InUse);
    // What another process registered is not ours to cancel.
    queue.cancel_notify().unwrap();
    assert_eq!(queue.notify(libc::SIGUSR1).unwrap_err().kind(), ErrorKind::InUse);
    // Its death is the end of its registration.
    peer.kill();
    queue.notify(libc::SIGUSR1).unwrap();
    queue.send(b"x").unwrap();
    assert!(signalled(&set, false).is_some());
    Ok(())
}

fn registrant(link: &Link) {
    let queue = Queue::from(link.recv_fd());
    queue.notify(libc::SIGUSR1).unwrap();
    link.say("registered");
    let _ = link.hear();
}
