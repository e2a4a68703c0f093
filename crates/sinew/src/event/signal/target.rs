//! Who is to have a signal, and sending it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::{Signal, sys};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mechanism::Mechanism;

/// The process or thread that is to have a signal.
///
/// Anything that is a pidfd ([`AsFd`]) becomes one by `Target::from(&pidfd)`: that is never another process than the
/// one that was meant. See [the module](super) about pids.
///
/// | condition | result |
/// |---|---|
/// | it is gone | [`NotFound`](ErrorKind::NotFound) (ESRCH); through a pid only if no other process has the number |
/// | it ended and nobody has waited for it yet | Ok, and nothing happens |
/// | it is another user's | [`PermissionDenied`](ErrorKind::PermissionDenied) (EPERM) |
/// | the queue of its user is full, a real-time signal with a value | [`LimitReached`](ErrorKind::LimitReached) (EAGAIN) |
/// | the descriptor is no pidfd | [`Mismatch`](ErrorKind::Mismatch) (EBADF) |
///
/// No call waits: no event of the kernel tells that a full queue has room again.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a>(pub(super) To<'a>);

#[derive(Clone, Copy, Debug)]
pub(super) enum To<'a> {
    Pidfd(BorrowedFd<'a>),
    Process(u32),
    Thread(u32, u32),
}

impl<'a, F: AsFd> From<&'a F> for Target<'a> {
    /// The process of a pidfd.
    fn from(pidfd: &'a F) -> Self {
        Self(To::Pidfd(pidfd.as_fd()))
    }
}

impl Target<'static> {
    /// The process that has this id *now*, which need not be the one that had it when the number was learned.
    /// Right for this process itself and for a child that nobody has waited for; else take a pidfd.
    #[must_use]
    pub const fn process(pid: u32) -> Self {
        Self(To::Process(pid))
    }

    /// One thread of a process, by their ids *now*: of both the same is true as of
    /// [`process`](Self::process), but a thread of another process is never meant.
    #[must_use]
    pub const fn thread(pid: u32, tid: u32) -> Self {
        Self(To::Thread(pid, tid))
    }
}

impl Target<'_> {
    /// Sends the signal, as kill(2) does. The receiver learns the sender from the kernel.
    ///
    /// It never fails for a full queue. Then what arrives has no sender, and a real-time signal is
    /// merged with one that is pending, like a standard one: [`queue`](Self::queue) tells.
    ///
    /// # Errors
    /// See [`Target`].
    pub fn send(self, signal: Signal) -> Result<()> {
        self.check()?;
        let number = signal.as_raw();
        match self.0 {
            To::Pidfd(fd) => sys::send_to_pidfd(fd, number, None),
            To::Process(pid) => sys::kill(pid, number),
            To::Thread(pid, tid) => sys::tgkill(pid, tid, number),
        }
        .map_err(|errno| self.failed("send", signal, errno))
    }

    /// Queues the signal with a value, as sigqueue(3) does. Real-time signals arrive one by one, in
    /// the order of queueing; of a standard one that is pending already, this one and its value are
    /// lost without an error.
    ///
    /// Pid and uid of the sender are what this process says, so that the receiver cannot rely on
    /// them: [`Sender::vouched`](crate::signalfd::Sender::vouched).
    ///
    /// ```
    /// use std::process::Command;
    /// use sinew::signal::{Signal, Target};
    ///
    /// let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    /// Target::process(child.id()).queue(Signal::TERM, 7)?;
    /// assert!(!child.wait().unwrap().success());
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// See [`Target`]. A full queue names RLIMIT_SIGPENDING of the receiver, and nothing was sent.
    pub fn queue(self, signal: Signal, value: impl Into<Value>) -> Result<()> {
        self.check()?;
        let info = sys::Info::queued(signal.as_raw(), value.into().0);
        match self.0 {
            To::Pidfd(fd) => sys::send_to_pidfd(fd, signal.as_raw(), Some(&info)),
            To::Process(pid) => sys::queue(pid, &info),
            To::Thread(pid, tid) => sys::queue_to_thread(pid, tid, &info),
        }
        .map_err(|errno| self.failed("queue", signal, errno))
    }

    /// Zero and negative numbers mean whole groups of processes to kill(2).
    fn check(self) -> Result<()> {
        let numbers = match self.0 {
            To::Pidfd(_) => return Ok(()),
            To::Process(pid) => [pid, pid],
            To::Thread(pid, tid) => [pid, tid],
        };
        if numbers.iter().all(|n| *n > 0 && i32::try_from(*n).is_ok()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InvalidInput, "send a signal")
            .on(Mechanism::Signal)
            .object(self.label())
            .because("no process or thread has that number"))
    }

    fn label(self) -> String {
        match self.0 {
            To::Pidfd(fd) => format!("pidfd {}", fd.as_raw_fd()),
            To::Process(pid) => format!("process {pid}"),
            To::Thread(pid, tid) => format!("thread {tid} of process {pid}"),
        }
    }

    #[cold]
    fn failed(self, verb: &str, signal: Signal, errno: Errno) -> Error {
        let error =
            Error::os(format!("{verb} {signal}"), errno).on(Mechanism::Signal).object(self.label());
        match errno {
            Errno::SRCH => error.because("it is gone"),
            Errno::PERM => {
                error.because("it is another user's").fix("be the same user, or have CAP_KILL")
            }
            Errno::BADF => error.because("the descriptor is no pidfd"),
            Errno::AGAIN => {
                let limit = Limit::Sigpending;
                // It is the receiver's limit that counts, which need not be this process's.
                let value = self.pid().and_then(sys::sigpending_limit).map_or_else(
                    || format!("{limit} of the receiver (of this process: {})", limit.stated()),
                    |value| format!("{limit} of the receiver ({value})"),
                );
                error
                    .of_kind(ErrorKind::LimitReached)
                    .because(format!("the signals queued for its user fill {value}"))
                    .fix(format!("let it take them first, or raise the limit: {}", limit.raise()))
            }
            _ => error,
        }
    }

    /// The pid, to say something about it.
    fn pid(self) -> Option<u32> {
        match self.0 {
            To::Process(pid) | To::Thread(pid, _) => Some(pid),
            To::Pidfd(fd) => {
                let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
                let text = std::fs::read_to_string(path).ok()?;
                let line = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
                line.trim().parse().ok()
            }
        }
    }
}

/// What goes along with a queued signal: C's `union sigval`, which holds an int or a pointer.
///
/// Which one it is, sender and receiver have agreed; of a C program that sets the int, only
/// [`as_int`](Self::as_int) means something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Value(pub(in crate::event) [u8; 8]);

impl Value {
    /// `sival_int`.
    #[must_use]
    pub const fn as_int(self) -> i32 {
        let [a, b, c, d, ..] = self.0;
        i32::from_ne_bytes([a, b, c, d])
    }

    /// `sival_ptr`, as a number.
    #[must_use]
    pub const fn as_usize(self) -> usize {
        usize::from_ne_bytes(self.0)
    }
}

impl From<i32> for Value {
    fn from(int: i32) -> Self {
        let [a, b, c, d] = int.to_ne_bytes();
        Self([a, b, c, d, 0, 0, 0, 0])
    }
}

impl From<usize> for Value {
    fn from(pointer: usize) -> Self {
        Self(pointer.to_ne_bytes())
    }
}
