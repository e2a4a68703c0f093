//! The works that the near process does alone: `uncontended` locks, the `lateness` of timers, and
//! what is done to the far process while that does nothing.

use crate::cpu;
use crate::job::{Done, Measured, Side, Through};
use crate::messages::{Row, counted, done};
use crate::pairs::{self, Batch, Runs};
use crate::parties::{self, Lock, Parties, Solo, Task, out_of_place};
use crate::stats::Samples;
use crate::trouble::Trouble;

/// A sample is the time of so many operations, averaged over a batch, so that those of a few
/// nanoseconds keep their digits.
const UNIT: u64 = 1000;
/// Operations whose system calls are counted.
const COUNTED: u64 = 64;

/// Whether a row may be traced to count its calls: not where it traces the far process itself.
pub(crate) const TRACEABLE: bool = true;

pub(crate) fn run<P: Parties>(
    row: Row<'_>,
    traceable: bool,
) -> Result<Option<Vec<Measured>>, Trouble>
where
    P::Library: Solo,
    P::Floor: Solo,
{
    drive::<P, _, _>(row, traceable, |library| library, |floor| floor)
}

/// The same for a lock that nobody else wants.
pub(crate) fn run_lock<P: Parties>(row: Row<'_>) -> Result<Option<Vec<Measured>>, Trouble>
where
    P::Library: Lock,
    P::Floor: Lock,
{
    drive::<P, _, _>(row, TRACEABLE, Uncontended, Uncontended)
}

/// Locks and unlocks.
struct Uncontended<L>(L);

impl<L: Lock> Solo for Uncontended<L> {
    #[inline]
    fn once(&mut self) -> std::io::Result<Option<u64>> {
        self.0.locked(|| ()).map(|()| None)
    }

    fn check(&mut self) -> std::io::Result<bool> {
        let mut inside = false;
        self.0.locked(|| inside = true)?;
        Ok(inside)
    }
}

struct Sides<'a, L, F> {
    row: Row<'a>,
    library: L,
    floor: F,
    times: Vec<u64>,
    samples: Samples,
}

fn drive<P: Parties, L: Solo, F: Solo>(
    row: Row<'_>,
    traceable: bool,
    library: impl FnOnce(P::Library) -> L,
    floor: impl FnOnce(P::Floor) -> F,
) -> Result<Option<Vec<Measured>>, Trouble> {
    let opened = parties::open::<P>(row)?;
    if row.job.side != Side::Near {
        parties::serve(row, |task| match task {
            Task::Count { count } => counted(row, count, || Ok(())).map(|()| Done::default()),
            _ => Err(out_of_place()),
        })?;
        return Ok(None);
    }
    let (library, floor) = (library(opened.library), floor(opened.floor));
    let (times, samples) = (Vec::new(), Samples::new());
    let mut sides = Sides { row, library, floor, times, samples };
    let _far: u32 = row.link.hear()?;
    let mut measured = Measured { unit: UNIT, ..Measured::default() };
    if row.job.verify {
        for _ in 0..COUNTED {
            if !sides.library.check()? {
                return Err(Trouble::Fail("it did not do what it should".to_owned()));
            }
        }
        measured.verified = true;
        if traceable {
            row.link.say(&Task::Count { count: COUNTED })?;
            let library = &mut sides.library;
            counted(row, COUNTED, || (0..COUNTED).try_for_each(|_| library.once().map(drop)))?;
            done(row.link)?;
        }
    }
    pairs::run(row.job, &mut sides, &mut measured)?;
    row.link.say(&Task::End)?;
    measured.samples = sides.samples.to_pairs();
    Ok(Some(vec![measured]))
}

impl<L: Solo, F: Solo> Runs for Sides<'_, L, F> {
    fn has_floor(&self) -> bool {
        true
    }

    fn batch(&mut self, through: Through, count: u64) -> Result<Batch, Trouble> {
        self.times.clear();
        let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
        let began = cpu::now_ns();
        match through {
            Through::Library => repeat(&mut self.library, count, &mut self.times),
            Through::Floor => repeat(&mut self.floor, count, &mut self.times),
        }?;
        let elapsed_ns = cpu::now_ns() - began;
        let near_cpu_ns = cpu::cpu_ns() - cpu_before;
        let near_faults = cpu::faults() - faults;
        let typical_ns = if self.times.is_empty() {
            elapsed_ns as f64 / count as f64
        } else {
            pairs::median_ns(&self.times)
        };
        Ok(Batch { typical_ns, elapsed_ns, near_cpu_ns, near_faults, far: Done::default() })
    }

    fn record(&mut self, measured: &mut Measured, batch: &Batch, count: u64) {
        measured.bytes += count * self.row.job.size as u64;
        if self.times.is_empty() {
            self.samples.record((batch.typical_ns * UNIT as f64) as u64);
        }
        for ns in &self.times {
            self.samples.record(ns * UNIT);
        }
    }
}

#[inline]
fn repeat(solo: &mut impl Solo, count: u64, times: &mut Vec<u64>) -> std::io::Result<()> {
    for _ in 0..count {
        if let Some(ns) = solo.once()? {
            times.push(ns);
        }
    }
    Ok(())
}
