//! The line between the supervisor and its workers and between the two workers: JSON, one packet a
//! message, and descriptors.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;
use serde::de::DeserializeOwned;
use sinew::unix::{Seqpacket, Socket};
use sinew::wait::{Receives, Sends};

/// Room for one message: a histogram at three digits has a few thousand pairs.
const ROOM: usize = 1 << 17;
/// Descriptors that go at once.
const FDS: usize = 8;

#[derive(Debug)]
pub(crate) struct Link {
    socket: Seqpacket,
    /// Kept, so that hearing allocates and touches no new pages between two timed batches.
    room: RefCell<Vec<u8>>,
}

impl Link {
    /// The two ends of a new line.
    pub(crate) fn pair() -> sinew::Result<(Self, Self)> {
        let (one, two) = Seqpacket::pair()?;
        Ok((Self::over(one), Self::over(two)))
    }

    fn over(socket: Seqpacket) -> Self {
        Self { socket, room: RefCell::new(vec![1; ROOM]) }
    }

    /// Over what was inherited or sent.
    pub(crate) fn from_fd(fd: OwnedFd) -> Self {
        Self::over(Seqpacket::from(fd))
    }

    pub(crate) fn say(&self, message: &impl Serialize) -> io::Result<()> {
        Ok(self.socket.send(&serde_json::to_vec(message)?)?)
    }

    pub(crate) fn hear<T: DeserializeOwned>(&self) -> io::Result<T> {
        let mut room = self.room.borrow_mut();
        let len = self.socket.recv(&mut room)?;
        Ok(serde_json::from_slice(&room[..len])?)
    }

    /// A byte without a meaning of its own: go on.
    pub(crate) fn nod(&self) -> io::Result<()> {
        Ok(self.socket.send(b"1")?)
    }

    pub(crate) fn await_nod(&self) -> io::Result<()> {
        Ok(self.socket.recv(&mut [0; 8]).map(|_| ())?)
    }

    pub(crate) fn send_fds(&self, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        Ok(self.socket.with_fds(fds).send(b"fds")?)
    }

    pub(crate) fn recv_fds<const N: usize>(&self) -> io::Result<[OwnedFd; N]> {
        let received = self.socket.fds(FDS).recv(&mut [0; 8])?;
        received.fds.try_into().map_err(|_| io::Error::other("not as many descriptors as expected"))
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.socket.into()
    }
}
