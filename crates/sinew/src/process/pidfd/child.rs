//! Starting a child together with its pidfd.

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{self, ChildStderr, ChildStdin, ChildStdout, Command};

use rustix::io::Errno;
use rustix::process::{PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

use super::{PidFd, failed};
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;
use crate::process::target::number;

/// A child, by its pidfd; made by [`spawn`].
///
/// It is a [`PidFd`] (`Deref`) that this process is the parent of. std's own `Child` waits and
/// kills by number, and must not be used beside it; so it is taken apart, and what is left of it are
/// the pipes.
///
/// Dropping it neither kills the child nor waits for it: without a wait the child stays a zombie
/// until this process ends. Drop `stdin` before you wait for a child that reads it to the end.
#[derive(Debug)]
pub struct Child {
    /// Its standard input, if the command asked for a pipe.
    pub stdin: Option<ChildStdin>,
    /// Its standard output, if the command asked for a pipe.
    pub stdout: Option<ChildStdout>,
    /// Its standard error, if the command asked for a pipe.
    pub stderr: Option<ChildStderr>,
    pidfd: PidFd,
}

/// Starts a program.
///
/// # Errors
/// What stands against starting it; or against its pidfd, when no descriptor is left: then the child
/// is killed and reaped.
pub fn spawn(command: &mut Command) -> Result<Child> {
    spawn_by(|| {
        command.spawn().map_err(|error| {
            let operation = "start a program";
            let object = format!("{:?}", command.get_program());
            match Errno::from_io_error(&error) {
                Some(errno) => failed(operation, errno).object(object),
                None => Error::new(ErrorKind::InvalidInput, operation)
                    .on(Mechanism::Pidfd)
                    .object(object)
                    .because(error.to_string()),
            }
        })
    })
}

/// The same, for a program that `start` starts: by
/// [`spawn_with_listen_fds`](crate::command::CommandExt::spawn_with_listen_fds), say.
///
/// # Errors
/// As [`spawn`], and what `start` gives.
pub fn spawn_by(start: impl FnOnce() -> Result<process::Child>) -> Result<Child> {
    let mut child = start()?;
    match pidfd_of(&child) {
        Ok(pidfd) => {
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
            Ok(Child { stdin, stdout, stderr: child.stderr.take(), pidfd })
        }
        Err(error) => {
            // Nobody would ever wait for it. Where it is a child of this process no more, its number
            // may be a stranger's.
            let pid = number(child.id());
            if pid.is_some_and(|pid| waitid(WaitId::Pid(pid), look()).is_ok()) {
                let _ = child.kill();
                let _ = child.wait();
            }
            Err(error)
        }
    }
}

/// The number is the child's own until somebody waits for it, and nobody but us has it yet.
fn pidfd_of(child: &process::Child) -> Result<PidFd> {
    const OPEN: &str = "open a child (pidfd_open)";
    let gone = |errno| {
        failed(OPEN, errno)
            .object(format_args!("process {}", child.id()))
            .of_kind(ErrorKind::NotFound)
            .because(
                "it is no child of this process any more: SIGCHLD is ignored, or somebody waits for \
                 all children",
            )
            .fix("leave SIGCHLD at its default, and wait for each child by its pidfd")
    };
    let pid = number(child.id()).ok_or_else(|| gone(Errno::SRCH))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        Errno::SRCH => gone(errno),
        errno => failed(OPEN, errno),
    })?;
    // Where the kernel reaps children by itself, the number may be a stranger's already.
    match waitid(WaitId::PidFd(pidfd.as_fd()), look()) {
        Err(Errno::CHILD) => Err(gone(Errno::CHILD)),
        _ => Ok(PidFd(pidfd)),
    }
}

/// Whether there is such a child, without waiting for it.
fn look() -> WaitIdOptions {
    WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT
}

impl Child {
    /// The pidfd alone.
    #[must_use]
    pub fn into_pidfd(self) -> PidFd {
        self.pidfd
    }
}

impl Deref for Child {
    type Target = PidFd;

    fn deref(&self) -> &PidFd {
        &self.pidfd
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}
