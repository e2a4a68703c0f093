//! Pipes with programs of others, as inherited descriptors and as standard input and output.

use std::process::Command;

use sinew::command::CommandExt;
use sinew::wait::{Opens, Receives, Sends};
use sinew::{RecvError, SendError, fifo, pipe};
use sinew_testkit::{Role, Skip, Test, roles, scratch, tests};

use super::{Compiled, Program, python, text};

pub(crate) const TESTS: &[Test] = tests![
    c_reads_our_pipe_under_a_number,
    we_read_a_pipe_that_c_writes_under_a_number,
    python_reads_our_pipe_under_a_number,
    the_shell_reads_our_pipe_as_standard_input,
    we_read_the_standard_output_of_the_shell,
    a_program_that_leaves_closes_our_pipe,
    c_reads_our_fifo,
    we_read_a_fifo_that_c_writes,
    the_shell_reads_our_fifo,
    we_read_a_fifo_that_the_shell_made_and_writes,
    python_reads_our_fifo,
];
pub(crate) const ROLES: &[Role] = roles![];

const C: &str = include_str!("../../interop/pipes.c");

/// As `pipes.c` has it: what goes through.
pub(crate) fn pattern() -> Vec<u8> {
    (0..200_000_usize).map(|i| ((i * 31 + i / 251) % 256) as u8).collect()
}

/// Receives to the end.
pub(crate) fn recv_all(rx: &impl Receives<Received = usize>) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buf = [0; 10_000];
    loop {
        match rx.recv(&mut buf) {
            Ok(length) => all.extend_from_slice(&buf[..length]),
            Err(RecvError::Closed) => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

fn c_reads_our_pipe_under_a_number() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let (rx, tx) = pipe::pipe().unwrap();
    let mut command = c.command();
    let mut program = Program::start(command.args(["read-fd", "7"]).fd(7, rx).unwrap());
    // It holds the read end too, and would keep it open.
    drop(command);
    tx.send(&pattern()).unwrap();
    drop(tx);
    program.expect("200000 of 200000");
    program.end();
    Ok(())
}

fn we_read_a_pipe_that_c_writes_under_a_number() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let (rx, tx) = pipe::pipe().unwrap();
    let mut command = c.command();
    let program = Program::start(command.args(["write-fd", "9"]).fd(9, tx).unwrap());
    drop(command);
    assert!(recv_all(&rx) == pattern(), "every byte, and the end after it");
    program.end();
    Ok(())
}

fn python_reads_our_pipe_under_a_number() -> Result<(), Skip> {
    let script = "
import os
with os.fdopen(5, 'rb') as pipe:
    data = pipe.read()
expected = bytes((i * 31 + i // 251) % 256 for i in range(200000))
print(data == expected)
";
    let mut command = python("os")?;
    let (rx, tx) = pipe::pipe().unwrap();
    let mut program = Program::start(command.arg(script).fd(5, rx).unwrap());
    drop(command);
    tx.send(&pattern()).unwrap();
    drop(tx);
    program.expect("True");
    program.end();
    Ok(())
}

fn the_shell_reads_our_pipe_as_standard_input() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let (answer, out) = pipe::pipe().unwrap();
    let mut command = Command::new("sh");
    let mut child =
        command.args(["-c", "wc -c | tr -d ' '"]).stdin(rx).stdout(out).spawn().unwrap();
    drop(command);
    tx.send(&pattern()).unwrap();
    drop(tx);
    assert_eq!(recv_all(&answer), b"200000\n");
    assert!(child.wait().unwrap().success());
    Ok(())
}

fn we_read_the_standard_output_of_the_shell() -> Result<(), Skip> {
    let (rx, out) = pipe::pipe().unwrap();
    let mut command = Command::new("sh");
    let mut child =
        command.args(["-c", "for i in 1 2 3; do echo line $i; done"]).stdout(out).spawn().unwrap();
    drop(command);
    assert_eq!(recv_all(&rx), b"line 1\nline 2\nline 3\n");
    assert!(child.wait().unwrap().success());
    Ok(())
}

/// As `yes | head -1` is, with us in the place of `yes`.
fn a_program_that_leaves_closes_our_pipe() -> Result<(), Skip> {
    let (rx, tx) = pipe::pipe().unwrap();
    let (answer, out) = pipe::pipe().unwrap();
    let mut command = Command::new("head");
    let mut child = command.args(["-n", "1"]).stdin(rx).stdout(out).spawn().unwrap();
    drop(command);
    let error = loop {
        if let Err(error) = tx.send(b"y\n") {
            break error;
        }
    };
    assert_eq!(error, SendError::Closed);
    assert_eq!(recv_all(&answer), b"y\n");
    assert!(child.wait().unwrap().success());
    Ok(())
}

/// Our FIFO, which another program reads, opening it when it likes.
fn fifo_ours(start: impl FnOnce(&str) -> Result<Program, Skip>) -> Result<(), Skip> {
    let fifo = fifo::Options::new().create(scratch().join("fifo")).unwrap();
    let started = start(text(fifo.path()));
    let result = started.map(|mut program| {
        let tx = fifo.writer().open().unwrap();
        tx.send(&pattern()).unwrap();
        drop(tx);
        program.expect("200000 of 200000");
        program.end();
    });
    fifo.unlink().unwrap();
    result
}

fn c_reads_our_fifo() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    fifo_ours(|path| Ok(c.start(&["read-path", path])))
}

fn the_shell_reads_our_fifo() -> Result<(), Skip> {
    let script = "echo $(wc -c < \"$0\") of 200000";
    fifo_ours(|path| Ok(Program::start(Command::new("sh").args(["-c", script, path]))))
}

fn python_reads_our_fifo() -> Result<(), Skip> {
    let script = "
import sys
with open(sys.argv[1], 'rb') as fifo:
    data = fifo.read()
good = sum(b == (i * 31 + i // 251) % 256 for i, b in enumerate(data))
print(good, 'of', len(data))
";
    fifo_ours(|path| Ok(Program::start(python("sys")?.args([script, path]))))
}

fn we_read_a_fifo_that_c_writes() -> Result<(), Skip> {
    let c = Compiled::new(C)?;
    let fifo = fifo::Options::new().create(scratch().join("fifo")).unwrap();
    let program = c.start(&["write-path", text(fifo.path())]);
    let rx = fifo.reader().open().unwrap();
    fifo.unlink().unwrap();
    assert!(recv_all(&rx) == pattern(), "every byte, and the end after it");
    program.end();
    Ok(())
}

fn we_read_a_fifo_that_the_shell_made_and_writes() -> Result<(), Skip> {
    let path = scratch().join("fifo");
    let script = "mkfifo -m 600 \"$0\" && echo ready && echo from the shell > \"$0\"";
    let mut program = Program::start(Command::new("sh").args(["-c", script, text(&path)]));
    program.expect("ready");
    let fifo = fifo::Options::new().open(&path).unwrap();
    let rx = fifo.reader().open().unwrap();
    fifo.unlink().unwrap();
    assert_eq!(recv_all(&rx), b"from the shell\n");
    program.end();
    Ok(())
}
