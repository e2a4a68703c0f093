//! Single-steps an operation in a child and counts what it does: system calls, and user
//! instructions before and between them. Exact, so that the numbers can be tests.

use std::io;

use rustix::process::Pid;
#[cfg(target_arch = "x86_64")]
use rustix::process::{Signal, WaitOptions, waitpid};

/// One system call that the operation made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub number: i64,
    /// User instructions since the operation began or the previous call returned.
    pub instructions_before: u64,
}

/// What one run of an operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    /// Its system calls, in order.
    pub calls: Vec<Call>,
    /// User instructions after the last call.
    pub instructions_after: u64,
}

/// A number that no kernel gives a meaning to: it fails with ENOSYS and marks begin and end.
const MARK: i64 = 0x51E3;

/// Forks, runs `operation` in the child `warm` times freely and then once step by step.
///
/// # Errors
/// Where this process may not trace its own child (a sandbox), or the architecture has no stepper.
///
/// # Panics
/// If the child panics or is killed, or if this process has more than one thread.
pub fn measure(warm: usize, mut operation: impl FnMut()) -> io::Result<Steps> {
    if !cfg!(target_arch = "x86_64") {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "no stepper for this architecture"));
    }
    let threads = std::fs::read_dir("/proc/self/task")?.count();
    assert_eq!(threads, 1, "only a process with one thread can fork and go on in the child");
    // SAFETY: one thread, asserted above, so the child may do whatever the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: PTRACE_TRACEME takes no pointers.
            let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
            if traced != 0 {
                // SAFETY: ends the child at once, running nothing of the parent's.
                unsafe { libc::_exit(99) }
            }
            for _ in 0..warm {
                operation();
            }
            // SAFETY: raising a signal in oneself touches no memory.
            unsafe { libc::raise(libc::SIGSTOP) };
            mark();
            operation();
            mark();
            // SAFETY: as above.
            unsafe { libc::_exit(0) }
        }
        pid => follow(Pid::from_raw(pid).expect("fork gives a positive pid")),
    }
}

#[inline(never)]
fn mark() {
    // SAFETY: the kernel refuses an unknown number without looking at any argument.
    unsafe { libc::syscall(MARK) };
}

#[cfg(not(target_arch = "x86_64"))]
fn follow(_: Pid) -> io::Result<Steps> {
    unreachable!("refused before the fork")
}

#[cfg(target_arch = "x86_64")]
fn follow(pid: Pid) -> io::Result<Steps> {
    const SYSCALL: i64 = 0x050F;
    let raw = pid.as_raw_nonzero().get();
    let stopped = wait_for(pid)?;
    assert!(stopped, "the child ended before the operation: it panicked, or may not be traced");

    let mut steps = Steps { calls: Vec::new(), instructions_after: 0 };
    let mut marks = 0;
    let mut count = 0;
    loop {
        let registers = registers(raw)?;
        // SAFETY: PEEKTEXT reads the tracee's memory through the kernel, not ours.
        let word = unsafe { libc::ptrace(libc::PTRACE_PEEKTEXT, raw, registers.rip, 0) };
        if word & 0xFFFF == SYSCALL {
            #[allow(clippy::cast_possible_wrap, reason = "call numbers are small")]
            let number = registers.rax as i64;
            if number == MARK {
                marks += 1;
                if marks == 2 {
                    // The way out of the operation and into the mark is no part of it.
                    steps.instructions_after = count;
                    break;
                }
            } else if marks == 1 {
                steps.calls.push(Call { number, instructions_before: count });
            }
            count = 0;
        } else if marks == 1 {
            count += 1;
        }
        // SAFETY: stepping touches only the tracee.
        if unsafe { libc::ptrace(libc::PTRACE_SINGLESTEP, raw, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        assert!(wait_for(pid)?, "the child ended inside the operation");
    }
    let _ = rustix::process::kill_process(pid, Signal::KILL);
    let _ = waitpid(Some(pid), WaitOptions::empty());
    Ok(steps)
}

/// Waits for the next stop. False if the child ended.
#[cfg(target_arch = "x86_64")]
fn wait_for(pid: Pid) -> io::Result<bool> {
    match waitpid(Some(pid), WaitOptions::UNTRACED)? {
        Some((_, status)) => Ok(status.stopped()),
        None => Ok(false),
    }
}

#[cfg(target_arch = "x86_64")]
fn registers(raw: i32) -> io::Result<libc::user_regs_struct> {
    let mut registers = std::mem::MaybeUninit::uninit();
    // SAFETY: the kernel fills the whole struct or fails.
    let done = unsafe { libc::ptrace(libc::PTRACE_GETREGS, raw, 0, registers.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: filled, as the call succeeded.
    Ok(unsafe { registers.assume_init() })
}
