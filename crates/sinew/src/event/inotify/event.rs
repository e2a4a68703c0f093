//! What can be asked for, and what comes: `struct inotify_event`, typed.

use std::ffi::OsStr;
use std::fmt;
use std::mem::offset_of;
use std::ops::BitOr;
use std::os::unix::ffi::OsStrExt;

use libc::inotify_event as Raw;
use rustix::fs::inotify::WatchFlags;

use super::Watch;

/// Which events a watch is to give. Joined by `|`.
///
/// [`What::Ignored`], [`What::Unmounted`] and [`What::Overflow`] come in any case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Interest(u32);

impl Interest {
    /// [`What::Accessed`].
    pub const ACCESSED: Self = Self(libc::IN_ACCESS);
    /// [`What::Modified`].
    pub const MODIFIED: Self = Self(libc::IN_MODIFY);
    /// [`What::Attributes`].
    pub const ATTRIBUTES: Self = Self(libc::IN_ATTRIB);
    /// [`What::Opened`].
    pub const OPENED: Self = Self(libc::IN_OPEN);
    /// [`What::Written`].
    pub const WRITTEN: Self = Self(libc::IN_CLOSE_WRITE);
    /// [`What::Closed`].
    pub const CLOSED: Self = Self(libc::IN_CLOSE_NOWRITE);
    /// [`What::Created`].
    pub const CREATED: Self = Self(libc::IN_CREATE);
    /// [`What::Deleted`].
    pub const DELETED: Self = Self(libc::IN_DELETE);
    /// [`What::MovedFrom`] and [`What::MovedTo`].
    pub const MOVED: Self = Self(libc::IN_MOVE);
    /// [`What::SelfDeleted`] and [`What::SelfMoved`].
    pub const ITSELF: Self = Self(libc::IN_DELETE_SELF | libc::IN_MOVE_SELF);
    /// All of these.
    pub const ALL: Self = Self(libc::IN_ALL_EVENTS);

    /// The same, of a folder only: anything else is refused, as
    /// [`Mismatch`](crate::ErrorKind::Mismatch).
    #[must_use]
    pub const fn only_folder(self) -> Self {
        Self(self.0 | libc::IN_ONLYDIR)
    }

    /// The same, of a symbolic link itself, not of where it leads.
    #[must_use]
    pub const fn no_follow(self) -> Self {
        Self(self.0 | libc::IN_DONT_FOLLOW)
    }

    /// The same, once: the watch ends with its first event.
    #[must_use]
    pub const fn one_shot(self) -> Self {
        Self(self.0 | libc::IN_ONESHOT)
    }

    /// The same, but nothing of files that have no name in the folder any more and are still open.
    #[must_use]
    pub const fn named_only(self) -> Self {
        Self(self.0 | libc::IN_EXCL_UNLINK)
    }

    pub(super) const fn flags(self) -> WatchFlags {
        WatchFlags::from_bits_retain(self.0)
    }
}

impl BitOr for Interest {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Interest").field(&self.flags()).finish()
    }
}

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    watch: Option<Watch>,
    what: What,
    is_folder: bool,
    name: Option<&'a OsStr>,
}

/// What happened, to what is watched or to the [name](Event::name) in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// It was read.
    Accessed,
    /// It was written to or truncated; the writer may still be at it.
    Modified,
    /// Its mode, owner, times, extended attributes or number of links changed.
    Attributes,
    /// It was opened.
    Opened,
    /// Somebody who could write to it closed it: it is complete, as far as that one goes.
    Written,
    /// Somebody who could only read it closed it.
    Closed,
    /// The name is new: a file, a folder, a socket, a FIFO, or a link to an old file. A new file is
    /// usually empty still; [`Written`](Self::Written) follows.
    Created,
    /// The name was removed.
    Deleted,
    /// The name was taken away by a rename.
    MovedFrom(Cookie),
    /// The name was given by a rename, in place of what had it.
    MovedTo(Cookie),
    /// What is watched itself has no name left and nobody has it open: the watch ends.
    SelfDeleted,
    /// What is watched itself was renamed. The watch goes on.
    SelfMoved,
    /// Its file system was unmounted: the watch ends.
    Unmounted,
    /// The watch has ended: it was removed, it was a one-shot one, or what it watched is gone.
    Ignored,
    /// The queue was full, and events of any watch were lost: look.
    Overflow,
    /// Another event of the kernel, by its bits.
    Other(u32),
}

/// Joins the two halves of a rename. They need not follow each other, and one is missing where only
/// one of the folders is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(u32);

impl<'a> Event<'a> {
    /// Of which watch; `None` for [`What::Overflow`].
    #[must_use]
    pub const fn watch(self) -> Option<Watch> {
        self.watch
    }

    /// What happened.
    #[must_use]
    pub const fn what(self) -> What {
        self.what
    }

    /// Whether it happened to a folder.
    #[must_use]
    pub const fn is_folder(self) -> bool {
        self.is_folder
    }

    /// The name in the watched folder; `None` if it happened to what is watched itself.
    #[must_use]
    pub const fn name(self) -> Option<&'a OsStr> {
        self.name
    }

    /// The event at the begin of `bytes`, and what follows it. `None` at the end, and where what
    /// is left is not a whole event.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = bytes.split_at_checked(size_of::<Raw>())?;
        let at = |at: usize| {
            head[at..].first_chunk().map_or(0, |bytes: &[u8; 4]| u32::from_ne_bytes(*bytes))
        };
        let length = usize::try_from(at(offset_of!(Raw, len))).ok()?;
        let (name, rest) = rest.split_at_checked(length)?;
        // Zeroes fill it up.
        let name = name.split(|byte| *byte == 0).next().filter(|name| !name.is_empty());
        let mask = at(offset_of!(Raw, mask));
        let cookie = Cookie(at(offset_of!(Raw, cookie)));
        let watch = at(offset_of!(Raw, wd)).cast_signed();
        let event = Self {
            watch: (watch >= 0).then_some(Watch(watch)),
            what: what(mask, cookie),
            is_folder: mask & libc::IN_ISDIR != 0,
            name: name.map(OsStr::from_bytes),
        };
        Some((event, rest))
    }
}

/// An event has one of the bits, and IN_ISDIR beside.
fn what(mask: u32, cookie: Cookie) -> What {
    match mask & !libc::IN_ISDIR {
        libc::IN_ACCESS => What::Accessed,
        libc::IN_MODIFY => What::Modified,
        libc::IN_ATTRIB => What::Attributes,
        libc::IN_OPEN => What::Opened,
        libc::IN_CLOSE_WRITE => What::Written,
        libc::IN_CLOSE_NOWRITE => What::Closed,
        libc::IN_CREATE => What::Created,
        libc::IN_DELETE => What::Deleted,
        libc::IN_MOVED_FROM => What::MovedFrom(cookie),
        libc::IN_MOVED_TO => What::MovedTo(cookie),
        libc::IN_DELETE_SELF => What::SelfDeleted,
        libc::IN_MOVE_SELF => What::SelfMoved,
        libc::IN_UNMOUNT => What::Unmounted,
        libc::IN_IGNORED => What::Ignored,
        libc::IN_Q_OVERFLOW => What::Overflow,
        other => What::Other(other),
    }
}

/// Room for 4 KiB of events: at least 15 with the longest names, 256 without names.
const ROOM: usize = 4096;
// The kernel reads nothing where the next event does not fit.
const _: () = assert!(ROOM >= size_of::<Raw>() + 256);

/// The events that one wait gave, in order. Iterate over a reference to it.
#[derive(Clone)]
pub struct Events {
    bytes: [u8; ROOM],
    length: usize,
}

impl Events {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; ROOM], length: 0 }
    }

    /// Where the kernel writes.
    pub(super) const fn room(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Notes how much it wrote.
    pub(super) fn fill(&mut self, length: usize) {
        self.length = length.min(ROOM);
    }

    /// The events.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(&self.bytes[..self.length])
    }
}

impl<'a> IntoIterator for &'a Events {
    type Item = Event<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self).finish()
    }
}

/// The events of an [`Events`].
#[derive(Clone, Debug)]
pub struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        let (event, rest) = Event::first(self.0)?;
        self.0 = rest;
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(wd: i32, mask: u32, cookie: u32, name: &[u8]) -> Vec<u8> {
        let mut bytes = wd.to_ne_bytes().to_vec();
        for word in [mask, cookie, u32::try_from(name.len()).unwrap()] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(name);
        bytes
    }

    fn events(bytes: &[u8]) -> Events {
        let mut events = Events::new();
        events.room()[..bytes.len()].copy_from_slice(bytes);
        events.fill(bytes.len());
        events
    }

    #[test]
    fn events_follow_each_other() {
        let mut bytes = record(3, libc::IN_CREATE | libc::IN_ISDIR, 0, b"a folder\0\0\0\0\0\0\0\0");
        bytes.extend(record(-1, libc::IN_Q_OVERFLOW, 0, b""));
        bytes.extend(record(3, libc::IN_MOVED_TO, 7, b"\xff\0"));
        let events = events(&bytes);
        let seen: Vec<_> = events.iter().collect();
        let name = Some(OsStr::new("a folder"));
        let watch = Some(Watch(3));
        assert_eq!(seen[0], Event { watch, what: What::Created, is_folder: true, name });
        let overflow = What::Overflow;
        assert_eq!(seen[1], Event { watch: None, what: overflow, is_folder: false, name: None });
        assert_eq!(seen[2].what(), What::MovedTo(Cookie(7)));
        assert_eq!(seen[2].name(), Some(OsStr::from_bytes(b"\xff")));
        assert_eq!(seen.len(), 3);
    }

    #[test]
    fn half_an_event_is_none() {
        let whole = record(1, libc::IN_CREATE, 0, b"name\0\0\0\0");
        for length in 0..whole.len() {
            assert_eq!(events(&whole[..length]).iter().count(), 0);
        }
        let mut long = whole;
        long[12..16].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(events(&long).iter().count(), 0);
    }

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "Miri gives proptest no files and takes minutes; what it runs is safe code")]
        fn nothing_that_is_read_makes_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..ROOM),
        ) {
            let events = events(&bytes);
            prop_assert!(events.iter().count() <= ROOM / size_of::<Raw>());
            let _ = format!("{events:?}");
        }
    }
}
