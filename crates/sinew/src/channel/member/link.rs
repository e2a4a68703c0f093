//! A member's connection to the holder, or to the other end of a pair.

use super::message::{LONGEST, MOST_FDS, Message, is_hello_of_another_version};
use super::slot::Holder;
use super::{Core, How, Inner, SeqpacketListener};
use crate::channel::service::Attendance;
use crate::error::RecvError;
use crate::unix::{Seqpacket, Socket};
use crate::wait::{Receives, Wait};

/// See the [module](self).
pub(super) struct Link {
    pub(super) socket: Attendance<Seqpacket>,
    /// Whom it leads to. None in a pair.
    pub(super) holder: Option<Holder>,
    pub(super) number: u64,
    /// Whether the holder has let this member in by it.
    pub(super) answered: bool,
}

/// What a look at a connection gave.
pub(super) enum Got {
    Message(Message),
    /// A newcomer that speaks another version.
    OtherVersion,
    /// Not what an honest member sends, or not all of it could arrive. It is dropped.
    Bad,
    Nothing,
    End,
}

/// How many messages are taken before others have their turn.
const BATCH: usize = 64;

/// What has arrived, with at most so many descriptors.
pub(super) fn receive(socket: &Seqpacket, fds: usize) -> Got {
    let mut buf = [0; LONGEST];
    match socket.fds(fds).recv_wait(&mut buf, Wait::NEVER) {
        Ok(message) => {
            let bytes = &buf[..message.length];
            match Message::parse(bytes, message.fds) {
                Ok(message) => Got::Message(message),
                Err(_) if is_hello_of_another_version(bytes) => Got::OtherVersion,
                Err(_) => Got::Bad,
            }
        }
        Err(RecvError::Empty) => Got::Nothing,
        Err(RecvError::Truncated | RecvError::TooSmall { .. }) => Got::Bad,
        Err(_) => Got::End,
    }
}

impl Core {
    pub(super) fn link_ready(&self, inner: &mut Inner, number: u64) {
        if inner.link.as_ref().is_none_or(|link| link.number != number) {
            return;
        }
        if self.read_link(inner) {
            self.hung_up(inner);
        }
        self.look(inner);
    }

    /// Takes what the connection has. Says whether it has ended.
    fn read_link(&self, inner: &mut Inner) -> bool {
        for _ in 0..BATCH {
            let Some(link) = &inner.link else { return false };
            match receive(link.socket.source(), MOST_FDS) {
                Got::Message(message) => {
                    if !self.told(inner, message) {
                        return true;
                    }
                }
                Got::OtherVersion | Got::Bad => {}
                Got::Nothing => return false,
                Got::End => return true,
            }
        }
        false
    }

    /// Takes everything that the last holder said before it went.
    pub(super) fn drop_link(&self, inner: &mut Inner) {
        while inner.link.is_some() {
            // One batch after the other: nothing is added to what a dead holder has sent, and what a
            // living one adds, it says no more to this connection.
            if self.read_link(inner) || inner.link.as_ref().is_some_and(is_empty) {
                inner.link = None;
            }
        }
    }

    /// Does what a message says. False if the connection is of no use after it.
    fn told(&self, inner: &mut Inner, message: Message) -> bool {
        let pair = inner.name.is_none();
        match message {
            Message::Present { place, pidfd, .. } if pair => {
                self.meet(inner, place, pidfd);
            }
            Message::Joined { place, pidfd } if !pair => {
                self.meet(inner, place, pidfd);
            }
            Message::Gone { place, how } if !pair => self.told_gone(inner, place.slot, place, how),
            Message::Back { places, pidfds, .. } if !pair => {
                if let Some(link) = &mut inner.link {
                    link.answered = true;
                }
                inner.unanswered = 0;
                inner.pause = super::PAUSE;
                inner.watch = None;
                for (place, pidfd) in places.into_iter().zip(pidfds) {
                    self.meet(inner, place, pidfd);
                }
            }
            Message::Take { listener, .. } if !pair => {
                inner.taken = Some(SeqpacketListener::from(listener));
            }
            Message::Refused { .. } if !pair => {
                // By another channel, or one that has given the place away: until there is news of the
                // name, asking again is of no use.
                inner.unanswered = u32::MAX;
                return false;
            }
            _ => {}
        }
        true
    }

    fn told_gone(&self, inner: &mut Inner, slot: usize, place: super::Place, how: How) {
        if inner.peer(place).is_some() {
            self.part(inner, slot, how);
        }
    }

    fn hung_up(&self, inner: &mut Inner) {
        let Some(link) = inner.link.take() else { return };
        let Some(holder) = link.holder else { return self.other_end_closed(inner) };
        if link.answered {
            inner.pause = super::PAUSE;
        } else {
            inner.unanswered = inner.unanswered.saturating_add(1);
        }
        // A reason to look, which may be earlier than the pidfd tells.
        if let Some(slot) = holder.slot() {
            self.check(inner, slot);
        }
    }
}

/// Whether nothing is there to be read now.
fn is_empty(link: &Link) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut one = [PollFd::new(&link.socket, PollFlags::IN)];
    poll(&mut one, Some(&Timespec::default())) == Ok(0)
}
