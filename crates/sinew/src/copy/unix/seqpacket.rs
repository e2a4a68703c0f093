//! Messages in order over a connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType};

use super::message::{recv_error, recv_flags, send_flags, send_once, whole};
use crate::error::{Error, RecvError, Result, SendError};
use crate::mechanism::Mechanism;
use crate::wait::{Receives, Sends, Wait, drive};

/// A connected socket that carries messages: each arrives whole, once and in order.
///
/// Made by [`pair`](Self::pair), [`SeqpacketListener`](super::SeqpacketListener) and
/// [`Address::seqpacket`](super::Address::seqpacket); or from an `OwnedFd` of a SOCK_SEQPACKET
/// socket.
///
/// # Length
/// A message has at most as many bytes as the send buffer less 32
/// ([`Socket::send_buffer`](super::Socket::send_buffer)); a longer one is
/// [`SendError::TooBig`]. A message longer than the buffer it is received into is lost, and
/// [`RecvError::TooSmall`] says how long it was.
///
/// # Empty messages
/// The kernel shows an empty message as it shows the end, so `send` refuses one with
/// [`SendError::Empty`]. Another program may send one: `recv` gives `Ok(0)` for it as long as the
/// connection stands, or as anything follows it. Empty messages that are the last thing before the
/// other end closes cannot be told from the end, and are left out: `recv` gives
/// [`RecvError::Closed`].
///
/// ```
/// use sinew::unix::Seqpacket;
/// use sinew::wait::{Receives, Sends};
///
/// let (a, b) = Seqpacket::pair()?;
/// a.send(b"one").unwrap();
/// a.send(b"three").unwrap();
/// let mut buf = [0; 16];
/// assert_eq!(b.recv(&mut buf), Ok(3));
/// assert_eq!(b.recv(&mut buf), Ok(5));
/// drop(a);
/// assert_eq!(b.recv(&mut buf), Err(sinew::RecvError::Closed));
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Debug)]
pub struct Seqpacket(OwnedFd);

impl Seqpacket {
    /// Two connected sockets, for this process and a child.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn pair() -> Result<(Self, Self)> {
        super::socket::pair(SocketType::SEQPACKET)
            .map(|(a, b)| (Self(a), Self(b)))
            .map_err(|e| Error::os("make a pair of sockets", e).on(Mechanism::UnixSeqpacket))
    }

    /// Ends one direction or both, for every process that has the socket.
    ///
    /// After `Read` the other side's sends are [`Closed`](crate::SendError::Closed), and what they sent
    /// before is still received, up to the end: so a server finishes what it has accepted.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) if the descriptor is no socket.
    pub fn shutdown(&self, how: std::net::Shutdown) -> Result<()> {
        let how = match how {
            std::net::Shutdown::Read => rustix::net::Shutdown::Read,
            std::net::Shutdown::Write => rustix::net::Shutdown::Write,
            std::net::Shutdown::Both => rustix::net::Shutdown::Both,
        };
        rustix::net::shutdown(&self.0, how)
            .map_err(|e| Error::os("shut down", e).on(Mechanism::UnixSeqpacket))
    }
}

impl AsFd for Seqpacket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Takes a descriptor without looking what it is.
impl From<OwnedFd> for Seqpacket {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl From<Seqpacket> for OwnedFd {
    fn from(socket: Seqpacket) -> Self {
        socket.0
    }
}

/// send(2) with MSG_NOSIGNAL.
impl Sends for Seqpacket {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        if data.is_empty() {
            return Err(SendError::Empty);
        }
        let fd = self.as_fd();
        send_once(fd, true, wait, |mode| rustix::net::send(fd, data, send_flags(mode))).map(drop)
    }
}

/// recv(2) with MSG_TRUNC: one call. Descriptors that came with the message are closed by the
/// kernel; see [`Socket::fds`](super::Socket::fds).
impl Receives for Seqpacket {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let fd = self.as_fd();
        let got = drive(fd, PollFlags::IN, wait, |mode| {
            let flags = recv_flags(mode).union(RecvFlags::TRUNC);
            past_reset(|| rustix::net::recv(fd, &mut *buf, flags).map(|(_, length)| length))
        });
        match got {
            Ok(0) => empty_or_end(fd),
            Ok(length) => whole(length, buf.len()),
            Err(stop) => Err(recv_error(stop)),
        }
    }
}

/// Receives what came before a reset. A peer that is closed with messages that it never read leaves an
/// error here, once, which the kernel tells before the messages of that peer; after it come these,
/// and then the end.
#[inline]
pub(super) fn past_reset<T>(mut attempt: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    match attempt() {
        Err(Errno::CONNRESET) => attempt(),
        done => done,
    }
}

/// What a length of zero was: an empty message if the connection stands or something follows.
#[cold]
pub(super) fn empty_or_end(fd: BorrowedFd<'_>) -> Result<usize, RecvError> {
    let mut state = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    if poll(&mut state, Some(&Timespec::default())) == Ok(0) {
        return Ok(0);
    }
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT | RecvFlags::TRUNC;
    match rustix::net::recv(fd, &mut [0; 1], flags) {
        Ok((_, length)) if length > 0 => Ok(0),
        _ => Err(RecvError::Closed),
    }
}
