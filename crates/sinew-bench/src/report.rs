//! What a run gives: the JSON contract (schema 1). A field that does not apply to a row is absent.

use serde::{Deserialize, Serialize};

use crate::settings::{Placement, Work};

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The version of this format.
    pub schema: u32,
    /// Where it ran.
    pub host: Host,
    /// What was asked for.
    pub settings: SettingsUsed,
    /// What was measured.
    pub rows: Vec<Row>,
    /// What could not be measured by the nature of the mechanism or by a limit of this host.
    pub skipped: Vec<Skipped>,
    /// What went wrong: rows that failed. Empty in a good run; the exit status is 1 otherwise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<Skipped>,
}

/// The machine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// `x86_64`, `aarch64`.
    pub arch: String,
    /// The model name of the first CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The hypervisor, where the CPU says that there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hypervisor: Option<String>,
    /// The version of this command.
    pub sinew: String,
}

/// The settings that the run used.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SettingsUsed {
    /// Whether `--quick` was given.
    pub quick: bool,
    /// Message sizes in bytes.
    pub sizes: Vec<usize>,
    /// Works.
    pub works: Vec<Work>,
    /// Placements.
    pub placements: Vec<Placement>,
    /// Measuring time of one row, in milliseconds.
    pub duration_ms: u64,
    /// How often all rows were gone through.
    pub rounds: usize,
    /// The file that the payload was taken from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<Input>,
}

/// A payload file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    /// Its path.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, as `sha256sum` prints it.
    pub sha256: String,
}

/// One measured row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// The name of the mechanism.
    pub mechanism: String,
    /// What was done.
    pub work: Work,
    /// For `bulk`: whether the objects were new, used before, or handed over filled.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Bytes of one message; of the whole payload for `bulk`; 0 where nothing is carried.
    pub size: usize,
    /// On which CPUs, and whether they were kept from sleeping.
    pub placement: Placement,
    /// For shared memory: whether the receiver spins or sleeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<WaitKind>,
    /// Messages (round trips) measured.
    pub count: u64,
    /// Nanoseconds of one round trip, one message, or one payload. For `stream`, of one message
    /// averaged over a batch; percentiles are then those of the batches.
    pub ns: Distribution,
    /// Messages (round trips) a second.
    pub messages_per_s: f64,
    /// Payload bytes a second. A round trip counts its payload twice.
    pub bytes_per_s: f64,
    /// CPU time of both processes together for one message (round trip, payload).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_ns_per_message: Option<f64>,
    /// System calls of both processes for one message (round trip), counted in the untimed pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls_per_message: Option<f64>,
    /// Page faults of both processes for each MiB of payload, for shared memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults_per_mib: Option<f64>,
    /// Time through the library divided by time of the same work in bare libc calls: median over
    /// alternating batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_ratio: Option<f64>,
    /// The 95 % confidence interval of that median.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub floor_ratio_ci: Option<[f64; 2]>,
    /// For `bulk` by hand-over: nanoseconds from the moment before the descriptor is sent to the
    /// receiver's answer that it has it mapped and has read the first byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hand_over_ns: Option<Distribution>,
    /// Whether the receiver saw every byte as it was sent, in the untimed pass.
    pub verified: bool,
    /// With an input file: the SHA-256 of what the receiver got.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Why to distrust the row; empty if nothing speaks against it.
    pub doubts: Vec<String>,
}

/// Minimum, percentiles, maximum and mean.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// The least.
    pub min: f64,
    /// The median.
    pub p50: f64,
    /// Of ten, one took longer.
    pub p90: f64,
    /// Of a hundred, one took longer.
    pub p99: f64,
    /// Of a thousand, one took longer.
    pub p999: f64,
    /// The most.
    pub max: f64,
    /// The mean.
    pub mean: f64,
}

/// What of a bulk transfer is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Usage {
    /// Everything is new: the pages are touched for the first time.
    First,
    /// The objects and buffers were used before.
    Repeated,
    /// A filled memfd is created, sealed and handed over.
    HandOver,
}

/// How a receiver of shared memory waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitKind {
    /// It spins.
    Awake,
    /// It sleeps on a futex.
    Blocking,
}

/// A row that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The name of the mechanism.
    pub mechanism: String,
    /// What was to be done.
    pub work: Work,
    /// With messages of this many bytes.
    pub size: usize,
    /// On which CPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Why not, and what would change that.
    pub reason: String,
}
