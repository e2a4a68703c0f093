//! The folder in which the names of channels lie.
//!
//! Names of one user's own channels lie in a folder that nobody else can enter: `sinew` in
//! `XDG_RUNTIME_DIR` where that is a folder of the user's own, else `/run/sinew` for root, else
//! `/tmp/sinew-UID`. It is made with mode 0700 where it is missing, and whoever made it, it is looked at
//! through an open descriptor at every use: another user may have been first in /tmp. A folder that is
//! not as it has to be is an error, and never passed over for another one, in which the other processes
//! of the user would not look.
//!
//! Any other folder has to be named by who uses it, and has to be there.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// A folder of names. Not an open one: it may be removed and made again while it is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Absolute.
    path: PathBuf,
    rule: Rule,
}

/// Who may have made the folder, and who may get in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// This user, and nobody else.
    Private,
    /// This user or root, and who they let in.
    Given,
}

/// How often another process can be in the way before it is an error.
const TURNS: usize = 100;

impl Folder {
    /// The folder of this user's own channels. It is made where it is missing.
    ///
    /// # Errors
    /// `PermissionDenied` if it is another user's or others can enter it, `Mismatch` if it is no
    /// folder; or what the file system says.
    pub(crate) fn default() -> Result<Self> {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR");
        Self::choose(runtime.as_deref(), user(), Path::new("/run"), Path::new("/tmp"))
    }

    /// A folder of this user alone.
    #[cfg(test)]
    pub(super) fn private(path: &Path) -> Result<Self> {
        let folder = Self { path: path.to_owned(), rule: Rule::Private };
        folder.make()?;
        Ok(folder)
    }

    fn choose(runtime: Option<&OsStr>, me: u32, run: &Path, tmp: &Path) -> Result<Self> {
        // One of another user (sudo and su keep the variable) is no place for this one.
        let of_mine = |path: &&Path| {
            path.is_absolute()
                && rustix::fs::stat(*path)
                    .is_ok_and(|stat| refused(&stat, Rule::Private, me).is_none())
        };
        let path = match runtime.map(Path::new).filter(of_mine) {
            Some(runtime) => runtime.join("sinew"),
            None if me == 0 => run.join("sinew"),
            None => tmp.join(format!("sinew-{me}")),
        };
        let folder = Self { path, rule: Rule::Private };
        folder.open_as(me, true)?;
        Ok(folder)
    }

    /// A folder that is there: of this user, or of root. Who else gets in is its owner's choice.
    ///
    /// # Errors
    /// `NotFound`; `PermissionDenied` if it is of somebody else, or everybody may put another in
    /// the place of a name; `Mismatch` if it is no folder.
    pub(crate) fn at(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        // The current folder may change later.
        let path = std::path::absolute(path).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::INVAL);
            Error::os("open the folder", errno).on(Mechanism::Channel).object(format!("{path:?}"))
        })?;
        let folder = Self { path, rule: Rule::Given };
        folder.open()?;
        Ok(folder)
    }

    /// Where it is: an absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it and looks at it.
    pub(super) fn open(&self) -> Result<Dir> {
        self.open_as(user(), false)
    }

    /// The same; it is made where it is missing and this user's own.
    pub(super) fn make(&self) -> Result<Dir> {
        self.open_as(user(), true)
    }

    fn open_as(&self, me: u32, make: bool) -> Result<Dir> {
        // Only to reach what is in it: search permission is enough.
        let mut flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.rule == Rule::Private {
            flags |= OFlags::NOFOLLOW;
        }
        for _ in 0..TURNS {
            match rustix::fs::openat(CWD, &self.path, flags, Mode::empty()) {
                Ok(fd) => return self.checked(fd, me),
                Err(Errno::NOENT) if make && self.rule == Rule::Private => {}
                Err(errno) => return Err(self.cannot_open(errno)),
            }
            match rustix::fs::mkdir(&self.path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    return Err(self
                        .failed("make the folder", errno)
                        .fix("set XDG_RUNTIME_DIR to a folder of this user, or name a folder"));
                }
            }
        }
        Err(self.failed("make the folder", Errno::BUSY).because("others keep removing it"))
    }

    fn checked(&self, fd: OwnedFd, me: u32) -> Result<Dir> {
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.failed("look at the folder", e))?;
        match refused(&stat, self.rule, me) {
            None => Ok(Dir { fd, device: stat.st_dev, inode: stat.st_ino }),
            Some((because, fix)) => Err(Error::new(ErrorKind::PermissionDenied, "open the folder")
                .on(Mechanism::Channel)
                .object(format!("{:?}", self.path))
                .because(because)
                .fix(format!("{fix} {:?}, or name another folder", self.path))),
        }
    }

    /// Whether `dir`, which was opened before, still is the folder at the path.
    pub(super) fn is(&self, dir: &Dir) -> Result<bool> {
        match rustix::fs::stat(&self.path) {
            Ok(now) => Ok((now.st_dev, now.st_ino) == (dir.device, dir.inode)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("look at the folder", errno)),
        }
    }

    fn failed(&self, operation: &'static str, errno: Errno) -> Error {
        let object = format!("{:?}", self.path);
        Error::os(operation, errno).on(Mechanism::Channel).object(object)
    }

    #[cold]
    fn cannot_open(&self, errno: Errno) -> Error {
        let error = self.failed("open the folder", errno);
        match (errno, self.rule) {
            (Errno::NOTDIR | Errno::LOOP, Rule::Private) => error
                .of_kind(ErrorKind::Mismatch)
                .because("something that is no folder stands there, or a symbolic link")
                .fix("remove it, or set XDG_RUNTIME_DIR to a folder of this user"),
            (Errno::NOENT, Rule::Private) => {
                error.because("it was removed; who creates a channel makes it again")
            }
            (Errno::NOENT, Rule::Given) => error
                .because("no such folder")
                .fix("make it, with those permissions that are wanted"),
            _ => error,
        }
    }
}

/// An open folder, which was looked at.
#[derive(Debug)]
pub(super) struct Dir {
    fd: OwnedFd,
    device: u64,
    inode: u64,
}

impl Dir {
    /// The device and the number of the folder.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// A description of its own, to lock.
    pub(super) fn reopen(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(&self.fd, ".", flags, Mode::empty())
    }

    /// What stands under a name in it, itself.
    pub(super) fn stat(&self, name: &str) -> Result<Option<Stat>, Errno> {
        match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno),
        }
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A short path, for the 108 bytes of `sun_path`, to what `fd` is: through /proc, where it is mounted.
pub(super) fn short(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    rustix::fs::lstat(&path).is_ok().then_some(path)
}

/// What the kernel calls this user.
pub(super) fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Why a folder is not to be trusted, and what to do before its path.
fn refused(stat: &Stat, rule: Rule, me: u32) -> Option<(String, String)> {
    let mode = stat.st_mode & 0o7777;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Some(("it is no folder".to_owned(), "remove".to_owned()));
    }
    let owner = stat.st_uid;
    if owner != me && !(rule == Rule::Given && owner == 0) {
        let because = format!("it belongs to user {owner}, and this is user {me}");
        return Some((because, format!("let user {me} own")));
    }
    if owner == me && !is_identity(me) {
        let because = format!(
            "user {me} of this user namespace stands for everybody who has no number in it, so that \
             its owner may be anybody"
        );
        return Some((because, "map this user in the namespace, for".to_owned()));
    }
    match rule {
        Rule::Private if mode & 0o77 != 0 => {
            let because = format!("its mode is {mode:04o}, and others could enter it");
            Some((because, "chmod 700".to_owned()))
        }
        Rule::Private if mode & 0o700 != 0o700 => Some((
            format!("its mode is {mode:04o}, and shuts out its owner"),
            "chmod 700".to_owned(),
        )),
        Rule::Given if mode & 0o1002 == 0o2 => {
            let because = format!("its mode is {mode:04o}: everybody could replace a name in it");
            Some((because, "chmod +t".to_owned()))
        }
        _ => None,
    }
}

/// Whether a user id means one user. The overflow id means everybody who has none in this user
/// namespace; where all have one, it is an id like others.
fn is_identity(user: u32) -> bool {
    static OVERFLOW: OnceLock<u32> = OnceLock::new();
    let overflow = OVERFLOW.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
        text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65534)
    });
    user != *overflow || has_all_users()
}

fn has_all_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.lines().any(|line| line.split_whitespace().nth(2) == Some("4294967295"))
}

#[cfg(test)]
mod tests;
