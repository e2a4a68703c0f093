//! Listening at an address.

use std::fmt;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType};

use super::address::Address;
use super::binding::{self, OwnPath};
use super::datagram::Datagram;
use super::seqpacket::Seqpacket;
use super::sys;
use crate::error::{Error, Result, Stop};
use crate::limits::Limit;
use crate::mechanism::Mechanism;
use crate::wait::{Accepts, Mode, Wait, drive};

mod sealed {
    pub trait Sealed {}
    impl Sealed for std::os::unix::net::UnixStream {}
    impl Sealed for super::Seqpacket {}
}

/// What a listener gives: std's `UnixStream`, or [`Seqpacket`].
pub trait Connection: From<OwnedFd> + sealed::Sealed {
    #[doc(hidden)]
    const TYPE: SocketType;
    #[doc(hidden)]
    const MECHANISM: Mechanism;
}

impl Connection for UnixStream {
    const TYPE: SocketType = SocketType::STREAM;
    const MECHANISM: Mechanism = Mechanism::UnixStream;
}

impl Connection for Seqpacket {
    const TYPE: SocketType = SocketType::SEQPACKET;
    const MECHANISM: Mechanism = Mechanism::UnixSeqpacket;
}

/// A [`Listener`] that gives streams.
pub type StreamListener = Listener<UnixStream>;
/// A [`Listener`] that gives seqpacket sockets.
pub type SeqpacketListener = Listener<Seqpacket>;

/// How a socket is bound to an address.
///
/// # Paths
/// - The socket has mode 0600, or [`mode`](Self::mode), less the process's umask, from its first
///   moment on.
/// - A *stale* path, left by a socket that is closed, is taken over: under a lock on `PATH.lock`
///   (removed afterwards), after the kernel has said that no socket has the path. Of any number of
///   processes that try, exactly one wins.
/// - A *live* path is never taken, neither that of a stopped process, nor of one with a full
///   backlog, nor of one that has not called listen(2) yet: that is an error of kind `InUse`. There
///   is no option to take it all the same.
/// - What is not a socket is never removed: `AlreadyExists`.
/// - On drop the path is removed if it still is the one that was bound, and only by the process
///   that bound it, not by its forked children. After a crash it stays behind, stale.
///
/// ```
/// use sinew::unix::{Address, Options};
///
/// let folder = tempfile::tempdir()?;
/// let address = Address::path(folder.path().join("jobs"))?;
/// let listener = Options::new().mode(0o660).backlog(16).seqpacket(&address)?;
/// let error = Options::new().seqpacket(&address).unwrap_err();
/// assert_eq!(error.kind(), sinew::ErrorKind::InUse);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Options {
    mode: u32,
    backlog: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

impl Options {
    /// Mode 0600, and as large a backlog as `net.core.somaxconn` allows.
    #[must_use]
    pub const fn new() -> Self {
        Self { mode: 0o600, backlog: i32::MAX.unsigned_abs() }
    }

    /// The permissions of the path, less the process's umask. Connecting needs write permission.
    #[must_use]
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode & 0o777;
        self
    }

    /// How many connections wait for `accept` before `connect` waits too. The kernel takes
    /// `net.core.somaxconn` if that is less, and lets one more wait than it is told.
    #[must_use]
    pub const fn backlog(mut self, connections: u32) -> Self {
        self.backlog = connections;
        self
    }

    /// Listens for streams.
    ///
    /// # Errors
    /// `InUse` if a live socket has the address, `AlreadyExists` if something else stands at the
    /// path, `PermissionDenied` and `NotFound` for its folder.
    pub fn stream(&self, address: &Address) -> Result<StreamListener> {
        self.listen(address)
    }

    /// Listens for seqpacket sockets.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn seqpacket(&self, address: &Address) -> Result<SeqpacketListener> {
        self.listen(address)
    }

    /// Receives datagrams.
    ///
    /// # Errors
    /// As [`stream`](Self::stream).
    pub fn datagram(&self, address: &Address) -> Result<Datagram> {
        let fd = super::socket::open(SocketType::DGRAM)
            .map_err(|e| Error::os("make a socket", e).on(Mechanism::UnixDgram))?;
        let path = binding::bind(fd.as_fd(), address, self.mode, Mechanism::UnixDgram)?;
        Ok(Datagram::bound(fd, path))
    }

    fn listen<C: Connection>(&self, address: &Address) -> Result<Listener<C>> {
        let fd = super::socket::open(C::TYPE)
            .map_err(|e| Error::os("make a socket", e).on(C::MECHANISM))?;
        let path = binding::bind(fd.as_fd(), address, self.mode, C::MECHANISM)?;
        let listener = Listener { path, fd, non_blocking: true, kind: PhantomData };
        let failed = |operation, errno| {
            Error::os(operation, errno).on(C::MECHANISM).object(format!("{address:?}"))
        };
        // accept(2) has no flag for one call, and this description is made here: with the flag a
        // bounded wait stays bounded when two threads accept.
        rustix::io::ioctl_fionbio(&listener.fd, true)
            .map_err(|e| failed("set the socket non-blocking", e))?;
        let backlog = i32::try_from(self.backlog).unwrap_or(i32::MAX);
        rustix::net::listen(&listener.fd, backlog).map_err(|e| failed("listen", e))?;
        Ok(listener)
    }
}

/// A socket that accepts connections at an address.
///
/// Bound by [`bind`](Self::bind) or [`Options`], which says what happens to the path. It converts
/// from and to `OwnedFd` (a socket handed over by a service manager, for example) and std's
/// `UnixListener`; the path of such a one is not removed on drop.
///
/// # Waiting
/// A listener that was bound here is non-blocking. One that was converted keeps its flag; if
/// that is blocking, and several threads or processes accept from it, a bounded wait can last
/// longer than its bound when another takes the connection first.
///
/// # Out of descriptors
/// `accept` is an error of kind `LimitReached` when `RLIMIT_NOFILE` is reached. The connection
/// stays in the backlog: close something, or wait, before the next `accept`, which would fail at
/// once again.
pub struct Listener<C> {
    // Before the socket, because its removal of the path counts on the socket being open.
    path: Option<OwnPath>,
    fd: OwnedFd,
    non_blocking: bool,
    kind: PhantomData<fn() -> C>,
}

impl<C: Connection> Listener<C> {
    /// Listens at `address` with the default [`Options`].
    ///
    /// # Errors
    /// As [`Options::stream`].
    pub fn bind(address: &Address) -> Result<Self> {
        Options::new().listen(address)
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// When the descriptor is no socket.
    pub fn local_address(&self) -> Result<Address> {
        sys::local_address(self.fd.as_fd())
            .map_err(|e| Error::os("ask for the address", e).on(C::MECHANISM))
    }
}

impl<C: Connection> Accepts for Listener<C> {
    type Connection = C;

    fn accept_wait(&self, wait: Wait<'_>) -> Result<C> {
        drive(self.fd.as_fd(), PollFlags::IN, wait, |mode| {
            if mode == Mode::NonBlocking && !self.non_blocking {
                let mut ready = [PollFd::new(&self.fd, PollFlags::IN)];
                if poll(&mut ready, Some(&Timespec::default()))? == 0 {
                    return Err(Errno::AGAIN);
                }
            }
            rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC)
        })
        .map(C::from)
        .map_err(|stop| {
            let error = stop.into_error("accept").on(C::MECHANISM);
            match stop {
                Stop::Os(errno) if errno == Errno::MFILE.raw_os_error() => error
                    .because(format!(
                        "this process has all the descriptors of {}",
                        Limit::Nofile.stated()
                    ))
                    .fix("close some before the next accept, or raise it (ulimit -n)"),
                Stop::Os(errno) if errno == Errno::NFILE.raw_os_error() => error
                    .because("the host has no descriptor left (fs.file-max)")
                    .fix("raise it: sysctl fs.file-max=N"),
                _ => error,
            }
        })
    }
}

impl<C> fmt::Debug for Listener<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener").field("fd", &self.fd).field("path", &self.path).finish()
    }
}

impl<C> AsFd for Listener<C> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes a listening socket without looking what it is.
impl<C> From<OwnedFd> for Listener<C> {
    fn from(fd: OwnedFd) -> Self {
        let non_blocking =
            rustix::fs::fcntl_getfl(&fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK));
        Self { path: None, fd, non_blocking, kind: PhantomData }
    }
}

impl From<UnixListener> for StreamListener {
    fn from(listener: UnixListener) -> Self {
        OwnedFd::from(listener).into()
    }
}

/// The path stays.
impl<C> From<Listener<C>> for OwnedFd {
    fn from(listener: Listener<C>) -> Self {
        if let Some(path) = listener.path {
            path.keep();
        }
        listener.fd
    }
}
