//! The cores of locks and channels under loom: their `models` run in every interleaving that the memory model allows.
//! A core without models, or with models that did not run, fails the check, and so does a core that
//! the list does not name.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

/// The cores that have models: modules of `crates/sinew/src/sync/`, and of `channel/`.
const CORES: &[&str] = &[
    "bell",
    "condvar",
    "mutex",
    "once",
    "overtake",
    "posix_sem",
    "queue",
    "ring",
    "rwlock",
    "slot",
];

/// `cargo xtask loom [FILTER]`.
pub(crate) fn command(root: &Path, filter: &[&str]) -> ExitCode {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let mut command = Command::new("cargo");
    command
        // Optimised: the number of interleavings is what takes the time.
        .args(["test", "--release", "--package", "sinew", "--lib", "--target-dir", "target/loom"])
        .args(["--", filter.first().unwrap_or(&"::models::")])
        .env("RUSTFLAGS", format!("{flags} --cfg sinew_loom").trim())
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(e) => {
            eprintln!("cannot run cargo: {e}");
            return ExitCode::FAILURE;
        }
    };
    let mut ran = BTreeMap::new();
    for line in child.stdout.take().into_iter().flat_map(|out| BufReader::new(out).lines()) {
        let Ok(line) = line else { break };
        println!("{line}");
        if let Some(core) = core_of(&line) {
            *ran.entry(core.to_owned()).or_insert(0_u32) += 1;
        }
    }
    let passed = child.wait().is_ok_and(|status| status.success());
    if !filter.is_empty() {
        return if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let wrong = out_of_step(&ran);
    for line in &wrong {
        eprintln!("{line}");
    }
    if passed && wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// `mutex` for `test sync::mutex::models::two_take_turns ... ok`.
fn core_of(line: &str) -> Option<&str> {
    let name = line.strip_prefix("test ")?.strip_suffix(" ... ok")?;
    let (path, _) = name.split_once("::models::")?;
    path.rsplit("::").find(|part| *part != "core")
}

/// What differs between the list and what ran.
fn out_of_step(ran: &BTreeMap<String, u32>) -> Vec<String> {
    let missing = CORES.iter().filter(|core| !ran.contains_key(**core));
    let unknown = ran.keys().filter(|core| !CORES.contains(&core.as_str()));
    missing
        .map(|core| format!("no model of {core} ran: the list is in xtask/src/loom.rs"))
        .chain(unknown.map(|core| format!("{core} has models and is not in xtask/src/loom.rs")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_a_model_is_the_module_around_it() {
        assert_eq!(core_of("test sync::mutex::models::a_fact ... ok"), Some("mutex"));
        assert_eq!(core_of("test sync::mutex::core::models::a_fact ... ok"), Some("mutex"));
        assert_eq!(core_of("test sync::mutex::models::a_fact ... FAILED"), None);
        assert_eq!(core_of("test sync::mutex::tests::a_fact ... ok"), None);
    }

    #[test]
    fn a_core_without_models_and_models_without_a_core_are_found() {
        let mut ran: BTreeMap<String, u32> =
            CORES.iter().map(|core| ((*core).to_owned(), 1)).collect();
        assert_eq!(out_of_step(&ran).len(), 0);
        ran.remove("once");
        ran.insert("latch".to_owned(), 1);
        assert_eq!(out_of_step(&ran).len(), 2);
    }
}
