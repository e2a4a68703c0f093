//! Inputs by which a peer could harm whoever shares memory with it: libFuzzer looks for them, over the targets of
//! `crates/sinew/src/channel/fuzz.rs`. What it keeps because it goes another way is the corpus, which the tests run too.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

/// The cores against a peer that rewrites memory, and whatever else reads what a peer wrote.
const TARGETS: &[&str] =
    &["header", "message", "queue-sender", "queue-worker", "ring-receiver", "ring-sender"];
/// How long each target is run if nobody says.
const SECONDS: &str = "60";
/// What libFuzzer needs to see which way an input goes.
const FLAGS: &str = "--cfg sinew_fuzz -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// `cargo xtask fuzz [--seconds N] [TARGET...]`.
pub(crate) fn command(root: &Path, words: &[&str]) -> ExitCode {
    let (seconds, targets) = match words {
        ["--seconds", seconds, targets @ ..] => (*seconds, targets),
        targets => (SECONDS, targets),
    };
    let targets = if targets.is_empty() { TARGETS } else { targets };
    if let Some(unknown) = targets.iter().find(|target| !TARGETS.contains(target)) {
        eprintln!("no target is called {unknown:?}; there are {}", TARGETS.join(", "));
        return ExitCode::from(2);
    }
    if seconds.parse::<u32>().is_err() {
        eprintln!("--seconds takes a number, not {seconds:?}");
        return ExitCode::from(2);
    }
    match run(root, seconds, targets) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("cannot run: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, seconds: &str, targets: &[&str]) -> std::io::Result<bool> {
    let folder = root.join("fuzz");
    let host = "x86_64-unknown-linux-gnu";
    let host = if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-gnu" } else { host };
    let built = Command::new("cargo")
        // With a target, what runs at build time is built without the flags.
        .args(["build", "--release", "--target", host])
        .env("RUSTFLAGS", FLAGS)
        .current_dir(&folder)
        .status()?;
    if !built.success() {
        return Ok(false);
    }
    let program = folder.join("target").join(host).join("release/sinew-fuzz");
    let mut found_nothing = true;
    for target in targets {
        let corpus = folder.join("corpus").join(target);
        let found = folder.join("target/found").join(target);
        fs::create_dir_all(&corpus)?;
        fs::create_dir_all(&found)?;
        // What is new goes to the first folder; afterwards the least that goes every way is kept.
        let fresh = folder.join("target/fresh").join(target);
        fs::create_dir_all(&fresh)?;
        let mut fuzzer = Command::new(&program);
        fuzzer.args([&fresh, &corpus]).args([
            "-max_len=1024",
            "-timeout=10",
            "-print_final_stats=1",
        ]);
        fuzzer.arg(format!("-max_total_time={seconds}"));
        fuzzer.arg(format!("-artifact_prefix={}/", found.display()));
        let passed = fuzzer.env("SINEW_FUZZ", target).status()?.success();
        if !passed {
            eprintln!("{target}: an input that does harm is in {}", found.display());
        }
        found_nothing &= passed && keep(&program, target, &[&corpus, &fresh])?;
    }
    Ok(found_nothing)
}

/// Makes the corpus the least that goes every way that any of these inputs goes.
fn keep(program: &Path, target: &str, folders: &[&Path; 2]) -> std::io::Result<bool> {
    let [corpus, fresh] = folders;
    let least = corpus.with_extension("least");
    fs::create_dir_all(&least)?;
    let mut merge = Command::new(program);
    merge.arg("-set_cover_merge=1").args([&least, *corpus, *fresh]).env("SINEW_FUZZ", target);
    let merged = merge.status()?.success();
    if merged {
        fs::remove_dir_all(corpus)?;
        fs::rename(&least, corpus)?;
        fs::remove_dir_all(fresh)?;
    }
    Ok(merged)
}
