//! POSIX shared memory: segments under a name, which any program of the host can open.
//!
//! ```
//! use sinew::posix_shm;
//!
//! let name = format!("/sinew-example-{}", std::process::id());
//! let segment = posix_shm::Options::new().create(&name, 4096)?.unlink_on_drop();
//! let map = segment.map()?;
//!
//! // Another process:
//! let theirs = posix_shm::Options::new().open(&name)?.map()?;
//! map.write_at(0, b"hello")?;
//! let mut five = [0; 5];
//! theirs.read_at(0, &mut five)?;
//! assert_eq!(&five, b"hello");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! A segment is a file in `/dev/shm`, where shm_open(3) of C programs finds it too. It lives until
//! somebody [unlinks](unlink) its name and the last descriptor and map of it are gone, or the host
//! goes down; the end of a process does not remove it. Between processes that know each other a
//! [`memfd`](crate::memfd) is better: no name to guess, to collide or to be left behind.
//!
//! # No half-made segment
//! A name appears when its segment is complete: of full size, zeroed, and with memory for all of it.
//! So no opener finds one of zero bytes, and none can meet a SIGBUS because /dev/shm is full; nor is
//! there anything to clean up after a creator that was killed (but a file `.sinew-*`, where the file
//! system has no O_TMPFILE). Programs that use shm_open(3) and ftruncate(2) do it in two steps: what
//! they have not sized yet [`Options::open`] refuses.
//!
//! # Trust
//! Whoever may write to a segment can also shorten it, and so end by SIGBUS whoever has it mapped.
//! The mode, 0600 unless changed, says who that is.
//!
//! # Names that vanish
//! `rm`, another program, or a service manager at the user's log-out (RemoveIPC= of logind.conf(5))
//! may remove the name. Maps and descriptors go on working; [`Segment::is_unlinked`] tells.
//!
//! Source: shm_overview(7), shm_open(3), tmpfs(5).

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::allocate::{self, Draft};
use super::{headroom, pages};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mapping::{self, Mapping};
use crate::mechanism::Mechanism;

const MECHANISM: Mechanism = Mechanism::PosixShm;
/// Where the C library has them too.
const FOLDER: &str = "/dev/shm";
/// The longest name, its slash not counted.
const LONGEST_NAME: usize = 255;

/// How to create or open a segment.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    mode: u32,
    read_only: bool,
    sparse: bool,
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
        Self { mode: 0o600, read_only: false, sparse: false }
    }

    /// The permission bits of a new segment. The umask has no say.
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

    /// Gives no memory to the holes of a segment that another program has made, when it is opened
    /// for writing. Then a write to a hole ends the process by SIGBUS when /dev/shm is full.
    #[must_use]
    pub const fn sparse(mut self) -> Self {
        self.sparse = true;
        self
    }

    /// Creates a segment of `len` zeroed bytes under a name that must be free: a slash and 1 to 255
    /// bytes without one. All its memory is there before the name is.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`NoSpace`](ErrorKind::NoSpace) or
    /// [`LimitReached`](ErrorKind::LimitReached), with the sizes;
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name that cannot be, and for no bytes.
    pub fn create(&self, name: impl AsRef<OsStr>, len: u64) -> Result<Segment> {
        self.draft(name.as_ref(), len)?.publish()
    }

    /// Makes such a segment, for somebody to fill before it gets its name.
    pub(crate) fn draft(&self, name: &OsStr, len: u64) -> Result<Unnamed> {
        file_name(name, "create")?;
        if len == 0 {
            return Err(failed("create", Errno::INVAL, name).because("a segment has a size"));
        }
        headroom::check(len, MECHANISM)?;
        let mode = Mode::from_raw_mode(self.mode & 0o777);
        let draft = Draft::new(Path::new(FOLDER), mode);
        let draft = draft.map_err(|e| failed("create", e, name))?;
        allocate::allocate(draft.fd(), len).map_err(|errno| {
            allocate::no_room(errno, MECHANISM, format!("{name:?}"), draft.fd(), len)
        })?;
        Ok(Unnamed { draft, name: name.to_owned() })
    }

    /// Opens the segment that has this name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied);
    /// [`Mismatch`](ErrorKind::Mismatch) if it has no size yet, or is no segment;
    /// [`NoSpace`](ErrorKind::NoSpace) if there is no memory for its holes.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<Segment> {
        let name = name.as_ref();
        let file = file_name(name, "open")?;
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        // Non-blocking, because a FIFO that somebody put there would wait for its other end.
        let flags = access | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = fs::openat(CWD, Path::new(FOLDER).join(file), flags, Mode::empty());
        let fd = fd.map_err(|e| failed("open", e, name))?;
        let mismatch = |why: &str| {
            let error = Error::new(ErrorKind::Mismatch, "open").on(MECHANISM);
            error.object(format!("{name:?}")).because(why.to_owned())
        };
        let stat = fs::fstat(&fd).map_err(|e| failed("open", e, name))?;
        if let Some(what) = allocate::irregular(&stat) {
            return Err(mismatch(&format!("it is {what}")));
        }
        let len = allocate::length(&stat);
        if len == 0 {
            return Err(mismatch("it has no size: its creator has not come so far, or has died")
                .fix("try again, or unlink it"));
        }
        if !self.read_only && !self.sparse && allocate::has_holes(&stat) {
            headroom::check(len, MECHANISM)?;
            allocate::allocate(fd.as_fd(), len).map_err(|errno| {
                allocate::no_room(errno, MECHANISM, format!("{name:?}"), fd.as_fd(), len)
            })?;
        }
        Ok(Segment { fd, name: name.to_owned(), read_only: self.read_only })
    }

    /// Opens the segment that has this name, or creates it. One that exists keeps its mode and size,
    /// which has to be at least `len`.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open);
    /// [`Mismatch`](ErrorKind::Mismatch) if it is shorter.
    pub fn open_or_create(&self, name: impl AsRef<OsStr>, len: u64) -> Result<Segment> {
        let name = name.as_ref();
        loop {
            match self.open(name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(e),
                Ok(segment) => {
                    let size = segment.size()?;
                    if size < len {
                        return Err(Error::new(ErrorKind::Mismatch, "open")
                            .on(MECHANISM)
                            .object(format!("{name:?}"))
                            .because(format!("it has {size} bytes, not {len}")));
                    }
                    return Ok(segment);
                }
            }
            match self.create(name, len) {
                // Somebody else was faster, so it can be opened now.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
    }
}

/// A whole segment that has no name yet. Dropped it is gone.
pub(crate) struct Unnamed {
    draft: Draft,
    name: OsString,
}

impl Unnamed {
    /// Maps all of it.
    pub(crate) fn map(&self) -> Result<Mapping> {
        pages::map_all(self.draft.fd(), mapping::Options::new(), MECHANISM)
    }

    /// Gives it its name, in one step.
    pub(crate) fn publish(self) -> Result<Segment> {
        let Self { draft, name } = self;
        let file = file_name(&name, "create")?;
        let fd = draft.publish(file).map_err(|e| failed("create", e, &name))?;
        Ok(Segment { fd, name, read_only: false })
    }
}

/// Removes a name. The segment lives on for those who have it open or mapped.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied).
pub fn unlink(name: impl AsRef<OsStr>) -> Result<()> {
    let name = name.as_ref();
    let file = file_name(name, "unlink")?;
    let done = fs::unlinkat(CWD, Path::new(FOLDER).join(file), AtFlags::empty());
    done.map_err(|e| failed("unlink", e, name))
}

/// A segment that is open. Dropping it closes it and removes nothing.
#[derive(Debug)]
pub struct Segment {
    fd: OwnedFd,
    name: OsString,
    read_only: bool,
}

impl Segment {
    /// The name under which it was created or opened.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// How many bytes it has now, as the kernel says.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn size(&self) -> Result<u64> {
        let stat = fs::fstat(&self.fd).map_err(|e| failed("look at", e, &self.name))?;
        Ok(allocate::length(&stat))
    }

    /// Whether its name was removed, by whomever: then nobody can open it any more. A segment that
    /// was made anew under the name is another one.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn is_unlinked(&self) -> Result<bool> {
        let stat = fs::fstat(&self.fd).map_err(|e| failed("look at", e, &self.name))?;
        Ok(stat.st_nlink == 0)
    }

    /// Maps all of it, shared, and writable if it is open for that.
    ///
    /// # Errors
    /// [`LimitReached`](ErrorKind::LimitReached), the limit named.
    pub fn map(&self) -> Result<Mapping> {
        self.map_with(mapping::Options::new())
    }

    /// Maps all of it. What is open for reading only is mapped so.
    ///
    /// # Errors
    /// As those of [`map`](Self::map).
    pub fn map_with(&self, options: mapping::Options) -> Result<Mapping> {
        let read_only = self.read_only && !options.private;
        let options = if read_only { options.read_only() } else { options };
        pages::map_all(self.fd.as_fd(), options, MECHANISM)
    }

    /// Removes its name, if the name is still this segment's. (Between that look and the removal
    /// somebody could put another one there: names that are contended need a lock of their users.)
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the name is gone or another segment's.
    pub fn unlink(&self) -> Result<()> {
        let path = Path::new(FOLDER).join(file_name(&self.name, "unlink")?);
        let own = fs::fstat(&self.fd).map_err(|e| failed("unlink", e, &self.name))?;
        let there = fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("unlink", e, &self.name))?;
        if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) {
            return Err(failed("unlink", Errno::NOENT, &self.name)
                .because("the name is another segment's now"));
        }
        unlink(&self.name)
    }

    /// Makes a guard that removes the name when it is dropped. A process that is killed drops
    /// nothing, and a forked child that drops its copy removes the name for both.
    #[must_use]
    pub const fn unlink_on_drop(self) -> Owned {
        Owned { segment: self }
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Segment> for OwnedFd {
    fn from(segment: Segment) -> Self {
        segment.fd
    }
}

/// A segment whose name is removed when this is dropped. Made by [`Segment::unlink_on_drop`].
#[derive(Debug)]
pub struct Owned {
    segment: Segment,
}

impl Deref for Owned {
    type Target = Segment;

    fn deref(&self) -> &Segment {
        &self.segment
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may be removed already; nobody is there to be told.
        let _ = self.segment.unlink();
    }
}

/// The name of the file, without the slash.
fn file_name<'a>(name: &'a OsStr, operation: &'static str) -> Result<&'a OsStr> {
    let wrong = |why: String| {
        let error = Error::new(ErrorKind::InvalidInput, operation).on(MECHANISM);
        Err(error.object(format!("{name:?}")).because(why))
    };
    let Some(file) = name.as_bytes().strip_prefix(b"/") else {
        return wrong("the name of a segment begins with a slash".to_owned());
    };
    if file.is_empty() {
        return wrong("the name of a segment goes on after its slash".to_owned());
    }
    if file.contains(&b'/') || file == b"." || file == b".." {
        return wrong(
            "the name of a segment has one slash, at its beginning, and is no dot".into(),
        );
    }
    if file.contains(&0) {
        return wrong("a name has no NUL".to_owned());
    }
    if file.len() > LONGEST_NAME {
        return wrong(format!(
            "it has {} bytes after the slash, of at most {LONGEST_NAME}",
            file.len()
        ));
    }
    Ok(OsStr::from_bytes(file))
}

#[cold]
fn failed(operation: &'static str, errno: Errno, name: &OsStr) -> Error {
    let error = Error::os(operation, errno).on(MECHANISM).object(format!("{name:?}"));
    match errno {
        Errno::NOENT if !Path::new(FOLDER).is_dir() => error
            .of_kind(ErrorKind::Unsupported)
            .because("there is no /dev/shm")
            .fix("`mount -t tmpfs tmpfs /dev/shm`"),
        Errno::LOOP => error.of_kind(ErrorKind::Mismatch).because("it is a symbolic link"),
        Errno::NXIO => error.of_kind(ErrorKind::Mismatch).because("it is a FIFO or a socket"),
        Errno::PERM if operation == "unlink" => {
            error.because("/dev/shm is sticky: only the owner of a segment removes its name")
        }
        Errno::MFILE => error
            .because(format!("all descriptors are in use: {}", Limit::Nofile.stated()))
            .fix(Limit::Nofile.raise()),
        _ => error,
    }
}
