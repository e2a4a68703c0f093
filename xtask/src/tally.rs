//! Counts what test programs report: the standard harness, doc tests, and the suites of processes.

use std::fmt;

/// What ran, and what did not and why.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
    /// `name: reason` of each skip.
    pub(crate) skips: Vec<String>,
}

impl Tally {
    /// Takes one line of output into account.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            self.passed += number_before(counts, " passed;");
            self.failed += number_before(counts, " failed;");
            self.skipped += number_before(counts, " ignored;");
        } else if let Some((name, reason)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches([' ', ',', '(']).trim_end_matches(')');
            let reason = if reason.is_empty() { "no reason given" } else { reason };
            self.skips.push(format!("{}: {reason}", name.trim_end()));
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// The number that ends where `mark` begins.
fn number_before(text: &str, mark: &str) -> u64 {
    let Some((before, _)) = text.split_once(mark) else { return 0 };
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_harness_is_counted() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test tests::fine ... ok",
            "test tests::slow ... ignored, takes an hour",
            "test result: FAILED. 7 passed; 1 failed; 1 ignored; 0 measured; 2 filtered out; \
             finished in 0.12s",
            "test pipe::a_fact               ... ignored (no single-stepper (yet) here)",
            "test src/lib.rs - x (line 3) ... ignored",
            "test result: ok. 5 passed; 0 failed; 2 ignored; 0 measured; 0 filtered out; \
             finished in 1.00s",
        ] {
            tally.read(line);
        }
        assert_eq!(tally.to_string(), "12 passed, 1 failed, 3 skipped");
        let expected = [
            "tests::slow: takes an hour",
            "pipe::a_fact: no single-stepper (yet) here",
            "src/lib.rs - x (line 3): no reason given",
        ];
        assert_eq!(tally.skips, expected);
    }
}
