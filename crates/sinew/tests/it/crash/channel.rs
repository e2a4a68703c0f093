//! Channels, of which one end is killed in what it does, or in taking over from one that was killed.
//!
//! Beside the channel the shared memory has a ledger: what was sent, what was taken, and what each of them was
//! about to do. It is written before and after each call, so for every kill it says what may be
//! lost or seen twice: at most the message that the dead one had in hand, and only where that is promised.

mod attach;
mod audit;
pub(super) mod overtake;
mod survivors;

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::thread::futex;
use sinew::channel::{Options, Receiver, Sender};
use sinew::mapping::Mapping;
use sinew::wait::{Borrows, Loans, Receives, Sends};
use sinew_testkit::crash::{Memory, Outcome, Stage, Subject};
use sinew_testkit::{Skip, fallbacks_forced};

use super::{Matrix, mapped};

const CAPACITY: u64 = 4096;
/// The longest message.
const MOST: usize = 4080;

/// A word of the ledger. Those of a lane are for lane 0; that of lane 1 is the next.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Word {
    /// How many messages were about to be sent through a lane, and for how many of those `send` returned.
    Begun = 0,
    Accepted = 2,
    /// How many of a lane were received and released.
    Taken = 4,
    /// How many of all lanes may have been.
    Taking = 6,
    /// What the victim received was not what had been sent.
    Bad = 9,
    /// The victim was attached, and has left in order.
    Here = 10,
    Left = 11,
    /// The survivor is to let the victim go on.
    Go = 12,
    /// The survivor knows of the end.
    Told = 13,
    /// The newcomer is attached.
    New = 14,
    /// How often each message of lane 0 was about to be borrowed, and was.
    Borrowing = 32,
    Borrowed = 64,
}

struct Ledger<'a>(&'a Mapping);

impl<'a> Ledger<'a> {
    fn word(&self, word: Word, lane: usize) -> &'a AtomicU64 {
        let at = self.0.len() - 4096 + 8 * (word as usize + lane);
        self.0.atomic_u64_at(at).unwrap()
    }

    fn get(&self, word: Word) -> u64 {
        self.word(word, 0).load(Ordering::SeqCst)
    }

    fn set(&self, word: Word, value: u64) {
        self.word(word, 0).store(value, Ordering::SeqCst);
    }

    fn of(&self, word: Word, lane: usize) -> u64 {
        self.word(word, lane).load(Ordering::SeqCst)
    }

    fn put(&self, word: Word, lane: usize, value: u64) {
        self.word(word, lane).store(value, Ordering::SeqCst);
    }

    /// A call that takes as many messages of lane 0 at most.
    fn take<T>(&self, count: u64, call: impl FnOnce() -> T) -> T {
        let taken = self.get(Word::Taken);
        self.set(Word::Taking, taken + count);
        let done = call();
        self.set(Word::Taken, taken + count);
        done
    }

    /// A call that sends the next message of a lane.
    fn send<T>(&self, lane: usize, number: u64, call: impl FnOnce() -> T) -> T {
        self.put(Word::Begun, lane, number + 1);
        let done = call();
        self.put(Word::Accepted, lane, number + 1);
        done
    }
}

/// Looks again and again, without taking the CPU from those that it waits for.
fn until(mut done: impl FnMut() -> bool) {
    let nobody = AtomicU32::new(0);
    let nap = futex::Timespec { tv_sec: 0, tv_nsec: 500_000 };
    while !done() {
        let _ = futex::wait(&nobody, futex::Flags::PRIVATE, 0, Some(&nap));
    }
}

/// Which messages go through a lane.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// So many of 56 bytes first, which were received before.
    before: u64,
    /// How long the others are.
    len: usize,
    lanes: usize,
}

impl Flow {
    fn len(&self, number: u64) -> usize {
        if number < self.before { 56 } else { self.len }
    }

    fn message(&self, lane: usize, number: u64) -> Vec<u8> {
        let label = (number | (lane as u64) << 32).to_le_bytes();
        (0..self.len(number)).map(|i| label[i % 8] ^ (i / 8 * 37) as u8).collect()
    }

    /// Of which lane a message is, and its number there. None for one that nobody sent.
    fn read(&self, bytes: &[u8], number: u64) -> Option<usize> {
        let Some(label) = bytes.first_chunk::<8>() else {
            return (bytes.len() == self.len(number)).then_some(0);
        };
        let lane = (u64::from_le_bytes(*label) >> 32) as usize;
        (lane < self.lanes && bytes == self.message(lane, number)).then_some(lane)
    }

    fn options(&self) -> Options {
        let lanes = self.lanes as u32;
        if lanes == 1 { Options::stream() } else { Options::fan_in(lanes) }.capacity(CAPACITY)
    }
}

/// What the victim does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Send,
    Loan,
    DropSender,
    OpenSender,
    Recv,
    Borrow,
    /// Three, released in another order.
    Borrows,
    DropReceiver,
    OpenReceiver,
}

impl Operation {
    /// The victim is the sender, or is to be.
    fn sends(self) -> bool {
        matches!(self, Self::Send | Self::Loan | Self::DropSender | Self::OpenSender)
    }

    /// It attaches in the operation, not before.
    fn opens(self) -> bool {
        matches!(self, Self::OpenSender | Self::OpenReceiver)
    }
}

/// How many messages there are when it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stock {
    /// So many, as far as there is room.
    Some(u64),
    /// None, and nobody has ever been attached.
    Fresh,
}

const FULL: Stock = Stock::Some(u64::MAX);

struct Case {
    name: &'static str,
    operation: Operation,
    flow: Flow,
    stock: Stock,
    /// The victim sleeps in its operation, until the survivor does something.
    sleeps: bool,
    /// Which it does only when it is told to.
    held: bool,
    /// What a former victim left.
    left: Option<Vec<u8>>,
}

struct Handle {
    map: Arc<Mapping>,
    sender: Option<Sender>,
    receiver: Option<Receiver>,
    /// The message that the victim sends or expects.
    message: Vec<u8>,
    buf: Vec<u8>,
}

impl Handle {
    fn ledger(&self) -> Ledger<'_> {
        Ledger(&self.map)
    }

    fn open_sender(&self, lane: usize) -> Sender {
        // SAFETY: the memory is a channel, and the part of each participant is in the subject.
        unsafe { Sender::open_in(&self.map, lane as u32) }.unwrap()
    }

    fn open_receiver(&self) -> Receiver {
        // SAFETY: as above.
        unsafe { Receiver::open_in(&self.map) }.unwrap()
    }
}

impl Case {
    fn new(name: &'static str, operation: Operation, len: usize, stock: Stock) -> Self {
        let flow = Flow { before: 0, len, lanes: 1 };
        Self { name, operation, flow, stock, sleeps: false, held: false, left: None }
    }

    fn sleeping(self) -> Self {
        Self { sleeps: true, held: true, ..self }
    }

    /// It sleeps only where the survivor is not told what to do.
    fn dozing(self) -> Self {
        Self { sleeps: true, ..self }
    }

    /// After so many messages, which were received.
    fn after(mut self, before: u64) -> Self {
        self.flow.before = before;
        self
    }

    fn lanes(mut self, lanes: usize) -> Self {
        self.flow.lanes = lanes;
        self
    }

    fn make(&self, handle: &Handle) {
        self.flow.options().create_in(&handle.map).unwrap();
        let Stock::Some(stock) = self.stock else { return };
        // Killed, as nobody knows yet.
        let sender = ManuallyDrop::new(handle.open_sender(0));
        let receiver = ManuallyDrop::new(handle.open_receiver());
        let ledger = handle.ledger();
        for number in 0..self.flow.before {
            ledger.send(0, number, || sender.send(&self.flow.message(0, number)).unwrap());
            ledger.take(1, || drop(receiver.borrow().unwrap()));
        }
        for number in (self.flow.before..).take(stock.try_into().unwrap_or(usize::MAX)) {
            if sender.try_send(&self.flow.message(0, number)).is_err() {
                break;
            }
            ledger.send(0, number, || ());
        }
    }
}

impl Subject for Case {
    type Handle = Handle;

    fn name(&self) -> String {
        let Self { name, flow, .. } = self;
        let pattern = if flow.lanes == 1 { "stream" } else { "fan-in" };
        format!("{pattern} of {} bytes: {name}", flow.len)
    }

    fn bytes(&self) -> usize {
        self.flow.options().bytes().unwrap() as usize + 4096
    }

    fn make(&self, memory: &Memory) {
        let handle = self.open(memory);
        match &self.left {
            Some(left) => handle.map.write_at(0, left).unwrap(),
            None => Self::make(self, &handle),
        }
    }

    fn open(&self, memory: &Memory) -> Handle {
        let (sender, receiver) = (None, None);
        let map = Arc::new(mapped(memory));
        Handle { map, sender, receiver, message: Vec::new(), buf: vec![0; MOST] }
    }

    fn prepare(&self, handle: &mut Handle) {
        let (ledger, flow) = (Ledger(&handle.map), &self.flow);
        if self.operation.sends() {
            handle.message = flow.message(0, ledger.get(Word::Begun));
        } else {
            handle.message = flow.message(0, ledger.get(Word::Taken));
        }
        if self.operation.opens() {
            return;
        }
        if self.operation.sends() {
            handle.sender = Some(handle.open_sender(0));
        } else {
            handle.receiver = Some(handle.open_receiver());
        }
        ledger.set(Word::Here, 1);
    }

    fn operate(&self, handle: &mut Handle, stage: &Stage<'_>) {
        stage.pause();
        let ledger = Ledger(&handle.map);
        match self.operation {
            Operation::Send => {
                let (sender, message) = (handle.sender.as_ref().unwrap(), &handle.message);
                let number = sender.sent();
                ledger.send(0, number, || sender.send(message)).unwrap();
            }
            Operation::Loan => {
                let (sender, message) = (handle.sender.as_mut().unwrap(), &handle.message);
                let number = sender.sent();
                ledger.send(0, number, || {
                    let mut loan = sender.loan(message.len()).unwrap();
                    loan.copy_from_slice(message);
                    loan.send();
                });
            }
            Operation::Recv => {
                let (receiver, buf) = (handle.receiver.as_ref().unwrap(), &mut handle.buf);
                let len = ledger.take(1, || receiver.recv(buf)).unwrap();
                if buf[..len] != handle.message {
                    ledger.set(Word::Bad, 1);
                }
            }
            Operation::Borrow | Operation::Borrows => {
                let receiver = handle.receiver.as_ref().unwrap();
                let count = if self.operation == Operation::Borrow { 1 } else { 3 };
                let first = ledger.get(Word::Taken) as usize;
                let mut borrowed = Vec::with_capacity(count);
                for number in first..first + count {
                    let [before, after] = [Word::Borrowing, Word::Borrowed];
                    ledger.put(before, number, ledger.of(before, number) + 1);
                    borrowed.push(receiver.borrow().unwrap());
                    ledger.put(after, number, ledger.of(after, number) + 1);
                }
                if *borrowed[0] != handle.message[..] {
                    ledger.set(Word::Bad, 1);
                }
                while borrowed.len() > 1 {
                    drop(borrowed.pop());
                }
                ledger.take(count as u64, || drop(borrowed));
            }
            Operation::DropSender => {
                drop(handle.sender.take());
                ledger.set(Word::Left, 1);
            }
            Operation::DropReceiver => {
                drop(handle.receiver.take());
                ledger.set(Word::Left, 1);
            }
            Operation::OpenSender => {
                handle.sender = Some(handle.open_sender(0));
                ledger.set(Word::Here, 1);
            }
            Operation::OpenReceiver => {
                handle.receiver = Some(handle.open_receiver());
                ledger.set(Word::Here, 1);
            }
        }
    }

    fn release(&self) -> Option<fn(&Self, &mut Handle)> {
        self.sleeps.then_some(|_, handle| handle.ledger().set(Word::Go, 1))
    }

    fn sleep(&self, handle: &mut Handle, stage: &Stage<'_>) -> Outcome {
        match (stage.number(), self.operation.sends()) {
            (Some(0), true) => survivors::receive(self, handle, stage),
            (Some(0), false) => survivors::send(self, handle, stage),
            (_, true) => survivors::come_to_send(self, handle, stage),
            (_, false) => survivors::come_to_receive(self, handle, stage),
        }
    }

    /// Without most of the bytes of a long message: each would be a state of its own.
    fn state(&self, memory: &Memory) -> Vec<u8> {
        let mut state = memory.contents();
        if self.flow.len > 1000 {
            let end = state.len() - 4096;
            state.drain(end - 4000..end - 100);
        }
        state
    }

    fn check(&self, handle: &mut Handle, _: &Stage<'_>) -> Outcome {
        audit::check(&self.flow, handle)
    }
}

pub(crate) fn matrix(matrix: &mut Matrix) -> Result<(), Skip> {
    use Operation::{Borrow, Borrows, DropReceiver, DropSender, Loan, Recv, Send};
    let two = Stock::Some(2);
    let none = Stock::Some(0);
    // With a survivor that sleeps, or works, and a newcomer after the death.
    let mut cases = vec![
        Case::new("send", Send, 8, two),
        Case::new("send to one that sleeps", Send, 56, none),
        // The end of the ring is near.
        Case::new("send behind padding", Send, 100, none).after(63),
        // And only who skips the padding makes room.
        Case::new("send what waits for its padding", Send, MOST, none).after(2).dozing(),
        Case::new("send when full", Send, 56, FULL).sleeping(),
        Case::new("loan, write, send", Loan, 64, none),
        Case::new("one of two sends", Send, 24, two).lanes(2),
        Case::new("leave as sender", DropSender, 8, two),
        Case::new("recv", Recv, 56, two),
        Case::new("recv when empty", Recv, 8, none).sleeping(),
        Case::new("recv from one that waits for room", Recv, MOST, FULL),
        Case::new("borrow, release for one that waits for room", Borrow, 56, FULL),
        Case::new("borrow three, release", Borrows, 100, Stock::Some(4)),
        Case::new("leave as receiver", DropReceiver, 56, FULL),
    ];
    if !matrix.is_sample() {
        for len in [0, 8, 56, 64, 100, MOST] {
            let some = if len == MOST { none } else { two };
            cases.push(Case::new("send", Send, len, some));
            cases.push(Case::new("send to one that sleeps", Send, len, none));
            cases.push(Case::new("loan, write, send", Loan, len, some));
            cases.push(Case::new("recv", Recv, len, two));
            cases.push(Case::new("borrow, release", Borrow, len, two));
            cases.push(Case::new("recv when empty", Recv, len, none).sleeping());
        }
        for len in [0, 56, MOST] {
            cases.push(Case::new("send when full", Send, len, FULL).sleeping());
            cases.push(Case::new("recv from one that waits for room", Recv, len, FULL));
        }
        cases.push(Case::new("loan behind padding", Loan, 100, none).after(63));
        cases.push(Case::new("recv behind padding", Recv, 100, two).after(63));
        cases.push(Case::new("leave as receiver", DropReceiver, 8, none));
        cases.push(Case::new("leave as sender", DropSender, 56, none));
        cases.push(Case::new("one of two sends, for one that sleeps", Send, 24, none).lanes(2));
    }
    for case in cases {
        matrix.one(&case, 2)?;
    }
    // With nobody there.
    for case in [
        Case::new("send", Send, 56, two),
        Case::new("borrow, release", Borrow, 56, two),
        Case::new("borrow three, release", Borrows, 8, Stock::Some(4)),
    ] {
        matrix.one(&case, 0)?;
    }
    // Where every access asks for the process, the many states of an attach take longer than a sample may.
    if matrix.is_sample() && fallbacks_forced() {
        return Ok(());
    }
    attach::matrix(matrix)
}
