//! What System V queues, segments and semaphore sets have in common: numbers for names, and a status
//! that says who made them, who owns them and when.

use std::io;
use std::time::{Duration, SystemTime};

use rustix::io::Errno;

mod key;

pub use key::Key;

/// Who may do what with an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permissions {
    pub(crate) key: Key,
    pub(crate) owner: (u32, u32),
    pub(crate) creator: (u32, u32),
    /// With bits beyond the permissions: what shmctl(2) tells of a segment.
    pub(crate) mode: u32,
}

impl From<&libc::ipc_perm> for Permissions {
    #[allow(clippy::useless_conversion, reason = "the mode is as wide only on some architectures")]
    fn from(raw: &libc::ipc_perm) -> Self {
        Self {
            key: Key::new(raw.__key),
            owner: (raw.uid, raw.gid),
            creator: (raw.cuid, raw.cgid),
            mode: u32::from(raw.mode),
        }
    }
}

/// The time of a status. Zero says never.
pub(crate) fn time(seconds: libc::time_t) -> Option<SystemTime> {
    let seconds = u64::try_from(seconds).ok().filter(|seconds| *seconds != 0)?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// The process of a status. Zero says none, or one that this pid namespace does not see.
pub(crate) fn process(pid: libc::pid_t) -> Option<u32> {
    u32::try_from(pid).ok().filter(|pid| *pid != 0)
}

/// What the last call of the C library failed with.
#[cold]
pub(crate) fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
