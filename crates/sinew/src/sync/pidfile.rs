//! Pid files: one process of a kind at a time, and who it is for people to read.
//!
//! ```
//! use sinew::{ErrorKind, pidfile};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("server.pid");
//! let pidfile = pidfile::Options::new().create(&path)?;
//!
//! // A second one learns that the first is alive, and what the file says of it.
//! let error = pidfile::Options::new().create(&path).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::InUse);
//! assert_eq!(pidfile::owner(&path)?.unwrap().said, Some(std::process::id()));
//!
//! // Dropped, it is removed. After `kill -9` the file stays, and the next one takes it over.
//! drop(pidfile);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What proves that the owner lives
//! A lock on the file, of the open file description (see [`file_lock`](crate::file_lock)), which the
//! kernel releases when its owner ends, however it ends. The number in the file proves nothing: it may
//! be of another pid namespace, or have been given to another process since. It is written for people,
//! and whatever tells of it says that it is what the file says.
//!
//! A stopped owner is alive. So is one that was killed while a child that it forked still has the
//! file: the child that is not to own it drops its [`Pidfile`], or executes a program.
//!
//! # Races and crashes
//! - Who has locked the file looks whether it still has the name, and begins anew if its owner has
//!   removed it meanwhile. So there are never two owners of two files of one name.
//! - The file is removed while it is locked, and only if it is the one that has the name.
//! - A reader finds the number of the old owner, nothing, or the whole number of the new one.
//! - Killed at any moment, a process leaves no file, or one that is not locked: the next one takes
//!   that over, whatever it says. Nothing else is left.
//!
//! All that holds among those who go by the lock. Who removes the file by hand lets a second owner in.
//!
//! # Where
//! In a folder that only its users can write to, as /run/NAME: whoever can open the file can lock it,
//! and keep the next owner out. A symbolic link is not followed, and a file with more than one name is
//! not written to. On network file systems the lock is as good as theirs.
//!
//! Sources: fcntl(2), unlink(2).

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Stat};
use rustix::io::Errno;

use super::file_lock::{self, FileLock};
use crate::error::{Error, ErrorKind, LockError, Result};
use crate::mechanism::Mechanism;
use crate::wait::{Locks, Wait};

/// How a pid file is made.
#[derive(Clone, Copy, Debug)]
#[must_use = "it makes nothing until `create`"]
pub struct Options {
    file: file_lock::Options,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600.
    pub const fn new() -> Self {
        Self { file: file_lock::Options::new().no_follow() }
    }

    /// The permission bits of a new file. The umask has no say. Others may read the number with 0644,
    /// and then also lock the file while nobody owns it.
    pub const fn mode(self, mode: u32) -> Self {
        Self { file: self.file.mode(mode) }
    }

    /// Makes this process the owner of the file at `path`, or fails at once where a live one owns it.
    /// The file is made, or taken over from a dead owner.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse), with the number that the file says; [`Mismatch`](ErrorKind::Mismatch)
    /// if something else has that name; or what the file system says.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Pidfile> {
        self.create_wait(path, Wait::NEVER)
    }

    /// The same, but waits for the end of a live owner as `wait` allows.
    ///
    /// # Errors
    /// As [`create`](Self::create), where `wait` is [`Wait::NEVER`]; else
    /// [`TimedOut`](ErrorKind::TimedOut) or [`Interrupted`](ErrorKind::Interrupted) in the place of `InUse`.
    pub fn create_wait(&self, path: impl AsRef<Path>, wait: Wait<'_>) -> Result<Pidfile> {
        // A daemon may change its folder before it removes the file.
        let path = std::path::absolute(path.as_ref()).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
            failed("create", path.as_ref(), errno)
        })?;
        let lock = loop {
            let lock = self.file.open_or_create(&path)?;
            match lock.lock_wait(wait) {
                // It is held until the file is closed.
                Ok(guard) => guard.leave(),
                Err(error) => return Err(refused(&path, &lock, error)),
            }
            let links = rustix::fs::fstat(&lock).map(|stat| stat.st_nlink);
            if links.map_err(|errno| failed("create", &path, errno))? > 1 {
                return Err(Error::new(ErrorKind::Mismatch, "create")
                    .on(Mechanism::FileLock)
                    .object(format!("{path:?}"))
                    .because("the file has other names too, and would be overwritten there"));
            }
            if has_name(&lock, &path).map_err(|errno| failed("create", &path, errno))? {
                break lock;
            }
        };
        let pidfile = Pidfile { path, lock: Some(lock) };
        pidfile.write()?;
        Ok(pidfile)
    }
}

/// Who owns a pid file: a live process, by the lock on the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process id that the file says; none if it says no number, as in the moment in which it is
    /// taken over. Nothing vouches for it.
    pub said: Option<u32>,
}

/// The live owner of the pid file at `path`; none where there is no file, or only one that a dead owner
/// left. Disturbs nobody; by the time it is looked at, it may have changed.
///
/// # Errors
/// [`Mismatch`](ErrorKind::Mismatch) if something else has that name; or what the file system says.
pub fn owner(path: impl AsRef<Path>) -> Result<Option<Owner>> {
    let path = path.as_ref();
    let lock = match file_lock::Options::new().no_follow().read_only().open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match lock.exclusive().holder() {
        Ok(holder) => Ok(holder.map(|_| Owner { said: said(&lock) })),
        Err(LockError::Os(errno)) => Err(failed("look at", path, Errno::from_raw_os_error(errno))),
        // Asking waits for nothing and holds nothing.
        Err(_) => Err(failed("look at", path, Errno::IO)),
    }
}

/// The pid file of this process. Dropping it removes the file; in a forked child it only closes it.
#[derive(Debug)]
#[must_use = "dropped at once, it owns nothing"]
pub struct Pidfile {
    path: PathBuf,
    /// There until it is left or dropped.
    lock: Option<FileLock>,
}

impl Pidfile {
    /// Where it is: an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes this process, a forked child, the owner, and writes its number: for a daemon that forks
    /// after it has made sure that it is the only one. Its parent [leaves](Self::leave) the file.
    ///
    /// # Errors
    /// When the number cannot be written.
    pub fn adopt(&self) -> Result<()> {
        if let Some(lock) = &self.lock {
            lock.adopt();
        }
        self.write()
    }

    /// Leaves the file to a forked child that [adopts](Self::adopt) it. If there is none, the file stays
    /// as that of a dead owner.
    pub fn leave(mut self) {
        self.lock = None;
    }

    /// Removes the file, and says whether that succeeded. In a forked child it only closes it.
    ///
    /// # Errors
    /// What the file system says. The file is unlocked all the same, so that the next one takes it over.
    pub fn remove(mut self) -> Result<()> {
        self.removed().map_err(|errno| failed("remove", &self.path, errno))
    }

    fn removed(&mut self) -> Result<(), Errno> {
        let Some(lock) = self.lock.take() else { return Ok(()) };
        // While it is locked: nobody who goes by the lock can put another in its place.
        if lock.is_own() && has_name(&lock, &self.path)? {
            rustix::fs::unlink(&self.path)?;
        }
        Ok(())
    }

    /// Old contents, none, or new ones: a write to an empty file is seen whole.
    fn write(&self) -> Result<()> {
        let Some(lock) = &self.lock else { return Ok(()) };
        let write = |mut file: &std::fs::File| {
            file.set_len(0)?;
            // Where the last write has left it, in a child that adopts it.
            std::io::Seek::rewind(&mut file)?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        };
        write(lock.file()).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            failed("write the process id", &self.path, errno)
        })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        // A file that cannot be removed is left as one of a dead owner.
        let _ = self.removed();
    }
}

impl AsFd for Pidfile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_ref().expect("it is there until the end").as_fd()
    }
}

/// Whether the file still has the name.
fn has_name(lock: &FileLock, path: &Path) -> Result<bool, Errno> {
    let opened = rustix::fs::fstat(lock)?;
    let named = match rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(false),
        named => named?,
    };
    let same = |a: &Stat, b: &Stat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
    Ok(same(&opened, &named))
}

/// The number that the file says.
fn said(lock: &FileLock) -> Option<u32> {
    let mut text = [0; 32];
    let length = lock.file().read_at(&mut text, 0).ok()?;
    std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
}

fn refused(path: &Path, lock: &FileLock, error: LockError) -> Error {
    let kind = match error {
        LockError::WouldBlock => ErrorKind::InUse,
        LockError::TimedOut => ErrorKind::TimedOut,
        LockError::Interrupted => ErrorKind::Interrupted,
        LockError::Os(errno) => return failed("lock", path, Errno::from_raw_os_error(errno)),
        _ => return failed("lock", path, Errno::DEADLK),
    };
    let because = match said(lock) {
        Some(pid) => format!("a live process owns it; the file says that its process id is {pid}"),
        None => "a live process owns it; the file does not say which".to_owned(),
    };
    Error::new(kind, "create").on(Mechanism::FileLock).object(format!("{path:?}")).because(because)
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    Error::os(operation, errno).on(Mechanism::FileLock).object(format!("{path:?}"))
}
