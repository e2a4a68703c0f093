//! What stands below the tables: rows that were left out, and rows that failed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sinew::Mechanism;
use sinew_bench::report::Skipped;
use sinew_bench::{Placement, Report, Work, settings};

use crate::output::{Look, wrap};
use crate::size::Size;

/// What was left out, folded: one line for each reason and extent.
pub(super) fn skipped(report: &Report, look: Look, out: &mut String) {
    if report.skipped.is_empty() {
        return;
    }
    let _ = write!(out, "\n{}\n", look.bold("Skipped"));
    let mut extents: BTreeMap<(usize, &str), Vec<&Skipped>> = BTreeMap::new();
    let mut reasons: Vec<&str> = Vec::new();
    for row in &report.skipped {
        let known = reasons.iter().position(|reason| *reason == row.reason);
        let at = known.unwrap_or_else(|| {
            reasons.push(&row.reason);
            reasons.len() - 1
        });
        extents.entry((at, &row.mechanism)).or_default().push(row);
    }
    // (reason, extent) and the mechanisms of both.
    let mut lines: Vec<(usize, String, Vec<&str>)> = Vec::new();
    for ((reason, mechanism), rows) in extents {
        let extent = extent(report, &rows);
        match lines.iter_mut().find(|line| line.0 == reason && line.1 == extent) {
            Some(line) => line.2.push(mechanism),
            None => lines.push((reason, extent, vec![mechanism])),
        }
    }
    for (reason, extent, mut mechanisms) in lines {
        mechanisms.sort_by_key(|name| name.parse::<Mechanism>().ok());
        let text = format!("{}{extent}: {}", mechanisms.join(", "), reasons[reason]);
        out.push_str(&wrap(&text, look.width, "", "  "));
    }
}

/// Which of the rows asked for: nothing if all, else sizes, works and placements.
fn extent(report: &Report, rows: &[&Skipped]) -> String {
    fn some<T: PartialEq + Copy + ToString>(there: Vec<T>, asked: &[T]) -> Option<String> {
        let mut once: Vec<T> = Vec::new();
        for one in there {
            if !once.contains(&one) {
                once.push(one);
            }
        }
        if asked.iter().all(|one| once.contains(one)) {
            return None;
        }
        Some(once.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
    }
    let used = &report.settings;
    let asked: Vec<Size> = used.sizes.iter().copied().map(Size).collect();
    let mut text = String::new();
    // The size of a bulk payload is not one of those asked for.
    let messages = rows.iter().filter(|row| row.work != Work::Bulk && row.size > 0);
    let mut sizes: Vec<Size> = messages.map(|row| Size(row.size)).collect();
    sizes.sort_unstable();
    if let Some(sizes) = some(sizes, &asked).filter(|sizes| !sizes.is_empty()) {
        let _ = write!(text, " at {sizes}");
    }
    let works: Vec<Work> = rows.iter().map(|row| row.work).collect();
    // Only what these mechanisms do at all; and a missing bulk row has reasons of its own.
    let does = |row: &Skipped, work| {
        row.mechanism.parse::<Mechanism>().is_ok_and(|m| settings::works(m).contains(&work))
    };
    let asked: Vec<Work> = used
        .works
        .iter()
        .copied()
        .filter(|work| rows.iter().any(|row| does(row, *work)))
        .filter(|work| *work != Work::Bulk || works.contains(&Work::Bulk))
        .collect();
    if let Some(works) = some(works, &asked) {
        let _ = write!(text, " ({works})");
    }
    let places: Option<Vec<Placement>> = rows.iter().map(|row| row.placement).collect();
    if let Some(places) = places.filter(|p| p.len() > 1 || used.placements.len() > 1) {
        // Where a mechanism is not measured on every placement anyway, naming them says nothing.
        let measured: Vec<Placement> = report
            .rows
            .iter()
            .filter(|row| rows.iter().any(|s| s.mechanism == row.mechanism))
            .map(|row| row.placement)
            .collect();
        if measured.iter().any(|place| !places.contains(place))
            && let Some(places) = some(places, &used.placements)
        {
            let _ = write!(text, " on {places}");
        }
    }
    text
}

/// What went wrong, loud.
pub(super) fn failed(report: &Report, look: Look, out: &mut String) {
    if report.failed.is_empty() && report.rows.iter().all(|row| row.verified) {
        return;
    }
    let _ = write!(out, "\n{}\n", look.loud("FAILED"));
    for row in &report.failed {
        let place = row.placement.map_or(String::new(), |p| format!(", {p}"));
        let text =
            format!("{}, {}{}{place}: {}", row.mechanism, row.work, size(row.size), row.reason);
        out.push_str(&wrap(&text, look.width, "", "  "));
    }
    for row in report.rows.iter().filter(|row| !row.verified) {
        let text = format!(
            "{}, {}{}, {}: the receiver did not see every byte as it was sent",
            row.mechanism,
            row.work,
            size(row.size),
            row.placement
        );
        out.push_str(&wrap(&text, look.width, "", "  "));
    }
}

/// A size, where the row has one.
fn size(bytes: usize) -> String {
    if bytes == 0 { String::new() } else { format!(", {}", Size(bytes)) }
}
