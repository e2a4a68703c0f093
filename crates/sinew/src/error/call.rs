//! The errors of single calls: small, without an allocation.

use std::convert::Infallible;
use std::fmt;
use std::io;

use rustix::io::Errno;

use super::{Error, ErrorKind, write_errno};

/// What ended a transfer before it was complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stop {
    /// It would have had to wait, and the call was a `try_` one.
    WouldBlock,
    /// The deadline passed.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered.
    Interrupted,
    /// The other end is closed, or the object was removed.
    Closed,
    /// The kernel refused with this error number.
    Os(i32),
}

/// Why what was waited for was not had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WaitError {
    /// It is not there now (`try_wait`).
    WouldBlock,
    /// It did not come before the deadline.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered.
    Interrupted,
    /// It will never come: the object was removed.
    Closed,
    /// A process that had to take part is dead.
    PeerDied,
    /// The shared memory holds what no honest process writes there. Nothing was consumed.
    Corrupt,
    /// This process is a forked child of the one that made the object, and may not use it.
    Forked,
    /// The kernel refused with this error number.
    Os(i32),
}

/// Why a lock is not held, or held only for a repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LockError<D = Infallible> {
    /// The lock is held now, but its last owner died in the middle: what it guards is as the last
    /// instruction left it.
    OwnerDied(D),
    /// It is locked (`try_lock`).
    WouldBlock,
    /// It stayed locked until the deadline.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered.
    Interrupted,
    /// Waiting would never end: the caller holds it, or waits in a circle (EDEADLK).
    Deadlock,
    /// An owner died and nobody repaired what it guards: it can never be locked again.
    NotRecoverable,
    /// The caller is in another pid namespace than the lock, where thread numbers mean other threads.
    OtherPidNamespace,
    /// The shared memory holds what no honest process writes there.
    Corrupt,
    /// The handle is a forked parent's: this process has to open one of its own.
    Forked,
    /// The kernel refused with this error number.
    Os(i32),
}

/// Why nothing, or not all, was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no room now (`try_send`). Nothing was sent.
    Full,
    /// There was no room before the deadline. Nothing was sent.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered. Nothing was sent.
    Interrupted,
    /// Nobody can receive any more: the other end is closed, or the queue was removed.
    Closed,
    /// The message can never fit; `limit` is the largest that can. Nothing was sent.
    TooBig {
        /// The largest message, in bytes.
        limit: usize,
    },
    /// An empty message, where the mechanism cannot tell one from an end. Nothing was sent.
    Empty,
    /// More descriptors than one message carries. Nothing was sent.
    TooManyFds {
        /// The most that one message carries.
        limit: usize,
    },
    /// More descriptors of this user are on their way, sent and not yet received, than
    /// `RLIMIT_NOFILE` allows one process (ETOOMANYREFS). Nothing was sent.
    TooManyInFlight,
    /// A byte stream took only the first `sent` bytes, because of `stop`.
    Partial {
        /// How many bytes went.
        sent: usize,
        /// What ended the call.
        stop: Stop,
    },
    /// The shared memory holds what no honest process writes there. Nothing was sent.
    Corrupt,
    /// The handle is a forked parent's: this process has to attach by itself. Nothing was sent.
    Forked,
    /// The kernel refused with this error number. Nothing was sent.
    Os(i32),
}

/// Why nothing, or not all, was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecvError {
    /// Nothing is there now (`try_recv`).
    Empty,
    /// Nothing came before the deadline.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered.
    Interrupted,
    /// The other end is closed and everything it sent was received, or the queue was removed.
    Closed,
    /// The message is longer than the buffer. `lost` says whether it is gone (datagrams) or still
    /// there (queues). `needed` is the room it takes, where the kernel tells.
    TooSmall {
        /// The length of the message, where the kernel tells it.
        needed: Option<usize>,
        /// Whether the message was consumed and cut.
        lost: bool,
    },
    /// File descriptors or other control data did not all arrive. Everything that did was closed.
    Truncated,
    /// A byte stream gave only the first `received` bytes of the wanted number, because of `stop`.
    Partial {
        /// How many bytes are in the buffer.
        received: usize,
        /// What ended the call.
        stop: Stop,
    },
    /// A sender died, and everything that it sent was received. Said once for each death.
    PeerDied,
    /// So many messages were dropped that came next, since the sender went on without waiting
    /// ([`DropOldest`](crate::channel::Full::DropOldest)). The next call goes on with the oldest that is there.
    Lagged(u64),
    /// So many messages are borrowed that no more can be before one is released.
    TooManyBorrowed,
    /// The shared memory holds what no honest process writes there.
    Corrupt,
    /// The handle is a forked parent's: this process has to attach by itself.
    Forked,
    /// The kernel refused with this error number.
    Os(i32),
}

impl SendError {
    /// The error of a byte stream that stopped after `sent` bytes.
    pub(crate) fn after(sent: usize, stop: Stop) -> Self {
        if sent == 0 { Self::from(stop) } else { Self::Partial { sent, stop } }
    }
}

impl RecvError {
    /// What ended a read of a byte stream that had given bytes before.
    pub(crate) fn into_stop(self) -> Stop {
        match self {
            Self::Empty => Stop::WouldBlock,
            Self::TimedOut => Stop::TimedOut,
            Self::Interrupted => Stop::Interrupted,
            Self::Closed => Stop::Closed,
            Self::Partial { stop, .. } => stop,
            Self::Os(errno) => Stop::Os(errno),
            // Only messages end so.
            Self::TooSmall { .. } | Self::Truncated => Stop::Os(Errno::MSGSIZE.raw_os_error()),
            // Only channels.
            Self::PeerDied
            | Self::Lagged(_)
            | Self::TooManyBorrowed
            | Self::Corrupt
            | Self::Forked => Stop::Os(Errno::IO.raw_os_error()),
        }
    }
}

impl From<Stop> for SendError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::WouldBlock => Self::Full,
            Stop::TimedOut => Self::TimedOut,
            Stop::Interrupted => Self::Interrupted,
            Stop::Closed => Self::Closed,
            Stop::Os(errno) => Self::Os(errno),
        }
    }
}

impl From<Stop> for RecvError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::WouldBlock => Self::Empty,
            Stop::TimedOut => Self::TimedOut,
            Stop::Interrupted => Self::Interrupted,
            Stop::Closed => Self::Closed,
            Stop::Os(errno) => Self::Os(errno),
        }
    }
}

impl From<Stop> for WaitError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::WouldBlock => Self::WouldBlock,
            Stop::TimedOut => Self::TimedOut,
            Stop::Interrupted => Self::Interrupted,
            Stop::Closed => Self::Closed,
            Stop::Os(errno) => Self::Os(errno),
        }
    }
}

impl<D> From<Stop> for LockError<D> {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::WouldBlock => Self::WouldBlock,
            Stop::TimedOut => Self::TimedOut,
            Stop::Interrupted => Self::Interrupted,
            // No lock has an end.
            Stop::Closed => Self::Os(Errno::IDRM.raw_os_error()),
            Stop::Os(errno) => Self::Os(errno),
        }
    }
}

impl<D> LockError<D> {
    /// The same error with `step` done to what it holds.
    pub fn map_died<E>(self, step: impl FnOnce(D) -> E) -> LockError<E> {
        match self {
            Self::OwnerDied(died) => LockError::OwnerDied(step(died)),
            Self::WouldBlock => LockError::WouldBlock,
            Self::TimedOut => LockError::TimedOut,
            Self::Interrupted => LockError::Interrupted,
            Self::Deadlock => LockError::Deadlock,
            Self::NotRecoverable => LockError::NotRecoverable,
            Self::OtherPidNamespace => LockError::OtherPidNamespace,
            Self::Corrupt => LockError::Corrupt,
            Self::Forked => LockError::Forked,
            Self::Os(errno) => LockError::Os(errno),
        }
    }

    /// The same error, of a caller that has dealt with the death of an owner already.
    pub(crate) fn of_others<E>(self) -> LockError<E> {
        match self {
            // What it held is dropped without a repair.
            Self::OwnerDied(_) | Self::NotRecoverable => LockError::NotRecoverable,
            Self::WouldBlock => LockError::WouldBlock,
            Self::TimedOut => LockError::TimedOut,
            Self::Interrupted => LockError::Interrupted,
            Self::Deadlock => LockError::Deadlock,
            Self::OtherPidNamespace => LockError::OtherPidNamespace,
            Self::Corrupt => LockError::Corrupt,
            Self::Forked => LockError::Forked,
            Self::Os(errno) => LockError::Os(errno),
        }
    }
}

impl Stop {
    /// The same stop as a set-up [`Error`].
    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        match self {
            Self::WouldBlock => {
                Error::new(ErrorKind::WouldBlock, operation).because("it would have to wait")
            }
            Self::TimedOut => {
                Error::new(ErrorKind::TimedOut, operation).because("the deadline passed")
            }
            Self::Interrupted => {
                Error::new(ErrorKind::Interrupted, operation).because("interrupted")
            }
            Self::Closed => {
                Error::new(ErrorKind::Closed, operation).because("the other end is closed")
            }
            Self::Os(errno) => Error::os(operation, Errno::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WouldBlock => f.write_str("it would have to wait"),
            Self::TimedOut => f.write_str("the deadline passed"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Closed => f.write_str("the other end is closed"),
            Self::Os(errno) => write_errno(f, Errno::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Display for WaitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::WouldBlock => f.write_str("it would have to wait"),
            Self::TimedOut => f.write_str("the deadline passed"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Closed => f.write_str("the object was removed"),
            Self::PeerDied => f.write_str("a process that had to take part is dead"),
            Self::Corrupt => f.write_str("the shared memory holds nonsense"),
            Self::Forked => f.write_str("it was made before a fork, by the parent: make a new one"),
            Self::Os(errno) => write_errno(f, Errno::from_raw_os_error(errno)),
        }
    }
}

impl<D> fmt::Display for LockError<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OwnerDied(_) => f.write_str("its owner died: what it guards needs a repair"),
            Self::WouldBlock => f.write_str("it is locked"),
            Self::TimedOut => f.write_str("it stayed locked until the deadline"),
            Self::Interrupted => f.write_str("interrupted"),
            Self::Deadlock => f.write_str("waiting for it would never end (a deadlock)"),
            Self::NotRecoverable => f.write_str("an owner died and nobody repaired what it guards"),
            Self::OtherPidNamespace => f.write_str("it belongs to another pid namespace"),
            Self::Corrupt => f.write_str("the shared memory holds nonsense"),
            Self::Forked => f.write_str("the handle is a forked parent's: open one of your own"),
            Self::Os(errno) => write_errno(f, Errno::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Full => f.write_str("full: no room to send now"),
            Self::TimedOut => f.write_str("no room to send before the deadline"),
            Self::Interrupted => f.write_str("interrupted before anything was sent"),
            Self::Closed => f.write_str("the other end is closed"),
            Self::TooBig { limit } => {
                write!(f, "the message is longer than the {limit} bytes that fit")
            }
            Self::Empty => f.write_str("an empty message cannot be told from an end here"),
            Self::TooManyFds { limit } => {
                write!(f, "one message carries at most {limit} descriptors")
            }
            Self::TooManyInFlight => f.write_str(
                "more descriptors are sent and not yet received than RLIMIT_NOFILE allows; \
                 wait until some are received, or raise it (ulimit -n)",
            ),
            Self::Partial { sent, stop } => {
                write!(f, "only the first {sent} bytes were sent: {stop}")
            }
            Self::Corrupt => f.write_str("the shared memory holds nonsense"),
            Self::Forked => f.write_str("the handle is a forked parent's: attach one of your own"),
            Self::Os(errno) => write_errno(f, Errno::from_raw_os_error(errno)),
        }
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Empty => f.write_str("empty: nothing to receive now"),
            Self::TimedOut => f.write_str("nothing to receive before the deadline"),
            Self::Interrupted => f.write_str("interrupted before anything was received"),
            Self::Closed => f.write_str("the other end is closed"),
            Self::TooSmall { needed, lost } => {
                f.write_str("the message is longer than the buffer")?;
                if let Some(needed) = needed {
                    write!(f, " (it has {needed} bytes)")?;
                }
                f.write_str(if lost { " and was cut" } else { " and is still there" })
            }
            Self::Truncated => {
                f.write_str("control data was cut off; what arrived of it was closed")
            }
            Self::Partial { received, stop } => {
                write!(f, "only the first {received} bytes were received: {stop}")
            }
            Self::PeerDied => f.write_str("a sender died; all that it sent was received"),
            Self::Lagged(missed) => {
                write!(f, "{missed} messages were dropped before they were received")
            }
            Self::TooManyBorrowed => f.write_str("too many messages are borrowed: release one"),
            Self::Corrupt => f.write_str("the shared memory holds nonsense"),
            Self::Forked => f.write_str("the handle is a forked parent's: attach one of your own"),
            Self::Os(errno) => write_errno(f, Errno::from_raw_os_error(errno)),
        }
    }
}

impl std::error::Error for Stop {}
impl std::error::Error for SendError {}
impl std::error::Error for RecvError {}
impl std::error::Error for WaitError {}
impl<D: fmt::Debug> std::error::Error for LockError<D> {}

/// Lets go of the lock that an [`OwnerDied`](LockError::OwnerDied) holds.
impl<D> From<LockError<D>> for io::Error {
    fn from(error: LockError<D>) -> Self {
        let error = error.map_died(drop);
        match error {
            LockError::Os(errno) => Self::from_raw_os_error(errno),
            LockError::WouldBlock => Self::new(io::ErrorKind::WouldBlock, error),
            LockError::TimedOut => Self::new(io::ErrorKind::TimedOut, error),
            LockError::Interrupted => Self::new(io::ErrorKind::Interrupted, error),
            LockError::Deadlock => Self::new(io::ErrorKind::Deadlock, error),
            LockError::Corrupt => Self::new(io::ErrorKind::InvalidData, error),
            _ => Self::other(error),
        }
    }
}

impl From<WaitError> for io::Error {
    fn from(error: WaitError) -> Self {
        match error {
            WaitError::Os(errno) => Self::from_raw_os_error(errno),
            WaitError::WouldBlock => Self::new(io::ErrorKind::WouldBlock, error),
            WaitError::TimedOut => Self::new(io::ErrorKind::TimedOut, error),
            WaitError::Interrupted => Self::new(io::ErrorKind::Interrupted, error),
            WaitError::Closed | WaitError::PeerDied => Self::new(io::ErrorKind::BrokenPipe, error),
            WaitError::Corrupt => Self::new(io::ErrorKind::InvalidData, error),
            WaitError::Forked => Self::other(error),
        }
    }
}

impl From<SendError> for io::Error {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Os(errno) => Self::from_raw_os_error(errno),
            SendError::Full => Self::new(io::ErrorKind::WouldBlock, error),
            SendError::TimedOut => Self::new(io::ErrorKind::TimedOut, error),
            SendError::Interrupted => Self::new(io::ErrorKind::Interrupted, error),
            SendError::Closed => Self::new(io::ErrorKind::BrokenPipe, error),
            SendError::TooBig { .. } | SendError::Empty | SendError::TooManyFds { .. } => {
                Self::new(io::ErrorKind::InvalidInput, error)
            }
            SendError::TooManyInFlight => Self::other(error),
            SendError::Partial { .. } => Self::new(io::ErrorKind::WriteZero, error),
            SendError::Corrupt => Self::new(io::ErrorKind::InvalidData, error),
            SendError::Forked => Self::other(error),
        }
    }
}

impl From<RecvError> for io::Error {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Os(errno) => Self::from_raw_os_error(errno),
            RecvError::Empty => Self::new(io::ErrorKind::WouldBlock, error),
            RecvError::TimedOut => Self::new(io::ErrorKind::TimedOut, error),
            RecvError::Interrupted => Self::new(io::ErrorKind::Interrupted, error),
            RecvError::Closed | RecvError::Partial { .. } => {
                Self::new(io::ErrorKind::UnexpectedEof, error)
            }
            RecvError::TooSmall { .. } | RecvError::Truncated | RecvError::Corrupt => {
                Self::new(io::ErrorKind::InvalidData, error)
            }
            RecvError::PeerDied => Self::new(io::ErrorKind::ConnectionReset, error),
            RecvError::Lagged(_) | RecvError::TooManyBorrowed | RecvError::Forked => {
                Self::other(error)
            }
        }
    }
}
