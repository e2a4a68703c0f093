//! Waiting for several channels, and any descriptors, in one call.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use super::bell::doorbell::Event;
use crate::error::{Error, ErrorKind, Result, WaitError};
use crate::fork::Origin;
use crate::mechanism::Mechanism;
use crate::poller::{self, Interest, Poller, Registered, Token, Waker};
use crate::wait::{Wait, Waits};

/// How many events are taken at a time.
const EVENTS: usize = 64;
/// How often in a row the channels that had something are asked first, before the others are.
const ROUNDS: u32 = 16;
/// How often a channel is looked at whose doorbell cannot be armed.
const LOOK: Duration = Duration::from_millis(1);

/// What a [`WaitSet`] can wait for: a reference to an end of a channel, or an `Rc` of one.
///
/// A receiver is ready when [`try_recv`](crate::wait::Receives::try_recv) would not say `Empty`: a message is there, or a sender died, or
/// the end. A sender is ready when a [`try_send`](crate::wait::Sends::try_send) was told `Full` and now would not be; that is
/// told once, and again only after the next `Full`.
pub trait Watch: private::Watch {}

impl<E: private::Watch> Watch for &E {}
impl<E: private::Watch> Watch for Rc<E> {}

/// What there is at one end of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// Nothing, and its doorbell tells of the next.
    Armed,
    /// Nothing is waited for.
    Idle,
    /// Nothing, and its doorbell may not tell.
    Unsure,
}

pub(super) mod private {
    use super::{Event, Rc, Result, State};

    pub trait Watch {
        /// Takes the doorbell.
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "nobody outside can name it")]
        fn bell(&self) -> Result<Option<Event>>;

        /// The doorbell was readable.
        #[doc(hidden)]
        fn rung(&self);

        /// Looks, and arms the doorbell if there is nothing.
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "nobody outside can name it")]
        fn state(&self) -> State;

        /// That something is there was told.
        #[doc(hidden)]
        fn told(&self);
    }

    macro_rules! through {
        ($($pointer:ty),*) => { $(
            impl<E: Watch> Watch for $pointer {
                #[allow(private_interfaces, reason = "nobody outside can name it")]
                fn bell(&self) -> Result<Option<Event>> {
                    (**self).bell()
                }

                #[allow(private_interfaces, reason = "nobody outside can name it")]
                fn state(&self) -> State {
                    (**self).state()
                }

                fn rung(&self) {
                    (**self).rung();
                }

                fn told(&self) {
                    (**self).told();
                }
            }
        )* };
    }
    through!(&E, Rc<E>);
}

/// Waits for several channels, and any descriptors, in one call: the verb [`wait`](Waits::wait) in its four forms, which gives the
/// [`Token`] of one that is ready.
///
/// ```
/// use sinew::RecvError;
/// use sinew::channel::{Options, WaitSet};
/// use sinew::poller::{Interest, Token};
/// use sinew::wait::{Receives, Sends, Waits};
///
/// const ORDERS: Token = Token(1);
/// const PRICES: Token = Token(2);
/// const STOP: Token = Token(3);
///
/// let (orders_in, orders) = Options::stream().pair()?;
/// let (prices_in, prices) = Options::stream().pair()?;
/// let (stop, stop_in) = sinew::pipe::pipe()?;
///
/// let mut set = WaitSet::new()?;
/// set.add(&orders, ORDERS)?;
/// set.add(&prices, PRICES)?;
/// set.add_fd(&stop, STOP, Interest::READABLE)?;
///
/// prices_in.send(b"9.81").unwrap();
/// let mut buf = [0; 64];
/// assert_eq!(set.wait(), Ok(PRICES));
/// assert_eq!(prices.try_recv(&mut buf), Ok(4));
/// // Everything was taken.
/// assert!(set.try_wait().is_err());
///
/// drop((orders_in, stop_in));
/// let two = [set.wait().unwrap(), set.wait().unwrap()];
/// assert!(two.contains(&ORDERS) && two.contains(&STOP));
/// assert_eq!(orders.try_recv(&mut buf), Err(RecvError::Closed));
/// # Ok::<(), sinew::Error>(())
/// ```
///
/// # What ready means
/// Of a channel, that a call has something to tell: [`Watch`]. As long as that is so it is told again, whether everything was taken or
/// not; what was taken meanwhile is not. An end of a channel is something to tell for ever: [`remove`](Self::remove) it then. Of
/// a descriptor, it is a hint to look, as an event of a [`poller`](crate::poller).
///
/// Those that are ready are given in turns; after 16 rounds at most the kernel is asked about the others, so nobody
/// starves.
///
/// # Costs
/// While a channel that was given has more, a wait looks at its memory: no system call. Else one for the wait, and two
/// for each channel that was given since, whose doorbell is armed; its next sender pays two. No allocation
/// but in [`add`](Self::add). While nothing comes, nobody wakes up.
///
/// # Who uses it
/// One thread at a time, that of the ends; another one ends a wait by [`waker`](Self::waker), or by an
/// [`Interrupt`](crate::wait::Interrupt). An end is in one set at a time. In a forked child it fails with
/// [`Forked`](WaitError::Forked). Nothing of it is shared: it goes with its process.
///
/// Source: epoll(7), eventfd(2).
pub struct WaitSet<'a> {
    poller: Poller,
    origin: Origin,
    /// Borrowed by `wait_for` only, which calls nothing of the user's.
    members: RefCell<Members<'a>>,
    events: RefCell<poller::Events>,
}

struct Members<'a> {
    all: Vec<Option<Member<'a>>>,
    /// Those that were found ready, by their index.
    ready: VecDeque<usize>,
    /// Channels that were given, or were idle: nothing tells of them, so they are looked at.
    awake: VecDeque<usize>,
    rounds: u32,
}

struct Member<'a> {
    token: Token,
    what: What<'a>,
    place: Place,
}

/// What is waited for. What is only kept is registered with the poller as long.
enum What<'a> {
    Channel { end: Box<dyn private::Watch + 'a>, _bell: Registered<Event> },
    Descriptor { _source: Registered<Box<dyn AsFd + 'a>> },
    Waker { _waker: Waker },
}

/// Who finds out that a member is ready.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The poller tells.
    Asleep,
    /// It is looked at by each wait.
    Awake,
    /// It was found, and is not given yet.
    Ready,
}

impl<'a> WaitSet<'a> {
    /// An empty one.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> Result<Self> {
        let members =
            Members { all: Vec::new(), ready: VecDeque::new(), awake: VecDeque::new(), rounds: 0 };
        Ok(Self {
            poller: Poller::new()?,
            origin: Origin::here(),
            members: RefCell::new(members),
            events: RefCell::new(poller::Events::with_capacity(EVENTS)),
        })
    }

    /// Waits for an end of a channel too, and calls it `token`.
    ///
    /// # Errors
    /// - [`Unsupported`](ErrorKind::Unsupported) for an end without a [doorbell](super::Receiver::doorbell): a sender of a
    ///   fan-in, and what [`open_in`](super::Receiver::open_in) made;
    /// - [`AlreadyExists`](ErrorKind::AlreadyExists) if the token or the end is in the set;
    /// - [`LimitReached`](ErrorKind::LimitReached) at `fs.epoll.max_user_watches`;
    /// - [`Forked`](ErrorKind::Forked) in a child of the process that made the set.
    pub fn add(&mut self, end: impl Watch + 'a, token: Token) -> Result<()> {
        let index = self.free(token)?;
        let Some(bell) = end.bell()? else {
            return Err(refused(ErrorKind::Unsupported, token, "this end has no doorbell"));
        };
        // By edges: a doorbell at rest is readable all the time.
        let interest = Interest::READABLE.edge();
        let _bell = self.poller.add(bell, Token(index as u64), interest)?;
        self.put(index, token, What::Channel { end: Box::new(end), _bell }, Place::Awake);
        Ok(())
    }

    /// Waits for a descriptor too, and calls it `token`. It is held: by value, by reference or in an `Rc`.
    ///
    /// # Errors
    /// As those of [`Poller::add`], and [`AlreadyExists`](ErrorKind::AlreadyExists) if the token is in the set.
    pub fn add_fd(
        &mut self,
        source: impl AsFd + 'a,
        token: Token,
        interest: Interest,
    ) -> Result<()> {
        let index = self.free(token)?;
        let source: Box<dyn AsFd + 'a> = Box::new(source);
        let _source = self.poller.add(source, Token(index as u64), interest)?;
        self.put(index, token, What::Descriptor { _source }, Place::Asleep);
        Ok(())
    }

    /// Something by which any thread ends a wait, this one or the next, which gives `token` then.
    ///
    /// # Errors
    /// As [`add_fd`](Self::add_fd), and when no descriptor is left.
    pub fn waker(&mut self, token: Token) -> Result<Waker> {
        let index = self.free(token)?;
        let waker = self.poller.waker(Token(index as u64))?;
        self.put(index, token, What::Waker { _waker: waker.clone() }, Place::Asleep);
        Ok(waker)
    }

    /// Waits no more for what this token stands for. Gives whether there was such a one.
    pub fn remove(&mut self, token: Token) -> bool {
        let members = self.members.get_mut();
        let Some(index) = members.find(token) else { return false };
        members.ready.retain(|&other| other != index);
        members.awake.retain(|&other| other != index);
        members.all[index] = None;
        true
    }

    /// Where a new member goes.
    fn free(&mut self, token: Token) -> Result<usize> {
        if !self.origin.is_here() {
            return Err(refused(ErrorKind::Forked, token, "the set is that of another process"));
        }
        let members = self.members.get_mut();
        if members.find(token).is_some() {
            return Err(refused(ErrorKind::AlreadyExists, token, "the token is in the set"));
        }
        let free = members.all.iter().position(Option::is_none);
        Ok(free.unwrap_or_else(|| {
            members.all.push(None);
            members.all.len() - 1
        }))
    }

    fn put(&mut self, index: usize, token: Token, what: What<'a>, place: Place) {
        let members = self.members.get_mut();
        // Here, so that a wait allocates nothing.
        let count = members.all.len();
        members.ready.reserve(count - members.ready.len());
        members.awake.reserve(count - members.awake.len());
        if place == Place::Awake {
            members.awake.push_back(index);
        }
        members.all[index] = Some(Member { token, what, place });
    }
}

impl Waits for WaitSet<'_> {
    /// The token of one that is ready.
    type Waited = Token;

    fn wait_for(&self, wait: Wait<'_>) -> Result<Token, WaitError> {
        if !self.origin.is_here() {
            return Err(WaitError::Forked);
        }
        wait.check_interrupt_word().map_err(WaitError::from)?;
        let mut members = self.members.borrow_mut();
        let mut events = self.events.borrow_mut();
        loop {
            if let Some(token) = members.next() {
                return Ok(token);
            }
            let sure = members.look_at_awake();
            let found = !members.ready.is_empty();
            if found && members.rounds < ROUNDS {
                members.rounds += 1;
                continue;
            }
            members.rounds = 0;
            // What is ready already, or cannot be told of, is not waited for.
            let patience = if found || !sure { Wait::NEVER } else { wait };
            match self.poller.fill(&mut events).wait_for(patience) {
                Ok(_) => members.look_at_events(&events),
                Err(_) if found => {}
                Err(WaitError::WouldBlock) if !sure => {
                    wait.sleep(None, Some(LOOK)).map_err(WaitError::from)?;
                }
                Err(why) => return Err(why),
            }
        }
    }
}

impl Members<'_> {
    fn find(&self, token: Token) -> Option<usize> {
        self.all.iter().position(|member| member.as_ref().is_some_and(|m| m.token == token))
    }

    /// The next that is ready.
    fn next(&mut self) -> Option<Token> {
        while let Some(index) = self.ready.pop_front() {
            let Some(member) = &mut self.all[index] else { continue };
            let What::Channel { end, .. } = &member.what else {
                member.place = Place::Asleep;
                return Some(member.token);
            };
            // What it had may have been taken meanwhile.
            let state = end.state();
            if state == State::Ready {
                end.told();
                member.place = Place::Awake;
                self.awake.push_back(index);
                return Some(member.token);
            }
            self.put_by(index, state);
        }
        None
    }

    /// Looks at those of which nothing tells. Gives whether something tells of all that are not ready now.
    fn look_at_awake(&mut self) -> bool {
        let mut sure = true;
        for _ in 0..self.awake.len() {
            if let Some(index) = self.awake.pop_front() {
                sure &= self.look(index) != State::Unsure;
            }
        }
        sure
    }

    /// Looks at those of which the poller told.
    fn look_at_events(&mut self, events: &poller::Events) {
        for event in events {
            let index = event.token().0 as usize;
            let Some(Some(member)) = self.all.get(index) else { continue };
            if let What::Channel { end, .. } = &member.what {
                end.rung();
            }
            if member.place == Place::Asleep {
                self.look(index);
            }
        }
    }

    /// Looks at a member that is in no list.
    fn look(&mut self, index: usize) -> State {
        let state = match &self.all[index] {
            Some(Member { what: What::Channel { end, .. }, .. }) => end.state(),
            _ => State::Ready,
        };
        self.put_by(index, state);
        state
    }

    /// Puts a member into the list where it belongs.
    fn put_by(&mut self, index: usize, state: State) {
        let place = match state {
            State::Ready => {
                self.ready.push_back(index);
                Place::Ready
            }
            State::Armed => Place::Asleep,
            State::Idle | State::Unsure => {
                self.awake.push_back(index);
                Place::Awake
            }
        };
        if let Some(member) = &mut self.all[index] {
            member.place = place;
        }
    }
}

#[cold]
fn refused(kind: ErrorKind, token: Token, why: &'static str) -> Error {
    Error::new(kind, "add to a wait set")
        .on(Mechanism::Channel)
        .object(format!("{token:?}"))
        .because(why)
}

impl fmt::Debug for WaitSet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let members = self.members.borrow();
        let tokens = members.all.iter().flatten().map(|member| member.token.0);
        f.debug_tuple("WaitSet").field(&tokens.collect::<Vec<_>>()).finish()
    }
}
