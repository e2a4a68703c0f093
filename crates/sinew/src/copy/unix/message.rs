//! What sending and receiving have in common on all three kinds.

use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};

use crate::error::{RecvError, SendError, Stop};
use crate::wait::{Mode, Wait, drive, drive_by_naps};

/// No signal ever; no waiting by a flag of the call, because the description may be shared.
#[inline]
pub(super) fn send_flags(mode: Mode) -> SendFlags {
    match mode {
        Mode::MayBlock => SendFlags::NOSIGNAL,
        Mode::NonBlocking => SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT),
    }
}

#[inline]
pub(super) fn recv_flags(mode: Mode) -> RecvFlags {
    match mode {
        Mode::MayBlock => RecvFlags::empty(),
        Mode::NonBlocking => RecvFlags::DONTWAIT,
    }
}

/// The same for calls that go through libc, with MSG_TRUNC so that the real length is told.
#[inline]
pub(super) fn raw_recv_flags(mode: Mode) -> i32 {
    match mode {
        Mode::MayBlock => libc::MSG_TRUNC,
        Mode::NonBlocking => libc::MSG_TRUNC | libc::MSG_DONTWAIT,
    }
}

/// Sends one message (or a piece of a stream) by `attempt`.
///
/// `pollable` says that poll(2) tells when there is room, which it does not for a message to an
/// address: it knows nothing of that receiver's queue.
#[inline]
pub(super) fn send_once(
    fd: BorrowedFd<'_>,
    pollable: bool,
    wait: Wait<'_>,
    attempt: impl Fn(Mode) -> Result<usize, Errno>,
) -> Result<usize, SendError> {
    let done = if pollable {
        drive(fd, PollFlags::OUT, wait, &attempt)
    } else {
        drive_by_naps(wait, &attempt)
    };
    match done {
        Ok(sent) => Ok(sent),
        Err(stop) => refused(fd, stop, wait, &attempt),
    }
}

#[cold]
fn refused(
    fd: BorrowedFd<'_>,
    stop: Stop,
    wait: Wait<'_>,
    attempt: &dyn Fn(Mode) -> Result<usize, Errno>,
) -> Result<usize, SendError> {
    if stop != Stop::Os(Errno::NOBUFS.raw_os_error()) {
        return Err(send_error(fd, stop));
    }
    // The kernel has no memory for the message now. That is back-pressure, and no event tells when
    // it is over.
    drive_by_naps(wait, |mode| match attempt(mode) {
        Err(Errno::NOBUFS) => Err(Errno::AGAIN),
        other => other,
    })
    .map_err(|stop| send_error(fd, stop))
}

#[cold]
fn send_error(fd: BorrowedFd<'_>, stop: Stop) -> SendError {
    let Stop::Os(errno) = stop else { return stop.into() };
    match Errno::from_raw_os_error(errno) {
        Errno::PIPE | Errno::CONNRESET | Errno::CONNREFUSED | Errno::NOTCONN => SendError::Closed,
        Errno::MSGSIZE => SendError::TooBig { limit: message_limit(fd) },
        Errno::TOOMANYREFS => SendError::TooManyInFlight,
        _ => SendError::Os(errno),
    }
}

/// The longest message: the send buffer less what the kernel keeps of it for itself.
pub(super) fn message_limit(fd: BorrowedFd<'_>) -> usize {
    rustix::net::sockopt::socket_send_buffer_size(fd).unwrap_or(0).saturating_sub(32)
}

#[cold]
pub(super) fn recv_error(stop: Stop) -> RecvError {
    let Stop::Os(errno) = stop else { return stop.into() };
    match Errno::from_raw_os_error(errno) {
        Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => RecvError::Closed,
        _ => RecvError::Os(errno),
    }
}

/// A message of `length` bytes in a buffer of `room`.
#[inline]
pub(super) fn whole(length: usize, room: usize) -> Result<usize, RecvError> {
    if length <= room {
        Ok(length)
    } else {
        Err(RecvError::TooSmall { needed: Some(length), lost: true })
    }
}
