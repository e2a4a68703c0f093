#![allow(unsafe_code, reason = "execvp and the environment of a child")]
//! A program with all that it is started with, complete but for its process id.

use std::ffi::{CString, OsStr, OsString, c_char};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::process::Command;

use rustix::process::getpid;

use crate::error::{Error, ErrorKind, Result};

/// A program to execute: everything but the process id is there before the fork.
pub(super) struct Image {
    program: CString,
    /// What the pointers below point to.
    _texts: Vec<CString>,
    arguments: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// `LISTEN_PID=`, and room for the digits and the NUL.
    pid: Box<[u8; PID_KEY.len() + 11]>,
}

const PID_KEY: &[u8] = b"LISTEN_PID=";

// SAFETY: the pointers are to texts on the heap that the same value owns and that nothing changes but
// `execute`, which takes the value exclusively.
unsafe impl Send for Image {}
// SAFETY: as above; a shared reference gives no access at all.
unsafe impl Sync for Image {}

impl Image {
    pub(super) fn of(command: &mut Command, names: &[String]) -> Result<Self> {
        let text = |bytes: Vec<u8>| {
            CString::new(bytes).map_err(|e| {
                Error::new(ErrorKind::InvalidInput, "start a program")
                    .because(format!("a NUL byte in its name, arguments or environment: {e}"))
            })
        };
        let program = text(command.get_program().as_bytes().to_vec())?;
        let mut texts = Vec::new();
        let mut arguments = vec![program.as_ptr()];
        for argument in command.get_args() {
            let argument = text(argument.as_bytes().to_vec())?;
            arguments.push(argument.as_ptr());
            texts.push(argument);
        }
        arguments.push(std::ptr::null());

        let pid = Box::new([0; PID_KEY.len() + 11]);
        let mut environment = vec![pid.as_ptr().cast()];
        let count = names.len().to_string();
        let variables = environment_of(command)
            .into_iter()
            .filter(|(key, _)| !key.as_bytes().starts_with(b"LISTEN_"))
            .chain([
                ("LISTEN_FDS".into(), count.into()),
                ("LISTEN_FDNAMES".into(), names.join(":").into()),
            ]);
        for (mut variable, value) in variables {
            variable.push("=");
            variable.push(value);
            let variable = text(variable.into_vec())?;
            environment.push(variable.as_ptr());
            texts.push(variable);
        }
        environment.push(std::ptr::null());
        Ok(Self { program, _texts: texts, arguments, environment, pid })
    }

    /// In the child. Comes back only if it fails.
    pub(super) fn execute(&mut self) -> io::Error {
        unsafe extern "C" {
            /// The environment of the process, as execvp(3) takes it and searches its PATH.
            static mut environ: *const *const c_char;
        }
        let mut rest = getpid().as_raw_nonzero().get().unsigned_abs();
        let mut digits = [0_u8; 10];
        let mut first = digits.len();
        while rest > 0 {
            first -= 1;
            digits[first] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let digits = &digits[first..];
        let (key, value) = self.pid.split_at_mut(PID_KEY.len());
        key.copy_from_slice(PID_KEY);
        value.fill(0);
        value[..digits.len()].copy_from_slice(digits);
        // A pointer made before the write could not be read through by the rules of Rust.
        self.environment[0] = self.pid.as_ptr().cast();

        // SAFETY: this process is the child, which has one thread, and std sets the same variable at
        // this place.
        unsafe { environ = self.environment.as_ptr() };
        // SAFETY: NUL-terminated texts in arrays that end with a null pointer, all owned by `self`.
        unsafe { libc::execvp(self.program.as_ptr(), self.arguments.as_ptr()) };
        io::Error::last_os_error()
    }
}

/// The environment that std would give.
fn environment_of(command: &mut Command) -> Vec<(OsString, OsString)> {
    // Whether it was cleared shows in what removing a variable does: from an inherited environment
    // it is a change that is kept, from an empty one it is nothing.
    const PROBE: &str = "SINEW_IS_THE_ENVIRONMENT_CLEARED";
    let removed = |command: &Command| {
        command.get_envs().any(|(key, value)| key == OsStr::new(PROBE) && value.is_none())
    };
    command.env_remove(PROBE);
    let inherits = removed(command);
    let mut variables: Vec<(OsString, OsString)> =
        if inherits { std::env::vars_os().collect() } else { Vec::new() };
    for (key, value) in command.get_envs() {
        variables.retain(|(k, _)| k != key);
        if let Some(value) = value {
            variables.push((key.to_owned(), value.to_owned()));
        }
    }
    variables
}
