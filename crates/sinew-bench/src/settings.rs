//! What can be asked of a run.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew::Mechanism;

/// The mechanisms that have rows, in the order of [`Mechanism::ALL`].
pub const MECHANISMS: [Mechanism; 32] = [
    Mechanism::Pipe,
    Mechanism::Fifo,
    Mechanism::UnixStream,
    Mechanism::UnixDgram,
    Mechanism::UnixSeqpacket,
    Mechanism::Tcp,
    Mechanism::Udp,
    Mechanism::PosixMq,
    Mechanism::SysvMq,
    Mechanism::Splice,
    Mechanism::PosixShm,
    Mechanism::SysvShm,
    Mechanism::Memfd,
    Mechanism::MmapFile,
    Mechanism::PosixSem,
    Mechanism::SysvSem,
    Mechanism::Futex,
    Mechanism::Mutex,
    Mechanism::Rwlock,
    Mechanism::Condvar,
    Mechanism::Barrier,
    Mechanism::FileLock,
    Mechanism::Eventfd,
    Mechanism::Timerfd,
    Mechanism::Signal,
    Mechanism::Signalfd,
    Mechanism::Inotify,
    Mechanism::Epoll,
    Mechanism::Pidfd,
    Mechanism::ProcessVm,
    Mechanism::Ptrace,
    Mechanism::Channel,
];

/// What a mechanism is for. The folders of the library, and the parts of the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Bytes cross the kernel.
    Copy,
    /// Pages in two processes.
    Share,
    /// Who goes, and who waits.
    Sync,
    /// Something happened.
    Event,
    /// Another process.
    Process,
    /// The fast plane: messages through shared memory.
    Channel,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] =
        [Self::Copy, Self::Share, Self::Sync, Self::Event, Self::Process, Self::Channel];

    /// Of a mechanism that has rows. One from the future copies.
    #[must_use]
    pub fn of(mechanism: Mechanism) -> Self {
        match mechanism {
            Mechanism::PosixShm | Mechanism::SysvShm | Mechanism::Memfd | Mechanism::MmapFile => {
                Self::Share
            }
            Mechanism::Mutex
            | Mechanism::Rwlock
            | Mechanism::PosixSem
            | Mechanism::SysvSem
            | Mechanism::FileLock
            | Mechanism::Futex
            | Mechanism::Condvar
            | Mechanism::Barrier => Self::Sync,
            Mechanism::Eventfd
            | Mechanism::Epoll
            | Mechanism::Signal
            | Mechanism::Signalfd
            | Mechanism::Inotify
            | Mechanism::Timerfd => Self::Event,
            Mechanism::Pidfd | Mechanism::ProcessVm | Mechanism::Ptrace => Self::Process,
            Mechanism::Channel => Self::Channel,
            _ => Self::Copy,
        }
    }

    /// The name: that of the folder.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Share => "share",
            Self::Sync => "sync",
            Self::Event => "event",
            Self::Process => "process",
            Self::Channel => "channel",
        }
    }
}

/// Whether a mechanism shares pages instead of copying through the kernel.
#[must_use]
pub fn shares_pages(mechanism: Mechanism) -> bool {
    matches!(Kind::of(mechanism), Kind::Share | Kind::Channel)
}

/// Whether a row has bare calls, or a bare ring, to compare with.
#[must_use]
pub fn has_floor(mechanism: Mechanism) -> bool {
    Kind::of(mechanism) != Kind::Share
}

/// Whether what is sent carries data.
#[must_use]
pub fn carries_data(mechanism: Mechanism) -> bool {
    matches!(Kind::of(mechanism), Kind::Copy | Kind::Share | Kind::Channel)
}

/// The works that a mechanism can do.
#[must_use]
pub fn works(mechanism: Mechanism) -> &'static [Work] {
    match mechanism {
        Mechanism::Mutex | Mechanism::Rwlock | Mechanism::FileLock => {
            &[Work::Uncontended, Work::Contended, Work::HandOver]
        }
        Mechanism::PosixSem | Mechanism::SysvSem => {
            &[Work::RoundTrip, Work::Uncontended, Work::Contended, Work::Wake]
        }
        Mechanism::Barrier => &[Work::RoundTrip],
        Mechanism::Futex
        | Mechanism::Condvar
        | Mechanism::Eventfd
        | Mechanism::Epoll
        | Mechanism::Signal
        | Mechanism::Signalfd
        | Mechanism::Inotify => &[Work::RoundTrip, Work::Wake],
        Mechanism::Timerfd => &[Work::Lateness],
        Mechanism::Pidfd => &[Work::Wake],
        Mechanism::ProcessVm => &[Work::Stream],
        Mechanism::Ptrace => &[Work::RoundTrip],
        _ => &[Work::RoundTrip, Work::Stream, Work::Bulk],
    }
}

/// Whether what a row does has a size.
#[must_use]
pub fn has_sizes(mechanism: Mechanism) -> bool {
    carries_data(mechanism) || mechanism == Mechanism::ProcessVm
}

/// Bytes of a bulk payload.
pub const BULK_BYTES: usize = 100 << 20;

/// What is done with a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Ping-pong: one message there, one back; or one post each way, where no data goes along.
    RoundTrip,
    /// One way, sustained.
    Stream,
    /// One payload of 100 MiB.
    Bulk,
    /// One process locks and unlocks; nobody else wants to.
    Uncontended,
    /// Both processes lock and unlock, as fast as they can.
    Contended,
    /// From one owner's unlock to the sleeping next one having the lock.
    HandOver,
    /// From the waker's call to the sleeping process running.
    Wake,
    /// From the moment that was asked for to the process running.
    Lateness,
}

/// Where the two processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Both on the same CPU: every message is a context switch, and no CPU sleeps.
    OneCpu,
    /// Each on its own CPU, which may sleep while it waits.
    TwoCpus,
    /// Each on its own CPU, which is kept from sleeping: shared-memory receivers spin, and under
    /// kernel rows a spinner of lowest priority shares each CPU.
    TwoCpusAwake,
}

/// A row-set to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Rows; empty means all of [`MECHANISMS`].
    pub mechanisms: Vec<Mechanism>,
    /// Message sizes in bytes; `None` means 64, 4096, 65536 and 1 MiB (64 and 65536 if quick).
    pub sizes: Option<Vec<usize>>,
    /// Works; `None` means all.
    pub works: Option<Vec<Work>>,
    /// Placements; `None` means those that fit each mechanism.
    pub placements: Option<Vec<Placement>>,
    /// Measuring time of one row; `None` means what keeps the run within its time.
    pub duration: Option<Duration>,
    /// Fewer rows, within 20 seconds.
    pub quick: bool,
    /// The payload is this file instead of a pattern.
    pub input: Option<PathBuf>,
}

/// How a run tells what it is doing.
pub trait Progress {
    /// `done` of `total` steps are done, and now comes `what`.
    fn step(&mut self, done: usize, total: usize, what: &str);
}

impl Work {
    /// Every work.
    pub const ALL: [Self; 8] = [
        Self::RoundTrip,
        Self::Stream,
        Self::Bulk,
        Self::Uncontended,
        Self::Contended,
        Self::HandOver,
        Self::Wake,
        Self::Lateness,
    ];

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round-trip",
            Self::Stream => "stream",
            Self::Bulk => "bulk",
            Self::Uncontended => "uncontended",
            Self::Contended => "contended",
            Self::HandOver => "hand-over",
            Self::Wake => "wake",
            Self::Lateness => "lateness",
        }
    }
}

impl Placement {
    /// Every placement.
    pub const ALL: [Self; 3] = [Self::OneCpu, Self::TwoCpus, Self::TwoCpusAwake];

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OneCpu => "one-cpu",
            Self::TwoCpus => "two-cpus",
            Self::TwoCpusAwake => "two-cpus-awake",
        }
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Work {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|w| w.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("no work is called {name:?}; there are {names}")
        })
    }
}

impl FromStr for Placement {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|p| p.name() == name).ok_or_else(|| {
            format!(
                "no placement is called {name:?}; there are one-cpu, two-cpus and two-cpus-awake"
            )
        })
    }
}
