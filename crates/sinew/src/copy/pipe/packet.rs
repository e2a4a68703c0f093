//! Pipes that keep the boundaries of messages.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl};
use rustix::pipe::fcntl_getpipe_size;

use super::attempt::{read_packet, write};
use super::{ATOMIC, stop_sending};
use crate::error::{Error, ErrorKind, RecvError, SendError};
use crate::mechanism::Mechanism;
use crate::wait::{Receives, Sends, Wait, drive};

/// The end of a packet pipe that sends: each `send` is one message of 1 to [`ATOMIC`] bytes.
///
/// A message goes whole or not at all. Each takes a slot (a page of the capacity), however short it
/// is: the usual pipe holds 16. No bytes cannot be sent ([`SendError::Empty`]), since the reader
/// could not tell them from the end; more than 4096 neither ([`SendError::TooBig`]), since the kernel
/// would make several messages of them.
///
/// ```
/// use sinew::pipe::Options;
/// use sinew::wait::{Receives, Sends};
///
/// let (rx, tx) = Options::new().create_packets()?;
/// tx.send(b"one").unwrap();
/// tx.send(b"two").unwrap();
/// let mut buf = [0; 4096];
/// assert_eq!(rx.recv(&mut buf), Ok(3));
/// assert_eq!(&buf[..3], b"one");
/// # Ok::<(), sinew::Error>(())
/// ```
#[derive(Debug)]
pub struct PacketWriter(OwnedFd);

/// The end of a packet pipe that receives: each `recv` gives one message.
///
/// If the buffer is shorter than the message, the kernel drops the rest:
/// [`RecvError::TooSmall`] says so, with the beginning in the buffer. A buffer of [`ATOMIC`] bytes
/// is always long enough, and the cheapest: a shorter one costs a second element of the vector per
/// call, by which the cut is noticed. Receiving into no buffer at all is `TooSmall` for the next
/// message as well.
#[derive(Debug)]
pub struct PacketReader(OwnedFd);

impl PacketWriter {
    /// What was just made with O_DIRECT.
    pub(super) fn trust(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

impl Sends for PacketWriter {
    #[inline]
    fn send_wait(&self, data: &[u8], wait: Wait<'_>) -> Result<(), SendError> {
        if data.is_empty() {
            return Err(SendError::Empty);
        }
        if data.len() > ATOMIC {
            return Err(SendError::TooBig { limit: ATOMIC });
        }
        let fd = self.0.as_fd();
        match drive(fd, PollFlags::OUT, wait, |mode| write(fd, data, mode)) {
            Ok(_) => Ok(()),
            Err(stop) => Err(stop_sending(stop).into()),
        }
    }
}

impl Receives for PacketReader {
    type Received = usize;

    #[inline]
    fn recv_wait(&self, buf: &mut [u8], wait: Wait<'_>) -> Result<usize, RecvError> {
        let fd = self.0.as_fd();
        let received = if buf.len() >= ATOMIC {
            drive(fd, PollFlags::IN, wait, |mode| read_packet(fd, &mut buf[..ATOMIC], None, mode))
        } else {
            // The kernel drops what does not fit in silence: a byte that arrives behind the
            // caller's buffer is the only sign, short of another system call.
            let mut spill = [0];
            drive(fd, PollFlags::IN, wait, |mode| read_packet(fd, buf, Some(&mut spill), mode))
        };
        match received {
            Ok(0) => Err(RecvError::Closed),
            Ok(length) if length > buf.len() => {
                Err(RecvError::TooSmall { needed: None, lost: true })
            }
            Ok(length) => Ok(length),
            Err(stop) => Err(stop.into()),
        }
    }
}

/// Takes any read end of a pipe: packet mode is a property of who writes.
impl From<OwnedFd> for PacketReader {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// Takes the write end of a pipe in packet mode; anything else is a
/// [`Mismatch`](ErrorKind::Mismatch), since its messages would run into each other.
impl TryFrom<OwnedFd> for PacketWriter {
    type Error = Error;

    fn try_from(fd: OwnedFd) -> Result<Self, Error> {
        let mismatch = |cause| {
            Error::new(ErrorKind::Mismatch, "take the write end of a packet pipe")
                .on(Mechanism::Pipe)
                .because(cause)
        };
        if fcntl_getpipe_size(&fd).is_err() {
            return Err(mismatch("the descriptor is no pipe"));
        }
        let flags = fcntl_getfl(&fd)
            .map_err(|errno| Error::os("get the flags", errno).on(Mechanism::Pipe))?;
        if flags & OFlags::ACCMODE == OFlags::RDONLY {
            return Err(mismatch("it is a read end"));
        }
        if !flags.contains(OFlags::DIRECT) {
            return Err(mismatch("it is not in packet mode (O_DIRECT)"));
        }
        Ok(Self(fd))
    }
}

impl From<PacketReader> for OwnedFd {
    fn from(end: PacketReader) -> Self {
        end.0
    }
}

impl From<PacketWriter> for OwnedFd {
    fn from(end: PacketWriter) -> Self {
        end.0
    }
}

impl AsFd for PacketReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for PacketWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
