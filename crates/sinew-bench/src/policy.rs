//! The scheduling policy of a worker.

#![allow(unsafe_code, reason = "rustix has no call for scheduling policies")]

use std::io;

/// From now on a wake-up of this process preempts nobody: SCHED_BATCH, see sched(7).
///
/// Whether a sender on the same CPU is preempted by the receiver that it wakes hangs on
/// nanoseconds and changes the switches for each message by a quarter. That would be measured
/// instead of the mechanism, and would make a floor ratio a matter of luck.
pub(crate) fn wake_without_preempting() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the parameters, which are live; 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
