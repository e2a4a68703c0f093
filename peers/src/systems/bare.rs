//! The bare things: what the machine gives without any safety. A ring, a bounced cache line, a mapping used in turn.

use std::hint::spin_loop;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::Result;
use crate::ends::{Ends, slots};
use crate::job::Job;
use crate::large::{self, Large};
use crate::link::Link;
use crate::memory::Shared;

const PAGE: usize = 4096;
/// Apart by two lines: processors fetch them in pairs.
const APART: usize = 128;

/// A ring of slots with both positions cached, nothing else.
pub(crate) struct Ring<const N: usize> {
    memory: Shared,
    output: Side,
    input: Side,
}

/// One end of a direction: the place of its words and slots, its own position, and the other's as last seen.
struct Side {
    at: usize,
    position: u64,
    other: u64,
    slot: usize,
}

impl Side {
    const fn new(at: usize) -> Self {
        Self { at, position: 0, other: 0, slot: 0 }
    }
}

impl<const N: usize> Ring<N> {
    const SLOTS: usize = slots(N);
    const STRIDE: usize = N.next_multiple_of(64);
    const DIRECTION: usize = (PAGE + Self::SLOTS * Self::STRIDE).next_multiple_of(PAGE);

    fn new(memory: Shared, near: bool) -> Self {
        memory.populate();
        let (there, back) = (0, Self::DIRECTION);
        let (output, input) = if near { (there, back) } else { (back, there) };
        Self { memory, output: Side::new(output), input: Side::new(input) }
    }
}

impl<const N: usize> Ends<N> for Ring<N> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        Ok(Self::new(Shared::create(2 * Self::DIRECTION, &links[0])?, true))
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        Ok(Self::new(Shared::attach(2 * Self::DIRECTION, link)?, false))
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        let Self { memory, output, .. } = self;
        while output.position - output.other == Self::SLOTS as u64 {
            output.other = memory.word(output.at + APART).load(Acquire);
            if output.position - output.other == Self::SLOTS as u64 {
                spin_loop();
            }
        }
        memory.write(output.at + PAGE + output.slot * Self::STRIDE, message);
        output.slot = if output.slot + 1 == Self::SLOTS { 0 } else { output.slot + 1 };
        output.position += 1;
        memory.word(output.at).store(output.position, Release);
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        let Self { memory, input, .. } = self;
        while input.position == input.other {
            input.other = memory.word(input.at).load(Acquire);
            if input.position == input.other {
                spin_loop();
            }
        }
        memory.read(input.at + PAGE + input.slot * Self::STRIDE, room);
        input.slot = if input.slot + 1 == Self::SLOTS { 0 } else { input.slot + 1 };
        input.position += 1;
        memory.word(input.at + APART).store(input.position, Release);
        Ok(())
    }
}

/// A line in each direction with a sequence number; the message `AFTER` bytes behind that.
pub(crate) struct Bounce<const N: usize, const AFTER: usize> {
    memory: Shared,
    output: usize,
    input: usize,
    sent: u64,
    received: u64,
}

impl<const N: usize, const AFTER: usize> Bounce<N, AFTER> {
    fn new(memory: Shared, near: bool) -> Self {
        memory.populate();
        let (output, input) = if near { (0, PAGE / 2) } else { (PAGE / 2, 0) };
        Self { memory, output, input, sent: 0, received: 0 }
    }
}

impl<const N: usize, const AFTER: usize> Ends<N> for Bounce<N, AFTER> {
    fn near(_: &Job, links: &[Link]) -> Result<Self> {
        const { assert!(AFTER + N <= 1024 && (AFTER >= 64 || AFTER + N <= 64)) };
        Ok(Self::new(Shared::create(PAGE, &links[0])?, true))
    }

    fn far(_: &Job, link: &Link) -> Result<Self> {
        Ok(Self::new(Shared::attach(PAGE, link)?, false))
    }

    #[inline]
    fn send(&mut self, message: &[u8; N]) -> Result<()> {
        self.memory.write(self.output + AFTER, message);
        self.sent += 1;
        self.memory.word(self.output).store(self.sent, Release);
        Ok(())
    }

    #[inline]
    fn recv(&mut self, room: &mut [u8; N]) -> Result<()> {
        while self.memory.word(self.input).load(Acquire) == self.received {
            spin_loop();
        }
        self.received += 1;
        self.memory.read(self.input + AFTER, room);
        Ok(())
    }
}

/// A mapping that the two sides use in turn.
pub(crate) struct InTurn {
    memory: Shared,
    sent: u64,
    received: u64,
}

/// The words: filled so often; summed so often; the sum.
const FILLED: usize = 0;
const SUMMED: usize = 128;
const SUM: usize = 136;

impl Large for InTurn {
    fn near(job: &Job, link: &Link) -> Result<Self> {
        Ok(Self { memory: Shared::create(PAGE + job.size, link)?, sent: 0, received: 0 })
    }

    fn far(job: &Job, link: &Link) -> Result<Self> {
        Ok(Self { memory: Shared::attach(PAGE + job.size, link)?, sent: 0, received: 0 })
    }

    fn put(&mut self, source: &[u8]) -> Result<()> {
        self.memory.bytes_mut(PAGE, source.len()).copy_from_slice(source);
        self.sent += 1;
        self.memory.word(FILLED).store(self.sent, Release);
        Ok(())
    }

    fn take(&mut self, size: usize) -> Result<u64> {
        while self.memory.word(FILLED).load(Acquire) == self.received {
            spin_loop();
        }
        self.received += 1;
        Ok(large::sum(self.memory.bytes(PAGE, size)))
    }

    fn answer(&mut self, sum: u64) -> Result<()> {
        self.memory.word(SUM).store(sum, Relaxed);
        self.sent += 1;
        self.memory.word(SUMMED).store(self.sent, Release);
        Ok(())
    }

    fn answered(&mut self) -> Result<u64> {
        while self.memory.word(SUMMED).load(Acquire) == self.received {
            spin_loop();
        }
        self.received += 1;
        Ok(self.memory.word(SUM).load(Relaxed))
    }
}
