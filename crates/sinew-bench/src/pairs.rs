//! Batches through the library and through the floor, in turn.

use crate::job::{Done, Job, Measured, Through};
use crate::stats;
use crate::trouble::Trouble;

/// The most operations of a batch.
pub(crate) const BATCH_MAX: u64 = 1 << 20;

/// What one batch gave.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Time of one operation: the median where each is timed, else the mean.
    pub(crate) typical_ns: f64,
    pub(crate) elapsed_ns: u64,
    pub(crate) near_cpu_ns: u64,
    pub(crate) near_faults: u64,
    pub(crate) far: Done,
}

/// What can run batches of a row either way.
pub(crate) trait Runs {
    /// Whether there is a floor to compare with.
    fn has_floor(&self) -> bool;

    /// Runs one batch of `count` operations.
    fn batch(&mut self, through: Through, count: u64) -> Result<Batch, Trouble>;

    /// Takes the samples of the last batch, which went through the library.
    fn record(&mut self, measured: &mut Measured, batch: &Batch, count: u64);
}

/// Warms up, finds how many operations a batch of the wanted time has, and runs all pairs of the
/// row. Their order alternates, so that drift favours neither.
pub(crate) fn run(job: &Job, runs: &mut impl Runs, measured: &mut Measured) -> Result<(), Trouble> {
    let count = calibrate(job.batch_ns, runs)?;
    if runs.has_floor() {
        runs.batch(Through::Floor, count)?;
    }
    for pair in 0..job.pairs {
        let floor_first = pair % 2 == 1;
        let mut floor_ns = None;
        if floor_first && runs.has_floor() {
            floor_ns = Some(runs.batch(Through::Floor, count)?.typical_ns);
        }
        let library = runs.batch(Through::Library, count)?;
        runs.record(measured, &library, count);
        measured.messages += count;
        measured.elapsed_ns += library.elapsed_ns;
        measured.faults += library.near_faults + library.far.faults;
        measured.cpu_ns += library.near_cpu_ns + library.far.cpu_ns;
        if !floor_first && runs.has_floor() {
            floor_ns = Some(runs.batch(Through::Floor, count)?.typical_ns);
        }
        if let Some(floor_ns) = floor_ns {
            measured.ratios.push(library.typical_ns / floor_ns);
        }
    }
    Ok(())
}

fn calibrate(batch_ns: u64, runs: &mut impl Runs) -> Result<u64, Trouble> {
    let mut count = 2;
    loop {
        let elapsed = runs.batch(Through::Library, count)?.elapsed_ns.max(1);
        if elapsed * 3 >= batch_ns || count >= BATCH_MAX {
            let fitting = (count as f64 * batch_ns as f64 / elapsed as f64) as u64;
            return Ok(fitting.clamp(2, BATCH_MAX));
        }
        count *= 4;
    }
}

/// The median of times.
pub(crate) fn median_ns(times: &[u64]) -> f64 {
    let mut sorted: Vec<f64> = Vec::with_capacity(times.len());
    sorted.extend(times.iter().map(|ns| *ns as f64));
    stats::median(&sorted)
}
