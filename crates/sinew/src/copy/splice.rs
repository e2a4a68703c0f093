//! Moving bytes inside the kernel: splice(2), tee(2) and vmsplice(2).
//!
//! [`splice()`] moves bytes between a pipe and a file, a socket or another pipe; [`tee()`] gives one
//! pipe what another holds and leaves it there. Both have the verb `transfer` of [`Transfers`], in
//! its four forms. [`vmsplice`] gives a pipe the pages of this process.
//!
//! ```
//! use sinew::pipe;
//! use sinew::splice::{self, Transfers};
//! use sinew::wait::{Receives, Sends};
//!
//! let (from, tx) = pipe::pipe()?;
//! let (rx, to) = pipe::pipe()?;
//! tx.send(b"hello").unwrap();
//!
//! assert_eq!(splice::tee(&from, &to).transfer(64), Ok(5));
//! assert_eq!(splice::splice(&from, &to).transfer(64), Ok(5));
//! let mut buf = [0; 64];
//! assert_eq!(rx.recv(&mut buf), Ok(10));
//! assert_eq!(&buf[..10], b"hellohello");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What is moved
//! Pages, not bytes: into a pipe each piece takes a slot of its own, 16 in the usual pipe, however
//! short it is. A page that came from a file is the file's: who changes the file before the reader has
//! taken it changes what the reader gets.
//!
//! # Waiting
//! Against a pipe, and a socket that is O_NONBLOCK, bounded forms are exact. The kernel has no way
//! to make a *blocking* socket return at once for one splice: there a bounded transfer first looks
//! whether the socket is ready, and then moves at most a page into it, which fits. Another process
//! that uses the same socket at the same time can make that late. Reading a file from a slow disk
//! is not bounded by anything.
//!
//! # SIGPIPE
//! All three raise it when nobody reads, and have no flag against it. It is kept away, by one to
//! two system calls more where the process ignores the signal, two to three where not, none while the thread has a
//! [`HeldSigpipe`](crate::pipe::HeldSigpipe): then each transfer is exactly one.
//!
//! From splice(2), tee(2), vmsplice(2).

#![allow(unsafe_code, reason = "vmsplice lends pages of this process to the kernel")]

use std::fmt;
use std::io::{self, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fstat};
use rustix::io::Errno;
use rustix::pipe::{
    IoSliceRaw, PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with,
};

use super::pipe::{ATOMIC, stop_sending, without_sigpipe};
use crate::error::{SendError, Stop};
use crate::wait::{Mode, Wait, drive, send_all};

/// The most that one call is asked for: the kernel does less at once, and 32 bits hold it.
const MOST: usize = 1 << 30;

/// Why a transfer did not do all it should, and how far it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferError {
    /// How many bytes had arrived by then. A plain `transfer` that fails has moved none.
    pub moved: u64,
    /// What ended it.
    pub stop: TransferStop,
}

/// What ended a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransferStop {
    /// It would have had to wait, and the call was a `try_` one.
    WouldBlock,
    /// The deadline passed.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered.
    Interrupted,
    /// The source is at its end: the end of the file, or nobody writes any more.
    Ended,
    /// Nobody reads the destination any more.
    Closed,
    /// The kernel refused with this error number. EINVAL: neither is a pipe, or the file cannot be
    /// spliced, or it was opened for appending.
    Os(i32),
}

impl From<Stop> for TransferStop {
    fn from(stop: Stop) -> Self {
        match stop_sending(stop) {
            Stop::WouldBlock => Self::WouldBlock,
            Stop::TimedOut => Self::TimedOut,
            Stop::Interrupted => Self::Interrupted,
            Stop::Closed => Self::Closed,
            Stop::Os(errno) => Self::Os(errno),
        }
    }
}

impl From<TransferStop> for TransferError {
    fn from(stop: TransferStop) -> Self {
        Self { moved: 0, stop }
    }
}

impl From<Errno> for TransferError {
    fn from(errno: Errno) -> Self {
        TransferStop::Os(errno.raw_os_error()).into()
    }
}

impl fmt::Display for TransferStop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WouldBlock => Stop::WouldBlock.fmt(f),
            Self::TimedOut => Stop::TimedOut.fmt(f),
            Self::Interrupted => Stop::Interrupted.fmt(f),
            Self::Ended => f.write_str("the source is at its end"),
            Self::Closed => f.write_str("nobody reads the destination"),
            Self::Os(errno) => Stop::Os(errno).fmt(f),
        }
    }
}

impl fmt::Display for TransferError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.moved {
            0 => write!(f, "nothing was moved: {}", self.stop),
            moved => write!(f, "only {moved} bytes were moved: {}", self.stop),
        }
    }
}

impl std::error::Error for TransferError {}

impl From<TransferError> for io::Error {
    fn from(error: TransferError) -> Self {
        match error.stop {
            TransferStop::Os(errno) => Self::from_raw_os_error(errno),
            TransferStop::WouldBlock => Self::new(io::ErrorKind::WouldBlock, error),
            TransferStop::TimedOut => Self::new(io::ErrorKind::TimedOut, error),
            TransferStop::Interrupted => Self::new(io::ErrorKind::Interrupted, error),
            TransferStop::Ended => Self::new(io::ErrorKind::UnexpectedEof, error),
            TransferStop::Closed => Self::new(io::ErrorKind::BrokenPipe, error),
        }
    }
}

/// What can move bytes inside the kernel.
pub trait Transfers {
    /// Moves at least one byte and at most `len`, waiting as `wait` allows. A `len` of 0 moves none
    /// and looks at nothing. The other forms are made of this one.
    ///
    /// # Errors
    /// See [`TransferStop`].
    fn transfer_wait(&self, len: usize, wait: Wait<'_>) -> Result<usize, TransferError>;

    /// Moves at most `len` bytes; waits until it can move some.
    ///
    /// # Errors
    /// See [`TransferStop`].
    #[inline]
    fn transfer(&self, len: usize) -> Result<usize, TransferError> {
        self.transfer_wait(len, Wait::FOREVER)
    }

    /// Moves at most `len` bytes, if it can move some now.
    ///
    /// # Errors
    /// [`TransferStop::WouldBlock`] if it cannot.
    #[inline]
    fn try_transfer(&self, len: usize) -> Result<usize, TransferError> {
        self.transfer_wait(len, Wait::NEVER)
    }

    /// Moves at most `len` bytes; waits at most `timeout` until it can move some.
    ///
    /// # Errors
    /// [`TransferStop::TimedOut`] if that was too short.
    #[inline]
    fn transfer_timeout(&self, len: usize, timeout: Duration) -> Result<usize, TransferError> {
        self.transfer_wait(len, Wait::timeout(timeout))
    }

    /// Moves at most `len` bytes; waits at most until `deadline` until it can move some.
    ///
    /// # Errors
    /// [`TransferStop::TimedOut`] if that was too early.
    #[inline]
    fn transfer_until(&self, len: usize, deadline: Instant) -> Result<usize, TransferError> {
        self.transfer_wait(len, Wait::until(deadline))
    }
}

/// A move from one descriptor to another, made by [`splice()`]. One of them is a pipe.
#[derive(Clone, Copy, Debug)]
#[must_use = "it moves nothing until `transfer`, `exact` or `to_end`"]
pub struct Splice<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    from_offset: Option<u64>,
    to_offset: Option<u64>,
}

/// A copy from one pipe to another that leaves the first as it is, made by [`tee()`].
///
/// Bytes that were copied and not received are copied again by the next `transfer`: take them from the
/// first pipe in between.
#[derive(Clone, Copy, Debug)]
#[must_use = "it copies nothing until `transfer`"]
pub struct Tee<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
}

/// Moves bytes from `from` to `to`, of which one is a pipe (for [`Splice::to_end`] and
/// [`Splice::exact`] neither need be).
pub fn splice<'a>(from: &'a impl AsFd, to: &'a impl AsFd) -> Splice<'a> {
    Splice { from: from.as_fd(), to: to.as_fd(), from_offset: None, to_offset: None }
}

/// Gives the pipe `to` what is in the pipe `from`, which keeps it.
pub fn tee<'a>(from: &'a impl AsFd, to: &'a impl AsFd) -> Tee<'a> {
    Tee { from: from.as_fd(), to: to.as_fd() }
}

impl Splice<'_> {
    /// Reads the file `from` at `offset` on, and leaves its position alone.
    pub const fn from_offset(mut self, offset: u64) -> Self {
        self.from_offset = Some(offset);
        self
    }

    /// Writes the file `to` at `offset` on, and leaves its position alone.
    pub const fn to_offset(mut self, offset: u64) -> Self {
        self.to_offset = Some(offset);
        self
    }

    /// Moves exactly `len` bytes, in as many transfers as that takes.
    ///
    /// If neither end is a pipe, the bytes go through one made for the purpose. That has no bounded
    /// form (EINVAL), since what is under way in it when time runs out would be lost.
    ///
    /// # Errors
    /// See [`TransferStop`]; the source may end early ([`TransferStop::Ended`]).
    pub fn exact(self, len: u64, wait: Wait<'_>) -> Result<(), TransferError> {
        self.repeat(Some(len), wait).map(drop)
    }

    /// Moves everything until the source ends, and gives how much that was.
    ///
    /// If neither end is a pipe, the bytes go through one made for the purpose, as in
    /// [`exact`](Self::exact).
    ///
    /// # Errors
    /// See [`TransferStop`].
    pub fn to_end(self, wait: Wait<'_>) -> Result<u64, TransferError> {
        self.repeat(None, wait)
    }

    /// The same move, further on by as much.
    fn further(mut self, moved: u64) -> Self {
        self.from_offset = self.from_offset.map(|o| o.saturating_add(moved));
        self.to_offset = self.to_offset.map(|o| o.saturating_add(moved));
        self
    }

    fn repeat(self, len: Option<u64>, wait: Wait<'_>) -> Result<u64, TransferError> {
        if fcntl_getpipe_size(self.from).is_ok() || fcntl_getpipe_size(self.to).is_ok() {
            return repeat(len, |moved, most| self.further(moved).transfer_wait(most, wait));
        }
        if !wait.is_unbounded() {
            return Err(Errno::INVAL.into());
        }
        let (rx, tx) = pipe_with(PipeFlags::CLOEXEC)?;
        // More at a turn; the usual size does as well.
        let _ = fcntl_setpipe_size(&tx, 1 << 20);
        repeat(len, |moved, most| {
            let onward = self.further(moved);
            let in_pipe =
                Splice { to: tx.as_fd(), to_offset: None, ..onward }.transfer_wait(most, wait)?;
            Splice { from: rx.as_fd(), from_offset: None, ..onward }.exact(in_pipe as u64, wait)?;
            Ok(in_pipe)
        })
    }
}

/// Repeats `transfer`, which is given how much was moved and how much more to move at most.
fn repeat(
    len: Option<u64>,
    mut transfer: impl FnMut(u64, usize) -> Result<usize, TransferError>,
) -> Result<u64, TransferError> {
    let mut moved = 0;
    while len != Some(moved) {
        let most = len.map_or(MOST, |len| usize::try_from(len - moved).unwrap_or(MOST).min(MOST));
        match transfer(moved, most) {
            Ok(count) => moved += count as u64,
            Err(TransferError { moved: 0, stop: TransferStop::Ended }) if len.is_none() => break,
            Err(error) => {
                return Err(TransferError { moved: moved + error.moved, stop: error.stop });
            }
        }
    }
    Ok(moved)
}

impl Transfers for Splice<'_> {
    #[inline]
    fn transfer_wait(&self, len: usize, wait: Wait<'_>) -> Result<usize, TransferError> {
        let (mut from_offset, mut to_offset) = (self.from_offset, self.to_offset);
        between(self.from, self.to, len, wait, |len, flags| {
            rustix::pipe::splice(
                self.from,
                from_offset.as_mut(),
                self.to,
                to_offset.as_mut(),
                len,
                flags,
            )
        })
    }
}

impl Transfers for Tee<'_> {
    #[inline]
    fn transfer_wait(&self, len: usize, wait: Wait<'_>) -> Result<usize, TransferError> {
        between(self.from, self.to, len, wait, |len, flags| {
            rustix::pipe::tee(self.from, self.to, len, flags)
        })
    }
}

/// Runs `call` until it moves something or `wait` is over.
#[inline]
fn between(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: usize,
    wait: Wait<'_>,
    mut call: impl FnMut(usize, SpliceFlags) -> Result<usize, Errno>,
) -> Result<usize, TransferError> {
    if len > 0 && wait.is_unbounded() {
        let done = without_sigpipe(len, || call(len, SpliceFlags::empty()));
        if let Ok(count) = done
            && count > 0
        {
            return Ok(count);
        }
        return go_on(from, to, len, wait, done, call);
    }
    go_on(from, to, len, wait, Err(Errno::INTR), call)
}

/// Goes on after a first attempt that gave `done`. Unlike what `drive` waits for, either of two
/// descriptors may be what is not ready.
#[cold]
fn go_on(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    len: usize,
    wait: Wait<'_>,
    mut done: Result<usize, Errno>,
    mut call: impl FnMut(usize, SpliceFlags) -> Result<usize, Errno>,
) -> Result<usize, TransferError> {
    if len == 0 {
        return Ok(0);
    }
    let stopped = |stop: Stop| TransferError::from(TransferStop::from(stop));
    let (flags, care) = if wait.is_unbounded() {
        (SpliceFlags::empty(), Care::NONE)
    } else {
        wait.check_interrupt().map_err(stopped)?;
        (SpliceFlags::NONBLOCK, Care::of(from, to)?)
    };
    loop {
        match done {
            Ok(0) => return Err(TransferStop::Ended.into()),
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                wait.sleep(Some((from, PollFlags::IN)), None).map_err(stopped)?;
                wait.sleep(Some((to, PollFlags::OUT)), None).map_err(stopped)?;
            }
            Err(errno) => return Err(stopped(Stop::Os(errno.raw_os_error()))),
        }
        done = care.check(from, to).and_then(|()| {
            let len = if care.to { len.min(ATOMIC) } else { len };
            without_sigpipe(len, || call(len, flags))
        });
    }
}

/// Which sides would sleep in spite of SPLICE_F_NONBLOCK: blocking sockets and devices.
#[derive(Clone, Copy)]
struct Care {
    from: bool,
    to: bool,
}

impl Care {
    const NONE: Self = Self { from: false, to: false };

    fn of(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Self, Errno> {
        let sleeps = |fd| {
            Ok(match FileType::from_raw_mode(fstat(fd)?.st_mode) {
                FileType::Fifo | FileType::RegularFile => false,
                _ => !fcntl_getfl(fd)?.contains(OFlags::NONBLOCK),
            })
        };
        Ok(Self { from: sleeps(from)?, to: sleeps(to)? })
    }

    fn check(self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
        for (care, fd, event) in [(self.from, from, PollFlags::IN), (self.to, to, PollFlags::OUT)] {
            if care {
                let mut one = [PollFd::from_borrowed_fd(fd, event)];
                if poll(&mut one, Some(&Timespec::default()))? == 0 {
                    return Err(Errno::AGAIN);
                }
            }
        }
        Ok(())
    }
}

/// Gives the pages of `data` to a pipe, without a copy: the reader gets what is in them *when it
/// reads*. All of them, in as many pieces as there is room for; each page takes a slot, so the usual
/// pipe holds 16.
///
/// Where `data` may change, [`Sends`](crate::wait::Sends) is what you want; below some tens of
/// kilobytes it is faster as well.
///
/// # Errors
/// See [`SendError`]. What [`SendError::Partial`] counts is in the pipe and still lent.
///
/// # Safety
/// - The bytes of `data` must not change, and their memory must not be given back, until every byte
///   was received, by whoever in whatever process has the pipe by then, or the pipe is gone. A reader
///   may splice or tee the pages onward, and then they are lent until they are received *there*.
///   This holds also where the call fails with `Partial`.
/// - `to` must be able to write. Given a read end, the kernel would write into `data` instead.
#[inline]
pub unsafe fn vmsplice(to: &PipeWriter, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
    let fd = to.as_fd();
    send_all(data, |rest| {
        drive(fd, PollFlags::OUT, wait, |mode| {
            let flags = match mode {
                Mode::MayBlock => SpliceFlags::empty(),
                Mode::NonBlocking => SpliceFlags::NONBLOCK,
            };
            let lent = [IoSliceRaw::from_slice(rest)];
            // SAFETY: the kernel only takes references to the pages, since `to` can write; that they
            // stay as they are while it has them is promised by the caller.
            without_sigpipe(rest.len(), || unsafe { rustix::pipe::vmsplice(fd, &lent, flags) })
        })
        .map_err(stop_sending)
    })
}

/// Gives the pages of `data`, which never changes, to a pipe, without a copy. See [`vmsplice`].
///
/// ```
/// use sinew::wait::{Receives, Wait};
/// use sinew::{pipe, splice};
///
/// static PAGE: [u8; 8192] = [7; 8192];
///
/// let (rx, tx) = pipe::pipe()?;
/// splice::vmsplice_static(&tx, &PAGE, Wait::FOREVER).unwrap();
/// let mut buf = [0; 8192];
/// assert_eq!(rx.recv(&mut buf), Ok(8192));
/// assert_eq!(buf, PAGE);
/// # Ok::<(), sinew::Error>(())
/// ```
///
/// # Errors
/// See [`SendError`]; EBADF if `to` cannot write.
pub fn vmsplice_static(
    to: &PipeWriter,
    data: &'static [u8],
    wait: Wait<'_>,
) -> Result<(), SendError> {
    // Anything can be made a PipeWriter.
    let flags = fcntl_getfl(to).map_err(|errno| SendError::Os(errno.raw_os_error()))?;
    if flags & OFlags::ACCMODE == OFlags::RDONLY {
        return Err(SendError::Os(Errno::BADF.raw_os_error()));
    }
    // SAFETY: what is borrowed for ever never changes and is never given back; that `to` can write
    // was checked above, and the access mode of a description never changes.
    unsafe { vmsplice(to, data, wait) }
}
