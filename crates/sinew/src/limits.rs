//! The limits of this host that bound inter-process communication, read live.
//!
//! Each [`Limit`] knows its name, its unit, where it is read, whom it counts for and how to raise
//! it; [`Limit::read`] asks the kernel now. A limit that cannot be read, as in a container that
//! hides part of /proc, is an error that says so: nothing is guessed and nothing is cached, because
//! an administrator may change most of them at any moment.
//!
//! ```
//! use sinew::limits::Limit;
//!
//! // What the error of a pipe that cannot grow would name.
//! println!("{}", Limit::PipeMaxSize);
//! for limit in Limit::ALL {
//!     match limit.read() {
//!         Ok(value) => println!("{limit}: {value} {}", limit.unit()),
//!         Err(why) => println!("{limit}: {why}"),
//!     }
//! }
//! ```

use std::fmt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind, Result};

/// One limit of the host or of the process.
///
/// The sources are proc_sys_fs(5), proc_sys_kernel(5), mq_overview(7), msgget(2), shmget(2),
/// semget(2), pipe(7), unix(7), socket(7), listen(2) and getrlimit(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Limit {
    /// `fs.pipe-max-size`: the largest capacity that an unprivileged process can give a pipe.
    PipeMaxSize,
    /// `fs.pipe-user-pages-soft`: above this many pages in pipes, new pipes of an unprivileged user
    /// are small.
    PipeUserPagesSoft,
    /// `fs.pipe-user-pages-hard`: above this many pages in pipes, an unprivileged user gets none.
    PipeUserPagesHard,
    /// `fs.mqueue.msg_max`: the most messages that an unprivileged process can ask a queue to hold.
    MqMsgMax,
    /// `fs.mqueue.msgsize_max`: the longest message that an unprivileged process can ask for.
    MqMsgsizeMax,
    /// `fs.mqueue.queues_max`: how many POSIX queues there can be.
    MqQueuesMax,
    /// `fs.mqueue.msg_default`: messages that a queue holds whose creator did not say.
    MqMsgDefault,
    /// `fs.mqueue.msgsize_default`: the longest message of a queue whose creator did not say.
    MqMsgsizeDefault,
    /// `RLIMIT_MSGQUEUE`: bytes of all POSIX queues of one user.
    MsgqueueBytes,
    /// `kernel.msgmax`: the longest System V message.
    MsgMax,
    /// `kernel.msgmnb`: bytes that a new System V queue holds.
    MsgMnb,
    /// `kernel.msgmni`: how many System V queues there can be.
    MsgMni,
    /// `kernel.shmmax`: the largest System V segment.
    ShmMax,
    /// `kernel.shmmni`: how many System V segments there can be.
    ShmMni,
    /// `kernel.shmall`: pages of all System V segments together.
    ShmAll,
    /// `SEMMSL`: semaphores in one System V set (first field of `kernel.sem`).
    SemMsl,
    /// `SEMMNS`: semaphores in all System V sets (second field of `kernel.sem`).
    SemMns,
    /// `SEMOPM`: operations in one semop(2) (third field of `kernel.sem`).
    SemOpm,
    /// `SEMMNI`: how many System V sets there can be (fourth field of `kernel.sem`).
    SemMni,
    /// `net.unix.max_dgram_qlen`: messages that wait at a UNIX datagram socket before senders wait.
    UnixMaxDgramQlen,
    /// `net.core.wmem_max`: the most that SO_SNDBUF can be set to.
    WmemMax,
    /// `net.core.wmem_default`: the send buffer of a new socket.
    WmemDefault,
    /// `net.core.rmem_max`: the most that SO_RCVBUF can be set to.
    RmemMax,
    /// `net.core.rmem_default`: the receive buffer of a new socket.
    RmemDefault,
    /// `net.core.somaxconn`: connections that can wait for accept(2).
    Somaxconn,
    /// `RLIMIT_NOFILE` (soft): descriptors of this process.
    Nofile,
    /// `RLIMIT_NOFILE` (hard): up to what this process can raise the soft limit by itself.
    NofileHard,
    /// `fs.nr_open`: up to what anybody can raise `RLIMIT_NOFILE`.
    NrOpen,
    /// `RLIMIT_MEMLOCK`: bytes that this process can lock into memory.
    Memlock,
    /// The size of the tmpfs at /dev/shm.
    DevShmSize,
    /// What is free at /dev/shm now.
    DevShmFree,
    /// `vm.max_map_count`: mappings of one process.
    MaxMapCount,
    /// `RLIMIT_SIGPENDING`: signals queued for one user.
    Sigpending,
    /// `fs.inotify.max_user_instances`: inotify instances of one user.
    InotifyMaxUserInstances,
    /// `fs.inotify.max_user_watches`: inotify watches of one user.
    InotifyMaxUserWatches,
    /// `fs.inotify.max_queued_events`: events that wait in one inotify instance.
    InotifyMaxQueuedEvents,
    /// `fs.epoll.max_user_watches`: descriptors that all pollers of one user watch.
    EpollMaxUserWatches,
}

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Memory pages.
    Pages,
    /// Messages, queues, descriptors, ...: see [`Limit::about`].
    Count,
}

/// Among whom a limit is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// The whole machine.
    System,
    /// One IPC namespace: a container usually has its own.
    IpcNamespace,
    /// One network namespace.
    NetworkNamespace,
    /// One mounted file system.
    Mount,
    /// All processes of one real user together.
    User,
    /// One process.
    Process,
}

/// The value of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Value {
    /// So much and no more.
    Finite(u64),
    /// No limit: `RLIM_INFINITY`, or zero where zero is defined to mean none.
    Unlimited,
}

/// Where a limit is read.
#[derive(Clone, Copy, Debug)]
enum Source {
    /// A file with one number.
    Proc(&'static str),
    /// The same, where zero means that there is no limit.
    ProcZeroIsNone(&'static str),
    /// One of several numbers in a file, counted from zero.
    Field(&'static str, usize),
    /// getrlimit(2), the soft value.
    Soft(Resource, &'static str),
    /// getrlimit(2), the hard value.
    Hard(Resource, &'static str),
    /// statvfs(3): the size of a file system.
    Size(&'static str),
    /// statvfs(3): what is free on a file system for this user.
    Free(&'static str),
}

struct Entry {
    name: &'static str,
    unit: Unit,
    scope: Scope,
    source: Source,
    about: &'static str,
    raise: &'static str,
}

const SEM: &str = "/proc/sys/kernel/sem";
const SHM: &str = "/dev/shm";

impl Limit {
    /// Every limit.
    pub const ALL: [Self; 37] = [
        Self::PipeMaxSize,
        Self::PipeUserPagesSoft,
        Self::PipeUserPagesHard,
        Self::MqMsgMax,
        Self::MqMsgsizeMax,
        Self::MqQueuesMax,
        Self::MqMsgDefault,
        Self::MqMsgsizeDefault,
        Self::MsgqueueBytes,
        Self::MsgMax,
        Self::MsgMnb,
        Self::MsgMni,
        Self::ShmMax,
        Self::ShmMni,
        Self::ShmAll,
        Self::SemMsl,
        Self::SemMns,
        Self::SemOpm,
        Self::SemMni,
        Self::UnixMaxDgramQlen,
        Self::WmemMax,
        Self::WmemDefault,
        Self::RmemMax,
        Self::RmemDefault,
        Self::Somaxconn,
        Self::Nofile,
        Self::NofileHard,
        Self::NrOpen,
        Self::Memlock,
        Self::DevShmSize,
        Self::DevShmFree,
        Self::MaxMapCount,
        Self::Sigpending,
        Self::InotifyMaxUserInstances,
        Self::InotifyMaxUserWatches,
        Self::InotifyMaxQueuedEvents,
        Self::EpollMaxUserWatches,
    ];

    /// Its name: that of the sysctl, of the resource limit, or of the file system.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.entry().name
    }

    /// What it counts.
    #[must_use]
    pub const fn unit(self) -> Unit {
        self.entry().unit
    }

    /// Among whom it is shared.
    #[must_use]
    pub const fn scope(self) -> Scope {
        self.entry().scope
    }

    /// What it bounds, in one line.
    #[must_use]
    pub const fn about(self) -> &'static str {
        self.entry().about
    }

    /// How to raise it, as a command where there is one.
    #[must_use]
    pub const fn raise(self) -> &'static str {
        self.entry().raise
    }

    /// Where it is read: a file below /proc, a resource limit, a file system.
    #[must_use]
    pub const fn location(self) -> &'static str {
        match self.entry().source {
            Source::Proc(path) | Source::ProcZeroIsNone(path) | Source::Field(path, _) => path,
            Source::Soft(_, call) | Source::Hard(_, call) => call,
            Source::Size(_) | Source::Free(_) => "statvfs(\"/dev/shm\")",
        }
    }

    /// Its value now, as a number for comparing with; `None` if there is no limit, or if it cannot
    /// be read. [`read`](Self::read) tells these apart.
    #[must_use]
    pub fn value(self) -> Option<u64> {
        match self.read() {
            Ok(Value::Finite(value)) => Some(value),
            Ok(Value::Unlimited) | Err(_) => None,
        }
    }

    /// The limit and its value now, as the end of a sentence about having hit it:
    /// `fs.pipe-max-size (1048576 bytes)`. Without the parentheses if it cannot be read.
    #[must_use]
    pub fn stated(self) -> String {
        match self.read() {
            Ok(Value::Finite(value)) => format!("{self} ({value}{})", self.unit().suffix()),
            Ok(Value::Unlimited) => format!("{self} (unlimited)"),
            Err(_) => self.name().to_owned(),
        }
    }

    /// Its value now. One or three system calls.
    ///
    /// # Errors
    /// If the kernel, or a container around this process, does not show it. The text names the
    /// file and the reason.
    pub fn read(self) -> Result<Value> {
        match self.entry().source {
            Source::Proc(path) => number(path, 0).map(Value::Finite),
            Source::Field(path, field) => number(path, field).map(Value::Finite),
            Source::ProcZeroIsNone(path) => Ok(match number(path, 0)? {
                0 => Value::Unlimited,
                value => Value::Finite(value),
            }),
            Source::Soft(resource, _) => {
                Ok(getrlimit(resource).current.map_or(Value::Unlimited, Value::Finite))
            }
            Source::Hard(resource, _) => {
                Ok(getrlimit(resource).maximum.map_or(Value::Unlimited, Value::Finite))
            }
            Source::Size(path) => space(path, |fs| fs.f_blocks),
            Source::Free(path) => space(path, |fs| fs.f_bavail),
        }
    }

    const fn entry(self) -> Entry {
        use Scope::{IpcNamespace, Mount, NetworkNamespace, Process, System, User};
        use Source::{Field, Free, Hard, Proc, ProcZeroIsNone, Size, Soft};
        use Unit::{Bytes, Count, Pages};
        // One line per limit, so that it reads as the table that it is.
        let (name, unit, scope, source, about, raise) = match self {
            Self::PipeMaxSize => (
                "fs.pipe-max-size",
                Bytes,
                System,
                Proc("/proc/sys/fs/pipe-max-size"),
                "the largest capacity of a pipe without CAP_SYS_RESOURCE",
                "as root: sysctl -w fs.pipe-max-size=BYTES",
            ),
            Self::PipeUserPagesSoft => (
                "fs.pipe-user-pages-soft",
                Pages,
                User,
                ProcZeroIsNone("/proc/sys/fs/pipe-user-pages-soft"),
                "pages in all pipes of one user, beyond which its new pipes have one or two pages",
                "as root: sysctl -w fs.pipe-user-pages-soft=PAGES (0 means no limit)",
            ),
            Self::PipeUserPagesHard => (
                "fs.pipe-user-pages-hard",
                Pages,
                User,
                ProcZeroIsNone("/proc/sys/fs/pipe-user-pages-hard"),
                "pages in all pipes of one user, beyond which it gets no new pipe",
                "as root: sysctl -w fs.pipe-user-pages-hard=PAGES (0 means no limit)",
            ),
            Self::MqMsgMax => (
                "fs.mqueue.msg_max",
                Count,
                IpcNamespace,
                Proc("/proc/sys/fs/mqueue/msg_max"),
                "messages that a POSIX queue can be asked to hold without CAP_SYS_RESOURCE",
                "as root: sysctl -w fs.mqueue.msg_max=COUNT (per IPC namespace)",
            ),
            Self::MqMsgsizeMax => (
                "fs.mqueue.msgsize_max",
                Bytes,
                IpcNamespace,
                Proc("/proc/sys/fs/mqueue/msgsize_max"),
                "the longest message of a POSIX queue without CAP_SYS_RESOURCE",
                "as root: sysctl -w fs.mqueue.msgsize_max=BYTES (per IPC namespace)",
            ),
            Self::MqQueuesMax => (
                "fs.mqueue.queues_max",
                Count,
                IpcNamespace,
                Proc("/proc/sys/fs/mqueue/queues_max"),
                "how many POSIX queues there can be without CAP_SYS_RESOURCE",
                "as root: sysctl -w fs.mqueue.queues_max=COUNT (per IPC namespace)",
            ),
            Self::MqMsgDefault => (
                "fs.mqueue.msg_default",
                Count,
                IpcNamespace,
                Proc("/proc/sys/fs/mqueue/msg_default"),
                "messages that a POSIX queue holds whose creator did not say",
                "as root: sysctl -w fs.mqueue.msg_default=COUNT, or ask for more when creating",
            ),
            Self::MqMsgsizeDefault => (
                "fs.mqueue.msgsize_default",
                Bytes,
                IpcNamespace,
                Proc("/proc/sys/fs/mqueue/msgsize_default"),
                "the longest message of a POSIX queue whose creator did not say",
                "as root: sysctl -w fs.mqueue.msgsize_default=BYTES, or ask for more when creating",
            ),
            Self::MsgqueueBytes => (
                "RLIMIT_MSGQUEUE",
                Bytes,
                User,
                Soft(Resource::Msgqueue, "getrlimit(RLIMIT_MSGQUEUE)"),
                "bytes of all POSIX queues of one user, counted when a queue is created",
                "ulimit -q BYTES, or LimitMSGQUEUE= of the service (root raises the hard limit)",
            ),
            Self::MsgMax => (
                "kernel.msgmax",
                Bytes,
                IpcNamespace,
                Proc("/proc/sys/kernel/msgmax"),
                "the longest System V message",
                "as root: sysctl -w kernel.msgmax=BYTES (per IPC namespace)",
            ),
            Self::MsgMnb => (
                "kernel.msgmnb",
                Bytes,
                IpcNamespace,
                Proc("/proc/sys/kernel/msgmnb"),
                "bytes that a new System V queue holds",
                "as root: sysctl -w kernel.msgmnb=BYTES (per IPC namespace, for new queues)",
            ),
            Self::MsgMni => (
                "kernel.msgmni",
                Count,
                IpcNamespace,
                Proc("/proc/sys/kernel/msgmni"),
                "how many System V queues there can be",
                "as root: sysctl -w kernel.msgmni=COUNT (per IPC namespace)",
            ),
            Self::ShmMax => (
                "kernel.shmmax",
                Bytes,
                IpcNamespace,
                Proc("/proc/sys/kernel/shmmax"),
                "the largest System V segment",
                "as root: sysctl -w kernel.shmmax=BYTES (per IPC namespace)",
            ),
            Self::ShmMni => (
                "kernel.shmmni",
                Count,
                IpcNamespace,
                Proc("/proc/sys/kernel/shmmni"),
                "how many System V segments there can be",
                "as root: sysctl -w kernel.shmmni=COUNT (per IPC namespace)",
            ),
            Self::ShmAll => (
                "kernel.shmall",
                Pages,
                IpcNamespace,
                Proc("/proc/sys/kernel/shmall"),
                "pages of all System V segments together",
                "as root: sysctl -w kernel.shmall=PAGES (per IPC namespace)",
            ),
            Self::SemMsl => (
                "SEMMSL",
                Count,
                IpcNamespace,
                Field(SEM, 0),
                "semaphores in one System V set",
                "as root: sysctl -w kernel.sem=\"SEMMSL SEMMNS SEMOPM SEMMNI\"",
            ),
            Self::SemMns => (
                "SEMMNS",
                Count,
                IpcNamespace,
                Field(SEM, 1),
                "semaphores in all System V sets together",
                "as root: sysctl -w kernel.sem=\"SEMMSL SEMMNS SEMOPM SEMMNI\"",
            ),
            Self::SemOpm => (
                "SEMOPM",
                Count,
                IpcNamespace,
                Field(SEM, 2),
                "operations in one semop call",
                "as root: sysctl -w kernel.sem=\"SEMMSL SEMMNS SEMOPM SEMMNI\"",
            ),
            Self::SemMni => (
                "SEMMNI",
                Count,
                IpcNamespace,
                Field(SEM, 3),
                "how many System V semaphore sets there can be",
                "as root: sysctl -w kernel.sem=\"SEMMSL SEMMNS SEMOPM SEMMNI\"",
            ),
            Self::UnixMaxDgramQlen => (
                "net.unix.max_dgram_qlen",
                Count,
                NetworkNamespace,
                Proc("/proc/sys/net/unix/max_dgram_qlen"),
                "messages that wait at a UNIX datagram socket before its senders wait",
                "as root: sysctl -w net.unix.max_dgram_qlen=COUNT (for sockets made afterwards)",
            ),
            Self::WmemMax => (
                "net.core.wmem_max",
                Bytes,
                NetworkNamespace,
                Proc("/proc/sys/net/core/wmem_max"),
                "the most that SO_SNDBUF can be set to; the kernel doubles what is set",
                "as root: sysctl -w net.core.wmem_max=BYTES, or SO_SNDBUFFORCE with CAP_NET_ADMIN",
            ),
            Self::WmemDefault => (
                "net.core.wmem_default",
                Bytes,
                NetworkNamespace,
                Proc("/proc/sys/net/core/wmem_default"),
                "the send buffer of a new socket",
                "set SO_SNDBUF on the socket; as root: sysctl -w net.core.wmem_default=BYTES",
            ),
            Self::RmemMax => (
                "net.core.rmem_max",
                Bytes,
                NetworkNamespace,
                Proc("/proc/sys/net/core/rmem_max"),
                "the most that SO_RCVBUF can be set to; the kernel doubles what is set",
                "as root: sysctl -w net.core.rmem_max=BYTES, or SO_RCVBUFFORCE with CAP_NET_ADMIN",
            ),
            Self::RmemDefault => (
                "net.core.rmem_default",
                Bytes,
                NetworkNamespace,
                Proc("/proc/sys/net/core/rmem_default"),
                "the receive buffer of a new socket",
                "set SO_RCVBUF on the socket; as root: sysctl -w net.core.rmem_default=BYTES",
            ),
            Self::Somaxconn => (
                "net.core.somaxconn",
                Count,
                NetworkNamespace,
                Proc("/proc/sys/net/core/somaxconn"),
                "connections that can wait for accept; listen(2) cuts a larger backlog silently",
                "as root: sysctl -w net.core.somaxconn=COUNT",
            ),
            Self::Nofile => (
                "RLIMIT_NOFILE",
                Count,
                Process,
                Soft(Resource::Nofile, "getrlimit(RLIMIT_NOFILE), soft"),
                "one more than the highest descriptor that this process can have",
                "ulimit -n COUNT, up to the hard limit, or LimitNOFILE= of the service",
            ),
            Self::NofileHard => (
                "RLIMIT_NOFILE (hard)",
                Count,
                Process,
                Hard(Resource::Nofile, "getrlimit(RLIMIT_NOFILE), hard"),
                "up to what this process can raise its RLIMIT_NOFILE by itself",
                "as root: ulimit -Hn COUNT, or LimitNOFILE= of the service",
            ),
            Self::NrOpen => (
                "fs.nr_open",
                Count,
                System,
                Proc("/proc/sys/fs/nr_open"),
                "up to what anybody can raise RLIMIT_NOFILE",
                "as root: sysctl -w fs.nr_open=COUNT",
            ),
            Self::Memlock => (
                "RLIMIT_MEMLOCK",
                Bytes,
                Process,
                Soft(Resource::Memlock, "getrlimit(RLIMIT_MEMLOCK), soft"),
                "bytes that this process can lock into memory without CAP_IPC_LOCK",
                "ulimit -l KIB, or LimitMEMLOCK= of the service (root raises the hard limit)",
            ),
            Self::DevShmSize => (
                "/dev/shm size",
                Bytes,
                Mount,
                Size(SHM),
                "the size of the file system that POSIX shared memory lives on",
                "as root: mount -o remount,size=SIZE /dev/shm, or docker run --shm-size=SIZE",
            ),
            Self::DevShmFree => (
                "/dev/shm free",
                Bytes,
                Mount,
                Free(SHM),
                "what is free for POSIX shared memory now",
                "remove dead objects from /dev/shm, or enlarge it: mount -o remount,size=SIZE /dev/shm",
            ),
            Self::MaxMapCount => (
                "vm.max_map_count",
                Count,
                Process,
                Proc("/proc/sys/vm/max_map_count"),
                "mappings of one process",
                "as root: sysctl -w vm.max_map_count=COUNT",
            ),
            Self::Sigpending => (
                "RLIMIT_SIGPENDING",
                Count,
                User,
                Soft(Resource::Sigpending, "getrlimit(RLIMIT_SIGPENDING), soft"),
                "signals queued for all processes of one user",
                "ulimit -i COUNT, or LimitSIGPENDING= of the service (root raises the hard limit)",
            ),
            Self::InotifyMaxUserInstances => (
                "fs.inotify.max_user_instances",
                Count,
                User,
                Proc("/proc/sys/fs/inotify/max_user_instances"),
                "inotify instances of one user",
                "as root: sysctl -w fs.inotify.max_user_instances=COUNT",
            ),
            Self::InotifyMaxUserWatches => (
                "fs.inotify.max_user_watches",
                Count,
                User,
                Proc("/proc/sys/fs/inotify/max_user_watches"),
                "inotify watches of one user, in all instances",
                "as root: sysctl -w fs.inotify.max_user_watches=COUNT",
            ),
            Self::InotifyMaxQueuedEvents => (
                "fs.inotify.max_queued_events",
                Count,
                System,
                Proc("/proc/sys/fs/inotify/max_queued_events"),
                "events that wait in one inotify instance before the rest is dropped",
                "as root: sysctl -w fs.inotify.max_queued_events=COUNT (for instances made afterwards)",
            ),
            Self::EpollMaxUserWatches => (
                "fs.epoll.max_user_watches",
                Count,
                User,
                Proc("/proc/sys/fs/epoll/max_user_watches"),
                "descriptors that all epoll instances of one user watch together",
                "as root: sysctl -w fs.epoll.max_user_watches=COUNT",
            ),
        };
        Entry { name, unit, scope, source, about, raise }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Unit {
    /// The word: `bytes`, `pages`, or nothing for a bare count.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Pages => "pages",
            Self::Count => "",
        }
    }

    const fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => " bytes",
            Self::Pages => " pages",
            Self::Count => "",
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Scope {
    /// The words: `the whole machine`, `one process`, ...
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::System => "the whole machine",
            Self::IpcNamespace => "one IPC namespace",
            Self::NetworkNamespace => "one network namespace",
            Self::Mount => "one file system",
            Self::User => "one user",
            Self::Process => "one process",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finite(value) => value.fmt(f),
            Self::Unlimited => f.pad("unlimited"),
        }
    }
}

/// One number of a file below /proc.
fn number(path: &'static str, field: usize) -> Result<u64> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
        let failed = Error::os("read a limit", errno).object(path);
        if errno == Errno::NOENT {
            failed.because("this kernel, container or network namespace does not show it")
        } else {
            failed
        }
    })?;
    let word = text.split_whitespace().nth(field);
    word.and_then(|word| word.parse().ok()).ok_or_else(|| {
        let cause = match word {
            // What containers mount over parts of /proc reads as nothing.
            None => "the file is empty: /proc is masked here",
            Some(_) => "the file does not hold a number: /proc is masked here",
        };
        Error::new(ErrorKind::Mismatch, "read a limit").object(path).because(cause)
    })
}

/// So many blocks of a file system, in bytes.
fn space(path: &'static str, blocks: impl Fn(&rustix::fs::StatVfs) -> u64) -> Result<Value> {
    let fs = rustix::fs::statvfs(Path::new(path))
        .map_err(|errno| Error::os("read a limit", errno).object(path))?;
    // A tmpfs without a size of its own says zero blocks.
    if fs.f_blocks == 0 {
        return Ok(Value::Unlimited);
    }
    Ok(Value::Finite(blocks(&fs).saturating_mul(fs.f_frsize)))
}
