//! News of files and folders: a configuration that changed, a lock file that went, a socket that
//! is there.
//!
//! [`PathWatch`] answers the usual question, what became of the file *at a path*: it survives that
//! the file is replaced by a rename, and waits for what is not there yet without a race.
//! [`Inotify`] gives every event of any number of files and folders.
//!
//! ```
//! use sinew::inotify::{Change, PathWatch};
//! use sinew::wait::Waits;
//!
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("service.conf");
//! # std::fs::write(&path, "old").unwrap();
//! let config = PathWatch::new(&path)?;
//! let mut text = std::fs::read_to_string(&path).unwrap(); // after the watch: nothing is missed
//!
//! # std::fs::write(folder.path().join("new"), "new").unwrap();
//! std::fs::rename(folder.path().join("new"), &path).unwrap(); // as editors do
//! assert_eq!(config.wait(), Ok(Change::Replaced));
//! text = std::fs::read_to_string(&path).unwrap();
//! # assert_eq!(text, "new");
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # What it does not tell
//! - Changes made elsewhere: on a network file system only those of this host are seen, on FUSE those that
//!   go through the kernel here. /proc, /sys and other files that the kernel makes up tell nothing.
//! - Writes through a shared mapping.
//! - What happens below a subfolder: each folder needs a watch of its own.
//! - Who did it.
//!
//! # Lost events
//! At most `fs.inotify.max_queued_events` wait to be read. Then the kernel drops those that follow and says so once:
//! [`What::Overflow`]. What is known then is that something changed: look.
//!
//! # Crashes
//! Watches end with the descriptor. An event that was read is gone.
//!
//! Source: inotify(7), inotify_add_watch(2).

mod event;
mod path;

use std::fmt;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::event::{EventfdFlags, PollFlags, eventfd};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{Wait, Waits, drive};

pub use event::{Cookie, Event, Events, Interest, Iter, What};
pub use path::{Change, PathWatch, Present};

/// A queue of events of the files and folders that it watches.
///
/// A wait gives all events that fit 4 KiB, at least one: [`Events`]. Each event goes to one waiter.
///
/// ```
/// use sinew::inotify::{Inotify, Interest, What};
/// use sinew::wait::Waits;
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let folder = folder.path();
/// let inotify = Inotify::new()?;
/// let watch = inotify.watch(folder, Interest::CREATED | Interest::MOVED)?;
///
/// std::fs::write(folder.join("a"), "")?;
/// std::fs::rename(folder.join("a"), folder.join("b"))?;
///
/// let mut from = None;
/// for event in &inotify.wait().unwrap() {
///     match event.what() {
///         What::MovedFrom(cookie) => from = Some((cookie, event.name())),
///         // The two halves of a rename; one of them is missing where the other folder is not watched.
///         What::MovedTo(cookie) => assert_eq!(from, Some((cookie, Some("a".as_ref())))),
///         what => assert_eq!((what, event.watch()), (What::Created, Some(watch))),
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Inotify(OwnedFd);

/// One watch of an [`Inotify`]. Plain data: it ends by [`Inotify::unwatch`], or with what it watches.
/// The kernel gives its number to no other watch for a long time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Watch(i32);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Watch({})", self.0)
    }
}

impl Inotify {
    /// A new one, which watches nothing. It is close-on-exec.
    ///
    /// # Errors
    /// Of kind [`LimitReached`](ErrorKind::LimitReached) where `fs.inotify.max_user_instances` is
    /// reached, or no descriptor is left.
    pub fn new() -> Result<Self> {
        let flags = CreateFlags::CLOEXEC | CreateFlags::NONBLOCK;
        inotify::init(flags).map(Self).map_err(|errno| {
            let error = Error::os("make an instance", errno).on(Mechanism::Inotify);
            if errno != Errno::MFILE {
                return error;
            }
            // One number for two limits: whether another descriptor can be had tells them apart.
            let limit = match eventfd(0, EventfdFlags::CLOEXEC) {
                Ok(_) => Limit::InotifyMaxUserInstances,
                Err(_) => Limit::Nofile,
            };
            error.because(format!("all are in use: {}", limit.stated())).fix(limit.raise())
        })
    }

    /// Watches a file, or a folder and what is directly in it. The object is watched, not the
    /// name: what takes its place later is not ([`PathWatch`] follows the name).
    ///
    /// # Errors
    /// Of kind [`AlreadyExists`](ErrorKind::AlreadyExists) if this instance watches it already, by whatever
    /// name; [`LimitReached`](ErrorKind::LimitReached) where `fs.inotify.max_user_watches` is reached;
    /// [`InvalidInput`](ErrorKind::InvalidInput) for no interest at all;
    /// [`NotFound`](ErrorKind::NotFound); [`PermissionDenied`](ErrorKind::PermissionDenied), as it has to be readable.
    pub fn watch(&self, path: impl AsRef<Path>, interest: Interest) -> Result<Watch> {
        let path = path.as_ref();
        self.add(path, interest.flags() | WatchFlags::MASK_CREATE)
            .map_err(|errno| cannot_watch(path, errno))
    }

    /// Ends a watch. The kernel tells so by a last event of it, [`What::Ignored`]; those that are waiting
    /// still come.
    ///
    /// # Errors
    /// Of kind [`NotFound`](ErrorKind::NotFound) if it has ended already.
    pub fn unwatch(&self, watch: Watch) -> Result<()> {
        inotify::remove_watch(&self.0, watch.0).map_err(|errno| {
            let error =
                Error::os("end a watch", errno).on(Mechanism::Inotify).object(format!("{watch:?}"));
            match errno {
                Errno::INVAL => error.of_kind(ErrorKind::NotFound).because("it has ended already"),
                _ => error,
            }
        })
    }

    fn add(&self, path: &Path, flags: WatchFlags) -> Result<Watch, Errno> {
        inotify::add_watch(&self.0, path, flags).map(Watch)
    }

    /// One read, which does not wait.
    #[inline]
    fn read(&self, events: &mut Events) -> Result<(), Errno> {
        let length = rustix::io::read(&self.0, events.room())?;
        events.fill(length);
        Ok(())
    }
}

impl Waits for Inotify {
    type Waited = Events;

    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<Events, WaitError> {
        // Made once: it is pages long.
        let mut events = Events::new();
        drive(self.0.as_fd(), PollFlags::IN, wait, |_| self.read(&mut events))?;
        Ok(events)
    }
}

impl AsFd for Inotify {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Inotify> for OwnedFd {
    fn from(inotify: Inotify) -> Self {
        inotify.0
    }
}

impl TryFrom<OwnedFd> for Inotify {
    type Error = Error;

    /// Takes an instance that came from elsewhere. A refused descriptor is closed. It needs /proc.
    ///
    /// # Errors
    /// Of kind [`Mismatch`](ErrorKind::Mismatch) for anything else than an inotify instance, and for one
    /// without O_NONBLOCK: the kernel has no non-blocking read of it by the call, so that a bounded wait
    /// would hang where another reader is faster.
    fn try_from(fd: OwnedFd) -> Result<Self> {
        let number = fd.as_raw_fd();
        let refuse =
            |error: Error| error.on(Mechanism::Inotify).object(format!("descriptor {number}"));
        let kind = std::fs::read_link(format!("/proc/self/fd/{number}")).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            refuse(Error::os("look at a received descriptor", errno).because("/proc is not there"))
        })?;
        let mismatch = |because: String| {
            let error = Error::new(ErrorKind::Mismatch, "take a received descriptor");
            refuse(error.because(because))
        };
        if kind.as_os_str().as_bytes() != b"anon_inode:inotify" {
            return Err(mismatch(format!("it is {kind:?}, not an inotify instance")));
        }
        let flags = fcntl_getfl(&fd).map_err(|e| refuse(Error::os("look at its flags", e)))?;
        if !flags.contains(OFlags::NONBLOCK) {
            return Err(mismatch("it blocks".into()).fix("make it with IN_NONBLOCK"));
        }
        Ok(Self(fd))
    }
}

#[cold]
fn cannot_watch(path: &Path, errno: Errno) -> Error {
    let error = Error::os("watch", errno).on(Mechanism::Inotify).object(format!("{path:?}"));
    match errno {
        Errno::NOSPC => {
            let limit = Limit::InotifyMaxUserWatches;
            error
                .of_kind(ErrorKind::LimitReached)
                .because(format!("the watches of this user fill {}", limit.stated()))
                .fix(limit.raise())
        }
        Errno::EXIST => error.because("this instance watches it already"),
        Errno::ACCESS => error.because("it has to be readable"),
        Errno::INVAL => error.because("no interest in anything"),
        _ => error,
    }
}
