//! A victim: a child that is stepped through an operation, one instruction after the other.
//!
//! By bare ptrace, as [`steps`](crate::steps) is: a driver over `sinew::ptrace` would be built from
//! the sources that it is to find wrong.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;

use super::process::{Child, now, state_of, yield_now};

/// A number that no kernel gives a meaning to. Its first argument says what it marks.
const MARK: u64 = 0x51E4;

/// What a victim marks by a system call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    Begin = 1,
    Pause = 2,
    End = 3,
}

/// Marks a place of the operation for the driver.
#[inline(never)]
pub(super) fn mark(what: Mark) {
    // SAFETY: the kernel refuses an unknown number without looking at any argument.
    unsafe { libc::syscall(MARK.cast_signed(), what as usize) };
}

/// What the victim is about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ahead {
    Plain,
    /// A system call of this number.
    Call(u64),
    Mark(Mark),
}

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stepped {
    Done,
    /// It sleeps in the system call, and would for ever.
    Asleep,
}

/// In the child: makes it a victim, and stops.
pub(super) fn offer() -> bool {
    // SAFETY: PTRACE_TRACEME takes no pointers.
    let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
    // SAFETY: stops this thread.
    traced == 0 && unsafe { libc::raise(libc::SIGSTOP) } == 0
}

/// Code at addresses that were looked at: victims are forks of one process.
pub(super) type Code = HashMap<u64, bool>;

pub(super) struct Victim<'a> {
    child: &'a Child,
    code: &'a mut Code,
}

impl<'a> Victim<'a> {
    /// Waits until `child` offers itself, and brings it to the beginning.
    pub(super) fn begin(child: &'a Child, code: &'a mut Code) -> io::Result<Self> {
        let mut victim = Self { child, code };
        if !victim.wait()? {
            return Err(io::Error::other(
                "the victim ended before the operation, or may not be traced",
            ));
        }
        while victim.ahead()? != Ahead::Mark(Mark::Begin) {
            victim.step()?;
        }
        victim.step()?;
        Ok(victim)
    }

    /// The address of the next instruction, and what that does.
    pub(super) fn look(&mut self) -> io::Result<(u64, Ahead)> {
        let registers = registers(self.child.raw())?;
        let pc = registers.rip;
        let calls = match self.code.get(&pc) {
            Some(calls) => *calls,
            None => {
                // SAFETY: PEEKTEXT reads the tracee's memory through the kernel, not ours.
                let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, self.child.raw(), pc, 0) };
                let calls = word & 0xFFFF == 0x050F;
                self.code.insert(pc, calls);
                calls
            }
        };
        Ok((
            pc,
            match (calls, registers.rax, registers.rdi) {
                (false, ..) => Ahead::Plain,
                (true, MARK, 1) => Ahead::Mark(Mark::Begin),
                (true, MARK, 2) => Ahead::Mark(Mark::Pause),
                (true, MARK, _) => Ahead::Mark(Mark::End),
                (true, number, _) => Ahead::Call(number),
            },
        ))
    }

    fn ahead(&mut self) -> io::Result<Ahead> {
        Ok(self.look()?.1)
    }

    fn resume(&self) -> io::Result<()> {
        // SAFETY: stepping touches only the tracee.
        match unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, self.child.raw(), 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One instruction that cannot sleep.
    pub(super) fn step(&self) -> io::Result<()> {
        self.resume()?;
        match self.wait()? {
            true => Ok(()),
            false => Err(io::Error::other("the victim ended inside the operation: it panicked")),
        }
    }

    /// One instruction that may sleep.
    pub(super) fn step_call(&self) -> io::Result<Stepped> {
        const ASLEEP_FOR: u64 = 3_000_000;
        self.resume()?;
        let mut since = None;
        loop {
            match self.child.status(libc::WNOHANG)? {
                Some(status) if libc::WIFSTOPPED(status) => return Ok(Stepped::Done),
                Some(_) => return Err(io::Error::other("the victim ended in a system call")),
                None => {}
            }
            if state_of(self.child.raw()) == Some('S') {
                let since = *since.get_or_insert_with(now);
                if now() - since > ASLEEP_FOR {
                    return Ok(Stepped::Asleep);
                }
            } else {
                since = None;
            }
            yield_now();
        }
    }

    /// Waits for the end of a system call in which it slept.
    pub(super) fn woken(&self, patience: u64) -> io::Result<bool> {
        let begin = now();
        loop {
            match self.child.status(libc::WNOHANG)? {
                Some(status) => return Ok(libc::WIFSTOPPED(status)),
                None if now() - begin > patience => return Ok(false),
                None => yield_now(),
            }
        }
    }

    fn wait(&self) -> io::Result<bool> {
        Ok(self.child.status(0)?.is_some_and(|status| libc::WIFSTOPPED(status)))
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(pid: i32) -> io::Result<libc::user_regs_struct> {
    let mut registers = MaybeUninit::uninit();
    // SAFETY: the kernel fills the whole struct or fails.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, registers.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled, as the call succeeded.
    Ok(unsafe { registers.assume_init() })
}

#[cfg(not(target_arch = "x86_64"))]
struct Registers {
    rip: u64,
    rax: u64,
    rdi: u64,
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: i32) -> io::Result<Registers> {
    let _ = MaybeUninit::<u8>::uninit();
    Err(io::Error::new(io::ErrorKind::Unsupported, "no stepper for this architecture"))
}
