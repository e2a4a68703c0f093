//! How long a call may wait, written once for every mechanism.
//!
//! An operation `x` that may block comes in four forms with one meaning everywhere:
//!
//! | form | waits |
//! |---|---|
//! | `x` | until it is done |
//! | `try_x` | never |
//! | `x_timeout` | at most a [`Duration`] |
//! | `x_until` | at most until an [`Instant`] |
//!
//! A type implements one method, `x_wait`, which takes a [`Wait`]; the four forms are provided by
//! the trait of the verb: [`Sends`], [`Receives`], [`Loans`], [`Borrows`], [`Accepts`], [`Connects`],
//! [`Opens`], [`Waits`] and [`Locks`]. A `Wait` also carries an optional [`Interrupt`], by which another thread ends the call.
//!
//! What a call takes beside its data (a priority, a message type, descriptors, a destination) is
//! given by a *view* of the object, which has the same verbs:
//! `queue.priority(9).send(b"urgent")`, `queue.of_type(7).recv(&mut buf)`.
//!
//! Deadlines are of CLOCK_MONOTONIC, as [`Instant`] is: setting the clock of the host changes no
//! wait. EINTR never reaches the caller; it is retried with the same deadline.

mod values;
mod verbs;
pub(crate) mod word;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::error::{Error, Result, SendError, Stop};

pub use values::{LoansValues, ReceivesValues, SendsValues};
pub use verbs::{
    Accepts, Borrows, ByteStream, Connects, Exact, Loans, Locks, Opens, Receives, Sends, Waits,
};

/// How long a call may wait, and who may end it earlier.
///
/// ```
/// use std::time::Duration;
/// use sinew::wait::{Interrupt, Receives, Wait};
/// use sinew::{RecvError, pipe};
///
/// let (rx, _tx) = pipe::pipe()?;
/// let stop = Interrupt::new()?;
/// std::thread::scope(|s| {
///     s.spawn(|| stop.trigger());
///     let got = rx.recv_wait(&mut [0; 16], Wait::FOREVER.interrupted_by(&stop));
///     assert_eq!(got, Err(RecvError::Interrupted));
/// });
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Wait<'a> {
    limit: Limit,
    interrupt: Option<&'a Interrupt>,
}

#[derive(Clone, Copy, Debug)]
enum Limit {
    Never,
    Until(Instant),
    Forever,
}

impl<'a> Wait<'a> {
    /// Waits until it is done.
    pub const FOREVER: Wait<'static> = Wait { limit: Limit::Forever, interrupt: None };
    /// Does not wait.
    pub const NEVER: Wait<'static> = Wait { limit: Limit::Never, interrupt: None };

    /// Waits at most until `deadline`. A deadline in the past still makes one attempt.
    #[must_use]
    pub const fn until(deadline: Instant) -> Self {
        Self { limit: Limit::Until(deadline), interrupt: None }
    }

    /// Waits at most `timeout` from now. A time-out too long for the clock means for ever.
    #[must_use]
    pub fn timeout(timeout: Duration) -> Self {
        match Instant::now().checked_add(timeout) {
            Some(deadline) => Self::until(deadline),
            None => Wait::FOREVER,
        }
    }

    /// Lets `interrupt` end the wait.
    #[must_use]
    pub const fn interrupted_by<'b>(self, interrupt: &'b Interrupt) -> Wait<'b>
    where
        'a: 'b,
    {
        Wait { limit: self.limit, interrupt: Some(interrupt) }
    }

    /// The same, ending after `look` if it would not end before.
    pub(crate) fn at_most(self, look: Duration) -> Self {
        let end = Instant::now().checked_add(look);
        let limit = match (self.limit, end) {
            (Limit::Until(deadline), Some(end)) => Limit::Until(deadline.min(end)),
            (Limit::Forever, Some(end)) => Limit::Until(end),
            (limit, _) => limit,
        };
        Self { limit, ..self }
    }

    /// Whether the call may sleep in the kernel's own blocking call: no deadline, no interrupt.
    #[inline]
    pub(crate) const fn is_unbounded(&self) -> bool {
        matches!(self.limit, Limit::Forever) && self.interrupt.is_none()
    }

    /// Whether another thread may end it.
    pub(crate) const fn is_interruptible(&self) -> bool {
        self.interrupt.is_some()
    }

    /// Whether the call may not wait at all.
    pub(crate) const fn is_never(&self) -> bool {
        matches!(self.limit, Limit::Never)
    }

    /// What is left of it: none where it has no end.
    pub(crate) fn left(&self) -> Result<Option<Duration>, Stop> {
        match self.limit {
            Limit::Never => Err(Stop::WouldBlock),
            Limit::Forever => Ok(None),
            Limit::Until(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => Ok(Some(left)),
                _ => Err(Stop::TimedOut),
            },
        }
    }

    /// Sleeps until `fd` has one of `events`, an error or a hang-up, or the wait is over. What is
    /// not pollable passes no fd, and a `pause` after which it looks again by itself.
    pub(crate) fn sleep(
        &self,
        fd: Option<(BorrowedFd<'_>, PollFlags)>,
        pause: Option<Duration>,
    ) -> Result<(), Stop> {
        let left = self.left()?;
        let nap = match (left, pause) {
            (Some(left), Some(pause)) => Some(left.min(pause)),
            (left, pause) => left.or(pause),
        };
        // A nap too long for the kernel's clock is none.
        let nap = nap.and_then(|nap| Timespec::try_from(nap).ok());

        let watched = fd.map(|(fd, events)| PollFd::from_borrowed_fd(fd, events));
        let interrupt =
            self.interrupt.map(|i| PollFd::from_borrowed_fd(i.event.as_fd(), PollFlags::IN));
        let mut polled = match (watched, interrupt) {
            (Some(watched), Some(interrupt)) => {
                let mut both = [watched, interrupt];
                poll(&mut both, nap.as_ref()).map(|_| both[1].revents())
            }
            (None, Some(interrupt)) => {
                let mut one = [interrupt];
                poll(&mut one, nap.as_ref()).map(|_| one[0].revents())
            }
            (Some(watched), None) => poll(&mut [watched], nap.as_ref()).map(|_| PollFlags::empty()),
            (None, None) => poll(&mut [], nap.as_ref()).map(|_| PollFlags::empty()),
        };
        if polled == Err(Errno::INTR) {
            // The caller looks again and sleeps for what is left of the deadline.
            polled = Ok(PollFlags::empty());
        }
        match polled {
            Err(errno) => Err(Stop::Os(errno.raw_os_error())),
            Ok(interrupted) if !interrupted.is_empty() => Err(Stop::Interrupted),
            // Time ran out, or only the nap did: the deadline is looked at before the next sleep.
            Ok(_) => Ok(()),
        }
    }

    /// The same by the word alone, without a system call: for who sleeps on words.
    pub(crate) fn check_interrupt_word(&self) -> Result<(), Stop> {
        match self.interrupt {
            Some(interrupt) if interrupt.word.load(Ordering::Acquire) != 0 => {
                Err(Stop::Interrupted)
            }
            _ => Ok(()),
        }
    }

    /// Ends a call that is interrupted already, before it does anything.
    pub(crate) fn check_interrupt(&self) -> Result<(), Stop> {
        match self.interrupt {
            Some(interrupt) if interrupt.is_triggered() => Err(Stop::Interrupted),
            _ => Ok(()),
        }
    }
}

/// Whether an attempt may sleep inside the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It may sleep: nothing bounds the wait.
    MayBlock,
    /// It must return EAGAIN instead.
    NonBlocking,
}

/// Runs `attempt` until it is done or `wait` is over: the one place where every pollable blocking
/// call waits. An unbounded wait on a blocking descriptor is exactly one system call.
///
/// Only the first attempt of an unbounded wait is inlined, with its mode a constant: what a message
/// costs over the bare system call is what is inlined here.
#[inline(always)]
pub(crate) fn drive<T>(
    fd: BorrowedFd<'_>,
    events: PollFlags,
    wait: Wait<'_>,
    attempt: impl FnMut(Mode) -> Result<T, Errno>,
) -> Result<T, Stop> {
    drive_or_nap(Some((fd, events)), wait, attempt)
}

/// Runs `attempt` for what cannot be polled (System V queues): looks again after naps that grow
/// from 20 us to 1 ms, which is also the most that a bounded wait can be late.
#[inline(always)]
pub(crate) fn drive_by_naps<T>(
    wait: Wait<'_>,
    attempt: impl FnMut(Mode) -> Result<T, Errno>,
) -> Result<T, Stop> {
    drive_or_nap(None, wait, attempt)
}

/// How long one attempt of a call with a time-out may sleep inside the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// Until it is done.
    Forever,
    /// So long; EAGAIN then.
    AtMost(Duration),
    /// Not at all: EAGAIN instead.
    Never,
}

/// How often an interrupt is looked at during a call that waits for nothing else.
const LOOK: Duration = Duration::from_millis(1);

/// Runs `attempt` for what cannot be polled but takes a time-out (System V semaphores). An unbounded
/// or bounded wait is one system call; one that can be interrupted is one each millisecond.
#[inline]
pub(crate) fn drive_by_spans<T>(
    wait: Wait<'_>,
    mut attempt: impl FnMut(Span) -> Result<T, Errno>,
) -> Result<T, Stop> {
    loop {
        wait.check_interrupt()?;
        let (span, over) = match wait.left() {
            Ok(None) if wait.interrupt.is_none() => (Span::Forever, None),
            Ok(left) => {
                let look = wait.interrupt.map(|_| LOOK);
                let span = left.into_iter().chain(look).min().unwrap_or(LOOK);
                (Span::AtMost(span), None)
            }
            // A deadline in the past still makes one attempt.
            Err(over) => (Span::Never, Some(over)),
        };
        match attempt(span) {
            Ok(done) => return Ok(done),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if let Some(over) = over {
                    return Err(over);
                }
            }
            Err(errno) => return Err(Stop::Os(errno.raw_os_error())),
        }
    }
}

#[inline(always)]
fn drive_or_nap<T>(
    watched: Option<(BorrowedFd<'_>, PollFlags)>,
    wait: Wait<'_>,
    mut attempt: impl FnMut(Mode) -> Result<T, Errno>,
) -> Result<T, Stop> {
    if !wait.is_unbounded() {
        return bounded(watched, wait, attempt);
    }
    match attempt(Mode::MayBlock) {
        Ok(done) => Ok(done),
        Err(errno) => go_on(watched, wait, Mode::MayBlock, errno, attempt),
    }
}

#[inline]
fn bounded<T>(
    watched: Option<(BorrowedFd<'_>, PollFlags)>,
    wait: Wait<'_>,
    mut attempt: impl FnMut(Mode) -> Result<T, Errno>,
) -> Result<T, Stop> {
    wait.check_interrupt()?;
    match attempt(Mode::NonBlocking) {
        Ok(done) => Ok(done),
        Err(errno) => go_on(watched, wait, Mode::NonBlocking, errno, attempt),
    }
}

/// Goes on after a first attempt that failed with `errno`.
#[cold]
#[inline(never)]
fn go_on<T>(
    watched: Option<(BorrowedFd<'_>, PollFlags)>,
    wait: Wait<'_>,
    mode: Mode,
    mut errno: Errno,
    mut attempt: impl FnMut(Mode) -> Result<T, Errno>,
) -> Result<T, Stop> {
    let mut nap = Duration::from_micros(20);
    loop {
        match errno {
            Errno::INTR => {}
            // Also where the caller's descriptor is non-blocking by itself.
            Errno::AGAIN if watched.is_some() => wait.sleep(watched, None)?,
            Errno::AGAIN => {
                wait.sleep(None, Some(nap))?;
                nap = (nap * 2).min(Duration::from_millis(1));
            }
            errno => return Err(Stop::Os(errno.raw_os_error())),
        }
        match attempt(mode) {
            Ok(done) => return Ok(done),
            Err(again) => errno = again,
        }
    }
}

/// Sends the whole of `data` by as many attempts as it takes; `attempt` gives how many bytes of its
/// argument went. The first attempt usually takes all, and is inlined alone.
#[inline(always)]
pub(crate) fn send_all(
    data: &[u8],
    mut attempt: impl FnMut(&[u8]) -> Result<usize, Stop>,
) -> Result<(), SendError> {
    match attempt(data) {
        Ok(count) if count >= data.len() => Ok(()),
        first => send_rest(data, first, attempt),
    }
}

#[cold]
#[inline(never)]
fn send_rest(
    data: &[u8],
    first: Result<usize, Stop>,
    mut attempt: impl FnMut(&[u8]) -> Result<usize, Stop>,
) -> Result<(), SendError> {
    let mut sent = 0;
    let mut last = first;
    loop {
        match last {
            Ok(count) => sent += count,
            Err(stop) => return Err(SendError::after(sent, stop)),
        }
        if sent >= data.len() {
            return Ok(());
        }
        last = attempt(&data[sent..]);
    }
}

/// Ends calls that block in other threads.
///
/// Triggered once it stays so, and ends every call that names it, now and later, until
/// [`clear`](Self::clear). It is an eventfd, and a futex word for those who sleep on one: [`AsFd`]
/// lets a poll loop watch it too.
#[derive(Debug)]
pub struct Interrupt {
    event: OwnedFd,
    /// 1 while triggered. Written before the eventfd, cleared before it too.
    word: AtomicU32,
}

impl Interrupt {
    /// A new one, not triggered.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(|event| Self { event, word: AtomicU32::new(0) })
            .map_err(|e| Error::os("create an interrupt (eventfd)", e))
    }

    /// Ends every call that waits with this interrupt, and those that come. Never blocks.
    pub fn trigger(&self) {
        self.word.store(1, Ordering::Release);
        // EAGAIN means the counter is at its end: it is triggered already.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        word::wake_own(&self.word);
    }

    /// Makes it as new.
    pub fn clear(&self) {
        self.word.store(0, Ordering::Release);
        // EAGAIN means that it was not triggered.
        let _ = rustix::io::read(&self.event, &mut [0_u8; 8]);
    }

    /// Whether it is triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        let mut fds = [PollFd::new(&self.event, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(n) if n > 0)
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests;
