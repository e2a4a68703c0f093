//! `cargo xtask sabotage`: builds the library wrong on purpose, and requires that the checks notice.
//!
//! A sabotage is a `cfg(sabotage = "NAME")` in the sources: a barrier left out, a second look
//! left out, a wake-up forgotten. For each, the models under loom, the crash driver and the tests of
//! its area run until one fails. The same checks pass first on the honest build; else what
//! they say means nothing.
//!
//! Cargo builds the dependencies once: the cfg is added by a wrapper around rustc for the crates of this
//! repository only, which is this program under another name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

/// What the wrapper is called, before the name of a sabotage.
const WRAPPER: &str = "rustc-sabotaged-";
/// How long one check may take, in seconds. One that does not end has noticed.
const PATIENCE: &str = "300";

/// One that notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The models of the area.
    Loom,
    /// A sample of the kills.
    Crash,
    /// The tests of the area.
    Tests,
}

/// The quickest to build first.
const CHECKS: [Check; 3] = [Check::Loom, Check::Crash, Check::Tests];

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Passed,
    Failed,
    Hung,
    /// There is nothing of the area in it.
    Absent,
}

/// Where this program is called as the wrapper: rustc, with the cfg.
pub(crate) fn wrap() -> Option<ExitCode> {
    let mut arguments = std::env::args_os();
    let called = PathBuf::from(arguments.next()?);
    let name = called.file_name()?.to_str()?.strip_prefix(WRAPPER)?.to_owned();
    let mut rustc = Command::new(arguments.next()?);
    rustc.args(arguments);
    if !name.is_empty() {
        rustc.arg("--cfg").arg(format!("sabotage=\"{name}\""));
    }
    eprintln!("cannot run rustc: {}", rustc.exec());
    Some(ExitCode::FAILURE)
}

/// `cargo xtask sabotage [--sample | --list | NAME...]`.
pub(crate) fn command(root: &Path, words: &[&str]) -> ExitCode {
    let mut all = BTreeMap::new();
    if let Err(e) = find(&root.join("crates/sinew/src"), Path::new(""), &mut all) {
        eprintln!("cannot read the sources: {e}");
        return ExitCode::FAILURE;
    }
    if words == ["--list"] {
        for (name, area) in &all {
            println!("{name:<36} {area}");
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<(&str, &str)> = if words == ["--sample"] {
        sample(&all)
    } else {
        let wanted = |name: &str| words.is_empty() || words.contains(&name);
        if let Some(unknown) = words.iter().find(|name| !all.contains_key(**name)) {
            eprintln!(
                "no sabotage is called {unknown:?}; `cargo xtask sabotage --list` lists them"
            );
            return ExitCode::from(2);
        }
        all.iter().filter(|(n, _)| wanted(n)).map(|(n, a)| (n.as_str(), a.as_str())).collect()
    };
    if chosen.is_empty() {
        eprintln!(
            "there is no cfg(sabotage = \"..\") in crates/sinew/src: nothing tests the checks"
        );
        return ExitCode::FAILURE;
    }
    match judge(root, &chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

/// Every name, with its area, in the sources below `folder`.
fn find(folder: &Path, inside: &Path, all: &mut BTreeMap<String, String>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find(&entry.path(), &path, all)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            for name in names(&fs::read_to_string(entry.path())?) {
                all.insert(name.to_owned(), area_of(&path));
            }
        }
    }
    Ok(())
}

fn names(source: &str) -> impl Iterator<Item = &str> {
    source.split("sabotage = \"").skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('"')?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (!name.is_empty() && name.chars().all(plain)).then_some(name)
    })
}

/// `mutex` for `sync/mutex/core.rs` and `sync/mutex.rs`; `wait` for `wait/word.rs`.
fn area_of(path: &Path) -> String {
    let mut parts = path.iter().map(|part| part.to_string_lossy());
    let first = parts.next().unwrap_or_default();
    let part = match &*first {
        "copy" | "event" | "process" | "share" | "sync" => parts.next().unwrap_or_default(),
        _ => first,
    };
    part.trim_end_matches(".rs").to_owned()
}

/// The first of each area, of two areas.
fn sample(all: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    let mut chosen: Vec<(&str, &str)> = Vec::new();
    for (name, area) in all {
        if chosen.len() < 2 && chosen.iter().all(|(_, other)| other != area) {
            chosen.push((name, area));
        }
    }
    chosen
}

/// Whether the honest build passes, and each of the others is noticed.
fn judge(root: &Path, chosen: &[(&str, &str)]) -> io::Result<bool> {
    let bench = Bench::new(root)?;
    let mut useful: BTreeMap<&str, Vec<Check>> = BTreeMap::new();
    for (_, area) in chosen {
        if useful.contains_key(area) {
            continue;
        }
        let mut checks = Vec::new();
        for check in CHECKS {
            match bench.run("", area, check)? {
                End::Passed => checks.push(check),
                End::Absent => {}
                end => {
                    println!("{area}: {check:?} ends with {end:?} on the honest build already");
                    return Ok(false);
                }
            }
        }
        println!("{area}: honest, {checks:?} pass");
        useful.insert(area, checks);
    }
    let mut survivors = Vec::new();
    for (name, area) in chosen {
        let begin = Instant::now();
        let mut by = None;
        for check in useful.get(area).into_iter().flatten() {
            if matches!(bench.run(name, area, *check)?, End::Failed | End::Hung) {
                by = Some(*check);
                break;
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        match by {
            Some(check) => println!("{name}: caught by {check:?} in {seconds:.0} s"),
            None => {
                println!("{name}: NOT CAUGHT in {seconds:.0} s");
                survivors.push(*name);
            }
        }
    }
    println!("sabotage: {} builds, {} not caught", chosen.len(), survivors.len());
    Ok(survivors.is_empty())
}

/// Where it is built.
struct Bench<'a> {
    root: &'a Path,
    folder: PathBuf,
}

impl<'a> Bench<'a> {
    fn new(root: &'a Path) -> io::Result<Self> {
        let folder = root.join("target/sabotage");
        fs::create_dir_all(folder.join("wrappers"))?;
        Ok(Self { root, folder })
    }

    /// A name under which this program adds the cfg. Cargo takes another name for another compiler, and
    /// builds anew.
    fn wrapper(&self, name: &str) -> io::Result<PathBuf> {
        let link = self.folder.join("wrappers").join(format!("{WRAPPER}{name}"));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(std::env::current_exe()?, &link)?;
        Ok(link)
    }

    /// Builds, and runs one check. A build that fails is an error.
    fn run(&self, name: &str, area: &str, check: Check) -> io::Result<End> {
        let filter = format!("{area}::");
        let words: &[&str] = match check {
            Check::Loom => &["--release", "--lib"],
            Check::Crash | Check::Tests => &["--test", "it"],
        };
        let target = self.folder.join(if check == Check::Loom { "loom" } else { "it" });
        let cargo = |program: &[&str], more: &[&str]| -> io::Result<Command> {
            let mut command = Command::new(program[0]);
            command
                .args(&program[1..])
                .args(["test", "--quiet", "--package", "sinew"])
                .args(words)
                .arg("--target-dir")
                .arg(&target)
                .args(more)
                .env("RUSTC_WORKSPACE_WRAPPER", self.wrapper(name)?)
                // What nobody debugs builds in half the time.
                .env("CARGO_PROFILE_DEV_DEBUG", "0")
                .current_dir(self.root);
            if check == Check::Loom {
                command.env("RUSTFLAGS", "--cfg sinew_loom");
            }
            Ok(command)
        };
        if !cargo(&["cargo"], &["--no-run"])?.status()?.success() {
            return Err(io::Error::other(format!("{name:?} does not build")));
        }
        let honest = if name.is_empty() { "honest" } else { name };
        let log = self.folder.join(format!("{honest}-{area}-{check:?}.log"));
        let program = ["timeout", "--kill-after=5", PATIENCE, "cargo"];
        let mut command = match check {
            Check::Crash => cargo(&program, &[])?,
            Check::Loom | Check::Tests => cargo(&program, &["--", &filter])?,
        };
        if check == Check::Crash {
            command.env("SINEW_CRASH", "first").env("SINEW_CRASH_AREA", area);
        }
        let out = File::create(&log)?;
        let status = command.stdout(out.try_clone()?).stderr(out).status()?;
        let text = fs::read_to_string(&log).unwrap_or_default();
        Ok(match status.code() {
            Some(124 | 137) => End::Hung,
            _ if absent(&text) => End::Absent,
            Some(0) => End::Passed,
            _ => End::Failed,
        })
    }
}

/// Whether a check had nothing to run.
fn absent(text: &str) -> bool {
    text.contains("no such area")
        || text.contains("does not run here")
        || (text.contains("test result: ok. 0 passed; 0 failed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_their_areas_are_found() {
        let source = "if cfg!(sabotage = \"mutex-lost-wake\") {} #[cfg(sabotage = \"NAME\")] \
            #[cfg(not(sabotage = \"two\"))]";
        assert_eq!(names(source).collect::<Vec<_>>(), ["mutex-lost-wake", "two"]);
        assert_eq!(area_of(Path::new("sync/mutex/core.rs")), "mutex");
        assert_eq!(area_of(Path::new("sync/mutex.rs")), "mutex");
        assert_eq!(area_of(Path::new("wait/word.rs")), "wait");
    }

    #[test]
    fn a_sample_is_of_two_areas() {
        let pairs = [("a-1", "a"), ("a-2", "a"), ("b-1", "b"), ("c-1", "c")];
        let all = pairs.map(|(n, a)| (n.to_owned(), a.to_owned())).into();
        assert_eq!(sample(&all), [("a-1", "a"), ("b-1", "b")]);
    }

    #[test]
    fn nothing_to_run_is_no_pass() {
        assert!(absent("test result: ok. 0 passed; 0 failed; 0 ignored"));
        assert!(!absent("test result: ok. 3 passed; 0 failed; 0 ignored"));
    }
}
