#![allow(unsafe_code, reason = "words and records in mapped memory, without a check at each use")]
//! A lane in mapped memory, and the words of those who sleep.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::bell::doorbell::{self, Event, Readable};
use super::bell::{Bell, Rung};
use super::fence::Fencing;
use super::layout::Shape;
use super::memory::{Memory, ReceiverField, SenderField};
use super::ring::overtake::MOST_PINS;
use crate::mapping::Mapping;

// Of the words of a lane. What the sender writes at each message; its side (see `Side`), with the bell; what
// the receiver writes at each message; its pins.
pub(crate) const SENDER_AT: usize = 0;
pub(crate) const SENDER_SIDE_AT: usize = 128;
pub(crate) const RECEIVER_AT: usize = 384;
/// What it looks at, and has borrowed, where the sender overtakes; and the numbers of that.
pub(crate) const PINS_AT: usize = 512;
const PINNED_AT: usize = PINS_AT + 8 * MOST_PINS;
/// Of a side: the bell, apart from what only the owner writes.
pub(crate) const BELL_AT: usize = 128;

/// A lane: its words and records. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    /// It keeps the map, in which the others point.
    map: Arc<Mapping>,
    words: NonNull<u8>,
    records: NonNull<u8>,
    capacity: u64,
}

// SAFETY: the pointers are into the map, which is kept, and which any thread may use; the words are atomics,
// and who may touch which records is what the ring is about.
unsafe impl Send for Lane {}
// SAFETY: as above.
unsafe impl Sync for Lane {}

impl Lane {
    /// Lane number `index` of a channel of this shape, which was read from this map, or written to it.
    pub(crate) fn of(map: &Arc<Mapping>, shape: &Shape, index: u64) -> Self {
        let (words, records) = shape.lane_at(index);
        assert!(shape.bytes() <= map.len() as u64 && map.is_writable(), "the shape is the map's");
        let at = |offset| NonNull::new(map.as_mut_ptr().wrapping_add(offset)).expect("in the map");
        Self {
            map: Arc::clone(map),
            words: at(words),
            records: at(records),
            capacity: shape.capacity,
        }
    }

    /// The words of the sender that it writes seldom, and its bell.
    pub(crate) fn sender_side(&self) -> Side {
        // SAFETY: a lane has `layout::LANE` bytes from `words`, which this is inside of.
        let base = unsafe { self.words.add(SENDER_SIDE_AT) };
        Side { _map: Arc::clone(&self.map), base, event: None }
    }

    #[inline]
    fn word_at(&self, offset: usize) -> &AtomicU64 {
        debug_assert!(offset.is_multiple_of(8) && offset < super::layout::LANE as usize);
        // SAFETY: inside of the lane's words, a constant of this file; aligned, as every block is. Everybody uses
        // it as an atomic.
        unsafe { &*words_at(self.words, offset).cast::<AtomicU64>() }
    }

    #[inline]
    fn byte(&self, position: u64) -> *mut u8 {
        // Inside of the records, of which there are `capacity` bytes, a power of two.
        self.records.as_ptr().wrapping_add((position & (self.capacity - 1)) as usize)
    }

    #[inline]
    fn holds(&self, position: u64, len: usize) -> bool {
        len as u64 <= self.capacity - (position & (self.capacity - 1))
    }

    /// The bytes from a position.
    ///
    /// # Safety
    /// Nobody writes them as long as the slice lives: they are a message that was received and is not
    /// released, of a sender that is trusted to leave it alone.
    #[inline]
    pub(crate) unsafe fn bytes(&self, position: u64, len: usize) -> &[u8] {
        assert!(self.holds(position, len), "checked by the ring");
        // SAFETY: inside of the records, checked above, which are mapped and initialised (a memfd is zeros); the rest is the caller's.
        unsafe { std::slice::from_raw_parts(self.byte(position), len) }
    }

    /// The bytes from a position, to write them.
    ///
    /// # Safety
    /// Nobody else reads or writes them as long as the slice lives: they are reserved for a message that is not
    /// committed.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "who may write is what the ring is about")]
    pub(crate) unsafe fn bytes_mut(&self, position: u64, len: usize) -> &mut [u8] {
        assert!(self.holds(position, len), "checked by the ring");
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts_mut(self.byte(position), len) }
    }
}

impl Memory for Lane {
    type Word = AtomicU64;

    #[inline]
    fn sender(&self, field: SenderField) -> &AtomicU64 {
        self.word_at(SENDER_AT + field as usize * 8)
    }

    #[inline]
    fn receiver(&self, field: ReceiverField) -> &AtomicU64 {
        self.word_at(RECEIVER_AT + field as usize * 8)
    }

    #[inline]
    fn pin(&self, index: usize) -> &AtomicU64 {
        assert!(index < MOST_PINS, "a pin");
        self.word_at(PINS_AT + index * 8)
    }

    #[inline]
    fn pinned(&self, index: usize) -> &AtomicU64 {
        assert!(index < MOST_PINS, "a pin");
        self.word_at(PINNED_AT + index * 8)
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline]
    fn word(&self, position: u64) -> &AtomicU64 {
        // SAFETY: masked and rounded down, so inside of the records and aligned. The headers of records are used as atomics
        // by everybody; bytes of a message that lie here are not used at the same time.
        unsafe { &*self.byte(position & !7).cast::<c_void>().cast::<AtomicU64>() }
    }

    #[inline]
    fn write(&self, position: u64, bytes: &[u8]) {
        assert!(self.holds(position, bytes.len()), "reserved before");
        // SAFETY: inside of the records, checked above; no slice of them exists in this process, and they
        // are reserved for this message.
        unsafe { copy(bytes.as_ptr(), self.byte(position), bytes.len()) };
    }

    #[inline]
    fn read(&self, position: u64, bytes: &mut [u8]) {
        assert!(self.holds(position, bytes.len()), "checked by the ring");
        // SAFETY: inside of the records, checked above; they are a committed message, which its sender leaves
        // alone until it is released.
        unsafe { copy(self.byte(position), bytes.as_mut_ptr(), bytes.len()) };
    }
}

/// As `ptr::copy_nonoverlapping`, without a call for the sizes of small messages.
///
/// # Safety
/// As for `ptr::copy_nonoverlapping`.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    /// Two pieces that overlap in the middle.
    #[inline]
    unsafe fn two<const N: usize>(from: *const u8, to: *mut u8, len: usize) {
        // From here the last `N` bytes.
        let last = len - N;
        let (from_last, to_last) = (from.wrapping_add(last), to.wrapping_add(last));
        let (from, to) = (from.cast::<[u8; N]>(), to.cast::<[u8; N]>());
        let (from_last, to_last) = (from_last.cast::<[u8; N]>(), to_last.cast::<[u8; N]>());
        // SAFETY: `len` is at least `N`, by the caller; the rest is the caller's promise.
        let first_piece = unsafe { from.read_unaligned() };
        // SAFETY: as above.
        let last_piece = unsafe { from_last.read_unaligned() };
        // SAFETY: as above.
        unsafe { to.write_unaligned(first_piece) };
        // SAFETY: as above.
        unsafe { to_last.write_unaligned(last_piece) };
    }
    match len {
        // SAFETY: the caller's, and the length is at least that of a piece.
        8..=16 => unsafe { two::<8>(from, to, len) },
        // SAFETY: as above.
        17..=32 => unsafe { two::<16>(from, to, len) },
        // SAFETY: as above.
        33..=64 => unsafe { two::<32>(from, to, len) },
        // SAFETY: the caller's.
        _ => unsafe { ptr::copy_nonoverlapping(from, to, len) },
    }
}

/// An address in a block of words, all of which are aligned.
#[inline]
const fn words_at(block: NonNull<u8>, offset: usize) -> *const c_void {
    block.as_ptr().wrapping_add(offset).cast()
}

/// What one who may sleep writes seldom, and its bell. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// It keeps the map, in which the other points.
    _map: Arc<Mapping>,
    base: NonNull<u8>,
    /// Its doorbell, where members have one.
    event: Option<Event>,
}

// SAFETY: as for `Lane`.
unsafe impl Send for Side {}
// SAFETY: as for `Lane`.
unsafe impl Sync for Side {}

/// The words of a side, which only its owner writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum SideField {
    /// Zero, or the number of the sleep, and whether others fence: see `Bell`.
    Sleeping = 0,
    /// The number of its last sleep, and of its predecessors': how often they slept.
    Sleeps = 1,
    /// On which CPU it ran when it last looked, and one; zero if it is not known.
    Cpu = 2,
    /// Whether it is open, closed or dead: see `Presence`.
    Presence = 3,
    /// How often it rang for others.
    Rung = 4,
    /// The most bytes that were in the lane when it looked.
    HighWater = 5,
    /// Of a queue's worker, how many messages it was done with, and how many bytes were in them. In a line of their own:
    /// the others are read by senders.
    Received = 8,
    Bytes = 9,
}

impl Side {
    /// The words of receiver number `index` of a channel of this shape, which was read from this map, or
    /// written to it.
    pub(crate) fn of_receiver(map: &Arc<Mapping>, shape: &Shape, index: u64) -> Self {
        assert!(shape.bytes() <= map.len() as u64 && map.is_writable(), "the shape is the map's");
        let at = map.as_mut_ptr().wrapping_add(shape.receiver_at(index));
        Self { _map: Arc::clone(map), base: NonNull::new(at).expect("in the map"), event: None }
    }

    #[inline]
    pub(crate) fn word(&self, field: SideField) -> &AtomicU64 {
        // SAFETY: a side has 256 bytes, and begins at a multiple of 128; everybody uses it as an atomic; the
        // map is kept.
        unsafe { &*words_at(self.base, field as usize * 8).cast::<AtomicU64>() }
    }

    /// Adds to what only its owner counts, who calls this.
    #[inline]
    pub(crate) fn count(&self, field: SideField, more: u64) {
        let word = self.word(field);
        word.store(word.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
    }

    /// Notes how full the lane was, if it never was so full.
    pub(crate) fn note_fill(&self, fill: u64) {
        let high = self.word(SideField::HighWater);
        if fill > high.load(Ordering::Relaxed) {
            high.store(fill, Ordering::Relaxed);
        }
    }

    /// The same, with its doorbell.
    pub(crate) fn with_event(self, event: Option<&Event>) -> Self {
        Self { event: event.cloned(), ..self }
    }

    /// Its doorbell, if it has one.
    pub(crate) fn event(&self) -> Option<&Event> {
        self.event.as_ref()
    }

    /// Rings if it sleeps and this peer has not rung for that yet. See [`Bell::ring_if_asleep`].
    #[inline]
    pub(crate) fn ring_if_asleep(&self, rung: &mut Rung, fencing: Fencing) -> bool {
        self.bell().ring_if_asleep(rung, fencing, || {
            if let Some(event) = &self.event {
                event.ring();
            }
        })
    }

    /// Rings whether it sleeps or not.
    pub(crate) fn ring(&self) {
        self.bell().ring();
        self.ring_event();
    }

    /// Makes the doorbell readable, if it is by that that it is woken: after its bell was rung.
    #[cold]
    pub(crate) fn ring_event(&self) {
        if let Some(event) = &self.event {
            doorbell::ring_if_armed(self.bell(), event, Fencing::of(false));
        }
    }

    #[inline]
    pub(crate) fn bell(&self) -> Bell<'_, AtomicU64, AtomicU32> {
        // SAFETY: as above.
        let word = unsafe { &*words_at(self.base, BELL_AT).cast::<AtomicU32>() };
        let (sleeping, sleeps) = (self.word(SideField::Sleeping), self.word(SideField::Sleeps));
        Bell { sleeping, sleeps, word }
    }
}
