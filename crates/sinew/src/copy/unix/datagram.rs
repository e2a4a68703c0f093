//! Messages without a connection.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketType};

use super::address::Address;
use super::binding::OwnPath;
use super::listener::Options;
use super::message::{raw_recv_flags, recv_error, recv_flags, send_flags, send_once, whole};
use super::sys;
use crate::error::{Error, RecvError, Result, SendError};
use crate::mechanism::Mechanism;
use crate::wait::{Mode, Receives, Sends, Wait, drive};

/// A socket that carries messages between any number of senders and one receiver: each arrives
/// whole, once, and in the order of its sender. Nothing is dropped: a sender waits for room.
///
/// A receiver has an address ([`bind`](Self::bind)); a sender names it for each message
/// ([`to`](Self::to)) or once ([`connect`](Self::connect)). Two that belong together are a
/// [`pair`](Self::pair). It converts from and to std's `UnixDatagram`, whose own `recv` cuts long
/// messages silently.
///
/// # Limits
/// A message has at most as many bytes as the send buffer less 32
/// ([`Socket::send_buffer`](super::Socket::send_buffer)), and may be empty. At most
/// `net.unix.max_dgram_qlen` messages (+1) wait at a receiver; then `try_send` is
/// [`SendError::Full`], and `send` waits. In a pair only the send buffer limits.
///
/// # When the other end dies
/// Sending is [`SendError::Closed`]; so it is on a socket that was never connected. A receiver is
/// told nothing, as others may still send; where that matters use [`Seqpacket`](super::Seqpacket).
/// Receiving is `Closed` only where somebody called shutdown(2) on the socket itself.
///
/// ```
/// use sinew::unix::{Address, Datagram};
/// use sinew::wait::{Receives, Sends};
///
/// let folder = tempfile::tempdir()?;
/// let address = Address::path(folder.path().join("log"))?;
/// let receiver = Datagram::bind(&address)?;
/// let sender = Datagram::unbound()?;
/// sender.to(&address).send(b"hello").unwrap();
/// let mut buf = [0; 16];
/// let (length, from) = receiver.with_sender().recv(&mut buf).unwrap();
/// assert_eq!(&buf[..length], b"hello");
/// assert!(from.is_unnamed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Datagram {
    // Before the socket, because its removal of the path counts on the socket being open.
    path: Option<OwnPath>,
    fd: OwnedFd,
}

impl Datagram {
    /// Two sockets, each the destination of the other.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn pair() -> Result<(Self, Self)> {
        super::socket::pair(SocketType::DGRAM)
            .map(|(a, b)| (a.into(), b.into()))
            .map_err(|e| Error::os("make a pair of sockets", e).on(Mechanism::UnixDgram))
    }

    /// A socket without an address. It can send; nobody can answer.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn unbound() -> Result<Self> {
        super::socket::open(SocketType::DGRAM)
            .map(Self::from)
            .map_err(|e| Error::os("make a socket", e).on(Mechanism::UnixDgram))
    }

    /// A socket that receives what is sent to `address`. For a path: mode 0600, a stale one is
    /// taken over and a live one never, and it is removed on drop; see [`Options`] for all of it. For
    /// [`Address::unnamed`] the kernel chooses an abstract name.
    ///
    /// # Errors
    /// As [`Options::datagram`].
    pub fn bind(address: &Address) -> Result<Self> {
        Options::new().datagram(address)
    }

    pub(super) fn bound(fd: OwnedFd, path: Option<OwnPath>) -> Self {
        Self { path, fd }
    }

    /// Makes `address` the destination of every `send`, and the only sender that can still reach
    /// this socket.
    ///
    /// # Errors
    /// `NotFound` where nothing has this address, `Refused` where its socket is closed,
    /// `PermissionDenied` where it is not writable or is itself connected to another socket,
    /// `Mismatch` where it is no datagram socket.
    pub fn connect(&self, address: &Address) -> Result<()> {
        rustix::net::connect(&self.fd, address.raw())
            .map_err(|e| super::connector::refused(e, address, Mechanism::UnixDgram))
    }

    /// A view that sends to `address`.
    #[inline]
    #[must_use]
    pub fn to<'a>(&'a self, address: &'a Address) -> To<'a> {
        To { socket: self, address }
    }

    /// A view that receives together with the sender's address.
    #[inline]
    #[must_use]
    pub fn with_sender(&self) -> WithSender<'_> {
        WithSender { socket: self }
    }
}

impl AsFd for Datagram {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes a descriptor without looking what it is. Its path, if it has one, stays when it is dropped.
impl From<OwnedFd> for Datagram {
    fn from(fd: OwnedFd) -> Self {
        Self { path: None, fd }
    }
}

/// The path stays.
impl From<UnixDatagram> for Datagram {
    fn from(socket: UnixDatagram) -> Self {
        OwnedFd::from(socket).into()
    }
}

/// The path stays.
impl From<Datagram> for OwnedFd {
    fn from(socket: Datagram) -> Self {
        if let Some(path) = socket.path {
            path.keep();
        }
        socket.fd
    }
}

/// The path stays.
impl From<Datagram> for UnixDatagram {
    fn from(socket: Datagram) -> Self {
        OwnedFd::from(socket).into()
    }
}

/// send(2) with MSG_NOSIGNAL.
impl Sends for Datagram {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let fd = self.as_fd();
        send_once(fd, true, wait, |mode| rustix::net::send(fd, data, send_flags(mode))).map(drop)
    }
}

/// recv(2) with MSG_TRUNC: one call. Descriptors that came with the message are closed by the
/// kernel; see [`Socket::fds`](super::Socket::fds).
impl Receives for Datagram {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let fd = self.as_fd();
        let length = receive(fd, wait, |mode| {
            let flags = recv_flags(mode).union(RecvFlags::TRUNC);
            rustix::net::recv(fd, &mut *buf, flags).map(|(_, length)| length)
        })?;
        if length == 0 {
            empty_or_shut_down(fd)?;
        }
        whole(length, buf.len())
    }
}

/// Receives by `attempt`. A datagram socket that was shut down and is asked not to wait gives
/// EAGAIN for ever while poll(2) finds it ready: that is an end, not a reason to look again and again.
#[inline]
pub(super) fn receive<T>(
    fd: BorrowedFd<'_>,
    wait: Wait<'_>,
    mut attempt: impl FnMut(Mode) -> Result<T, Errno>,
) -> Result<T, RecvError> {
    let mut looked = false;
    let got = drive(fd, PollFlags::IN, wait, |mode| match attempt(mode) {
        Err(Errno::AGAIN) if std::mem::replace(&mut looked, true) && is_shut_down(fd) => {
            Err(Errno::PIPE)
        }
        other => other,
    });
    got.map_err(recv_error)
}

/// What a length of zero was: an empty message, unless the socket was shut down and has none left.
/// A blocking call on such a one gives zero for ever.
#[cold]
pub(super) fn empty_or_shut_down(fd: BorrowedFd<'_>) -> Result<(), RecvError> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    if is_shut_down(fd) && rustix::net::recv(fd, &mut [0; 1], flags).is_err() {
        return Err(RecvError::Closed);
    }
    Ok(())
}

#[cold]
fn is_shut_down(fd: BorrowedFd<'_>) -> bool {
    let mut state = [PollFd::from_borrowed_fd(fd, PollFlags::RDHUP)];
    poll(&mut state, Some(&Timespec::default())).is_ok()
        && state[0].revents().contains(PollFlags::RDHUP)
}

/// A view that sends to an address. Made by [`Datagram::to`].
///
/// poll(2) tells nothing about the queue of a receiver that is only named, so a bounded wait looks
/// again by itself, at most 1 ms late.
#[derive(Clone, Copy, Debug)]
pub struct To<'a> {
    pub(super) socket: &'a Datagram,
    pub(super) address: &'a Address,
}

impl Sends for To<'_> {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let fd = self.socket.as_fd();
        send_once(fd, false, wait, |mode| {
            rustix::net::sendto(fd, data, send_flags(mode), self.address.raw())
        })
        .map(drop)
    }
}

/// A view that receives the sender's address too. Made by [`Datagram::with_sender`].
#[derive(Clone, Copy, Debug)]
pub struct WithSender<'a> {
    socket: &'a Datagram,
}

impl Receives for WithSender<'_> {
    /// The length, and the sender's address (unnamed, where it has none).
    type Received = (usize, Address);

    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<(usize, Address), RecvError> {
        let fd = self.socket.as_fd();
        let (length, from) =
            receive(fd, wait, |mode| sys::recvfrom(fd, buf, raw_recv_flags(mode)))?;
        if length == 0 {
            empty_or_shut_down(fd)?;
        }
        Ok((whole(length, buf.len())?, from))
    }
}
