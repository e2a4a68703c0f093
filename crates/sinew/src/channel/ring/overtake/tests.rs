//! A lane whose sender overtakes, in one thread over mapped memory: any order of steps, with messages borrowed over
//! many laps and a death of either side at any store, against a list; where pins may lie; and rubbish.

use std::collections::VecDeque;

use super::chase::{Chasing, Counted, Next};
use super::*;
use crate::channel::lane::Lane;
use crate::channel::ring::tests::{Random, message, over_each};

fn send(sending: &Sending, lane: &Lane, message: &[u8]) -> Result<(), NoRoom> {
    let room = sending.reserve(lane, message.len() as u64)?;
    lane.write(room.at, message);
    sending.commit(lane, message.len() as u64, 0);
    Ok(())
}

fn read(lane: &Lane, record: &Record) -> Vec<u8> {
    let mut bytes = vec![0; record.len as usize];
    lane.read(record.at, &mut bytes);
    bytes
}

/// How many were received, and up to which number they were received or missed.
fn counted(lane: &Lane) -> (u64, u64) {
    let counted = Counted::of(|field| lane.receiver(field).load(Acquire));
    (counted.received, counted.number)
}

/// A message that is borrowed.
struct Loan {
    index: usize,
    number: u64,
    record: Record,
    bytes: Vec<u8>,
    released: bool,
}

/// Both sides, and what has to come of them.
struct Flow {
    seed: u64,
    random: Random,
    lane: Lane,
    pins: Pins,
    sending: Sending,
    chasing: Chasing,
    /// Every message, by its number.
    sent: Vec<Vec<u8>>,
    loans: VecDeque<Loan>,
    /// The number that comes next, if nothing is missed; how many were released, and missed.
    next: u64,
    received: u64,
    missed: u64,
    /// What a dead receiver had borrowed, and how often.
    kept: VecDeque<(u64, u64)>,
    laps: u64,
    lags: u64,
    again: u64,
}

impl Flow {
    fn new(seed: u64, new: &dyn Fn(u64) -> Lane) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let capacity = 1024 << random.below(3);
        let lane = new(capacity);
        let pins = Pins::new(1 + random.below(MOST_BORROWED), capacity);
        let sending = Sending::resume_overtaking(&lane, pins).unwrap();
        let chasing = Chasing::resume(&lane, pins).unwrap();
        let (sent, loans, kept) = Default::default();
        let (next, received, missed, laps, lags, again) = (0, 0, 0, 0, 0, 0);
        Self {
            seed,
            random,
            lane,
            pins,
            sending,
            chasing,
            sent,
            loans,
            next,
            received,
            missed,
            kept,
            laps,
            lags,
            again,
        }
    }

    /// Sends, or gives up before the commit. There is always room.
    fn send(&mut self) {
        let most = self.sending.most();
        let len = if self.random.one_in(4) { most } else { self.random.below(most + 1) };
        let room = self.sending.reserve(&self.lane, len).unwrap();
        let mut message = message(self.random.below(1 << 20), len as usize);
        if self.random.one_in(4) {
            self.sending.lend(&room);
            self.lane.write(room.at, &message);
            message.truncate(self.random.below(len + 1) as usize);
            if self.random.one_in(2) {
                return self.check();
            }
        } else {
            self.lane.write(room.at, &message);
        }
        let tail = self.sending.tail();
        let noted = self.noted();
        self.sending.commit(&self.lane, message.len() as u64, 0);
        self.laps +=
            u64::from(tail / self.lane.capacity() < self.sending.tail() / self.lane.capacity());
        self.sent.push(message);
        if self.random.one_in(16) {
            // Killed between the stores of the note.
            let fields = [SenderField::Bytes, SenderField::Sent, SenderField::Tail];
            let stores = self.random.below(4) as usize;
            for (field, value) in fields.into_iter().zip(noted).skip(stores) {
                self.lane.sender(field).store(value, Relaxed);
            }
            self.succeed_sender();
        }
        self.check();
    }

    fn oldest(&self) -> (u64, u64) {
        let word = |field| self.lane.sender(field).load(Relaxed);
        (word(SenderField::Oldest), word(SenderField::OldestNumber))
    }

    fn noted(&self) -> [u64; 3] {
        [SenderField::Bytes, SenderField::Sent, SenderField::Tail]
            .map(|field| self.lane.sender(field).load(Relaxed))
    }

    fn succeed_sender(&mut self) {
        if self.random.one_in(2) {
            // Killed between the number and the position of what it takes away.
            let number = self.lane.sender(SenderField::OldestNumber);
            let ahead = self.random.below(self.sent.len() as u64 - number.load(Relaxed) + 1);
            number.store(number.load(Relaxed) + ahead, Relaxed);
        }
        self.sending = Sending::resume_overtaking(&self.lane, self.pins).unwrap();
        assert_eq!(self.sending.sent(), self.sent.len() as u64);
    }

    /// Looks at the next message, and perhaps takes it.
    fn receive(&mut self) {
        let found = self.chasing.peek(&self.lane).unwrap();
        let oldest = self.oldest().1;
        // The next one that is there: what a dead receiver had, or what was not taken away.
        let kept = self.kept.front().copied();
        let next = kept.map_or(oldest.max(self.next), |kept| {
            if self.next >= oldest { self.next } else { oldest.min(kept.0) }
        });
        match found {
            Next::Lagged(missed) => {
                // Told again until it was told.
                assert_eq!(self.chasing.peek(&self.lane), Ok(found));
                self.chasing.told();
                assert_eq!(self.next + missed, next);
                assert!(missed > 0);
                (self.next, self.missed, self.lags) = (next, self.missed + missed, self.lags + 1);
            }
            Next::Nothing => assert_eq!((next, self.next), (self.sent.len() as u64, next)),
            Next::Message(record) => {
                // In order; what it looks at is pinned, and stays when it is taken away.
                let next = self.next;
                assert_eq!(self.chasing.next(), next);
                let bytes = self.sent[next as usize].clone();
                assert_eq!(read(&self.lane, &record), bytes);
                match self.random.below(4) {
                    0 => {}
                    _ if self.chasing.is_full() => {}
                    // Another order of releases: borrowed, and released at the end.
                    1 if self.loans.is_empty() && kept.is_none() => {
                        self.chasing.consume(&self.lane, &record);
                        (self.next, self.received) = (next + 1, self.received + 1);
                    }
                    _ => {
                        let index = self.chasing.borrow(&self.lane, &record);
                        let given = self.chasing.deliveries(index);
                        if kept.is_some_and(|kept| kept.0 == next) {
                            assert_eq!(Some((next, given - 1)), self.kept.pop_front());
                            self.again += 1;
                        } else {
                            assert_eq!(given, 1);
                        }
                        let (number, released) = (next, false);
                        self.loans.push_back(Loan { index, number, record, bytes, released });
                        self.next = next + 1;
                    }
                }
            }
        }
    }

    fn release(&mut self) {
        if self.loans.is_empty() {
            return;
        }
        let any = self.random.below(self.loans.len() as u64) as usize;
        if self.loans[any].released {
            return;
        }
        self.loans[any].released = true;
        self.chasing.release(&self.lane, self.loans[any].index);
        while self.loans.front().is_some_and(|loan| loan.released) {
            self.loans.pop_front();
            self.received += 1;
        }
    }

    /// What was borrowed is given again; what was missed behind it was not counted yet.
    fn succeed_receiver(&mut self) {
        let (received, number) = counted(&self.lane);
        assert_eq!(received, self.received);
        let turn = self.lane.receiver(ReceiverField::Turn).load(Relaxed);
        let kept = self.loans.drain(..);
        let kept: VecDeque<_> = kept
            .map(|loan| (loan.number, self.chasing.deliveries(loan.index)))
            .chain(self.kept.drain(..))
            .collect();
        self.kept = kept;
        (self.next, self.missed) = (number, number - received);
        if self.random.one_in(2) {
            // Killed while it said how far it is, before it was said.
            for field in [ReceiverField::EvenHead, ReceiverField::EvenReceived] {
                let field = if turn.is_multiple_of(2) { ReceiverField::OddHead } else { field };
                self.lane.receiver(field).store(u64::MAX, Relaxed);
            }
        }
        self.chasing = Chasing::resume(&self.lane, self.pins).unwrap();
    }

    /// What is borrowed is as it was.
    fn check(&self) {
        for loan in &self.loans {
            assert_eq!(read(&self.lane, &loan.record), loan.bytes, "{}", loan.number);
        }
    }

    fn step(&mut self) {
        match self.random.below(64) {
            0 => self.succeed_sender(),
            1 => self.succeed_receiver(),
            2..32 => self.send(),
            32..48 => self.receive(),
            _ => self.release(),
        }
    }

    fn drain(&mut self) {
        while self.next < self.sent.len() as u64 || !self.loans.is_empty() {
            self.receive();
            self.release();
        }
        assert_eq!(self.received + self.missed, self.sent.len() as u64);
        assert_eq!(counted(&self.lane), (self.received, self.sent.len() as u64));
    }
}

impl Drop for Flow {
    #[expect(clippy::print_stderr, reason = "to run it again")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}", self.seed);
        }
    }
}

#[test]
fn any_order_of_steps_is_that_of_a_list() {
    let (flows, steps) = if cfg!(miri) { (5, 250) } else { (120, 1500) };
    over_each(|new| {
        let (mut sent, mut laps, mut lags, mut again) = (0, 0, 0, 0);
        for seed in 1..=flows {
            let mut flow = Flow::new(seed, new);
            (0..steps).for_each(|_| flow.step());
            flow.drain();
            sent += flow.sent.len() as u64;
            (laps, lags, again) = (laps + flow.laps, lags + flow.lags, again + flow.again);
        }
        assert!(sent > flows * steps / 4, "{sent} sent");
        // Miri does too few steps for that.
        let enough = laps > flows && lags > flows && again > flows;
        assert!(cfg!(miri) || enough, "{laps} {lags} {again}");
    });
}

#[test]
fn no_more_is_taken_away_than_there_has_to_be_room_for() {
    over_each(|new| {
        let (lane, pins) = (new(4096), Pins::new(1, 4096));
        let sending = Sending::resume_overtaking(&lane, pins).unwrap();
        for number in 0..1000 {
            send(&sending, &lane, &[1; 56]).unwrap();
            // Records of 64 bytes, less the zero behind the last.
            let oldest = lane.sender(SenderField::OldestNumber).load(Relaxed);
            assert_eq!(oldest, (number + 1_u64).saturating_sub(4096 / 64 - 1));
        }
        // What was received is not missed, and some of it is taken away at once.
        let chasing = Chasing::resume(&lane, pins).unwrap();
        while let Next::Lagged(_) | Next::Message(_) = {
            let next = chasing.peek(&lane).unwrap();
            chasing.told();
            if let Next::Message(record) = &next {
                chasing.consume(&lane, record);
            }
            next
        } {}
        send(&sending, &lane, &[1; 56]).unwrap();
        assert_eq!(lane.sender(SenderField::OldestNumber).load(Relaxed), 1001 - 63 + 16);
    });
}

#[test]
fn there_is_room_however_the_pins_lie() {
    over_each(|new| {
        let mut random = Random(99);
        let rounds = if cfg!(miri) { 20 } else { 20_000 };
        let mut sending = Vec::new();
        for borrowed in [1, 2, 7, MOST_BORROWED] {
            let lane = new(4096);
            let pins = Pins::new(borrowed, 4096);
            sending.push((Sending::resume_overtaking(&lane, pins).unwrap(), lane, borrowed));
        }
        for round in 0..rounds {
            let (sending, lane, borrowed) = &sending[round % 4];
            for index in 0..=*borrowed as usize {
                let pin = match random.below(6) {
                    0 => 0,
                    1 => random.next() | STANDS,
                    2 => u64::MAX,
                    // As close to the next as leaves no room between.
                    3 => ((index as u64 * random.below(4096)) & !7) | STANDS,
                    _ => (sending.tail().saturating_sub(random.below(9000)) & !7) | STANDS,
                };
                lane.pin(index).store(pin, Relaxed);
            }
            let len = if random.one_in(2) { sending.most() } else { random.below(sending.most()) };
            send(sending, lane, &vec![7; len as usize]).unwrap();
        }
        assert!(cfg!(miri) || sending.iter().all(|(sending, ..)| sending.tail() > 4096));
    });
}

#[test]
fn the_longest_message_is_a_share_of_the_capacity() {
    for (borrowed, capacity, most) in [
        (7, 1 << 20, 58_240),
        (7, 4096, 208),
        (15, 4096, 104),
        (1, 4096, 664),
        (15, 1 << 32, 126_322_552),
    ] {
        assert_eq!(Pins::new(borrowed, capacity).most(), most);
    }
}

#[test]
fn more_than_the_low_bits_of_a_number_may_be_missed() {
    over_each(|new| {
        let lane = new(4096);
        let pins = Pins::new(1, 4096);
        let sending = Sending::resume_overtaking(&lane, pins).unwrap();
        send(&sending, &lane, &[1; 8]).unwrap();
        // As after so many messages.
        let many = 5 * (NUMBER_MASK + 1) + 3;
        sending.sent.set(many);
        let overtake = sending.overtake.as_ref().unwrap();
        overtake.publish(&lane, sending.tail(), many);
        send(&sending, &lane, &[2; 8]).unwrap();
        let chasing = Chasing::resume(&lane, pins).unwrap();
        assert_eq!(chasing.peek(&lane), Ok(Next::Lagged(many)));
        chasing.told();
        assert!(matches!(chasing.peek(&lane), Ok(Next::Message(_))));
        assert_eq!((chasing.next(), counted(&lane)), (many, (0, many)));
    });
}

#[test]
fn rubbish_is_corrupt() {
    over_each(|new| {
        let pins = Pins::new(2, 4096);
        let fill = |lane: &Lane| {
            let sending = Sending::resume_overtaking(lane, pins).unwrap();
            (0..200).for_each(|i| send(&sending, lane, &[i; 40]).unwrap());
            sending
        };
        let (tail, oldest) = {
            let lane = new(4096);
            (fill(&lane).tail(), lane.sender(SenderField::Oldest).load(Relaxed))
        };
        for value in [1, 8, tail + 8, oldest + 8, u64::MAX, u64::MAX - 7, 1 << 63] {
            let lane = new(4096);
            fill(&lane);
            lane.sender(SenderField::Oldest).store(value, Relaxed);
            assert!(Sending::resume_overtaking(&lane, pins).is_err(), "{value}");
            let chasing = Chasing::resume(&lane, pins).unwrap();
            // No more than what is not there.
            if let Ok(Next::Message(record)) = chasing.peek(&lane) {
                assert!(record.len <= pins.most(), "{value}");
            }
        }
        // Headers that the sender goes over.
        let lane = new(4096);
        let sending = fill(&lane);
        for at in (0..4096).step_by(8) {
            lane.word(at).store(0x0303_0303_0303_0303, Relaxed);
        }
        assert_eq!(
            (0..99).find_map(|_| send(&sending, &lane, &[1; 100]).err()),
            Some(NoRoom::Corrupt)
        );
        for (field, value) in [
            (ReceiverField::EvenHead, 4),
            (ReceiverField::EvenHead, u64::MAX - 7),
            (ReceiverField::EvenReceived, 1),
            (ReceiverField::EvenNumber, 1 << 60),
        ] {
            let lane = new(4096);
            lane.receiver(field).store(value, Relaxed);
            assert!(Chasing::resume(&lane, pins).is_err(), "{field:?}");
        }
        // Pins in a wrong order.
        let lane = new(4096);
        lane.pin(0).store(64 | STANDS, Relaxed);
        lane.pin(1).store(64 | STANDS, Relaxed);
        assert!(Chasing::resume(&lane, pins).is_err());
    });
}
