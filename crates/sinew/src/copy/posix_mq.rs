//! POSIX message queues: named, bounded, whole messages, highest priority first.
//!
//! A queue lives in the kernel of its IPC namespace, with what is in it, until it is unlinked *and*
//! nobody has it open, or the host goes down. The death of a process, by whatever signal, takes no
//! message away and leaves none half sent. No mount of `mqueue` is needed: the system calls find
//! queues by name without one.
//!
//! ```
//! use sinew::posix_mq::{self, Options};
//! use sinew::wait::{Receives, Sends};
//!
//! let name = format!("/sinew-doc-{}", std::process::id());
//! let queue = Options::new().depth(4).message_bytes(64).create(&name)?;
//! queue.send(b"sooner or later").unwrap();
//! queue.priority(9).send(b"urgent").unwrap();
//!
//! let mut buf = [0; 64];
//! let got = queue.recv(&mut buf).unwrap();
//! assert_eq!((&buf[..got.len], got.priority), (&b"urgent"[..], 9));
//! posix_mq::unlink(&name)?;
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Waiting
//! A queue is a file descriptor that `poll` and `epoll` take (on Linux; POSIX does not say so): it
//! is readable while a message is there and writable while there is room. So it goes into any
//! event loop:
//!
//! ```
//! use rustix::event::{PollFd, PollFlags, Timespec, poll};
//! use sinew::posix_mq::{self, Options};
//! use sinew::wait::{Receives, Sends};
//!
//! let name = format!("/sinew-doc-poll-{}", std::process::id());
//! let queue = Options::new().depth(1).message_bytes(16).create(&name)?;
//! posix_mq::unlink(&name)?;
//! queue.send(b"work").unwrap();
//!
//! let mut fds = [PollFd::new(&queue, PollFlags::IN)];
//! assert_eq!(poll(&mut fds, Some(&Timespec::default())), Ok(1));
//! assert_eq!(queue.try_recv(&mut [0; 16]).unwrap().len, 4);
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! The deadlines of `mq_timedsend(3)` are of CLOCK_REALTIME, which jumps when the clock is set. They
//! are not used: a bounded wait tries with a time-out that is over already, and sleeps in `ppoll`.
//!
//! # Limits
//! | what | default | where |
//! |---|---|---|
//! | messages in a queue | 10 | `/proc/sys/fs/mqueue/msg_max` |
//! | bytes in a message | 8192 | `/proc/sys/fs/mqueue/msgsize_max` |
//! | queues of an IPC namespace | 256 | `/proc/sys/fs/mqueue/queues_max` |
//! | bytes of all queues of a user | 819200 | RLIMIT_MSGQUEUE (`ulimit -q`) |
//! | priorities | 0 to 32767 | fixed |
//! | bytes in a name, after the slash | 255 | fixed |
//!
//! RLIMIT_MSGQUEUE counts what a queue *can* hold, from its creation on: see [`Options::cost`].
//! CAP_SYS_RESOURCE lifts the limits of /proc. An [`Error`] says which one was hit.
//!
//! Source: mq_overview(7), mq_open(3), and `ipc/mqueue.c` of Linux.

#![allow(unsafe_code, reason = "neither std nor rustix has POSIX message queues; libc does")]

use std::ffi::{CString, OsStr, c_long};
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::error::{Error, ErrorKind, RecvError, Result, SendError, Stop};
use crate::mechanism::Mechanism;
use crate::wait::{Mode, Receives, Sends, Wait, drive};

/// The highest priority of a message; the lowest, and the usual one, is 0.
pub const PRIORITY_MAX: u32 = 32_767;

/// What a message costs beside its bytes: the kernel's header of it (`struct msg_msg`) ...
const HEADER: u64 = 48;
/// ... and the node of its priority in a tree (`struct posix_msg_tree_node`).
const NODE: u64 = 48;
/// How many distinct priorities there are, and so how many nodes a queue can need at most.
const PRIORITIES: u64 = PRIORITY_MAX as u64 + 1;
/// The most that even CAP_SYS_RESOURCE allows (`HARD_MSGMAX`, `HARD_MSGSIZEMAX`).
const HARD_DEPTH: usize = 65_536;
const HARD_MESSAGE_BYTES: usize = 16 << 20;

/// What a descriptor of a queue may be used for. The mode of the queue is checked against it once,
/// at opening.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Receiving only (O_RDONLY): sending fails with EBADF.
    Receive,
    /// Sending only (O_WRONLY): receiving fails with EBADF.
    Send,
    /// Both (O_RDWR).
    #[default]
    Both,
}

/// How to create or open a queue.
///
/// ```
/// use sinew::ErrorKind;
/// use sinew::posix_mq::{self, Access, Options};
///
/// let name = format!("/sinew-doc-options-{}", std::process::id());
/// let queue = Options::new().depth(2).message_bytes(128).create(&name)?;
/// assert_eq!(queue.attributes()?.message_bytes, 128);
/// assert_eq!(Options::new().create(&name).unwrap_err().kind(), ErrorKind::AlreadyExists);
///
/// let sender = Options::new().access(Access::Send).open(&name)?;
/// posix_mq::unlink(&name)?;
/// # drop(sender);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    depth: Option<usize>,
    message_bytes: Option<usize>,
    mode: u32,
    access: Access,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// The host's default depth and message size (10 and 8192 unless changed), mode 0600, for
    /// sending and receiving.
    #[must_use]
    pub const fn new() -> Self {
        Self { depth: None, message_bytes: None, mode: 0o600, access: Access::Both }
    }

    /// How many messages a new queue holds before it is full.
    #[must_use]
    pub const fn depth(mut self, messages: usize) -> Self {
        self.depth = Some(messages);
        self
    }

    /// How long a message of a new queue may be, in bytes. It is also the least length of a buffer
    /// to receive with, whatever the messages are.
    #[must_use]
    pub const fn message_bytes(mut self, bytes: usize) -> Self {
        self.message_bytes = Some(bytes);
        self
    }

    /// The permission bits of a new queue, of which the umask takes away some.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// What the descriptor is for.
    #[must_use]
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Creates a queue that must not exist yet. `name` is a slash and 1 to 255 bytes without one.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`LimitReached`](ErrorKind::LimitReached), the
    /// limit named; [`InvalidInput`](ErrorKind::InvalidInput) for an empty queue or a bad name.
    pub fn create(&self, name: impl AsRef<OsStr>) -> Result<Queue> {
        self.make("create", name.as_ref(), libc::O_CREAT | libc::O_EXCL)
    }

    /// Opens a queue that exists. Its depth and message size are what they are.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied) where
    /// the queue's mode does not allow the access.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<Queue> {
        self.make("open", name.as_ref(), 0)
    }

    /// Opens the queue, or creates it if it does not exist, in one step. One that exists keeps its
    /// depth, message size and mode: see [`Queue::attributes`].
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, name: impl AsRef<OsStr>) -> Result<Queue> {
        self.make("open or create", name.as_ref(), libc::O_CREAT)
    }

    /// The bytes that such a queue takes of RLIMIT_MSGQUEUE from its creation until it is gone: for
    /// each of its messages the whole message size and 96 bytes of bookkeeping.
    ///
    /// ```
    /// let options = sinew::posix_mq::Options::new().depth(10).message_bytes(8192);
    /// assert_eq!(options.cost(), 82_880);
    /// ```
    #[must_use]
    pub fn cost(&self) -> u64 {
        let (depth, bytes) = self.size();
        let (depth, bytes) = (depth as u64, bytes as u64);
        // Beyond 32768 messages no more nodes can be needed: there are no more priorities.
        let nodes = depth.min(PRIORITIES) * NODE;
        depth.saturating_mul(bytes.saturating_add(HEADER)).saturating_add(nodes)
    }

    /// Depth and message size, where not given as the kernel would choose.
    fn size(&self) -> (usize, usize) {
        let or_default = |given: Option<usize>, default, otherwise, max| {
            given.unwrap_or_else(|| {
                let default = sysctl(default).unwrap_or(otherwise);
                sysctl(max).map_or(default, |max| default.min(max))
            })
        };
        (
            or_default(self.depth, "msg_default", 10, "msg_max"),
            or_default(self.message_bytes, "msgsize_default", 8192, "msgsize_max"),
        )
    }

    fn make(&self, operation: &'static str, name: &OsStr, flags: i32) -> Result<Queue> {
        let path = checked(operation, name)?;
        let access = match self.access {
            Access::Receive => libc::O_RDONLY,
            Access::Send => libc::O_WRONLY,
            Access::Both => libc::O_RDWR,
        };
        // The kernel takes both sizes or none.
        let attributes = (self.depth.is_some() || self.message_bytes.is_some()).then(|| {
            let (depth, bytes) = self.size();
            let mut attributes = no_attributes();
            attributes.mq_maxmsg = c_long::try_from(depth).unwrap_or(c_long::MAX);
            attributes.mq_msgsize = c_long::try_from(bytes).unwrap_or(c_long::MAX);
            attributes
        });
        let attributes = attributes.as_ref().map_or(ptr::null(), ptr::from_ref);
        let flags = flags | access | libc::O_CLOEXEC;
        // SAFETY: `path` is a string with a NUL at its end and `attributes` null or a whole
        // mq_attr; both are borrowed until the call is over.
        let fd = unsafe { libc::mq_open(path.as_ptr(), flags, self.mode, attributes) };
        if fd < 0 {
            return Err(self.explain(operation, name, flags, last_errno()));
        }
        // SAFETY: the call just opened this descriptor, so nothing else owns it.
        Ok(Queue(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Says which of the limits stands behind an error number that means several.
    #[cold]
    fn explain(&self, operation: &'static str, name: &OsStr, flags: i32, errno: Errno) -> Error {
        let error = named(operation, name, errno);
        if flags & libc::O_CREAT == 0 {
            return error;
        }
        let (depth, bytes) = self.size();
        let over = |what: &str, asked: usize, file: &str, hard: usize| {
            let max = sysctl(file)?;
            (asked > max).then(|| {
                error_over_sysctl(named(operation, name, errno), what, asked, file, max, hard)
            })
        };
        match errno {
            Errno::INVAL if depth == 0 => error.because("a queue holds at least one message"),
            Errno::INVAL if bytes == 0 => {
                error.because("the messages of a queue have room for at least one byte")
            }
            Errno::INVAL | Errno::OVERFLOW => over("messages", depth, "msg_max", HARD_DEPTH)
                .or_else(|| over("bytes in a message", bytes, "msgsize_max", HARD_MESSAGE_BYTES))
                .unwrap_or(error),
            Errno::NOSPC => {
                let max = sysctl("queues_max").map_or_else(String::new, |max| format!(" ({max})"));
                error
                    .of_kind(ErrorKind::LimitReached)
                    .because(format!("all of /proc/sys/fs/mqueue/queues_max{max} queues exist"))
                    .fix("raise it, or unlink queues that nobody uses")
            }
            Errno::MFILE if descriptors_are_left() => {
                let limit = getrlimit(Resource::Msgqueue);
                let cost = self.cost();
                let asked = format!("{depth} messages of {bytes} bytes need {cost} bytes");
                let soft = limit.current.unwrap_or(u64::MAX);
                let because = if cost > soft {
                    format!("{asked}, and RLIMIT_MSGQUEUE allows {soft} for all queues of a user")
                } else {
                    format!(
                        "{asked}, and this user's queues leave less of RLIMIT_MSGQUEUE ({soft} bytes)"
                    )
                };
                let hard = limit.maximum.map_or_else(
                    || "without a hard limit".to_owned(),
                    |hard| format!("hard limit {hard}"),
                );
                error.because(because).fix(format!(
                    "raise it with `ulimit -q` ({hard}), ask for fewer or shorter messages, or \
                     unlink queues that nobody uses"
                ))
            }
            _ => error,
        }
    }
}

/// Takes the name away: nobody can open the queue any more. Those who have it open go on using it;
/// the last of them to close it ends it, with the messages in it.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied) for one
/// that belongs to another user.
pub fn unlink(name: impl AsRef<OsStr>) -> Result<()> {
    let name = name.as_ref();
    let path = checked("unlink", name)?;
    // SAFETY: `path` is a string with a NUL at its end, borrowed until the call is over.
    match unsafe { libc::mq_unlink(path.as_ptr()) } {
        0 => Ok(()),
        _ => Err(named("unlink", name, last_errno())),
    }
}

/// A queue that is open. Made by [`Options`], or from a descriptor that was inherited or received.
///
/// One message goes or comes with a call, whole or not at all; empty ones are messages too. The
/// higher its priority the sooner it comes, and among equals in the order of sending. Several
/// threads and processes may send and receive at once: each message goes to one receiver.
///
/// | condition | result |
/// |---|---|
/// | full, `try_send` | [`SendError::Full`] |
/// | longer than the message size | [`SendError::TooBig`] with that size |
/// | priority above [`PRIORITY_MAX`] | [`SendError::Os`] of EINVAL |
/// | empty, `try_recv` | [`RecvError::Empty`] |
/// | buffer shorter than the message size, even if the message fits | [`RecvError::TooSmall`], nothing lost |
/// | not opened for it, or not a queue at all | `Os` of EBADF |
///
/// A queue has no end: that all senders are gone is not told to a receiver, nor the other way
/// round.
///
/// Closing *any* descriptor of a queue also ends this process's [`notify`](Self::notify) on it.
#[derive(Debug)]
pub struct Queue(OwnedFd);

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes the message has.
    pub len: usize,
    /// Its priority.
    pub priority: u32,
}

/// What a queue is and holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// How many messages it can hold.
    pub depth: usize,
    /// How many bytes a message can have, and a buffer to receive with must have.
    pub message_bytes: usize,
    /// How many messages are in it.
    pub waiting: usize,
}

impl Queue {
    /// A view that sends with this priority, 0 to [`PRIORITY_MAX`]. The queue itself sends with 0.
    #[inline]
    #[must_use]
    pub const fn priority(&self, priority: u32) -> Priority<'_> {
        Priority { queue: self, priority }
    }

    /// Its size, and how many messages wait in it.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if the descriptor is not a queue.
    pub fn attributes(&self) -> Result<Attributes> {
        let mut attributes = no_attributes();
        // SAFETY: the kernel fills `attributes`, which is borrowed for the call.
        let done = unsafe { libc::mq_getattr(self.raw(), &raw mut attributes) };
        if done != 0 {
            return Err(Error::os("read the attributes", last_errno()).on(Mechanism::PosixMq));
        }
        // The kernel's numbers are not negative.
        let [depth, message_bytes, waiting] =
            [attributes.mq_maxmsg, attributes.mq_msgsize, attributes.mq_curmsgs]
                .map(|n| usize::try_from(n).unwrap_or(0));
        Ok(Attributes { depth, message_bytes, waiting })
    }

    /// How many messages wait in it.
    ///
    /// # Errors
    /// As those of [`attributes`](Self::attributes).
    pub fn len(&self) -> Result<usize> {
        self.attributes().map(|a| a.waiting)
    }

    /// Whether no message waits in it.
    ///
    /// # Errors
    /// As those of [`attributes`](Self::attributes).
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|n| n == 0)
    }

    /// Has the kernel send `signal` (its number, as `libc::SIGUSR1`) to this process **once**, when
    /// a message comes into the *empty* queue while nobody waits in a receiving call. Then the
    /// registration is over: register again first and empty the queue second, or a message that
    /// comes between is not told. The signal has the code SI_MESGQ and names the sending process.
    ///
    /// A poll loop needs none of this; see the [module](self).
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse) if a process, this one too, is registered already;
    /// [`InvalidInput`](ErrorKind::InvalidInput) if there is no such signal. Source: mq_notify(3).
    pub fn notify(&self, signal: i32) -> Result<()> {
        // SAFETY: sigevent is made of numbers and a pointer, for which zero is a value.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_SIGNAL;
        event.sigev_signo = signal;
        self.register(&raw const event)
    }

    /// Ends the registration of this process, if there is one.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if the descriptor is not a queue.
    pub fn cancel_notify(&self) -> Result<()> {
        self.register(ptr::null())
    }

    fn register(&self, event: *const libc::sigevent) -> Result<()> {
        // SAFETY: `event` is null or a whole sigevent of the caller, and only read. It asks for a
        // signal, so glibc starts no thread.
        let done = unsafe { libc::mq_notify(self.raw(), event) };
        if done == 0 {
            return Ok(());
        }
        let errno = last_errno();
        let error = Error::os("register for a signal", errno).on(Mechanism::PosixMq);
        Err(match errno {
            Errno::BUSY => error.because("a process is registered with this queue already"),
            _ => error,
        })
    }

    #[inline]
    fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    #[inline]
    fn send_as(&self, data: &[u8], priority: u32, wait: Wait<'_>) -> Result<(), SendError> {
        drive(self.0.as_fd(), PollFlags::OUT, wait, |mode| {
            let (bytes, timeout) = (data.as_ptr().cast(), timeout(mode));
            // SAFETY: the kernel reads `data.len()` bytes of `data`, and `timeout` is null or a
            // static timespec.
            let done =
                unsafe { libc::mq_timedsend(self.raw(), bytes, data.len(), priority, timeout) };
            if done == 0 { Ok(()) } else { Err(refusal(mode)) }
        })
        .map_err(|stop| self.send_error(stop))
    }

    #[cold]
    fn send_error(&self, stop: Stop) -> SendError {
        if stop == Stop::Os(libc::EMSGSIZE)
            && let Ok(attributes) = self.attributes()
        {
            return SendError::TooBig { limit: attributes.message_bytes };
        }
        stop.into()
    }

    #[cold]
    fn recv_error(&self, stop: Stop) -> RecvError {
        if stop == Stop::Os(libc::EMSGSIZE) {
            let needed = self.attributes().ok().map(|a| a.message_bytes);
            return RecvError::TooSmall { needed, lost: false };
        }
        stop.into()
    }
}

impl Sends for Queue {
    /// Sends with priority 0.
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.send_as(data, 0, wait)
    }
}

impl Receives for Queue {
    type Received = Received;

    /// Receives the oldest message of the highest priority. `buf` must have the message size of the
    /// queue, which [`Queue::attributes`] tells.
    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Received, RecvError> {
        drive(self.0.as_fd(), PollFlags::IN, wait, |mode| {
            let (bytes, timeout) = (buf.as_mut_ptr().cast(), timeout(mode));
            let mut priority = 0;
            let put = &raw mut priority;
            // SAFETY: the kernel writes at most `buf.len()` bytes into `buf` and one number to
            // `put`, both borrowed for the call; `timeout` is null or a static timespec.
            let count =
                unsafe { libc::mq_timedreceive(self.raw(), bytes, buf.len(), put, timeout) };
            match usize::try_from(count) {
                Ok(len) => Ok(Received { len, priority }),
                Err(_) => Err(refusal(mode)),
            }
        })
        .map_err(|stop| self.recv_error(stop))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Queue> for OwnedFd {
    fn from(queue: Queue) -> Self {
        queue.0
    }
}

impl From<OwnedFd> for Queue {
    /// Takes a descriptor of a queue, such as one that came over a UNIX socket. One of anything
    /// else fails with EBADF when it is used.
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// A queue, and a priority to send with. Made by [`Queue::priority`].
#[derive(Clone, Copy, Debug)]
pub struct Priority<'a> {
    queue: &'a Queue,
    priority: u32,
}

impl Sends for Priority<'_> {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.queue.send_as(data, self.priority, wait)
    }
}

/// A time long past: with it the kernel looks once and does not sleep, whatever the clock says.
static PAST: libc::timespec = libc::timespec { tv_sec: 0, tv_nsec: 0 };

/// For ever is no time-out at all, so that the wait is the kernel's own.
#[inline]
fn timeout(mode: Mode) -> *const libc::timespec {
    match mode {
        Mode::MayBlock => ptr::null(),
        Mode::NonBlocking => &raw const PAST,
    }
}

/// Why a call with [`timeout`] was refused, in the terms of [`drive`].
#[cold]
fn refusal(mode: Mode) -> Errno {
    match last_errno() {
        // It would have had to sleep. (EAGAIN says the same of a descriptor with O_NONBLOCK.)
        Errno::TIMEDOUT if mode == Mode::NonBlocking => Errno::AGAIN,
        errno => errno,
    }
}

fn last_errno() -> Errno {
    Errno::from_raw_os_error(io::Error::last_os_error().raw_os_error().unwrap_or(0))
}

fn no_attributes() -> libc::mq_attr {
    // SAFETY: mq_attr is made of numbers, for which zero is a value.
    unsafe { std::mem::zeroed() }
}

/// The name as the C library takes it. It wants the slash, and hands on the rest to the kernel.
fn checked(operation: &'static str, name: &OsStr) -> Result<CString> {
    if name.as_bytes().first() != Some(&b'/') {
        return Err(named(operation, name, Errno::INVAL));
    }
    CString::new(name.as_bytes())
        .map_err(|_| named(operation, name, Errno::INVAL).because("the name has a NUL byte in it"))
}

/// The error of an operation on a name, with what is wrong with the name, if that is it.
#[cold]
fn named(operation: &'static str, name: &OsStr, errno: Errno) -> Error {
    let error = Error::os(operation, errno).on(Mechanism::PosixMq).object(format!("{name:?}"));
    let Some(rest) = name.as_bytes().strip_prefix(b"/") else {
        return error.because("the name of a queue begins with a slash");
    };
    match errno {
        Errno::NOENT if rest.is_empty() => error
            .of_kind(ErrorKind::InvalidInput)
            .because("the name of a queue goes on after its slash"),
        Errno::NOENT => error.because("no queue of this IPC namespace has this name"),
        Errno::ACCESS if rest.contains(&b'/') || rest == b"." || rest == b".." => error
            .of_kind(ErrorKind::InvalidInput)
            .because("the name of a queue has one slash, at its beginning, and is not a dot"),
        Errno::NAMETOOLONG => {
            error.because(format!("it has {} bytes after the slash, of at most 255", rest.len()))
        }
        Errno::MFILE => {
            let limit = getrlimit(Resource::Nofile).current;
            let limit = limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
            error
                .because(format!(
                    "all descriptors of this process are in use (RLIMIT_NOFILE {limit})"
                ))
                .fix("close some, or raise it with `ulimit -n`")
        }
        Errno::NOSYS => {
            error.because("this kernel has no POSIX message queues (CONFIG_POSIX_MQUEUE)")
        }
        _ => error,
    }
}

fn error_over_sysctl(
    error: Error,
    what: &str,
    asked: usize,
    file: &str,
    max: usize,
    hard: usize,
) -> Error {
    error
        .of_kind(ErrorKind::LimitReached)
        .because(format!("{asked} {what} are more than /proc/sys/fs/mqueue/{file} ({max}) allows"))
        .fix(format!("ask for less, or raise it (to {hard} at most)"))
}

/// Whether this process can open one more descriptor: EMFILE of `mq_open` also means that the
/// queues of the user are too large. It asks the kernel, which alone knows.
fn descriptors_are_left() -> bool {
    !matches!(eventfd(0, EventfdFlags::CLOEXEC), Err(Errno::MFILE))
}

/// One of the settings of POSIX queues of this IPC namespace, where /proc shows it.
fn sysctl(file: &str) -> Option<usize> {
    fs::read_to_string(format!("/proc/sys/fs/mqueue/{file}")).ok()?.trim().parse().ok()
}
