//! `sinew bench`: from the wish to the settings, and from the report to what is read.

mod comma;
#[cfg(test)]
mod fixture;
mod progress;
mod table;
mod words;

use std::path::Path;

use sinew::ErrorKind;
use sinew_bench::settings::{Kind, MECHANISMS, Settings};
use sinew_bench::{Placement, Report, Work};

use crate::Trouble;
use crate::arguments::{Bench, Format};
use crate::output::{self, Destination};
use progress::Bar;

pub(crate) fn run(wish: Bench) -> Result<(), Trouble> {
    if let Some(path) = &wish.input {
        readable(path).map_err(Trouble::Usage)?;
    }
    let destination = Destination::open(wish.output.as_deref()).map_err(Trouble::Usage)?;
    if wish.list {
        let width = destination.is_terminal().then(|| destination.look().width);
        return destination.write(list(width).as_bytes()).map_err(Trouble::Failed);
    }
    let sizes: Vec<usize> = wish.sizes.iter().map(|size| size.0).collect();
    let settings = Settings {
        mechanisms: unique(wish.mechanisms),
        sizes: some(unique(sizes)),
        works: some(unique(wish.works)),
        placements: some(unique(wish.placement)),
        duration: wish.duration,
        quick: wish.quick,
        input: wish.input,
    };
    let mut bar = Bar::new();
    let result = sinew_bench::run(&settings, &mut bar);
    bar.finish();
    let report = match result {
        Ok(report) => report,
        Err(error) => {
            destination.give_up();
            return Err(match error.kind() {
                // What was asked for cannot be used: a file that is not there, a work that nothing does.
                ErrorKind::InvalidInput | ErrorKind::NotFound => Trouble::Usage(error.to_string()),
                ErrorKind::Interrupted => Trouble::Interrupted,
                _ => Trouble::Failed(error.to_string()),
            });
        }
    };
    let text = present(&report, wish.format, &destination)?;
    destination.write(text.as_bytes()).map_err(Trouble::Failed)?;
    verdict(&report, wish.format)
}

fn present(report: &Report, format: Format, to: &Destination) -> Result<String, Trouble> {
    let failed = |e: String| Trouble::Failed(format!("cannot write the result: {e}"));
    match format {
        Format::Table => Ok(table::render(report, to.look())),
        Format::Csv => comma::render(report).map_err(failed),
        Format::Json => {
            let text = if to.is_terminal() {
                serde_json::to_string_pretty(report)
            } else {
                serde_json::to_string(report)
            };
            text.map(|text| text + "\n").map_err(|e| failed(e.to_string()))
        }
    }
}

/// Whether all went well, in one line if it did not.
fn verdict(report: &Report, format: Format) -> Result<(), Trouble> {
    let unverified = report.rows.iter().filter(|row| !row.verified).count();
    let failed = report.failed.len();
    if failed == 0 && unverified == 0 {
        return Ok(());
    }
    if format != Format::Table {
        for row in &report.failed {
            let place = row.placement.map_or(String::new(), |p| format!(" {p}"));
            let size = if row.size == 0 {
                String::new()
            } else {
                format!(" {}", crate::size::Size(row.size))
            };
            let (mechanism, work, reason) = (&row.mechanism, row.work, &row.reason);
            output::complain(&format!("{mechanism} {work}{size}{place} failed: {reason}"));
        }
    }
    let all = report.rows.len() + failed;
    let rows = |n: usize| if n == 1 { "1 row".to_owned() } else { format!("{n} rows") };
    Err(Trouble::Failed(match (failed, unverified) {
        (0, n) => format!("{} of {all} could not be verified", rows(n)),
        (n, 0) => format!("{} of {all} failed", rows(n)),
        (n, m) => format!("{} of {all} failed, {} could not be verified", rows(n), rows(m)),
    }))
}

/// The rows that there are, one a line unless the lines have to fit a terminal.
fn list(width: Option<usize>) -> String {
    let mut out = String::new();
    for mechanism in MECHANISMS {
        let kind = Kind::of(mechanism).name();
        let label = format!("{mechanism:15} {kind:7} ");
        let indent = " ".repeat(label.len());
        let about = mechanism.facts().about;
        out.push_str(&output::wrap(about, width.unwrap_or(usize::MAX), &label, &indent));
    }
    out.push('\n');
    out.push_str(&format!("works       {}\n", Work::ALL.map(Work::name).join(", ")));
    out.push_str(&format!("placements  {}\n", Placement::ALL.map(Placement::name).join(", ")));
    out
}

/// Whether a payload can be taken from there. Opening anything but a regular file might wait.
fn readable(path: &Path) -> Result<(), String> {
    let file = std::fs::metadata(path).and_then(|metadata| {
        if metadata.is_file() {
            return std::fs::File::open(path);
        }
        Err(std::io::Error::other("it is not a regular file"))
    });
    let why = |e| format!("--input: cannot read {path:?}: {}", output::words(&e));
    file.map(drop).map_err(why)
}

/// Each once, in the order of the first.
fn unique<T: PartialEq>(all: Vec<T>) -> Vec<T> {
    let mut once = Vec::with_capacity(all.len());
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}
