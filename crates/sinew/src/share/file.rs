//! Files that are mapped: memory that outlives its processes, and the host if it is synchronised.
//!
//! ```
//! use sinew::file;
//!
//! # let folder = std::env::temp_dir().join(format!("sinew-example-{}", std::process::id()));
//! # std::fs::create_dir(&folder).unwrap();
//! let path = folder.join("table");
//! let file = file::Options::new().create(&path, 4096)?;
//! let map = file.map()?;
//! map.write_at(0, b"hello")?;
//! map.sync()?;
//!
//! file.grow(8192)?;
//! let second_page = file.window(4096, 4096)?;
//! # drop(second_page);
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Why mapping a file is safe here
//! Other crates make it `unsafe`, because they give a slice, and whoever can write to the file can
//! change what a `&[u8]` shows. A [`Mapping`] is no slice: see [`mapping`](crate::mapping). What is
//! left is SIGBUS, which ends the process at a touch of a page that the file has not any more. That
//! is no undefined behaviour, but nothing one wants, so:
//!
//! - files get their disk space before they are mapped, so a full disk is an error;
//! - a new file appears under its name only when it is complete;
//! - no call of this library shortens a file or writes it anew in place: [`File::grow`] makes it
//!   longer, [`Options::replace`] puts a new file in the place of the old one, which its users keep;
//! - no map goes beyond the end of the file.
//!
//! Whoever may write to the file can still truncate it by other means. Where that is somebody who is
//! not trusted, use [`File::read_at`], which reports the end, or a [`memfd`](crate::memfd).
//!
//! # After a crash
//! Of a process: the file has everything that was written to the map. Of the host: it has what was
//! [synchronised](Mapping::sync), and any part of the rest. A file whose creator was killed while it
//! created it is not there.
//!
//! Source: mmap(2), msync(2), open(2) (O_TMPFILE), fallocate(2).

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::allocate::{self, Draft};
use super::{headroom, pages};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mapping::{self, Mapping};
use crate::mechanism::Mechanism;

const MECHANISM: Mechanism = Mechanism::MmapFile;

/// How to create or open a file to map.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    mode: u32,
    read_only: bool,
    sparse: bool,
    durable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600, for reading and writing.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: 0o600, read_only: false, sparse: false, durable: false }
    }

    /// The permission bits of a new file. The umask has no say.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Opens for reading only, which takes only that permission.
    #[must_use]
    pub const fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Gives no disk space to the holes of a file that another program has made, when it is opened for
    /// writing. Then a write to a hole ends the process by SIGBUS when the disk is full.
    #[must_use]
    pub const fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }

    /// Waits until the disk has a new file and its name, so that the host may go down afterwards.
    #[must_use]
    pub const fn durable(mut self) -> Self {
        self.durable = true;
        self
    }

    /// Creates a file of `len` zeroed bytes under a path that must be free. All its disk space is
    /// there before the name is.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`NoSpace`](ErrorKind::NoSpace), with the sizes;
    /// [`InvalidInput`](ErrorKind::InvalidInput) for no bytes.
    pub fn create(&self, path: impl AsRef<Path>, len: u64) -> Result<File> {
        self.make(path.as_ref(), len, |_| Ok(()), false)
    }

    /// Creates a file of `len` bytes, lets `fill` write its contents, and puts it in the place of
    /// whatever has the path, in one step: an opener finds the old file or the complete new one. Who
    /// has the old one mapped keeps it as it is.
    ///
    /// # Errors
    /// As those of [`create`](Self::create), and those of `fill`; the old file stays then.
    pub fn replace(
        &self,
        path: impl AsRef<Path>,
        len: u64,
        fill: impl FnOnce(&File) -> Result<()>,
    ) -> Result<File> {
        self.make(path.as_ref(), len, fill, true)
    }

    fn make(
        &self,
        path: &Path,
        len: u64,
        fill: impl FnOnce(&File) -> Result<()>,
        replace: bool,
    ) -> Result<File> {
        let operation = if replace { "replace" } else { "create" };
        let error = |errno| failed(operation, errno, path);
        let (folder, name) = split(path).ok_or_else(|| {
            error(Errno::INVAL).because("it is a folder, not a path of a file in one")
        })?;
        if len == 0 {
            return Err(error(Errno::INVAL).because("a file to map has at least one byte"));
        }
        let mode = Mode::from_raw_mode(self.mode & 0o777);
        let draft = Draft::new(folder, mode).map_err(error)?;
        allocate(draft.fd(), len, len).map_err(|e| e.object(format!("{path:?}")))?;
        let again = rustix::io::fcntl_dupfd_cloexec(draft.fd(), 0).map_err(error)?;
        let file = File { fd: again, read_only: false };
        fill(&file)?;
        if self.durable {
            fs::fsync(draft.fd()).map_err(error)?;
        }
        let folder =
            if self.durable { Some(draft.readable_folder().map_err(error)?) } else { None };
        let done = if replace { draft.replace(name) } else { draft.publish(name) };
        done.map_err(error)?;
        if let Some(folder) = folder {
            fs::fsync(folder).map_err(error)?;
        }
        Ok(file)
    }

    /// Opens the file at a path, and gives it disk space for its holes if it is opened for writing.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied);
    /// [`Mismatch`](ErrorKind::Mismatch) if it is no regular file; [`NoSpace`](ErrorKind::NoSpace) if
    /// there is none for its holes.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<File> {
        let path = path.as_ref();
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        // Non-blocking, because a FIFO would wait for its other end. Files do not care.
        let flags = access | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let fd = fs::openat(CWD, path, flags, Mode::empty());
        let fd = fd.map_err(|e| failed("open", e, path))?;
        self.take(fd).map_err(|e| e.object(format!("{path:?}")))
    }

    /// Opens the file at a path, or creates it. One that exists keeps its mode, and grows to `len` if
    /// it is shorter.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, path: impl AsRef<Path>, len: u64) -> Result<File> {
        let path = path.as_ref();
        loop {
            match self.open(path) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
                Ok(file) => {
                    if !self.read_only {
                        file.grow(len)?;
                    }
                    return Ok(file);
                }
            }
            match self.create(path, len) {
                // Somebody else was faster, so it can be opened now.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
    }

    /// Takes an open file, if it is a regular one. [`read_only`](Self::read_only) has to say how it is
    /// open.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub fn take(&self, file: impl Into<OwnedFd>) -> Result<File> {
        let fd = file.into();
        let error = |errno| Error::os("open", errno).on(MECHANISM);
        let stat = fs::fstat(&fd).map_err(error)?;
        if let Some(what) = allocate::irregular(&stat) {
            return Err(Error::new(ErrorKind::Mismatch, "open")
                .on(MECHANISM)
                .because(format!("it is {what}, not a regular file")));
        }
        let len = allocate::length(&stat);
        if !self.read_only && !self.sparse && allocate::has_holes(&stat) {
            let there = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
            allocate(fd.as_fd(), len, len.saturating_sub(there))?;
        }
        Ok(File { fd, read_only: self.read_only })
    }
}

/// An open file to map. Dropping it closes it; maps stay.
#[derive(Debug)]
pub struct File {
    fd: OwnedFd,
    read_only: bool,
}

impl File {
    /// How many bytes it has now.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn size(&self) -> Result<u64> {
        let stat = fs::fstat(&self.fd).map_err(|e| self.error("look at", e))?;
        Ok(allocate::length(&stat))
    }

    /// Which file it is, whatever path led to it: the numbers of its file system and of the file in
    /// it. Two that have the same are one, opened twice.
    ///
    /// # Errors
    /// Whatever the kernel says.
    #[allow(clippy::useless_conversion, reason = "their width differs by architecture")]
    pub fn identity(&self) -> Result<(u64, u64)> {
        let stat = fs::fstat(&self.fd).map_err(|e| self.error("look at", e))?;
        Ok((u64::from(stat.st_dev), u64::from(stat.st_ino)))
    }

    /// Whether it has no name any more, because it was removed or replaced: then nobody else finds
    /// it.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn is_unlinked(&self) -> Result<bool> {
        let stat = fs::fstat(&self.fd).map_err(|e| self.error("look at", e))?;
        Ok(stat.st_nlink == 0)
    }

    /// Maps all that it has now, shared, and writable if it is open for that.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if it is empty;
    /// [`LimitReached`](ErrorKind::LimitReached), the limit named.
    pub fn map(&self) -> Result<Mapping> {
        self.map_with(mapping::Options::new())
    }

    /// Maps all that it has now.
    ///
    /// # Errors
    /// As those of [`map`](Self::map).
    pub fn map_with(&self, options: mapping::Options) -> Result<Mapping> {
        pages::map_all(self.fd.as_fd(), self.allowed(options), MECHANISM)
    }

    /// Maps `len` bytes from `offset` on, which need not be at a page: for files that are longer than
    /// one wants to map.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if the file does not have them all; as those of
    /// [`map`](Self::map).
    pub fn window(&self, offset: u64, len: usize) -> Result<Mapping> {
        self.window_with(offset, len, mapping::Options::new())
    }

    /// Maps `len` bytes from `offset` on.
    ///
    /// # Errors
    /// As those of [`window`](Self::window).
    pub fn window_with(
        &self,
        offset: u64,
        len: usize,
        options: mapping::Options,
    ) -> Result<Mapping> {
        pages::map(self.fd.as_fd(), offset, Some(len), self.allowed(options), MECHANISM)
    }

    /// What is open for reading only cannot be mapped for writing, but privately.
    fn allowed(&self, options: mapping::Options) -> mapping::Options {
        if self.read_only && !options.private { options.read_only() } else { options }
    }

    /// Makes it `len` bytes long, with disk space for all of them, if it is shorter. Maps stay as long
    /// as they are: map again to see the rest.
    ///
    /// # Errors
    /// [`NoSpace`](ErrorKind::NoSpace), with the sizes; it is as long as before then, or longer in
    /// part.
    pub fn grow(&self, len: u64) -> Result<()> {
        let size = self.size()?;
        if len <= size {
            return Ok(());
        }
        allocate(self.fd.as_fd(), len, len - size)
    }

    /// Reads `buf.len()` bytes from `offset` on, by system calls: no SIGBUS whatever others do.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) if the file ends before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        pages::read_at(self.fd.as_fd(), offset, buf, MECHANISM)
    }

    /// Writes `data` from `offset` on, by system calls. The file grows if need be. Maps show it at
    /// once.
    ///
    /// # Errors
    /// [`NoSpace`](ErrorKind::NoSpace); [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        pages::write_at(self.fd.as_fd(), offset, data, MECHANISM)
    }

    /// Waits until the disk has what was written, by calls or through any map, and the length
    /// (fdatasync(2)).
    ///
    /// # Errors
    /// What the disk says.
    pub fn sync(&self) -> Result<()> {
        fs::fdatasync(&self.fd).map_err(|e| self.error("sync", e))
    }

    #[cold]
    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        Error::os(operation, errno).on(MECHANISM)
    }
}

impl AsFd for File {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<File> for OwnedFd {
    fn from(file: File) -> Self {
        file.fd
    }
}

/// Makes a file have space for its first `len` bytes, `more` of which it has none for yet.
fn allocate(fd: BorrowedFd<'_>, len: u64, more: u64) -> Result<()> {
    // What a disk has in memory of its files can be dropped, what a tmpfs has cannot.
    if allocate::is_memory(fd) {
        headroom::check(more, MECHANISM)?;
    }
    allocate::allocate(fd, len)
        .map_err(|errno| allocate::no_room(errno, MECHANISM, "a file".to_owned(), fd, len))
}

/// The folder and the name in it.
fn split(path: &Path) -> Option<(&Path, &OsStr)> {
    let name = path.file_name()?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    Some((folder.unwrap_or(Path::new(".")), name))
}

#[cold]
fn failed(operation: &'static str, errno: Errno, path: &Path) -> Error {
    let error = Error::os(operation, errno).on(MECHANISM).object(format!("{path:?}"));
    match errno {
        Errno::NXIO => error.of_kind(ErrorKind::Mismatch).because("it is a FIFO or a socket"),
        Errno::MFILE => error
            .because(format!("all descriptors are in use: {}", Limit::Nofile.stated()))
            .fix(Limit::Nofile.raise()),
        _ => error,
    }
}
