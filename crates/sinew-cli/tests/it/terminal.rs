//! What is different on a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::{FromRawFd, OwnedFd};
use std::process::Command;

use rustix::io::Errno;
use sinew_testkit::{Role, Skip, Test, roles, tests};

use crate::program::command;

pub(crate) const TESTS: &[Test] = tests![
    a_terminal_gets_bold_and_a_pipe_does_not,
    no_color_and_a_dumb_terminal_are_respected,
    json_is_pretty_on_a_terminal,
    a_narrow_terminal_gets_narrow_lines,
];
pub(crate) const ROLES: &[Role] = roles![];

/// Both ends of a new terminal of this width: ours and the program's.
fn terminal(width: u16) -> (File, OwnedFd) {
    let mut ours = -1;
    let mut theirs = -1;
    let size = libc::winsize { ws_row: 50, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: two places for descriptors and a size that outlive the call; no name is asked for.
    let made = unsafe {
        libc::openpty(
            &raw mut ours,
            &raw mut theirs,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            &raw const size,
        )
    };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: new, and nobody else owns it.
    let ours = unsafe { File::from_raw_fd(ours) };
    // SAFETY: the same.
    let theirs = unsafe { OwnedFd::from_raw_fd(theirs) };
    (ours, theirs)
}

/// What a command shows on a terminal of this width.
pub(crate) fn shown(mut command: Command, width: u16) -> (Option<i32>, String) {
    let (mut ours, theirs) = terminal(width);
    command.stdout(theirs.try_clone().unwrap()).stderr(theirs);
    let mut child = command.spawn().unwrap();
    // The command holds the program's end.
    drop(command);
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        match ours.read(&mut part) {
            Ok(0) => break,
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            // The last process that had the other end is gone.
            Err(e) if Errno::from_io_error(&e) == Some(Errno::IO) => break,
            Err(e) => panic!("{e}"),
        }
    }
    let code = child.wait().unwrap().code();
    (code, String::from_utf8(bytes).unwrap().replace("\r\n", "\n"))
}

fn on_terminal(arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("TERM", "xterm-256color");
    command
}

fn a_terminal_gets_bold_and_a_pipe_does_not() -> Result<(), Skip> {
    let (code, text) = shown(on_terminal(&["mechanisms"]), 100);
    assert_eq!(code, Some(0));
    assert!(text.contains("\x1b[1mpipe\x1b[0m"), "{text}");
    let plain = crate::program::run(&["mechanisms"]).good();
    assert!(!plain.contains('\x1b'));
    Ok(())
}

fn no_color_and_a_dumb_terminal_are_respected() -> Result<(), Skip> {
    let mut without = on_terminal(&["mechanisms"]);
    without.env("NO_COLOR", "1");
    assert!(!shown(without, 100).1.contains('\x1b'));
    let mut empty = on_terminal(&["mechanisms"]);
    empty.env("NO_COLOR", "");
    assert!(shown(empty, 100).1.contains('\x1b'), "empty means not set");
    let mut dumb = on_terminal(&["mechanisms"]);
    dumb.env("TERM", "dumb");
    assert!(!shown(dumb, 100).1.contains('\x1b'));
    Ok(())
}

fn json_is_pretty_on_a_terminal() -> Result<(), Skip> {
    let (code, text) = shown(on_terminal(&["mechanisms", "pipe", "--json"]), 100);
    assert_eq!(code, Some(0));
    assert!(text.starts_with("{\n  \"schema\": 1,\n"), "{text}");
    let _: serde_json::Value = serde_json::from_str(&text).unwrap();
    Ok(())
}

fn a_narrow_terminal_gets_narrow_lines() -> Result<(), Skip> {
    let (_, text) = shown(on_terminal(&["mechanisms", "posix-mq"]), 70);
    for line in text.lines() {
        let plain = line.replace("\x1b[1m", "").replace("\x1b[0m", "");
        assert!(plain.chars().count() <= 70, "{plain}");
    }
    Ok(())
}
