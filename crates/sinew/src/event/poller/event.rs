//! What is asked for, and what is told.

use std::fmt;
use std::ops::BitOr;

use rustix::event::epoll::{self, EventFlags};

/// A number of yours, by which an event says what it is about: an index, a key, a constant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// What about a descriptor gives events.
///
/// Errors and hang-ups always do, asked for or not.
///
/// ```
/// use sinew::poller::Interest;
///
/// let both = Interest::READABLE | Interest::WRITABLE;
/// let once = Interest::READABLE.edge().one_shot();
/// # assert_ne!(both, once);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interest(EventFlags);

impl Interest {
    /// Only errors and hang-ups. Such a registration is a way to pause a source; one that hung up
    /// gives events all the same, and has to be dropped.
    pub const NONE: Self = Self(EventFlags::empty());
    /// Something can be received or accepted, or the other side sends no more.
    pub const READABLE: Self = Self(EventFlags::IN.union(EventFlags::RDHUP));
    /// Something can be sent.
    pub const WRITABLE: Self = Self(EventFlags::OUT);
    /// Something out of the ordinary: urgent data of TCP, a change of a file in /proc or of a cgroup.
    pub const PRIORITY: Self = Self(EventFlags::PRI);

    /// Gives an event when it becomes so, or more comes, and not again while it stays so. Take
    /// everything then, until `Empty`: what is left gives no event by itself.
    #[must_use]
    pub const fn edge(self) -> Self {
        Self(self.0.union(EventFlags::ET))
    }

    /// Gives one event, and then none until [`modify`](super::Registered::modify). For threads that
    /// share a poller: no two work at the same source.
    #[must_use]
    pub const fn one_shot(self) -> Self {
        Self(self.0.union(EventFlags::ONESHOT))
    }

    /// Where several pollers, of several processes say, watch the same object, wakes one or some of them and not
    /// all. With [`READABLE`](Self::READABLE) and [`WRITABLE`](Self::WRITABLE) only, without
    /// [`one_shot`](Self::one_shot), and never changed. The other side's end is then told by
    /// reading it only.
    #[must_use]
    pub const fn exclusive(self) -> Self {
        Self(self.0.union(EventFlags::EXCLUSIVE))
    }

    pub(super) const fn flags(self) -> EventFlags {
        if self.0.contains(EventFlags::EXCLUSIVE) {
            // The kernel refuses the two together.
            self.0.difference(EventFlags::RDHUP)
        } else {
            self.0
        }
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0.union(other.0))
    }
}

/// That something happened: a hint to look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Event {
    token: Token,
    flags: EventFlags,
}

impl Event {
    /// The token of the registration.
    #[must_use]
    pub const fn token(self) -> Token {
        self.token
    }

    /// Whether receiving will not wait: something is there, or the end or an error is.
    #[must_use]
    pub const fn is_readable(self) -> bool {
        const READ: EventFlags =
            EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::HUP).union(EventFlags::ERR);
        self.flags.intersects(READ)
    }

    /// Whether sending will not wait: there is room, or nobody receives, or there is an error.
    #[must_use]
    pub const fn is_writable(self) -> bool {
        const WRITE: EventFlags = EventFlags::OUT.union(EventFlags::HUP).union(EventFlags::ERR);
        self.flags.intersects(WRITE)
    }

    /// Whether there is something out of the ordinary.
    #[must_use]
    pub const fn is_priority(self) -> bool {
        self.flags.contains(EventFlags::PRI)
    }

    /// Whether the other side sends no more. What it sent before may still be there: receive until
    /// `Closed`.
    #[must_use]
    pub const fn is_read_closed(self) -> bool {
        self.flags.intersects(EventFlags::RDHUP.union(EventFlags::HUP))
    }

    /// Whether the other side is gone (hung up) in both directions. What it sent before may still be
    /// there.
    #[must_use]
    pub const fn is_closed(self) -> bool {
        self.flags.contains(EventFlags::HUP)
    }

    /// Whether there is an error; the next call on it tells which. On the writing end of a pipe:
    /// nobody reads it.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.flags.contains(EventFlags::ERR)
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("token", &self.token.0).field("flags", &self.flags).finish()
    }
}

/// Room for the events of one wait, allocated once.
///
/// What does not fit comes with the next wait; nothing is lost.
pub struct Events(Vec<epoll::Event>);

/// More than this the kernel does not take in one call (`EP_MAX_EVENTS`).
const MOST: usize = i32::MAX as usize / size_of::<epoll::Event>();

impl Events {
    /// Room for so many; at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity.clamp(1, MOST)))
    }

    /// For how many there is room.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// How many the last wait gave.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the last wait gave none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The events of the last wait.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.0.iter())
    }

    /// Forgets them. Each wait does that first.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn list(&mut self) -> &mut Vec<epoll::Event> {
        &mut self.0
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = Event;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// The events of one wait, in the order in which the kernel gave them.
#[derive(Clone)]
pub struct Iter<'a>(std::slice::Iter<'a, epoll::Event>);

impl Iterator for Iter<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        // The kernel's record may be unaligned: its parts are copied.
        let epoll::Event { flags, data } = *self.0.next()?;
        Some(Event { token: Token(data.u64()), flags })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}

impl fmt::Debug for Iter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.clone()).finish()
    }
}
