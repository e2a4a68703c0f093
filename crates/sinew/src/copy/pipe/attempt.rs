//! One attempt to read or write a pipe: never SIGPIPE, and never asleep unless it may be.
//!
//! | what is wanted | system call | where the kernel lacks it |
//! |---|---|---|
//! | write, no SIGPIPE | `pwritev2(RWF_NOSIGNAL)`, Linux 6.18; `write` while the thread holds the signal | `write` with the signal kept away |
//! | write, no sleep | `pwritev2(RWF_NOWAIT)`, Linux 6.4 | a description of its own (`/proc/self/fd`), else by way of a private pipe |
//! | read, no sleep | `preadv2(RWF_NOWAIT)`, Linux 6.4 | `vmsplice(SPLICE_F_NONBLOCK)` of a read end, which copies |
//!
//! No Linux so far grants `RWF_NOWAIT` on a FIFO that was opened by its path: only `pipe2` marks
//! its descriptions so. There the last column holds always. The flags of the caller's description
//! are never changed: others may share it.

#![allow(unsafe_code, reason = "vmsplice takes raw addresses")]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2, pwritev2};
use rustix::pipe::{IoSliceRaw, PipeFlags, SpliceFlags, pipe_with, splice, vmsplice};

use super::sigpipe::{self, without_sigpipe};
use crate::kernel::Feature;
use crate::wait::Mode;

/// `RWF_NOSIGNAL` of Linux 6.18.
const NOSIGNAL: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x100);
/// The offset by which the vectored calls mean the position of the file, as pipes need.
const NO_OFFSET: u64 = u64::MAX;

/// Writes once. In the common case it is one inlined system call.
#[inline]
pub(crate) fn write(fd: BorrowedFd<'_>, data: &[u8], mode: Mode) -> Result<usize, Errno> {
    if mode == Mode::MayBlock && sigpipe::is_held() {
        return sigpipe::while_held(data.len(), || rustix::io::write(fd, data));
    }
    if Feature::RwfNosignal.usable() {
        let flags = match mode {
            Mode::MayBlock => NOSIGNAL,
            Mode::NonBlocking if Feature::PipeNowait.usable() => NOSIGNAL | ReadWriteFlags::NOWAIT,
            Mode::NonBlocking => return write_without(fd, data, mode),
        };
        match pwritev2(fd, &[IoSlice::new(data)], NO_OFFSET, flags) {
            Err(Errno::OPNOTSUPP) => {}
            done => return done,
        }
    }
    write_without(fd, data, mode)
}

/// Reads once. In the common case it is one inlined system call.
#[inline]
pub(crate) fn read(fd: BorrowedFd<'_>, buf: &mut [u8], mode: Mode) -> Result<usize, Errno> {
    match mode {
        Mode::MayBlock => rustix::io::read(fd, buf),
        Mode::NonBlocking => {
            if Feature::PipeNowait.usable() {
                let mut all = [IoSliceMut::new(buf)];
                match preadv2(fd, &mut all, NO_OFFSET, ReadWriteFlags::NOWAIT) {
                    Err(Errno::OPNOTSUPP) => {}
                    done => return done,
                }
            }
            read_without(fd, buf)
        }
    }
}

/// Reads one packet once into `buf`, and where there is a `spill` one byte more into that.
#[inline]
pub(super) fn read_packet(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    spill: Option<&mut [u8; 1]>,
    mode: Mode,
) -> Result<usize, Errno> {
    let spill: &mut [u8] = match spill {
        Some(byte) => byte,
        None if mode == Mode::MayBlock => return rustix::io::read(fd, buf),
        None => &mut [],
    };
    let count = 1 + spill.len();
    let mut both = [IoSliceMut::new(buf), IoSliceMut::new(spill)];
    let parts = &mut both[..count];
    if mode == Mode::MayBlock {
        return rustix::io::readv(fd, parts);
    }
    if Feature::PipeNowait.usable() {
        match preadv2(fd, parts, NO_OFFSET, ReadWriteFlags::NOWAIT) {
            Err(Errno::OPNOTSUPP) => {}
            done => return done,
        }
    }
    read_packet_without(fd, parts)
}

/// A refusal may be of the kernel or of this one description. Asks a fresh pipe, once, which it
/// is, and notes what the kernel lacks.
#[cold]
fn learn() {
    static LEARNED: AtomicBool = AtomicBool::new(false);
    if LEARNED.load(Ordering::Relaxed) {
        return;
    }
    // Without a free descriptor it is found out another time.
    let Ok((_rx, tx)) = pipe_with(PipeFlags::CLOEXEC) else { return };
    for (flag, feature) in
        [(NOSIGNAL, Feature::RwfNosignal), (ReadWriteFlags::NOWAIT, Feature::PipeNowait)]
    {
        let one = [IoSlice::new(b"?")];
        if pwritev2(&tx, &one, NO_OFFSET, flag) == Err(Errno::OPNOTSUPP) {
            feature.refused();
        }
    }
    LEARNED.store(true, Ordering::Relaxed);
}

/// Writes where the kernel, or this description, lacks one of the two flags.
#[cold]
fn write_without(fd: BorrowedFd<'_>, data: &[u8], mode: Mode) -> Result<usize, Errno> {
    learn();
    match mode {
        Mode::MayBlock => plain_write(fd, data),
        Mode::NonBlocking => {
            if Feature::PipeNowait.usable() {
                let once =
                    || pwritev2(fd, &[IoSlice::new(data)], NO_OFFSET, ReadWriteFlags::NOWAIT);
                match without_sigpipe(data.len(), once) {
                    Err(Errno::OPNOTSUPP) => {}
                    done => return done,
                }
            }
            write_elsewhere(fd, data)
        }
    }
}

/// Writes as the description is: asleep if it blocks and the pipe is full.
fn plain_write(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize, Errno> {
    if Feature::RwfNosignal.usable() {
        match pwritev2(fd, &[IoSlice::new(data)], NO_OFFSET, NOSIGNAL) {
            Err(Errno::OPNOTSUPP) => {}
            done => return done,
        }
    }
    without_sigpipe(data.len(), || rustix::io::write(fd, data))
}

/// Writes without sleep where only O_NONBLOCK can say so.
fn write_elsewhere(fd: BorrowedFd<'_>, data: &[u8]) -> Result<usize, Errno> {
    let flags = fcntl_getfl(fd)?;
    if flags.contains(OFlags::NONBLOCK) {
        return plain_write(fd, data);
    }
    let packets = flags & OFlags::DIRECT;
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let own = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match rustix::fs::open(path, own, rustix::fs::Mode::empty()) {
        Ok(own) => {
            if !packets.is_empty() {
                // Opening with O_DIRECT is refused; setting it afterwards is not.
                fcntl_setfl(&own, OFlags::NONBLOCK | packets)?;
            }
            plain_write(own.as_fd(), data)
        }
        // A FIFO without a reader.
        Err(Errno::NXIO) => Err(Errno::PIPE),
        // The pipe belongs to another user, or there is no /proc.
        Err(_) => write_by_way(fd, data, packets),
    }
}

/// Writes into a private pipe and splices that, which may be told not to sleep per call. What did
/// not go is dropped with the private pipe. It needs no permission, but takes a slot (a page of the
/// capacity) for every piece, however short.
fn write_by_way(fd: BorrowedFd<'_>, data: &[u8], packets: OFlags) -> Result<usize, Errno> {
    if data.is_empty() {
        return Ok(0);
    }
    let kind = if packets.is_empty() { PipeFlags::empty() } else { PipeFlags::DIRECT };
    let (rx, tx) = private_pipe(kind)?;
    let count = rustix::io::write(&tx, data)?;
    without_sigpipe(count, || splice(&rx, None, fd, None, count, SpliceFlags::NONBLOCK))
}

/// Reads without sleep where the description lacks RWF_NOWAIT: a vmsplice *from* a pipe copies to
/// the addresses that it is given, and has a flag against sleep.
#[cold]
fn read_without(fd: BorrowedFd<'_>, buf: &mut [u8]) -> Result<usize, Errno> {
    learn();
    let flags = fcntl_getfl(fd)?;
    if flags.contains(OFlags::NONBLOCK) {
        return rustix::io::read(fd, buf);
    }
    // Through a description that can write, the call would lend `buf` to the pipe instead.
    if flags & OFlags::ACCMODE == OFlags::RDONLY {
        let to = [IoSliceRaw::from_slice_mut(buf)];
        // SAFETY: the description can only read, as checked above (the access mode never changes),
        // so the call only writes into `buf`, which is borrowed mutably until it returns.
        match unsafe { vmsplice(fd, &to, SpliceFlags::NONBLOCK) } {
            // A sandbox without the call; or what the caller made a PipeReader of is no pipe.
            Err(Errno::NOSYS | Errno::PERM | Errno::BADF | Errno::INVAL) => {}
            done => return done,
        }
    }
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let own = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let own = rustix::fs::open(path, own, rustix::fs::Mode::empty())?;
    rustix::io::read(&own, buf)
}

/// Reads one packet without sleep: moves the first one, whole, to a private pipe with room for one,
/// where reading it cannot sleep. (A vmsplice would run packets into each other.)
#[cold]
fn read_packet_without(fd: BorrowedFd<'_>, parts: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
    learn();
    let (rx, tx) = private_pipe(PipeFlags::DIRECT)?;
    rustix::pipe::fcntl_setpipe_size(&tx, 1)?;
    match splice(fd, None, &tx, None, super::ATOMIC, SpliceFlags::NONBLOCK)? {
        0 => Ok(0),
        _ => rustix::io::readv(&rx, parts),
    }
}

fn private_pipe(kind: PipeFlags) -> Result<(OwnedFd, OwnedFd), Errno> {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK | kind)
}
