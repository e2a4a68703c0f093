//! A sender as a wait set sees it.

use super::Sender;
use crate::channel::bell::doorbell::Event;
use crate::channel::wait_set::{State, private};
use crate::error::Result;

impl private::Watch for Sender {
    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn bell(&self) -> Result<Option<Event>> {
        self.doorbell.take(&self.own)?;
        Ok(self.own.event().cloned())
    }

    fn rung(&self) {
        self.doorbell.forget();
    }

    #[allow(private_interfaces, reason = "nobody outside can name it")]
    fn state(&self) -> State {
        let Some(len) = self.refused.get() else { return State::Idle };
        if self.look(len).is_some() {
            return State::Ready;
        }
        let (moved, look) = (|| self.ring.sent(), || self.look(len).map(drop));
        match self.doorbell.arm(&self.own, &self.sleeps, self.fencing, moved, look) {
            Some(()) => State::Ready,
            None if self.doorbell.is_armed() => State::Armed,
            None => State::Unsure,
        }
    }

    fn told(&self) {
        self.refused.set(None);
    }
}
