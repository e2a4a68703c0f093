//! The work of two sides that want the same lock: `contended`. Both lock and unlock as fast as they
//! can, with one addition inside.

use std::io;
use std::sync::atomic::Ordering::Relaxed;

use crate::board::{Board, Word};
use crate::cpu;
use crate::job::{Done, Measured, Side, Through};
use crate::messages::{Row, counted, done};
use crate::pairs::{self, Batch, Runs};
use crate::parties::{self, Lock, Opened, Parties, Task, out_of_place};
use crate::stats::Samples;
use crate::trouble::Trouble;

/// A sample is the time of so many sections, averaged over a batch.
const UNIT: u64 = 1000;
/// Sections of the untimed pass that verifies, on both sides together.
const CHECKED: u64 = 20_000;
/// Sections whose system calls are counted.
const COUNTED: u64 = 64;

pub(crate) fn run<P: Parties>(row: Row<'_>) -> Result<Option<Vec<Measured>>, Trouble>
where
    P::Library: Lock,
    P::Floor: Lock,
{
    let Opened { board, mut library, mut floor } = parties::open::<P>(row)?;
    if row.job.side == Side::Near {
        return drive(row, board, library, floor).map(|measured| Some(vec![measured]));
    }
    parties::serve(row, |task| match task {
        Task::Sections { through: Through::Library, count, number } => {
            contend(&mut library, board, count, number, false)
        }
        Task::Sections { through: Through::Floor, count, number } => {
            contend(&mut floor, board, count, number, false)
        }
        Task::Count { count } => {
            counted(row, count, || (0..count).try_for_each(|_| library.locked(|| ())))
                .map(|()| Done::default())
        }
        Task::Turns { .. } | Task::Wakes { .. } | Task::End => Err(out_of_place()),
    })?;
    Ok(None)
}

/// One side: begins together with the other, and says when it ended. The addition is no atomic one:
/// two owners at once would lose some.
fn contend(
    lock: &mut impl Lock,
    board: &Board,
    count: u64,
    number: u32,
    near: bool,
) -> io::Result<Done> {
    let guarded = board.word(Word::Guarded);
    let (mine, other) = if near { (Word::Go, Word::Entered) } else { (Word::Entered, Word::Go) };
    board.say(mine, number)?;
    board.hear(other, number)?;
    let (began, cpu_before) = (cpu::now_ns(), cpu::cpu_ns());
    for _ in 0..count {
        lock.locked(|| guarded.store(guarded.load(Relaxed).wrapping_add(1), Relaxed))?;
    }
    let elapsed_ns = cpu::now_ns() - began;
    let cpu_ns = cpu::cpu_ns() - cpu_before;
    Ok(Done { elapsed_ns, cpu_ns, ..Done::default() })
}

struct Sides<'a, L, F> {
    row: Row<'a>,
    board: &'a Board,
    library: L,
    floor: F,
    samples: Samples,
    /// Batches so far.
    number: u32,
}

fn drive<L: Lock, F: Lock>(
    row: Row<'_>,
    board: &Board,
    library: L,
    floor: F,
) -> Result<Measured, Trouble> {
    let _far: u32 = row.link.hear()?;
    let mut sides = Sides { row, board, library, floor, samples: Samples::new(), number: 0 };
    let mut measured = Measured { unit: UNIT, ..Measured::default() };
    if row.job.verify {
        let guarded = board.word(Word::Guarded);
        let before = guarded.load(Relaxed);
        sides.batch(Through::Library, CHECKED)?;
        if u64::from(guarded.load(Relaxed).wrapping_sub(before)) != CHECKED {
            return Err(Trouble::Fail("two processes had the lock at once".to_owned()));
        }
        measured.verified = true;
        row.link.say(&Task::Count { count: COUNTED })?;
        let library = &mut sides.library;
        counted(row, 2 * COUNTED, || (0..COUNTED).try_for_each(|_| library.locked(|| ())))?;
        done(row.link)?;
    }
    pairs::run(row.job, &mut sides, &mut measured)?;
    row.link.say(&Task::End)?;
    measured.samples = sides.samples.to_pairs();
    Ok(measured)
}

impl<L: Lock, F: Lock> Runs for Sides<'_, L, F> {
    fn has_floor(&self) -> bool {
        true
    }

    /// `count` sections in all, half of them on each side.
    fn batch(&mut self, through: Through, count: u64) -> Result<Batch, Trouble> {
        let each = count.div_ceil(2);
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        self.row.link.say(&Task::Sections { through, count: each, number })?;
        let faults = cpu::faults();
        let near = match through {
            Through::Library => contend(&mut self.library, self.board, each, number, true),
            Through::Floor => contend(&mut self.floor, self.board, each, number, true),
        }?;
        let near_faults = cpu::faults() - faults;
        let far = done(self.row.link)?;
        // While one side is still at it and the other is through, nobody contends.
        let elapsed_ns = near.elapsed_ns.max(far.elapsed_ns);
        let typical_ns = elapsed_ns as f64 / (2 * each) as f64;
        Ok(Batch { typical_ns, elapsed_ns, near_cpu_ns: near.cpu_ns, near_faults, far })
    }

    fn record(&mut self, _: &mut Measured, batch: &Batch, _: u64) {
        self.samples.record((batch.typical_ns * UNIT as f64) as u64);
    }
}
