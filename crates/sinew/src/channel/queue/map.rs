#![allow(unsafe_code, reason = "words in mapped memory, without a check at each use")]
//! The slots of a lane and the bits of the workers in mapped memory.

use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::crew::Crew;
use super::recovery::Successor;
use super::slots::{Field, SLOT, Swap, Table};
use crate::channel::attach::Events;
use crate::channel::lane::{Lane, Side};
use crate::channel::layout::{ASLEEP_AT, Shape};
use crate::channel::memory::{Memory, ReceiverField, SenderField};
use crate::channel::presence::{Presence, Seen};
use crate::mapping::Mapping;
use crate::sync::word::{ALL, Word};

impl Swap for AtomicU64 {
    #[inline]
    fn compare_exchange(
        &self,
        current: u64,
        new: u64,
        success: Ordering,
        failure: Ordering,
    ) -> Result<u64, u64> {
        Self::compare_exchange(self, current, new, success, failure)
    }

    #[inline]
    fn fetch_or(&self, bits: u64, order: Ordering) -> u64 {
        Self::fetch_or(self, bits, order)
    }

    #[inline]
    fn fetch_and(&self, bits: u64, order: Ordering) -> u64 {
        Self::fetch_and(self, bits, order)
    }
}

/// A lane of a queue: its words, its slots, and the bytes of its messages. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Slots {
    /// It keeps the map, in which the other points. Its records are the bytes of the messages.
    pub(super) lane: Lane,
    base: NonNull<u8>,
    count: u64,
}

// SAFETY: the pointer is into the map, which is kept, and which any thread may use; the words are atomics.
unsafe impl Send for Slots {}
// SAFETY: as above.
unsafe impl Sync for Slots {}

impl Slots {
    /// Lane number `index` of a queue of this shape, which was read from this map, or written to it.
    pub(crate) fn of(map: &Arc<Mapping>, shape: &Shape, index: u64) -> Self {
        let lane = Lane::of(map, shape, index);
        assert!(shape.slots.is_power_of_two(), "a queue");
        let at = map.as_mut_ptr().wrapping_add(shape.slots_at(index));
        Self { lane, base: NonNull::new(at).expect("in the map"), count: shape.slots }
    }
}

impl Table for Slots {
    type Word = AtomicU64;

    #[inline]
    fn slots(&self) -> u64 {
        self.count
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.lane.capacity()
    }

    #[inline]
    fn word(&self, number: u64, field: Field) -> &AtomicU64 {
        let at = (number & (self.count - 1)) * SLOT + field as u64 * 8;
        // SAFETY: the lane has `count` slots, a power of two, from `base`, which is the beginning of a page; a field is
        // inside of a slot. Everybody uses it as an atomic; the map is kept.
        unsafe {
            &*self.base.as_ptr().wrapping_add(at as usize).cast::<c_void>().cast::<AtomicU64>()
        }
    }

    #[inline]
    fn sender(&self, field: SenderField) -> &AtomicU64 {
        self.lane.sender(field)
    }

    #[inline]
    fn hint(&self) -> &AtomicU64 {
        // No one receiver has a place in a lane of a queue: the words of one are all workers'.
        self.lane.receiver(ReceiverField::Head)
    }
}

/// The workers of a queue, with their bells.
#[derive(Clone, Debug)]
pub(crate) struct Workers {
    sides: Arc<[Side]>,
    asleep: NonNull<AtomicU64>,
}

// SAFETY: as for `Slots`; the sides keep the map.
unsafe impl Send for Workers {}
// SAFETY: as above.
unsafe impl Sync for Workers {}

impl Workers {
    /// Those of a queue of this shape, which was read from this map, or written to it.
    pub(crate) fn of(map: &Arc<Mapping>, shape: &Shape, events: &Events) -> Self {
        let side = |i| Side::of_receiver(map, shape, i).with_event(events.receiver(i));
        let sides = (0..shape.receivers).map(side).collect();
        let word = map.atomic_u64_at(ASLEEP_AT).expect("in the header");
        Self { sides, asleep: NonNull::from(word) }
    }

    pub(super) fn side(&self, worker: u64) -> &Side {
        &self.sides[worker as usize]
    }

    /// Whether none is there, and none will come.
    pub(super) fn are_gone(&self, successor: Successor) -> bool {
        let presences = || self.sides.iter().map(|side| Seen::at(side).presence);
        let ends = |presence| match presence {
            Presence::Left => successor != Successor::Always,
            Presence::Died => successor == Successor::Never,
            Presence::Never | Presence::Here => false,
        };
        presences().all(|presence| presence != Presence::Here) && presences().any(ends)
    }
}

impl Crew for Workers {
    type Bits = AtomicU64;
    type Bell = AtomicU32;

    #[inline]
    fn asleep(&self) -> &AtomicU64 {
        // SAFETY: a word of the header, which the sides keep mapped; everybody uses it as an atomic.
        unsafe { self.asleep.as_ref() }
    }

    #[inline]
    fn workers(&self) -> u64 {
        self.sides.len() as u64
    }

    #[inline]
    fn bell(&self, worker: u64) -> &AtomicU32 {
        self.sides[worker as usize].bell().word
    }

    fn ring(&self, worker: u64) -> bool {
        self.bell(worker).fetch_add(1, Ordering::Release);
        let woken = self.bell(worker).wake(ALL) > 0;
        self.sides[worker as usize].ring_event();
        woken
    }
}
