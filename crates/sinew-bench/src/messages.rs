//! The works that move messages: `round-trip` and `stream`, and the untimed pass that verifies.

use std::io;

use sha2::{Digest, Sha256};

use crate::carrier::Carrier;
use crate::job::{Done, Job, Measured, Order, Outcome, Through};
use crate::link::Link;
use crate::pairs::{self, Batch, Runs};
use crate::payload::{Payload, Source};
use crate::settings::Work;
use crate::stats::Samples;
use crate::trouble::Trouble;
use crate::{calls, cpu};

/// A stream's sample is the time of so many messages, averaged over a batch, so that messages of a
/// few nanoseconds keep their digits.
const STREAM_UNIT: u64 = 1000;

/// What a row runs on: the job, the line to the other side, the payload.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) job: &'a Job,
    pub(crate) link: &'a Link,
    pub(crate) supervisor: &'a Link,
    pub(crate) payload: &'a Payload,
}

/// Drives a row, with or without a floor to compare with.
pub(crate) fn drive<L: Carrier, F: Carrier>(
    row: Row<'_>,
    library: &mut L,
    floor: Option<&mut F>,
) -> Result<Measured, Trouble> {
    let mut measured = Measured { unit: 1, ..Measured::default() };
    if row.job.work == Work::Stream {
        measured.unit = STREAM_UNIT;
    }
    if row.job.verify {
        verify(row, library, &mut measured)?;
        count_calls(row, library)?;
    }
    let mut batches = Batches {
        row,
        library,
        floor,
        reply: vec![0; row.job.size],
        times: Vec::new(),
        samples: Samples::new(),
    };
    pairs::run(row.job, &mut batches, &mut measured)?;
    row.link.say(&Order::End)?;
    measured.samples = batches.samples.to_pairs();
    Ok(measured)
}

struct Batches<'a, L, F> {
    row: Row<'a>,
    library: &'a mut L,
    floor: Option<&'a mut F>,
    reply: Vec<u8>,
    times: Vec<u64>,
    samples: Samples,
}

impl<L: Carrier, F: Carrier> Runs for Batches<'_, L, F> {
    fn has_floor(&self) -> bool {
        self.floor.is_some()
    }

    fn batch(&mut self, through: Through, count: u64) -> Result<Batch, Trouble> {
        let (row, reply, times) = (self.row, &mut self.reply, &mut self.times);
        match (through, self.floor.as_deref_mut()) {
            (Through::Library, _) => batch(row, self.library, through, count, reply, times),
            (Through::Floor, Some(floor)) => batch(row, floor, through, count, reply, times),
            (Through::Floor, None) => Err(no_floor().into()),
        }
    }

    fn record(&mut self, measured: &mut Measured, batch: &Batch, count: u64) {
        let size = self.row.job.size as u64;
        if self.row.job.work == Work::Stream {
            let ns = batch.elapsed_ns as f64 * STREAM_UNIT as f64 / count as f64;
            self.samples.record(ns as u64);
            measured.bytes += count * size;
        } else {
            for ns in &self.times {
                self.samples.record(*ns);
            }
            measured.bytes += 2 * count * size;
        }
    }
}

fn batch<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    through: Through,
    count: u64,
    reply: &mut [u8],
    times: &mut Vec<u64>,
) -> Result<Batch, Trouble> {
    match row.job.work {
        Work::Stream => stream(row, carrier, through, count),
        _ => round_trips(row, carrier, through, count, reply, times),
    }
}

fn round_trips<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    through: Through,
    count: u64,
    reply: &mut [u8],
    times: &mut Vec<u64>,
) -> Result<Batch, Trouble> {
    let Row { job, link, payload, .. } = row;
    times.clear();
    times.reserve(usize::try_from(count).map_err(io::Error::other)?);
    let mut hot = payload.hot(job.size);
    link.say(&Order::Echo { through, count: count + 1 })?;
    // The first one waits until the far side is there.
    carrier.send(hot.message())?;
    carrier.recv(reply)?;
    let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
    let begin = cpu::now_ns();
    let mut before = begin;
    for _ in 0..count {
        carrier.send(hot.message())?;
        carrier.recv(reply)?;
        let now = cpu::now_ns();
        times.push(now - before);
        before = now;
    }
    let near_cpu_ns = cpu::cpu_ns() - cpu_before;
    let near_faults = cpu::faults() - faults;
    let far = done(link)?;
    let elapsed_ns = before - begin;
    Ok(Batch { typical_ns: pairs::median_ns(times), elapsed_ns, near_cpu_ns, near_faults, far })
}

fn stream<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    through: Through,
    count: u64,
) -> Result<Batch, Trouble> {
    let Row { job, link, payload, .. } = row;
    let window = job.window;
    let mut hot = payload.hot(job.size);
    link.say(&Order::Sink { through, count: count + 1, window })?;
    let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
    for sent in 1..=count + 1 {
        carrier.send(hot.message())?;
        if window != 0 && sent % window == 0 {
            link.await_nod()?;
        }
    }
    let near_cpu_ns = cpu::cpu_ns() - cpu_before;
    let near_faults = cpu::faults() - faults;
    let far = done(link)?;
    let elapsed_ns = far.elapsed_ns;
    Ok(Batch {
        typical_ns: elapsed_ns as f64 / count as f64,
        elapsed_ns,
        near_cpu_ns,
        near_faults,
        far,
    })
}

/// What the far side says when it is through.
pub(crate) fn done(link: &Link) -> Result<Done, Trouble> {
    let done: Done = link.hear()?;
    match done.trouble {
        Some(trouble) => Err(Trouble::Fail(trouble)),
        None => Ok(done),
    }
}

/// Sends the whole source; the far side checks every byte, and so does this one of what comes back.
fn verify<L: Carrier>(
    row: Row<'_>,
    library: &mut L,
    measured: &mut Measured,
) -> Result<(), Trouble> {
    let Row { job, link, payload, .. } = row;
    let echo = job.work == Work::RoundTrip;
    let mut reply = vec![0; job.size];
    link.say(&Order::Verify { echo, window: job.window })?;
    let mut intact = true;
    for (index, message) in (1_u64..).zip(payload.source().chunks(job.size)) {
        library.send(message)?;
        if echo {
            let reply = &mut reply[..message.len()];
            library.recv(reply)?;
            intact &= reply == message;
        } else if job.window != 0 && index % job.window == 0 {
            link.await_nod()?;
        }
    }
    let done: Done = link.hear()?;
    if let Some(trouble) = done.trouble {
        return Err(Trouble::Fail(trouble));
    }
    if !(intact && done.verified) {
        return Err(Trouble::Fail("a message arrived with other bytes than were sent".to_owned()));
    }
    measured.verified = true;
    measured.sha256 = done.sha256;
    Ok(())
}

/// Moves some messages while the supervisor counts the system calls of both sides.
fn count_calls<L: Carrier>(row: Row<'_>, library: &mut L) -> Result<(), Trouble> {
    let Row { job, link, payload, .. } = row;
    let echo = job.work == Work::RoundTrip;
    let most = if job.size > 64 << 10 { 8 } else { 64 };
    let count = if job.window == 0 { most } else { most.min(job.window) };
    link.say(&Order::Count { count, echo })?;
    let mut reply = vec![0; job.size];
    let mut hot = payload.hot(job.size);
    counted(row, count, || {
        for _ in 0..count {
            library.send(hot.message())?;
            if echo {
                library.recv(&mut reply)?;
            }
        }
        Ok(())
    })?;
    let done: Done = link.hear()?;
    done.trouble.map_or(Ok(()), |trouble| Err(Trouble::Fail(trouble)))
}

/// Does `work` between two marks, when the supervisor is ready to count.
pub(crate) fn counted(
    row: Row<'_>,
    count: u64,
    work: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    row.supervisor.say(&Outcome::Counting(count))?;
    row.supervisor.await_nod()?;
    calls::mark();
    let result = work();
    calls::mark();
    result
}

/// Does what the near side orders, until it says that that was all.
pub(crate) fn serve<L: Carrier, F: Carrier>(
    row: Row<'_>,
    library: &mut L,
    mut floor: Option<&mut F>,
) -> Result<(), Trouble> {
    let mut room = vec![0; row.job.size];
    loop {
        let order: Order = row.link.hear()?;
        let done = match order {
            Order::End => return Ok(()),
            Order::Verify { echo, window } => check(row, library, &mut room, echo, window),
            Order::Count { count, echo } => {
                let counted = counted(row, count, || {
                    for _ in 0..count {
                        library.recv(&mut room)?;
                        if echo {
                            library.send(&room)?;
                        }
                    }
                    Ok(())
                });
                counted.map(|()| Done::default())
            }
            Order::Echo { through: Through::Library, count } => {
                echo_back(library, &mut room, count)
            }
            Order::Sink { through: Through::Library, count, window } => {
                sink(row, library, &mut room, count, window)
            }
            Order::Echo { through: Through::Floor, count } => match floor.as_deref_mut() {
                Some(floor) => echo_back(floor, &mut room, count),
                None => Err(no_floor()),
            },
            Order::Sink { through: Through::Floor, count, window } => match floor.as_deref_mut() {
                Some(floor) => sink(row, floor, &mut room, count, window),
                None => Err(no_floor()),
            },
            Order::Attach | Order::Bulk { .. } | Order::TakeOver { .. } => {
                Err(io::Error::other("this order is for bulk"))
            }
        };
        let done =
            done.unwrap_or_else(|e| Done { trouble: Some(e.to_string()), ..Done::default() });
        row.link.say(&done)?;
    }
}

fn no_floor() -> io::Error {
    io::Error::other("shared memory has no floor of system calls")
}

fn echo_back<C: Carrier>(carrier: &mut C, room: &mut [u8], count: u64) -> io::Result<Done> {
    // The first one is not measured: it waits until this side is there.
    carrier.recv(room)?;
    let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
    carrier.send(room)?;
    for _ in 1..count {
        carrier.recv(room)?;
        // What comes back is the near side's own message: the room is not written again before
        // it was received there, so vmsplice may share it.
        carrier.send(room)?;
    }
    Ok(Done {
        cpu_ns: cpu::cpu_ns() - cpu_before,
        faults: cpu::faults() - faults,
        ..Done::default()
    })
}

fn sink<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    room: &mut [u8],
    count: u64,
    window: u64,
) -> io::Result<Done> {
    let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
    let mut begin = 0;
    for received in 1..=count {
        carrier.recv(room)?;
        if received == 1 {
            begin = cpu::now_ns();
        }
        if window != 0 && received % window == 0 {
            row.link.nod()?;
        }
    }
    Ok(Done {
        elapsed_ns: cpu::now_ns() - begin,
        cpu_ns: cpu::cpu_ns() - cpu_before,
        faults: cpu::faults() - faults,
        ..Done::default()
    })
}

fn check<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    room: &mut [u8],
    echo: bool,
    window: u64,
) -> io::Result<Done> {
    let from_file = matches!(row.job.source, Source::File(_)) && row.job.verifies_whole_source();
    let mut hash = Sha256::new();
    let mut verified = true;
    for (index, expected) in (1_u64..).zip(row.payload.source().chunks(row.job.size)) {
        let room = &mut room[..expected.len()];
        carrier.recv(room)?;
        verified &= room == expected;
        if from_file {
            hash.update(&room);
        }
        if echo {
            carrier.send(room)?;
        } else if window != 0 && index % window == 0 {
            row.link.nod()?;
        }
    }
    let sha256 = from_file.then(|| format!("{:x}", hash.finalize()));
    Ok(Done { verified, sha256, ..Done::default() })
}
