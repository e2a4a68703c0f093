//! Pipes: a byte stream, or packets, from one process to its relatives.
//!
//! The ends are [`std::io::PipeReader`] and [`std::io::PipeWriter`]; the verbs of
//! [`wait`](crate::wait) and [`PipeExt`] are implemented on them. A child inherits an end as its
//! standard input or output, any process can be sent one over a UNIX socket.
//!
//! ```
//! use sinew::pipe;
//! use sinew::wait::{Receives, Sends};
//!
//! let (rx, tx) = pipe::pipe()?;
//! tx.send(b"hello").unwrap();
//! let mut buf = [0; 64];
//! let length = rx.recv(&mut buf).unwrap();
//! assert_eq!(&buf[..length], b"hello");
//!
//! drop(tx);
//! assert_eq!(rx.recv(&mut buf), Err(sinew::RecvError::Closed));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What a pipe does
//! - **Room.** 65536 bytes in 16 slots of a page, unless [`Options::capacity`] says otherwise. A
//!   writer waits while it is full, a reader while it is empty.
//! - **Atomicity.** A `send` of at most [`ATOMIC`] bytes (4096) lies in the pipe in one piece,
//!   however many write; a longer one may be mixed with those of others. `try_send` of at most that
//!   much is all or nothing; of more, what fits goes, and the error is
//!   [`SendError::Partial`](crate::SendError::Partial).
//! - **Ends.** `recv` gives [`Closed`](crate::RecvError::Closed) when every write end, in every
//!   process, is closed and the pipe is empty; `send` when every read end is. A process that dies
//!   closes its ends: what it wrote before is still received. A forgotten copy of a write end, in a
//!   child say, keeps the reader waiting; every descriptor made here is close-on-exec.
//! - **Nothing.** Sending no bytes does nothing and succeeds, even if nobody reads. Receiving into an
//!   empty buffer gives 0 at once, without a look at the pipe.
//! - **SIGPIPE** is never raised, and no handler, disposition or flag shared with another process
//!   is touched. See [`HeldSigpipe`] for what that costs before Linux 6.18.
//!
//! # std's own `read` and `write`
//! They stay usable beside the verbs, and differ: `read` gives 0 at the end, both may give
//! `Interrupted`, `write` may take only a part, neither can be bounded in time, and `write` to a pipe
//! without reader raises SIGPIPE, which kills a program that does not ignore it (Rust's `main`
//! ignores it; a program in another language that loads Rust code does not).
//!
//! # System calls
//! Each `send` and `recv` is one. Bounded forms (`try_`, `_timeout`, `_until`) are one if nothing has
//! to be waited for, and use flags per call, so that a description shared with another process
//! keeps its own. Where the kernel grants no such flags (every FIFO, and pipes before Linux 6.4) a
//! bounded `recv` takes 3 and a bounded `send` 5, or about 10 where this process may not open the
//! pipe anew because it belongs to another user; such a `send` needs one or two free descriptors for a
//! moment, and fails with EMFILE without them. If the caller's descriptor is O_NONBLOCK by itself,
//! `send` and `recv` still wait.
//!
//! From pipe(7), pipe(2), readv(2).

mod attempt;
mod packet;
mod sigpipe;

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, ioctl_fionread};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};

pub(crate) use attempt::{read, write};
pub use packet::{PacketReader, PacketWriter};
pub use sigpipe::HeldSigpipe;
pub(crate) use sigpipe::without_sigpipe;

use crate::error::{Error, ErrorKind, RecvError, Result, SendError, Stop};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{ByteStream, Receives, Sends, Wait, drive, send_all};

/// The most bytes that go into a pipe in one piece (`PIPE_BUF`, limits.h): 4096.
pub const ATOMIC: usize = rustix::pipe::PIPE_BUF;

/// A pipe of the usual capacity, both ends close-on-exec.
///
/// # Errors
/// When the process (`RLIMIT_NOFILE`) or the host (`fs.file-max`) has no two descriptors left.
pub fn pipe() -> Result<(PipeReader, PipeWriter)> {
    Options::new().create()
}

/// How a pipe is made.
///
/// ```
/// use sinew::pipe::{Options, PipeExt};
///
/// let (rx, _tx) = Options::new().capacity(100_000).create()?;
/// assert_eq!(rx.capacity()?, 131_072);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "it makes nothing until `create` or `create_packets`"]
pub struct Options {
    capacity: Option<usize>,
}

impl Options {
    /// The usual ones.
    pub fn new() -> Self {
        Self::default()
    }

    /// Room for at least so many bytes; the kernel rounds up to a power of two of pages. See
    /// [`PipeExt::set_capacity`].
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Makes a byte stream.
    ///
    /// # Errors
    /// When no descriptors are left, or as [`PipeExt::set_capacity`].
    pub fn create(&self) -> Result<(PipeReader, PipeWriter)> {
        let (rx, tx) = self.make(PipeFlags::CLOEXEC)?;
        Ok((rx.into(), tx.into()))
    }

    /// Makes a pipe that keeps the boundaries of messages (packet mode, `O_DIRECT`).
    ///
    /// # Errors
    /// When no descriptors are left, or as [`PipeExt::set_capacity`].
    pub fn create_packets(&self) -> Result<(PacketReader, PacketWriter)> {
        let (rx, tx) = self.make(PipeFlags::CLOEXEC | PipeFlags::DIRECT)?;
        Ok((PacketReader::from(rx), PacketWriter::trust(tx)))
    }

    fn make(&self, flags: PipeFlags) -> Result<(OwnedFd, OwnedFd)> {
        let ends = pipe_with(flags).map_err(|errno| {
            let error = Error::os("create", errno).on(Mechanism::Pipe);
            match errno {
                Errno::MFILE => error
                    .because(format!("this process has used up {}", Limit::Nofile.stated()))
                    .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
                // Linux has one number for both.
                Errno::NFILE => error
                    .because(format!(
                        "the host has no open file left, or this user no page of {}",
                        Limit::PipeUserPagesHard.stated()
                    ))
                    .fix(format!("close pipes, or {}", Limit::PipeUserPagesHard.raise())),
                _ => error,
            }
        })?;
        if let Some(bytes) = self.capacity {
            ends.1.as_fd().set_capacity(bytes)?;
        }
        Ok(ends)
    }
}

/// What every end of a pipe or FIFO can tell and change about it. Each is one system call.
///
/// ```
/// use sinew::pipe::{self, PipeExt};
/// use sinew::wait::Sends;
///
/// let (rx, tx) = pipe::pipe()?;
/// tx.send(b"12345").unwrap();
/// assert_eq!(rx.filled()?, 5);
/// assert_eq!(tx.set_capacity(1)?, 4096);
/// # Ok::<(), sinew::Error>(())
/// ```
pub trait PipeExt: AsFd {
    /// How many bytes there is room for in all (`F_GETPIPE_SZ`). Short writes may fill a pipe with
    /// fewer: what a packet or a splice leaves of its page stays unused.
    ///
    /// # Errors
    /// If it is no pipe.
    fn capacity(&self) -> Result<usize> {
        fcntl_getpipe_size(self).map_err(|errno| {
            Error::os("get the capacity", errno)
                .on(Mechanism::Pipe)
                .because("the descriptor is no pipe")
                .of_kind(ErrorKind::Mismatch)
        })
    }

    /// Makes room for at least so many bytes, and gives how many it became (`F_SETPIPE_SZ`): a power
    /// of two of pages, so 4096 at the least. What is in the pipe stays. Either end can do it.
    ///
    /// # Errors
    /// - [`LimitReached`](ErrorKind::LimitReached) above the limits of the host
    ///   (`/proc/sys/fs/pipe-max-size`, `pipe-user-pages-soft`), which the error names;
    /// - [`InUse`](ErrorKind::InUse) if more is in the pipe now.
    fn set_capacity(&self, bytes: usize) -> Result<usize> {
        fcntl_setpipe_size(self, bytes).map_err(|errno| capacity_error(errno, bytes))
    }

    /// How many bytes are in the pipe now, not received yet (`FIONREAD`).
    ///
    /// # Errors
    /// If it is no pipe.
    fn filled(&self) -> Result<usize> {
        match ioctl_fionread(self) {
            Ok(bytes) => Ok(usize::try_from(bytes).unwrap_or(usize::MAX)),
            Err(errno) => Err(Error::os("get the fill", errno).on(Mechanism::Pipe)),
        }
    }
}

impl PipeExt for PipeReader {}
impl PipeExt for PipeWriter {}
impl PipeExt for PacketReader {}
impl PipeExt for PacketWriter {}
impl PipeExt for BorrowedFd<'_> {}

#[cold]
fn capacity_error(errno: Errno, bytes: usize) -> Error {
    let error = Error::os(format!("set the capacity to {bytes} bytes"), errno).on(Mechanism::Pipe);
    match errno {
        Errno::PERM => {
            let over_max = Limit::PipeMaxSize.value().is_some_and(|max| bytes as u64 > max);
            let hit = if over_max { Limit::PipeMaxSize } else { Limit::PipeUserPagesSoft };
            error
                .of_kind(ErrorKind::LimitReached)
                .because(format!("it goes beyond {}", hit.stated()))
                .fix(hit.raise())
        }
        Errno::BUSY => error.because("more bytes than that are in the pipe now"),
        Errno::INVAL => error.because("no pipe can have 2 GiB or more"),
        Errno::BADF => error.of_kind(ErrorKind::Mismatch).because("the descriptor is no pipe"),
        _ => error,
    }
}

/// EPIPE is the end, whoever reports it.
pub(crate) fn stop_sending(stop: Stop) -> Stop {
    match stop {
        Stop::Os(errno) if errno == Errno::PIPE.raw_os_error() => Stop::Closed,
        stop => stop,
    }
}

/// Sends the whole of the data, in as many pieces as there is room for.
impl Sends for PipeWriter {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let fd = self.as_fd();
        send_all(data, |rest| {
            drive(fd, PollFlags::OUT, wait, |mode| write(fd, rest, mode)).map_err(stop_sending)
        })
    }
}

/// Receives what is there, at least one byte, at most the buffer.
impl Receives for PipeReader {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        if buf.is_empty() {
            // read(2) would give 0, which is the end everywhere else.
            return Ok(0);
        }
        let fd = self.as_fd();
        match drive(fd, PollFlags::IN, wait, |mode| read(fd, buf, mode)) {
            Ok(0) => Err(RecvError::Closed),
            Ok(length) => Ok(length),
            Err(stop) => Err(stop.into()),
        }
    }
}

impl ByteStream for PipeReader {}
