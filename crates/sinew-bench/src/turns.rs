//! The works of two sides that wait for each other: `round-trip` of a token, and `wake` (for locks
//! `hand-over`), which is the time from the waker's call to the woken process running.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering::Relaxed;

use crate::board::{Board, Word};
use crate::cpu;
use crate::job::{Done, Measured, Side, Through};
use crate::messages::{Row, counted, done};
use crate::pairs::{self, Batch, Runs};
use crate::parties::{self, Opened, Parties, Task, Turn, out_of_place};
use crate::settings::Work;
use crate::stats::Samples;
use crate::trouble::Trouble;

/// Turns of the untimed pass that verifies.
const CHECKED: u64 = 1000;
/// Turns whose system calls are counted.
const COUNTED: u64 = 64;

pub(crate) fn run<P: Parties>(row: Row<'_>) -> Result<Option<Vec<Measured>>, Trouble>
where
    P::Library: Turn,
    P::Floor: Turn,
{
    let Opened { board, mut library, mut floor } = parties::open::<P>(row)?;
    if row.job.side == Side::Near {
        return drive(row, board, library, floor).map(|measured| Some(vec![measured]));
    }
    parties::serve(row, |task| match task {
        Task::Turns { through: Through::Library, count, check } => {
            answer(&mut library, board, count, check)
        }
        Task::Turns { through: Through::Floor, count, check } => {
            answer(&mut floor, board, count, check)
        }
        Task::Wakes { through: Through::Library, count, first } => {
            sleep(&mut library, board, count, first)
        }
        Task::Wakes { through: Through::Floor, count, first } => {
            sleep(&mut floor, board, count, first)
        }
        Task::Count { count } => counted(row, count, || {
            (0..count).try_for_each(|_| library.wait().and_then(|()| library.post()))
        })
        .map(|()| Done::default()),
        Task::Sections { .. } | Task::End => Err(out_of_place()),
    })?;
    Ok(None)
}

/// The far side of round trips.
fn answer(turn: &mut impl Turn, board: &Board, count: u64, check: bool) -> io::Result<Done> {
    turn.wait()?;
    let cpu_before = cpu::cpu_ns();
    let mut verified = true;
    if check {
        // Nothing but the post and the wait orders this word: each turn adds one.
        for turns in 0..count {
            if turns > 0 {
                turn.wait()?;
            }
            let word = board.word(Word::Turn);
            verified &= u64::from(word.load(Relaxed)) == 2 * turns + 1;
            word.fetch_add(1, Relaxed);
            turn.post()?;
        }
    } else {
        turn.post()?;
        for _ in 1..count {
            turn.wait()?;
            turn.post()?;
        }
    }
    Ok(Done { cpu_ns: cpu::cpu_ns() - cpu_before, verified, ..Done::default() })
}

/// The far side of wakes.
fn sleep(turn: &mut impl Turn, board: &Board, count: u64, first: u32) -> io::Result<Done> {
    let cpu_before = cpu::cpu_ns();
    for sample in 0..count {
        let number = first.wrapping_add(sample as u32);
        board.hear(Word::Go, number)?;
        board.say(Word::Entered, number)?;
        turn.wait()?;
        board.stamp().store(cpu::now_ns(), Relaxed);
        turn.settle()?;
        board.say(Word::Done, number)?;
    }
    Ok(Done { cpu_ns: cpu::cpu_ns() - cpu_before, ..Done::default() })
}

struct Sides<'a, L, F> {
    row: Row<'a>,
    board: &'a Board,
    library: L,
    floor: F,
    /// The far process, as the kernel describes its state.
    state: File,
    times: Vec<u64>,
    samples: Samples,
    /// Samples of wakes so far.
    number: u32,
}

fn drive<L: Turn, F: Turn>(
    row: Row<'_>,
    board: &Board,
    library: L,
    floor: F,
) -> Result<Measured, Trouble> {
    let far: u32 = row.link.hear()?;
    let state = File::open(format!("/proc/{far}/stat"))?;
    let (times, samples) = (Vec::new(), Samples::new());
    let mut sides = Sides { row, board, library, floor, state, times, samples, number: 0 };
    let mut measured = Measured { unit: 1, ..Measured::default() };
    if row.job.verify {
        sides.verify(&mut measured)?;
        if row.job.work == Work::RoundTrip {
            sides.count()?;
        }
    }
    pairs::run(row.job, &mut sides, &mut measured)?;
    row.link.say(&Task::End)?;
    measured.samples = sides.samples.to_pairs();
    Ok(measured)
}

impl<L: Turn, F: Turn> Sides<'_, L, F> {
    /// Goes back and forth with a word that each side adds one to, ordered by the turns alone.
    fn verify(&mut self, measured: &mut Measured) -> Result<(), Trouble> {
        if self.row.job.work != Work::RoundTrip {
            // Each sample of a wake is checked by itself: who is asleep runs again, once.
            measured.verified = true;
            return Ok(());
        }
        let word = self.board.word(Word::Turn);
        let mut verified = true;
        self.row.link.say(&Task::Turns {
            through: Through::Library,
            count: CHECKED,
            check: true,
        })?;
        for turns in 0..CHECKED {
            verified &= u64::from(word.load(Relaxed)) == 2 * turns;
            word.fetch_add(1, Relaxed);
            self.library.post()?;
            self.library.wait()?;
        }
        verified &= done(self.row.link)?.verified;
        if !verified {
            return Err(Trouble::Fail("a process went on before it was its turn".to_owned()));
        }
        measured.verified = true;
        Ok(())
    }

    fn count(&mut self) -> Result<(), Trouble> {
        self.row.link.say(&Task::Count { count: COUNTED })?;
        let library = &mut self.library;
        counted(self.row, COUNTED, || {
            (0..COUNTED).try_for_each(|_| library.post().and_then(|()| library.wait()))
        })?;
        done(self.row.link).map(drop)
    }
}

impl<L: Turn, F: Turn> Runs for Sides<'_, L, F> {
    fn has_floor(&self) -> bool {
        true
    }

    fn batch(&mut self, through: Through, count: u64) -> Result<Batch, Trouble> {
        let Self { row, board, state, times, .. } = self;
        times.clear();
        times.reserve(usize::try_from(count).map_err(io::Error::other)?);
        let wakes = row.job.work != Work::RoundTrip;
        let first = self.number.wrapping_add(1);
        if wakes {
            self.number = self.number.wrapping_add(count as u32);
            row.link.say(&Task::Wakes { through, count, first })?;
        } else {
            row.link.say(&Task::Turns { through, count: count + 1, check: false })?;
        }
        let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
        let began = match (through, wakes) {
            (Through::Library, true) => wake(&mut self.library, board, state, first, count, times),
            (Through::Floor, true) => wake(&mut self.floor, board, state, first, count, times),
            (Through::Library, false) => take_turns(&mut self.library, count, times),
            (Through::Floor, false) => take_turns(&mut self.floor, count, times),
        }?;
        let elapsed_ns = cpu::now_ns() - began;
        let near_cpu_ns = cpu::cpu_ns() - cpu_before;
        let near_faults = cpu::faults() - faults;
        let far = done(row.link)?;
        let typical_ns = pairs::median_ns(times);
        Ok(Batch { typical_ns, elapsed_ns, near_cpu_ns, near_faults, far })
    }

    fn record(&mut self, _: &mut Measured, _: &Batch, _: u64) {
        for ns in &self.times {
            self.samples.record(*ns);
        }
    }
}

/// The near side of round trips. Gives when the first of them began.
fn take_turns(turn: &mut impl Turn, count: u64, times: &mut Vec<u64>) -> io::Result<u64> {
    // The first one waits until the far side is there.
    turn.post()?;
    turn.wait()?;
    let began = cpu::now_ns();
    let mut before = began;
    for _ in 0..count {
        turn.post()?;
        turn.wait()?;
        let now = cpu::now_ns();
        times.push(now - before);
        before = now;
    }
    Ok(began)
}

/// The near side of wakes: posts only when the far process is asleep.
fn wake(
    turn: &mut impl Turn,
    board: &Board,
    state: &File,
    first: u32,
    count: u64,
    times: &mut Vec<u64>,
) -> io::Result<u64> {
    let began = cpu::now_ns();
    for sample in 0..count {
        let number = first.wrapping_add(sample as u32);
        turn.prepare()?;
        board.say(Word::Go, number)?;
        board.hear(Word::Entered, number)?;
        while !sleeps(state)? {
            rustix::thread::sched_yield();
        }
        let posted = cpu::now_ns();
        turn.post()?;
        board.hear(Word::Done, number)?;
        times.push(board.stamp().load(Relaxed).saturating_sub(posted));
    }
    Ok(began)
}

/// Whether a process sleeps, as its `/proc/PID/stat` says.
fn sleeps(state: &File) -> io::Result<bool> {
    let mut room = [0; 512];
    let len = state.read_at(&mut room, 0)?;
    // The state is the first letter behind the name in brackets, which may hold anything.
    let end = room[..len].iter().rposition(|byte| *byte == b')');
    Ok(end.and_then(|end| room.get(end + 2)).is_some_and(|state| matches!(state, b'S' | b'D')))
}
