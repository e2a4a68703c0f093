//! A receiver as a wait set sees it.

use super::Receiver;
use crate::channel::bell::doorbell::Event;
use crate::channel::wait_set::{State, private};
use crate::error::Result;

impl private::Watch for Receiver {
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
        if self.sight().is_some() {
            return State::Ready;
        }
        let (moved, look) = (|| self.moved(), || self.sight().map(drop));
        match self.doorbell.arm(&self.own, &self.sleeps, self.fencing, moved, look) {
            Some(()) => State::Ready,
            None if self.doorbell.is_armed() => State::Armed,
            None => State::Unsure,
        }
    }

    fn told(&self) {}
}
