//! What the numbers of a report mean on this machine, in sentences.

use sinew::Mechanism;
use sinew_bench::report::{Row, Usage, WaitKind};
use sinew_bench::settings::shares_pages;
use sinew_bench::{Placement, Report, Work};

use crate::quantity::{rate, time, times};
use crate::size::Size;

/// One sentence for each thing that the rows can say. None where they cannot.
pub(crate) fn sentences(report: &Report) -> Vec<String> {
    [small(report), sleep(report), large(report), cost(report)].into_iter().flatten().collect()
}

fn shares(row: &Row) -> bool {
    row.mechanism.parse::<Mechanism>().is_ok_and(shares_pages)
}

/// Of messages: what carries none has no size.
fn round_trips(report: &Report) -> impl Iterator<Item = &Row> {
    let messages = report.rows.iter().filter(|row| row.size > 0);
    messages.filter(|row| row.work == Work::RoundTrip && row.verified)
}

fn fastest<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<&'a Row> {
    rows.min_by(|a, b| a.ns.p50.total_cmp(&b.ns.p50))
}

/// Which mechanism is fastest for the smallest messages.
fn small(report: &Report) -> Option<String> {
    let size = round_trips(report).map(|row| row.size).min()?;
    let rows = || round_trips(report).filter(move |row| row.size == size);
    // A kernel row always sleeps while it waits.
    let asleep = fastest(rows().filter(|row| row.wait != Some(WaitKind::Awake)));
    let awake = fastest(rows().filter(|row| row.wait == Some(WaitKind::Awake)));
    let several = |kind: bool| {
        let mut names: Vec<_> = rows()
            .filter(|row| (row.wait == Some(WaitKind::Awake)) == kind)
            .map(|row| &row.mechanism)
            .collect();
        names.sort();
        names.dedup();
        names.len() > 1
    };
    let bytes = Size(size).spoken();
    let shown = |row: &Row| {
        let place = match row.placement {
            Placement::OneCpu => "both processes on one CPU",
            Placement::TwoCpus => "a CPU each",
            Placement::TwoCpusAwake => "a CPU each, kept awake",
        };
        format!("{} ({} there and back, {place})", row.mechanism, time(row.ns.p50))
    };
    match (asleep, awake) {
        (Some(asleep), Some(awake)) => Some(format!(
            "For {bytes}, processes that sleep while they wait are fastest through {}; processes \
             that spin on a CPU of their own through {}: {} as fast.",
            shown(asleep),
            shown(awake),
            times(asleep.ns.p50 / awake.ns.p50),
        )),
        (Some(row), None) if several(false) => {
            Some(format!("For {bytes}, the fastest is {}.", shown(row)))
        }
        (None, Some(row)) if several(true) => {
            Some(format!("For {bytes}, the fastest of those that spin is {}.", shown(row)))
        }
        _ => None,
    }
}

/// What a CPU that sleeps costs: two CPUs against one, over the mechanisms of the kernel.
fn sleep(report: &Report) -> Option<String> {
    let size = round_trips(report).map(|row| row.size).min()?;
    let at = |name: &str, placement: Placement| {
        round_trips(report)
            .find(|row| row.mechanism == name && row.size == size && row.placement == placement)
            .map(|row| row.ns.p50)
    };
    let mut pairs: Vec<(f64, f64)> = Vec::new();
    for row in round_trips(report) {
        if row.size == size
            && row.placement == Placement::OneCpu
            && !shares(row)
            && let Some(two) = at(&row.mechanism, Placement::TwoCpus)
        {
            pairs.push((row.ns.p50, two));
        }
    }
    let one = median(pairs.iter().map(|pair| pair.0).collect())?;
    let two = median(pairs.iter().map(|pair| pair.1).collect())?;
    let ratio = median(pairs.iter().map(|pair| pair.1 / pair.0).collect())?;
    Some(if ratio >= 1.5 {
        format!(
            "Waking a sleeping CPU is what costs here: the same round trip through the kernel takes \
             {} on two CPUs that may sleep and {} on one, {} as long (medians).",
            time(two),
            time(one),
            times(ratio),
        )
    } else if ratio >= 1.0 {
        format!(
            "Sleeping CPUs cost little here: a round trip through the kernel takes {} on two CPUs \
             and {} on one (medians).",
            time(two),
            time(one),
        )
    } else {
        format!(
            "Two CPUs help here: a round trip through the kernel takes {} on two and {} on one \
             (medians).",
            time(two),
            time(one),
        )
    })
}

/// Shared memory against a pipe for a large payload.
fn large(report: &Report) -> Option<String> {
    let bulk = |name: &str, usage: Usage| {
        let rows = report.rows.iter().filter(|row| {
            row.work == Work::Bulk
                && row.mechanism == name
                && row.usage == Some(usage)
                && row.verified
        });
        rows.max_by(|a, b| a.bytes_per_s.total_cmp(&b.bytes_per_s))
    };
    let memfd = bulk("memfd", Usage::Repeated);
    let pipe = bulk("pipe", Usage::Repeated);
    let over = bulk("memfd", Usage::HandOver).and_then(|row| row.hand_over_ns);
    let mut text = match (memfd, pipe) {
        (Some(memfd), Some(pipe)) => {
            let size = Size(memfd.size).spoken();
            let ratio = memfd.bytes_per_s / pipe.bytes_per_s;
            let compared = if ratio >= 1.05 {
                format!(", {} the {} of a pipe", times(ratio), rate(pipe.bytes_per_s))
            } else {
                format!(", and through a pipe at {}", rate(pipe.bytes_per_s))
            };
            format!("{size} go through memfd at {}{compared}", rate(memfd.bytes_per_s))
        }
        (Some(memfd), None) => {
            format!("{} go through memfd at {}", Size(memfd.size).spoken(), rate(memfd.bytes_per_s))
        }
        _ => String::new(),
    };
    if let Some(over) = over {
        if text.is_empty() {
            text.push_str("Handing");
        } else {
            text.push_str("; handing");
        }
        text.push_str(&format!(" over a memfd that is filled already takes {}", time(over.p50)));
    }
    (!text.is_empty()).then(|| text + ".")
}

/// What the library costs over bare system calls.
fn cost(report: &Report) -> Option<String> {
    let rows: Vec<&Row> = report
        .rows
        .iter()
        .filter(|row| row.floor_ratio.is_some() && row.floor_ratio_ci.is_some())
        .collect();
    let middle = median(rows.iter().filter_map(|row| row.floor_ratio).collect())?;
    let low = |row: &Row| row.floor_ratio_ci.map_or(0.0, |ci| ci[0]);
    let worst = rows.iter().copied().max_by(|a, b| low(a).total_cmp(&low(b)))?;
    let percent = (middle - 1.0) * 100.0;
    let count = rows.len();
    let typical = if percent.abs() < 0.5 {
        "the library takes as long as its floor".to_owned()
    } else if percent > 0.0 {
        format!("the library takes {percent:.1} % longer than its floor")
    } else {
        format!("the library takes {:.1} % less than its floor", -percent)
    };
    let over = if count == 1 { "In one row".to_owned() } else { format!("Over {count} rows") };
    let certain = (low(worst) - 1.0) * 100.0;
    let mut row = format!("{}, {}", worst.mechanism, worst.work);
    if worst.size > 0 {
        row.push_str(&format!(", {}", Size(worst.size)));
    }
    let end = if certain >= 0.5 {
        format!("; the most that is certain is {certain:.1} % ({row})")
    } else {
        "; in no row is it certain that the library costs anything".to_owned()
    };
    Some(format!("{over}, {typical} (median){end}."))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 {
        values.get(middle).copied()
    } else {
        Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0)
    }
}
