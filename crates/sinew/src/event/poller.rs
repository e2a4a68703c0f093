//! Waiting for many descriptors at once: epoll, as an object whose registrations end by themselves.
//!
//! [`Poller::add`] registers what has a descriptor under a [`Token`] of yours, and gives a
//! [`Registered`], which holds it and removes it when dropped. [`Poller::fill`] waits and puts what
//! happened into your [`Events`]. It is a view, with the verb `wait` in its four forms ([`Waits`]).
//!
//! ```
//! use sinew::poller::{Events, Interest, Poller, Token};
//! use sinew::wait::{Receives, Sends, Waits};
//!
//! const JOBS: Token = Token(1);
//!
//! let (rx, tx) = sinew::pipe::pipe()?;
//! let poller = Poller::new()?;
//! let jobs = poller.add(rx, JOBS, Interest::READABLE)?;
//! tx.send(b"build").unwrap();
//!
//! let mut events = Events::with_capacity(64);
//! poller.fill(&mut events).wait().unwrap();
//! for event in &events {
//!     match event.token() {
//!         JOBS => assert_eq!(jobs.try_recv(&mut [0; 16]), Ok(5)),
//!         other => unreachable!("nothing else is registered: {other:?}"),
//!     }
//! }
//! # Ok::<(), sinew::Error>(())
//! ```
//!
//! # An event is a hint
//! It says that a look is worth it, not what will be found: another thread or process may have been
//! faster. So look by `try_recv`, `try_wait`, `try_accept`, and take `Empty` or `WouldBlock` for an
//! answer; these never wait, whatever the flags of the descriptor.
//!
//! | Interest | gives an event |
//! |---|---|
//! | [`READABLE`](Interest::READABLE) and its like | at each wait, as long as it is so (level) |
//! | [`edge`](Interest::edge) | when it becomes so, and when more comes: take everything, until `Empty` |
//! | [`one_shot`](Interest::one_shot) | once, until [`Registered::modify`] arms it again |
//! | [`exclusive`](Interest::exclusive) | to one or some of the pollers that watch the same object, not to all |
//!
//! # Who owns a registration
//! The kernel registers the open file *description* under the number of the descriptor. Closing the
//! descriptor ends the registration only if no duplicate is left, in this process or in any other, and after
//! that nothing names it any more: it gives events for ever, with the token of something that is gone. A
//! [`Registered`] therefore holds what it watches, and takes the registration back before that
//! is closed. It holds a value, a reference (`poller.add(&listener, ..)`: the compiler sees to it that
//! the registration ends first) or an `Arc`.
//!
//! Events that a wait gave out before the drop still have its token. Where tokens are used again,
//! finish with the events first.
//!
//! # Nobody starves, unless by edges
//! The kernel gives what is ready in turn: what was reported and is still ready goes to the end of its list. So
//! with [`Events`] for one event only, each of a hundred busy descriptors has every hundredth
//! wait. That holds for level-triggered interest, and where the program does a bounded piece of work per event. With
//! edges the program must empty a source before it goes on, or remember that it has not; a sender
//! that never pauses keeps such a loop at one source. Prefer levels.
//!
//! # Costs
//! A wait is one system call (`epoll_pwait2`) and allocates nothing. With an
//! [`Interrupt`](crate::wait::Interrupt) it may be three; a [`Waker`] costs the waiting side nothing.
//! Deadlines hold to the nanosecond that the timer of the kernel gives; to the millisecond, and never early, where
//! [`Feature::EpollPwait2`](crate::kernel::Feature::EpollPwait2) is refused.
//!
//! # After a fork
//! A child shares the kernel's object with its parent: a wait there takes events away from the
//! parent, and a removal removes what the parent registered. So in a forked child every call on its
//! parent's poller fails as [`Forked`](crate::WaitError::Forked), and dropping a `Registered` only
//! closes the copy. The child makes a poller of its own. This is noticed without a system call, by a
//! page that the kernel wipes in the child; not noticed are children that share the memory (vfork).
//!
//! # After a crash
//! A poller belongs to its process and goes with it. The end of a peer is an event of whatever was
//! shared with it, [`Event::is_closed`]; the proof of a death is a pidfd.
//!
//! From epoll(7), epoll_ctl(2), epoll_wait(2).

mod event;
mod sys;

use std::cell::RefCell;
use std::fmt;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, PollFlags, epoll, eventfd};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::fork::Origin;
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{Wait, Waits, drive};

pub use event::{Event, Events, Interest, Iter, Token};

/// Waits for many descriptors at once. Threads may share it: each event goes to one of those that wait.
///
/// It is a descriptor itself, readable while it has events: another poller can watch it
/// (`outer.add(inner, ..)`, up to five deep), and so can any other event loop.
#[derive(Debug)]
pub struct Poller(Arc<Instance>);

#[derive(Debug)]
struct Instance {
    epoll: OwnedFd,
    origin: Origin,
}

impl Poller {
    /// A new one, which watches nothing.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)
            .map_err(|errno| refused("create (epoll_create1)", errno))?;
        Ok(Self(Arc::new(Instance { epoll, origin: Origin::here() })))
    }

    /// Watches `source`; its events come with `token`. They end when what this gives is dropped,
    /// which holds `source` until then.
    ///
    /// A source that is ready already gives an event at the next wait, with edges too.
    ///
    /// # Errors
    /// - [`AlreadyExists`](ErrorKind::AlreadyExists) where this descriptor is registered here already;
    /// - [`Mismatch`](ErrorKind::Mismatch) for a regular file or a folder, which cannot be polled;
    /// - [`InvalidInput`](ErrorKind::InvalidInput) for a poller in itself, directly or in a circle,
    ///   and for `exclusive` with `one_shot` or priority;
    /// - [`LimitReached`](ErrorKind::LimitReached) at `fs.epoll.max_user_watches`;
    /// - [`Forked`](ErrorKind::Forked) in a child of the process that made the poller.
    pub fn add<F: AsFd>(
        &self,
        source: F,
        token: Token,
        interest: Interest,
    ) -> Result<Registered<F>> {
        let operation = "watch a descriptor (epoll_ctl)";
        self.0.check(operation)?;
        let data = epoll::EventData::new_u64(token.0);
        epoll::add(&self.0.epoll, source.as_fd(), data, interest.flags())
            .map_err(|errno| refused(operation, errno))?;
        Ok(Registered { poller: Arc::clone(&self.0), source: Some(source) })
    }

    /// Something by which any thread ends a wait of this poller; the event has `token`.
    ///
    /// # Errors
    /// As [`add`](Self::add), and when no descriptor is left.
    pub fn waker(&self, token: Token) -> Result<Waker> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| refused("create a waker (eventfd)", errno))?;
        // By edges: each write is one, so that nobody has to read the counter.
        let event = self.add(event, token, Interest::READABLE.edge())?;
        Ok(Waker(Arc::new(event)))
    }

    /// The view whose `wait` puts what happens into `events`, and gives how many that are.
    pub fn fill<'a>(&'a self, events: &'a mut Events) -> Fill<'a> {
        Fill { poller: self, events: RefCell::new(events) }
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.epoll.as_fd()
    }
}

impl Instance {
    fn check(&self, operation: &'static str) -> Result<()> {
        if self.origin.is_here() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Forked, operation)
            .on(Mechanism::Epoll)
            .because("this process is a forked child of the one that made the poller")
            .fix("make a new one in the child"))
    }
}

/// What a poller watches, and the watching. Dropping it ends both.
///
/// It is what it holds (`Deref`), and [`get_mut`](Self::get_mut) changes that.
pub struct Registered<F: AsFd> {
    poller: Arc<Instance>,
    /// Taken only by those that end the object.
    source: Option<F>,
}

impl<F: AsFd> Registered<F> {
    /// Changes the token and the interest, and arms a one-shot again.
    ///
    /// What is ready now gives an event at the next wait, with edges too.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) where the old or the new interest is exclusive: such
    /// a registration is dropped and added anew; [`Forked`](ErrorKind::Forked).
    pub fn modify(&self, token: Token, interest: Interest) -> Result<()> {
        let operation = "change what is watched (epoll_ctl)";
        self.poller.check(operation)?;
        let data = epoll::EventData::new_u64(token.0);
        epoll::modify(&self.poller.epoll, self.as_fd(), data, interest.flags())
            .map_err(|errno| refused(operation, errno))
    }

    /// What is watched, to change it. It has to keep its descriptor: another one in its place is
    /// not watched, and the old one can be left behind in the poller, as
    /// [the module](self) says.
    pub fn get_mut(&mut self) -> &mut F {
        match &mut self.source {
            Some(source) => source,
            None => unreachable!("only what ends the object takes it"),
        }
    }

    /// Ends the watching, and gives back what was watched.
    #[must_use]
    pub fn into_inner(mut self) -> F {
        self.remove();
        match self.source.take() {
            Some(source) => source,
            None => unreachable!("only this takes it, once"),
        }
    }

    fn remove(&self) {
        // In a child the registration is the parent's.
        if let Some(source) = &self.source
            && self.poller.origin.is_here()
        {
            // Fails only where there is none any more.
            let _ = epoll::delete(&self.poller.epoll, source.as_fd());
        }
    }
}

impl<F: AsFd> Deref for Registered<F> {
    type Target = F;

    fn deref(&self) -> &F {
        match &self.source {
            Some(source) => source,
            None => unreachable!("only what ends the object takes it"),
        }
    }
}

impl<F: AsFd> AsFd for Registered<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

impl<F: AsFd> Drop for Registered<F> {
    fn drop(&mut self) {
        self.remove();
    }
}

impl<F: AsFd + fmt::Debug> fmt::Debug for Registered<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registered").field(&**self).finish()
    }
}

/// Ends a wait of a [`Poller`] from any thread. Made by [`Poller::waker`].
///
/// No wake is lost: one that comes while nobody waits ends the next wait. Several that come between
/// two waits are one event. Where several threads wait on the poller, one of them has it.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Registered<OwnedFd>>);

impl Waker {
    /// Ends a wait, this one or the next. One system call; never blocks. Does nothing in a forked
    /// child.
    pub fn wake(&self) {
        if self.0.poller.origin.is_here() {
            // The counter is never read: it is full after 2^64 - 2 wakes.
            let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
        }
    }
}

/// A poller with the place for its events. Made by [`Poller::fill`].
///
/// `wait` ends with at least one event. When it fails, `events` is empty. It fails with
/// [`WaitError::Forked`] in a child of the process that made the poller.
#[derive(Debug)]
#[must_use = "it waits for nothing until `wait`"]
pub struct Fill<'a> {
    poller: &'a Poller,
    /// Borrowed by `wait_for` only, which calls nothing of the user's.
    events: RefCell<&'a mut Events>,
}

impl Waits for Fill<'_> {
    /// How many events there are.
    type Waited = usize;

    #[inline]
    fn wait_for(&self, wait: Wait<'_>) -> Result<usize, WaitError> {
        let mut events = self.events.borrow_mut();
        events.clear();
        if !self.poller.0.origin.is_here() {
            return Err(WaitError::Forked);
        }
        let epoll = self.poller.as_fd();
        if !wait.is_unbounded() {
            return bounded(epoll, &mut events, wait);
        }
        loop {
            match sys::wait_for_ever(epoll, &mut events) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(count) => return Ok(count),
                Err(errno) => return Err(WaitError::Os(errno.raw_os_error())),
            }
        }
    }
}

fn bounded(epoll: BorrowedFd<'_>, events: &mut Events, wait: Wait<'_>) -> Result<usize, WaitError> {
    if wait.is_interruptible() {
        // The kernel waits for the poller and the interrupt together, then the events are taken.
        return drive(epoll, PollFlags::IN, wait, |_| match sys::take(epoll, events) {
            Ok(0) => Err(Errno::AGAIN),
            taken => taken,
        })
        .map_err(WaitError::from);
    }
    loop {
        let left = wait.left();
        let taken = match left {
            Ok(Some(left)) => sys::wait(epoll, events, left),
            Ok(None) => sys::wait_for_ever(epoll, events),
            // A deadline in the past, and a call that never waits, look once.
            Err(_) => sys::take(epoll, events),
        };
        match (taken, left) {
            (Ok(0), Err(stop)) => return Err(stop.into()),
            (Ok(0), Ok(_)) => {
                if let Err(stop) = wait.left() {
                    return Err(stop.into());
                }
            }
            (Ok(count), _) => return Ok(count),
            (Err(Errno::INTR), _) => {}
            (Err(errno), _) => return Err(WaitError::Os(errno.raw_os_error())),
        }
    }
}

/// What a refused call means here.
fn refused(operation: &'static str, errno: Errno) -> Error {
    let error = Error::os(operation, errno).on(Mechanism::Epoll);
    match errno {
        Errno::EXIST => error
            .because("this descriptor is registered with this poller already")
            .fix("change that registration by `modify`, or add a duplicate (`try_clone`)"),
        Errno::PERM => error.of_kind(ErrorKind::Mismatch).because(
            "this descriptor cannot be polled: a regular file or a folder is always ready",
        ),
        Errno::LOOP => error
            .of_kind(ErrorKind::InvalidInput)
            .because("pollers would wait for each other in a circle, or more than five deep"),
        Errno::INVAL => error.because(
            "a poller cannot watch itself, and an exclusive registration can neither be changed nor \
             be one-shot or for priority data",
        ),
        Errno::NOSPC => error
            .of_kind(ErrorKind::LimitReached)
            .because(format!(
                "the pollers of this user watch {} descriptors together",
                Limit::EpollMaxUserWatches.stated()
            ))
            .fix(Limit::EpollMaxUserWatches.raise()),
        Errno::MFILE => error
            .because(format!("this process has used up {}", Limit::Nofile.stated()))
            .fix(format!("close descriptors, or {}", Limit::Nofile.raise())),
        _ => error,
    }
}
