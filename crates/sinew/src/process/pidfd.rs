//! A process as a descriptor: it tells the end, takes signals, and never means another process.
//!
//! A pid is a number, which the kernel gives to the next process soon after its owner is gone. A
//! [`PidFd`] stays with the one process for which it was opened: what is done through it after the end
//! fails, and strikes nobody else.
//!
//! ```
//! use std::process::Command;
//! use sinew::pidfd::{self, Exit};
//! use sinew::wait::Waits;
//!
//! let child = pidfd::spawn(Command::new("sh").args(["-c", "exit 7"]))?;
//! assert_eq!(child.wait(), Ok(Exit::Code(7)));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Waiting for the end
//! | | of a child | of any process |
//! |---|---|---|
//! | that it ended | [`exited`](PidFd::exited) | [`exited`](PidFd::exited) |
//! | how it ended | [`wait`](Waits::wait), which also reaps it | [`exit`](PidFd::exit), on Linux 6.15, once its parent has reaped it |
//!
//! A `PidFd` in a [`Poller`](crate::poller::Poller) is readable from the end on, and stays so. The end is
//! that of the last thread: a process whose first thread ended earlier runs on.
//!
//! A child that ended stays a *zombie* until its parent has waited for it: the number is still its
//! own, signals go nowhere, and the poller tells. [`state`](PidFd::state) tells the three apart:
//!
//! | [`State`] | poller | [`signal`](crate::signal) | [`pid`](PidFd::pid) | `wait` of the parent |
//! |---|---|---|---|---|
//! | `Running` | - | arrives | its number | waits |
//! | `Ended` | readable | Ok, and nothing happens | its number | gives the [`Exit`] |
//! | `Reaped` | readable | `NotFound` (ESRCH) | `NotFound` | ECHILD |
//!
//! # Which process is it
//! - [`spawn`] and [`own`](PidFd::own) leave no doubt.
//! - The pidfd of a peer of a UNIX socket ([`peer_pidfd`](crate::unix::Socket::peer_pidfd)), or one that
//!   another process sent, is of the process that the kernel or the sender means.
//! - [`open`](PidFd::open) takes a number and gives whoever has it *now*. Where the number was noted earlier,
//!   note the [`Identity`] with it, and compare: no two processes ever have the same one.
//!
//! ```
//! use sinew::pidfd::{Identity, PidFd};
//!
//! // As it would be written into a file, and read again by somebody else.
//! let noted = (std::process::id(), PidFd::own()?.identity()?.to_string());
//!
//! let found = PidFd::open(noted.0)?;
//! let same = found.identity()? == noted.1.parse::<Identity>()?;
//! assert!(same, "the process of that time still runs");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Namespaces
//! A number means something in one pid namespace only, and a process may have none in this one: then
//! [`pid`](PidFd::pid) says so. A pidfd can be sent over a UNIX socket to any namespace, and tells the end
//! there; signals go to processes of the same namespace and those below it only.
//!
//! # Threads
//! A pidfd of a single thread (`PIDFD_THREAD`, Linux 6.9) becomes readable at the end of that thread,
//! not of the process, and can be waited for by nobody. It is not taken for a `PidFd`.
//!
//! # After a crash
//! It is the proof of death: readable exactly when the process is gone, whoever holds its pipes,
//! sockets and locks. A stopped process is not dead.
//!
//! From pidfd_open(2), pidfd_send_signal(2), waitid(2), `PIDFD_GET_INFO` in ioctl_pidfd(2).

mod child;
mod exit;
mod identity;
mod sys;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, getpid, pidfd_open, waitid};

use super::target::{Target, pid_of, shown};
use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::signal::{self, Signal};
use crate::wait::{Wait, Waits, drive};

pub use child::{Child, spawn, spawn_by};
pub use exit::Exit;
pub use identity::Identity;

/// One process, for good.
///
/// It waits ([`Waits`]) for the end of a child of this process, and reaps it: of several
/// waiters one has the [`Exit`], the others [`WaitError::Os`] with ECHILD. So has at once who is not the
/// parent: [`exited`](Self::exited) is for everybody. Where SIGCHLD is ignored, the kernel reaps
/// children itself, and the wait ends with ECHILD too.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

/// Whether a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It runs, sleeps or is stopped.
    Running,
    /// It ended, and its parent has not waited for it: a zombie.
    Ended,
    /// It ended, and nothing is left of it. Its number may be another's.
    Reaped,
}

impl PidFd {
    /// The process that has this number now, in the pid namespace of this process. See
    /// [the module](self) about who that is.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if no process has it; [`InvalidInput`](ErrorKind::InvalidInput)
    /// if it is the number of a thread that is not the first of its process.
    pub fn open(pid: u32) -> Result<Self> {
        Target::of_pid(pid, Mechanism::Pidfd).map(|target| Self(target.into_pidfd()))
    }

    /// This process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn own() -> Result<Self> {
        // Nobody else can have the number while this runs.
        pidfd_open(getpid(), PidfdFlags::empty())
            .map(Self)
            .map_err(|errno| failed("open the own process (pidfd_open)", errno))
    }

    /// Another descriptor of the same process.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        rustix::io::fcntl_dupfd_cloexec(&self.0, 0)
            .map(Self)
            .map_err(|errno| failed("duplicate", errno))
    }

    /// Its number, as this process sees it. While this process is its parent and has not waited for
    /// it, or while it runs, the number means it.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) once it is reaped; [`Unsupported`](ErrorKind::Unsupported) where
    /// it has no number in the pid namespace of /proc, or /proc is not mounted.
    pub fn pid(&self) -> Result<u32> {
        pid_of(self.as_fd()).map(shown).map_err(|error| error.on(Mechanism::Pidfd))
    }

    /// What no other process has, before or after, on this host. See [`Identity`].
    ///
    /// # Errors
    /// Where /proc is not mounted; before Linux 6.9 also once the process is reaped.
    pub fn identity(&self) -> Result<Identity> {
        Identity::of(self)
    }

    /// Whether it runs. At most two system calls; `Running` and `Ended` may be over when it returns.
    ///
    /// Before Linux 6.9 a process outside of this pid namespace stays `Ended` when it is reaped.
    #[must_use]
    pub fn state(&self) -> State {
        let seen = self.poll();
        if seen.is_empty() {
            return State::Running;
        }
        // The kernel hangs up when it is reaped, from 6.9 on. Any other answer than ESRCH is about a
        // process that is there.
        let gone =
            seen.contains(PollFlags::HUP) || sys::signal_nothing(self.as_fd()) == Err(Errno::SRCH);
        if gone { State::Reaped } else { State::Ended }
    }

    /// Whether it has ended. One system call.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        !self.poll().is_empty()
    }

    fn poll(&self) -> PollFlags {
        let mut one = [PollFd::new(&self.0, PollFlags::IN)];
        // Without waiting, it fails only where a sandbox refuses it: then nothing has ended.
        match poll(&mut one, Some(&Timespec::default())) {
            Ok(_) => one[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }

    /// The view whose `wait` is for the end of the process, whoever's child it is. It reaps nobody,
    /// and everyone who waits sees the end.
    pub fn exited(&self) -> Exited<'_> {
        Exited(self)
    }

    /// How the process ended, for those too who are not its parent: once it has been reaped, on Linux
    /// 6.15 and later. `None` before that, and where the kernel does not tell.
    ///
    /// ```
    /// use std::process::Command;
    /// use sinew::pidfd::{self, Exit};
    /// use sinew::wait::Waits;
    ///
    /// let child = pidfd::spawn(&mut Command::new("false"))?;
    /// let watcher = child.try_clone()?;
    /// child.wait().unwrap();
    /// assert!(matches!(watcher.exit()?, None | Some(Exit::Code(1))));
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// None that the kernel gives; a sandbox may refuse the call.
    pub fn exit(&self) -> Result<Option<Exit>> {
        sys::exit_status(self.as_fd())
            .map(|status| status.map(Exit::from_status))
            .map_err(|errno| failed("ask how the process ended (PIDFD_GET_INFO)", errno))
    }

    /// Sends it a signal. With a value, by [`signal::Target`].
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) once it is reaped; [`PermissionDenied`](ErrorKind::PermissionDenied)
    /// for a process of another user, or outside of this pid namespace and those below it. See
    /// [`signal::Target`].
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal::Target::from(self).send(signal).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => error
                .of_kind(ErrorKind::PermissionDenied)
                .because("it is outside of this pid namespace, and signals go only downwards"),
            _ => error,
        })
    }

    /// Takes the end of a child, if it has come.
    fn reap(&self, options: WaitIdOptions) -> Result<Option<Exit>, Errno> {
        let status = waitid(WaitId::PidFd(self.as_fd()), WaitIdOptions::EXITED | options)?;
        Ok(status.map(|status| Exit::from_waitid(&status)))
    }
}

/// How long to wait for a tracer to let go of a child that ended.
const NAP: Duration = Duration::from_millis(1);

impl Waits for PidFd {
    type Waited = Exit;

    fn wait_for(&self, wait: Wait<'_>) -> Result<Exit, WaitError> {
        let mut options = WaitIdOptions::empty();
        if !wait.is_unbounded() {
            wait.check_interrupt()?;
            options = WaitIdOptions::NOHANG;
        }
        let mut slept = false;
        loop {
            match self.reap(options) {
                Ok(Some(exit)) => return Ok(exit),
                // EAGAIN: it was opened with PIDFD_NONBLOCK.
                Ok(None) | Err(Errno::AGAIN) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(WaitError::Os(errno.raw_os_error())),
            }
            // A child that ended and cannot be reaped has a tracer that has not seen the end yet.
            if slept && self.has_ended() {
                wait.sleep(None, Some(NAP))?;
            } else {
                wait.sleep(Some((self.as_fd(), PollFlags::IN)), None)?;
            }
            slept = true;
        }
    }
}

/// The end of a process, whoever's child it is. Made by [`PidFd::exited`].
#[derive(Clone, Copy, Debug)]
#[must_use = "it waits for nothing until `wait`"]
pub struct Exited<'a>(&'a PidFd);

impl Waits for Exited<'_> {
    type Waited = ();

    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        let look = |_| if self.0.has_ended() { Ok(()) } else { Err(Errno::AGAIN) };
        drive(self.0.as_fd(), PollFlags::IN, wait, look).map_err(WaitError::from)
    }
}

impl AsFd for PidFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<PidFd> for OwnedFd {
    fn from(pidfd: PidFd) -> Self {
        pidfd.0
    }
}

impl TryFrom<OwnedFd> for PidFd {
    type Error = Error;

    /// Takes what is a pidfd of a process.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) for anything else, and for a pidfd of a thread.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        const TAKE: &str = "take a descriptor for a pidfd";
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if let Err(Errno::BADF) = waitid(WaitId::PidFd(fd.as_fd()), look) {
            return Err(failed(TAKE, Errno::BADF).because("it is no pidfd"));
        }
        // PIDFD_THREAD is O_EXCL, and the kernel keeps it there.
        let flags = fcntl_getfl(&fd).map_err(|errno| failed(TAKE, errno))?;
        if flags.contains(OFlags::EXCL) {
            return Err(Error::new(ErrorKind::Mismatch, TAKE)
                .on(Mechanism::Pidfd)
                .because("it is the pidfd of a thread (PIDFD_THREAD), not of a process"));
        }
        Ok(Self(fd))
    }
}

fn failed(operation: &'static str, errno: Errno) -> Error {
    let error = Error::os(operation, errno).on(Mechanism::Pidfd);
    match errno {
        Errno::MFILE => error
            .because(format!("this process has used up {}", Limit::Nofile.stated()))
            .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
        _ => error,
    }
}
