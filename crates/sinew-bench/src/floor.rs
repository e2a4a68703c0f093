//! The floor: the same work in bare libc calls.
//!
//! This file imports nothing of the library. It works on the numbers of descriptors and queues
//! that are given to it, so that the kernel objects, their options and their buffers are the very
//! same ones that the library's rows use, in the same two processes: what is left as a difference
//! is the library's own code.

#![allow(unsafe_code, reason = "bare libc calls are what this file is for")]

pub(crate) mod events;
pub(crate) mod locks;
pub(crate) mod ring;

use std::io;

use libc::{c_int, c_long, c_void};

use crate::carrier::Carrier;

fn check(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn whole(done: usize, wanted: usize) -> io::Result<()> {
    if done == wanted { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
}

/// read(2) and write(2), as one would write them: until all is through. Pipes, FIFOs.
#[derive(Debug)]
pub(crate) struct ReadWrite {
    pub(crate) input: c_int,
    pub(crate) output: c_int,
}

impl Carrier for ReadWrite {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut rest = message;
        while !rest.is_empty() {
            // SAFETY: the pointer and the length are of one live slice.
            let n = check(unsafe { libc::write(self.output, rest.as_ptr().cast(), rest.len()) })?;
            rest = &rest[n..];
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut rest = buf;
        while !rest.is_empty() {
            // SAFETY: the pointer and the length are of one live slice, borrowed uniquely.
            let n = check(unsafe { libc::read(self.input, rest.as_mut_ptr().cast(), rest.len()) })?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            rest = &mut rest[n..];
        }
        Ok(())
    }
}

/// send(2) and recv(2) on a byte stream. UNIX stream sockets and TCP.
#[derive(Debug)]
pub(crate) struct StreamSocket(pub(crate) c_int);

impl Carrier for StreamSocket {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut rest = message;
        while !rest.is_empty() {
            let flags = libc::MSG_NOSIGNAL;
            // SAFETY: the pointer and the length are of one live slice.
            let n = check(unsafe { libc::send(self.0, rest.as_ptr().cast(), rest.len(), flags) })?;
            rest = &rest[n..];
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let mut rest = buf;
        while !rest.is_empty() {
            // SAFETY: the pointer and the length are of one live slice, borrowed uniquely.
            let n = check(unsafe { libc::recv(self.0, rest.as_mut_ptr().cast(), rest.len(), 0) })?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            rest = &mut rest[n..];
        }
        Ok(())
    }
}

/// send(2) and recv(2), one message each. UNIX datagram and seqpacket sockets and UDP.
#[derive(Debug)]
pub(crate) struct MessageSocket(pub(crate) c_int);

impl Carrier for MessageSocket {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let (data, flags) = (message.as_ptr().cast(), libc::MSG_NOSIGNAL);
        // SAFETY: the pointer and the length are of one live slice.
        whole(check(unsafe { libc::send(self.0, data, message.len(), flags) })?, message.len())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        // SAFETY: the pointer and the length are of one live slice, borrowed uniquely.
        let n = unsafe { libc::recv(self.0, buf.as_mut_ptr().cast(), buf.len(), libc::MSG_TRUNC) };
        whole(check(n)?, buf.len())
    }
}

/// mq_send(3) and mq_receive(3). The buffer to receive must have the queue's message size.
#[derive(Debug)]
pub(crate) struct PosixQueue {
    pub(crate) input: c_int,
    pub(crate) output: c_int,
    pub(crate) room: usize,
}

impl Carrier for PosixQueue {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let (data, len) = (message.as_ptr().cast(), message.len());
        // SAFETY: the pointer and the length are of one live slice.
        check(unsafe { libc::mq_send(self.output, data, len, 0) } as isize).map(|_| ())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        assert!(buf.len() >= self.room, "the queue's message size is the size of the row");
        let mut priority = 0;
        let (data, len) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: the pointer and the length are of one live slice, borrowed uniquely.
        let n = unsafe { libc::mq_receive(self.input, data, len, &raw mut priority) };
        whole(check(n)?, buf.len())
    }
}

/// msgsnd(2) and msgrcv(2), with a message buffer of one's own, as every C program has.
#[derive(Debug)]
pub(crate) struct SysvQueue {
    pub(crate) input: c_int,
    pub(crate) output: c_int,
    pub(crate) buffer: Vec<c_long>,
}

impl SysvQueue {
    /// `size` is the largest message.
    pub(crate) fn new(input: c_int, output: c_int, size: usize) -> Self {
        Self { input, output, buffer: vec![0; 1 + size.div_ceil(size_of::<c_long>())] }
    }
}

impl Carrier for SysvQueue {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let room = (self.buffer.len() - 1) * size_of::<c_long>();
        assert!(message.len() <= room, "the buffer has the size of the row");
        self.buffer[0] = 1;
        let body = self.buffer[1..].as_mut_ptr().cast::<u8>();
        // SAFETY: the body has room for the message, asserted above, and is no part of it.
        unsafe { std::ptr::copy_nonoverlapping(message.as_ptr(), body, message.len()) };
        let data = self.buffer.as_ptr().cast::<c_void>();
        // SAFETY: the buffer holds the type and at least as many bytes as the message has.
        check(unsafe { libc::msgsnd(self.output, data, message.len(), 0) } as isize).map(|_| ())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let room = (self.buffer.len() - 1) * size_of::<c_long>();
        assert!(buf.len() <= room, "the buffer has the size of the row");
        let data = self.buffer.as_mut_ptr().cast::<c_void>();
        // SAFETY: the buffer has room for the type and as many bytes as are asked for.
        let n = check(unsafe { libc::msgrcv(self.input, data, buf.len(), 0, 0) })?;
        let body = self.buffer[1..].as_ptr().cast::<u8>();
        // SAFETY: the kernel wrote n bytes of body, at most as many as `buf` has.
        unsafe { std::ptr::copy_nonoverlapping(body, buf.as_mut_ptr(), n) };
        whole(n, buf.len())
    }
}

/// vmsplice(2) to send, read(2) to receive.
#[derive(Debug)]
pub(crate) struct Vmsplice {
    pub(crate) input: c_int,
    pub(crate) output: c_int,
}

impl Carrier for Vmsplice {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut rest = message;
        while !rest.is_empty() {
            let io = libc::iovec { iov_base: rest.as_ptr().cast_mut().cast(), iov_len: rest.len() };
            // SAFETY: the kernel reads the pages that the slice lies in; the payload is never
            // changed while the row runs, see `payload.rs`.
            let n = check(unsafe { libc::vmsplice(self.output, &raw const io, 1, 0) })?;
            rest = &rest[n..];
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        ReadWrite { input: self.input, output: self.output }.recv(buf)
    }
}
