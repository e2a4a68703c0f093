//! What the kernel has: bare futex and eventfd around a shared line, pipe, UNIX socket.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::atomic::Ordering::{Acquire, Release};

use rustix::event::EventfdFlags;
use rustix::io::Errno;
use rustix::thread::futex;

use crate::Result;
use crate::ends::Ends;
use crate::job::Job;
use crate::link::Link;
use crate::memory::Shared;

const PAGE: usize = 4096;
/// Where the other direction is, and where the message is behind the word.
const BACK: usize = 2048;
const MESSAGE: usize = 64;

/// A word for each direction that is slept on, and woken for with every message.
pub(crate) struct Futex<const N: usize> {
    memory: Shared,
    output: usize,
    input: usize,
    sent: u32,
    received: u32,
}

impl<const N: usize> Futex<N> {
    fn new(memory: Shared, near: bool) -> Self {
        memory.populate();
        let (output, input) = if near { (0, BACK) } else { (BACK, 0) };
        Self { memory, output, input, sent: 0, received: 0 }
    }
}

impl<const N: usize> Ends<N> for Futex<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        Ok(Self::new(Shared::create(PAGE, &links[0])?, true))
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        Ok(Self::new(Shared::attach(PAGE, link)?, false))
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        self.memory.write(self.output + MESSAGE, message);
        self.sent = self.sent.wrapping_add(1);
        let word = self.memory.half(self.output);
        word.store(self.sent, Release);
        futex::wake(word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let word = self.memory.half(self.input);
        while word.load(Acquire) == self.received {
            match futex::wait(word, futex::Flags::empty(), self.received, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.received = self.received.wrapping_add(1);
        self.memory.read(self.input + MESSAGE, room);
        Ok(())
    }
}

/// An eventfd for each direction, and the message in a shared line.
pub(crate) struct Eventfd<const N: usize> {
    memory: Shared,
    output: (OwnedFd, usize),
    input: (OwnedFd, usize),
}

impl<const N: usize> Ends<N> for Eventfd<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        let event = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
        let (there, back) = (event()?, event()?);
        let memory = Shared::create(PAGE, &links[0])?;
        links[0].send_fds(&[there.as_fd(), back.as_fd()])?;
        Ok(Self { memory, output: (there, 0), input: (back, BACK) })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let memory = Shared::attach(PAGE, link)?;
        let [there, back] = link.recv_just()?;
        Ok(Self { memory, output: (back, BACK), input: (there, 0) })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        self.memory.write(self.output.1 + MESSAGE, message);
        rustix::io::write(&self.output.0, &1_u64.to_ne_bytes())?;
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        rustix::io::read(&self.input.0, &mut [0; 8])?;
        self.memory.read(self.input.1 + MESSAGE, room);
        Ok(())
    }
}

/// A pipe in each direction.
pub(crate) struct Pipe<const N: usize> {
    output: PipeWriter,
    input: PipeReader,
}

impl<const N: usize> Ends<N> for Pipe<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        let ((far_input, output), (input, far_output)) = (std::io::pipe()?, std::io::pipe()?);
        links[0].send_fds(&[far_input.as_fd(), far_output.as_fd()])?;
        Ok(Self { output, input })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let [input, output] = link.recv_just()?;
        Ok(Self { output: output.into(), input: input.into() })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        Ok(self.output.write_all(message)?)
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        Ok(self.input.read_exact(room)?)
    }
}

/// One pipe that many write to, whole messages each.
pub(crate) struct PipeFan<const N: usize> {
    output: Option<PipeWriter>,
    input: Option<PipeReader>,
}

impl<const N: usize> Ends<N> for PipeFan<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        let (input, output) = std::io::pipe()?;
        links.iter().try_for_each(|link| link.send_fds(&[output.as_fd()]))?;
        Ok(Self { output: None, input: Some(input) })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let [output] = link.recv_just()?;
        Ok(Self { output: Some(output.into()), input: None })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        Ok(self.output.as_mut().ok_or("only the far side sends")?.write_all(message)?)
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        Ok(self.input.as_mut().ok_or("only the near side receives")?.read_exact(room)?)
    }
}

/// A UNIX stream socket.
pub(crate) struct Unix<const N: usize>(UnixStream);

impl<const N: usize> Ends<N> for Unix<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        let (near, far) = UnixStream::pair()?;
        links[0].send_fds(&[far.as_fd()])?;
        Ok(Self(near))
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let [fd] = link.recv_just()?;
        Ok(Self(fd.into()))
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        Ok(self.0.write_all(message)?)
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        Ok(self.0.read_exact(room)?)
    }
}

/// A UNIX datagram socket that many send to.
pub(crate) struct UnixFan<const N: usize>(UnixDatagram);

impl<const N: usize> Ends<N> for UnixFan<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        let (near, far) = UnixDatagram::pair()?;
        links.iter().try_for_each(|link| link.send_fds(&[far.as_fd()]))?;
        Ok(Self(near))
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let [fd] = link.recv_just()?;
        Ok(Self(fd.into()))
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        self.0.send(message)?;
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        self.0.recv(room)?;
        Ok(())
    }
}
