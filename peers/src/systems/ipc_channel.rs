//! ipc-channel: bytes channels, and shared memory for what is large.

use std::hint::spin_loop;

use ipc_channel::TryRecvError;
use ipc_channel::ipc::{
    self, IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcReceiver, IpcSender,
    IpcSharedMemory,
};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::ends::{Ends, is_busy};
use crate::job::Job;
use crate::large::{self, Large};
use crate::link::Link;

/// Gives the far side its ends: a one-shot server's name goes over the line, the ends over that server.
fn give<T: Serialize + for<'a> Deserialize<'a>>(link: &Link, ends: T) -> Result<()> {
    let (server, name) = IpcOneShotServer::<IpcSender<T>>::new()?;
    link.say(&name)?;
    let (_, to) = server.accept()?;
    Ok(to.send(ends)?)
}

fn get<T: Serialize + for<'a> Deserialize<'a>>(link: &Link) -> Result<T> {
    let name: String = link.hear()?;
    let server = IpcSender::connect(name)?;
    let (sender, receiver) = ipc::channel::<T>()?;
    server.send(sender)?;
    Ok(receiver.recv()?)
}

/// A bytes channel in each direction.
pub(crate) struct Bytes<const N: usize> {
    output: IpcBytesSender,
    input: IpcBytesReceiver,
    busy: bool,
}

impl<const N: usize> Ends<N> for Bytes<N> {
    fn near(job: &Job, links: &[Link]) -> Result<Self> {
        let ((output, far_input), (far_output, input)) =
            (ipc::bytes_channel()?, ipc::bytes_channel()?);
        give(&links[0], (far_output, far_input))?;
        Ok(Self { output, input, busy: is_busy(job.work) })
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        let (output, input) = get(link)?;
        Ok(Self { output, input, busy: is_busy(job.work) })
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        Ok(self.output.send(message)?)
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let message = if self.busy {
            loop {
                match self.input.try_recv() {
                    Ok(message) => break message,
                    Err(TryRecvError::Empty) => spin_loop(),
                    Err(e) => return Err(e.into()),
                }
            }
        } else {
            self.input.recv()?
        };
        room.copy_from_slice(message.get(..N).ok_or("a message of another length")?);
        Ok(())
    }
}

/// New shared memory for each large message.
pub(crate) struct Regions {
    output: IpcSender<IpcSharedMemory>,
    input: IpcReceiver<IpcSharedMemory>,
    sums: IpcSender<u64>,
    answers: IpcReceiver<u64>,
}

impl Large for Regions {
    fn near(_: &Job, link: &Link) -> Result<Self> {
        let ((output, far_input), (far_output, input)) = (ipc::channel()?, ipc::channel()?);
        let ((sums, far_answers), (far_sums, answers)) = (ipc::channel()?, ipc::channel()?);
        give(link, (far_output, far_input, far_sums, far_answers))?;
        Ok(Self { output, input, sums, answers })
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        let (output, input, sums, answers) = get(link)?;
        Ok(Self { output, input, sums, answers })
    }

    fn put(&mut self, source: &[u8]) -> Result<()> {
        Ok(self.output.send(IpcSharedMemory::from_bytes(source))?)
    }

    fn take(&mut self, size: usize) -> Result<u64> {
        let message = self.input.recv()?;
        if message.len() != size {
            return Err("a message of another length".into());
        }
        Ok(large::sum(&message))
    }

    fn answer(&mut self, sum: u64) -> Result<()> {
        Ok(self.sums.send(sum)?)
    }

    fn answered(&mut self) -> Result<u64> {
        Ok(self.answers.recv()?)
    }
}
