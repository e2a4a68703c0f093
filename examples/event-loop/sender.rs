//! The sending side of a doorbell.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use sinew::Result;
use sinew::eventfd::{Counter, EventFd};
use sinew::memfd::Memfd;
use sinew::poller::{Events, Interest, Poller, Registered, Token};
use sinew::wait::Waits;

use super::doorbell::{CAPACITY, Ring};

/// The sending side.
pub(crate) struct Sender<F: AsFd> {
    ring: Ring,
    sent: u64,
    bell: EventFd<Counter>,
    room: Registered<EventFd<Counter>>,
    poller: Poller,
    _connection: Registered<F>,
}

const ROOM: Token = Token(0);
const CONNECTION: Token = Token(1);

impl<F: AsFd> Sender<F> {
    /// From what the receiver sent over `connection`, by whose end the sender learns that nobody
    /// takes anything any more.
    pub(crate) fn new(fds: [OwnedFd; 3], connection: F) -> Result<Self> {
        let [memory, bell, room] = fds;
        let poller = Poller::new()?;
        Ok(Self {
            ring: Ring::new(&Memfd::try_from(memory)?)?,
            sent: 0,
            bell: EventFd::try_from(bell)?,
            room: poller.add(EventFd::try_from(room)?, ROOM, Interest::READABLE)?,
            _connection: poller.add(connection, CONNECTION, Interest::NONE)?,
            poller,
        })
    }

    /// Sends these values, waiting for room; gives how many went before the receiver ended.
    pub(crate) fn send(&mut self, values: &[u64]) -> usize {
        let mut events = Events::with_capacity(2);
        let mut left = values;
        loop {
            let taken = self.ring.taken().load(Ordering::Acquire);
            let room = CAPACITY.saturating_sub(self.sent.wrapping_sub(taken));
            let (now, later) = left.split_at(left.len().min(room as usize));
            for value in now {
                self.ring.value(self.sent).store(*value, Ordering::Relaxed);
                self.sent = self.sent.wrapping_add(1);
            }
            self.ring.sent().store(self.sent, Ordering::Release);
            left = later;
            if !now.is_empty() && self.bell.notify().is_err() || left.is_empty() {
                return values.len() - left.len();
            }
            if self.poller.fill(&mut events).wait().is_err()
                || events.iter().any(|event| event.token() == CONNECTION)
            {
                return values.len() - left.len();
            }
            let _ = self.room.try_wait();
        }
    }
}
