//! The rows of channels: a stream in each direction, and beside them the bare rings of the floor.

#![allow(unsafe_code, reason = "attaches to channels in memory that only the workers have")]

use std::hint::spin_loop;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use sinew::channel::{Options, Receiver, Sender};
use sinew::memfd::{self, Memfd};
use sinew::wait::{Receives, Sends};
use sinew::{RecvError, SendError};

use crate::carrier::Carrier;
use crate::floor::ring::{Form, Rings};
use crate::job::Job;
use crate::kernel::Ends;
use crate::link::Link;
use crate::report::WaitKind;
use crate::trouble::Trouble;

/// Bytes of messages that a channel has room for, if that are a few messages.
const CAPACITY: usize = 1 << 20;
/// What a message takes beside its bytes.
const HEADER: usize = 8;
const FEW: usize = 4;

/// A stream in each direction.
pub(crate) struct Streams {
    output: Sender,
    input: Receiver,
    awake: bool,
}

impl Carrier for Streams {
    #[inline]
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if !self.awake {
            return Ok(self.output.send(message)?);
        }
        loop {
            match self.output.try_send(message) {
                Err(SendError::Full) => spin_loop(),
                sent => return Ok(sent?),
            }
        }
    }

    #[inline]
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<()> {
        let len = if self.awake {
            loop {
                match self.input.try_recv(buf) {
                    Err(RecvError::Empty) => spin_loop(),
                    received => break received?,
                }
            }
        } else {
            self.input.recv(buf)?
        };
        if len == buf.len() {
            Ok(())
        } else {
            Err(io::Error::other("a message arrived with another length"))
        }
    }
}

/// How a row's channels are made, and rings with as many slots.
fn forms(job: &Job) -> (Options, Form) {
    let size = job.message_bytes();
    let stride = size + HEADER;
    let capacity = CAPACITY.max(FEW * stride).next_power_of_two();
    let slots = u32::try_from(capacity / stride).unwrap_or(u32::MAX);
    let sleeps = job.wait == WaitKind::Blocking;
    (Options::stream().capacity(capacity as u64), Form { size, slots, sleeps })
}

fn attach(output: Memfd, input: Memfd, awake: bool) -> Result<Streams, Trouble> {
    let (output, input) = (Arc::new(output.map()?), Arc::new(input.map()?));
    // SAFETY: the two workers alone have the memory; each takes one end of each channel.
    let output = unsafe { Sender::open_in(&output, 0) }?;
    // SAFETY: as above.
    let input = unsafe { Receiver::open_in(&input) }?;
    Ok(Streams { output, input, awake })
}

/// Of a row of channels.
pub(crate) struct Channel;

impl Ends for Channel {
    type Library = Streams;
    type Floor = Rings;

    fn near(job: &Job, link: &Link) -> Result<(Streams, Rings), Trouble> {
        let (options, form) = forms(job);
        let make = |bytes| memfd::Options::new().create(&job.prefix, bytes);
        let (there, back) = (make(options.bytes()?)?, make(options.bytes()?)?);
        for memfd in [&there, &back] {
            options.create_in(&Arc::new(memfd.map()?))?;
        }
        let bare = make(form.bytes() as u64)?;
        let rings = Rings::new(bare.as_fd().as_raw_fd(), form, true)?;
        link.send_fds(&[there.as_fd(), back.as_fd(), bare.as_fd()])?;
        Ok((attach(there, back, !form.sleeps)?, rings))
    }

    fn far(job: &Job, link: &Link) -> Result<(Streams, Rings), Trouble> {
        let (_, form) = forms(job);
        let [there, back, bare]: [OwnedFd; 3] = link.recv_fds()?;
        let rings = Rings::new(bare.as_raw_fd(), form, false)?;
        let streams = attach(Memfd::try_from(back)?, Memfd::try_from(there)?, !form.sleeps)?;
        Ok((streams, rings))
    }
}
