//! The rows of locks, semaphores and what else is slept on in memory: through the library, and
//! through the floor beside it on the same board.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicU32, Ordering};

use sinew::barrier::{Barrier, Member};
use sinew::condvar::Condvar;
use sinew::file_lock::{self, FileLock};
use sinew::futex;
use sinew::mutex::Mutex;
use sinew::posix_sem::{self, Unnamed};
use sinew::rwlock::{RwLock, Writer};
use sinew::sysv_sem;
use sinew::wait::{Locks, Waits};

use crate::board::{Board, LIBRARY};
use crate::floor;
use crate::job::Side;
use crate::messages::Row;
use crate::parties::{Lock, Parties, Turn, make_or_attach};
use crate::trouble::Trouble;

/// Between two objects on the board.
const ROOM: usize = 256;

/// A word for each side, which the other one counts up.
pub(crate) struct Words {
    own: futex::Futex<'static>,
    other: futex::Futex<'static>,
    seen: u32,
}

impl Turn for Words {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.other.word().fetch_add(1, Ordering::Release);
        self.other.wake(1).map(drop).map_err(io::Error::from)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        while self.own.word().load(Ordering::Acquire) == self.seen {
            self.own.while_is(self.seen).wait()?;
        }
        self.seen = self.seen.wrapping_add(1);
        Ok(())
    }
}

pub(crate) enum Futex {}

impl Parties for Futex {
    type Library = Words;
    type Floor = floor::locks::Futexes;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let near = row.job.side == Side::Near;
        let word = |at| {
            let word = board.mapping().atomic_u32_at(at);
            word.map(futex::Futex::new).ok_or_else(|| Trouble::Fail("the board is short".into()))
        };
        let [one, two] = [word(LIBRARY)?, word(LIBRARY + ROOM)?];
        let (own, other) = if near { (one, two) } else { (two, one) };
        Ok((Words { own, other, seen: 0 }, floor::locks::Futexes::at(board.floor(), near)))
    }
}

/// A lock of the library, and the guard of a lock that is handed over.
pub(crate) struct Handed<L: Locks + 'static> {
    lock: &'static L,
    guard: Option<L::Guard<'static>>,
}

impl<L: Locks> Handed<L> {
    /// The lock stays for the life of the worker, as its guards borrow it.
    fn new(lock: L) -> Self {
        Self { lock: Box::leak(Box::new(lock)), guard: None }
    }
}

impl<L: Locks> Lock for Handed<L> {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        let guard = self.lock.lock()?;
        inside();
        drop(guard);
        Ok(())
    }
}

impl<L: Locks> Turn for Handed<L> {
    fn prepare(&mut self) -> io::Result<()> {
        self.wait()
    }

    fn post(&mut self) -> io::Result<()> {
        self.guard = None;
        Ok(())
    }

    fn wait(&mut self) -> io::Result<()> {
        self.guard = Some(self.lock.lock()?);
        Ok(())
    }

    fn settle(&mut self) -> io::Result<()> {
        self.post()
    }
}

/// A file of the row's own, which both sides open: a lock belongs to an open file description.
pub(crate) enum OnFile {}

impl Parties for OnFile {
    type Library = Handed<FileLock>;
    type Floor = floor::locks::DescriptionLock;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let path = row.job.folder.join(format!("{}-lock", row.job.prefix));
        let options = file_lock::Options::new();
        let lock = make_or_attach(row, || Ok(options.create(&path)?), || Ok(options.open(&path)?))?;
        if row.job.side == Side::Far {
            std::fs::remove_file(&path)?;
        }
        let floor = floor::locks::DescriptionLock(lock.as_fd().as_raw_fd());
        Ok((Handed::new(lock), floor))
    }
}

/// Two unnamed POSIX semaphores, one for each side.
pub(crate) struct PosixPair {
    own: Unnamed<'static>,
    other: Unnamed<'static>,
}

impl Turn for PosixPair {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        Ok(self.other.post()?)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Ok(self.own.wait()?)
    }
}

pub(crate) enum PosixSem {}

impl Parties for PosixSem {
    type Library = PosixPair;
    type Floor = floor::locks::Semaphores;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let near = row.job.side == Side::Near;
        let (memory, options) = (board.mapping(), posix_sem::Options::new());
        let floor = floor::locks::Semaphores::at(board.floor(), near);
        let make = || {
            floor.init(0)?;
            Ok([options.create_at(memory, LIBRARY)?, options.create_at(memory, LIBRARY + ROOM)?])
        };
        let attach =
            || Ok([options.open_at(memory, LIBRARY)?, options.open_at(memory, LIBRARY + ROOM)?]);
        let [one, two] = make_or_attach(row, make, attach)?;
        let (own, other) = if near { (one, two) } else { (two, one) };
        Ok((PosixPair { own, other }, floor))
    }
}

/// One POSIX semaphore as a lock.
pub(crate) struct PosixOne(Unnamed<'static>);

impl Lock for PosixOne {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        self.0.wait()?;
        inside();
        Ok(self.0.post()?)
    }
}

pub(crate) enum PosixLock {}

impl Parties for PosixLock {
    type Library = PosixOne;
    type Floor = floor::locks::SemaphoreLock;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let near = row.job.side == Side::Near;
        let options = posix_sem::Options::new().value(1);
        let floor = floor::locks::Semaphores::at(board.floor(), near);
        let make = || {
            floor.init(1)?;
            Ok(options.create_at(board.mapping(), LIBRARY)?)
        };
        let attach = || Ok(options.open_at(board.mapping(), LIBRARY)?);
        let semaphore = make_or_attach(row, make, attach)?;
        Ok((PosixOne(semaphore), floor::locks::SemaphoreLock(floor, near)))
    }
}

/// Two semaphores of a System V set, one for each side; the floor has two others of the same set.
pub(crate) struct SysvPair {
    set: sysv_sem::Set,
    own: u16,
    other: u16,
}

impl Turn for SysvPair {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        Ok(self.set.at(self.other).post()?)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Ok(self.set.at(self.own).wait().map(drop)?)
    }
}

/// The set of a row. The supervisor removes it: a set stays however its users end.
fn sysv_set(row: Row<'_>, values: [u16; 4]) -> Result<sysv_sem::Set, Trouble> {
    let (key, options) = (sysv_sem::Key::new(row.job.keys[0]), sysv_sem::Options::new());
    make_or_attach(row, || Ok(options.create(key, &values)?), || Ok(options.open(key)?))
}

pub(crate) enum SysvSem {}

impl Parties for SysvSem {
    type Library = SysvPair;
    type Floor = floor::locks::SysvSemaphores;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let near = row.job.side == Side::Near;
        let set = sysv_set(row, [0; 4])?;
        let [own, other] = if near { [0, 1] } else { [1, 0] };
        let floor = floor::locks::SysvSemaphores { id: set.id(), own: own + 2, other: other + 2 };
        Ok((SysvPair { set, own, other }, floor))
    }
}

/// One semaphore of a System V set as a lock.
pub(crate) struct SysvOne(sysv_sem::Set);

impl Lock for SysvOne {
    #[inline]
    fn locked(&mut self, inside: impl FnOnce()) -> io::Result<()> {
        self.0.at(0).wait()?;
        inside();
        Ok(self.0.at(0).post()?)
    }
}

pub(crate) enum SysvLock {}

impl Parties for SysvLock {
    type Library = SysvOne;
    type Floor = floor::locks::SysvLock;

    fn open(row: Row<'_>, _: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let set = sysv_set(row, [1; 4])?;
        let floor = floor::locks::SysvSemaphores { id: set.id(), own: 2, other: 2 };
        Ok((SysvOne(set), floor::locks::SysvLock(floor)))
    }
}

pub(crate) enum InMutex {}

impl Parties for InMutex {
    type Library = Handed<Mutex>;
    type Floor = floor::locks::Mutex;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let floor = floor::locks::Mutex::at(board.floor());
        let make = || {
            floor.init()?;
            Ok(Mutex::create_in(board.mapping(), LIBRARY)?)
        };
        let attach = || Ok(Mutex::open_in(board.mapping(), LIBRARY)?);
        Ok((Handed::new(make_or_attach(row, make, attach)?), floor))
    }
}

pub(crate) enum InRwLock {}

/// Locked for writing. The floor is glibc's robust mutex: its reader-writer lock is never free again
/// after the death of who had it, so it is not the same.
impl Parties for InRwLock {
    type Library = Handed<Writer<'static>>;
    type Floor = floor::locks::Mutex;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        const READERS: u32 = 8;
        let floor = floor::locks::Mutex::at(board.floor());
        let make = || {
            floor.init()?;
            Ok(RwLock::create_in(board.mapping(), LIBRARY, READERS)?)
        };
        let attach = || Ok(RwLock::open_in(board.mapping(), LIBRARY)?);
        let lock: &'static RwLock = Box::leak(Box::new(make_or_attach(row, make, attach)?));
        Ok((Handed::new(lock.writer()), floor))
    }
}

/// A condition variable with its mutex: a word under it says whose turn it is.
pub(crate) struct Turns {
    board: &'static Board,
    mutex: Mutex,
    condition: Condvar,
    /// Whose turn ends this side's wait.
    own: u32,
}

impl Turns {
    fn word(&self) -> io::Result<&'static AtomicU32> {
        let word = self.board.mapping().atomic_u32_at(LIBRARY + 2 * ROOM);
        word.ok_or_else(|| io::Error::other("the board is short"))
    }
}

impl Turn for Turns {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        let word = self.word()?;
        let guard = self.mutex.lock()?;
        word.store(1 + (1 - self.own), Ordering::Relaxed);
        drop(guard);
        self.condition.notify_one();
        Ok(())
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        let word = self.word()?;
        let mut guard = self.mutex.lock()?;
        while word.load(Ordering::Relaxed) != 1 + self.own {
            guard = self.condition.wait(guard)?;
        }
        word.store(0, Ordering::Relaxed);
        drop(guard);
        Ok(())
    }
}

pub(crate) enum OnCondvar {}

impl Parties for OnCondvar {
    type Library = Turns;
    type Floor = floor::locks::Condvar;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let near = row.job.side == Side::Near;
        let (map, at) = (board.mapping(), LIBRARY + ROOM);
        let floor = floor::locks::Condvar::at(board.floor(), near);
        let make = || {
            floor.init()?;
            Ok((Mutex::create_in(map, LIBRARY)?, Condvar::create_in(map, at)?))
        };
        let attach = || Ok((Mutex::open_in(map, LIBRARY)?, Condvar::open_in(map, at)?));
        let (mutex, condition) = make_or_attach(row, make, attach)?;
        Ok((Turns { board, mutex, condition, own: u32::from(near) }, floor))
    }
}

/// A member of a barrier for two. Stepping over it is both the post and the wait.
pub(crate) struct Steps(Member<'static>);

impl Turn for Steps {
    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.wait()
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        Ok(self.0.wait().map(drop)?)
    }
}

pub(crate) enum AtBarrier {}

impl Parties for AtBarrier {
    type Library = Steps;
    type Floor = floor::locks::Barrier;

    fn open(row: Row<'_>, board: &'static Board) -> Result<(Self::Library, Self::Floor), Trouble> {
        let floor = floor::locks::Barrier::at(board.floor());
        let make = || {
            floor.init()?;
            Ok(Barrier::create_in(board.mapping(), LIBRARY, 2)?)
        };
        let attach = || Ok(Barrier::open_in(board.mapping(), LIBRARY)?);
        // It stays for the life of the worker, as the member borrows it.
        let barrier: &'static Barrier = Box::leak(Box::new(make_or_attach(row, make, attach)?));
        let member = barrier.join()?;
        // A barrier of fewer members than two would let the first one through.
        row.link.nod()?;
        row.link.await_nod()?;
        Ok((Steps(member), floor))
    }
}
