//! The suite: each test in its own process, in its own process group, under a watchdog.

use std::fs;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use crate::census::{self, Census};
use crate::folder::{self, Folder};
use crate::peer::{self, Role};

/// How long one test may take before its whole process group is killed.
const PATIENCE: Duration = Duration::from_secs(120);
/// The exit status by which a test process says that it skipped.
const SKIPPED: i32 = 77;

const CASE: &str = "SINEW_TEST_CASE";
const SCRATCH: &str = "SINEW_TEST_SCRATCH";

/// Why a test did not run. Make one with [`skip`].
#[derive(Debug)]
pub struct Skip(String);

/// A test that cannot run here, and why.
///
/// # Errors
/// Always: it is the value to return.
pub fn skip(reason: impl Into<String>) -> Result<(), Skip> {
    Err(Skip(reason.into()))
}

/// Whether this run forces the library's fallbacks (`SINEW_WITHOUT`), so that what only newer
/// kernels give is not to be expected.
#[must_use]
pub fn fallbacks_forced() -> bool {
    std::env::var_os("SINEW_WITHOUT").is_some_and(|without| !without.is_empty())
}

/// One test: a name and a function that panics if the fact does not hold.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// The fact, as `area::fact_in_words`.
    pub name: &'static str,
    /// The check.
    pub run: fn() -> Result<(), Skip>,
}

/// Lists test functions of one file: `pub(crate) const TESTS: &[Test] = tests![a_fact, another];`
#[macro_export]
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        &[$($crate::Test {
            name: concat!(module_path!(), "::", stringify!($name)),
            run: $name,
        }),*]
    };
}

/// Lists roles of one file: `pub(crate) const ROLES: &[Role] = roles![writer, reader];`
#[macro_export]
macro_rules! roles {
    ($($name:ident),* $(,)?) => {
        &[$($crate::Role {
            name: concat!(module_path!(), "::", stringify!($name)),
            run: $name,
        }),*]
    };
}

/// The tests and roles of one test binary.
#[derive(Debug, Default)]
pub struct Suite {
    tests: Vec<Test>,
    roles: Vec<Role>,
    may_skip: Vec<(&'static str, &'static str)>,
}

impl Suite {
    /// An empty suite.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the tests and the roles of one file.
    #[must_use]
    pub fn add(mut self, tests: &[Test], roles: &[Role]) -> Self {
        self.tests.extend_from_slice(tests);
        self.roles.extend_from_slice(roles);
        self
    }

    /// States what may skip: lines of `WHO NAME`, WHO being `root`, `user` or `any`, NAME a test
    /// or the beginning of its name with `*`. A test that skips and is not listed fails.
    #[must_use]
    pub fn may_skip(mut self, list: &'static str) -> Self {
        for line in list.lines().map(|l| l.split('#').next().unwrap_or("").trim()) {
            if let Some((who, name)) = line.split_once(' ') {
                self.may_skip.push((who, name.trim()));
            }
        }
        self
    }

    /// Runs what this process was started for: a role, one test, or the list.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if let Some(role) = std::env::var_os(peer::ROLE) {
            let role = role.to_string_lossy().into_owned();
            let role = self.roles.iter().find(|r| r.name == role);
            return peer::run_role(role.expect("the role is registered"));
        }
        if let Ok(case) = std::env::var(CASE) {
            let test = self.tests.iter().find(|t| t.name == case);
            return run_case(test.expect("the test is registered"));
        }
        folder::sweep();
        let mut arguments = Arguments::from_args();
        if !census::can_be_private() {
            // Without namespaces of their own, tests would count each other's named objects.
            arguments.test_threads = Some(1);
        }
        let trials = self
            .tests
            .iter()
            .map(|test| {
                let allowed = self.allows(test.name);
                let name = test.name;
                let shown = name.split_once("::").map_or(name, |(_, rest)| rest);
                Trial::ignorable_test(shown, move || supervise(name, allowed))
            })
            .collect();
        libtest_mimic::run(&arguments, trials).exit_code()
    }

    fn allows(&self, name: &str) -> bool {
        let who = if rustix::process::geteuid().is_root() { "root" } else { "user" };
        let name = name.split_once("::").map_or(name, |(_, rest)| rest);
        self.may_skip.iter().any(|(w, pattern)| {
            (*w == who || *w == "any")
                && match pattern.strip_suffix('*') {
                    Some(start) => name.starts_with(start),
                    None => name == *pattern,
                }
        })
    }
}

/// The folder of the running test, empty at its start. It must be empty again at its end.
#[must_use]
pub fn scratch() -> PathBuf {
    PathBuf::from(std::env::var_os(SCRATCH).expect("only tests and roles have a scratch folder"))
}

/// Runs one test in this process and counts what it leaves.
fn run_case(test: &Test) -> ExitCode {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).expect("prctl");
    census::make_private(&scratch().with_file_name("mqueue"));
    let before = Census::take();
    match (test.run)() {
        Ok(()) => {}
        Err(Skip(reason)) => {
            print!("{reason}");
            return ExitCode::from(u8::try_from(SKIPPED).expect("small"));
        }
    }
    let left = before.leftovers();
    if left.is_empty() {
        return ExitCode::SUCCESS;
    }
    eprintln!("{} leaves behind:", test.name);
    for line in left {
        eprintln!("  {line}");
    }
    ExitCode::FAILURE
}

/// Starts one test, waits for it, and judges.
fn supervise(name: &'static str, may_skip: bool) -> Result<Completion, Failed> {
    let folder = Folder::new().map_err(|e| e.to_string())?;
    let scratch = folder.path().join("scratch");
    for folder in [&scratch, &folder.path().join("mqueue")] {
        fs::create_dir(folder).map_err(|e| e.to_string())?;
    }
    let out = tempfile::tempfile().map_err(|e| e.to_string())?;
    let err = tempfile::tempfile().map_err(|e| e.to_string())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .env(CASE, name)
        .env(SCRATCH, &scratch)
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .stdout(out.try_clone().map_err(|e| e.to_string())?)
        .stderr(err.try_clone().map_err(|e| e.to_string())?)
        .process_group(0);
    let mut child = command.spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
    let pid = Pid::from_child(&child);

    let ended = wait_for_exit(pid, PATIENCE);
    // The group may hold processes that the test left running; the census inside the test saw its
    // own children, this sees theirs. The leader is not reaped yet, so the group id is still ours.
    if !ended {
        let _ = kill_process_group(pid, Signal::KILL);
    }
    let strays = strays_of(pid);
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait().map_err(|e| e.to_string())?;

    let text = |mut file: fs::File| {
        let mut text = String::new();
        let _ = std::io::Seek::rewind(&mut file);
        let _ = file.read_to_string(&mut text);
        text
    };
    let (out, err) = (text(out), text(err));
    if !ended {
        return Err(format!("no end after {PATIENCE:?}\n{out}{err}").into());
    }
    if status.code() == Some(SKIPPED) {
        return if may_skip {
            Ok(Completion::ignored_with(out))
        } else {
            Err(format!("skipped, which the list does not allow here: {out}").into())
        };
    }
    if !status.success() {
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit status {code}"),
            (_, Some(signal)) => format!("killed by signal {signal}"),
            _ => "an unknown end".to_owned(),
        };
        return Err(format!("{how}\n{out}{err}").into());
    }
    if !strays.is_empty() {
        return Err(format!("left processes running: {strays:?}").into());
    }
    let files: Vec<_> = fs::read_dir(&scratch)
        .map_err(|e| e.to_string())?
        .filter_map(|f| Some(f.ok()?.file_name()))
        .collect();
    if !files.is_empty() {
        return Err(format!("left files: {files:?}").into());
    }
    Ok(Completion::Completed)
}

/// Waits until the process has ended, without reaping it. False after `patience`.
fn wait_for_exit(pid: Pid, patience: Duration) -> bool {
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).expect("pidfd of a child");
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
        let left = Timespec::try_from(left).expect("two minutes");
        if matches!(poll(&mut fds, Some(&left)), Ok(n) if n > 0) {
            return true;
        }
    }
}

/// The living processes of a group, other than its leader.
fn strays_of(group: Pid) -> Vec<String> {
    let mut strays = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // pid (name) state ppid pgrp ...; the name may hold anything.
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let own = head.split(' ').next() == Some(&group.as_raw_nonzero().to_string());
        let in_group = fields.get(2) == Some(&group.as_raw_nonzero().to_string().as_str());
        if in_group && !own && fields.first() != Some(&"Z") {
            strays.push(head.to_owned() + ")");
        }
    }
    strays
}
