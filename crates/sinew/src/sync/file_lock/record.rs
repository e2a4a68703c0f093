//! POSIX record locks: those of a process.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::fstat;

use super::view::sealed::{Commands, Sealed};
use super::view::{Guard, Parts, Ranged, View};
use super::{Kind, MECHANISM};
use crate::error::{Error, ErrorKind, LockError, Result};
use crate::fork;
use crate::wait::{Locks, Wait};

/// POSIX record locks (`F_SETLK`): for files that sqlite, Java or an older program locks so. For
/// anything new, use [`FileLock`](super::FileLock).
///
/// As an object of [`Locks`] it is the exclusive lock of the whole file.
///
/// # What is wrong with them
/// - **The owner is the process.** Every lock of the file is lost when this process closes *any*
///   descriptor of it, opened by whichever library, for whatever purpose, and nobody is told. Reading
///   the file with `std::fs::read` is enough.
/// - **Threads are not kept apart**, nor are two descriptors. The library refuses a second
///   `RecordLock` of one file in a process; it cannot see those of others.
/// - **A forked child has none of them**, and a handle that it inherits refuses to lock
///   ([`Forked`](LockError::Forked)).
/// - The kernel looks for circles of waiters ([`Deadlock`](LockError::Deadlock)), only in unbounded
///   waits, and it may see one where threads wait for each other in a way that would have ended.
///
/// They do keep out a [`FileLock`](super::FileLock), and are kept out by it, the one of the same
/// process included. An exclusive lock takes a file that is open for writing, a shared one a file
/// open for reading.
#[derive(Debug)]
pub struct RecordLock {
    // Closed before the file is free for another handle: the closing releases what that one locks.
    parts: Parts,
    _place: Place,
}

impl RecordLock {
    /// The locks of this file, for this process.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse) if another handle has the file already, by whatever name it was
    /// opened. The file comes back, because closing it would release what that one holds.
    pub fn new(file: File) -> Result<Self, (Error, File)> {
        match Place::of(&file) {
            Ok(place) => Ok(Self { parts: Parts::new(file), _place: place }),
            Err(error) => Err((error, file)),
        }
    }

    /// The exclusive lock: of the whole file, unless a [`range`](View::range) is given.
    #[inline]
    pub fn exclusive(&self) -> View<'_, Self> {
        View::new(self, Kind::Exclusive)
    }

    /// The shared lock: of the whole file, unless a [`range`](View::range) is given.
    #[inline]
    pub fn shared(&self) -> View<'_, Self> {
        View::new(self, Kind::Shared)
    }

    /// The file. Use it for reading and writing: opening it once more and closing that loses the locks.
    #[must_use]
    pub fn file(&self) -> &File {
        self.parts.file()
    }
}

impl Ranged for RecordLock {}

impl Sealed for RecordLock {
    const COMMANDS: Commands =
        Commands { try_set: libc::F_SETLK, set: libc::F_SETLKW, get: libc::F_GETLK };

    #[inline]
    fn parts(&self) -> &Parts {
        &self.parts
    }
}

impl Locks for RecordLock {
    type Guard<'a> = Guard<'a, Self>;
    type Died<'a> = Infallible;

    #[inline(always)]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<Guard<'_, Self>, LockError> {
        self.exclusive().lock_wait(wait)
    }
}

impl AsFd for RecordLock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl From<RecordLock> for OwnedFd {
    fn from(lock: RecordLock) -> Self {
        lock.parts.into_file().into()
    }
}

/// A file that this process has a handle of: one of the process, by device and inode.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct Id {
    device: u64,
    inode: u64,
    process: u64,
}

/// Every file with a handle.
static PLACES: Mutex<Vec<Id>> = Mutex::new(Vec::new());

fn places() -> MutexGuard<'static, Vec<Id>> {
    PLACES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Frees the file for another handle when dropped.
#[derive(Debug)]
struct Place(Id);

impl Place {
    fn of(file: &File) -> Result<Self> {
        let stat = fstat(file).map_err(|e| Error::os("look at the file", e).on(MECHANISM))?;
        let process = fork::this_process();
        let id = Id { device: stat.st_dev, inode: stat.st_ino, process };
        let mut places = places();
        // What this process inherited as a copy locks nothing here.
        places.retain(|other| other.process == process);
        if places.contains(&id) {
            return Err(Error::new(ErrorKind::InUse, "lock records")
                .on(MECHANISM)
                .because("this process has a RecordLock of the same file, and the kernel takes both for one")
                .fix("use the one there is, or a FileLock"));
        }
        places.push(id);
        Ok(Self(id))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        places().retain(|other| *other != self.0);
    }
}
