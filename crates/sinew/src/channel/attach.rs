//! Attaching to a channel: under a name, or by an end that was handed over.

mod forget;
mod ties;

use std::ffi::OsStr;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Options;
use super::bell::doorbell::Event;
use super::folder::Folder;
use super::layout::Shape;
use super::member::{FACTS, Hello, MOST_MORE, Member, NAME, Object, Role, Shared, Welcome};
use super::name::{Claimed, Connection, Name, orphaned};
use super::options;
use super::queue;
use super::receiver::Receiver;
use super::sender::Sender;
use super::typed::{self, Type};
use crate::error::{Error, ErrorKind, Result};
use crate::mapping::Mapping;
use crate::mechanism::Mechanism;
use crate::memfd::Memfd;
use crate::unix::Seqpacket;
use crate::wait::{Opens, Wait};

use ties::Ties;

/// For how long a name that is held is waited for to answer, where the caller does not say: a holder
/// answers at once unless it is stopped.
const ANSWER: Duration = Duration::from_secs(5);

/// For how long a name that a dead process has left is waited for to be taken over, where the caller does not
/// wait for it and no survivor is seen: several times what one needs for that.
const TAKE_OVER: Duration = Duration::from_millis(200);

/// An end of a channel that can be attached: a [`Sender`] or a [`Receiver`], or one [of a queue](queue).
pub trait End: private::End {}

impl End for Sender {}
impl End for Receiver {}
impl End for queue::Sender {}
impl End for queue::Worker {}

pub(super) mod private {
    use super::{Arc, Events, Mapping, Member, Result, Role, Shape, Type};

    pub trait End: Sized {
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "nobody outside can name it")]
        const ROLE: Role;

        #[doc(hidden)]
        const OF_QUEUE: bool;

        /// The types of messages that it takes; none for bytes.
        #[doc(hidden)]
        const TYPES: &'static [Type] = &[];

        #[doc(hidden)]
        #[allow(private_interfaces, reason = "nobody outside can name them")]
        fn attach(
            map: &Arc<Mapping>,
            shape: &Shape,
            events: &Events,
            member: Member,
            named: bool,
        ) -> Result<Self>;

        #[doc(hidden)]
        #[allow(private_interfaces, reason = "nobody outside can name it")]
        fn member(&self) -> Option<&Member>;
    }
}

/// How an end is attached under a name. Made by [`Options::sender`] and [`Options::receiver`], and those
/// [of a queue](queue::Options::sender).
///
/// Names are those of one user: they are in a folder that only the user can enter ($XDG_RUNTIME_DIR/sinew,
/// else /run/sinew for root, else a folder in /tmp with the user's number, whose owner and mode are checked), or
/// in the one that [`folder`](Self::folder) says.
#[derive(Debug)]
#[must_use = "it attaches nothing until `create`, `open` or `open_or_create`"]
pub struct Attach<E> {
    options: Options,
    folder: Option<PathBuf>,
    durable: [u8; NAME],
    _end: PhantomData<fn() -> E>,
}

impl<E: End> Attach<E> {
    pub(super) const fn new(options: Options) -> Self {
        Self { options, folder: None, durable: [0; NAME], _end: PhantomData }
    }

    /// Looks for names in this folder, which exists and is this user's or root's.
    pub fn folder(mut self, path: impl AsRef<Path>) -> Self {
        self.folder = Some(path.as_ref().to_owned());
        self
    }

    /// Makes a channel under a name that nobody holds, with this as its first end.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if a process holds the name, or is about to take it over from a dead one,
    /// which the error tells, and whether that is stopped; [`InvalidInput`](ErrorKind::InvalidInput) for a name that cannot be (1 to 200 bytes, without a slash,
    /// not beginning with a dot), a capacity or a number of senders; as for
    /// [`memfd::Options::create`](crate::memfd::Options::create) where there is not so much memory.
    pub fn create(&self, name: impl AsRef<OsStr>) -> Result<E> {
        let name = self.name(name.as_ref())?;
        // Before the name is taken: what cannot be is said at once.
        self.options.bytes()?;
        self.hold(name.claim(Wait::timeout(ANSWER))?)
    }

    /// Attaches to the channel that has this name.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if there is none; [`InUse`](ErrorKind::InUse) if it has a receiver, or as many
    /// senders or workers as it can have; [`Mismatch`](ErrorKind::Mismatch) if it is of another pattern, version or [type](Options::typed), or not
    /// [`full`](Options::full) in the way that was said;
    /// [`TimedOut`](ErrorKind::TimedOut) if its holder does not answer, naming it.
    pub fn open(&self, name: impl AsRef<OsStr>) -> Result<E> {
        let name = self.name(name.as_ref())?;
        let connection = match name.connect() {
            // Its holder is dead, and another member may be about to take the name over.
            Err(error) if error.kind() == ErrorKind::NotFound && name.path().exists() => {
                let survivor = name.survivor();
                let patience = if survivor.is_some() { ANSWER } else { TAKE_OVER };
                match name.connect_wait(Wait::timeout(patience)) {
                    Err(late) if late.kind() == ErrorKind::TimedOut => {
                        return Err(survivor.map_or(error, |pid| late.because(orphaned(pid))));
                    }
                    other => other?,
                }
            }
            other => other?,
        };
        self.join(&name, Some(connection), Wait::timeout(TAKE_OVER), Wait::timeout(ANSWER))
    }

    /// Attaches to the channel that has this name, or makes it.
    ///
    /// # Errors
    /// As those of [`create`](Self::create) and [`open`](Self::open).
    pub fn open_or_create(&self, name: impl AsRef<OsStr>) -> Result<E> {
        let name = self.name(name.as_ref())?;
        self.options.bytes()?;
        match name.claim_or_connect(Wait::timeout(ANSWER))? {
            Claimed::Ours(listener) => self.hold(listener),
            Claimed::Theirs(connection) => {
                self.join(&name, Some(connection), Wait::timeout(ANSWER), Wait::timeout(ANSWER))
            }
        }
    }

    /// A view with the verbs of [`Opens`], which wait for a channel that does not exist yet. Meanwhile nothing
    /// wakes up.
    pub fn awaited(&self, name: impl AsRef<OsStr>) -> Awaited<'_, E> {
        Awaited { attach: self, name: name.as_ref().into() }
    }

    /// Comes back as the same member: its place is kept when it leaves or dies, for whoever says this name. A sender
    /// gets its lane again, and so learns from [`Sender::sent`] which of its messages was the last that was committed; a
    /// receiver's messages wait for it, until somebody [forgets](Receiver::forget) the name.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for a name that is empty, longer than 32 bytes or has a zero in it.
    pub fn durable(mut self, name: impl AsRef<[u8]>) -> Result<Self> {
        self.durable = durable(name.as_ref())?;
        Ok(self)
    }

    fn name(&self, name: &OsStr) -> Result<Name> {
        let Some(text) = name.to_str() else {
            return Err(Error::new(ErrorKind::InvalidInput, "name a channel")
                .on(Mechanism::Channel)
                .object(format!("{name:?}"))
                .because("it is no text (UTF-8)"));
        };
        let folder = match &self.folder {
            Some(path) => Folder::at(path)?,
            None => Folder::default()?,
        };
        Name::new(folder, text)
    }

    /// Makes the channel whose name was taken.
    fn hold(&self, listener: super::name::Listener) -> Result<E> {
        let (memfd, map, shape) = self.options.make(listener.name().as_str())?;
        let events = Events::new(&shape)?;
        let ties = Ties::new(&map, shape, &events, true);
        let (table, more) = (ties.table()?, events.shared());
        let object = Object { memory: memfd.into(), more, table, facts: [0; FACTS] };
        let member = Member::create(listener, object, E::ROLE, 0, self.durable, ties)?;
        E::attach(&map, &shape, &events, member, true)
    }

    fn join(
        &self,
        name: &Name,
        first: Option<Connection>,
        exist: Wait<'_>,
        answer: Wait<'_>,
    ) -> Result<E> {
        let hello = Hello {
            pattern: self.options.pattern_number(),
            role: E::ROLE,
            lane: None,
            name: self.durable,
            types: typed::accepted(E::TYPES),
            facts: self.options.facts(),
            pid: 0,
            namespace: 0,
            started: 0,
        };
        let mut found = None;
        let member =
            Member::join(name, first, &hello, exist, answer, &mut |_: &Welcome, memory, more| {
                let (map, shape) = open_memory::<E>(memory)?;
                let events = Events::of(more, &shape)?;
                let ties = Ties::new(&map, shape, &events, true);
                let (table, more) = (ties.table()?, events.shared());
                found = Some((map, shape, events));
                Ok((table, ties, more))
            });
        let member = member.map_err(|error| typed::named(error, E::TYPES))?;
        let (map, shape, events) = found.ok_or_else(|| damaged("join"))?;
        E::attach(&map, &shape, &events, member, true)
    }
}

/// A channel that may not exist yet. Made by [`Attach::awaited`].
#[derive(Debug)]
pub struct Awaited<'a, E> {
    attach: &'a Attach<E>,
    name: Box<OsStr>,
}

impl<E: End> Opens for Awaited<'_, E> {
    type Opened = E;

    fn open_wait(&self, wait: Wait<'_>) -> Result<E> {
        let name = self.attach.name(&self.name)?;
        self.attach.join(&name, None, wait, wait)
    }
}

/// An end of a channel without a name that no process has attached yet: four descriptors, which can be handed to a
/// child or sent over any UNIX socket. Made by [`Options::ends`].
///
/// Dropped unattached, the other end is told that nobody will come.
#[derive(Debug)]
#[must_use = "dropped, this end is closed"]
pub struct Unattached<E> {
    memory: OwnedFd,
    socket: OwnedFd,
    /// The doorbells, of the receiver and of the sender.
    bells: [OwnedFd; 2],
    _end: PhantomData<fn() -> E>,
}

/// The places of the ends of a pair.
const fn place_of(role: Role) -> usize {
    match role {
        Role::Receiver => 0,
        Role::Sender => 1,
    }
}

impl<E> Unattached<E> {
    const fn new(memory: OwnedFd, socket: OwnedFd, bells: [OwnedFd; 2]) -> Self {
        Self { memory, socket, bells, _end: PhantomData }
    }

    /// This end and the other one of a new channel.
    pub(super) fn pair<R>(options: Options) -> Result<(Self, Unattached<R>)> {
        let (memfd, map, shape) = options.make("pair")?;
        drop(map);
        if (shape.lanes, shape.receivers) != (1, 1) {
            return Err(Error::new(ErrorKind::InvalidInput, "make a pair")
                .on(Mechanism::Channel)
                .because("a channel with many ends has a name by which they come"));
        }
        let copy = memfd.try_clone()?;
        let (one, other) = Seqpacket::pair()?;
        let (receivers, senders) = (Event::new()?, Event::new()?);
        let bells = || Ok::<_, Error>([receivers.to_fd()?, senders.to_fd()?]);
        let sender = Self::new(memfd.into(), one.into(), bells()?);
        Ok((sender, Unattached::new(copy.into(), other.into(), bells()?)))
    }
}

impl<E: End> Unattached<E> {
    /// The four descriptors, in the order in which [`from_fds`](Self::from_fds) takes them.
    #[must_use]
    pub fn into_fds(self) -> [OwnedFd; 4] {
        let [receivers, senders] = self.bells;
        [self.memory, self.socket, receivers, senders]
    }

    /// An end from its four descriptors. Whether they are one is checked when it is attached.
    pub fn from_fds(fds: [OwnedFd; 4]) -> Self {
        let [memory, socket, receivers, senders] = fds;
        Self::new(memory, socket, [receivers, senders])
    }

    /// Attaches it to this process. The other end need not be attached yet.
    ///
    /// # Errors
    /// [`Mismatch`](ErrorKind::Mismatch) if the descriptors are no end of a channel of this version;
    /// [`InUse`](ErrorKind::InUse) if a process has attached it.
    pub fn attach(self) -> Result<E> {
        let (map, shape) = open_memory::<E>(&self.memory)?;
        let socket = Seqpacket::from(self.socket);
        let events = Events::of(self.bells.into(), &shape)?;
        let ties = Ties::new(&map, shape, &events, false);
        let (memory, table) = (self.memory, ties.table()?);
        let object = Object { memory, more: Vec::new(), table, facts: [0; FACTS] };
        let member = Member::pair(socket, object, place_of(E::ROLE), E::ROLE, 0, ties)?;
        E::attach(&map, &shape, &events, member, false)
    }
}

impl Options {
    /// The sending end, to be attached under a name.
    pub const fn sender(self) -> Attach<Sender> {
        Attach::new(self)
    }

    /// The receiving end, to be attached under a name.
    pub const fn receiver(self) -> Attach<Receiver> {
        Attach::new(self)
    }

    /// Makes a channel without a name, whose two ends can be handed to other processes before they are
    /// attached there. A [`stream`](Self::stream) only.
    ///
    /// # Errors
    /// [`InvalidInput`](ErrorKind::InvalidInput) for more senders than one, and as [`bytes`](Self::bytes); as
    /// for [`memfd::Options::create`](crate::memfd::Options::create) where there is not so much memory.
    pub fn ends(self) -> Result<(Unattached<Sender>, Unattached<Receiver>)> {
        Unattached::pair(self)
    }
}

/// The name of a durable member.
fn durable(name: &[u8]) -> Result<[u8; NAME]> {
    if name.is_empty() || name.len() > NAME || name.contains(&0) {
        return Err(Error::new(ErrorKind::InvalidInput, "name a member")
            .on(Mechanism::Channel)
            .because(format!("1 to {NAME} bytes other than zero, not {}", name.len())));
    }
    let mut padded = [0; NAME];
    padded[..name.len()].copy_from_slice(name);
    Ok(padded)
}

/// Maps the memory of a channel, if it is one.
fn open_memory<E: End>(memory: &OwnedFd) -> Result<(Arc<Mapping>, Shape)> {
    let memfd = Memfd::try_from(memory.as_fd().try_clone_to_owned().map_err(|e| {
        let errno = rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::MFILE);
        Error::os("attach", errno).on(Mechanism::Channel)
    })?)?;
    let map = Arc::new(memfd.map()?);
    let shape = if E::OF_QUEUE {
        options::open_queue(&map, E::TYPES)
    } else {
        options::open(&map, E::TYPES)
    }?;
    Ok((map, shape))
}

#[cold]
fn damaged(operation: &'static str) -> Error {
    Error::new(ErrorKind::Mismatch, operation)
        .on(Mechanism::Channel)
        .because("its memory is damaged")
}

/// The doorbells of a channel: of its receivers, and of its senders where they have some.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events {
    receivers: Arc<[Event]>,
    senders: Arc<[Event]>,
}

impl Events {
    pub(super) fn new(shape: &Shape) -> Result<Self> {
        let (receivers, senders) = Self::count(shape);
        let make = |count| (0..count).map(|_| Event::new()).collect::<Result<_>>();
        Ok(Self { receivers: make(receivers)?, senders: make(senders)? })
    }

    /// How many receivers and senders have one. Everybody has all of them: in a fan-in, where that is
    /// too much for what they are good for, senders have none.
    const fn count(shape: &Shape) -> (u64, u64) {
        let is_queue = shape.slots > 0 && shape.receivers + shape.lanes <= MOST_MORE as u64;
        (shape.receivers, if is_queue || shape.lanes == 1 { shape.lanes } else { 0 })
    }

    /// As they were handed over, in the order of `shared`.
    fn of(fds: Vec<OwnedFd>, shape: &Shape) -> Result<Self> {
        let (receivers, senders) = Self::count(shape);
        if fds.len() as u64 != receivers + senders {
            return Err(Error::new(ErrorKind::Mismatch, "attach")
                .on(Mechanism::Channel)
                .because("its doorbells are missing"));
        }
        let mut events = fds.into_iter().map(Event::from_fd);
        let mut take = |count: u64| events.by_ref().take(count as usize).collect::<Result<_>>();
        Ok(Self { receivers: take(receivers)?, senders: take(senders)? })
    }

    /// What newcomers are handed.
    fn shared(&self) -> Vec<Shared> {
        let all = self.receivers.iter().chain(&*self.senders);
        all.map(|event| Arc::new(event.clone()) as Shared).collect()
    }

    pub(super) fn receiver(&self, index: u64) -> Option<&Event> {
        self.receivers.get(index as usize)
    }

    pub(super) fn sender(&self, lane: u64) -> Option<&Event> {
        self.senders.get(lane as usize)
    }
}
