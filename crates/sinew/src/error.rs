//! Errors in two shapes.
//!
//! *Setting up* (create, open, connect, map) fails with the one [`Error`], which names the
//! operation, the object, the cause and, where a limit or a setting is behind it, how to change
//! that. *Per call* (send, recv, wait, lock) fails with the small [`SendError`], [`RecvError`],
//! [`WaitError`] and [`LockError`], which never touch the heap.

mod call;

use std::borrow::Cow;
use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::mechanism::Mechanism;

pub use call::{LockError, RecvError, SendError, Stop, WaitError};

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
    /// It was made before a fork, and this process is the child.
    Forked,
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
            ErrorKind::LimitReached | ErrorKind::Forked | ErrorKind::Other => io::ErrorKind::Other,
        };
        Self::new(kind, error)
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
