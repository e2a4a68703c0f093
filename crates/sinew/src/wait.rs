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
//! the trait of the verb: [`Sends`], [`Receives`], [`Accepts`], [`Connects`], [`Opens`]. A `Wait` also
//! carries an optional [`Interrupt`], by which another thread ends the call.
//!
//! What a call takes beside its data (a priority, a message type, descriptors, a destination) is
//! given by a *view* of the object, which has the same verbs:
//! `queue.priority(9).send(b"urgent")`, `queue.of_type(7).recv(&mut buf)`.
//!
//! Deadlines are of CLOCK_MONOTONIC, as [`Instant`] is: setting the clock of the host changes no
//! wait. EINTR never reaches the caller; it is retried with the same deadline.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::error::{Error, RecvError, Result, SendError, Stop};

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

    /// Whether the call may sleep in the kernel's own blocking call: no deadline, no interrupt.
    #[inline]
    pub(crate) const fn is_unbounded(&self) -> bool {
        matches!(self.limit, Limit::Forever) && self.interrupt.is_none()
    }

    /// Whether the call may not wait at all.
    pub(crate) const fn is_never(&self) -> bool {
        matches!(self.limit, Limit::Never)
    }

    /// Sleeps until `fd` has one of `events`, an error or a hang-up, or the wait is over. What is
    /// not pollable passes no fd, and a `pause` after which it looks again by itself.
    pub(crate) fn sleep(
        &self,
        fd: Option<(BorrowedFd<'_>, PollFlags)>,
        pause: Option<Duration>,
    ) -> Result<(), Stop> {
        let left = match self.limit {
            Limit::Never => return Err(Stop::WouldBlock),
            Limit::Forever => None,
            Limit::Until(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => Some(left),
                _ => return Err(Stop::TimedOut),
            },
        };
        let nap = match (left, pause) {
            (Some(left), Some(pause)) => Some(left.min(pause)),
            (left, pause) => left.or(pause),
        };
        // A nap too long for the kernel's clock is none.
        let nap = nap.and_then(|nap| Timespec::try_from(nap).ok());

        let watched = fd.map(|(fd, events)| PollFd::from_borrowed_fd(fd, events));
        let interrupt =
            self.interrupt.map(|i| PollFd::from_borrowed_fd(i.0.as_fd(), PollFlags::IN));
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
/// [`clear`](Self::clear). It is an eventfd: [`AsFd`] lets a poll loop watch it too.
#[derive(Debug)]
pub struct Interrupt(OwnedFd);

impl Interrupt {
    /// A new one, not triggered.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self> {
        eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map(Self)
            .map_err(|e| Error::os("create an interrupt (eventfd)", e))
    }

    /// Ends every call that waits with this interrupt, and those that come. Never blocks.
    pub fn trigger(&self) {
        // EAGAIN means the counter is at its end: it is triggered already.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes it as new.
    pub fn clear(&self) {
        // EAGAIN means that it was not triggered.
        let _ = rustix::io::read(&self.0, &mut [0_u8; 8]);
    }

    /// Whether it is triggered.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(n) if n > 0)
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What can send bytes or messages.
///
/// A message goes whole or not at all. A byte stream goes whole too, however many system calls
/// that takes; what stops it half-way is [`SendError::Partial`], which says how much went. No call
/// raises SIGPIPE.
pub trait Sends {
    /// Sends `data`, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`SendError`].
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError>;

    /// Sends `data`; waits for room as long as it takes.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    fn send(&self, data: &[u8]) -> Result<(), SendError> {
        self.send_wait(data, Wait::FOREVER)
    }

    /// Sends `data` if there is room now.
    ///
    /// # Errors
    /// [`SendError::Full`] if there is none; see [`SendError`].
    #[inline]
    fn try_send(&self, data: &[u8]) -> Result<(), SendError> {
        self.send_wait(data, Wait::NEVER)
    }

    /// Sends `data`; waits for room at most `timeout`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn send_timeout(&self, data: &[u8], timeout: Duration) -> Result<(), SendError> {
        self.send_wait(data, Wait::timeout(timeout))
    }

    /// Sends `data`; waits for room at most until `deadline`.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if there was none; see [`SendError`].
    #[inline]
    fn send_until(&self, data: &[u8], deadline: Instant) -> Result<(), SendError> {
        self.send_wait(data, Wait::until(deadline))
    }
}

/// What can receive bytes or messages.
///
/// A message mechanism gives one message a call, a byte stream at least one byte. The end is
/// always [`RecvError::Closed`], never a length of zero.
pub trait Receives {
    /// What a call gives: the length, and whatever else arrives with a message.
    type Received;

    /// Receives into `buf`, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`RecvError`].
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Self::Received, RecvError>;

    /// Receives into `buf`; waits as long as it takes.
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline]
    fn recv(&self, buf: &mut [u8]) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::FOREVER)
    }

    /// Receives into `buf` if something is there now.
    ///
    /// # Errors
    /// [`RecvError::Empty`] if nothing is; see [`RecvError`].
    #[inline]
    fn try_recv(&self, buf: &mut [u8]) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::NEVER)
    }

    /// Receives into `buf`; waits at most `timeout`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if nothing came; see [`RecvError`].
    #[inline]
    fn recv_timeout(&self, buf: &mut [u8], timeout: Duration) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::timeout(timeout))
    }

    /// Receives into `buf`; waits at most until `deadline`.
    ///
    /// # Errors
    /// [`RecvError::TimedOut`] if nothing came; see [`RecvError`].
    #[inline]
    fn recv_until(&self, buf: &mut [u8], deadline: Instant) -> Result<Self::Received, RecvError> {
        self.recv_wait(buf, Wait::until(deadline))
    }
}

/// A byte stream: [`recv`](Receives::recv) gives whatever is there, [`exact`](Self::exact) waits
/// for the whole buffer.
pub trait ByteStream: Receives<Received = usize> + Sized {
    /// A view that receives exactly as many bytes as the buffer has.
    ///
    /// ```
    /// use sinew::pipe;
    /// use sinew::wait::{ByteStream, Receives, Sends};
    ///
    /// let (rx, tx) = pipe::pipe()?;
    /// tx.send(b"12").unwrap();
    /// tx.send(b"34").unwrap();
    /// let mut four = [0; 4];
    /// rx.exact().recv(&mut four).unwrap();
    /// assert_eq!(&four, b"1234");
    /// # Ok::<(), sinew::Error>(())
    /// ```
    fn exact(&self) -> Exact<'_, Self> {
        Exact(self)
    }
}

/// A byte stream that fills the whole buffer. Made by [`ByteStream::exact`].
#[derive(Debug)]
pub struct Exact<'a, S>(&'a S);

impl<S: ByteStream> Receives for Exact<'_, S> {
    type Received = ();

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<(), RecvError> {
        if buf.is_empty() {
            return Ok(());
        }
        match self.0.recv_wait(buf, wait) {
            Ok(count) if count == buf.len() => Ok(()),
            first => self.recv_rest(buf, first, wait),
        }
    }
}

impl<S: ByteStream> Exact<'_, S> {
    #[cold]
    #[inline(never)]
    fn recv_rest(
        &self,
        buf: &mut [u8],
        first: Result<usize, RecvError>,
        wait: Wait<'_>,
    ) -> Result<(), RecvError> {
        let mut received = 0;
        let mut last = first;
        loop {
            match last {
                Ok(count) => received += count,
                Err(error) if received == 0 => return Err(error),
                Err(error) => {
                    return Err(RecvError::Partial { received, stop: error.into_stop() });
                }
            }
            if received >= buf.len() {
                return Ok(());
            }
            last = self.0.recv_wait(&mut buf[received..], wait);
        }
    }
}

/// What can accept connections.
pub trait Accepts {
    /// What a call gives.
    type Connection;

    /// Accepts one connection, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`].
    fn accept_wait(&self, wait: Wait<'_>) -> Result<Self::Connection>;

    /// Accepts one connection; waits as long as it takes.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`].
    fn accept(&self) -> Result<Self::Connection> {
        self.accept_wait(Wait::FOREVER)
    }

    /// Accepts one connection if that needs no waiting.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](crate::ErrorKind::WouldBlock) if it needs waiting.
    fn try_accept(&self) -> Result<Self::Connection> {
        self.accept_wait(Wait::NEVER)
    }

    /// Accepts one connection; waits at most `timeout`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too short.
    fn accept_timeout(&self, timeout: Duration) -> Result<Self::Connection> {
        self.accept_wait(Wait::timeout(timeout))
    }

    /// Accepts one connection; waits at most until `deadline`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too early.
    fn accept_until(&self, deadline: Instant) -> Result<Self::Connection> {
        self.accept_wait(Wait::until(deadline))
    }
}

/// What can connect to a listener.
pub trait Connects {
    /// What a call gives.
    type Connection;

    /// Connects, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`].
    fn connect_wait(&self, wait: Wait<'_>) -> Result<Self::Connection>;

    /// Connects; waits as long as it takes.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`].
    fn connect(&self) -> Result<Self::Connection> {
        self.connect_wait(Wait::FOREVER)
    }

    /// Connects if that needs no waiting.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](crate::ErrorKind::WouldBlock) if it needs waiting.
    fn try_connect(&self) -> Result<Self::Connection> {
        self.connect_wait(Wait::NEVER)
    }

    /// Connects; waits at most `timeout`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too short.
    fn connect_timeout(&self, timeout: Duration) -> Result<Self::Connection> {
        self.connect_wait(Wait::timeout(timeout))
    }

    /// Connects; waits at most until `deadline`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too early.
    fn connect_until(&self, deadline: Instant) -> Result<Self::Connection> {
        self.connect_wait(Wait::until(deadline))
    }
}

/// What can be opened once another process is there (an end of a FIFO).
pub trait Opens {
    /// What a call gives.
    type Opened;

    /// Opens it, waiting as `wait` allows. The other forms are made of this one.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`].
    fn open_wait(&self, wait: Wait<'_>) -> Result<Self::Opened>;

    /// Opens it; waits as long as it takes.
    ///
    /// # Errors
    /// Whatever stands against it, named in the [`Error`].
    fn open(&self) -> Result<Self::Opened> {
        self.open_wait(Wait::FOREVER)
    }

    /// Opens it if that needs no waiting.
    ///
    /// # Errors
    /// Of kind [`WouldBlock`](crate::ErrorKind::WouldBlock) if it needs waiting.
    fn try_open(&self) -> Result<Self::Opened> {
        self.open_wait(Wait::NEVER)
    }

    /// Opens it; waits at most `timeout`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too short.
    fn open_timeout(&self, timeout: Duration) -> Result<Self::Opened> {
        self.open_wait(Wait::timeout(timeout))
    }

    /// Opens it; waits at most until `deadline`.
    ///
    /// # Errors
    /// Of kind [`TimedOut`](crate::ErrorKind::TimedOut) if that was too early.
    fn open_until(&self, deadline: Instant) -> Result<Self::Opened> {
        self.open_wait(Wait::until(deadline))
    }
}

#[cfg(test)]
mod tests;
