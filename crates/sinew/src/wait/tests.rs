//! The rules of waiting, on made-up attempts: no system call decides anything here.

use std::cell::{Cell, RefCell};
use std::os::fd::AsFd;

use super::*;
use crate::error::RecvError;

/// An attempt that gives these results one after the other, and notes how it was called.
struct Script {
    results: RefCell<Vec<Result<u32, Errno>>>,
    modes: RefCell<Vec<Mode>>,
}

impl Script {
    fn new(results: &[Result<u32, Errno>]) -> Self {
        let results = results.iter().rev().copied().collect();
        Self { results: RefCell::new(results), modes: RefCell::default() }
    }

    fn attempt(&self, mode: Mode) -> Result<u32, Errno> {
        self.modes.borrow_mut().push(mode);
        self.results.borrow_mut().pop().unwrap()
    }

    fn run(&self, wait: Wait<'_>) -> Result<u32, Stop> {
        let input = std::io::stdin();
        drive(input.as_fd(), PollFlags::IN, wait, |mode| self.attempt(mode))
    }

    fn run_by_naps(&self, wait: Wait<'_>) -> Result<u32, Stop> {
        drive_by_naps(wait, |mode| self.attempt(mode))
    }
}

/// A wait whose deadline has passed.
fn over() -> Wait<'static> {
    Wait::until(Instant::now())
}

#[test]
fn an_unbounded_wait_is_one_attempt_that_may_block() {
    for run in [Script::run, Script::run_by_naps] {
        let script = Script::new(&[Ok(1)]);
        assert_eq!(run(&script, Wait::FOREVER), Ok(1));
        assert_eq!(*script.modes.borrow(), [Mode::MayBlock]);
    }
}

#[test]
fn every_other_wait_is_an_attempt_that_does_not_block() {
    for run in [Script::run, Script::run_by_naps] {
        for wait in [Wait::NEVER, over(), Wait::timeout(Duration::from_secs(60))] {
            let script = Script::new(&[Ok(1)]);
            assert_eq!(run(&script, wait), Ok(1));
            assert_eq!(*script.modes.borrow(), [Mode::NonBlocking]);
        }
    }
}

#[test]
fn a_signal_is_no_result() {
    for run in [Script::run, Script::run_by_naps] {
        for wait in [Wait::FOREVER, Wait::NEVER, over()] {
            let script = Script::new(&[Err(Errno::INTR), Err(Errno::INTR), Ok(2)]);
            assert_eq!(run(&script, wait), Ok(2));
            assert_eq!(script.modes.borrow().len(), 3);
        }
    }
}

#[test]
fn what_is_not_there_ends_by_the_kind_of_wait() {
    for run in [Script::run, Script::run_by_naps] {
        for (wait, stop) in [(Wait::NEVER, Stop::WouldBlock), (over(), Stop::TimedOut)] {
            let script = Script::new(&[Err(Errno::AGAIN)]);
            assert_eq!(run(&script, wait), Err(stop), "after one attempt");
        }
    }
}

#[test]
fn an_error_of_the_kernel_ends_it() {
    for run in [Script::run, Script::run_by_naps] {
        let script = Script::new(&[Err(Errno::INTR), Err(Errno::IO)]);
        assert_eq!(run(&script, Wait::FOREVER), Err(Stop::Os(Errno::IO.raw_os_error())));
    }
}

#[test]
#[cfg_attr(miri, ignore = "Miri has no ppoll")]
fn naps_look_again_until_it_is_there() {
    let script = Script::new(&[Err(Errno::AGAIN), Err(Errno::AGAIN), Ok(3)]);
    assert_eq!(script.run_by_naps(Wait::timeout(Duration::from_secs(60))), Ok(3));
}

#[test]
fn a_time_out_beyond_the_clock_is_for_ever() {
    assert!(Wait::timeout(Duration::MAX).is_unbounded());
    assert!(!Wait::timeout(Duration::from_secs(1)).is_unbounded());
}

#[test]
fn a_stream_is_sent_in_as_many_pieces_as_it_takes() {
    let sent = RefCell::new(Vec::new());
    let result = send_all(b"abcdefg", |rest| {
        let count = rest.len().min(3);
        sent.borrow_mut().extend_from_slice(&rest[..count]);
        Ok(count)
    });
    assert_eq!((result, &sent.borrow()[..]), (Ok(()), &b"abcdefg"[..]));
}

#[test]
fn a_stream_that_stops_half_way_says_how_far_it_came() {
    let calls = Cell::new(0);
    let result = send_all(b"abcdefg", |_| {
        calls.set(calls.get() + 1);
        if calls.get() < 3 { Ok(2) } else { Err(Stop::TimedOut) }
    });
    assert_eq!(result, Err(SendError::Partial { sent: 4, stop: Stop::TimedOut }));
    assert_eq!(send_all(b"a", |_| Err(Stop::Closed)), Err(SendError::Closed));
}

#[test]
fn nothing_is_one_attempt() {
    let calls = Cell::new(0);
    let attempt = |_: &[u8]| {
        calls.set(calls.get() + 1);
        Ok(0)
    };
    assert_eq!(send_all(b"", attempt), Ok(()));
    assert_eq!(calls.get(), 1);
}

/// A stream that gives what is left of these bytes three at a time, and then the end.
struct Three(RefCell<Vec<u8>>);

impl Receives for Three {
    type Received = usize;

    fn recv_wait(&self, buf: &mut [u8], _: Wait<'_>) -> Result<usize, RecvError> {
        let mut left = self.0.borrow_mut();
        let count = left.len().min(3).min(buf.len());
        if count == 0 {
            return Err(RecvError::Closed);
        }
        for (to, from) in buf.iter_mut().zip(left.drain(..count)) {
            *to = from;
        }
        Ok(count)
    }
}

impl ByteStream for Three {}

#[test]
fn exact_fills_the_buffer_or_says_how_far_it_came() {
    let stream = Three(RefCell::new(b"abcdefgh".to_vec()));
    let mut five = [0; 5];
    assert_eq!(stream.exact().recv(&mut five), Ok(()));
    assert_eq!(&five, b"abcde");
    let partial = RecvError::Partial { received: 3, stop: Stop::Closed };
    assert_eq!(stream.exact().recv(&mut five), Err(partial));
    assert_eq!(stream.exact().recv(&mut five), Err(RecvError::Closed), "an end at the edge");
    assert_eq!(stream.exact().recv(&mut []), Ok(()));
}
