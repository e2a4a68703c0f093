//! Looking for a moment before sleeping, while the other side is at work on another CPU.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use super::lane::{Side, SideField};
use crate::sync::robust;

/// For how long: about what going to sleep and being woken costs on another CPU that idles.
const FOR: Duration = Duration::from_micros(20);
/// How often it looks between two looks at the clock.
const ROUND: u32 = 64;

/// Looks as long as that may help: while `peer` was last seen on another CPU than this one. `glance` is the quick look
/// between two whole ones: whether `look` would find something.
#[inline]
pub(super) fn spin<T>(
    peer: &Side,
    glance: impl Fn() -> bool,
    mut look: impl FnMut() -> Option<T>,
) -> Option<T> {
    // From here on this thread knows its CPU.
    let _ = robust::Thread::current();
    let elsewhere = || {
        let (own, cpu) = (robust::current_cpu(), peer.word(SideField::Cpu).load(Relaxed));
        cpu != 0 && own != 0 && cpu != u64::from(own)
    };
    if !elsewhere() {
        return None;
    }
    let mut end = None;
    loop {
        for _ in 0..ROUND {
            if glance() {
                break;
            }
            spin_loop();
        }
        if let Some(found) = look() {
            return Some(found);
        }
        let now = Instant::now();
        if now >= *end.get_or_insert(now + FOR) || !elsewhere() {
            return None;
        }
    }
}

/// Tells the other side on which CPU this one runs, if that has changed.
#[inline]
pub(super) fn tell_cpu(side: &Side, told: &mut u32) {
    let cpu = robust::current_cpu();
    if cpu != *told {
        *told = cpu;
        side.word(SideField::Cpu).store(u64::from(cpu), Relaxed);
    }
}
