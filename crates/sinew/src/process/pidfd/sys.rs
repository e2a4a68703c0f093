#![allow(unsafe_code, reason = "signal 0 and PIDFD_GET_INFO, which rustix has no calls for")]
//! What rustix has no call for.

use std::ffi::c_ulong;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

use crate::kernel::Feature;

/// Whether a signal could be sent: signal 0 does nothing else.
pub(super) fn signal_nothing(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let call = libc::SYS_pidfd_send_signal;
    let no_info = ptr::null::<libc::siginfo_t>();
    // SAFETY: numbers, and a null pointer that the kernel takes for "as kill(2) does".
    let done = unsafe { libc::syscall(call, pidfd.as_raw_fd(), 0, no_info, 0) };
    if done == 0 { Ok(()) } else { Err(last_error()) }
}

/// `struct pidfd_info` of linux/pidfd.h, in its first published size.
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    users: [u32; 8],
    exit_code: i32,
}
const _: () = assert!(size_of::<Info>() == 64 && offset_of!(Info, exit_code) == 60);

/// `PIDFD_INFO_EXIT`: `exit_code` is asked for, or told.
const EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: _IOWR(0xFF, 11, struct pidfd_info).
const GET_INFO: c_ulong = 0xC040_FF0B;

/// The status as wait(2) has it, once the process is reaped.
pub(super) fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    if !Feature::PidfdInfo.usable() {
        return Ok(None);
    }
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the kernel reads and writes as many bytes as the number of the call says, which are
    // those of the struct.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_INFO, &raw mut info) };
    if done == 0 {
        return Ok((info.mask & EXIT != 0).then_some(info.exit_code));
    }
    match last_error() {
        Errno::NOTTY | Errno::INVAL => {
            Feature::PidfdInfo.refused();
            Ok(None)
        }
        // Kernels that do not keep the status.
        Errno::SRCH => Ok(None),
        errno => Err(errno),
    }
}

fn last_error() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
}
