//! Signals as a descriptor: what is blocked and pending is read as a typed [`Info`], in any event
//! loop, without a handler.
//!
//! ```
//! use sinew::signal::{Set, Signal, Target};
//! use sinew::signalfd::SignalFd;
//! use sinew::wait::Waits;
//!
//! let ends = Set::from([Signal::INT, Signal::TERM]);
//! let _blocked = ends.block()?; // in `main`, before the first thread
//! let events = SignalFd::new(ends)?;
//!
//! Target::process(std::process::id()).send(Signal::TERM)?;
//! let info = events.wait().unwrap();
//! assert_eq!(info.signal(), Signal::TERM);
//! assert_eq!(info.sender().unwrap().pid, std::process::id());
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Merged signals
//! Of each standard signal the kernel keeps at most one pending: a hundred SIGUSR1 before a read are one
//! [`Info`], that of the first. So of SIGCHLD too: an `Info` names *a* child, and others may have
//! ended with it. Real-time signals are queued and arrive one by one, the lowest number first, with
//! their values, as long as RLIMIT_SIGPENDING lasts; see [`signal`](crate::signal).
//!
//! # Threads
//! The descriptor gives what is pending for the *process* and for the *thread that reads*. So any
//! thread may read what was sent to the process, and only the thread itself what was sent to it.
//! Every thread has to block the signals: one that does not gets them instead, and what the signal
//! does then happens. [`SignalFd::new`] refuses a set that the calling thread does not block, and cannot look
//! at the others: make the scope in `main`, first.
//!
//! # Fork, and handing it on
//! The descriptor stands for a set, not for a process: who reads gets its own signals. A forked child
//! reads the child's. An epoll instance is told of the signals of the process that added the
//! descriptor to it: a child has to make an instance of its own.
//!
//! # Waiting
//! Each signal takes one system call, [many](SignalFd::many) of them together one too. The description is
//! non-blocking, and this process alone made it, so that no reader hangs where another thread took the signal
//! between poll and read: [`TryFrom`] makes a new one of a blocking one. Who is given a duplicate and takes
//! O_NONBLOCK away again could still make a bounded wait last.
//!
//! # Crashes
//! A signal that was sent stays pending, whatever becomes of the sender. Pending signals end with the
//! process; one that was read is gone.
//!
//! Source: signalfd(2), sigaction(2) (`si_code`), signal(7).

mod info;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use super::signal::{Set, sys};
use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{Wait, Waits, drive};

use info::RECORD;
pub use info::{Child, Info, Infos, Kind, Sender};

/// A descriptor from which signals are read.
///
/// | condition | result |
/// |---|---|
/// | nothing is pending, `try_wait` | [`WaitError::WouldBlock`] |
/// | nothing came before the deadline, or another thread took it | [`WaitError::TimedOut`] |
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// A new one for these signals, which the calling thread must have blocked: see
    /// [`Set::block`]. What is pending already is read from it too.
    ///
    /// # Errors
    /// Of kind [`InvalidInput`](ErrorKind::InvalidInput) if the set is empty, or if one of them is
    /// not blocked here or [cannot be](crate::signal::Signal::can_be_blocked): it would strike instead
    /// of being read. [`LimitReached`](ErrorKind::LimitReached) if no descriptor is left.
    pub fn new(signals: impl Into<Set>) -> Result<Self> {
        let signals = signals.into();
        signals.refuse_unblockable("make a signalfd")?;
        let open = signals.difference(Set::blocked()?);
        let refused = || {
            Error::new(ErrorKind::InvalidInput, "make a signalfd")
                .on(Mechanism::Signalfd)
                .object(format!("{signals:?}"))
        };
        if signals.is_empty() {
            return Err(refused().because("nothing would ever come"));
        }
        if !open.is_empty() {
            return Err(refused()
                .because(format!("this thread does not block {open:?}, which would strike instead"))
                .fix("`let _blocked = set.block()?` in `main`, before the first thread"));
        }
        Self::of(signals)
    }

    /// A view whose wait gives up to `N` signals, as many as are pending, by one system call. It
    /// waits for the first only.
    ///
    /// ```
    /// # use sinew::signal::{Set, Signal, Target};
    /// # use sinew::signalfd::SignalFd;
    /// use sinew::wait::Waits;
    ///
    /// # let set = Set::from([Signal::USR1, Signal::USR2]);
    /// # let _blocked = set.block()?;
    /// # let events = SignalFd::new(set)?;
    /// # let own = Target::process(std::process::id());
    /// own.send(Signal::USR2)?;
    /// own.send(Signal::USR1)?;
    /// for info in events.many::<16>().wait().unwrap() {
    ///     println!("{}", info.signal());
    /// }
    /// # Ok::<(), sinew::Error>(())
    /// ```
    #[must_use]
    pub const fn many<const N: usize>(&self) -> Many<'_, N> {
        const { assert!(N > 0, "room for one signal at least") };
        Many(self)
    }

    fn of(signals: Set) -> Result<Self> {
        sys::signalfd(signals.bits()).map(Self).map_err(|errno| {
            let error = Error::os("make a signalfd", errno).on(Mechanism::Signalfd);
            match errno {
                Errno::MFILE => error
                    .because(format!("all descriptors are in use: {}", Limit::Nofile.stated()))
                    .fix(Limit::Nofile.raise()),
                _ => error,
            }
        })
    }

    fn read<const N: usize>(&self, wait: Wait<'_>) -> Result<Infos<N>, WaitError> {
        let mut infos = Infos::new();
        let fd = self.0.as_fd();
        let count = drive(fd, PollFlags::IN, wait, |_| rustix::io::read(fd, infos.room()))?;
        infos.filled(count / RECORD).ok_or(WaitError::Corrupt)
    }
}

impl Waits for SignalFd {
    type Waited = Info;

    fn wait_for(&self, wait: Wait<'_>) -> Result<Info, WaitError> {
        self.read::<1>(wait)?.next().ok_or(WaitError::Corrupt)
    }
}

/// A signalfd, read many signals at a time. Made by [`SignalFd::many`].
#[derive(Clone, Copy, Debug)]
pub struct Many<'a, const N: usize>(&'a SignalFd);

impl<const N: usize> Waits for Many<'_, N> {
    type Waited = Infos<N>;

    fn wait_for(&self, wait: Wait<'_>) -> Result<Infos<N>, WaitError> {
        self.0.read(wait)
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<SignalFd> for OwnedFd {
    fn from(signalfd: SignalFd) -> Self {
        signalfd.0
    }
}

impl TryFrom<OwnedFd> for SignalFd {
    type Error = Error;

    /// Takes a signalfd that came from elsewhere. One that blocks is closed, and a new one with the
    /// same set takes its place, because a bounded wait could hang in it; later changes of the
    /// other's set are not seen then. A refused descriptor is closed.
    ///
    /// Whether its signals are blocked is not looked at.
    ///
    /// # Errors
    /// Of kind [`Mismatch`](ErrorKind::Mismatch) for anything else than a signalfd. It needs /proc.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        let number = fd.as_raw_fd();
        let refuse =
            |error: Error| error.on(Mechanism::Signalfd).object(format!("descriptor {number}"));
        let look = |error: std::io::Error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            refuse(Error::os("look at a received descriptor", errno).because("/proc is not there"))
        };
        let kind = std::fs::read_link(format!("/proc/self/fd/{number}")).map_err(look)?;
        if kind.as_os_str() != "anon_inode:[signalfd]" {
            let error = Error::new(ErrorKind::Mismatch, "take a received descriptor");
            return Err(refuse(error.because(format!("it is {kind:?}, not a signalfd"))));
        }
        let flags = fcntl_getfl(&fd).map_err(|e| refuse(Error::os("look at its flags", e)))?;
        if flags.contains(OFlags::NONBLOCK) {
            return Ok(Self(fd));
        }
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).map_err(look)?;
        let line = text.lines().find_map(|line| line.strip_prefix("sigmask:"));
        match line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()) {
            Some(set) => Self::of(Set::from_bits(set)),
            None => Err(refuse(
                Error::new(ErrorKind::Unsupported, "take a received descriptor")
                    .because("it blocks, and /proc does not tell its set"),
            )),
        }
    }
}
