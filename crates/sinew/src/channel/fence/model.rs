//! The kernel's fence in the model checker: it passes through each processor between two instructions.
//!
//! Who runs on a processor passes, before each access, through a place of that processor, by an exchange with acquire and release;
//! the kernel's fence passes through the places of all. So what one did before it passed last is seen by the caller, and what
//! the caller did is seen by whatever one does from its next passing on. The one access between the two has no place: it may be
//! before the fence or behind it. Nothing else comes from this: two who pass their own places are ordered by nothing.

use std::sync::atomic::Ordering::{AcqRel, SeqCst};

use loom::sync::atomic::{AtomicUsize, fence};

/// How many processors there are.
const CPUS: usize = 3;

loom::lazy_static! {
    static ref PLACES: [AtomicUsize; CPUS] = std::array::from_fn(|_| AtomicUsize::new(0));
}

/// Makes the places, before anybody runs: who makes them orders others behind itself.
pub(crate) fn boot() {
    let _ = PLACES.len();
}

/// Before each access of who runs there.
pub(crate) fn pass(cpu: usize) {
    PLACES[cpu].fetch_add(1, AcqRel);
}

/// As membarrier(2).
pub(super) fn membarrier() {
    fence(SeqCst);
    for place in PLACES.iter() {
        place.fetch_add(1, AcqRel);
    }
    fence(SeqCst);
}
