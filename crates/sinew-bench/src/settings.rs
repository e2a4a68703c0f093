//! What can be asked of a run.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sinew::Mechanism;

/// The mechanisms that have rows, in the order of the table: what copies, then what shares.
pub const MECHANISMS: [Mechanism; 14] = [
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
];

/// Whether a mechanism shares pages instead of copying through the kernel.
#[must_use]
pub fn shares_pages(mechanism: Mechanism) -> bool {
    use Mechanism::{Memfd, MmapFile, PosixShm, SysvShm};
    matches!(mechanism, PosixShm | SysvShm | Memfd | MmapFile)
}

/// Bytes of a bulk payload.
pub const BULK_BYTES: usize = 100 << 20;

/// What is done with a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Ping-pong: one message there, one back.
    RoundTrip,
    /// One way, sustained.
    Stream,
    /// One payload of 100 MiB.
    Bulk,
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
    pub const ALL: [Self; 3] = [Self::RoundTrip, Self::Stream, Self::Bulk];

    /// The name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundTrip => "round-trip",
            Self::Stream => "stream",
            Self::Bulk => "bulk",
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
            format!("no work is called {name:?}; there are round-trip, stream and bulk")
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
