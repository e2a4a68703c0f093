//! The verbs on std's `TcpStream`.

use std::net::TcpStream;
use std::os::fd::AsFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::tcp::{Listener, connect};
use crate::error::{Error, ErrorKind, RecvError, Result, SendError, Stop};
use crate::mechanism::Mechanism;
use crate::wait::{Accepts, ByteStream, Mode, Receives, Sends, Wait, drive, send_all};

/// The two ends of one TCP connection over 127.0.0.1, as socketpair(2) gives them for UNIX sockets.
///
/// Another process that connects to the port while it is open does not get in: an end that is not
/// of this connection is closed, and the next one accepted.
///
/// ```
/// use sinew::inet;
/// use sinew::wait::{Receives, Sends};
///
/// let (a, b) = inet::pair()?;
/// a.send(b"ping").unwrap();
/// let mut buf = [0; 16];
/// assert_eq!(b.recv(&mut buf), Ok(4));
/// # Ok::<(), sinew::Error>(())
/// ```
///
/// # Errors
/// When no descriptor or no port is left, or when there is no loopback interface.
pub fn pair() -> Result<(TcpStream, TcpStream)> {
    let listener = Listener::loopback()?;
    let ours = connect(listener.local_addr()?)?;
    let name = ours.local_addr().map_err(|e| Error::new(ErrorKind::Other, e.to_string()))?;
    loop {
        let theirs = listener.accept()?;
        if matches!(theirs.peer_addr(), Ok(peer) if peer == name) {
            return Ok((ours, theirs));
        }
    }
}

/// What the kernel says of a connection that is gone: reset, closed at the other end, given up
/// after a time-out (keepalive, TCP_USER_TIMEOUT), or aborted by an administrator (`ss --kill`).
#[cold]
fn end_of(stop: Stop) -> Stop {
    const GONE: [Errno; 4] = [Errno::CONNRESET, Errno::PIPE, Errno::TIMEDOUT, Errno::CONNABORTED];
    match stop {
        Stop::Os(errno) if GONE.iter().any(|e| e.raw_os_error() == errno) => Stop::Closed,
        stop => stop,
    }
}

impl Sends for TcpStream {
    /// One send(2) if there is room in the send buffer, or if the wait has no bound.
    ///
    /// What was sent is in the kernel, not with the other process: it is lost if that one dies.
    /// The first `send` after the death of the other end may still succeed; then it is
    /// [`SendError::Closed`].
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        send_all(data, |rest| {
            drive(self.as_fd(), PollFlags::OUT, wait, |mode| {
                let flags = match mode {
                    Mode::MayBlock => SendFlags::NOSIGNAL,
                    Mode::NonBlocking => SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT),
                };
                send(self, rest, flags)
            })
            .map_err(end_of)
        })
    }
}

impl Receives for TcpStream {
    type Received = usize;

    /// One recv(2) if something is there, or if the wait has no bound. Gives 0 only for an empty
    /// `buf`; the end of the stream is [`RecvError::Closed`], and so is a reset.
    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        // The kernel would wait for data that it has no room for.
        if buf.is_empty() {
            return Ok(0);
        }
        let count = drive(self.as_fd(), PollFlags::IN, wait, |mode| {
            let flags = match mode {
                Mode::MayBlock => RecvFlags::empty(),
                Mode::NonBlocking => RecvFlags::DONTWAIT,
            };
            recv(self, &mut *buf, flags).map(|(count, _)| count)
        });
        match count {
            Ok(0) => Err(RecvError::Closed),
            Ok(count) => Ok(count),
            Err(stop) => Err(end_of(stop).into()),
        }
    }
}

impl ByteStream for TcpStream {}

/// The failure of one of std's calls on a socket.
pub(super) fn failed(
    operation: &'static str,
    mechanism: Mechanism,
) -> impl FnOnce(std::io::Error) -> Error {
    move |error| match error.raw_os_error() {
        Some(errno) => Error::os(operation, Errno::from_raw_os_error(errno)).on(mechanism),
        None => Error::new(ErrorKind::Other, operation).on(mechanism).because(error.to_string()),
    }
}
