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
    /// The models of the module, and its unit tests.
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

/// Where a sabotage is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    /// Of the tests, and of the crash driver.
    area: String,
    /// Of the models and unit tests: what their names have in them.
    module: String,
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
        for (name, place) in &all {
            println!("{name:<36} {}", place.area);
        }
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<(&str, &Place)> = if words == ["--sample"] {
        sample(&all)
    } else {
        let wanted = |name: &str| words.is_empty() || words.contains(&name);
        if let Some(unknown) = words.iter().find(|name| !all.contains_key(**name)) {
            eprintln!(
                "no sabotage is called {unknown:?}; `cargo xtask sabotage --list` lists them"
            );
            return ExitCode::from(2);
        }
        all.iter().filter(|(n, _)| wanted(n)).map(|(n, place)| (n.as_str(), place)).collect()
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

/// Every name, with its place, in the sources below `folder`.
fn find(folder: &Path, inside: &Path, all: &mut BTreeMap<String, Place>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = inside.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            find(&entry.path(), &path, all)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            for name in names(&fs::read_to_string(entry.path())?) {
                all.insert(name.to_owned(), place_of(&path));
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

/// `mutex` for `sync/mutex/core.rs` and `sync/mutex.rs`; `wait` for `wait/word.rs`. The parts of `channel` have
/// models of their own, and their tests together.
fn place_of(path: &Path) -> Place {
    let mut parts =
        path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
    let first = parts.next().unwrap_or_default();
    let part = match &*first {
        "channel" | "copy" | "event" | "process" | "share" | "sync" => parts.next(),
        _ => None,
    };
    let (area, module) = match part {
        Some(part) if first == "channel" => (first, format!("channel::{part}::")),
        Some(part) => (part.clone(), format!("{part}::")),
        None => (first.clone(), format!("{first}::")),
    };
    Place { area, module }
}

/// The first of each area, of two areas.
fn sample(all: &BTreeMap<String, Place>) -> Vec<(&str, &Place)> {
    let mut chosen: Vec<(&str, &Place)> = Vec::new();
    for (name, place) in all {
        if chosen.len() < 2 && chosen.iter().all(|(_, other)| other.area != place.area) {
            chosen.push((name, place));
        }
    }
    chosen
}

/// Whether the honest build passes, and each of the others is noticed.
fn judge(root: &Path, chosen: &[(&str, &Place)]) -> io::Result<bool> {
    let bench = Bench::new(root)?;
    // By what each check looks at: parts of an area have their tests together.
    let mut honest: BTreeMap<String, End> = BTreeMap::new();
    for (_, place) in chosen {
        for check in CHECKS {
            let subject = place.subject(check);
            if honest.contains_key(&subject) {
                continue;
            }
            let end = bench.run("", place, check)?;
            if !matches!(end, End::Passed | End::Absent) {
                println!("{subject}: ends with {end:?} on the honest build already");
                return Ok(false);
            }
            println!("{subject}: honest, {end:?}");
            honest.insert(subject, end);
        }
    }
    let mut survivors = Vec::new();
    for (name, place) in chosen {
        let begin = Instant::now();
        let mut by = None;
        for check in CHECKS {
            if honest.get(&place.subject(check)) == Some(&End::Passed)
                && matches!(bench.run(name, place, check)?, End::Failed | End::Hung)
            {
                by = Some(check);
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

impl Place {
    fn subject(&self, check: Check) -> String {
        match check {
            Check::Loom => format!("{check:?} {}", self.module),
            Check::Crash | Check::Tests => format!("{check:?} {}", self.area),
        }
    }
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
    fn run(&self, name: &str, place: &Place, check: Check) -> io::Result<End> {
        let area = &place.area;
        let filter = match check {
            Check::Loom => place.module.clone(),
            Check::Crash | Check::Tests => format!("{area}::"),
        };
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
        for (path, area, module) in [
            ("sync/mutex/core.rs", "mutex", "mutex::"),
            ("sync/mutex.rs", "mutex", "mutex::"),
            ("wait/word.rs", "wait", "wait::"),
            ("channel/ring.rs", "channel", "channel::ring::"),
            ("channel/queue/crew.rs", "channel", "channel::queue::"),
        ] {
            let place = Place { area: area.to_owned(), module: module.to_owned() };
            assert_eq!(place_of(Path::new(path)), place);
        }
    }

    #[test]
    fn a_sample_is_of_two_areas() {
        let pairs = [("a-1", "a"), ("a-2", "a"), ("b-1", "b"), ("c-1", "c")];
        let place = |area: &str| Place { area: area.to_owned(), module: format!("{area}::") };
        let all = pairs.map(|(name, area)| (name.to_owned(), place(area))).into();
        assert_eq!(sample(&all), [("a-1", &place("a")), ("b-1", &place("b"))]);
    }

    #[test]
    fn nothing_to_run_is_no_pass() {
        assert!(absent("test result: ok. 0 passed; 0 failed; 0 ignored"));
        assert!(!absent("test result: ok. 3 passed; 0 failed; 0 ignored"));
    }
}
