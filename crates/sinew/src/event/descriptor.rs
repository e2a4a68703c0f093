//! What the descriptors of events share: a check of what one is, and the errors of making one.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::readlink;
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mechanism::Mechanism;

/// Makes sure that a descriptor which came from elsewhere is what its sender says: `name` is that of
/// the kernel, as `[eventfd]`, `[timerfd]`, `[eventpoll]`, `[signalfd]` or `inotify`.
///
/// It is the text of the link in /proc: one system call, for every kind the same, and nobody can make
/// a file with such a text, because those of files begin with a slash.
pub(crate) fn check_kind(fd: BorrowedFd<'_>, mechanism: Mechanism, name: &str) -> Result<()> {
    let number = fd.as_raw_fd();
    let failed = |error: Error| error.on(mechanism).object(format!("descriptor {number}"));
    let operation = "take a descriptor";
    match readlink(format!("/proc/self/fd/{number}"), Vec::new()) {
        Ok(link) if link.to_bytes().strip_prefix(b"anon_inode:") == Some(name.as_bytes()) => Ok(()),
        Ok(link) => Err(failed(Error::new(ErrorKind::Mismatch, operation))
            .because(format!("it is {}, not of kind {mechanism}", link.to_string_lossy()))),
        Err(Errno::NOENT) => Err(failed(Error::os(operation, Errno::NOENT))
            .of_kind(ErrorKind::Unsupported)
            .because("/proc/self/fd, which tells what it is, is not there")
            .fix("mount proc")),
        Err(errno) => Err(failed(Error::os(operation, errno))),
    }
}

/// What /proc tells of an open descriptor of this process, as lines of `name: value`.
pub(crate) fn fdinfo(fd: BorrowedFd<'_>) -> Result<String, Errno> {
    std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// One value of it.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

/// The error of a call that makes a descriptor.
pub(crate) fn not_made(mechanism: Mechanism, errno: Errno) -> Error {
    let error = Error::os("create", errno).on(mechanism);
    match errno {
        Errno::MFILE => error
            .because(format!("this process has used up {}", Limit::Nofile.stated()))
            .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
        Errno::NFILE => error.because("the host has no descriptor left (fs.file-max)"),
        _ => error,
    }
}
