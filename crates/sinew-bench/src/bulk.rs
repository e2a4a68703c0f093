//! The work that moves one payload of 100 MiB: through new objects, through the same again, and,
//! for a memfd, by handing over what is filled already.

use std::io;
use std::os::fd::AsFd;

use sha2::{Digest, Sha256};
use sinew::memfd::{self, Memfd, Seals};

use crate::carrier::Carrier;
use crate::cpu;
use crate::job::{Done, Job, Measured, Order, Through};
use crate::kernel::Ends;
use crate::memory;
use crate::messages::Row;
use crate::payload::{self, Source};
use crate::report::Usage;
use crate::shared::{self, Region};
use crate::stats::Samples;
use crate::trouble::Trouble;

/// The part of a payload that the library and the bare calls move in turn, for comparison.
const PARTS: usize = 10;

/// Collects the samples of one usage.
struct Tally {
    measured: Measured,
    samples: Samples,
    hand_over: Samples,
}

impl Tally {
    fn new(usage: Usage) -> Self {
        let measured = Measured { usage: Some(usage), unit: 1, ..Measured::default() };
        Self { measured, samples: Samples::new(), hand_over: Samples::new() }
    }

    fn add(&mut self, row: Row<'_>, one: &One) {
        self.samples.record(one.elapsed_ns);
        let m = &mut self.measured;
        m.messages += 1;
        m.elapsed_ns += one.elapsed_ns;
        m.cpu_ns += one.cpu_ns + one.far.cpu_ns;
        m.faults += one.faults + one.far.faults;
        m.bytes += row.job.size as u64;
    }

    fn check(&mut self, far: &Done) -> Result<(), Trouble> {
        if !far.verified {
            return Err(Trouble::Fail(
                "the payload arrived with other bytes than were sent".into(),
            ));
        }
        self.measured.verified = true;
        self.measured.sha256.clone_from(&far.sha256);
        Ok(())
    }

    fn end(mut self) -> Measured {
        self.measured.samples = self.samples.to_pairs();
        self.measured.hand_over = self.hand_over.to_pairs();
        self.measured
    }
}

/// What one payload took on the near side, and what the far side says.
struct One {
    elapsed_ns: u64,
    cpu_ns: u64,
    faults: u64,
    far: Done,
}

/// Times one payload: `go` begins with the order to the far side and ends with its answer.
fn time_one(go: impl FnOnce() -> Result<Done, Trouble>) -> Result<One, Trouble> {
    let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
    let begin = cpu::now_ns();
    let far = go()?;
    let elapsed_ns = cpu::now_ns() - begin;
    if let Some(trouble) = far.trouble {
        return Err(Trouble::Fail(trouble));
    }
    Ok(One { elapsed_ns, cpu_ns: cpu::cpu_ns() - cpu_before, faults: cpu::faults() - faults, far })
}

/// Drives a mechanism that copies through the kernel.
pub(crate) fn drive_copies<E: Ends>(row: Row<'_>) -> Result<Vec<Measured>, Trouble> {
    let (mut first, mut repeated) = (Tally::new(Usage::First), Tally::new(Usage::Repeated));
    if row.job.verify {
        row.link.say(&Order::Attach)?;
        let (mut library, _floor) = E::near(row.job, row.link)?;
        let one = time_one(|| send_all(row, &mut library, Through::Library, row.job.size, true))?;
        first.check(&one.far)?;
        repeated.check(&one.far)?;
    }
    for _ in 0..row.job.payloads {
        let [one, two] = move_twice::<E>(row, Through::Library, row.job.size)?;
        first.add(row, &one);
        repeated.add(row, &two);
    }
    // What the library costs shows in a part of the payload as well as in all of it, and a part
    // can be repeated more often.
    let part = row.job.size / PARTS;
    for pair in 0..row.job.pairs {
        let mut times = [[0.0; 2]; 2];
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for which in order {
            let through = if which == 0 { Through::Library } else { Through::Floor };
            times[which] = move_twice::<E>(row, through, part)?.map(|one| one.elapsed_ns as f64);
        }
        let [library, floor] = times;
        first.measured.ratios.push(library[0] / floor[0]);
        repeated.measured.ratios.push(library[1] / floor[1]);
    }
    row.link.say(&Order::End)?;
    Ok(vec![first.end(), repeated.end()])
}

/// Moves `total` bytes through new objects, and then through the same again.
fn move_twice<E: Ends>(row: Row<'_>, through: Through, total: usize) -> Result<[One; 2], Trouble> {
    let mut ends = None;
    let one = time_one(|| {
        row.link.say(&Order::Attach)?;
        let ends = ends.insert(E::near(row.job, row.link)?);
        send_through(row, ends, through, total)
    })?;
    let Some(mut ends) = ends else { return Err(Trouble::Fail("nothing was opened".into())) };
    let two = time_one(|| send_through(row, &mut ends, through, total))?;
    Ok([one, two])
}

fn send_through<L: Carrier, F: Carrier>(
    row: Row<'_>,
    (library, floor): &mut (L, F),
    through: Through,
    total: usize,
) -> Result<Done, Trouble> {
    match through {
        Through::Library => send_all(row, library, through, total, false),
        Through::Floor => send_all(row, floor, through, total, false),
    }
}

fn send_all<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    through: Through,
    total: usize,
    check: bool,
) -> Result<Done, Trouble> {
    let Job { chunk, window, .. } = *row.job;
    row.link.say(&Order::Bulk { through, total, chunk, check })?;
    for (sent, message) in (1_u64..).zip(row.payload.bytes()[..total].chunks(chunk)) {
        carrier.send(message)?;
        if window != 0 && sent % window == 0 {
            row.link.await_nod()?;
        }
    }
    Ok(row.link.hear()?)
}

/// Serves a mechanism that copies through the kernel.
pub(crate) fn serve_copies<E: Ends>(row: Row<'_>) -> Result<(), Trouble> {
    let mut ends = None;
    let mut room = Vec::new();
    loop {
        match row.link.hear()? {
            Order::End => return Ok(()),
            Order::Attach => {
                // New objects, and a new place for the payload.
                drop(ends.take());
                ends = Some(E::far(row.job, row.link)?);
                room = vec![0; row.job.size];
            }
            Order::Bulk { through, total, chunk, check } => {
                let Some((library, floor)) = ends.as_mut() else { continue };
                let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
                let received = match through {
                    Through::Library => receive_all(row, library, &mut room[..total], chunk),
                    Through::Floor => receive_all(row, floor, &mut room[..total], chunk),
                };
                let done = match received {
                    Ok(_) => Done {
                        cpu_ns: cpu::cpu_ns() - cpu_before,
                        faults: cpu::faults() - faults,
                        ..verdict(row, &room[..total], check)
                    },
                    Err(e) => Done { trouble: Some(e.to_string()), ..Done::default() },
                };
                row.link.say(&done)?;
            }
            _ => return Err(Trouble::Fail("this order is for messages".into())),
        }
    }
}

/// Receives the payload to its place, and reads every byte while it is warm.
fn receive_all<C: Carrier>(
    row: Row<'_>,
    carrier: &mut C,
    room: &mut [u8],
    chunk: usize,
) -> io::Result<u64> {
    let mut sum = 0_u64;
    for (received, message) in (1_u64..).zip(room.chunks_mut(chunk)) {
        carrier.recv(message)?;
        sum = sum.wrapping_add(payload::sum(message));
        if row.job.window != 0 && received % row.job.window == 0 {
            row.link.nod()?;
        }
    }
    Ok(std::hint::black_box(sum))
}

fn verdict(row: Row<'_>, got: &[u8], check: bool) -> Done {
    if !check {
        return Done::default();
    }
    let verified = got == &row.payload.bytes()[..got.len()];
    let sha256 = matches!(row.job.source, Source::File(_)).then(|| {
        // The payload goes on with the file from its start where the file is shorter.
        let file = &got[..row.payload.source().len().min(got.len())];
        format!("{:x}", Sha256::digest(file))
    });
    Done { verified, sha256, ..Done::default() }
}

/// Drives a mechanism that shares pages.
pub(crate) fn drive_shared(row: Row<'_>, hand_over: bool) -> Result<Vec<Measured>, Trouble> {
    let (mut first, mut repeated) = (Tally::new(Usage::First), Tally::new(Usage::Repeated));
    let total = row.job.size;
    let bytes = &row.payload.bytes()[..total];
    let mut check = row.job.verify;
    for _ in 0..row.job.payloads {
        let mut region = None;
        let fill = |region: &mut Region, check: bool| {
            let through = Through::Library;
            row.link.say(&Order::Bulk { through, total, chunk: row.job.chunk, check })?;
            region.fill(bytes)?;
            Ok(row.link.hear()?)
        };
        let one = time_one(|| {
            row.link.say(&Order::Attach)?;
            let mapping = memory::create(row.job, row.link, shared::region_bytes(total))?;
            fill(region.insert(Region::new(mapping, total, row.job.wait)?), false)
        })?;
        first.add(row, &one);
        let Some(mut region) = region else { continue };
        for _ in 0..3 {
            let two = time_one(|| fill(&mut region, false))?;
            repeated.add(row, &two);
        }
        if check {
            let far = fill(&mut region, true)?;
            first.check(&far)?;
            repeated.check(&far)?;
            check = false;
        }
    }
    let mut all = vec![first.end(), repeated.end()];
    if hand_over {
        all.push(drive_hand_over(row)?);
    }
    row.link.say(&Order::End)?;
    Ok(all)
}

/// Serves a mechanism that shares pages.
pub(crate) fn serve_shared(row: Row<'_>) -> Result<(), Trouble> {
    let mut region = None;
    loop {
        match row.link.hear()? {
            Order::End => return Ok(()),
            Order::Attach => {
                drop(region.take());
                let mapping = memory::attach(row.job, row.link)?;
                region = Some(Region::new(mapping, row.job.size, row.job.wait)?);
            }
            Order::Bulk { check, .. } => {
                let Some(region) = region.as_mut() else { continue };
                let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
                let mut sum = 0_u64;
                let mut copy = Vec::new();
                region.drain(|_, bytes| {
                    sum = sum.wrapping_add(payload::sum(bytes));
                    if check {
                        copy.extend_from_slice(bytes);
                    }
                })?;
                std::hint::black_box(sum);
                let (cpu_ns, faults) = (cpu::cpu_ns() - cpu_before, cpu::faults() - faults);
                row.link.say(&Done { cpu_ns, faults, ..verdict(row, &copy, check) })?;
            }
            Order::TakeOver { check } => take_over(row, check)?,
            _ => return Err(Trouble::Fail("this order is for messages".into())),
        }
    }
}

/// Creates, fills and seals a memfd, and gives it away.
fn drive_hand_over(row: Row<'_>) -> Result<Measured, Trouble> {
    let mut tally = Tally::new(Usage::HandOver);
    let total = row.job.size;
    let hand_over = |check: bool, handed: &mut u64| {
        let memfd = memfd::Options::new().create(&row.job.prefix, total as u64)?;
        memfd.write_at(0, &row.payload.bytes()[..total])?;
        memfd.add_seals(Seals::SHRINK | Seals::GROW | Seals::WRITE | Seals::SEAL)?;
        row.link.say(&Order::TakeOver { check })?;
        let begin = cpu::now_ns();
        row.link.send_fds(&[memfd.as_fd()])?;
        row.link.await_nod()?;
        *handed = cpu::now_ns() - begin;
        Ok(row.link.hear()?)
    };
    for _ in 0..row.job.payloads {
        let mut handed = 0;
        let one = time_one(|| hand_over(false, &mut handed))?;
        tally.add(row, &one);
        tally.hand_over.record(handed);
    }
    if row.job.verify {
        tally.check(&time_one(|| hand_over(true, &mut 0))?.far)?;
    }
    Ok(tally.end())
}

/// Takes a filled memfd: maps it, reads the first byte, says so, and then reads all of it.
fn take_over(row: Row<'_>, check: bool) -> Result<(), Trouble> {
    let (cpu_before, faults) = (cpu::cpu_ns(), cpu::faults());
    let [fd] = row.link.recv_fds()?;
    let frozen = Memfd::try_from(fd)?.frozen()?;
    let bytes: &[u8] = &frozen;
    std::hint::black_box(bytes.first());
    row.link.nod()?;
    std::hint::black_box(payload::sum(bytes));
    let (cpu_ns, faults) = (cpu::cpu_ns() - cpu_before, cpu::faults() - faults);
    let whole = bytes.len() == row.job.size;
    let verdict = if whole { verdict(row, bytes, check) } else { Done::default() };
    row.link.say(&Done { cpu_ns, faults, ..verdict })?;
    Ok(())
}
