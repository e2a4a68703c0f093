//! How a run ends before its time, and that nothing is left of it: no process, no queue, no
//! segment, no file. The suite itself counts objects, files and processes after each test.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use serde_json::Value;
use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use crate::program::{Ran, command, run};

pub(crate) const TESTS: &[Test] = tests![
    a_signal_ends_a_run_in_order,
    a_killed_worker_costs_one_row_and_the_rest_goes_on,
    a_stopped_worker_does_not_stop_the_end,
    a_killed_supervisor_takes_its_workers_along,
    the_next_run_removes_what_kill_9_of_all_left,
];
pub(crate) const ROLES: &[Role] = roles![];

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Named objects of every kind, so that something could be left behind.
const NAMED: [&str; 7] =
    ["fifo", "unix-stream", "posix-mq", "sysv-mq", "posix-shm", "sysv-shm", "mmap-file"];

/// A run of one row that would last for many minutes.
fn start(mechanism: &str) -> Child {
    let mut command = command(&["bench", mechanism, "--works", "round-trip", "--sizes", "64"]);
    command.args(["--placement", "one-cpu", "--duration", "3600s", "--format", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// The children of a process.
fn children(pid: u32) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    match fs::read_to_string(path) {
        Ok(list) => list
            .split_whitespace()
            .map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap())
            .collect(),
        // A kernel without that list: look at everybody's parent.
        Err(_) => fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                let child: i32 = entry.file_name().to_str()?.parse().ok()?;
                let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
                let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
                (parent == pid.to_string()).then(|| Pid::from_raw(child))?
            })
            .collect(),
    }
}

/// Whether the process is in the middle of its work, by the CPU time that it has used.
fn works(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/schedstat", pid.as_raw_nonzero()));
    let used = stat.ok().and_then(|s| s.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
    // A worker that has started and goes to and fro has used some milliseconds.
    used > 20_000_000
}

/// Waits until both workers of the run are at work, and gives them.
fn workers(run: &Child) -> Vec<Pid> {
    let pidfd = pidfd_open(Pid::from_child(run), PidfdFlags::empty()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let all = children(run.id());
        if all.len() == 2 && all.iter().all(|pid| works(*pid)) {
            return all;
        }
        assert!(Instant::now() < deadline, "the run does not start");
        // Its end is an event; the start of its workers is none that a third process could wait for.
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        let moment = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        assert_eq!(poll(&mut ended, Some(&moment)).unwrap(), 0, "the run ends by itself");
    }
}

/// Waits until all these processes are gone. They are children of others.
fn gone(pidfds: Vec<std::os::fd::OwnedFd>) {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    for pidfd in pidfds {
        let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
        assert_eq!(poll(&mut ended, Some(&patience)).unwrap(), 1, "a process is left");
    }
}

fn watch(pids: &[Pid]) -> Vec<std::os::fd::OwnedFd> {
    pids.iter().map(|pid| pidfd_open(*pid, PidfdFlags::empty()).unwrap()).collect()
}

fn scratch_is_empty() {
    let left: Vec<_> =
        fs::read_dir(scratch()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
}

fn a_signal_ends_a_run_in_order() -> Result<(), Skip> {
    for (mechanism, signal) in
        NAMED.into_iter().zip([Signal::INT, Signal::TERM, Signal::HUP].into_iter().cycle())
    {
        let run = start(mechanism);
        let workers = watch(&workers(&run));
        let asked = Instant::now();
        kill_process(Pid::from_child(&run), signal).unwrap();
        let output = run.wait_with_output().unwrap();
        assert!(asked.elapsed() < PATIENCE);
        gone(workers);
        // Whoever waits learns that a signal was the reason.
        assert_eq!(output.status.signal(), Some(2), "{mechanism}: {:?}", output.status);
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(err, "sinew: interrupted; the run is cleaned up\n", "{mechanism}");
        assert!(output.stdout.is_empty(), "no half of a report");
        scratch_is_empty();
    }
    Ok(())
}

fn a_killed_worker_costs_one_row_and_the_rest_goes_on() -> Result<(), Skip> {
    for (number, mechanism) in ["fifo", "posix-mq", "sysv-shm"].into_iter().enumerate() {
        let run = start(mechanism);
        let both = workers(&run);
        let watched = watch(&both);
        kill_process(both[number % 2], Signal::KILL).unwrap();
        let ran = Ran::from(run.wait_with_output().unwrap());
        gone(watched);
        assert_eq!(ran.code, Some(1), "{mechanism}: {}", ran.err);
        let report: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(report["rows"].as_array().unwrap().len(), 0);
        assert_eq!(report["failed"][0]["mechanism"], mechanism);
        let reason = report["failed"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("killed") || reason.contains("signal 9"), "{reason}");
        let lines: Vec<_> = ran.err.lines().collect();
        assert_eq!(lines.len(), 2, "{}", ran.err);
        assert!(lines[0].contains(&format!("{mechanism} round-trip 64 one-cpu failed: ")));
        assert_eq!(lines[1], "sinew: 1 row of 1 failed");
        scratch_is_empty();
    }
    Ok(())
}

fn a_stopped_worker_does_not_stop_the_end() -> Result<(), Skip> {
    let run = start("posix-mq");
    let both = workers(&run);
    let watched = watch(&both);
    kill_process(both[0], Signal::STOP).unwrap();
    kill_process(Pid::from_child(&run), Signal::INT).unwrap();
    let output = run.wait_with_output().unwrap();
    gone(watched);
    assert_eq!(output.status.signal(), Some(2), "{:?}", output.status);
    scratch_is_empty();
    Ok(())
}

fn a_killed_supervisor_takes_its_workers_along() -> Result<(), Skip> {
    for mechanism in ["pipe", "memfd", "udp"] {
        let mut supervisor = start(mechanism);
        let watched = watch(&workers(&supervisor));
        kill_process(Pid::from_child(&supervisor), Signal::KILL).unwrap();
        supervisor.wait().unwrap();
        gone(watched);
        sweep();
    }
    Ok(())
}

/// The next run, which removes what is left of those before it.
fn sweep() {
    let next = ["bench", "pipe", "--works", "stream", "--sizes", "64", "--duration", "5ms"];
    run(&[&next[..], &["--placement", "one-cpu"]].concat()).good();
    scratch_is_empty();
}

fn the_next_run_removes_what_kill_9_of_all_left() -> Result<(), Skip> {
    for mechanism in NAMED {
        let mut supervisor = start(mechanism);
        let both = workers(&supervisor);
        let watched = watch(&both);
        // Stopped first, so that none of them can clean up after another.
        let all = [Pid::from_child(&supervisor), both[0], both[1]];
        for pid in all {
            kill_process(pid, Signal::STOP).unwrap();
        }
        for pid in all {
            let _ = kill_process(pid, Signal::KILL);
        }
        supervisor.wait().unwrap();
        gone(watched);
        assert_ne!(fs::read_dir(scratch()).unwrap().count(), 0, "kill -9 leaves the folder");
        sweep();
    }
    Ok(())
}
