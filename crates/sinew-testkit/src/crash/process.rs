//! Processes of the driver: forks of it, which end by a word in the control page and by `_exit`.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

/// A fork of the driver. Killed and reaped when dropped.
#[derive(Debug)]
pub(super) struct Child {
    pid: Pid,
    reaped: bool,
}

/// Forks: `run` runs in the child, which then ends without returning.
pub(super) fn fork(run: impl FnOnce()) -> io::Result<Child> {
    // SAFETY: this process has one thread (asserted when the driver starts), so the child may do whatever the
    // parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // What fails is told by the control page.
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            run();
            // SAFETY: ends the child at once, running nothing of the parent's.
            unsafe { libc::_exit(0) }
        }
        pid => {
            let pid = Pid::from_raw(pid).expect("fork gives a positive pid");
            Ok(Child { pid, reaped: false })
        }
    }
}

impl Child {
    pub(super) fn raw(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// What wait(2) says of it.
    pub(super) fn status(&self, flags: i32) -> io::Result<Option<i32>> {
        let mut status = 0;
        loop {
            // SAFETY: writes one status.
            match unsafe { libc::waitpid(self.raw(), &raw mut status, flags) } {
                -1 => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        return Err(error);
                    }
                }
                0 => return Ok(None),
                _ => return Ok(Some(status)),
            }
        }
    }

    /// Kills it, and reaps it.
    pub(super) fn kill(&mut self) -> io::Result<()> {
        if self.reaped {
            return Ok(());
        }
        kill_process(self.pid, Signal::KILL)?;
        // A tracee may have a stop to tell first.
        while self.status(0)?.is_some_and(|status| libc::WIFSTOPPED(status)) {}
        self.reaped = true;
        Ok(())
    }

    /// Waits for its end. False if it does not come within `patience` nanoseconds.
    pub(super) fn ended(&mut self, patience: u64) -> io::Result<bool> {
        if self.reaped {
            return Ok(true);
        }
        if self.status(libc::WNOHANG)?.is_none() {
            let pidfd: OwnedFd = pidfd_open(self.pid, PidfdFlags::empty())?;
            let left = Timespec {
                tv_sec: i64::try_from(patience / 1_000_000_000).unwrap_or(i64::MAX),
                tv_nsec: i64::try_from(patience % 1_000_000_000).unwrap_or(0),
            };
            if poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left))? == 0 {
                return Ok(false);
            }
            self.status(0)?;
        }
        self.reaped = true;
        Ok(true)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// The state letter of a process, if there is one.
pub(super) fn state_of(pid: i32) -> Option<char> {
    let mut stat = [0; 256];
    let count = File::open(format!("/proc/{pid}/stat")).ok()?.read(&mut stat).ok()?;
    // pid (name) state; the name may hold anything, a bracket too, but is short.
    let closing = stat[..count].iter().rposition(|byte| *byte == b')')?;
    stat.get(closing + 2).copied().map(char::from)
}

/// Lets another process on this CPU run.
pub(super) fn yield_now() {
    std::thread::yield_now();
}

/// Nanoseconds of CLOCK_MONOTONIC.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000
        + u64::try_from(time.tv_nsec).unwrap_or(0)
}
