//! Counts the system calls that two workers make for their messages, by tracing them through an
//! untimed batch (ptrace(2), PTRACE_GET_SYSCALL_INFO, Linux 5.3).
//!
//! Each worker marks the beginning and the end of what counts by a system call number that means
//! nothing to any kernel.

#![allow(unsafe_code, reason = "neither std nor rustix has ptrace")]

use std::io;
use std::mem::MaybeUninit;

/// Fails with ENOSYS everywhere.
const MARK: u64 = 0x51E3;

/// Marks the beginning or the end of what counts, in the traced process.
pub(crate) fn mark() {
    // SAFETY: the kernel refuses an unknown number without looking at any argument.
    unsafe { libc::syscall(MARK as libc::c_long) };
}

/// A traced process. The kernel lets it go if this process dies.
struct Traced {
    pid: libc::pid_t,
    marks: u32,
    calls: u64,
}

/// Lets both processes of a group go on by `go` and follows them until each has passed its second
/// mark; gives how many system calls both made between their marks. `None` if this process may not
/// trace them; then they go on all the same.
pub(crate) fn count(
    pids: [libc::pid_t; 2],
    group: libc::pid_t,
    go: impl FnOnce() -> io::Result<()>,
) -> io::Result<Option<u64>> {
    let mut traced = Vec::new();
    for pid in pids {
        let options = libc::PTRACE_O_TRACESYSGOOD as usize;
        // SAFETY: SEIZE takes numbers only.
        let seized = check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, options) });
        if seized.is_err() && traced.is_empty() {
            return go().map(|()| None);
        }
        seized?;
        traced.push(Traced { pid, marks: 0, calls: 0 });
        // SAFETY: INTERRUPT takes numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0) })?;
        let mut status = 0;
        // SAFETY: the status is a live integer.
        check(unsafe { libc::waitpid(pid, &raw mut status, libc::__WALL) }.into())?;
        // SAFETY: SYSCALL takes numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, 0) })?;
    }
    go()?;
    follow(&mut traced, group)?;
    Ok(Some(traced.iter().map(|t| t.calls).sum()))
}

fn follow(traced: &mut [Traced], group: libc::pid_t) -> io::Result<()> {
    let mut following = traced.len();
    while following > 0 {
        let mut status = 0;
        // SAFETY: the status is a live integer.
        let pid = unsafe { libc::waitpid(-group, &raw mut status, libc::__WALL) };
        if pid < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        let Some(one) = traced.iter_mut().find(|t| t.pid == pid) else { continue };
        if !libc::WIFSTOPPED(status) {
            return Err(io::Error::other("a worker ended while its calls were counted"));
        }
        let mut signal = 0;
        if libc::WSTOPSIG(status) == libc::SIGTRAP | 0x80 {
            if one.at_call()? {
                following -= 1;
                // SAFETY: DETACH takes numbers only.
                check(unsafe { libc::ptrace(libc::PTRACE_DETACH, pid, 0, 0) })?;
                continue;
            }
        } else if status >> 16 == 0 {
            // A signal on its way: it is delivered.
            signal = libc::WSTOPSIG(status) as usize;
        }
        // SAFETY: SYSCALL takes numbers only.
        check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, pid, 0, signal) })?;
    }
    Ok(())
}

impl Traced {
    /// Looks at the call that it enters or leaves. True at the second mark.
    fn at_call(&mut self) -> io::Result<bool> {
        let mut info = MaybeUninit::<libc::ptrace_syscall_info>::zeroed();
        let size = size_of::<libc::ptrace_syscall_info>();
        // SAFETY: the kernel writes at most `size` bytes of `info`.
        check(unsafe {
            libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, self.pid, size, info.as_mut_ptr())
        })?;
        // SAFETY: zeroed and then written by the kernel; all fields are plain numbers.
        let info = unsafe { info.assume_init() };
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(false);
        }
        // SAFETY: `op` says that the union holds an entry.
        let number = unsafe { info.u.entry.nr };
        if number == MARK {
            self.marks += 1;
        } else if self.marks == 1 {
            self.calls += 1;
        }
        Ok(self.marks == 2)
    }
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
