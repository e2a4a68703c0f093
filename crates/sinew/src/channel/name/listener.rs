//! Who has a name.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Identity, Name};
use crate::error::{Error, ErrorKind, Result};
use crate::fork::Origin;
use crate::mechanism::Mechanism;
use crate::unix::{Seqpacket, SeqpacketListener};
use crate::wait::{Accepts, Wait};

/// Listens under a name. Dropped, it removes the name, if it still is its own, and only in the process
/// that took it. After `kill -9` the name stays, stale.
#[derive(Debug)]
pub(crate) struct Listener {
    name: Name,
    /// Never blocking.
    socket: SeqpacketListener,
    /// The file of the socket.
    identity: Identity,
    origin: Origin,
    /// Whether the name is left where it is.
    passed: bool,
}

impl Listener {
    pub(super) fn new(name: Name, bound: SeqpacketListener, identity: Identity) -> Self {
        // The path that it was bound to is not that of its name: it is removed here.
        let socket = SeqpacketListener::from(OwnedFd::from(bound));
        Self { name, socket, identity, origin: Origin::here(), passed: false }
    }

    /// Does not remove the name when it is dropped: another process [replaces](Name::replace) it, which
    /// was told to.
    pub(crate) fn pass(&mut self) {
        self.passed = true;
    }

    /// The file by which it has the name.
    pub(crate) const fn identity(&self) -> Identity {
        self.identity
    }

    /// The name that it was taken by.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// A connection that was made, if there is one. Never waits. Whoever only looks who holds the name
    /// connects too, and closes at once.
    ///
    /// # Errors
    /// `LimitReached` if no descriptor is left: the connection waits on. `Forked` in a forked child.
    pub(crate) fn accept(&self) -> Result<Option<Seqpacket>> {
        if !self.origin.is_here() {
            return Err(Error::new(ErrorKind::Forked, "accept")
                .on(Mechanism::Channel)
                .object(self.name.quoted())
                .because("the name is that of the process that forked this one"));
        }
        match self.socket.accept_wait(Wait::NEVER) {
            Ok(connection) => Ok(Some(connection)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.on(Mechanism::Channel).object(self.name.quoted())),
        }
    }

    /// Whether newcomers find it: the name was not removed, and no other has it. One that is not in
    /// place is dropped and [claimed](Name::claim) anew.
    ///
    /// # Errors
    /// What the file system says.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        self.name.is_at(self.identity)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if self.origin.is_here() && !self.passed {
            self.name.give_up(&|| self.identity);
        }
    }
}

impl AsFd for Listener {
    /// Readable when there is a connection to accept.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
