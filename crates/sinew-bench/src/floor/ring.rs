//! The floor of channels: a bare ring of slots in each direction. Both positions are cached, nothing is checked, and
//! nobody is expected to die.

#![allow(unsafe_code, reason = "maps memory, and copies to and from it")]

use std::hint::spin_loop;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use libc::c_int;

use crate::carrier::Carrier;

/// The words of a ring come first, each on a cache line of its own, and processors fetch lines in pairs.
const HEAD: usize = 0;
const TAIL: usize = 128;
const RECEIVER_SLEEPS: usize = 256;
const SENDER_SLEEPS: usize = 384;
const HEADER: usize = 4096;
const LINE: usize = 64;

/// How a ring is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    /// Bytes of the largest message.
    pub(crate) size: usize,
    pub(crate) slots: u32,
    /// Whether a side that finds nothing sleeps instead of looking on.
    pub(crate) sleeps: bool,
}

impl Form {
    fn stride(self) -> usize {
        self.size.next_multiple_of(LINE)
    }

    fn ring_bytes(self) -> usize {
        (HEADER + self.slots as usize * self.stride()).next_multiple_of(HEADER)
    }

    /// How many bytes two rings need.
    pub(crate) fn bytes(self) -> usize {
        2 * self.ring_bytes()
    }
}

/// A ring in each direction, in one mapping of zeros.
#[derive(Debug)]
pub(crate) struct Rings {
    base: NonNull<u8>,
    form: Form,
    output: Position,
    input: Position,
}

/// Where one side is in a ring.
#[derive(Debug)]
struct Position {
    /// Where the ring begins.
    at: usize,
    /// How many messages this side has moved, and the other one when this last looked.
    own: u32,
    other: u32,
    slot: usize,
}

impl Position {
    const fn new(at: usize) -> Self {
        Self { at, own: 0, other: 0, slot: 0 }
    }

    fn next(&mut self, form: Form) {
        self.own = self.own.wrapping_add(1);
        self.slot = if self.slot + 1 == form.slots as usize { 0 } else { self.slot + 1 };
    }
}

impl Rings {
    /// Maps [`Form::bytes`] of what `fd` is; `near` says which of the two sides this is.
    pub(crate) fn new(fd: c_int, form: Form, near: bool) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let at = std::ptr::null_mut();
        // SAFETY: a new mapping, anywhere.
        let base = unsafe { libc::mmap(at, form.bytes(), access, libc::MAP_SHARED, fd, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (there, back) = (0, form.ring_bytes());
        let (output, input) = if near { (there, back) } else { (back, there) };
        Ok(Self { base, form, output: Position::new(output), input: Position::new(input) })
    }

    #[inline]
    fn place(&self, at: usize) -> *mut u8 {
        debug_assert!(at < self.form.bytes());
        self.base.as_ptr().wrapping_add(at)
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: a word of a ring's header: aligned, inside of the mapping, used as an atomic by both sides.
        unsafe { &*self.place(at).cast::<libc::c_void>().cast::<AtomicU32>() }
    }

    /// Waits until `word` is no longer `seen`.
    #[inline]
    fn wait_while(&self, word: &AtomicU32, seen: u32, sleeps: &AtomicU32) {
        if !self.form.sleeps {
            while word.load(Ordering::Acquire) == seen {
                spin_loop();
            }
            return;
        }
        // The flag, then a look at the word; the other side does it the other way round.
        sleeps.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        while word.load(Ordering::Acquire) == seen {
            futex(word, libc::FUTEX_WAIT, seen);
        }
        sleeps.store(0, Ordering::Relaxed);
    }

    #[inline]
    fn wake(&self, word: &AtomicU32, sleeps: &AtomicU32) {
        if self.form.sleeps {
            fence(Ordering::SeqCst);
            if sleeps.load(Ordering::Relaxed) != 0 {
                futex(word, libc::FUTEX_WAKE, 1);
            }
        }
    }
}

/// A wait that ends early looks again, and a wake-up does not fail.
fn futex(word: &AtomicU32, operation: c_int, value: u32) {
    let timeout = std::ptr::null::<libc::timespec>();
    // SAFETY: the word is live; no time-out is given.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, timeout) };
}

impl Carrier for Rings {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let Position { at, own, other, slot } = self.output;
        let tail = self.word(at + TAIL);
        let mut freed = other;
        while own.wrapping_sub(freed) >= self.form.slots {
            freed = tail.load(Ordering::Acquire);
            if freed == other {
                self.wait_while(tail, freed, self.word(at + SENDER_SLEEPS));
                freed = tail.load(Ordering::Acquire);
            }
        }
        assert!(message.len() <= self.form.size, "the slots have the size of the row");
        let to = self.place(at + HEADER + slot * self.form.stride());
        // SAFETY: the slot is inside of the mapping and the message no longer; it is the sender's until the head says so.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), to, message.len()) };
        self.output.other = freed;
        self.output.next(self.form);
        let head = self.word(at + HEAD);
        head.store(self.output.own, Ordering::Release);
        self.wake(head, self.word(at + RECEIVER_SLEEPS));
        Ok(())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let Position { at, own, other, slot } = self.input;
        let head = self.word(at + HEAD);
        let mut arrived = other;
        while arrived == own {
            arrived = head.load(Ordering::Acquire);
            if arrived == own {
                self.wait_while(head, own, self.word(at + RECEIVER_SLEEPS));
                arrived = head.load(Ordering::Acquire);
            }
        }
        assert!(buf.len() <= self.form.size, "the slots have the size of the row");
        let from = self.place(at + HEADER + slot * self.form.stride());
        // SAFETY: the slot is inside of the mapping and the buffer no longer; it is the receiver's until the tail says so.
        unsafe { std::ptr::copy_nonoverlapping(from, buf.as_mut_ptr(), buf.len()) };
        self.input.other = arrived;
        self.input.next(self.form);
        let tail = self.word(at + TAIL);
        tail.store(self.input.own, Ordering::Release);
        self.wake(tail, self.word(at + SENDER_SLEEPS));
        Ok(())
    }
}

impl Drop for Rings {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; nothing refers to it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.form.bytes()) };
    }
}
