//! UDP: datagrams.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{
    RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType, bind, getpeername, getsockname,
    recv, recvfrom, send, sendto,
};

use super::option::{Shared, drops};
use super::stream::failed;
use super::tcp::{bind_failed, open_socket};
use crate::error::{Error, RecvError, Result, SendError, Stop};
use crate::mechanism::Mechanism;
use crate::wait::{Mode, Receives, Sends, Wait, drive};

const UDP: Mechanism = Mechanism::Udp;

/// The most that one datagram carries over IPv4: 65535 bytes less the headers of IP and UDP.
const MOST_V4: usize = 65_507;
/// The same over IPv6, whose length does not count its own header.
const MOST_V6: usize = 65_527;

/// What a UDP socket is told before it is used.
///
/// ```
/// use sinew::inet::UdpOptions;
///
/// let socket = UdpOptions::new().receive_buffer(100 << 10).bind_loopback()?;
/// assert_ne!(socket.local_addr()?.port(), 0);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct UdpOptions {
    shared: Shared,
}

impl UdpOptions {
    /// Everything as the host has it.
    pub const fn new() -> Self {
        Self { shared: Shared { busy_poll: None, send_buffer: None, receive_buffer: None } }
    }

    /// As [`TcpOptions::busy_poll`](super::TcpOptions::busy_poll).
    pub const fn busy_poll(mut self, time: Duration) -> Self {
        self.shared.busy_poll = Some(time);
        self
    }

    /// The send buffer, in bytes (SO_SNDBUF; `net.core.wmem_default` without this). Above
    /// `net.core.wmem_max` it is an error.
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.shared.send_buffer = Some(bytes);
        self
    }

    /// The receive buffer, in bytes (SO_RCVBUF; `net.core.rmem_default` without this). The kernel
    /// reserves twice of it, and counts at least 768 bytes or so for each datagram, however short.
    /// Above `net.core.rmem_max` it is an error. What finds it full is dropped: see [`Udp::dropped`].
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.shared.receive_buffer = Some(bytes);
        self
    }

    /// Binds 127.0.0.1 at a free port, which [`Udp::local_addr`] tells.
    ///
    /// # Errors
    /// See [`bind`](Self::bind).
    pub fn bind_loopback(&self) -> Result<Udp> {
        self.bind((Ipv4Addr::LOCALHOST, 0))
    }

    /// Binds an address; port 0 means a free one. An address beyond 127.0.0.1 and ::1 exposes the
    /// port to other hosts: see the [module](super).
    ///
    /// # Errors
    /// Of kind [`InUse`](crate::ErrorKind::InUse) if another socket has the port; if no descriptor is left,
    /// or an option is refused.
    pub fn bind(&self, address: impl Into<SocketAddr>) -> Result<Udp> {
        let address = address.into();
        let socket = self.open(address)?;
        bind(&socket, &address).map_err(|e| bind_failed(e, address, UDP))?;
        Ok(socket)
    }

    /// A socket connected to an address, at a free port of its own. Nobody need be there.
    ///
    /// # Errors
    /// If no descriptor or port is left, or an option is refused.
    pub fn connect(&self, address: impl Into<SocketAddr>) -> Result<Udp> {
        let address = address.into();
        let socket = self.open(address)?;
        socket.connect_to(address)?;
        Ok(socket)
    }

    fn open(&self, address: SocketAddr) -> Result<Udp> {
        let socket = open_socket(address, SocketType::DGRAM, SocketFlags::empty(), UDP)?;
        self.shared.apply(socket.as_fd(), UDP)?;
        Ok(Udp(socket.into()))
    }
}

/// A UDP socket: whole datagrams, which may be lost.
///
/// *Connected* to an address it sends there with [`send`](Sends::send) and receives only from
/// there. *Unconnected* it sends through [`to`](Self::to) and receives from anybody;
/// [`with_sender`](Self::with_sender) tells from whom. It may be empty: a datagram of length 0 is
/// received as length 0.
///
/// ```
/// use sinew::inet::Udp;
/// use sinew::wait::{Receives, Sends};
///
/// let server = Udp::loopback()?;
/// let client = Udp::connect(server.local_addr()?)?;
/// client.send(b"ping").unwrap();
///
/// let mut buf = [0; 1500];
/// let (length, sender) = server.with_sender().recv(&mut buf).unwrap();
/// assert_eq!(&buf[..length], b"ping");
/// server.to(sender).send(b"pong").unwrap();
/// assert_eq!(client.recv(&mut buf), Ok(4));
/// # Ok::<(), sinew::Error>(())
/// ```
///
/// # What gets lost
/// - A sender never waits for a receiver. What finds the receive buffer full is dropped, and neither
///   side is told; [`dropped`](Self::dropped) counts at the receiver. `send` gives `Full`, or waits,
///   only while the sender's own buffer is full, which over loopback it hardly ever is.
/// - What is in the receive buffer is lost when the receiver dies.
/// - Over loopback nothing else is lost, and the order of one sender's datagrams is kept.
///
/// # When nobody is there
/// The kernel reports a datagram for a port that nobody has by the *next* call of a connected
/// socket, be it a send or a receive: that is [`SendError::Closed`] (this datagram did not go
/// either) or [`RecvError::Closed`]. A receiver that waits already is woken by it. The socket stays
/// usable: when a new process binds the port, the next send reaches it. An unconnected socket is not
/// told. See udp(7).
#[derive(Debug)]
pub struct Udp(UdpSocket);

impl Udp {
    /// A socket on 127.0.0.1 at a free port, with the default [`UdpOptions`].
    ///
    /// # Errors
    /// See [`UdpOptions::bind`].
    pub fn loopback() -> Result<Self> {
        UdpOptions::new().bind_loopback()
    }

    /// A socket on an address, with the default [`UdpOptions`].
    ///
    /// # Errors
    /// See [`UdpOptions::bind`].
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self> {
        UdpOptions::new().bind(address)
    }

    /// A socket connected to an address, with the default [`UdpOptions`].
    ///
    /// # Errors
    /// See [`UdpOptions::connect`].
    pub fn connect(address: impl Into<SocketAddr>) -> Result<Self> {
        UdpOptions::new().connect(address)
    }

    /// Two sockets on 127.0.0.1, connected to each other. Neither receives from anybody else.
    ///
    /// # Errors
    /// When no descriptor or port is left.
    pub fn pair() -> Result<(Self, Self)> {
        loop {
            let (a, b) = (Self::loopback()?, Self::loopback()?);
            a.connect_to(b.local_addr()?)?;
            b.connect_to(a.local_addr()?)?;
            // What a stranger sent before they were connected is in the buffer.
            if a.is_untouched() && b.is_untouched() {
                return Ok((a, b));
            }
        }
    }

    fn is_untouched(&self) -> bool {
        let flags = RecvFlags::DONTWAIT | RecvFlags::PEEK;
        matches!(recv(self, &mut [0_u8; 1], flags), Err(Errno::AGAIN))
    }

    /// Connects to an address, or to another one than before: from now on it sends there and
    /// receives only from there. What it has received already stays.
    ///
    /// # Errors
    /// If the address is of another family than the socket, or cannot be reached.
    pub fn connect_to(&self, address: impl Into<SocketAddr>) -> Result<()> {
        let address = address.into();
        rustix::net::connect(self, &address)
            .map_err(|e| Error::os("connect", e).on(UDP).object(address))
    }

    /// A view that sends to an address. Keep it where many datagrams go to one place.
    ///
    /// On a connected socket the address overrides the one that it is connected to.
    #[inline]
    #[must_use]
    pub fn to(&self, address: impl Into<SocketAddr>) -> To<'_> {
        To { socket: self, address: address.into().into() }
    }

    /// A view that receives with the address of the sender. That address is not proven: a process
    /// with CAP_NET_RAW can forge it.
    #[inline]
    #[must_use]
    pub fn with_sender(&self) -> WithSender<'_> {
        WithSender(self)
    }

    /// How many datagrams this socket has dropped since it was made, because its receive buffer was
    /// full (or, from other hosts, because a checksum was wrong). It wraps around at 2^32. One
    /// system call; nothing is counted on the way of a message.
    ///
    /// ```
    /// use sinew::inet::{Udp, UdpOptions};
    /// use sinew::wait::Sends;
    ///
    /// let receiver = UdpOptions::new().receive_buffer(4096).bind_loopback()?;
    /// let sender = Udp::connect(receiver.local_addr()?)?;
    /// for _ in 0..100 {
    ///     sender.send(&[0; 1000]).unwrap();
    /// }
    /// assert!(receiver.dropped()? > 80);
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of kind [`Unsupported`](crate::ErrorKind::Unsupported) where a sandbox has no SO_MEMINFO.
    pub fn dropped(&self) -> Result<u32> {
        drops(self).map_err(|e| Error::os("count dropped datagrams (SO_MEMINFO)", e).on(UDP))
    }

    /// The address and the port that it has.
    ///
    /// # Errors
    /// If the socket is none of UDP.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.0.local_addr().map_err(failed("read the address of a socket", UDP))
    }

    /// The address that it is connected to.
    ///
    /// # Errors
    /// Of kind [`Closed`](crate::ErrorKind::Closed) if it is not connected.
    pub fn peer_addr(&self) -> Result<SocketAddr> {
        self.0.peer_addr().map_err(failed("read the address of the other end", UDP))
    }

    /// What a send that did not go means. `to` is where it was to go.
    #[cold]
    fn refused(&self, stop: Stop, length: usize, to: Option<SocketAddr>) -> SendError {
        match stop {
            Stop::Os(errno) if errno == libc::ECONNREFUSED => SendError::Closed,
            Stop::Os(errno) if errno == libc::EMSGSIZE => {
                let limit = self.most(to);
                // Shorter than that, it does not fit the path to another host.
                if length > limit { SendError::TooBig { limit } } else { SendError::Os(errno) }
            }
            stop => stop.into(),
        }
    }

    /// The longest datagram that can go to an address, or to the one it is connected to.
    fn most(&self, to: Option<SocketAddr>) -> usize {
        let to = to
            .or_else(|| getpeername(self).ok()??.try_into().ok())
            .or_else(|| getsockname(self).ok()?.try_into().ok());
        match to {
            Some(SocketAddr::V6(v6)) if v6.ip().to_ipv4_mapped().is_none() => MOST_V6,
            _ => MOST_V4,
        }
    }
}

#[inline]
fn send_flags(mode: Mode) -> SendFlags {
    match mode {
        Mode::MayBlock => SendFlags::NOSIGNAL,
        Mode::NonBlocking => SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT),
    }
}

/// With the full length of a datagram that is longer than the buffer.
#[inline]
fn recv_flags(mode: Mode) -> RecvFlags {
    match mode {
        Mode::MayBlock => RecvFlags::TRUNC,
        Mode::NonBlocking => RecvFlags::TRUNC.union(RecvFlags::DONTWAIT),
    }
}

/// What a receive that gave nothing means.
#[cold]
fn not_received(stop: Stop) -> RecvError {
    match stop {
        Stop::Os(errno) if errno == libc::ECONNREFUSED => RecvError::Closed,
        stop => stop.into(),
    }
}

impl Sends for Udp {
    /// One send(2), to the address that it is connected to. It gives `SendError::Os(EDESTADDRREQ)`
    /// if there is none, and [`SendError::TooBig`] above 65507 bytes over IPv4 and 65527 over IPv6.
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        drive(self.as_fd(), PollFlags::OUT, wait, |mode| send(self, data, send_flags(mode)))
            .map(|_| ())
            .map_err(|stop| self.refused(stop, data.len(), None))
    }
}

impl Receives for Udp {
    type Received = usize;

    /// One recv(2). A datagram that is longer than `buf` is lost: [`RecvError::TooSmall`] says how
    /// long it was.
    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let received = drive(self.as_fd(), PollFlags::IN, wait, |mode| {
            recv(self, &mut *buf, recv_flags(mode)).map(|(_, length)| length)
        });
        match received {
            Ok(length) if length <= buf.len() => Ok(length),
            Ok(length) => Err(RecvError::TooSmall { needed: Some(length), lost: true }),
            Err(stop) => Err(not_received(stop)),
        }
    }
}

/// Sends to one address. Made by [`Udp::to`].
#[derive(Clone, Debug)]
pub struct To<'a> {
    socket: &'a Udp,
    /// As the kernel reads it.
    address: SocketAddrAny,
}

impl Sends for To<'_> {
    /// One sendto(2).
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        drive(self.socket.as_fd(), PollFlags::OUT, wait, |mode| {
            sendto(self.socket, data, send_flags(mode), &self.address)
        })
        .map(|_| ())
        .map_err(|stop| self.socket.refused(stop, data.len(), self.address.clone().try_into().ok()))
    }
}

/// Receives with the address of the sender. Made by [`Udp::with_sender`].
#[derive(Clone, Copy, Debug)]
pub struct WithSender<'a>(&'a Udp);

impl Receives for WithSender<'_> {
    type Received = (usize, SocketAddr);

    /// One recvfrom(2).
    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<(usize, SocketAddr), RecvError> {
        let received = drive(self.0.as_fd(), PollFlags::IN, wait, |mode| {
            recvfrom(self.0, &mut *buf, recv_flags(mode))
                .map(|(_, length, sender)| (length, sender))
        });
        let (length, sender) = received.map_err(not_received)?;
        if length > buf.len() {
            return Err(RecvError::TooSmall { needed: Some(length), lost: true });
        }
        // A datagram of another family can only come from a descriptor that is no UDP socket.
        let sender = sender.and_then(|sender| sender.try_into().ok());
        sender.map(|sender| (length, sender)).ok_or(RecvError::Os(libc::EAFNOSUPPORT))
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<UdpSocket> for Udp {
    fn from(socket: UdpSocket) -> Self {
        Self(socket)
    }
}

impl From<Udp> for UdpSocket {
    fn from(socket: Udp) -> Self {
        socket.0
    }
}

impl From<OwnedFd> for Udp {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl From<Udp> for OwnedFd {
    fn from(socket: Udp) -> Self {
        socket.0.into()
    }
}
