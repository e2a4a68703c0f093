//! Locks of ranges, whoever the owner is to the kernel: the description or the process.

use std::convert::Infallible;
use std::fs::File;
use std::ops::RangeBounds;
use std::os::fd::AsFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::span::Span;
use super::{FileLock, Holder, Kind, fcntl};
use crate::error::{LockError, Stop};
use crate::fork::Origin;
use crate::wait::{Locks, Mode, Wait, drive_by_naps};

/// What locks ranges of bytes: [`FileLock`] and [`RecordLock`](super::RecordLock).
pub trait Ranged: Sealed {}

pub(super) mod sealed {
    use std::ffi::c_int;

    #[derive(Debug)]
    pub struct Commands {
        pub try_set: c_int,
        pub set: c_int,
        pub get: c_int,
    }

    pub trait Sealed {
        const COMMANDS: Commands;

        fn parts(&self) -> &super::Parts;
    }
}

use sealed::{Commands, Sealed};

impl Ranged for FileLock {}

impl Sealed for FileLock {
    const COMMANDS: Commands =
        Commands { try_set: libc::F_OFD_SETLK, set: libc::F_OFD_SETLKW, get: libc::F_OFD_GETLK };

    #[inline]
    fn parts(&self) -> &Parts {
        &self.0
    }
}

/// What every handle of ranges has: the file, and what is held through it.
#[derive(Debug)]
pub struct Parts {
    file: File,
    /// The process that may use it.
    origin: Origin,
    claims: Mutex<Claims>,
}

/// What is held or waited for. No two overlap.
#[derive(Debug, Default)]
struct Claims {
    /// Mostly there is one, and this is it.
    one: Option<Span>,
    more: Vec<Span>,
}

impl Claims {
    #[inline(always)]
    fn add(&mut self, span: Span) -> bool {
        if self.one.is_none() && self.more.is_empty() {
            self.one = Some(span);
            return true;
        }
        self.add_more(span)
    }

    #[cold]
    #[inline(never)]
    fn add_more(&mut self, span: Span) -> bool {
        let free = !self.one.iter().chain(&self.more).any(|held| held.overlaps(span));
        if free {
            self.more.push(span);
        }
        free
    }

    #[inline(always)]
    fn remove(&mut self, span: Span) {
        if self.one == Some(span) {
            self.one = None;
        } else {
            self.remove_more(span);
        }
    }

    #[cold]
    #[inline(never)]
    fn remove_more(&mut self, span: Span) {
        self.more.retain(|held| *held != span);
    }
}

impl Parts {
    pub(super) fn new(file: File) -> Self {
        Self { file, origin: Origin::here(), claims: Mutex::default() }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn into_file(self) -> File {
        self.file
    }

    pub(super) fn adopt(&self) {
        self.origin.move_here();
    }

    #[inline]
    pub(super) fn is_own(&self) -> bool {
        self.origin.is_here()
    }

    /// Nothing that panics is done while it is held.
    #[inline(always)]
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the bytes are to be locked, before the kernel is asked: it would grant them twice.
    #[inline(always)]
    fn claim(&self, span: Span, wait: Wait<'_>) -> Result<(), LockError> {
        if !self.is_own() {
            return Err(LockError::Forked);
        }
        if self.claims().add(span) {
            Ok(())
        } else if wait.is_never() {
            Err(LockError::WouldBlock)
        } else {
            Err(LockError::Deadlock)
        }
    }

    #[inline(always)]
    fn disclaim(&self, span: Span) {
        self.claims().remove(span);
    }

    #[cold]
    #[inline(never)]
    fn give_up(&self, span: Span, error: LockError) -> LockError {
        self.disclaim(span);
        error
    }
}

/// Asks the kernel, as long as `wait` allows.
#[inline(always)]
fn acquire<L: Ranged>(owner: &L, kind: Kind, span: Span, wait: Wait<'_>) -> Result<(), LockError> {
    let fd = owner.parts().file.as_fd();
    drive_by_naps(wait, |mode| {
        let command = match mode {
            Mode::MayBlock => L::COMMANDS.set,
            Mode::NonBlocking => L::COMMANDS.try_set,
        };
        fcntl::set(fd, command, Some(kind), span)
    })
    .map_err(refused)
}

pub(super) fn refused(stop: Stop) -> LockError {
    match stop {
        Stop::Os(errno) if Errno::from_raw_os_error(errno) == Errno::DEADLK => LockError::Deadlock,
        stop => stop.into(),
    }
}

/// What to lock, and how: a view of a [`FileLock`] or a [`RecordLock`](super::RecordLock).
#[derive(Debug)]
#[must_use = "it locks nothing until `lock`"]
pub struct View<'a, L: Ranged = FileLock> {
    owner: &'a L,
    kind: Kind,
    span: Result<Span, Errno>,
}

impl<L: Ranged> Clone for View<'_, L> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<L: Ranged> Copy for View<'_, L> {}

impl<'a, L: Ranged> View<'a, L> {
    #[inline]
    pub(super) const fn new(owner: &'a L, kind: Kind) -> Self {
        Self { owner, kind, span: Ok(Span::WHOLE) }
    }

    /// Only these bytes, counted from the beginning of the file: `..100`, `100..200`, `200..` (all
    /// from there, also what is appended later). The file need not have them.
    ///
    /// No bytes are `EINVAL` when they are locked, and bytes beyond 2^63 `EOVERFLOW`.
    #[inline]
    pub fn range(self, bytes: impl RangeBounds<u64>) -> Self {
        Self { span: Span::of(&bytes), ..self }
    }

    /// A lock that this one would have to wait for, if there is any now. What is held through this
    /// very handle is none. Never blocks.
    ///
    /// # Errors
    /// [`LockError::Os`], for a bad range or a file system without locks.
    pub fn holder(&self) -> Result<Option<Holder>, LockError> {
        let fd = self.owner.parts().file.as_fd();
        self.span
            .and_then(|span| fcntl::get(fd, L::COMMANDS.get, self.kind, span))
            .map_err(|errno| LockError::Os(errno.raw_os_error()))
    }
}

impl<'a, L: Ranged> Locks for View<'a, L> {
    type Guard<'b>
        = Guard<'a, L>
    where
        Self: 'b;
    type Died<'b>
        = Infallible
    where
        Self: 'b;

    #[inline(always)]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<Guard<'a, L>, LockError> {
        let Self { owner, kind, .. } = *self;
        let span = self.span.map_err(|errno| LockError::Os(errno.raw_os_error()))?;
        owner.parts().claim(span, wait)?;
        match acquire(owner, kind, span, wait) {
            Ok(()) => Ok(Guard { owner, kind, span }),
            Err(error) => Err(owner.parts().give_up(span, error)),
        }
    }
}

/// Holds a lock of a range. Dropping it unlocks, by one system call; in a forked child it does
/// nothing.
#[derive(Debug)]
#[must_use = "dropped at once, it holds nothing"]
pub struct Guard<'a, L: Ranged = FileLock> {
    owner: &'a L,
    kind: Kind,
    span: Span,
}

impl<L: Ranged> Guard<'_, L> {
    /// How it is held.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes a shared lock an exclusive one, waiting as `wait` allows. Until then, and where that
    /// fails, the shared one is held, so nobody can have changed what was read under it.
    ///
    /// Two that upgrade the same bytes wait for each other: for ever where the owner is a description,
    /// else one gets [`Deadlock`](LockError::Deadlock). Use a deadline, and unlock when it passes.
    ///
    /// # Errors
    /// As those of `lock`; `EBADF` for a file that is not open for writing.
    pub fn upgrade(&mut self, wait: Wait<'_>) -> Result<(), LockError> {
        self.convert(Kind::Exclusive, wait)
    }

    /// Makes an exclusive lock a shared one, with nobody in between. Never waits.
    ///
    /// # Errors
    /// `EBADF` for a file that is not open for reading. It is held as before then.
    pub fn downgrade(&mut self) -> Result<(), LockError> {
        self.convert(Kind::Shared, Wait::NEVER)
    }

    fn convert(&mut self, kind: Kind, wait: Wait<'_>) -> Result<(), LockError> {
        if !self.owner.parts().is_own() {
            return Err(LockError::Forked);
        }
        if self.kind != kind {
            acquire(self.owner, kind, self.span, wait)?;
            self.kind = kind;
        }
        Ok(())
    }
}

impl Guard<'_> {
    /// Ends the guard and keeps the lock: it goes with the last descriptor of the description, which
    /// a child may have. The bytes stay locked for this handle too.
    #[expect(clippy::mem_forget, reason = "it owns nothing but the duty to unlock")]
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl<L: Ranged> Drop for Guard<'_, L> {
    #[inline]
    fn drop(&mut self) {
        let parts = self.owner.parts();
        // A forked child: to the kernel it is the same owner, and would unlock its parent's.
        if !parts.is_own() {
            return;
        }
        // Unlocked first: else another thread could have the bytes, and lose them here. A kernel
        // without memory can refuse to split a range (ENOLCK): then the bytes stay locked, and claimed.
        if fcntl::set(parts.file.as_fd(), L::COMMANDS.try_set, None, self.span).is_ok() {
            parts.disclaim(self.span);
        }
    }
}
