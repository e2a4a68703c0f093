//! The one vocabulary: every mechanism two Linux processes can use, under one name.
//!
//! The names appear, spelled the same, in the API, in the command, in benchmark rows and in the
//! documentation, and each has its [`Facts`]: one table from which documentation, errors and the
//! command's advice come.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind};

mod facts;
mod table;

pub use facts::{
    Accepted, Boundaries, Carries, Credentials, Direction, Facts, Largest, Lifetime, Naming, Roles,
};

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
pub enum Mechanism {
    /// A byte stream from one end to the other, between processes that share a descriptor.
    Pipe,
    /// A pipe with a name in the file system, so that strangers can open it.
    Fifo,
    /// A byte stream in both directions between two processes of one machine, with descriptors.
    UnixStream,
    /// Messages to a socket of this machine, reliable and in order, from any number of senders.
    UnixDgram,
    /// A connection of this machine that keeps message boundaries, with descriptors.
    UnixSeqpacket,
    /// A byte stream in both directions over the loopback device, as to any other host.
    Tcp,
    /// Datagrams over the loopback device, which are dropped when the receiver is slow.
    Udp,
    /// A named queue of messages with priorities, which can be polled on Linux.
    PosixMq,
    /// A queue of messages with a type each, from which a receiver takes the types it wants.
    SysvMq,
    /// Messages between the kernel and processes about devices, routes, sockets and audits.
    Netlink,
    /// Calls, replies and signals between programs through a bus daemon.
    Dbus,
    /// Moving data between a pipe and another descriptor without a copy through this process.
    Splice,
    /// Shared memory with a name, kept in the tmpfs at /dev/shm.
    PosixShm,
    /// Shared memory with a key and an identifier, attached with shmat.
    SysvShm,
    /// Shared memory without a name, passed as a descriptor and protected by seals.
    Memfd,
    /// A regular file mapped by several processes: shared memory that can outlive the machine.
    MmapFile,
    /// Shared memory without name or descriptor, between a process and its children.
    Anonymous,
    /// A counter that processes decrement, waiting at zero, and increment; named or in shared
    /// memory.
    PosixSem,
    /// A set of counters, several of which can be changed in one atomic step, with undo at exit.
    SysvSem,
    /// Sleeping until a 32-bit word in memory changes: what locks and semaphores are made of.
    Futex,
    /// A lock in shared memory, held by one thread at a time.
    Mutex,
    /// A lock in shared memory, held by one writer or by many readers.
    Rwlock,
    /// Waiting in shared memory for a condition that is protected by a mutex.
    Condvar,
    /// A place in shared memory where a fixed number of processes wait for each other.
    Barrier,
    /// A lock on a file or a range of it, which the kernel releases when its holder ends.
    FileLock,
    /// A 64-bit counter behind a descriptor: the doorbell of event loops.
    Eventfd,
    /// A timer behind a descriptor.
    Timerfd,
    /// A number, and with sigqueue one value, that interrupts another process.
    Signal,
    /// A descriptor from which blocked signals of the process are read.
    Signalfd,
    /// News of changes to files and folders.
    Inotify,
    /// Waiting for many descriptors at once.
    Epoll,
    /// A descriptor of a process: tells its end, and never means another one with the same number.
    Pidfd,
    /// Reading and writing the memory of another process in one copy, with ptrace permission.
    ProcessVm,
    /// Stopping another process and reading and changing its memory and registers.
    Ptrace,
    /// Two rings in shared memory by which a process gives the kernel work and takes its results.
    IoUring,
    /// Android's calls between processes, copied once into the receiver by the kernel.
    Binder,
    /// Sinew's own: messages in sealed shared memory, without system calls while both are awake.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different_and_lead_back() {
        for mechanism in Mechanism::ALL {
            assert_eq!(mechanism.name().parse::<Mechanism>().unwrap(), mechanism);
            assert_eq!(format!("{mechanism:>20}").len(), 20);
        }
    }

    #[test]
    fn all_is_in_the_order_of_the_variants() {
        // So none is missing in between; the compiler's match over names knows the last.
        assert!(Mechanism::ALL.iter().enumerate().all(|(i, m)| *m as usize == i));
    }

    #[test]
    fn a_name_that_is_none_says_so() {
        for name in ["", "Pipe", "pipe ", "unix_stream"] {
            let error = name.parse::<Mechanism>().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
    }
}
