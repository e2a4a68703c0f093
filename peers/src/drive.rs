//! The loops that are measured: round trips and one way.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Result;
use crate::clock::{self, Scale};
use crate::ends::Ends;
use crate::job::{Found, Job, Side, Work};
use crate::stats;

/// Begins the last message.
const LAST: u64 = u64::MAX;
/// How long a far side surely has gone to sleep after.
const PAUSE_NS: u64 = 200_000;

fn first_word<const N: usize>(message: &[u8; N]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&message[..8]);
    u64::from_ne_bytes(word)
}

fn last<const N: usize>(count: u64) -> [u8; N] {
    let mut message = [0; N];
    message[..8].copy_from_slice(&LAST.to_ne_bytes());
    message[8..16].copy_from_slice(&count.to_ne_bytes());
    message
}

/// How many were sent before, if this is the last one.
#[inline]
pub(crate) fn last_count<const N: usize>(message: &[u8; N]) -> Option<u64> {
    (first_word(message) == LAST).then(|| second_word(message))
}

/// Does one side of a row.
pub(crate) fn run<E: Ends<N>, const N: usize>(job: &Job, ends: &mut E) -> Result<Option<Found>> {
    match (job.work, job.side) {
        (Work::Busy | Work::Blocking | Work::Asleep, Side::Near) => {
            round_trips(job, ends).map(Some)
        }
        (Work::Busy | Work::Blocking | Work::Asleep, Side::Far) => {
            echo(ends)?;
            Ok(None)
        }
        (_, Side::Near) => {
            pour(job, ends)?;
            Ok(None)
        }
        (_, Side::Far) => drain(job, ends).map(Some),
    }
}

fn round_trips<E: Ends<N>, const N: usize>(job: &Job, ends: &mut E) -> Result<Found> {
    let (message, mut room) = ([7; N], [0; N]);
    let asleep = job.work == Work::Asleep;
    let scale = Scale::begin();
    let duration = Duration::from_millis(job.duration_ms);
    // A tenth of the time to come to speed.
    let warm = Instant::now() + duration / 10;
    while Instant::now() < warm {
        ends.send(&message)?;
        ends.recv(&mut room)?;
    }
    let mut times = Vec::with_capacity(1 << 20);
    let end = Instant::now() + duration;
    let begin = Instant::now();
    while times.len() < times.capacity() && Instant::now() < end {
        // Few looks at the clock.
        for _ in 0..if asleep { 1 } else { 64 } {
            if asleep {
                clock::pause(PAUSE_NS);
            }
            let before = clock::ticks();
            ends.send(&message)?;
            ends.recv(&mut room)?;
            times.push(clock::ticks() - before);
        }
    }
    let elapsed_ns = begin.elapsed().as_nanos() as u64;
    if room != message {
        return Err("another message came back".into());
    }
    ends.send(&last(0))?;
    ends.recv(&mut room)?;
    let p50 = stats::median_of(&mut times) as f64 * scale.nanoseconds();
    Ok(Found { p50_ns: Some(p50), messages: times.len() as u64, elapsed_ns, ..Found::default() })
}

fn echo<E: Ends<N>, const N: usize>(ends: &mut E) -> Result<()> {
    let mut room = [0; N];
    loop {
        ends.recv(&mut room)?;
        ends.send(&room)?;
        if last_count(&room).is_some() {
            return Ok(());
        }
    }
}

/// Sends for the time of the row.
pub(crate) fn pour<E: Ends<N>, const N: usize>(job: &Job, ends: &mut E) -> Result<()> {
    let message = Box::new([7; N]);
    let end = Instant::now() + Duration::from_millis(job.duration_ms);
    let burst = if N <= 1024 { 1024 } else { 16 };
    let mut count = 0;
    while Instant::now() < end {
        for _ in 0..burst {
            ends.send(black_box(&message))?;
        }
        count += burst;
    }
    ends.send(&Box::new(last(count)))
}

fn drain<E: Ends<N>, const N: usize>(job: &Job, ends: &mut E) -> Result<Found> {
    let mut room = Box::new([0; N]);
    // To come to speed.
    let warm = if N <= 1024 { 20_000 } else { 100 };
    let (mut count, mut last_count) = (0_u64, None);
    let mut begin = None;
    if job.work == Work::Batches {
        while last_count.is_none() {
            ends.recv_many(&mut |message| match self::last_count(black_box(message)) {
                None => count += 1,
                last => last_count = last,
            })?;
            if begin.is_none() && count >= warm {
                begin = Some((Instant::now(), count));
            }
        }
    } else {
        loop {
            ends.recv(&mut room)?;
            last_count = self::last_count(black_box(&*room));
            if last_count.is_some() {
                break;
            }
            count += 1;
            if count == warm {
                begin = Some((Instant::now(), count));
            }
        }
    }
    let now = Instant::now();
    if last_count != Some(count) {
        return Err(format!("{count} messages came of {last_count:?}").into());
    }
    let (begin, before) = begin.ok_or("too few messages to measure")?;
    Ok(Found {
        messages: count - before,
        elapsed_ns: now.duration_since(begin).as_nanos() as u64,
        ..Found::default()
    })
}

fn second_word<const N: usize>(message: &[u8; N]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&message[8..16]);
    u64::from_ne_bytes(word)
}
