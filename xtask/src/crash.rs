//! `cargo xtask crash`: kills processes at every instruction of what shares memory, and looks whether
//! the others go on. The driver is in `sinew-testkit`, the subjects in `crates/sinew/tests/it/crash`.

use std::path::Path;
use std::process::{Command, ExitCode};

/// `cargo xtask crash [--area NAME] [--sample]`, `cargo xtask crash --list`.
pub(crate) fn command(root: &Path, words: &[&str]) -> ExitCode {
    let (mut mode, mut area) = ("full", "");
    let mut rest = words;
    loop {
        rest = match rest {
            [] => break,
            ["--sample", rest @ ..] => {
                mode = "sample";
                rest
            }
            ["--list", rest @ ..] => {
                mode = "list";
                rest
            }
            ["--area", name, rest @ ..] => {
                area = name;
                rest
            }
            [other, ..] => {
                eprintln!(
                    "cargo xtask crash [--area NAME] [--sample] [--list]; what is {other:?}?"
                );
                return ExitCode::from(2);
            }
        };
    }
    let status = Command::new("cargo")
        // Optimised, as users have it.
        .args(["test", "--quiet", "--release", "--package", "sinew", "--test", "it"])
        .env("SINEW_CRASH", mode)
        .env("SINEW_CRASH_AREA", area)
        .current_dir(root)
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cannot run cargo: {e}");
            ExitCode::FAILURE
        }
    }
}
