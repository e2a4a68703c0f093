//! The tests of the command: the real binary, its output, its exit status, and what it leaves
//! behind. Each test runs in a process of its own: see `sinew_testkit`.
#![expect(clippy::unwrap_used, reason = "a test says what it expects by unwrapping")]

mod bench;
mod ending;
mod help;
mod mechanisms;
mod output;
mod program;
mod terminal;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    sinew_testkit::Suite::new()
        .add(bench::TESTS, bench::ROLES)
        .add(ending::TESTS, ending::ROLES)
        .add(help::TESTS, help::ROLES)
        .add(mechanisms::TESTS, mechanisms::ROLES)
        .add(output::TESTS, output::ROLES)
        .add(terminal::TESTS, terminal::ROLES)
        .add(usage::TESTS, usage::ROLES)
        .may_skip(include_str!("may-skip.txt"))
        .run()
}
