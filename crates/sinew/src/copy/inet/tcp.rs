//! Setting TCP up: options, listening, connecting.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, ipproto, listen, socket_with,
    sockopt,
};

use super::option::Shared;
use super::stream::failed;
use crate::error::{Error, ErrorKind, Result, Stop};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{Accepts, Connects, Mode, Wait, drive};

const TCP: Mechanism = Mechanism::Tcp;

/// What a TCP socket is told before it is used.
///
/// [`new`](Self::new) has what local communication wants: no delay for small messages
/// (TCP_NODELAY), everything else as the host has it.
///
/// ```
/// use std::net::Ipv6Addr;
/// use sinew::inet::TcpOptions;
/// use sinew::wait::{Accepts, Connects};
///
/// let options = TcpOptions::new().receive_buffer(64 << 10);
/// let listener = options.listen_loopback()?;
/// let client = options.connector(listener.local_addr()?).connect()?;
/// let server = listener.accept()?;
/// assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct TcpOptions {
    shared: Shared,
    nodelay: bool,
    quickack: bool,
    keepalive: Option<Keepalive>,
    user_timeout: Option<Duration>,
    reuse_address: bool,
    backlog: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Keepalive {
    idle: Duration,
    interval: Duration,
    probes: u32,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl TcpOptions {
    /// TCP_NODELAY, SO_REUSEADDR for listeners, a backlog of 4096, and the buffers of the host.
    pub const fn new() -> Self {
        Self {
            shared: Shared { busy_poll: None, send_buffer: None, receive_buffer: None },
            nodelay: true,
            quickack: false,
            keepalive: None,
            user_timeout: None,
            reuse_address: true,
            backlog: 4096,
        }
    }

    /// Whether small messages go at once (TCP_NODELAY; true by default). With false the kernel
    /// holds a small message back while an earlier one is not acknowledged, and the other side may
    /// delay that by 40 ms.
    pub const fn nodelay(mut self, on: bool) -> Self {
        self.nodelay = on;
        self
    }

    /// Has [`apply`](Self::apply) end the delaying of acknowledgements on a connection that is under
    /// way (TCP_QUICKACK). A new connection acknowledges at once anyway, so this changes nothing for
    /// one. The kernel goes back to delaying by itself, for instance once this side answers what it
    /// receives: it holds for the moment and promises nothing.
    pub const fn quickack(mut self, on: bool) -> Self {
        self.quickack = on;
        self
    }

    /// Lets a receiver look for packets in the driver of a network card this long before it sleeps
    /// (SO_BUSY_POLL, in whole microseconds). Loopback has no such driver: this only helps
    /// connections between hosts. More than `net.core.busy_read` takes CAP_NET_ADMIN.
    pub const fn busy_poll(mut self, time: Duration) -> Self {
        self.shared.busy_poll = Some(time);
        self
    }

    /// The send buffer, in bytes (SO_SNDBUF); the kernel reserves twice of it, for its own
    /// bookkeeping. Without this the kernel tunes it by itself, up to `net.ipv4.tcp_wmem`. Above
    /// `net.core.wmem_max` it is an error, where setsockopt(2) would silently give less.
    pub const fn send_buffer(mut self, bytes: usize) -> Self {
        self.shared.send_buffer = Some(bytes);
        self
    }

    /// The receive buffer, in bytes (SO_RCVBUF); see [`send_buffer`](Self::send_buffer). The limit is
    /// `net.core.rmem_max`.
    pub const fn receive_buffer(mut self, bytes: usize) -> Self {
        self.shared.receive_buffer = Some(bytes);
        self
    }

    /// Probes a connection that was idle this long, then at each `interval`, and gives it up when
    /// `probes` in a row have no answer: the calls end with `Closed`. In whole seconds, at least 1.
    ///
    /// It finds a *host* that is gone. It says nothing of a process: the death of one closes its
    /// connections at once without this, and for a stopped one the kernel answers.
    pub const fn keepalive(mut self, idle: Duration, interval: Duration, probes: u32) -> Self {
        self.keepalive = Some(Keepalive { idle, interval, probes });
        self
    }

    /// Gives the connection up when what was sent is not acknowledged for this long, or finds no
    /// room at the other end for this long (TCP_USER_TIMEOUT, in whole milliseconds): the calls end
    /// with `Closed`. So it also ends a connection to a stopped process, once its buffers are full.
    pub const fn user_timeout(mut self, time: Duration) -> Self {
        self.user_timeout = Some(time);
        self
    }

    /// Whether a listener may take a port whose former connections are still being wound up
    /// (SO_REUSEADDR; true by default). It never takes a port from a live listener.
    pub const fn reuse_address(mut self, on: bool) -> Self {
        self.reuse_address = on;
        self
    }

    /// How many connections may wait for [`accept`](Accepts::accept) (4096 by default, which is
    /// `net.core.somaxconn` on most hosts; the kernel silently cuts what is above that limit, which
    /// [`Listener::backlog`] tells). When it is full, new connections wait in connect(2).
    pub const fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Applies these options to a connection that something else made.
    ///
    /// # Errors
    /// If the kernel refuses one, or if a buffer is above its limit.
    pub fn apply(&self, stream: impl AsFd) -> Result<()> {
        self.prepare(stream.as_fd())?;
        if self.quickack {
            sockopt::set_tcp_quickack(stream, true)
                .map_err(|e| Error::os("set TCP_QUICKACK", e).on(TCP))?;
        }
        Ok(())
    }

    /// What a socket can be told before it is connected, and what connections inherit from a listener.
    fn prepare(&self, fd: BorrowedFd<'_>) -> Result<()> {
        let failed = |operation| move |e| Error::os(operation, e).on(TCP);
        self.shared.apply(fd, TCP)?;
        sockopt::set_tcp_nodelay(fd, self.nodelay).map_err(failed("set TCP_NODELAY"))?;
        if let Some(Keepalive { idle, interval, probes }) = self.keepalive {
            sockopt::set_tcp_keepidle(fd, idle)
                .map_err(failed("set the idle time of keepalive (TCP_KEEPIDLE)"))?;
            sockopt::set_tcp_keepintvl(fd, interval)
                .map_err(failed("set the interval of keepalive (TCP_KEEPINTVL)"))?;
            sockopt::set_tcp_keepcnt(fd, probes)
                .map_err(failed("set the number of keepalive probes (TCP_KEEPCNT)"))?;
            sockopt::set_socket_keepalive(fd, true).map_err(failed("set SO_KEEPALIVE"))?;
        }
        if let Some(time) = self.user_timeout {
            let operation = "set TCP_USER_TIMEOUT";
            let millis = u32::try_from(time.as_millis())
                .map_err(|_| Error::new(ErrorKind::InvalidInput, operation).on(TCP))?;
            sockopt::set_tcp_user_timeout(fd, millis).map_err(failed(operation))?;
        }
        Ok(())
    }

    /// Listens on 127.0.0.1 at a free port, which [`Listener::local_addr`] tells.
    ///
    /// # Errors
    /// See [`listen`](Self::listen).
    pub fn listen_loopback(&self) -> Result<Listener> {
        self.listen((Ipv4Addr::LOCALHOST, 0))
    }

    /// Listens on an address; port 0 means a free one. The connections it accepts have these options.
    ///
    /// An address beyond 127.0.0.1 and ::1 exposes the port to other hosts: see the
    /// [module](super).
    ///
    /// ```
    /// use std::net::Ipv4Addr;
    /// use sinew::inet::TcpOptions;
    ///
    /// let listener = TcpOptions::new().backlog(16).listen((Ipv4Addr::LOCALHOST, 0))?;
    /// assert_ne!(listener.local_addr()?.port(), 0);
    /// # Ok::<(), sinew::Error>(())
    /// ```
    ///
    /// # Errors
    /// Of kind [`InUse`](ErrorKind::InUse) if somebody listens there,
    /// [`PermissionDenied`](ErrorKind::PermissionDenied) below `net.ipv4.ip_unprivileged_port_start`,
    /// and if no descriptor is left or an option is refused.
    pub fn listen(&self, address: impl Into<SocketAddr>) -> Result<Listener> {
        let address = address.into();
        // Non-blocking: see `Listener`.
        let socket = new_socket(address, SocketFlags::NONBLOCK)?;
        let fd = socket.as_fd();
        if self.reuse_address {
            sockopt::set_socket_reuseaddr(fd, true)
                .map_err(|e| Error::os("set SO_REUSEADDR", e).on(TCP))?;
        }
        self.prepare(fd)?;
        bind(fd, &address).map_err(|e| bind_failed(e, address, TCP))?;
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        listen(fd, backlog).map_err(|e| Error::os("listen", e).on(TCP).object(address))?;
        Ok(Listener { socket: socket.into(), backlog: Some(self.backlog) })
    }

    /// What connects to this address with these options.
    pub fn connector(&self, address: impl Into<SocketAddr>) -> Connector {
        Connector { address: address.into(), options: *self }
    }
}

pub(super) fn bind_failed(errno: Errno, address: SocketAddr, mechanism: Mechanism) -> Error {
    let error = Error::os("bind", errno).on(mechanism).object(address);
    match errno {
        Errno::ADDRINUSE if address.port() == 0 => error
            .because("no port is free in net.ipv4.ip_local_port_range")
            .of_kind(ErrorKind::LimitReached),
        Errno::ADDRINUSE => error.because("another socket has this port"),
        Errno::ACCESS => error
            .because("ports below net.ipv4.ip_unprivileged_port_start take CAP_NET_BIND_SERVICE"),
        Errno::ADDRNOTAVAIL => error.because("no interface of this network namespace has it"),
        _ => error,
    }
}

fn new_socket(address: SocketAddr, flags: SocketFlags) -> Result<OwnedFd> {
    open_socket(address, SocketType::STREAM, flags, TCP)
}

/// Every socket begins here, so that each is close-on-exec.
pub(super) fn open_socket(
    address: SocketAddr,
    kind: SocketType,
    flags: SocketFlags,
    mechanism: Mechanism,
) -> Result<OwnedFd> {
    let (family, protocol) = match (address.ip(), mechanism) {
        (IpAddr::V4(_), Mechanism::Udp) => (AddressFamily::INET, ipproto::UDP),
        (IpAddr::V6(_), Mechanism::Udp) => (AddressFamily::INET6, ipproto::UDP),
        (IpAddr::V4(_), _) => (AddressFamily::INET, ipproto::TCP),
        (IpAddr::V6(_), _) => (AddressFamily::INET6, ipproto::TCP),
    };
    socket_with(family, kind, flags | SocketFlags::CLOEXEC, Some(protocol))
        .map_err(|e| no_descriptor("create a socket", e, mechanism).object(address))
}

/// A failure that may be for want of descriptors.
fn no_descriptor(operation: &'static str, errno: Errno, mechanism: Mechanism) -> Error {
    let error = Error::os(operation, errno).on(mechanism);
    match errno {
        Errno::MFILE => error
            .because(format!("this process has {}", Limit::Nofile.stated()))
            .fix(Limit::Nofile.raise()),
        Errno::NFILE => error.because("the host has fs.file-max open files"),
        _ => error,
    }
}

/// What accepts TCP connections.
///
/// Closing it resets the connections that were not accepted. After a crash the port is free at once
/// (with [`TcpOptions::reuse_address`]).
///
/// Several threads, and processes that inherited it, may accept from one listener; each connection
/// goes to one of them. So that none of them waits beyond its deadline when another was faster, a
/// listener made here is in non-blocking mode (accept(2) has no flag for one call). One that was
/// made from std's [`TcpListener`] keeps the mode it has; in blocking mode, a bounded wait can be
/// outrun in that way. Becoming a `TcpListener` again, it is put into blocking mode, which is what
/// the methods of that type expect.
///
/// ```
/// use std::time::Duration;
/// use sinew::ErrorKind;
/// use sinew::inet::Listener;
/// use sinew::wait::Accepts;
///
/// let listener = Listener::loopback()?;
/// let nobody = listener.accept_timeout(Duration::from_millis(1)).unwrap_err();
/// assert_eq!(nobody.kind(), ErrorKind::TimedOut);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    /// What listen(2) was told, where that is known.
    backlog: Option<u32>,
}

impl Listener {
    /// Listens on 127.0.0.1 at a free port, with the default [`TcpOptions`].
    ///
    /// # Errors
    /// See [`TcpOptions::listen`].
    pub fn loopback() -> Result<Self> {
        TcpOptions::new().listen_loopback()
    }

    /// Listens on an address, with the default [`TcpOptions`].
    ///
    /// # Errors
    /// See [`TcpOptions::listen`].
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self> {
        TcpOptions::new().listen(address)
    }

    /// The address and the port that it has.
    ///
    /// # Errors
    /// If the socket is none of TCP.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        self.socket.local_addr().map_err(failed("read the address of a listener", TCP))
    }

    /// How many connections may wait: what was asked for, cut to `net.core.somaxconn`. Nothing if
    /// something else made the listener.
    #[must_use]
    pub fn backlog(&self) -> Option<u32> {
        let asked = self.backlog?;
        let most = Limit::Somaxconn.value().and_then(|most| u32::try_from(most).ok());
        Some(most.map_or(asked, |most| asked.min(most)))
    }
}

impl Accepts for Listener {
    type Connection = TcpStream;

    /// One accept4(2) where a connection is there. A connection that was given up before it was
    /// accepted is passed over. What is accepted is close-on-exec and in blocking mode.
    ///
    /// When no descriptor is left (EMFILE, of kind [`LimitReached`](ErrorKind::LimitReached)) the
    /// connection stays in the backlog and the listener stays readable: a loop that only tries again
    /// spins.
    fn accept_wait(&self, wait: Wait<'_>) -> Result<TcpStream> {
        let operation = "accept";
        let accepted = drive(self.as_fd(), PollFlags::IN, wait, |mode| {
            loop {
                // Keeps a listener in blocking mode from sleeping where nothing is there.
                if mode == Mode::NonBlocking && !is_ready(self.as_fd(), PollFlags::IN)? {
                    return Err(Errno::AGAIN);
                }
                match accept_with(self, SocketFlags::CLOEXEC) {
                    // Errors of a connection, not of the listener: accept(2), "Error handling".
                    Err(
                        Errno::CONNABORTED
                        | Errno::PROTO
                        | Errno::NETDOWN
                        | Errno::NETUNREACH
                        | Errno::HOSTDOWN
                        | Errno::HOSTUNREACH
                        | Errno::NONET,
                    ) => {}
                    other => return other,
                }
            }
        });
        let stream = accepted.map_err(|stop| match stop {
            Stop::Os(errno) => no_descriptor(operation, Errno::from_raw_os_error(errno), TCP),
            stop => stop.into_error(operation).on(TCP),
        })?;
        Ok(stream.into())
    }
}

/// Whether it has one of `events` now.
fn is_ready(fd: BorrowedFd<'_>, events: PollFlags) -> Result<bool, Errno> {
    poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&Timespec::default())).map(|n| n > 0)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<TcpListener> for Listener {
    /// Keeps its mode and its options: what it accepts has no TCP_NODELAY unless it has that.
    fn from(socket: TcpListener) -> Self {
        Self { socket, backlog: None }
    }
}

impl From<OwnedFd> for Listener {
    fn from(fd: OwnedFd) -> Self {
        TcpListener::from(fd).into()
    }
}

impl From<Listener> for TcpListener {
    /// Puts it into blocking mode.
    fn from(listener: Listener) -> Self {
        // fcntl(2) cannot fail for an open descriptor and this flag.
        let _ = listener.socket.set_nonblocking(false);
        listener.socket
    }
}

impl From<Listener> for OwnedFd {
    /// Puts it into blocking mode, as another program expects it.
    fn from(listener: Listener) -> Self {
        TcpListener::from(listener).into()
    }
}

/// Connects to an address, with the default [`TcpOptions`]. For a bounded wait, or one that another
/// thread can end, see [`TcpOptions::connector`].
///
/// # Errors
/// See [`Connector`].
pub fn connect(address: impl Into<SocketAddr>) -> Result<TcpStream> {
    TcpOptions::new().connector(address).connect()
}

/// What connects to one address. Made by [`TcpOptions::connector`].
///
/// Of kind [`Refused`](ErrorKind::Refused) if nobody listens there. If the backlog of the listener
/// is full, connecting waits: without a deadline for about two minutes (`net.ipv4.tcp_syn_retries`),
/// after which it is of kind [`TimedOut`](ErrorKind::TimedOut), as it is after a deadline.
///
/// ```
/// use std::net::Ipv4Addr;
/// use std::time::Duration;
/// use sinew::ErrorKind;
/// use sinew::inet::{Listener, TcpOptions};
/// use sinew::wait::Connects;
///
/// let listener = Listener::loopback()?;
/// let connector = TcpOptions::new().connector(listener.local_addr()?);
/// connector.connect_timeout(Duration::from_secs(5))?;
/// drop(listener);
/// assert_eq!(connector.connect().unwrap_err().kind(), ErrorKind::Refused);
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connector {
    address: SocketAddr,
    options: TcpOptions,
}

impl Connects for Connector {
    type Connection = TcpStream;

    fn connect_wait(&self, wait: Wait<'_>) -> Result<TcpStream> {
        let operation = "connect";
        let address = self.address;
        let bounded = !wait.is_unbounded();
        let flags = if bounded { SocketFlags::NONBLOCK } else { SocketFlags::empty() };
        // Ours alone until it is connected: its mode is nobody else's business.
        let socket = new_socket(address, flags)?;
        let fd = socket.as_fd();
        self.options.prepare(fd)?;

        let mut started = false;
        drive(fd, PollFlags::OUT, wait, |_| {
            if !started {
                match rustix::net::connect(fd, &address) {
                    // In progress, also where a signal ended the wait for it.
                    Err(Errno::INPROGRESS | Errno::INTR) => started = true,
                    other => return other,
                }
            }
            // Over loopback it is often done by now.
            if is_ready(fd, PollFlags::OUT)? {
                sockopt::socket_error(fd)?
            } else {
                Err(Errno::AGAIN)
            }
        })
        .map_err(|stop| stop.into_error(operation))
        .and_then(|()| is_another(fd, address))
        .and_then(|()| {
            if bounded {
                rustix::io::ioctl_fionbio(fd, false).map_err(|e| Error::os(operation, e))?;
            }
            Ok(())
        })
        .map_err(|error| {
            let error = error.on(TCP).object(address);
            match error.kind() {
                ErrorKind::Refused => error.because("nobody listens there"),
                _ if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => error
                    .because("no port is free in net.ipv4.ip_local_port_range for this address")
                    .of_kind(ErrorKind::LimitReached),
                _ => error,
            }
        })?;
        Ok(socket.into())
    }
}

/// Refuses a connection of a socket to itself: where nobody listens at a port of the ephemeral range,
/// the kernel may choose just that port for our own end, and TCP then connects the two.
fn is_another(fd: BorrowedFd<'_>, address: SocketAddr) -> Result<()> {
    match rustix::net::getsockname(fd).map(SocketAddr::try_from) {
        Ok(Ok(own)) if own == address => Err(Error::os("connect", Errno::CONNREFUSED)),
        _ => Ok(()),
    }
}
