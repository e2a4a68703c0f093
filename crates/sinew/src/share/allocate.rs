//! Giving an object its whole memory before anybody can touch it, and a name only then.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{
    self, Access, AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Stat,
    fallocate,
};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Feature;
use crate::mechanism::Mechanism;

/// How much is allocated by one call. A signal undoes a call that has not come to its end, so one
/// call for everything might never end in a process with a busy timer.
const STEP: u64 = 64 << 20;

/// Makes `fd` have memory or disk space for all of its first `len` bytes; a shorter file grows.
pub(crate) fn allocate(fd: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let mut done = 0;
    while done < len {
        let step = STEP.min(len - done);
        match fallocate(fd, FallocateFlags::empty(), done, step) {
            Ok(()) => done += step,
            Err(Errno::INTR) => {}
            Err(Errno::OPNOTSUPP) => return fill(fd, len),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The same where the file system has no fallocate(2): writes zeros behind the end. Holes before it
/// stay.
fn fill(fd: BorrowedFd<'_>, len: u64) -> Result<(), Errno> {
    let zeros = vec![0_u8; 1 << 20];
    let mut at = length(&fs::fstat(fd)?);
    while at < len {
        let step = usize::try_from(len - at).unwrap_or(usize::MAX).min(zeros.len());
        match rustix::io::pwrite(fd, &zeros[..step], at) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => at += written as u64,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// The length of a file.
pub(crate) fn length(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Whether parts of a file have no memory or disk space yet.
pub(crate) fn has_holes(stat: &Stat) -> bool {
    // Counted in units of 512 bytes, whatever the file system.
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512) < length(stat)
}

/// Whether a file system keeps its files in memory.
pub(crate) fn is_memory(fd: BorrowedFd<'_>) -> bool {
    const TMPFS: u64 = 0x0102_1994;
    #[allow(clippy::cast_sign_loss, clippy::unnecessary_cast, reason = "a magic number")]
    fs::fstatfs(fd).is_ok_and(|fs| fs.f_type as u64 == TMPFS)
}

/// What a file is, in words, if it is not a regular one.
pub(crate) fn irregular(stat: &Stat) -> Option<&'static str> {
    Some(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => return None,
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe or FIFO",
        FileType::Socket => "a socket",
        FileType::CharacterDevice => "a character device",
        FileType::BlockDevice => "a block device",
        FileType::Symlink => "a symbolic link",
        FileType::Unknown => "neither a file nor shared memory",
    })
}

/// The error of an object for which there was no room: says how much the file system has.
pub(crate) fn no_room(
    errno: Errno,
    mechanism: Mechanism,
    object: String,
    fd: BorrowedFd<'_>,
    len: u64,
) -> Error {
    let error = Error::os(format!("allocate {len} bytes"), errno).on(mechanism).object(object);
    match errno {
        Errno::NOSPC => match fs::fstatvfs(fd) {
            Ok(space) if space.f_blocks > 0 => error
                .because(format!(
                    "the file system has {} bytes, {} of them free",
                    space.f_blocks.saturating_mul(space.f_frsize),
                    space.f_bavail.saturating_mul(space.f_frsize),
                ))
                .fix(match mechanism {
                    Mechanism::PosixShm | Mechanism::PosixSem => {
                        "remove what nobody uses, or `mount -o remount,size=SIZE /dev/shm`"
                    }
                    _ => "free some, or ask for less",
                }),
            _ => error.because("there is no memory left for it"),
        },
        Errno::FBIG => error
            .of_kind(ErrorKind::LimitReached)
            .because("it is longer than RLIMIT_FSIZE (`ulimit -f`) or the file system allows"),
        _ => error,
    }
}

/// A new file that is in a folder and has no name yet, or a name of nobody's interest.
#[derive(Debug)]
pub(crate) struct Draft {
    fd: OwnedFd,
    place: Place,
}

/// Where a draft is.
#[derive(Debug)]
struct Place {
    folder: OwnedFd,
    /// The provisional name, where there has to be one. Removed on drop.
    provisional: Option<CString>,
}

impl Draft {
    /// Makes one in `folder`, with exactly this mode.
    pub(crate) fn new(folder: &Path, mode: Mode) -> Result<Self, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = fs::openat(CWD, folder, flags, Mode::empty())?;
        let draft = Self::nameless(folder, mode)?;
        // The umask has taken some bits away.
        fs::fchmod(&draft.fd, mode)?;
        Ok(draft)
    }

    fn nameless(folder: OwnedFd, mode: Mode) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        // Without /proc there is no way from such a file to a name.
        let has_proc = fs::access(c"/proc/self/fd", Access::EXISTS).is_ok();
        if Feature::Tmpfile.usable() && has_proc {
            match fs::openat(&folder, c".", flags | OFlags::TMPFILE, mode) {
                Ok(fd) => return Ok(Self { fd, place: Place { folder, provisional: None } }),
                // Some file systems have no such files; that says nothing about others.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
                Err(errno) => return Err(errno),
            }
        }
        loop {
            let name = provisional_name();
            match fs::openat(&folder, &name, flags | OFlags::CREATE | OFlags::EXCL, mode) {
                Ok(fd) => {
                    let place = Place { folder, provisional: Some(name) };
                    return Ok(Self { fd, place });
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// The file.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The folder, open so that it can be synchronised.
    pub(crate) fn readable_folder(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        fs::openat(&self.place.folder, c".", flags, Mode::empty())
    }

    /// Gives it its name, which nothing may have yet.
    pub(crate) fn publish(self, name: &OsStr) -> Result<OwnedFd, Errno> {
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        let Self { fd, mut place } = self;
        let folder = &place.folder;
        let Some(provisional) = &place.provisional else {
            link(&fd, folder, &name)?;
            return Ok(fd);
        };
        match fs::renameat_with(folder, provisional, folder, &name, RenameFlags::NOREPLACE) {
            Ok(()) => place.provisional = None,
            // This file system cannot rename without replacing; a link never replaces. The
            // provisional name goes with the drop.
            Err(Errno::INVAL | Errno::NOSYS) => {
                fs::linkat(folder, provisional, folder, &name, AtFlags::empty())?;
            }
            Err(errno) => return Err(errno),
        }
        Ok(fd)
    }

    /// Gives it its name, and takes that from whatever had it, in one step.
    pub(crate) fn replace(self, name: &OsStr) -> Result<OwnedFd, Errno> {
        let name = CString::new(name.as_bytes()).map_err(|_| Errno::INVAL)?;
        let Self { fd, mut place } = self;
        let provisional = match place.provisional.take() {
            Some(provisional) => provisional,
            None => loop {
                let provisional = provisional_name();
                match link(&fd, &place.folder, &provisional) {
                    Ok(()) => break provisional,
                    Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
            },
        };
        let renamed = fs::renameat(&place.folder, &provisional, &place.folder, &name);
        if renamed.is_err() {
            place.provisional = Some(provisional);
        }
        renamed.map(|()| fd)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(name) = &self.provisional {
            // It is nobody's but ours. If it cannot be removed nobody is there to be told.
            let _ = fs::unlinkat(&self.folder, name, AtFlags::empty());
        }
    }
}

/// Gives a file that has no name this one.
fn link(fd: &OwnedFd, folder: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let own = format!("/proc/self/fd/{}", fd.as_raw_fd());
    fs::linkat(CWD, own, folder, name, AtFlags::SYMLINK_FOLLOW)
}

/// A name that no other process and no earlier call has chosen, most likely.
fn provisional_name() -> CString {
    use std::hash::{BuildHasher, RandomState};

    let random = RandomState::new().hash_one(std::process::id());
    CString::new(format!(".sinew-{random:016x}")).unwrap_or_default()
}
