//! What the participants of one crash tell the driver, in memory that all of them share.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use super::Outcome;
use super::process::now;
use super::stepper::{Mark, mark};

/// How many processes besides the victim.
pub(super) const SLOTS: usize = 10;
const TEXT: usize = 400;

/// All zero at the beginning. Everything is written by live participants only, one after the
/// other or through atomics; the driver reads it when they have ended.
#[repr(C)]
pub(super) struct Control {
    /// How many survivors are inside of what only one may be in.
    inside: AtomicU32,
    victim_inside: AtomicU32,
    /// Set by the driver just before it kills.
    pub(super) killed: AtomicU32,
    doubles: AtomicU32,
    slots: [Slot; SLOTS],
}

#[repr(C)]
struct Slot {
    /// 1: about to do what may sleep. 2: done well. 3: done badly.
    state: AtomicU32,
    /// When it was inside first.
    entered: AtomicU64,
    length: AtomicU32,
    text: [AtomicU8; TEXT],
}

const STARTED: u32 = 1;
const WELL: u32 = 2;
const BADLY: u32 = 3;

/// The page of the control, shared with every fork.
#[derive(Debug)]
pub(super) struct Page(NonNull<Control>);

impl Page {
    pub(super) fn new() -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a new map at an address of the kernel's choice.
        let map = unsafe {
            libc::mmap(std::ptr::null_mut(), size_of::<Control>(), protection, flags, -1, 0)
        };
        match NonNull::new(map.cast::<Control>()) {
            Some(page) if map != libc::MAP_FAILED => Ok(Self(page)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(super) fn control(&self) -> &Control {
        // SAFETY: mapped until this is dropped, zero is a valid value of every field, and all fields
        // are atomics.
        unsafe { self.0.as_ref() }
    }

    /// Makes it as new. No participant is left.
    pub(super) fn clear(&self) {
        // SAFETY: as above; nobody else looks at it now, and zero is valid.
        unsafe { self.0.write_bytes(0, 1) };
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and borrowed by nobody any more.
        unsafe { libc::munmap(self.0.as_ptr().cast(), size_of::<Control>()) };
    }
}

impl Control {
    pub(super) fn started(&self, slot: usize) -> bool {
        self.slots[slot].state.load(Ordering::Acquire) >= STARTED
    }

    /// When it was inside first, if it ever was.
    pub(super) fn entered(&self, slot: usize) -> Option<u64> {
        Some(self.slots[slot].entered.load(Ordering::Acquire)).filter(|time| *time != 0)
    }

    /// How often two were inside at once.
    pub(super) fn doubles(&self) -> u32 {
        self.doubles.load(Ordering::Acquire)
    }

    /// What it reported, if it came to that.
    pub(super) fn outcome(&self, slot: usize) -> Option<Outcome> {
        let slot = &self.slots[slot];
        let length = usize::try_from(slot.length.load(Ordering::Acquire)).ok()?.min(TEXT);
        let bytes: Vec<u8> =
            slot.text[..length].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        let text = String::from_utf8_lossy(&bytes).into_owned();
        match slot.state.load(Ordering::Acquire) {
            WELL => Some(Ok(text)),
            BADLY => Some(Err(text)),
            _ => None,
        }
    }

    pub(super) fn start(&self, slot: usize) {
        self.slots[slot].state.store(STARTED, Ordering::Release);
    }

    pub(super) fn report(&self, slot: usize, outcome: &Outcome) {
        let (state, text) = match outcome {
            Ok(text) => (WELL, text),
            Err(text) => (BADLY, text),
        };
        let slot = &self.slots[slot];
        for (to, byte) in slot.text.iter().zip(text.bytes()) {
            to.store(byte, Ordering::Relaxed);
        }
        let length = u32::try_from(text.len().min(TEXT)).unwrap_or(0);
        slot.length.store(length, Ordering::Release);
        slot.state.store(state, Ordering::Release);
    }
}

/// What a participant says while it does its part.
#[derive(Clone, Copy)]
pub struct Stage<'a> {
    pub(super) control: &'a Control,
    /// None: the victim.
    pub(super) slot: Option<usize>,
}

impl std::fmt::Debug for Stage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("slot", &self.slot).finish_non_exhaustive()
    }
}

impl Stage<'_> {
    /// Where, in the operation of the victim, the others fall asleep. Elsewhere it does nothing.
    #[inline]
    pub fn pause(&self) {
        if self.slot.is_none() {
            mark(Mark::Pause);
        }
    }

    /// Says that this process is inside of what only one may be in. The driver takes the time.
    #[inline]
    pub fn enter(&self) {
        let control = self.control;
        if self.slot.is_none() {
            control.victim_inside.store(1, Ordering::SeqCst);
            if control.inside.load(Ordering::SeqCst) != 0 {
                control.doubles.fetch_add(1, Ordering::SeqCst);
            }
            return;
        }
        self.note();
        let others = control.inside.fetch_add(1, Ordering::SeqCst);
        // Whoever else can come in does so now.
        std::thread::yield_now();
        let victim = control.victim_inside.load(Ordering::SeqCst) == 1
            && control.killed.load(Ordering::SeqCst) == 0;
        if others != 0 || control.inside.load(Ordering::SeqCst) != 1 || victim {
            control.doubles.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Says that what it slept for has come. The driver takes the time.
    pub fn note(&self) {
        if let Some(slot) = self.slot {
            let entered = &self.control.slots[slot].entered;
            let _ = entered.compare_exchange(0, now(), Ordering::SeqCst, Ordering::SeqCst);
        }
    }

    /// Which of those who are there this is, from 0; none for the victim.
    #[must_use]
    pub fn number(&self) -> Option<usize> {
        self.slot
    }

    /// Whether the victim has been killed, or is about to be.
    #[must_use]
    pub fn killed(&self) -> bool {
        self.control.killed.load(Ordering::SeqCst) == 1
    }

    /// Says that it is about to leave.
    #[inline]
    pub fn leave(&self) {
        match self.slot {
            None => self.control.victim_inside.store(0, Ordering::SeqCst),
            Some(_) => {
                self.control.inside.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }
}
