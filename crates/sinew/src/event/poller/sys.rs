#![allow(unsafe_code, reason = "epoll_pwait2, which rustix does not call for a short time-out")]
//! The one call that waits, with its time-out in nanoseconds.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::time::Timespec;

use super::Events;
use crate::kernel::Feature;
use crate::syscall;

/// The longest that the older call waits: it counts milliseconds in an `int`.
const LONGEST: Duration = Duration::from_millis(i32::MAX as u64);

/// Takes the events that are there now.
pub(super) fn take(epoll: BorrowedFd<'_>, events: &mut Events) -> Result<usize, Errno> {
    epoll::wait(epoll, spare_capacity(events.list()), Some(&Timespec::default()))
}

/// Waits for events.
#[inline]
pub(super) fn wait_for_ever(epoll: BorrowedFd<'_>, events: &mut Events) -> Result<usize, Errno> {
    epoll::wait(epoll, spare_capacity(events.list()), None)
}

/// Waits for events as long as `left`. Zero events may come a little before or after that: the caller
/// looks at the clock.
pub(super) fn wait(
    epoll: BorrowedFd<'_>,
    events: &mut Events,
    left: Duration,
) -> Result<usize, Errno> {
    // A time too long for the kernel's clock is none.
    let Ok(timeout) = Timespec::try_from(left) else { return wait_for_ever(epoll, events) };
    if Feature::EpollPwait2.usable() {
        match wait_precisely(epoll, events, &timeout) {
            Err(Errno::NOSYS | Errno::PERM) => Feature::EpollPwait2.refused(),
            done => return done,
        }
    }
    // This rounds up to milliseconds.
    let timeout = Timespec::try_from(left.min(LONGEST)).unwrap_or(timeout);
    epoll::wait(epoll, spare_capacity(events.list()), Some(&timeout))
}

fn wait_precisely(
    epoll: BorrowedFd<'_>,
    events: &mut Events,
    timeout: &Timespec,
) -> Result<usize, Errno> {
    let list = events.list();
    list.clear();
    let arguments = [
        epoll.as_raw_fd().cast_unsigned() as usize,
        list.as_mut_ptr() as usize,
        list.capacity(),
        ptr::from_ref(timeout) as usize,
        // No signal mask; the sixth argument, its size, is not looked at then.
        0,
    ];
    // SAFETY: the kernel writes at most `capacity` records of its own layout, which rustix's type has,
    // into the spare room of the list, and reads one timespec, whose layout rustix's type has too.
    let count = unsafe { syscall::call(libc::SYS_epoll_pwait2, arguments)? };
    // SAFETY: the kernel has written `count` records, at most the capacity.
    unsafe { list.set_len(count) };
    Ok(count)
}
