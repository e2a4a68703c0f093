//! What this kernel has that Linux 5.15 had not, found out once and with a fallback each.
//!
//! `SINEW_WITHOUT=name,name` in the environment makes the library behave as if the kernel lacked
//! those features (`all` means every one), so that each fallback can be tested anywhere.

use std::sync::atomic::{AtomicU8, Ordering};

/// A feature of newer kernels that the library uses when it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[repr(usize)]
pub enum Feature {
    /// `pwritev2(RWF_NOSIGNAL)`: write to a pipe without SIGPIPE (Linux 6.18).
    RwfNosignal,
    /// `preadv2`/`pwritev2(RWF_NOWAIT)` on pipes (Linux 6.4).
    PipeNowait,
    /// `SO_PEERPIDFD`: a pidfd of the process at the other end of a UNIX socket (Linux 6.5).
    PeerPidfd,
    /// `MFD_NOEXEC_SEAL`: a memfd that can never be executed (Linux 6.3).
    NoexecSeal,
    /// `MADV_POPULATE_WRITE`: fault pages in ahead (Linux 5.14; absent under some sandboxes).
    MadvPopulate,
    /// `O_TMPFILE`: a file without a name until it is complete (Linux 3.11; absent on some file
    /// systems).
    Tmpfile,
    /// `futex_waitv`: sleep on several words (Linux 5.16).
    FutexWaitv,
    /// `preadv2(RWF_NOWAIT)` on an eventfd (Linux 5.8; a sandbox may refuse it).
    EventfdNowait,
    /// `preadv2(RWF_NOWAIT)` on a timerfd (Linux 6.10; refused before).
    TimerfdNowait,
    /// `fcntl(F_DUPFD_QUERY)`: whether two descriptors are one description (Linux 6.10).
    DupfdQuery,
    /// `epoll_pwait2`: deadlines of a poller in nanoseconds (Linux 5.11; absent under some sandboxes).
    EpollPwait2,
    /// `MADV_WIPEONFORK`: a poller notices a fork without a system call (Linux 4.14; absent under some
    /// sandboxes).
    WipeOnFork,
    /// The file system of pidfds, in which each process has an inode of its own (Linux 6.9).
    Pidfs,
    /// `MEMBARRIER_CMD_GLOBAL_EXPEDITED`: a fence on the processors of others (Linux 4.16; a sandbox may refuse it).
    Membarrier,
    /// `PIDFD_GET_INFO` with the exit status (Linux 6.15).
    PidfdInfo,
}

const UNKNOWN: u8 = 0;
const PRESENT: u8 = 1;
const ABSENT: u8 = 2;

static STATES: [AtomicU8; Feature::ALL.len()] =
    [const { AtomicU8::new(UNKNOWN) }; Feature::ALL.len()];

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 15] = [
        Self::RwfNosignal,
        Self::PipeNowait,
        Self::PeerPidfd,
        Self::NoexecSeal,
        Self::MadvPopulate,
        Self::Tmpfile,
        Self::FutexWaitv,
        Self::EventfdNowait,
        Self::TimerfdNowait,
        Self::DupfdQuery,
        Self::EpollPwait2,
        Self::WipeOnFork,
        Self::Pidfs,
        Self::Membarrier,
        Self::PidfdInfo,
    ];

    /// The name for `SINEW_WITHOUT`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RwfNosignal => "rwf-nosignal",
            Self::PipeNowait => "pipe-nowait",
            Self::PeerPidfd => "peer-pidfd",
            Self::NoexecSeal => "noexec-seal",
            Self::MadvPopulate => "madv-populate",
            Self::Tmpfile => "tmpfile",
            Self::FutexWaitv => "futex-waitv",
            Self::EventfdNowait => "eventfd-nowait",
            Self::TimerfdNowait => "timerfd-nowait",
            Self::DupfdQuery => "dupfd-query",
            Self::EpollPwait2 => "epoll-pwait2",
            Self::WipeOnFork => "wipe-on-fork",
            Self::Pidfs => "pidfs",
            Self::Membarrier => "membarrier",
            Self::PidfdInfo => "pidfd-info",
        }
    }

    /// Whether to use it: true until [`refused`](Self::refused) says otherwise. One relaxed load:
    /// the state only ever goes from unknown to a final value, and every thread may find that out
    /// by itself.
    #[inline]
    pub(crate) fn usable(self) -> bool {
        match STATES[self as usize].load(Ordering::Relaxed) {
            PRESENT => true,
            ABSENT => false,
            _ => self.first_look(),
        }
    }

    #[cold]
    fn first_look(self) -> bool {
        let without = std::env::var("SINEW_WITHOUT").unwrap_or_default();
        let off = without.split(',').any(|w| w.trim() == self.name() || w.trim() == "all");
        STATES[self as usize].store(if off { ABSENT } else { PRESENT }, Ordering::Relaxed);
        !off
    }

    /// Notes that the kernel refused it: nobody asks again.
    #[cold]
    pub(crate) fn refused(self) {
        STATES[self as usize].store(ABSENT, Ordering::Relaxed);
    }
}
