//! POSIX semaphores: a counter that processes decrement, waiting at zero, and increment.
//!
//! In the layout of glibc, so that a program in C, Python or Java opens the same one: by name
//! (`sem_open`), or in shared memory (`sem_init` with `pshared`).
//!
//! ```
//! use sinew::posix_sem;
//! use sinew::wait::Waits;
//!
//! let name = format!("/sinew-example-{}", std::process::id());
//! let jobs = posix_sem::Options::new().create(&name)?.unlink_on_drop();
//!
//! // Another process:
//! let theirs = posix_sem::Options::new().open(&name)?;
//! theirs.post().unwrap();
//!
//! jobs.wait().unwrap();
//! assert_eq!(jobs.try_wait(), Err(sinew::WaitError::WouldBlock));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! In memory that both have mapped:
//!
//! ```
//! use sinew::{memfd, posix_sem};
//! use sinew::wait::Waits;
//!
//! let memory = memfd::Options::new().create("example", 4096)?.map()?;
//! let turns = posix_sem::Options::new().value(2).create_at(&memory, 64)?;
//! turns.wait().unwrap();
//! assert_eq!(posix_sem::Options::new().open_at(&memory, 64)?.value(), 1);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Cost
//! While the value is above zero, taking and posting make no system call: a few instructions each, one
//! of them atomic. Who finds zero sleeps in the kernel; who posts then makes one system call.
//!
//! # When a process dies
//! At any instruction: the value is as it left it. What a dead process took it never gives back, and
//! nobody is told: a semaphore has no owner. Where that matters use [`sysv_sem`](crate::sysv_sem) with
//! undo. A waiter that is killed stays counted among those who sleep, so that each post makes a
//! system call it need not make; nothing else comes of that. If it was killed after it was woken, the
//! token is for the next who asks, and one who sleeps finds it within about a second, earlier if
//! somebody posts.
//! A creator that is killed leaves the complete semaphore or no name at all (but a file `.sinew-*`
//! where /dev/shm has no O_TMPFILE).
//!
//! # Trust
//! Whoever may write to a semaphore can set it to any value; nonsense is reported as corrupt, and no wait
//! exceeds its deadline by it. He can also shorten the file of a name, which ends by SIGBUS whoever uses
//! it then. The mode, 0600 unless changed, says who that is.
//!
//! # Which C libraries
//! glibc 2.21 and later in 64-bit programs. The semaphores of musl and of 32-bit programs look
//! otherwise; they are refused where they can be told.
//!
//! Source: sem_overview(7), sem_open(3), sem_wait(3), sem_post(3); nptl/sem_waitcommon.c of glibc.

#![allow(unsafe_code, reason = "the words of a map, without checking at each use that it has them")]

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::{self, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::limits::Limit;
use crate::mapping::{self, Mapping};
use crate::mechanism::Mechanism;
use crate::share::allocate::{self, Draft};
use crate::share::pages;
use crate::wait::{Wait, Waits, word};

mod core;

use self::core::{Count, Refused};

const MECHANISM: Mechanism = Mechanism::PosixSem;
/// Where the C library has them too.
const FOLDER: &str = "/dev/shm";
/// What it puts before a name.
const PREFIX: &[u8] = b"sem.";
/// The longest name, without its slashes: with the prefix it is a file name.
const LONGEST_NAME: usize = 255 - PREFIX.len();

/// How many bytes a semaphore has, and at which multiple it may lie.
const SIZE: usize = 32;
const ALIGNMENT: usize = 8;
/// Where the word says for whom it is, and what it says where that is every process.
const KIND: usize = 8;
const SHARED: u32 = 0x80;

/// The largest value.
pub const MAX: u32 = core::MAX;

/// How often one who sleeps behind another looks again without having been woken.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How to create or open a semaphore.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    mode: u32,
    value: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600, and the value zero.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: 0o600, value: 0 }
    }

    /// The permission bits of a new name: who may open it needs to read and to write. The umask has no
    /// say.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The value of a new semaphore, at most [`MAX`].
    #[must_use]
    pub const fn value(mut self, value: u32) -> Self {
        self.value = value;
        self
    }

    /// Creates a semaphore under a name that must be free: 1 to 251 bytes without a slash, but as many as
    /// you like at the beginning, where they do not count. The name appears when the semaphore is
    /// complete.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`NoSpace`](ErrorKind::NoSpace), with the sizes;
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name or a value that cannot be.
    pub fn create(&self, name: impl AsRef<OsStr>) -> Result<Semaphore> {
        let name = name.as_ref();
        let file = file_name(name, "create")?;
        self.check_value().map_err(|e| e.object(format!("{name:?}")))?;
        let mode = Mode::from_raw_mode(self.mode & 0o777);
        let draft = Draft::new(Path::new(FOLDER), mode);
        let draft = draft.map_err(|e| failed("create", e, name))?;
        allocate::allocate(draft.fd(), SIZE as u64).map_err(|errno| {
            allocate::no_room(errno, MECHANISM, format!("{name:?}"), draft.fd(), SIZE as u64)
        })?;
        let mut bytes = [0; SIZE];
        bytes[..4].copy_from_slice(&self.value.to_ne_bytes());
        bytes[KIND..KIND + 4].copy_from_slice(&SHARED.to_ne_bytes());
        pages::write_at(draft.fd(), 0, &bytes, MECHANISM)?;
        let map = map(draft.fd()).map_err(|e| e.object(format!("{name:?}")))?;
        let fd = draft.publish(&file).map_err(|e| failed("create", e, name))?;
        Ok(Semaphore { map, fd, name: name.to_owned() })
    }

    /// Opens the semaphore that has this name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied);
    /// [`Mismatch`](ErrorKind::Mismatch) if it is no semaphore of 64-bit glibc.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<Semaphore> {
        let name = name.as_ref();
        let file = file_name(name, "open")?;
        // Non-blocking, because a FIFO that somebody put there would wait for its other end.
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let fd = fs::openat(CWD, Path::new(FOLDER).join(file), flags, Mode::empty());
        let fd = fd.map_err(|e| failed("open", e, name))?;
        take(fd, name)
    }

    /// Opens the semaphore that has this name, or creates it. One that exists keeps its mode and value.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, name: impl AsRef<OsStr>) -> Result<Semaphore> {
        let name = name.as_ref();
        self.check_value().map_err(|e| e.object(format!("{name:?}")))?;
        loop {
            match self.open(name) {
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                done => return done,
            }
            match self.create(name) {
                // Somebody else was faster, so it can be opened now.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
    }

    /// Makes the 32 bytes at `offset` of shared memory a semaphore, whatever they were. Nobody may use
    /// them meanwhile: that it is complete, others have to be told. What C programs destroy by
    /// `sem_destroy` holds nothing; the bytes may be used for something else when nobody waits.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) if they are not all in the map or not at a multiple of
    /// eight, if the map is private, or for a value that cannot be;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) if it is read-only.
    pub fn create_at<'m>(&self, memory: &'m Mapping, offset: usize) -> Result<Unnamed<'m>> {
        self.check_value()?;
        let (semaphore, kind) = Unnamed::at(memory, offset, "create")?;
        semaphore.word.store(u64::from(self.value), Ordering::Relaxed);
        // Pairs with the load in `open_at`.
        kind.store(SHARED, Ordering::Release);
        Ok(semaphore)
    }

    /// The semaphore at `offset` of shared memory, which [`create_at`](Self::create_at) or the
    /// `sem_init` of a C program made there.
    ///
    /// # Errors
    /// As those of [`create_at`](Self::create_at); [`Mismatch`](ErrorKind::Mismatch) if no semaphore
    /// that processes share is there.
    pub fn open_at<'m>(&self, memory: &'m Mapping, offset: usize) -> Result<Unnamed<'m>> {
        let (semaphore, kind) = Unnamed::at(memory, offset, "open")?;
        let kind = kind.load(Ordering::Acquire);
        let word = semaphore.word.load(Ordering::Relaxed);
        check(word, kind).map_err(|e| e.object(format!("32 bytes at {offset}")))?;
        Ok(semaphore)
    }

    fn check_value(&self) -> Result<()> {
        if self.value <= MAX {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "create")
            .on(MECHANISM)
            .because(format!("the value {} is more than {MAX}", self.value)))
    }
}

/// Removes a name. The semaphore lives on for those who have it open.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied).
pub fn unlink(name: impl AsRef<OsStr>) -> Result<()> {
    let name = name.as_ref();
    let file = file_name(name, "unlink")?;
    let done = fs::unlinkat(CWD, Path::new(FOLDER).join(file), AtFlags::empty());
    done.map_err(|e| failed("unlink", e, name))
}

/// A semaphore with a name, open. Dropping it closes it and removes nothing.
///
/// Taking a token is [`Waits`]: [`wait`](Waits::wait), [`try_wait`](Waits::try_wait),
/// [`wait_timeout`](Waits::wait_timeout), [`wait_until`](Waits::wait_until). Any thread of any process
/// may take and post.
#[derive(Debug)]
pub struct Semaphore {
    map: Mapping,
    fd: OwnedFd,
    name: OsString,
}

impl Semaphore {
    /// The name under which it was created or opened; none if it came as a descriptor.
    #[must_use]
    pub fn name(&self) -> &OsStr {
        &self.name
    }

    /// Adds one, and wakes one who waits. Never waits.
    ///
    /// # Errors
    /// See [`PostError`].
    #[inline]
    pub fn post(&self) -> Result<(), PostError> {
        self.here().post()
    }

    /// Adds `count` in one step, and wakes as many who wait.
    ///
    /// # Errors
    /// See [`PostError`]; then nothing was added.
    #[inline]
    pub fn post_many(&self, count: u32) -> Result<(), PostError> {
        self.here().post_many(count)
    }

    /// The value now; it may be another one when you look at it.
    #[must_use]
    pub fn value(&self) -> u32 {
        self.here().value()
    }

    /// How many say that they wait: those who do, and those who were killed while they did.
    #[must_use]
    pub fn waiters(&self) -> u32 {
        self.here().waiters()
    }

    /// Whether its name was removed, by whomever: then nobody can open it any more.
    ///
    /// # Errors
    /// Whatever the kernel says.
    pub fn is_unlinked(&self) -> Result<bool> {
        let stat = fs::fstat(&self.fd).map_err(|e| failed("look at", e, &self.name))?;
        Ok(stat.st_nlink == 0)
    }

    /// Removes its name, if the name is still this semaphore's. (Between that look and the removal
    /// somebody could put another one there: names that are contended need a lock of their users.)
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the name is gone or another semaphore's.
    pub fn unlink(&self) -> Result<()> {
        let path = Path::new(FOLDER).join(file_name(&self.name, "unlink")?);
        let error = |errno| failed("unlink", errno, &self.name);
        let own = fs::fstat(&self.fd).map_err(error)?;
        let there = fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW).map_err(error)?;
        if (own.st_dev, own.st_ino) != (there.st_dev, there.st_ino) {
            return Err(error(Errno::NOENT).because("the name is another semaphore's now"));
        }
        unlink(&self.name)
    }

    /// Makes a guard that removes the name when it is dropped. A process that is killed drops
    /// nothing, and a forked child that drops its copy removes the name for both.
    #[must_use]
    pub const fn unlink_on_drop(self) -> Owned {
        Owned { semaphore: self }
    }

    /// Without the checks of [`Mapping::atomic_u64_at`], which would cost as much as the rest.
    #[inline]
    #[allow(clippy::cast_ptr_alignment, reason = "the start of a page")]
    fn here(&self) -> Unnamed<'_> {
        let first = self.map.as_mut_ptr();
        // SAFETY: `create` and `take` made the map of at least 32 bytes, from a page boundary on and
        // for writing, and checked that; it lives as long as `self`. Every bit pattern is a number.
        let word = unsafe { AtomicU64::from_ptr(first.cast()) };
        // SAFETY: the low half of the same word.
        let value = unsafe { AtomicU32::from_ptr(first.cast()) };
        Unnamed { word, value }
    }
}

impl Waits for Semaphore {
    type Waited = ();

    /// Takes one, waiting while there is none.
    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        self.here().wait_for(wait)
    }
}

impl AsFd for Semaphore {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Semaphore> for OwnedFd {
    fn from(semaphore: Semaphore) -> Self {
        semaphore.fd
    }
}

impl TryFrom<OwnedFd> for Semaphore {
    type Error = Error;

    /// The semaphore behind a descriptor that another process has sent. It must be open for reading
    /// and writing.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        take(fd, OsStr::new(""))
    }
}

/// A semaphore whose name is removed when this is dropped. Made by [`Semaphore::unlink_on_drop`].
#[derive(Debug)]
pub struct Owned {
    semaphore: Semaphore,
}

impl Deref for Owned {
    type Target = Semaphore;

    fn deref(&self) -> &Semaphore {
        &self.semaphore
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // It may be removed already; nobody is there to be told.
        let _ = self.semaphore.unlink();
    }
}

/// A semaphore in shared memory. A copy is the same semaphore.
///
/// As [`Semaphore`], without a name.
#[derive(Clone, Copy, Debug)]
pub struct Unnamed<'m> {
    word: &'m AtomicU64,
    /// The low half of it, on which waiters sleep.
    value: &'m AtomicU32,
}

impl<'m> Unnamed<'m> {
    /// Adds one, and wakes one who waits. Never waits.
    ///
    /// # Errors
    /// See [`PostError`].
    #[inline]
    pub fn post(&self) -> Result<(), PostError> {
        self.post_many(1)
    }

    /// Adds `count` in one step, and wakes as many who wait.
    ///
    /// # Errors
    /// See [`PostError`]; then nothing was added.
    #[inline]
    pub fn post_many(&self, count: u32) -> Result<(), PostError> {
        core::post(self, count).map_err(|refused| match refused {
            Refused::Overflow => PostError::Overflow,
            Refused::Corrupt => PostError::Corrupt,
        })
    }

    /// The value now; it may be another one when you look at it.
    #[must_use]
    pub fn value(&self) -> u32 {
        core::value_of(self.load())
    }

    /// How many say that they wait: those who do, and those who were killed while they did.
    #[must_use]
    pub fn waiters(&self) -> u32 {
        core::waiters_of(self.load())
    }

    /// The place of a semaphore, and the word that says for whom it is.
    fn at(
        memory: &'m Mapping,
        offset: usize,
        operation: &'static str,
    ) -> Result<(Self, &'m AtomicU32)> {
        let error = |kind, why: String| {
            let error = Error::new(kind, operation).on(MECHANISM);
            Err(error.object(format!("32 bytes at {offset}")).because(why))
        };
        if !memory.is_writable() {
            return error(ErrorKind::PermissionDenied, "the map is read-only".into());
        }
        if !memory.is_shared() {
            return error(ErrorKind::InvalidInput, "the map is private: no other sees it".into());
        }
        if offset.checked_add(SIZE).is_none_or(|end| end > memory.len()) {
            return error(ErrorKind::InvalidInput, format!("the map has {} bytes", memory.len()));
        }
        let words = (
            memory.atomic_u64_at(offset),
            memory.atomic_u32_at(offset),
            memory.atomic_u32_at(offset + KIND),
        );
        match words {
            (Some(word), Some(value), Some(kind)) => Ok((Self { word, value }, kind)),
            _ => error(ErrorKind::InvalidInput, format!("it lies at a multiple of {ALIGNMENT}")),
        }
    }

    #[cold]
    #[inline(never)]
    fn sleep_for_one(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        core::take(self, |alone| {
            // Who is the only one is woken, or there is nobody who could have been in its place.
            let wait = if alone { wait } else { wait.at_most(LOOK_AGAIN) };
            word::sleep(self.value, 0, wait).map_err(WaitError::from)
        })
    }
}

impl Waits for Unnamed<'_> {
    type Waited = ();

    /// Takes one, waiting while there is none.
    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        wait.check_interrupt()?;
        match core::try_take(self) {
            Ok(true) => Ok(()),
            Ok(false) if wait.is_never() => Err(WaitError::WouldBlock),
            Ok(false) => self.sleep_for_one(wait),
            Err(_) => Err(WaitError::Corrupt),
        }
    }
}

impl Count for Unnamed<'_> {
    #[inline]
    fn load(&self) -> u64 {
        self.word.load(Ordering::Relaxed)
    }

    #[inline]
    fn exchange(&self, old: u64, new: u64, order: Ordering) -> Result<u64, u64> {
        self.word.compare_exchange_weak(old, new, order, Ordering::Relaxed)
    }

    fn add(&self, n: u64) -> u64 {
        self.word.fetch_add(n, Ordering::Relaxed)
    }

    fn sub(&self, n: u64) -> u64 {
        self.word.fetch_sub(n, Ordering::Relaxed)
    }

    fn wake(&self, count: u32) {
        // It can fail only for a page that is gone, and then nobody sleeps there.
        let _ = word::wake(self.value, count);
    }
}

/// Why nothing was posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError {
    /// The value would be more than [`MAX`] (EOVERFLOW).
    Overflow,
    /// The memory holds what no honest process writes there.
    Corrupt,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overflow => write!(f, "the value would be more than {MAX}"),
            Self::Corrupt => f.write_str("the shared memory holds nonsense"),
        }
    }
}

impl std::error::Error for PostError {}

impl From<PostError> for io::Error {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Overflow => Self::from_raw_os_error(Errno::OVERFLOW.raw_os_error()),
            PostError::Corrupt => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}

/// Takes what is open, if it is a semaphore. It is read first, because a touch of a map would end the
/// process by SIGBUS if the file is shorter than it should be.
fn take(fd: OwnedFd, name: &OsStr) -> Result<Semaphore> {
    let mismatch = |why: String| {
        let error = Error::new(ErrorKind::Mismatch, "open").on(MECHANISM);
        error.object(format!("{name:?}")).because(why)
    };
    let stat = fs::fstat(&fd).map_err(|e| failed("open", e, name))?;
    if let Some(what) = allocate::irregular(&stat) {
        return Err(mismatch(format!("it is {what}")));
    }
    let len = allocate::length(&stat);
    if len != SIZE as u64 {
        return Err(mismatch(format!("it has {len} bytes, and a semaphore has {SIZE}")));
    }
    let mut bytes = [0; SIZE];
    pages::read_at(fd.as_fd(), 0, &mut bytes, MECHANISM)
        .map_err(|e| e.object(format!("{name:?}")).of_kind(ErrorKind::Mismatch))?;
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = bytes;
    let word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    check(word, u32::from_ne_bytes([i, j, k, l])).map_err(|e| e.object(format!("{name:?}")))?;
    let map = map(fd.as_fd()).map_err(|e| e.object(format!("{name:?}")))?;
    Ok(Semaphore { map, fd, name: name.to_owned() })
}

/// Maps a semaphore: 32 bytes, from a page boundary on.
fn map(fd: BorrowedFd<'_>) -> Result<Mapping> {
    pages::map(fd, 0, Some(SIZE), mapping::Options::new(), MECHANISM).map_err(|e| {
        if e.kind() == ErrorKind::InvalidInput { e.of_kind(ErrorKind::Mismatch) } else { e }
    })
}

/// Whether these words are of a semaphore that processes share.
fn check(word: u64, kind: u32) -> Result<()> {
    let mismatch =
        |why: &'static str| Err(Error::new(ErrorKind::Mismatch, "open").on(MECHANISM).because(why));
    match kind {
        SHARED if core::value_of(word) <= MAX => Ok(()),
        SHARED => mismatch("its value is not one of a semaphore"),
        0 => mismatch(
            "it is no semaphore, or one for the threads of a single process (sem_init without \
             pshared), or one of another C library than glibc",
        ),
        _ => mismatch("it is no semaphore"),
    }
}

/// The name of the file.
fn file_name(name: &OsStr, operation: &'static str) -> Result<OsString> {
    let wrong = |why: String| {
        let error = Error::new(ErrorKind::InvalidInput, operation).on(MECHANISM);
        Err(error.object(format!("{name:?}")).because(why))
    };
    let bytes = name.as_bytes();
    let slashes = bytes.iter().take_while(|byte| **byte == b'/').count();
    let rest = &bytes[slashes..];
    if rest.is_empty() {
        return wrong("a semaphore has a name".into());
    }
    if rest.contains(&b'/') {
        return wrong("the name of a semaphore has slashes only at its beginning".into());
    }
    if rest.contains(&0) {
        return wrong("a name has no NUL".into());
    }
    if rest.len() > LONGEST_NAME {
        return wrong(format!(
            "it has {} bytes after its slashes, of at most {LONGEST_NAME}",
            rest.len()
        ));
    }
    Ok(OsStr::from_bytes(&[PREFIX, rest].concat()).to_owned())
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
        Errno::ACCESS if operation == "open" => {
            error.because("its mode does not let this user read and write it")
        }
        Errno::PERM if operation == "unlink" => {
            error.because("/dev/shm is sticky: only the owner of a semaphore removes its name")
        }
        Errno::MFILE => error
            .because(format!("all descriptors are in use: {}", Limit::Nofile.stated()))
            .fix(Limit::Nofile.raise()),
        _ => error,
    }
}
