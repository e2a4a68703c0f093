//! What the supervisor asks of a worker, and what that answers.

use serde::{Deserialize, Serialize};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Work {
    /// One message there, one back; both sides look without pause.
    Busy,
    /// The same with calls that wait, as each system does by default.
    Blocking,
    /// The same; before each the near side pauses until the far one surely sleeps.
    Asleep,
    /// One way, as fast as it goes, each message copied in and out.
    OneWay,
    /// The same, written and read in place.
    InPlace,
    /// The same, copied, and received many at a time.
    Batches,
    /// One large message: filled by the sender, summed by the receiver, and then the next.
    Large,
    /// The same with the memory made for it: everything is new.
    FirstUse,
    /// The next is filled while the last one is summed.
    Overlapped,
    /// Eight senders, one receiver.
    FanIn,
    /// From two programs' starts to the first message, by name.
    Start,
    /// What an attached pair takes: descriptors and memory.
    Footprint,
}

impl Work {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Busy => "round-trip busy",
            Self::Blocking => "round-trip blocking",
            Self::Asleep => "round-trip asleep",
            Self::OneWay => "one-way",
            Self::InPlace => "one-way in place",
            Self::Batches => "one-way in batches",
            Self::Large => "large",
            Self::FirstUse => "large first use",
            Self::Overlapped => "large overlapped",
            Self::FanIn => "8 to 1",
            Self::Start => "start by name",
            Self::Footprint => "footprint",
        }
    }
}

/// Where the processes run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Placement {
    OneCpu,
    TwoCpus,
    Unpinned,
}

impl Placement {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OneCpu => "one-cpu",
            Self::TwoCpus => "two-cpus",
            Self::Unpinned => "unpinned",
        }
    }
}

/// Which side of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Side {
    /// It begins: sends first; of many to one it is the receiver.
    Near,
    /// It answers; of many to one it is one of the senders.
    Far,
}

/// One row in one round, for one worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) system: String,
    pub(crate) work: Work,
    pub(crate) size: usize,
    pub(crate) side: Side,
    pub(crate) cpu: Option<usize>,
    pub(crate) duration_ms: u64,
    /// Begins the name of whatever has a name: nobody else uses it.
    pub(crate) name: String,
    /// How many are on the far side.
    pub(crate) far: usize,
}

/// What a worker found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Found {
    /// The median, in nanoseconds.
    pub(crate) p50_ns: Option<f64>,
    pub(crate) messages: u64,
    pub(crate) elapsed_ns: u64,
    /// When the first message was there, on the clock of all.
    pub(crate) at_ns: Option<u64>,
    pub(crate) memory_bytes: Option<i64>,
    pub(crate) fds: Option<i64>,
}

/// How a worker ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    Found(Option<Found>),
    Failed(String),
}
