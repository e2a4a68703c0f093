//! The piece of memory that the kernel takes a message from: its type, and the bytes right after.

#![allow(unsafe_code, reason = "a view of longs as bytes, and memory that is not written yet")]

use std::cell::Cell;
use std::ffi::c_long;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::{Deref, DerefMut};
use std::slice;

use crate::error::Stop;

/// A long: the type of a message, and the unit in which there is room for its bytes.
const LONG: usize = size_of::<c_long>();
/// How many bytes go through the stack: the default limit of a message.
pub(super) const STACK: usize = 8192;
/// How many bytes a thread keeps for the next message; more is given back.
const KEPT: usize = 1 << 20;

thread_local! {
    /// Room for messages beyond [`STACK`]. It is taken out while in use, so that a signal handler
    /// that comes between finds none and makes its own.
    static ROOM: Cell<Vec<c_long>> = const { Cell::new(Vec::new()) };
}

/// Runs `work` on memory for a long and [`STACK`] bytes after it, none of it written yet.
#[inline]
pub(super) fn on_stack<T>(work: impl FnOnce(*mut c_long) -> T) -> T {
    let mut room = MaybeUninit::<[c_long; 1 + STACK / LONG]>::uninit();
    work(room.as_mut_ptr().cast())
}

/// The same with `len` bytes after the long, in memory that the thread keeps.
///
/// # Errors
/// Those of `work`, and ENOMEM.
pub(super) fn in_kept_room<T>(
    len: usize,
    work: impl FnOnce(*mut c_long) -> Result<T, Stop>,
) -> Result<T, Stop> {
    let mut room = ROOM.try_with(Cell::take).unwrap_or_default();
    if room.try_reserve_exact(1 + len.div_ceil(LONG)).is_err() {
        return Err(Stop::Os(libc::ENOMEM));
    }
    let result = work(room.as_mut_ptr());
    if room.capacity() <= 1 + KEPT / LONG {
        // A thread that is ending has no place to keep it.
        let _ = ROOM.try_with(|kept| kept.set(room));
    }
    result
}

/// Where the bytes are after a type.
#[inline]
pub(super) fn body_of(room: *mut c_long) -> *mut u8 {
    room.wrapping_add(1).cast()
}

/// A message with its type, in memory of the form that the kernel takes (`struct msgbuf`): sent and
/// received by [`Queue::send_message`](super::Queue::send_message) and
/// [`Queue::recv_message`](super::Queue::recv_message) without a copy in between. It derefs to its
/// bytes.
///
/// ```
/// use sinew::sysv_mq::{Key, Message, Options};
/// use sinew::wait::Wait;
///
/// let queue = Options::new().create(Key::PRIVATE)?.remove_on_drop();
/// let mut message = Message::new(64);
/// message.resize(5);
/// message.copy_from_slice(b"hello");
/// message.set_mtype(3);
/// queue.send_message(&message, Wait::FOREVER).unwrap();
///
/// let mut got = Message::new(64);
/// queue.recv_message(&mut got, Wait::FOREVER).unwrap();
/// assert_eq!((&got[..], got.mtype()), (&b"hello"[..], 3));
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone)]
pub struct Message {
    /// The type, and then the room for the bytes. Never empty.
    words: Vec<c_long>,
    /// How many bytes the message has; never more than the room.
    len: usize,
}

impl Message {
    /// An empty message of type 1 with room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let mut words = vec![0; 1 + capacity.div_ceil(LONG)];
        words[0] = 1;
        Self { words, len: 0 }
    }

    /// Its type.
    #[must_use]
    pub fn mtype(&self) -> c_long {
        self.words[0]
    }

    /// Sets its type, which must be at least 1 to be sent.
    pub fn set_mtype(&mut self, mtype: c_long) {
        self.words[0] = mtype;
    }

    /// How many bytes it has room for, rounded up to a whole long.
    #[must_use]
    pub fn capacity(&self) -> usize {
        (self.words.len() - 1) * LONG
    }

    /// Gives it `len` bytes, and room for them if it has not. Bytes beyond the old length are zero
    /// or what an earlier message left there.
    pub fn resize(&mut self, len: usize) {
        let words = 1 + len.div_ceil(LONG);
        if words > self.words.len() {
            self.words.resize(words, 0);
        }
        self.len = len;
    }

    pub(super) fn as_ptr(&self) -> *const c_long {
        self.words.as_ptr()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut c_long {
        self.words.as_mut_ptr()
    }

    /// Notes that the kernel put `len` bytes into it, which the capacity bounded.
    pub(super) fn set_len(&mut self, len: usize) {
        self.len = len.min(self.capacity());
    }
}

impl Deref for Message {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        let body = self.words.as_ptr().wrapping_add(1).cast();
        // SAFETY: all words are initialised, and `resize` and `set_len` keep `len` within those
        // after the first.
        unsafe { slice::from_raw_parts(body, self.len) }
    }
}

impl DerefMut for Message {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        let body = body_of(self.words.as_mut_ptr());
        // SAFETY: as in `deref`, and the borrow is exclusive; every byte is a value of a long.
        unsafe { slice::from_raw_parts_mut(body, self.len) }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("mtype", &self.mtype())
            .field("len", &self.len)
            .field("capacity", &self.capacity())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_follow_the_type() {
        let mut message = Message::new(3);
        assert_eq!((message.mtype(), &message[..], message.capacity()), (1, &b""[..], LONG));
        message.set_mtype(7);
        message.resize(3);
        message.copy_from_slice(b"abc");
        // SAFETY: there are two words, of one allocation that lives as long as the borrow.
        let raw = unsafe { slice::from_raw_parts(message.as_ptr(), 2) };
        assert_eq!((raw[0], &raw[1].to_ne_bytes()[..3]), (7, &b"abc"[..]));
    }

    #[test]
    fn growing_keeps_what_was_there() {
        let mut message = Message::new(0);
        for len in 0..50 {
            message.resize(len + 1);
            message[len] = len as u8 + 1;
        }
        assert!(message.iter().enumerate().all(|(i, b)| *b == i as u8 + 1));
        let copy = message.clone();
        message.resize(10);
        message.fill(0);
        assert_eq!((copy.len(), message.len()), (50, 10));
        assert_eq!(copy[9], 10);
    }

    #[test]
    fn a_length_of_the_kernel_stays_within_the_room() {
        let mut message = Message::new(8);
        message.set_len(usize::MAX);
        assert_eq!(message.len(), message.capacity());
    }
}
