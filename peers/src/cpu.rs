//! On which CPUs a process runs.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Those that this process may use.
pub(crate) fn usable() -> Vec<usize> {
    let Ok(set) = sched_getaffinity(None) else { return vec![0] };
    (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect()
}

/// Runs on all of them again.
#[cfg(feature = "aeron")]
pub(crate) fn unpin() -> std::io::Result<()> {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|cpu| set.set(cpu));
    Ok(sched_setaffinity(None, &set)?)
}

/// Stays on one from now on; its threads too that are started later.
pub(crate) fn pin(cpu: usize) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}
