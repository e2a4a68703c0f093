//! When the holder is gone: who follows, and how the others find it.

use std::os::fd::AsFd;

use super::holder::{Guest, Holding};
use super::link::Link;
use super::message::{How, Writer};
use super::slot::{Holder, Kind};
use super::{Core, Inner, LINK, News, Parts, Place, WATCH, Who, send};
use crate::channel::name::Listener;
use crate::channel::service::Attendance;
use crate::error::ErrorKind;
use crate::pidfd::PidFd;
use crate::wait::{Accepts, Wait, Waits};

use super::access::is_same_user;

/// How many connections to a new holder may end without an answer before there has to be news of the name.
const PATIENCE: u32 = 3;
/// A word that changes more often than this while it is looked at is not written by honest members.
const TURNS: usize = 1000;

impl Core {
    /// Looks who holds the name, and follows if nobody does.
    pub(super) fn look(&self, inner: &mut Inner) {
        if inner.name.is_none() || inner.holding.is_some() {
            return;
        }
        for _ in 0..TURNS {
            let holder = self.table.holder();
            let Some(slot) = holder.slot() else { return };
            if slot == self.me.slot {
                return self.take_up(inner);
            }
            let Some(state) = self.table.state(slot) else { return };
            if self.table.holder() != holder {
                continue;
            }
            if state.is_taken() {
                return self.follow(inner, holder);
            }
            let here = self.state_of(self.me.place()).is_some_and(|me| me.kind == Kind::Here);
            if !here {
                // Not arrived yet: it looks again when it has.
                return;
            }
            // Of several survivors one has its way; then all look again.
            self.table.pass(holder, holder.followed_by(self.me.slot));
        }
    }

    /// Another one holds the name.
    fn follow(&self, inner: &mut Inner, holder: Holder) {
        if inner.link.as_ref().is_some_and(|link| link.holder == Some(holder)) {
            return;
        }
        self.drop_link(inner);
        if inner.unanswered < PATIENCE {
            self.seek(inner, holder);
        }
        if inner.link.is_none() {
            // There is news of a holder that takes the name, and of one that dies; of one that leaves before it has
            // taken it there need not be any.
            inner.later();
        }
    }

    /// Connects to the new holder, if it listens already.
    fn seek(&self, inner: &mut Inner, holder: Holder) {
        let Some(name) = inner.name.clone() else { return };
        // Watch first, then look: what comes after the look is news, and wakes.
        if inner.watch.is_none() {
            inner.watch = name.watch().and_then(|watch| self.attend(watch, WATCH)).ok();
        }
        match name.connect() {
            Ok(connection) if is_same_user(&connection.socket) => {
                let message = Writer::again(inner.channel, self.me.place(), &inner.known(self.me));
                let sent = PidFd::own()
                    .is_ok_and(|own| send(&connection.socket, &message, &[own.as_fd()]).is_ok());
                inner.serial += 1;
                let number = inner.serial;
                match self.attend(connection.socket, LINK | number) {
                    Ok(socket) if sent => {
                        let holder = Some(holder);
                        inner.link = Some(Link { socket, holder, number, answered: false });
                    }
                    _ => {}
                }
            }
            // Nobody yet, or somebody else, or a limit is in the way.
            _ => {}
        }
    }

    pub(super) fn watch_ready(&self, inner: &mut Inner) {
        let Some(watch) = &inner.watch else { return };
        match watch.source().try_wait() {
            Ok(_) => {
                inner.unanswered = 0;
                self.look(inner);
                self.listen(inner);
            }
            Err(crate::error::WaitError::WouldBlock) => {}
            Err(_) => {
                inner.watch = None;
                inner.later();
            }
        }
    }

    /// This member holds the name from now on.
    fn take_up(&self, inner: &mut Inner) {
        // What the last holder said of newcomers.
        self.drop_link(inner);
        inner.watch = None;
        inner.holding = Some(Holding::new(&inner.memory));
        for slot in (0..self.table.count()).filter(|slot| *slot != self.me.slot) {
            let Some(state) = self.table.state(slot) else { continue };
            let place = Place { slot, generation: state.generation };
            if inner.peer(place).is_none() && inner.peers[slot].is_some() {
                // The place had another member since.
                self.part(inner, slot, How::Died);
            }
            match state.kind {
                Kind::Free | Kind::Here => {}
                // Kept newcomers: the place of one that nobody knows of is never had again.
                Kind::Joining if cfg!(sabotage = "member-keeps-newcomers") => {}
                Kind::Joining => {
                    // Whether the last holder got to tell of it or not, it starts anew.
                    if self.table.slot(slot).is_some_and(|word| word.cancel(state.generation)) {
                        self.part(inner, slot, How::NeverCame);
                    }
                }
                Kind::Left => self.part(inner, slot, How::Left),
                Kind::Dead => self.part(inner, slot, How::Died),
            }
        }
        self.make_good(inner);
        self.listen(inner);
    }

    /// Has everything made good that somebody left.
    pub(super) fn make_good(&self, inner: &mut Inner) {
        for slot in (0..self.table.count()).filter(|slot| *slot != self.me.slot) {
            if let Some(state) = self.table.state(slot)
                && matches!(state.kind, Kind::Left | Kind::Dead)
                && let Some(role) = state.role
            {
                let (generation, lane) = (state.generation, state.lane);
                inner.news.push(News::Recover(Who { slot, generation, role, lane }));
            }
        }
    }

    /// Takes the name, if that was not possible before.
    pub(super) fn listen(&self, inner: &mut Inner) {
        let (Some(name), Some(holding)) = (&inner.name, &mut inner.holding) else { return };
        if holding.listener.is_none() {
            let (last, next) = (|| self.table.socket(), |next| self.table.set_socket(next));
            let claimed = name.replace(&last, &next, Wait::NEVER);
            let listens = claimed.and_then(|listener| holding.listen_by(self, listener));
            match listens.map_err(|error| error.kind()) {
                Ok(()) => {
                    inner.pause = super::PAUSE;
                    inner.watch = None;
                }
                Err(ErrorKind::WouldBlock | ErrorKind::LimitReached | ErrorKind::NoSpace) => {
                    return inner.later();
                }
                // A holder that leaves may have it for a moment more, or another channel for longer, or the
                // folder is gone: those who are here go on, and there is news when that changes.
                Err(_) => {
                    if inner.watch.is_none() {
                        let watch = name.watch();
                        inner.watch = watch.and_then(|watch| self.attend(watch, WATCH)).ok();
                    }
                    if holding.refused_again() {
                        inner.later();
                    }
                }
            }
        }
        // Those who came to the last holder and were not let in.
        if let Some(old) = inner.taken.take() {
            while let Ok(socket) = old.accept_wait(Wait::NEVER) {
                self.greet(inner, socket);
            }
        }
    }

    /// Leaves: hands on what this member holds, and lets go of the rest. No lock is held.
    pub(super) fn go(&self, mut parts: Parts) {
        let mut listener = parts
            .holding
            .as_mut()
            .and_then(|holding| holding.listener.take())
            .map(Attendance::into_source);
        if let Some(heir) = self.heir(&parts.peers, |kind| kind == Kind::Here) {
            self.hand_on(heir, listener.as_mut(), parts.holding.as_ref());
        } else if let Some(name) = &parts.name {
            // The last one removes the name, whoever of the channel took it. Unless a newcomer is on its way to a dead
            // holder's heir: that will have the name.
            let joins = self.heir(&parts.peers, |kind| kind == Kind::Joining).is_some();
            if listener.is_none() && !joins {
                name.give_up(&|| self.table.socket());
            }
        }
        drop(listener);
        // Though a forked child has the sockets too.
        let guests = parts.holding.iter().flat_map(|holding| holding.guests.values());
        let links = parts.link.iter().map(|link| &link.socket);
        for socket in guests.map(|guest| &guest.socket).chain(links) {
            hang_up(socket);
        }
    }

    /// Names the heir, if this member is the holder, and hands it the socket that newcomers have come to.
    fn hand_on(&self, heir: usize, listener: Option<&mut Listener>, holding: Option<&Holding>) {
        let holder = self.table.holder();
        if holder.slot() == Some(self.me.slot) {
            // One that has just arrived may have been faster, which is as good.
            self.table.pass(holder, holder.followed_by(heir));
        }
        let Some((listener, holding)) = listener.zip(holding) else { return };
        // From here on it is the heir's to replace.
        listener.pass();
        let holder = self.table.holder();
        let guest_of = |slot: usize| {
            let has = |guest: &&Guest| guest.place.is_some_and(|place| place.slot == slot);
            holding.guests.values().find(has)
        };
        // One that has not come back to this holder finds that nobody listens.
        if let Some(guest) = holder.slot().and_then(guest_of) {
            let message = Writer::take(holder.word());
            let _ = send(guest.socket.source(), &message, &[listener.as_fd()]);
        }
    }

    /// The first of the others that is as asked for, and not proven dead.
    fn heir(&self, peers: &[Option<super::Peer>], is: impl Fn(Kind) -> bool) -> Option<usize> {
        (0..self.table.count()).filter(|slot| *slot != self.me.slot).find(|slot| {
            let Some(state) = self.table.state(*slot) else { return false };
            let peer = peers.get(*slot).and_then(Option::as_ref);
            let known = peer.filter(|peer| peer.who.generation == state.generation);
            if is(state.kind) && known.is_some_and(super::Peer::has_ended) {
                if let Some(word) = self.table.slot(*slot) {
                    word.bury(state.generation);
                }
                return false;
            }
            is(state.kind)
        })
    }
}

fn hang_up(socket: &Attendance<crate::unix::Seqpacket>) {
    // Fails only where the other end has done so.
    let _ = socket.source().shutdown(std::net::Shutdown::Both);
}
