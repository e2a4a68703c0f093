//! How a queue is made and found.

#![allow(unsafe_code, reason = "neither std nor rustix has System V queues; libc does")]

use std::ffi::c_int;

use rustix::io::Errno;

use super::{Key, Queue};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::sysv::last_errno;

/// How to create or open a queue.
///
/// ```
/// use sinew::ErrorKind;
/// use sinew::sysv_mq::{Key, Options};
///
/// let key = Key::new(0x5157_0000 | (std::process::id() as i32 & 0xffff));
/// let queue = Options::new().capacity(4096).create(key)?.remove_on_drop();
/// assert_eq!(Options::new().open(key)?.id(), queue.id());
/// assert_eq!(Options::new().create(key).unwrap_err().kind(), ErrorKind::AlreadyExists);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    mode: u32,
    capacity: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600 and the host's default capacity.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: 0o600, capacity: None }
    }

    /// The permission bits of a new queue: 4 to receive and to look, 2 to send. The umask has no
    /// say.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// How many bytes of messages a new queue holds before it is full (`msg_qbytes`), which is also
    /// how many messages. More than `/proc/sys/kernel/msgmnb` takes CAP_SYS_RESOURCE.
    #[must_use]
    pub const fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// Creates a queue under a number that must not have one yet.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); [`LimitReached`](ErrorKind::LimitReached), the
    /// limit named.
    pub fn create(&self, key: Key) -> Result<Queue> {
        let queue = self.get("create", key, libc::IPC_CREAT | libc::IPC_EXCL)?;
        if let Some(capacity) = self.capacity
            && let Err(error) = queue.set_capacity(capacity)
        {
            let _ = queue.remove();
            return Err(error);
        }
        Ok(queue)
    }

    /// Opens the queue that has the number. Whether this process may send and receive shows when it
    /// does.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound).
    pub fn open(&self, key: Key) -> Result<Queue> {
        if key == Key::PRIVATE {
            return Err(Error::new(ErrorKind::InvalidInput, "open")
                .on(Mechanism::SysvMq)
                .object(key)
                .because("a private queue has no number to find it by")
                .fix("hand over its id, and use `Queue::from_id`"));
        }
        self.get("open", key, 0)
    }

    /// Opens the queue that has the number, or creates it. One that exists keeps its mode and
    /// capacity.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, key: Key) -> Result<Queue> {
        loop {
            // Only who has created it may set its capacity, so the two are told apart.
            match self.create(key) {
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                // Somebody removed it before it had its capacity.
                Err(e) if e.kind() == ErrorKind::Closed => continue,
                done => return done,
            }
            match self.open(key) {
                // Somebody removed it in between, so it can be created now.
                Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Closed) => {}
                done => return done,
            }
        }
    }

    fn get(&self, operation: &'static str, key: Key, flags: c_int) -> Result<Queue> {
        let mode = if flags == 0 { 0 } else { c_int::try_from(self.mode & 0o777).unwrap_or(0) };
        // SAFETY: msgget takes numbers only.
        let id = unsafe { libc::msgget(key.get(), flags | mode) };
        if id >= 0 {
            return Ok(Queue::from_id(id));
        }
        let errno = last_errno();
        let error = Error::os(operation, errno).on(Mechanism::SysvMq).object(key);
        Err(match errno {
            Errno::NOENT => error.because("no queue of this IPC namespace has it"),
            Errno::NOSPC => error
                .of_kind(ErrorKind::LimitReached)
                .because(format!("as many queues exist as {} allows", Limit::MsgMni.stated()))
                .fix(format!(
                    "remove queues that nobody uses (`ipcs -q`, `ipcrm -q ID`), or {}",
                    Limit::MsgMni.raise()
                )),
            Errno::NOSYS => error.because("this kernel has no System V IPC (CONFIG_SYSVIPC)"),
            _ => error,
        })
    }
}
