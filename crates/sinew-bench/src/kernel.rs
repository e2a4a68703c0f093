//! The rows that copy through the kernel: how both sides come to their ends, and how a message
//! goes through the library.

#![allow(unsafe_code, reason = "vmsplice shares the payload's pages with the reader")]

use std::io::{self, PipeReader, PipeWriter};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;

use sinew::pipe::HeldSigpipe;
use sinew::wait::{Accepts, ByteStream, Opens, Receives, Sends, Wait};
use sinew::{fifo, inet, pipe, posix_mq, splice, sysv_mq, unix};

use crate::carrier::Carrier;
use crate::floor;
use crate::job::Job;
use crate::link::Link;
use crate::trouble::Trouble;

/// A mechanism as both sides open it. The floor works on the same objects.
pub(crate) trait Ends {
    type Library: Carrier;
    type Floor: Carrier;

    /// The near side makes the objects and hands over what the far side needs.
    fn near(job: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble>;

    /// The far side attaches.
    fn far(job: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble>;
}

fn wrong_length() -> io::Error {
    io::Error::other("a message arrived with another length")
}

/// A pipe or FIFO for each direction.
#[derive(Debug)]
pub(crate) struct Pipes {
    input: PipeReader,
    output: PipeWriter,
    /// As a program does that sends many small messages: each send is the bare write(2) then.
    _quiet: HeldSigpipe,
}

impl Pipes {
    fn with_floor(input: PipeReader, output: PipeWriter) -> (Self, floor::ReadWrite) {
        let floor = floor::ReadWrite { input: input.as_raw_fd(), output: output.as_raw_fd() };
        (Self { input, output, _quiet: HeldSigpipe::new() }, floor)
    }
}

impl Carrier for Pipes {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        Ok(self.output.send(message)?)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        Ok(self.input.exact().recv(buf)?)
    }
}

/// Hands one end of each of two pipes over, and keeps the others.
fn pipes_near(link: &Link, options: &pipe::Options) -> Result<(PipeReader, PipeWriter), Trouble> {
    let (there_out, there_in) = options.create()?;
    let (back_out, back_in) = options.create()?;
    link.send_fds(&[there_out.as_fd(), back_in.as_fd()])?;
    Ok((back_out, there_in))
}

fn pipes_far(link: &Link) -> Result<(PipeReader, PipeWriter), Trouble> {
    let [input, output] = link.recv_fds()?;
    Ok((PipeReader::from(input), PipeWriter::from(output)))
}

pub(crate) enum Pipe {}

impl Ends for Pipe {
    type Library = Pipes;
    type Floor = floor::ReadWrite;

    fn near(_: &Job, link: &Link) -> Result<(Pipes, floor::ReadWrite), Trouble> {
        pipes_near(link, &pipe::Options::new())
            .map(|(input, output)| Pipes::with_floor(input, output))
    }

    fn far(_: &Job, link: &Link) -> Result<(Pipes, floor::ReadWrite), Trouble> {
        pipes_far(link).map(|(input, output)| Pipes::with_floor(input, output))
    }
}

pub(crate) enum NamedPipe {}

impl NamedPipe {
    fn paths(job: &Job) -> [std::path::PathBuf; 2] {
        ["there", "back"].map(|way| job.folder.join(format!("{}-{way}", job.prefix)))
    }
}

impl Ends for NamedPipe {
    type Library = Pipes;
    type Floor = floor::ReadWrite;

    fn near(job: &Job, link: &Link) -> Result<(Pipes, floor::ReadWrite), Trouble> {
        let [there, back] = Self::paths(job);
        let there = fifo::Options::new().create(there)?;
        let back = fifo::Options::new().create(back)?;
        link.nod()?;
        // Each open waits for its counterpart in `far`, which comes in the same order.
        let output = there.writer().open()?;
        let input = back.reader().open()?;
        there.unlink()?;
        back.unlink()?;
        Ok(Pipes::with_floor(input, output))
    }

    fn far(job: &Job, link: &Link) -> Result<(Pipes, floor::ReadWrite), Trouble> {
        link.await_nod()?;
        let [there, back] = Self::paths(job);
        let input = fifo::Options::new().open(there)?.reader().open()?;
        let output = fifo::Options::new().open(back)?.writer().open()?;
        Ok(Pipes::with_floor(input, output))
    }
}

/// vmsplice to send, read to receive.
#[derive(Debug)]
pub(crate) struct Spliced {
    input: PipeReader,
    output: PipeWriter,
    /// vmsplice has no flag against SIGPIPE: without this, each call would have to mask it.
    _quiet: HeldSigpipe,
}

impl Spliced {
    fn with_floor((input, output): (PipeReader, PipeWriter)) -> (Self, floor::Vmsplice) {
        let floor = floor::Vmsplice { input: input.as_raw_fd(), output: output.as_raw_fd() };
        (Self { input, output, _quiet: HeldSigpipe::new() }, floor)
    }
}

impl Carrier for Spliced {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        // SAFETY: every message is a part of the payload, which is never changed and outlives the
        // row, see `payload.rs`, or the room of an echo, see `messages.rs`; and `output` can write.
        let spliced = unsafe { splice::vmsplice(&self.output, message, Wait::FOREVER) };
        Ok(spliced?)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        Ok(self.input.exact().recv(buf)?)
    }
}

const SPLICE_BYTES: usize = 1 << 20;

pub(crate) enum Splice {}

impl Ends for Splice {
    type Library = Spliced;
    type Floor = floor::Vmsplice;

    fn near(_: &Job, link: &Link) -> Result<(Spliced, floor::Vmsplice), Trouble> {
        pipes_near(link, &pipe::Options::new().capacity(SPLICE_BYTES)).map(Spliced::with_floor)
    }

    fn far(_: &Job, link: &Link) -> Result<(Spliced, floor::Vmsplice), Trouble> {
        pipes_far(link).map(Spliced::with_floor)
    }
}

/// A byte stream in both directions.
#[derive(Debug)]
pub(crate) struct Stream<S>(S);

impl<S: AsRawFd> Stream<S> {
    fn with_floor(socket: S) -> (Self, floor::StreamSocket) {
        let floor = floor::StreamSocket(socket.as_raw_fd());
        (Self(socket), floor)
    }
}

impl<S: Sends + ByteStream> Carrier for Stream<S> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        Ok(self.0.send(message)?)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        Ok(self.0.exact().recv(buf)?)
    }
}

pub(crate) enum Unix {}

impl Ends for Unix {
    type Library = Stream<UnixStream>;
    type Floor = floor::StreamSocket;

    fn near(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let (own, theirs) = unix::pair()?;
        link.send_fds(&[theirs.as_fd()])?;
        Ok(Stream::with_floor(own))
    }

    fn far(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [socket] = link.recv_fds()?;
        Ok(Stream::with_floor(UnixStream::from(socket)))
    }
}

pub(crate) enum Tcp {}

impl Ends for Tcp {
    type Library = Stream<TcpStream>;
    type Floor = floor::StreamSocket;

    fn near(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let listener = inet::Listener::loopback()?;
        link.say(&listener.local_addr()?)?;
        Ok(Stream::with_floor(listener.accept()?))
    }

    fn far(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let address: SocketAddr = link.hear()?;
        Ok(Stream::with_floor(inet::connect(address)?))
    }
}

/// Whole messages in both directions.
#[derive(Debug)]
pub(crate) struct Messages<S>(S);

impl<S: AsFd> Messages<S> {
    fn with_floor(socket: S) -> (Self, floor::MessageSocket) {
        let floor = floor::MessageSocket(socket.as_fd().as_raw_fd());
        (Self(socket), floor)
    }
}

impl<S: Sends + Receives<Received = usize>> Carrier for Messages<S> {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        Ok(self.0.send(message)?)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if self.0.recv(buf)? == buf.len() { Ok(()) } else { Err(wrong_length()) }
    }
}

pub(crate) enum Datagram {}

impl Ends for Datagram {
    type Library = Messages<unix::Datagram>;
    type Floor = floor::MessageSocket;

    fn near(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let (own, theirs) = unix::Datagram::pair()?;
        link.send_fds(&[theirs.as_fd()])?;
        Ok(Messages::with_floor(own))
    }

    fn far(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [socket] = link.recv_fds()?;
        Ok(Messages::with_floor(unix::Datagram::from(socket)))
    }
}

pub(crate) enum Seqpacket {}

impl Ends for Seqpacket {
    type Library = Messages<unix::Seqpacket>;
    type Floor = floor::MessageSocket;

    fn near(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let (own, theirs) = unix::Seqpacket::pair()?;
        link.send_fds(&[theirs.as_fd()])?;
        Ok(Messages::with_floor(own))
    }

    fn far(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [socket] = link.recv_fds()?;
        Ok(Messages::with_floor(unix::Seqpacket::from(socket)))
    }
}

pub(crate) enum Udp {}

impl Ends for Udp {
    type Library = Messages<inet::Udp>;
    type Floor = floor::MessageSocket;

    fn near(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let socket = inet::Udp::loopback()?;
        link.say(&socket.local_addr()?)?;
        let theirs: SocketAddr = link.hear()?;
        socket.connect_to(theirs)?;
        link.nod()?;
        link.await_nod()?;
        Ok(Messages::with_floor(socket))
    }

    fn far(_: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let socket = inet::Udp::loopback()?;
        let theirs: SocketAddr = link.hear()?;
        link.say(&socket.local_addr()?)?;
        socket.connect_to(theirs)?;
        link.nod()?;
        link.await_nod()?;
        Ok(Messages::with_floor(socket))
    }
}

/// A POSIX queue for each direction.
#[derive(Debug)]
pub(crate) struct PosixQueues {
    input: posix_mq::Queue,
    output: posix_mq::Queue,
    /// For what is shorter than the queue's message size, which the kernel insists on.
    room: Vec<u8>,
}

impl Carrier for PosixQueues {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        Ok(self.output.send(message)?)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let len = if buf.len() < self.room.len() {
            let len = self.input.recv(&mut self.room)?.len;
            if len == buf.len() {
                buf.copy_from_slice(&self.room[..len]);
            }
            len
        } else {
            self.input.recv(buf)?.len
        };
        if len == buf.len() { Ok(()) } else { Err(wrong_length()) }
    }
}

pub(crate) enum PosixMq {}

impl PosixMq {
    fn names(job: &Job) -> [String; 2] {
        ["there", "back"].map(|way| format!("/{}-{way}", job.prefix))
    }

    fn ends(
        job: &Job,
        input: posix_mq::Queue,
        output: posix_mq::Queue,
    ) -> (PosixQueues, floor::PosixQueue) {
        let floor = floor::PosixQueue {
            input: input.as_fd().as_raw_fd(),
            output: output.as_fd().as_raw_fd(),
            room: job.message_bytes(),
        };
        (PosixQueues { input, output, room: vec![0; job.message_bytes()] }, floor)
    }
}

impl Ends for PosixMq {
    type Library = PosixQueues;
    type Floor = floor::PosixQueue;

    fn near(job: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [there, back] = Self::names(job);
        let options = posix_mq::Options::new().message_bytes(job.message_bytes());
        let output = options.create(&there)?;
        let input = options.create(&back)?;
        link.nod()?;
        link.await_nod()?;
        posix_mq::unlink(&there)?;
        posix_mq::unlink(&back)?;
        Ok(Self::ends(job, input, output))
    }

    fn far(job: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        link.await_nod()?;
        let [there, back] = Self::names(job);
        let options = posix_mq::Options::new();
        let input = options.open(&there)?;
        let output = options.open(&back)?;
        link.nod()?;
        Ok(Self::ends(job, input, output))
    }
}

/// A System V queue for each direction. The near side removes them at its end.
#[derive(Debug)]
pub(crate) struct SysvQueues {
    input: sysv_mq::Queue,
    output: sysv_mq::Queue,
    owned: bool,
}

impl SysvQueues {
    fn with_floor(self, size: usize) -> (Self, floor::SysvQueue) {
        let floor = floor::SysvQueue::new(self.input.id(), self.output.id(), size);
        (self, floor)
    }
}

impl Carrier for SysvQueues {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        Ok(self.output.send(message)?)
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        if self.input.recv(buf)?.len == buf.len() { Ok(()) } else { Err(wrong_length()) }
    }
}

impl Drop for SysvQueues {
    fn drop(&mut self) {
        if self.owned {
            // The supervisor removes them too, should this process not come so far.
            let _ = self.input.remove();
            let _ = self.output.remove();
        }
    }
}

pub(crate) enum SysvMq {}

impl Ends for SysvMq {
    type Library = SysvQueues;
    type Floor = floor::SysvQueue;

    fn near(job: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        let [there, back] = job.keys.map(sysv_mq::Key::new);
        let options = sysv_mq::Options::new();
        let output = options.create(there)?;
        let input = options.create(back)?;
        link.nod()?;
        Ok(SysvQueues { input, output, owned: true }.with_floor(job.message_bytes()))
    }

    fn far(job: &Job, link: &Link) -> Result<(Self::Library, Self::Floor), Trouble> {
        link.await_nod()?;
        let [there, back] = job.keys.map(sysv_mq::Key::new);
        let options = sysv_mq::Options::new();
        let input = options.open(there)?;
        let output = options.open(back)?;
        Ok(SysvQueues { input, output, owned: false }.with_floor(job.message_bytes()))
    }
}
