//! What came of it, as a matrix: operation, points, outcomes.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::Outcome;

/// What the kills of one subject showed.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Object and operation.
    pub name: String,
    /// How many slept on it.
    pub sleepers: usize,
    /// Instructions of the operation.
    pub instructions: usize,
    /// Distinct states of what is shared.
    pub states: usize,
    /// System calls of it.
    pub calls: usize,
    /// Points at which victims were killed.
    pub points: usize,
    /// How many were killed.
    pub kills: usize,
    /// Victims that did not come by the way that was recorded. They count all the same.
    pub drifted: usize,
    /// What was wrong.
    pub findings: Vec<Finding>,
    /// From the kill until the first of the sleepers was inside, where none was inside before; with the number of
    /// instructions after which the victim was killed.
    pub latencies: Vec<(Duration, usize)>,
    /// The time ran out, or there were too many findings.
    pub cut_short: bool,
    /// How long it took.
    pub took: Duration,
    /// Outcomes at each point.
    rows: BTreeMap<(usize, bool), BTreeMap<String, usize>>,
}

/// Something wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// After how many instructions the victim was killed.
    pub steps: usize,
    /// It was killed in its sleep.
    pub asleep: bool,
    /// What was wrong.
    pub what: String,
}

/// The time from the kill to the lock that is worth a line: other work on this CPU, or a wake-up that
/// was lost and made good later.
const SLOW: Duration = Duration::from_millis(10);

impl Report {
    pub(super) fn new(name: String, sleepers: usize) -> Self {
        Self { name, sleepers, ..Self::default() }
    }

    /// Notes what the participants said of one kill.
    pub(super) fn note(&mut self, steps: usize, asleep: bool, outcomes: Vec<Outcome>) {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for outcome in outcomes {
            match outcome {
                Ok(word) => *counts.entry(word).or_default() += 1,
                Err(what) => {
                    *counts.entry("WRONG".to_owned()).or_default() += 1;
                    self.findings.push(Finding { steps, asleep, what });
                }
            }
        }
        let words: Vec<String> =
            counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
        let row = self.rows.entry((steps, asleep)).or_default();
        *row.entry(words.join(", ")).or_default() += 1;
    }

    /// The time from the kill to the lock: the middle one and the longest.
    #[must_use]
    pub fn latency(&self) -> Option<(Duration, Duration)> {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        Some((sorted.get(sorted.len() / 2)?.0, sorted.last()?.0))
    }

    /// How many kills had this outcome.
    #[must_use]
    pub fn count(&self, outcome: &str) -> usize {
        self.rows.values().filter_map(|row| row.get(outcome)).sum()
    }
}

/// Neighbouring points with the same outcomes.
struct Row<'a> {
    first: usize,
    last: usize,
    asleep: bool,
    kills: usize,
    words: Vec<&'a String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}, {} asleep: {} instructions, {} states, {} calls; {} kills at {} points in {:.1} s: {}{}",
            self.name,
            self.sleepers,
            self.instructions,
            self.states,
            self.calls,
            self.kills,
            self.points,
            self.took.as_secs_f64(),
            match self.findings.len() {
                0 => "nothing wrong".to_owned(),
                count => format!("{count} WRONG"),
            },
            if self.cut_short { ", cut short" } else { "" },
        )?;
        // Neighbours with the same outcomes are one row.
        let mut rows: Vec<Row<'_>> = Vec::new();
        for ((steps, asleep), outcomes) in &self.rows {
            let kills: usize = outcomes.values().sum();
            let words: Vec<&String> = outcomes.keys().collect();
            match rows.last_mut() {
                Some(row) if row.words == words && row.asleep == *asleep => {
                    row.last = *steps;
                    row.kills += kills;
                }
                _ => {
                    rows.push(Row { first: *steps, last: *steps, asleep: *asleep, kills, words });
                }
            }
        }
        for Row { first, last, asleep, kills, words } in rows {
            let range = match (first == last, asleep) {
                (_, true) => format!("{first} asleep"),
                (true, _) => first.to_string(),
                (false, _) => format!("{first}-{last}"),
            };
            let words: Vec<&str> = words.iter().map(|word| word.as_str()).collect();
            writeln!(f, "  {range:>13} {kills:>7}  {}", words.join(" | "))?;
        }
        if let Some((median, longest)) = self.latency() {
            let ms = |time: Duration| time.as_secs_f64() * 1e3;
            writeln!(
                f,
                "  from the kill to the lock: median {:.2} ms, longest {:.2} ms ({} times)",
                ms(median),
                ms(longest),
                self.latencies.len()
            )?;
            let slow = || self.latencies.iter().filter(|(time, _)| *time >= SLOW);
            let mut slowest: Vec<_> = slow().collect();
            slowest.sort_unstable_by(|a, b| b.cmp(a));
            let shown = slowest.iter().take(8);
            let words: Vec<String> =
                shown.map(|(time, steps)| format!("{:.0} ms at {steps}", ms(*time))).collect();
            if !words.is_empty() {
                writeln!(f, "  {} took 10 ms or more: {}", slow().count(), words.join(", "))?;
            }
        }
        if self.drifted > 0 {
            writeln!(f, "  {} victims came by another way than the recorded one", self.drifted)?;
        }
        for finding in &self.findings {
            let how = if finding.asleep { ", asleep" } else { "" };
            writeln!(f, "  WRONG after {} instructions{how}: {}", finding.steps, finding.what)?;
        }
        Ok(())
    }
}
