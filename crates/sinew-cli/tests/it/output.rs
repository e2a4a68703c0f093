//! Where the output goes: readers that leave, full disks, places that cannot be written to.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use crate::program::{command, finish, run};

pub(crate) const TESTS: &[Test] = tests![
    a_reader_who_has_gone_ends_it_quietly,
    a_reader_who_leaves_after_one_line_ends_it_quietly,
    a_full_disk_is_one_line,
    a_place_that_cannot_be_written_to_is_found_out_before_the_run,
    a_file_of_the_same_name_is_replaced_whole,
    a_run_that_fails_leaves_the_old_file_and_no_new_one,
    a_dash_is_standard_output,
];
pub(crate) const ROLES: &[Role] = roles![];

const TALKATIVE: [&[&str]; 7] = [
    &["mechanisms"],
    &["mechanisms", "--json"],
    &["mechanisms", "tcp"],
    &["bench", "--list"],
    &["bench", "--help"],
    &["completions", "zsh"],
    &["man"],
];

fn a_reader_who_has_gone_ends_it_quietly() -> Result<(), Skip> {
    for arguments in TALKATIVE {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(arguments);
        command.stdout(writer).stderr(Stdio::piped());
        let ran = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stderr), "", "{arguments:?}");
        assert_eq!(ran.status.code(), Some(0), "{arguments:?}");
    }
    Ok(())
}

fn a_reader_who_leaves_after_one_line_ends_it_quietly() -> Result<(), Skip> {
    for arguments in TALKATIVE {
        let mut child =
            command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::with_capacity(16, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "{arguments:?}");
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(err, "", "{arguments:?}");
        assert_eq!(child.wait().unwrap().code(), Some(0), "{arguments:?}");
    }
    Ok(())
}

fn a_full_disk_is_one_line() -> Result<(), Skip> {
    let line = run(&["bench", "--list", "-o", "/dev/full"]).one_line(1);
    assert!(line.contains("\"/dev/full\": No space left on device"), "{line}");
    for arguments in [&["mechanisms"][..], &["completions", "bash"], &["man"]] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let child = command(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let line = crate::program::Ran::from(child.wait_with_output().unwrap()).one_line(1);
        assert!(line.contains("standard output: No space left on device"), "{line}");
    }
    Ok(())
}

fn a_place_that_cannot_be_written_to_is_found_out_before_the_run() -> Result<(), Skip> {
    let folder = scratch();
    let missing = folder.join("missing").join("result.json");
    for (path, reason) in [
        (missing.to_str().unwrap(), "No such file or directory"),
        (folder.to_str().unwrap(), "Is a directory"),
        ("/proc/version/x", "Not a directory"),
    ] {
        // Were it found out only afterwards, the whole run would pass first.
        let line = run(&["bench", "--duration", "3600s", "-o", path]).one_line(2);
        assert!(line.starts_with("cannot write to ") && line.contains(reason), "{line}");
    }
    if !rustix::process::geteuid().is_root() {
        let locked = folder.join("locked");
        fs::write(&locked, "").unwrap();
        fs::set_permissions(&locked, fs::Permissions::from_mode(0o400)).unwrap();
        let path = locked.to_str().unwrap();
        let line = run(&["bench", "--duration", "3600s", "-o", path]).one_line(2);
        assert!(line.contains("Permission denied"), "{line}");
        fs::remove_file(locked).unwrap();
    }
    Ok(())
}

fn a_file_of_the_same_name_is_replaced_whole() -> Result<(), Skip> {
    let path = scratch().join("list");
    fs::write(&path, "x".repeat(100_000)).unwrap();
    let ran = finish(command(&["bench", "--list", "-o"]).arg(&path));
    assert_eq!(ran.good(), "");
    assert_eq!(fs::read_to_string(&path).unwrap(), run(&["bench", "--list"]).good());
    fs::remove_file(path).unwrap();
    Ok(())
}

fn a_run_that_fails_leaves_the_old_file_and_no_new_one() -> Result<(), Skip> {
    let path = scratch().join("result");
    let fail = || {
        let mut command = command(&["bench", "pipe", "--input", "/nowhere", "-o"]);
        let ran = finish(command.arg(&path));
        assert_ne!(ran.code, Some(0));
    };
    fail();
    assert!(!path.exists());
    fs::write(&path, "the last good result").unwrap();
    fail();
    assert_eq!(fs::read_to_string(&path).unwrap(), "the last good result");
    fs::remove_file(path).unwrap();
    Ok(())
}

fn a_dash_is_standard_output() -> Result<(), Skip> {
    assert_eq!(run(&["bench", "--list", "-o", "-"]).good(), run(&["bench", "--list"]).good());
    Ok(())
}
