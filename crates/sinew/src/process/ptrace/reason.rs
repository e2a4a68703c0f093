//! Why a tracee stopped: the kernel's several ways to say it, told apart.

use rustix::io::Errno;
use rustix::process::Pid;

use super::sys;

/// Why a tracee stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// A signal is about to be delivered (signal-delivery-stop). It is delivered when the tracee goes
    /// on, unless [`Stopped::set_signal`](super::Stopped::set_signal) says otherwise.
    Signal {
        /// Its number.
        number: i32,
        /// What sent it (si_code): 0 for kill(2), -1 for sigqueue(3), -6 for tgkill(2), above 0 for the kernel.
        code: i32,
        /// The process that sent it, where a process did.
        sender: Option<u32>,
    },
    /// The whole process was stopped by SIGSTOP, SIGTSTP, SIGTTIN or SIGTTOU (group-stop).
    /// [`Stopped::listen`](super::Stopped::listen) leaves it stopped; the other ways make it run.
    Group {
        /// The signal that did it.
        signal: i32,
    },
    /// [`Running::interrupt`](super::Running::interrupt), a SIGCONT after a group-stop, or the beginning of a child that is traced from its
    /// birth on.
    Interrupted,
    /// One instruction was executed.
    Step,
    /// A system call is entered and has done nothing yet.
    SyscallEntry {
        /// Its number.
        number: u64,
        /// Its arguments.
        arguments: [u64; 6],
    },
    /// A system call is done.
    SyscallExit {
        /// What it returned; a negative error number if it failed.
        value: i64,
        /// Whether it failed. An error from 512 to 516 never reaches the program: the call begins anew.
        failed: bool,
    },
    /// It made a child with fork, which is traced too: [`Stopped::take_child`](super::Stopped::take_child).
    Fork {
        /// The child.
        child: u32,
    },
    /// The same with vfork.
    Vfork {
        /// The child.
        child: u32,
    },
    /// The child of vfork has executed a program, or has ended.
    VforkDone {
        /// The child.
        child: u32,
    },
    /// It made a thread, or a child with flags of its own.
    Clone {
        /// The child.
        child: u32,
    },
    /// It executes another program, of which no instruction has run yet.
    Exec {
        /// The number that the thread which called exec had before; all other threads are gone.
        former: u32,
    },
    /// It ends; its memory is still there.
    Exiting {
        /// The status that its parent will have, as wait(2) encodes it.
        status: i32,
    },
    /// A seccomp filter asks (SECCOMP_RET_TRACE).
    Seccomp {
        /// What the filter says.
        data: u16,
    },
    /// A stop that this version does not know.
    Other {
        /// The event, in the numbers of linux/ptrace.h.
        event: i32,
    },
}

const TRAP: i32 = 5;
/// What PTRACE_O_TRACESYSGOOD adds to the signal at a system call.
const SYSGOOD: i32 = 0x80;
/// si_code of a breakpoint instruction on x86.
const SI_KERNEL: i32 = 0x80;

impl Reason {
    /// What a status of wait(2), without its lowest byte, says. `stepping`: it went on by a step.
    pub(super) fn of(pid: Pid, status: i32, stepping: bool) -> Result<Self, Errno> {
        let (signal, event) = (status & 0xFF, status >> 8);
        let message = || sys::event_message(pid);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "process numbers and statuses are ints"
        )]
        let number = || message().map(|n| n as u32);
        Ok(match event {
            0 if signal == TRAP | SYSGOOD => Self::syscall(pid)?,
            0 => Self::signal(pid, signal, stepping)?,
            1 => Self::Fork { child: number()? },
            2 => Self::Vfork { child: number()? },
            3 => Self::Clone { child: number()? },
            4 => Self::Exec { former: number()? },
            5 => Self::VforkDone { child: number()? },
            6 => Self::Exiting { status: number()?.cast_signed() },
            #[expect(clippy::cast_possible_truncation, reason = "a filter has 16 bits to say")]
            7 => Self::Seccomp { data: message()? as u16 },
            128 if signal == TRAP => Self::Interrupted,
            128 => Self::Group { signal },
            event => Self::Other { event },
        })
    }

    fn syscall(pid: Pid) -> Result<Self, Errno> {
        let info = sys::syscall_info(pid)?;
        let [first, second, ..] = info.data;
        Ok(match info.op {
            1 => {
                let [_, a, b, c, d, e, f, _] = info.data;
                Self::SyscallEntry { number: first, arguments: [a, b, c, d, e, f] }
            }
            2 => Self::SyscallExit { value: first.cast_signed(), failed: second & 0xFF != 0 },
            op => Self::Other { event: op.into() },
        })
    }

    fn signal(pid: Pid, number: i32, stepping: bool) -> Result<Self, Errno> {
        let (code, sender) = sys::signal_info(pid)?;
        let sender = u32::try_from(sender).ok().filter(|pid| code <= 0 && *pid > 0);
        // The kernel reports a step as a SIGTRAP of its own, without a sender; a breakpoint has
        // another code, and a SIGTRAP that somebody sent has a sender.
        let by_step = number == TRAP && (0..SI_KERNEL).contains(&code) && sender.is_none();
        if stepping && by_step {
            return Ok(Self::Step);
        }
        Ok(Self::Signal { number, code, sender })
    }
}
