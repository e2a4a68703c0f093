//! How a process ended.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::WaitIdStatus;

use crate::signal::Signal;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It returned from `main` or called `exit`, with the lowest eight bits of this number.
    Code(u8),
    /// A signal killed it.
    Signal {
        /// Which.
        signal: Signal,
        /// Whether it left a core dump.
        core: bool,
    },
}

impl Exit {
    /// Whether it ended with code 0.
    #[must_use]
    pub const fn success(self) -> bool {
        matches!(self, Self::Code(0))
    }

    /// From the status that wait(2) gives.
    pub(super) fn from_status(status: i32) -> Self {
        let [low, code, ..] = status.to_le_bytes();
        match Signal::from_raw(i32::from(low & 0x7F)) {
            Some(signal) => Self::Signal { signal, core: low & 0x80 != 0 },
            None => Self::Code(code),
        }
    }

    pub(super) fn from_waitid(status: &WaitIdStatus) -> Self {
        let [code, ..] = status.exit_status().unwrap_or(0).to_le_bytes();
        match status.terminating_signal().and_then(Signal::from_raw) {
            Some(signal) => Self::Signal { signal, core: status.dumped() },
            None => Self::Code(code),
        }
    }
}

impl From<Exit> for ExitStatus {
    fn from(exit: Exit) -> Self {
        Self::from_raw(match exit {
            Exit::Code(code) => i32::from(code) << 8,
            Exit::Signal { signal, core } => signal.as_raw() | if core { 0x80 } else { 0 },
        })
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal { signal, core: false } => write!(f, "killed by {signal}"),
            Self::Signal { signal, core: true } => write!(f, "killed by {signal}, core dumped"),
        }
    }
}
