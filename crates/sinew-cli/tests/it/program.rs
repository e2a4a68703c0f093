//! Running the binary under test.

use std::ffi::{OsStr, OsString};
use std::process::{Command, Output, Stdio};

/// The binary under test: where Cargo built it, or a copy where an ordinary user can reach it.
fn sinew() -> OsString {
    std::env::var_os("SINEW_TEST_COMMAND").unwrap_or_else(|| env!("CARGO_BIN_EXE_sinew").into())
}

/// What one run of it gave.
#[derive(Debug)]
pub(crate) struct Ran {
    /// The exit status; none if a signal ended it.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// A command line, without anything of the environment that would change the output.
pub(crate) fn command<A: AsRef<OsStr>>(arguments: &[A]) -> Command {
    let mut command = Command::new(sinew());
    command.args(arguments).stdin(Stdio::null());
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "COLUMNS", "SINEW_WITHOUT"] {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end.
pub(crate) fn run<A: AsRef<OsStr>>(arguments: &[A]) -> Ran {
    finish(&mut command(arguments))
}

/// Runs a prepared command to its end.
pub(crate) fn finish(command: &mut Command) -> Ran {
    Ran::from(command.output().unwrap())
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Ran {
    /// Asserts that it went well and said nothing on standard error.
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{}", self.out);
        self.out
    }

    /// Asserts this exit status, nothing on standard output and one line on standard error, which
    /// is given.
    #[track_caller]
    pub(crate) fn one_line(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{}", self.err);
        let line = self.err.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line.strip_prefix("sinew: ").unwrap().to_owned()
    }
}
