//! A place that one thread at a time has in shared memory: a robust word, which the kernel marks when
//! that thread dies.

#![allow(unsafe_code, reason = "places stand in mapped memory, and in the thread's robust list")]

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::Access;

use super::robust::{LAST_TID, Node, TID_MASK, Thread};
use crate::mapping::Mapping;

/// How far apart places lie: each has a cache line.
pub(super) const SIZE: usize = 64;

const _: () = assert!(size_of::<Node>() <= SIZE && SIZE.is_multiple_of(align_of::<Node>()));

/// Whether `thread` is the calling one: not in a forked child.
#[inline]
pub(super) fn is_current(thread: Thread) -> bool {
    Thread::current()
        .is_ok_and(|now| (now.tid(), now.generation()) == (thread.tid(), thread.generation()))
}

/// A place in a map.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'m> {
    node: &'m Node,
}

impl<'m> Place<'m> {
    /// The place at `offset`; `None` if that is not inside the map, not aligned to [`SIZE`], or the map
    /// is read-only.
    #[inline]
    pub(super) fn at(map: &'m Mapping, offset: usize) -> Option<Self> {
        let fits = offset.checked_add(SIZE).is_some_and(|end| end <= map.len());
        if !fits || !map.is_writable() {
            return None;
        }
        // SAFETY: inside the map, checked.
        let address = unsafe { map.as_mut_ptr().add(offset) };
        if !address.addr().is_multiple_of(SIZE) {
            return None;
        }
        #[allow(clippy::cast_ptr_alignment, reason = "checked")]
        // SAFETY: inside the map, aligned and writable, checked; mapped as long as the borrow of the
        // map. A node is atomic words only, of which every bit pattern is a value.
        Some(Self { node: unsafe { &*address.cast::<Node>() } })
    }

    /// Who has it: see [`robust`](super::robust).
    #[inline]
    pub(super) fn word(self) -> &'m AtomicU32 {
        &self.node.word
    }

    /// One of the five words beside it, which are the lock's own.
    #[inline]
    pub(super) fn own(self, index: usize) -> &'m AtomicU32 {
        &self.node.own[index]
    }

    /// Lets `step` try to put this thread's number into the word, where nobody's is; `taken` says of what
    /// it gives whether that was done. The kernel marks the word if the thread dies from that instant on;
    /// if it dies before, though woken to go on, the kernel wakes the next.
    #[inline]
    pub(super) fn take<T>(
        self,
        thread: Thread,
        step: impl FnOnce(&'m AtomicU32) -> T,
        taken: impl FnOnce(&T) -> bool,
    ) -> T {
        thread.begin(self.word(), false);
        let done = step(self.word());
        if taken(&done) {
            // SAFETY: nobody had the word, so its last owner has unlinked the node or has ended. What the
            // caller makes of this borrows a handle that keeps the map, and unlinks when dropped; where it
            // is forgotten instead, the handle's drop finds that out and keeps the map: see `kept`.
            unsafe { thread.link(self.node, false) };
        }
        thread.end();
        done
    }

    /// The same for a word that is `seen` now: whether it could be replaced by `new`.
    #[inline]
    pub(super) fn replace(self, thread: Thread, seen: u32, new: u32) -> bool {
        let replace = |word: &AtomicU32| {
            word.compare_exchange(seen, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
        };
        self.take(thread, replace, |done| *done)
    }

    /// Gives it back: `release` changes the word, and wakes whoever has to know.
    #[inline]
    pub(super) fn give_back(self, thread: Thread, release: impl FnOnce(&'m AtomicU32)) {
        thread.begin(self.word(), false);
        // SAFETY: the caller has taken it in this thread, and gives it back once.
        unsafe { thread.unlink(self.node) };
        release(self.word());
        thread.end();
    }
}

/// For the drop of a handle: keeps the map for ever where a thread of this process has one of the places.
/// Guards borrow the handle, so one was forgotten (or belongs to another handle in the same map), and
/// the thread's list leads through the map.
pub(super) fn keep_if_had<'m>(map: &'m Arc<Mapping>, mut places: impl Iterator<Item = Place<'m>>) {
    let had_here = |place: Place<'_>| {
        let tid = place.word().load(Ordering::Relaxed) & TID_MASK;
        // Where /proc is not mounted nobody knows, and the map is kept.
        (1..=LAST_TID).contains(&tid)
            && (rustix::fs::access(format!("/proc/self/task/{tid}"), Access::EXISTS).is_ok()
                || rustix::fs::access("/proc/self/task", Access::EXISTS).is_err())
    };
    if places.any(had_here) {
        let _ = Arc::into_raw(Arc::clone(map));
    }
}

/// Places one after the other, with the map that they are in. For handles: checked once.
#[derive(Debug)]
pub(super) struct Row {
    first: NonNull<Node>,
    count: usize,
    map: Arc<Mapping>,
}

// SAFETY: nodes are atomic words only, and the map is kept.
unsafe impl Send for Row {}
// SAFETY: as above.
unsafe impl Sync for Row {}

impl Row {
    /// `count` places from `offset` on; `None` if one of them cannot be, see [`Place::at`].
    pub(super) fn at(map: &Arc<Mapping>, offset: usize, count: usize) -> Option<Self> {
        let end = count.checked_mul(SIZE).and_then(|bytes| offset.checked_add(bytes))?;
        let first = Place::at(map, offset)?.node;
        // Aligned as the first is.
        (count > 0 && end <= map.len()).then(|| Self {
            first: first.into(),
            count,
            map: Arc::clone(map),
        })
    }

    /// The place of this number, which is below the count.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Place<'_> {
        assert!(index < self.count, "a place beyond the last");
        // SAFETY: inside the map, checked by `at` and above.
        let node = unsafe { self.first.byte_add(index * SIZE) };
        // SAFETY: as in `Place::at`; the map is kept by `self`.
        Place { node: unsafe { node.as_ref() } }
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = Place<'_>> {
        (0..self.count).map(|index| self.get(index))
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        keep_if_had(&self.map, self.all());
    }
}
