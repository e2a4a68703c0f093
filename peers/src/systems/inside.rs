//! rtrb: a ring between two threads of one process.

use std::hint::spin_loop;
use std::thread;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::ends::{Ends, slots};
use crate::job::{Found, Job, Side};
use crate::link::Link;
use crate::{Result, cpu, drive};

struct Rtrb<const N: usize> {
    output: Producer<[u8; N]>,
    input: Consumer<[u8; N]>,
}

impl<const N: usize> Ends<N> for Rtrb<N> {
    fn near(_: &Job, _: &[Link]) -> Result<Self> {
        Err("it has no two processes".into())
    }

    fn far(_: &Job, _: &Link) -> Result<Self> {
        Err("it has no two processes".into())
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        while self.output.push(*message).is_err() {
            spin_loop();
        }
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        loop {
            match self.input.pop() {
                Ok(message) => {
                    *room = message;
                    return Ok(());
                }
                Err(_) => spin_loop(),
            }
        }
    }
}

/// Both sides in this process, each on the CPU that its process would have.
pub(crate) fn run<const N: usize>(job: &Job, cpus: &[usize]) -> Result<Option<Found>> {
    let (output, far_input) = RingBuffer::new(slots(N));
    let (far_output, input) = RingBuffer::new(slots(N));
    let mut near = Rtrb::<N> { output, input };
    let mut far = Rtrb::<N> { output: far_output, input: far_input };
    let far_job = Job { side: Side::Far, ..job.clone() };
    let far_cpu = cpus.get(1).copied();
    thread::scope(|scope| {
        let far = scope.spawn(move || {
            if let Some(cpu) = far_cpu {
                cpu::pin(cpu)?;
            }
            drive::run(&far_job, &mut far)
        });
        let near = drive::run(job, &mut near)?;
        let far = far.join().map_err(|_| "the other thread panicked")??;
        Ok(near.or(far))
    })
}
