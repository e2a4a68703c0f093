//! The signals that ask a run to end, as a descriptor: the run ends in order and leaves nothing.

#![allow(unsafe_code, reason = "neither std nor rustix has signal masks or signalfd")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// SIGINT, SIGTERM and SIGHUP of this thread (and those that it starts) go to a descriptor as long
/// as this lives.
#[derive(Debug)]
pub(crate) struct EndSignals {
    fd: OwnedFd,
    before: libc::sigset_t,
}

impl EndSignals {
    pub(crate) fn block() -> io::Result<Self> {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset writes the whole set.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        // SAFETY: written by sigemptyset, which cannot fail with a valid pointer.
        let mut set = unsafe { set.assume_init() };
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the set is initialised and the numbers are those of real signals.
            unsafe { libc::sigaddset(&raw mut set, signal) };
        }
        let mut before = MaybeUninit::uninit();
        // SAFETY: both pointers are of live sets; only this thread's mask changes.
        let failed =
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, before.as_mut_ptr()) };
        if failed != 0 {
            return Err(io::Error::from_raw_os_error(failed));
        }
        // SAFETY: the call succeeded and wrote the old mask.
        let before = unsafe { before.assume_init() };
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let fd =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nothing else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, before })
    }

    /// Whether one has come. It stays taken: the caller ends the run.
    pub(crate) fn came(&self) -> bool {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        matches!(rustix::io::read(&self.fd, &mut info), Ok(n) if n > 0)
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for EndSignals {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that the kernel gave.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}
