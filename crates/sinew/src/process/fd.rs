//! Descriptors of other processes: taking a duplicate of one, and asking whether two are the same.
//!
//! ```
//! use sinew::fd::{Process, duplicate, same_description};
//!
//! let (rx, tx) = sinew::pipe::pipe()?;
//! let copy = rx.try_clone().unwrap();
//! assert!(same_description(&rx, &copy)?);
//! assert!(!same_description(&rx, &tx)?);
//!
//! // Of another process by its number; here this one stands in for it.
//! let process = Process::of_pid(std::process::id())?;
//! let number = std::os::fd::AsRawFd::as_raw_fd(&rx);
//! let third = duplicate(&process, number)?;
//! assert!(same_description(&rx, third)?);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What a duplicate does
//! It is the same description: it shares position and flags, keeps a pipe or socket open though its
//! process closes it, and so hides the end of a stream from whoever waits for it. Close it as soon as
//! it has been looked at. It is close-on-exec here. What the process does meanwhile is not stopped: the number may
//! have come to mean another file by the time it is taken.
//!
//! # Who may
//! [`duplicate`] needs what [`process_vm`](crate::process_vm) needs. Comparing needs only permission to look (the same user;
//! Yama does not matter).
//!
//! Source: pidfd_getfd(2), kcmp(2), fcntl(2) (F_DUPFD_QUERY).

#![allow(unsafe_code, reason = "neither std nor rustix has kcmp and F_DUPFD_QUERY")]

use std::cmp::Ordering;
use std::ffi::{c_int, c_long};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdGetfdFlags, pidfd_getfd};

use super::target::{Target, refused, shown};
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Feature;
use crate::limits::Limit;
use crate::mechanism::Mechanism;

/// A process whose descriptors are looked at. Holds its pidfd.
#[derive(Debug)]
pub struct Process(Target);

/// What two processes can have in common, for [`share`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// The memory: threads, and a child of vfork before it executes.
    Memory,
    /// The table of descriptors (CLONE_FILES).
    Descriptors,
    /// Working directory, root and umask (CLONE_FS).
    Directories,
    /// The signal handlers (CLONE_SIGHAND).
    Handlers,
    /// The context of input and output (CLONE_IO).
    Io,
    /// The undo list of System V semaphores (CLONE_SYSVSEM).
    SemaphoreUndo,
}

/// `KCMP_FILE` and its like, of linux/kcmp.h.
const KCMP_FILE: c_int = 0;
/// `F_DUPFD_QUERY` of linux/fcntl.h.
const F_DUPFD_QUERY: c_int = 1024 + 3;

impl Resource {
    const fn kcmp(self) -> c_int {
        match self {
            Self::Memory => 1,
            Self::Descriptors => 2,
            Self::Directories => 3,
            Self::Handlers => 4,
            Self::Io => 5,
            Self::SemaphoreUndo => 6,
        }
    }
}

impl Process {
    /// The process that has this number now.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none.
    pub fn of_pid(pid: u32) -> Result<Self> {
        Target::of_pid(pid, Mechanism::Pidfd).map(Self)
    }

    /// The process that `pidfd` means.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if it is no pidfd; [`NotFound`](ErrorKind::NotFound) if the process has ended.
    pub fn of_pidfd(pidfd: OwnedFd) -> Result<Self> {
        Target::of_pidfd(pidfd, Mechanism::Pidfd).map(Self)
    }

    /// Its number, in this pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        shown(self.0.pid())
    }
}

impl TryFrom<OwnedFd> for Process {
    type Error = Error;

    fn try_from(pidfd: OwnedFd) -> Result<Self> {
        Self::of_pidfd(pidfd)
    }
}

impl From<Process> for OwnedFd {
    fn from(process: Process) -> Self {
        process.0.into_pidfd()
    }
}

impl AsFd for Process {
    /// The pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }
}

/// Duplicates descriptor `number` of `process` into this one, close-on-exec. The process does not
/// notice.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) if it has no such descriptor, or has ended;
/// [`PermissionDenied`](ErrorKind::PermissionDenied) with the reason; [`LimitReached`](ErrorKind::LimitReached) if this process has
/// no room for it.
pub fn duplicate(process: &Process, number: RawFd) -> Result<OwnedFd> {
    const OPERATION: &str = "duplicate a descriptor of it (pidfd_getfd)";
    // rustix panics on a negative number.
    let errno = match number {
        ..0 => Errno::BADF,
        _ => match pidfd_getfd(process, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => return Ok(fd),
            Err(errno) => errno,
        },
    };
    if errno == Errno::PERM {
        return Err(refused(OPERATION, Mechanism::Pidfd, process.0.pid()));
    }
    let error = Error::os(OPERATION, errno)
        .on(Mechanism::Pidfd)
        .object(format_args!("process {}", process.pid()));
    Err(match errno {
        Errno::BADF => {
            error.of_kind(ErrorKind::NotFound).because(format!("it has no descriptor {number}"))
        }
        Errno::SRCH => error.because("it has ended"),
        Errno::MFILE => error
            .because(format!("all descriptors are in use: {}", Limit::Nofile.stated()))
            .fix(Limit::Nofile.raise()),
        _ => error,
    })
}

/// Whether `a` and `b` are the same description: what one seeks, or sets with O_NONBLOCK, the other
/// has too.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) if the kernel can tell neither way (before Linux 6.10 without
/// CONFIG_KCMP, or with a filter on both) and they are not of obviously different files.
pub fn same_description(a: impl AsFd, b: impl AsFd) -> Result<bool> {
    let (a, b) = (a.as_fd(), b.as_fd());
    if let Some(same) = query(a, b) {
        return Ok(same);
    }
    let own = rustix::process::getpid();
    match kcmp(own, own, KCMP_FILE, a.as_raw_fd().into(), b.as_raw_fd().into()) {
        Ok(order) => Ok(order == 0),
        Err(errno) => match differ(a, b) {
            true => Ok(false),
            false => Err(unable(errno, own)),
        },
    }
}

/// How descriptor `a` of one process and `b` of another stand to each other: equal if they are the same
/// description, else in an order that holds as long as both live, by which many can be sorted
/// to find those that are the same.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) if a process has ended or has no such descriptor;
/// [`PermissionDenied`](ErrorKind::PermissionDenied); [`Unsupported`](ErrorKind::Unsupported) on a kernel without CONFIG_KCMP:
/// [`same_descriptions`] has a way around it.
pub fn compare(a: (&Process, RawFd), b: (&Process, RawFd)) -> Result<Ordering> {
    let number = |n: RawFd| c_long::from(n);
    match kcmp(a.0.0.pid(), b.0.0.pid(), KCMP_FILE, number(a.1), number(b.1)) {
        Ok(0) => confirmed(Ordering::Equal, a.0, b.0),
        Ok(1) => confirmed(Ordering::Less, a.0, b.0),
        Ok(2) => confirmed(Ordering::Greater, a.0, b.0),
        Ok(_) => Err(unable(Errno::OPNOTSUPP, a.0.0.pid())),
        Err(Errno::BADF) => {
            let object = format!("descriptors {} and {}", a.1, b.1);
            Err(Error::os(COMPARE, Errno::BADF)
                .of_kind(ErrorKind::NotFound)
                .object(object)
                .because("one of the processes has no such descriptor"))
        }
        Err(Errno::PERM) => {
            let other = if a.0.pid() == std::process::id() { b.0 } else { a.0 };
            Err(refused(COMPARE, Mechanism::Pidfd, other.0.pid()))
        }
        Err(errno) => Err(unable(errno, a.0.0.pid())),
    }
}

/// Whether descriptor `a` of one process and `b` of another are the same description. Where the kernel
/// has no kcmp, it takes duplicates of both and compares these, for which it needs more permission.
///
/// # Errors
/// As [`compare`] and [`duplicate`].
pub fn same_descriptions(a: (&Process, RawFd), b: (&Process, RawFd)) -> Result<bool> {
    match compare(a, b) {
        Ok(order) => Ok(order == Ordering::Equal),
        Err(error) if error.kind() == ErrorKind::Unsupported => {
            same_description(duplicate(a.0, a.1)?, duplicate(b.0, b.1)?)
        }
        Err(error) => Err(error),
    }
}

/// Whether two processes have `what` in common.
///
/// # Errors
/// As [`compare`]; there is no way around a missing CONFIG_KCMP.
pub fn share(a: &Process, b: &Process, what: Resource) -> Result<bool> {
    match kcmp(a.0.pid(), b.0.pid(), what.kcmp(), 0, 0) {
        Ok(order) => confirmed(order == 0, a, b),
        Err(Errno::PERM) => {
            let other = if a.pid() == std::process::id() { b } else { a };
            Err(refused(COMPARE, Mechanism::Pidfd, other.0.pid()))
        }
        Err(errno) => Err(unable(errno, a.0.pid())),
    }
}

const COMPARE: &str = "compare (kcmp)";

/// An answer about numbers holds for the processes only if these have not ended meanwhile.
fn confirmed<T>(answer: T, a: &Process, b: &Process) -> Result<T> {
    match [a, b].into_iter().find(|process| process.0.ended()) {
        None => Ok(answer),
        Some(ended) => Err(unable(Errno::SRCH, ended.0.pid())),
    }
}

/// Two of this process by F_DUPFD_QUERY (Linux 6.10), which asks for no permission.
fn query(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> Option<bool> {
    if !Feature::DupfdQuery.usable() {
        return None;
    }
    // SAFETY: looks at two descriptors and at no memory.
    match unsafe { libc::fcntl(a.as_raw_fd(), F_DUPFD_QUERY, b.as_raw_fd()) } {
        0 => Some(false),
        1 => Some(true),
        _ => {
            Feature::DupfdQuery.refused();
            None
        }
    }
}

/// Whether they surely are not the same, because they are of different files.
fn differ(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    let file = |fd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino, s.st_mode));
    matches!((file(a), file(b)), (Ok(a), Ok(b)) if a != b)
}

fn kcmp(a: Pid, b: Pid, kind: c_int, x: c_long, y: c_long) -> Result<c_long, Errno> {
    let (a, b) = (a.as_raw_nonzero().get(), b.as_raw_nonzero().get());
    // SAFETY: kcmp takes numbers only; with the kinds used here it looks at no memory.
    match unsafe { libc::syscall(libc::SYS_kcmp, a, b, kind, x, y) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
        order => Ok(order),
    }
}

fn unable(errno: Errno, pid: Pid) -> Error {
    let error = Error::os(COMPARE, errno)
        .on(Mechanism::Pidfd)
        .object(format_args!("process {}", pid.as_raw_nonzero()));
    match errno {
        Errno::SRCH => error.because("it has ended"),
        Errno::NOSYS => error
            .because("this kernel has no CONFIG_KCMP, or a filter denies the call")
            .fix("use Linux 6.10 for descriptors of one's own"),
        _ => error,
    }
}
