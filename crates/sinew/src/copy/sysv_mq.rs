//! System V message queues: typed messages under a number, for programs that were written so.
//!
//! A queue lives in the kernel of its IPC namespace, with what is in it, until somebody
//! [removes](Queue::remove) it or the host goes down: dropping a [`Queue`] does not, the end of a
//! process does not. The death of a process leaves no message half sent. A message has a *type*, a
//! positive number, by which a receiver can choose.
//!
//! ```
//! use sinew::sysv_mq::{Key, Options};
//! use sinew::wait::{Receives, Sends};
//!
//! let queue = Options::new().create(Key::PRIVATE)?.remove_on_drop();
//! queue.send(b"of type 1").unwrap();
//! queue.of_type(7).send(b"of type 7").unwrap();
//!
//! let mut buf = [0; 64];
//! let got = queue.of_type(7).recv(&mut buf).unwrap();
//! assert_eq!((&buf[..got.len], got.mtype), (&b"of type 7"[..], 7));
//! let got = queue.recv(&mut buf).unwrap();
//! assert_eq!((&buf[..got.len], got.mtype), (&b"of type 1"[..], 1));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # Waiting
//! An unbounded wait sleeps in the kernel. These queues cannot be polled, so a wait with a deadline
//! or an interrupt looks again after naps that grow to 1 ms: that is how late it can notice. A
//! POSIX queue ([`posix_mq`](crate::posix_mq)) has no such delay.
//!
//! # The type goes before the bytes
//! The kernel takes type and bytes from one piece of memory. The verbs take only the bytes, so they
//! copy them once more (through the stack up to 8 KiB, the default limit of a message; through
//! memory that the thread keeps beyond). [`Message`] is such a piece of memory, and
//! [`send_message`](Queue::send_message) and [`recv_message`](Queue::recv_message) copy nothing.
//!
//! # Limits
//! | what | default | where |
//! |---|---|---|
//! | bytes in a message | 8192 | `/proc/sys/kernel/msgmax` |
//! | bytes in a queue, which is also its most messages | 16384 | `/proc/sys/kernel/msgmnb`, [`Options::capacity`] |
//! | queues of an IPC namespace | 32000 | `/proc/sys/kernel/msgmni` |
//!
//! Source: sysvipc(7), msgget(2), msgop(2), msgctl(2).

#![allow(unsafe_code, reason = "neither std nor rustix has System V queues; libc does")]

use std::ffi::{c_int, c_long};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;

use crate::error::{Error, ErrorKind, RecvError, Result, SendError, Stop};
use crate::mechanism::Mechanism;
use crate::syscall;
use crate::sysv::last_errno;
use crate::wait::{Mode, Receives, Sends, Wait, drive_by_naps};

mod message;
mod options;
mod status;

pub use crate::sysv::Key;
pub use message::Message;
use message::{STACK, body_of, in_kept_room, on_stack};
pub use options::Options;
pub use status::Status;

/// A queue, by its id. Dropping it does nothing to the queue; clones are the same queue.
///
/// One message goes or comes with a call, whole or not at all; empty ones are messages too. They
/// come in the order of sending, or by type: see [`of_type`](Self::of_type). Several threads and
/// processes may send and receive at once: each message goes to one receiver.
///
/// | condition | result |
/// |---|---|
/// | full, `try_send` | [`SendError::Full`] |
/// | longer than `msgmax` or than the capacity of the queue | [`SendError::TooBig`] |
/// | type below 1 | [`SendError::Os`] of EINVAL |
/// | nothing of the type, `try_recv` | [`RecvError::Empty`] |
/// | buffer too short for the message | [`RecvError::TooSmall`], nothing lost; see [`cutting`](Self::cutting) |
/// | removed, before the call or during it | `Closed` |
/// | mode does not allow it | `Os` of EACCES |
///
/// That all senders are gone is not told to a receiver, nor the other way round. The first
/// `send` on a handle asks once for the capacity, because the kernel lets a message that can never
/// fit wait for ever; if the capacity is lowered later, that can still happen.
#[derive(Debug)]
pub struct Queue {
    id: i32,
    /// The longest message that is known to fit an empty queue; 0 before it was asked for.
    fits: AtomicUsize,
}

impl Clone for Queue {
    fn clone(&self) -> Self {
        Self::from_id(self.id)
    }
}

/// What arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// How many bytes the message has.
    pub len: usize,
    /// Its type.
    pub mtype: c_long,
}

impl Queue {
    /// The queue with this id, which came from [`id`](Self::id) in any process of this IPC
    /// namespace. If there is none, its use fails with `Closed`: the kernel does not tell what never
    /// was from what was removed.
    #[must_use]
    pub const fn from_id(id: i32) -> Self {
        Self { id, fits: AtomicUsize::new(0) }
    }

    /// Its id. The kernel gives it to no other queue until it has given away many more.
    #[must_use]
    pub const fn id(&self) -> i32 {
        self.id
    }

    /// A view of one type. It sends messages of this type, which must be at least 1 (the queue
    /// itself sends type 1), and receives
    /// - with `mtype` above 0, the first message of exactly this type;
    /// - with `mtype` below 0, the first message of the lowest type that is at most `-mtype`;
    /// - with 0, the first message, as the queue itself does.
    #[inline]
    #[must_use]
    pub const fn of_type(&self, mtype: c_long) -> OfType<'_> {
        OfType { queue: self, mtype }
    }

    /// A view that receives the first message of any *other* type.
    #[inline]
    #[must_use]
    pub const fn except(&self, mtype: c_long) -> Filter<'_> {
        Filter { queue: self, mtype, flags: libc::MSG_EXCEPT }
    }

    /// A view that takes a message that is longer than the buffer out of the queue all the same
    /// (MSG_NOERROR): the buffer has its beginning, the rest is gone, and the call fails with
    /// [`RecvError::TooSmall`], which says so.
    #[inline]
    #[must_use]
    pub const fn cutting(&self) -> Filter<'_> {
        self.of_type(0).cutting()
    }

    /// Copies the message at `index`, counted from 0 in the order of sending, and leaves it in the
    /// queue (MSG_COPY). Never waits.
    ///
    /// # Errors
    /// [`RecvError::Empty`] where no message is, [`RecvError::Os`] of ENOSYS on a kernel without
    /// CONFIG_CHECKPOINT_RESTORE; see [`RecvError`].
    pub fn peek(&self, index: usize, buf: &mut [u8]) -> Result<Received, RecvError> {
        let index = c_long::try_from(index).unwrap_or(c_long::MAX);
        self.recv_as(buf, index, libc::MSG_COPY, Wait::NEVER)
    }

    /// Sends `message` with its type, without copying it first.
    ///
    /// # Errors
    /// See [`SendError`].
    #[inline]
    pub fn send_message(&self, message: &Message, wait: Wait<'_>) -> Result<(), SendError> {
        self.check_size(message.len())?;
        self.send_from(message.as_ptr(), message.len(), wait)
            .map_err(|stop| self.send_error(stop, message.len(), message.mtype()))
    }

    /// Receives the first message into `message`, which gets its type and its bytes, without
    /// copying it again. See [`of_type`](Self::of_type) for others than the first.
    ///
    /// # Errors
    /// [`RecvError::TooSmall`] if it is longer than the [capacity](Message::capacity); see
    /// [`RecvError`].
    #[inline]
    pub fn recv_message(&self, message: &mut Message, wait: Wait<'_>) -> Result<(), RecvError> {
        self.of_type(0).recv_message(message, wait)
    }

    /// Removes the queue and every message in it at once. Who waits in it, in whatever process,
    /// gets `Closed`. Only its owner, its creator and CAP_SYS_ADMIN may.
    ///
    /// # Errors
    /// [`Closed`](ErrorKind::Closed) if it was removed before;
    /// [`PermissionDenied`](ErrorKind::PermissionDenied).
    pub fn remove(&self) -> Result<()> {
        // SAFETY: IPC_RMID looks at no memory.
        match unsafe { libc::msgctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) } {
            0 => Ok(()),
            _ => Err(self.error("remove", last_errno())),
        }
    }

    /// Makes a guard that removes the queue when it is dropped. A process that is killed drops
    /// nothing, and a forked child that drops its copy removes the queue for both.
    #[must_use]
    pub fn remove_on_drop(self) -> Owned {
        Owned { queue: self, keep: false }
    }

    #[cold]
    fn error(&self, operation: &'static str, errno: Errno) -> Error {
        let error = Error::os(operation, errno)
            .on(Mechanism::SysvMq)
            .object(format_args!("id {}", self.id));
        match errno {
            Errno::INVAL | Errno::IDRM => {
                error.of_kind(ErrorKind::Closed).because("it was removed, or never was")
            }
            _ => error,
        }
    }

    /// Not inlined, so that the room for a message is in no frame of the caller. The same goes for
    /// [`recv_as`](Self::recv_as).
    #[inline(never)]
    fn send_as(&self, data: &[u8], mtype: c_long, wait: Wait<'_>) -> Result<(), SendError> {
        self.check_size(data.len())?;
        if data.len() <= STACK {
            on_stack(|room| self.send_through(room, data, mtype, wait))
        } else {
            self.send_long(data, mtype, wait)
        }
        .map_err(|stop| self.send_error(stop, data.len(), mtype))
    }

    #[inline(never)]
    fn send_long(&self, data: &[u8], mtype: c_long, wait: Wait<'_>) -> Result<(), Stop> {
        in_kept_room(data.len(), |room| self.send_through(room, data, mtype, wait))
    }

    /// Puts type and bytes together at `room`, and sends them.
    #[inline]
    fn send_through(
        &self,
        room: *mut c_long,
        data: &[u8],
        mtype: c_long,
        wait: Wait<'_>,
    ) -> Result<(), Stop> {
        // SAFETY: `room` is aligned, and has a long before the bytes.
        unsafe { room.write(mtype) };
        // SAFETY: `room` has `data.len()` bytes after the long, and is not part of `data`.
        unsafe { body_of(room).copy_from_nonoverlapping(data.as_ptr(), data.len()) };
        self.send_from(room, data.len(), wait)
    }

    /// Sends the type and the `len` bytes after it that stand at `from`.
    #[inline]
    fn send_from(&self, from: *const c_long, len: usize, wait: Wait<'_>) -> Result<(), Stop> {
        drive_by_naps(wait, |mode| {
            // SAFETY: the callers in this file have a long and `len` bytes at `from`, all written.
            unsafe { msgsnd(self.id, from, len, no_wait(mode)) }.map(|_| ())
        })
    }

    #[inline(never)]
    fn recv_as(
        &self,
        buf: &mut [u8],
        mtype: c_long,
        flags: c_int,
        wait: Wait<'_>,
    ) -> Result<Received, RecvError> {
        let room = buf.len();
        if room > STACK && self.fits.load(Ordering::Relaxed) > STACK {
            return self.recv_long(room, buf, mtype, flags, wait).map_err(recv_error);
        }
        // The buffer may be large, but most likely no message is.
        let short = room.min(STACK);
        match on_stack(|at| self.recv_through(at, short, buf, mtype, flags, wait)) {
            Ok(got) => Ok(got),
            Err(Stop::Os(libc::E2BIG)) if short < room => {
                // The next call shall know. If the queue is gone this one says so, too.
                let _ = self.look(0);
                self.recv_long(room, buf, mtype, flags, wait).map_err(recv_error)
            }
            Err(stop) => Err(recv_error(stop)),
        }
    }

    /// Receives a message that may be longer than `buf`, in which case the rest of it is lost.
    fn recv_cut(
        &self,
        buf: &mut [u8],
        mtype: c_long,
        flags: c_int,
        wait: Wait<'_>,
    ) -> Result<Received, RecvError> {
        // One byte more than wanted shows that a message was cut.
        let room = buf.len().saturating_add(1);
        let got = self.recv_long(room, buf, mtype, flags, wait).map_err(recv_error)?;
        if got.len > buf.len() {
            return Err(RecvError::TooSmall { needed: None, lost: true });
        }
        Ok(got)
    }

    #[inline(never)]
    fn recv_long(
        &self,
        room: usize,
        buf: &mut [u8],
        mtype: c_long,
        flags: c_int,
        wait: Wait<'_>,
    ) -> Result<Received, Stop> {
        in_kept_room(room, |at| self.recv_through(at, room, buf, mtype, flags, wait))
    }

    /// Receives a message of at most `room` bytes to `at`, and copies it to `buf` as far as it goes.
    #[inline(always)]
    fn recv_through(
        &self,
        at: *mut c_long,
        room: usize,
        buf: &mut [u8],
        mtype: c_long,
        flags: c_int,
        wait: Wait<'_>,
    ) -> Result<Received, Stop> {
        let len = self.recv_into(at, room, mtype, flags, wait)?;
        let kept = len.min(buf.len());
        // SAFETY: the kernel wrote `len` bytes after the long, `buf` has at least `kept`, and what
        // is at `at` is not part of it.
        unsafe { body_of(at).copy_to_nonoverlapping(buf.as_mut_ptr(), kept) };
        // SAFETY: the kernel wrote the long.
        Ok(Received { len, mtype: unsafe { at.read() } })
    }

    /// Receives a type and at most `room` bytes after it to `at`; gives how many bytes.
    #[inline]
    fn recv_into(
        &self,
        at: *mut c_long,
        room: usize,
        mtype: c_long,
        flags: c_int,
        wait: Wait<'_>,
    ) -> Result<usize, Stop> {
        drive_by_naps(wait, |mode| {
            let flags = flags | no_wait(mode);
            // SAFETY: the callers in this file own a long and `room` bytes at `at`.
            unsafe { msgrcv(self.id, at, room, mtype, flags) }.map_err(|errno| match errno {
                Errno::NOMSG => Errno::AGAIN,
                errno => errno,
            })
        })
    }

    /// Refuses a message that can never fit: the kernel would let it wait for ever.
    #[inline]
    fn check_size(&self, len: usize) -> Result<(), SendError> {
        if len <= self.fits.load(Ordering::Relaxed) { Ok(()) } else { self.look(len) }
    }

    #[cold]
    fn look(&self, len: usize) -> Result<(), SendError> {
        let limit = match self.stat() {
            Ok(raw) => usize::try_from(raw.msg_qbytes).unwrap_or(usize::MAX).min(longest()),
            Err(Errno::INVAL | Errno::IDRM) => return Err(SendError::Closed),
            // It may send but not look: the kernel has to judge.
            Err(_) => longest(),
        };
        self.fits.store(limit, Ordering::Relaxed);
        if len > limit { Err(SendError::TooBig { limit }) } else { Ok(()) }
    }

    #[cold]
    fn send_error(&self, stop: Stop, len: usize, mtype: c_long) -> SendError {
        match stop {
            Stop::Os(libc::EIDRM) => SendError::Closed,
            // Three meanings: the type, the size, the queue.
            Stop::Os(libc::EINVAL) if mtype >= 1 => self.look(len).err().unwrap_or(stop.into()),
            stop => stop.into(),
        }
    }
}

#[cold]
fn recv_error(stop: Stop) -> RecvError {
    match stop {
        // No argument of ours is invalid but the id.
        Stop::Os(libc::EIDRM | libc::EINVAL) => RecvError::Closed,
        Stop::Os(libc::E2BIG) => RecvError::TooSmall { needed: None, lost: false },
        stop => stop.into(),
    }
}

impl Sends for Queue {
    /// Sends with type 1.
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.send_as(data, 1, wait)
    }
}

impl Receives for Queue {
    type Received = Received;

    /// Receives the first message, of whatever type.
    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Received, RecvError> {
        self.recv_as(buf, 0, 0, wait)
    }
}

/// A queue, and a type to send and receive. Made by [`Queue::of_type`].
#[derive(Clone, Copy, Debug)]
pub struct OfType<'a> {
    queue: &'a Queue,
    mtype: c_long,
}

impl<'a> OfType<'a> {
    /// See [`Queue::cutting`].
    #[inline]
    #[must_use]
    pub const fn cutting(self) -> Filter<'a> {
        Filter { queue: self.queue, mtype: self.mtype, flags: libc::MSG_NOERROR }
    }

    /// See [`Queue::recv_message`].
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline]
    pub fn recv_message(self, message: &mut Message, wait: Wait<'_>) -> Result<(), RecvError> {
        Filter { queue: self.queue, mtype: self.mtype, flags: 0 }.recv_message(message, wait)
    }
}

impl Sends for OfType<'_> {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        self.queue.send_as(data, self.mtype, wait)
    }
}

impl Receives for OfType<'_> {
    type Received = Received;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Received, RecvError> {
        self.queue.recv_as(buf, self.mtype, 0, wait)
    }
}

/// A queue, and a choice of what to receive and how. Made by [`Queue::except`] and
/// [`Queue::cutting`].
#[derive(Clone, Copy, Debug)]
pub struct Filter<'a> {
    queue: &'a Queue,
    mtype: c_long,
    flags: c_int,
}

impl Filter<'_> {
    /// See [`Queue::cutting`].
    #[inline]
    #[must_use]
    pub const fn cutting(mut self) -> Self {
        self.flags |= libc::MSG_NOERROR;
        self
    }

    /// See [`Queue::recv_message`]. A message that is [cut](Self::cutting) fills the capacity.
    ///
    /// # Errors
    /// See [`RecvError`].
    #[inline]
    pub fn recv_message(self, message: &mut Message, wait: Wait<'_>) -> Result<(), RecvError> {
        let room = message.capacity();
        let len = self
            .queue
            .recv_into(message.as_mut_ptr(), room, self.mtype, self.flags, wait)
            .map_err(recv_error)?;
        message.set_len(len);
        Ok(())
    }
}

impl Receives for Filter<'_> {
    type Received = Received;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Received, RecvError> {
        if self.flags & libc::MSG_NOERROR != 0 {
            self.queue.recv_cut(buf, self.mtype, self.flags, wait)
        } else {
            self.queue.recv_as(buf, self.mtype, self.flags, wait)
        }
    }
}

/// A queue that is removed when this is dropped. Made by [`Queue::remove_on_drop`].
#[derive(Debug)]
pub struct Owned {
    queue: Queue,
    keep: bool,
}

impl Owned {
    /// The queue, which is not removed any more.
    #[must_use]
    pub fn keep(mut self) -> Queue {
        self.keep = true;
        self.queue.clone()
    }
}

impl Deref for Owned {
    type Target = Queue;

    fn deref(&self) -> &Queue {
        &self.queue
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.keep {
            // It may be removed already; nobody is there to be told.
            let _ = self.queue.remove();
        }
    }
}

/// msgsnd(2).
///
/// # Safety
/// A long and `len` bytes after it are initialised at `from`.
#[inline(always)]
unsafe fn msgsnd(id: i32, from: *const c_long, len: usize, flags: c_int) -> Result<usize, Errno> {
    let arguments = [id as usize, from as usize, len, flags as usize, 0];
    // SAFETY: the caller keeps what the call asks for.
    unsafe { syscall::call(libc::SYS_msgsnd, arguments) }
}

/// msgrcv(2).
///
/// # Safety
/// A long and `room` bytes after it can be written at `at`.
#[inline(always)]
unsafe fn msgrcv(
    id: i32,
    at: *mut c_long,
    room: usize,
    mtype: c_long,
    flags: c_int,
) -> Result<usize, Errno> {
    let arguments = [id as usize, at as usize, room, mtype as usize, flags as usize];
    // SAFETY: the caller keeps what the call asks for.
    unsafe { syscall::call(libc::SYS_msgrcv, arguments) }
}

#[inline]
fn no_wait(mode: Mode) -> c_int {
    match mode {
        Mode::MayBlock => 0,
        Mode::NonBlocking => libc::IPC_NOWAIT,
    }
}

/// The longest message that any queue of this IPC namespace takes (`msgmax`).
fn longest() -> usize {
    // SAFETY: msginfo is made of numbers, for which zero is a value.
    let mut info: libc::msginfo = unsafe { std::mem::zeroed() };
    // SAFETY: IPC_INFO fills a msginfo, for which the C interface has no type of its own in the
    // signature; `info` is one, and borrowed for the call.
    let done = unsafe { libc::msgctl(0, libc::IPC_INFO, (&raw mut info).cast()) };
    if done < 0 { usize::MAX } else { usize::try_from(info.msgmax).unwrap_or(usize::MAX) }
}
