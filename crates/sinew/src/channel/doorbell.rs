//! A descriptor that is readable while there is something to do, for programs with a loop of their own.
//!
//! It is an eventfd that all members have. At rest it is readable. Whoever has taken it and finds nothing arms it:
//! reads it to zero, says in its words that it sleeps by it, fences and looks again. From then on the other side, which
//! looks at those words after each change anyway, makes it readable, once for each arming.
//!
//! Source: eventfd(2).

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::bell::{BY_DOORBELL, Sleeps};
use super::fence::Fencing;
use super::lane::{Side, SideField};
use crate::error::{Error, ErrorKind, Result};
use crate::eventfd::{self, Counter, EventFd};
use crate::mechanism::Mechanism;
use crate::wait::Waits;

/// The doorbell of one side, as every member has it.
#[derive(Clone, Debug)]
pub(crate) struct Event(Arc<EventFd<Counter>>);

impl Event {
    /// A new one, at rest.
    pub(crate) fn new() -> Result<Self> {
        // Set before anybody else has it, and never changed: no call on it ever waits.
        let event = eventfd::Options::new().initial(1).nonblocking().counter()?;
        Ok(Self(Arc::new(event)))
    }

    /// One that was handed over.
    pub(crate) fn from_fd(fd: OwnedFd) -> Result<Self> {
        Ok(Self(Arc::new(EventFd::try_from(fd)?)))
    }

    /// A descriptor of it, to be handed over.
    pub(crate) fn to_fd(&self) -> Result<OwnedFd> {
        self.0.try_clone().map(OwnedFd::from)
    }

    /// Makes it readable.
    pub(crate) fn ring(&self) {
        // Full only where it is readable anyway.
        let _ = self.0.try_add(1);
    }

    fn clear(&self) {
        // Nothing to read where it is clear.
        let _ = self.0.try_wait();
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The doorbell of this end.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    taken: Cell<bool>,
    /// What the bell was when it was armed; none where it is at rest.
    armed: Cell<Option<u32>>,
}

impl Doorbell {
    /// The descriptor, which from now on is armed when nothing is found.
    pub(super) fn take<'a>(&self, side: &'a Side) -> Result<BorrowedFd<'a>> {
        let Some(event) = side.event() else {
            return Err(Error::new(ErrorKind::Unsupported, "take the doorbell")
                .on(Mechanism::Channel)
                .because("this end has none: only ends that came by a name or from `ends` and `pair` have"));
        };
        if !self.taken.replace(true) {
            // Whoever had it before may have left it armed.
            event.ring();
        }
        Ok(event.as_fd())
    }

    /// It was readable, and nobody looks at that any more: it is armed anew when nothing is found, even if the bell was not
    /// heard. Whoever made it readable does not do so again for the same number.
    pub(super) fn forget(&self) {
        self.armed.set(None);
    }

    /// Nothing was found: arms it. Gives what `look` finds after that, and then it is at rest.
    #[inline]
    pub(super) fn arm<T>(
        &self,
        side: &Side,
        sleeps: &Cell<Sleeps>,
        fencing: Fencing,
        look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        self.arm_with(side, sleeps, fencing, || (), look)
    }

    /// The same, where others are told by `tell` too that this end sleeps by it.
    #[inline]
    pub(super) fn arm_with<T>(
        &self,
        side: &Side,
        sleeps: &Cell<Sleeps>,
        fencing: Fencing,
        tell: impl FnOnce(),
        look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        if self.taken.get() { self.arm_taken(side, sleeps, fencing, tell, look) } else { None }
    }

    /// Whether it was armed, and not put at rest since.
    #[inline]
    pub(super) fn is_armed(&self) -> bool {
        self.armed.get().is_some()
    }

    #[cold]
    fn arm_taken<T>(
        &self,
        side: &Side,
        sleeps: &Cell<Sleeps>,
        fencing: Fencing,
        tell: impl FnOnce(),
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let event = side.event()?;
        let heard = side.bell().word.load(Acquire);
        if self.armed.get() == Some(heard) {
            // Nobody has rung since.
            return None;
        }
        event.clear();
        let mut last = sleeps.take();
        last.last = last.last.wrapping_add(1) & !BY_DOORBELL;
        side.word(SideField::Sleeps).store(last.last, Relaxed);
        side.word(SideField::Sleeping).store(last.last | BY_DOORBELL, Release);
        sleeps.set(last);
        self.armed.set(Some(heard));
        tell();
        let sure = fencing.before_sleep();
        // Partner: `ring_if_asleep`, as for who sleeps in a call.
        let found = look();
        if found.is_some() || !sure {
            self.rest(side);
        }
        found
    }

    /// Puts it at rest: before a call that sleeps, or that has found something.
    pub(super) fn rest(&self, side: &Side) {
        if self.armed.take().is_some()
            && let Some(event) = side.event()
        {
            side.word(SideField::Sleeping).store(0, Relaxed);
            event.ring();
        }
    }
}
