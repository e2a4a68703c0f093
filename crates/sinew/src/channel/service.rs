//! The service of this process: who accepts newcomers, notices deaths and takes names over while
//! nobody calls.
//!
//! One thread per process, called `sinew`, whatever the number of channels. It starts with the first
//! [`Handle`] and is gone when the last one is dropped; all signals are blocked in it, so that handlers of
//! the program never run there. It sleeps in one epoll, and runs what [attends](Handle::attend) to the
//! descriptors that are ready, one after the other: an [`Attend`] must not wait for anything but a lock
//! that is held for a moment.
//!
//! A program that wants no thread says so [before its first channel](without_thread) and calls [`serve`]
//! itself whenever [`service_fd`] is readable.
//!
//! After a fork the child has no service, its parent's handles are refused, and it gets one of its own
//! with the first handle that it asks for.

use std::cell::Cell;
use std::collections::HashMap;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError, Weak};
use std::thread::{self, JoinHandle};

use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::fork::{OfProcess, Origin};
use crate::mechanism::Mechanism;
use crate::poller::{Events, Interest, Poller, Registered, Token, Waker};
use crate::signal;
use crate::wait::{Wait, Waits};

#[cfg(test)]
mod tests;

/// What is done when a descriptor is ready.
pub(crate) trait Attend: Send + Sync {
    /// The descriptor that was registered with this token may be ready: a hint to look. Never waits,
    /// and never runs twice at once, nor at the same time as another's.
    fn ready(&self, token: u64);
}

/// The service of each process.
static SERVICE: OfProcess<Place> = OfProcess::new();

#[derive(Debug, Default)]
struct Place {
    /// The one that runs a thread, as long as anybody has a handle.
    running: Mutex<Weak<Owner>>,
    /// The one that the program serves itself, for good.
    by_hand: OnceLock<Handle>,
}

fn place() -> &'static Place {
    SERVICE.get(Place::default)
}

/// Keeps the service running. It ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Handle(Arc<Owner>);

/// The same service, without keeping it running: for what the service itself keeps.
#[derive(Clone, Debug)]
pub(crate) struct Known(Weak<Owner>);

impl Known {
    /// A handle, as long as somebody has one.
    pub(crate) fn handle(&self) -> Result<Handle> {
        self.0.upgrade().map(Handle).ok_or_else(|| {
            Error::new(ErrorKind::Other, "use the service of this process")
                .on(Mechanism::Channel)
                .because("it is ending")
        })
    }
}

/// Ends the thread when it is dropped.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and the handles share.
struct Shared {
    poller: Poller,
    origin: Origin,
    entries: Mutex<Entries>,
    /// Held by whoever serves: one at a time.
    serving: Mutex<()>,
    /// Set when the last handle goes.
    ending: AtomicBool,
}

#[derive(Default)]
struct Entries {
    /// No number is given twice, so that an event that was under way when its registration ended is for nobody.
    last: u64,
    of: HashMap<u64, Arc<Entry>>,
}

struct Entry {
    number: u64,
    token: u64,
    /// Taken away when it is over, by whoever ends it, and not only let go of some time later by the thread: with the
    /// last handler goes all that it keeps. Locked while it runs.
    handler: Mutex<Option<Arc<dyn Attend>>>,
    /// Set where it is ended by itself.
    ended: AtomicBool,
}

/// The number of what ends the thread's sleep.
const WAKE: Token = Token(0);
/// How many events are taken at once.
const BATCH: usize = 32;

thread_local! {
    /// The number of the entry whose handler this thread runs.
    static RUNS: Cell<u64> = const { Cell::new(0) };
}

/// A lock that a panic leaves as it is: what it guards is right between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Handle {
    /// The service of this process, which is started where it does not run.
    ///
    /// # Errors
    /// When there is no descriptor or no thread left.
    pub(crate) fn get() -> Result<Self> {
        let place = place();
        if let Some(by_hand) = place.by_hand.get() {
            return Ok(by_hand.clone());
        }
        let mut running = lock(&place.running);
        if let Some(by_hand) = place.by_hand.get() {
            return Ok(by_hand.clone());
        }
        if let Some(owner) = running.upgrade() {
            return Ok(Self(owner));
        }
        let new = Self(Arc::new(Owner::start(true)?));
        *running = Arc::downgrade(&new.0);
        Ok(new)
    }

    /// Has `handler` run, with `token`, whenever `source` is ready, until what this gives is dropped.
    ///
    /// # Errors
    /// As [`Poller::add`]; `Forked` in a child of the process whose service this is.
    pub(crate) fn attend<F: AsFd>(
        &self,
        source: F,
        token: u64,
        interest: Interest,
        handler: Arc<dyn Attend>,
    ) -> Result<Attendance<F>> {
        let shared = &self.0.shared;
        shared.check()?;
        let entry = {
            let mut entries = lock(&shared.entries);
            entries.last += 1;
            let number = entries.last;
            let entry = Arc::new(Entry {
                number,
                token,
                handler: Mutex::new(Some(handler)),
                ended: AtomicBool::new(false),
            });
            entries.of.insert(number, Arc::clone(&entry));
            entry
        };
        match shared.poller.add(source, Token(entry.number), interest) {
            Ok(registered) => Ok(Attendance {
                registered: Some(registered),
                interest,
                entry,
                shared: Arc::clone(shared),
            }),
            Err(error) => {
                let gone = lock(&shared.entries).of.remove(&entry.number);
                drop(gone);
                Err(error)
            }
        }
    }

    /// The same, without keeping it running.
    pub(crate) fn known(&self) -> Known {
        Known(Arc::downgrade(&self.0))
    }

    /// Whether this process is the one whose service it is.
    pub(crate) fn is_here(&self) -> bool {
        self.0.shared.origin.is_here()
    }
}

impl Owner {
    fn start(thread: bool) -> Result<Self> {
        let poller = Poller::new().map_err(|error| error.on(Mechanism::Channel))?;
        let waker = poller.waker(WAKE).map_err(|error| error.on(Mechanism::Channel))?;
        let shared = Arc::new(Shared {
            poller,
            origin: Origin::here(),
            entries: Mutex::default(),
            serving: Mutex::new(()),
            ending: AtomicBool::new(false),
        });
        let thread = if thread { Some(start_thread(&shared)?) } else { None };
        Ok(Self { shared, waker, thread })
    }
}

fn start_thread(shared: &Arc<Shared>) -> Result<JoinHandle<()>> {
    let shared = Arc::clone(shared);
    // A thread starts with the mask of the one that starts it: there is no moment in which a signal
    // could be delivered to it.
    let blocked = signal::Set::all().block()?;
    let started = thread::Builder::new().name("sinew".to_owned()).spawn(move || {
        let mut events = Events::with_capacity(BATCH);
        while !shared.ending.load(Ordering::Acquire) {
            if shared.serve(&mut events, Wait::FOREVER).is_err() {
                return;
            }
        }
    });
    drop(blocked);
    started.map_err(|error| {
        let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::AGAIN);
        Error::os("start the service thread", errno)
            .on(Mechanism::Channel)
            .of_kind(ErrorKind::LimitReached)
            .because("this user, group of processes or host has as many threads as it may have")
            .fix("raise RLIMIT_NPROC or pids.max, or serve without a thread")
    })
}

impl Drop for Owner {
    fn drop(&mut self) {
        let thread = self.thread.take();
        if !self.shared.origin.is_here() {
            // The thread is the parent's, and its handle here names nothing.
            let _left = thread.map(std::mem::ManuallyDrop::new);
            return;
        }
        self.shared.ending.store(true, Ordering::Release);
        self.waker.wake();
        if let Some(thread) = thread
            // The last handle can go in a handler: then the thread ends when that returns.
            && thread.thread().id() != thread::current().id()
        {
            // It does not panic outside of handlers, whose panics are caught.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn check(&self) -> Result<()> {
        if self.origin.is_here() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forked, "use the service of this process")
            .on(Mechanism::Channel)
            .because("this process is a forked child of the one that made the channel")
            .fix("attach anew in the child"))
    }

    /// Waits for something to do, as long as `wait` allows, and does it. Gives how many handlers ran;
    /// none if another thread serves at this moment.
    fn serve(&self, events: &mut Events, wait: Wait<'_>) -> Result<usize, WaitError> {
        let _serving = match self.serving.try_lock() {
            Ok(serving) => serving,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(0),
        };
        match self.poller.fill(events).wait_for(wait) {
            Ok(_) => {}
            Err(WaitError::WouldBlock) => return Ok(0),
            Err(error) => return Err(error),
        }
        let mut ran = 0;
        for event in &*events {
            let entry = lock(&self.entries).of.get(&event.token().0).map(Arc::clone);
            if let Some(entry) = entry {
                ran += usize::from(entry.run());
            }
        }
        Ok(ran)
    }
}

impl Entry {
    /// Runs the handler, unless it is over.
    fn run(&self) -> bool {
        let mut handler = lock(&self.handler);
        let Some(runs) = handler.as_ref() else { return false };
        RUNS.set(self.number);
        let ran = catch_unwind(AssertUnwindSafe(|| runs.ready(self.token)));
        RUNS.set(0);
        // A panic has told of itself on stderr. What it was in the middle of is not entered again, and the
        // other channels go on.
        if ran.is_err() || self.ended.load(Ordering::Relaxed) {
            let last = handler.take();
            drop(handler);
            // Outside of the lock: it may be the last of what it is.
            drop(last);
        }
        true
    }
}

/// What the service watches, and the watching. Dropping it ends both: once that is done, the handler
/// does not run any more for it, unless it is the handler itself that drops it.
///
/// Who drops it must not hold a lock that the handler takes.
pub(crate) struct Attendance<F: AsFd> {
    /// Taken only when it is dropped.
    registered: Option<Registered<F>>,
    interest: Interest,
    entry: Arc<Entry>,
    shared: Arc<Shared>,
}

impl<F: AsFd> Attendance<F> {
    /// Changes what is waited for. No system call if it is that already.
    ///
    /// # Errors
    /// As [`Registered::modify`].
    pub(crate) fn want(&mut self, interest: Interest) -> Result<()> {
        if let Some(registered) = &self.registered
            && self.interest != interest
        {
            registered.modify(Token(self.entry.number), interest)?;
            self.interest = interest;
        }
        Ok(())
    }

    /// What is watched.
    pub(crate) fn source(&self) -> &F {
        match &self.registered {
            Some(registered) => registered,
            None => unreachable!("only what ends the object takes it"),
        }
    }

    /// Ends the watching, and gives back what was watched.
    pub(crate) fn into_source(mut self) -> F {
        match self.end() {
            Some(source) => source,
            None => unreachable!("only what ends the object takes it"),
        }
    }

    fn end(&mut self) -> Option<F> {
        let registered = self.registered.take()?;
        if !self.shared.origin.is_here() {
            // The locks may be held by threads that this process has not, and the registration is the
            // parent's: it is left alone.
            return Some(registered.into_inner());
        }
        let source = registered.into_inner();
        let entry = lock(&self.shared.entries).of.remove(&self.entry.number);
        let handler = if RUNS.get() == self.entry.number {
            // This thread is in it.
            self.entry.ended.store(true, Ordering::Relaxed);
            None
        } else {
            lock(&self.entry.handler).take()
        };
        // Outside of the locks: it may be the last of what it is.
        drop((entry, handler));
        Some(source)
    }
}

impl<F: AsFd> Drop for Attendance<F> {
    fn drop(&mut self) {
        drop(self.end());
    }
}

impl<F: AsFd> AsFd for Attendance<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.source().as_fd()
    }
}

impl<F: AsFd> fmt::Debug for Attendance<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attendance").field("token", &self.entry.token).finish_non_exhaustive()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("poller", &self.poller).finish_non_exhaustive()
    }
}

/// Has no thread started in this process: its channels are served by [`serve`] only. For good, and
/// before the first channel.
///
/// While nobody calls `serve`, nobody can join the channels whose names this process holds, and no
/// death is noticed here.
///
/// # Errors
/// `InUse` while a channel has the thread; or when no descriptor is left. Doing it twice is none.
pub fn without_thread() -> Result<()> {
    let place = place();
    let running = lock(&place.running);
    if place.by_hand.get().is_some() {
        return Ok(());
    }
    if running.strong_count() > 0 {
        return Err(Error::new(ErrorKind::InUse, "serve channels without a thread")
            .on(Mechanism::Channel)
            .because("a channel of this process has started the thread already")
            .fix("say so before the first channel is made or opened"));
    }
    let owner = Owner::start(false)?;
    place.by_hand.get_or_init(|| Handle(Arc::new(owner)));
    Ok(())
}

/// The descriptor that is readable while [`serve`] has something to do.
///
/// # Errors
/// `Mismatch` unless [`without_thread`] was said in this process.
pub fn service_fd() -> Result<BorrowedFd<'static>> {
    Ok(by_hand()?.0.shared.poller.as_fd())
}

/// Does what there is to do for the channels of this process, and waits for nothing. Gives how many
/// descriptors were ready; none if another thread does it at this moment.
///
/// # Errors
/// `Mismatch` unless [`without_thread`] was said in this process.
pub fn serve() -> Result<usize> {
    let shared = &by_hand()?.0.shared;
    let mut events = Events::with_capacity(BATCH);
    shared.serve(&mut events, Wait::NEVER).map_err(|error| {
        Error::new(ErrorKind::Other, "serve channels")
            .on(Mechanism::Channel)
            .because(error.to_string())
    })
}

fn by_hand() -> Result<&'static Handle> {
    place().by_hand.get().ok_or_else(|| {
        Error::new(ErrorKind::Mismatch, "serve channels without a thread")
            .on(Mechanism::Channel)
            .because("this process has not said that it wants no thread")
    })
}
