//! Descriptors and credentials beside the data.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, UCred};
use rustix::process::{Gid, Pid, Uid};

use super::address::Address;
use super::credentials::ClaimedCredentials;
use super::message::{raw_recv_flags, recv_error, send_flags, send_once, whole};
use super::socket::{Kind, Socket};
use super::{datagram, seqpacket, stream, sys};
use crate::error::{RecvError, SendError};
use crate::wait::{Mode, Receives, Sends, Wait, drive};

/// The most descriptors that one message carries (SCM_MAX_FD of the kernel).
pub const MAX_FDS: usize = 253;

/// A view that sends descriptors or credentials with the data. Made by [`Socket::with_fds`] and
/// [`Socket::with_claim`].
///
/// # Errors of its verbs
/// [`SendError::TooManyFds`] beyond 253; [`SendError::TooManyInFlight`] when as many descriptors of
/// this user as `RLIMIT_NOFILE` allows are sent and not yet received (root is exempt);
/// [`SendError::Empty`] for no data on a stream or seqpacket socket; `Os(EPERM)` for a claim that
/// the kernel does not allow.
#[derive(Debug)]
pub struct Ancillary<'a, S> {
    pub(super) socket: &'a S,
    pub(super) fds: &'a [BorrowedFd<'a>],
    pub(super) claim: Option<ClaimedCredentials>,
}

impl<'a, S: Socket> Ancillary<'a, S> {
    /// Sends these descriptors too.
    #[must_use]
    pub fn with_fds(mut self, fds: &'a [BorrowedFd<'a>]) -> Self {
        self.fds = fds;
        self
    }

    /// Sends this claim too.
    #[must_use]
    pub fn with_claim(mut self, claim: ClaimedCredentials) -> Self {
        self.claim = Some(claim);
        self
    }

    /// One sendmsg(2).
    fn attempt(&self, data: &[u8], mode: Mode) -> rustix::io::Result<usize> {
        let mut space =
            [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !self.fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(self.fds)) {
            return Err(rustix::io::Errno::INVAL);
        }
        if let Some(claim) = self.claim {
            let pid = Pid::from_raw(claim.pid).ok_or(rustix::io::Errno::SRCH)?;
            let claim = UCred { pid, uid: Uid::from_raw(claim.uid), gid: Gid::from_raw(claim.gid) };
            if !control.push(SendAncillaryMessage::ScmCredentials(claim)) {
                return Err(rustix::io::Errno::INVAL);
            }
        }
        let data = [IoSlice::new(data)];
        let socket = self.socket.as_fd();
        match self.socket.destination() {
            None => rustix::net::sendmsg(socket, &data, &mut control, send_flags(mode)),
            Some(to) => {
                rustix::net::sendmsg_addr(socket, to.raw(), &data, &mut control, send_flags(mode))
            }
        }
    }
}

impl<S: Socket> Sends for Ancillary<'_, S> {
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        if self.fds.len() > MAX_FDS {
            return Err(SendError::TooManyFds { limit: MAX_FDS });
        }
        if data.is_empty() && S::KIND != Kind::Datagram {
            return Err(SendError::Empty);
        }
        let fd = self.socket.as_fd();
        let pollable = self.socket.destination().is_none();
        let first = send_once(fd, pollable, wait, |mode| self.attempt(data, mode))?;
        if S::KIND != Kind::Stream {
            return Ok(());
        }
        // The descriptors went with the first bytes of a stream.
        let mut sent = first;
        while sent < data.len() {
            let rest = &data[sent..];
            let more =
                send_once(fd, true, wait, |mode| rustix::net::send(fd, rest, send_flags(mode)));
            sent += more.map_err(|error| stream::partial(sent, error))?;
        }
        Ok(())
    }
}

/// What arrives through [`Socket::fds`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Message {
    /// How many bytes are in the buffer.
    pub length: usize,
    /// The descriptors, in the order in which they were sent; with CLOEXEC. On a stream they came
    /// with the first of the bytes.
    pub fds: Vec<OwnedFd>,
    /// What the sender says about itself, if [`Socket::set_receive_claims`] is on.
    pub claimed: Option<ClaimedCredentials>,
    /// The address of the sender of a datagram; unnamed where it has none.
    pub sender: Address,
}

/// A view that receives descriptors. Made by [`Socket::fds`].
///
/// # Errors of its verbs
/// [`RecvError::Truncated`] when not all that was sent could arrive: more than was asked for, or
/// `RLIMIT_NOFILE` reached, or a security module in between. The data is gone then and what did
/// arrive is closed; on a stream, close the connection, because the place in it is lost.
#[derive(Debug)]
pub struct Fds<'a, S> {
    pub(super) socket: &'a S,
    pub(super) max: usize,
}

impl<S: Socket> Receives for Fds<'_, S> {
    type Received = Message;

    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<Message, RecvError> {
        let fd = self.socket.as_fd();
        if S::KIND == Kind::Stream && buf.is_empty() {
            return Ok(Message {
                length: 0,
                fds: Vec::new(),
                claimed: None,
                sender: Address::unnamed(),
            });
        }
        let mut attempt = |mode| {
            let mut flags = raw_recv_flags(mode);
            if S::KIND == Kind::Stream {
                // There it has no meaning.
                flags &= !libc::MSG_TRUNC;
            }
            sys::recvmsg(fd, buf, self.max, flags)
        };
        let got = match S::KIND {
            Kind::Datagram => datagram::receive(fd, wait, &mut attempt)?,
            Kind::Stream => drive(fd, PollFlags::IN, wait, &mut attempt).map_err(recv_error)?,
            Kind::Seqpacket => {
                let past = |mode| seqpacket::past_reset(|| attempt(mode));
                drive(fd, PollFlags::IN, wait, past).map_err(recv_error)?
            }
        };
        if got.cut {
            return Err(RecvError::Truncated);
        }
        if got.length == 0 && got.fds.is_empty() && got.credentials.is_none() {
            match S::KIND {
                Kind::Stream => return Err(RecvError::Closed),
                Kind::Seqpacket => {
                    seqpacket::empty_or_end(fd)?;
                }
                Kind::Datagram => datagram::empty_or_shut_down(fd)?,
            }
        }
        Ok(Message {
            length: whole(got.length, buf.len())?,
            fds: got.fds,
            claimed: got.credentials.map(|c| ClaimedCredentials {
                pid: c.pid,
                uid: c.uid,
                gid: c.gid,
            }),
            sender: got.sender,
        })
    }
}
