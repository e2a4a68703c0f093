//! Lanes whose sender overtakes its receiver, of which one is killed in that. Nobody else is there; then the sender goes
//! on for more than a lap, and a receiver comes and finds what was borrowed, and every message received or missed.

use std::mem::ManuallyDrop;
use std::sync::Arc;

use sinew::RecvError;
use sinew::channel::{Counts, Full, Options, Receiver};
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew_testkit::Skip;
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};

use super::{CAPACITY, Handle, Word};
use crate::crash::{Matrix, mapped};

/// More than a lap.
const LAP: u64 = 120;

/// What the victim does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// Sends two, where there is no room.
    Send,
    /// The same, in place.
    Loan,
    /// Is told what it missed, and receives two.
    Recv,
    /// Borrows two, and releases them in another order.
    Borrow,
}

struct Case {
    operation: Operation,
    /// How many a former receiver had borrowed when it was killed.
    borrowed: u64,
}

fn options() -> Options {
    Options::stream().capacity(CAPACITY).full(Full::DropOldest).max_borrowed(3)
}

fn message(number: u64) -> Vec<u8> {
    let len = 8 + (number * 29 % 90) as usize;
    (0..len).map(|i| (number as usize * 31 + i * 7) as u8).collect()
}

/// The messages that are there, from the first on. Gives their numbers, and how many were missed.
fn drain(receiver: &Receiver) -> Result<(Vec<u64>, u64), String> {
    let (mut numbers, mut missed) = (Vec::new(), 0);
    let mut told = false;
    loop {
        match receiver.try_borrow() {
            Ok(got) => {
                let number = got.number();
                if *got != message(number)[..] {
                    return Err(format!("number {number} is another"));
                }
                if !told && numbers.last().is_some_and(|last| last + 1 != number) {
                    return Err(format!("{number} after {numbers:?}"));
                }
                told = false;
                numbers.push(number);
            }
            Err(RecvError::Lagged(more)) => (missed, told) = (missed + more, true),
            Err(RecvError::Empty) => return Ok((numbers, missed)),
            Err(other) => return Err(format!("{other:?}")),
        }
    }
}

fn balanced(counts: Counts, waiting: u64) -> Result<(), String> {
    let known = counts.received + counts.lagged + counts.dropped + counts.waiting();
    if counts.sent == known && counts.waiting() == waiting && counts.dropped == 0 {
        return Ok(());
    }
    Err(format!("{counts:?}, and {waiting} are there"))
}

impl Subject for Case {
    type Handle = Handle;

    fn name(&self) -> String {
        let Self { operation, borrowed } = self;
        format!("overtaking: {operation:?} with {borrowed} left borrowed")
    }

    fn bytes(&self) -> usize {
        options().bytes().unwrap() as usize + 4096
    }

    fn make(&self, memory: &Memory) {
        let handle = self.open(memory);
        options().create_in(&handle.map).unwrap();
        // Killed, as nobody knows yet.
        let sender = ManuallyDrop::new(handle.open_sender(0));
        let receiver = ManuallyDrop::new(handle.open_receiver());
        let send = |count| (0..count).for_each(|_| sender.send(&message(sender.sent())).unwrap());
        send(4);
        let mut buf = [0; 128];
        let _first = receiver.recv(&mut buf).unwrap();
        for _ in 0..self.borrowed {
            let _kept = ManuallyDrop::new(receiver.borrow().unwrap());
        }
        send(LAP);
        let ledger = handle.ledger();
        for (word, count) in [(Word::Begun, sender.sent()), (Word::Accepted, sender.sent())] {
            ledger.set(word, count);
        }
        ledger.set(Word::Taking, 1);
        ledger.set(Word::Taken, 1);
    }

    fn open(&self, memory: &Memory) -> Handle {
        let (sender, receiver) = (None, None);
        let map = Arc::new(mapped(memory));
        Handle { map, sender, receiver, message: Vec::new(), buf: vec![0; 128] }
    }

    fn prepare(&self, handle: &mut Handle) {
        match self.operation {
            Operation::Send | Operation::Loan => handle.sender = Some(handle.open_sender(0)),
            Operation::Recv | Operation::Borrow => {
                handle.receiver = Some(handle.open_receiver());
            }
        }
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        stage.pause();
        let ledger = super::Ledger(&handle.map);
        match self.operation {
            Operation::Send | Operation::Loan => {
                for _ in 0..2 {
                    let sender = handle.sender.as_mut().unwrap();
                    let message = message(sender.sent());
                    ledger.send(0, sender.sent(), || {
                        if self.operation == Operation::Send {
                            sender.send(&message).unwrap();
                        } else {
                            let mut loan = sender.loan(message.len()).unwrap();
                            loan.copy_from_slice(&message);
                            loan.send();
                        }
                    });
                }
            }
            Operation::Recv => {
                let receiver = handle.receiver.as_ref().unwrap();
                for _ in 0..3 {
                    let taken = ledger.get(Word::Taken);
                    ledger.set(Word::Taking, taken + 1);
                    match receiver.recv(&mut handle.buf) {
                        Ok(_) => ledger.set(Word::Taken, taken + 1),
                        Err(RecvError::Lagged(_)) => {}
                        Err(_) => ledger.set(Word::Bad, 1),
                    }
                }
            }
            Operation::Borrow => {
                let receiver = handle.receiver.as_ref().unwrap();
                let mut held = Vec::with_capacity(2);
                while held.len() < 2 {
                    match receiver.borrow() {
                        Ok(got) => {
                            ledger.put(Word::Borrowed, held.len(), got.number() + 1);
                            held.push(got);
                        }
                        Err(RecvError::Lagged(_)) => {}
                        Err(_) => ledger.set(Word::Bad, 1),
                    }
                }
                let taken = ledger.get(Word::Taken);
                ledger.set(Word::Taking, taken + 2);
                drop(held.pop());
                drop(held);
                ledger.set(Word::Taken, taken + 2);
            }
        }
    }

    fn check(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        let ledger = handle.ledger();
        if ledger.get(Word::Bad) != 0 {
            return Err("the victim was told what is not so".to_owned());
        }
        let sender = handle.open_sender(0);
        if !(ledger.get(Word::Accepted)..=ledger.get(Word::Begun)).contains(&sender.sent()) {
            return Err(format!("{} sent", sender.sent()));
        }
        let before = sender.counts();
        if !(ledger.get(Word::Taken)..=ledger.get(Word::Taking)).contains(&before.received) {
            return Err(format!("{before:?}, and {} taken", ledger.get(Word::Taken)));
        }
        // Nobody has to be there for that.
        for _ in 0..LAP {
            let sent = sender.send(&message(sender.sent()));
            sent.map_err(|e| format!("no room: {e:?}"))?;
        }
        let receiver = handle.open_receiver();
        let (numbers, missed) = drain(&receiver)?;
        // What was borrowed, and is not released, is there.
        let released = ledger.get(Word::Taken) < ledger.get(Word::Taking);
        for held in [ledger.of(Word::Borrowed, 0), ledger.of(Word::Borrowed, 1)] {
            let kept = numbers.contains(&held.wrapping_sub(1));
            if held > 0 && !kept && !released && ledger.get(Word::Taken) == 1 {
                return Err(format!("number {} was borrowed, and is gone", held - 1));
            }
        }
        if self.operation == Operation::Send && !(1..=self.borrowed).all(|n| numbers.contains(&n)) {
            return Err(format!("of {} borrowed there are {numbers:?}", self.borrowed));
        }
        let counts = receiver.counts(0).ok_or("no lane")?;
        balanced(counts, 0)?;
        if counts.received != before.received + numbers.len() as u64 {
            return Err(format!("{counts:?} after {before:?} and {}", numbers.len()));
        }
        if missed > counts.lagged {
            return Err(format!("told of {missed}: {counts:?}"));
        }
        // And it goes on.
        for _ in 0..2 * LAP {
            let sent = sender.send(&message(sender.sent()));
            sent.map_err(|e| format!("no room later: {e:?}"))?;
        }
        let (numbers, missed) = drain(&receiver)?;
        if numbers.len() as u64 + missed != 2 * LAP {
            return Err(format!("{} and {missed} of {}", numbers.len(), 2 * LAP));
        }
        balanced(sender.counts(), 0)?;
        Ok("all is received or missed".to_owned())
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    use Operation::{Borrow, Loan, Recv, Send};
    let mut cases = vec![(Send, 0), (Send, 2), (Recv, 0), (Borrow, 0)];
    if !matrix.is_sample() {
        cases.extend([(Loan, 3), (Recv, 2), (Borrow, 2), (Borrow, 3)]);
    }
    for (operation, borrowed) in cases {
        matrix.one(&Case { operation, borrowed }, 0)?;
    }
    Ok(())
}
