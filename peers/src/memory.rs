//! Bare shared memory, for the bare rows: a memfd, mapped by both.

#![allow(unsafe_code, reason = "maps memory, and gives out what is in it")]

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use rustix::fs::MemfdFlags;
use rustix::mm::{MapFlags, ProtFlags};

use crate::Result;
use crate::link::Link;

#[derive(Debug)]
pub(crate) struct Shared {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process; whoever uses it from two threads is as careful as two processes are.
unsafe impl Send for Shared {}

impl Shared {
    /// Makes it and gives it to the far side.
    pub(crate) fn create(len: usize, link: &Link) -> Result<Self> {
        let fd = rustix::fs::memfd_create("bare", MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        link.send_fds(&[fd.as_fd()])?;
        Self::map(fd, len)
    }

    /// Takes what the near side made.
    pub(crate) fn attach(len: usize, link: &Link) -> Result<Self> {
        let [fd] = link.recv_just()?;
        Self::map(fd, len)
    }

    fn map(fd: OwnedFd, len: usize) -> Result<Self> {
        // SAFETY: a new mapping, anywhere; nobody shortens the memfd.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &fd,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or("mapped at address zero")?;
        Ok(Self { base, len })
    }

    /// Touches every page, so that no fault is measured.
    pub(crate) fn populate(&self) {
        for at in (0..self.len).step_by(4096) {
            self.word(at).fetch_add(0, std::sync::atomic::Ordering::Relaxed);
        }
    }

    #[inline]
    pub(crate) fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: aligned and inside, as asserted; mapped as long as `self`; both sides use it as an atomic.
        unsafe { &*self.base.as_ptr().add(at).cast() }
    }

    #[inline]
    pub(crate) fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len);
        // SAFETY: as above.
        unsafe { &*self.base.as_ptr().add(at).cast() }
    }

    #[inline]
    pub(crate) fn write<const N: usize>(&self, at: usize, message: &[u8; N]) {
        debug_assert!(at + N <= self.len);
        // SAFETY: inside: the bare rows compute places from what they made the memory for; the other side does not look
        // before it is told.
        unsafe {
            self.base.as_ptr().add(at).cast::<[u8; N]>().copy_from_nonoverlapping(message, 1)
        };
    }

    #[inline]
    pub(crate) fn read<const N: usize>(&self, at: usize, room: &mut [u8; N]) {
        debug_assert!(at + N <= self.len);
        // SAFETY: as above.
        unsafe { self.base.as_ptr().add(at).cast::<[u8; N]>().copy_to_nonoverlapping(room, 1) };
    }

    /// The bytes, while the other side leaves them alone.
    pub(crate) fn bytes(&self, at: usize, len: usize) -> &[u8] {
        assert!(at + len <= self.len);
        // SAFETY: inside; the two sides take turns.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(at), len) }
    }

    /// The bytes to write, while the other side leaves them alone.
    pub(crate) fn bytes_mut(&mut self, at: usize, len: usize) -> &mut [u8] {
        assert!(at + len <= self.len);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(at), len) }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length; every reference into it has ended.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.len) };
    }
}
