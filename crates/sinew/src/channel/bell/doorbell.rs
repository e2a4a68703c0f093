//! A descriptor that is readable while there is something to do, for programs with a loop of their own.
//!
//! It is an eventfd that all members have. At rest it is readable. Whoever has taken it and finds nothing arms it:
//! reads it to zero, says in its words that it sleeps by it, fences and looks again. From then on the other side, which
//! looks at those words after each change anyway, makes it readable, once for each arming.
//!
//! Who finds nothing again arms anew only if the bell was rung since, so that polling costs no system call. The other
//! makes the doorbell readable between two such rings. The first tells who is woken by it. The second tells who had armed anew already, for
//! whom it was readable in vain, and who clears it by arming once more: else its loop would go round until the next message.
//!
//! Source: eventfd(2).

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use super::{BY_DOORBELL, Bell, Sleeps};
use crate::channel::fence::Fencing;
use crate::channel::lane::Side;
use crate::channel::memory::Atom;
use crate::error::{Error, ErrorKind, Result};
use crate::eventfd::{self, Counter, EventFd};
use crate::mechanism::Mechanism;
use crate::sync::word::Word;
use crate::wait::Waits;

/// What is readable, or not.
pub(in crate::channel) trait Readable {
    /// Makes it readable.
    fn ring(&self);

    /// Makes it not.
    fn clear(&self);
}

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
}

impl Readable for Event {
    fn ring(&self) {
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

/// Makes it readable, if that is what its side sleeps by: after its bell was rung unasked.
pub(in crate::channel) fn ring_if_armed<A: Atom, W: Word>(
    bell: Bell<'_, A, W>,
    event: &impl Readable,
    fencing: Fencing,
) {
    // As in `ring_if_asleep`: between the change and the look at the sleeper's word.
    if !cfg!(sabotage = "doorbell-no-fence") {
        fencing.full();
    }
    if bell.sleeping.load(Acquire) & BY_DOORBELL != 0 {
        event.ring();
        bell.ring_again();
    }
}

/// The doorbell of this end.
#[derive(Debug, Default)]
pub(in crate::channel) struct Doorbell {
    taken: Cell<bool>,
    /// What the bell was when it was armed; none where it is at rest.
    armed: Cell<Option<u32>>,
}

impl Doorbell {
    /// The descriptor, which from now on is armed when nothing is found.
    pub(in crate::channel) fn take<'a>(&self, side: &'a Side) -> Result<BorrowedFd<'a>> {
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
    pub(in crate::channel) fn forget(&self) {
        self.armed.set(None);
    }

    /// Nothing was found: arms it, of an end that has `moved` so many messages. Gives what `look` finds after that, and then
    /// it is at rest.
    #[inline]
    pub(in crate::channel) fn arm<T>(
        &self,
        side: &Side,
        sleeps: &Cell<Sleeps>,
        fencing: Fencing,
        moved: impl FnOnce() -> u64,
        look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        self.arm_with(side, sleeps, fencing, moved, || (), look)
    }

    /// The same, where others are told by `tell` too that this end sleeps by it.
    #[inline]
    pub(in crate::channel) fn arm_with<T>(
        &self,
        side: &Side,
        sleeps: &Cell<Sleeps>,
        fencing: Fencing,
        moved: impl FnOnce() -> u64,
        tell: impl FnOnce(),
        look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let event = if self.taken.get() { side.event()? } else { return None };
        self.arm_taken((side.bell(), event), sleeps, fencing, moved, tell, look)
    }

    /// Whether it was armed, and not put at rest since.
    #[inline]
    pub(in crate::channel) fn is_armed(&self) -> bool {
        self.armed.get().is_some()
    }

    #[cold]
    pub(super) fn arm_taken<T, A: Atom, W: Word>(
        &self,
        (bell, event): (Bell<'_, A, W>, &impl Readable),
        sleeps: &Cell<Sleeps>,
        fencing: Fencing,
        moved: impl FnOnce() -> u64,
        tell: impl FnOnce(),
        mut look: impl FnMut() -> Option<T>,
    ) -> Option<T> {
        let heard = bell.word.load(Acquire);
        if self.armed.get() == Some(heard) {
            // Nobody has rung since.
            return None;
        }
        if !cfg!(sabotage = "doorbell-late-clear") {
            event.clear();
        }
        let mut number = sleeps.get().after(moved());
        let sure = bell.say_asleep(&mut number, fencing, BY_DOORBELL, tell);
        sleeps.set(number);
        self.armed.set(Some(heard));
        if cfg!(sabotage = "doorbell-late-clear") {
            event.clear();
        }
        // Partner: `ring_if_asleep`, as for who sleeps in a call.
        let found = if cfg!(sabotage = "doorbell-no-second-look") { None } else { look() };
        if found.is_some() || !sure {
            self.rest_armed(bell, event, sleeps);
        }
        found
    }

    /// Puts it at rest: before a call that sleeps.
    pub(in crate::channel) fn rest(&self, side: &Side, sleeps: &Cell<Sleeps>) {
        if let Some(event) = side.event() {
            self.rest_armed(side.bell(), event, sleeps);
        }
    }

    pub(super) fn rest_armed<A: Atom, W: Word>(
        &self,
        bell: Bell<'_, A, W>,
        event: &impl Readable,
        sleeps: &Cell<Sleeps>,
    ) {
        if self.armed.take().is_some() {
            let mut awake = sleeps.get();
            bell.say_awake(&mut awake);
            sleeps.set(awake);
            event.ring();
        }
    }
}
