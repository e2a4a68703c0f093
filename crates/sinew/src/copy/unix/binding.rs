//! Taking a path, and only ever one that nobody has.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, FlockOperation, Mode as FileMode, OFlags, Stat};
use rustix::io::Errno;
use rustix::net::SocketType;

use super::address::Address;
use crate::error::{Error, ErrorKind, Result, Stop};
use crate::mechanism::Mechanism;
use crate::wait::{Wait, drive_by_naps};

/// How long another process may hold the lock, which it does for a few system calls.
const PATIENCE: Duration = Duration::from_secs(10);

/// A path that this process bound. Removed on drop if it still is what was bound.
#[derive(Debug)]
pub(super) struct OwnPath {
    path: PathBuf,
    device: u64,
    inode: u64,
    process: u32,
}

impl OwnPath {
    /// Leaves the path where it is.
    pub(super) fn keep(mut self) {
        self.process = 0;
    }
}

impl Drop for OwnPath {
    /// The socket is still open here, so its inode is no other's, and nobody who keeps to the rules of
    /// this file replaces the path between the look and the removal.
    fn drop(&mut self) {
        // A forked child has a copy of this value, and not the right to remove.
        if self.process != std::process::id() {
            return;
        }
        if let Ok(now) = rustix::fs::lstat(&self.path)
            && (now.st_dev, now.st_ino) == (self.device, self.inode)
        {
            let _ = rustix::fs::unlink(&self.path);
        }
    }
}

/// What stands at a path.
enum Found {
    /// Nothing.
    Nothing,
    /// A socket that is bound there now.
    Live,
    /// What a closed socket left.
    Stale,
}

/// Binds `fd` to `address`. A stale path is taken over under a lock.
pub(super) fn bind(
    fd: BorrowedFd<'_>,
    address: &Address,
    mode: u32,
    mechanism: Mechanism,
) -> Result<Option<OwnPath>> {
    let failed =
        |operation, errno| Error::os(operation, errno).on(mechanism).object(format!("{address:?}"));
    let in_use = || {
        Error::new(ErrorKind::InUse, "bind")
            .on(mechanism)
            .object(format!("{address:?}"))
            .because("a live socket has this address")
            .fix("stop the process that has it (ss -xlp), or choose another address")
    };
    let Some(path) = address.as_path() else {
        return match rustix::net::bind(fd, address.raw()) {
            Ok(()) => Ok(None),
            Err(Errno::ADDRINUSE) => Err(in_use()),
            Err(errno) => Err(failed("bind", errno)),
        };
    };
    // The new inode takes the mode of the socket, less the process's umask: no moment in which
    // it is open to more.
    rustix::fs::fchmod(fd, FileMode::from_raw_mode(mode))
        .map_err(|e| failed("set the mode of the socket", e))?;
    let attempt = || match rustix::net::bind(fd, address.raw()) {
        Ok(()) => own(path).map(Some).map_err(|e| failed("look at the bound path", e)),
        Err(Errno::ADDRINUSE) => Ok(None),
        Err(errno) => Err(failed("bind", errno)),
    };
    let look = || look(path, address, mechanism);

    // Each turn either ends or follows a change that another process made in between.
    for _ in 0..1000 {
        if let Some(own) = attempt()? {
            return Ok(Some(own));
        }
        match look()? {
            Found::Live => return Err(in_use()),
            Found::Nothing => continue,
            Found::Stale => {}
        }
        let _lock = Lock::take(path, mechanism)?;
        match look()? {
            Found::Live => return Err(in_use()),
            Found::Nothing => {}
            // Only the holder of the lock removes a stale path, and a path is not stale while a
            // live socket has it: what is removed here is what was looked at.
            Found::Stale => match rustix::fs::unlink(path) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("remove the stale socket", errno)),
            },
        }
        if let Some(own) = attempt()? {
            return Ok(Some(own));
        }
    }
    Err(in_use())
}

fn own(path: &Path) -> Result<OwnPath, Errno> {
    let stat = rustix::fs::lstat(path)?;
    // The current folder may change before the drop.
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(OwnPath { path, device: stat.st_dev, inode: stat.st_ino, process: std::process::id() })
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

/// Asks the kernel whether a socket is bound at `path` now, by a connect(2) of the datagram kind.
///
/// A listener of another kind answers that with EPROTOTYPE, before its backlog is looked at: it
/// makes no connection, finds a stopped process with a full backlog, and one that has bound but
/// does not listen yet. Only ECONNREFUSED proves that nobody is there.
fn look(path: &Path, address: &Address, mechanism: Mechanism) -> Result<Found> {
    let failed =
        |operation, errno| Error::os(operation, errno).on(mechanism).object(format!("{address:?}"));
    match rustix::fs::lstat(path) {
        Ok(stat) if is_socket(&stat) => {}
        Ok(_) => {
            return Err(Error::new(ErrorKind::AlreadyExists, "bind")
                .on(mechanism)
                .object(format!("{address:?}"))
                .because("something that is not a socket stands at this path; it is never removed")
                .fix("remove it, or choose another path"));
        }
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(errno) => return Err(failed("look at the path", errno)),
    }
    let probe = super::socket::open(SocketType::DGRAM).map_err(|e| failed("make a socket", e))?;
    match rustix::net::connect(&probe, address.raw()) {
        Err(Errno::CONNREFUSED) => Ok(Found::Stale),
        Err(Errno::NOENT) => Ok(Found::Nothing),
        // EPERM: a datagram socket that takes messages from another only.
        Ok(()) | Err(Errno::PROTOTYPE | Errno::PERM | Errno::AGAIN) => Ok(Found::Live),
        Err(errno) => Err(failed("prove that nobody has the path", errno)
            .because("what cannot be proven stale is never removed")),
    }
}

/// The lock beside a path: `PATH.lock`, held while a stale path is replaced, then removed.
struct Lock {
    file: OwnedFd,
    path: PathBuf,
}

impl Lock {
    fn take(path: &Path, mechanism: Mechanism) -> Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".lock");
        let path = PathBuf::from(name);
        let failed = |operation, errno| {
            Error::os(operation, errno).on(mechanism).object(format!("{path:?}"))
        };
        let wait = Wait::timeout(PATIENCE);
        loop {
            let file = rustix::fs::openat(
                CWD,
                &path,
                OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                FileMode::RUSR | FileMode::WUSR,
            )
            .map_err(|e| failed("open the lock file", e))?;
            drive_by_naps(wait, |_| {
                rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            })
            .map_err(|stop| match stop {
                Stop::Os(errno) => failed("lock the lock file", Errno::from_raw_os_error(errno)),
                stop => stop
                    .into_error("lock the lock file")
                    .on(mechanism)
                    .object(format!("{path:?}"))
                    .because("another process holds it and does not finish taking the path")
                    .fix("see who it is (lslocks), and continue or end it"),
            })?;
            // The one before may have removed the file while this one waited for its lock.
            let held = rustix::fs::fstat(&file).map_err(|e| failed("look at the lock file", e))?;
            match rustix::fs::lstat(&path) {
                Ok(now) if (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino) => {
                    return Ok(Self { file, path });
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed("look at the lock file", errno)),
            }
        }
    }
}

impl Drop for Lock {
    /// Removes the file while the lock is held: whoever waits for it finds that it is no longer the
    /// file of that name, and opens the next.
    fn drop(&mut self) {
        let _ = rustix::fs::unlink(&self.path);
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}
