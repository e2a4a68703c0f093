//! What the shared-memory rows move their messages with: one small ring for each direction, with a
//! futex word as its doorbell. It measures the mappings; it is no channel.

#![allow(unsafe_code, reason = "it copies to and from memory that another process has mapped")]

use std::io;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use rustix::io::Errno;
use rustix::thread::futex;
use sinew::mapping::Mapping;

use crate::carrier::Carrier;
use crate::report::WaitKind;

/// The control words of a ring come first, each on a cache line of its own.
const HEAD: usize = 0;
const TAIL: usize = 128;
const RECEIVER_SLEEPS: usize = 256;
const SENDER_SLEEPS: usize = 384;
const HEADER: usize = 4096;
/// Message bytes that a ring is to hold, within its bounds on the number of slots.
const RING_BYTES: usize = 1 << 20;
/// Bytes between two reports of progress in a bulk transfer.
const CHUNK: usize = 1 << 20;

fn slots(size: usize) -> usize {
    (RING_BYTES / stride(size)).clamp(4, 1024)
}

fn stride(size: usize) -> usize {
    size.next_multiple_of(64)
}

fn ring_bytes(size: usize) -> usize {
    (HEADER + slots(size) * stride(size)).next_multiple_of(HEADER)
}

/// How many bytes two rings for messages of `size` bytes need.
pub(crate) fn rings_bytes(size: usize) -> usize {
    2 * ring_bytes(size)
}

/// How many bytes a bulk payload of `total` bytes needs.
pub(crate) fn region_bytes(total: usize) -> usize {
    HEADER + total
}

/// A word of the mapping.
fn word(mapping: &Mapping, at: usize) -> io::Result<&AtomicU32> {
    mapping.atomic_u32_at(at).ok_or_else(|| io::Error::other("the mapping is too short"))
}

/// Waits until `word` is no longer `seen`.
fn wait_while(word: &AtomicU32, seen: u32, sleeps: &AtomicU32, wait: WaitKind) -> io::Result<()> {
    if wait == WaitKind::Awake {
        while word.load(Ordering::Acquire) == seen {
            std::hint::spin_loop();
        }
        return Ok(());
    }
    // The flag, then a look at the word; the other side does it the other way round. One of the
    // two sees the other.
    sleeps.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
    while word.load(Ordering::Acquire) == seen {
        // Not private: the other side is another process.
        match futex::wait(word, futex::Flags::empty(), seen, None) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    sleeps.store(0, Ordering::Relaxed);
    Ok(())
}

/// Wakes whoever waits for `word`, which was just changed.
fn wake(word: &AtomicU32, sleeps: &AtomicU32, wait: WaitKind) -> io::Result<()> {
    if wait == WaitKind::Blocking {
        fence(Ordering::SeqCst);
        if sleeps.load(Ordering::Relaxed) != 0 {
            futex::wake(word, futex::Flags::empty(), 1)?;
        }
    }
    Ok(())
}

/// A ring in each direction, in one mapping.
#[derive(Debug)]
pub(crate) struct Rings {
    mapping: Mapping,
    size: usize,
    wait: WaitKind,
    slots: u32,
    /// Where the ring to send into begins, and the one to receive from.
    output: usize,
    input: usize,
    /// Own positions, and the last seen one of the receiver of `output`.
    sent: u32,
    received: u32,
    freed: u32,
    /// The last seen position of the sender of `input`.
    arrived: u32,
}

impl Rings {
    /// Over a zeroed mapping of [`rings_bytes`]; `near` says which of the two sides this is.
    pub(crate) fn new(
        mapping: Mapping,
        size: usize,
        wait: WaitKind,
        near: bool,
    ) -> io::Result<Self> {
        if mapping.len() < rings_bytes(size) {
            return Err(io::Error::other("the mapping is too short"));
        }
        let there = 0;
        let back = ring_bytes(size);
        let (output, input) = if near { (there, back) } else { (back, there) };
        let slots = u32::try_from(slots(size)).map_err(io::Error::other)?;
        Ok(Self {
            mapping,
            size,
            wait,
            slots,
            output,
            input,
            sent: 0,
            received: 0,
            freed: 0,
            arrived: 0,
        })
    }

    /// Where the slot of a position is: in bounds, because the position is taken modulo the number
    /// of slots and the length was checked in `new`.
    fn slot(&self, ring: usize, position: u32) -> *mut u8 {
        let at = ring + HEADER + (position % self.slots) as usize * stride(self.size);
        // SAFETY: `at` and a whole slot after it are inside the mapping, see above.
        unsafe { self.mapping.as_ptr().cast_mut().add(at) }
    }
}

impl Carrier for Rings {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        assert!(message.len() <= self.size, "the slots have the size of the row");
        let tail = word(&self.mapping, self.output + TAIL)?;
        while self.sent.wrapping_sub(self.freed) >= self.slots {
            let seen = self.freed;
            self.freed = tail.load(Ordering::Acquire);
            if self.freed == seen {
                wait_while(
                    tail,
                    seen,
                    word(&self.mapping, self.output + SENDER_SLEEPS)?,
                    self.wait,
                )?;
            }
        }
        let slot = self.slot(self.output, self.sent);
        // SAFETY: the slot is inside the mapping, the message is no longer than it, and between
        // `freed` and `sent + slots` the protocol gives the slot to the sender.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), slot, message.len()) };
        self.sent = self.sent.wrapping_add(1);
        let head = word(&self.mapping, self.output + HEAD)?;
        head.store(self.sent, Ordering::Release);
        wake(head, word(&self.mapping, self.output + RECEIVER_SLEEPS)?, self.wait)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        assert!(buf.len() <= self.size, "the slots have the size of the row");
        let head = word(&self.mapping, self.input + HEAD)?;
        while self.arrived == self.received {
            self.arrived = head.load(Ordering::Acquire);
            if self.arrived == self.received {
                let sleeps = word(&self.mapping, self.input + RECEIVER_SLEEPS)?;
                wait_while(head, self.received, sleeps, self.wait)?;
            }
        }
        let slot = self.slot(self.input, self.received).cast_const();
        // SAFETY: the slot is inside the mapping, the buffer is no longer than it, and the sender
        // leaves it alone until the tail says that it is free.
        unsafe { std::ptr::copy_nonoverlapping(slot, buf.as_mut_ptr(), buf.len()) };
        self.received = self.received.wrapping_add(1);
        let tail = word(&self.mapping, self.input + TAIL)?;
        tail.store(self.received, Ordering::Release);
        wake(tail, word(&self.mapping, self.input + SENDER_SLEEPS)?, self.wait)
    }
}

/// One large payload in shared memory, with a word that says how much of it is there.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: Mapping,
    total: usize,
    wait: WaitKind,
    /// The progress word goes on counting from payload to payload.
    begun: u32,
}

impl Region {
    /// Over a mapping of [`region_bytes`], zeroed at first.
    pub(crate) fn new(mapping: Mapping, total: usize, wait: WaitKind) -> io::Result<Self> {
        if mapping.len() < region_bytes(total) {
            return Err(io::Error::other("the mapping is too short"));
        }
        Ok(Self { mapping, total, wait, begun: 0 })
    }

    fn chunk(&self, index: u32) -> Option<(*mut u8, usize, usize)> {
        let begin = index as usize * CHUNK;
        let len = self.total.checked_sub(begin)?.min(CHUNK);
        // SAFETY: the header, the chunk's begin and its length are inside the mapping, whose
        // length was checked in `new`.
        let at = unsafe { self.mapping.as_ptr().cast_mut().add(HEADER + begin) };
        (len > 0).then_some((at, begin, len))
    }

    /// Writes the payload and reports each chunk.
    pub(crate) fn fill(&mut self, payload: &[u8]) -> io::Result<()> {
        assert_eq!(payload.len(), self.total, "the region has the size of the payload");
        let ready = word(&self.mapping, HEAD)?;
        let sleeps = word(&self.mapping, RECEIVER_SLEEPS)?;
        let mut index = 0;
        while let Some((at, begin, len)) = self.chunk(index) {
            // SAFETY: in bounds as said above; the reader stays away until the word says so.
            unsafe { std::ptr::copy_nonoverlapping(payload[begin..].as_ptr(), at, len) };
            index += 1;
            ready.store(self.begun.wrapping_add(index), Ordering::Release);
            wake(ready, sleeps, self.wait)?;
        }
        self.begun = self.begun.wrapping_add(index);
        Ok(())
    }

    /// Gives each chunk to `read` as soon as it is there.
    pub(crate) fn drain(&mut self, mut read: impl FnMut(usize, &[u8])) -> io::Result<()> {
        let ready = word(&self.mapping, HEAD)?;
        let sleeps = word(&self.mapping, RECEIVER_SLEEPS)?;
        let mut index = 0;
        while let Some((at, begin, len)) = self.chunk(index) {
            loop {
                let seen = ready.load(Ordering::Acquire);
                // As many as were reported since this payload began; a wild value ends the row.
                let there = seen.wrapping_sub(self.begun);
                if there > index {
                    break;
                }
                wait_while(ready, seen, sleeps, self.wait)?;
            }
            // SAFETY: in bounds as said above; the writer has reported the chunk and leaves it
            // alone until the whole payload was acknowledged over the link.
            read(begin, unsafe { std::slice::from_raw_parts(at, len) });
            index += 1;
        }
        self.begun = self.begun.wrapping_add(index);
        Ok(())
    }
}
