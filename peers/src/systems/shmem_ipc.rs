//! shmem-ipc: its shared ring, polled or with its eventfds.

#![allow(unsafe_code, reason = "its ring is read and written by raw pointers")]

use std::fs::File;
use std::hint::spin_loop;
use std::os::fd::AsFd;

use shmem_ipc::sharedring::{Receiver, Sender};
use zerocopy::{AsBytes, FromBytes};

use crate::Result;
use crate::ends::{Ends, is_busy, slots};
use crate::job::Job;
use crate::link::Link;

pub(crate) struct Ring<const N: usize> {
    output: Sender<[u8; N]>,
    input: Receiver<[u8; N]>,
    busy: bool,
}

impl<const N: usize> Ends<N> for Ring<N>
where
    [u8; N]: AsBytes + FromBytes,
{
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        let (output, input) = (Sender::new(slots(N))?, Receiver::new(slots(N))?);
        links[0].send_fds(&[
            output.memfd().as_file().as_fd(),
            output.empty_signal().as_fd(),
            output.full_signal().as_fd(),
            input.memfd().as_file().as_fd(),
            input.empty_signal().as_fd(),
            input.full_signal().as_fd(),
        ])?;
        Ok(Self { output, input, busy: is_busy(job.work) })
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        let [in_memory, in_empty, in_full, out_memory, out_empty, out_full] = link.recv_just()?;
        let file = File::from;
        let input = Receiver::open(slots(N), file(in_memory), file(in_empty), file(in_full))?;
        let output = Sender::open(slots(N), file(out_memory), file(out_empty), file(out_full))?;
        Ok(Self { output, input, busy: is_busy(job.work) })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        let mut sent = false;
        loop {
            // SAFETY: the ring gives room for `room` messages from `to` on, and calls this only if there is any.
            let write = |to: *mut [u8; N], _room: usize| unsafe {
                to.copy_from_nonoverlapping(message, 1);
                sent = true;
                1
            };
            if self.busy {
                self.output.sender_mut().send(write)?;
            } else {
                self.output.send_raw(write)?;
            }
            if sent {
                return Ok(());
            }
            if self.busy {
                spin_loop();
            } else {
                self.output.block_until_writable()?;
            }
        }
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let mut received = false;
        loop {
            // SAFETY: the ring gives `there` messages from `from` on, and calls this only if there is one.
            let read = |from: *const [u8; N], _there: usize| unsafe {
                from.copy_to_nonoverlapping(room, 1);
                received = true;
                1
            };
            if self.busy {
                self.input.receiver_mut().recv(read)?;
            } else {
                self.input.receive_raw(read)?;
            }
            if received {
                return Ok(());
            }
            if self.busy {
                spin_loop();
            } else {
                self.input.block_until_readable()?;
            }
        }
    }

    fn recv_many(&mut self, each: &mut impl FnMut(&[u8; N])) -> Result<()> {
        self.input.block_until_readable()?;
        self.input.receive_raw(|from, there| {
            let mut room = [0; N];
            for index in 0..there {
                // SAFETY: the ring gives `there` messages from `from` on.
                unsafe { from.add(index).copy_to_nonoverlapping(&raw mut room, 1) };
                each(&room);
            }
            there
        })?;
        Ok(())
    }
}
