//! Starts the workers of each row, round after round, and gathers what they found. It measures nothing.

use std::fs;
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::job::{Found, Job, Outcome, Placement, Side, Work};
use crate::link::Link;
use crate::plan::{MANY, Row, Settings, rows};
use crate::report::{Measured, Report};
use crate::worker::WORKER;
use crate::{Result, clock, cpu, ratios};

/// How long a row of a round may take beyond its time.
const PATIENCE: Duration = Duration::from_secs(20);
/// The same where another one has failed already.
const GRACE: Duration = Duration::from_secs(1);
/// A load below which nothing else runs.
const QUIET: f64 = 0.5;

/// Measures all rows.
pub(crate) fn run(settings: &Settings) -> Result<Report> {
    let cpus = cpu::usable();
    let load = load();
    let rows = rows(settings);
    let mut measured: Vec<Measured> = rows.into_iter().map(Measured::new).collect();
    let mut general = Vec::new();
    if load > QUIET {
        general.push(format!("the machine was not quiet: its load was {load:.2} at the start"));
    }
    if settings.rounds < 6 {
        let rounds = settings.rounds;
        general.push(format!("{rounds} rounds: the intervals are less sure than 95 %"));
    }
    let show = std::io::stderr().is_terminal();
    for round in 0..settings.rounds {
        for (index, one) in measured.iter_mut().enumerate() {
            let Some(cpus) = placed(&one.row, &cpus) else {
                one.skip("skipped: it needs two CPUs, and this process may use one");
                continue;
            };
            if one.row.skipped.is_some() {
                continue;
            }
            if show {
                let name = one.row.name();
                let _ = write!(std::io::stderr(), "\r\x1b[Kround {} {name}", round + 1);
            }
            let name = format!("sinew-peers-{}-{round}-{index}", std::process::id());
            let values = row(&one.row, cpus, &name, settings.quick);
            one.add(values);
        }
    }
    if show {
        let _ = write!(std::io::stderr(), "\r\x1b[K");
    }
    let ratios = ratios::of(&measured);
    Ok(Report::new(&measured, ratios, &general))
}

fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|one| one.parse().ok()).unwrap_or(0.0)
}

/// The CPUs of the two sides.
fn placed(row: &Row, cpus: &[usize]) -> Option<[Option<usize>; 2]> {
    let first = cpus.first().copied();
    match row.placement {
        Placement::OneCpu => Some([first; 2]),
        Placement::TwoCpus => Some([first, Some(*cpus.get(1)?)]),
        Placement::Unpinned => Some([None; 2]),
    }
}

fn duration_ms(work: Work, quick: bool) -> u64 {
    match (work, quick) {
        (Work::Large | Work::Overlapped, false) => 200,
        (Work::Large | Work::Overlapped, true) => 100,
        (_, false) => 300,
        (_, true) => 120,
    }
}

struct Worker {
    child: Child,
    link: Link,
}

impl Worker {
    fn start(job: &Job, peers: &[Link]) -> Result<Self> {
        let (link, theirs) = Link::pair()?;
        // All that it needs waits for it when it comes up.
        link.say(job)?;
        if !peers.is_empty() {
            let fds: Vec<_> = peers.iter().map(AsFd::as_fd).collect();
            link.send_fds(&fds)?;
        }
        let child = Command::new("/proc/self/exe")
            .arg0("sinew-peers-worker")
            .env(WORKER, std::process::id().to_string())
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, link })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One row in one round: what all its workers found together.
fn row(row: &Row, cpus: [Option<usize>; 2], name: &str, quick: bool) -> Result<Found> {
    let inside = row.system == "rtrb";
    let far = match row.work {
        Work::FanIn => MANY,
        _ if inside => 0,
        _ => 1,
    };
    let job = |side| Job {
        system: row.system.to_owned(),
        work: row.work,
        size: row.size,
        side,
        cpu: if side == Side::Near { cpus[0] } else { cpus[1] },
        duration_ms: duration_ms(row.work, quick),
        name: name.to_owned(),
        far,
    };
    let named = row.work == Work::Start;
    let (mut near_links, mut far_links) = (Vec::new(), Vec::new());
    for _ in 0..if named { 0 } else { far.max(1) } {
        let (near, far) = Link::pair()?;
        near_links.push(near);
        far_links.push(far);
    }
    let begin = clock::nanoseconds();
    let mut workers = Vec::with_capacity(far + 1);
    if named {
        workers.push(Worker::start(&job(Side::Far), &[])?);
    } else {
        for link in far_links.drain(..).take(far) {
            workers.push(Worker::start(&job(Side::Far), &[link])?);
        }
    }
    workers.push(Worker::start(&job(Side::Near), &near_links)?);
    drop((near_links, far_links));
    let time = PATIENCE + Duration::from_millis(job(Side::Near).duration_ms);
    let mut together = Found::default();
    let mut failures: Vec<String> = Vec::new();
    for worker in workers.iter().rev() {
        // Where one has failed the others come to no end.
        let time = if failures.is_empty() { time } else { GRACE };
        let outcome = worker.link.hear_within::<Outcome>(time);
        match outcome.unwrap_or_else(|e| Outcome::Failed(e.to_string())) {
            Outcome::Failed(why) => failures.push(why),
            Outcome::Found(None) => {}
            Outcome::Found(Some(found)) => {
                let sum = |one: Option<i64>, two: Option<i64>| {
                    two.map_or(one, |two| Some(one.unwrap_or(0) + two))
                };
                let (memory_bytes, fds) =
                    (sum(together.memory_bytes, found.memory_bytes), sum(together.fds, found.fds));
                together = Found { memory_bytes, fds, ..found };
            }
        }
    }
    // Of several the one that is not merely that another had ended.
    let closed = sinew::RecvError::Closed.to_string();
    failures.sort_by_key(|why| *why == closed || *why == sinew::RecvError::TimedOut.to_string());
    if let Some(why) = failures.into_iter().next() {
        return Err(why.into());
    }
    // Now everybody may go.
    for worker in &mut workers {
        let _ = worker.link.say(&true);
    }
    for worker in &mut workers {
        let _ = worker.child.wait();
    }
    if let Some(at) = together.at_ns {
        together.p50_ns = Some(at.saturating_sub(begin) as f64);
    }
    Ok(together)
}
