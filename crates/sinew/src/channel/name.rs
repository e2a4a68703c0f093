//! The name of a channel: a listening socket in a folder.
//!
//! The file is called as the channel is; a name that begins with a dot is no channel's.
//!
//! # How a name is taken
//! Under a lock of the folder (flock(2), through a description of its own), a socket is bound under
//! `.claim-UID`, listens, and is renamed to the name. So what stands under a name was listening when it
//! came there, and a name is taken or not: there is nothing in between. There is one `.claim-UID` in a
//! folder for each user at most: what a killed process left there is removed by the next one of this user
//! that takes any name.
//!
//! What stands there already is
//! - a *live* holder's: a connection to it is made, and the process that listens runs. It is left alone.
//! - *stale*: nobody listens, or the process that did has ended, by its pidfd, and a child that it forked
//!   holds the socket. It is renamed over, unless a member of its channel [survives](survivor), who is about to
//!   take the name: the channel lives, and its memory says so.
//! - something else: it is never removed.
//!
//! Each is looked at through one descriptor of it (`O_PATH`), so that what was looked at is what was
//! connected to, and a name can be longer than the 108 bytes of `sun_path`.

mod listener;
mod survivor;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;

use super::folder::{self, Dir, Folder};
use crate::error::{Error, ErrorKind, LockError, Result, WaitError};
use crate::file_lock::Flock;
use crate::inotify::PathWatch;
use crate::mechanism::Mechanism;
use crate::unix::{self, Address, Seqpacket, Socket};
use crate::wait::{Connects, Locks, Wait, Waits};

pub(crate) use listener::Listener;

/// How many bytes a name may have.
pub(crate) const LONGEST: usize = 200;

/// How often others may be faster before it is an error.
const TURNS: usize = 100;

/// How long the removal of a name waits for a process that takes one.
const REMOVAL: Duration = Duration::from_secs(1);

/// The name of a channel in its folder, whether or not anybody has it.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    folder: Folder,
    name: String,
    mode: u32,
}

/// A connection to the holder of a name.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) socket: Seqpacket,
    /// A pidfd of the process that listens, which ran just now. None where this kernel does not tell: before
    /// Linux 6.5, of a process outside of this pid namespace.
    pub(crate) process: Option<OwnedFd>,
    /// The socket that it was made through.
    place: Place,
}

/// Which file a socket is. A number that is given to another file later does not make it the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
    /// When it was made: nothing that is done with a socket changes the time of its contents.
    made: u64,
}

impl Identity {
    #[allow(clippy::unnecessary_cast, reason = "of which type they are is each architecture's own")]
    pub(crate) const fn of(stat: &Stat) -> Self {
        let nanoseconds = stat.st_mtime_nsec as u64;
        let made = (stat.st_mtime as u64).wrapping_mul(1_000_000_000).wrapping_add(nanoseconds);
        Self { device: stat.st_dev, inode: stat.st_ino, made }
    }

    /// As the memory of a channel has it.
    pub(crate) const fn words(self) -> [u64; 3] {
        [self.device, self.inode, self.made]
    }

    pub(crate) const fn from_words([device, inode, made]: [u64; 3]) -> Self {
        Self { device, inode, made }
    }
}

/// A socket that stood under a name. It is held, not open.
#[derive(Debug)]
struct Place {
    fd: OwnedFd,
    identity: Identity,
    owner: u32,
}

/// What came of trying for a name.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It is this process's now.
    Ours(Listener),
    /// It has a live holder.
    Theirs(Connection),
}

/// What stands under a name.
enum Found {
    Nothing,
    Stale(Place),
    Live(Connection),
    /// Somebody listens, and has not accepted so many that the kernel takes no more.
    Full(Place),
}

impl Name {
    /// A name of 1 to 200 bytes, without a slash and a NUL, that does not begin with a dot.
    ///
    /// # Errors
    /// `InvalidInput` for another.
    pub(crate) fn new(folder: Folder, name: &str) -> Result<Self> {
        let because = if name.is_empty() {
            "a name has at least one byte".to_owned()
        } else if name.len() > LONGEST {
            format!("the name has {} bytes, the limit is {LONGEST}", name.len())
        } else if name.starts_with('.') {
            "a name does not begin with a dot".to_owned()
        } else if name.contains(['/', '\0']) {
            "a name has no slash and no NUL".to_owned()
        } else {
            return Ok(Self { folder, name: name.to_owned(), mode: 0o600 });
        };
        Err(Error::new(ErrorKind::InvalidInput, "name a channel")
            .on(Mechanism::Channel)
            .object(format!("{name:?}"))
            .because(because))
    }

    /// The permissions of the socket, whatever the umask: 0600 else. Who may write to it can connect.
    #[must_use]
    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// The name without its folder.
    pub(crate) fn as_str(&self) -> &str {
        &self.name
    }

    /// Where it is: an absolute path.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// Takes the name, if it has no live holder. `wait` is for the lock of the folder, which others
    /// have for some microseconds, or as long as they are stopped.
    ///
    /// # Errors
    /// `AlreadyExists` if it has a live holder, who is named; `Mismatch` if something else has
    /// the name; `TimedOut` and `Interrupted`, and `WouldBlock` for [`Wait::NEVER`], where the lock is not
    /// to be had; `NotFound` if a given folder is gone; `PermissionDenied` of the folder, and if the name
    /// was left by another user.
    pub(crate) fn claim(&self, wait: Wait<'_>) -> Result<Listener> {
        self.ours(self.take(None, wait)?)
    }

    /// The same for a channel that goes on: the socket that was the last to have this name for it counts as
    /// stale, whoever listens there, as its holder is proven dead or has left. `last` tells which one that is, and
    /// `next` is told which one follows it, before that has the name; both with the folder locked. At no moment has
    /// nobody the name.
    ///
    /// # Errors
    /// As [`claim`](Self::claim): of another live holder than that one.
    pub(crate) fn replace(
        &self,
        last: &dyn Fn() -> Identity,
        next: &dyn Fn(Identity),
        wait: Wait<'_>,
    ) -> Result<Listener> {
        self.ours(self.take(Some((last, next)), wait)?)
    }

    /// Removes the name, if that socket has it still. Nobody who keeps to the lock replaces that of a live socket; who
    /// removed it by hand, so that another could take it, did so before the lock was had, or is not helped.
    fn remove(&self, last: &dyn Fn() -> Identity) -> Result<()> {
        let lock = self.folder.open().and_then(|dir| self.lock_of(&dir)).ok();
        // Without it, as where no descriptor is left, only a removal by hand in this moment is a race.
        let _locked = lock.as_ref().map(|lock| lock.lock_wait(Wait::timeout(REMOVAL)));
        if self.is_at(last())? {
            let removed = rustix::fs::unlink(self.path());
            removed.map_err(|errno| self.failed("remove the name", errno))?;
        }
        Ok(())
    }

    /// Removes the name of a channel that nobody takes part in any more, if that channel had it last.
    pub(crate) fn give_up(&self, last: &dyn Fn() -> Identity) {
        // What cannot be removed is stale from here on, and harms nobody.
        let _ = self.remove(last);
    }

    /// Whether this socket has the name.
    fn is_at(&self, identity: Identity) -> Result<bool> {
        match rustix::fs::lstat(self.path()) {
            Ok(now) => Ok(Identity::of(&now) == identity),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
            Err(errno) => Err(self.failed("look at the name", errno)),
        }
    }

    /// Takes the name, or connects to its live holder.
    ///
    /// # Errors
    /// As [`claim`](Self::claim) and [`connect`](Self::connect), but not `AlreadyExists` and `NotFound`.
    pub(crate) fn claim_or_connect(&self, wait: Wait<'_>) -> Result<Claimed> {
        for _ in 0..TURNS {
            match self.take(None, wait)? {
                Taken::Ours(listener) => return Ok(Claimed::Ours(listener)),
                Taken::Live(connection) => return Ok(Claimed::Theirs(connection)),
                Taken::Full => {}
                Taken::Orphan(survivor) => {
                    self.follow(survivor, wait)?;
                    continue;
                }
            }
            // Not under the lock: it can take long.
            match self.connect_by(wait) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                connected => return connected.map(Claimed::Theirs),
            }
        }
        Err(self.contended("open or create"))
    }

    /// Connects to the live holder. Does not wait.
    ///
    /// # Errors
    /// `NotFound` if nobody has the name, also where a dead one left it; `Mismatch` if something
    /// else has it; `PermissionDenied`; `WouldBlock` if the holder does not accept, and the kernel
    /// takes no more connections for it.
    pub(crate) fn connect(&self) -> Result<Connection> {
        self.connect_by(Wait::NEVER)
    }

    /// Waits until the name has a live holder, and connects to it. While nothing happens in the
    /// folder, it sleeps.
    ///
    /// # Errors
    /// As [`connect`](Self::connect), but `NotFound` only for [`Wait::NEVER`], `TimedOut` and
    /// `Interrupted`; and as [`PathWatch::new`].
    pub(crate) fn connect_wait(&self, wait: Wait<'_>) -> Result<Connection> {
        let mut watch = None;
        loop {
            if wait.is_never() {
                return self.connect();
            }
            let missing = match self.reach(wait)? {
                Ok(connection) => return Ok(connection),
                Err(missing) => missing,
            };
            // Watch first, then look: what comes after the look is news, and wakes.
            let Some(watch) = &watch else {
                watch = Some(self.watch()?);
                continue;
            };
            match PathWatch::wait_for(watch, wait) {
                Ok(_) => {}
                Err(stop) => return Err(self.not_come(stop, missing)),
            }
        }
    }

    /// News of the name: a descriptor for a poll, of which `try_wait` says whether it matters. A folder
    /// that is this user's own is made, so that no other one has to be watched.
    ///
    /// # Errors
    /// As [`PathWatch::new`]: a limit of inotify, or a folder that cannot be read.
    pub(crate) fn watch(&self) -> Result<PathWatch> {
        match self.folder.make() {
            Ok(_) => {}
            // A given folder that is not there yet: then it is watched for.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        PathWatch::new(self.path()).map_err(|error| error.object(self.quoted()))
    }

    /// Waits until something else stands under a name that a survivor is about to take.
    fn follow(&self, survivor: u32, wait: Wait<'_>) -> Result<()> {
        // Watch first, then look: what comes after the look is news, and wakes.
        let watch = self.watch()?;
        let dir = self.folder.make()?;
        if let Found::Stale(_) = self.look(&dir, Wait::NEVER)? {
            PathWatch::wait_for(&watch, wait).map_err(|stop| {
                stop_error("wait for the channel", stop)
                    .on(Mechanism::Channel)
                    .object(self.quoted())
                    .because(orphaned(survivor))
                    .fix("continue that process (SIGCONT), or end it")
            })?;
        }
        Ok(())
    }

    /// Who is about to take the name over from a holder that is dead, if somebody is.
    pub(crate) fn survivor(&self) -> Option<u32> {
        let dir = self.folder.open().ok()?;
        match self.look(&dir, Wait::NEVER) {
            Ok(Found::Stale(place)) => survivor::of(place.identity),
            _ => None,
        }
    }

    fn connect_by(&self, wait: Wait<'_>) -> Result<Connection> {
        self.reach(wait)?.map_err(|missing| {
            Error::new(ErrorKind::NotFound, "connect")
                .on(Mechanism::Channel)
                .object(self.quoted())
                .because(missing)
                .fix("start the process that creates it, or wait for it")
        })
    }

    /// A connection to the live holder, or why there is none.
    fn reach(&self, wait: Wait<'_>) -> Result<Result<Connection, &'static str>> {
        let dir = match self.folder.open() {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Err("its folder is not there"));
            }
            opened => opened?,
        };
        Ok(match self.look(&dir, wait)? {
            Found::Live(connection) => Ok(connection),
            Found::Nothing => Err("there is no channel of this name"),
            Found::Stale(_) => Err("its processes have ended, and left the name behind"),
            Found::Full(_) => {
                return Err(Error::new(ErrorKind::WouldBlock, "connect")
                    .on(Mechanism::Channel)
                    .object(self.quoted())
                    .because(FULL));
            }
        })
    }

    /// Looks at what stands under the name, and connects to it; `wait` is for room in the queue of a
    /// listener.
    fn look(&self, dir: &Dir, wait: Wait<'_>) -> Result<Found> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(dir, &self.name, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(errno) => return Err(self.failed("look at the name", errno)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(|e| self.failed("look at the name", e))?;
        if !is_socket(&stat) {
            return Err(self.alien());
        }
        let place = Place { identity: Identity::of(&stat), owner: stat.st_uid, fd };
        let path = folder::short(place.fd.as_fd()).unwrap_or_else(|| self.path());
        let socket = match self.address(path)?.seqpacket().connect_wait(wait) {
            Ok(socket) => socket,
            Err(error) => {
                return match error.kind() {
                    ErrorKind::Refused => Ok(Found::Stale(place)),
                    ErrorKind::NotFound => Ok(Found::Nothing),
                    ErrorKind::WouldBlock => Ok(Found::Full(place)),
                    ErrorKind::TimedOut | ErrorKind::Interrupted => {
                        Err(error.on(Mechanism::Channel).object(self.quoted()).because(FULL))
                    }
                    ErrorKind::Mismatch => Err(self.alien()),
                    _ => Err(error.on(Mechanism::Channel).object(self.quoted())),
                };
            }
        };
        let process = match socket.peer_pidfd() {
            Ok(pidfd) if has_ended(&pidfd) => return Ok(Found::Stale(place)),
            Ok(pidfd) => Some(pidfd),
            Err(error) => match error.kind() {
                ErrorKind::NotFound => return Ok(Found::Stale(place)),
                ErrorKind::LimitReached => {
                    return Err(error.on(Mechanism::Channel).object(self.quoted()));
                }
                // What is not known is alive.
                _ => None,
            },
        };
        Ok(Found::Live(Connection { socket, process, place }))
    }

    fn take(&self, follows: Option<Follows<'_>>, wait: Wait<'_>) -> Result<Taken> {
        for _ in 0..TURNS {
            let dir = self.folder.make()?;
            let lock = self.lock_of(&dir)?;
            let _locked = lock.lock_wait(wait).map_err(|error| self.not_locked(&dir, error))?;
            // Others lock the folder that has the path now.
            if !self.folder.is(&dir)? {
                continue;
            }
            let old = follows.map(|(last, _)| last());
            let is_old = |place: &Place| old == Some(place.identity);
            let over = match self.look(&dir, Wait::NEVER)? {
                Found::Nothing => RenameFlags::NOREPLACE,
                Found::Live(connection) if !is_old(&connection.place) => {
                    return Ok(Taken::Live(connection));
                }
                Found::Full(place) if !is_old(&place) => return Ok(Taken::Full),
                Found::Stale(place)
                | Found::Full(place)
                | Found::Live(Connection { place, .. }) => {
                    if !is_old(&place)
                        && let Some(survivor) = survivor::of(place.identity)
                    {
                        return Ok(Taken::Orphan(survivor));
                    }
                    self.check_owner(&place)?;
                    RenameFlags::empty()
                }
            };
            let next = |identity| {
                if let Some((_, next)) = follows {
                    next(identity);
                }
            };
            if let Some(listener) = self.put(&dir, over, &next)? {
                return Ok(Taken::Ours(listener));
            }
        }
        Err(self.contended("create"))
    }

    /// Listens under the name, in the folder that is locked. None if the folder, or what stood under
    /// the name, changed meanwhile: by hand, as everybody else has to have the lock.
    fn put(
        &self,
        dir: &Dir,
        over: RenameFlags,
        next: &dyn Fn(Identity),
    ) -> Result<Option<Listener>> {
        let claim = format!(".claim-{}", folder::user());
        match dir.stat(&claim) {
            Ok(None) => {}
            Ok(Some(stat)) if is_socket(&stat) => {
                match rustix::fs::unlinkat(dir, &claim, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => {}
                    Err(errno) => {
                        return Err(self.failed("remove what a killed process left", errno));
                    }
                }
            }
            Ok(Some(_)) => {
                let because = format!("{claim:?} in its folder is no socket, and is never removed");
                return Err(Error::new(ErrorKind::Mismatch, "create")
                    .on(Mechanism::Channel)
                    .object(self.quoted())
                    .because(because)
                    .fix("remove it"));
            }
            Err(errno) => return Err(self.failed("look for what a killed process left", errno)),
        }
        let path = folder::short(dir.as_fd()).unwrap_or_else(|| self.folder.path().to_owned());
        // Until it has the name it is removed where this ends; `dir` is open that long.
        let bound =
            unix::Options::new().mode(self.mode).seqpacket(&self.address(path.join(&claim))?);
        let bound = match bound {
            Ok(bound) => bound,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.on(Mechanism::Channel).object(self.quoted())),
        };
        let stat = match dir.stat(&claim) {
            Ok(Some(stat)) => stat,
            Ok(None) => return Ok(None),
            Err(errno) => return Err(self.failed("look at the socket", errno)),
        };
        if stat.st_mode & 0o777 != self.mode {
            // What the umask took.
            let mode = Mode::from_raw_mode(self.mode);
            rustix::fs::chmodat(dir, &claim, mode, AtFlags::empty())
                .map_err(|e| self.failed("set the mode of the socket", e))?;
        }
        let identity = Identity::of(&stat);
        // Whoever is killed between these two has the name of a dead socket, of which it is not known whose it was.
        next(identity);
        match rustix::fs::renameat_with(dir, &claim, dir, &self.name, over) {
            Ok(()) => Ok(Some(Listener::new(self.clone(), bound, identity))),
            Err(Errno::EXIST | Errno::NOENT | Errno::ISDIR) => Ok(None),
            Err(Errno::INVAL) => Err(self
                .failed("give the socket its name", Errno::INVAL)
                .of_kind(ErrorKind::Unsupported)
                .because("this file system cannot rename without replacing (RENAME_NOREPLACE)")
                .fix("use a folder on tmpfs or on a local file system")),
            Err(errno) => Err(self.failed("give the socket its name", errno)),
        }
    }

    fn ours(&self, taken: Taken) -> Result<Listener> {
        let holder = match &taken {
            Taken::Ours(_) => None,
            Taken::Live(connection) => Some(held_by(connection)),
            Taken::Full => Some(format!("{FULL}; it may be stopped")),
            Taken::Orphan(survivor) => Some(orphaned(*survivor)),
        };
        match (taken, holder) {
            (Taken::Ours(listener), _) => Ok(listener),
            (_, holder) => Err(Error::new(ErrorKind::AlreadyExists, "create")
                .on(Mechanism::Channel)
                .object(self.quoted())
                .because(holder.unwrap_or_default())
                .fix("open it instead, or end that process")),
        }
    }

    fn lock_of(&self, dir: &Dir) -> Result<Flock> {
        dir.reopen().map(Flock::from).map_err(|errno| {
            let error = self.failed("open the folder to lock it", errno);
            match errno {
                Errno::ACCESS => error.because("who takes a name in it has to be able to read it"),
                _ => error,
            }
        })
    }

    /// A stale name of another user is not this user's to take.
    fn check_owner(&self, place: &Place) -> Result<()> {
        let me = folder::user();
        if place.owner == me || me == 0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::PermissionDenied, "create")
            .on(Mechanism::Channel)
            .object(self.quoted())
            .because(format!(
                "a process of user {} left the name, and this is user {me}",
                place.owner
            ))
            .fix("remove it"))
    }

    /// Through /proc it is short; without, the path may be too long for a socket.
    fn address(&self, path: PathBuf) -> Result<Address> {
        Address::path(path).map_err(|error| {
            error
                .on(Mechanism::Channel)
                .object(self.quoted())
                .fix("mount /proc, or use a folder with a shorter path")
        })
    }

    fn quoted(&self) -> String {
        format!("{:?}", self.path())
    }

    fn failed(&self, operation: &'static str, errno: Errno) -> Error {
        Error::os(operation, errno).on(Mechanism::Channel).object(self.quoted())
    }

    #[cold]
    fn alien(&self) -> Error {
        Error::new(ErrorKind::Mismatch, "look at the name")
            .on(Mechanism::Channel)
            .object(self.quoted())
            .because("something that is no channel has this name, and is never removed")
            .fix("remove it, or choose another name")
    }

    #[cold]
    fn contended(&self, operation: &'static str) -> Error {
        Error::new(ErrorKind::InUse, operation)
            .on(Mechanism::Channel)
            .object(self.quoted())
            .because("others keep taking, removing or leaving it")
    }

    #[cold]
    fn not_come(&self, stop: WaitError, missing: &'static str) -> Error {
        stop_error("wait for the channel", stop)
            .on(Mechanism::Channel)
            .object(self.quoted())
            .because(missing)
    }

    #[cold]
    fn not_locked(&self, dir: &Dir, error: LockError) -> Error {
        const LOCK: &str = "lock the folder";
        let kind = match error {
            LockError::WouldBlock => ErrorKind::WouldBlock,
            LockError::TimedOut => ErrorKind::TimedOut,
            LockError::Interrupted => ErrorKind::Interrupted,
            LockError::Os(errno) => return self.failed(LOCK, Errno::from_raw_os_error(errno)),
            _ => ErrorKind::Other,
        };
        let because = match lock_holder(dir) {
            Some(pid) => format!("held by {pid}{}", stopped(pid)),
            None => "another process holds it".to_owned(),
        };
        Error::new(kind, LOCK)
            .on(Mechanism::Channel)
            .object(self.quoted())
            .because(because)
            .fix("continue that process (SIGCONT), or end it")
    }
}

/// What came of one attempt.
enum Taken {
    Ours(Listener),
    Live(Connection),
    Full,
    /// Its holder is dead, and this process is another member of the channel.
    Orphan(u32),
}

/// Of a channel that goes on under its name: which socket had it last, and where the next one is noted.
type Follows<'a> = (&'a dyn Fn() -> Identity, &'a dyn Fn(Identity));

const FULL: &str = "its holder does not accept, and as many wait as the kernel allows";

fn stop_error(operation: &'static str, stop: WaitError) -> Error {
    let kind = match stop {
        WaitError::WouldBlock => ErrorKind::WouldBlock,
        WaitError::TimedOut => ErrorKind::TimedOut,
        WaitError::Interrupted => ErrorKind::Interrupted,
        WaitError::Os(errno) => return Error::os(operation, Errno::from_raw_os_error(errno)),
        _ => ErrorKind::Other,
    };
    Error::new(kind, operation)
}

fn is_socket(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket
}

fn has_ended(pidfd: &OwnedFd) -> bool {
    let mut one = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut one, Some(&Timespec::default())), Ok(ready) if ready > 0)
}

/// Who the holder is, for people.
pub(super) fn held_by(connection: &Connection) -> String {
    match connection.socket.peer_credentials().map(|peer| peer.pid()) {
        Ok(Some(pid)) => format!("held by {pid}{}", stopped(pid)),
        _ => "held by a process of another pid namespace".to_owned(),
    }
}

/// Who takes the name over, for people.
pub(super) fn orphaned(survivor: u32) -> String {
    format!("its holder has ended, and it is to go to {survivor}{}", stopped(survivor))
}

/// `, stopped` if a process is, by a signal or by a tracer.
fn stopped(pid: u32) -> &'static str {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, in parentheses, may be anything.
    let after = stat.iter().rposition(|byte| *byte == b')').map_or(0, |at| at + 2);
    match stat.get(after) {
        Some(b'T' | b't') => ", stopped",
        _ => "",
    }
}

/// Who has locked the folder, by /proc/locks.
fn lock_holder(dir: &Dir) -> Option<u32> {
    let (device, inode) = dir.identity();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let file = format!("{major:02x}:{minor:02x}:{inode}");
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        // Who waits for it has an arrow before the kind.
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [_, "FLOCK", _, "WRITE", pid, of, ..] if of == file => {
                pid.parse().ok().filter(|pid| *pid != 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests;
