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
    /// Lets it run until it enters its next system call, and says which.
    pub(super) fn enter_call(&self) -> io::Result<Ahead> {
        self.resume(libc::PTRACE_SYSCALL)?;
        if !self.wait()? {
            return Err(io::Error::other("the victim ended inside the operation: it panicked"));
        }
        let registers = registers(self.child.raw())?;
        Ok(what(registers.orig_rax, registers.rdi))
    }

    /// Lets it do the system call that it entered.
    pub(super) fn finish_call(&self) -> io::Result<Stepped> {
        self.resume(libc::PTRACE_SYSCALL)?;
        self.done_or_asleep()
    }

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
        Ok((pc, if calls { what(registers.rax, registers.rdi) } else { Ahead::Plain }))
    }

    fn ahead(&mut self) -> io::Result<Ahead> {
        Ok(self.look()?.1)
    }

    fn resume(&self, how: libc::c_uint) -> io::Result<()> {
        // SAFETY: going on touches only the tracee.
        match unsafe { libc::ptrace(how, self.child.raw(), 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// One instruction that cannot sleep.
    pub(super) fn step(&self) -> io::Result<()> {
        self.resume(libc::PTRACE_SINGLESTEP)?;
        match self.wait()? {
            true => Ok(()),
            false => Err(io::Error::other("the victim ended inside the operation: it panicked")),
        }
    }

    /// One instruction that may sleep.
    pub(super) fn step_call(&self) -> io::Result<Stepped> {
        self.resume(libc::PTRACE_SINGLESTEP)?;
        self.done_or_asleep()
    }

    fn done_or_asleep(&self) -> io::Result<Stepped> {
        const ASLEEP_FOR: u64 = 3_000_000;
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

    /// Waits for its next stop. False if it ended.
    fn wait(&self) -> io::Result<bool> {
        let Some(status) = self.child.status(0)? else { return Ok(false) };
        if !libc::WIFSTOPPED(status) {
            return Ok(false);
        }
        match libc::WSTOPSIG(status) {
            libc::SIGTRAP | libc::SIGSTOP => Ok(true),
            signal => Err(io::Error::other(format!("the victim stops for signal {signal}"))),
        }
    }
}

/// The system call of this number and first argument.
fn what(number: u64, argument: u64) -> Ahead {
    match (number, argument) {
        (MARK, 1) => Ahead::Mark(Mark::Begin),
        (MARK, 2) => Ahead::Mark(Mark::Pause),
        (MARK, _) => Ahead::Mark(Mark::End),
        (number, _) => Ahead::Call(number),
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
    orig_rax: u64,
    rdi: u64,
}

#[cfg(not(target_arch = "x86_64"))]
fn registers(_: i32) -> io::Result<Registers> {
    let _ = MaybeUninit::<u8>::uninit();
    Err(io::Error::new(io::ErrorKind::Unsupported, "no stepper for this architecture"))
}
