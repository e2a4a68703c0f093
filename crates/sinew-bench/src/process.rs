//! The rows of another process: the far one, or a child of the near one.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;

use rustix::process::{Pid, getpid};
use sinew::pidfd;
use sinew::process_vm;
use sinew::ptrace::{self, Next, Stopped};
use sinew::wait::Waits;

use crate::board::{Board, Word};
use crate::children::Child;
use crate::cpu;
use crate::floor;
use crate::job::Side;
use crate::messages::Row;
use crate::parties::{Parties, Solo};
use crate::trouble::Trouble;

fn number(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// The near process reads the far one's payload out of its memory.
pub(crate) struct Memory {
    memory: process_vm::Memory,
    address: usize,
    room: Vec<u8>,
    expected: Vec<u8>,
}

impl Solo for Memory {
    #[inline]
    fn once(&mut self) -> io::Result<Option<u64>> {
        self.memory.read(self.address, &mut self.room).map_err(io::Error::other)?;
        Ok(None)
    }

    fn check(&mut self) -> io::Result<bool> {
        self.room.fill(0);
        self.once()?;
        Ok(self.room == self.expected)
    }
}

pub(crate) enum ProcessVm {}

impl Parties for ProcessVm {
    type Library = Option<Memory>;
    type Floor = Option<floor::events::Memory>;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let payload = row.payload.hot(row.job.size).message();
        if row.job.side != Side::Near {
            row.link.say(&(number(getpid()), payload.as_ptr().addr()))?;
            return Ok((None, None));
        }
        let (pid, address): (u32, usize) = row.link.hear()?;
        let room = vec![0; row.job.size];
        let memory = process_vm::Memory::of_pid(pid)?;
        let floor = floor::events::Memory {
            pid: pid.cast_signed(),
            pidfd: memory.as_fd().as_raw_fd(),
            address: address as u64,
            room: room.clone(),
        };
        let library = Memory { memory, address, room, expected: payload.to_vec() };
        Ok((Some(library), Some(floor)))
    }
}

/// A child that is traced: one step of one instruction, there and back.
pub(crate) struct Tracee {
    stopped: Option<Stopped>,
    _child: Child,
}

impl Tracee {
    fn new() -> Result<Self, Trouble> {
        let child = Child::spinning()?;
        let running = ptrace::Options::new().exit_kill().seize(child.pid().cast_unsigned())?;
        running.interrupt().map_err(io::Error::other)?;
        let Next::Stopped(stopped) = running.next() else { return Err(ended().into()) };
        Ok(Self { stopped: Some(stopped), _child: child })
    }
}

fn ended() -> io::Error {
    io::Error::other("the traced child has ended")
}

impl Solo for Tracee {
    #[inline]
    fn once(&mut self) -> io::Result<Option<u64>> {
        let stopped = self.stopped.take().ok_or_else(ended)?;
        let Next::Stopped(stopped) = stopped.step().next() else { return Err(ended()) };
        self.stopped = Some(stopped);
        Ok(None)
    }

    fn check(&mut self) -> io::Result<bool> {
        let at = |tracee: &Self| {
            let stopped = tracee.stopped.as_ref().ok_or_else(ended)?;
            stopped.registers().map(|registers| registers.pc()).map_err(io::Error::other)
        };
        // The loop has two instructions at least: each step leads to another one.
        let before = at(self)?;
        self.once()?;
        Ok(at(self)? != before)
    }
}

pub(crate) enum Ptrace {}

impl Parties for Ptrace {
    type Library = Option<Tracee>;
    type Floor = Option<floor::events::Tracee>;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        if row.job.side != Side::Near {
            return Ok((None, None));
        }
        let library = Tracee::new()?;
        let floor = floor::events::Tracee::seize(Child::spinning()?)?;
        Ok((Some(library), Some(floor)))
    }
}

/// The end of a child, from its last word to the waiter running: each sample forks a child.
pub(crate) struct Ends {
    board: &'static Board,
    number: u32,
}

impl Ends {
    /// Lets a child end, waits by `wait` for that, and reaps it.
    pub(crate) fn sample(
        &mut self,
        wait: impl FnOnce(&Child) -> io::Result<()>,
    ) -> io::Result<Option<u64>> {
        self.number = self.number.wrapping_add(1);
        let child = Child::ending(self.board, self.number)?;
        self.board.say(Word::Go, self.number)?;
        wait(&child)?;
        let now = cpu::now_ns();
        child.reap()?;
        Ok(Some(now.saturating_sub(self.board.stamp().load(Ordering::Relaxed))))
    }
}

impl Solo for Ends {
    fn once(&mut self) -> io::Result<Option<u64>> {
        self.sample(|child| {
            let pidfd = pidfd::PidFd::open(child.pid().cast_unsigned())?;
            Ok(pidfd.exited().wait()?)
        })
    }

    fn check(&mut self) -> io::Result<bool> {
        let (board, number) = (self.board, self.number.wrapping_add(1));
        board.stamp().store(0, Ordering::Relaxed);
        self.once()?;
        // It was not noticed before it came.
        Ok(self.number == number && board.stamp().load(Ordering::Relaxed) != 0)
    }
}

pub(crate) enum OnPidfd {}

impl Parties for OnPidfd {
    type Library = Ends;
    type Floor = floor::events::Ends;

    fn open(_: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        // Both kinds of batches count their children on from where they begin.
        let library = Ends { board, number: 0 };
        let floor = floor::events::Ends(Ends { board, number: 1 << 31 });
        Ok((library, floor))
    }
}
