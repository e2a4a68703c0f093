//! The line between the supervisor and the workers, and between those: it sets up, and carries no message that is
//! measured.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sinew::unix::{Seqpacket, Socket};
use sinew::wait::{Receives, Sends};

use crate::Result;

const ROOM: usize = 1 << 16;
const FDS: usize = 16;

#[derive(Debug)]
pub(crate) struct Link(Seqpacket);

impl Link {
    pub(crate) fn pair() -> Result<(Self, Self)> {
        let (one, two) = Seqpacket::pair()?;
        Ok((Self(one), Self(two)))
    }

    pub(crate) fn say(&self, what: &impl Serialize) -> Result<()> {
        Ok(self.0.send(&serde_json::to_vec(what)?)?)
    }

    pub(crate) fn hear<T: DeserializeOwned>(&self) -> Result<T> {
        let mut room = vec![0; ROOM];
        let len = self.0.recv(&mut room)?;
        Ok(serde_json::from_slice(&room[..len])?)
    }

    pub(crate) fn hear_within<T: DeserializeOwned>(&self, time: Duration) -> Result<T> {
        let mut room = vec![0; ROOM];
        let len = self.0.recv_timeout(&mut room, time)?;
        Ok(serde_json::from_slice(&room[..len])?)
    }

    pub(crate) fn send_fds(&self, fds: &[BorrowedFd<'_>]) -> Result<()> {
        Ok(self.0.with_fds(fds).send(b"fds")?)
    }

    pub(crate) fn recv_fds(&self) -> Result<Vec<OwnedFd>> {
        Ok(self.0.fds(FDS).recv(&mut [0; 8])?.fds)
    }

    /// So many descriptors, else it is an error.
    pub(crate) fn recv_just<const N: usize>(&self) -> Result<[OwnedFd; N]> {
        self.recv_fds()?.try_into().map_err(|_| "not as many descriptors as expected".into())
    }

    /// Both sides have come to the same point.
    pub(crate) fn meet(&self) -> Result<()> {
        self.0.send(b"1")?;
        self.0.recv(&mut [0; 8])?;
        Ok(())
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Self {
        Self(Seqpacket::from(fd))
    }
}

impl From<Link> for OwnedFd {
    fn from(link: Link) -> Self {
        link.0.into()
    }
}
