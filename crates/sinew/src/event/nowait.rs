//! Reading the 64-bit number of an event now or not at all, without touching flags that others share.
//!
//! A look by poll(2) and then a read is no such thing: between the two another process may take what
//! was there, and the read sleeps for ever. `preadv2(RWF_NOWAIT)` says per call what is meant. Where
//! the kernel refuses that, only O_NONBLOCK of the description says it, and that is set when the
//! description is made, before anybody else has it.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::{Errno, ReadWriteFlags, preadv2, read};

use crate::kernel::Feature;
use crate::wait::Mode;

/// The offset by which the vectored calls mean "no position".
const NO_OFFSET: u64 = u64::MAX;

/// Reads the number once. In the common case it is one inlined system call.
#[inline]
pub(super) fn take(fd: BorrowedFd<'_>, feature: Feature, mode: Mode) -> Result<u64, Errno> {
    let mut number = [0; 8];
    let length = match mode {
        Mode::MayBlock => read(fd, &mut number)?,
        Mode::NonBlocking => match per_call(fd, feature, &mut number) {
            Err(Errno::OPNOTSUPP) => by_description(fd, &mut number)?,
            done => done?,
        },
    };
    // Only what is none of the events gives fewer, and `check_kind` keeps that out.
    if length == number.len() { Ok(u64::from_ne_bytes(number)) } else { Err(Errno::IO) }
}

#[inline]
fn per_call(fd: BorrowedFd<'_>, feature: Feature, number: &mut [u8; 8]) -> Result<usize, Errno> {
    if !feature.usable() {
        return Err(Errno::OPNOTSUPP);
    }
    match preadv2(fd, &mut [IoSliceMut::new(number)], NO_OFFSET, ReadWriteFlags::NOWAIT) {
        // A sandbox that does not know the call says ENOSYS or EPERM.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
            feature.refused();
            Err(Errno::OPNOTSUPP)
        }
        done => done,
    }
}

/// Reads without sleep where only the description can say so. One that sleeps is not read: nothing
/// could end that.
#[cold]
fn by_description(fd: BorrowedFd<'_>, number: &mut [u8; 8]) -> Result<usize, Errno> {
    if fcntl_getfl(fd)?.contains(OFlags::NONBLOCK) {
        read(fd, number)
    } else {
        Err(Errno::OPNOTSUPP)
    }
}

/// Makes a description by `make`, which is told whether it shall be O_NONBLOCK: only where the kernel
/// refuses a read that does not sleep per call. `asked` remembers that the kernel was asked.
///
/// What `make` makes must have nothing to read.
pub(super) fn create(
    feature: Feature,
    asked: &AtomicBool,
    make: impl Fn(bool) -> Result<OwnedFd, Errno>,
) -> Result<OwnedFd, Errno> {
    if !feature.usable() {
        return make(true);
    }
    let made = make(false)?;
    if !asked.load(Ordering::Relaxed) {
        if per_call(made.as_fd(), feature, &mut [0; 8]) == Err(Errno::OPNOTSUPP) {
            drop(made);
            return make(true);
        }
        asked.store(true, Ordering::Relaxed);
    }
    Ok(made)
}
