//! flock(2): the whole file, for the open file description.

use std::convert::Infallible;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::Kind;
use super::view::refused;
use crate::error::LockError;
use crate::fork::Origin;
use crate::wait::{Locks, Mode, Wait, drive_by_naps};

/// Locks of flock(2): for files that `flock(1)`, systemd or a package manager locks so.
///
/// As an object of [`Locks`] it is the exclusive lock. Any open file or folder can be locked, however
/// it is open.
///
/// # What is different from [`FileLock`](super::FileLock)
/// - **The whole file**, no ranges, and no way to ask who holds it (`/proc/locks` tells root).
/// - **It lets go to convert**: the kernel releases the shared lock and then asks for the exclusive
///   one. Another may have held it in between, and where that fails nothing is held:
///   [`FlockGuard::upgrade`] takes the guard for that reason.
/// - **On NFS it is another thing**: there it becomes a record lock of the whole file, which keeps
///   out `FileLock`s and `RecordLock`s, and asks for a file open for writing to lock it exclusively.
///   Elsewhere it keeps out only other `Flock`s.
///
/// As a `FileLock`, it belongs to the open file description: a forked child shares it, and one handle is
/// one owner.
#[derive(Debug)]
pub struct Flock {
    file: File,
    origin: Origin,
    /// Whether it is held or waited for through this handle.
    claimed: AtomicBool,
}

impl Flock {
    /// The exclusive lock.
    #[inline]
    pub fn exclusive(&self) -> FlockView<'_> {
        FlockView { owner: self, kind: Kind::Exclusive }
    }

    /// The shared lock.
    #[inline]
    pub fn shared(&self) -> FlockView<'_> {
        FlockView { owner: self, kind: Kind::Shared }
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Makes this process, a forked child, the one that may use the handle: as
    /// [`FileLock::adopt`](super::FileLock::adopt).
    pub fn adopt(&self) {
        self.origin.move_here();
    }

    #[inline]
    fn acquire(&self, kind: Kind, wait: Wait<'_>) -> Result<(), LockError> {
        let (waits, tries) = match kind {
            Kind::Shared => (FlockOperation::LockShared, FlockOperation::NonBlockingLockShared),
            Kind::Exclusive => {
                (FlockOperation::LockExclusive, FlockOperation::NonBlockingLockExclusive)
            }
        };
        drive_by_naps(wait, |mode| {
            flock(&self.file, if mode == Mode::MayBlock { waits } else { tries })
        })
        .map_err(refused)
    }

    /// Unlocked first: else another thread could have it, and lose it here.
    #[inline]
    fn release(&self) {
        if unlock(&self.file).is_ok() {
            // Release: who claims it next comes after the unlocking.
            self.claimed.store(false, Ordering::Release);
        }
    }
}

#[inline]
fn unlock(file: &File) -> Result<(), Errno> {
    flock(file, FlockOperation::Unlock)
}

impl Locks for Flock {
    type Guard<'a> = FlockGuard<'a>;
    type Died<'a> = Infallible;

    #[inline]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<FlockGuard<'_>, LockError> {
        self.exclusive().lock_wait(wait)
    }
}

/// How to lock: a view of a [`Flock`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it locks nothing until `lock`"]
pub struct FlockView<'a> {
    owner: &'a Flock,
    kind: Kind,
}

impl<'a> Locks for FlockView<'a> {
    type Guard<'b>
        = FlockGuard<'a>
    where
        Self: 'b;
    type Died<'b>
        = Infallible
    where
        Self: 'b;

    #[inline]
    fn lock_wait(&self, wait: Wait<'_>) -> Result<FlockGuard<'a>, LockError> {
        let Self { owner, kind } = *self;
        if !owner.origin.is_here() {
            return Err(LockError::Forked);
        }
        // Acquire: after the unlocking of who had it before.
        if owner.claimed.swap(true, Ordering::Acquire) {
            return Err(if wait.is_never() { LockError::WouldBlock } else { LockError::Deadlock });
        }
        match owner.acquire(kind, wait) {
            Ok(()) => Ok(FlockGuard { owner, kind }),
            Err(error) => {
                owner.claimed.store(false, Ordering::Release);
                Err(error)
            }
        }
    }
}

/// Holds a lock of flock(2). Dropping it unlocks, by one system call; in a forked child it does
/// nothing.
#[derive(Debug)]
#[must_use = "dropped at once, it holds nothing"]
pub struct FlockGuard<'a> {
    owner: &'a Flock,
    kind: Kind,
}

impl FlockGuard<'_> {
    /// How it is held.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Makes a shared lock an exclusive one, waiting as `wait` allows. **Not in one step**: another may
    /// have held it exclusively in between, so read again what it guards. Where it fails, nothing is
    /// held.
    ///
    /// # Errors
    /// As those of `lock`.
    pub fn upgrade(self, wait: Wait<'_>) -> Result<Self, LockError> {
        self.convert(Kind::Exclusive, wait)
    }

    /// Makes an exclusive lock a shared one, waiting as `wait` allows. **Not in one step**, as
    /// [`upgrade`](Self::upgrade).
    ///
    /// # Errors
    /// As those of `lock`.
    pub fn downgrade(self, wait: Wait<'_>) -> Result<Self, LockError> {
        self.convert(Kind::Shared, wait)
    }

    /// The drop of `self` unlocks where it fails: what the kernel left is not certain then.
    fn convert(mut self, kind: Kind, wait: Wait<'_>) -> Result<Self, LockError> {
        if !self.owner.origin.is_here() {
            return Err(LockError::Forked);
        }
        if self.kind != kind {
            self.owner.acquire(kind, wait)?;
            self.kind = kind;
        }
        Ok(self)
    }

    /// Ends the guard and keeps the lock: it goes with the last descriptor of the description, which
    /// a child may have. It stays locked for this handle too.
    #[expect(clippy::mem_forget, reason = "it owns nothing but the duty to unlock")]
    pub fn leave(self) {
        std::mem::forget(self);
    }
}

impl Drop for FlockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // A forked child: to the kernel it is the same owner, and would unlock its parent's.
        if self.owner.origin.is_here() {
            self.owner.release();
        }
    }
}

impl AsFd for Flock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The file must be nobody else's description: no duplicate of a descriptor that is locked through.
impl From<File> for Flock {
    fn from(file: File) -> Self {
        Self { file, origin: Origin::here(), claimed: AtomicBool::new(false) }
    }
}

/// As from a [`File`].
impl From<OwnedFd> for Flock {
    fn from(fd: OwnedFd) -> Self {
        Self::from(File::from(fd))
    }
}

/// Locks that were [left](FlockGuard::leave) go with the last descriptor.
impl From<Flock> for OwnedFd {
    fn from(lock: Flock) -> Self {
        lock.file.into()
    }
}
