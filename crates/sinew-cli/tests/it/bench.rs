//! `sinew bench` for real: short runs of the real binary between real processes.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::Value;
use sinew_bench::Work;
use sinew_bench::settings::{MECHANISMS, carries_data, has_floor, shares_pages, works};
use sinew_testkit::{Role, Skip, Test, roles, scratch, skip, tests};

use crate::program::{Ran, command, finish, run};
use crate::terminal::shown;

pub(crate) const TESTS: &[Test] = tests![
    every_mechanism_does_its_works_and_is_verified,
    a_kernel_row_has_a_floor_and_a_shared_row_has_faults,
    pipe_socket_and_queue_rows_make_one_call_per_send_and_receive,
    awake_shared_rows_make_no_call,
    bulk_has_first_and_repeated_use_and_hand_over,
    a_size_beyond_a_limit_is_skipped_with_the_limit,
    an_input_arrives_with_its_own_checksum,
    csv_and_table_hold_the_same_rows,
    a_file_gets_the_whole_report,
    a_terminal_shows_how_far_it_is_and_a_pipe_does_not,
    a_reader_who_leaves_is_no_failure,
    one_cpu_only_is_said,
    few_descriptors_are_enough_or_named,
    queues_that_the_limit_forbids_are_named_and_the_rest_goes_on,
    a_full_dev_shm_is_named_and_the_rest_goes_on,
    no_mqueue_mount_is_no_obstacle_or_named,
    a_folder_that_cannot_be_written_is_one_line,
    two_runs_at_once_do_not_meet,
];
pub(crate) const ROLES: &[Role] = roles![];

/// A short run as JSON, with what must hold of every run.
#[track_caller]
pub(crate) fn measure(arguments: &[&str]) -> Value {
    judge(run(&[&["bench", "--format", "json"], arguments].concat()))
}

#[track_caller]
fn judge(ran: Ran) -> Value {
    let report: Value = serde_json::from_str(&ran.good()).unwrap();
    assert_eq!(report["schema"], 1);
    for row in rows(&report) {
        assert_eq!(row["verified"], true, "{row}");
        assert!(row["ns"]["p50"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["doubts"].is_array(), "{row}");
    }
    report
}

fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().unwrap()
}

fn mechanisms(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|row| row["mechanism"].as_str().unwrap()).collect()
}

/// What keeps a run to a fraction of a second.
const SHORT: [&str; 6] = ["--sizes", "64", "--duration", "5ms", "--placement", "one-cpu"];

fn every_mechanism_does_its_works_and_is_verified() -> Result<(), Skip> {
    let names: Vec<&str> =
        Work::ALL.into_iter().filter(|work| *work != Work::Bulk).map(Work::name).collect();
    let names = names.join(",");
    let arguments = [&SHORT[..], &["--works", &names]].concat();
    let report = measure(&arguments);
    let mut expected = 0;
    for mechanism in MECHANISMS {
        for work in works(mechanism).iter().filter(|work| **work != Work::Bulk) {
            let work = work.name();
            expected += 1;
            let found = rows(&report)
                .iter()
                .any(|row| row["mechanism"] == mechanism.name() && row["work"] == work);
            let skipped = report["skipped"].as_array().unwrap();
            let left_out = skipped
                .iter()
                .any(|row| row["mechanism"] == mechanism.name() && row["work"] == work);
            assert!(found || left_out, "{mechanism} {work}");
        }
    }
    // On the hosts that the tests are made for nothing of 64 bytes is out of reach but queues that
    // a sandbox does not offer.
    let all = rows(&report).len();
    assert!(all >= expected - 4, "{all} rows of {expected}");
    Ok(())
}

fn a_kernel_row_has_a_floor_and_a_shared_row_has_faults() -> Result<(), Skip> {
    let arguments =
        [&["pipe", "tcp", "memfd", "mmap-file", "channel"], &SHORT[..], &["--works", "round-trip"]];
    let report = measure(&arguments.concat());
    assert_eq!(rows(&report).len(), 5);
    for row in rows(&report) {
        let mechanism: sinew::Mechanism = row["mechanism"].as_str().unwrap().parse().unwrap();
        let shared = shares_pages(mechanism);
        assert_eq!(row.get("floor_ratio").is_some(), has_floor(mechanism), "{row}");
        assert_eq!(row.get("faults_per_mib").is_some(), shared, "{row}");
        assert_eq!(row.get("wait").is_some(), shared, "{row}");
        if has_floor(mechanism) {
            let ratio = row["floor_ratio"].as_f64().unwrap();
            let low = row["floor_ratio_ci"][0].as_f64().unwrap();
            let high = row["floor_ratio_ci"][1].as_f64().unwrap();
            assert!(low <= ratio && ratio <= high, "{row}");
        }
    }
    Ok(())
}

fn pipe_socket_and_queue_rows_make_one_call_per_send_and_receive() -> Result<(), Skip> {
    let names =
        ["pipe", "fifo", "unix-stream", "unix-dgram", "unix-seqpacket", "posix-mq", "sysv-mq"];
    let report = measure(&[&names[..], &SHORT[..], &["--works", "round-trip,stream"]].concat());
    let mut counted = 0;
    for row in rows(&report) {
        let Some(calls) = row.get("calls_per_message") else { continue };
        let expected = if row["work"] == "round-trip" { 4.0 } else { 2.0 };
        let calls = calls.as_f64().unwrap();
        assert!((calls - expected).abs() < 0.02, "{calls} calls in {row}");
        counted += 1;
    }
    if counted == 0 {
        return skip("calls cannot be counted here");
    }
    Ok(())
}

fn awake_shared_rows_make_no_call() -> Result<(), Skip> {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return skip("one CPU only");
    }
    let arguments = [
        "posix-shm",
        "sysv-shm",
        "memfd",
        "mmap-file",
        "channel",
        "--sizes",
        "64",
        "--duration",
        "20ms",
        "--placement",
        "two-cpus-awake",
        "--works",
        "round-trip,stream",
    ];
    let report = measure(&arguments);
    let mut counted = 0;
    for row in rows(&report) {
        assert_eq!(row["wait"], "awake", "{row}");
        if let Some(calls) = row.get("calls_per_message") {
            assert_eq!(calls.as_f64().unwrap(), 0.0, "{row}");
            counted += 1;
        }
    }
    if counted == 0 {
        return skip("calls cannot be counted here");
    }
    Ok(())
}

fn bulk_has_first_and_repeated_use_and_hand_over() -> Result<(), Skip> {
    let arguments =
        ["memfd", "pipe", "--works", "bulk", "--duration", "5ms", "--placement", "one-cpu"];
    let report = measure(&arguments);
    let uses: BTreeSet<_> = rows(&report)
        .iter()
        .map(|row| (row["mechanism"].as_str().unwrap(), row["use"].as_str().unwrap()))
        .collect();
    let expected = BTreeSet::from([
        ("memfd", "first"),
        ("memfd", "hand-over"),
        ("memfd", "repeated"),
        ("pipe", "first"),
        ("pipe", "repeated"),
    ]);
    assert_eq!(uses, expected);
    let over = rows(&report).iter().find(|row| row["use"] == "hand-over").unwrap();
    assert!(over["hand_over_ns"]["p50"].as_f64().unwrap() > 0.0, "{over}");
    Ok(())
}

fn a_size_beyond_a_limit_is_skipped_with_the_limit() -> Result<(), Skip> {
    let mut arguments = vec!["posix-mq", "sysv-mq", "udp", "unix-dgram", "--works", "round-trip"];
    arguments.extend(["--sizes", "64M", "--duration", "5ms", "--placement", "one-cpu"]);
    let report = measure(&arguments);
    assert!(rows(&report).is_empty());
    let reasons: Vec<_> = report["skipped"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| (row["mechanism"].as_str().unwrap(), row["reason"].as_str().unwrap()))
        .collect();
    for (mechanism, limit) in [
        ("posix-mq", "fs.mqueue.msgsize_max"),
        ("sysv-mq", "kernel.msgmax"),
        ("udp", "65507"),
        ("unix-dgram", "net.core.wmem"),
    ] {
        let found = reasons.iter().any(|(m, reason)| *m == mechanism && reason.contains(limit));
        assert!(found, "{mechanism}: {reasons:?}");
    }
    // In the table the same, and nothing but that.
    let table = run(&["bench", "udp", "--sizes", "64M", "--works", "stream", "--duration", "5ms"]);
    let table = table.good();
    assert!(table.contains("Nothing was measured.") && table.contains("65507"), "{table}");
    Ok(())
}

/// A file of this length in the scratch folder.
fn payload(length: usize) -> PathBuf {
    let path = scratch().join("payload");
    let mut state = 1_u32;
    let bytes: Vec<u8> = (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect();
    fs::write(&path, bytes).unwrap();
    path
}

fn an_input_arrives_with_its_own_checksum() -> Result<(), Skip> {
    // No multiple of anything.
    let input = payload(300_007);
    let path = input.to_str().unwrap();
    let report = measure(&[&SHORT[..], &["--works", "stream", "--input", path]].concat());
    let sum = Command::new("sha256sum").arg(&input).output();
    fs::remove_file(&input).unwrap();
    let own = report["settings"]["input"]["sha256"].as_str().unwrap();
    if let Ok(sum) = sum {
        let sum = String::from_utf8(sum.stdout).unwrap();
        assert_eq!(sum.split(' ').next().unwrap(), own);
    }
    assert_eq!(report["settings"]["input"]["bytes"], 300_007);
    let carries = |row: &&Value| {
        let mechanism: sinew::Mechanism = row["mechanism"].as_str().unwrap().parse().unwrap();
        carries_data(mechanism)
    };
    let received: Vec<&Value> = rows(&report).iter().filter(carries).collect();
    for row in &received {
        assert_eq!(row["sha256"], own, "{row}");
    }
    assert!(received.len() >= 12, "{}", received.len());
    Ok(())
}

fn csv_and_table_hold_the_same_rows() -> Result<(), Skip> {
    let arguments = [&["pipe", "udp", "memfd"], &SHORT[..], &["--works", "round-trip"]].concat();
    let csv = run(&[&["bench", "--format", "csv"], &arguments[..]].concat()).good();
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines[0].starts_with("status,mechanism,work,use,size,placement,wait,count,ns_p50,"));
    assert_eq!(lines.len(), 4, "{csv}");
    assert!(lines[1].starts_with("measured,pipe,round-trip,,64,one-cpu,,"), "{csv}");
    let table = run(&[&["bench"], &arguments[..]].concat()).good();
    for name in ["\npipe ", "\nudp ", "\nmemfd "] {
        assert_eq!(table.matches(name).count(), 1, "{table}");
    }
    assert!(table.contains("In words\n- For 64 bytes, "), "{table}");
    for line in table.lines() {
        assert!(line.chars().count() <= 100, "{line}");
    }
    Ok(())
}

fn a_file_gets_the_whole_report() -> Result<(), Skip> {
    let path = scratch().join("report.json");
    let mut command = command(&[&["bench", "pipe", "--format", "json"], &SHORT[..]].concat());
    let ran = finish(command.args(["--works", "stream", "-o"]).arg(&path));
    assert_eq!(ran.good(), "");
    let report: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    fs::remove_file(path).unwrap();
    assert_eq!(mechanisms(&report["rows"]), BTreeSet::from(["pipe"]));
    Ok(())
}

fn a_terminal_shows_how_far_it_is_and_a_pipe_does_not() -> Result<(), Skip> {
    let arguments = [&["bench", "pipe", "memfd"], &SHORT[..], &["--works", "round-trip"]].concat();
    let mut on_terminal = command(&arguments);
    on_terminal.env("TERM", "xterm-256color");
    let (code, text) = shown(on_terminal, 100);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("  memfd round-trip"), "what it is at: {text:?}");
    assert!(text.contains("\x1b[1mCOPY"), "{text}");
    // The bar is gone before the tables come.
    let (_, after) = text.rsplit_once("sinew 0.").unwrap();
    assert!(!after.contains("memfd round-trip"), "{after}");
    // `good` asserts that standard error is empty.
    run(&arguments).good();
    Ok(())
}

fn a_reader_who_leaves_is_no_failure() -> Result<(), Skip> {
    let arguments = [&["bench", "pipe"], &SHORT[..], &["--works", "round-trip"]].concat();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = command(&arguments);
    let child = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    assert_eq!(Ran::from(child.wait_with_output().unwrap()).good(), "");
    Ok(())
}

fn one_cpu_only_is_said() -> Result<(), Skip> {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
    let all = sched_getaffinity(None).unwrap();
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap();
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one).unwrap();
    let report = measure(&["pipe", "memfd", "--sizes", "64", "--duration", "5ms"]);
    assert!(rows(&report).iter().all(|row| row["placement"] == "one-cpu"));
    assert!(!rows(&report).is_empty());
    for row in report["skipped"].as_array().unwrap() {
        assert!(row["reason"].as_str().unwrap().contains("one CPU only"), "{row}");
    }
    Ok(())
}

/// A run of which some rows may not be possible: what is measured, and the reasons for the rest.
/// The exit status and the report agree, and no reason is longer than a line.
#[track_caller]
fn hindered(mut command: Command) -> (BTreeSet<String>, Vec<(String, String)>) {
    let ran = finish(&mut command);
    let report: Value = serde_json::from_str(&ran.out).expect(&ran.err);
    let failed = report.get("failed").map_or(0, |failed| failed.as_array().unwrap().len());
    assert_eq!(ran.code, Some(i32::from(failed > 0)), "{}", ran.err);
    let mut reasons = Vec::new();
    for list in ["skipped", "failed"] {
        for row in report.get(list).and_then(Value::as_array).into_iter().flatten() {
            let reason = row["reason"].as_str().unwrap().to_owned();
            assert!(!reason.is_empty() && !reason.contains('\n'), "{reason}");
            reasons.push((row["mechanism"].as_str().unwrap().to_owned(), reason));
        }
    }
    let measured = mechanisms(&report["rows"]).into_iter().map(str::to_owned).collect();
    (measured, reasons)
}

fn json_run(arguments: &[&str]) -> Command {
    command(&[&["bench", "--format", "json"], arguments].concat())
}

fn few_descriptors_are_enough_or_named() -> Result<(), Skip> {
    let mut seen_any = false;
    for count in [16, 9, 6, 4] {
        let mut command = json_run(&[&SHORT[..], &["--works", "round-trip"]].concat());
        let limit = Rlimit { current: Some(count), maximum: Some(count) };
        let hook = move || Ok(setrlimit(Resource::Nofile, limit)?);
        // SAFETY: setrlimit is one system call and allocates nothing.
        unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, hook) };
        if count == 16 {
            let (measured, reasons) = hindered(command);
            for (mechanism, reason) in &reasons {
                assert!(reason.contains("RLIMIT_NOFILE"), "{mechanism}: {reason}");
            }
            let with_round_trips =
                MECHANISMS.iter().filter(|m| works(**m).contains(&Work::RoundTrip)).count();
            assert!(measured.len() + reasons.len() >= with_round_trips);
            seen_any |= !measured.is_empty();
            continue;
        }
        // With so few nothing may be possible: still no more than a line, and no panic.
        let ran = finish(&mut command);
        assert!(matches!(ran.code, Some(0 | 1)), "{ran:?}");
        assert!(!ran.err.contains("panicked"), "{}", ran.err);
    }
    assert!(seen_any, "with 16 descriptors something can be measured");
    // Without a free descriptor no folder can be emptied; the next run does that.
    run(&[&["bench", "pipe"], &SHORT[..], &["--works", "round-trip"]].concat()).good();
    Ok(())
}

fn queues_that_the_limit_forbids_are_named_and_the_rest_goes_on() -> Result<(), Skip> {
    let mut command =
        json_run(&[&["posix-mq", "pipe"], &SHORT[..], &["--works", "round-trip"]].concat());
    let limit = Rlimit { current: Some(0), maximum: Some(0) };
    let hook = move || Ok(setrlimit(Resource::Msgqueue, limit)?);
    // SAFETY: setrlimit is one system call and allocates nothing.
    unsafe { std::os::unix::process::CommandExt::pre_exec(&mut command, hook) };
    let (measured, reasons) = hindered(command);
    assert_eq!(measured, BTreeSet::from(["pipe".to_owned()]));
    assert!(!reasons.is_empty());
    for (mechanism, reason) in reasons {
        assert_eq!(mechanism, "posix-mq");
        assert!(reason.contains("RLIMIT_MSGQUEUE"), "{reason}");
    }
    Ok(())
}

fn a_full_dev_shm_is_named_and_the_rest_goes_on() -> Result<(), Skip> {
    use rustix::mount::{MountFlags, mount};
    if !sinew_testkit::census::can_be_private() {
        return skip("needs a mount namespace");
    }
    // This test process has its own mount namespace already.
    mount("tmpfs", "/dev/shm", "tmpfs", MountFlags::empty(), Some(c"size=4k")).unwrap();
    fs::write("/dev/shm/full", [1; 4096]).unwrap();
    let command = json_run(
        &[&["posix-shm", "memfd", "pipe"], &SHORT[..], &["--works", "round-trip"]].concat(),
    );
    let (measured, reasons) = hindered(command);
    fs::remove_file("/dev/shm/full").unwrap();
    assert_eq!(measured, BTreeSet::from(["memfd".to_owned(), "pipe".to_owned()]));
    assert!(!reasons.is_empty());
    for (mechanism, reason) in reasons {
        assert_eq!(mechanism, "posix-shm");
        assert!(reason.contains("/dev/shm") || reason.contains("space"), "{reason}");
    }
    Ok(())
}

fn no_mqueue_mount_is_no_obstacle_or_named() -> Result<(), Skip> {
    use rustix::mount::{UnmountFlags, unmount};
    if sinew_testkit::census::can_be_private() {
        // In the mount namespace of this test.
        let _ = unmount("/dev/mqueue", UnmountFlags::DETACH);
    }
    if fs::read_dir("/dev/mqueue").is_ok_and(|mut entries| entries.next().is_some()) {
        return skip("/dev/mqueue stays mounted");
    }
    let command =
        json_run(&[&["posix-mq", "pipe"], &SHORT[..], &["--works", "round-trip"]].concat());
    let (measured, reasons) = hindered(command);
    assert!(measured.contains("pipe"));
    assert!(measured.contains("posix-mq") || !reasons.is_empty());
    Ok(())
}

fn a_folder_that_cannot_be_written_is_one_line() -> Result<(), Skip> {
    let mut command = json_run(&[&["pipe"], &SHORT[..]].concat());
    let ran = finish(command.env("TMPDIR", "/proc/nowhere"));
    assert_eq!(ran.out, "");
    let line = ran.err.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n') && line.contains("TMPDIR"), "{line}");
    assert!(matches!(ran.code, Some(1 | 2)));
    Ok(())
}

fn two_runs_at_once_do_not_meet() -> Result<(), Skip> {
    let arguments = [&SHORT[..], &["--works", "round-trip", "--format", "json"]].concat();
    let start = || {
        let mut command = command(&[&["bench"], &arguments[..]].concat());
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        command.spawn().unwrap()
    };
    let (one, other) = (start(), start());
    for child in [one, other] {
        let report = judge(Ran::from(child.wait_with_output().unwrap()));
        assert!(rows(&report).len() >= 14 - 2);
    }
    Ok(())
}
