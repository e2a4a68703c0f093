//! What the supervisor asks of its two workers, and what they answer. All of it is JSON in one
//! packet of a seqpacket socket.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sinew::Mechanism;

use crate::payload::Source;
use crate::report::{Usage, WaitKind};
use crate::settings::Work;

/// One row in one round, for both workers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) side: Side,
    #[serde(with = "by_name")]
    pub(crate) mechanism: Mechanism,
    pub(crate) work: Work,
    /// Bytes of a message, or of the whole bulk payload.
    pub(crate) size: usize,
    /// Bytes of one message of a bulk payload.
    pub(crate) chunk: usize,
    /// After so many messages one way the sender waits for a nod, because the mechanism drops what
    /// the receiver has no room for. Zero means never.
    pub(crate) window: u64,
    pub(crate) wait: WaitKind,
    pub(crate) cpu: usize,
    /// Whether both workers run on that CPU.
    pub(crate) same_cpu: bool,
    pub(crate) source: Source,
    /// Whether to make the untimed pass that verifies.
    pub(crate) verify: bool,
    /// Alternating pairs of batches.
    pub(crate) pairs: usize,
    /// Whole bulk payloads.
    pub(crate) payloads: usize,
    /// How long a batch should take.
    pub(crate) batch_ns: u64,
    /// The folder of the run: for what has a path.
    pub(crate) folder: PathBuf,
    /// Begins the name of whatever has a name: nobody else uses it.
    pub(crate) prefix: String,
    /// System V keys, one for each direction, that nobody else uses.
    pub(crate) keys: [i32; 2],
}

impl Job {
    /// Whether the untimed pass takes a whole file through. A round trip is too slow for that where
    /// each may wake a CPU: it takes the beginning.
    pub(crate) fn verifies_whole_source(&self) -> bool {
        self.verify && self.work != Work::RoundTrip
    }

    /// The longest single message.
    pub(crate) fn message_bytes(&self) -> usize {
        if self.work == Work::Bulk { self.chunk } else { self.size }
    }
}

/// Which of the two workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Side {
    /// It makes the objects, sends first and drives.
    Near,
    /// It attaches and does what the near one says.
    Far,
    /// It keeps a CPU from sleeping.
    Spinner,
}

/// What a worker tells the supervisor at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// From the near worker.
    Measured(Vec<Measured>),
    /// In between: it is about to make the calls of so many messages, and waits for a nod.
    Counting(u64),
    /// From the far worker: it did what it was told.
    Served,
    /// The host does not permit this row: the reason and the remedy.
    Skipped(String),
    /// It went wrong.
    Failed(String),
}

/// The measurements of one row in one round.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Measured {
    pub(crate) usage: Option<Usage>,
    /// Nanoseconds of each sample and how often.
    pub(crate) samples: Vec<(u64, u64)>,
    /// How many messages one sample stands for.
    pub(crate) unit: u64,
    pub(crate) hand_over: Vec<(u64, u64)>,
    /// Time of a library batch by time of its floor batch.
    pub(crate) ratios: Vec<f64>,
    /// Messages (round trips, payloads) through the library, with the time they took in all.
    pub(crate) messages: u64,
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) faults: u64,
    pub(crate) bytes: u64,
    pub(crate) verified: bool,
    pub(crate) sha256: Option<String>,
    pub(crate) doubts: Vec<String>,
}

/// What the near worker tells the far one to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Send back `count` messages.
    Echo { through: Through, count: u64 },
    /// Receive `count` messages; acknowledge after each `window` of them, if that is not zero.
    Sink { through: Through, count: u64, window: u64 },
    /// Receive the source in messages of the size of the row, check each byte; send back if asked.
    Verify { echo: bool, window: u64 },
    /// Receive `count` messages, and send them back if asked, while the calls are counted.
    Count { count: u64, echo: bool },
    /// Attach again, to new objects.
    Attach,
    /// Receive a bulk payload of `total` bytes in messages of `chunk` bytes, and read all of it.
    Bulk { through: Through, total: usize, chunk: usize, check: bool },
    /// Take over a filled memfd.
    TakeOver { check: bool },
    /// That was all.
    End,
}

/// The library or the bare calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Through {
    Library,
    Floor,
}

/// What the far worker answers when it has done it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Done {
    /// From after the first message to after the last.
    pub(crate) elapsed_ns: u64,
    pub(crate) cpu_ns: u64,
    pub(crate) faults: u64,
    pub(crate) verified: bool,
    pub(crate) sha256: Option<String>,
    pub(crate) trouble: Option<String>,
}

mod by_name {
    use serde::{Deserialize, Deserializer, Serializer, de};
    use sinew::Mechanism;

    pub(super) fn serialize<S: Serializer>(m: &Mechanism, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(m.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Mechanism, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}
