//! The process that a call acts on: its number for the calls that take one, and its pidfd, which
//! proves that the number still means it.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;

/// A process by number and by identity.
#[derive(Debug)]
pub(super) struct Target {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Target {
    /// The process that has this number now.
    pub(super) fn of_pid(pid: u32, mechanism: Mechanism) -> Result<Self> {
        let failed = |errno| {
            let error =
                Error::os("open", errno).on(mechanism).object(format_args!("process {pid}"));
            match errno {
                Errno::SRCH => error.because("no process has this number (in this pid namespace)"),
                // Newer kernels say ENOENT.
                Errno::INVAL | Errno::NOENT => error
                    .of_kind(ErrorKind::InvalidInput)
                    .because("it is the number of a thread, not of a process"),
                _ => error,
            }
        };
        let number = number(pid).ok_or_else(|| failed(Errno::SRCH))?;
        let pidfd = pidfd_open(number, PidfdFlags::empty()).map_err(failed)?;
        Ok(Self { pid: number, pidfd })
    }

    /// The process that `pidfd` means.
    pub(super) fn of_pidfd(pidfd: OwnedFd, mechanism: Mechanism) -> Result<Self> {
        let pid = pid_of(pidfd.as_fd()).map_err(|e| e.on(mechanism))?;
        Ok(Self { pid, pidfd })
    }

    pub(super) fn pid(&self) -> Pid {
        self.pid
    }

    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(super) fn into_pidfd(self) -> OwnedFd {
        self.pidfd
    }

    /// Whether it has ended. If not, its number has meant it all the time.
    pub(super) fn ended(&self) -> bool {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        matches!(poll(&mut fds, Some(&Timespec::default())), Ok(n) if n > 0)
    }
}

/// A number as the kernel takes it; none where no process can have it.
pub(super) fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).and_then(Pid::from_raw)
}

/// A number as std shows it.
pub(super) fn shown(pid: Pid) -> u32 {
    pid.as_raw_nonzero().get().unsigned_abs()
}

/// The number, in the pid namespace of /proc, of the process that `pidfd` means.
pub(super) fn pid_of(pidfd: BorrowedFd<'_>) -> Result<Pid> {
    const OPERATION: &str = "ask which process a pidfd means (/proc/self/fdinfo)";
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = fs::read_to_string(path).map_err(|e| {
        Error::os(OPERATION, e.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
            .fix("mount /proc")
    })?;
    let value = text.lines().find_map(|line| line.strip_prefix("Pid:"));
    match value.and_then(|v| v.trim().parse::<i32>().ok()) {
        None => Err(Error::new(ErrorKind::Mismatch, OPERATION).because("it is no pidfd")),
        Some(-1) => Err(Error::os(OPERATION, Errno::SRCH).because("the process has ended")),
        Some(pid) => Pid::from_raw(pid).filter(|p| *p != Pid::INIT || pid == 1).ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, OPERATION)
                .because("the process has no number in this pid namespace")
        }),
    }
}

/// The refusal (EPERM) of an access that needs ptrace permission, with the reason that stands
/// against it as far as it can be told.
pub(super) fn refused(operation: &'static str, mechanism: Mechanism, pid: Pid) -> Error {
    let pid = pid.as_raw_nonzero();
    let error =
        Error::os(operation, Errno::PERM).on(mechanism).object(format_args!("process {pid}"));
    let yama = fs::read_to_string(YAMA).ok().and_then(|text| text.trim().parse().ok());
    let status = format!("/proc/{pid}/status");
    // The files of a process that may not be dumped belong to root; its folder does not.
    let owner = fs::metadata(&status).ok().map(|file| file.uid());
    let uids = uids(&fs::read_to_string(status).unwrap_or_default());
    let own = rustix::process::getuid().as_raw();
    let (because, fix) = reason(yama, uids, owner, own);
    let error = error.because(because);
    if fix.is_empty() { error } else { error.fix(fix) }
}

/// The setting of the Yama security module.
const YAMA: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// Real, effective and saved user of a process.
fn uids(status: &str) -> Option<[u32; 3]> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut fields = line.split_whitespace().map(str::parse);
    let mut next = || fields.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// Why the kernel refused, and what helps. In the order in which the kernel asks.
fn reason(
    yama: Option<u8>,
    uids: Option<[u32; 3]>,
    owner: Option<u32>,
    own: u32,
) -> (String, &'static str) {
    if let Some(uids) = uids
        && uids.iter().any(|uid| *uid != own)
    {
        let because = format!("it runs as uid {}, this process as uid {own}", uids[1]);
        return (because, "run as the same user, or with CAP_SYS_PTRACE");
    }
    if owner.is_some_and(|owner| owner != own) {
        let because = "it may not be dumped (PR_SET_DUMPABLE, or a set-uid program)".to_owned();
        return (because, "run with CAP_SYS_PTRACE, or let it call prctl(PR_SET_DUMPABLE, 1)");
    }
    match yama {
        Some(1) => (
            format!("{YAMA} is 1: only descendants of this process are allowed"),
            "let it call prctl(PR_SET_PTRACER, our pid), run with CAP_SYS_PTRACE, \
             or set kernel.yama.ptrace_scope to 0 (sysctl)",
        ),
        Some(2) => (
            format!("{YAMA} is 2: only with CAP_SYS_PTRACE"),
            "run with CAP_SYS_PTRACE, or set kernel.yama.ptrace_scope to 0 (sysctl)",
        ),
        Some(scope @ 3..) => (
            format!("{YAMA} is {scope}: nobody is allowed"),
            "set kernel.yama.ptrace_scope at boot: it cannot be lowered",
        ),
        _ => (
            "another group, more capabilities, another user namespace, a security module or a \
             seccomp filter stands against it"
                .to_owned(),
            "",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{reason, uids};

    #[test]
    fn every_refusal_names_what_stands_against_it() {
        assert_eq!(uids("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some([1, 2, 3]));
        assert_eq!(uids("Name:\tx\n"), None);
        let same = Some([7, 7, 7]);
        let words = |yama, uids, owner| reason(yama, uids, owner, 7);
        assert!(words(Some(1), Some([7, 0, 0]), Some(0)).0.contains("uid 0"));
        assert!(words(Some(1), same, Some(0)).1.contains("PR_SET_DUMPABLE"));
        assert!(words(Some(1), same, Some(7)).0.contains("ptrace_scope is 1"));
        assert!(words(Some(1), same, Some(7)).1.contains("PR_SET_PTRACER"));
        assert!(words(Some(2), same, Some(7)).0.contains("ptrace_scope is 2"));
        assert!(words(Some(3), same, Some(7)).1.contains("boot"));
        assert!(words(None, same, Some(7)).0.contains("security module"));
        assert!(words(Some(0), None, None).0.contains("security module"));
    }
}
