//! What the three kinds of socket have in common.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::address::Address;
use super::ancillary::{Ancillary, Fds};
use super::credentials::{self, ClaimedCredentials, PeerCredentials};
use super::datagram::{Datagram, To};
use super::message::message_limit;
use super::seqpacket::Seqpacket;
use super::sys;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::Limit;
use crate::mechanism::Mechanism;

pub(super) fn open(kind: SocketType) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

pub(super) fn pair(kind: SocketType) -> Result<(OwnedFd, OwnedFd), Errno> {
    rustix::net::socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)
}

/// What the kernel does with the data of a kind, and how an empty message is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Stream,
    Datagram,
    Seqpacket,
}

pub(super) mod sealed {
    use super::{Address, Kind};

    pub trait Sealed {
        const KIND: Kind;

        /// Where messages go, if not to the connected peer.
        fn destination(&self) -> Option<&Address> {
            None
        }
    }
}

use sealed::Sealed;

impl Sealed for UnixStream {
    const KIND: Kind = Kind::Stream;
}

impl Sealed for Datagram {
    const KIND: Kind = Kind::Datagram;
}

impl Sealed for Seqpacket {
    const KIND: Kind = Kind::Seqpacket;
}

impl Sealed for To<'_> {
    const KIND: Kind = Kind::Datagram;

    fn destination(&self) -> Option<&Address> {
        Some(self.address)
    }
}

impl AsFd for To<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Socket for UnixStream {}
impl Socket for Datagram {}
impl Socket for Seqpacket {}
impl Socket for To<'_> {}

/// What std's `UnixStream`, [`Datagram`] and [`Seqpacket`] have in common: descriptors and
/// credentials beside the data, names, and the size of the send buffer. (On the view
/// [`Datagram::to`] the sending views are what it is for.)
///
/// ```
/// use std::io::Read;
/// use std::os::fd::AsFd;
/// use sinew::unix::{Seqpacket, Socket};
/// use sinew::wait::{Receives, Sends};
///
/// let (a, b) = Seqpacket::pair()?;
/// let (mut rx, tx) = std::io::pipe()?;
/// a.with_fds(&[tx.as_fd()]).send(b"a pipe").unwrap();
///
/// let mut buf = [0; 16];
/// let mut message = b.fds(1).recv(&mut buf).unwrap();
/// assert_eq!(&buf[..message.length], b"a pipe");
/// let tx_here = message.fds.remove(0);
/// # drop((tx, tx_here));
/// # assert_eq!(rx.read(&mut buf)?, 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Socket: AsFd + Sized + Sealed {
    /// A view that sends `fds` with the data: at most 253 ([`MAX_FDS`](super::MAX_FDS)) a message, on
    /// a stream with at least one byte. The receiver gets duplicates; those here stay open.
    #[inline]
    fn with_fds<'a>(&'a self, fds: &'a [BorrowedFd<'a>]) -> Ancillary<'a, Self> {
        Ancillary { socket: self, fds, claim: None }
    }

    /// A view that sends what this process says about itself with the data. Without it the kernel
    /// fills in [`ClaimedCredentials::own`] where the receiver wants them.
    #[inline]
    fn with_claim(&self, claim: ClaimedCredentials) -> Ancillary<'_, Self> {
        Ancillary { socket: self, fds: &[], claim: Some(claim) }
    }

    /// A view that receives at most `max` descriptors with the data, and whatever else comes with it.
    /// More than `max` are [`RecvError::Truncated`](crate::RecvError::Truncated), and every one that did
    /// arrive is closed: a peer can fill no more of this process's table than is asked for.
    #[inline]
    fn fds(&self, max: usize) -> Fds<'_, Self> {
        Fds { socket: self, max }
    }

    /// Who was at the other end when the connection was made.
    ///
    /// # Errors
    /// `Mismatch` if the socket is not connected. A bound datagram socket never is, in this
    /// respect: only a pair of them is.
    fn peer_credentials(&self) -> Result<PeerCredentials> {
        credentials::of_peer(self.as_fd()).map_err(|e| e.on(Self::KIND.mechanism()))
    }

    /// A pidfd of the process of [`peer_credentials`](Self::peer_credentials): readable in a poll
    /// when it has ended, and never another process.
    ///
    /// Before Linux 6.5 it is opened by the process id, and then there is a race: if the process
    /// ended, was reaped, and its number was used again since the connection was made, it is
    /// another process. [`kernel::Feature::PeerPidfd`](crate::kernel::Feature::PeerPidfd) tells which
    /// of both; where it decides on access, use it only with the feature.
    ///
    /// # Errors
    /// `NotFound` if the process has ended and the kernel does not tell any more which it was (from
    /// 6.16 on it does), `Mismatch` if the socket is not connected.
    fn peer_pidfd(&self) -> Result<OwnedFd> {
        credentials::pidfd_of_peer(self.as_fd()).map_err(|e| e.on(Self::KIND.mechanism()))
    }

    /// The supplementary groups that the process of [`peer_credentials`](Self::peer_credentials) had
    /// (SO_PEERGROUPS).
    ///
    /// # Errors
    /// `Mismatch` if the socket is not connected.
    fn peer_groups(&self) -> Result<Vec<u32>> {
        credentials::groups_of_peer(self.as_fd()).map_err(|e| e.on(Self::KIND.mechanism()))
    }

    /// Lets messages arrive with what the sender says about itself
    /// ([`Message::claimed`](super::Message::claimed)); SO_PASSCRED. A socket that has no name gets
    /// an abstract one by it.
    ///
    /// # Errors
    /// When the descriptor is no socket.
    fn set_receive_claims(&self, on: bool) -> Result<()> {
        sockopt::set_socket_passcred(self.as_fd(), on).map_err(|e| {
            Error::os("have credentials sent along (SO_PASSCRED)", e).on(Self::KIND.mechanism())
        })
    }

    /// The address that this end is bound to.
    ///
    /// # Errors
    /// When the descriptor is no socket.
    fn local_address(&self) -> Result<Address> {
        sys::local_address(self.as_fd())
            .map_err(|e| Error::os("ask for the own address", e).on(Self::KIND.mechanism()))
    }

    /// The address that the other end is bound to.
    ///
    /// # Errors
    /// `Closed` if it is not connected.
    fn peer_address(&self) -> Result<Address> {
        sys::peer_address(self.as_fd())
            .map_err(|e| Error::os("ask for the peer's address", e).on(Self::KIND.mechanism()))
    }

    /// The send buffer in bytes, as the kernel counts: its own overhead of each message included
    /// (SO_SNDBUF). On UNIX sockets it alone bounds what is on its way; a receive buffer has no meaning.
    ///
    /// # Errors
    /// When the descriptor is no socket.
    fn send_buffer(&self) -> Result<usize> {
        sockopt::socket_send_buffer_size(self.as_fd()).map_err(|e| {
            Error::os("ask for the send buffer (SO_SNDBUF)", e).on(Self::KIND.mechanism())
        })
    }

    /// The longest message that can be sent now. A stream has no such limit.
    fn max_message(&self) -> Option<usize> {
        (Self::KIND != Kind::Stream).then(|| message_limit(self.as_fd()))
    }

    /// Makes the send buffer hold at least `bytes` of data (the kernel takes twice that, for its
    /// overhead) and gives what [`send_buffer`](Self::send_buffer) then says.
    ///
    /// # Errors
    /// `LimitReached` if `net.core.wmem_max` is less and this process lacks CAP_NET_ADMIN. What the
    /// limit allows has been set then.
    fn set_send_buffer(&self, bytes: usize) -> Result<usize> {
        const SET: &str = "set the send buffer (SO_SNDBUF)";
        let too_big = |cause: String| {
            Error::new(ErrorKind::LimitReached, SET)
                .on(Self::KIND.mechanism())
                .object(format!("{bytes} bytes"))
                .because(cause)
                .fix("raise it: sysctl net.core.wmem_max=N")
        };
        if bytes > i32::MAX as usize / 2 {
            return Err(too_big(format!("the kernel holds at most {}", i32::MAX / 2)));
        }
        sockopt::set_socket_send_buffer_size(self.as_fd(), bytes)
            .map_err(|e| Error::os(SET, e).on(Self::KIND.mechanism()))?;
        let mut got = self.send_buffer()?;
        if got < 2 * bytes
            && sockopt::set_socket_send_buffer_size_force(self.as_fd(), bytes).is_ok()
        {
            got = self.send_buffer()?;
        }
        if got < 2 * bytes {
            return Err(too_big(format!("the limit is {}", Limit::WmemMax.stated())));
        }
        Ok(got)
    }
}

impl Kind {
    /// The name of the kind.
    pub(super) const fn mechanism(self) -> Mechanism {
        match self {
            Self::Stream => Mechanism::UnixStream,
            Self::Datagram => Mechanism::UnixDgram,
            Self::Seqpacket => Mechanism::UnixSeqpacket,
        }
    }
}
