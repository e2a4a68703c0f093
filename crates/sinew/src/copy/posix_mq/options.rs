//! How a queue is made and found, what it costs, and why it is refused.

#![allow(unsafe_code, reason = "neither std nor rustix has POSIX message queues; libc does")]

use std::ffi::{CString, OsStr, c_long};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::{PRIORITY_MAX, Queue, last_errno, no_attributes};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mechanism::Mechanism;

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
        let or_default = |given: Option<usize>, default: Limit, otherwise: u64, max: Limit| {
            given.unwrap_or_else(|| {
                let default = default.value().unwrap_or(otherwise);
                let default = max.value().map_or(default, |max| default.min(max));
                usize::try_from(default).unwrap_or(usize::MAX)
            })
        };
        (
            or_default(self.depth, Limit::MqMsgDefault, 10, Limit::MqMsgMax),
            or_default(self.message_bytes, Limit::MqMsgsizeDefault, 8192, Limit::MqMsgsizeMax),
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
        match errno {
            Errno::INVAL if depth == 0 => error.because("a queue holds at least one message"),
            Errno::INVAL if bytes == 0 => {
                error.because("the messages of a queue have room for at least one byte")
            }
            Errno::INVAL | Errno::OVERFLOW => {
                let what = "bytes in a message";
                match over("messages", depth, Limit::MqMsgMax, HARD_DEPTH)
                    .or_else(|| over(what, bytes, Limit::MqMsgsizeMax, HARD_MESSAGE_BYTES))
                {
                    Some((because, fix)) => {
                        error.of_kind(ErrorKind::LimitReached).because(because).fix(fix)
                    }
                    None => error,
                }
            }
            Errno::NOSPC => error
                .of_kind(ErrorKind::LimitReached)
                .because(format!("as many queues exist as {} allows", Limit::MqQueuesMax.stated()))
                .fix(format!("unlink queues that nobody uses, or {}", Limit::MqQueuesMax.raise())),
            Errno::MFILE if descriptors_are_left() => {
                let (limit, cost) = (Limit::MsgqueueBytes, self.cost());
                let because = if limit.value().is_some_and(|max| cost > max) {
                    "more than all queues of a user together may take by"
                } else {
                    "more than this user's other queues leave of"
                };
                error
                    .because(format!(
                        "{depth} messages of {bytes} bytes need {cost} bytes, {because} {}",
                        limit.stated()
                    ))
                    .fix(format!(
                        "ask for fewer or shorter messages, unlink queues that nobody uses, or {}",
                        limit.raise()
                    ))
            }
            _ => error,
        }
    }
}

/// What is too much about a queue, if it is this, and what to do.
fn over(what: &str, asked: usize, limit: Limit, hard: usize) -> Option<(String, String)> {
    if asked > hard {
        let because = format!("{asked} {what} are more than the {hard} that Linux ever allows");
        return Some((because, "ask for less".to_owned()));
    }
    let max = limit.value()?;
    (asked as u64 > max).then(|| {
        let because = format!("{asked} {what} are more than {} allows", limit.stated());
        (because, format!("ask for less, or {}", limit.raise()))
    })
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
        Errno::MFILE => error
            .because(format!("this process has used up {}", Limit::Nofile.stated()))
            .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
        Errno::NOSYS => {
            error.because("this kernel has no POSIX message queues (CONFIG_POSIX_MQUEUE)")
        }
        _ => error,
    }
}

/// Whether this process can open one more descriptor: EMFILE of `mq_open` also means that the
/// queues of the user are too large. It asks the kernel, which alone knows.
fn descriptors_are_left() -> bool {
    !matches!(eventfd(0, EventfdFlags::CLOEXEC), Err(Errno::MFILE))
}
