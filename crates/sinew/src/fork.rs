#![allow(unsafe_code, reason = "maps a page that the kernel wipes in a child; keeps values")]
//! Where an object was made: in this process, or before a fork in an ancestor of it.
//!
//! A page holds a number that no ancestor's page ever held. The kernel gives a child a zeroed one
//! (`MADV_WIPEONFORK`), which then gets the next number. So a look is one load from memory.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

use crate::kernel::Feature;

/// The page, once it is there. It stays until the process ends.
static PAGE: AtomicPtr<AtomicU64> = AtomicPtr::new(ptr::null_mut());
/// The last number given out in this process or, before a fork, in an ancestor.
static LAST: AtomicU64 = AtomicU64::new(0);

/// The process in which an object was made: its number, or where no page can be wiped its process id
/// with [`BY_ID`], which costs a system call at each look.
#[derive(Debug)]
pub(crate) struct Origin(AtomicU64);

const BY_ID: u64 = 1 << 63;

impl Origin {
    /// This process.
    pub(crate) fn here() -> Self {
        Self(AtomicU64::new(this_process()))
    }

    /// Whether this process is the one.
    #[inline]
    pub(crate) fn is_here(&self) -> bool {
        // Relaxed: a process has its number before any object with it, and only a fork, of which the
        // child's memory is a copy, takes it away.
        let process = self.0.load(Ordering::Relaxed);
        if process & BY_ID != 0 {
            return process == by_id();
        }
        let page = PAGE.load(Ordering::Acquire);
        // SAFETY: an object with a number exists only where the page was set, and it is never
        // unmapped; see `page`.
        let page = unsafe { page.as_ref() };
        page.is_some_and(|page| page.load(Ordering::Relaxed) == process)
    }

    /// Makes this process the one: a forked child takes the object over.
    pub(crate) fn move_here(&self) {
        self.0.store(this_process(), Ordering::Relaxed);
    }
}

/// A value of which each process has one of its own: a forked child starts without its parent's.
///
/// A lock inside it is therefore never one that a thread of the parent held at the fork. What a child
/// gets in place of its parent's value stays allocated until it ends, and so does that.
#[derive(Debug)]
pub(crate) struct OfProcess<T: 'static>(AtomicPtr<Made<T>>);

#[derive(Debug)]
struct Made<T> {
    origin: Origin,
    value: T,
}

impl<T: Send + Sync> OfProcess<T> {
    pub(crate) const fn new() -> Self {
        Self(AtomicPtr::new(ptr::null_mut()))
    }

    /// The value of this process. Where it has none, one is made; of several threads one has its way.
    pub(crate) fn get(&'static self, make: fn() -> T) -> &'static T {
        let mut found = self.0.load(Ordering::Acquire);
        loop {
            // SAFETY: null, or what the exchange below published, which nothing frees or changes.
            if let Some(made) = unsafe { found.as_ref() }
                && made.origin.is_here()
            {
                return &made.value;
            }
            let new = Box::into_raw(Box::new(Made { origin: Origin::here(), value: make() }));
            // Released for those who load the pointer without having made the value.
            match self.0.compare_exchange(found, new, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => found = new,
                Err(others) => {
                    // SAFETY: it was made above, and nobody was told.
                    drop(unsafe { Box::from_raw(new) });
                    found = others;
                }
            }
        }
    }
}

/// What no other process of the family has, except, by id, one that reuses the id of an ancestor.
pub(crate) fn this_process() -> u64 {
    page().map_or_else(by_id, number)
}

fn by_id() -> u64 {
    u64::from(std::process::id()) | BY_ID
}

/// The number of this process; a new one if it has none yet.
fn number(page: &AtomicU64) -> u64 {
    let found = page.load(Ordering::Relaxed);
    if found != 0 {
        return found;
    }
    let new = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    // Relaxed: the number guards no other memory. Of several threads the first one has its way.
    match page.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => new,
        Err(others) => others,
    }
}

fn page() -> Option<&'static AtomicU64> {
    let mut found = PAGE.load(Ordering::Acquire);
    if found.is_null() {
        found = map_page()?;
    }
    // SAFETY: `map_page` put a whole mapped page there, zeroed or holding a number, and nothing
    // unmaps it after that.
    unsafe { found.as_ref() }
}

#[cold]
fn map_page() -> Option<*mut AtomicU64> {
    if !Feature::WipeOnFork.usable() {
        return None;
    }
    let made = match make_page() {
        Ok(made) => made,
        Err(errno) => {
            if errno == Errno::INVAL {
                Feature::WipeOnFork.refused();
            }
            return None;
        }
    };
    // Released for those who load the pointer without having made the page.
    match PAGE.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Some(made),
        Err(others) => {
            // SAFETY: this thread mapped it, and told nobody.
            let _ = unsafe { munmap(made.cast(), SIZE) };
            Some(others)
        }
    }
}

/// The kernel rounds it up to a page.
const SIZE: usize = size_of::<AtomicU64>();

fn make_page() -> Result<*mut AtomicU64, Errno> {
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    // SAFETY: a new mapping at an address that the kernel chooses touches no memory in use.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), SIZE, access, flags)? };
    // SAFETY: the page was made above; the advice changes what a child of a fork sees of it only.
    match unsafe { madvise(page, SIZE, Advice::LinuxWipeOnFork) } {
        Ok(()) => Ok(page.cast()),
        Err(errno) => {
            // SAFETY: as above, and nobody knows of it.
            let _ = unsafe { munmap(page, SIZE) };
            Err(errno)
        }
    }
}
