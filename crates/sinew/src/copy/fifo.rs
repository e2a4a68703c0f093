//! FIFOs: pipes with a name in the file system, for processes that are no relatives, and for shells.
//!
//! A [`Fifo`] is the name. [`reader`](Fifo::reader) and [`writer`](Fifo::writer) open an end of it,
//! by the verb `open` of [`Opens`]; what comes is an ordinary [`PipeReader`] or [`PipeWriter`], and
//! everything that [`pipe`](crate::pipe) says about them holds.
//!
//! ```
//! use sinew::fifo;
//! use sinew::wait::{Opens, Receives, Sends};
//!
//! # let folder = tempfile::tempdir().unwrap();
//! let jobs = fifo::Options::new().create(folder.path().join("jobs"))?;
//! std::thread::scope(|s| {
//!     // Each waits in `open` until the other is there.
//!     s.spawn(|| jobs.writer().open().unwrap().send(b"build").unwrap());
//!     let mut buf = [0; 16];
//!     assert_eq!(jobs.reader().open().unwrap().recv(&mut buf), Ok(5));
//! });
//! jobs.unlink()?;
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Who waits for whom
//! | form | reading end | writing end |
//! |---|---|---|
//! | `open` | until a writer is there | until a reader is there |
//! | `try_open` | open at once | [`WouldBlock`](ErrorKind::WouldBlock) without a reader |
//! | `open_timeout`, `open_until`, an `Interrupt` | as `open`, at most so long | as `open`, at most so long |
//!
//! A reading end from `try_open` that no writer has joined yet is at its end: `recv` gives
//! [`Closed`](crate::RecvError::Closed), not `Empty`, until the first writer comes, and again after
//! the last one has left. The kernel makes no difference between these.
//!
//! A bounded or interruptible `open` never sleeps in open(2), which nothing but a signal ends:
//! - The reading end is opened at once, without waiting, which lets a waiting writer go on just as
//!   a reader waiting in open(2) does. Then inotify reports each open of the FIFO, and tee(2) tells
//!   whether a writer has it, without taking a byte. That takes three more descriptors while it
//!   waits; without a free inotify instance it looks again every millisecond at the latest. A writer
//!   that came in the instant when the reader gave up finds the FIFO closed.
//! - The writing end is tried again after naps of 20 us growing to 1 ms: no event of the kernel tells
//!   that a reader waits in open(2). So it can be late by one millisecond, and costs a system call
//!   per nap.
//!
//! # Crashes and names
//! The name stays until [`Fifo::unlink`] or [`unlink`]; unread bytes are gone once nobody has the
//! FIFO open. Ends close with their process. From fifo(7), open(2), mkfifo(3), inotify(7).

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat, fcntl_setfl, fstat};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};

use crate::error::{Error, ErrorKind, Result, Stop};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{Opens, Wait, drive, drive_by_naps};

/// How a FIFO is made or found.
#[derive(Clone, Copy, Debug)]
#[must_use = "it makes nothing until `create`, `open` or `open_or_create`"]
pub struct Options {
    mode: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600.
    pub const fn new() -> Self {
        Self { mode: 0o600 }
    }

    /// The permission bits of a new FIFO: readers need the read bit, writers the write bit. The
    /// umask has no say.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Makes a new FIFO at `path`. Opens no end of it.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if anything has that name, even a symbolic link
    /// that leads nowhere; or what the file system says.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Fifo> {
        let path = path.as_ref();
        self.make(path).map_err(|errno| {
            let error = failure("create", path, errno);
            match errno {
                Errno::EXIST => error
                    .because("something has that name")
                    .fix("unlink it, or use `open` or `open_or_create`"),
                Errno::PERM => error.because("the file system has no FIFOs"),
                _ => error,
            }
        })?;
        Ok(Fifo { path: path.to_owned() })
    }

    /// Finds the FIFO at `path`. Opens no end of it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Mismatch`](ErrorKind::Mismatch) if it is no FIFO.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Fifo> {
        let path = path.as_ref();
        check_name(path, "open", AtFlags::empty())?;
        Ok(Fifo { path: path.to_owned() })
    }

    /// Finds the FIFO at `path`, or makes it.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, path: impl AsRef<Path>) -> Result<Fifo> {
        let path = path.as_ref();
        // Others may make and remove it in between; each round is progress of one of them.
        loop {
            match self.create(path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
            match self.open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if rustix::fs::readlink(path, Vec::new()).is_ok() {
                        return Err(error.because("a symbolic link that leads nowhere"));
                    }
                }
                done => return done,
            }
        }
    }

    fn make(&self, path: &Path) -> Result<(), Errno> {
        let bits = self.mode & 0o7777;
        let mode = Mode::from_raw_mode(bits);
        rustix::fs::mknodat(CWD, path, FileType::Fifo, mode, 0)?;
        // The umask may have taken bits away. What stands at the name now is looked at through one
        // descriptor, so that a change of the mode hits nothing else.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = match rustix::fs::open(path, flags, Mode::empty()) {
            // It was made, and somebody removed it again.
            Err(Errno::NOENT) => return Ok(()),
            made => made?,
        };
        let stat = fstat(&made)?;
        if is_fifo(&stat) && stat.st_mode & 0o7777 != bits {
            rustix::fs::chmod(format!("/proc/self/fd/{}", made.as_raw_fd()), mode)?;
        }
        Ok(())
    }
}

/// The name of a FIFO. It holds no descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fifo {
    path: PathBuf,
}

impl Fifo {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The reading end, to be opened.
    pub fn reader(&self) -> Reader<'_> {
        Reader(self)
    }

    /// The writing end, to be opened.
    pub fn writer(&self) -> Writer<'_> {
        Writer(self)
    }

    /// Removes the name. Open ends stay joined.
    ///
    /// # Errors
    /// As [`unlink`].
    pub fn unlink(&self) -> Result<()> {
        unlink(&self.path)
    }

    /// Opens one end and makes sure that it is one.
    fn open_end(&self, flags: OFlags) -> Result<OwnedFd, Errno> {
        let end = rustix::fs::open(&self.path, flags | OFlags::CLOEXEC, Mode::empty())?;
        // Something else may have taken the name since it was looked at.
        if is_fifo(&fstat(&end)?) { Ok(end) } else { Err(Errno::NOTSUP) }
    }

    fn failed(&self, operation: &'static str, stop: Stop) -> Error {
        match stop {
            Stop::Os(errno) => failure(operation, &self.path, Errno::from_raw_os_error(errno)),
            stop => stop.into_error(operation).on(Mechanism::Fifo).object(quoted(&self.path)),
        }
    }
}

/// Removes the FIFO at `path`. Open ends stay joined.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`Mismatch`](ErrorKind::Mismatch) if it is no FIFO (a symbolic
/// link to one neither), which then stays.
pub fn unlink(path: impl AsRef<Path>) -> Result<()> {
    let path = path.as_ref();
    check_name(path, "unlink", AtFlags::SYMLINK_NOFOLLOW)?;
    rustix::fs::unlink(path).map_err(|errno| failure("unlink", path, errno))
}

/// The reading end of a FIFO, not open yet. Made by [`Fifo::reader`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it opens nothing until `open`"]
pub struct Reader<'a>(&'a Fifo);

/// The writing end of a FIFO, not open yet. Made by [`Fifo::writer`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it opens nothing until `open`"]
pub struct Writer<'a>(&'a Fifo);

impl Opens for Reader<'_> {
    type Opened = PipeReader;

    fn open_wait(&self, wait: Wait<'_>) -> Result<PipeReader> {
        let fifo = self.0;
        let operation = "open the reading end";
        check_name(&fifo.path, operation, AtFlags::empty())?;
        let flags =
            if wait.is_unbounded() { OFlags::RDONLY } else { OFlags::RDONLY | OFlags::NONBLOCK };
        let end = loop {
            match fifo.open_end(flags) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failure(operation, &fifo.path, errno)),
                Ok(end) => break end,
            }
        };
        if !wait.is_unbounded() {
            if !wait.is_never() {
                await_writer(&end, wait).map_err(|stop| fifo.failed(operation, stop))?;
            }
            make_blocking(&end).map_err(|errno| failure(operation, &fifo.path, errno))?;
        }
        Ok(end.into())
    }
}

impl Opens for Writer<'_> {
    type Opened = PipeWriter;

    fn open_wait(&self, wait: Wait<'_>) -> Result<PipeWriter> {
        let fifo = self.0;
        let operation = "open the writing end";
        check_name(&fifo.path, operation, AtFlags::empty())?;
        let flags =
            if wait.is_unbounded() { OFlags::WRONLY } else { OFlags::WRONLY | OFlags::NONBLOCK };
        let end = drive_by_naps(wait, |_| match fifo.open_end(flags) {
            // Nobody reads it yet.
            Err(Errno::NXIO) => Err(Errno::AGAIN),
            done => done,
        })
        .map_err(|stop| match stop {
            Stop::WouldBlock | Stop::TimedOut => {
                fifo.failed(operation, stop).because("no process has it open for reading")
            }
            stop => fifo.failed(operation, stop),
        })?;
        if !wait.is_unbounded() {
            make_blocking(&end).map_err(|errno| failure(operation, &fifo.path, errno))?;
        }
        Ok(end.into())
    }
}

/// Takes O_NONBLOCK off a description that nobody else has yet.
fn make_blocking(end: &OwnedFd) -> Result<(), Errno> {
    fcntl_setfl(end, OFlags::empty())
}

/// Waits until a writer has the FIFO open, or had it since `end` was opened.
fn await_writer(end: &OwnedFd, wait: Wait<'_>) -> Result<(), Stop> {
    let (_copy, copy_in) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|errno| Stop::Os(errno.raw_os_error()))?;
    let look = || match has_writer(end, &copy_in) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Errno::AGAIN),
        Err(errno) => Err(errno),
    };
    match watch_opens(end) {
        // The watch stands before the first look: whoever comes later makes an event.
        Ok(watch) => drive(watch.as_fd(), PollFlags::IN, wait, |_| {
            // Which events there were does not matter, only that a later one wakes again.
            match rustix::io::read(&watch, &mut [0_u8; 4096]) {
                Ok(_) | Err(Errno::AGAIN) => look(),
                Err(errno) => Err(errno),
            }
        }),
        Err(_) => drive_by_naps(wait, |_| look()),
    }
}

/// Reports every open of the very FIFO that `end` is of, whatever has its name by now. The event
/// comes after the opener is counted.
fn watch_opens(end: &OwnedFd) -> Result<OwnedFd, Errno> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, format!("/proc/self/fd/{}", end.as_raw_fd()), WatchFlags::OPEN)?;
    Ok(watch)
}

/// Whether there is a writer, or bytes of one, or was one since `end` was opened.
fn has_writer(end: &OwnedFd, copy_in: &OwnedFd) -> Result<bool, Errno> {
    // Bytes; or a hang-up, which only a writer that came and went leaves.
    let left_something = || {
        let mut one = [PollFd::new(end, PollFlags::IN)];
        poll(&mut one, Some(&Timespec::default())).map(|ready| ready > 0)
    };
    if left_something()? {
        return Ok(true);
    }
    match tee(end, copy_in, 1, SpliceFlags::NONBLOCK) {
        // Without bytes: the end where nobody writes, EAGAIN where somebody does. A writer that was
        // there at the first look may have gone by this one, and then it left a hang-up.
        Ok(0) => left_something(),
        Ok(_) | Err(Errno::AGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

fn is_fifo(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Fifo
}

/// Refuses what is no FIFO before it is opened: opening a device may act on it.
fn check_name(path: &Path, operation: &'static str, flags: AtFlags) -> Result<()> {
    match rustix::fs::statat(CWD, path, flags) {
        Ok(stat) if is_fifo(&stat) => Ok(()),
        Ok(_) => Err(failure(operation, path, Errno::NOTSUP)),
        Err(errno) => Err(failure(operation, path, errno)),
    }
}

fn quoted(path: &Path) -> String {
    format!("{path:?}")
}

/// What a failed call means here. ENOTSUP is our own word for what is no FIFO.
fn failure(operation: &'static str, path: &Path, errno: Errno) -> Error {
    if errno == Errno::NOTSUP {
        return Error::new(ErrorKind::Mismatch, operation)
            .on(Mechanism::Fifo)
            .object(quoted(path))
            .because("what has that name is no FIFO");
    }
    let error = Error::os(operation, errno).on(Mechanism::Fifo).object(quoted(path));
    match errno {
        Errno::MFILE => error
            .because(format!("this process has used up {}", Limit::Nofile.stated()))
            .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
        _ => error,
    }
}
