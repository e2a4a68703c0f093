//! The system calls on signals that rustix has no function for.

#![allow(
    unsafe_code,
    reason = "masks, values of signals and signalfd: rustix has no calls for them"
)]

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::Errno;

/// What the kernel takes for the size of a set.
const SET: usize = size_of::<u64>();

/// `siginfo_t` of a signal that one process queues for another (`_rt` of its union).
#[repr(C, align(8))]
pub(super) struct Info {
    signo: i32,
    errno: i32,
    code: i32,
    pad: i32,
    pid: i32,
    uid: u32,
    value: [u8; 8],
    rest: [u8; 96],
}

const _: () = {
    assert!(size_of::<Info>() == size_of::<libc::siginfo_t>());
    assert!(align_of::<Info>() == align_of::<libc::siginfo_t>());
    assert!(offset_of!(Info, code) == offset_of!(libc::siginfo_t, si_code));
    // After the three numbers comes the union, aligned as a pointer is.
    assert!(offset_of!(Info, pid) == 16 && offset_of!(Info, value) == 24);
};

impl Info {
    /// Of this process, with a value.
    pub(super) fn queued(signal: i32, value: [u8; 8]) -> Self {
        Self {
            signo: signal,
            errno: 0,
            code: libc::SI_QUEUE,
            pad: 0,
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: rustix::process::getuid().as_raw(),
            value,
            rest: [0; 96],
        }
    }
}

/// Changes the mask of the calling thread. Gives what it was.
pub(super) fn change_mask(how: i32, set: u64) -> Result<u64, Errno> {
    let mut before = 0_u64;
    // SAFETY: both pointers are of sets of the size that is given, borrowed for the call. The
    // callers name nothing that the C library keeps for itself, or only let it through.
    let done = unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const set, &raw mut before, SET)
    };
    outcome(done).map(|_| before)
}

/// What is blocked and pending here.
pub(super) fn pending() -> Result<u64, Errno> {
    let mut set = 0_u64;
    // SAFETY: a set of the size that is given, borrowed for the call.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigpending, &raw mut set, SET) };
    outcome(done).map(|_| set)
}

pub(super) fn send_to_pidfd(
    pidfd: BorrowedFd<'_>,
    signal: i32,
    info: Option<&Info>,
) -> Result<(), Errno> {
    let info = info.map_or(ptr::null(), ptr::from_ref);
    // SAFETY: null, or a whole siginfo_t, which the kernel copies.
    let done = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0_u32)
    };
    outcome(done).map(|_| ())
}

pub(super) fn kill(pid: u32, signal: i32) -> Result<(), Errno> {
    // SAFETY: numbers only. The caller made sure that the pid is one of a single process.
    let done = unsafe { libc::syscall(libc::SYS_kill, pid, signal) };
    outcome(done).map(|_| ())
}

pub(super) fn tgkill(pid: u32, tid: u32, signal: i32) -> Result<(), Errno> {
    // SAFETY: numbers only.
    let done = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, signal) };
    outcome(done).map(|_| ())
}

pub(super) fn queue(pid: u32, info: &Info) -> Result<(), Errno> {
    let at = ptr::from_ref(info);
    // SAFETY: a whole siginfo_t, which the kernel copies.
    let done = unsafe { libc::syscall(libc::SYS_rt_sigqueueinfo, pid, info.signo, at) };
    outcome(done).map(|_| ())
}

pub(super) fn queue_to_thread(pid: u32, tid: u32, info: &Info) -> Result<(), Errno> {
    let at = ptr::from_ref(info);
    // SAFETY: a whole siginfo_t, which the kernel copies.
    let done = unsafe { libc::syscall(libc::SYS_rt_tgsigqueueinfo, pid, tid, info.signo, at) };
    outcome(done).map(|_| ())
}

/// `RLIMIT_SIGPENDING` of a process, as far as this one may read it.
pub(super) fn sigpending_limit(pid: u32) -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    let pid = libc::pid_t::try_from(pid).ok()?;
    // SAFETY: no new limit is given, and the old one is written to a place for one.
    let done = unsafe { libc::prlimit(pid, libc::RLIMIT_SIGPENDING, ptr::null(), &raw mut limit) };
    (done == 0).then_some(limit.rlim_cur)
}

/// A new descriptor from which these signals are read without waiting.
pub(in crate::event) fn signalfd(set: u64) -> Result<OwnedFd, Errno> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: a set of the size that is given, borrowed for the call.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, -1, &raw const set, SET, flags) };
    let fd = i32::try_from(outcome(fd)?).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The same signal for calls of rustix.
pub(super) fn as_rustix(number: i32) -> rustix::process::Signal {
    // SAFETY: `Signal` holds only numbers from 1 to 64. Those that the C library keeps for itself
    // are sent to other processes only where the caller named them.
    unsafe { rustix::process::Signal::from_raw_unchecked(number) }
}

fn outcome(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 {
        Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(result)
    }
}
