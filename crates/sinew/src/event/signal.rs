//! Signals: sending them, with a value too, and keeping them from a thread while it has no use for
//! them.
//!
//! [`Signal`] is the number, [`Set`] a set of them, [`Target`] who is to have one. What came is read
//! from a [`signalfd`](crate::signalfd): nothing here installs a handler, and the disposition of no
//! signal is ever changed.
//!
//! ```
//! use std::process::Command;
//! use sinew::signal::{Set, Signal, Target};
//! use sinew::signalfd::{Kind, SignalFd};
//! use sinew::wait::Waits;
//!
//! let job = Signal::rt(3).expect("Linux has 30 or more");
//! let _held = Set::from(job).block()?;
//! let events = SignalFd::new(job)?;
//!
//! Target::process(std::process::id()).queue(job, 42)?;
//! let Kind::Queued(value) = events.wait().unwrap().kind() else { panic!() };
//! assert_eq!(value.as_int(), 42);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Standard and real-time
//! | | standard, 1 to 31 | real-time, [`Signal::rt`] |
//! |---|---|---|
//! | sent again while it is pending | **merged**: one arrives, the first one's data | queued: all arrive |
//! | order | none among different ones | lowest number first, those of one number as sent |
//! | value of [`queue`](Target::queue) | may be lost where the queue is full | arrives, or the call fails |
//!
//! So a standard signal says "look", never "once more": after a SIGCHLD reap until nobody is left.
//!
//! # To whom
//! A pid is a number that the kernel gives to another process once its owner is reaped: a signal to
//! a stored pid may strike a stranger. That cannot happen through a pidfd, nor with the pid of an own
//! child that nobody has waited for yet. The library sends to a pid only where the caller says so
//! ([`Target::process`], [`Target::thread`]).
//!
//! # Masks belong to threads
//! [`Set::block`] keeps signals pending for the calling thread, until the [`Scope`] is dropped. A signal to a
//! *process* goes to any one of its threads that does not block it: block before the first thread is
//! started, because a new thread has the mask of the one that starts it. A program that is started
//! also has it, and keeps it over exec: start it with
//! [`unblock_signals`](crate::command::CommandExt::unblock_signals).
//!
//! # Crashes
//! What was sent stays with its receiver, whatever becomes of the sender. What is pending ends with
//! the receiver. A mask ends with its thread.
//!
//! Source: signal(7), rt_sigqueueinfo(2), pidfd_send_signal(2), tgkill(2), pthread_sigmask(3),
//! sigpending(2).

mod set;
pub(in crate::event) mod sys;
mod target;

use std::fmt;

pub use set::{Scope, Set, Signals};
pub use target::{Target, Value};

/// A signal, by its number.
///
/// ```
/// use sinew::signal::Signal;
///
/// assert_eq!(Signal::TERM.to_string(), "SIGTERM");
/// assert_eq!(Signal::rt(2).unwrap().to_string(), "SIGRTMIN+2");
/// assert_eq!(Signal::from_raw(9), Some(Signal::KILL));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(i32);

macro_rules! standard {
    ($($name:ident $number:ident $about:literal)*) => {
        impl Signal {
            $(#[doc = concat!("`", stringify!($number), "`: ", $about)]
            pub const $name: Self = Self(libc::$number);)*

            /// The name of a standard signal.
            const fn standard_name(self) -> Option<&'static str> {
                match self.0 {
                    $(libc::$number => Some(stringify!($number)),)*
                    _ => None,
                }
            }
        }
    };
}

standard! {
    HUP SIGHUP "the terminal is gone; daemons read their configuration again."
    INT SIGINT "Ctrl-C."
    QUIT SIGQUIT "Ctrl-\\."
    ILL SIGILL "an illegal instruction."
    TRAP SIGTRAP "a breakpoint."
    ABRT SIGABRT "abort(3)."
    BUS SIGBUS "a page of a mapping could not be had."
    FPE SIGFPE "an arithmetic error."
    KILL SIGKILL "ends the process at once. Cannot be blocked."
    USR1 SIGUSR1 "free for programs."
    SEGV SIGSEGV "an invalid address."
    USR2 SIGUSR2 "free for programs."
    PIPE SIGPIPE "a write that nobody can read."
    ALRM SIGALRM "alarm(2) or setitimer(2)."
    TERM SIGTERM "asks the process to end."
    STKFLT SIGSTKFLT "unused."
    CHLD SIGCHLD "a child ended, stopped or went on."
    CONT SIGCONT "go on if stopped."
    STOP SIGSTOP "stops the process. Cannot be blocked."
    TSTP SIGTSTP "Ctrl-Z."
    TTIN SIGTTIN "a read from the terminal in the background."
    TTOU SIGTTOU "a write to the terminal in the background."
    URG SIGURG "out-of-band data on a socket."
    XCPU SIGXCPU "RLIMIT_CPU was reached."
    XFSZ SIGXFSZ "RLIMIT_FSIZE was reached."
    VTALRM SIGVTALRM "a timer of the time in user mode."
    PROF SIGPROF "a timer of the processor time."
    WINCH SIGWINCH "the window changed its size."
    IO SIGIO "I/O is possible (O_ASYNC)."
    PWR SIGPWR "the power fails."
    SYS SIGSYS "a bad system call, or one that seccomp refused."
}

/// The highest number of a standard signal.
const STANDARD: i32 = 31;
/// The highest number of all: the kernel's `_NSIG` on x86-64 and aarch64.
const HIGHEST: i32 = 64;

impl Signal {
    /// The real-time signal `SIGRTMIN + n`, as the C library counts: it keeps the first two of the
    /// kernel for itself. `None` above SIGRTMAX; [`rt_count`](Self::rt_count) says how many there are.
    #[must_use]
    pub fn rt(n: u32) -> Option<Self> {
        let number = i32::try_from(n).ok()?.checked_add(libc::SIGRTMIN())?;
        (number <= libc::SIGRTMAX()).then_some(Self(number))
    }

    /// How many real-time signals there are for programs: 31 with glibc.
    #[must_use]
    pub fn rt_count() -> u32 {
        u32::try_from(libc::SIGRTMAX() - libc::SIGRTMIN() + 1).unwrap_or(0)
    }

    /// The signal of this number; `None` where there is none.
    ///
    /// The numbers between the standard signals and SIGRTMIN are the C library's own. They can be
    /// named, and cannot be blocked.
    #[must_use]
    pub const fn from_raw(number: i32) -> Option<Self> {
        if number >= 1 && number <= HIGHEST { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn as_raw(self) -> i32 {
        self.0
    }

    /// Whether it is a real-time signal, so that those sent while one is pending are queued.
    #[must_use]
    pub const fn is_rt(self) -> bool {
        self.0 > STANDARD
    }

    /// Whether a thread can keep it pending: not SIGKILL, not SIGSTOP, and not what the C library
    /// keeps for itself.
    #[must_use]
    pub fn can_be_blocked(self) -> bool {
        self != Self::KILL && self != Self::STOP && (!self.is_rt() || self.0 >= libc::SIGRTMIN())
    }

    /// The same for calls of rustix.
    pub(crate) fn as_rustix(self) -> rustix::process::Signal {
        sys::as_rustix(self.0)
    }
}

impl fmt::Display for Signal {
    /// `SIGTERM`, `SIGRTMIN+3`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.standard_name() {
            Some(name) => f.pad(name),
            None if self.0 >= libc::SIGRTMIN() => {
                f.pad(&format!("SIGRTMIN+{}", self.0 - libc::SIGRTMIN()))
            }
            None => f.pad(&format!("signal {}", self.0)),
        }
    }
}

impl fmt::Debug for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
