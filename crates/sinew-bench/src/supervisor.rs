//! The run: all rows, several times over, and what comes out of them.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use sinew::{Error, ErrorKind, Result};

use crate::job::{Job, Measured, Side};
use crate::pair::{self, RowEnd};
use crate::payload::Source;
use crate::plan::{Plan, PlannedRow};
use crate::report::{Input, Report, Row, SettingsUsed, Skipped};
use crate::rundir::RunDir;
use crate::settings::{Placement, Progress, Settings, Work, shares_pages};
use crate::signals::EndSignals;
use crate::stats::{self, Samples};
use crate::trouble::Trouble;
use crate::{cpu, host, input};

/// Rounds whose medians differ by more than this factor make a row doubtful.
const UNSTABLE: f64 = 1.3;
/// A floor ratio whose interval is wider than this says little.
const VAGUE: f64 = 0.2;
/// So many samples a 99th percentile needs.
const FEW: u64 = 100;

/// What has been gathered of one planned row.
struct Gathered {
    row: PlannedRow,
    /// One list for each round: a bulk row measures several usages.
    rounds: Vec<Vec<Measured>>,
    stolen: Duration,
    calls: Option<f64>,
    trouble: Option<Trouble>,
}

pub(crate) fn run(settings: &Settings, progress: &mut dyn Progress) -> Result<Report> {
    let input = settings.input.as_deref().map(input::read).transpose()?;
    let plan = Plan::new(settings, &cpu::allowed());
    let signals = EndSignals::block()?;
    let mut folder = RunDir::new()?;
    let mut gathered: Vec<Gathered> = plan
        .rows
        .iter()
        .map(|row| Gathered {
            row: *row,
            rounds: Vec::new(),
            stolen: Duration::ZERO,
            calls: None,
            trouble: None,
        })
        .collect();
    let total = plan.rounds * gathered.len();
    for round in 0..plan.rounds {
        for (index, row) in gathered.iter_mut().enumerate() {
            if row.trouble.is_some() {
                continue;
            }
            let PlannedRow { mechanism, work, .. } = row.row;
            let done = round * plan.rows.len() + index;
            progress.step(done, total, &format!("{mechanism} {work}"));
            let stolen = cpu::stolen();
            let end = run_row(&plan, &row.row, round, input.as_ref(), &mut folder, &signals);
            row.stolen += cpu::stolen().saturating_sub(stolen);
            match end {
                RowEnd::Measured(measured, calls) => {
                    row.rounds.push(measured);
                    row.calls = row.calls.or(calls);
                }
                RowEnd::Trouble(trouble) => row.trouble = Some(trouble),
                RowEnd::Interrupted => {
                    return Err(Error::new(ErrorKind::Interrupted, "measure")
                        .because("a signal ended the run; nothing is left behind"));
                }
            }
        }
    }
    progress.step(total, total, "done");
    Ok(report(settings, plan, gathered, input))
}

fn run_row(
    plan: &Plan,
    row: &PlannedRow,
    round: usize,
    input: Option<&Input>,
    folder: &mut RunDir,
    signals: &EndSignals,
) -> RowEnd {
    let names = match folder.names() {
        Ok(names) => names,
        Err(e) => return RowEnd::Trouble(e.into()),
    };
    let errors = OpenOptions::new()
        .read(true)
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(folder.path().join(format!("{}-errors", names.prefix)));
    let mut errors = match errors {
        Ok(errors) => errors,
        Err(e) => {
            return RowEnd::Trouble(Trouble::Skip(format!(
                "cannot write to {:?}: {e}",
                folder.path()
            )));
        }
    };
    let _ = std::fs::remove_file(folder.path().join(format!("{}-errors", names.prefix)));

    let batches = (plan.rounds * plan.pairs * 2) as u64;
    let near = Job {
        side: Side::Near,
        mechanism: row.mechanism,
        work: row.work,
        size: row.size,
        chunk: row.chunk,
        window: row.window,
        wait: row.wait,
        cpu: row.cpus[0],
        same_cpu: row.placement == Placement::OneCpu,
        source: match input {
            Some(input) => Source::File(input.path.clone().into()),
            None => Source::Pattern,
        },
        verify: round == 0,
        pairs: plan.pairs,
        payloads: plan.payloads,
        batch_ns: u64::try_from(plan.duration.as_nanos()).unwrap_or(u64::MAX) / batches,
        folder: folder.path().to_owned(),
        prefix: names.prefix.clone(),
        keys: names.keys,
    };
    let far = Job { side: Side::Far, cpu: row.cpus[1], ..near.clone() };
    let awake = row.placement == Placement::TwoCpusAwake && !shares_pages(row.mechanism);
    let awake = if awake { &row.cpus[..] } else { &[] };
    // A verified file goes through in messages of the size of the row, each of which may sleep.
    let messages = input.map_or(0, |input| input.bytes / row.size.max(1) as u64);
    let patience = Duration::from_secs(60)
        + plan.duration
        + Duration::from_micros(200) * messages.try_into().unwrap_or(u32::MAX);
    let end = pair::run(&near, &far, awake, patience, signals, &mut errors);
    names.remove();
    end.unwrap_or_else(RowEnd::Trouble)
}

fn report(
    settings: &Settings,
    plan: Plan,
    gathered: Vec<Gathered>,
    input: Option<Input>,
) -> Report {
    let mut report = Report {
        schema: 1,
        host: host::read(),
        settings: SettingsUsed {
            quick: settings.quick,
            sizes: plan.sizes,
            works: plan.works,
            placements: plan.placements,
            duration_ms: u64::try_from(plan.duration.as_millis()).unwrap_or(u64::MAX),
            rounds: plan.rounds,
            input,
        },
        rows: Vec::new(),
        skipped: plan.skipped,
        failed: Vec::new(),
    };
    for row in gathered {
        let left_out = |reason: &str| Skipped {
            mechanism: row.row.mechanism.name().to_owned(),
            work: row.row.work,
            size: row.row.size,
            placement: Some(row.row.placement),
            reason: reason.to_owned(),
        };
        match &row.trouble {
            Some(Trouble::Skip(reason)) => report.skipped.push(left_out(reason)),
            Some(Trouble::Fail(reason)) => report.failed.push(left_out(reason)),
            None => {
                let usages = row.rounds.first().map_or(0, Vec::len);
                report.rows.extend((0..usages).map(|usage| summary(&row, usage)));
            }
        }
    }
    report
}

/// The row of one usage, from all its rounds.
fn summary(gathered: &Gathered, usage: usize) -> Row {
    let rounds: Vec<&Measured> = gathered.rounds.iter().filter_map(|r| r.get(usage)).collect();
    let (mut samples, mut hand_over) = (Samples::new(), Samples::new());
    let mut medians = Vec::new();
    let mut ratios = Vec::new();
    let mut doubts: Vec<String> = Vec::new();
    for round in &rounds {
        samples.add_pairs(&round.samples);
        hand_over.add_pairs(&round.hand_over);
        let mut own = Samples::new();
        own.add_pairs(&round.samples);
        medians.push(own.distribution(1.0).p50);
        ratios.extend_from_slice(&round.ratios);
        for doubt in &round.doubts {
            if !doubts.contains(doubt) {
                doubts.push(doubt.clone());
            }
        }
    }
    let sum = |field: fn(&Measured) -> u64| rounds.iter().map(|r| field(r)).sum::<u64>() as f64;
    let messages = sum(|r| r.messages);
    let seconds = sum(|r| r.elapsed_ns) / 1e9;
    let bytes = sum(|r| r.bytes);
    let PlannedRow { mechanism, work, size, placement, wait, .. } = gathered.row;
    let unit = rounds.first().map_or(1, |r| r.unit.max(1)) as f64;
    let shared = shares_pages(mechanism);
    let ratio_interval = stats::median_interval(&ratios);
    add_doubts(&mut doubts, gathered, &samples, &medians, ratio_interval, seconds);
    Row {
        mechanism: mechanism.name().to_owned(),
        work,
        usage: rounds.first().and_then(|r| r.usage),
        size,
        placement,
        wait: shared.then_some(wait),
        count: messages as u64,
        ns: samples.distribution(unit),
        messages_per_s: messages / seconds,
        bytes_per_s: bytes / seconds,
        cpu_ns_per_message: Some(sum(|r| r.cpu_ns) / messages),
        calls_per_message: gathered.calls,
        faults_per_mib: shared.then(|| sum(|r| r.faults) * f64::from(1 << 20) / bytes),
        floor_ratio: (!ratios.is_empty()).then(|| stats::median(&ratios)),
        floor_ratio_ci: ratio_interval,
        hand_over_ns: (hand_over.count() > 0).then(|| hand_over.distribution(1.0)),
        verified: rounds.iter().any(|r| r.verified),
        sha256: rounds.iter().find_map(|r| r.sha256.clone()),
        doubts,
    }
}

fn add_doubts(
    doubts: &mut Vec<String>,
    gathered: &Gathered,
    samples: &Samples,
    medians: &[f64],
    ratio_interval: Option<[f64; 2]>,
    seconds: f64,
) {
    let each =
        matches!(gathered.row.work, Work::RoundTrip | Work::HandOver | Work::Wake | Work::Lateness);
    if each && samples.count() < FEW {
        doubts.push(format!("few samples: {} say little of the slow ones", samples.count()));
    }
    let least = medians.iter().copied().fold(f64::INFINITY, f64::min);
    let most = medians.iter().copied().fold(0.0, f64::max);
    if most > least * UNSTABLE {
        doubts.push(format!(
            "unstable: the medians of the rounds differ by a factor of {:.1}",
            most / least
        ));
    }
    if let Some([low, high]) = ratio_interval
        && high - low > VAGUE
    {
        doubts.push(format!("the floor ratio is vague: between {low:.2} and {high:.2}"));
    }
    let stolen = gathered.stolen.as_secs_f64();
    if stolen > 0.05 * seconds.max(0.02) {
        doubts.push(format!("the hypervisor took {:.0} ms of CPU time meanwhile", stolen * 1e3));
    }
}
