//! POSIX message queues: named, bounded, whole messages, highest priority first.
//!
//! A queue lives in the kernel of its IPC namespace, with what is in it, until it is unlinked *and*
//! nobody has it open, or the host goes down. The death of a process, by whatever signal, takes no
//! message away and leaves none half sent. No mount of `mqueue` is needed: the system calls find
//! queues by name without one.
//!
//! ```
//! use sinew::posix_mq::{self, Options};
//! use sinew::wait::{Receives, Sends};
//!
//! let name = format!("/sinew-doc-{}", std::process::id());
//! let queue = Options::new().depth(4).message_bytes(64).create(&name)?;
//! queue.send(b"sooner or later").unwrap();
//! queue.priority(9).send(b"urgent").unwrap();
//!
//! let mut buf = [0; 64];
//! let got = queue.recv(&mut buf).unwrap();
//! assert_eq!((&buf[..got.len], got.priority), (&b"urgent"[..], 9));
//! posix_mq::unlink(&name)?;
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Waiting
//! A queue is a file descriptor that `poll` and `epoll` take (on Linux; POSIX does not say so): it
//! is readable while a message is there and writable while there is room. So it goes into any
//! event loop:
//!
//! ```
//! use rustix::event::{PollFd, PollFlags, Timespec, poll};
//! use sinew::posix_mq::{self, Options};
//! use sinew::wait::{Receives, Sends};
//!
//! let name = format!("/sinew-doc-poll-{}", std::process::id());
//! let queue = Options::new().depth(1).message_bytes(16).create(&name)?;
//! posix_mq::unlink(&name)?;
//! queue.send(b"work").unwrap();
//!
//! let mut fds = [PollFd::new(&queue, PollFlags::IN)];
//! assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(1));
//! assert_eq!(queue.try_recv(&mut [0; 16]).unwrap().len, 4);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! The deadlines of `mq_timedsend(3)` are of CLOCK_REALTIME, which jumps when the clock is set. They
//! are not used: a bounded wait tries with a time-out that is over already, and sleeps in `ppoll`.
//!
//! # Limits
//! | what | default | where |
//! |---|---|---|
//! | messages in a queue | 10 | `/proc/sys/fs/mqueue/msg_max` |
//! | bytes in a message | 8192 | `/proc/sys/fs/mqueue/msgsize_max` |
//! | queues of an IPC namespace | 256 | `/proc/sys/fs/mqueue/queues_max` |
//! | bytes of all queues of a user | 819200 | RLIMIT_MSGQUEUE (`ulimit -q`) |
//! | priorities | 0 to 32767 | fixed |
//! | bytes in a name, after the slash | 255 | fixed |
//!
//! RLIMIT_MSGQUEUE counts what a queue *can* hold, from its creation on: see [`Options::cost`].
//! CAP_SYS_RESOURCE lifts the limits of /proc. An [`Error`] says which one was hit.
//!
//! Source: mq_overview(7), mq_open(3), and `ipc/mqueue.c` of Linux.

#![allow(unsafe_code, reason = "neither std nor rustix has POSIX message queues; libc does")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use rustix::event::PollFlags;
use rustix::io::Errno;

use crate::error::{Error, RecvError, Result, SendError, Stop};
use crate::mechanism::Mechanism;
use crate::syscall;
use crate::wait::{Mode, Receives, Sends, Wait, drive};

mod options;

pub use options::{Access, Options, unlink};

/// The highest priority of a message; the lowest, and the usual one, is 0.
pub const PRIORITY_MAX: u32 = 32_767;

/// A queue that is open. Made by [`Options`], or from a descriptor that was inherited or received.
///
/// One message goes or comes with a call, whole or not at all; empty ones are messages too. The
/// higher its priority the sooner it comes, and among equals in the order of sending. Several
/// threads and processes may send and receive at once: each message goes to one receiver.
///
/// | condition | result |
/// |---|---|
/// | full, `try_send` | [`SendError::Full`] |
/// | longer than the message size | [`SendError::TooBig`] with that size |
/// | priority above [`PRIORITY_MAX`] | [`SendError::Os`] of EINVAL |
/// | empty, `try_recv` | [`RecvError::Empty`] |
/// | buffer shorter than the message size, even if the message fits | [`RecvError::TooSmall`], nothing lost |
/// | not opened for it, or not a queue at all | `Os` of EBADF |
///
/// A queue has no end: that all senders are gone is not told to a receiver, nor the other way
/// round.
///
/// Closing *any* descriptor of a queue also ends this process's [`notify`](Self::notify) on it.
#[derive(Debug)]
pub struct Queue(OwnedFd);

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes the message has.
    pub len: usize,
    /// Its priority.
    pub priority: u32,
}

/// What a queue is and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// How many messages it can hold.
    pub depth: usize,
    /// How many bytes a message can have, and a buffer to receive with must have.
    pub message_bytes: usize,
    /// How many messages are in it.
    pub waiting: usize,
}

impl Queue {
    /// A view that sends with this priority, 0 to [`PRIORITY_MAX`]. The queue itself sends with 0.
    #[inline]
    #[must_use]
    pub const fn priority(&self, priority: u32) -> Priority<'_> {
        Priority { queue: self, priority }
    }

    /// Its size, and how many messages wait in it.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if the descriptor is not a queue.
    pub fn attributes(&self) -> Result<Attributes> {
        let mut attributes = no_attributes();
        // SAFETY: the kernel fills `attributes`, which is borrowed for the call.
        let done = unsafe { libc::mq_getattr(self.raw(), &raw mut attributes) };
        if done != 0 {
            return Err(Error::os("read the attributes", last_errno()).on(Mechanism::PosixMq));
        }
        // The kernel's numbers are not negative.
        let [depth, message_bytes, waiting] =
            [attributes.mq_maxmsg, attributes.mq_msgsize, attributes.mq_curmsgs]
                .map(|n| usize::try_from(n).unwrap_or(0));
        Ok(Attributes { depth, message_bytes, waiting })
    }

    /// How many messages wait in it.
    ///
    /// # Errors
    /// As those of [`attributes`](Self::attributes).
    pub fn len(&self) -> Result<usize> {
        self.attributes().map(|a| a.waiting)
    }

    /// Whether no message waits in it.
    ///
    /// # Errors
    /// As those of [`attributes`](Self::attributes).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|n| n == 0)
    }

    /// Has the kernel send `signal` (its number, as `libc::SIGUSR1`) to this process **once**, when
    /// a message comes into the *empty* queue while nobody waits in a receiving call. Then the
    /// registration is over: register again first and empty the queue second, or a message that
    /// comes between is not told. The signal has the code SI_MESGQ and names the sending process.
    ///
    /// A poll loop needs none of this; see the [module](self).
    ///
    /// # Errors
    /// [`InUse`](crate::ErrorKind::InUse) if a process, this one too, is registered already;
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) if there is no such signal. Source: mq_notify(3).
    pub fn notify(&self, signal: i32) -> Result<()> {
        // SAFETY: sigevent is made of numbers and a pointer, for which zero is a value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        self.register(&raw const event)
    }

    /// Ends the registration of this process, if there is one.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if the descriptor is not a queue.
    pub fn cancel_notify(&self) -> Result<()> {
        self.register(ptr::null())
    }

    fn register(&self, event: *const libc::sigevent) -> Result<()> {
        // SAFETY: `event` is null or a whole sigevent of the caller, and only read. It asks for a
        // signal, so glibc starts no thread.
        let done = unsafe { libc::mq_notify(self.raw(), event) };
        if done == 0 {
            return Ok(());
        }
        let errno = last_errno();
        let error = Error::os("register for a signal", errno).on(Mechanism::PosixMq);
        Err(match errno {
            Errno::BUSY => error.because("a process is registered with this queue already"),
            _ => error,
        })
    }

    #[inline]
    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    #[inline]
    fn send_as(&self, data: &[u8], priority: u32, wait: Wait<'_>) -> Result<(), SendError> {
        drive(self.0.as_fd(), PollFlags::OUT, wait, |mode| {
            let (bytes, timeout) = (data.as_ptr() as usize, timeout(mode) as usize);
            let arguments = [self.raw() as usize, bytes, data.len(), priority as usize, timeout];
            // SAFETY: the kernel reads the bytes of `data`, and `timeout` is null or a static
            // timespec.
            let sent = unsafe { syscall::call(libc::SYS_mq_timedsend, arguments) };
            sent.map(|_| ()).map_err(|errno| refusal(mode, errno))
        })
        .map_err(|stop| self.send_error(stop))
    }

    #[cold]
    fn send_error(&self, stop: Stop) -> SendError {
        if stop == Stop::Os(libc::EMSGSIZE)
            && let Ok(attributes) = self.attributes()
        {
            return SendError::TooBig { limit: attributes.message_bytes };
        }
        stop.into()
    }

    #[cold]
    fn recv_error(&self, stop: Stop) -> RecvError {
        if stop == Stop::Os(libc::EMSGSIZE) {
            let needed = self.attributes().ok().map(|a| a.message_bytes);
            return RecvError::TooSmall { needed, lost: false };
        }
        stop.into()
    }
}

impl Sends for Queue {
    /// Sends with priority 0.
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.send_as(data, 0, wait)
    }
}

impl Receives for Queue {
    type Received = Received;

    /// Receives the oldest message of the highest priority. `buf` must have the message size of the
    /// queue, which [`Queue::attributes`] tells.
    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Received, RecvError> {
        drive(self.0.as_fd(), PollFlags::IN, wait, |mode| {
            let (bytes, timeout) = (buf.as_mut_ptr() as usize, timeout(mode) as usize);
            let mut priority = 0_u32;
            let put = &raw mut priority as usize;
            let arguments = [self.raw() as usize, bytes, buf.len(), put, timeout];
            // SAFETY: the kernel writes at most as many bytes into `buf` as it has and one number
            // to `put`, both borrowed for the call; `timeout` is null or a static timespec.
            match unsafe { syscall::call(libc::SYS_mq_timedreceive, arguments) } {
                Ok(len) => Ok(Received { len, priority }),
                Err(errno) => Err(refusal(mode, errno)),
            }
        })
        .map_err(|stop| self.recv_error(stop))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Queue> for OwnedFd {
    fn from(queue: Queue) -> Self {
        queue.0
    }
}

impl From<OwnedFd> for Queue {
    /// Takes a descriptor of a queue, such as one that came over a UNIX socket. One of anything
    /// else fails with EBADF when it is used.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// A queue, and a priority to send with. Made by [`Queue::priority`].
#[derive(Clone, Copy, Debug)]
pub struct Priority<'a> {
    queue: &'a Queue,
    priority: u32,
}

impl Sends for Priority<'_> {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.queue.send_as(data, self.priority, wait)
    }
}

/// A time long past: with it the kernel looks once and does not sleep, whatever the clock says.
/// Zero is the same for a kernel that takes shorter numbers than the C library.
static PAST: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

/// For ever is no time-out at all, so that the wait is the kernel's own.
#[inline]
fn timeout(mode: Mode) -> *const libc::timespec {
    match mode {
        Mode::MayBlock => ptr::null(),
        Mode::NonBlocking => &raw const PAST,
    }
}

/// Why a call with [`timeout`] was refused, in the terms of [`drive`].
#[inline]
fn refusal(mode: Mode, errno: Errno) -> Errno {
    match errno {
        // It would have had to sleep. (EAGAIN says the same of a descriptor with O_NONBLOCK.)
        Errno::TIMEDOUT if mode == Mode::NonBlocking => Errno::AGAIN,
        errno => errno,
    }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn no_attributes() -> libc::mq_attr {
    // SAFETY: mq_attr is made of numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}
