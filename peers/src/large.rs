//! Large messages: filled by the near side, summed by the far one, which answers with the sum.

use std::time::{Duration, Instant};

use crate::Result;
use crate::job::{Found, Job, Side, Work};
use crate::link::Link;
use crate::stats;

/// How often everything is made anew.
const FIRST_USES: usize = 3;
/// How many may be under way where the next is filled while the last is summed.
const UNDER_WAY: usize = 2;

/// A way for large messages, and back for sums.
pub(crate) trait Large: Sized {
    fn near(job: &Job, link: &Link) -> Result<Self>;
    fn far(job: &Job, link: &Link) -> Result<Self>;
    /// Fills one with the bytes of the source, and sends it.
    fn put(&mut self, source: &[u8]) -> Result<()>;
    /// Receives one of `size` bytes and gives their sum.
    fn take(&mut self, size: usize) -> Result<u64>;
    fn answer(&mut self, sum: u64) -> Result<()>;
    fn answered(&mut self) -> Result<u64>;

    /// As `put`, in parts where the system has a use for that.
    fn put_overlapped(&mut self, source: &[u8]) -> Result<()> {
        self.put(source)
    }

    /// As `take`, of what `put_overlapped` sent.
    fn take_overlapped(&mut self, size: usize) -> Result<u64> {
        self.take(size)
    }
}

/// The sum of the words of a message.
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let words = words.iter().fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(*word)));
    rest.iter().fold(words, |sum, byte| sum.wrapping_add(u64::from(*byte)))
}

pub(crate) fn run<L: Large>(job: &Job, link: &Link) -> Result<Option<Found>> {
    match job.side {
        Side::Near => near::<L>(job, link).map(Some),
        Side::Far => far::<L>(job, link).map(|()| None),
    }
}

fn near<L: Large>(job: &Job, link: &Link) -> Result<Found> {
    let source: Vec<u8> = (0..job.size).map(|at| (at * 31 >> 3) as u8).collect();
    let expected = sum(&source);
    let check = |got: u64| {
        if got == expected { Ok(()) } else { Err("another sum than of what was sent") }
    };
    let mut times = Vec::new();
    if job.work == Work::FirstUse {
        for _ in 0..FIRST_USES {
            link.say(&true)?;
            let begin = Instant::now();
            let mut way = L::near(job, link)?;
            way.put(&source)?;
            check(way.answered()?)?;
            times.push(begin.elapsed().as_nanos() as u64);
            link.meet()?;
        }
        link.say(&false)?;
        return Ok(of(&mut times));
    }
    link.say(&true)?;
    let mut way = L::near(job, link)?;
    // Everything is touched before it is measured.
    let many = if job.work == Work::Overlapped { (64 << 20) / job.size + 3 } else { 4 };
    link.say(&many)?;
    turns(&mut way, job, &source, many, check)?;
    let end = Instant::now() + Duration::from_millis(job.duration_ms);
    while times.len() < 3 || Instant::now() < end && times.len() < 10_000 {
        link.say(&many)?;
        times.extend(turns(&mut way, job, &source, many, check)?);
    }
    link.say(&0_usize)?;
    link.meet()?;
    link.say(&false)?;
    Ok(of(&mut times))
}

fn of(times: &mut [u64]) -> Found {
    let middle = stats::median_of(times);
    Found {
        p50_ns: Some(middle as f64),
        messages: times.len() as u64,
        elapsed_ns: middle * times.len() as u64,
        ..Found::default()
    }
}

/// So many messages, and the times. The far side sleeps before the first, which is not timed.
fn turns<L: Large>(
    way: &mut L,
    job: &Job,
    source: &[u8],
    many: usize,
    check: impl Fn(u64) -> std::result::Result<(), &'static str>,
) -> Result<Vec<u64>> {
    if job.work != Work::Overlapped {
        let mut times = Vec::with_capacity(many);
        for _ in 0..many {
            let begin = Instant::now();
            way.put(source)?;
            check(way.answered()?)?;
            times.push(begin.elapsed().as_nanos() as u64);
        }
        times.remove(0);
        return Ok(times);
    }
    way.put_overlapped(source)?;
    let begin = Instant::now();
    let mut under_way = 1;
    for _ in 1..many {
        if under_way == UNDER_WAY {
            check(way.answered()?)?;
            under_way -= 1;
        }
        way.put_overlapped(source)?;
        under_way += 1;
    }
    for _ in 0..under_way {
        check(way.answered()?)?;
    }
    // The last one's sum is in it, and the first one's filling is not: together one message.
    Ok(vec![begin.elapsed().as_nanos() as u64 / many as u64])
}

fn far<L: Large>(job: &Job, link: &Link) -> Result<()> {
    while link.hear::<bool>()? {
        let mut way = L::far(job, link)?;
        if job.work == Work::FirstUse {
            let sum = way.take(job.size)?;
            way.answer(sum)?;
        } else {
            loop {
                let many: usize = link.hear()?;
                if many == 0 {
                    break;
                }
                for _ in 0..many {
                    let sum = if job.work == Work::Overlapped {
                        way.take_overlapped(job.size)?
                    } else {
                        way.take(job.size)?
                    };
                    way.answer(sum)?;
                }
            }
        }
        link.meet()?;
    }
    Ok(())
}
