//! Reading and writing the memory of another process, in one copy and without stopping it.
//!
//! ```
//! use sinew::process_vm::{Memory, Segment};
//!
//! let value = [1_u8, 2, 3, 4];
//! let own = Memory::of_pid(std::process::id())?;
//! let mut copy = [0; 4];
//! own.read(value.as_ptr().addr(), &mut copy).unwrap();
//! assert_eq!(copy, value);
//!
//! // Nothing is mapped at the address 0.
//! let at = Segment { address: 0, len: 4 };
//! let error = own.read_vectored(&mut [std::io::IoSliceMut::new(&mut copy)], &[at]).unwrap_err();
//! assert_eq!((error.done, error.segment), (0, 0));
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What is seen
//! The other process runs on meanwhile: what is read may be half old and half new, and
//! nothing orders it. An atomic word read alone, aligned, is not torn. A write lands in pages that
//! the process may write itself; what is mapped read-only stays so
//! ([`ptrace`](crate::ptrace) writes there too).
//!
//! # Who may
//! Who may trace the process: the same user in all its ids, with a target that may be dumped, as far as
//! Yama's `ptrace_scope` allows it; or CAP_SYS_PTRACE. [`Memory::of_pid`] asks at once, so that the
//! refusal is explained there, with what to change.
//!
//! # Which process
//! The calls of the kernel take a number, and a number can come to mean a stranger. A [`Memory`] holds a
//! pidfd beside it: if the process has ended by the end of a call, the call fails with
//! [`Why::Ended`] whatever it transferred. So a read never gives a stranger's memory. A write looks
//! before it too; between that look and the write there is a moment left in which a process would have to
//! die, be reaped, and its number come round.
//!
//! After exec the memory is that of the new program, under the same pidfd.
//!
//! Source: process_vm_readv(2), ptrace(2) ("Ptrace access mode checking"), pidfd_open(2).

#![allow(
    unsafe_code,
    reason = "rustix has no process_vm calls; they take addresses of two processes"
)]

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::target::{Target, refused, shown};
use crate::error::{Error, Result};
use crate::mechanism::Mechanism;

/// The memory of one process. Holds its pidfd.
#[derive(Debug)]
pub struct Memory(Target);

/// A piece of the other process's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Segment {
    /// Where it begins, as an address of that process.
    pub address: usize,
    /// How many bytes it has.
    pub len: usize,
}

/// A transfer that stopped early: how far it came, where, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmError {
    /// How many bytes went, counted over all segments.
    pub done: usize,
    /// The segment, counted from 0, in which it stopped.
    pub segment: usize,
    /// The address of the first byte that did not go.
    pub address: usize,
    /// What stopped it.
    pub why: Why,
}

/// What stopped a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Why {
    /// Nothing is mapped there, or it may not be read, or not be written (EFAULT).
    NotMapped,
    /// The process has become one that this one may not trace (EPERM): another user, not dumpable.
    Refused,
    /// The process has ended. What was transferred is not to be trusted.
    Ended,
    /// The kernel refused with this error number.
    Os(i32),
}

/// The most pieces of one call (IOV_MAX). More go by several calls.
const PIECES: usize = 1024;

type Call = unsafe extern "C" fn(
    libc::pid_t,
    *const libc::iovec,
    libc::c_ulong,
    *const libc::iovec,
    libc::c_ulong,
    libc::c_ulong,
) -> isize;

impl Memory {
    /// The memory of the process that has this number now.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound) if there is none, or it has no memory (a kernel thread, a process
    /// that has ended); [`PermissionDenied`](crate::ErrorKind::PermissionDenied) if it may not be traced, with the reason.
    pub fn of_pid(pid: u32) -> Result<Self> {
        Target::of_pid(pid, Mechanism::ProcessVm).and_then(Self::checked)
    }

    /// The memory of the process that `pidfd` means.
    ///
    /// # Errors
    /// As [`of_pid`](Self::of_pid), and [`Mismatch`](crate::ErrorKind::Mismatch) if it is no pidfd.
    pub fn of_pidfd(pidfd: OwnedFd) -> Result<Self> {
        Target::of_pidfd(pidfd, Mechanism::ProcessVm).and_then(Self::checked)
    }

    /// Asks the kernel whether it allows the access, by reading one byte that is not there.
    fn checked(target: Target) -> Result<Self> {
        let mut byte = [0];
        let local = [IoSliceMut::new(&mut byte)];
        let nowhere = [Segment { address: 0, len: 1 }];
        let memory = Self(target);
        let asked = memory.call(libc::process_vm_readv, iovecs_mut(&local), &nowhere);
        let error = |errno| {
            Error::os("ask for its memory", errno)
                .on(Mechanism::ProcessVm)
                .object(format_args!("process {}", memory.pid()))
        };
        match asked {
            Ok(_) | Err(Errno::FAULT) => Ok(memory),
            Err(Errno::PERM) => {
                Err(refused("ask for its memory", Mechanism::ProcessVm, memory.0.pid()))
            }
            Err(Errno::SRCH) => {
                Err(error(Errno::SRCH).because("it has ended, or is a thread of the kernel"))
            }
            Err(Errno::NOSYS) => Err(error(Errno::NOSYS)
                .because("this kernel has no CONFIG_CROSS_MEMORY_ATTACH, or a filter denies it")),
            Err(errno) => Err(error(errno)),
        }
    }

    /// The number of the process, in this pid namespace.
    #[must_use]
    pub fn pid(&self) -> u32 {
        shown(self.0.pid())
    }

    /// Fills `buf` from `address` on. Never waits but for the pages themselves.
    ///
    /// # Errors
    /// A [`VmError`] says how many bytes of `buf` were filled.
    pub fn read(&self, address: usize, buf: &mut [u8]) -> Result<(), VmError> {
        let from = [Segment { address, len: buf.len() }];
        self.read_vectored(&mut [IoSliceMut::new(buf)], &from).map(drop)
    }

    /// Writes `data` from `address` on. Not into this process itself, whose own code counts on what
    /// it has there: that is refused with EINVAL.
    ///
    /// # Errors
    /// A [`VmError`] says how many bytes were written.
    pub fn write(&self, address: usize, data: &[u8]) -> Result<(), VmError> {
        let to = [Segment { address, len: data.len() }];
        self.write_vectored(&[IoSlice::new(data)], &to).map(drop)
    }

    /// Reads `from`, one segment after the other, and fills `into` with it, one buffer after the
    /// other; where one buffer ends and where one segment ends need not agree. Any number of each.
    /// Returns how many bytes that were: the lesser of the two sums.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn read_vectored(
        &self,
        into: &mut [IoSliceMut<'_>],
        from: &[Segment],
    ) -> Result<usize, VmError> {
        self.transfer(libc::process_vm_readv, iovecs_mut(into), from)
    }

    /// Writes `data`, one buffer after the other, into `to`, one segment after the other. Any
    /// number of each. Returns how many bytes that were: the lesser of the two sums.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn write_vectored(&self, data: &[IoSlice<'_>], to: &[Segment]) -> Result<usize, VmError> {
        if self.pid() == std::process::id() {
            return Err(stopped_at(to, 0, Why::Os(Errno::INVAL.raw_os_error())));
        }
        if self.0.ended() {
            return Err(stopped_at(to, 0, Why::Ended));
        }
        self.transfer(libc::process_vm_writev, iovecs(data), to)
    }

    /// Calls until all is done or something stands against it.
    fn transfer(
        &self,
        call: Call,
        local: &[libc::iovec],
        remote: &[Segment],
    ) -> Result<usize, VmError> {
        let total = sum(local.iter().map(|l| l.iov_len)).min(sum(remote.iter().map(|r| r.len)));
        let mut done = 0;
        let mut stop = None;
        let mut first = true;
        while done < total && stop.is_none() {
            // Usually one call takes all as it is.
            let called = if first {
                let pieces = (local.len().min(PIECES), remote.len().min(PIECES));
                self.call(call, &local[..pieces.0], &remote[..pieces.1])
            } else {
                self.call(call, &local_rest(local, done), &remote_rest(remote, done))
            };
            match called {
                // Its first pieces may all have been empty; the rest begins with one that is not.
                Ok(0) if first => {}
                Ok(0) => stop = Some(Why::NotMapped),
                Ok(count) => done += count,
                Err(Errno::FAULT) => stop = Some(Why::NotMapped),
                Err(Errno::PERM) => stop = Some(Why::Refused),
                Err(Errno::SRCH) => stop = Some(Why::Ended),
                Err(errno) => stop = Some(Why::Os(errno.raw_os_error())),
            }
            first = false;
        }
        if total > 0 && self.0.ended() {
            stop = Some(Why::Ended);
        }
        match stop {
            None => Ok(total),
            Some(why) => Err(stopped_at(remote, done, why)),
        }
    }

    fn call(&self, call: Call, local: &[libc::iovec], remote: &[Segment]) -> Result<usize, Errno> {
        let pid = self.0.pid().as_raw_nonzero().get();
        // SAFETY: `local` lies in slices that the caller lends for this call, for writing where
        // `call` writes (iovecs_mut). A Segment has the layout of an iovec (asserted below), whose
        // addresses the kernel takes as the other process's; `write_vectored` sees to it that none
        // of this process's memory is written through them.
        let done = unsafe {
            call(pid, local.as_ptr(), len(local), remote.as_ptr().cast(), len(remote), 0)
        };
        usize::try_from(done).map_err(|_| last_errno())
    }
}

/// A pidfd is a Memory of its process if that is allowed: see [`Memory::of_pidfd`].
impl TryFrom<OwnedFd> for Memory {
    type Error = Error;

    fn try_from(pidfd: OwnedFd) -> Result<Self> {
        Self::of_pidfd(pidfd)
    }
}

impl From<Memory> for OwnedFd {
    fn from(memory: Memory) -> Self {
        memory.0.into_pidfd()
    }
}

impl AsFd for Memory {
    /// The pidfd.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }
}

impl fmt::Display for VmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stopped after {} bytes, at address {:#x}: ", self.done, self.address)?;
        match self.why {
            Why::NotMapped => f.write_str("nothing is mapped there for this access"),
            Why::Refused => f.write_str("the process may not be traced any more"),
            Why::Ended => f.write_str("the process has ended"),
            Why::Os(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(errno)),
        }
    }
}

impl std::error::Error for VmError {}

const _: () = {
    assert!(size_of::<Segment>() == size_of::<libc::iovec>());
    assert!(align_of::<Segment>() == align_of::<libc::iovec>());
    assert!(std::mem::offset_of!(Segment, address) == std::mem::offset_of!(libc::iovec, iov_base));
    assert!(std::mem::offset_of!(Segment, len) == std::mem::offset_of!(libc::iovec, iov_len));
};

fn len<T>(pieces: &[T]) -> libc::c_ulong {
    libc::c_ulong::try_from(pieces.len()).unwrap_or(libc::c_ulong::MAX)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn iovecs<'a>(slices: &'a [IoSlice<'_>]) -> &'a [libc::iovec] {
    // SAFETY: std promises that an IoSlice has the layout of an iovec.
    unsafe { std::slice::from_raw_parts(slices.as_ptr().cast(), slices.len()) }
}

fn iovecs_mut<'a>(slices: &'a [IoSliceMut<'_>]) -> &'a [libc::iovec] {
    // SAFETY: as above, for IoSliceMut.
    unsafe { std::slice::from_raw_parts(slices.as_ptr().cast(), slices.len()) }
}

/// The local pieces from byte `done` on, at most as many as one call takes.
fn local_rest(local: &[libc::iovec], done: usize) -> Vec<libc::iovec> {
    let (first, offset) = position(local.iter().map(|l| l.iov_len), done);
    let mut rest: Vec<_> = local.iter().skip(first).take(PIECES).copied().collect();
    if let Some(piece) = rest.first_mut() {
        piece.iov_base = piece.iov_base.wrapping_byte_add(offset);
        piece.iov_len -= offset;
    }
    rest
}

/// The same of the other process's.
fn remote_rest(remote: &[Segment], done: usize) -> Vec<Segment> {
    let (first, offset) = position(remote.iter().map(|r| r.len), done);
    let mut rest: Vec<_> = remote.iter().skip(first).take(PIECES).copied().collect();
    if let Some(piece) = rest.first_mut() {
        piece.address = piece.address.wrapping_add(offset);
        piece.len -= offset;
    }
    rest
}

/// A sum too large for memory is as good as the largest.
fn sum(lens: impl Iterator<Item = usize>) -> usize {
    lens.fold(0, usize::saturating_add)
}

/// In which piece, and how far in it, byte `done` of them all lies.
fn position(lens: impl Iterator<Item = usize>, mut done: usize) -> (usize, usize) {
    let mut last = 0;
    for (index, len) in lens.enumerate() {
        if done < len {
            return (index, done);
        }
        done -= len;
        last = index + 1;
    }
    (last, 0)
}

fn stopped_at(remote: &[Segment], done: usize, why: Why) -> VmError {
    let (segment, offset) = position(remote.iter().map(|r| r.len), done);
    let address = remote.get(segment).map_or(0, |s| s.address.wrapping_add(offset));
    VmError { done, segment, address, why }
}
