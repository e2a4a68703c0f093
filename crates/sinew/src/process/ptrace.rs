//! Tracing another process: stopping it, stepping it, reading and changing its registers and memory.
//!
//! A tracee is either [`Running`] or [`Stopped`], and what needs a stopped one exists only there.
//!
//! ```no_run
//! use sinew::ptrace::{Next, Options, Reason};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tracee = Options::new().exit_kill().seize(4711)?;
//! tracee.interrupt()?;
//! let Next::Stopped(stopped) = tracee.next() else { return Ok(()) };
//! println!("at {:#x}", stopped.registers()?.pc());
//!
//! // Until its next system call.
//! if let Next::Stopped(stopped) = stopped.to_syscall().next() {
//!     if let Reason::SyscallEntry { number, .. } = stopped.reason() {
//!         println!("call {number}");
//!     }
//!     // Dropping it lets it go on untraced.
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Seized, not attached
//! [`Options::seize`] does not stop the tracee and sends it no SIGSTOP, so that a stop of job control
//! is told from one of ours. An [`interrupt`](Running::interrupt) is not without effect, though: a system call that
//! is never restarted (epoll_wait, semtimedop, sigtimedwait) returns EINTR to the program.
//!
//! One thread is traced: the one whose number is given, which for a process is its first. Others
//! are seized by their own numbers; threads and children made later, with [`Options::forks`] and
//! [`Options::clones`].
//!
//! # Bound to a thread
//! The kernel takes the requests only from the thread that seized. So these types are not [`Send`]. When
//! that thread ends, in whatever way, its tracees go on untraced; with [`Options::exit_kill`] the kernel
//! kills them instead.
//!
//! # Waiting
//! No descriptor becomes ready when a tracee stops. [`Running`] has the verb
//! [`wait`](Waits::wait): without a bound it sleeps in the kernel; bounded, it looks again after naps
//! that grow to 1 ms. [`Running::next`] then takes what is there. A `std::process::Child` of this
//! process that is waited for elsewhere meanwhile takes the stops away.
//!
//! # A tracee that dies
//! It can be killed at any moment, in a stop too. Requests then fail with [`TraceError::Gone`], going on gives a
//! [`Running`] as always, and its [`next`](Running::next) is [`Next::Ended`]. A tracee that is
//! a child of this process stays to be reaped by whoever holds its `Child`.
//!
//! Source: ptrace(2), wait(2).

use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, waitid};

use super::target::{number, refused, shown};
use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::mechanism::Mechanism;
use crate::wait::{Mode, Wait, Waits, drive_by_naps};

mod reason;
mod registers;
mod sys;

pub use reason::Reason;
pub use registers::Registers;

/// What is to be traced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    flags: usize,
}

/// The flags of linux/ptrace.h.
const TRACESYSGOOD: usize = 1;
const TRACEFORK: usize = 1 << 1;
const TRACEVFORK: usize = 1 << 2;
const TRACECLONE: usize = 1 << 3;
const TRACEEXEC: usize = 1 << 4;
const TRACEVFORKDONE: usize = 1 << 5;
const TRACEEXIT: usize = 1 << 6;
const TRACESECCOMP: usize = 1 << 7;
const EXITKILL: usize = 1 << 20;

impl Options {
    /// Nothing but what is asked for by hand: interrupts, steps, system calls, signals.
    #[must_use]
    pub const fn new() -> Self {
        Self { flags: TRACESYSGOOD }
    }

    const fn with(self, flags: usize) -> Self {
        Self { flags: self.flags | flags }
    }

    /// Lets the kernel kill the tracee when this thread ends with it, so that no half-changed program
    /// runs on. Dropping a tracee still lets it go on.
    #[must_use]
    pub const fn exit_kill(self) -> Self {
        self.with(EXITKILL)
    }

    /// Stops when it forks; children are traced too.
    #[must_use]
    pub const fn forks(self) -> Self {
        self.with(TRACEFORK | TRACEVFORK | TRACEVFORKDONE)
    }

    /// Stops when it makes a thread; threads are traced too.
    #[must_use]
    pub const fn clones(self) -> Self {
        self.with(TRACECLONE)
    }

    /// Stops when it executes another program.
    #[must_use]
    pub const fn execs(self) -> Self {
        self.with(TRACEEXEC)
    }

    /// Stops when it ends, while its memory is still there.
    #[must_use]
    pub const fn exits(self) -> Self {
        self.with(TRACEEXIT)
    }

    /// Stops where a seccomp filter says SECCOMP_RET_TRACE.
    #[must_use]
    pub const fn seccomp(self) -> Self {
        self.with(TRACESECCOMP)
    }

    /// Begins to trace the process or thread of this number, and lets it run.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) with the reason: what
    /// [`process_vm`](crate::process_vm) says, or that it is traced already.
    pub fn seize(self, pid: u32) -> Result<Running> {
        const OPERATION: &str = "seize";
        let error = |errno| {
            Error::os(OPERATION, errno).on(Mechanism::Ptrace).object(format_args!("process {pid}"))
        };
        let absent = || error(Errno::SRCH).because("nothing has this number, or it has ended");
        let number = number(pid).ok_or_else(absent)?;
        match sys::seize(number, self.flags) {
            Ok(()) => Ok(Running::new(number, is_own_child(pid))),
            Err(Errno::SRCH) => Err(absent()),
            Err(Errno::PERM) => Err(self.explain(number)),
            Err(errno) => Err(error(errno)),
        }
    }

    fn explain(self, pid: Pid) -> Error {
        let error = refused("seize", Mechanism::Ptrace, pid);
        let pid = pid.as_raw_nonzero();
        let own = i32::try_from(std::process::id());
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<i32>().ok()
        };
        if status.lines().any(|line| line.starts_with("State:\tZ") || line.starts_with("State:\tX"))
        {
            return error.of_kind(ErrorKind::NotFound).because("it has ended").fix("reap it");
        }
        match field("TracerPid:") {
            Some(tracer) if tracer > 0 => {
                error.because(format!("process {tracer} traces it already")).fix("end that one")
            }
            _ if field("Tgid:") == own.ok() => {
                error.because("it is a thread of this process").fix("trace from a child process")
            }
            _ => error,
        }
    }
}

/// A tracee that runs, as far as is known. Dropping it interrupts it and lets it go on untraced;
/// that waits until it stops, at most a second where it sleeps uninterruptibly.
#[derive(Debug)]
pub struct Running {
    core: Core,
}

/// A tracee that stands still. Dropping it lets it go on untraced, with the signal for which it
/// stopped.
#[derive(Debug)]
pub struct Stopped {
    core: Core,
    reason: Reason,
    /// What it is given when it goes on; 0 for nothing.
    signal: i32,
    /// Born in this stop and not taken yet.
    child: Option<Running>,
}

#[derive(Debug)]
struct Core {
    pid: Pid,
    /// A child of this process, which whoever started it will reap.
    own_child: bool,
    /// It went on by a step.
    stepping: bool,
    /// Cleared when another value stands for the tracee, or when there is none any more.
    attached: bool,
    /// The requests are those of one thread.
    here: PhantomData<*const ()>,
}

/// What became of a running tracee.
#[derive(Debug)]
#[must_use = "dropping a stopped tracee lets it go on untraced"]
pub enum Next {
    /// It stands still.
    Stopped(Stopped),
    /// It has ended.
    Ended(Ended),
}

/// The end of a tracee.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The number it had.
    pub pid: u32,
    /// How it ended.
    pub how: How,
}

/// How a tracee ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum How {
    /// By itself, with this status.
    Exited(i32),
    /// By a signal.
    Killed {
        /// Its number.
        signal: i32,
        /// Whether it left a core dump.
        dumped: bool,
    },
    /// Somebody else of this process reaped it, or its thread went when another one called exec.
    Unknown,
}

/// Why a request on a tracee failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceError {
    /// It was killed, or does not stand still any more. [`Running::next`] tells.
    Gone,
    /// Nothing is mapped at the address.
    NotMapped,
    /// The kernel refused with this error number.
    Os(i32),
}

impl From<Errno> for TraceError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::SRCH => Self::Gone,
            errno => Self::Os(errno.raw_os_error()),
        }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("the tracee was killed, or does not stand still"),
            Self::NotMapped => f.write_str("nothing is mapped at the address"),
            Self::Os(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl std::error::Error for TraceError {}

impl Core {
    /// Hands the tracee over to another value.
    fn take(&mut self) -> Self {
        let Self { pid, own_child, stepping, .. } = *self;
        let attached = std::mem::replace(&mut self.attached, false);
        Self { pid, own_child, stepping, attached, here: PhantomData }
    }

    /// What the kernel has to say of it, left there or taken.
    fn status(&self, options: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
        let options = options | WaitIdOptions::EXITED | WaitIdOptions::STOPPED;
        waitid(WaitId::Pid(self.pid), options)
    }

    /// Takes its next stop, which only this thread does, its tracer. ECHILD: it has ended. Whoever asks for
    /// its end as well has to leave that, and so to ask twice for each stop.
    fn stop(&self) -> Result<Option<WaitIdStatus>, Errno> {
        waitid(WaitId::Pid(self.pid), WaitIdOptions::STOPPED)
    }
}

impl Running {
    fn new(pid: Pid, own_child: bool) -> Self {
        let core = Core { pid, own_child, stepping: false, attached: true, here: PhantomData };
        Self { core }
    }

    /// The number of the tracee, in this pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        shown(self.core.pid)
    }

    /// Makes it stop soon. It may stop for another reason before; then it stops once more.
    ///
    /// # Errors
    /// [`TraceError::Gone`] if it has ended.
    pub fn interrupt(&self) -> Result<(), TraceError> {
        Ok(sys::interrupt(self.core.pid)?)
    }

    /// Its next stop, or its end. Waits as long as it takes; [`wait`](Waits) first with a bound where
    /// that may be too long.
    pub fn next(mut self) -> Next {
        loop {
            match self.core.stop() {
                Ok(None) | Err(Errno::INTR) => {}
                Ok(Some(status)) => {
                    if let Some(stopped) = self.judge(&status) {
                        return Next::Stopped(stopped);
                    }
                }
                Err(_) => {
                    if let Some(ended) = self.end() {
                        return Next::Ended(ended);
                    }
                }
            }
        }
    }

    /// What a stop means. None: it was killed while that was asked, and its end is to come.
    fn judge(&mut self, status: &WaitIdStatus) -> Option<Stopped> {
        let code = status.trapping_signal().or(status.stopping_signal())?;
        let reason = match Reason::of(self.core.pid, code, self.core.stepping) {
            Ok(reason) => reason,
            Err(Errno::SRCH) => return None,
            Err(_) => Reason::Other { event: code >> 8 },
        };
        Some(self.stopped(reason))
    }

    /// How it ended. None: it has not, and stops again, as the last thread of a process whose
    /// first one had ended and that executes a program.
    fn end(&mut self) -> Option<Ended> {
        let how = match self.core.status(WaitIdOptions::NOWAIT) {
            Ok(None) | Err(Errno::INTR) => return None,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => How::Exited(code),
                (_, Some(signal)) => How::Killed { signal, dumped: status.dumped() },
                _ => return None,
            },
            Err(_) => How::Unknown,
        };
        if !self.core.own_child && how != How::Unknown {
            let _ = self.core.status(WaitIdOptions::NOHANG);
        }
        self.core.attached = false;
        Some(Ended { pid: self.pid(), how })
    }

    fn stopped(&mut self, reason: Reason) -> Stopped {
        let child = match reason {
            Reason::Fork { child } | Reason::Vfork { child } | Reason::Clone { child } => {
                number(child).map(|child| Self::new(child, false))
            }
            _ => None,
        };
        let signal = match reason {
            Reason::Signal { number, .. } => number,
            _ => 0,
        };
        Stopped { core: self.core.take(), reason, signal, child }
    }
}

impl Waits for Running {
    /// It has stopped or ended: [`next`](Running::next) will not wait.
    type Waited = ();

    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        let look = |mode| {
            let hang = match mode {
                Mode::MayBlock => WaitIdOptions::empty(),
                Mode::NonBlocking => WaitIdOptions::NOHANG,
            };
            match self.core.status(WaitIdOptions::NOWAIT | hang) {
                // Reaped by others: it has ended.
                Ok(Some(_)) | Err(Errno::CHILD) => Ok(()),
                Ok(None) => Err(Errno::AGAIN),
                Err(errno) => Err(errno),
            }
        };
        Ok(drive_by_naps(wait, look)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.core.attached {
            return;
        }
        // An error means that its end is to come.
        let _ = sys::interrupt(self.core.pid);
        if self.wait_timeout(Duration::from_secs(1)).is_ok() {
            // Detaches when dropped, where it stopped.
            let _ = Self { core: self.core.take() }.next();
        }
    }
}

impl Stopped {
    /// The number of the tracee, in this pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        shown(self.core.pid)
    }

    /// Why it stopped.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The child of which a [`Fork`](Reason::Fork), [`Vfork`](Reason::Vfork) or
    /// [`Clone`](Reason::Clone) tells. It is traced with the same options, and its first stop is
    /// [`Interrupted`](Reason::Interrupted). Not taken, it goes on untraced.
    #[must_use]
    pub fn take_child(&mut self) -> Option<Running> {
        self.child.take()
    }

    /// Its general registers.
    ///
    /// # Errors
    /// [`TraceError::Gone`]; EOPNOTSUPP for a program of 32 bits.
    pub fn registers(&self) -> Result<Registers, TraceError> {
        Ok(Registers::new(sys::registers(self.core.pid)?))
    }

    /// Changes its general registers.
    ///
    /// # Errors
    /// [`TraceError::Gone`]; EIO for values that the processor cannot have.
    pub fn set_registers(&self, registers: &Registers) -> Result<(), TraceError> {
        sys::set_registers(self.core.pid, &registers.raw)?;
        #[cfg(target_arch = "aarch64")]
        if let Some(number) = registers.number {
            sys::set_syscall_number(self.core.pid, number)?;
        }
        Ok(())
    }

    /// The word at `address` of its memory, whatever the protection there. For more than a word
    /// [`process_vm`](crate::process_vm) is faster.
    ///
    /// # Errors
    /// [`TraceError::NotMapped`], [`TraceError::Gone`].
    pub fn peek(&self, address: usize) -> Result<usize, TraceError> {
        sys::peek(self.core.pid, address).map_err(at_address)
    }

    /// Writes the word at `address` of its memory, even where the tracee may not (its code).
    ///
    /// # Errors
    /// [`TraceError::NotMapped`], [`TraceError::Gone`].
    pub fn poke(&self, address: usize, word: usize) -> Result<(), TraceError> {
        sys::poke(self.core.pid, address, word).map_err(at_address)
    }

    /// Gives it another signal when it goes on, or none: only where it stopped for a
    /// [`Signal`](Reason::Signal).
    ///
    /// # Errors
    /// EINVAL for a number outside of 1 to 64, or in a stop of another kind.
    pub fn set_signal(&mut self, signal: Option<i32>) -> Result<(), TraceError> {
        let here = matches!(self.reason, Reason::Signal { .. });
        match signal {
            Some(number) if !here || !(1..=64).contains(&number) => {
                Err(TraceError::from(Errno::INVAL))
            }
            _ => {
                self.signal = signal.unwrap_or(0);
                Ok(())
            }
        }
    }

    /// Lets it run.
    #[must_use = "dropping it ends the tracing"]
    pub fn cont(self) -> Running {
        self.resume(sys::Resume::Cont)
    }

    /// Lets it execute one instruction, which for a system call is all of it.
    #[must_use = "dropping it ends the tracing"]
    pub fn step(self) -> Running {
        self.resume(sys::Resume::Step)
    }

    /// Lets it run until it enters or leaves a system call.
    #[must_use = "dropping it ends the tracing"]
    pub fn to_syscall(self) -> Running {
        self.resume(sys::Resume::Syscall)
    }

    /// Leaves it in its [`Group`](Reason::Group) stop, until a SIGCONT or an interrupt. In
    /// another stop it is as [`cont`](Self::cont).
    #[must_use = "dropping it ends the tracing"]
    pub fn listen(self) -> Running {
        match self.reason {
            Reason::Group { .. } => self.resume(sys::Resume::Listen),
            _ => self.cont(),
        }
    }

    /// Kills it (SIGKILL, the whole process).
    #[must_use = "its end is still to be waited for"]
    pub fn kill(self) -> Running {
        // While it is not reaped its number is its own. An error means that it has ended.
        let _ = kill_process(self.core.pid, Signal::KILL);
        self.running()
    }

    /// Lets it go on untraced, with the signal for which it stopped. The same as dropping it.
    pub fn detach(self) {}

    fn resume(mut self, how: sys::Resume) -> Running {
        let signal = std::mem::take(&mut self.signal);
        // If this fails the tracee was killed, and its end is the next thing to be seen.
        let _ = sys::resume(self.core.pid, how, signal);
        self.core.stepping = how == sys::Resume::Step;
        self.running()
    }

    fn running(mut self) -> Running {
        Running { core: self.core.take() }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if self.core.attached {
            let _ = sys::resume(self.core.pid, sys::Resume::Detach, self.signal);
        }
    }
}

/// What the kernel says of an address where nothing is.
fn at_address(errno: Errno) -> TraceError {
    match errno {
        Errno::IO | Errno::FAULT => TraceError::NotMapped,
        errno => errno.into(),
    }
}

/// Whether `pid` is a child process of this one.
fn is_own_child(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    field("PPid:") == Some(std::process::id()) && field("Tgid:") == Some(pid)
}
