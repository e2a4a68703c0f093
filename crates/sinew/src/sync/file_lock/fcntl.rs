//! The calls: rustix has no locks of descriptions, and no ranges.

#![allow(unsafe_code, reason = "fcntl with a struct flock: rustix has no such calls for ranges")]

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::span::Span;
use super::{Holder, Kind, Owner};
use crate::syscall;

#[inline]
fn code(kind: Option<Kind>) -> i16 {
    // The constants are 0, 1 and 2.
    (match kind {
        Some(Kind::Shared) => libc::F_RDLCK,
        Some(Kind::Exclusive) => libc::F_WRLCK,
        None => libc::F_UNLCK,
    }) as i16
}

#[inline]
fn request(kind: Option<Kind>, span: Span) -> libc::flock {
    // Locks of descriptions ask for a pid of zero.
    libc::flock {
        l_type: code(kind),
        l_whence: libc::SEEK_SET as i16,
        l_start: span.start,
        l_len: span.len,
        l_pid: 0,
    }
}

/// Locks, converts, or with no kind unlocks, by this command.
#[inline(always)]
pub(super) fn set(
    fd: BorrowedFd<'_>,
    command: c_int,
    kind: Option<Kind>,
    span: Span,
) -> Result<(), Errno> {
    let lock = request(kind, span);
    let fd = fd.as_raw_fd() as usize;
    let arguments = [fd, command as usize, (&raw const lock).addr(), 0, 0];
    // SAFETY: the commands that set a lock read one `struct flock`, which lives until the call is over.
    unsafe { syscall::call(libc::SYS_fcntl, arguments) }.map(drop)
}

/// A lock of another owner that such a lock would have to wait for.
pub(super) fn get(
    fd: BorrowedFd<'_>,
    command: c_int,
    kind: Kind,
    span: Span,
) -> Result<Option<Holder>, Errno> {
    let mut lock = request(Some(kind), span);
    let fd = fd.as_raw_fd() as usize;
    let arguments = [fd, command as usize, (&raw mut lock).expose_provenance(), 0, 0];
    // SAFETY: the commands that ask for a lock read and write one `struct flock`, which lives and is
    // lent to nobody else until the call is over.
    unsafe { syscall::call(libc::SYS_fcntl, arguments) }?;
    let kind = match c_int::from(lock.l_type) {
        libc::F_UNLCK => return Ok(None),
        libc::F_RDLCK => Kind::Shared,
        _ => Kind::Exclusive,
    };
    let found = Span { start: lock.l_start, len: lock.l_len };
    let owner = match lock.l_pid {
        -1 => Owner::Description,
        pid => Owner::Process(u32::try_from(pid).ok().filter(|pid| *pid != 0)),
    };
    Ok(Some(Holder {
        kind,
        start: found.start.unsigned_abs(),
        end: found.end().map(i64::unsigned_abs),
        owner,
    }))
}
