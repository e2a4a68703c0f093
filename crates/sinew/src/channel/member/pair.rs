//! The two ends of a channel without a name.

use std::os::fd::AsFd;
use std::sync::Arc;

use super::link::Link;
use super::message::{How, Place, Writer};
use super::slot::{Kind, Role};
use super::{Core, Inner, LINK, Member, News, Object, Pattern, Who, access, damaged, send};
use crate::channel::service::Handle;
use crate::error::{Error, ErrorKind, Result, SendError};
use crate::mechanism::Mechanism;
use crate::pidfd::PidFd;
use crate::unix::Seqpacket;

impl Member {
    /// Attaches one end of a pair: it has place `slot`, and the other end is at the other end of `socket`.
    ///
    /// # Errors
    /// `InUse` if this end is attached already; when no descriptor or no thread is left.
    pub(crate) fn pair(
        socket: Seqpacket,
        object: Object,
        slot: usize,
        role: Role,
        lane: u16,
        pattern: Arc<dyn Pattern>,
    ) -> Result<Self> {
        let service = Handle::get()?;
        let own = PidFd::own()?;
        let Object { memory, more, table, facts } = object;
        let generation = super::take_place(&table, slot, role, lane, &access::info());
        let Some(generation) = generation else {
            return Err(Error::new(ErrorKind::InUse, "attach an end of a channel")
                .on(Mechanism::Channel)
                .because("a process has attached it, or one that did has not been followed yet"));
        };
        let me = Who { slot, generation, role, lane };
        let inner = Inner::new((memory, more), facts, [0; 16], None, table.count());
        let member = Self::new(me, table, pattern, service, inner);
        let core = &member.core;
        // Before it arrives: from then on the other end counts on knowing when it dies.
        match send(&socket, &Writer::present(me.place(), role), &[own.as_fd()]) {
            // The other end is gone: that is told like everything else.
            Ok(()) | Err(SendError::Closed) => {}
            Err(error) => {
                return Err(Error::new(ErrorKind::LimitReached, "attach an end of a channel")
                    .on(Mechanism::Channel)
                    .because(format!("the other end cannot be told: {error}")));
            }
        }
        let mut inner = super::lock(&core.inner);
        core.start_timer(&mut inner)?;
        let socket = core.attend(socket, LINK)?;
        inner.link = Some(Link { socket, holder: None, number: 0, answered: true });
        drop(inner);
        if core.table.slot(slot).is_some_and(|word| word.arrive(generation)) {
            Ok(member)
        } else {
            Err(damaged("attach an end of a channel", "its memory is damaged"))
        }
    }
}

impl Core {
    /// Every copy of the other end's socket is closed.
    pub(super) fn other_end_closed(&self, inner: &mut Inner) {
        for slot in (0..self.table.count()).filter(|slot| *slot != self.me.slot) {
            let Some((word, state)) = self.table.slot(slot).zip(self.table.state(slot)) else {
                continue;
            };
            let place = Place { slot, generation: state.generation };
            let who = Who {
                slot,
                generation: state.generation,
                role: state.role.unwrap_or(other(self.me.role)),
                lane: state.lane,
            };
            match state.kind {
                // Nobody can attach it any more.
                Kind::Free if state.role.is_none() => {
                    if let Some(generation) = word.allot(state, who.role, who.lane) {
                        word.leave(generation);
                        inner.news.push(News::Left(Who { generation, ..who }));
                    }
                }
                // Nor go on with it: who was about to has closed it, and fails at its next step.
                Kind::Joining if inner.peer(place).is_none() => {
                    if word.bury(state.generation) {
                        inner.news.extend([News::Died(who), News::Recover(who)]);
                    }
                }
                Kind::Left => self.part(inner, slot, How::Left),
                _ => {
                    self.check(inner, slot);
                }
            }
        }
    }
}

const fn other(role: Role) -> Role {
    match role {
        Role::Sender => Role::Receiver,
        Role::Receiver => Role::Sender,
    }
}
