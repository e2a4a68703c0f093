//! What stands at a path, whatever is put there.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::PollFlags;
use rustix::fs::inotify::WatchFlags;
use rustix::io::Errno;

use super::{Events, Inotify, Watch, What, cannot_watch};
use crate::error::{Error, Result, WaitError};
use crate::mechanism::Mechanism;
use crate::wait::{Wait, Waits, drive};

/// A watch of what stands at a path, now or later.
///
/// It watches the folder, not the file, so that a new file in its place is seen, however it came
/// there. Symbolic links on the way are watched too: one that is turned elsewhere is a change (so
/// Kubernetes replaces a mounted configuration). The path itself, and folders on the way to it, need
/// not be there yet.
///
/// [`wait`](Waits::wait) waits for the next [`Change`]; [`present`](Self::present) for the path to be
/// there at all.
///
/// It needs an inotify instance and one to three watches of the user's: see [`Limit`](crate::limits::Limit).
/// Not seen are a rename of a folder further up than the one that the path is in, writes through
/// another name of the same file, and what [the module](super) lists.
#[derive(Debug)]
pub struct PathWatch {
    path: PathBuf,
    inotify: Inotify,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    places: Vec<Place>,
    /// Whether something stands there, as far as was told.
    present: bool,
}

/// What changed at a path. Of several changes that happened since the last wait the newest is told: look
/// at what is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// Something new has the name, and nothing was there before: a lock file, a socket, a FIFO. A regular
    /// file may be empty still; [`Written`](Self::Written) follows.
    Created,
    /// A writer closed the file: its contents are complete, as far as that one goes.
    Written,
    /// Something else took the place, by a rename, or a link on the way leads elsewhere.
    Replaced,
    /// Nothing stands there any more.
    Removed,
    /// The queue was full and events were lost: look.
    Lost,
}

/// A name in a folder on which depends what stands at the path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    watch: Watch,
    folder: PathBuf,
    name: OsString,
    /// Whether what has this name is what stands at the path. Else it is a link, or the first that
    /// is missing.
    is_last: bool,
}

impl PathWatch {
    /// Starts to watch. Look at the file after this, and nothing is missed.
    ///
    /// # Errors
    /// As [`Inotify::new`] and [`Inotify::watch`]: a limit, or a folder that cannot be read. Of kind
    /// [`InvalidInput`](crate::ErrorKind::InvalidInput) for a path that ends in `..` or is a root.
    pub fn new(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let inotify = Inotify::new()?;
        let watch = |error| Error::os("watch", error).on(Mechanism::Inotify);
        let absolute = std::path::absolute(path).map_err(|error| {
            watch(Errno::from_io_error(&error).unwrap_or(Errno::INVAL)).object(format!("{path:?}"))
        })?;
        let this = Self { path: absolute, inotify, state: Mutex::default() };
        let mut state = this.state();
        this.follow(&mut state).map_err(|(at, errno)| cannot_watch(&at, errno))?;
        state.present = this.is_present();
        drop(state);
        Ok(this)
    }

    /// Where it looks, as an absolute path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A view whose wait ends when something stands at the path, at once if it does already: a
    /// server's socket, a FIFO. It gives what [`std::fs::metadata`] says of it.
    ///
    /// It takes the changes that happened until then.
    ///
    /// ```
    /// use std::os::unix::net::{UnixListener, UnixStream};
    /// use std::time::Duration;
    /// use sinew::inotify::PathWatch;
    /// use sinew::wait::Waits;
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let path = folder.path().join("socket");
    /// let socket = PathWatch::new(&path)?;
    /// # let starter = std::thread::spawn({ let path = path.clone(); move || UnixListener::bind(path) });
    /// socket.present().wait_timeout(Duration::from_secs(30)).unwrap();
    /// # starter.join().unwrap().unwrap();
    /// # Ok::<(), sinew::Error>(())
    /// ```
    #[must_use]
    pub const fn present(&self) -> Present<'_> {
        Present(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole after every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_present(&self) -> bool {
        std::fs::metadata(&self.path).is_ok()
    }

    /// Takes all that has happened. `None` if nothing of it matters.
    fn take(&self) -> Result<Option<Change>, Errno> {
        // Held throughout: two threads would judge by each other's places. Nothing waits meanwhile.
        let mut state = self.state();
        let mut newest = None;
        // Whoever makes events faster than they are read does not keep this from ending.
        let mut events = Events::new();
        for _ in 0..64 {
            match self.inotify.read(&mut events) {
                Ok(()) => newest = self.judge(&mut state, &events)?.or(newest),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(newest)
    }

    fn judge(&self, state: &mut State, events: &Events) -> Result<Option<Change>, Errno> {
        let mut newest = None;
        let mut lost = false;
        let mut turned = false;
        for event in events {
            let of = |place: &&Place| Some(place.watch) == event.watch();
            match (event.what(), event.name()) {
                (What::Overflow, _) => lost = true,
                // The folder itself went, or was moved away.
                (What::SelfDeleted | What::SelfMoved | What::Unmounted, _) => {
                    turned |= state.places.iter().any(|place| of(&place));
                }
                (what, Some(name)) => {
                    let Some(change) = at_the_path(what) else { continue };
                    for place in state.places.iter().filter(of).filter(|p| p.name == name) {
                        if place.is_last {
                            newest = Some(change);
                            // A link can take the place, too.
                            turned |=
                                change != Change::Written && is_link(&place.folder.join(name));
                        } else {
                            turned |= change != Change::Written;
                        }
                    }
                }
                _ => {}
            }
        }
        if turned || lost {
            self.follow(state).map_err(|(_, errno)| errno)?;
            newest = match (state.present, self.is_present()) {
                (_, true) => Some(Change::Replaced),
                (true, false) => Some(Change::Removed),
                (false, false) => None,
            };
        }
        if let Some(change) = newest {
            state.present = change != Change::Removed;
        }
        Ok(if lost { Some(Change::Lost) } else { newest })
    }

    /// Watches the places on which it depends now what stands at the path.
    fn follow(&self, state: &mut State) -> Result<(), (PathBuf, Errno)> {
        let mut now: Vec<Place> = Vec::new();
        // Watch first, then look: until what was seen is what is watched.
        for _ in 0..1000 {
            let chain = chain(&self.path).map_err(|errno| (self.path.clone(), errno))?;
            let watched = now.iter().map(|place| (&place.folder, &place.name, place.is_last));
            if chain.iter().map(|(folder, name, is_last)| (folder, name, *is_last)).eq(watched) {
                let before = std::mem::replace(&mut state.places, now);
                self.forget(&before, &state.places);
                return Ok(());
            }
            let next = self.watch_all(chain)?;
            self.forget(&now, &[state.places.as_slice(), next.as_slice()].concat());
            now = next;
        }
        Err((self.path.clone(), Errno::BUSY))
    }

    /// Watches each folder of the chain. A folder that went meanwhile is left out, so that the next
    /// look finds another chain.
    fn watch_all(
        &self,
        chain: Vec<(PathBuf, OsString, bool)>,
    ) -> Result<Vec<Place>, (PathBuf, Errno)> {
        let flags = WatchFlags::CREATE
            | WatchFlags::MOVE
            | WatchFlags::DELETE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let mut places = Vec::with_capacity(chain.len());
        for (folder, name, is_last) in chain {
            match self.inotify.add(&folder, flags) {
                Ok(watch) => places.push(Place { watch, folder, name, is_last }),
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(errno) => return Err((folder, errno)),
            }
        }
        Ok(places)
    }

    /// Ends the watches that `kept` does not need.
    fn forget(&self, gone: &[Place], kept: &[Place]) {
        let mut gone: Vec<_> = gone.iter().map(|place| place.watch).collect();
        gone.retain(|watch| kept.iter().all(|place| place.watch != *watch));
        gone.sort_unstable_by_key(|watch| watch.0);
        gone.dedup();
        for watch in gone {
            // It may have ended with its folder.
            let _ = self.inotify.unwatch(watch);
        }
    }
}

/// What an event of the last name means for the path.
const fn at_the_path(what: What) -> Option<Change> {
    match what {
        What::Created => Some(Change::Created),
        What::Written => Some(Change::Written),
        What::MovedTo(_) => Some(Change::Replaced),
        What::Deleted | What::MovedFrom(_) => Some(Change::Removed),
        _ => None,
    }
}

fn is_link(path: &Path) -> bool {
    rustix::fs::readlink(path, Vec::new()).is_ok()
}

/// How many links the kernel follows.
const MOST_LINKS: usize = 40;

/// The places on which it depends what stands at an absolute path: each symbolic link on the way,
/// and the last name, or the first one that is missing. Folders are given without links in them.
fn chain(path: &Path) -> Result<Vec<(PathBuf, OsString, bool)>, Errno> {
    let mut todo: VecDeque<Part> = parts(path).collect();
    let mut folder = PathBuf::from("/");
    let mut chain = Vec::new();
    while let Some(part) = todo.pop_front() {
        let name = match part {
            Part::Root => {
                folder = PathBuf::from("/");
                continue;
            }
            Part::Up => {
                folder.pop();
                continue;
            }
            Part::Name(name) => name,
        };
        let at = folder.join(&name);
        let is_last = todo.is_empty();
        match rustix::fs::readlink(&at, Vec::new()) {
            Ok(target) => {
                if chain.len() == MOST_LINKS {
                    return Err(Errno::LOOP);
                }
                chain.push((folder.clone(), name, false));
                let target = Path::new(OsStr::from_bytes(target.to_bytes()));
                for part in parts(target).collect::<Vec<_>>().into_iter().rev() {
                    todo.push_front(part);
                }
            }
            // No link: a name, or nothing yet.
            Err(Errno::INVAL | Errno::NOENT) if is_last => {
                chain.push((folder, name, true));
                return Ok(chain);
            }
            Err(Errno::NOENT) => {
                chain.push((folder, name, false));
                return Ok(chain);
            }
            Err(Errno::INVAL) => folder = at,
            // What should be a folder is a file: as if it were missing.
            Err(Errno::NOTDIR) => {
                let file = folder.file_name().map(OsStr::to_owned).ok_or(Errno::NOTDIR)?;
                folder.pop();
                chain.push((folder, file, false));
                return Ok(chain);
            }
            Err(errno) => return Err(errno),
        }
    }
    // It ends in `..`, or there is nothing but a root.
    Err(Errno::INVAL)
}

/// A step of a path.
enum Part {
    Root,
    Up,
    Name(OsString),
}

fn parts(path: &Path) -> impl Iterator<Item = Part> {
    path.components().filter_map(|component| match component {
        Component::RootDir => Some(Part::Root),
        Component::ParentDir => Some(Part::Up),
        Component::Normal(name) => Some(Part::Name(name.to_owned())),
        Component::CurDir | Component::Prefix(_) => None,
    })
}

impl Waits for PathWatch {
    type Waited = Change;

    fn wait_for(&self, wait: Wait<'_>) -> Result<Change, WaitError> {
        let change =
            drive(self.inotify.as_fd(), PollFlags::IN, wait, |_| self.take()?.ok_or(Errno::AGAIN))?;
        Ok(change)
    }
}

/// Waits until something stands at the path. Made by [`PathWatch::present`].
#[derive(Clone, Copy, Debug)]
pub struct Present<'a>(&'a PathWatch);

impl Waits for Present<'_> {
    type Waited = Metadata;

    fn wait_for(&self, wait: Wait<'_>) -> Result<Metadata, WaitError> {
        let watch = self.0;
        let there = drive(watch.inotify.as_fd(), PollFlags::IN, wait, |_| {
            // What happens after this look wakes the poll.
            watch.take()?;
            match std::fs::metadata(&watch.path) {
                Ok(there) => Ok(there),
                Err(error) => match Errno::from_io_error(&error) {
                    Some(Errno::NOENT | Errno::NOTDIR) | None => Err(Errno::AGAIN),
                    Some(errno) => Err(errno),
                },
            }
        })?;
        Ok(there)
    }
}

impl AsFd for PathWatch {
    /// Readable when something happened in a folder that it watches. Then `try_wait` tells whether
    /// it matters.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
