//! `cargo xtask CHECK`: one command for every check of the repository, the same at the desk and on a
//! hosted machine.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command reports this way")]

mod ci;
mod crash;
mod fuzz;
mod loom;
mod sabotage;
mod tally;
mod tidy;
mod wakeups;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

const HELP: &str = "\
One command for every check of the repository.

Usage: cargo xtask CHECK

Checks:
  tidy         the house rules: unsafe fence, names, dependency edges, lengths, lists in step
  ci           every step of a hosted run, in order, stopping at the first failure
  ci STEP...   only these steps, in order
  loom         the models of the lock cores, in every interleaving; none of them may be missing
  crash        a process is killed at every instruction, and the others must go on; --area NAME, --sample
  sabotage     builds that are wrong on purpose: each must be noticed; NAME.., --sample, --list
  fuzz [--seconds N] [TARGET...]
               a peer that rewrites memory: each target for N (60) seconds; the corpus grows
  wakeups [--count N]
               N (1,000,000) wake-ups of each mechanism between two processes, none lost
  ci --list    the steps, with the line that repeats each by hand

`.ci/run` installs what a bare Debian machine lacks, then runs `cargo xtask ci`.";

fn main() -> ExitCode {
    if let Some(code) = sabotage::wrap() {
        return code;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tidy"] => tidy::command(&root()),
        ["loom", names @ ..] => loom::command(&root(), names),
        ["crash", words @ ..] => crash::command(&root(), words),
        ["sabotage", words @ ..] => sabotage::command(&root(), words),
        ["fuzz", words @ ..] => fuzz::command(&root(), words),
        ["wakeups", arguments @ ..] => wakeups::command(&root(), arguments),
        ["ci", steps @ ..] => ci::command(&root(), steps),
        [] | ["help" | "--help" | "-h"] => {
            println!("{HELP}");
            ExitCode::SUCCESS
        }
        [other, ..] => {
            eprintln!("no check is called {other:?}\n\n{HELP}");
            ExitCode::from(2)
        }
    }
}

/// The root of the repository.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().map_or_else(|| own.to_owned(), Path::to_owned)
}
