//! eventfd: a 64-bit counter behind a descriptor, the doorbell of event loops.
//!
//! | kind | `wait` takes | for |
//! |---|---|---|
//! | [`Counter`] | all of the count, and gives it | "something happened since you looked": a doorbell |
//! | [`Semaphore`] | one of it | tickets: each is taken by exactly one of many processes |
//!
//! [`add`](EventFd::add) and [`notify`](EventFd::notify) raise the count; the verb of taking is
//! `wait` of [`Waits`]. It is readable for poll(2) and epoll(7) while the count is not zero.
//!
//! ```
//! use std::time::Duration;
//! use sinew::wait::Waits;
//! use sinew::{WaitError, eventfd};
//!
//! let bell = eventfd::counter()?;
//! bell.notify().unwrap();
//! bell.add(2).unwrap();
//! assert_eq!(bell.wait(), Ok(3));
//! assert_eq!(bell.wait_timeout(Duration::from_millis(1)), Err(WaitError::TimedOut));
//!
//! let tickets = eventfd::semaphore()?;
//! tickets.add(2).unwrap();
//! assert_eq!((tickets.try_wait(), tickets.try_wait()), (Ok(()), Ok(())));
//! assert_eq!(tickets.try_wait(), Err(WaitError::WouldBlock));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! Another process gets it by inheritance or over a UNIX socket
//! ([`with_fds`](crate::unix::Socket::with_fds)); what arrives becomes one again with `try_from`.
//!
//! # What is exact
//! - **Taking.** Every form is one system call where there is something to take, and exact with any
//!   number of processes: what one takes no other does, and none sleeps past its deadline because
//!   another was faster. Bounded forms ask per call (`preadv2` with `RWF_NOWAIT`), so it does not matter
//!   what a peer does to O_NONBLOCK, which all holders share.
//! - **Where a sandbox refuses that call**, an eventfd is made with O_NONBLOCK instead, and every
//!   form works on it. One that somebody else made without O_NONBLOCK then has only `wait` without an
//!   [`Interrupt`](crate::wait::Interrupt): the other forms give
//!   [`Os(EOPNOTSUPP)`](crate::WaitError::Os), because nothing could end their read.
//! - **Adding.** [`add`](EventFd::add) is one system call. No Linux has a flag for a write to an eventfd
//!   that does not sleep: the other forms of adding first look at O_NONBLOCK and, where it is not set, read the
//!   count from /proc and take the counter for full 2<sup>32</sup> below its end, so that only somebody
//!   who adds as much in that instant, on purpose, can make them sleep. One made with
//!   [`nonblocking`](Options::nonblocking) goes to its end.
//! - **Full** is a count of 2<sup>64</sup> - 2, which no honest notifier reaches. While it is full, forms
//!   that wait, other than a plain `add` in the kernel, look again after 20 us growing to 1 ms.
//!
//! Do not share one with a process that you do not trust: it can take what was meant for others, and
//! fill the counter.
//!
//! # Crashes
//! Nobody is told when a holder dies: the count stays, and lives as long as one process has the eventfd.
//! A ticket that a process took before it was killed is gone. From eventfd(2), preadv2(2).

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use super::descriptor::{check_kind, fdinfo, field, not_made};
use super::nowait;
use crate::error::{Error, ErrorKind, Result, SendError, WaitError};
use crate::kernel::Feature;
use crate::mechanism::Mechanism;
use crate::wait::{Mode, Wait, Waits, drive, drive_by_naps};

const MECHANISM: Mechanism = Mechanism::Eventfd;
/// The most that the counter holds.
const MOST: u64 = u64::MAX - 1;
/// How far below its end a counter is full for an addition that must not sleep and looks first.
const RESERVE: u64 = 1 << 32;

/// The kind of which `wait` takes the whole count.
#[derive(Debug)]
pub enum Counter {}

/// The kind of which `wait` takes one.
#[derive(Debug)]
pub enum Semaphore {}

/// [`Counter`] or [`Semaphore`]: what one taking takes. No other type is a kind.
pub trait Kind: kind::Sealed {}
impl Kind for Counter {}
impl Kind for Semaphore {}

mod kind {
    //! What the two kinds differ in.

    /// Implemented here only.
    pub trait Sealed {
        /// Whether EFD_SEMAPHORE is set.
        const ONE_BY_ONE: bool;
    }
    impl Sealed for super::Counter {
        const ONE_BY_ONE: bool = false;
    }
    impl Sealed for super::Semaphore {
        const ONE_BY_ONE: bool = true;
    }
}

/// A new eventfd whose count is taken whole.
///
/// # Errors
/// When no descriptor or no memory is left.
pub fn counter() -> Result<EventFd<Counter>> {
    Options::new().counter()
}

/// A new eventfd of which one is taken at a time.
///
/// # Errors
/// As [`counter`].
pub fn semaphore() -> Result<EventFd<Semaphore>> {
    Options::new().semaphore()
}

/// How an eventfd is made.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "it makes nothing until `counter` or `semaphore`"]
pub struct Options {
    initial: u32,
    nonblocking: bool,
}

impl Options {
    /// A count of zero, and a description that blocks where the kernel can be told per call not to.
    pub const fn new() -> Self {
        Self { initial: 0, nonblocking: false }
    }

    /// The count that it begins with.
    pub const fn initial(mut self, count: u32) -> Self {
        self.initial = count;
        self
    }

    /// Makes the description O_NONBLOCK, for everybody who will share it: for programs that read or
    /// write the descriptor by themselves and must not sleep. All forms mean the same as ever; `wait`
    /// takes two more system calls when it has to sleep.
    pub const fn nonblocking(mut self) -> Self {
        self.nonblocking = true;
        self
    }

    /// Makes one whose count is taken whole.
    ///
    /// # Errors
    /// When no descriptor or no memory is left.
    pub fn counter(&self) -> Result<EventFd<Counter>> {
        self.create()
    }

    /// Makes one of which one is taken at a time.
    ///
    /// # Errors
    /// As [`counter`](Self::counter).
    pub fn semaphore(&self) -> Result<EventFd<Semaphore>> {
        self.create()
    }

    fn create<K: Kind>(&self) -> Result<EventFd<K>> {
        static ASKED: AtomicBool = AtomicBool::new(false);
        let kind = if K::ONE_BY_ONE { EventfdFlags::SEMAPHORE } else { EventfdFlags::empty() };
        let make = |nonblocking: bool| {
            let nonblocking = nonblocking || self.nonblocking;
            let more = if nonblocking { EventfdFlags::NONBLOCK } else { EventfdFlags::empty() };
            eventfd(0, EventfdFlags::CLOEXEC | kind | more)
        };
        let fd = nowait::create(Feature::EventfdNowait, &ASKED, make)
            .map_err(|errno| not_made(MECHANISM, errno))?;
        let made = EventFd { fd, kind: PhantomData };
        if self.initial > 0 {
            made.write(u64::from(self.initial)).map_err(|errno| not_made(MECHANISM, errno))?;
        }
        Ok(made)
    }
}

/// An eventfd of either kind. Cheap to share: it is one descriptor.
pub struct EventFd<K: Kind> {
    fd: OwnedFd,
    kind: PhantomData<K>,
}

impl<K: Kind> EventFd<K> {
    /// Adds one and wakes whoever waits: [`add`](Self::add) of one.
    ///
    /// # Errors
    /// As [`add_wait`](Self::add_wait).
    #[inline]
    pub fn notify(&self) -> Result<(), SendError> {
        self.add(1)
    }

    /// Adds `n`; waits as long as it takes while the counter is full.
    ///
    /// # Errors
    /// As [`add_wait`](Self::add_wait).
    #[inline]
    pub fn add(&self, n: u64) -> Result<(), SendError> {
        self.add_wait(n, Wait::FOREVER)
    }

    /// Adds `n` if it fits now.
    ///
    /// # Errors
    /// [`SendError::Full`] if it does not; as [`add_wait`](Self::add_wait).
    #[inline]
    pub fn try_add(&self, n: u64) -> Result<(), SendError> {
        self.add_wait(n, Wait::NEVER)
    }

    /// Adds `n`; waits at most `timeout` while the counter is full.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if it stayed so; as [`add_wait`](Self::add_wait).
    #[inline]
    pub fn add_timeout(&self, n: u64, timeout: Duration) -> Result<(), SendError> {
        self.add_wait(n, Wait::timeout(timeout))
    }

    /// Adds `n`; waits at most until `deadline` while the counter is full.
    ///
    /// # Errors
    /// [`SendError::TimedOut`] if it stayed so; as [`add_wait`](Self::add_wait).
    #[inline]
    pub fn add_until(&self, n: u64, deadline: Instant) -> Result<(), SendError> {
        self.add_wait(n, Wait::until(deadline))
    }

    /// Adds `n`, waiting as `wait` allows while the counter is full. The other forms are made of this
    /// one. It is added whole or not at all.
    ///
    /// # Errors
    /// [`SendError::Os`] with EINVAL for an `n` of 2<sup>64</sup> - 1, which is more than it holds;
    /// see [`SendError`].
    #[inline]
    pub fn add_wait(&self, n: u64, wait: Wait<'_>) -> Result<(), SendError> {
        if n > MOST {
            return Err(SendError::Os(Errno::INVAL.raw_os_error()));
        }
        // Not by poll(2): it tells only that one more fits.
        Ok(drive_by_naps(wait, |mode| match mode {
            Mode::MayBlock => self.write(n),
            Mode::NonBlocking => self.write_now(n),
        })?)
    }

    /// The count now, without taking anything: for showing, not for deciding. Read from /proc.
    ///
    /// # Errors
    /// When /proc is not there, or no descriptor is left.
    pub fn count(&self) -> Result<u64> {
        self.look().map_err(|errno| Error::os("read the count", errno).on(MECHANISM))
    }

    /// Another descriptor of the same counter.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn try_clone(&self) -> Result<Self> {
        let fd = rustix::io::fcntl_dupfd_cloexec(&self.fd, 0);
        let fd = fd.map_err(|errno| not_made(MECHANISM, errno))?;
        Ok(Self { fd, kind: PhantomData })
    }

    #[inline]
    fn write(&self, n: u64) -> Result<(), Errno> {
        rustix::io::write(&self.fd, &n.to_ne_bytes()).map(drop)
    }

    #[cold]
    fn write_now(&self, n: u64) -> Result<(), Errno> {
        let sleeps = !fcntl_getfl(&self.fd)?.contains(OFlags::NONBLOCK);
        if sleeps && self.look()?.saturating_add(n) > MOST - RESERVE {
            return Err(Errno::AGAIN);
        }
        self.write(n)
    }

    fn look(&self) -> Result<u64, Errno> {
        let text = fdinfo(self.fd.as_fd())?;
        let count = field(&text, "eventfd-count").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        count.ok_or(Errno::NOTSUP)
    }
}

/// Taking all of the count, which is at least one.
impl Waits for EventFd<Counter> {
    type Waited = u64;

    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<u64, WaitError> {
        take(self.as_fd(), wait)
    }
}

/// Taking one.
impl Waits for EventFd<Semaphore> {
    type Waited = ();

    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<(), WaitError> {
        take(self.as_fd(), wait).map(drop)
    }
}

#[inline]
fn take(fd: BorrowedFd<'_>, wait: Wait<'_>) -> Result<u64, WaitError> {
    let attempt = |mode| nowait::take(fd, Feature::EventfdNowait, mode);
    Ok(drive(fd, PollFlags::IN, wait, attempt)?)
}

impl<K: Kind> TryFrom<OwnedFd> for EventFd<K> {
    type Error = Error;

    /// Takes a descriptor that came from elsewhere, if it is an eventfd, and of this kind where the
    /// kernel tells that (Linux 6.5). A refused descriptor is closed.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        check_kind(fd.as_fd(), MECHANISM, "[eventfd]")?;
        let told = fdinfo(fd.as_fd()).ok();
        let one_by_one = told.as_deref().and_then(|text| field(text, "eventfd-semaphore"));
        match one_by_one.map(|value| value != "0") {
            Some(other) if other != K::ONE_BY_ONE => {
                let is = if other { "a semaphore" } else { "a counter" };
                Err(Error::new(ErrorKind::Mismatch, "take a descriptor")
                    .on(MECHANISM)
                    .object(format!("descriptor {}", fd.as_raw_fd()))
                    .because(format!("it was made as {is}")))
            }
            _ => Ok(Self { fd, kind: PhantomData }),
        }
    }
}

impl<K: Kind> From<EventFd<K>> for OwnedFd {
    fn from(event: EventFd<K>) -> Self {
        event.fd
    }
}

impl<K: Kind> AsFd for EventFd<K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl<K: Kind> std::fmt::Debug for EventFd<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = if K::ONE_BY_ONE { "Semaphore" } else { "Counter" };
        f.debug_struct("EventFd").field("fd", &self.fd).field("kind", &kind).finish()
    }
}
