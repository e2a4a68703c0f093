//! Making and opening a file to lock.

use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{FileLock, MECHANISM};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;

/// How a file to lock is made or opened. Its contents are not touched.
#[derive(Clone, Copy, Debug)]
#[must_use = "it opens nothing until `create`, `open` or `open_or_create`"]
pub struct Options {
    mode: u32,
    read_only: bool,
    no_follow: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600, for reading and writing.
    pub const fn new() -> Self {
        Self { mode: 0o600, read_only: false, no_follow: false }
    }

    /// The permission bits of a new file. The umask has no say. Whoever may write to the file can
    /// lock it exclusively, whoever may read it can share a lock, and keep others waiting for ever.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Opens for reading only, which takes only that permission, and gives only shared locks.
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Takes a symbolic link for what it is: no regular file.
    pub(in crate::sync) const fn no_follow(mut self) -> Self {
        self.no_follow = true;
        self
    }

    /// Makes a new, empty file at `path`.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if anything has that name, even a symbolic link
    /// that leads nowhere; or what the file system says.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        let path = path.as_ref();
        let operation = "create";
        let mode = Mode::from_raw_mode(self.mode & 0o7777);
        let flags = self.flags() | OFlags::CREATE | OFlags::EXCL;
        let file = rustix::fs::open(path, flags, mode).map_err(|e| failed(operation, path, e))?;
        // What the umask took away; nobody could open it more widely meanwhile.
        rustix::fs::fchmod(&file, mode).map_err(|e| failed(operation, path, e))?;
        Ok(FileLock::from(file))
    }

    /// Opens the file at `path`.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Mismatch`](ErrorKind::Mismatch) if it is no regular file.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        let path = path.as_ref();
        let operation = "open";
        let is_file = |mode| FileType::from_raw_mode(mode) == FileType::RegularFile;
        // Before it is opened: opening a device may act on it.
        let follow = if self.no_follow { AtFlags::SYMLINK_NOFOLLOW } else { AtFlags::empty() };
        let stat = rustix::fs::statat(CWD, path, follow).map_err(|e| failed(operation, path, e))?;
        if is_file(stat.st_mode) {
            let file = rustix::fs::open(path, self.flags(), Mode::empty())
                .map_err(|e| failed(operation, path, e))?;
            // Something else may have taken the name since.
            let stat = rustix::fs::fstat(&file).map_err(|e| failed(operation, path, e))?;
            if is_file(stat.st_mode) {
                return Ok(FileLock::from(file));
            }
        }
        Err(Error::new(ErrorKind::Mismatch, operation)
            .on(MECHANISM)
            .object(format!("{path:?}"))
            .because("what has that name is no regular file"))
    }

    /// Opens the file at `path`, or makes it.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, path: impl AsRef<Path>) -> Result<FileLock> {
        let path = path.as_ref();
        // Others may make and remove it in between; each round is progress of one of them.
        loop {
            match self.open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if rustix::fs::readlink(path, Vec::new()).is_ok() {
                        return Err(error.because("a symbolic link that leads nowhere"));
                    }
                }
                done => return done,
            }
            match self.create(path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
    }

    fn flags(&self) -> OFlags {
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let follow = if self.no_follow { OFlags::NOFOLLOW } else { OFlags::empty() };
        access | follow | OFlags::CLOEXEC | OFlags::NOCTTY
    }
}

fn failed(operation: &'static str, path: &Path, errno: Errno) -> Error {
    let error = Error::os(operation, errno).on(MECHANISM).object(format!("{path:?}"));
    match errno {
        Errno::EXIST => error
            .because("something has that name")
            .fix("use `open` or `open_or_create`, which empty no file"),
        Errno::MFILE => error
            .because(format!("this process has used up {}", Limit::Nofile.stated()))
            .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
        _ => error,
    }
}
