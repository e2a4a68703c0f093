//! Time: the counter of the processor for what takes nanoseconds, the kernel's clock for the rest.

#![allow(unsafe_code, reason = "reads the counter of the processor")]

use std::time::Instant;

/// Now, in ticks of the processor's counter where there is one, else in nanoseconds.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// As above.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
pub(crate) fn ticks() -> u64 {
    nanoseconds()
}

/// Now, on the clock that all processes have in common.
pub(crate) fn nanoseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

/// Both clocks from one moment on: how long a tick is.
#[derive(Debug)]
pub(crate) struct Scale {
    ticks: u64,
    begin: Instant,
}

impl Scale {
    pub(crate) fn begin() -> Self {
        Self { ticks: ticks(), begin: Instant::now() }
    }

    /// Nanoseconds of a tick, by the time since the beginning.
    pub(crate) fn nanoseconds(&self) -> f64 {
        let elapsed = self.begin.elapsed().as_nanos() as f64;
        elapsed / (ticks() - self.ticks).max(1) as f64
    }
}

/// Busy for so many nanoseconds.
pub(crate) fn pause(ns: u64) {
    let end = nanoseconds() + ns;
    while nanoseconds() < end {
        std::hint::spin_loop();
    }
}
