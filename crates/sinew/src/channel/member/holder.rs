//! What the holder of a name does: it lets newcomers in, and tells the members of each other.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::access::is_same_user;
use super::link::{Got, receive};
use super::message::{ABI, Hello, How, Message, Place, Welcome, Writer};
use super::slot::{Info, Kind};
use super::{Core, GUEST, Inner, LISTENER, News, Peer, Seat, Who, pidfd_token, refuse, send};
use crate::channel::name::Listener;
use crate::channel::service::Attendance;
use crate::error::{Error, ErrorKind, Result, SendError};
use crate::kernel::Feature;
use crate::limits::Limit;
use crate::pidfd::PidFd;
use crate::poller::Interest;
use crate::unix::{Seqpacket, Socket};

/// How many may be connected that have not said who they are. When one more comes, the oldest goes.
const SILENT: usize = 16;
/// How often a holder tries for a name that another has, in growing pauses: for about a second.
const PATIENCE: u32 = 11;
/// How many newcomers, and messages of one, are taken before others have their turn.
const BATCH: usize = 16;

/// What a member has that holds the name.
pub(super) struct Holding {
    pub(super) listener: Option<Attendance<Listener>>,
    /// How often the name could not be had, for a reason that lasts.
    refused: u32,
    /// Whether the listener is not looked at for now.
    deaf: bool,
    pub(super) guests: BTreeMap<u64, Guest>,
    /// A descriptor to give up when there is no other: so that whoever cannot be let in is told why, and
    /// does not stand at the door for ever, which would be told again and again.
    reserve: Option<OwnedFd>,
}

/// Who is connected to the holder.
pub(super) struct Guest {
    pub(super) socket: Attendance<Seqpacket>,
    /// Its place, once it has one.
    pub(super) place: Option<Place>,
    /// The places of which it is to be told, a bit each.
    owed: u128,
}

/// Somebody who said hello.
pub(super) struct Newcomer {
    number: u64,
    hello: Hello,
    pidfd: OwnedFd,
}

impl Holding {
    pub(super) fn new(memory: &OwnedFd) -> Self {
        let reserve = spare(memory);
        Self { listener: None, refused: 0, deaf: false, guests: BTreeMap::new(), reserve }
    }

    pub(super) fn listen_by(&mut self, core: &Core, listener: Listener) -> Result<()> {
        self.listener = Some(core.attend(listener, LISTENER)?);
        self.deaf = false;
        self.refused = 0;
        Ok(())
    }

    /// Whether to try again in a while, and not only when there is news of the name.
    pub(super) fn refused_again(&mut self) -> bool {
        self.refused += 1;
        self.refused < PATIENCE
    }

    pub(super) fn is_in_place(&self) -> bool {
        let listener = self.listener.as_ref().map(Attendance::source);
        listener.is_some_and(|listener| listener.is_in_place().unwrap_or(false))
    }

    /// Closes its ears until the timer tells.
    fn close_ears(&mut self, deaf: bool) {
        let interest = if deaf { Interest::NONE } else { Interest::READABLE };
        if let Some(listener) = &mut self.listener
            && self.deaf != deaf
        {
            self.deaf = listener.want(interest).is_ok() && deaf;
        }
    }
}

/// Any descriptor.
fn spare(memory: &OwnedFd) -> Option<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(memory, 0).ok()
}

impl Core {
    /// What the holder does when the timer tells.
    pub(super) fn hold_on(&self, inner: &mut Inner) {
        self.listen(inner);
        if let Some(holding) = &mut inner.holding {
            holding.reserve = holding.reserve.take().or_else(|| spare(&inner.memory));
            holding.close_ears(false);
        }
        self.flush(inner);
    }

    /// Takes those who knock.
    pub(super) fn accept(&self, inner: &mut Inner) {
        for _ in 0..BATCH {
            let Some(holding) = &mut inner.holding else { return };
            let Some(listener) = &holding.listener else { return };
            match listener.source().accept() {
                Ok(None) => return,
                Ok(Some(socket)) => self.greet(inner, socket),
                Err(error)
                    if error.kind() == ErrorKind::LimitReached && holding.reserve.is_some() =>
                {
                    self.turn_away(inner);
                }
                Err(_) => {
                    holding.close_ears(true);
                    return inner.later();
                }
            }
        }
    }

    /// Tells one that there is no descriptor for it.
    fn turn_away(&self, inner: &mut Inner) {
        let Some(holding) = &mut inner.holding else { return };
        holding.reserve = None;
        if let Some(listener) = &holding.listener
            && let Ok(Some(socket)) = listener.source().accept()
        {
            refuse(&socket, ErrorKind::LimitReached, &no_descriptors());
        }
        holding.reserve = spare(&inner.memory);
    }

    /// Lets one in as far as that it may say who it is.
    pub(super) fn greet(&self, inner: &mut Inner, socket: Seqpacket) {
        if !is_same_user(&socket) {
            let text = "the channel is another user's";
            return refuse(&socket, ErrorKind::PermissionDenied, text);
        }
        let Some(holding) = &mut inner.holding else { return };
        let silent = || holding.guests.iter().filter(|(_, guest)| guest.place.is_none());
        if silent().count() >= SILENT
            && let Some(oldest) = silent().map(|(number, _)| *number).next()
        {
            holding.guests.remove(&oldest);
        }
        inner.serial += 1;
        if let Ok(socket) = self.attend(socket, GUEST | inner.serial) {
            holding.guests.insert(inner.serial, Guest { socket, place: None, owed: 0 });
        }
    }

    /// Takes what a guest says. Gives the newcomer that it is.
    pub(super) fn guest_ready(&self, inner: &mut Inner, number: u64) -> Option<Newcomer> {
        for _ in 0..BATCH {
            let guest = inner.holding.as_mut()?.guests.get_mut(&number)?;
            let silent = guest.place.is_none();
            match receive(guest.socket.source(), usize::from(silent)) {
                Got::Message(Message::Hello { hello, pidfd }) if silent => {
                    return Some(Newcomer { number, hello, pidfd });
                }
                Got::Message(Message::Again { channel, place, known, pidfd }) if silent => {
                    self.let_back_in(inner, number, channel, place, &known, pidfd);
                }
                Got::OtherVersion if silent => {
                    let text = format!("the holder speaks version {ABI}, and the newcomer another");
                    self.show_out(inner, number, ErrorKind::Unsupported, &text);
                }
                Got::Message(_) | Got::Bad | Got::OtherVersion if silent => {
                    inner.holding.as_mut()?.guests.remove(&number);
                }
                // Of a later version: members have nothing to say in this one.
                Got::Message(_) | Got::Bad | Got::OtherVersion => {}
                Got::Nothing => break,
                Got::End => {
                    self.guest_gone(inner, number);
                    break;
                }
            }
        }
        self.flush(inner);
        None
    }

    fn guest_gone(&self, inner: &mut Inner, number: u64) {
        let Some(holding) = &mut inner.holding else { return };
        let place = holding.guests.remove(&number).and_then(|guest| guest.place);
        let Some(place) = place else { return };
        match self.state_of(place).map(|state| state.kind) {
            // It cannot arrive after that.
            Some(Kind::Joining) => {
                if self.table.slot(place.slot).is_some_and(|slot| slot.cancel(place.generation)) {
                    self.part(inner, place.slot, How::NeverCame);
                }
            }
            Some(Kind::Left) => self.part(inner, place.slot, How::Left),
            // A forked child may hold the connection, or not: only the pidfd proves anything.
            _ => {
                self.check(inner, place.slot);
            }
        }
    }

    /// Tells one why not, and closes.
    fn show_out(&self, inner: &mut Inner, number: u64, kind: ErrorKind, text: &str) {
        if let Some(holding) = &mut inner.holding
            && let Some(guest) = holding.guests.remove(&number)
        {
            refuse(guest.socket.source(), kind, text);
        }
    }

    /// Gives a newcomer a place. No lock is held.
    pub(super) fn admit(&self, newcomer: Newcomer) {
        // What was left is made good first: it may be the place for this one.
        self.make_good(&mut super::lock(&self.inner));
        self.settle();
        let mut seat = self.pattern.seat(&newcomer.hello, &self.table);
        if seat.is_err() && self.notice_deaths() {
            self.settle();
            seat = self.pattern.seat(&newcomer.hello, &self.table);
        }
        let mut inner = super::lock(&self.inner);
        if inner.over {
            return;
        }
        let number = newcomer.number;
        let admitted = seat.and_then(|seat| self.seat(&mut inner, &newcomer, seat));
        match admitted {
            Ok(Some(who)) => self.welcome(&mut inner, number, who),
            // It is dead already, or the name went over meanwhile.
            Ok(None) => {
                if let Some(holding) = &mut inner.holding {
                    holding.guests.remove(&number);
                }
            }
            Err(error) => self.show_out(&mut inner, number, error.kind(), &error.to_string()),
        }
    }

    /// Looks who is dead, before that is told. Says whether anybody is.
    fn notice_deaths(&self) -> bool {
        let mut inner = super::lock(&self.inner);
        let dead = (0..self.table.count()).filter(|slot| self.check(&mut inner, *slot)).count();
        dead > 0
    }

    fn seat(&self, inner: &mut Inner, newcomer: &Newcomer, seat: Seat) -> Result<Option<Who>> {
        let Some(holding) = &inner.holding else { return Ok(None) };
        let Some(guest) = holding.guests.get(&newcomer.number) else { return Ok(None) };
        let Some(pidfd) = process_of(guest.socket.source(), &newcomer.pidfd)? else {
            return Ok(None);
        };
        let (slot, lane) = match seat {
            Seat::Same { slot, lane } => (Some(slot), lane),
            Seat::Any { lane } => {
                let is_free = |slot: &usize| {
                    self.table.state(*slot).is_some_and(|state| state.kind == Kind::Free)
                };
                ((0..self.table.count()).find(is_free), lane)
            }
        };
        let full = || {
            Error::new(ErrorKind::LimitReached, "join")
                .because(format!("all {} places are taken", self.table.count()))
        };
        let slot = slot.ok_or_else(full)?;
        let (word, state) = self.table.slot(slot).zip(self.table.state(slot)).ok_or_else(full)?;
        let hello = &newcomer.hello;
        let generation = word.allot(state, hello.role, lane).ok_or_else(full)?;
        let uid = guest.socket.source().peer_credentials().map_or(0, |peer| peer.uid());
        let Hello { pid, namespace, started, name, .. } = *hello;
        self.table.write_info(slot, &Info { pid, uid, namespace, started, name });
        let who = Who { slot, generation, role: hello.role, lane };
        if let Some(before) = &inner.peers[slot] {
            // Another survivor was faster to make room for this one.
            let how = if before.has_ended() { How::Died } else { How::Left };
            self.part(inner, slot, how);
        }
        match self.attend(pidfd, pidfd_token(who.place())) {
            Ok(pidfd) => {
                inner.peers[slot] = Some(Peer { who, pidfd: Some(pidfd) });
                inner.news.push(News::Joined(who));
                Ok(Some(who))
            }
            Err(error) => {
                word.cancel(generation);
                Err(error)
            }
        }
    }

    /// Tells the others of it, and then it of the others.
    fn welcome(&self, inner: &mut Inner, number: u64, who: Who) {
        if let Some(holding) = &mut inner.holding
            && let Some(guest) = holding.guests.get_mut(&number)
        {
            guest.place = Some(who.place());
        }
        self.tell_all(inner, who.slot);
        let sent = self.send_welcome(inner, number, who);
        if let Err(error) = sent {
            if let Some(word) = self.table.slot(who.slot) {
                word.cancel(who.generation);
            }
            let text = match error {
                SendError::TooManyInFlight => "too many descriptors of this user are on their way",
                _ => "the holder could not answer",
            };
            self.show_out(inner, number, ErrorKind::LimitReached, text);
            self.part(inner, who.slot, How::NeverCame);
        }
    }

    fn send_welcome(&self, inner: &Inner, number: u64, who: Who) -> Result<(), SendError> {
        let guest = inner.holding.as_ref().and_then(|holding| holding.guests.get(&number));
        let guest = guest.ok_or(SendError::Closed)?;
        let own = PidFd::own().map_err(|_| SendError::TooManyInFlight)?;
        let mut places = vec![self.me.place()];
        let mut fds = vec![inner.memory.as_fd()];
        fds.extend(inner.more.iter().map(|more| more.as_fd()));
        fds.push(own.as_fd());
        for (place, pidfd) in others(inner, who.slot) {
            places.push(place);
            fds.push(pidfd);
        }
        let welcome = Welcome {
            channel: inner.channel,
            slot: who.slot,
            generation: who.generation,
            role: who.role,
            lane: who.lane,
            holder: self.table.holder().word(),
            facts: inner.facts,
            places,
        };
        send(guest.socket.source(), &Writer::welcome(&welcome, inner.more.len()), &fds)
    }

    /// A member of the last holder shows its place.
    fn let_back_in(
        &self,
        inner: &mut Inner,
        number: u64,
        channel: [u8; 16],
        place: Place,
        known: &[Place],
        pidfd: OwnedFd,
    ) {
        let here = self.state_of(place).is_some_and(|state| state.kind == Kind::Here);
        if channel != inner.channel || !here || place.slot == self.me.slot {
            let text = "this is another channel, or the place is another's";
            return self.show_out(inner, number, ErrorKind::NotFound, text);
        }
        let Some(holding) = &mut inner.holding else { return };
        let Some(guest) = holding.guests.get(&number) else { return };
        let process = process_of(guest.socket.source(), &pidfd);
        let Ok(Some(process)) = process else {
            holding.guests.remove(&number);
            return;
        };
        // It has one connection: this one.
        holding.guests.retain(|other, guest| *other == number || guest.place != Some(place));
        if let Some(guest) = holding.guests.get_mut(&number) {
            guest.place = Some(place);
            // What it knows and is not so any more.
            for old in known.iter().filter(|old| old.slot != self.me.slot) {
                let now = inner.peers.get(old.slot).and_then(Option::as_ref);
                if now.is_none_or(|peer| peer.who.generation != old.generation) {
                    guest.owed |= 1 << old.slot;
                }
            }
        }
        if self.meet(inner, place, process.into()).is_some() {
            self.tell_all(inner, place.slot);
        }
        if self.send_back(inner, number, place, known).is_err()
            && let Some(holding) = &mut inner.holding
        {
            // It comes again.
            holding.guests.remove(&number);
        }
    }

    fn send_back(
        &self,
        inner: &Inner,
        number: u64,
        place: Place,
        known: &[Place],
    ) -> Result<(), SendError> {
        let guest = inner.holding.as_ref().and_then(|holding| holding.guests.get(&number));
        let guest = guest.ok_or(SendError::Closed)?;
        let own = PidFd::own().map_err(|_| SendError::TooManyInFlight)?;
        let me = (self.me.place(), own.as_fd());
        let lacks = |(place, _): &(Place, BorrowedFd<'_>)| !known.contains(place);
        let lacked = others(inner, place.slot).chain([me]).filter(lacks);
        let (places, fds): (Vec<_>, Vec<_>) = lacked.unzip();
        send(guest.socket.source(), &Writer::back(self.table.holder().word(), &places), &fds)
    }

    /// Everybody is to know what became of a place.
    pub(super) fn tell_all(&self, inner: &mut Inner, slot: usize) {
        let Some(holding) = &mut inner.holding else { return };
        for guest in holding.guests.values_mut() {
            if guest.place.is_some_and(|place| place.slot != slot) {
                guest.owed |= 1 << slot;
            }
        }
        self.flush(inner);
    }

    /// Sends what guests are still to be told, as far as there is room for it.
    fn flush(&self, inner: &mut Inner) {
        let Some(holding) = &mut inner.holding else { return };
        let mut stuck = false;
        for guest in holding.guests.values_mut() {
            let mut interest = Interest::READABLE;
            while guest.owed != 0 {
                let slot = guest.owed.trailing_zeros() as usize;
                match tell(guest, slot, &inner.peers, &inner.gone) {
                    Ok(()) => guest.owed &= !(1 << slot),
                    Err(SendError::Full) => {
                        interest = Interest::READABLE | Interest::WRITABLE;
                        break;
                    }
                    Err(SendError::Closed) => guest.owed = 0,
                    // No event tells when there is memory, or room for descriptors on their way.
                    Err(_) => {
                        stuck = true;
                        break;
                    }
                }
            }
            let _ = guest.socket.want(interest);
        }
        if stuck {
            inner.later();
        }
    }
}

fn tell(
    guest: &Guest,
    slot: usize,
    peers: &[Option<Peer>],
    gone: &[(u32, How)],
) -> Result<(), SendError> {
    let socket = guest.socket.source();
    match peers.get(slot).and_then(Option::as_ref) {
        Some(Peer { who, pidfd: Some(pidfd) }) => {
            send(socket, &Writer::joined(who.place()), &[pidfd.as_fd()])
        }
        Some(_) => Ok(()),
        None => match gone.get(slot) {
            Some((generation, how)) => {
                let place = Place { slot, generation: *generation };
                send(socket, &Writer::gone(place, *how), &[])
            }
            None => Ok(()),
        },
    }
}

/// The members that one is to know, but itself and the holder.
fn others(inner: &Inner, but: usize) -> impl Iterator<Item = (Place, BorrowedFd<'_>)> {
    inner
        .peers
        .iter()
        .flatten()
        .filter(move |peer| peer.who.slot != but)
        .filter_map(|peer| peer.pidfd.as_ref().map(|pidfd| (peer.who.place(), pidfd.as_fd())))
}

/// The process at the other end: the kernel's word where it gives one, else what the process says itself,
/// which is of the same user and means well. None if it is dead.
fn process_of(socket: &Seqpacket, own: &OwnedFd) -> Result<Option<PidFd>> {
    let asked = Feature::PeerPidfd.usable().then(|| socket.peer_pidfd());
    let pidfd = match asked {
        // Only now it may have turned out that the kernel has no word.
        Some(asked) if Feature::PeerPidfd.usable() => match asked {
            Ok(pidfd) => pidfd,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() == ErrorKind::LimitReached => return Err(starved()),
            Err(error) => return Err(error),
        },
        _ => rustix::io::fcntl_dupfd_cloexec(own, 0).map_err(|_| starved())?,
    };
    let pidfd = PidFd::try_from(pidfd)?;
    Ok((!pidfd.has_ended()).then_some(pidfd))
}

#[cold]
fn starved() -> Error {
    Error::new(ErrorKind::LimitReached, "join").because(no_descriptors())
}

fn no_descriptors() -> String {
    format!("the process that holds the name has used up {}", Limit::Nofile.stated())
}
