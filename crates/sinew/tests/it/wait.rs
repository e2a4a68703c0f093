//! The four forms and the interrupt, as every mechanism has them: here on a pipe.

#![allow(unsafe_code, reason = "signals that interrupt a call need a handler and a timer")]

use std::mem::zeroed;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sinew::pipe::{self, PipeExt};
use sinew::wait::{ByteStream, Interrupt, Receives, Sends, Wait};
use sinew::{RecvError, SendError, Stop};
use sinew_testkit::{Role, Skip, Test, roles, tests};

use crate::pipe::until_asleep;

pub(crate) const TESTS: &[Test] = tests![
    the_four_forms_send,
    the_four_forms_receive,
    a_deadline_in_the_past_makes_one_attempt,
    a_time_out_of_nothing_makes_one_attempt,
    a_time_out_too_long_for_the_clock_is_none,
    a_time_out_is_never_early,
    exact_keeps_its_deadline_over_all_its_parts,
    an_interrupt_stays_until_cleared,
    an_interrupt_ends_a_wait_in_another_thread,
    an_interrupt_ends_many_waits_at_once,
    an_interrupt_comes_before_what_is_ready,
    an_interrupt_with_a_deadline_ends_by_whichever_comes_first,
    an_interrupt_can_be_polled,
    a_signal_ends_no_wait_and_moves_no_deadline,
    a_signal_ends_no_unbounded_wait,
];
pub(crate) const ROLES: &[Role] = roles![];

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(60);

fn the_four_forms_send() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(b"a").unwrap();
    tx.try_send(b"b").unwrap();
    tx.send_timeout(b"c", LONG).unwrap();
    tx.send_until(b"d", Instant::now() + LONG).unwrap();
    let mut buf = [0; 8];
    assert_eq!(rx.recv(&mut buf), Ok(4));
    assert_eq!(&buf[..4], b"abcd");
    tx.send(&vec![0; tx.capacity().unwrap()]).unwrap();
    assert_eq!(tx.try_send(b"x"), Err(SendError::Full));
    assert_eq!(tx.send_timeout(b"x", SHORT), Err(SendError::TimedOut));
    assert_eq!(tx.send_until(b"x", Instant::now() + SHORT), Err(SendError::TimedOut));
    std::thread::scope(|s| {
        let own = rustix::process::getpid();
        s.spawn(move || {
            until_asleep(own);
            rx.recv(&mut [0; 4096]).unwrap();
            until_drained(&rx);
        });
        tx.send(b"x").unwrap();
        drop(tx);
    });
    Ok(())
}

fn until_drained(rx: &std::io::PipeReader) {
    while rx.recv(&mut [0; 65536]).is_ok() {}
}

fn the_four_forms_receive() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let mut one = [0];
    tx.send(b"abcd").unwrap();
    assert_eq!(rx.recv(&mut one), Ok(1));
    assert_eq!(rx.try_recv(&mut one), Ok(1));
    assert_eq!(rx.recv_timeout(&mut one, LONG), Ok(1));
    assert_eq!(rx.recv_until(&mut one, Instant::now() + LONG), Ok(1));
    assert_eq!(one, *b"d");
    assert_eq!(rx.try_recv(&mut one), Err(RecvError::Empty));
    assert_eq!(rx.recv_timeout(&mut one, SHORT), Err(RecvError::TimedOut));
    assert_eq!(rx.recv_until(&mut one, Instant::now() + SHORT), Err(RecvError::TimedOut));
    let own = rustix::process::getpid();
    std::thread::scope(|s| {
        // What comes while it sleeps ends it, in every form that waits.
        for form in 0..3 {
            let tx = &tx;
            s.spawn(move || {
                until_asleep(own);
                tx.send(b"x").unwrap();
            });
            let got = match form {
                0 => rx.recv(&mut one),
                1 => rx.recv_timeout(&mut one, LONG),
                _ => rx.recv_until(&mut one, Instant::now() + LONG),
            };
            assert_eq!(got, Ok(1));
        }
    });
    Ok(())
}

fn a_deadline_in_the_past_makes_one_attempt() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let past = Instant::now().checked_sub(Duration::from_millis(1)).unwrap_or_else(Instant::now);
    tx.send_until(b"x", past).unwrap();
    assert_eq!(rx.recv_until(&mut [0], past), Ok(1));
    assert_eq!(rx.recv_until(&mut [0], past), Err(RecvError::TimedOut));
    tx.send(&vec![0; tx.capacity().unwrap()]).unwrap();
    assert_eq!(tx.send_until(b"x", past), Err(SendError::TimedOut));
    Ok(())
}

fn a_time_out_of_nothing_makes_one_attempt() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send_timeout(b"x", Duration::ZERO).unwrap();
    assert_eq!(rx.recv_timeout(&mut [0], Duration::ZERO), Ok(1));
    assert_eq!(rx.recv_timeout(&mut [0], Duration::ZERO), Err(RecvError::TimedOut));
    Ok(())
}

fn a_time_out_too_long_for_the_clock_is_none() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let own = rustix::process::getpid();
    for long in [Duration::MAX, Duration::from_secs(1 << 40), Duration::from_secs(1 << 62)] {
        std::thread::scope(|s| {
            s.spawn(|| {
                until_asleep(own);
                tx.send(b"x").unwrap();
            });
            assert_eq!(rx.recv_timeout(&mut [0], long), Ok(1));
        });
    }
    Ok(())
}

fn a_time_out_is_never_early() -> Result<(), Skip> {
    let (rx, _tx) = pipe::pipe().unwrap();
    for micros in [1, 99, 1_000, 1_500, 12_345] {
        let timeout = Duration::from_micros(micros);
        let begin = Instant::now();
        assert_eq!(rx.recv_timeout(&mut [0], timeout), Err(RecvError::TimedOut));
        assert!(begin.elapsed() >= timeout);
    }
    Ok(())
}

fn exact_keeps_its_deadline_over_all_its_parts() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(b"123").unwrap();
    let begin = Instant::now();
    let partial = RecvError::Partial { received: 3, stop: Stop::TimedOut };
    assert_eq!(rx.exact().recv_timeout(&mut [0; 8], SHORT), Err(partial));
    assert!(begin.elapsed() >= SHORT);
    tx.send(b"4567").unwrap();
    let partial = RecvError::Partial { received: 4, stop: Stop::WouldBlock };
    assert_eq!(rx.exact().try_recv(&mut [0; 8]), Err(partial));
    assert_eq!(rx.exact().try_recv(&mut [0; 8]), Err(RecvError::Empty));
    assert_eq!(rx.exact().recv(&mut []), Ok(()));
    Ok(())
}

fn an_interrupt_stays_until_cleared() -> Result<(), Skip> {
    let stop = Interrupt::new().unwrap();
    assert!(!stop.is_triggered());
    stop.trigger();
    stop.trigger();
    assert!(stop.is_triggered());
    assert!(stop.is_triggered());
    stop.clear();
    assert!(!stop.is_triggered());
    stop.clear();
    assert!(!stop.is_triggered());
    Ok(())
}

fn an_interrupt_ends_a_wait_in_another_thread() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let stop = Interrupt::new().unwrap();
    let wait = Wait::FOREVER.interrupted_by(&stop);
    let own = rustix::process::getpid();
    let trigger = || {
        until_asleep(own);
        stop.trigger();
    };
    std::thread::scope(|s| {
        s.spawn(trigger);
        assert_eq!(rx.recv_wait(&mut [0], wait), Err(RecvError::Interrupted));
    });
    // Cleared it is as new, and the pipe as usable.
    stop.clear();
    tx.send(&vec![0; tx.capacity().unwrap()]).unwrap();
    std::thread::scope(|s| {
        s.spawn(trigger);
        assert_eq!(tx.send_wait(b"x", wait), Err(SendError::Interrupted));
    });
    assert_eq!(rx.recv(&mut [0]), Ok(1));
    Ok(())
}

fn an_interrupt_ends_many_waits_at_once() -> Result<(), Skip> {
    let (rx, _tx) = pipe::pipe().unwrap();
    let stop = Interrupt::new().unwrap();
    std::thread::scope(|s| {
        let waiting: Vec<_> = (0..8)
            .map(|_| {
                let wait = Wait::timeout(LONG).interrupted_by(&stop);
                let rx = &rx;
                s.spawn(move || rx.recv_wait(&mut [0], wait))
            })
            .collect();
        stop.trigger();
        for thread in waiting {
            assert_eq!(thread.join().unwrap(), Err(RecvError::Interrupted));
        }
    });
    Ok(())
}

fn an_interrupt_comes_before_what_is_ready() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    tx.send(b"x").unwrap();
    let stop = Interrupt::new().unwrap();
    stop.trigger();
    for wait in [Wait::FOREVER, Wait::NEVER, Wait::timeout(LONG)] {
        let wait = wait.interrupted_by(&stop);
        assert_eq!(rx.recv_wait(&mut [0], wait), Err(RecvError::Interrupted));
        assert_eq!(tx.send_wait(b"y", wait), Err(SendError::Interrupted));
    }
    assert_eq!(rx.filled().unwrap(), 1, "nothing was taken or sent");
    Ok(())
}

fn an_interrupt_with_a_deadline_ends_by_whichever_comes_first() -> Result<(), Skip> {
    let (rx, _tx) = pipe::pipe().unwrap();
    let stop = Interrupt::new().unwrap();
    let begin = Instant::now();
    let wait = Wait::timeout(SHORT).interrupted_by(&stop);
    assert_eq!(rx.recv_wait(&mut [0], wait), Err(RecvError::TimedOut));
    assert!(begin.elapsed() >= SHORT);
    let own = rustix::process::getpid();
    std::thread::scope(|s| {
        s.spawn(|| {
            until_asleep(own);
            stop.trigger();
        });
        let wait = Wait::timeout(LONG).interrupted_by(&stop);
        assert_eq!(rx.recv_wait(&mut [0], wait), Err(RecvError::Interrupted));
    });
    Ok(())
}

fn an_interrupt_can_be_polled() -> Result<(), Skip> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stop = Interrupt::new().unwrap();
    let ready = || {
        let mut one = [PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN)];
        poll(&mut one, Some(&Timespec::default())).unwrap()
    };
    assert_eq!(ready(), 0);
    stop.trigger();
    assert_eq!(ready(), 1);
    stop.clear();
    assert_eq!(ready(), 0);
    Ok(())
}

static SIGNALS: AtomicU32 = AtomicU32::new(0);
static WRITE_TO: AtomicI32 = AtomicI32::new(-1);

extern "C" fn count(_: libc::c_int) {
    let so_far = SIGNALS.fetch_add(1, Ordering::Relaxed) + 1;
    let to = WRITE_TO.load(Ordering::Relaxed);
    if so_far == 5 && to >= 0 {
        // SAFETY: write is async-signal-safe, and reads one static byte.
        unsafe { libc::write(to, ptr::from_ref(&b'!').cast(), 1) };
    }
}

/// A signal each millisecond whose handler lets system calls fail with EINTR.
pub(crate) fn interrupt_every_millisecond() {
    // SAFETY: all zeros is an action without flags (no SA_RESTART) and an empty mask.
    let mut action: libc::sigaction = unsafe { zeroed() };
    action.sa_sigaction = count as *const () as libc::sighandler_t;
    // SAFETY: the handler only does what a handler may, see there.
    let done = unsafe { libc::sigaction(libc::SIGALRM, &raw const action, ptr::null_mut()) };
    assert_eq!(done, 0);
    let each = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = libc::itimerval { it_interval: each, it_value: each };
    // SAFETY: it reads the timer of this frame.
    let done = unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, ptr::null_mut()) };
    assert_eq!(done, 0);
}

fn a_signal_ends_no_wait_and_moves_no_deadline() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    interrupt_every_millisecond();
    let timeout = Duration::from_millis(50);
    let mut before = 0;
    for form in 0..4 {
        let begin = Instant::now();
        match form {
            0 => assert_eq!(rx.recv_timeout(&mut [0], timeout), Err(RecvError::TimedOut)),
            1 => {
                let stop = Interrupt::new().unwrap();
                let wait = Wait::timeout(timeout).interrupted_by(&stop);
                assert_eq!(rx.recv_wait(&mut [0], wait), Err(RecvError::TimedOut));
            }
            2 => {
                let partial = SendError::Partial { sent: 65536, stop: Stop::TimedOut };
                assert_eq!(tx.send_timeout(&[0; 70_000], timeout), Err(partial));
            }
            _ => assert_eq!(tx.send_timeout(b"x", timeout), Err(SendError::TimedOut)),
        }
        // Had each signal begun the time-out anew, it would never have ended: they come faster.
        assert!(begin.elapsed() >= timeout);
        let now = SIGNALS.load(Ordering::Relaxed);
        assert!(now > before + 2, "signals did come: {now}");
        before = now;
    }
    Ok(())
}

fn a_signal_ends_no_unbounded_wait() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    WRITE_TO.store(tx.as_raw_fd(), Ordering::Relaxed);
    interrupt_every_millisecond();
    // The fifth signal sends.
    assert_eq!(rx.recv(&mut [0; 8]), Ok(1));
    assert!(SIGNALS.load(Ordering::Relaxed) >= 5);
    // A send that is cut short by signals, again and again, is complete in the end.
    let data: Vec<u8> = (0..3_000_000).map(|i| (i % 241) as u8).collect();
    std::thread::scope(|s| {
        let (data, rx) = (&data, &rx);
        s.spawn(move || {
            let mut got = vec![0; data.len()];
            rx.exact().recv(&mut got).unwrap();
            assert!(got == *data);
        });
        tx.send(data).unwrap();
    });
    Ok(())
}
