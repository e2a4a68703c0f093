//! Sinew's channels, by their public API alone.

#![allow(unsafe_code, reason = "attaching in memory that was shared some other way is unsafe")]

use std::hint::spin_loop;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use sinew::channel::{Options, Receiver, Sender};
use sinew::mapping::Mapping;
use sinew::memfd::{self, Memfd};
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew::{RecvError, SendError};

use crate::Result;
use crate::ends::{Ends, capacity, is_busy};
use crate::job::{Job, Work};
use crate::large::{self, Large};
use crate::link::Link;

/// How many messages are borrowed before they are released together.
const BATCH: usize = 32;
/// A large message in parts: each part, and the channel for them.
const PART: usize = 128 << 10;
const PARTS_CAPACITY: u64 = 1 << 20;

fn create(options: Options, link: &Link) -> Result<Arc<Mapping>> {
    let memfd = memfd::Options::new().create("peers", options.bytes()?)?;
    let map = Arc::new(memfd.map()?);
    options.create_in(&map)?;
    link.send_fds(&[memfd.as_fd()])?;
    Ok(map)
}

fn attach(fd: OwnedFd) -> Result<Arc<Mapping>> {
    Ok(Arc::new(Memfd::try_from(fd)?.map()?))
}

fn sender(map: &Arc<Mapping>, lane: u32) -> Result<Sender> {
    // SAFETY: all who have the memory are workers of one row, each with an end of its own.
    Ok(unsafe { Sender::open_in(map, lane) }?)
}

fn receiver(map: &Arc<Mapping>) -> Result<Receiver> {
    // SAFETY: as above.
    Ok(unsafe { Receiver::open_in(map) }?)
}

/// A stream in each direction.
fn near_ends(there: Options, back: Options, link: &Link) -> Result<(Sender, Receiver)> {
    let (there, back) = (create(there, link)?, create(back, link)?);
    let ends = (sender(&there, 0)?, receiver(&back)?);
    link.meet()?;
    Ok(ends)
}

fn far_ends(link: &Link) -> Result<(Sender, Receiver)> {
    let [there] = link.recv_just()?;
    let [back] = link.recv_just()?;
    let ends = (sender(&attach(back)?, 0)?, receiver(&attach(there)?)?);
    link.meet()?;
    Ok(ends)
}

/// Copied in and out.
pub(crate) struct Copied<const N: usize> {
    output: Sender,
    input: Receiver,
    busy: bool,
}

impl<const N: usize> Ends<N> for Copied<N> {
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        let options = Options::stream().capacity(capacity(N) as u64);
        let (output, input) = near_ends(options, options, &links[0])?;
        Ok(Self { output, input, busy: is_busy(job.work) })
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        let (output, input) = far_ends(link)?;
        Ok(Self { output, input, busy: is_busy(job.work) })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        if !self.busy {
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
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        if !self.busy {
            self.input.recv(room)?;
            return Ok(());
        }
        loop {
            match self.input.try_recv(room) {
                Err(RecvError::Empty) => spin_loop(),
                received => {
                    received?;
                    return Ok(());
                }
            }
        }
    }

    /// Borrowed, copied out, and released together: from the newest on, so that all go with the oldest.
    fn recv_many(&mut self, each: &mut impl FnMut(&[u8; N])) -> Result<()> {
        let mut held = [const { None }; BATCH];
        held[BATCH - 1] = Some(self.input.borrow()?);
        for place in held.iter_mut().rev().skip(1) {
            match self.input.try_borrow() {
                Ok(message) => *place = Some(message),
                Err(RecvError::Empty) => break,
                Err(e) => return Err(e.into()),
            }
        }
        let mut room = [0; N];
        for message in held.iter().rev().flatten() {
            room.copy_from_slice(message);
            each(&room);
        }
        // The fields of an array are dropped from the first on: the newest.
        drop(held);
        Ok(())
    }
}

/// Written and read in place.
pub(crate) struct InPlace<const N: usize> {
    output: Sender,
    input: Receiver,
}

impl<const N: usize> Ends<N> for InPlace<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        let options = Options::stream().capacity(capacity(N) as u64);
        let (output, input) = near_ends(options, options, &links[0])?;
        Ok(Self { output, input })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let (output, input) = far_ends(link)?;
        Ok(Self { output, input })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        let mut loan = self.output.loan(N)?;
        loan.copy_from_slice(message);
        loan.send();
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let message = self.input.borrow()?;
        // Read where it lies: of a long one the ends.
        let len = message.len();
        room[..16].copy_from_slice(&message[..16]);
        room[16] = message[len - 1];
        Ok(())
    }
}

/// Many to one: the near side receives.
pub(crate) struct Fan<const N: usize> {
    output: Option<Sender>,
    input: Option<Receiver>,
}

impl<const N: usize> Ends<N> for Fan<N> {
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        let many = u32::try_from(job.far)?;
        let options = Options::fan_in(many).capacity(capacity(N) as u64);
        let memfd = memfd::Options::new().create("peers", options.bytes()?)?;
        let map = Arc::new(memfd.map()?);
        options.create_in(&map)?;
        for (lane, link) in (0_u32..).zip(links) {
            link.send_fds(&[memfd.as_fd()])?;
            link.say(&lane)?;
        }
        Ok(Self { output: None, input: Some(receiver(&map)?) })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let [fd] = link.recv_just()?;
        let lane = link.hear()?;
        Ok(Self { output: Some(sender(&attach(fd)?, lane)?), input: None })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        Ok(self.output.as_ref().ok_or("only the far side sends")?.send(message)?)
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        self.input.as_ref().ok_or("only the near side receives")?.recv(room)?;
        Ok(())
    }
}

/// Large messages.
pub(crate) struct Whole {
    output: Sender,
    input: Receiver,
    copies: bool,
}

impl Whole {
    fn options(job: &Job) -> (Options, Options) {
        let there = match job.work {
            Work::Overlapped => PARTS_CAPACITY,
            _ => job.size as u64 + 16,
        };
        (Options::stream().capacity(there), Options::stream().capacity(4096))
    }
}

impl Large for Whole {
    fn near(job: &Job, link: &Link) -> Result<Self> {
        let (there, back) = Self::options(job);
        let (output, input) = near_ends(there, back, link)?;
        Ok(Self { output, input, copies: job.work == Work::FirstUse })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let (output, input) = far_ends(link)?;
        Ok(Self { output, input, copies: false })
    }

    fn put(&mut self, source: &[u8]) -> Result<()> {
        if self.copies {
            return Ok(self.output.send(source)?);
        }
        let mut loan = self.output.loan(source.len())?;
        loan.copy_from_slice(source);
        loan.send();
        Ok(())
    }

    fn take(&mut self, size: usize) -> Result<u64> {
        let message = loop {
            match self.input.try_borrow() {
                Err(RecvError::Empty) => spin_loop(),
                got => break got?,
            }
        };
        if message.len() != size {
            return Err("a message of another length".into());
        }
        Ok(large::sum(&message))
    }

    fn put_overlapped(&mut self, source: &[u8]) -> Result<()> {
        source.chunks(PART).try_for_each(|part| self.put(part))
    }

    fn take_overlapped(&mut self, size: usize) -> Result<u64> {
        let (mut left, mut sum) = (size, 0_u64);
        while left > 0 {
            let message = self.input.borrow()?;
            sum = sum.wrapping_add(large::sum(&message));
            left = left.checked_sub(message.len()).ok_or("more came than was sent")?;
        }
        Ok(sum)
    }

    fn answer(&mut self, sum: u64) -> Result<()> {
        Ok(self.output.send(&sum.to_ne_bytes())?)
    }

    fn answered(&mut self) -> Result<u64> {
        let mut sum = [0; 8];
        loop {
            match self.input.try_recv(&mut sum) {
                Err(RecvError::Empty) => spin_loop(),
                got => {
                    got?;
                    return Ok(u64::from_ne_bytes(sum));
                }
            }
        }
    }
}
