//! Programs that are not ours at the other end: C through the C library, Python, Perl, Java, sqlite,
//! util-linux, systemd.
//!
//! Each mechanism is tried in both directions. A program that is not installed is a skip.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use sinew::sysv_mq::Key;
use sinew_testkit::{Skip, scratch, skip};

pub(crate) mod locks;
pub(crate) mod memory;
pub(crate) mod pipes;
pub(crate) mod queues;
pub(crate) mod semaphores;
pub(crate) mod sockets;
pub(crate) mod systemd;

/// A running program, which is talked to by lines on its standard input and output.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Program {
    /// Starts it.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, input, output }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Writes one line to it.
    #[track_caller]
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Its next line.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "it ended after {line:?}: {:?}", self.child.wait());
        line.trim_end_matches('\n').to_owned()
    }

    /// Waits for exactly this line.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str) {
        assert_eq!(self.hear(), line);
    }

    /// Waits for its end, which is a good one, and that it says no more.
    #[track_caller]
    pub(crate) fn end(mut self) {
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_line(&mut rest).unwrap();
        assert_eq!(rest, "");
        let status = self.child.wait().unwrap();
        assert!(status.success(), "it ended with {status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A C program, compiled for this test and removed after it.
#[derive(Debug)]
pub(crate) struct Compiled(PathBuf);

impl Compiled {
    /// Compiles it with the system's compiler.
    pub(crate) fn new(source: &str) -> Result<Self, Skip> {
        let program = Self(scratch().join("peer"));
        let mut command = Command::new("cc");
        command.args(["-std=gnu11", "-Wall", "-Werror", "-x", "c", "-", "-o"]);
        command.arg(&program.0).args(["-lrt", "-pthread"]).stdin(Stdio::piped());
        let Ok(mut compiler) = command.spawn() else {
            skip("no C compiler (cc)")?;
            return Ok(program);
        };
        compiler.stdin.take().unwrap().write_all(source.as_bytes()).unwrap();
        assert!(compiler.wait().unwrap().success(), "the C program compiles");
        Ok(program)
    }

    /// Starts it.
    #[track_caller]
    pub(crate) fn start(&self, arguments: &[&str]) -> Program {
        Program::start(Command::new(&self.0).args(arguments))
    }

    /// A command that runs it.
    pub(crate) fn command(&self) -> Command {
        Command::new(&self.0)
    }
}

impl Drop for Compiled {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Python that has these modules: the one that SINEW_TEST_PYTHON names, else `python3`.
pub(crate) fn python(modules: &str) -> Result<Command, Skip> {
    let program = std::env::var_os("SINEW_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let python = || {
        let mut command = Command::new(&program);
        // No bytecode files, and nothing of the user's own set-up.
        command.args(["-B", "-E", "-s", "-u", "-c"]);
        command
    };
    if !works(python().arg(format!("import {modules}"))) {
        skip(format!("no Python with {modules}"))?;
    }
    Ok(python())
}

/// Perl that has these modules.
pub(crate) fn perl(modules: &[&str]) -> Result<Command, Skip> {
    let perl = || {
        let mut command = Command::new("perl");
        command.args(modules.iter().map(|m| format!("-M{m}")));
        command.arg("-e");
        command
    };
    if !works(perl().arg("1")) {
        skip(format!("no Perl with {}", modules.join(", ")))?;
    }
    Ok(perl())
}

/// What a command line prints; a skip if the program is not there.
#[track_caller]
pub(crate) fn printed(program: &str, arguments: &[&str]) -> Result<String, Skip> {
    let Ok(output) = Command::new(program).args(arguments).stderr(Stdio::inherit()).output() else {
        skip(format!("no {program}"))?;
        return Ok(String::new());
    };
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    Ok(String::from_utf8(output.stdout).unwrap())
}

fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A key of this test.
pub(crate) fn key() -> Key {
    let path = scratch().join("key");
    std::fs::write(&path, "").unwrap();
    let key = Key::ftok(&path, b'i').unwrap();
    std::fs::remove_file(&path).unwrap();
    key
}
