//! Who is at the other end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Once;

use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::sys;
use crate::error::{Error, ErrorKind, Result};
use crate::kernel::Feature;

/// Who was at the other end when the connection was made, as the kernel knows it (SO_PEERCRED):
/// the process that called connect(2), listen(2) or socketpair(2). A socket that was passed on
/// since still names the first.
///
/// The numbers are those of the asking process's namespaces. Decide on [`uid`](Self::uid), and
/// only after [`is_overflow`](Self::is_overflow); the process id may be used again by another
/// process, so ask for [`peer_pidfd`](super::Socket::peer_pidfd) where the process matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerCredentials {
    pid: i32,
    uid: u32,
    gid: u32,
}

impl PeerCredentials {
    /// The process id; none if that process is in a PID namespace that cannot be seen from here.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        u32::try_from(self.pid).ok().filter(|pid| *pid != 0)
    }

    /// The effective user id.
    #[must_use]
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// The effective group id.
    #[must_use]
    pub fn gid(&self) -> u32 {
        self.gid
    }

    /// Whether the user is one that has no number here, because it is of another user namespace:
    /// the kernel then gives the overflow id (`kernel.overflowuid`, usually 65534), which is no
    /// identity and must match no rule. A user with really this number looks the same.
    #[must_use]
    pub fn is_overflow(&self) -> bool {
        let overflow = std::fs::read_to_string("/proc/sys/kernel/overflowuid");
        let overflow = overflow.ok().and_then(|text| text.trim().parse().ok());
        self.uid == overflow.unwrap_or(65534)
    }
}

/// What a sender says about itself in a message (SCM_CREDENTIALS).
///
/// The kernel lets an ordinary process claim its own process id and any of its real, effective and
/// saved ids; a process with CAP_SYS_ADMIN, CAP_SETUID and CAP_SETGID in its user namespace claims
/// what it likes. It is not proof of who holds the connection: for that, see
/// [`PeerCredentials`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimedCredentials {
    /// The process id it claims; 0 where it is in a PID namespace that cannot be seen from here.
    pub pid: i32,
    /// The user id it claims.
    pub uid: u32,
    /// The group id it claims.
    pub gid: u32,
}

impl ClaimedCredentials {
    /// What this process may always claim: its process id and its effective ids.
    #[must_use]
    pub fn own() -> Self {
        Self {
            pid: rustix::process::getpid().as_raw_nonzero().get(),
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        }
    }
}

fn not_connected(operation: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, operation)
        .because("the socket is not connected, so there is no other end")
}

pub(super) fn of_peer(fd: BorrowedFd<'_>) -> Result<PeerCredentials> {
    const ASK: &str = "ask who is at the other end (SO_PEERCRED)";
    let raw = sys::peer_credentials(fd).map_err(|e| Error::os(ASK, e))?;
    if raw.pid == 0 && raw.uid == u32::MAX {
        return Err(not_connected(ASK));
    }
    Ok(PeerCredentials { pid: raw.pid, uid: raw.uid, gid: raw.gid })
}

/// Asks once whether the kernel has SO_PEERPIDFD, on a pair of sockets whose peer surely lives:
/// what a kernel without it answers, another answers for a peer that has ended.
fn has_peer_pidfd() -> bool {
    static ASKED: Once = Once::new();
    if !Feature::PeerPidfd.usable() {
        return false;
    }
    ASKED.call_once(|| {
        if let Ok((a, _b)) = super::socket::pair(SocketType::STREAM)
            && let Err(Errno::NOPROTOOPT | Errno::INVAL) = sys::peer_pidfd(a.as_fd())
        {
            Feature::PeerPidfd.refused();
        }
    });
    Feature::PeerPidfd.usable()
}

pub(super) fn pidfd_of_peer(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    const ASK: &str = "ask for the process at the other end (SO_PEERPIDFD)";
    let ended = |errno| {
        Error::os(ASK, errno)
            .of_kind(ErrorKind::NotFound)
            .because("the process at the other end has ended")
    };
    if has_peer_pidfd() {
        return sys::peer_pidfd(fd).map_err(|errno| match errno {
            Errno::INVAL | Errno::SRCH => ended(errno),
            Errno::NODATA => not_connected(ASK),
            errno => Error::os(ASK, errno),
        });
    }
    let peer = of_peer(fd)?;
    let Some(pid) = Pid::from_raw(peer.pid) else {
        return Err(Error::new(ErrorKind::Unsupported, ASK)
            .because("this kernel has no SO_PEERPIDFD, and the process has no number here")
            .fix("use Linux 6.5 or later, or share the PID namespace"));
    };
    pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        Errno::SRCH => ended(errno),
        errno => Error::os("open the process at the other end (pidfd_open)", errno),
    })
}

pub(super) fn groups_of_peer(fd: BorrowedFd<'_>) -> Result<Vec<u32>> {
    const ASK: &str = "ask for the groups of the other end (SO_PEERGROUPS)";
    let mut groups = vec![0; 64];
    loop {
        match sys::peer_groups(fd, &mut groups) {
            Ok(count) if count <= groups.len() => {
                groups.truncate(count);
                return Ok(groups);
            }
            Ok(count) => groups.resize(count, 0),
            Err(Errno::NODATA) => return Err(not_connected(ASK)),
            Err(errno) => return Err(Error::os(ASK, errno)),
        }
    }
}
