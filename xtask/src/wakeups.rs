//! `cargo xtask wakeups [--count N | --messages N]`: a million wake-ups of each mechanism between two processes, none of
//! which may be lost. It is the test `wakeups` of the library with a larger number, in parts that each
//! stay below the time that a test may take. With `--messages` instead so many messages through a channel
//! that is often full and often empty.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

/// How many wake-ups of each mechanism, if no number is given.
const COUNT: u64 = 1_000_000;
/// In how many runs of the test.
const PARTS: u64 = 10;

/// The tests: all wake-ups, or only the flow.
const ALL: &str = "wakeups::every";
const FLOW: &str = "wakeups::no_message";

/// What the runs of one mechanism add up to.
#[derive(Debug, Default, PartialEq)]
struct Sum {
    count: u64,
    asleep: u64,
    seconds: f64,
    /// Milliseconds from a ring to its answer, at most.
    longest: f64,
}

pub(crate) fn command(root: &Path, arguments: &[&str]) -> ExitCode {
    let (tests, variable, number) = match arguments {
        [] => (ALL, "SINEW_WAKEUPS", Some(COUNT)),
        ["--count", number] => (ALL, "SINEW_WAKEUPS", number.parse().ok()),
        ["--messages", number] => (FLOW, "SINEW_MESSAGES", number.parse().ok()),
        _ => (ALL, "", None),
    };
    let Some(count) = number.filter(|count| *count >= PARTS) else {
        eprintln!(
            "usage: cargo xtask wakeups [--count N | --messages N], with an N of {PARTS} at least"
        );
        return ExitCode::from(2);
    };
    let report = std::env::temp_dir().join(format!("sinew-wakeups-{}", std::process::id()));
    let sums = run(root, tests, (variable, count), &report);
    let _ = fs::remove_file(&report);
    match sums {
        Ok(sums) => show(&sums),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn run(
    root: &Path,
    tests: &str,
    (variable, count): (&str, u64),
    report: &Path,
) -> Result<BTreeMap<String, Sum>, String> {
    fs::write(report, "").map_err(|error| format!("{}: {error}", report.display()))?;
    for part in 0..PARTS {
        // The first parts take what does not divide.
        let number = count / PARTS + u64::from(part < count % PARTS);
        let status = Command::new("cargo")
            .args([
                "test",
                "--quiet",
                "--release",
                "--package",
                "sinew",
                "--test",
                "it",
                "--",
                tests,
            ])
            .arg("--test-threads=1")
            .current_dir(root)
            .env(variable, number.to_string())
            .env("SINEW_WAKEUPS_REPORT", report)
            .status()
            .map_err(|error| format!("cargo: {error}"))?;
        if !status.success() {
            return Err(format!("part {} of {PARTS} failed: a wake-up was lost", part + 1));
        }
    }
    let text = fs::read_to_string(report).map_err(|error| error.to_string())?;
    Ok(add_up(&text))
}

/// Adds up lines of `mechanism count asleep seconds longest`.
fn add_up(text: &str) -> BTreeMap<String, Sum> {
    let mut sums = BTreeMap::<String, Sum>::new();
    for line in text.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let &[name, count, asleep, seconds, longest] = fields.as_slice() else { continue };
        let sum = sums.entry(name.to_owned()).or_default();
        sum.count += count.parse().unwrap_or(0);
        sum.asleep += asleep.parse().unwrap_or(0);
        sum.seconds += seconds.parse().unwrap_or(0.0);
        sum.longest = sum.longest.max(longest.parse().unwrap_or(0.0));
    }
    sums
}

fn show(sums: &BTreeMap<String, Sum>) -> ExitCode {
    if sums.is_empty() {
        eprintln!("the test wrote no report");
        return ExitCode::FAILURE;
    }
    println!("mechanism       wake-ups  found asleep   seconds  longest (ms)");
    for (name, sum) in sums {
        let Sum { count, asleep, seconds, longest } = sum;
        println!("{name:<13} {count:>10} {asleep:>13} {seconds:>9.1} {longest:>13.1}");
    }
    println!("none lost");
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_runs_of_a_mechanism_are_added_up() {
        let sums = add_up("eventfd 10 9 0.5 7\nposix-sem 3 1 2.0 1\neventfd 10 8 0.25 3\n");
        assert_eq!(sums["eventfd"], Sum { count: 20, asleep: 17, seconds: 0.75, longest: 7.0 });
        assert_eq!(sums["posix-sem"].count, 3);
    }
}
