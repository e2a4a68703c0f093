#![allow(unsafe_code, reason = "descriptors known by number")]
//! Descriptors at numbers of the child's: everything that can fail or allocate happens in the parent.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::fs::fstat;
use rustix::io::{Errno, FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::locked;
use crate::error::{Error, Result};
use crate::limits::Limit;

/// Numbers at which a hook of some command puts a descriptor that is held elsewhere in this process,
/// and how many such hooks there are. A hook that runs later must find its own source untouched, so
/// no source is held at one of them.
static TARGETS: Mutex<BTreeMap<RawFd, usize>> = Mutex::new(BTreeMap::new());

/// A descriptor that the child gets at a number.
#[derive(Debug)]
pub(super) struct Grant {
    number: RawFd,
    place: Place,
    /// Where it was before, if it was duplicated. Held so that its number, which may be the target
    /// of another grant, stays taken.
    _original: Option<OwnedFd>,
}

/// Where the parent holds a granted descriptor.
#[derive(Debug)]
enum Place {
    /// At its number already.
    There(OwnedFd),
    /// At a number that no earlier hook of the command puts anything at.
    Elsewhere {
        source: OwnedFd,
        /// Whatever keeps std from using the number, where it was free.
        _reservation: Option<OwnedFd>,
        /// What had the number otherwise, for telling whether it is something else by the time of
        /// the start.
        occupant: Option<(u64, u64)>,
    },
}

impl Grant {
    pub(super) fn new(number: RawFd, original: OwnedFd) -> Result<Self> {
        let operation = "give a descriptor to a child";
        let failed = |e| Error::os(operation, e).object(format!("number {number}"));
        if number < 0 {
            return Err(failed(Errno::INVAL).because("a number is not negative"));
        }
        let most = Limit::Nofile.value().unwrap_or(u64::MAX);
        if u64::try_from(number).is_ok_and(|n| n >= most) {
            return Err(failed(Errno::MFILE)
                .because(format!("the number is above {}", Limit::Nofile.stated()))
                .fix(Limit::Nofile.raise()));
        }
        let none_left = |e| match e {
            // As fcntl(2) says where all numbers from the lowest wanted one up are taken.
            Errno::MFILE | Errno::INVAL => failed(Errno::MFILE)
                .because(format!("this process has {}", Limit::Nofile.stated()))
                .fix(Limit::Nofile.raise()),
            e => failed(e),
        };

        let mut targets = locked(&TARGETS);
        let is_target = targets.contains_key(&number);
        // The three standard ones are this process's own too: nothing is placed there.
        if number > 2 && !is_target && original.as_raw_fd() == number {
            return Ok(Self { number, place: Place::There(original), _original: None });
        }
        let there = match fcntl_dupfd_cloexec(&original, number) {
            Ok(there) if there.as_raw_fd() == number && number > 2 => Some(there),
            Ok(_) | Err(Errno::MFILE) => None,
            Err(e) => return Err(none_left(e)),
        };
        let place = match there {
            Some(there) if !is_target => Place::There(there),
            reservation => {
                let mut lowest = 3;
                let source = loop {
                    let source = fcntl_dupfd_cloexec(&original, lowest).map_err(none_left)?;
                    let at = source.as_raw_fd();
                    if at != number && !targets.contains_key(&at) {
                        break source;
                    }
                    lowest = at + 1;
                };
                *targets.entry(number).or_default() += 1;
                let occupant = identity(number);
                Place::Elsewhere { source, _reservation: reservation, occupant }
            }
        };
        Ok(Self { number, place, _original: Some(original) })
    }

    /// In the child.
    pub(super) fn apply(&self) -> io::Result<()> {
        let (source, occupant) = match &self.place {
            Place::There(fd) => return Ok(fcntl_setfd(fd, FdFlags::empty())?),
            Place::Elsewhere { source, occupant, .. } => (source, *occupant),
        };
        if self.number > 2 && identity(self.number) != occupant && is_channel(self.number) {
            return Err(Errno::BUSY.into());
        }
        // SAFETY: dup2 touches no memory. What it closes is the child's copy of something that
        // belongs to the parent, or an earlier grant of this command for the same number.
        if unsafe { libc::dup2(source.as_raw_fd(), self.number) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if let Place::Elsewhere { .. } = self.place {
            let mut targets = locked(&TARGETS);
            if let Some(count) = targets.get_mut(&self.number) {
                *count -= 1;
                if *count == 0 {
                    targets.remove(&self.number);
                }
            }
        }
    }
}

/// Device and inode of what has this number.
fn identity(number: RawFd) -> Option<(u64, u64)> {
    // SAFETY: only asked about, whoever owns it; fstat(2) says EBADF where it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    fstat(fd).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether this may be where std reports from the child that a start failed, which is one end of a
/// UNIX seqpacket pair.
fn is_channel(number: RawFd) -> bool {
    // SAFETY: only asked about, whoever owns it; the calls say EBADF where it is not open.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    matches!(sockopt::socket_domain(fd), Ok(AddressFamily::UNIX))
        && matches!(sockopt::socket_type(fd), Ok(SocketType::SEQPACKET))
}
