//! The result: JSON by contract, or a table.

use std::fmt::Write;

use serde::Serialize;

use crate::Result;
use crate::job::{Found, Work};
use crate::plan::Row;
use crate::stats;

/// A round is an outlier beyond so many times the median, or below as small a part of it.
const OUTLIER: f64 = 1.5;

/// A row with what each round gave.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) row: Row,
    /// One for each round: nothing where it failed.
    pub(crate) rounds: Vec<Option<Found>>,
    doubts: Vec<String>,
}

impl Measured {
    pub(crate) fn new(row: Row) -> Self {
        let doubts = row.skipped.iter().map(ToString::to_string).collect();
        Self { row, rounds: Vec::new(), doubts }
    }

    pub(crate) fn skip(&mut self, why: &str) {
        if self.doubts.is_empty() {
            self.doubts.push(why.to_owned());
        }
    }

    pub(crate) fn add(&mut self, found: Result<Found>) {
        match found {
            Ok(found) => self.rounds.push(Some(found)),
            Err(e) => {
                self.rounds.push(None);
                self.doubts.push(format!("round {} failed: {e}", self.rounds.len()));
            }
        }
    }

    /// What it is compared by, of each round: nanoseconds, or messages in a second.
    pub(crate) fn values(&self) -> Vec<Option<f64>> {
        self.rounds.iter().map(|found| found.as_ref().and_then(value)).collect()
    }
}

fn value(found: &Found) -> Option<f64> {
    found.p50_ns.or_else(|| {
        (found.elapsed_ns > 0).then(|| found.messages as f64 * 1e9 / found.elapsed_ns as f64)
    })
}

/// The whole result.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    rows: Vec<Line>,
    ratios: Vec<Ratio>,
}

/// One row.
#[derive(Debug, Serialize)]
struct Line {
    system: String,
    work: String,
    size: usize,
    placement: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    p50_ns: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_per_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_bytes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fds: Option<i64>,
    doubts: Vec<String>,
}

/// One quotient of two rows of the same rounds.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) what: String,
    pub(crate) value: f64,
    pub(crate) ci: [f64; 2],
    /// What is wanted, for the table.
    #[serde(skip)]
    pub(crate) goal: Goal,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Goal {
    None,
    AtMost(f64),
    AtLeast(f64),
}

impl Report {
    pub(crate) fn new(measured: &[Measured], ratios: Vec<Ratio>, general: &[String]) -> Self {
        Self { rows: measured.iter().map(|one| line(one, general)).collect(), ratios }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut before = None;
        for row in &self.rows {
            let group = (&row.work, row.size, &row.placement);
            if before.replace(group) != Some(group) {
                let _ = writeln!(text, "\n{}, {} bytes, {}", row.work, row.size, row.placement);
            }
            let _ = write!(text, "  {:<16}", row.system);
            if let Some(ns) = row.p50_ns {
                let _ = write!(text, "{:>14}", time(ns));
            }
            if let Some(rate) = row.messages_per_s {
                let _ = write!(text, "{:>12.3} M/s", rate / 1e6);
            }
            if let Some(rate) = row.bytes_per_s {
                let _ = write!(text, "{:>10.2} GB/s", rate / 1e9);
            }
            if let (Some(bytes), Some(fds)) = (row.memory_bytes, row.fds) {
                let _ = write!(text, "{:>9} KiB{fds:>5} fds", bytes / 1024);
            }
            let _ = writeln!(text, "{}{}", pad(&row.doubts), row.doubts.join("; "));
        }
        if !self.ratios.is_empty() {
            let _ = writeln!(text, "\nratios: median of the rounds, 95 % interval");
        }
        for ratio in &self.ratios {
            let [low, high] = ratio.ci;
            let (goal, met) = match ratio.goal {
                Goal::None => (String::new(), ""),
                // A goal is met when the interval reaches it.
                Goal::AtMost(most) => (format!("at most {most}"), said(low <= most)),
                Goal::AtLeast(least) => (format!("at least {least}"), said(high >= least)),
            };
            let value = ratio.value;
            let _ = writeln!(
                text,
                "  {:<62}{value:>9.3}  [{low:.3}, {high:.3}]  {goal:<14} {met}",
                ratio.what
            );
        }
        text
    }
}

const fn said(met: bool) -> &'static str {
    if met { "met" } else { "MISSED" }
}

const fn pad(doubts: &[String]) -> &'static str {
    if doubts.is_empty() { "" } else { "   ? " }
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e4 => format!("{ns:.0} ns"),
        ns if ns < 1e7 => format!("{:.1} us", ns / 1e3),
        ns => format!("{:.2} ms", ns / 1e6),
    }
}

fn line(one: &Measured, general: &[String]) -> Line {
    let Row { system, work, size, placement, .. } = &one.row;
    let mut doubts = one.doubts.clone();
    let found = || one.rounds.iter().flatten();
    let values: Vec<f64> = one.values().into_iter().flatten().collect();
    let middle = stats::median(&values);
    if !values.is_empty() {
        doubts.extend(general.iter().cloned());
    }
    for (round, value) in (1..).zip(one.values()) {
        let Some(value) = value else { continue };
        let part = value / middle;
        if !(1.0 / OUTLIER..=OUTLIER).contains(&part) {
            doubts.push(format!("round {round} was {part:.2} times the median"));
        }
    }
    let timed = found().any(|found| found.p50_ns.is_some());
    let some = |is: bool, value: f64| (is && !values.is_empty()).then_some(value);
    let large = matches!(work, Work::Large | Work::FirstUse | Work::Overlapped);
    let rate = if timed { 1e9 / middle } else { middle };
    let of = |get: fn(&Found) -> Option<i64>| {
        let all: Vec<f64> = found().filter_map(get).map(|n| n as f64).collect();
        (!all.is_empty()).then(|| stats::median(&all) as i64)
    };
    Line {
        system: (*system).to_owned(),
        work: work.name().to_owned(),
        size: *size,
        placement: placement.name().to_owned(),
        p50_ns: some(timed, middle),
        messages_per_s: some(!timed, middle),
        bytes_per_s: some(!timed || large, rate * *size as f64),
        memory_bytes: of(|found| found.memory_bytes),
        fds: of(|found| found.fds),
        doubts,
    }
}
