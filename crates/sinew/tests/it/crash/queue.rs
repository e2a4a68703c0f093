//! A queue, one of whose workers, or its sender, is killed at each step: nothing is lost, and what is given out again says so.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use sinew::RecvError;
use sinew::channel::Options;
use sinew::channel::queue::{self, Sender, Worker};
use sinew::mapping::Mapping;
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{Matrix, mapped};

/// What the victim does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Borrow,
    Recv,
    GiveBack,
    /// Attaches a worker, and takes a message.
    Open,
    /// Takes a message and leaves, without being done with it.
    Leave,
    Send,
    Loan,
    OpenSender,
}

impl Operation {
    const ALL: [Self; 8] = [
        Self::Borrow,
        Self::Recv,
        Self::GiveBack,
        Self::Open,
        Self::Leave,
        Self::Send,
        Self::Loan,
        Self::OpenSender,
    ];

    const fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Loan | Self::OpenSender)
    }
}

/// How many messages there are first.
const STOCK: u64 = 3;

// How far the victim is, behind the queue in the memory.
const BEGUN: u64 = 1;
const HAS: u64 = 2;
const LETS_GO: u64 = 3;
const OVER: u64 = 4;

fn options() -> queue::Options {
    Options::queue(1, 2).capacity(4096).slots(16).deliveries(15)
}

struct Handle {
    map: Arc<Mapping>,
    worker: Option<Worker>,
    sender: Option<Sender>,
}

impl Handle {
    fn step(&self, step: u64) {
        let at = options().bytes().unwrap() as usize;
        self.map.atomic_u64_at(at).unwrap().store(step, SeqCst);
    }

    fn reached(&self) -> u64 {
        let at = options().bytes().unwrap() as usize;
        self.map.atomic_u64_at(at).unwrap().load(SeqCst)
    }

    fn worker(&self, place: u32) -> Worker {
        // SAFETY: the memory is a queue, and each place is one participant's.
        unsafe { Worker::open_in(&self.map, place) }.unwrap()
    }

    fn sender(&self) -> Sender {
        // SAFETY: as above.
        unsafe { Sender::open_in(&self.map, 0) }.unwrap()
    }
}

impl Subject for Operation {
    type Handle = Handle;

    fn name(&self) -> String {
        format!("queue: {self:?}")
    }

    fn bytes(&self) -> usize {
        options().bytes().unwrap() as usize + 4096
    }

    fn make(&self, memory: &Memory) {
        let handle = self.open(memory);
        options().create_in(&handle.map).unwrap();
        // Killed, as nobody knows yet.
        let sender = std::mem::ManuallyDrop::new(handle.sender());
        for number in 0..STOCK {
            sender.send(&number.to_le_bytes()).unwrap();
        }
    }

    fn open(&self, memory: &Memory) -> Handle {
        Handle { map: Arc::new(mapped(memory)), worker: None, sender: None }
    }

    fn prepare(&self, handle: &mut Handle) {
        match self {
            Self::Open | Self::OpenSender => {}
            _ if self.sends() => handle.sender = Some(handle.sender()),
            _ => handle.worker = Some(handle.worker(0)),
        }
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        stage.pause();
        handle.step(BEGUN);
        match self {
            Self::Borrow | Self::GiveBack | Self::Open => {
                let worker = handle.worker.take().unwrap_or_else(|| handle.worker(0));
                let job = worker.borrow().unwrap();
                handle.step(HAS);
                if *self == Self::GiveBack {
                    job.give_back();
                } else {
                    handle.step(LETS_GO);
                    drop(job);
                }
                handle.step(OVER);
                handle.worker = Some(worker);
            }
            Self::Leave => {
                let worker = handle.worker.take().unwrap();
                let _forgotten = std::mem::ManuallyDrop::new(worker.borrow().unwrap());
                handle.step(HAS);
                drop(worker);
                handle.step(OVER);
            }
            Self::Recv => {
                handle.step(LETS_GO);
                handle.worker.as_ref().unwrap().recv(&mut [0; 8]).unwrap();
                handle.step(OVER);
            }
            Self::Send | Self::Loan | Self::OpenSender => {
                let mut sender = handle.sender.take().unwrap_or_else(|| handle.sender());
                if *self == Self::Loan {
                    let mut loan = sender.loan(8).unwrap();
                    loan.copy_from_slice(&STOCK.to_le_bytes());
                    loan.send();
                } else {
                    sender.send(&STOCK.to_le_bytes()).unwrap();
                }
                handle.step(OVER);
                handle.sender = Some(sender);
            }
        }
    }

    fn check(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        let reached = handle.reached();
        let worker = handle.worker(1);
        if self.sends() {
            worker.sender_died(0);
        } else {
            worker.worker_died(0);
        }
        let mut received = Vec::new();
        loop {
            match worker.try_borrow() {
                Ok(job) => {
                    let number = u64::from_le_bytes(job[..].try_into().unwrap_or([0xFF; 8]));
                    received.push((number, job.delivery_count()));
                }
                Err(RecvError::PeerDied) if self.sends() => {}
                Err(RecvError::Empty) => break,
                Err(other) => return Err(format!("{other:?} after {received:?}")),
            }
        }
        let last = if self.sends() { self.sent(&received, reached)? } else { STOCK };
        let first = if self.sends() { "whole" } else { self.given(&received, reached)? };
        // Whoever comes next goes on, more often than there are slots.
        let sender = handle.sender();
        if sender.sent() != last {
            return Err(format!("{} sent, not {last}", sender.sent()));
        }
        let successor = handle.worker(0);
        for number in last..last + 40 {
            sender.try_send(&number.to_le_bytes()).map_err(|e| format!("{e:?} at {number}"))?;
            let job = successor.try_borrow().map_err(|e| format!("{e:?} at {number}"))?;
            if job[..] != number.to_le_bytes() || job.number() != number {
                return Err(format!("another one at {number}"));
            }
        }
        Ok(first.to_owned())
    }
}

impl Operation {
    /// What a worker left. The first message was its.
    fn given(self, received: &[(u64, u64)], reached: u64) -> Result<&'static str, String> {
        let (outcome, rest) = match received {
            [(0, count @ (1 | 2)), rest @ ..] => {
                let seen = if *count == 1 { "given first" } else { "given again" };
                (seen, rest)
            }
            rest => ("done", rest),
        };
        let given_back = matches!(self, Self::GiveBack | Self::Leave);
        let right = match (reached, outcome) {
            (0, "given first") | (BEGUN, "given first" | "given again") => true,
            (HAS, "given again") => true,
            // Copied out is done; between the two steps it may be either.
            (LETS_GO, "done" | "given again") => true,
            (LETS_GO, "given first") => self == Self::Recv,
            (OVER, "done") => !given_back,
            (OVER, "given again") => given_back,
            _ => false,
        };
        let others = [1, 2].map(|number| (number, 1));
        if right && rest == others {
            Ok(outcome)
        } else {
            Err(format!("{received:?} at {reached}"))
        }
    }

    /// What a sender left: so many messages, the last of which was its.
    fn sent(self, received: &[(u64, u64)], reached: u64) -> Result<u64, String> {
        let count = received.len() as u64;
        let right = received.iter().copied().eq((0..count).map(|number| (number, 1)))
            && (count == STOCK + 1 || count == STOCK && reached < OVER);
        if right { Ok(count) } else { Err(format!("{received:?} at {reached}")) }
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    Operation::ALL.iter().try_for_each(|operation| matrix.one(operation, 0))
}
