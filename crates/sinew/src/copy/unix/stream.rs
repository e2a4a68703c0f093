//! The verbs on std's `UnixStream`.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use super::message::{recv_error, recv_flags, send_flags, send_once};
use crate::error::{Error, RecvError, Result, SendError};
use crate::mechanism::Mechanism;
use crate::wait::{ByteStream, Receives, Sends, Wait, drive};

/// Two connected streams, for this process and a child.
///
/// # Errors
/// When no descriptor is left.
///
/// ```
/// use sinew::unix;
/// use sinew::wait::{Receives, Sends};
///
/// let (a, b) = unix::pair()?;
/// a.send(b"hello").unwrap();
/// let mut buf = [0; 16];
/// assert_eq!(b.recv(&mut buf), Ok(5));
/// drop(a);
/// assert_eq!(b.recv(&mut buf), Err(sinew::RecvError::Closed));
/// # Ok::<(), sinew::Error>(())
/// ```
pub fn pair() -> Result<(UnixStream, UnixStream)> {
    let (a, b) = super::socket::pair(rustix::net::SocketType::STREAM)
        .map_err(|e| Error::os("make a pair of sockets", e).on(Mechanism::UnixStream))?;
    Ok((a.into(), b.into()))
}

/// send(2) with MSG_NOSIGNAL. Sending nothing succeeds and sends nothing.
impl Sends for UnixStream {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        let fd = self.as_fd();
        let mut sent = 0;
        loop {
            let rest = &data[sent..];
            match send_once(fd, true, wait, |mode| rustix::net::send(fd, rest, send_flags(mode))) {
                Ok(count) => sent += count,
                Err(error) => return Err(partial(sent, error)),
            }
            if sent >= data.len() {
                return Ok(());
            }
        }
    }
}

/// The error of a stream of which `sent` bytes went before.
#[cold]
pub(super) fn partial(sent: usize, error: SendError) -> SendError {
    use crate::error::Stop;
    if sent == 0 {
        return error;
    }
    let stop = match error {
        SendError::Full => Stop::WouldBlock,
        SendError::TimedOut => Stop::TimedOut,
        SendError::Interrupted => Stop::Interrupted,
        SendError::Closed => Stop::Closed,
        SendError::Os(errno) => Stop::Os(errno),
        // None of these comes after a piece of a stream has gone.
        other => return other,
    };
    SendError::Partial { sent, stop }
}

/// recv(2). Descriptors that came with the bytes are closed by the kernel; see
/// [`Socket::fds`](super::Socket::fds). An empty buffer receives nothing, at once.
impl Receives for UnixStream {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        if buf.is_empty() {
            return Ok(0);
        }
        let fd = self.as_fd();
        let got = drive(fd, PollFlags::IN, wait, |mode| {
            rustix::net::recv(fd, &mut *buf, recv_flags(mode)).map(|(_, count)| count)
        });
        match got {
            Ok(0) => Err(RecvError::Closed),
            Ok(count) => Ok(count),
            Err(stop) => Err(recv_error(stop)),
        }
    }
}

impl ByteStream for UnixStream {}
