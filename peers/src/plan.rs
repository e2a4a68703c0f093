//! Which rows there are.

use crate::job::{Placement, Work};

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    pub(crate) quick: bool,
    pub(crate) json: bool,
    pub(crate) rounds: usize,
    /// Only rows whose name holds one of these, if there are any.
    pub(crate) only: Vec<String>,
}

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) system: &'static str,
    pub(crate) work: Work,
    pub(crate) size: usize,
    pub(crate) placement: Placement,
    /// Why it is not measured.
    pub(crate) skipped: Option<&'static str>,
}

impl Row {
    /// What `--only` looks in.
    pub(crate) fn name(&self) -> String {
        let (work, placement) = (self.work.name(), self.placement.name());
        format!("{} {work} {} {placement}", self.system, self.size)
    }
}

/// A size in bytes.
pub(crate) const KIB: usize = 1 << 10;
pub(crate) const MIB: usize = 1 << 20;
/// How many send where many do.
pub(crate) const MANY: usize = 8;

const NO_AERON: &str = "skipped: built without `--features aeron`, which compiles Aeron's C driver and needs cmake 3.30, \
    libclang, libbsd and libuuid";
const NO_UNTRUSTED: &str = "skipped: Sinew has no untrusted mode yet";
const NO_NAMES: &str = "skipped: Sinew's channels have no public names yet";

/// Every row, in the order of one round: what is compared stands together.
pub(crate) fn rows(settings: &Settings) -> Vec<Row> {
    use Placement::{OneCpu, TwoCpus, Unpinned};
    let mut rows = Vec::new();
    let mut add = |systems: &[&'static str], work, size, placement| {
        for &system in systems {
            let skipped = match (system, work) {
                ("aeron", _) if !cfg!(feature = "aeron") => Some(NO_AERON),
                ("sinew-untrusted", _) => Some(NO_UNTRUSTED),
                ("sinew", Work::Start) => Some(NO_NAMES),
                _ => None,
            };
            rows.push(Row { system, work, size, placement, skipped });
        }
    };
    add(
        &[
            "bare-bounce-2",
            "sinew",
            "bare-ring",
            "rtrb",
            "aeron",
            "shmem-ipc",
            "iceoryx2",
            "ipc-channel",
            "sinew-untrusted",
        ],
        Work::Busy,
        64,
        TwoCpus,
    );
    add(&["bare-bounce-1", "sinew", "shmem-ipc", "iceoryx2"], Work::Busy, 32, TwoCpus);
    let waiting =
        ["futex", "sinew", "eventfd", "pipe", "unix", "shmem-ipc", "ipc-channel", "iceoryx2"];
    for placement in [OneCpu, TwoCpus, Unpinned] {
        add(&waiting, Work::Blocking, 64, placement);
    }
    add(&waiting, Work::Asleep, 64, TwoCpus);
    add(
        &["bare-ring", "sinew", "rtrb", "aeron", "iceoryx2", "ipc-channel", "pipe", "unix"],
        Work::OneWay,
        64,
        TwoCpus,
    );
    add(&["sinew"], Work::InPlace, 64, TwoCpus);
    add(&["sinew", "shmem-ipc", "aeron"], Work::Batches, 64, TwoCpus);
    for size in [KIB, 64 * KIB] {
        let systems = ["bare-ring", "sinew", "rtrb", "iceoryx2", "ipc-channel", "pipe", "unix"];
        add(&systems, Work::OneWay, size, TwoCpus);
        add(&["sinew"], Work::InPlace, size, TwoCpus);
    }
    for size in [MIB, 100 * MIB] {
        let systems = ["bare-mapping", "sinew", "iceoryx2", "ipc-channel"];
        add(&systems, Work::Large, size, TwoCpus);
        add(&["sinew", "iceoryx2"], Work::Overlapped, size, TwoCpus);
        add(&systems, Work::FirstUse, size, TwoCpus);
    }
    add(&["sinew", "iceoryx2", "pipe", "unix"], Work::FanIn, 64, TwoCpus);
    add(&["sinew", "iceoryx2", "unix"], Work::Start, 64, Unpinned);
    let systems = ["sinew", "iceoryx2", "shmem-ipc", "ipc-channel", "bare-ring", "pipe", "unix"];
    add(&systems, Work::Footprint, 64, TwoCpus);
    let only = &settings.only;
    rows.retain(|row| only.is_empty() || only.iter().any(|word| row.name().contains(word)));
    rows
}
