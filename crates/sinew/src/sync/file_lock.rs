//! Locks on a file, or on a range of its bytes, which the kernel releases when their holder ends.
//!
//! ```
//! use std::time::Duration;
//! use sinew::file_lock;
//! use sinew::wait::Locks;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("table");
//! let table = file_lock::Options::new().open_or_create(&path)?;
//! {
//!     // The whole file, for nobody else.
//!     let _guard = table.lock().unwrap();
//! }
//! // Two records, for readers; another process may read them too, and write all others.
//! let records = table.shared().range(128..256).lock_timeout(Duration::from_secs(1)).unwrap();
//! # drop(records);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! All of it is advisory: who does not ask for the lock is not kept out of the file.
//!
//! # Which of the three
//! | | [`FileLock`] | [`Flock`] | [`RecordLock`] |
//! |---|---|---|---|
//! | the call | `fcntl(F_OFD_SETLK)` | `flock` | `fcntl(F_SETLK)` |
//! | the owner | the open file description | the open file description | the process |
//! | what is locked | a range of bytes | the whole file | a range of bytes |
//! | keeps out | `FileLock`, `RecordLock` | `Flock` | `FileLock`, `RecordLock` |
//! | is lost when | the last descriptor of the description is closed | the same | **any** descriptor of the file is closed in the process |
//! | a forked child | shares it | shares it | has none |
//! | upgrade | keeps the shared lock until then | **lets go first** | keeps the shared lock until then |
//! | a circle of waiters | is not seen | is not seen | [`Deadlock`](LockError::Deadlock) |
//! | over NFS | between hosts | between hosts, as a `RecordLock` | between hosts |
//! | others who use it | new programs | `flock(1)`, systemd, package managers | sqlite, Java, Python's `lockf`, mail |
//!
//! `FileLock` is the default. The others are for files that programs of others lock so.
//!
//! # One handle is one owner
//! The kernel converts what an owner holds already: a second lock of the same bytes by the same
//! owner would be granted at once, and releasing it would release the first. So a handle notes what
//! it holds, and never asks twice: another lock of any of those bytes gives
//! [`Deadlock`](LockError::Deadlock) at once (`try_lock`: [`WouldBlock`](LockError::WouldBlock)),
//! whichever thread asks. Threads that exclude each other have a handle each, see
//! [`FileLock::reopen`]. A descriptor that is made into a handle must not be another's duplicate.
//!
//! # Waiting
//! `lock` is the kernel's own blocking call, one system call, as is each unlocking. The kernel has no
//! bounded one, and nothing to poll: with a deadline or an `Interrupt` the lock is tried again after
//! naps of 20 us growing to 1 ms. Such a waiter stands in no queue, and one that sleeps in the kernel
//! goes first. Waiters of the kernel go in turn; a stream of shared locks can keep an exclusive one out.
//!
//! Two owners that wait for each other in a circle wait for ever, but for `RecordLock`; two that
//! [`upgrade`](Guard::upgrade) the same bytes are such a circle. Give one of them a deadline.
//!
//! # Fork
//! A forked child has the same description, and thereby the lock: the kernel releases it when both
//! have closed it, or one unlocks. A guard that is dropped in a child unlocks nothing, and a handle
//! refuses to lock there ([`Forked`](LockError::Forked)): it would be granted what its parent holds. To
//! hand a lock over to a child, see [`Guard::leave`] and [`FileLock::adopt`]. Exec closes the file.
//!
//! # Crashes
//! When its holder ends, by `kill -9` too, the kernel releases a lock and the next one has it; nobody
//! is told that the last one died in the middle. A child that was forked holds it on. A stopped
//! process keeps its locks.
//!
//! A lock file must not be removed by who is done: another may wait for the lock of the removed file,
//! while a third locks a new one of that name. [`pidfile`](crate::pidfile) knows how.
//!
//! Sources: fcntl(2), flock(2), fork(2).

mod fcntl;
mod flock;
mod options;
mod record;
mod span;
mod view;

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use crate::error::{Error, LockError, Result};
use crate::mechanism::Mechanism;
use crate::wait::{Locks, Wait};

pub use flock::{Flock, FlockGuard, FlockView};
pub use options::Options;
pub use record::RecordLock;
pub use view::{Guard, Ranged, View};

use view::Parts;

const MECHANISM: Mechanism = Mechanism::FileLock;

/// Whether others may hold the same lock meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Others may hold it as shared too.
    Shared,
    /// Nobody else holds it.
    Exclusive,
}

/// A lock that stands in the way. It may be gone by the time it is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// How it is held.
    pub kind: Kind,
    /// Its first byte.
    pub start: u64,
    /// The byte after its last one; none where it goes on whatever the length of the file.
    pub end: Option<u64>,
    /// Who holds it.
    pub owner: Owner,
}

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// An open file description, which any number of processes may have: a [`FileLock`]. The kernel
    /// does not say whose (`l_pid` is -1).
    Description,
    /// A process, by the kernel's word and in this pid namespace: a [`RecordLock`]. None for one
    /// that has no number here, or is on another host.
    Process(Option<u32>),
}

/// Locks of an open file description: the default. See the [module](self).
///
/// As an object of [`Locks`] it is the exclusive lock of the whole file.
///
/// A shared lock takes a file that is open for reading, an exclusive one a file open for writing;
/// else it is `EBADF`.
#[derive(Debug)]
pub struct FileLock(Parts);

impl FileLock {
    /// The exclusive lock: of the whole file, unless a [`range`](View::range) is given.
    #[inline]
    pub fn exclusive(&self) -> View<'_> {
        View::new(self, Kind::Exclusive)
    }

    /// The shared lock: of the whole file, unless a [`range`](View::range) is given.
    #[inline]
    pub fn shared(&self) -> View<'_> {
        View::new(self, Kind::Shared)
    }

    /// The file. What is read and written through it needs no other descriptor.
    #[must_use]
    pub fn file(&self) -> &File {
        self.0.file()
    }

    /// Opens the same file once more, whatever has its name by now: another owner, for another
    /// thread.
    ///
    /// # Errors
    /// When no descriptor is left, /proc is missing, or the file may not be opened any more.
    pub fn reopen(&self) -> Result<Self> {
        let failed = |errno| Error::os("open once more", errno).on(MECHANISM);
        let flags = rustix::fs::fcntl_getfl(self).map_err(failed)?;
        let flags = flags & (OFlags::RDWR | OFlags::WRONLY) | OFlags::CLOEXEC;
        let path = format!("/proc/self/fd/{}", self.as_fd().as_raw_fd());
        let again = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        Ok(Self::from(again))
    }

    /// Whether this process made the handle, or has adopted it.
    pub(super) fn is_own(&self) -> bool {
        self.0.is_own()
    }

    /// Makes this process, a forked child, the one that may use the handle, with every guard of it
    /// that was copied by the fork. Does nothing in the process that made it.
    ///
    /// Parent and child are one owner: only one of them may go on. So the parent
    /// [leaves](Guard::leave) its guards, and closes the handle or ends.
    pub fn adopt(&self) {
        self.0.adopt();
    }
}

impl Locks for FileLock {
    type Guard<'a> = Guard<'a>;
    type Died<'a> = std::convert::Infallible;

    #[inline(always)]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<Guard<'_>, LockError> {
        self.exclusive().lock_wait(wait)
    }
}

impl AsFd for FileLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

/// The file must be nobody else's description: no duplicate of a descriptor that is locked through.
impl From<File> for FileLock {
    fn from(file: File) -> Self {
        Self(Parts::new(file))
    }
}

/// As from a [`File`].
impl From<OwnedFd> for FileLock {
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

/// Locks that were [left](Guard::leave) go with the last descriptor.
impl From<FileLock> for OwnedFd {
    fn from(lock: FileLock) -> Self {
        lock.0.into_file().into()
    }
}
