//! Errors in two shapes.
//!
//! *Setting up* (create, open, connect, map) fails with the one [`Error`], which names the
//! operation, the object, the cause and, where a limit or a setting is behind it, how to change
//! that. *Per message* (send, recv) fails with the small [`SendError`] and [`RecvError`], which
//! never touch the heap.

use std::borrow::Cow;
use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::mechanism::Mechanism;

/// The result of an operation that sets something up.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why setting something up failed: the operation, the object, the cause, and the fix where one
/// is known. One word wide.
///
/// ```
/// use sinew::{ErrorKind, memfd};
///
/// let error = memfd::Options::new().create(&"x".repeat(250), 4096).unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::InvalidInput);
/// assert!(error.to_string().starts_with("memfd"));
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    mechanism: Option<Mechanism>,
    operation: Cow<'static, str>,
    object: Option<String>,
    errno: Option<Errno>,
    because: Option<Cow<'static, str>>,
    fix: Option<Cow<'static, str>>,
}

/// What class of failure an [`Error`] is. For deciding what to do next; the text is for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named object does not exist.
    NotFound,
    /// An object with that name exists already.
    AlreadyExists,
    /// Permission, capability or a seal stands against it.
    PermissionDenied,
    /// An argument cannot be right, whatever the state of the system.
    InvalidInput,
    /// A limit on descriptors, queues, segments, maps or sizes was hit. The text names it.
    LimitReached,
    /// The memory or the file system is full.
    NoSpace,
    /// A live process holds the name or address.
    InUse,
    /// Nobody is at the other end.
    Refused,
    /// The other end is closed, or the object was removed.
    Closed,
    /// A `try_` operation would have had to wait.
    WouldBlock,
    /// The deadline passed.
    TimedOut,
    /// An [`Interrupt`](crate::wait::Interrupt) was triggered.
    Interrupted,
    /// What arrived was cut off or is not what was promised; all of it was dropped.
    Truncated,
    /// The object is not of the expected type, or lacks a required property such as a seal.
    Mismatch,
    /// This kernel or host does not offer it.
    Unsupported,
    /// Anything else; see [`Error::raw_os_error`].
    Other,
}

impl Error {
    /// A failure that is not an error number of the kernel.
    #[must_use]
    pub fn new(kind: ErrorKind, operation: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            mechanism: None,
            operation: operation.into(),
            object: None,
            errno: None,
            because: None,
            fix: None,
        }))
    }

    /// A failed system call.
    pub(crate) fn os(operation: impl Into<Cow<'static, str>>, errno: Errno) -> Self {
        let mut error = Self::new(kind_of(errno), operation);
        error.0.errno = Some(errno);
        error
    }

    /// Names the mechanism.
    #[must_use]
    pub fn on(mut self, mechanism: Mechanism) -> Self {
        self.0.mechanism = Some(mechanism);
        self
    }

    /// Names the object: a path in quotes, a queue name, a size.
    #[must_use]
    pub fn object(mut self, object: impl fmt::Display) -> Self {
        self.0.object = Some(object.to_string());
        self
    }

    /// Says the cause in words, where the error number alone would mislead.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Cow<'static, str>>) -> Self {
        self.0.because = Some(cause.into());
        self
    }

    /// Says what to do about it.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<Cow<'static, str>>) -> Self {
        self.0.fix = Some(fix.into());
        self
    }

    /// Overrides the class that the error number alone would give.
    #[must_use]
    pub fn of_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The class of the failure.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The mechanism the failure belongs to, if it belongs to one.
    #[must_use]
    pub fn mechanism(&self) -> Option<Mechanism> {
        self.0.mechanism
    }

    /// The kernel's error number, if a system call failed.
    #[must_use]
    pub fn raw_os_error(&self) -> Option<i32> {
        self.0.errno.map(Errno::raw_os_error)
    }
}

impl fmt::Display for Error {
    /// `posix-mq "/jobs": create: Too many open files (EMFILE): 8 queues fill ...; raise ...`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        match (e.mechanism, &e.object) {
            (Some(m), Some(o)) => write!(f, "{m} {o}: ")?,
            (Some(m), None) => write!(f, "{m}: ")?,
            (None, Some(o)) => write!(f, "{o}: ")?,
            (None, None) => {}
        }
        f.write_str(&e.operation)?;
        if let Some(errno) = e.errno {
            f.write_str(": ")?;
            write_errno(f, errno)?;
        }
        if let Some(because) = &e.because {
            write!(f, ": {because}")?;
        }
        if let Some(fix) = &e.fix {
            write!(f, "; {fix}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("text", &self.to_string())
            .finish()
    }
}

impl std::error::Error for Error {}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
            ErrorKind::InvalidInput => io::ErrorKind::InvalidInput,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::InUse => io::ErrorKind::AddrInUse,
            ErrorKind::Refused => io::ErrorKind::ConnectionRefused,
            ErrorKind::Closed => io::ErrorKind::BrokenPipe,
            ErrorKind::WouldBlock => io::ErrorKind::WouldBlock,
            ErrorKind::TimedOut => io::ErrorKind::TimedOut,
            ErrorKind::Interrupted => io::ErrorKind::Interrupted,
            ErrorKind::Truncated | ErrorKind::Mismatch => io::ErrorKind::InvalidData,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::LimitReached | ErrorKind::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

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
            Self::Os(errno) => write_errno(f, Errno::from_raw_os_error(errno)),
        }
    }
}

impl std::error::Error for SendError {}
impl std::error::Error for RecvError {}

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
            RecvError::TooSmall { .. } | RecvError::Truncated => {
                Self::new(io::ErrorKind::InvalidData, error)
            }
        }
    }
}

/// The one table from error numbers to classes.
fn kind_of(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::NXIO | Errno::SRCH => ErrorKind::NotFound,
        Errno::EXIST => ErrorKind::AlreadyExists,
        Errno::PERM | Errno::ACCESS | Errno::ROFS => ErrorKind::PermissionDenied,
        Errno::INVAL | Errno::NAMETOOLONG | Errno::MSGSIZE | Errno::TOOBIG | Errno::FAULT => {
            ErrorKind::InvalidInput
        }
        Errno::MFILE | Errno::NFILE | Errno::TOOMANYREFS | Errno::NOBUFS | Errno::DQUOT => {
            ErrorKind::LimitReached
        }
        Errno::NOSPC | Errno::NOMEM | Errno::FBIG => ErrorKind::NoSpace,
        Errno::ADDRINUSE | Errno::BUSY | Errno::TXTBSY => ErrorKind::InUse,
        Errno::CONNREFUSED => ErrorKind::Refused,
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN | Errno::IDRM => ErrorKind::Closed,
        Errno::AGAIN => ErrorKind::WouldBlock,
        Errno::TIMEDOUT => ErrorKind::TimedOut,
        Errno::INTR => ErrorKind::Interrupted,
        Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOPROTOOPT | Errno::AFNOSUPPORT => {
            ErrorKind::Unsupported
        }
        Errno::BADF | Errno::NOTSOCK | Errno::NOTDIR | Errno::ISDIR => ErrorKind::Mismatch,
        _ => ErrorKind::Other,
    }
}

/// `No such file or directory (ENOENT)`.
fn write_errno(f: &mut fmt::Formatter<'_>, errno: Errno) -> fmt::Result {
    let text = io::Error::from_raw_os_error(errno.raw_os_error()).to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    match NAMES.iter().find(|(e, _)| *e == errno) {
        Some((_, name)) => write!(f, "{words} ({name})"),
        None => write!(f, "{words} (error {})", errno.raw_os_error()),
    }
}

/// The names of the error numbers that IPC calls give.
const NAMES: &[(Errno, &str)] = &[
    (Errno::PERM, "EPERM"),
    (Errno::NOENT, "ENOENT"),
    (Errno::SRCH, "ESRCH"),
    (Errno::INTR, "EINTR"),
    (Errno::IO, "EIO"),
    (Errno::NXIO, "ENXIO"),
    (Errno::TOOBIG, "E2BIG"),
    (Errno::BADF, "EBADF"),
    (Errno::CHILD, "ECHILD"),
    (Errno::AGAIN, "EAGAIN"),
    (Errno::NOMEM, "ENOMEM"),
    (Errno::ACCESS, "EACCES"),
    (Errno::FAULT, "EFAULT"),
    (Errno::BUSY, "EBUSY"),
    (Errno::EXIST, "EEXIST"),
    (Errno::NODEV, "ENODEV"),
    (Errno::NOTDIR, "ENOTDIR"),
    (Errno::ISDIR, "EISDIR"),
    (Errno::INVAL, "EINVAL"),
    (Errno::NFILE, "ENFILE"),
    (Errno::MFILE, "EMFILE"),
    (Errno::TXTBSY, "ETXTBSY"),
    (Errno::FBIG, "EFBIG"),
    (Errno::NOSPC, "ENOSPC"),
    (Errno::ROFS, "EROFS"),
    (Errno::PIPE, "EPIPE"),
    (Errno::RANGE, "ERANGE"),
    (Errno::DEADLK, "EDEADLK"),
    (Errno::NAMETOOLONG, "ENAMETOOLONG"),
    (Errno::NOSYS, "ENOSYS"),
    (Errno::NOMSG, "ENOMSG"),
    (Errno::IDRM, "EIDRM"),
    (Errno::OVERFLOW, "EOVERFLOW"),
    (Errno::NOTSOCK, "ENOTSOCK"),
    (Errno::MSGSIZE, "EMSGSIZE"),
    (Errno::PROTOTYPE, "EPROTOTYPE"),
    (Errno::NOPROTOOPT, "ENOPROTOOPT"),
    (Errno::OPNOTSUPP, "EOPNOTSUPP"),
    (Errno::AFNOSUPPORT, "EAFNOSUPPORT"),
    (Errno::ADDRINUSE, "EADDRINUSE"),
    (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (Errno::NETUNREACH, "ENETUNREACH"),
    (Errno::CONNABORTED, "ECONNABORTED"),
    (Errno::CONNRESET, "ECONNRESET"),
    (Errno::NOBUFS, "ENOBUFS"),
    (Errno::ISCONN, "EISCONN"),
    (Errno::NOTCONN, "ENOTCONN"),
    (Errno::TOOMANYREFS, "ETOOMANYREFS"),
    (Errno::TIMEDOUT, "ETIMEDOUT"),
    (Errno::CONNREFUSED, "ECONNREFUSED"),
    (Errno::ALREADY, "EALREADY"),
    (Errno::INPROGRESS, "EINPROGRESS"),
    (Errno::DQUOT, "EDQUOT"),
    (Errno::OWNERDEAD, "EOWNERDEAD"),
    (Errno::NOTRECOVERABLE, "ENOTRECOVERABLE"),
];

#[cfg(test)]
mod tests;
