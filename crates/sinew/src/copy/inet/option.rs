#![allow(unsafe_code, reason = "SO_BUSY_POLL and SO_MEMINFO, which rustix does not have")]
//! Socket options that TCP and UDP share, and the limits behind them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mechanism::Mechanism;

/// Missing from libc for Linux; include/uapi/asm-generic/socket.h, the same on every architecture
/// that this library supports.
const SO_BUSY_POLL: libc::c_int = 46;
const SO_MEMINFO: libc::c_int = 55;

/// What both kinds of sockets can be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) busy_poll: Option<Duration>,
    pub(super) send_buffer: Option<usize>,
    pub(super) receive_buffer: Option<usize>,
}

impl Shared {
    pub(super) fn apply(&self, fd: BorrowedFd<'_>, mechanism: Mechanism) -> Result<()> {
        if let Some(bytes) = self.send_buffer {
            set_buffer(
                "set the send buffer (SO_SNDBUF)",
                bytes,
                Limit::WmemMax,
                mechanism,
                |bytes| sockopt::set_socket_send_buffer_size(fd, bytes),
                || sockopt::socket_send_buffer_size(fd),
            )?;
        }
        if let Some(bytes) = self.receive_buffer {
            set_buffer(
                "set the receive buffer (SO_RCVBUF)",
                bytes,
                Limit::RmemMax,
                mechanism,
                |bytes| sockopt::set_socket_recv_buffer_size(fd, bytes),
                || sockopt::socket_recv_buffer_size(fd),
            )?;
        }
        if let Some(time) = self.busy_poll {
            set_busy_poll(fd, time, mechanism)?;
        }
        Ok(())
    }
}

/// Sets a buffer size and looks what came of it: the kernel cuts it to the limit without a word,
/// and counts twice of what was asked for as its own overhead is in there too (socket(7)).
fn set_buffer(
    operation: &'static str,
    bytes: usize,
    limit: Limit,
    mechanism: Mechanism,
    set: impl FnOnce(usize) -> rustix::io::Result<()>,
    get: impl FnOnce() -> rustix::io::Result<usize>,
) -> Result<()> {
    let failed = |e| Error::os(operation, e).on(mechanism).object(format!("{bytes} bytes"));
    // The option is an int, and is doubled.
    if bytes > (i32::MAX / 2) as usize {
        return Err(Error::new(ErrorKind::InvalidInput, operation)
            .on(mechanism)
            .object(format!("{bytes} bytes"))
            .because("a socket buffer has at most 1073741823 bytes"));
    }
    set(bytes).map_err(failed)?;
    if get().map_err(failed)? / 2 >= bytes {
        return Ok(());
    }
    Err(Error::new(ErrorKind::LimitReached, operation)
        .on(mechanism)
        .object(format!("{bytes} bytes"))
        .because(format!("more than {}", limit.stated()))
        .fix(limit.raise()))
}

fn set_busy_poll(fd: BorrowedFd<'_>, time: Duration, mechanism: Mechanism) -> Result<()> {
    let operation = "set busy polling (SO_BUSY_POLL)";
    let Ok(micros) = libc::c_int::try_from(time.as_micros()) else {
        return Err(Error::new(ErrorKind::InvalidInput, operation)
            .on(mechanism)
            .object(format!("{time:?}")));
    };
    // SAFETY: the pointer is to a live int, and the length is that of an int.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_BUSY_POLL,
            (&raw const micros).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = Error::os(operation, last_errno()).on(mechanism).object(format!("{time:?}"));
    Err(if error.raw_os_error() == Some(libc::EPERM) {
        error.fix("raising it above net.core.busy_read takes CAP_NET_ADMIN")
    } else {
        error
    })
}

/// How many messages the socket dropped since it was made, modulo 2^32: SO_MEMINFO, Linux 4.12.
pub(super) fn drops(fd: impl AsFd) -> Result<u32, Errno> {
    let mut info = [0_u32; 16];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, which is what `info` has, and any bytes are
    // valid numbers.
    let done = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_MEMINFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(last_errno());
    }
    let index = libc::SK_MEMINFO_DROPS as usize;
    if (length as usize) < (index + 1) * size_of::<u32>() {
        return Err(Errno::NOPROTOOPT);
    }
    Ok(info[index])
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
