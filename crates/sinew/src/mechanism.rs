//! The one vocabulary: every mechanism two Linux processes can use, under one name.
//!
//! The names appear, spelled the same, in the API, in the command, in benchmark rows and in the
//! documentation.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

/// A way for two Linux processes to communicate or to act on each other.
///
/// ```
/// use sinew::Mechanism;
///
/// let m: Mechanism = "unix-seqpacket".parse()?;
/// assert_eq!(m, Mechanism::UnixSeqpacket);
/// assert_eq!(m.name(), "unix-seqpacket");
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant is documented by `Mechanism::facts`")]
pub enum Mechanism {
    Pipe,
    Fifo,
    UnixStream,
    UnixDgram,
    UnixSeqpacket,
    Tcp,
    Udp,
    PosixMq,
    SysvMq,
    Netlink,
    Dbus,
    Splice,
    PosixShm,
    SysvShm,
    Memfd,
    MmapFile,
    Anonymous,
    PosixSem,
    SysvSem,
    Futex,
    Mutex,
    Rwlock,
    Condvar,
    Barrier,
    FileLock,
    Eventfd,
    Timerfd,
    Signal,
    Signalfd,
    Inotify,
    Epoll,
    Pidfd,
    ProcessVm,
    Ptrace,
    IoUring,
    Binder,
    Channel,
}

impl Mechanism {
    /// Every mechanism, in the order of the documentation.
    pub const ALL: [Self; 37] = [
        Self::Pipe,
        Self::Fifo,
        Self::UnixStream,
        Self::UnixDgram,
        Self::UnixSeqpacket,
        Self::Tcp,
        Self::Udp,
        Self::PosixMq,
        Self::SysvMq,
        Self::Netlink,
        Self::Dbus,
        Self::Splice,
        Self::PosixShm,
        Self::SysvShm,
        Self::Memfd,
        Self::MmapFile,
        Self::Anonymous,
        Self::PosixSem,
        Self::SysvSem,
        Self::Futex,
        Self::Mutex,
        Self::Rwlock,
        Self::Condvar,
        Self::Barrier,
        Self::FileLock,
        Self::Eventfd,
        Self::Timerfd,
        Self::Signal,
        Self::Signalfd,
        Self::Inotify,
        Self::Epoll,
        Self::Pidfd,
        Self::ProcessVm,
        Self::Ptrace,
        Self::IoUring,
        Self::Binder,
        Self::Channel,
    ];

    /// The name, as it is written everywhere: `unix-stream`, `posix-mq`, ...
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pipe => "pipe",
            Self::Fifo => "fifo",
            Self::UnixStream => "unix-stream",
            Self::UnixDgram => "unix-dgram",
            Self::UnixSeqpacket => "unix-seqpacket",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::PosixMq => "posix-mq",
            Self::SysvMq => "sysv-mq",
            Self::Netlink => "netlink",
            Self::Dbus => "dbus",
            Self::Splice => "splice",
            Self::PosixShm => "posix-shm",
            Self::SysvShm => "sysv-shm",
            Self::Memfd => "memfd",
            Self::MmapFile => "mmap-file",
            Self::Anonymous => "anonymous",
            Self::PosixSem => "posix-sem",
            Self::SysvSem => "sysv-sem",
            Self::Futex => "futex",
            Self::Mutex => "mutex",
            Self::Rwlock => "rwlock",
            Self::Condvar => "condvar",
            Self::Barrier => "barrier",
            Self::FileLock => "file-lock",
            Self::Eventfd => "eventfd",
            Self::Timerfd => "timerfd",
            Self::Signal => "signal",
            Self::Signalfd => "signalfd",
            Self::Inotify => "inotify",
            Self::Epoll => "epoll",
            Self::Pidfd => "pidfd",
            Self::ProcessVm => "process-vm",
            Self::Ptrace => "ptrace",
            Self::IoUring => "io-uring",
            Self::Binder => "binder",
            Self::Channel => "channel",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Mechanism {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::ALL.into_iter().find(|m| m.name() == name).ok_or_else(|| {
            Error::new(ErrorKind::InvalidInput, "parse a mechanism name")
                .object(format!("{name:?}"))
                .because("no mechanism has this name")
                .fix("`sinew mechanisms` lists the names")
        })
    }
}
