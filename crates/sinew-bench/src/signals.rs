//! The signals that ask a run to end, as a descriptor: the run ends in order and leaves nothing.

use std::os::fd::{AsFd, BorrowedFd};

use sinew::signal::{Scope, Set, Signal};
use sinew::signalfd::SignalFd;
use sinew::wait::Waits;

/// SIGINT, SIGTERM and SIGHUP of this thread (and those that it starts) go to a descriptor as long
/// as this lives.
#[derive(Debug)]
pub(crate) struct EndSignals {
    events: SignalFd,
    _blocked: Scope,
}

impl EndSignals {
    pub(crate) fn block() -> sinew::Result<Self> {
        let ends = Set::from([Signal::INT, Signal::TERM, Signal::HUP]);
        let blocked = ends.block()?;
        Ok(Self { events: SignalFd::new(ends)?, _blocked: blocked })
    }

    /// Whether one has come. It stays taken: the caller ends the run.
    pub(crate) fn came(&self) -> bool {
        self.events.try_wait().is_ok()
    }
}

impl AsFd for EndSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}
