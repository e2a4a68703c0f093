//! Connecting to a listener.

use std::fmt;
use std::marker::PhantomData;
use std::os::unix::net::UnixStream;

use rustix::io::Errno;

use super::address::Address;
use super::listener::Connection;
use super::seqpacket::Seqpacket;
use crate::error::{Error, ErrorKind, Result};
use crate::mechanism::Mechanism;
use crate::wait::{Connects, Mode, Wait, drive_by_naps};

impl Address {
    /// Connects streams to this address.
    #[must_use]
    pub fn stream(&self) -> Connector<'_, UnixStream> {
        Connector { address: self, kind: PhantomData }
    }

    /// Connects seqpacket sockets to this address.
    #[must_use]
    pub fn seqpacket(&self) -> Connector<'_, Seqpacket> {
        Connector { address: self, kind: PhantomData }
    }
}

/// What connects to an [`Address`]. Made by [`Address::stream`] and [`Address::seqpacket`].
///
/// Connecting waits only while the listener's backlog is full, and is done before the listener
/// accepts. poll(2) does not tell when there is room: a bounded wait looks again by itself, at
/// most 1 ms late; an unbounded one sleeps in the kernel.
///
/// # Errors
/// `NotFound` where nothing has this address, `Refused` where nobody listens there (any more),
/// `PermissionDenied` where the path is not writable, `Mismatch` where the listener is of another
/// kind.
pub struct Connector<'a, C> {
    address: &'a Address,
    kind: PhantomData<fn() -> C>,
}

impl<C> fmt::Debug for Connector<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connector").field(self.address).finish()
    }
}

impl<C: Connection> Connects for Connector<'_, C> {
    type Connection = C;

    fn connect_wait(&self, wait: Wait<'_>) -> Result<C> {
        let fd = super::socket::open(C::TYPE)
            .map_err(|e| Error::os("make a socket", e).on(C::MECHANISM))?;
        // This description is nobody else's yet, so the flag may be set on it for the while.
        let own_calls = !wait.is_unbounded();
        let set = |on| {
            rustix::io::ioctl_fionbio(&fd, on)
                .map_err(|e| Error::os("set the socket non-blocking", e).on(C::MECHANISM))
        };
        if own_calls {
            set(true)?;
        }
        drive_by_naps(wait, |mode: Mode| {
            debug_assert_eq!(mode == Mode::NonBlocking, own_calls);
            rustix::net::connect(&fd, self.address.raw())
        })
        .map_err(|stop| match stop {
            crate::error::Stop::Os(errno) => {
                refused(Errno::from_raw_os_error(errno), self.address, C::MECHANISM)
            }
            stop => stop
                .into_error("connect")
                .on(C::MECHANISM)
                .object(format!("{:?}", self.address))
                .because("the listener lives, but its backlog is full: it does not accept"),
        })?;
        if own_calls {
            set(false)?;
        }
        Ok(C::from(fd))
    }
}

/// The error of a connect(2) that was refused.
#[cold]
pub(super) fn refused(errno: Errno, address: &Address, mechanism: Mechanism) -> Error {
    let error = Error::os("connect", errno).on(mechanism).object(format!("{address:?}"));
    match errno {
        Errno::CONNREFUSED if address.as_path().is_some() => error
            .because("nobody listens: the path was left behind by a socket that is closed")
            .fix("start the process that listens there"),
        Errno::CONNREFUSED => error
            .because("no socket of this network namespace has this name")
            .fix("start the process that listens there"),
        Errno::NOENT => error.because("no such path").fix("start the process that listens there"),
        Errno::ACCESS => error
            .because("connecting needs write permission on the socket and search on its folders"),
        Errno::PERM if mechanism == Mechanism::UnixDgram => {
            error.because("that socket is connected to another and takes messages from it only")
        }
        Errno::PROTOTYPE => error
            .of_kind(ErrorKind::Mismatch)
            .because("the socket at this address is of another kind (stream, dgram, seqpacket)"),
        _ => error,
    }
}
