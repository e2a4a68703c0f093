//! Children of the near worker: those whose end is waited for, and one that is traced.

#![allow(unsafe_code, reason = "std has no fork, and a child that executes a program takes long")]

use std::io;

use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::board::{Board, Word};
use crate::cpu;

/// A forked child. Killed and reaped when dropped, if it was not reaped before.
#[derive(Debug)]
pub(crate) struct Child(Option<Pid>);

impl Child {
    /// A child that waits for its number on the board, says when, and ends.
    pub(crate) fn ending(board: &Board, number: u32) -> io::Result<Self> {
        Self::fork(|| {
            if board.hear(Word::Go, number).is_ok() {
                board.stamp().store(cpu::now_ns(), std::sync::atomic::Ordering::Relaxed);
            }
        })
    }

    /// A child that runs for ever.
    pub(crate) fn spinning() -> io::Result<Self> {
        Self::fork(|| {
            loop {
                std::hint::spin_loop();
            }
        })
    }

    fn fork(life: impl FnOnce()) -> io::Result<Self> {
        // SAFETY: the worker has one thread, so the child may do whatever the parent may.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // A worker that is killed leaves no child behind.
                let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
                life();
                // SAFETY: ends the child at once, running nothing of the parent's.
                unsafe { libc::_exit(0) }
            }
            pid => Ok(Self(Pid::from_raw(pid))),
        }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.0.map_or(0, |pid| pid.as_raw_nonzero().get())
    }

    /// Reaps it.
    pub(crate) fn reap(mut self) -> io::Result<()> {
        if let Some(pid) = self.0.take() {
            waitpid(Some(pid), WaitOptions::empty())?;
        }
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        }
    }
}
