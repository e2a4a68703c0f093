//! When the holder is gone: who follows, and how the others find it.

use std::os::fd::AsFd;
use std::time::Duration;

use super::holder::{Guest, Holding};
use super::link::Link;
use super::message::{How, Writer};
use super::slot::{Holder, Kind};
use super::{Core, Inner, LINK, News, Parts, Place, WATCH, Who, send};
use crate::channel::service::Attendance;
use crate::error::ErrorKind;
use crate::pidfd::PidFd;
use crate::wait::{Accepts, Wait, Waits};

use super::access::is_same_user;

/// How many connections to a new holder may end without an answer before there has to be news of the name.
const PATIENCE: u32 = 3;
/// How long the last member waits for the lock of the folder, to remove the name.
const REMOVAL: Duration = Duration::from_millis(100);
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
                        inner.spot = Some(connection.place);
                    }
                    _ => inner.later(),
                }
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::LimitReached) =>
            {
                inner.later();
            }
            // Nobody yet, or somebody else: the watch tells when that changes.
            _ if inner.watch.is_some() => {}
            _ => inner.later(),
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
            let claimed = match &inner.spot {
                Some(spot) => name.replace(spot, Wait::NEVER),
                None => name.claim(Wait::NEVER),
            };
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
        if let Some(holding) = &mut parts.holding {
            self.hand_on(holding, &parts.peers);
        } else if let (Some(name), Some(spot)) = (&parts.name, &parts.spot)
            && self.heir(&parts.peers, |kind| matches!(kind, Kind::Here | Kind::Joining)).is_none()
        {
            // The last one, of a channel whose holder was dead: taken, and dropped, the name is gone.
            drop(name.replace(spot, Wait::timeout(REMOVAL)));
        }
        // Though a forked child has the sockets too.
        let guests = parts.holding.iter().flat_map(|holding| holding.guests.values());
        let links = parts.link.iter().map(|link| &link.socket);
        for socket in guests.map(|guest| &guest.socket).chain(links) {
            hang_up(socket);
        }
    }

    fn hand_on(&self, holding: &mut Holding, peers: &[Option<super::Peer>]) {
        let mut listener = holding.listener.take().map(Attendance::into_source);
        let Some(heir) = self.heir(peers, |kind| kind == Kind::Here) else {
            // Nobody else: dropped, it removes the name.
            return;
        };
        if let Some(listener) = &mut listener {
            listener.pass();
        }
        let guest_of = |slot: usize| {
            let has = |guest: &&Guest| guest.place.is_some_and(|place| place.slot == slot);
            holding.guests.values().find(has)
        };
        if guest_of(heir).is_none() {
            // It does not know this listener: it finds that nobody has the name.
            listener = None;
        }
        let holder = self.table.holder();
        if holder.slot() == Some(self.me.slot) {
            // One that has just arrived may have been faster, which is as good.
            self.table.pass(holder, holder.followed_by(heir));
        }
        let holder = self.table.holder();
        if let Some(listener) = listener
            && let Some(guest) = holder.slot().and_then(guest_of)
        {
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
